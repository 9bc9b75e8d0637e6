"""`@event_handler` in batches, losing nothing: a failed event is tried again, then dead-lettered.

Events that arrive while a batch is handled gather, and are the next batch. A message is acked only
when its work is done, or when the broker has confirmed its copy in another queue. No event waits in
a queue with a time to live: the broker does not confirm how it leaves that. The main queue is declared as
stock Nameko declares it.
"""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from time import monotonic
from typing import Any, NamedTuple

import eventlet
import kombu
from eventlet.queue import Empty, LightQueue
from kombu import Queue
from nameko.events import EventHandler as NamekoEventHandler
from nameko.exceptions import ContainerBeingKilled

from chassis import health, metrics
from chassis.broker import OutgoingMessage, declare_queue
from chassis.consumer import ConsumerProvider, QueueConsumer
from chassis.errors import Unavailable, description, first_line
from chassis.loops import LoopWatch
from chassis.moves import headers_of, moves_exchange, properties_of
from chassis.publishers import ConfirmedPublisher
from chassis.retries import (
    CALL_FAULTS,
    MAX_ATTEMPTS,
    MAX_HELD,
    MAX_SAME_FAILURES,
    PAUSES_S,
    Delivery,
    FailureStreak,
    HeldDeliveries,
    is_contention,
    is_own_dependency,
)

log = logging.getLogger(__name__)

BATCH = 200  # events
PREFETCH = 2 * BATCH  # one batch is handled, the next one gathers, unless MAX_HELD wait
PROBE_S = 1.0  # without an event to try, a paused handler consumes as usual
GATHER_S = 0.1  # for a probe of several events
OVERFLOW_PAUSE_S = 1.0
MAX_BATCH_S = 60.0
MAX_COUNT = 1_000_000  # of a header: a forged one must not overflow
# Our headers: all attempts, those that failed on the event's own content, and the last error.
ATTEMPTS, FAILURES, ERROR = "x-attempts", "x-failures", "x-error"

Reasons = Sequence[
    tuple[Any, Exception]
]  # the events that a handler did not finish, and why


class Failure(NamedTuple):
    """A failed attempt; `is_named`: the handler itself told this event from the others."""

    delivery: Delivery
    error: Exception
    is_named: bool


@dataclass
class BatchResult:
    """What became of a batch. `unavailable`: why the rest of it was not tried."""

    started_at: float  # monotonic
    done: list[Delivery] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    unavailable: Exception | None = None
    has_returned: bool = False  # some call of the handler did


