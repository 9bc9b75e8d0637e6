"""Connections: kept and closed, limited, and served while all workers are busy."""

import errno
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from time import monotonic
from typing import Any

import eventlet
import pytest
from eventlet.event import Event

from conftest import eventually
from gateway import routes
from gateway.http import connection as connections, server as servers
from gateway.http.server import WebServer

USER_ID = "0199d6a8-5b7e-7c3a-8000-000000000001"
USER = {"id": USER_ID, "username": "ann", "email": "ann@example.org", "locale": "en"}
DEADLINE_S = 30
LARGE = 1_500_000  # bytes: more than a slow reader reads in time
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: shop\r\n"
SIGN_UP = (
    b"POST /users HTTP/1.1\r\nHost: shop\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


@pytest.fixture
def server(gateway) -> WebServer:
    [server] = [e for e in gateway.extensions if isinstance(e, WebServer)]
    return server


@pytest.fixture
def connection(address) -> Iterator[HTTPConnection]:
    """Open a connection to the gateway that notices when it is closed."""
    connection = HTTPConnection(*address, timeout=DEADLINE_S)
    connection.connect()
    yield connection
    connection.close()


@pytest.fixture
def ask(connection, token) -> Callable[..., HTTPResponse]:
    """Return a function that sends a request on the connection."""

    def ask(
        method: str, path: str, body: bytes | None = None, **headers: str
    ) -> HTTPResponse:
        given = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request(
            method,
            path,
            body,
            given | {k.replace("_", "-"): v for k, v in headers.items()},
        )
        response = connection.getresponse()
        response.read()
        return response

    return ask


def test_a_refusal_by_a_service_keeps_the_connection(fakes, ask, connection) -> None:
    fakes.replies["billing.deposit"] = {"status": "conflict"}
    fakes.replies["users.get"] = USER
    first = connection.sock
    assert ask("POST", "/account/deposits", b'{"amount": 1}').status == 422
    assert ask("GET", "/users/me").status == 200
    assert connection.sock is first


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "/orders", b"{", {}, 400),
        ("POST", "/orders", b'{"price": 0}', {}, 422),
        ("POST", "/orders", b'{"price": 1}', {"Authorization": "Bearer x"}, 401),
        ("POST", "/orders", b'{"price": 1}', {"Content_Type": "text/plain"}, 415),
        ("POST", "/orders", b'{"price": 1}', {"Idempotency_Key": "a b"}, 422),
        ("POST", "/nowhere", b'{"price": 1}', {}, 404),
        ("PUT", "/orders", b'{"price": 1}', {}, 405),
        ("GET", "/orders?limit=0", None, {}, 422),
        ("GET", "/orders", b"{}", {}, 400),
        ("POST", "/healthz", b"{}", {}, 405),
        ("POST", "/docs", b"{}", {}, 405),
    ],
)
def test_a_rejection_by_the_gateway_closes_the_connection(
    fakes, ask, connection, method, path, body, headers, status
) -> None:
    response = ask(method, path, body, **headers)
    assert response.status == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Connection"] == "close"
    assert connection.sock is None
    assert fakes.calls == []


