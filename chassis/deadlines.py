"""The deadline of the work in progress, which travels with each call as gRPC's deadlines do.

A service stops waiting for others while its own reply can still be in time.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from math import inf
from time import monotonic
from typing import Any

# The key in Nameko's context data, and so in message headers. The value is in seconds.
TIMEOUT = "timeout_s"
# Kept for the rest of the work and the reply.
RESERVE_S = 0.5
MIN_CALL_S = 0.2

_deadline: ContextVar[float] = ContextVar("deadline", default=inf)


def bind_deadline(data: Mapping[str, Any]) -> None:
    """Bind the caller's timeout in `data` to this greenthread; without one there is no limit."""
    given = data.get(TIMEOUT)
    seconds = given if isinstance(given, int | float) and given > 0 else inf
    _deadline.set(monotonic() + seconds)


def call_timeout_s(limit_s: float) -> float:
    """Return the timeout of a call in seconds: `limit_s`, or less near the deadline.

    It leaves RESERVE_S before the deadline, but is never shorter than MIN_CALL_S.
    """
    remaining_s = _deadline.get() - monotonic() - RESERVE_S
    return max(min(limit_s, remaining_s), MIN_CALL_S)
