"""A head is parsed in one way or rejected."""

from collections.abc import Callable
from contextlib import suppress
from time import process_time
from typing import Any

import pytest
from hypothesis import given, strategies as st

from gateway.http.parser import HttpRequest, parse_header_block
from gateway.problems import Problem


def parse(headers: str = "", line: str = "POST /orders HTTP/1.1") -> HttpRequest:
    """Parse a request with these header lines, and a Host if they do not begin with one."""
    lines = headers.splitlines()
    if not headers.startswith("Host:"):
        lines.append("Host: shop")
    request = HttpRequest()
    request.parse(line, *lines)
    return request


def rejection(function: Callable[..., Any], *arguments: Any) -> int:
    """Return the status of the problem that `function` raises."""
    with pytest.raises(Problem) as caught:
        function(*arguments)
    return caught.value.status


@pytest.mark.parametrize(
    ("line", "method", "path", "query"),
    [
        ("GET / HTTP/1.1", "GET", "/", ""),
        (
            "GET /orders?limit=1&cursor=?x HTTP/1.1",
            "GET",
            "/orders",
            "limit=1&cursor=?x",
        ),
        ("GET /a%20b%2f%ff HTTP/1.0", "GET", "/a b/\ufffd", ""),
        ("GET http://shop:80/orders?limit=1 HTTP/1.1", "GET", "/orders", "limit=1"),
        ("GET HTTPS://shop HTTP/1.1", "GET", "/", ""),
        ("GET http://shop?x HTTP/1.1", "GET", "/", "x"),
        ("GET /http://shop/ HTTP/1.1", "GET", "/http://shop/", ""),
    ],
)
def test_a_request_line_has_method_path_and_query(
    line: str, method: str, path: str, query: str
) -> None:
    request = parse(line=line)
    assert (request.method, request.path, request.query) == (method, path, query)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (line, 400)
        for line in (
            "",
            "GET",
            "GET /",
            " GET / HTTP/1.1",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET / http/1.1",
            "GET http://sh\top/ HTTP/1.1",
            "<script> / HTTP/1.1",
        )
    ]
    + [
        ("GET / HTTP/11", 400),
        ("GET / HTTP/1.١", 400),
        ("GET /\x7f HTTP/1.1", 400),
        ("GET /a b HTTP/1.1", 400),
        ("GET orders HTTP/1.1", 400),
        ("GET %2Forders HTTP/1.1", 400),
        ("GET ?limit=1 HTTP/1.1", 400),
        ("GET http:///orders HTTP/1.1", 400),
        ("GET //orders HTTP/1.1", 400),
        ("GET /%2Forders HTTP/1.1", 400),
        ("get /orders HTTP/1.1", 400),
        ("Get /orders HTTP/1.1", 400),
        ("GET http://ann@shop/orders HTTP/1.1", 400),
        ("GET http://ann:secret@shop HTTP/1.1", 400),
        ("GET ftp://shop/orders HTTP/1.1", 400),
        ("CONNECT shop:443 HTTP/1.1", 400),
        ("CONNECT /orders HTTP/1.1", 400),
        ("GET http://a<b/orders HTTP/1.1", 400),
        ("GET /\xe9 HTTP/1.1", 400),
        ("OPTIONS * HTTP/1.1", 400),
    ]
    + [("GET / HTTP/2.0", 505), ("GET / HTTP/0.9", 505), ("GET / HTTP/1.2", 505)],
)
def test_a_malformed_request_line_is_rejected(line: str, status: int) -> None:
    assert rejection(parse, "", line) == status


def test_only_http_1_1_requires_a_host() -> None:
    HttpRequest().parse("GET / HTTP/1.0")
    assert rejection(HttpRequest().parse, "GET / HTTP/1.1", "X: y") == 400


@pytest.mark.parametrize(
    "host",
    ["a b", "a, b", "a/b", "a?b", "http://a", "a\tb", "\xe9", "ann@b", "a#b", "a\\b"],
)
def test_an_invalid_host_is_rejected(host: str) -> None:
    assert rejection(parse, f"Host: {host}") == 400


@pytest.mark.parametrize(
    "host", ["shop", "arch.homework:80", "[::1]:8000", "127.0.0.1", ""]
)
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    parse(f"Host: {host}")


@pytest.mark.parametrize(
    ("version", "wanted", "expects"),
    [
        ("1.1", "100-continue", True),
        ("1.1", "100-Continue", True),
        ("1.0", "100-continue", False),
        ("1.1", "x", False),
    ],
)
def test_http_1_1_may_expect_100_continue(
    version: str, wanted: str, expects: bool
) -> None:
    assert (
        parse(f"Expect: {wanted}", f"POST / HTTP/{version}").expect_continue is expects
    )


def test_a_long_request_line_is_parsed_quickly() -> None:
    """A regular expression that backtracks would take a second."""
    line = f"GET http://{'a' * 8000} X"
    started = process_time()  # of this process, since others may be busy
    rejection(parse, "", line)
    assert process_time() - started < 0.25


