"""Money at the edge of the suite.

Outside, an amount is a decimal in the currency of the deployment. Inside, it is an integer of
minor units.
"""

import re
from decimal import Context, Decimal, Inexact
from typing import Any

from marshmallow import ValidationError, fields

from chassis.settings import ISO_4217_DIGITS

MAX_AMOUNT_MINOR = 10_000_000_00
EXACT = Context(traps=[Inexact])
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,4})?", re.ASCII)
# Of all amounts of this process. The dispatcher sets it at the start.
currency = "EUR"
# The currencies that billing has reported for its books.
confirmed: set[str] = set()


class Money(fields.Field[int]):
    """An amount: "99.90", or the JSON number 99.9 as a Decimal, never a float.

    It loads as minor units: 9990.
    """

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> int:
        malformed = f'Not an amount: write it like "{format_minor(9990)}".'
        if (amount := _decimal(value)) is None:
            raise ValidationError(malformed)
        # A comparison is exact for any number. Arithmetic would overflow or round.
        if amount <= 0:
            raise ValidationError("Must be more than 0.")
        if amount > _exact(MAX_AMOUNT_MINOR):
            raise ValidationError(f"Must be at most {format_minor(MAX_AMOUNT_MINOR)}.")
        try:
            return int(amount.quantize(_exact(1), context=EXACT).scaleb(digits()))
        except Inexact:
            raise ValidationError(malformed) from None


def digits() -> int:
    """Return the number of digits after the point of an amount."""
    return ISO_4217_DIGITS[currency]


def _decimal(value: object) -> Decimal | None:
    """Return the exact value of an amount, or None if it is malformed."""
    if (
        isinstance(value, str)
        and _DECIMAL.fullmatch(value)
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
    """Format minor units: 9990 is "99.90", -50 is "-0.50". In JPY they are "9990" and "-50"."""
    return f"{_exact(minor):.{digits()}f}"
