"""The gateway in this process, with the real broker and fakes of the services that it calls."""

import inspect
import socket
from collections.abc import Callable, Iterator
from typing import Any

import eventlet
import pytest
import requests

from chassis.container import Container
from chassis.logs import current_request_id
from chassis.rpc import rpc
from gateway import money
from gateway.service import Service
from gateway.http.server import WebServer
from tests.specs.conformance import documented

WORKERS = 4
DEADLINE_S = 30
USER_ID = "0199d6a8-5b7e-7c3a-8000-000000000001"
METHODS = {
    "users": ["create", "get", "authenticate"],
    "billing": [
        "deposit_many",
        "withdraw_many",
        "account_many",
        "statement",
        "get_withdrawal",
    ],
    "orders": ["place_many", "get", "get_many", "get_history", "list"],
    "notifications": ["send", "list", "get_letter"],
}


class Fakes:
    """The calls to the fake services, and their replies by method.

    A reply is a value, an exception to raise, or a function of the arguments.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.calls: list[tuple[str, dict[str, Any], str]] = []
        self.replies: dict[str, Any] = {}

    def call(self, method: str, arguments: dict[str, Any], request_id: str) -> Any:
        self.calls.append((method, arguments, request_id))
        reply = self.replies[method]
        if isinstance(reply, Exception):
            raise reply
        return reply(arguments) if inspect.isroutine(reply) else reply

    def arguments(self, method: str) -> dict[str, Any]:
        """Return the arguments of the only call to this method."""
        [arguments] = [arguments for name, arguments, _ in self.calls if name == method]
        return arguments


def fake_service(service: str, fakes: Fakes) -> type:
    """Return a service that records its calls and gives the prepared replies."""

    def method(name: str) -> Callable[..., Any]:
        def call(self: Any, **arguments: Any) -> Any:
            return fakes.call(f"{service}.{name}", arguments, current_request_id())

        def call_batch(self: Any, items: list[dict[str, Any]]) -> list[Any]:
            single = f"{service}.{name.removesuffix('_many')}"
            return [fakes.call(single, item, item.pop("request_id")) for item in items]

        is_batched = name.endswith("_many") and name != "get_many"
        handler: Callable[..., Any] = rpc(call_batch if is_batched else call)
        return handler

    return type(
        "Service",
        (),
        {"name": service, **{name: method(name) for name in METHODS[service]}},
    )


class Client(requests.Session):
    """A user's client. It sends the token with each request, and accepts paths instead of URLs.

    An undocumented response is an error.
    """

    def __init__(self, url: str, token: str) -> None:
        super().__init__()
        self.trust_env = False
        self.url = url
        self.headers["Authorization"] = f"Bearer {token}"

    def request(
        self, method: Any, url: Any, *args: Any, **kwargs: Any
    ) -> requests.Response:
        kwargs.setdefault("timeout", 30)
        response = super().request(method, f"{self.url}{url}", *args, **kwargs)
        documented().check_exchange(response)
        return response

    def get_as(self, client: int, path: str) -> requests.Response:
        """Send a GET as a proxy does for one of many clients."""
        return self.get(path, headers={"X-Forwarded-For": f"192.0.2.{client}"})


@pytest.fixture(scope="module")
def module_fakes() -> Fakes:
    return Fakes()


@pytest.fixture(autouse=True)
def confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let billing have reported the currency of these tests."""
    monkeypatch.setattr(money, "confirmed", {"EUR"})


@pytest.fixture(scope="module")
def gateway(suite_config: dict[str, Any], module_fakes: Fakes) -> Iterator[Container]:
    """Start a gateway with few workers, behind a proxy, with all health paths on its port."""
    config = {
        **suite_config,
        "HEALTH_ADDRESS": "127.0.0.1:0",
        "WEB_SERVER_ADDRESS": "127.0.0.1:0",
        "WEB_SERVER_HEALTH": True,
        "TRUSTED_PROXIES": 1,
        "RPC_TIMEOUT_S": 3,
        "WORKERS": {**suite_config["WORKERS"], "gateway": WORKERS},
    }
    services = [*(fake_service(service, module_fakes) for service in METHODS), Service]
    containers = [Container(service, config) for service in services]
    for container in containers:
        container.start()
    yield containers[-1]
    for stopping in [eventlet.spawn(container.stop) for container in containers]:
        stopping.wait()


@pytest.fixture(scope="module")
def address(gateway: Container) -> tuple[str, int]:
    """Return the address of the gateway."""
    [server] = [e for e in gateway.extensions if isinstance(e, WebServer)]
    host, port = server._sock.getsockname()
    return host, port


@pytest.fixture
def fakes(module_fakes: Fakes) -> Fakes:
    """Return the fakes without calls and replies."""
    module_fakes.clear()
    return module_fakes


@pytest.fixture(scope="module")
def token(gateway: Container) -> str:
    """Return a token of the user USER_ID."""
    [tokens] = [d for d in gateway.dependencies if d.attr_name == "tokens"]
    issued: str = tokens.issue(USER_ID)["access_token"]
    return issued


@pytest.fixture
def client(address: tuple[str, int], token: str, fakes: Fakes) -> Iterator[Client]:
    """Return a client of that user."""
    with Client(f"http://{address[0]}:{address[1]}", token) as session:
        yield session


@pytest.fixture
def raw(address: tuple[str, int]) -> Callable[[bytes], bytes]:
    """Send any bytes; return all bytes that the gateway sends until it closes."""

    def send(data: bytes) -> bytes:
        with socket.create_connection(address, DEADLINE_S) as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    return send
