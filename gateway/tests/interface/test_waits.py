"""`Prefer: wait` delays the response until the order has settled, and takes no worker."""

from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from time import monotonic
from typing import Any

import eventlet
import pytest

from chassis.container import Container
from chassis.errors import Unavailable
from conftest import DEADLINE_S, eventually
from gateway.http.server import WebServer
from gateway.service import Service
from gateway.tests.interface.conftest import WORKERS, Client, Fakes

ORDER_ID = "0199d6a8-5b7e-7c3a-8000-000000000002"
PENDING = {
    "id": ORDER_ID,
    "user_id": "0199d6a8-5b7e-7c3a-8000-000000000001",
    "price_minor": 150,
    "status": "pending",
    "reason": None,
    "created_at": "2026-11-27T10:00:00.000000Z",
    "ended_at": None,
}
PAID = {**PENDING, "status": "paid", "ended_at": "2026-11-27T10:00:09.000000Z"}
USER = {"id": ORDER_ID, "username": "ann", "email": "ann@example.org", "locale": "en"}
PATH = f"/orders/{ORDER_ID}"
WAITING = 50  # requests
MAX_CONNECTIONS = 8


def path_of(number: int) -> str:
    return f"/orders/{ORDER_ID[:-2]}{number:02x}"


class Orders:
    """All orders are pending, until one is in `settled`."""

    def __init__(self) -> None:
        self.settled: set[str] = set()
        self.reads: list[list[str]] = []

    def get(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return self._order(arguments["order_id"])

    def get_many(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        self.reads.append(arguments["order_ids"])
        return [self._order(order_id) for order_id in arguments["order_ids"]]

    def _order(self, order_id: str) -> dict[str, Any]:
        return {**(PAID if order_id in self.settled else PENDING), "id": order_id}


@pytest.fixture
def orders(fakes: Fakes) -> Orders:
    orders = Orders()
    fakes.replies = {
        "orders.get": orders.get,
        "orders.get_many": orders.get_many,
        "users.get": USER,
    }
    return orders


def server_of(container: Container) -> WebServer:
    [server] = [e for e in container.extensions if isinstance(e, WebServer)]
    return server


class Waiter:
    """A connection whose request waits."""

    def __init__(
        self, server: WebServer, token: str, path: str, seconds: int, method: str
    ) -> None:
        self.connection = HTTPConnection(
            *server._sock.getsockname()[:2], timeout=DEADLINE_S
        )
        headers = {"Authorization": f"Bearer {token}", "Prefer": f"wait={seconds}"}
        self.connection.request(method, path, headers=headers)

    def response(self) -> tuple[HTTPResponse, bytes]:
        response = self.connection.getresponse()
        return response, response.read()


Start = Callable[..., Waiter]


def starter(server: WebServer, token: str) -> Iterator[Start]:
    """Yield a function that sends a request, and returns when that request waits."""
    started: list[Waiter] = []
    registered = server.waiting._order_ids
    eventually(lambda: not registered)

    def start(path: str = PATH, seconds: int = 30, method: str = "GET") -> Waiter:
        before = len(registered)
        started.append(Waiter(server, token, path, seconds, method))
        eventually(lambda: len(registered) == before + 1)
        return started[-1]

    yield start
    for waiter in started:
        waiter.connection.close()


@pytest.fixture
def server(gateway: Container) -> WebServer:
    return server_of(gateway)


@pytest.fixture
def start(server: WebServer, token: str) -> Iterator[Start]:
    yield from starter(server, token)


def prefer(client: Client, preference: str) -> Any:
    return client.get(PATH, headers={"Prefer": preference})


def test_a_request_ends_when_its_order_has_settled(orders, start, client) -> None:
    waiter = start()
    waiting = eventlet.spawn(prefer, client, "respond-async, wait=29")
    eventually(lambda: len(orders.reads) > 1)
    orders.settled.add(ORDER_ID)
    response = waiting.wait()
    assert (response.status_code, response.json()["status"]) == (200, "paid")
    assert response.headers["Preference-Applied"] == "wait=29"
    assert b'"paid"' in waiter.response()[1]


def test_a_request_ends_with_the_pending_order_after_its_time(orders, client) -> None:
    response = prefer(client, "wait=1")
    assert (response.status_code, response.json()["status"]) == (200, "pending")
    assert response.headers["Preference-Applied"] == "wait=1"


@pytest.mark.parametrize("preference", ["wait=soon", "wait=0", "wait", '"', "wait=-1"])
def test_an_invalid_preference_is_ignored(orders, client, preference) -> None:
    response = prefer(client, preference)
    assert (response.status_code, response.json()["status"]) == (200, "pending")
    assert "Preference-Applied" not in response.headers
    assert orders.reads == []


def test_a_settled_order_is_answered_at_once(orders, client) -> None:
    orders.settled.add(ORDER_ID)
    response = prefer(client, "wait=99")
    assert response.headers["Preference-Applied"] == "wait=30"
    assert orders.reads == []


def test_an_order_that_is_not_found_does_not_wait(orders, fakes, client) -> None:
    fakes.replies["orders.get"] = None
    response = prefer(client, "wait=30")
    assert response.status_code == 404
    assert "Preference-Applied" not in response.headers
    assert client.get("/orders/x", headers={"Prefer": "wait=30"}).status_code == 404


def test_other_routes_do_not_wait(orders, client) -> None:
    response = client.get("/users/me", headers={"Prefer": "wait=30"})
    assert "Preference-Applied" not in response.headers


def test_head_waits_too(orders, start) -> None:
    waiter = start(method="HEAD")
    orders.settled.add(ORDER_ID)
    response, body = waiter.response()
    assert (response.status, body) == (200, b"")
    assert response.headers["Preference-Applied"] == "wait=30"


def test_an_http_1_0_client_waits_and_is_closed(orders, raw, token) -> None:
    response = raw(
        b"GET %b HTTP/1.0\r\nAuthorization: Bearer %b\r\nPrefer: wait=1\r\n\r\n"
        % (PATH.encode(), token.encode())
    )
    assert response.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in response
    assert b"\r\nPreference-Applied: wait=1\r\n" in response


def test_a_pipelined_request_follows_the_wait(orders, raw, token) -> None:
    """The two Prefer headers are one list, of which the first wait counts."""
    wait = (
        b"GET %b HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer %b\r\n"
        b"Prefer: respond-async\r\nPrefer: wait=1, wait=30\r\n\r\n"
    ) % (PATH.encode(), token.encode())
    last = b"GET /healthz HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"
    first, second, third = raw(wait + wait + last).split(b"HTTP/1.1 200 ")[1:]
    for response in (first, second):
        assert b"Preference-Applied: wait=1\r\n" in response
        assert b'"pending"' in response
    assert b'{"status": "ok"}' in third


def test_many_waiting_requests_take_no_worker_and_one_read_a_second(
    orders, start, gateway, client
) -> None:
    waiters = [start(path_of(number % 5)) for number in range(WAITING)]
    orders.reads.clear()
    begun = monotonic()
    while monotonic() < begun + 3:
        assert client.get("/users/me").status_code == 200
        assert len(gateway._worker_threads) < WORKERS
    assert 1 <= len(orders.reads) <= monotonic() - begun + 1
    assert {len(ids) for ids in orders.reads} == {5}
    orders.settled.update(path_of(number).rpartition("/")[2] for number in range(5))
    for waiter in waiters:
        response, body = waiter.response()
        assert response.status == 200
        assert b'"paid"' in body


def test_only_requests_for_settled_orders_end(orders, start, server) -> None:
    paid, pending = start(path_of(1)), start(path_of(2))
    orders.settled.add(path_of(1).rpartition("/")[2])
    assert b'"paid"' in paid.response()[1]
    assert server.waiting.order_ids() == [path_of(2).rpartition("/")[2]]
    orders.settled.add(path_of(2).rpartition("/")[2])
    assert b'"paid"' in pending.response()[1]


def test_a_wait_ends_in_time_and_continues_while_orders_is_unavailable(
    orders, fakes, start, client
) -> None:
    waiter, short = start(), start(seconds=1)
    fakes.replies["orders.get_many"] = Unavailable("no database")
    assert b'"pending"' in short.response()[1]
    eventually(lambda: [name for name, *_ in fakes.calls].count("orders.get_many") > 1)
    assert client.get("/readyz").status_code == 200
    orders.settled.add(ORDER_ID)
    fakes.replies["orders.get_many"] = orders.get_many
    assert b'"paid"' in waiter.response()[1]


def test_a_read_that_hangs_delays_no_end(orders, fakes, start, client) -> None:
    """A frozen copy of orders does not reply. A later read goes to another one."""
    released = eventlet.Event()
    fakes.replies["orders.get_many"] = lambda arguments: released.wait()
    waiter = start()
    eventually(lambda: "orders.get_many" in [name for name, *_ in fakes.calls])
    assert prefer(client, "wait=1").headers["Preference-Applied"] == "wait=1"
    assert client.get("/readyz").status_code == 200
    orders.settled.add(ORDER_ID)
    fakes.replies["orders.get_many"] = orders.get_many
    assert b'"paid"' in waiter.response()[1]
    released.send([])


def test_a_client_that_disconnects_frees_its_place(orders, start, server) -> None:
    start(seconds=1).connection.close()
    eventually(lambda: server.waiting.order_ids() == [])


# A gateway with few connections


@pytest.fixture
def small(suite_config: dict[str, Any], gateway: Container) -> Iterator[Container]:
    """Start a further gateway, with MAX_CONNECTIONS, that is stopped by the test or after it."""
    own = {
        "HEALTH_ADDRESS": "127.0.0.1:0",
        "WEB_SERVER_ADDRESS": "127.0.0.1:0",
        "WEB_SERVER_CONNECTIONS": MAX_CONNECTIONS,
        "STOP_DELAY_S": 1.0,
    }
    container = Container(Service, {**suite_config, **own})
    container.start()
    yield container
    container.stop()


@pytest.fixture
def start_small(small: Container, token: str) -> Iterator[Start]:
    yield from starter(server_of(small), token)


@pytest.fixture
def client_of_small(small: Container, token: str) -> Iterator[Client]:
    host, port = server_of(small)._sock.getsockname()[:2]
    with Client(f"http://{host}:{port}", token) as client:
        yield client


def test_half_of_the_connections_wait_and_others_are_served(
    orders, start_small, client_of_small
) -> None:
    waiters = [start_small() for _ in range(MAX_CONNECTIONS // 2)]
    response = prefer(client_of_small, "wait=30")
    assert (response.status_code, response.json()["status"]) == (200, "pending")
    assert "Preference-Applied" not in response.headers
    assert client_of_small.get("/users/me").status_code == 200
    orders.settled.add(ORDER_ID)
    assert all(b'"paid"' in waiter.response()[1] for waiter in waiters)
    orders.settled.clear()
    start_small()


def test_a_stop_ends_all_waits_and_no_request_waits_after_it(
    orders, start_small, small, client_of_small
) -> None:
    assert client_of_small.get("/users/me").status_code == 200
    waiters = [start_small() for _ in range(3)]
    stopping = eventlet.spawn(small.stop)
    for waiter in waiters:
        response, body = waiter.response()
        assert (response.status, response.headers["Connection"]) == (200, "close")
        assert b'"pending"' in body
    response = prefer(client_of_small, "wait=30")
    assert (response.status_code, response.headers["Connection"]) == (200, "close")
    assert "Preference-Applied" not in response.headers
    stopping.wait()
