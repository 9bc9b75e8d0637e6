"""Combines concurrent calls into batches. No call waits for a timer.

While fewer than `max_in_flight` batches are in flight, a call is sent at once. A call that arrives
later waits until a batch ends, and is an item of the next one. So a single call is not delayed, and
batches grow with the load. Databases write their logs in the same way (group commit).

    coalescer = Coalescer(send, eventlet.spawn)
    pending = coalescer.submit({"amount_minor": 100}, timeout_s=5.0)
    outcome = pending.result()
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

import eventlet.hubs

from chassis.errors import DeadlineExceeded, InternalError

# send(items, callee_timeout_s, reply_timeout_s) returns an outcome for each item, in order.
Send = Callable[[Sequence[Any], float, float], list[Any]]

# An item is sent only while more than this fraction of its timeout remains. The callee's timeout
# is the shortest remaining time of the batch. So an item near its deadline would fail the others.
MIN_REMAINING_FRACTION = 0.2
# A batch is slow after this time. The usual cause is a frozen copy of the callee.
SLOW_AFTER_S = 0.5
# Slow batches in flight, in addition to `max_in_flight`. A frozen copy with 16 workers (the default
# of most services) receives 16 messages. The broker delivers later ones to other copies.
MAX_SLOW_BATCHES = 16


class PendingItem:
    """An item on its way to the callee, and its outcome when it arrives."""

    __slots__ = ("deadline", "item", "outcome_event", "send_before")

    def __init__(self, item: Any, timeout_s: float) -> None:
        self.item = item
        self.deadline = monotonic() + timeout_s
        self.send_before = self.deadline - timeout_s * MIN_REMAINING_FRACTION
        self.outcome_event = eventlet.Event()

    def result(self) -> Any:
        """Wait for the outcome of the item.

        Raises DeadlineExceeded at the item's deadline, or the fault of its batch.
        """
        with eventlet.Timeout(
            max(self.deadline - monotonic(), 0),
            DeadlineExceeded("no reply in time"),
        ):
            return self.outcome_event.wait()


class Coalescer:
    """Sends items in batches, first come, first served.

    `max_in_flight` batches are in flight at a time, with at most `max_items` items each. A slow
    batch frees its slot for another one. So a frozen copy of the callee delays only its own
    batches.

    `send` gets two timeouts. The callee's is the shortest remaining time of the items. The wait
    for the reply ends after the longest. If `send` raises an exception, each item of the batch
    gets that exception.

    `send` runs in greenthreads that `spawn` starts. It must not run in a caller's greenthread,
    because the timeout of that caller would interrupt the whole batch.
    """

    def __init__(
        self,
        send: Send,
        spawn: Callable[[Callable[[], None]], object],
        *,
        max_items: int = 200,
        max_in_flight: int = 2,
        slow_after_s: float = SLOW_AFTER_S,
    ) -> None:
        self._send = send
        self._spawn = spawn
        self._max_items = max_items
        self._max_in_flight = max_in_flight
        self._slow_after_s = slow_after_s
        self._waiting: deque[PendingItem] = deque()
        # A sender is a greenthread that sends one batch after the other, and this set holds a token
        # for it. It has a slot until one of its batches is slow. Then it ends after that batch.
        self._senders_with_slot: set[object] = set()
        self._slow_senders: set[object] = set()

    def submit(self, item: Any, timeout_s: float) -> PendingItem:
        """Queue an item for the next batch."""
        pending = PendingItem(item, timeout_s)
        self._waiting.append(pending)
        self._start_sender()
        return pending

    def _start_sender(self) -> None:
        """Start a sender, if items wait and a slot is free."""
        if self._waiting and len(self._senders_with_slot) < self._max_in_flight:
            sender = object()
            self._senders_with_slot.add(sender)
            self._spawn(partial(self._run_sender, sender))

    def _run_sender(self, sender: object) -> None:
        """Send batches until no items wait, or the sender has lost its slot."""
        try:
            while sender in self._senders_with_slot and (batch := self._take_batch()):
                self._send_batch(batch, sender)
        finally:
            self._senders_with_slot.discard(sender)
            self._slow_senders.discard(sender)

    def _take_batch(self) -> list[PendingItem]:
        """Remove the next items from the queue.

        Late items are dropped. Their callers get DeadlineExceeded from PendingItem.result().
        """
        now = monotonic()
        batch: list[PendingItem] = []
        while self._waiting and len(batch) < self._max_items:
            pending = self._waiting.popleft()
            if now < pending.send_before:
                batch.append(pending)
        return batch

    def _free_slot(self, sender: object) -> None:
        """Let another sender use the slot of a slow one, within MAX_SLOW_BATCHES."""
        if len(self._slow_senders) < MAX_SLOW_BATCHES:
            self._senders_with_slot.remove(sender)
            self._slow_senders.add(sender)
            self._start_sender()

    def _send_batch(self, batch: list[PendingItem], sender: object) -> None:
        """Send a batch, and pass its outcomes or its fault to the callers.

        The slot of its sender is freed if the batch is slow.
        """
        now = monotonic()
        remaining_s = [pending.deadline - now for pending in batch]
        slow_alarm = eventlet.hubs.get_hub().schedule_call_global(
            self._slow_after_s, self._free_slot, sender
        )
        try:
            outcomes = self._send(
                [pending.item for pending in batch], min(remaining_s), max(remaining_s)
            )
            if not isinstance(outcomes, list) or len(outcomes) != len(batch):
                raise InternalError("the reply does not have one outcome for each item")
        except Exception as fault:  # each caller handles it
            for pending in batch:
                pending.outcome_event.send_exception(fault)
        else:
            for pending, outcome in zip(batch, outcomes, strict=True):
                pending.outcome_event.send(outcome)
        finally:
            slow_alarm.cancel()
