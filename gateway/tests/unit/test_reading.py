"""A request is read in one way or refused."""

import string
from email.message import Message
from email.parser import Parser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request as HttpRequest

from gateway import reading, schemas
from gateway.problems import Problem

VISIBLE = st.text(alphabet=[chr(c) for c in range(0x21, 0x7F)], min_size=1, max_size=255)


def request(method: str = "POST", **options: Any) -> HttpRequest:
    """A request as werkzeug sees it."""
    return HttpRequest(EnvironBuilder(method=method, **options).get_environ())


def headers(text: str) -> Message:
    """Header lines as Python's HTTP server parses them."""
    return Parser().parsestr(text.replace("\n", "\r\n") + "\r\n\r\n")


def refusal(function: Any, *arguments: Any) -> Problem:
    """The problem that `function` raises."""
    with pytest.raises(Problem) as caught:
        function(*arguments)
    return caught.value


def body_of(content: bytes | str, content_type: str = "application/json", **options: Any) -> Any:
    """The body as `read_body` gives it for an order."""
    asked = request(data=content, content_type=content_type, **options)
    return reading.read_body(asked, schemas.NewOrder())


# Framing


@pytest.mark.parametrize("text", ["Host: shop", "Host: shop\nContent-Length: 0", "Content-Length: 65536"])
def test_plain_framing_is_taken(text: str) -> None:
    assert reading.wrong_framing(headers(text)) is None


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
        ("Transfer-Encoding: chunked", 411),
        ("Transfer-Encoding: identity", 411),
        ("Content-Length: 65537", 413),
        ("Content-Length: 20000000", 413),
        (f"Content-Length: {'9' * 5000}", 413),
    ],
)
def test_framing_that_could_be_read_in_two_ways_is_refused(text: str, status: int) -> None:
    problem = reading.wrong_framing(headers(text))
    assert problem
    assert problem.status == status


# Bodies


def test_a_body_is_loaded_by_its_schema() -> None:
    assert body_of('{"price": "99.90"}') == {"price_minor": 9990}
    assert body_of(b'{"price": 99.9}', "application/json; charset=utf-8") == {"price_minor": 9990}


@pytest.mark.parametrize("content", [b"[]", b"1", b'"x"', b"null", b"{", b'{"price": 1, "price": 1}'])
def test_a_body_that_is_no_object_is_malformed(content: bytes) -> None:
    assert refusal(body_of, content).status == 400


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
def test_a_body_that_is_not_json_is_not_read(content_type: str) -> None:
    assert refusal(body_of, b"{}", content_type).status == 415


def test_an_encoded_body_is_not_read() -> None:
    assert refusal(lambda: body_of(b"{}", headers={"Content-Encoding": "gzip"})).status == 415


def test_a_body_without_a_length_is_not_read() -> None:
    asked = request(content_type="application/json")
    assert refusal(reading.read_body, asked, schemas.NewOrder()).status == 411


def test_a_body_shorter_than_its_length_is_malformed() -> None:
    asked = request(data=b'{"price": 1}', content_type="application/json")
    asked.environ["CONTENT_LENGTH"] = "100"
    assert refusal(reading.read_body, asked, schemas.NewOrder()).status == 400


def test_a_client_that_hangs_up_in_its_body_is_no_fault_of_ours() -> None:
    class Broken:
        def read(self, length: int) -> bytes:
            raise ConnectionResetError

    asked = request(data=b"{}", content_type="application/json")
    asked.environ["wsgi.input"] = Broken()
    assert refusal(reading.read_body, asked, schemas.NewOrder()).status == 400


def test_a_get_with_a_body_is_malformed() -> None:
    assert refusal(reading.read_body, request("GET", data=b"{}"), None).status == 400
    assert reading.read_body(request("GET"), None) == {}


@pytest.mark.parametrize("name", ["user_id", "id", "status", "balance", "price_minor", "__type__", ""])
def test_a_field_that_is_not_the_clients_is_refused_by_name(name: str) -> None:
    problem = refusal(reading.load, schemas.NewOrder(), {"price": "1", name: "x"})
    assert (problem.status, list(problem.body["errors"])) == (422, [name])


