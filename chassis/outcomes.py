"""Outcomes: the results of RPC methods, one for each item of a batch.

An outcome is a dictionary with a status. A refused request is an outcome, never an exception.
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
Items = list[dict[str, Any]]
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


def invalid_outcome(exc: ValidationError) -> Outcome:
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
                return invalid_outcome(exc)
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
    """Return the valid items as loaded, and the outcomes of the invalid ones.

    The second list has an outcome for each invalid item, and None for each valid one.

    Each item is validated alone, so an invalid one does not affect the others. The log line of the
    call lists the request ids of the valid items.
    """
    check_list(items, "items")
    valid: list[Any] = []
    invalid: list[Outcome | None] = []
    for item in items:
        try:
            valid.append(schema.load(item))
            invalid.append(None)
        except ValidationError as exc:
            invalid.append(invalid_outcome(exc))
    if len(valid) > 1:
        bind(request_ids=[item.get("request_id") for item in valid])
    return valid, invalid


def merge_outcomes(
    invalid: Sequence[Outcome | None], outcomes: Sequence[Outcome]
) -> list[Outcome]:
    """Return the outcomes of all items, in request order.

    `invalid` has an outcome for each invalid item, and None for each valid one. `outcomes` has one
    for each valid item, otherwise ValueError is raised.
    """
    valid = [position for position, outcome in enumerate(invalid) if outcome is None]
    found = dict(zip(valid, outcomes, strict=True))
    return [
        found[position] if outcome is None else outcome
        for position, outcome in enumerate(invalid)
    ]
