"""The bodies and queries of requests, and the fields of responses.

The user comes from the token, never from a body.
"""

import base64
import re
from typing import Any

from marshmallow import Schema, ValidationError, fields
from werkzeug.http import parse_accept_header

from chassis.schemas import Text
from gateway.money import Money, format_minor

# The languages of users. The first is the fallback.
LOCALES = ("en", "ru")


class SignUp(Schema):
    """The body of POST /users."""

    username = Text(1, 64, required=True)
    email = Text(3, 254, required=True)
    password = Text(8, 128, required=True)
    locale = Text(1, 35)


def accepted_locale(header: str) -> str:
    """Return the best of LOCALES for an Accept-Language (RFC 9110, section 12.5.4).

    A tag counts as its language: `ru-RU, en;q=0.5` is `ru`. Of equal languages the first one
    wins. A malformed header is accepted.
    """
    # The start of the header is enough. To parse 8 KiB would take 5 ms.
    accepted = parse_accept_header(re.sub("[-_][a-z0-9]+", "", header[:500].lower()))
    return accepted.best_match(
        [language for language in accepted.values() if language in LOCALES]
        + [*LOCALES],
        LOCALES[0],
    )


class Login(Schema):
    """The body of POST /tokens."""

    username = Text(1, 64, required=True)
    password = Text(1, 128, required=True)


class NewMovement(Schema):
    """The body of POST /account/deposits and /account/withdrawals."""

    amount_minor = Money(required=True, data_key="amount")


class NewOrder(Schema):
    """The body of POST /orders."""

    price_minor = Money(required=True, data_key="price")


class NewMessage(Schema):
    """The body of POST /notifications."""

    subject = Text(1, 200, required=True)
    body = Text(1, 10_000, required=True)


def _load_limit(text: str) -> int:
    if not (
        text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= 100
    ):
        raise ValidationError("Must be 1 to 100.")
    return int(text)


def _load_cursor(cursor: str) -> str:
    """Return the key that the next page starts after. For clients it is opaque base64url."""
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        raise ValidationError("Not a cursor of this list.") from None


class Page(Schema):
    """The query of each list."""

    limit = fields.Function(deserialize=_load_limit, load_default=20)
    after = fields.Function(deserialize=_load_cursor, data_key="cursor")


class ResponseFields:
    """The fields of a response, and the keys of their values in an outcome.

    `ResponseFields("id", to="email")` has the field `id`, and the field `to` with the value of
    `email`. An amount loses its suffix `_minor` and becomes a text.
    """

    def __init__(self, *same: str, **renamed: str) -> None:
        self.fields = {key.removesuffix("_minor"): key for key in same} | renamed

    def dump(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of an outcome that it has values for."""
        return {
            name: format_minor(outcome[key]) if key.endswith("_minor") else outcome[key]
            for name, key in self.fields.items()
            if key in outcome
        }


USER = ResponseFields("id", "username", "email", "locale")
ACCOUNT = ResponseFields("user_id", "currency", "balance_minor")
OPERATION = ResponseFields(
    "id",
    "kind",
    "status",
    "reason",
    "order_id",
    "created_at",
    "amount_minor",
    "balance_after_minor",
)
ORDER = ResponseFields(
    "id", "status", "reason", "created_at", "ended_at", "price_minor"
)
LETTER = ResponseFields(
    "id", "kind", "order_id", "subject", "body", "created_at", "state", to="email"
)


def page_of(item_fields: ResponseFields, page: dict[str, Any]) -> dict[str, Any]:
    """Return {"items": [...], "next_cursor": text or None} for a page of outcomes."""
    after = page["next"]
    return {
        "items": [item_fields.dump(item) for item in page["items"]],
        "next_cursor": after and base64.urlsafe_b64encode(after.encode()).decode(),
    }
