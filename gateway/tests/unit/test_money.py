"""An amount loads as exactly the right minor units, or is rejected."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, strategies as st
from marshmallow import Schema, ValidationError

from chassis.settings import ISO_4217_DIGITS
from gateway import money, strict_json
from gateway.money import MAX_AMOUNT_MINOR, Money, format_minor


class Body(Schema):
    """A body with one amount."""

    amount = Money(required=True)


@contextmanager
def using(currency: str) -> Iterator[int]:
    """Set the currency of all amounts; yield its digits."""
    before, money.currency = money.currency, currency
    try:
        yield money.digits()
    finally:
        money.currency = before


currencies = st.sampled_from(sorted(ISO_4217_DIGITS))


def load(value: object) -> int | None:
    """Load an amount: minor units, or None if it is rejected."""
    try:
        return Body().load({"amount": value})["amount"]
    except ValidationError:
        return None


def is_right(minor: int | None, value: Fraction) -> bool:
    """Return whether `minor` is exactly the worth of `value`, or its necessary rejection."""
    worth = value * 100
    payable = worth.denominator == 1 and 0 < worth <= MAX_AMOUNT_MINOR
    return minor == (worth if payable else None)


@given(st.integers(1, MAX_AMOUNT_MINOR))
def test_every_amount_survives_the_round_trip(minor: int) -> None:
    assert load(format_minor(minor)) == minor
    assert load(Decimal(format_minor(minor))) == minor


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15
    )
)
@example(Decimal("0.1"))
@example(Decimal("0.010000000000000000000000000000000000001"))
@example(Decimal("1.00" + "0" * 5000))
@example(Decimal("1.0E+7"))
@example(Decimal("10000000.01"))
def test_a_number_loads_exactly_or_is_rejected(value: Decimal) -> None:
    assert is_right(load(value), Fraction(value))


@given(
    st.decimals(
        places=2, allow_nan=False, allow_infinity=False, min_value=0, max_value=10**8
    )
)
def test_a_number_with_two_decimals_loads_exactly(value: Decimal) -> None:
    assert is_right(load(value), Fraction(value))


@given(st.one_of(st.integers(), st.integers(10**29, 10**31)))
@example(10**5000)
@example(2**63)
def test_an_integer_loads_exactly_or_is_rejected(value: int) -> None:
    assert is_right(load(value), Fraction(value))


@given(st.text(alphabet="0123456789.-+eE_, x１", max_size=18))
def test_a_text_loads_exactly_or_is_rejected(text: str) -> None:
    minor = load(text)
    if minor is not None:
        assert is_right(minor, Fraction(text))
        assert text.isascii()
        assert set(text) <= set("0123456789.")


@pytest.mark.parametrize(
    "value",
    [
        "1e9999999",
        "-1e9999999",
        "1e-9999999",
        "NaN",
        "-NaN",
        "sNaN",
        "Infinity",
        "-Infinity",
        "-0.0",
        "0E+9",
    ],
)
def test_a_number_out_of_range_is_rejected(value: str) -> None:
    assert load(Decimal(value)) is None


MALFORMED = [
    *(None, True, False, [], {}, [1], {"amount": 1}, 1.5),
    *(
        "",
        "0",
        "0.00",
        "-1",
        "+1",
        "01",
        "1.",
        ".5",
        "1.234",
        "1.5.5",
        "$1",
        "1 000",
        "\x001",
    ),
    *(
        "１００",
        "١",
        "1_000",
        " 7",
        "7 ",
        "7\n",
        "0x10",
        "1,5",
        "1e2",
        "NaN",
        "Infinity",
    ),
    *("10000000.01", "9" * 5000, "0." + "0" * 5000),
]


@pytest.mark.parametrize("value", MALFORMED, ids=lambda value: ascii(value)[:20])
def test_a_malformed_amount_is_rejected(value: object) -> None:
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
def test_a_rejection_has_a_reason(value: object, message: str) -> None:
    assert Body().validate({"amount": value}) == {"amount": [message]}


def test_a_tenth_three_times_is_thirty_cents() -> None:
    tenth = strict_json.parse(b'{"amount": 0.1}')["amount"]
    assert 3 * (load(tenth) or 0) == 30


@given(st.integers(-(10**15), 10**15))
@example(-50)
@example(-1)
@example(-100)
def test_an_amount_is_formatted_with_two_digits(minor: int) -> None:
    text = format_minor(minor)
    assert re.fullmatch(r"-?(0|[1-9][0-9]*)\.[0-9]{2}", text)
    assert Fraction(text) * 100 == minor


# Other currencies


@pytest.mark.parametrize(
    ("currency", "written"),
    [
        *(
            ("EUR", "99.90"),
            ("JPY", "9990"),
            ("KWD", "9.990"),
            ("CLF", "0.9990"),
            ("UYW", "0.9990"),
        ),
        *(
            ("MRU", "99.90"),
            ("MGA", "99.90"),
            ("HUF", "99.90"),
            ("ISK", "9990"),
            ("IQD", "9.990"),
        ),
    ],
)
def test_an_amount_has_the_digits_of_its_currency(currency: str, written: str) -> None:
    with using(currency):
        assert format_minor(9990) == written
        assert load(written) == 9990
        assert load(Decimal(written)) == 9990


@given(currencies, st.integers(1, MAX_AMOUNT_MINOR))
def test_every_currency_survives_the_round_trip(currency: str, minor: int) -> None:
    with using(currency) as digits:
        text = format_minor(minor)
        assert len(text.partition(".")[2]) == digits
        assert Fraction(text) * 10**digits == minor
        assert load(text) == minor
        assert load(Decimal(text)) == minor


@given(
    currencies,
    st.integers(1, MAX_AMOUNT_MINOR // 10),
    st.integers(1, 9),
    st.integers(0, 3),
)
def test_an_amount_with_more_digits_is_rejected(
    currency: str, minor: int, digit: int, zeros: int
) -> None:
    with using(currency) as digits:
        whole, _, fraction = format_minor(minor).partition(".")
        for more in ("0" * zeros + str(digit), "0"):
            assert load(f"{whole}.{fraction}{more}") is None
        assert load(Decimal(f"{whole}.{fraction}{digit}")) is None
    assert len(fraction) == digits


@pytest.mark.parametrize(
    ("currency", "value", "message"),
    [
        ("JPY", "100.5", 'Not an amount: write it like "9990".'),
        ("JPY", "1000000001", "Must be at most 1000000000."),
        ("KWD", "1.0005", 'Not an amount: write it like "9.990".'),
        ("KWD", "1000000.001", "Must be at most 1000000.000."),
        ("CLF", Decimal("100000.0001"), "Must be at most 100000.0000."),
    ],
)
def test_a_rejection_has_the_format_of_the_currency(
    currency: str, value: object, message: str
) -> None:
    with using(currency):
        assert Body().validate({"amount": value}) == {"amount": [message]}
