"""What happens on one connection: kept, closed, and answered while all workers are busy."""

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
from gateway.http import connection as connections
from gateway.http import server as servers
from gateway.http.server import WebServer

USER_ID = "0199d6a8-5b7e-7c3a-8000-000000000001"
USER = {"id": USER_ID, "username": "ann", "email": "ann@example.org", "locale": "en"}
DEADLINE_S = 30
LARGE = 1_500_000  # bytes: more than a slow reader reads in time
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: shop\r\n"
SIGN_UP = b"POST /users HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def server(gateway) -> WebServer:
    [server] = [e for e in gateway.extensions if isinstance(e, WebServer)]
    return server


@pytest.fixture
def connection(address) -> Iterator[HTTPConnection]:
    """A connection to the gateway, which knows by itself when it is closed."""
    connection = HTTPConnection(*address, timeout=DEADLINE_S)
    connection.connect()
    yield connection
    connection.close()


@pytest.fixture
def ask(connection, token) -> Callable[..., HTTPResponse]:
    """One request on the connection."""

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
        answer = connection.getresponse()
        answer.read()
        return answer

    return ask


def test_a_refusal_by_a_service_keeps_the_connection(book, ask, connection) -> None:
    book.answers["billing.deposit"] = {"status": "conflict"}
    book.answers["users.get"] = USER
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
def test_a_refusal_at_the_edge_closes_the_connection(
    book, ask, connection, method, path, body, headers, status
) -> None:
    answer = ask(method, path, body, **headers)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Connection"] == "close"
    assert connection.sock is None
    assert book.calls == []


def test_the_rest_of_a_refused_request_is_never_taken_for_another(
    book, raw, token
) -> None:
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
        answer = raw(start + framing + b"\r\n" + hidden)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1
    assert book.calls == []


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
def test_what_is_not_even_http_gets_a_problem_in_words_of_ours(
    raw, data, status
) -> None:
    answer = raw(data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head
    assert b"script" not in body


def test_a_body_that_is_announced_too_large_is_answered_though_it_is_still_sent(
    book, ask
) -> None:
    assert ask("POST", "/orders", b"x" * 1_500_000).status == 413


def test_a_client_that_hangs_up_in_its_body_harms_nobody(book, address, ask) -> None:
    with socket.create_connection(address, DEADLINE_S) as hasty:
        hasty.sendall(SIGN_UP % 9 + b"{")
    book.answers["users.get"] = USER
    assert ask("GET", "/users/me").status == 200


def test_head_is_answered_like_get_without_the_body(book, raw, token) -> None:
    book.answers["users.get"] = USER

    def head_and_body(method: bytes, path: bytes) -> tuple[set[bytes], bytes]:
        request = b"%s %s HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n"
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
def test_a_wrong_method_is_told_the_right_ones(ask, method, path, allowed) -> None:
    answer = ask(method, path)
    assert answer.status == 405
    assert set(answer.headers["Allow"].split(", ")) - {"OPTIONS"} == allowed


GET_USER = b"GET /users/me HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer %s\r\n"


def test_requests_sent_at_once_are_answered_in_their_order(book, raw, token) -> None:
    book.answers["users.get"] = lambda arguments: eventlet.sleep(0.05) or USER
    book.answers["billing.deposit"] = {"status": "conflict"}
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
    answer = raw(
        ask + b"\r\n" + deposit + HEALTHZ + b"\r\n" + ask + b"Connection: close\r\n\r\n"
    )
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"422", b"200", b"200"]
    assert [name for name, _, _ in book.calls] == [
        "users.get",
        "billing.deposit",
        "users.get",
    ]


def test_nothing_after_a_refused_request_is_run(book, raw, token) -> None:
    after = GET_USER % token.encode() + b"\r\n"
    for refused in (
        b"GET /nowhere HTTP/1.1\r\nHost: shop\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /users/me HTTP/1.1\r\nHost: shop\r\n\r\n",
    ):
        answer = raw(HEALTHZ + b"\r\n" + refused + after)
        assert answer.count(b"HTTP/1.1 ") == 2
    assert book.calls == []


def test_a_request_may_come_byte_by_byte(book, address, token) -> None:
    book.answers["users.create"] = {"status": "created", "user": USER}
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
def test_another_protocol_is_not_spoken(raw, request_, status) -> None:
    end = HEALTHZ + b"Connection: close\r\n\r\n"
    answer = raw(request_ + end)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == (2 if status == 200 else 1)


