"""The arguments and outcomes of the RPC methods of notifications."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from chassis.schemas import Id, PageRequest, Text, Utc, email_address

# No line separators, no control characters, and no encoded words (RFC 2047), which could contain
# either of them.
SUBJECT = validate.Regexp(
    r"\A(?!.*=\?[^?]*\?[bBqQ]\?)[^\x00-\x1f\x7f-\x9f\u2028\u2029]+\Z",
    error="Must be one line without control characters and encoded words.",
)


class RecipientSelector(Schema):
    """A user or an address, but not both."""

    user_id = Id()
    # Stored addresses may be older than the rules for new ones.
    email = Text(3, 254)

    @validates_schema
    def selects_one(self, data: dict[str, Any], **kwargs: Any) -> None:
        if ("user_id" in data) == ("email" in data):
            raise ValidationError("Give either user_id or email.", "user_id")


class NewMessage(RecipientSelector):
    """A message to a user or to an address. A retry with the same `id` is safe."""

    id = Id()
    email = fields.String(validate=email_address)
    subject = Text(1, 200, SUBJECT, required=True)
    body = Text(1, 10_000, required=True)


class OrderLetterQuery(Schema):
    """The letter to a user about an order."""

    order_id = Id(required=True)
    user_id = Id(required=True)


class LetterQuery(RecipientSelector, PageRequest):
    """A page of the letters to a user or to an address. `after` is the id of a letter."""


# A letter. Its kind is happiness, grief or message, and its state is `stored`.
LetterOut = Schema.from_dict(
    {
        "id": fields.String(),
        "kind": fields.String(),
        "order_id": fields.String(),
        "user_id": fields.String(),
        "email": fields.String(),
        "subject": fields.String(),
        "body": fields.String(),
        "state": fields.String(),
        "created_at": Utc(),
    },
    name="LetterOut",
)
