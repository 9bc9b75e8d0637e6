"""Money at the edge: exactly the right minor units, or refused."""

import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from marshmallow import Schema, ValidationError

from gateway import strict_json
from gateway.money import MAX_AMOUNT_MINOR, Money, format_minor


class Body(Schema):
    """A body with one amount."""

    amount = Money(required=True)


def load(value: object) -> int | None:
    """Minor units; None where the amount is refused."""
    try:
        return Body().load({"amount": value})["amount"]
    except ValidationError:
        return None


def is_right(minor: int | None, value: Fraction) -> bool:
    """Whether `minor` is exactly what `value` is worth, or `value` had to be refused."""
    worth = value * 100
    payable = worth.denominator == 1 and 0 < worth <= MAX_AMOUNT_MINOR
    return minor == (worth if payable else None)


@given(st.integers(1, MAX_AMOUNT_MINOR))
def test_every_amount_survives_the_way_out_and_in(minor: int) -> None:
    assert load(format_minor(minor)) == minor
    assert load(Decimal(format_minor(minor))) == minor


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15))
@example(Decimal("0.1"))
@example(Decimal("0.010000000000000000000000000000000000001"))
@example(Decimal("1.00" + "0" * 5000))
@example(Decimal("1.0E+7"))
@example(Decimal("10000000.01"))
def test_a_number_loads_to_exactly_its_worth_or_is_refused(value: Decimal) -> None:
    assert is_right(load(value), Fraction(value))


@given(st.decimals(places=2, allow_nan=False, allow_infinity=False, min_value=0, max_value=10**8))
def test_a_number_with_two_decimals_is_worth_what_it_says(value: Decimal) -> None:
    assert is_right(load(value), Fraction(value))


@given(st.one_of(st.integers(), st.integers(10**29, 10**31)))
@example(10**5000)
@example(2**63)
def test_an_integer_loads_to_exactly_its_worth_or_is_refused(value: int) -> None:
    assert is_right(load(value), Fraction(value))


@given(st.text(alphabet="0123456789.-+eE_, x１", max_size=18))
def test_a_text_loads_to_exactly_its_worth_or_is_refused(text: str) -> None:
    minor = load(text)
    if minor is not None:
        assert is_right(minor, Fraction(text))
        assert text.isascii()
        assert set(text) <= set("0123456789.")


@pytest.mark.parametrize(
    "value",
    ["1e9999999", "-1e9999999", "1e-9999999", "NaN", "-NaN", "sNaN", "Infinity", "-Infinity", "-0.0", "0E+9"],
)
def test_a_number_beyond_all_arithmetic_is_refused(value: str) -> None:
    assert load(Decimal(value)) is None


NO_AMOUNTS = [
    *(None, True, False, [], {}, [1], {"amount": 1}, 1.5),
    *("", "0", "0.00", "-1", "+1", "01", "1.", ".5", "1.234", "1.5.5", "$1", "1 000", "\x001"),
    *("１００", "١", "1_000", " 7", "7 ", "7\n", "0x10", "1,5", "1e2", "NaN", "Infinity"),
    *("10000000.01", "9" * 5000, "0." + "0" * 5000),
]


@pytest.mark.parametrize("value", NO_AMOUNTS, ids=lambda value: ascii(value)[:20])
def test_what_is_no_amount_is_refused(value: object) -> None:
    assert load(value) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1.234", 'Not an amount: write it like "99.90".'),
        ("0", "Must be more than 0."),
        (Decimal("-0.5"), "Must be more than 0."),
        ("10000000.01", "Must be at most 10000000.00."),
        (Decimal("1e400"), "Must be at most 10000000.00."),
    ],
)
def test_a_refusal_says_what_is_wrong(value: object, message: str) -> None:
    assert Body().validate({"amount": value}) == {"amount": [message]}


def test_a_tenth_three_times_is_thirty_cents() -> None:
    tenth = strict_json.parse(b'{"amount": 0.1}')["amount"]
    assert 3 * (load(tenth) or 0) == 30


@given(st.integers(-(10**15), 10**15))
@example(-50)
@example(-1)
@example(-100)
def test_money_is_written_with_two_digits(minor: int) -> None:
    text = format_minor(minor)
    assert re.fullmatch(r"-?(0|[1-9][0-9]*)\.[0-9]{2}", text)
    assert Fraction(text) * 100 == minor
