"""Chunked bodies on connections are decoded within the limits, in one way only."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import eventlet
import pytest

from gateway.http import connection as connections
from gateway.http.parser import MAX_BODY

DEADLINE_S = 30
USER = {
    "id": "0199d6a8-5b7e-7c3a-8000-000000000001",
    "username": "ann",
    "email": "a@b.example",
    "locale": "en",
}
WANTED = {"username": "ann", "email": "ann@example.org", "password": "long enough"}
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: shop\r\n"
LAST = HEALTHZ + b"Connection: close\r\n\r\n"
SIGN_UP = b"POST /users HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


@pytest.fixture
def statuses(raw) -> Callable[[bytes], list[int]]:
    """Send bytes; return the statuses of all responses until the gateway closes."""
    return lambda data: [
        int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", raw(data))
    ]


@pytest.fixture
def connection(address) -> Iterator[socket.socket]:
    with socket.create_connection(address, DEADLINE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def body(**fields: str) -> bytes:
    """Return a sign-up as JSON."""
    return json.dumps(WANTED | fields).encode()


def chunks(data: bytes, size: int = 10, extension: bytes = b"") -> bytes:
    """Return data in chunks of this size, without the last chunk."""
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)


@pytest.mark.parametrize(
    "data",
    [
        chunks(body(), 1) + END,
        chunks(body(), 1000) + END,
        chunks(body(), 10, b';a=b;c="d"') + b"0;last\r\n\r\n",
        chunks(body())
        + b"0\r\nX-Request-Id: trailer\r\nX-Forwarded-For: 192.0.2.1\r\nExpect: x\r\n\r\n",
    ],
)
def test_a_chunked_body_is_accepted(fakes, connection, data) -> None:
    fakes.replies["users.create"] = {"status": "created", "user": USER}
    connection.sendall(SIGN_UP + CHUNKED + data)
    response = connection.recv(65536)
    assert response.startswith(b"HTTP/1.1 201 ")
    assert b"\r\nConnection: keep-alive\r\n" in response
    assert b"X-Request-Id: trailer" not in response
    assert {name: fakes.arguments("users.create")[name] for name in WANTED} == WANTED
    connection.sendall(LAST)
    assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_chunked_body_may_arrive_byte_by_byte(fakes, connection) -> None:
    fakes.replies["users.create"] = {"status": "created", "user": USER}
    for byte in SIGN_UP + CHUNKED + chunks(body(), 50, b";a=b") + b"0\r\nX: y\r\n\r\n":
        connection.sendall(bytes([byte]))
        eventlet.sleep(0)
    assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")
    assert fakes.arguments("users.create")["username"] == "ann"


def test_requests_after_a_chunked_body_are_answered_in_order(fakes, statuses) -> None:
    fakes.replies["users.create"] = {"status": "created", "user": USER}
    chunked = [
        SIGN_UP + CHUNKED + chunks(body(username=name))
        for name in ("ann", "bob", "eve")
    ]
    sized = SIGN_UP + b"Content-Length: %d\r\n\r\n" % len(body()) + body()
    data = (
        chunked[0] + END + chunked[1] + b"0\r\nX: y\r\n\r\n" + sized + HEALTHZ + b"\r\n"
    )
    assert statuses(data + chunked[2] + END + LAST) == [201, 201, 201, 200, 201, 200]
    assert [call[1]["username"] for call in fakes.calls] == ["ann", "bob", "ann", "eve"]


WRONG = {
    "a Content-Length before it": (
        b"Content-Length: 5\r\n" + CHUNKED,
        chunks(body()) + END,
    ),
    "a Content-Length after it": (
        b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
        chunks(body()) + END,
    ),
    **{
        f"the coding {coding!r}": (
            b"Transfer-Encoding: %b\r\n\r\n" % coding,
            chunks(body()) + END,
        )
        for coding in (
            b"",
            b"identity",
            b"xchunked",
            b"gzip, chunked",
            b"chunked, chunked",
            b"chunked\t",
        )
    },
    "the coding twice": (
        b"Transfer-Encoding: chunked\r\n" + CHUNKED,
        chunks(body()) + END,
    ),
    "a chunk that is longer than its size": (CHUNKED, b"3\r\n{}  \r\n" + END),
    "a chunk without its end": (CHUNKED, b"2\r\n{}" + END),
    "a bare LF": (CHUNKED, b"2\n{}\r\n" + END),
    "a bare CR": (CHUNKED, b"2\r{}\r\n" + END),
    "a size with a sign": (CHUNKED, b"+2\r\n{}\r\n" + END),
    "a size with a prefix": (CHUNKED, b"0x2\r\n{}\r\n" + END),
    "a control character in an extension": (CHUNKED, b"2;a\0\r\n{}\r\n" + END),
    "a Content-Length in a trailer": (
        CHUNKED,
        chunks(body()) + b"0\r\nContent-Length: 5\r\n\r\n",
    ),
    "a malformed trailer": (CHUNKED, chunks(body()) + b"0\r\nX : y\r\n\r\n"),
}


@pytest.mark.parametrize("case", WRONG)
def test_malformed_chunks_hide_no_second_request(fakes, raw, case) -> None:
    framing, data = WRONG[case]
    hidden = SIGN_UP + b"Content-Length: %d\r\n\r\n" % len(body()) + body()
    response = raw(SIGN_UP + framing + data + hidden)
    assert response.startswith(b"HTTP/1.1 400 ")
    assert response.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in response
    assert fakes.calls == []


def test_http_1_0_has_no_chunks(fakes, raw) -> None:
    data = (
        SIGN_UP.replace(b"1.1", b"1.0")
        + b"Connection: keep-alive\r\n"
        + CHUNKED
        + chunks(body())
        + END
    )
    assert raw(data).startswith(b"HTTP/1.1 400 ")
    assert fakes.calls == []


@pytest.mark.parametrize(
    "data",
    [
        b"%x\r\n" % (MAX_BODY + 1),  # the gateway does not wait for it
        chunks(b" " * MAX_BODY, 5000) + b"1\r\n \r\n",
        chunks(b" " * MAX_BODY, 1),
        b"ffffffffffffffff\r\n",
    ],
)
def test_a_large_chunked_body_is_rejected_while_it_arrives(
    fakes, statuses, data
) -> None:
    assert statuses(SIGN_UP + CHUNKED + data) == [413]
    assert fakes.calls == []


@pytest.mark.parametrize(
    ("start", "drip"),
    [
        (b"5", b""),
        (b"5\r\n{", b""),
        (b"", b"1\r\n \r\n"),
        (b"5;", b"a"),
        (b"2\r\n{}\r\n0\r\nX: ", b"y"),
    ],
)
def test_a_slow_chunked_body_times_out(
    fakes, connection, monkeypatch, start, drip
) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", 0.5)
    monkeypatch.setattr(connections, "LINGER_S", 0.1)
    response: list[bytes] = []
    reader = eventlet.spawn(lambda: response.append(connection.recv(65536)))
    connection.sendall(SIGN_UP + CHUNKED + start)
    while not response:
        with suppress(OSError):
            connection.sendall(drip)
        eventlet.sleep(0.05)
    reader.wait()
    assert response[0].startswith(b"HTTP/1.1 408 ")
    assert fakes.calls == []


@pytest.mark.parametrize(
    "start",
    [b"", b"5", b"5\r\n{", b"2\r\n{}", chunks(body()), chunks(body()) + b"0\r\n"],
)
@pytest.mark.parametrize("abort", [False, True], ids=["half-closed", "closed"])
def test_a_body_without_its_last_chunk_is_incomplete(
    fakes, address, statuses, start, abort
) -> None:
    fakes.replies["users.create"] = {"status": "created", "user": USER}
    with socket.create_connection(address, DEADLINE_S) as connection:
        connection.sendall(SIGN_UP + CHUNKED + start)
        if not abort:
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert statuses(LAST) == [200]
    assert fakes.calls == []


def test_an_accepted_head_gets_100_continue_before_its_chunks(
    fakes, connection
) -> None:
    fakes.replies["users.create"] = {"status": "created", "user": USER}
    connection.sendall(SIGN_UP + b"Expect: 100-continue\r\n" + CHUNKED)
    assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(chunks(body()) + END)
    assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (SIGN_UP.replace(b"/users", b"/orders"), 401),
        (SIGN_UP.replace(b"/json", b"/xml"), 415),
        (SIGN_UP.replace(b"/users", b"/nowhere"), 404),
        (SIGN_UP + b"Content-Length: 5\r\n", 400),
        (b"GET /users/me HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer %s\r\n", 400),
    ],
)
def test_a_rejected_head_gets_no_100_continue(
    fakes, connection, token, head, status
) -> None:
    connection.sendall(
        head.replace(b"%s", token.encode()) + b"Expect: 100-continue\r\n" + CHUNKED
    )
    assert connection.recv(65536).startswith(b"HTTP/1.1 %d " % status)
    assert fakes.calls == []


def test_an_empty_chunked_body_counts_as_none(fakes, statuses, token) -> None:
    """A proxy sends one for a GET if it does not know the end yet."""
    fakes.replies["users.get"] = USER
    head = (
        b"GET /users/me HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer %b\r\n"
        % token.encode()
    )
    assert statuses(
        head + CHUNKED + END + head + CHUNKED + b"0\r\nX: y\r\n\r\n" + LAST
    ) == [200, 200, 200]
    assert statuses(head + CHUNKED + b"2\r\n{}\r\n" + END + LAST) == [400]
    assert statuses(SIGN_UP + CHUNKED + END + LAST) == [
        400
    ]  # a route with a body needs JSON


def test_unread_chunks_are_not_parsed_as_a_request(fakes, statuses) -> None:
    assert statuses(HEALTHZ + CHUNKED + END + LAST) == [200]
    assert statuses(HEALTHZ + CHUNKED + chunks(LAST, 1000) + END + LAST) == [200]
    assert statuses(
        HEALTHZ.replace(b"/healthz", b"/nowhere") + CHUNKED + chunks(LAST, 1000) + END
    ) == [404]


def test_incomplete_chunks_delay_no_other_client(address, statuses) -> None:
    waiting = [socket.create_connection(address, DEADLINE_S) for _ in range(50)]
    for connection in waiting:
        connection.sendall(SIGN_UP + CHUNKED + b"ffff\r\n{")
    assert statuses(LAST) == [200]
    for connection in waiting:
        connection.close()
