"""A request is read in one way or refused."""

import string
from contextlib import suppress
from ipaddress import ip_address
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema

from gateway import reading, schemas
from gateway.problems import Problem
from gateway.reading import HttpRequest

VISIBLE = st.text(
    alphabet=[chr(c) for c in range(0x21, 0x7F)], min_size=1, max_size=255
)


def request(text: str = "", line: str = "POST /orders HTTP/1.1") -> HttpRequest:
    """A request with these header lines, as it is parsed; to a host, where they do not say to which."""
    asked = HttpRequest()
    asked.parse(
        line, *text.splitlines(), *[] if text.startswith("Host:") else ["Host: shop"]
    )
    return asked


def refusal(function: Any, *arguments: Any) -> Problem:
    """The problem that `function` raises."""
    with pytest.raises(Problem) as caught:
        function(*arguments)
    return caught.value


def body_of(
    content: bytes | str, content_type: str = "application/json", *more: str
) -> Any:
    """The body as `read_body` gives it for an order."""
    body = content.encode() if isinstance(content, str) else content
    asked = request(
        "\n".join(
            [f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *more]
        )
    )
    return reading.read_body(asked, schemas.NewOrder(), lambda _: body)


# Heads


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
def test_the_first_line_says_what_is_asked(
    line: str, method: str, path: str, query: str
) -> None:
    asked = request(line=line)
    assert (asked.method, asked.path, asked.query) == (method, path, query)


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
def test_a_first_line_that_is_none_is_refused(line: str, status: int) -> None:
    assert refusal(request, "", line).status == status


def test_a_request_names_its_host_since_http_1_1() -> None:
    HttpRequest().parse("GET / HTTP/1.0")
    assert refusal(HttpRequest().parse, "GET / HTTP/1.1", "X: y").status == 400


@pytest.mark.parametrize(
    "host",
    ["a b", "a, b", "a/b", "a?b", "http://a", "a\tb", "\xe9", "ann@b", "a#b", "a\\b"],
)
def test_a_host_that_is_none_is_refused(host: str) -> None:
    assert refusal(request, f"Host: {host}").status == 400


@pytest.mark.parametrize(
    "host", ["shop", "arch.homework:80", "[::1]:8000", "127.0.0.1", ""]
)
def test_a_host_may_be_any_name_or_address(host: str) -> None:
    request(f"Host: {host}")


@pytest.mark.parametrize(
    ("version", "wanted", "expects"),
    [
        ("1.1", "100-continue", True),
        ("1.1", "100-Continue", True),
        ("1.0", "100-continue", False),
        ("1.1", "x", False),
    ],
)
def test_only_who_expects_it_is_told_to_go_on(
    version: str, wanted: str, expects: bool
) -> None:
    assert request(f"Expect: {wanted}", f"POST / HTTP/{version}").expects is expects


def test_the_longest_first_line_is_read_in_no_time() -> None:
    """An expression that tries all ways to cut it would take a second."""
    line = f"GET http://{'a' * 8000} X"
    started = process_time()  # of this process alone: others may be busy
    refusal(request, "", line)
    assert process_time() - started < 0.25


