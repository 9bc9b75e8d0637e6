"""JSON read strictly: what two parsers could read in two ways is refused."""

import json
from decimal import Decimal
from typing import Any

LONGEST_INT = 30  # digits; longer ones become Decimals, for Python refuses integers of 4,300 digits


class NotStrictJson(Exception):
    """The text is not JSON, or not unambiguous; the message says why, for the client."""


def parse(body: bytes) -> Any:
    """The value in `body`; numbers with a point or an exponent become Decimals, never floats. Raises
    NotStrictJson: for all but UTF-8, duplicate keys, NaN and Infinity, trailing data, nesting too deep."""
    try:
        return _DECODER.decode(body.decode("utf-8"))
    except RecursionError:
        raise NotStrictJson("It is nested too deeply.") from None
    except (ValueError, ArithmeticError):
        raise NotStrictJson("It is not valid JSON in UTF-8.") from None


def _parse_int(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= LONGEST_INT else Decimal(digits)


def _refuse_constant(name: str) -> Any:
    raise NotStrictJson(f"{name} is not a JSON number.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotStrictJson("An object holds the same key twice.")
    return result


_DECODER = json.JSONDecoder(
    parse_float=Decimal,
    parse_int=_parse_int,
    parse_constant=_refuse_constant,
    object_pairs_hook=_object,
)