def test_a_rejected_request_hides_no_second_one(fakes, raw, token) -> None:
    hidden = (
        b"GET /users/me HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer %s\r\n\r\n"
        % token.encode()
    )
    start = b"POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
    for framing in (
        b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(hidden),
        b"X: y\r\nContent-Length : %d\r\n" % len(hidden),
        b"Content-Length: -1\r\n",
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    ):
        response = raw(start + framing + b"\r\n" + hidden)
        assert response.startswith(b"HTTP/1.1 400 ")
        assert response.count(b"HTTP/1.1") == 1
    assert fakes.calls == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /healthz HTTP/9.9\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"a" * 9000), 431),
        (b"GET / HTTP/1.1\r\n%s\r\n" % (b"X: y\r\n" * 101), 431),
        (b"GET /%s HTTP/1.1\r\nHost: shop\r\n\r\n" % (b"a" * 9000), 414),
        (b"<script> / HTTP/1.1\r\nHost: shop\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
def test_bytes_that_are_not_http_get_a_problem(raw, data, status) -> None:
    response = raw(data)
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head
    assert b"script" not in body


def test_a_large_body_is_rejected_while_it_arrives(fakes, ask) -> None:
    assert ask("POST", "/orders", b"x" * 1_500_000).status == 413


def test_a_client_that_disconnects_in_its_body_harms_no_other(
    fakes, address, ask
) -> None:
    with socket.create_connection(address, DEADLINE_S) as hasty:
        hasty.sendall(SIGN_UP % 9 + b"{")
    fakes.replies["users.get"] = USER
    assert ask("GET", "/users/me").status == 200


def test_head_gets_the_response_of_get_without_its_body(fakes, raw, token) -> None:
    fakes.replies["users.get"] = USER

    def head_and_body(method: bytes, path: bytes) -> tuple[set[bytes], bytes]:
        request = b"%s %s HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer %s\r\n"
        request += b"Connection: close\r\n\r\n"
        head, _, body = raw(request % (method, path, token.encode())).partition(
            b"\r\n\r\n"
        )
        return {
            line
            for line in head.split(b"\r\n")
            if not line.startswith((b"Date", b"X-Request-Id"))
        }, body

    for path in (b"/users/me", b"/healthz", b"/docs", b"/openapi.json"):
        head, body = head_and_body(b"GET", path)
        assert body
        assert head_and_body(b"HEAD", path) == (head, b"")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/orders", {"GET", "HEAD", "POST"}),
        ("POST", "/users/me", {"GET", "HEAD"}),
        ("GET", "/tokens", {"POST"}),
        ("OPTIONS", "/account/deposits", {"POST"}),
        ("FOO", "/account", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_gets_the_allowed_ones(ask, method, path, allowed) -> None:
    response = ask(method, path)
    assert response.status == 405
    assert set(response.headers["Allow"].split(", ")) - {"OPTIONS"} == allowed


GET_USER = b"GET /users/me HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer %s\r\n"


def test_pipelined_requests_are_answered_in_order(fakes, raw, token) -> None:
    fakes.replies["users.get"] = lambda arguments: eventlet.sleep(0.05) or USER
    fakes.replies["billing.deposit"] = {"status": "conflict"}
    body = b'{"amount": "1.00"}'
    deposit = (
        b"POST /account/deposits HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer %s\r\n"
        % token.encode()
    )
    deposit += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )
    ask = GET_USER % token.encode()
    response = raw(
        ask + b"\r\n" + deposit + HEALTHZ + b"\r\n" + ask + b"Connection: close\r\n\r\n"
    )
    assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"200", b"422", b"200", b"200"]
    assert [name for name, _, _ in fakes.calls] == [
        "users.get",
        "billing.deposit",
        "users.get",
    ]


def test_no_request_is_handled_after_a_rejected_one(fakes, raw, token) -> None:
    after = GET_USER % token.encode() + b"\r\n"
    for refused in (
        b"GET /nowhere HTTP/1.1\r\nHost: shop\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /users/me HTTP/1.1\r\nHost: shop\r\n\r\n",
    ):
        response = raw(HEALTHZ + b"\r\n" + refused + after)
        assert response.count(b"HTTP/1.1 ") == 2
    assert fakes.calls == []


