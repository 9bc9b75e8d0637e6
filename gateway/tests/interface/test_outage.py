"""A gateway without its broker for 40 s, and a gateway with few file descriptors."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import eventlet
import pytest
import requests

from conftest import DEADLINE_S, eventually
from dev.ports import Ports, free_ports
from dev.servers import Servers
from gateway.http.server import MIN_IDLE_S, RESERVED_FILES
from gateway.tests.interface.conftest import Client, Fakes, fake_service
from tests.serving import serving
from tests.system.processes import START_S, Process

OUTAGE_S = 40  # two failed probes take 20 s at most; heartbeats are missed after 20 s
AT_ONCE_S = 20  # a request that waits for its deadline takes 60 s
FILES = 128
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: shop\r\n\r\n"
USER = {
    "id": "0199d6a8-5b7e-7c3a-8000-000000000001",
    "username": "ann",
    "email": "ann@example.org",
    "locale": "en",
}
SIGN_UP = {"username": "ann", "email": "ann@example.org", "password": "long enough"}
REQUESTS = [
    ("GET", "/users/me", None),
    ("GET", "/account", None),
    ("POST", "/account/deposits", {"amount": "1.00"}),
    ("POST", "/orders", {"price": "1.00"}),
    ("POST", "/notifications", {"subject": "a", "body": "b"}),
]


@pytest.fixture
def ports() -> Ports:
    return free_ports()


def get(ports: Ports, path: str, server: str = "gateway") -> int:
    """Return the status of a response; 0 if the connection is refused."""
    try:
        url = f"http://127.0.0.1:{ports[server]}{path}"
        return requests.get(url, timeout=DEADLINE_S).status_code
    except requests.ConnectionError:
        return 0


def gateway_of(
    ports: Ports, broker: dict[str, str], log: Path, *prefix: str
) -> Process:
    """Return a gateway that is not started yet. `users` is the port of its health server."""
    own = {"GATEWAY_PORT": str(ports["gateway"]), "HEALTH_PORT": str(ports["users"])}
    own["GATEWAY_HEALTH_PUBLIC"] = "true"  # both ports serve health
    own |= {"RPC_TIMEOUT_S": "60", "TOKEN_SECRET": "x" * 32}
    process = Process(("gateway",), {**os.environ, **broker, **own}, log)
    process._command[:0] = prefix
    return process


@pytest.fixture
def broker(ports: Ports, tmp_path: Path) -> Iterator[Servers]:
    """Return a separate broker that is not started yet."""
    servers = Servers(tmp_path / "run", ports, database=False)
    yield servers
    servers.erase()


def test_a_gateway_without_its_broker_stays_started_and_rejects_at_once(
    ports, broker, suite_config, tmp_path
) -> None:
    gateway = gateway_of(ports, broker.env(), tmp_path / "gateway.log")
    gateway.start()
    try:
        eventually(lambda: get(ports, "/healthz") == 200, START_S)
        assert (
            get(ports, "/startedz") == 503
        )  # a roll-out with a wrong password stops here
        broker.start()
        fakes = Fakes()
        fakes.replies = {
            "users.create": {"status": "created", "user": USER},
            "users.get": USER,
        }
        with serving(
            {**suite_config, "AMQP_URI": broker.env()["AMQP_URI"]},
            fake_service("users", fakes),
        ):
            eventually(lambda: get(ports, "/startedz") == 200)
            client = signed_up(ports)
            broker.supervisor.halt("rabbitmq")
            eventually(lambda: get(ports, "/readyz") == 503)
            without_a_broker(ports, client, monotonic() + OUTAGE_S)
            fakes.calls.clear()
            broker.supervisor.start("rabbitmq")
            eventually(lambda: client.get("/users/me").status_code == 200, START_S)
            eventually(lambda: get(ports, "/readyz") == 200)
        assert {name for name, _, _ in fakes.calls} == {
            "users.get"
        }  # no earlier sign-up
    finally:
        assert gateway.stop() == 0


def signed_up(ports: Ports) -> Client:
    """Sign up a user; return its client."""
    client = Client(f"http://127.0.0.1:{ports['gateway']}", "")
    response = client.post("/users", json=SIGN_UP)
    assert response.status_code == 201
    client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
    assert client.get("/users/me").status_code == 200
    return client


def without_a_broker(ports: Ports, client: Client, until: float) -> None:
    """Assert until then that routes are rejected at once and other paths are served."""
    for _ in range(4):
        for method, path, body in [*REQUESTS, ("POST", "/users", SIGN_UP)]:
            assert_refused(client.request(method, path, json=body, timeout=AT_ONCE_S))
    while monotonic() < until:
        for path in ("/startedz", "/healthz", "/docs", "/openapi.json"):
            assert get(ports, path) == 200
        assert (
            get(ports, "/startedz", "users") == get(ports, "/healthz", "users") == 200
        )
        assert get(ports, "/readyz") == 503
        assert_refused(client.get("/users/me", timeout=AT_ONCE_S))
        eventlet.sleep(1)


def assert_refused(response: Any) -> None:
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "Nothing was done" in response.json()["detail"]


def test_idle_connections_leave_descriptors_to_new_clients_and_health(
    ports, environment, suite_config, tmp_path
) -> None:
    broker = {"AMQP_URI": environment["AMQP_URI"]}
    gateway = gateway_of(
        ports, broker, tmp_path / "gateway.log", "prlimit", f"--nofile={FILES}"
    )
    gateway.start()
    address = ("127.0.0.1", ports["gateway"])
    try:
        eventually(lambda: get(ports, "/startedz") == 200, START_S)
        idle = []
        for _ in range(300):
            idle.append(socket.create_connection(address, DEADLINE_S))
            idle[-1].sendall(HEALTHZ)
            assert idle[-1].recv(65536).startswith(b"HTTP/1.1 200 ")
            eventlet.sleep(
                2 * MIN_IDLE_S / (FILES - RESERVED_FILES)
            )  # the first has idled long enough
        assert idle[0].recv(1) == b""  # the one that idled longest
        idle[-1].sendall(HEALTHZ)
        assert idle[-1].recv(65536).startswith(b"HTTP/1.1 200 ")
        for server in ("gateway", "users"):
            assert [get(ports, path, server) for path in ("/healthz", "/readyz")] == [
                200,
                200,
            ]
        assert "connection_not_accepted" not in gateway.log.read_text()
        for connection in idle:
            connection.close()
    finally:
        assert gateway.stop() == 0
