"""The gateway in this process on the real broker, with recording twins of the services it asks."""

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
VERBS = {
    "users": ["create", "get", "authenticate"],
    "billing": ["deposit_many", "withdraw_many", "account_many", "statement"],
    "orders": ["place_many", "get", "list"],
    "notifications": ["send", "list"],
}


class Book:
    """What the twins were asked, and what they must answer.

    An answer is a value, an exception to raise, or a function of the question's arguments.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.calls: list[tuple[str, dict[str, Any], str]] = []
        self.answers: dict[str, Any] = {}

    def answer(self, verb: str, arguments: dict[str, Any], request_id: str) -> Any:
        self.calls.append((verb, arguments, request_id))
        answer = self.answers[verb]
        if isinstance(answer, Exception):
            raise answer
        return answer(arguments) if inspect.isroutine(answer) else answer

    def asked(self, verb: str) -> dict[str, Any]:
        """The arguments of the only question of this kind."""
        [arguments] = [arguments for name, arguments, _ in self.calls if name == verb]
        return arguments


def twin(service: str, book: Book) -> type:
    """A service that answers what the book says."""

    def method(verb: str) -> Callable[..., Any]:
        def one(self: Any, **arguments: Any) -> Any:
            return book.answer(f"{service}.{verb}", arguments, current_request_id())

        def many(self: Any, items: list[dict[str, Any]]) -> list[Any]:
            name = f"{service}.{verb.removesuffix('_many')}"
            return [book.answer(name, item, item.pop("request_id")) for item in items]

        handler: Callable[..., Any] = rpc(many if verb.endswith("_many") else one)
        return handler

    return type(
        "Service",
        (),
        {"name": service, **{verb: method(verb) for verb in VERBS[service]}},
    )


class Client(requests.Session):
    """A user's client: it sends the token with every request, and takes paths instead of URLs.

    What is not documented fails.
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
        """A GET as the proxy sends it on for one of many clients."""
        return self.get(path, headers={"X-Forwarded-For": f"192.0.2.{client}"})


@pytest.fixture(scope="module")
def the_book() -> Book:
    return Book()


@pytest.fixture(autouse=True)
def confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Billing has said that its books are in the currency of these tests."""
    monkeypatch.setattr(money, "confirmed", {"EUR"})


@pytest.fixture(scope="module")
def gateway(suite_config: dict[str, Any], the_book: Book) -> Iterator[Container]:
    """A gateway of few workers, a proxy in front, and all of health on its port."""
    config = {
        **suite_config,
        "HEALTH_ADDRESS": "127.0.0.1:0",
        "WEB_SERVER_ADDRESS": "127.0.0.1:0",
        "WEB_SERVER_HEALTH": True,
        "TRUSTED_PROXIES": 1,
        "RPC_TIMEOUT_S": 3,
        "WORKERS": {**suite_config["WORKERS"], "gateway": WORKERS},
    }
    services = [*(twin(service, the_book) for service in VERBS), Service]
    containers = [Container(service, config) for service in services]
    for container in containers:
        container.start()
    yield containers[-1]
    for stopping in [eventlet.spawn(container.stop) for container in containers]:
        stopping.wait()


@pytest.fixture(scope="module")
def address(gateway: Container) -> tuple[str, int]:
    """Where the gateway listens."""
    [server] = [e for e in gateway.extensions if isinstance(e, WebServer)]
    host, port = server._sock.getsockname()
    return host, port


@pytest.fixture
def book(the_book: Book) -> Book:
    """An empty book."""
    the_book.clear()
    return the_book


@pytest.fixture(scope="module")
def token(gateway: Container) -> str:
    """A token of the user USER_ID."""
    [tokens] = [d for d in gateway.dependencies if d.attr_name == "tokens"]
    issued: str = tokens.issue(USER_ID)["access_token"]
    return issued


@pytest.fixture
def client(address: tuple[str, int], token: str, book: Book) -> Iterator[Client]:
    """The user's client."""
    with Client(f"http://{address[0]}:{address[1]}", token) as session:
        yield session


@pytest.fixture
def raw(address: tuple[str, int]) -> Callable[[bytes], bytes]:
    """All that the gateway says until it closes, to bytes that may be anything."""

    def send(data: bytes) -> bytes:
        with socket.create_connection(address, DEADLINE_S) as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    return send
