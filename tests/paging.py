"""Reads a list page by page."""

from collections.abc import Callable
from typing import Any


def read_all(
    method: Callable[..., dict[str, Any]],
    limit: int,
    between: Callable[[], object] = lambda: None,
    **query: Any,
) -> list[dict[str, Any]]:
    """Return all items that an RPC `method` lists. `between` runs after each page."""
    items: list[dict[str, Any]] = []
    after = None
    while True:
        page = method(limit=limit, after=after, **query)
        items += page["items"]
        after = page["next"]
        if after is None:
            return items
        between()
