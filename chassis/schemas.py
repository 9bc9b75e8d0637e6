"""What the services share of marshmallow: texts, ids, amounts; and how what is wrong is answered."""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from email_validator import EmailNotValidError, validate_email
from marshmallow import Schema, ValidationError, fields, validate
from nameko.exceptions import MalformedRequest

from chassis.logs import bind

Outcome = dict[str, Any]  # what became of one item: a status, and what goes with it
Outcomes = list[Outcome]  # named, for a service may have a method `list`
UUID_PATTERN = r"\A[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}\Z"
MAX_BIGINT = 2**63 - 1
MAX_ITEMS = 1000  # of one request: its answer grows with them
# A mail command takes an address that begins with a hyphen for an option, and a mail library
# decodes what follows "=?" (RFC 2047). Both are valid addresses.
_HEADER_SAFE = validate.Regexp(
    r"(?!-|.*=\?)", error="Must not begin with a hyphen or contain =?."
)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> None:
    """Refuses what PostgreSQL or UTF-8 can't hold: NUL, lone surrogates."""
    if _UNSTORABLE.search(text):
        raise ValidationError("Holds a character that can't be stored.")


def Text(minimum: int, maximum: int, *rules: Any, **options: Any) -> fields.String:
    """A storable text of `minimum` to `maximum` characters."""
    return fields.String(
        validate=[validate.Length(min=minimum, max=maximum), storable, *rules],
        **options,
    )


def email_address(text: str) -> None:
    """Raise ValidationError for a text that is no email address, or unsafe in a mail header."""
    validate.Length(max=254)(text)  # first: the work grows with the length
    try:
        validate_email(text, check_deliverability=False, strict=True)
    except EmailNotValidError as exc:
        raise ValidationError(
            str(exc)[:200]
        ) from exc  # it may name each character of the address
    _HEADER_SAFE(text)


def Id(**options: Any) -> fields.String:
    """A UUID in its canonical form (lower case, with hyphens)."""
    return fields.String(
        validate=validate.Regexp(UUID_PATTERN, error="Not an id."), **options
    )


def is_id(value: object) -> bool:
    """Whether `value` is a UUID in its canonical form."""
    return isinstance(value, str) and re.fullmatch(UUID_PATTERN, value) is not None


def AmountMinor(maximum: int = MAX_BIGINT, **options: Any) -> fields.Integer:
    """A positive amount of money in minor units, at most `maximum`."""
    return fields.Integer(strict=True, validate=validate.Range(1, maximum), **options)


class Utc(fields.DateTime):
    """A moment with its zone, sent as `utc` writes it."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return None if value is None else utc(value)


def utc(moment: datetime) -> str:
    """ISO 8601 in UTC, to the microsecond: 2026-01-31T12:00:00.000000Z."""
    return (
        moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    )


class PageRequest(Schema):
    """Which part of a list is asked for: at most `limit` items after `after`, newest first."""

    limit = fields.Integer(
        strict=True, load_default=20, validate=validate.Range(1, 100)
    )
    after: fields.Field[Any] = Id(load_default=None, allow_none=True)


def page(items: list[Any], limit: int, key: str) -> dict[str, Any]:
    """A page of at most `limit` of `items` (one more was read), and what `after` the next one has."""
    last = str(items[limit - 1][key]) if len(items) > limit else None
    return {"items": items[:limit], "next": last}


def invalid(exc: ValidationError) -> Outcome:
    """The outcome of what can't be right: its wrong fields by name, with a list of messages each."""
    return {"status": "invalid", "errors": exc.messages}


def checked(schema: Schema) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Below `@rpc`: calls the method with its arguments as `schema` loads them, or answers `invalid`."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def check(self: Any, **arguments: Any) -> Any:
            try:
                loaded = schema.load(arguments)
            except ValidationError as exc:
                return invalid(exc)
            return method(self, **loaded)

        return check

    return decorate


def check_list(items: object, name: str) -> None:
    """Raises MalformedRequest for anything but a list of at most MAX_ITEMS."""
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise MalformedRequest(f"{name} must be a list of at most {MAX_ITEMS}")


def answer_each(
    schema: Schema, items: list[Any], work: Callable[[list[Any]], Iterable[Outcome]]
) -> list[Outcome]:
    """An outcome for each item, in order.

    Each item is checked by itself. Wrong ones are answered `invalid`, and `work` answers the others
    together. The log tells all their request ids.
    """
    check_list(items, "items")
    outcomes: dict[int, Outcome] = {}
    right: dict[int, Any] = {}
    for position, item in enumerate(items):
        try:
            right[position] = schema.load(item)
        except ValidationError as exc:
            outcomes[position] = invalid(exc)
    if len(right) > 1:
        bind(request_ids=[item.get("request_id") for item in right.values()])
    outcomes |= zip(right, work(list(right.values())), strict=True)
    return [outcomes[position] for position in range(len(items))]