@pytest.mark.parametrize(
    ("version", "wanted", "keeps"),
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
def test_a_connection_is_kept_as_its_version_says(
    version: str, wanted: str, keeps: bool
) -> None:
    assert request(wanted, f"GET / HTTP/{version}").keeps is keeps


HEAD = b"GET / HTTP/1.1\r\nHost: shop\r\nX: y"


def test_a_head_ends_with_an_empty_line() -> None:
    lines, rest = reading.split_head(HEAD + b"\r\n\r\n{}\n\0")
    assert (lines, rest) == (["GET / HTTP/1.1", "Host: shop", "X: y"], b"{}\n\0")
    assert {
        reading.split_head((HEAD + b"\r\n\r\n")[:end]) for end in range(len(HEAD) + 4)
    } == {None}


def test_one_empty_line_before_a_head_is_nothing() -> None:
    assert reading.split_head(b"\r\n" + HEAD + b"\r\n\r\n{}") == reading.split_head(
        HEAD + b"\r\n\r\n{}"
    )
    assert {reading.split_head(start) for start in (b"\r", b"\r\n", b"\r\n\r\n")} == {
        None
    }
    assert reading.split_head(b"\r\n\r\n" + HEAD + b"\r\n\r\n") == (
        ["", *HEAD.decode().split("\r\n")],
        b"",
    )


@pytest.mark.parametrize(
    "stray",
    [b"\0", b"\n", b"\r", b"\r\r", b"\n\n", b"\n\r", b"\x01", b"\v", b"\f", b"\x7f"],
)
@pytest.mark.parametrize("rest", [b"x", b"x\r\n\r\n"])
def test_what_others_may_take_for_the_end_of_a_line_is_refused_at_once(
    stray: bytes, rest: bytes
) -> None:
    assert refusal(reading.split_head, HEAD + stray + rest).status == 400


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * 8192, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 8192, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101, 431),
        (b"GET / HTTP/1.1\r\n" + (b"X: %s\r\n" % (b"y" * 8000)) * 9, 431),
    ],
)
def test_a_head_that_is_too_large_is_refused_before_its_end(
    head: bytes, status: int
) -> None:
    assert refusal(reading.split_head, head).status == status


@given(st.binary())
def test_no_bytes_break_the_parser(data: bytes) -> None:
    for received in (data, HEAD + data, HEAD + b"\r\n" + data + b"\r\n\r\n"):
        with suppress(Problem):
            lines, _ = reading.split_head(received) or ([""], b"")
            HttpRequest().parse(*lines)


# Framing


@pytest.mark.parametrize(
    ("text", "unread"),
    [
        ("Host: shop", 0),
        ("Content-Length: 0", 0),
        ("Content-Length: 65536", 65536),
        ("Transfer-Encoding: chunked", None),
        ("transfer-encoding: Chunked ", None),
    ],
)
def test_plain_framing_is_taken(text: str, unread: int | None) -> None:
    assert request(text).unread == unread


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
def test_framing_that_could_be_read_in_two_ways_is_refused(
    text: str, status: int
) -> None:
    assert refusal(request, text).status == status


def test_http_1_0_has_no_chunks() -> None:
    assert (
        refusal(request, "Transfer-Encoding: chunked", "POST / HTTP/1.0").status == 400
    )


# Bodies


def test_a_body_is_loaded_by_its_schema() -> None:
    assert body_of('{"price": "99.90"}') == {"price_minor": 9990}
    assert body_of(b'{"price": 99.9}', "application/json; charset=utf-8") == {
        "price_minor": 9990
    }


@pytest.mark.parametrize(
    "content", [b"[]", b"1", b'"x"', b"null", b"{", b'{"price": 1, "price": 1}']
)
def test_a_body_that_is_no_object_is_malformed(content: bytes) -> None:
    assert refusal(body_of, content).status == 400


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"],
)
def test_a_body_that_is_not_json_is_not_read(content_type: str) -> None:
    assert refusal(body_of, b"{}", content_type).status == 415


def test_an_encoded_body_is_not_read() -> None:
    assert (
        refusal(body_of, b"{}", "application/json", "Content-Encoding: gzip").status
        == 415
    )


def test_a_body_without_a_length_is_not_read() -> None:
    asked = request("Content-Type: application/json")
    assert refusal(reading.read_body, asked, schemas.NewOrder(), never).status == 411


def never(asked: HttpRequest) -> bytes:
    """The body of a request that must not be read."""
    raise AssertionError


def test_a_get_with_a_body_is_malformed() -> None:
    assert (
        refusal(reading.read_body, request("Content-Length: 2"), None, never).status
        == 400
    )
    assert reading.read_body(request(), None, never) == {}
    chunked = request("Transfer-Encoding: chunked")
    assert refusal(reading.read_body, chunked, None, lambda _: b"{}").status == 400
    assert reading.read_body(chunked, None, lambda _: b"") == {}
    waiting = request("Transfer-Encoding: chunked\nExpect: 100-continue")
    assert refusal(reading.read_body, waiting, None, never).status == 400


