"""The rules of notifications, as pure functions: the texts of letters in several languages."""

from copy import copy
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from string import Template
from typing import Literal

from babel import Locale
from babel.numbers import format_currency
from iso4217 import Currency

TEMPLATES = Path(__file__).parent / "letters"
LOCALES = {folder.name for folder in TEMPLATES.iterdir()}
FALLBACK_LOCALE = "en"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """A user who receives letters."""

    user_id: str
    username: str
    email: str
    locale: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledOrder:
    """An order that was paid, or rejected with a reason."""

    order_id: str
    user_id: str
    price_minor: int
    reason: str | None
    settled_at: datetime


@dataclass(frozen=True, slots=True)
class LetterText:
    """The kind and the text of a letter about an order."""

    kind: Literal["happiness", "grief"]
    subject: str
    body: str


def letter_text(order: SettledOrder, recipient: Recipient, currency: str) -> LetterText:
    """Return the letter of happiness about a paid order, or of grief about a rejected one."""
    locale = recipient.locale if recipient.locale in LOCALES else FALLBACK_LOCALE
    kind: Literal["happiness", "grief"] = "grief" if order.reason else "happiness"
    subject, body = _templates(locale, kind)
    reasons = _reasons(locale)
    values = {
        "username": recipient.username,
        "order_id": order.order_id,
        "price": _price(order.price_minor, currency, locale),
        "reason": reasons.get(order.reason or "", reasons["other"]),
    }
    return LetterText(kind, subject.substitute(values), body.substitute(values))


def _price(minor: int, currency: str, locale: str) -> str:
    """Format an amount as in the language of `locale`, with the digits that ISO 4217 defines."""
    digits = Currency(currency).exponent or 0
    format_ = copy(Locale.parse(locale).currency_formats["standard"])
    format_.frac_prec = (digits, digits)
    return format_currency(
        Decimal(minor).scaleb(-digits),
        currency,
        format=format_,
        locale=locale,
        # Babel's digits are those of CLDR, which differ.
        currency_digits=False,
    )


@cache
def _templates(locale: str, kind: str) -> tuple[Template, Template]:
    """Read the subject (the first line) and the body of a letter."""
    subject, _, body = _read(locale, kind).partition("\n")
    return Template(subject), Template(body.strip())


@cache
def _reasons(locale: str) -> dict[str, str]:
    """Read the text of each known reason, and of `other` for all others.

    A letter never quotes the reason of an event.
    """
    return dict(
        line.split(": ", 1) for line in _read(locale, "reasons").splitlines()[1:]
    )


def _read(locale: str, name: str) -> str:
    """Read a file of letters. `locale` must be one of LOCALES."""
    return (TEMPLATES / locale / f"{name}.txt").read_text(encoding="utf-8")