class EventHandler(ConsumerProvider, NamekoEventHandler):
    """`@event_handler("orders", "order_paid")`: the method gets a list of events, BATCH at most.

    Delivery is at least once: the handler's effect must be protected by a unique key. It returns
    None, or the events that it could not finish with their reasons. Where it raises:

    - The service's own database or broker is unavailable: the handler pauses. All that it holds
      returns to the queue, and after PAUSES_S it is tried with one event.
    - A call to another service failed: these events are tried again later, for as long as it takes.
    - Anything else: the halves of the batch are tried, down to the event that fails alone. It is
      tried MAX_ATTEMPTS times in all, then published to `<queue>.dead`. Contention is not counted.
    - Several different events in a row fail alike: that is no property of the events. It pauses,
      and is tried with more and more of them.

    Events that wait for their next attempt are held unacked, within bounds; beyond them a confirmed
    copy goes to the end of the queue.
    """

    queue_consumer = QueueConsumer()
    publisher = ConfirmedPublisher()

    def setup(self) -> None:
        super().setup()
        self.inbox = LightQueue()
        self.held = HeldDeliveries()
        self._streak = FailureStreak()
        self.prefetch = (
            PREFETCH  # 0 while it pauses, fewer while it tries whether it can go on
        )
        self._probe = 1  # events to try next
        self._pauses = 0  # in a row
        self._pause_reason = ""
        self._stopping = eventlet.Event()
        self.moves = moves_exchange(self.container.service_name)

    def start(self) -> None:
        metrics.EVENTS_PAUSED.labels(self.queue.name).set_function(
            lambda: float(self.prefetch != PREFETCH),
        )
        self._watch = LoopWatch(self.container.service_name, self.method_name)
        health.add_check(
            self.container.service_name, self.method_name, self._check_running
        )
        self._thread = self.container.spawn_managed_thread(
            self._run, identifier=self.queue.name
        )

    def stop(self) -> None:
        """Finish the batch in hand; all other messages return to the queue unacked."""
        super().stop()
        self._stopping.send()
        self.inbox.put(None)  # wakes the greenthread that waits for more
        self._thread.wait()

    def declare(self, channel: Any) -> None:
        """Declare the queue and its dead-letter queue, on a new channel."""
        for queue in (
            self.queue,
            Queue(self.dead_name(), self.moves, self.dead_name()),
        ):
            declare_queue(queue, channel)
        self.queue.bind_to(self.moves, self.queue.name, channel=channel)

    def dead_name(self) -> str:
        """The dead-letter queue; `python -m chassis.dead` lists and redrives it."""
        return f"{self.queue.name}.dead"

    def consumer(self, channel: Any, accept: Any) -> kombu.Consumer:
        """A consumer for the queue consumer.

        It has a channel of its own: one ack of many would end requests that are in progress.
        """
        self.held.clear()  # the messages of the last channel are the broker's again
        own = channel.connection.channel()
        self.declare(own)
        own.auto_decode = False  # a body is its bytes, whatever its encoding claims
        consumer = kombu.Consumer(
            own,
            queues=[self.queue],
            auto_declare=False,
            on_message=self._receive,
            on_decode_error=lambda message, exc: self._receive(message),
            accept=accept,
        )
        consumer.qos(prefetch_count=self.prefetch)
        return consumer

    def _receive(self, message: Any) -> None:
        self.inbox.put(_delivery(message))

    def _run(self) -> None:
        with suppress(ContainerBeingKilled):
            while not self._stopping.ready():
                if batch := self._next_batch():
                    self._handle(batch)

    def _next_batch(self) -> list[Delivery]:
        """Held events that are due; otherwise those that have arrived, or none after a wait."""
        if due := self.held.take_due(monotonic(), BATCH):
            return [delivery for delivery in due if delivery.is_alive]
        if not (first := self._wait_for_one()):
            return []
        if self._is_probing and self.prefetch > 1:
            eventlet.sleep(GATHER_S)
        batch = [first]
        while len(batch) < BATCH and not self.inbox.empty():
            batch.append(self.inbox.get())
        return [delivery for delivery in batch if delivery and delivery.is_alive]

    def _wait_for_one(self) -> Delivery | None:
        """The next event to arrive; None at a stop, and when a held one is due."""
        timeout_s: float | None = self.held.next_due() - monotonic()
        if self._is_probing:
            timeout_s = PROBE_S
        elif not self.held:
            timeout_s = None
        try:
            delivery: Delivery | None = self.inbox.get(timeout=timeout_s)
        except Empty:
            if self._is_probing and self.queue_consumer.is_consuming(self):
                self._resume()
            return None
        return delivery if not self._stopping.ready() else None

    @property
    def _is_probing(self) -> bool:
        return 0 < self.prefetch < PREFETCH

    def _handle(self, batch: Sequence[Delivery]) -> None:
        """Handle a batch, settle each of its messages, and pause where needed."""
        with self._watch.step():
            result = self._work(batch)
            metrics.EVENTS.labels(self.queue.name, "done").inc(len(result.done))
            metrics.EVENTS.labels(self.queue.name, "failed").inc(
                len(batch) - len(result.done)
            )
            pause_reason = self._settle(batch, result)
            if not pause_reason and self._is_probing and result.has_returned:
                self._resume()
            if result.done:
                self._pauses, self._probe = 0, 1
        if pause_reason:
            self._pause(pause_reason)

    def _work(self, batch: Sequence[Delivery]) -> BatchResult:
        """Call the handler until each event is done or failed, or a dependency is unavailable."""
        result, events = BatchResult(monotonic()), []
        for delivery in batch:
            try:
                events.append((delivery, _payload(delivery.message)))
            except (
                Exception
            ) as exc:  # whatever the decoder raises: it will not become readable
                delivery.failures = MAX_ATTEMPTS - 1
                result.failed.append(Failure(delivery, exc, is_named=True))
        if events:
            self._try(events, result)
        return result

    def _try(self, events: Sequence[tuple[Delivery, Any]], result: BatchResult) -> None:
        if result.unavailable:
            return
        reasons, exc = self._call(events)
        if exc is None:
            self._sort(events, reasons or (), result)
        elif is_own_dependency(exc):
            result.unavailable = exc
        elif len(events) == 1 or isinstance(exc, CALL_FAULTS):
            result.failed += [
                Failure(delivery, exc, is_named=False) for delivery, _ in events
            ]
            self._stop_if_slow(result, exc)
        else:
            half = len(events) // 2
            self._try(events[:half], result)
            self._try(events[half:], result)

    def _stop_if_slow(self, result: BatchResult, exc: Exception) -> None:
        """Give up the rest of a batch whose events take their time to fail.

        One by one they would take half an hour, and the broker closes the channel then.
        """
        slow = sum(is_contention(failure.error) for failure in result.failed)
        takes_long = monotonic() - result.started_at > MAX_BATCH_S
        if takes_long or (slow >= MAX_SAME_FAILURES and not result.has_returned):
            result.unavailable = exc

    def _sort(
        self,
        events: Sequence[tuple[Delivery, Any]],
        reasons: Reasons,
        result: BatchResult,
    ) -> None:
        """Record a call that returned: done, but for the events that it named."""
        result.has_returned = True
        failed = {id(event): reason for event, reason in reasons}
        for delivery, event in events:
            if reason := failed.get(id(event)):
                result.failed.append(Failure(delivery, reason, is_named=True))
            else:
                result.done.append(delivery)

    def _call(
        self, events: Sequence[tuple[Delivery, Any]]
    ) -> tuple[Reasons, Exception | None]:
        """Run the handler in a worker, under the request id of the first event.

        Returns the events that it could not finish, and what it raised.
        """
        outcome = eventlet.Event()

        def finish(worker_ctx: Any, result: Any, exc_info: Any) -> tuple[Any, Any]:
            outcome.send((result, exc_info and exc_info[1]))
            return result, exc_info

        self.container.spawn_worker(
            self,
            ([event for _, event in events],),
            {},
            context_data=self.unpack_message_headers(events[0][0].message),
            handle_result=finish,
        )
        reasons, exc = outcome.wait()
        return reasons, exc

    def _settle(self, batch: Sequence[Delivery], result: BatchResult) -> str:
        """Ack, hold, or move each message; why the handler must pause, or "".

        Nothing is recorded against an event while a dependency is unavailable.
        """
        if result.unavailable:
            self._ack(batch, result.done)
            self._probe = 1
            return first_line(result.unavailable)
        alike = self._failed_alike(result)
        if alike and not self._is_probing:
            return alike
        if self._is_probing and not result.has_returned:
            return self._give_way(batch, result, alike)
        now = monotonic()  # one moment for all: they come back together
        moved = self._hold(result.failed, now)
        try:
            self._move(moved)
        except Unavailable as exc:
            if not self._hold_dead_letters(moved, now):
                self._ack(batch, result.done)
                return first_line(exc)
            log.warning(
                "dead_lettering_postponed",
                extra={"queue": self.queue.name, "error": str(exc)},
            )
            moved = []
        self._ack(batch, [*result.done, *moved])
        if any(not delivery.is_exhausted for delivery in moved):
            eventlet.sleep(OVERFLOW_PAUSE_S)  # a short queue would come round at once
        return ""

    def _failed_alike(self, result: BatchResult) -> str:
        """What several different events in a row have met, for the log; "" where there is none."""
        own = [
            f
            for f in result.failed
            if not (f.is_named or isinstance(f.error, CALL_FAULTS))
        ]
        if result.has_returned:
            self._streak.record_success([failure.delivery.id for failure in own])
            return ""
        alike = [
            f.error for f in own if self._streak.record_failure(f.delivery.id, f.error)
        ]
        return f"different events fail alike: {description(alike[0])}" if alike else ""

    def _give_way(
        self, batch: Sequence[Delivery], result: BatchResult, alike: str
    ) -> str:
        """Let the next probe meet other events, and more of them; why the handler still pauses.

        Those that were tried go to the end of the queue: they may be malformed all the same, and
        must not keep the events behind them from showing that the handler works.
        """
        for failure in result.failed:
            if failure.is_named or not alike:
                failure.delivery.record_failure(failure.error)
        try:
            self._move(batch)
        except Unavailable as exc:  # they return to their place
            return first_line(exc)
        self._ack(batch, batch)
        self._probe = min(2 * self._probe, BATCH)
        if all(failure.is_named for failure in result.failed):
            return ""  # nothing was tried: the next one tells
        return (
            alike
            or f"no event has succeeded yet: {description(result.failed[0].error)}"
        )

    def _hold(self, failures: Sequence[Failure], now: float) -> list[Delivery]:
        """Record failed attempts and hold the events for their next one; those to move instead."""
        moved: list[Delivery] = []
        for delivery, error, _ in failures:
            delivery.record_failure(error)
            if delivery.is_exhausted or not self.held.has_room_for(delivery, now):
                moved.append(delivery)
            else:
                self.held.hold(delivery, now)
        if failures:
            first = failures[0].delivery
            log.warning(
                "events_failed",
                extra={
                    "queue": self.queue.name,
                    "events": len(failures),
                    "first": first.id,
                    "error": first.error,
                },
            )
        return moved

    def _hold_dead_letters(self, moved: Sequence[Delivery], now: float) -> bool:
        """Keep dead letters that the broker does not take now; False unless all can be kept.

        A broker in a memory alarm takes none, and needs its queues drained more than ever.
        """
        can_hold = len(self.held) + len(moved) <= MAX_HELD and all(
            delivery.is_exhausted and self.held.has_room_for(delivery, now)
            for delivery in moved
        )
        if can_hold:
            for delivery in moved:
                self.held.hold(delivery, now)
        return can_hold

    def _move(self, deliveries: Sequence[Delivery]) -> None:
        """Publish a copy of each: exhausted ones as dead letters, others to the end of the queue.

        Raises Unavailable unless the broker confirms that all are in a queue.
        """
        if not deliveries:
            return
        if not all(
            self.publisher.publish([self._copy(delivery) for delivery in deliveries])
        ):
            raise Unavailable(
                f"a queue is missing beside {self.queue.name}: the migrations have not run"
            )
        dead = [delivery for delivery in deliveries if delivery.is_exhausted]
        metrics.EVENTS.labels(self.queue.name, "parked").inc(len(dead))
        for delivery in dead:
            log.error(
                "event_dead_lettered",
                extra={
                    "queue": self.dead_name(),
                    "event_id": delivery.id,
                    "error": delivery.error,
                },
            )

    def _copy(self, delivery: Delivery) -> OutgoingMessage:
        """The message as it goes into another queue, with what its attempts came to."""
        counts = {
            ATTEMPTS: delivery.attempts,
            FAILURES: delivery.failures,
            ERROR: delivery.error,
        }
        return OutgoingMessage(
            exchange=self.moves.name,
            routing_key=self.dead_name() if delivery.is_exhausted else self.queue.name,
            body=bytes(delivery.message.body or b""),
            headers={**headers_of(delivery.message), **counts},
            properties={**properties_of(delivery.message), "message_id": delivery.id},
        )

    def _ack(self, batch: Sequence[Delivery], settled: Sequence[Delivery]) -> None:
        """Ack those of the batch that are settled, and no other message.

        One ack of many covers all lower tags of the channel. So it may reach only as far as the
        first message that is not settled: one that is held, or another one of the batch.
        """
        tags = {delivery.tag for delivery in batch} - {
            delivery.tag for delivery in settled
        }
        lowest_open = min([self.held.lowest_tag(), *tags])
        covered = [delivery for delivery in settled if delivery.tag < lowest_open]
        if covered:
            self.queue_consumer.ack_up_to(max(covered, key=attrgetter("tag")).message)
        self.queue_consumer.ack_each(
            [d.message for d in settled if d.tag > lowest_open]
        )

    def _pause(self, reason: str) -> None:
        """Return all messages to the queue; after a while, let one come."""
        pause_s = PAUSES_S[min(self._pauses, len(PAUSES_S) - 1)]
        self._pauses += 1
        self._pause_reason = reason
        self.prefetch = 0
        log.warning(
            "event_handler_paused",
            extra={"queue": self.queue.name, "error": reason, "seconds": pause_s},
        )
        self.queue_consumer.apply_prefetch(self)
        self._stopping.wait(timeout=pause_s)
        self.prefetch = self._probe
        self.queue_consumer.apply_prefetch(self)

    def _resume(self) -> None:
        """Consume as usual again."""
        self.prefetch = PREFETCH
        log.info("event_handler_resumed", extra={"queue": self.queue.name})
        self.queue_consumer.apply_prefetch(self)

    def _check_running(self) -> None:
        """For /readyz: raises Unavailable while the handler pauses or is stuck."""
        self._watch.check()
        if self.prefetch != PREFETCH:
            raise Unavailable(self._pause_reason)


def _delivery(message: Any) -> Delivery:
    """A delivery of the message. An event of stock Nameko has no id, and gets its digest as one."""
    return Delivery(
        message=message,
        id=message.properties.get("message_id")
        or hashlib.sha256(message.body or b"").hexdigest(),
        attempts=_count(message, ATTEMPTS),
        failures=_count(message, FAILURES),
        received_at=monotonic(),
    )


def _payload(message: Any) -> Any:
    """The event in a message; raises what is wrong with it."""
    for _, exc, _ in message.errors:  # found when it arrived
        raise exc
    return message.decode()


def _count(message: Any, header: str) -> int:
    given = message.headers.get(header)
    return min(given, MAX_COUNT) if isinstance(given, int) and given > 0 else 0


event_handler = EventHandler.decorator
