"""What crosses the wire to and from notifications."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from chassis.schemas import Id, PageRequest, Text, Utc, email_address

# No line separator, no control character, and no encoded word (RFC 2047), which could hold either.
SUBJECT = validate.Regexp(
    r"\A(?!.*=\?[^?]*\?[bBqQ]\?)[^\x00-\x1f\x7f-\x9f\u2028\u2029]+\Z",
    error="Must be one line without control characters and encoded words.",
)


class ToWhom(Schema):
    """A user or an address, not both."""

    user_id = Id()
    email = Text(3, 254)  # stored ones may be older than today's rules

    @validates_schema
    def has_one_recipient(self, data: dict[str, Any], **kwargs: Any) -> None:
        if ("user_id" in data) == ("email" in data):
            raise ValidationError("Give either user_id or email.", "user_id")


class NewMessage(ToWhom):
    """A message to a user or an address; `id` makes it safe to send twice."""

    id = Id()
    email = fields.String(validate=email_address)
    subject = Text(1, 200, SUBJECT, required=True)
    body = Text(1, 10_000, required=True)


class LetterQuery(ToWhom, PageRequest):
    """A page of somebody's letters; `after` is a letter's id."""


class LetterOut(Schema):
    """A letter: `kind` is happiness, grief or message; `state` says how far its delivery is."""

    id = fields.String()
    kind = fields.String()
    order_id = fields.String()
    user_id = fields.String()
    email = fields.String()
    subject = fields.String()
    body = fields.String()
    state = fields.String()
    created_at = Utc()
