"""The rules of orders: what billing's word makes of an order, and when to ask again."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

MAX_PRICE_MINOR = 10_000_000_00
FIRST_LOOK = timedelta(seconds=10)  # longer than the first attempt can take
LONGEST_WAIT_S = 15.0
CANCEL_AFTER = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an order ends: paid or, with a reason, rejected."""

    order_id: str
    status: Literal["paid", "rejected"]
    reason: str | None = None


def ending(order_id: str, answer: Any) -> Ending | None:
    """The end of an order that billing's `answer` means; None where it leaves the order pending.

    Only a stored word of billing ends an order. Whatever else came back (a fault, a time-out, a
    conflict) means that the outcome is unknown.
    """
    word = answer if isinstance(answer, dict) else {}
    status, reason = word.get("status"), word.get("reason")
    if status == "done":
        return Ending(order_id, "paid")
    if status == "refused" and isinstance(reason, str) and reason:
        return Ending(order_id, "rejected", reason)
    return None


def is_misunderstood(answer: Any) -> bool:
    """Whether billing answers that the request itself is wrong: no repetition will mend that."""
    return isinstance(answer, dict) and answer.get("status") in ("conflict", "invalid")


def wait_s(attempts: int, jitter: float) -> float:
    """Seconds until the next attempt after `attempts` of them.

    They double from 2 to LONGEST_WAIT_S, less up to a half by `jitter` (0 to 1). So orders that failed
    together do not return together.
    """
    return min(2.0 ** min(attempts, 10), LONGEST_WAIT_S) * (1 - jitter / 2)


def is_overdue(age: timedelta) -> bool:
    """Whether an order waits so long that its withdrawal must be cancelled, not retried."""
    return age > CANCEL_AFTER