def test_a_request_may_arrive_byte_by_byte(fakes, address, token) -> None:
    fakes.replies["users.create"] = {"status": "created", "user": USER}
    body = b'{"username": "ann", "email": "ann@example.org", "password": "long enough"}'
    head = SIGN_UP % len(body)
    with socket.create_connection(address, DEADLINE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head + body:
            connection.sendall(bytes([byte]))
            eventlet.sleep(0)
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEALTHZ + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
        (
            HEALTHZ + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
            200,
        ),
        (b"CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: shop\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)
def test_other_protocols_are_ignored_or_rejected(raw, request_, status) -> None:
    end = HEALTHZ + b"Connection: close\r\n\r\n"
    response = raw(request_ + end)
    assert response.startswith(b"HTTP/1.1 %d " % status)
    assert response.count(b"HTTP/1.1 ") == (2 if status == 200 else 1)


def test_only_an_accepted_head_gets_100_continue(fakes, address, token) -> None:
    fakes.replies["orders.place"] = {"status": "conflict"}
    head = b"POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 12\r\nExpect: 100-continue\r\n"
    with socket.create_connection(address, DEADLINE_S) as connection:
        connection.sendall(head + b"Authorization: Bearer %s\r\n\r\n" % token.encode())
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b'{"price": 1}')
        assert connection.recv(65536).startswith(b"HTTP/1.1 422 ")
    with socket.create_connection(address, DEADLINE_S) as connection:
        connection.sendall(head + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("request_", "kept"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", False),
        (b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
        (HEALTHZ + b"Connection: close\r\n\r\n", False),
        (HEALTHZ + b"Content-Length: 2\r\n\r\n{}", False),
        (HEALTHZ + b"\r\n", True),
    ],
)
def test_a_connection_is_kept_or_closed_as_announced(address, request_, kept) -> None:
    with socket.create_connection(address, DEADLINE_S) as connection:
        connection.sendall(request_)
        head = connection.recv(65536).partition(b"\r\n\r\n")[0]
        assert b"\r\nConnection: %s\r\n" % (b"keep-alive" if kept else b"close") in head
        assert b"\r\nDate: " in head
        connection.sendall((HEALTHZ + b"\r\n") * kept)
        assert (connection.recv(65536) != b"") is kept


@pytest.mark.parametrize(
    "drip",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nX: ",
        b"POST /users HTTP/1.1\r\nHost: shop\r\n%s\r\n",
    ],
)
def test_a_slow_or_silent_client_times_out(address, server, monkeypatch, drip) -> None:
    monkeypatch.setattr(server, "_idle_s", 1.0)
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", 1.0)
    monkeypatch.setattr(connections, "LINGER_S", 0.2)
    started, response = monotonic(), []
    with socket.create_connection(address, DEADLINE_S) as connection:
        reader = eventlet.spawn(lambda: response.append(connection.recv(65536)))
        if drip:
            connection.sendall(
                drip.replace(
                    b"%s", b"Content-Type: application/json\r\nContent-Length: 9000\r\n"
                )
            )
        while not response:
            with suppress(OSError):
                connection.sendall(b" " if drip else b"")
            eventlet.sleep(0.1)
        reader.wait()
    assert 0.9 < monotonic() - started < DEADLINE_S
    if drip:
        assert response[0].startswith(b"HTTP/1.1 408 ")
        assert b"\r\nConnection: close\r\n" in response[0]
    else:  # no request has begun
        assert response == [b""]


@pytest.mark.parametrize(
    "first", [b"", HEALTHZ + b"\r\n"], ids=["the first", "after another"]
)
def test_an_empty_line_alone_gets_no_response(
    address,
    server,
    monkeypatch,
    first,
) -> None:
    monkeypatch.setattr(server, "_idle_s", 1.0)
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", 0.2)
    with socket.create_connection(address, DEADLINE_S) as connection:
        connection.sendall(first + b"\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == ([b"200"] if first else [])


def test_a_response_that_is_read_slowly_times_out(
    server, fakes, address, token, monkeypatch
) -> None:
    eventually(lambda: not server._connections)
    monkeypatch.setattr(connections, "RESPONSE_TIMEOUT_S", 1.0)
    fakes.replies["users.get"] = {**USER, "username": "x" * LARGE}
    received = 0
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        connection.sendall(GET_USER % token.encode() + b"\r\n")
        with suppress(ConnectionResetError), eventlet.Timeout(DEADLINE_S):
            while piece := connection.recv(
                4096
            ):  # no single write of the gateway times out
                received += len(piece)
                eventlet.sleep(0.05)
    eventually(lambda: not server._connections)
    assert 4096 < received < LARGE


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (b"\r\n%s", [b"200", b"200"]),
        (b"\r\n\r\n%s", [b"200", b"400"]),
        (b"get /users/me HTTP/1.1\r\nHost: shop\r\n\r\n%s", [b"200", b"400"]),
        (b"head /users/me HTTP/1.1\r\nHost: shop\r\n\r\n%s", [b"200", b"400"]),
        (b"GET users/me HTTP/1.1\r\nHost: shop\r\n\r\n%s", [b"200", b"400"]),
        (b"GET //users/me HTTP/1.1\r\nHost: shop\r\n\r\n%s", [b"200", b"400"]),
        (b"GET /%%2Fusers/me HTTP/1.1\r\nHost: shop\r\n\r\n%s", [b"200", b"400"]),
        (
            b"GET http://ann@shop/users/me HTTP/1.1\r\nHost: shop\r\n\r\n%s",
            [b"200", b"400"],
        ),
        (b"GET /users/me HTTP/1.1\r\nHost: ann@shop\r\n\r\n%s", [b"200", b"400"]),
    ],
)
def test_a_nearly_valid_request_is_rejected(
    fakes, raw, token, request_, statuses
) -> None:
    fakes.replies["users.get"] = USER
    ask = GET_USER % token.encode()
    response = raw(ask + b"\r\n" + request_ % (ask + b"Connection: close\r\n\r\n"))
    assert re.findall(rb"HTTP/1.1 (\d+)", response) == statuses


