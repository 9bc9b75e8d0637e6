"""Natural batching: calls made while a batch is under way gather, and go out together next.

No timer and no added wait: a lone call goes at once, alone; under load a batch grows by itself to
what arrived during the one before it (group commit, as databases do it with their log).
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

import eventlet
from eventlet.hubs import get_hub

from chassis.errors import DeadlineExceeded, InternalError

Send = Callable[[Sequence[Any], float, float], list[Any]]
LAST_PART = 0.2  # of an item's time: then it is too late to send it
PATIENCE_S = (
    0.5  # a batch that takes longer is slow: it met a frozen copy of its service, say
)
MOST_SLOW = 16  # as many as a hanging copy takes (WORKERS by default): what comes later goes to others


class Call:
    """One item on its way: what to send, until when it is worth sending, and its outcome."""

    __slots__ = ("deadline", "item", "outcome", "too_late")

    def __init__(self, item: Any, timeout_s: float) -> None:
        self.item = item
        self.deadline = monotonic() + timeout_s
        # From then on it is not sent: its whole batch would have no more time than it.
        self.too_late = self.deadline - timeout_s * LAST_PART
        self.outcome = eventlet.Event()

    def result(self) -> Any:
        """The item's outcome, or the fault of its batch; DeadlineExceeded when its time is over."""
        with eventlet.Timeout(
            max(self.deadline - monotonic(), 0),
            DeadlineExceeded("no answer in time"),
        ):
            return self.outcome.wait()


class Coalescer:
    """Sends items in batches of at most `max_items`, at most `lanes` batches at a time.

    `send(items, tell_s, wait_s)` gives an outcome for each item, in order; where it raises, each of its
    items gets that fault. In `tell_s` seconds the first caller stops waiting, in `wait_s` the last. `send`
    runs in greenthreads made by `spawn`, never in a caller's, whose time-out would fail the others. Items
    go out in the order they came.

    A batch that takes longer than `patience_s` gives its lane to the next one: a copy of the service that
    hangs holds up its own batches only. MOST_SLOW such batches may be on their way.
    """

    def __init__(
        self,
        send: Send,
        spawn: Callable[[Callable[[], None]], object],
        *,
        max_items: int = 200,
        lanes: int = 2,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._send = send
        self._spawn = spawn
        self._max_items = max_items
        self._lanes = lanes
        self._patience_s = patience_s
        self._busy: set[object] = set()  # the lanes in use
        self._slow: set[object] = set()  # those that were given away
        self._waiting: deque[Call] = deque()

    def submit(self, item: Any, timeout_s: float) -> Call:
        """Queue one item; when `timeout_s` seconds are nearly over it is sent no more."""
        call = Call(item, timeout_s)
        self._waiting.append(call)
        self._open_lane()
        return call

    def _open_lane(self) -> None:
        if self._waiting and len(self._busy) < self._lanes:
            lane = object()
            self._busy.add(lane)
            self._spawn(partial(self._run_lane, lane))

    def _run_lane(self, lane: object) -> None:
        try:
            while lane in self._busy and (batch := self._next_batch()):
                self._send_patiently(batch, lane)
        finally:
            self._busy.discard(lane)
            self._slow.discard(lane)

    def _send_patiently(self, batch: list[Call], lane: object) -> None:
        timer = get_hub().schedule_call_global(
            self._patience_s, self._give_lane_away, lane
        )
        try:
            self._send_batch(batch)
        finally:
            timer.cancel()

    def _give_lane_away(self, lane: object) -> None:
        """Let the next batch go while a slow one is still on its way."""
        if len(self._slow) < MOST_SLOW:
            self._busy.remove(lane)
            self._slow.add(lane)
            self._open_lane()

    def _next_batch(self) -> list[Call]:
        batch: list[Call] = []
        while self._waiting and len(batch) < self._max_items:
            call = self._waiting.popleft()
            if (
                monotonic() < call.too_late
            ):  # the caller of a late one gets its DeadlineExceeded
                batch.append(call)
        return batch

    def _send_batch(self, batch: list[Call]) -> None:
        try:
            times = [call.deadline - monotonic() for call in batch]
            outcomes = self._send([call.item for call in batch], min(times), max(times))
            if not isinstance(outcomes, list) or len(outcomes) != len(batch):
                raise InternalError("a batch was not answered item by item")
        except Exception as fault:  # whatever it is, it is the callers' to handle
            for call in batch:
                call.outcome.send_exception(fault)
            return
        for call, outcome in zip(batch, outcomes, strict=True):
            call.outcome.send(outcome)
