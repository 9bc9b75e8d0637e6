"""Fields that the services' schemas share: texts, email addresses, ids, amounts, times, pages."""

import re
from datetime import UTC, datetime
from typing import Any

from email_validator import EmailNotValidError, validate_email
from marshmallow import Schema, ValidationError, fields, validate

UUID_PATTERN = r"\A[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}\Z"
MAX_BIGINT = 2**63 - 1
# These are valid addresses, but unsafe. A mail command reads a leading hyphen as an option, and a
# mail library decodes an encoded word, which begins with "=?" (RFC 2047, 2).
_HEADER_SAFE = validate.Regexp(
    r"(?!-|.*=\?)", error="Must not begin with a hyphen or contain =?."
)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> None:
    """Raise ValidationError for NUL and unpaired surrogates.

    PostgreSQL cannot store NUL, and UTF-8 cannot encode unpaired surrogates.
    """
    if _UNSTORABLE.search(text):
        raise ValidationError("Must not contain NUL or unpaired surrogates.")


def Text(minimum: int, maximum: int, *rules: Any, **options: Any) -> fields.String:
    """Return a field for a text of `minimum` to `maximum` characters."""
    return fields.String(
        validate=[validate.Length(min=minimum, max=maximum), storable, *rules],
        **options,
    )


def email_address(text: str) -> None:
    """Raise ValidationError unless the text is an email address that is safe in a mail header."""
    # First, because the other checks take longer for longer texts.
    validate.Length(max=254)(text)
    try:
        validate_email(text, check_deliverability=False, strict=True)
    except EmailNotValidError as exc:
        # The message may name each character of the address.
        raise ValidationError(str(exc)[:200]) from exc
    _HEADER_SAFE(text)


def Id(**options: Any) -> fields.String:
    """Return a field for a UUID in its canonical form (lower case, with hyphens)."""
    return fields.String(
        validate=validate.Regexp(UUID_PATTERN, error="Not an id."), **options
    )


def is_id(value: object) -> bool:
    """Whether `value` is a UUID in its canonical form."""
    return isinstance(value, str) and re.fullmatch(UUID_PATTERN, value) is not None


def AmountMinor(maximum: int = MAX_BIGINT, **options: Any) -> fields.Integer:
    """Return a field for a positive amount of money in minor units, at most `maximum`."""
    return fields.Integer(strict=True, validate=validate.Range(1, maximum), **options)


class Utc(fields.DateTime):
    """A field for a time with its zone, serialized by `utc`."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return None if value is None else utc(value)


def utc(time: datetime) -> str:
    """Return a time in ISO 8601, in UTC with microseconds: 2026-01-31T12:00:00.000000Z."""
    in_utc = time.astimezone(UTC)
    return in_utc.isoformat(timespec="microseconds").replace("+00:00", "Z")


class PageRequest(Schema):
    """A page of a list: at most `limit` items after the id `after`, newest first."""

    limit = fields.Integer(
        strict=True, load_default=20, validate=validate.Range(1, 100)
    )
    after: fields.Field[Any] = Id(load_default=None, allow_none=True)
