"""The story of one order, composed of rows of orders, billing and notifications."""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from chassis.outcomes import Outcome
from gateway import schemas

CLOCKS = (
    "Each time is from the clock of its service. If a step seems earlier than the previous one, its"
    " duration is 0."
)


def compose(
    history: Outcome, operation: Outcome | None, letter: Outcome | None
) -> dict[str, Any]:
    """Return the story of an order.

    `history` is from orders, `operation` from billing, `letter` from notifications. The last two
    are empty if they do not exist, and None if their service is unavailable.
    """
    publication = None if history["is_publication_unknown"] else history
    steps = [
        _step("order_placed", "orders", history, "created_at"),
        _step(
            "withdrawal_recorded",
            "billing",
            operation,
            "created_at",
            operation=schemas.OPERATION,
        ),
        _step("order_settled", "orders", history, "ended_at"),
        _step("event_published", "orders", publication, "published_at"),
        _step(
            "letter_written",
            "notifications",
            letter,
            "created_at",
            letter=schemas.LETTER,
        ),
    ]
    steps[0]["since_previous_ms"] = 0.0
    for previous, step in pairwise(steps):
        if "at" in previous and "at" in step:
            step["since_previous_ms"] = _milliseconds(previous["at"], step["at"])
    return {
        "order": schemas.ORDER.dump(history),
        "steps": steps,
        "attempts": {
            "count": history["attempts"],
            "last_at": history["last_attempt_at"],
        },
        "clocks": CLOCKS,
    }


def _step(
    event: str,
    service: str,
    part: Outcome | None,
    time: str,
    **details: schemas.ResponseFields,
) -> dict[str, Any]:
    """Return a step: unknown if `part` is None, pending if it is empty or has no `time`."""
    step = {"event": event, "service": service}
    if not part or not part[time]:
        return {**step, "state": "unknown" if part is None else "pending"}
    return {
        **step,
        "state": "done",
        "at": part[time],
        **{name: fields.dump(part) for name, fields in details.items()},
    }


def _milliseconds(start: str, end: str) -> float:
    """Return the time between two times in ISO 8601, at least 0."""
    duration = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    return max(duration / timedelta(milliseconds=1), 0.0)
