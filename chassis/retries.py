"""When a failed event is tried again, and when a failure says nothing about the event.

Pure rules: they know neither AMQP nor Nameko. `chassis.events` applies them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from chassis.errors import (
    DeadlineExceeded,
    InternalError,
    Unavailable,
    description,
    is_transient,
    sqlstate,
)

RETRY_DELAYS_S = (1, 5, 15)  # the last one repeats
PAUSES_S = (1, 2, 4, 8, 15)  # the last one repeats
MAX_ATTEMPTS = 5  # that failed on the event's own content
MAX_HELD = 200  # events; each one is a message that the broker waits for
MAX_HELD_S = 300  # RabbitMQ closes a channel that keeps a message for 30 minutes
MAX_ALIKE = (
    3  # different events in a row; two malformed ones may follow each other by chance
)
MAX_REMEMBERED = 1000  # ids
CALL_FAULTS = (DeadlineExceeded, Unavailable, InternalError)
# Codes of PostgreSQL that no value can cause, since the statements are constants: a grant, a table,
# a column, a function or a schema is missing.
MISSING = {"42501", "42P01", "42703", "42883", "3F000"}
# A statement or a wait for a lock took too long: the batch is too large, or a row is locked.
TOO_SLOW = {"57014", "55P03"}


@dataclass(slots=True, eq=False)
class Delivery:
    """A message that the broker has delivered, and what became of it so far.

    `attempts` counts all of them, `failures` those that failed on the event's own content.
    """

    message: Any
    id: str
    attempts: int
    failures: int
    received_at: float  # seconds, monotonic
    error: str = ""

    @property
    def tag(self) -> int:
        return int(self.message.delivery_info["delivery_tag"])

    @property
    def is_alive(self) -> bool:
        """Whether its channel is open; otherwise the broker delivers the message again."""
        return bool(self.message.channel.connection)

    @property
    def is_exhausted(self) -> bool:
        return self.failures >= MAX_ATTEMPTS

    def fail(self, exc: Exception) -> None:
        """Record a failed attempt. Neither a failed call nor contention is the event's fault."""
        self.attempts += 1
        self.failures += not (isinstance(exc, CALL_FAULTS) or is_contention(exc))
        self.error = description(exc)[:1000]

    def delay_s(self) -> float:
        """Seconds until the next attempt."""
        return RETRY_DELAYS_S[min(self.attempts, len(RETRY_DELAYS_S)) - 1]


class HeldDeliveries(dict[Delivery, float]):
    """Unacknowledged messages, each with the moment of its next attempt (monotonic)."""

    def has_room_for(self, delivery: Delivery, now: float) -> bool:
        """Whether it may be held for its next delay, within MAX_HELD and MAX_HELD_S."""
        return (
            len(self) < MAX_HELD
            and now + delivery.delay_s() - delivery.received_at <= MAX_HELD_S
        )

    def hold(self, delivery: Delivery, now: float) -> None:
        self[delivery] = now + delivery.delay_s()

    def take_due(self, now: float, limit: int) -> list[Delivery]:
        """Those whose delay is over, the earliest first, `limit` at most."""
        due = sorted(
            (each for each in self if self[each] <= now), key=self.__getitem__
        )[:limit]
        for delivery in due:
            del self[delivery]
        return due

    def next_due(self) -> float:
        """The moment of the earliest attempt, monotonic; infinity where nothing is held."""
        return min(self.values(), default=inf)

    def lowest_tag(self) -> float:
        """The lowest delivery tag held; infinity where nothing is held."""
        return min((delivery.tag for delivery in self), default=inf)


class FailureStreak:
    """Different events that failed alike in a row, with no success between them.

    One event that fails is malformed. Several that fail alike, while none succeeds, are not: a
    mistake in the handler, or in what it stands on. An event that failed while others succeeded
    is remembered as malformed, and never counts again.
    """

    def __init__(self) -> None:
        self._unproven: dict[str, tuple[type, str]] = {}
        self._malformed: dict[str, None] = {}

    def fail(self, event_id: str, exc: Exception) -> bool:
        """Record a failure; whether it is now one of MAX_ALIKE or more that are alike."""
        if event_id in self._malformed:
            return False
        kind = (type(exc), sqlstate(exc))
        self._unproven[event_id] = kind
        _forget_oldest(self._unproven)
        return sum(other == kind for other in self._unproven.values()) >= MAX_ALIKE

    def succeed(self, failed_beside: Sequence[str] = ()) -> None:
        """Some event was handled: those that failed before, or in the same batch, are malformed."""
        self._malformed |= dict.fromkeys([*self._unproven, *failed_beside])
        self._unproven.clear()
        _forget_oldest(self._malformed)


def _forget_oldest(ids: dict[str, Any]) -> None:
    while len(ids) > MAX_REMEMBERED:
        del ids[next(iter(ids))]


def is_contention(exc: BaseException) -> bool:
    """Whether others hold what these events need: a lock, a timeout, a deadlock (class 40)."""
    return sqlstate(exc) in TOO_SLOW or sqlstate(exc)[:2] == "40"


def is_own_dependency(exc: Exception) -> bool:
    """Whether what failed is the service's own database or broker, and not the event.

    Class 54 of SQLSTATE (a limit of the server) is the event's own: its value is too large.
    """
    if isinstance(exc, CALL_FAULTS) or is_contention(exc):
        return False
    code = sqlstate(exc)
    return code in MISSING or (is_transient(exc) and code[:2] != "54")
