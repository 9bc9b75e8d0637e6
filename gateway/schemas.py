"""What crosses the HTTP edge, in and out. Who is asking comes from a token, never from a body."""

import base64
import binascii
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from chassis.schemas import Text
from gateway.money import Money, format_minor

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


class View:
    """What the API shows of something: fields under the same name or another, amounts as texts."""

    def __init__(self, *same: str, **others: str) -> None:
        self._fields = dict(zip(same, same, strict=True)) | others

    def dump(self, inside: dict[str, Any]) -> dict[str, Any]:
        return {
            name: format_minor(inside[key]) if key.endswith("_minor") else inside[key]
            for name, key in self._fields.items()
            if key in inside
        }


USER = View("id", "username", "email", "locale")
ACCOUNT = View("user_id", "currency", balance="balance_minor")
OPERATION = View(
    *("id", "kind", "status", "reason", "order_id", "created_at"),
    amount="amount_minor",
    balance_after="balance_after_minor",
)
ORDER = View("id", "status", "reason", "created_at", "ended_at", price="price_minor")
LETTER = View("id", "kind", "order_id", "subject", "body", "created_at", "state", to="email")


def page_of(view: View, page: dict[str, Any]) -> dict[str, Any]:
    """A list as the client sees it: {"items": [...], "next_cursor": text or null}."""
    after = page["next"]
    cursor = after and base64.urlsafe_b64encode(after.encode()).decode()
    return {"items": [view.dump(item) for item in page["items"]], "next_cursor": cursor}
