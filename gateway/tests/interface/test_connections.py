"""What happens on one connection: kept, closed, and answered while all workers are busy."""

import errno
import json
import socket
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import eventlet
import pytest
from eventlet.event import Event

from conftest import eventually
from gateway.web import WebServer

USER_ID = "0199d6a8-5b7e-7c3a-8000-000000000001"
USER = {"id": USER_ID, "username": "ann", "email": "ann@example.org", "locale": "en"}
DEADLINE_S = 30


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

    def ask(method: str, path: str, body: bytes | None = None, **headers: str) -> HTTPResponse:
        given = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request(method, path, body, given | {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        answer.read()
        return answer

    return ask


@pytest.fixture
def raw(address) -> Callable[[bytes], bytes]:
    """All that the gateway says until it closes, to bytes that may be anything."""

    def send(data: bytes) -> bytes:
        with socket.create_connection(address, DEADLINE_S) as connection:
            connection.sendall(data)
            answer = b""
            while part := connection.recv(65536):
                answer += part
            return answer

    return send


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
        ("POST", "/healthz", b"{}", {}, 404),
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


def test_the_rest_of_a_refused_request_is_never_taken_for_another(book, raw, token) -> None:
    hidden = b"GET /users/me HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer %s\r\n\r\n" % token.encode()
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
        (b"GET /%s HTTP/1.1\r\n\r\n" % (b"a" * 9000), 414),
        (b"<script> / HTTP/1.1\r\nHost: shop\r\n\r\n", 404),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
def test_what_is_not_even_http_gets_a_problem_in_words_of_ours(raw, data, status) -> None:
    answer = raw(data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head
    assert b"script" not in body


def test_a_body_that_is_announced_too_large_is_answered_though_it_is_still_sent(book, ask) -> None:
    assert ask("POST", "/orders", b"x" * 20_000_000).status == 413


def test_a_client_that_hangs_up_in_its_body_harms_nobody(book, address, ask) -> None:
    with socket.create_connection(address, DEADLINE_S) as hasty:
        hasty.sendall(b"POST /users HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
    book.answers["users.get"] = USER
    assert ask("GET", "/users/me").status == 200


def test_head_is_answered_like_get_without_the_body(book, ask, connection) -> None:
    book.answers["users.get"] = USER
    first = connection.sock
    answer = ask("HEAD", "/users/me")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert ask("HEAD", "/healthz").status == 200
    assert ask("GET", "/users/me").status == 200
    assert connection.sock is first


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


@pytest.fixture
def busy(book, gateway, client) -> Iterator[list[Any]]:
    """Requests that keep all workers busy, half with each of two services, until the test is over."""
    over, half = Event(), gateway.max_workers // 2
    book.answers["users.get"] = lambda arguments: over.wait() and USER
    book.answers["notifications.list"] = lambda arguments: over.wait() and {"items": [], "next": None}
    requests = [eventlet.spawn(client.get, path) for path in ["/users/me", "/notifications"] * half]
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


def test_a_service_that_hangs_leaves_half_of_the_workers_to_the_others(book, gateway, client) -> None:
    over, half = Event(), gateway.max_workers // 2
    book.answers["users.get"] = lambda arguments: over.wait()
    book.answers["orders.get"] = None
    waiting = [eventlet.spawn(client.get, "/users/me") for _ in range(half)]
    eventually(lambda: len(book.calls) == half)
    refused = client.get("/users/me")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert client.get(f"/orders/{USER_ID}").status_code == 404
    over.send(USER)
    assert [request.wait().status_code for request in waiting] == [200] * half
    assert client.get("/users/me").status_code == 200


def test_one_connection_too_many_is_answered_and_closed(gateway, address, raw, monkeypatch) -> None:
    [server] = [e for e in gateway.extensions if isinstance(e, WebServer)]
    eventually(lambda: not server._connections)
    monkeypatch.setattr(server, "_most", 3)
    silent = [socket.create_connection(address) for _ in range(3)]
    eventually(lambda: len(server._connections) == 3)
    answer = raw(b"GET /healthz HTTP/1.1\r\nHost: shop\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 2\r\n" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 503
    silent.pop().close()
    eventually(lambda: len(server._connections) == 2)
    served = raw(b"GET /healthz HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
    assert served.startswith(b"HTTP/1.1 200 ")
    for connection in silent:
        connection.close()


def test_health_says_what_is_reached(client) -> None:
    ready: dict[str, Any] = client.get("/readyz").json()
    assert ready["status"] == "ready"
    assert {"gateway started", "gateway broker"} <= set(ready["checks"])
    assert client.get("/healthz").json() == {"status": "ok"}
    assert "shop_rpc_call_seconds" in client.get("/metrics").text


def test_a_gateway_without_descriptors_refuses_connections_and_lives(gateway, client, monkeypatch) -> None:
    [server] = [e for e in gateway.extensions if isinstance(e, WebServer)]
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