@pytest.mark.parametrize(
    "name", ["user_id", "id", "status", "balance", "price_minor", "__type__", ""]
)
def test_a_field_that_is_not_the_clients_is_refused_by_name(name: str) -> None:
    problem = refusal(reading.load, schemas.NewOrder(), {"price": "1", name: "x"})
    assert (problem.status, list(problem.body["errors"])) == (422, [name])


@pytest.mark.parametrize("count", [20, 21, 10_000])
def test_too_many_fields_are_refused_before_each_is_looked_at(count: int) -> None:
    problem = refusal(
        reading.load, schemas.Login(), {f"field-{n}": 1 for n in range(count)}
    )
    assert problem.status == (422 if count <= 20 else 400)
    assert len(problem.body.get("errors", ())) <= 22


NEEDED = [
    (schemas.SignUp(), ["email", "password", "username"]),
    (schemas.Login(), ["password", "username"]),
    (schemas.NewMovement(), ["amount"]),
    (schemas.NewOrder(), ["price"]),
    (schemas.NewMessage(), ["body", "subject"]),
]
NO_TEXTS = [
    None,
    True,
    [],
    {},
    {"__type__": "decimal", "__value__": "NaN"},
    "",
    "\x00",
    "\ud800",
]


@pytest.mark.parametrize(("schema", "fields"), NEEDED)
def test_what_is_missing_is_named(schema: Schema, fields: list[str]) -> None:
    assert sorted(refusal(reading.load, schema, {}).body["errors"]) == fields


@pytest.mark.parametrize(("schema", "fields"), NEEDED)
@pytest.mark.parametrize("wrong", NO_TEXTS, ids=ascii)
def test_what_is_no_plain_text_is_refused_in_every_field(
    schema: Schema, fields: list[str], wrong: Any
) -> None:
    assert (
        sorted(
            refusal(reading.load, schema, dict.fromkeys(fields, wrong)).body["errors"]
        )
        == fields
    )


# Parameters


def page_of(query: str) -> dict[str, Any]:
    """What a list's parameters are read as."""
    return reading.read_query(query, schemas.Page())


