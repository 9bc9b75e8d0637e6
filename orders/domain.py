"""The rules of orders, as pure functions.

Billing withdraws the price of an order, and the outcome of the withdrawal settles the order.
An order whose outcome is unknown stays pending, and the withdrawal is retried later.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

MAX_PRICE_MINOR = 10_000_000_00
# Sweeps leave a new order alone for this long. Its attempt in `place` normally ends earlier. If
# not, both attempts use one ref in billing, so the price is withdrawn once.
FIRST_RETRY_AFTER = timedelta(seconds=10)
MAX_RETRY_DELAY_S = 15.0
CANCEL_AFTER = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Settlement:
    """The final status of an order: paid, or rejected with a reason."""

    order_id: str
    status: Literal["paid", "rejected"]
    reason: str | None = None


def settlement_of(order_id: str, outcome: Any) -> Settlement | None:
    """Return how billing's `outcome` of a withdrawal settles the order.

    Only an operation in billing's ledger settles an order: it is done, or refused with a reason.
    After anything else, such as a fault, a timeout or a conflict, the outcome is unknown.
    The order stays pending then, and the function returns None.
    """
    operation = outcome if isinstance(outcome, dict) else {}
    status, reason = operation.get("status"), operation.get("reason")
    if status == "done":
        return Settlement(order_id, "paid")
    if status == "refused" and isinstance(reason, str) and reason:
        return Settlement(order_id, "rejected", reason)
    return None


def is_defective_request(outcome: Any) -> bool:
    """Return whether billing found the request invalid or in conflict. This is a defect.

    The order stays pending. The sweeper retries it until the defect is fixed or the withdrawal is
    cancelled.
    """
    return isinstance(outcome, dict) and outcome.get("status") in (
        "conflict",
        "invalid",
    )


def retry_delay_s(attempts: int, jitter: float) -> float:
    """Return the seconds until the next attempt.

    `attempts` counts the claims by sweeps, not the attempt in `place`. The delay doubles from 2 s
    to MAX_RETRY_DELAY_S. `jitter` (0 to 1) takes off up to one half, so that orders that failed
    together are not retried together.
    """
    return min(2.0 ** min(attempts, 10), MAX_RETRY_DELAY_S) * (1 - jitter / 2)


def is_overdue(age: timedelta) -> bool:
    """Return whether a pending order is so old that its withdrawal must be cancelled."""
    return age > CANCEL_AFTER
