"""Parses JSON strictly: rejects texts that two parsers could read differently."""

import json
from decimal import Decimal
from typing import Any

from gateway import problems


def parse(body: bytes) -> Any:
    """Return the value of a JSON text. Numbers with a point or an exponent become Decimals.

    Raises Problem for malformed JSON, another encoding than UTF-8, duplicate keys, NaN, Infinity,
    trailing data and deep nesting.
    """
    try:
        return _DECODER.decode(body.decode("utf-8"))
    except RecursionError:
        raise problems.malformed("The body is nested too deeply.") from None
    except (ValueError, ArithmeticError):
        raise problems.malformed("The body is not valid JSON in UTF-8.") from None


def _reject_constant(name: str) -> Any:
    raise problems.malformed(f"The body contains {name}, which JSON does not have.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise problems.malformed("The body contains an object with a duplicate key.")
    return result


_DECODER = json.JSONDecoder(
    parse_float=Decimal,
    # Long integers become Decimals: Python refuses to convert 4,300 digits or more.
    parse_int=lambda digits: int(digits) if len(digits) <= 30 else Decimal(digits),
    parse_constant=_reject_constant,
    object_pairs_hook=_object,
)
