"""The shop on IPv4 and IPv6 sockets, with a broker and databases at an IPv6 address."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import requests

from conftest import eventually, in_uri, loopback
from dev.cli import QUIET, SERVICES
from dev.ports import free_ports
from dev.servers import Servers
from tests.chaos.proxy import Proxy
from tests.system.processes import START_S, Process
from tests.system.shopper import Shopper


@pytest.fixture
def environment_of_ipv6(
    servers: Servers, environment: dict[str, str]
) -> Iterator[dict[str, str]]:
    """An environment with IPv6 addresses in its URIs. Without IPv6 here they are IPv4."""
    host = loopback()[-1]
    moved = dict(environment)
    with ExitStack() as proxies:
        for name in ("rabbitmq", "postgresql"):
            proxy = proxies.enter_context(closing(Proxy(servers.ports[name], host)))
            old = f"127.0.0.1:{servers.ports[name]}"
            new = f"{in_uri(host)}:{proxy.port}"
            moved = {key: value.replace(old, new) for key, value in moved.items()}
        yield moved


@pytest.fixture
def ports(
    suite_config: dict[str, Any], environment_of_ipv6: dict[str, str], tmp_path: Path
) -> Iterator[dict[str, int]]:
    """The ports of one process with all five services, on all interfaces."""
    ports = free_ports()
    own = {
        "GATEWAY_HOST": "::",
        "GATEWAY_PORT": str(ports["gateway"]),
        "HEALTH_HOST": "[::]",
        "HEALTH_PORT": str(ports["users"]),
    }
    process = Process(tuple(SERVICES), {**environment_of_ipv6, **own}, tmp_path / "log")

    def is_up() -> bool:
        assert not process.ended(), process.log.read_text()
        return process.log.read_text().count("service_started") == len(SERVICES)

    process.start()
    try:
        eventually(is_up, START_S)
        yield ports
    finally:
        assert process.stop() == 0


def test_clients_of_both_families_buy_and_commands_run(
    ports, environment_of_ipv6
) -> None:
    for host in loopback():
        ready = f"http://{in_uri(host)}:{ports['users']}/readyz"
        eventually(
            lambda ready=ready: requests.get(ready, timeout=10).status_code == 200
        )
        shopper = Shopper(f"http://{in_uri(host)}:{ports['gateway']}")
        assert shopper.deposit("10.00").status_code == 201
        assert shopper.ended_order("9.99")["status"] == "paid"
        assert shopper.letters(1)[0]["kind"] == "happiness"
    migrated, audited = (
        subprocess.run(
            [sys.executable, "-m", module],
            env={**environment_of_ipv6, **QUIET},
            capture_output=True,
            text=True,
            timeout=120,
        )
        for module in ("chassis.migrate", "audit")
    )
    assert migrated.returncode == 0, migrated.stdout + migrated.stderr
    # The audit has run. Other tests may have left differences in these databases.
    assert audited.stdout.splitlines()[-1].startswith("differences: "), audited.stderr
