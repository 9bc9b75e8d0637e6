"""Money at the edge: a decimal in the deployed currency outside, an integer of minor units inside."""

import re
from decimal import Context, Decimal, Inexact
from typing import Any

from marshmallow import ValidationError, fields

from chassis.settings import ISO_4217_DIGITS

MAX_AMOUNT_MINOR = 10_000_000_00
EXACT = Context(traps=[Inexact])
_WRITTEN = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,4})?", re.ASCII)
currency = "EUR"  # of all amounts of this process; gateway/web.py sets it at the start
confirmed: set[str] = (
    set()
)  # currencies that the books of billing have, as far as this process knows


class Money(fields.Field[int]):
    """An amount: "99.90", or the JSON number 99.9 (a Decimal, never a float); loads as minor units (9990)."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> int:
        no_amount = f'Not an amount: write it like "{format_minor(9990)}".'
        amount = _decimal(value)
        if amount is None:
            raise ValidationError(no_amount)
        if (
            amount <= 0
        ):  # comparing is exact for any number; arithmetic would overflow or round
            raise ValidationError("Must be more than 0.")
        if amount > _exact(MAX_AMOUNT_MINOR):
            raise ValidationError(f"Must be at most {format_minor(MAX_AMOUNT_MINOR)}.")
        try:
            return int(amount.quantize(_exact(1), context=EXACT).scaleb(digits()))
        except Inexact:
            raise ValidationError(no_amount) from None


def digits() -> int:
    """How many digits of an amount stand after the point."""
    return ISO_4217_DIGITS[currency]


def _decimal(value: object) -> Decimal | None:
    if (
        isinstance(value, str)
        and _WRITTEN.fullmatch(value)
        and len(value.partition(".")[2]) <= digits()
    ):
        value = Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    amount = Decimal(value)
    return amount if amount.is_finite() else None


def _exact(minor: int) -> Decimal:
    return Decimal(minor).scaleb(-digits())


def format_minor(minor: int) -> str:
    """9990 -> "99.90", -50 -> "-0.50"; in JPY "9990" and "-50"."""
    return f"{_exact(minor):.{digits()}f}"