@pytest.mark.parametrize(
    ("version", "wanted", "kept"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: keep-alive", True),
        ("1.1", "Connection: Close", False),
        ("1.1", "Connection: x, close", False),
        ("1.1", "Connection: upgrade\nUpgrade: websocket", True),
        ("1.0", "", False),
        ("1.0", "Connection: Keep-Alive", True),
        ("1.0", "Connection: keep-alive, close", False),
        ("1.1", "Connection: x-close", True),
    ],
)
def test_keep_alive_depends_on_version_and_connection(
    version: str, wanted: str, kept: bool
) -> None:
    assert parse(wanted, f"GET / HTTP/{version}").keep_alive is kept


HEAD = b"GET / HTTP/1.1\r\nHost: shop\r\nX: y"


def test_a_head_ends_with_an_empty_line() -> None:
    lines, rest = parse_header_block(HEAD + b"\r\n\r\n{}\n\0")
    assert (lines, rest) == (["GET / HTTP/1.1", "Host: shop", "X: y"], b"{}\n\0")
    assert {
        parse_header_block((HEAD + b"\r\n\r\n")[:end]) for end in range(len(HEAD) + 4)
    } == {None}


def test_one_empty_line_before_a_head_is_ignored() -> None:
    assert parse_header_block(b"\r\n" + HEAD + b"\r\n\r\n{}") == parse_header_block(
        HEAD + b"\r\n\r\n{}"
    )
    assert {parse_header_block(start) for start in (b"\r", b"\r\n", b"\r\n\r\n")} == {
        None
    }
    assert parse_header_block(b"\r\n\r\n" + HEAD + b"\r\n\r\n") == (
        ["", *HEAD.decode().split("\r\n")],
        b"",
    )


@pytest.mark.parametrize(
    "stray",
    [b"\0", b"\n", b"\r", b"\r\r", b"\n\n", b"\n\r", b"\x01", b"\v", b"\f", b"\x7f"],
)
@pytest.mark.parametrize("rest", [b"x", b"x\r\n\r\n"])
def test_a_stray_line_break_is_rejected_at_once(stray: bytes, rest: bytes) -> None:
    assert rejection(parse_header_block, HEAD + stray + rest) == 400


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * 8192, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 8192, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101, 431),
        (b"GET / HTTP/1.1\r\n" + (b"X: %s\r\n" % (b"y" * 8000)) * 9, 431),
    ],
)
def test_a_head_that_is_too_large_is_rejected_before_its_end(
    head: bytes, status: int
) -> None:
    assert rejection(parse_header_block, head) == status


@given(st.binary())
def test_no_bytes_break_the_parser(data: bytes) -> None:
    for received in (data, HEAD + data, HEAD + b"\r\n" + data + b"\r\n\r\n"):
        with suppress(Problem):
            lines, _ = parse_header_block(received) or ([""], b"")
            HttpRequest().parse(*lines)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("Host: shop", 0),
        ("Content-Length: 0", 0),
        ("Content-Length: 65536", 65536),
        ("Transfer-Encoding: chunked", None),
        ("transfer-encoding: Chunked ", None),
    ],
)
def test_plain_framing_is_accepted(text: str, length: int | None) -> None:
    assert parse(text).body_length == length


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Content-Length: -1", 400),
        ("Content-Length: +1", 400),
        ("Content-Length: 1_0", 400),
        ("Content-Length: 0x10", 400),
        ("Content-Length: 1.5", 400),
        ("Content-Length: 5, 5", 400),
        ("Content-Length:", 400),
        ("Content-Length: ²", 400),
        ("Content-Length: 5\nContent-Length: 5", 400),
        ("Content-Length: 5\ncontent-length: 6", 400),
        ("Content-Length: 5\nTransfer-Encoding: chunked", 400),
        ("Host: a\nHost: b", 400),
        ("Authorization: Bearer a\nAuthorization: Bearer b", 400),
        ("Content-Type: application/json\nContent-Type: text/plain", 400),
        ("Idempotency-Key: a\nIdempotency-Key: a", 400),
        ("X: y\nContent-Length : 5", 400),
        ("X: y\nno colon\nContent-Length: 5", 400),
        ("X: y\n folded\nContent-Length: 5", 400),
        ("X: y\n\tfolded: z\nContent-Length: 5", 400),
        (": no name", 400),
        ("X(Y): z", 400),
        ("Ключ: z".encode().decode("latin-1"), 400),
        ("Transfer-Encoding: chunked\nContent-Length: 5", 400),
        ("Transfer-Encoding: chunked\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding:", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding: gzip, chunked", 400),
        ("Transfer-Encoding: chunked, chunked", 400),
        ("Transfer-Encoding: xchunked", 400),
        ("Transfer-Encoding: chunked\t", 400),
        ("Content-Length: 65537", 413),
        ("Content-Length: 20000000", 413),
        (f"Content-Length: {'9' * 5000}", 413),
    ],
)
def test_ambiguous_framing_is_rejected(text: str, status: int) -> None:
    assert rejection(parse, text) == status


def test_http_1_0_has_no_chunks() -> None:
    assert rejection(parse, "Transfer-Encoding: chunked", "POST / HTTP/1.0") == 400
