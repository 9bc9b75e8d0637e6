"""The rules of users: when two names are the same."""

from collections.abc import Mapping
from typing import Any


def fold(text: str) -> str:
    """The form in which usernames and addresses are unique: two that differ in case are one."""
    return text.casefold()


def taken(wanted: Mapping[str, Any], holders: list[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The fields of `wanted` that one of `holders` has already, with a message each."""
    messages = {"username": "This username is taken.", "email": "This address is in use."}
    return {
        name: [message]
        for name, message in messages.items()
        if any(holder[f"{name}_key"] == fold(wanted[name]) for holder in holders)
    }