@pytest.fixture
def busy(fakes, gateway, client) -> Iterator[list[Any]]:
    """Send requests that keep all workers busy until the end of the test.

    Each has another client. Two services get half of them each.
    """
    released, half = Event(), gateway.max_workers // 2
    fakes.replies["users.get"] = lambda arguments: released.wait() and USER
    fakes.replies["notifications.list"] = lambda arguments: (
        released.wait() and {"items": [], "next": None}
    )
    paths = ["/users/me", "/notifications"] * half
    requests = [
        eventlet.spawn(client.get_as, number, path) for number, path in enumerate(paths)
    ]
    eventually(lambda: len(fakes.calls) == gateway.max_workers)
    yield requests
    released.send(True)
    assert [request.wait().status_code for request in requests] == [200] * len(requests)


def test_health_responds_while_all_workers_are_busy(busy, fakes, client) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert client.get(path).status_code == 200
    assert len(fakes.calls) == len(busy)  # no other call was made


def test_an_invalid_request_is_rejected_while_all_workers_are_busy(
    busy, client
) -> None:
    assert client.post("/orders", json={"price": 0}).status_code == 422


def test_a_hanging_service_uses_at_most_half_of_the_workers(
    fakes, gateway, client
) -> None:
    released, half = Event(), gateway.max_workers // 2
    fakes.replies["users.get"] = lambda arguments: released.wait()
    fakes.replies["orders.get"] = None
    waiting = [
        eventlet.spawn(client.get_as, number, "/users/me") for number in range(half)
    ]
    eventually(lambda: len(fakes.calls) == half)
    refused = client.get("/users/me")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert client.get(f"/orders/{USER_ID}").status_code == 404
    released.send(USER)
    assert [request.wait().status_code for request in waiting] == [200] * half
    assert client.get("/users/me").status_code == 200


def test_one_client_uses_at_most_its_share_of_the_workers(
    fakes, gateway, client
) -> None:
    released, share = Event(), int(gateway.max_workers * routes.MAX_CLIENT_SHARE)
    fakes.replies["users.get"] = lambda arguments: released.wait() and USER
    waiting = [eventlet.spawn(client.get_as, 1, "/users/me") for _ in range(share)]
    eventually(lambda: len(fakes.calls) == share)
    refused = client.get_as(1, "/users/me")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert "Nothing was done" in refused.json()["detail"]
    waiting.append(eventlet.spawn(client.get_as, 2, "/users/me"))
    eventually(lambda: len(fakes.calls) == share + 1)
    released.send(True)
    assert [request.wait().status_code for request in waiting] == [200] * (share + 1)
    assert client.get_as(1, "/users/me").status_code == 200


