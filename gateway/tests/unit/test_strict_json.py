"""JSON is parsed in one way or rejected."""

import json
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from gateway.problems import Problem
from gateway.strict_json import parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_json_is_parsed_to_its_value(value: object) -> None:
    assert parse(json.dumps(value).encode()) == value


@given(st.binary() | st.text().map(str.encode))
def test_no_bytes_break_the_parser(body: bytes) -> None:
    with suppress(Problem):
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
def test_ambiguous_or_malformed_json_is_rejected(body: bytes) -> None:
    with pytest.raises(Problem):
        parse(body)


def test_a_number_with_a_point_is_never_a_float() -> None:
    assert parse(b"0.1") == Decimal("0.1")
    assert isinstance(parse(b"1e2"), Decimal)


def test_an_integer_of_five_thousand_digits_is_parsed() -> None:
    assert parse(b"9" * 5000) == Decimal("9" * 5000)
    assert parse(b"-" + b"9" * 5000) == Decimal("-" + "9" * 5000)
