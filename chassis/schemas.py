"""Fields that the services' schemas share: texts, email addresses, ids, amounts, times, pages."""

import re
from datetime import UTC, datetime
from typing import Any

from email_validator import EmailNotValidError, validate_email
from marshmallow import Schema, ValidationError, fields, validate

UUID_PATTERN = r"\A[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}\Z"
MAX_BIGINT = 2**63 - 1
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