def test_a_page_has_twenty_items_unless_asked_otherwise() -> None:
    assert page_of("") == {"limit": 20}
    assert page_of("limit=100") == {"limit": 100}
    assert page_of("limit=1&cursor=MTI=") == {"limit": 1, "after": "12"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (f"limit={value}", "limit")
        for value in (
            "0",
            "-1",
            "101",
            "1e9",
            "1000000000",
            "NaN",
            "",
            "1.0",
            "%20 7",
            "１",
            "²",
        )
    ]
    + [
        (f"cursor={value}", "cursor")
        for value in ("!", "a", "%FF", "MTI", "gICA", "%00", "MTI=MTI=", " MTI=")
    ]
    + [
        ("limit=1&limit=1", "limit"),
        ("cursor=MTI=&cursor=MTI=", "cursor"),
        ("offset=1", "offset"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(query: str, field: str) -> None:
    problem = refusal(page_of, query)
    assert (problem.status, list(problem.body["errors"])) == (422, [field])


@pytest.mark.parametrize("count", [20, 21, 4000])
@pytest.mark.parametrize("name", ["a", "a{}"])
def test_too_many_parameters_are_refused_before_each_is_looked_at(
    count: int, name: str
) -> None:
    problem = refusal(page_of, "&".join(name.format(n) for n in range(count)))
    assert problem.status == (422 if count <= 20 else 400)


@given(st.text(alphabet=string.hexdigits + "-", min_size=1))
def test_a_cursor_comes_back_as_it_went_out(after: str) -> None:
    page = schemas.page_of(schemas.ORDER, {"items": [], "next": after})
    assert page_of(f"cursor={page['next_cursor']}")["after"] == after


def test_the_last_page_has_no_next_cursor() -> None:
    assert schemas.page_of(schemas.ORDER, {"items": [], "next": None}) == {
        "items": [],
        "next_cursor": None,
    }


# Idempotency keys


def key_of(given: str | None) -> str:
    """The key that a request with this header has."""
    headers = {} if given is None else {"idempotency-key": given}
    return reading.idempotency_key(HttpRequest("POST", "/orders", headers=headers))


@given(VISIBLE.filter(lambda key: key[0] != '"'))
def test_a_key_is_the_same_bare_and_quoted(key: str) -> None:
    assert key_of(key) == key_of(f'"{key}"') == key


@pytest.mark.parametrize(
    "given",
    [
        "",
        '""',
        "a b",
        "a\tb",
        "ключ",
        "\xe9",
        "a" * 256,
        f'"{"a" * 256}"',
        "a\x00",
        "\x7f",
    ],
)
def test_a_key_that_is_not_1_to_255_visible_characters_is_refused(given: str) -> None:
    problem = refusal(key_of, given)
    assert (problem.status, list(problem.body["errors"])) == (422, ["Idempotency-Key"])


def test_a_request_without_a_key_gets_one_of_its_own() -> None:
    assert len({key_of(None) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "client"),
    [
        ("192.0.2.1", None, 0, "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", 0, "192.0.2.1"),  # nobody trusts it
        ("192.0.2.1", "198.51.100.7", 1, "198.51.100.7"),
        (
            "192.0.2.1",
            "203.0.113.9, 198.51.100.7",
            1,
            "198.51.100.7",
        ),  # the first is the client's word
        ("192.0.2.1", "203.0.113.9,198.51.100.7 , 10.0.0.1", 2, "198.51.100.7"),
        ("192.0.2.1", "10.0.0.1", 2, "192.0.2.1"),  # it came past a proxy
        ("192.0.2.1", None, 1, "192.0.2.1"),
        ("192.0.2.1", "", 1, "192.0.2.1"),
        *(
            ("192.0.2.1", wrong, 1, "192.0.2.1")
            for wrong in (
                "unknown",
                "_x",
                "198.51.100.7:80",
                "198.51.100",
                "0x7f.1",
                "1.2.3.4,",
                "[::1]",
            )
        ),
        ("2001:db8:1:fe:3:4:5:6", None, 0, "2001:db8:1::"),
        ("192.0.2.1", "2001:DB8:1:ff::7", 1, "2001:db8:1::"),
        ("::ffff:192.0.2.1", None, 0, "192.0.2.1"),
        ("fe80::1%eth0", None, 0, "fe80::"),
    ],
)
def test_a_client_is_the_address_that_the_last_trusted_proxy_saw(
    peer, forwarded, proxies, client
) -> None:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    assert reading.client_address(peer, headers, proxies) == client


@given(st.ip_addresses(v=4))
def test_a_client_of_ipv4_is_the_same_on_a_socket_of_both_families(address) -> None:
    assert reading.client_address(f"::ffff:{address}", {}, 0) == str(address)
    assert reading.client_address(
        "::1", {"x-forwarded-for": f"::FFFF:{address}"}, 1
    ) == str(address)


@given(st.ip_addresses(network="2000::/3"), st.integers(0, 2**72 - 1))
def test_a_client_of_ipv6_is_its_network_of_56_bits(address, other) -> None:
    neighbour = ip_address(int(address) >> 72 << 72 | other)
    stranger = ip_address(int(address) ^ 1 << 72)
    assert reading.normalize(str(neighbour)) == reading.normalize(str(address))
    assert reading.normalize(str(stranger)) != reading.normalize(str(address))


@given(st.text(max_size=50), st.integers(0, 10))
def test_no_forwarded_header_breaks_the_gateway(text: str, proxies: int) -> None:
    assert reading.client_address("192.0.2.1", {"x-forwarded-for": text}, proxies)
