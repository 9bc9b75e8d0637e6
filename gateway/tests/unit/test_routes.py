"""The content of a request is validated before its handler runs."""

import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st
from marshmallow import Schema

from gateway import schemas
from gateway.problems import Problem
from gateway.routes import idempotency_key, load, load_body, load_query

VISIBLE = st.text(
    alphabet=[chr(c) for c in range(0x21, 0x7F)], min_size=1, max_size=255
)


def rejection(function: Callable[..., Any], *arguments: Any) -> Problem:
    """Return the problem that `function` raises."""
    with pytest.raises(Problem) as caught:
        function(*arguments)
    return caught.value


# Bodies


def test_a_body_is_loaded_by_its_schema() -> None:
    order = schemas.NewOrder()
    assert load_body(order, b'{"price": "99.90"}') == {"price_minor": 9990}
    assert load_body(order, b'{"price": 99.9}') == {"price_minor": 9990}


@pytest.mark.parametrize(
    "content", [b"[]", b"1", b'"x"', b"null", b"{", b'{"price": 1, "price": 1}']
)
def test_a_body_that_is_not_an_object_is_malformed(content: bytes) -> None:
    assert rejection(load_body, schemas.NewOrder(), content).status == 400


def test_a_route_without_a_body_accepts_an_empty_one() -> None:
    assert load_body(None, b"") == {}
    assert rejection(load_body, None, b"{}").status == 400


@pytest.mark.parametrize(
    "name", ["user_id", "id", "status", "balance", "price_minor", "__type__", ""]
)
def test_an_unknown_field_is_rejected_by_name(name: str) -> None:
    problem = rejection(load, schemas.NewOrder(), {"price": "1", name: "x"})
    assert (problem.status, list(problem.body["errors"])) == (422, [name])


@pytest.mark.parametrize("count", [20, 21, 10_000])
def test_too_many_fields_are_rejected_together(count: int) -> None:
    problem = rejection(load, schemas.Login(), {f"field-{n}": 1 for n in range(count)})
    assert problem.status == (422 if count <= 20 else 400)
    assert len(problem.body.get("errors", ())) <= 22


NEEDED = [
    (schemas.SignUp(), ["email", "password", "username"]),
    (schemas.Login(), ["password", "username"]),
    (schemas.NewMovement(), ["amount"]),
    (schemas.NewOrder(), ["price"]),
    (schemas.NewMessage(), ["body", "subject"]),
]
NOT_TEXTS = [
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
def test_missing_fields_are_named(schema: Schema, fields: list[str]) -> None:
    assert sorted(rejection(load, schema, {}).body["errors"]) == fields


@pytest.mark.parametrize(("schema", "fields"), NEEDED)
@pytest.mark.parametrize("wrong", NOT_TEXTS, ids=ascii)
def test_every_field_rejects_a_value_that_is_not_plain_text(
    schema: Schema, fields: list[str], wrong: Any
) -> None:
    assert (
        sorted(rejection(load, schema, dict.fromkeys(fields, wrong)).body["errors"])
        == fields
    )


# Parameters


def page_of(query: str) -> dict[str, Any]:
    """Load the parameters of a list."""
    return load_query(schemas.Page(), query)


def test_a_page_has_twenty_items_by_default() -> None:
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
def test_a_wrong_parameter_is_rejected_by_name(query: str, field: str) -> None:
    problem = rejection(page_of, query)
    assert (problem.status, list(problem.body["errors"])) == (422, [field])


@pytest.mark.parametrize("count", [20, 21, 4000])
@pytest.mark.parametrize("name", ["a", "a{}"])
def test_too_many_parameters_are_rejected_together(count: int, name: str) -> None:
    problem = rejection(page_of, "&".join(name.format(n) for n in range(count)))
    assert problem.status == (422 if count <= 20 else 400)


@given(st.text(alphabet=string.hexdigits + "-", min_size=1))
def test_a_cursor_survives_the_round_trip(after: str) -> None:
    page = schemas.page_of(schemas.ORDER, {"items": [], "next": after})
    assert page_of(f"cursor={page['next_cursor']}")["after"] == after


def test_the_last_page_has_no_next_cursor() -> None:
    assert schemas.page_of(schemas.ORDER, {"items": [], "next": None}) == {
        "items": [],
        "next_cursor": None,
    }


# Idempotency keys


@given(VISIBLE.filter(lambda key: key[0] != '"'))
def test_a_key_is_the_same_bare_and_quoted(key: str) -> None:
    assert idempotency_key(key) == idempotency_key(f'"{key}"') == key


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
def test_a_key_has_1_to_255_visible_characters(given: str) -> None:
    problem = rejection(idempotency_key, given)
    assert (problem.status, list(problem.body["errors"])) == (422, ["Idempotency-Key"])


def test_a_request_without_a_key_gets_a_new_one() -> None:
    assert len({idempotency_key(None) for _ in range(100)}) == 100
