"""JSON is read in one way or not at all."""

import json
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.strict_json import NotStrictJson, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_json_arrives_as_it_was_sent(value: object) -> None:
    assert parse(json.dumps(value).encode()) == value


@given(st.binary() | st.text().map(str.encode))
def test_bytes_are_read_or_refused_and_nothing_else(body: bytes) -> None:
    with suppress(NotStrictJson):
        parse(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"a": 1',
        b'{"a": 1} x',
        b'{"a": 1}{}',
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 1, "a": 2}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"x": {"a": 1, "a": 1}}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 01}',
        b'{"a": .5}',
        b'{"a": 1e99999999999999999999}',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf{}",
        b'"\x00"',
        "{}".encode("utf-16"),
        b"[" * 60_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes) -> None:
    with pytest.raises(NotStrictJson):
        parse(body)


def test_a_number_with_a_point_is_never_a_float() -> None:
    assert parse(b"0.1") == Decimal("0.1")
    assert isinstance(parse(b"1e2"), Decimal)


def test_an_integer_of_five_thousand_digits_is_read_in_no_time() -> None:
    assert parse(b"9" * 5000) == Decimal("9" * 5000)
    assert parse(b"-" + b"9" * 5000) == Decimal("-" + "9" * 5000)
