"""Reading a list through its pages."""

from collections.abc import Callable
from typing import Any


def read_all(
    method: Callable[..., dict[str, Any]],
    limit: int,
    between: Callable[[], object] = lambda: None,
    **query: Any,
) -> list[dict[str, Any]]:
    """All items that an RPC `method` lists, page by page; `between` runs after each page."""
    items: list[dict[str, Any]] = []
    after = None
    while True:
        page = method(limit=limit, after=after, **query)
        items += page["items"]
        after = page["next"]
        if after is None:
            return items
        between()
