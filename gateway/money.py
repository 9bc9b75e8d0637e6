"""Money at the edge: a decimal with two digits outside, an integer of minor units inside."""

import re
from decimal import Context, Decimal, Inexact
from typing import Any

from marshmallow import ValidationError, fields

MAX_AMOUNT_MINOR = 10_000_000_00
MAX_AMOUNT = Decimal(MAX_AMOUNT_MINOR).scaleb(-2)
CENT = Decimal("0.01")
EXACT = Context(traps=[Inexact])
_WRITTEN = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,2})?", re.ASCII)


class Money(fields.Field[int]):
    """An amount: "99.90", or the JSON number 99.9; loads as minor units (9990).

    Above 0, at most 10,000,000.00, at most two decimals. Never a float: the body is parsed with
    Decimal, and NaN and infinity end here.
    """

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str:
        return format_minor(value)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        minor = _minor(value)
        if minor is None:
            raise ValidationError('Not an amount: write it like "99.90".')
        if minor <= 0:
            raise ValidationError("Must be more than 0.")
        if minor > MAX_AMOUNT_MINOR:
            raise ValidationError(f"Must be at most {format_minor(MAX_AMOUNT_MINOR)}.")
        return minor


def _minor(value: object) -> int | None:
    """Minor units; None for what is no amount, 0 for what is not above 0."""
    if isinstance(value, str):
        value = Decimal(value) if _WRITTEN.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    amount = Decimal(value)
    if not amount.is_finite():
        return None
    if amount <= 0:  # comparing is exact for any number; arithmetic would overflow or round
        return 0
    if amount > MAX_AMOUNT:
        return MAX_AMOUNT_MINOR + 1
    try:
        return int(amount.quantize(CENT, context=EXACT).scaleb(2))
    except Inexact:
        return None


def format_minor(minor: int) -> str:
    """9990 -> "99.90"."""
    return f"{minor // 100}.{minor % 100:02d}"
