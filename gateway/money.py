"""Money at the edge: a decimal with two digits outside, an integer of minor units inside."""

import re
from decimal import Context, Decimal, Inexact
from typing import Any

from marshmallow import ValidationError, fields

MAX_AMOUNT_MINOR = 10_000_000_00
MAX_AMOUNT = Decimal(MAX_AMOUNT_MINOR).scaleb(-2)
EXACT = Context(traps=[Inexact])
NO_AMOUNT = 'Not an amount: write it like "99.90".'
_WRITTEN = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,2})?", re.ASCII)


class Money(fields.Field[int]):
    """An amount: "99.90", or the JSON number 99.9 (a Decimal, never a float); loads as minor units (9990)."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        amount = _decimal(value)
        if amount is None:
            raise ValidationError(NO_AMOUNT)
        if amount <= 0:  # comparing is exact for any number; arithmetic would overflow or round
            raise ValidationError("Must be more than 0.")
        if amount > MAX_AMOUNT:
            raise ValidationError(f"Must be at most {format_minor(MAX_AMOUNT_MINOR)}.")
        try:
            return int(amount.quantize(Decimal("0.01"), context=EXACT).scaleb(2))
        except Inexact:
            raise ValidationError(NO_AMOUNT) from None


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, str):
        value = Decimal(value) if _WRITTEN.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    amount = Decimal(value)
    return amount if amount.is_finite() else None


def format_minor(minor: int) -> str:
    """9990 -> "99.90", -50 -> "-0.50"."""
    units, cents = divmod(abs(minor), 100)
    return f"{'-' if minor < 0 else ''}{units}.{cents:02d}"