def test_a_worker_context_has_the_client(fakes, gateway, client, monkeypatch) -> None:
    spawn_worker, contexts = gateway.spawn_worker, []

    def spawn(
        entrypoint: Any, args: Any, kwargs: Any, context_data: Any, handle_result: Any
    ) -> Any:
        contexts.append(context_data)
        return spawn_worker(entrypoint, args, kwargs, context_data, handle_result)

    monkeypatch.setattr(gateway, "spawn_worker", spawn)
    fakes.replies["users.get"] = USER
    told = {"X-Forwarded-For": "198.51.100.1, 192.0.2.9", "X-Request-Id": "one"}
    assert client.get("/users/me", headers=told).status_code == 200
    assert contexts == [{"request_id": "one", "client": "192.0.2.9"}]


@pytest.fixture
def few(server, monkeypatch) -> int:
    """Lower the limit of connections; return it."""
    eventually(lambda: not server._connections)
    monkeypatch.setattr(server, "_max_connections", 3)
    return 3


def test_one_connection_too_many_is_rejected_if_all_others_are_busy(
    server, few, address, raw
) -> None:
    busy = [socket.create_connection(address) for _ in range(few)]
    for connection in busy:
        connection.sendall(b"GET ")
    eventually(lambda: in_phase(server, connections.ARRIVING) == few)
    response = raw(HEALTHZ + b"\r\n")
    assert response.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 2\r\n" in response
    assert json.loads(response.partition(b"\r\n\r\n")[2])["status"] == 503
    busy.pop().close()
    eventually(lambda: len(server._connections) == few - 1)
    served = raw(HEALTHZ + b"Connection: close\r\n\r\n")
    assert served.startswith(b"HTTP/1.1 200 ")
    for connection in busy:
        connection.close()


def in_phase(server: WebServer, phase: int) -> int:
    """Return the number of connections in a phase."""
    return sum(connection.phase == phase for connection in server._connections)


def from_elsewhere(address: tuple[str, int]) -> socket.socket:
    """Connect from another address of this machine."""
    return socket.create_connection(
        address, DEADLINE_S, source_address=("127.0.0.2", 0)
    )


@pytest.mark.parametrize(
    "head", [b"GET ", SIGN_UP % 9, GET_USER + b"\r\n"], ids=["head", "body", "answer"]
)
def test_a_client_with_all_connections_loses_one_to_another(
    server, few, address, fakes, token, head
) -> None:
    """It sends its requests slowly, or does not read its responses."""
    fakes.replies["users.get"] = {**USER, "username": "x" * LARGE}
    phase = connections.RESPONDING if b"/users/me" in head else connections.ARRIVING
    busy: list[socket.socket] = []
    for _ in range(few):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        connection.sendall(head.replace(b"%s", token.encode()))
        busy.append(connection)
        eventually(lambda: in_phase(server, phase) == len(busy))
    with from_elsewhere(address) as other:
        other.sendall(HEALTHZ + b"\r\n")
        assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
    eventually(lambda: len(server._connections) < few)
    for connection in busy:
        connection.close()
    eventually(lambda: not server._connections)


def test_a_request_in_progress_survives_the_connection_limit(
    server, few, address, fakes, token, monkeypatch
) -> None:
    monkeypatch.setattr(
        server, "_max_connections", 2
    )  # as many requests as may wait for one service
    released = Event()
    fakes.replies["users.get"] = lambda arguments: released.wait() and USER
    busy = [socket.create_connection(address, DEADLINE_S) for _ in range(2)]
    for number, connection in enumerate(busy):
        connection.sendall(
            GET_USER % token.encode() + b"X-Forwarded-For: 192.0.2.%d\r\n\r\n" % number
        )
    eventually(lambda: in_phase(server, connections.IN_PROGRESS) == len(busy))
    with from_elsewhere(address) as other:
        other.sendall(HEALTHZ + b"\r\n")
        assert other.recv(65536).startswith(b"HTTP/1.1 503 ")
    released.send(True)
    for connection in busy:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.close()


