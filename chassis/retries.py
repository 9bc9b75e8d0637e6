"""Rules for failed events: find them in a batch by bisection, and schedule their retries.

A batch is tried by running the method once. If it raises an exception, each half of the batch is
tried, and so on, down to single events. So a malformed event does not fail the others. An event
that fails alone is retried with a delay, a limited number of times.

These rules do not publish or ack. `chassis.events` does that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any, NamedTuple

from chassis.errors import FAULTS, description, is_transient, sqlstate

# The delays before the retries of an event, and the pauses of a handler in a row. The last value
# of each applies to all later ones.
RETRY_DELAYS_S = (1, 5, 15)
PAUSES_S = (1, 2, 4, 8, 15)
# After this number of failures on its own content an event is dead-lettered. Other attempts do
# not count, see Delivery.record_attempt.
MAX_FAILURES = 5
# After this time the rest of a batch is not tried. RabbitMQ closes a channel that does not ack
# for 30 minutes.
MAX_BATCH_S = 60.0
# Unacked events that wait for a retry.
MAX_HELD = 200
# RabbitMQ closes a channel with a message that is unacked for 30 minutes.
MAX_HELD_S = 300
# Different events in a row that fail with the same error before the handler pauses. Two malformed
# events in a row are not unusual.
MAX_SAME_FAILURES = 3
# Event ids in the memory of a FailureStreak.
MAX_REMEMBERED = 1000
# SQLSTATEs of a missing privilege, table, column, function or schema. No value of an event causes
# them, because all statements are constants.
MISSING_OBJECT = {"42501", "42P01", "42703", "42883", "3F000"}
# SQLSTATEs of a statement or a lock that took too long. The batch is too large, or a row is locked.
TIMED_OUT = {"57014", "55P03"}


@dataclass(slots=True, eq=False, kw_only=True)
class Delivery:
    """A delivered message, and the record of its attempts.

    `attempts` counts all attempts. `failures` counts those that failed on the event's own content.
    """

    message: Any
    id: str
    attempts: int = 0
    failures: int = 0
    received_at: float  # seconds, monotonic
    error: str = ""

    @property
    def tag(self) -> int:
        """The delivery tag: the number of the message on its channel."""
        return int(self.message.delivery_info["delivery_tag"])

    @property
    def is_alive(self) -> bool:
        """Whether its channel is open. Otherwise the broker delivers the message again."""
        return bool(self.message.channel.connection)

    @property
    def is_exhausted(self) -> bool:
        """Whether the event must be dead-lettered."""
        return self.failures >= MAX_FAILURES

    def record_attempt(self, exc: Exception) -> None:
        """Record a failed attempt.

        It also counts as a failure, unless the cause is another service or contention.
        """
        self.attempts += 1
        if not (isinstance(exc, FAULTS) or is_contention(exc)):
            self.failures += 1
        self.error = description(exc)[:1000]

    def delay_s(self) -> float:
        """Return the seconds until the next attempt."""
        return RETRY_DELAYS_S[min(self.attempts, len(RETRY_DELAYS_S)) - 1]


class HeldDeliveries(dict[Delivery, float]):
    """Unacked messages, each with the time of its next attempt (seconds, monotonic)."""

    def has_room_for(self, delivery: Delivery, now: float) -> bool:
        """Whether the message may be held for its next delay, by MAX_HELD and MAX_HELD_S."""
        held_s = now + delivery.delay_s() - delivery.received_at
        return len(self) < MAX_HELD and held_s <= MAX_HELD_S

    def hold(self, delivery: Delivery, now: float) -> None:
        """Hold a message until its next attempt."""
        self[delivery] = now + delivery.delay_s()

    def take_due(self, now: float, limit: int) -> list[Delivery]:
        """Remove and return at most `limit` messages that are due, the earliest first."""
        due = [delivery for delivery in self if self[delivery] <= now]
        taken = sorted(due, key=self.__getitem__)[:limit]
        for delivery in taken:
            del self[delivery]
        return taken

    def next_due(self) -> float:
        """Return the time of the earliest attempt (monotonic), or infinity."""
        return min(self.values(), default=inf)

    def lowest_tag(self) -> float:
        """Return the lowest delivery tag of the held messages, or infinity."""
        return min((delivery.tag for delivery in self), default=inf)


@dataclass
class FailureStreak:
    """Counts different events in a row that fail with the same error.

    One event that fails is malformed. If several events fail with the same error and none
    succeeds, the method or a dependency is broken. Events that failed while others succeeded are
    remembered as malformed, and are not counted again.
    """

    # By event id, the kinds of the failures since the last success.
    _failed: dict[str, tuple[type, str]] = field(default_factory=dict, init=False)
    # The ids of malformed events. A dictionary, because it keeps the order.
    _malformed: dict[str, None] = field(default_factory=dict, init=False)

    def record_failure(self, event_id: str, exc: Exception) -> bool:
        """Record a failure. Return whether MAX_SAME_FAILURES events failed in this way."""
        if event_id in self._malformed:
            return False
        kind = (type(exc), sqlstate(exc))
        self._failed[event_id] = kind
        _forget_oldest(self._failed)
        return list(self._failed.values()).count(kind) >= MAX_SAME_FAILURES

    def record_success(self, failed_in_batch: Sequence[str] = ()) -> None:
        """Record a success, and the ids of events that failed in the same batch.

        All events that failed before, or in this batch, are malformed.
        """
        self._malformed |= dict.fromkeys([*self._failed, *failed_in_batch])
        self._failed.clear()
        _forget_oldest(self._malformed)


def _forget_oldest(ids: dict[str, Any]) -> None:
    while len(ids) > MAX_REMEMBERED:
        del ids[next(iter(ids))]


def is_contention(exc: BaseException) -> bool:
    """Whether other transactions interfered: a lock, a timeout, a deadlock (class 40)."""
    return sqlstate(exc) in TIMED_OUT or sqlstate(exc)[:2] == "40"


def own_dependency_failed(exc: Exception) -> bool:
    """Whether the service's own database or broker has failed, and not the event.

    SQLSTATE's class 54 (program limit exceeded) is a failure of the event: its value is too large.
    """
    if isinstance(exc, FAULTS) or is_contention(exc):
        return False
    code = sqlstate(exc)
    return code in MISSING_OBJECT or (is_transient(exc) and code[:2] != "54")


# Events, each with its delivery. An event is the decoded body of the message.
Events = Sequence[tuple[Delivery, Any]]
# Runs the method. Returns two values: the events that the method reports as failed, with their
# errors, and the exception that it raised, or None.
RunMethod = Callable[[Events], tuple[Sequence[tuple[Any, Exception]], Exception | None]]


class Failure(NamedTuple):
    """A failed attempt at an event.

    `is_attributed`: the error certainly belongs to this event. The method named the event, or
    its message cannot be decoded.
    """

    delivery: Delivery
    error: Exception
    is_attributed: bool


@dataclass(kw_only=True)
class BatchAttempt:
    """An attempt to handle a batch, and its result.

    `stopped_by` is the reason why the rest of the batch was not tried, or None. `method_returned`
    says whether the method has returned without an exception.
    """

    run_method: RunMethod
    started_at: float = field(default_factory=monotonic)
    done: list[Delivery] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    stopped_by: Exception | None = None
    method_returned: bool = False

    def handle(self, events: Events) -> None:
        """Run the method with the events, or with halves of them after an exception."""
        failed, exc = self.run_method(events)
        if exc is None:
            self._record_return(events, failed or ())
        elif own_dependency_failed(exc):
            self.stopped_by = exc
        elif len(events) == 1 or isinstance(exc, FAULTS):
            self._record_failures(events, exc)
        else:
            middle = len(events) // 2
            self.handle(events[:middle])
            if not self.stopped_by:
                self.handle(events[middle:])

    def _record_return(
        self, events: Events, failed: Sequence[tuple[Any, Exception]]
    ) -> None:
        """Record that the method returned. All events are done, except those in `failed`."""
        self.method_returned = True
        errors = {id(event): error for event, error in failed}
        for delivery, event in events:
            if error := errors.get(id(event)):
                self.failed.append(Failure(delivery, error, is_attributed=True))
            else:
                self.done.append(delivery)

    def _record_failures(self, events: Events, exc: Exception) -> None:
        """Record that the method raised an exception. Stop a batch that is too slow.

        If each event waits for a lock until its statement times out, 200 events take half an hour.
        """
        self.failed += [
            Failure(delivery, exc, is_attributed=False) for delivery, _ in events
        ]
        slow = [each for each in self.failed if is_contention(each.error)]
        if monotonic() - self.started_at > MAX_BATCH_S or (
            len(slow) >= MAX_SAME_FAILURES and not self.method_returned
        ):
            self.stopped_by = exc
