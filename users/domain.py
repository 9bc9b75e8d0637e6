"""The rules of users: when two names or addresses are the same, and a user's language."""

import re
from collections.abc import Mapping
from typing import Any
from unicodedata import normalize

from email_validator import validate_email

LOCALES = ("en", "ru")  # the languages of letters; the first is the fallback


def fold(text: str) -> str:
    """The unique form of a text: the same for texts that differ in case or normalization alone.

    It is the canonical caseless match of Unicode (definition D145): `STRASSE` and `straße` are one.
    """
    return normalize("NFC", normalize("NFD", text).casefold())


def address_forms(written: str) -> dict[str, str]:
    """The normalized form of a valid address, for letters, and the form in which it is unique.

    The unique form has the domain in ASCII. All keys of earlier versions have this form, too: they
    accepted only such domains.
    """
    address = validate_email(written, check_deliverability=False)
    return {
        "email": address.normalized,
        "email_key": f"{fold(address.local_part)}@{address.ascii_domain}",
    }


def locale(tag: str) -> str:
    """The one of LOCALES for a tag as browsers (`ru-RU`) or POSIX (`ru_RU.UTF-8`) write it."""
    [language, *_] = re.split("[-_.@]", tag.lower())
    return language if language in LOCALES else LOCALES[0]


def taken(
    wanted: Mapping[str, Any], holders: list[Mapping[str, Any]]
) -> dict[str, list[str]]:
    """The fields of `wanted` that one of `holders` has already, with a message each."""
    messages = {
        "username": "This username is taken.",
        "email": "This address is in use.",
    }
    return {
        name: [message]
        for name, message in messages.items()
        if any(holder[f"{name}_key"] == wanted[f"{name}_key"] for holder in holders)
    }
