"""Parts of stories for property-based tests: stored, missing and unavailable ones."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from chassis.schemas import utc
from tests.contracts import rpc_sample

Part = dict[str, Any]

HISTORY: Part = rpc_sample("orders.get_history")["reply"]
OPERATION: Part = rpc_sample("billing.get_withdrawal")["reply"]
LETTER: Part = rpc_sample("notifications.get_letter")["reply"]

NOW = datetime(2026, 1, 31, 12, 5, tzinfo=UTC)
# Clocks of services may differ, so a time says nothing about the order of two steps.
TIMES = st.timedeltas(timedelta(-400), timedelta(400)).map(lambda past: utc(NOW + past))
HISTORIES = st.fixed_dictionaries(
    {
        "created_at": TIMES,
        "ended_at": st.none() | TIMES,
        "published_at": st.none() | TIMES,
        "is_publication_unknown": st.booleans(),
        "attempts": st.integers(0, 1_000_000),
        "last_attempt_at": st.none() | TIMES,
    }
).map(lambda fields: {**HISTORY, **fields})


def _part(sample: Part) -> st.SearchStrategy[Part | None]:
    """Return a part of a story: unavailable, missing, or with any time."""
    stored = TIMES.map(lambda time: {**sample, "created_at": time})
    return st.none() | st.just({}) | stored


OPERATIONS = _part(OPERATION)
LETTERS = _part(LETTER)
