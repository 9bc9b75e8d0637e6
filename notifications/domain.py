"""The rules of notifications: what a letter says, in its reader's language."""

from copy import copy
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from string import Template

from babel import Locale
from babel.numbers import format_currency
from iso4217 import Currency

HAPPINESS, GRIEF, MESSAGE = "happiness", "grief", "message"
LETTERS = Path(__file__).parent / "letters"
LOCALES = {folder.name for folder in LETTERS.iterdir()}
FALLBACK_LOCALE = "en"


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who gets a letter."""

    user_id: str
    username: str
    email: str
    locale: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How and when an order ended, for its letter: `reason` is None where it was paid."""

    order_id: str
    user_id: str
    price_minor: int
    reason: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Text:
    """What a letter says."""

    kind: str
    subject: str
    body: str


def letter(ending: Ending, recipient: Recipient, currency: str) -> Text:
    """The letter of happiness or grief about an order."""
    kind = GRIEF if ending.reason else HAPPINESS
    locale = recipient.locale if recipient.locale in LOCALES else FALLBACK_LOCALE
    subject, body = _template(locale, kind)
    reasons = _reasons(locale)
    words = {
        "username": recipient.username,
        "order_id": ending.order_id,
        "price": _price(ending.price_minor, currency, locale),
        "reason": reasons.get(ending.reason or "", reasons["other"]),
    }
    return Text(kind, subject.substitute(words), body.substitute(words))


def _price(minor: int, currency: str, locale: str) -> str:
    """An amount as readers of this language write it, with as many digits as ISO 4217 has."""
    digits = Currency(currency).exponent or 0
    format_ = copy(Locale.parse(locale).currency_formats["standard"])
    format_.frac_prec = (digits, digits)
    return format_currency(
        Decimal(minor).scaleb(-digits),
        currency,
        format=format_,
        locale=locale,
        currency_digits=False,  # Babel's own are those of CLDR, which differ
    )


@cache
def _template(locale: str, name: str) -> tuple[Template, Template]:
    """Subject (the first line) and body of a letter."""
    subject, _, body = _read(locale, name).partition("\n")
    return Template(subject), Template(body.strip())


@cache
def _reasons(locale: str) -> dict[str, str]:
    """The text of each known reason, and `other` for the rest. A letter never quotes an event's."""
    return dict(
        line.split(": ", 1) for line in _read(locale, "reasons").splitlines()[1:]
    )


def _read(locale: str, name: str) -> str:
    """A file of `locale`, which is one of LOCALES."""
    return (LETTERS / locale / f"{name}.txt").read_text(encoding="utf-8")