NEEDED = [
    (schemas.SignUp(), ["email", "password", "username"]),
    (schemas.Login(), ["password", "username"]),
    (schemas.NewMovement(), ["amount"]),
    (schemas.NewOrder(), ["price"]),
    (schemas.NewMessage(), ["body", "subject"]),
]
NO_TEXTS = [None, True, [], {}, {"__type__": "decimal", "__value__": "NaN"}, "", "\x00", "\ud800"]


@pytest.mark.parametrize(("schema", "fields"), NEEDED)
def test_what_is_missing_is_named(schema: Schema, fields: list[str]) -> None:
    assert sorted(refusal(reading.load, schema, {}).body["errors"]) == fields


@pytest.mark.parametrize(("schema", "fields"), NEEDED)
@pytest.mark.parametrize("wrong", NO_TEXTS, ids=ascii)
def test_what_is_no_plain_text_is_refused_in_every_field(
    schema: Schema, fields: list[str], wrong: Any
) -> None:
    assert sorted(refusal(reading.load, schema, dict.fromkeys(fields, wrong)).body["errors"]) == fields


# Parameters


def page_of(query: str) -> dict[str, Any]:
    """What a list's parameters are read as."""
    return reading.read_query(request("GET", query_string=query), schemas.Page())


def test_a_page_has_twenty_items_unless_asked_otherwise() -> None:
    assert page_of("") == {"limit": 20}
    assert page_of("limit=100") == {"limit": 100}
    assert page_of("limit=1&cursor=MTI=") == {"limit": 1, "after": "12"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (f"limit={value}", "limit")
        for value in ("0", "-1", "101", "1e9", "1000000000", "NaN", "", "1.0", "%20 7", "１", "²")
    ]
    + [
        (f"cursor={value}", "cursor")
        for value in ("!", "a", "%FF", "MTI", "gICA", "%00", "MTI=MTI=", " MTI=")
    ]
    + [("limit=1&limit=1", "limit"), ("cursor=MTI=&cursor=MTI=", "cursor"), ("offset=1", "offset")],
)
def test_a_wrong_parameter_is_refused_by_name(query: str, field: str) -> None:
    problem = refusal(page_of, query)
    assert (problem.status, list(problem.body["errors"])) == (422, [field])


@given(st.text(alphabet=string.hexdigits + "-", min_size=1))
def test_a_cursor_comes_back_as_it_went_out(after: str) -> None:
    page = schemas.page_of(schemas.Order(), {"items": [], "next": after})
    assert page_of(f"cursor={page['next_cursor']}")["after"] == after


def test_the_last_page_has_no_next_cursor() -> None:
    assert schemas.page_of(schemas.Order(), {"items": [], "next": None}) == {"items": [], "next_cursor": None}


# Idempotency keys


def key_of(given: str | None) -> str:
    """The key that a request with this header has."""
    environ = EnvironBuilder(method="POST").get_environ()
    if given is not None:
        environ["HTTP_IDEMPOTENCY_KEY"] = given
    return reading.idempotency_key(HttpRequest(environ))


@given(VISIBLE.filter(lambda key: key[0] != '"'))
def test_a_key_is_the_same_bare_and_quoted(key: str) -> None:
    assert key_of(key) == key_of(f'"{key}"') == key


@pytest.mark.parametrize(
    "given", ["", '""', "a b", "a\tb", "ключ", "\xe9", "a" * 256, f'"{"a" * 256}"', "a\x00", "\x7f"]
)
def test_a_key_that_is_not_1_to_255_visible_characters_is_refused(given: str) -> None:
    problem = refusal(key_of, given)
    assert (problem.status, list(problem.body["errors"])) == (422, ["Idempotency-Key"])


def test_a_request_without_a_key_gets_one_of_its_own() -> None:
    assert len({key_of(None) for _ in range(100)}) == 100
