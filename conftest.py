"""Shared fixtures: a broker and databases for this test run, and services in this process.

Unit tests need none of them. The servers start when the first test requests them.
"""

import eventlet

eventlet.monkey_patch()  # first of all, as `nameko run` does

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from kombu import Queue
from nameko.cli.main import setup_yaml_parser
from nameko.rpc import get_rpc_exchange
from nameko.standalone.events import event_dispatcher
from nameko.standalone.rpc import ClusterRpcProxy

from chassis.broker import connect
from chassis.container import Container
from chassis.migrate import declare_queues, event_handlers, migrate_tables
from dev.ports import free_ports
from dev.proxies import without_proxy
from dev.servers import Servers
from dev.cli import PRIVATE

# For every client of this run and the processes that it starts.
os.environ.update(without_proxy(os.environ))
SERVICES_WITH_TABLES = ("users", "billing", "orders", "notifications")
SIGNING_KEY = "a secret of more than 32 characters, for tests"
DEADLINE_S = 20.0  # generous, for waiting and never for measuring
PROCESSOR_ONLY = (
    "tests/chart/",
    "tests/specs/",
    "tests/docs/test_text.py",
    "tests/test_language.py",
    "tests/test_mutants.py",
    "tests/test_mutation.py",
    "tests/test_log_events.py",
    "tests/test_workflows.py",
)
# Tests in these places that use one of these fixtures have servers nevertheless.
STARTS_SERVERS = {"servers", "server"}
OWN_SERVERS = ("tests/docs/", "tests/chaos/")


@pytest.hookimpl(tryfirst=True)  # before -m selects by marks
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Mark the tests that `make test` runs beside the others (dev/all_tests.py)."""
    for item in items:
        path = item.path.relative_to(config.rootpath).as_posix()
        has_servers = STARTS_SERVERS & set(item.fixturenames)
        if path.startswith(PROCESSOR_ONLY) and not has_servers:
            item.add_marker("processor_only")
        elif path.startswith(OWN_SERVERS):
            item.add_marker("own_servers")


def loopback() -> list[str]:
    """Return this machine's loopback addresses. Without IPv6 there is one."""
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return ["127.0.0.1", "::1"]
    return ["127.0.0.1"]


def in_uri(host: str) -> str:
    """Return a host in the form that a URI needs."""
    return f"[{host}]" if ":" in host else host


def eventually(check: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """Poll `check` and return its first truthy result. Fail after `deadline_s`."""
    too_late = AssertionError(f"not so within {deadline_s:g} s")
    with eventlet.Timeout(deadline_s, too_late):
        while not (result := check()):
            eventlet.sleep(0.02)
        return result


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """A broker and a database server for this test run, with empty databases."""
    with tempfile.TemporaryDirectory(prefix="shop-tests-") as folder:
        started = Servers(Path(folder, "run"), free_ports())
        try:
            started.start()
            yield started
        finally:
            started.erase()


@pytest.fixture(scope="session")
def environment(servers: Servers) -> dict[str, str]:
    """The environment of processes that use these servers."""
    public = {name: value for name, value in os.environ.items() if name not in PRIVATE}
    own = {"TOKEN_SECRET": SIGNING_KEY, "GATEWAY_PORT": str(servers.ports["gateway"])}
    return {**public, **servers.env(), **own}


@pytest.fixture(scope="session")
def suite_config(environment: dict[str, str]) -> dict[str, Any]:
    """config.yaml for these servers. The tables and queues exist."""
    setup_yaml_parser()
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        config: dict[str, Any] = yaml.safe_load(Path("config.yaml").read_text())
    finally:
        os.environ.clear()
        os.environ.update(before)
    for service in SERVICES_WITH_TABLES:
        migrate_tables(config, service)
        declare_queues(config, service)
    return config


@pytest.fixture
def config(suite_config: dict[str, Any]) -> dict[str, Any]:
    """A copy for one test, which may change it."""
    return dict(suite_config)


@pytest.fixture
def sql(suite_config: dict[str, Any]) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """`sql("billing", "SELECT ...", parameters)`: rows, as the owner of that database."""
    connections: dict[str, Any] = {}

    def run(
        service: str, statement: str, parameters: Any = None
    ) -> list[tuple[Any, ...]]:
        if service not in connections:
            uri = suite_config["DB_OWNER_URIS"][f"{service}:Base"]
            connections[service] = psycopg2.connect(uri.replace("+psycopg2", ""))
            connections[service].autocommit = True
        with connections[service].cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    yield run
    for connection in connections.values():
        connection.close()


@pytest.fixture
def clean(suite_config: dict[str, Any], sql: Callable[..., Any]) -> None:
    """Empty tables and queues before the test."""
    listing = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    for service in SERVICES_WITH_TABLES:
        tables = [
            name for (name,) in sql(service, listing) if name != "alembic_version"
        ]
        # DELETE is quicker than TRUNCATE.
        sql(service, "; ".join(f"DELETE FROM {table}" for table in tables))
    exchange = get_rpc_exchange(suite_config)
    with connect(suite_config) as connection:
        channel = connection.default_channel
        for service in SERVICES_WITH_TABLES:
            requests = Queue(f"rpc-{service}", exchange, f"{service}.*")(channel)
            requests.declare()
            requests.purge()
            for handler in event_handlers(suite_config, service):
                for queue in (handler.queue.name, handler.dead_letter_queue):
                    channel.queue_purge(queue)


@pytest.fixture
def run(config: dict[str, Any], clean: None) -> Iterator[Callable[..., Container]]:
    """`run(Service, ...)`: start a service in this process, with broker and database."""
    running: list[Container] = []

    def start(service_cls: type, **settings: Any) -> Container:
        own = {"HEALTH_ADDRESS": "127.0.0.1:0", **settings}
        container = Container(service_cls, {**config, **own})
        running.append(container)
        container.start()
        return container

    yield start
    for container in running:
        container.stop()


@pytest.fixture
def rpc(config: dict[str, Any]) -> Iterator[Any]:
    """The proxy that `nameko shell` calls `n.rpc`."""
    with ClusterRpcProxy(config, timeout=DEADLINE_S) as proxy:
        yield proxy


@pytest.fixture
def dispatch(config: dict[str, Any]) -> Callable[[str, str, Any], None]:
    """The function that `nameko shell` calls `n.dispatch_event`."""
    emit: Callable[[str, str, Any], None] = event_dispatcher(config)
    return emit