def test_a_client_that_waits_is_told_to_go_on_or_refused_before_it_sends(
    book, address, token
) -> None:
    book.answers["orders.place"] = {"status": "conflict"}
    head = b"POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: 12\r\n"
    head += b"Expect: 100-continue\r\n"
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
def test_a_connection_is_kept_or_closed_as_the_answer_says(
    address, request_, kept
) -> None:
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
def test_a_client_that_is_slow_or_silent_is_waited_for_no_longer_than_said(
    address, server, monkeypatch, drip
) -> None:
    monkeypatch.setattr(server, "_idle_s", 1.0)
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", 1.0)
    monkeypatch.setattr(connections, "LINGER_S", 0.2)
    started, answer = monotonic(), []
    with socket.create_connection(address, DEADLINE_S) as connection:
        reader = eventlet.spawn(lambda: answer.append(connection.recv(65536)))
        if drip:
            connection.sendall(
                drip.replace(
                    b"%s", b"Content-Type: application/json\r\nContent-Length: 9000\r\n"
                )
            )
        while not answer:
            with suppress(OSError):
                connection.sendall(b" " if drip else b"")
            eventlet.sleep(0.1)
        reader.wait()
    assert 0.9 < monotonic() - started < DEADLINE_S
    if drip:
        assert answer[0].startswith(b"HTTP/1.1 408 ")
        assert b"\r\nConnection: close\r\n" in answer[0]
    else:  # nothing was asked
        assert answer == [b""]