def test_a_connection_in_frequent_use_is_not_closed_for_a_new_one(
    server, few, address, raw
) -> None:
    kept = [socket.create_connection(address, DEADLINE_S) for _ in range(few)]
    for connection in kept:
        connection.sendall(HEALTHZ + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert raw(HEALTHZ + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 503 ")
    for connection in kept:
        connection.sendall(HEALTHZ + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.close()


def test_the_longest_idle_connection_is_closed_for_a_new_one(
    server, few, address, raw, monkeypatch
) -> None:
    monkeypatch.setattr(servers, "MIN_IDLE_S", 0)
    kept = [socket.create_connection(address, DEADLINE_S) for _ in range(few)]
    for connection in [*kept, kept[0]]:
        connection.sendall(HEALTHZ + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    for closed in (kept[1], kept[2]):
        assert raw(HEALTHZ + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        assert closed.recv(1) == b""
        opened = socket.create_connection(address, DEADLINE_S)
        kept.append(opened)
        eventually(lambda: len(server._connections) == few)
    kept[0].sendall(HEALTHZ + b"\r\n")
    assert kept[0].recv(65536).startswith(b"HTTP/1.1 200 ")
    for connection in kept:
        connection.close()


def finish_all(server: WebServer) -> None:
    for connection in server._connections:
        assert connection.has_idled(0)
        connection.finish()


def test_a_request_that_crosses_the_idle_close_is_answered(server, address) -> None:
    eventually(lambda: not server._connections)
    with socket.create_connection(address, DEADLINE_S) as connection:
        eventually(lambda: server._connections)
        connection.sendall(HEALTHZ + b"\r\n")
        finish_all(server)
        response = b"".join(iter(lambda: connection.recv(65536), b""))
    assert response.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in response


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"]
)
def test_a_body_that_crosses_the_idle_close_gets_503(server, address, framing) -> None:
    eventually(lambda: not server._connections)
    head = b"POST /tokens HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
    with socket.create_connection(address, DEADLINE_S) as connection:
        eventually(lambda: server._connections)
        connection.sendall(head + framing + b"\r\n\r\n")
        finish_all(server)
        response = b"".join(iter(lambda: connection.recv(65536), b""))
    assert response.startswith(b"HTTP/1.1 503 ")
    assert b"Nothing was done" in response


def test_many_pipelined_requests_do_not_block_the_loop(raw) -> None:
    turns = []

    def take_turns() -> None:
        while True:
            turns.append(True)
            eventlet.sleep(0)

    other = eventlet.spawn(take_turns)
    response = raw((HEALTHZ + b"\r\n") * 200 + HEALTHZ + b"Connection: close\r\n\r\n")
    other.kill()
    assert response.count(b"HTTP/1.1 200 ") == 201
    assert len(turns) > 200


def test_readiness_lists_its_checks(client) -> None:
    ready: dict[str, Any] = client.get("/readyz").json()
    assert ready["status"] == "ready"
    assert {"gateway started", "gateway broker"} <= set(ready["checks"])
    assert client.get("/healthz").json() == {"status": "ok"}
    assert "shop_rpc_call_seconds" in client.get("/metrics").text


def test_a_gateway_without_descriptors_survives(
    server,
    client,
    monkeypatch,
) -> None:
    accept, tried = server._sock.accept, []

    def no_descriptor() -> Any:
        tried.append(True)
        if len(tried) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept()

    monkeypatch.setattr(server._sock, "accept", no_descriptor)

    def a_new_connection_is_served() -> bool:
        client.close()
        return client.get("/healthz").status_code == 200

    eventually(lambda: a_new_connection_is_served() and len(tried) >= 3)
    assert a_new_connection_is_served()
