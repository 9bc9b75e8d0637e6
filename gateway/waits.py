"""`Prefer: wait`: responses that wait until an order has settled (RFC 7240, section 4.3).

A waiting request holds its connection, but no worker. Once a second, one call reads all orders that
the requests of this gateway wait for. It reads their state and not events. So no settlement is
missed, whenever a request begins to wait, and whichever copy of a service settles the order.
"""

import re
from collections.abc import Iterable
from typing import Any

from eventlet import Event

from chassis.outcomes import MAX_ITEMS

MAX_WAIT_S = 30
# In characters. The rest of a header is ignored, because parsing takes time.
MAX_PREFER_LENGTH = 500
# The name of a preference, and the rest of it. A comma in a quoted string does not end it.
_PREFERENCE = re.compile(r'[ \t]*([^,;=" \t]*)((?:[^,"]|"(?:\\.|[^"\\])*"?)*)')
_SECONDS = re.compile(r'[ \t]*=[ \t]*("?)([0-9]+)\1[ \t]*(?:;.*)?')


class WaitingRequests:
    """The requests of a gateway that wait for orders, at most `limit`."""

    def __init__(self, limit: int) -> None:
        # One call reads at most MAX_ITEMS orders.
        self._limit = min(limit, MAX_ITEMS)
        self._order_ids: dict[Event, str] = {}

    def apply(
        self, prefer: str, order: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Wait for a pending order to settle, for the time that the header Prefer requests.

        Return the order, still pending if it has not settled in time, and the headers that say
        whether the preference was applied. If too many requests wait, it is not.
        """
        seconds = preferred_wait_s(prefer)
        if order["status"] == "pending":
            if not seconds or len(self._order_ids) >= self._limit:
                return order, {}
            order = self._wait(order["id"], seconds) or order
        return order, {"Preference-Applied": f"wait={seconds}"} if seconds else {}

    def _wait(self, order_id: str, seconds: int) -> dict[str, Any] | None:
        """Wait until the order has settled. Return it, or None after that time."""
        settled = Event()
        self._order_ids[settled] = order_id
        try:
            return settled.wait(timeout=seconds)
        finally:
            del self._order_ids[settled]

    def order_ids(self) -> list[str]:
        """Return the ids of the orders that requests wait for."""
        return sorted(set(self._order_ids.values()))

    def report(self, settled_orders: Iterable[dict[str, Any]]) -> None:
        """End the wait for these orders."""
        by_id = {order["id"]: order for order in settled_orders}
        for settled, order_id in self._order_ids.items():
            if order_id in by_id and not settled.ready():
                settled.send(by_id[order_id])

    def release(self) -> None:
        """Answer all requests with their pending orders. From now on none waits."""
        self._limit = 0
        for settled in self._order_ids:
            if not settled.ready():
                settled.send(None)


def preferred_wait_s(prefer: str) -> int:
    """Return the seconds of the preference `wait`, at most MAX_WAIT_S. 0 without a valid one.

    Only the first `wait` of a header counts (RFC 7240, section 2).
    """
    preferences = dict(
        reversed(_PREFERENCE.findall(prefer[:MAX_PREFER_LENGTH].lower()))
    )
    found = _SECONDS.fullmatch(preferences.get("wait", ""))
    return min(int(found[2]), MAX_WAIT_S) if found else 0
