"""Outcomes: the results of RPC methods, one for each item of a batch.

An outcome is a dictionary with a status. A rejected request is an outcome, never an exception.
Invalid arguments have the outcome `{"status": "invalid", "errors": {field: [message, ...]}}`.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from marshmallow import Schema, ValidationError
from nameko.exceptions import MalformedRequest

from chassis.logs import bind

Outcome = dict[str, Any]
# A name for list[Outcome]: in a service that has a method `list`, that word means the method.
Outcomes = list[Outcome]
# Items in one request. The size of the reply grows with it.
MAX_ITEMS = 1000


def page(items: list[Any], limit: int, key: str) -> dict[str, Any]:
    """Return a page of `items` and the `after` of the next page, which is None on the last one.

    The caller reads `limit + 1` items, so that a full page shows whether another one follows.
    """
    return {
        "items": items[:limit],
        "next": str(items[limit - 1][key]) if len(items) > limit else None,
    }


def invalid(exc: ValidationError) -> Outcome:
    """Return the outcome of invalid input: a list of messages for each invalid field."""
    return {"status": "invalid", "errors": exc.messages}


def validated(schema: Schema) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Validate a method's arguments with `schema` before the call. Its place is below `@rpc`.

    The method receives the loaded arguments. Invalid ones get the outcome `invalid` instead.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def validate(self: Any, **arguments: Any) -> Any:
            try:
                loaded = schema.load(arguments)
            except ValidationError as exc:
                return invalid(exc)
            return method(self, **loaded)

        return validate

    return decorate


def check_list(items: object, name: str) -> None:
    """Raise MalformedRequest unless `items` is a list of at most MAX_ITEMS."""
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise MalformedRequest(f"{name} must be a list of at most {MAX_ITEMS}")


def validate_items(
    schema: Schema, items: list[Any]
) -> tuple[list[Any], list[Outcome | None]]:
    """Return the valid items as loaded, and for each item its outcome, or None if it is valid.

    Each item is validated alone, so an invalid one does not affect the others. The log line of the
    call lists the request ids of the valid items.
    """
    check_list(items, "items")
    valid: list[Any] = []
    outcomes: list[Outcome | None] = []
    for item in items:
        try:
            valid.append(schema.load(item))
            outcomes.append(None)
        except ValidationError as exc:
            outcomes.append(invalid(exc))
    if len(valid) > 1:
        bind(request_ids=[item.get("request_id") for item in valid])
    return valid, outcomes


def merge_outcomes(
    outcomes: Sequence[Outcome | None], outcomes_of_valid: Sequence[Outcome]
) -> list[Outcome]:
    """Return `outcomes` with each None replaced by the next outcome of a valid item.

    Raises ValueError if there is not one outcome for each None.
    """
    valid = [position for position, outcome in enumerate(outcomes) if outcome is None]
    found = dict(zip(valid, outcomes_of_valid, strict=True))
    return [
        found[position] if outcome is None else outcome
        for position, outcome in enumerate(outcomes)
    ]