@pytest.mark.parametrize(
    "first", [b"", HEALTHZ + b"\r\n"], ids=["the first", "after another"]
)
def test_an_empty_line_alone_is_no_request_that_must_be_answered(
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


def test_an_answer_that_is_read_slowly_is_written_no_longer_than_said(
    server, book, address, token, monkeypatch
) -> None:
    eventually(lambda: not server._connections)
    monkeypatch.setattr(connections, "RESPONSE_TIMEOUT_S", 1.0)
    book.answers["users.get"] = {**USER, "username": "x" * LARGE}
    received = 0
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        connection.sendall(GET_USER % token.encode() + b"\r\n")
        with suppress(ConnectionResetError), eventlet.Timeout(DEADLINE_S):
            while piece := connection.recv(4096):  # each write of the gateway gets on
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
def test_what_is_nearly_a_request_is_not_taken_for_it(
    book, raw, token, request_, statuses
) -> None:
    book.answers["users.get"] = USER
    ask = GET_USER % token.encode()
    answer = raw(ask + b"\r\n" + request_ % (ask + b"Connection: close\r\n\r\n"))
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == statuses


@pytest.fixture
def busy(book, gateway, client) -> Iterator[list[Any]]:
    """Requests that keep all workers busy until the test is over.

    Each is of another client. Two services have half of them each.
    """
    over, half = Event(), gateway.max_workers // 2
    book.answers["users.get"] = lambda arguments: over.wait() and USER
    book.answers["notifications.list"] = lambda arguments: (
        over.wait() and {"items": [], "next": None}
    )
    paths = ["/users/me", "/notifications"] * half
    requests = [
        eventlet.spawn(client.get_as, number, path) for number, path in enumerate(paths)
    ]
    eventually(lambda: len(book.calls) == gateway.max_workers)
    yield requests
    over.send(True)
    assert [request.wait().status_code for request in requests] == [200] * len(requests)


def test_health_answers_while_all_workers_are_busy(busy, book, client) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert client.get(path).status_code == 200
    assert len(book.calls) == len(busy)  # still nobody was served


def test_a_wrong_request_is_refused_while_all_workers_are_busy(busy, client) -> None:
    assert client.post("/orders", json={"price": 0}).status_code == 422


def test_a_service_that_hangs_leaves_half_of_the_workers_to_the_others(
    book, gateway, client
) -> None:
    over, half = Event(), gateway.max_workers // 2
    book.answers["users.get"] = lambda arguments: over.wait()
    book.answers["orders.get"] = None
    waiting = [
        eventlet.spawn(client.get_as, number, "/users/me") for number in range(half)
    ]
    eventually(lambda: len(book.calls) == half)
    refused = client.get("/users/me")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert client.get(f"/orders/{USER_ID}").status_code == 404
    over.send(USER)
    assert [request.wait().status_code for request in waiting] == [200] * half
    assert client.get("/users/me").status_code == 200


def test_a_client_with_its_share_of_the_workers_leaves_the_others_to_the_next(
    book, gateway, client
) -> None:
    over, share = Event(), int(gateway.max_workers * routes.MAX_CLIENT_SHARE)
    book.answers["users.get"] = lambda arguments: over.wait() and USER
    waiting = [eventlet.spawn(client.get_as, 1, "/users/me") for _ in range(share)]
    eventually(lambda: len(book.calls) == share)
    refused = client.get_as(1, "/users/me")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert "Nothing was done" in refused.json()["detail"]
    waiting.append(eventlet.spawn(client.get_as, 2, "/users/me"))
    eventually(lambda: len(book.calls) == share + 1)
    over.send(True)
    assert [request.wait().status_code for request in waiting] == [200] * (share + 1)
    assert client.get_as(1, "/users/me").status_code == 200


def test_the_work_for_a_request_knows_its_client(
    book, gateway, client, monkeypatch
) -> None:
    spawn_worker, contexts = gateway.spawn_worker, []

    def spawn(
        entrypoint: Any, args: Any, kwargs: Any, context_data: Any, handle_result: Any
    ) -> Any:
        contexts.append(context_data)
        return spawn_worker(entrypoint, args, kwargs, context_data, handle_result)

    monkeypatch.setattr(gateway, "spawn_worker", spawn)
    book.answers["users.get"] = USER
    told = {"X-Forwarded-For": "198.51.100.1, 192.0.2.9", "X-Request-Id": "one"}
    assert client.get("/users/me", headers=told).status_code == 200
    assert contexts == [{"request_id": "one", "client": "192.0.2.9"}]


@pytest.fixture
def few(server, monkeypatch) -> int:
    """The number of connections that may be open now, a low one."""
    eventually(lambda: not server._connections)
    monkeypatch.setattr(server, "_max_connections", 3)
    return 3


def test_one_connection_too_many_is_answered_and_closed_where_all_others_are_busy(
    server, few, address, raw
) -> None:
    busy = [socket.create_connection(address) for _ in range(few)]
    for connection in busy:
        connection.sendall(b"GET ")
    eventually(lambda: in_phase(server, connections.ARRIVING) == few)
    answer = raw(HEALTHZ + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 2\r\n" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 503
    busy.pop().close()
    eventually(lambda: len(server._connections) == few - 1)
    served = raw(HEALTHZ + b"Connection: close\r\n\r\n")
    assert served.startswith(b"HTTP/1.1 200 ")
    for connection in busy:
        connection.close()


def in_phase(server: WebServer, phase: int) -> int:
    """How many connections are in it."""
    return sum(connection.phase == phase for connection in server._connections)


def from_elsewhere(address: tuple[str, int]) -> socket.socket:
    """A connection from another address of this machine."""
    return socket.create_connection(
        address, DEADLINE_S, source_address=("127.0.0.2", 0)
    )


@pytest.mark.parametrize(
    "head", [b"GET ", SIGN_UP % 9, GET_USER + b"\r\n"], ids=["head", "body", "answer"]
)
def test_a_client_with_all_connections_makes_room_for_another(
    server, few, address, book, token, head
) -> None:
    """It sends its requests slowly, or does not read its answers."""
    book.answers["users.get"] = {**USER, "username": "x" * LARGE}
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


def test_a_request_in_progress_is_answered_though_others_find_no_room(
    server, few, address, book, token, monkeypatch
) -> None:
    monkeypatch.setattr(server, "_max_connections", 2)  # what may wait for one service
    over = Event()
    book.answers["users.get"] = lambda arguments: over.wait() and USER
    busy = [socket.create_connection(address, DEADLINE_S) for _ in range(2)]
    for number, connection in enumerate(busy):
        connection.sendall(
            GET_USER % token.encode() + b"X-Forwarded-For: 192.0.2.%d\r\n\r\n" % number
        )
    eventually(lambda: in_phase(server, connections.IN_PROGRESS) == len(busy))
    with from_elsewhere(address) as other:
        other.sendall(HEALTHZ + b"\r\n")
        assert other.recv(65536).startswith(b"HTTP/1.1 503 ")
    over.send(True)
    for connection in busy:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.close()


def test_a_connection_that_is_used_again_and_again_is_not_closed_for_a_new_one(
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


def test_the_connection_that_idles_longest_makes_room_for_a_new_one(
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


def test_a_request_that_meets_the_end_of_its_idle_connection_is_answered(
    server, address
) -> None:
    eventually(lambda: not server._connections)
    with socket.create_connection(address, DEADLINE_S) as connection:
        eventually(lambda: server._connections)
        connection.sendall(HEALTHZ + b"\r\n")
        finish_all(server)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"]
)
def test_a_body_that_meets_the_end_of_its_idle_connection_is_no_mistake_of_the_client(
    server, address, framing
) -> None:
    eventually(lambda: not server._connections)
    head = b"POST /tokens HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
    with socket.create_connection(address, DEADLINE_S) as connection:
        eventually(lambda: server._connections)
        connection.sendall(head + framing + b"\r\n\r\n")
        finish_all(server)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Nothing was done" in answer


def test_many_requests_in_one_piece_leave_others_their_turn(raw) -> None:
    turns = []

    def take_turns() -> None:
        while True:
            turns.append(True)
            eventlet.sleep(0)

    other = eventlet.spawn(take_turns)
    answer = raw((HEALTHZ + b"\r\n") * 200 + HEALTHZ + b"Connection: close\r\n\r\n")
    other.kill()
    assert answer.count(b"HTTP/1.1 200 ") == 201
    assert len(turns) > 200


def test_health_says_what_is_reached(client) -> None:
    ready: dict[str, Any] = client.get("/readyz").json()
    assert ready["status"] == "ready"
    assert {"gateway started", "gateway broker"} <= set(ready["checks"])
    assert client.get("/healthz").json() == {"status": "ok"}
    assert "shop_rpc_call_seconds" in client.get("/metrics").text


def test_a_gateway_without_descriptors_refuses_connections_and_lives(
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
