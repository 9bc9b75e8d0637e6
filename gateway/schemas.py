"""What crosses the HTTP edge, in and out. Who is asking comes from a token, never from a body."""

import base64
import binascii
import re
from typing import Any

from marshmallow import Schema, ValidationError, fields
from werkzeug.http import parse_accept_header

from chassis.schemas import Text
from gateway.money import Money, format_minor

LOCALES = ("en", "ru")  # that users stores; the first is the fallback


class SignUp(Schema):
    """POST /users"""

    username = Text(1, 64, required=True)
    email = Text(3, 254, required=True)
    password = Text(8, 128, required=True)
    locale = Text(1, 35)


def accepted_locale(header: str) -> str:
    """The best of LOCALES for an Accept-Language (RFC 9110, section 12.5.4), however malformed.

    A tag counts as its language: `ru-RU, en;q=0.5` is `ru`. Of equal languages the first one wins.
    """
    # The start of the header is enough. To parse 8 KiB would take 5 ms.
    accepted = parse_accept_header(re.sub("[-_][a-z0-9]+", "", header[:500].lower()))
    in_order = [language for language in accepted.values() if language in LOCALES]
    return accepted.best_match([*in_order, *LOCALES], LOCALES[0])


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


def _limit(text: str) -> int:
    """How many items a page has at most."""
    if not (
        text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= 100
    ):
        raise ValidationError("Must be 1 to 100.")
    return int(text)


def _after(cursor: str) -> str:
    """The key that the next page starts after; outside it is opaque, as base64url."""
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise ValidationError("Not a cursor of this list.") from None


class Page(Schema):
    """?limit= and ?cursor= of every list"""

    limit = fields.Function(deserialize=_limit, load_default=20)
    after = fields.Function(deserialize=_after, data_key="cursor")


class View:
    """What the API shows of something: fields by the same name or another, amounts (`*_minor`) as texts."""

    def __init__(self, *same: str, **others: str) -> None:
        self.fields = {key.removesuffix("_minor"): key for key in same} | others

    def dump(self, inside: dict[str, Any]) -> dict[str, Any]:
        return {
            name: format_minor(inside[key]) if key.endswith("_minor") else inside[key]
            for name, key in self.fields.items()
            if key in inside
        }


USER = View("id", "username", "email", "locale")
ACCOUNT = View("user_id", "currency", "balance_minor")
OPERATION = View(
    "id",
    "kind",
    "status",
    "reason",
    "order_id",
    "created_at",
    "amount_minor",
    "balance_after_minor",
)
ORDER = View("id", "status", "reason", "created_at", "ended_at", "price_minor")
LETTER = View(
    "id", "kind", "order_id", "subject", "body", "created_at", "state", to="email"
)


def page_of(view: View, page: dict[str, Any]) -> dict[str, Any]:
    """A list as the client sees it: {"items": [...], "next_cursor": text or null}."""
    after = page["next"]
    cursor = after and base64.urlsafe_b64encode(after.encode()).decode()
    return {"items": [view.dump(item) for item in page["items"]], "next_cursor": cursor}
