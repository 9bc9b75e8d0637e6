"""How letters leave the house: one interface, so that another way can take its place."""

from collections.abc import Sequence
from typing import Any, Protocol


class Delivery(Protocol):
    """Hands letters over."""

    def deliver(self, letters: Sequence[dict[str, Any]]) -> list[str]:
        """The state of each letter afterwards, in order."""


class StoreOnly:
    """Storing a letter is all: its reader lists his letters through the API."""

    def deliver(self, letters: Sequence[dict[str, Any]]) -> list[str]:
        """Every letter is `stored`."""
        return ["stored"] * len(letters)
