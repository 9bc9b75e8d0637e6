"""What crosses the HTTP edge, in and out. Who is asking comes from a token, never from a body."""

import base64
import binascii
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from chassis.schemas import Text
from gateway.money import Money

LOCALES = ("en", "ru")


class SignUp(Schema):
    """POST /users"""

    username = Text(1, 64, required=True)
    email = Text(3, 254, required=True)
    password = Text(8, 128, required=True)
    locale = fields.String(validate=validate.OneOf(LOCALES))


class Login(Schema):
    """POST /tokens"""

    username = Text(1, 64, required=True)
    password = Text(1, 128, required=True)


class NewMovement(Schema):
    """POST /account/deposits and /account/withdrawals"""

    amount_minor = Money(required=True, data_key="amount")


class NewOrder(Schema):
    """POST /orders"""

    price_minor = Money(required=True, data_key="price")


class NewMessage(Schema):
    """POST /notifications"""

    subject = Text(1, 200, required=True)
    body = Text(1, 10_000, required=True)


class Cursor(fields.Field[str]):
    """An opaque place in a list: outside base64url, inside the key that the next page starts after."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else base64.urlsafe_b64encode(value.encode()).decode()

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        try:
            return base64.b64decode(value, altchars=b"-_", validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            raise ValidationError("Not a cursor of this list.") from None


class Limit(fields.Field[int]):
    """How many items a page has at most."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if not (value.isascii() and value.isdigit() and len(value) <= 3 and 1 <= int(value) <= 100):
            raise ValidationError("Must be 1 to 100.")
        return int(value)


class Page(Schema):
    """?limit= and ?cursor= of every list"""

    limit = Limit(load_default=20)
    after = Cursor(data_key="cursor")


class User(Schema):
    """A user's own profile."""

    id = fields.String()
    username = fields.String()
    email = fields.String()
    locale = fields.String()


class Account(Schema):
    """An account."""

    user_id = fields.String()
    balance = Money(attribute="balance_minor")
    currency = fields.String()


class Operation(Schema):
    """An entry of the statement."""

    id = fields.String()
    kind = fields.String()
    amount = Money(attribute="amount_minor")
    status = fields.String()
    reason = fields.String()
    order_id = fields.String()
    balance_after = Money(attribute="balance_after_minor")
    created_at = fields.String()


class Order(Schema):
    """An order."""

    id = fields.String()
    price = Money(attribute="price_minor")
    status = fields.String()
    reason = fields.String()
    created_at = fields.String()
    ended_at = fields.String()


class Letter(Schema):
    """A letter."""

    id = fields.String()
    kind = fields.String()
    order_id = fields.String()
    to = fields.String(attribute="email")
    subject = fields.String()
    body = fields.String()
    created_at = fields.String()
    state = fields.String()


USER, ACCOUNT, OPERATION, ORDER, LETTER = User(), Account(), Operation(), Order(), Letter()


def page_of(schema: Schema, page: dict[str, Any]) -> dict[str, Any]:
    """A list as the client sees it: {"items": [...], "next_cursor": text or null}."""
    cursor = Cursor().serialize("next", page)
    return {"items": schema.dump(page["items"], many=True), "next_cursor": cursor}
