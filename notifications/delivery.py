"""How letters leave the house: one interface, so that another way can take its place."""

from collections.abc import Sequence
from typing import Any, Protocol


class Delivery(Protocol):
    """Hands letters over that are stored by now; each once, or not at all where the process dies."""

    state: str  # of a letter that is stored and not yet handed over

    def deliver(self, letters: Sequence[Any]) -> None:
        """Hand new letters over."""


class StoreOnly:
    """Storing a letter is all: its reader lists letters through the API."""

    state = "stored"

    def deliver(self, letters: Sequence[Any]) -> None:
        """Do nothing: they are stored."""
