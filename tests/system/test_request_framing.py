"""Wrongly framed requests are refused, and other requests are served meanwhile."""

import gzip
import socket
from collections.abc import Callable

import pytest

from tests.specs.conformance import documented
from tests.system.shopper import INTERNALS, Shopper, assert_problem

BODY = b'{"price": "1.00"}'
DEADLINE_S = 60


@pytest.fixture(scope="module")
def rich(suite) -> Shopper:
    """A user with 5.00, which must not change."""
    shopper = Shopper(suite.url)
    shopper.deposit("5.00")
    return shopper


@pytest.fixture
def send(suite, rich) -> Callable[..., tuple[int, bytes]]:
    """Return a function that sends an order with these headers and this body.

    It reads until the gateway closes, and returns the status and the body of the only response.
    """

    def send(headers: bytes, body: bytes = BODY) -> tuple[int, bytes]:
        start = b"POST /orders HTTP/1.1\r\nHost: shop\r\nAuthorization: %b\r\n"
        head = start % rich.headers["Authorization"].encode() + headers
        address = ("127.0.0.1", suite.ports["gateway"])
        with socket.create_connection(address, DEADLINE_S) as connection:
            connection.sendall(head + b"\r\n\r\n" + body)
            response = b""
            while part := connection.recv(65536):
                response += part
        assert response.count(b"HTTP/1.1 ") == 1
        head, _, content = response.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        received = dict(line.split(": ", 1) for line in lines)
        status = int(first.split()[1])
        assert received["Content-Type"] == "application/problem+json"
        documented().check("POST", "/orders", status, received, content)
        assert not INTERNALS.search(content.decode())
        return status, content

    return send


JSON = b"Content-Type: application/json\r\n"
CHUNKED = JSON + b"Transfer-Encoding: chunked"
WRONG_FRAMING = {
    "no length": (JSON.strip(), b"", 411),
    "a length twice": (JSON + b"Content-Length: 17\r\nContent-Length: 17", BODY, 400),
    "two lengths": (JSON + b"Content-Length: 17\r\nContent-Length: 3", BODY, 400),
    "two lengths in one": (JSON + b"Content-Length: 17, 17", BODY, 400),
    "a negative length": (JSON + b"Content-Length: -17", BODY, 400),
    "a length with a sign": (JSON + b"Content-Length: +17", BODY, 400),
    "a length with an underscore": (JSON + b"Content-Length: 1_7", BODY, 400),
    "a hexadecimal length": (JSON + b"Content-Length: 0x11", BODY, 400),
    "a length that is too small": (JSON + b"Content-Length: 5", BODY, 400),
    "a length and chunks": (
        JSON + b"Content-Length: 17\r\nTransfer-Encoding: chunked",
        BODY,
        400,
    ),
    "a length in a trailer": (
        CHUNKED,
        b"11\r\n%b\r\n0\r\nContent-Length: 17\r\n\r\n" % BODY,
        400,
    ),
    "a chunk of another size": (CHUNKED, b"10\r\n%b\r\n0\r\n\r\n" % BODY, 400),
    "a chunk of 20 MB": (CHUNKED, b"1312d00\r\n" + BODY, 413),
    "chunks in disguise": (
        JSON + b"Transfer-Encoding: xchunked",
        b"11\r\n%b\r\n0\r\n\r\n" % BODY,
        400,
    ),
    "chunks that are encoded": (
        JSON + b"Transfer-Encoding: gzip, chunked",
        b"0\r\n\r\n",
        400,
    ),
    "20 MB announced": (JSON + b"Content-Length: 20000000", b"", 413),
    "5,000 digits of length": (JSON + b"Content-Length: " + b"9" * 5000, b"", 413),
    "zeros before the length": (
        JSON + b"Content-Length: " + b"0" * 20 + b"900000000",
        b"",
        413,
    ),
    "4,301 zeros of length": (
        JSON + b"Content-Length: " + b"0" * 4301 + b"17",
        b"",
        413,
    ),
    "a length behind a bare CR": (JSON + b"X-Note: a\rContent-Length: 17", BODY, 400),
    "a bare CR at the end of a line": (
        JSON + b"X-Note: a\r\r\nContent-Length: 17",
        BODY,
        400,
    ),
    "a NUL in a header": (JSON + b"X-Note: a\0b\r\nContent-Length: 17", BODY, 400),
    "gzip": (
        JSON + b"Content-Encoding: gzip\r\nContent-Length: 37",
        gzip.compress(BODY),
        415,
    ),
    "no content type": (b"Content-Length: 17", BODY, 415),
    "plain text": (b"Content-Type: text/plain\r\nContent-Length: 17", BODY, 415),
    "a form": (
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 17",
        BODY,
        415,
    ),
    "two content types": (JSON + JSON + b"Content-Length: 17", BODY, 400),
    "two hosts": (JSON + b"Host: other\r\nContent-Length: 17", BODY, 400),
    "two keys": (
        JSON + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\nContent-Length: 17",
        BODY,
        400,
    ),
    "two tokens": (JSON + b"Authorization: Bearer x\r\nContent-Length: 17", BODY, 400),
    "a space before a colon": (JSON + b"Content-Length : 17", BODY, 400),
}


@pytest.mark.parametrize("case", WRONG_FRAMING)
def test_a_wrongly_framed_request_is_refused(send, rich, state, case) -> None:
    headers, body, status = WRONG_FRAMING[case]
    before = state(rich.id)
    assert send(headers, body)[0] == status
    assert state(rich.id) == before
    assert rich.balance == "5.00"


def test_a_missing_body_times_out_and_delays_no_other(suite, send, rich) -> None:
    address = ("127.0.0.1", suite.ports["gateway"])
    waiting = [socket.create_connection(address) for _ in range(50)]
    head = (
        b"POST /tokens HTTP/1.1\r\nHost: shop\r\n%bContent-Length: 100\r\n\r\n{" % JSON
    )
    for connection in waiting:
        connection.sendall(head)
    assert rich.balance == "5.00"  # others are served meanwhile
    for connection in waiting:
        connection.settimeout(DEADLINE_S)
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
        connection.close()


def test_20_megabytes_are_refused_with_an_answer(rich, state) -> None:
    before = state(rich.id)
    assert_problem(rich.post_raw("/orders", b"x" * 20_000_000), 413)
    assert state(rich.id) == before


def test_an_order_is_settled_though_its_client_hangs_up(suite, new_shopper) -> None:
    shopper = new_shopper()
    shopper.deposit("3.50")
    authorization = shopper.headers["Authorization"].encode()
    request = (
        b"POST /orders HTTP/1.1\r\nHost: shop\r\nAuthorization: %b\r\n"
        b"%bContent-Length: 17\r\n\r\n%b"
    ) % (authorization, JSON, BODY)
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", suite.ports["gateway"])) as hasty:
            hasty.sendall(request)
    letters = shopper.letters(5)
    kinds = sorted(letter["kind"] for letter in letters)
    assert kinds == ["grief"] * 2 + ["happiness"] * 3
    assert shopper.balance == "0.50"
