"""The rules of users, as pure functions: unique forms of names and addresses, and locales."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from email_validator import validate_email

# The languages of letters. The first one is the fallback.
LOCALES = ("en", "ru")


def normalize(text: str) -> str:
    """Return the unique form of a text. Its case and its Unicode normalization do not matter.

    Two texts are equal by Unicode's canonical caseless match (definition D145): so are `STRASSE`
    and `straße`.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def address_forms(email: str) -> dict[str, str]:
    """Return the forms of a valid email address: `email` for letters, `email_key` for uniqueness.

    The key has the domain in ASCII. The keys of earlier versions do too, because these accepted
    only ASCII domains.
    """
    address = validate_email(email, check_deliverability=False)
    return {
        "email": address.normalized,
        "email_key": f"{normalize(address.local_part)}@{address.ascii_domain}",
    }


def locale_of(tag: str) -> str:
    """Return the one of LOCALES for a language tag such as `ru-RU` or `ru_RU.UTF-8`."""
    [language, *_] = re.split("[-_.@]", tag.lower())
    return language if language in LOCALES else LOCALES[0]


def conflicts(
    wanted: Mapping[str, Any], users: Sequence[Mapping[Any, Any]]
) -> dict[str, list[str]]:
    """Return the fields of `wanted` that one of the users has, with an error message for each."""
    messages = {
        "username": "This username is taken.",
        "email": "This address is in use.",
    }
    return {
        name: [message]
        for name, message in messages.items()
        if any(user[f"{name}_key"] == wanted[f"{name}_key"] for user in users)
    }
