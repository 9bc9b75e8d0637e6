"""Calls an event handler with a batch, and finds the events that fail, by bisection.

The whole batch is tried with one call. If that call raises an exception, each half of the batch is
tried, and so on, down to single events. So a malformed event does not fail the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NamedTuple

from chassis.retries import (
    CALL_FAULTS,
    MAX_SAME_FAILURES,
    Delivery,
    is_contention,
    is_own_dependency,
)

# Then the rest of a batch is not tried. RabbitMQ closes a channel that does not ack for too long.
MAX_BATCH_S = 60.0

Events = Sequence[tuple[Delivery, Any]]
# Calls the handler. Returns the events that it names as failed, with their errors, and the
# exception that it raised or None.
Call = Callable[[Events], tuple[Sequence[tuple[Any, Exception]], Exception | None]]


class Failure(NamedTuple):
    """A failed attempt at an event.

    `is_attributed`: the error certainly belongs to this event. The handler named the event, or
    its message cannot be decoded.
    """

    delivery: Delivery
    error: Exception
    is_attributed: bool


@dataclass(kw_only=True)
class BatchAttempt:
    """An attempt to handle a batch, and its result.

    `unavailable` is the reason why the rest of the batch was not tried, or None. `has_returned`
    says whether the handler has returned from a call without an exception.
    """

    call: Call
    started_at: float = field(default_factory=monotonic)
    done: list[Delivery] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    unavailable: Exception | None = None
    has_returned: bool = False

    def handle(self, events: Events) -> None:
        """Call the handler with the events, or with halves of them after an exception."""
        failed, exc = self.call(events)
        if exc is None:
            self._record_return(events, failed or ())
        elif is_own_dependency(exc):
            self.unavailable = exc
        elif len(events) == 1 or isinstance(exc, CALL_FAULTS):
            self._record_failures(events, exc)
        else:
            middle = len(events) // 2
            self.handle(events[:middle])
            if not self.unavailable:
                self.handle(events[middle:])

    def _record_return(
        self, events: Events, failed: Sequence[tuple[Any, Exception]]
    ) -> None:
        """Record a call that returned. All events are done, except those in `failed`."""
        self.has_returned = True
        errors = {id(event): error for event, error in failed}
        for delivery, event in events:
            if error := errors.get(id(event)):
                self.failed.append(Failure(delivery, error, is_attributed=True))
            else:
                self.done.append(delivery)

    def _record_failures(self, events: Events, exc: Exception) -> None:
        """Record a call that raised an exception."""
        self.failed += [
            Failure(delivery, exc, is_attributed=False) for delivery, _ in events
        ]
        if self._takes_too_long():
            self.unavailable = exc

    def _takes_too_long(self) -> bool:
        """Whether the rest of the batch must not be tried now.

        If each event waits for a lock until its statement times out, 200 events take half an hour.
        """
        slow = [each for each in self.failed if is_contention(each.error)]
        return monotonic() - self.started_at > MAX_BATCH_S or (
            len(slow) >= MAX_SAME_FAILURES and not self.has_returned
        )
