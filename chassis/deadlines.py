"""How much time the work at hand has. It travels with each call, as gRPC's deadlines do, so that a
service stops waiting for others while its own answer can still be in time."""

from collections.abc import Mapping
from contextvars import ContextVar
from math import inf
from time import monotonic
from typing import Any

TIMEOUT = (
    "timeout_s"  # the key in nameko's context data, and so in message headers: seconds
)
RESERVE_S = 0.5  # to finish the work and send the answer
AT_LEAST_S = 0.2

_deadline: ContextVar[float] = ContextVar("deadline", default=inf)


def bind_deadline(data: Mapping[str, Any]) -> None:
    """Take from `data` how long the caller waits; without a word of it there is no limit."""
    given = data.get(TIMEOUT)
    seconds = given if isinstance(given, int | float) and given > 0 else inf
    _deadline.set(monotonic() + seconds)


def time_for_a_call(limit_s: float) -> float:
    """Seconds that a call may take: `limit_s` at most, and never all that is left."""
    left_s = _deadline.get() - monotonic() - RESERVE_S
    return max(min(limit_s, left_s), AT_LEAST_S)
