"""`@event_handler`: methods that handle events in batches, with retries and dead letters.

A method gets a list of events: all that arrived while it handled the previous list. Delivery is
at least once, so a method must be idempotent. An event that fails is retried with a delay, and
after several failures it is moved to a dead-letter queue. A message is acked only when its event
is handled, or when the broker has confirmed its copy in another queue. So no event is lost.

    class Service:
        name = "billing"

        @event_handler("users", "user_created")
        def handle_user_created(self, events):
            open_accounts([event["user_id"] for event in events])
"""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from operator import attrgetter
from time import monotonic
from typing import Any

import eventlet.queue
import kombu
from nameko.events import EventHandler as NamekoEventHandler
from nameko.exceptions import ContainerBeingKilled

from chassis import health, metrics
from chassis.broker import OutgoingMessage, can_encode_headers, declare_queue
from chassis.consumer import ConsumerProvider, QueueConsumer
from chassis.errors import FAULTS, Unavailable, description, first_line
from chassis.loops import LoopWatch
from chassis.publishers import ConfirmedPublisher
from chassis.retries import (
    MAX_FAILURES,
    MAX_HELD,
    PAUSES_S,
    BatchAttempt,
    Delivery,
    Events,
    Failure,
    FailureStreak,
    HeldDeliveries,
)

log = logging.getLogger(__name__)

# Events in a batch.
MAX_BATCH = 200
# Unacked messages: at most one batch in progress, and as many in the inbox or held.
PREFETCH = 2 * MAX_BATCH
# If no event arrives for a probe in this time, the handler resumes.
PROBE_S = 1.0
# After the first event of a larger probe, the handler waits this long for the others.
GATHER_S = 0.1
# The pause after events were moved to the end of their queue. If the queue is short, the broker
# delivers them again at once.
OVERFLOW_PAUSE_S = 1.0
# The maximum of a count in a header. A forged count must not overflow.
MAX_COUNT = 1_000_000
# Headers of a moved message: the number of attempts, the number that failed on the event's content,
# and the last error.
ATTEMPTS, FAILURES, ERROR = "x-attempts", "x-failures", "x-error"
COPIED_PROPERTIES = ("content_type", "content_encoding", "message_id")
# By these headers the broker routes a message to more queues.
ROUTING_HEADERS = {"CC", "BCC"}

# The events that a method could not handle, each with its error.
FailedEvents = Sequence[tuple[Any, Exception]]


class EventHandler(ConsumerProvider, NamekoEventHandler):
    """An entrypoint that calls its method with a list of at most MAX_BATCH events.

    The method returns None, or the events that it could not handle, with their errors. If it
    raises an exception, the reaction depends on the cause:

    - The service's own database or broker is unavailable. The handler pauses: the broker requeues
      its messages. After a pause (PAUSES_S) it probes: it tries one event, and resumes if the
      method returns.
    - A call to another service failed. The events are retried until they succeed.
    - Any other exception. Halves of the batch are tried, down to single events. An event that
      fails alone is retried, and dead-lettered after MAX_FAILURES failures. Contention for
      database locks does not count as a failure.
    - Different events in a row fail with the same error. The method is probably broken, not the
      events. The handler pauses, and probes with more events each time.

    An event that waits for a retry is held unacked, within MAX_HELD and MAX_HELD_S. Otherwise a
    confirmed copy of it goes to the end of the queue.
    """

    queue_consumer = QueueConsumer()
    publisher = ConfirmedPublisher()

    def setup(self) -> None:
        super().setup()
        self.inbox = eventlet.queue.LightQueue()
        self.held = HeldDeliveries()
        # PREFETCH normally, 0 during a pause, and the size of the probe after a pause.
        self.prefetch = PREFETCH
        self.moves_exchange = moves_exchange(self.container.service_name)
        self._streak = FailureStreak()
        self._probe_size = 1
        self._pauses_in_row = 0
        self._pause_reason = ""
        self._stopping = eventlet.Event()

    def start(self) -> None:
        metrics.EVENTS_PAUSED.labels(self.queue.name).set_function(
            lambda: float(self.prefetch != PREFETCH)
        )
        self._watch = LoopWatch(self.container.service_name, self.method_name)
        health.add_check(
            self.container.service_name, self.method_name, self._check_running
        )
        self._thread = self.container.spawn_managed_thread(
            self._run, identifier=self.queue.name
        )

    def stop(self) -> None:
        """Finish the current batch. The broker requeues all other messages."""
        super().stop()
        self._stopping.send()
        # Wakes the greenthread that waits for a message.
        self.inbox.put(None)
        self._thread.wait()

    # Receiving messages

    @property
    def dead_letter_queue(self) -> str:
        """The name of the dead-letter queue, for `python -m chassis.dead_letters`."""
        return f"{self.queue.name}.dead"

    def declare(self, channel: Any) -> None:
        """Declare the queue and its dead-letter queue. `channel` must be new.

        The queue is declared as stock Nameko declares it. No queue has a time to live: the broker
        dead-letters expired messages without a confirm, so they could be lost.
        """
        declare_queue(self.queue, channel)
        declare_queue(
            kombu.Queue(
                self.dead_letter_queue, self.moves_exchange, self.dead_letter_queue
            ),
            channel,
        )
        self.queue.bind_to(self.moves_exchange, self.queue.name, channel=channel)

    def consumer(self, channel: Any, accept: Any) -> kombu.Consumer:
        """Return a consumer on a new channel, for the queue consumer.

        The handler needs its own channel. An ack with `multiple` covers all lower delivery tags of
        the channel, and must not cover RPC requests.
        """
        # These belong to the previous channel. The broker delivers them again.
        self.held.clear()
        own_channel = channel.connection.channel()
        self.declare(own_channel)
        # Bodies stay bytes, whatever their encoding.
        own_channel.auto_decode = False
        return kombu.Consumer(
            own_channel,
            queues=[self.queue],
            auto_declare=False,
            on_message=self._receive,
            on_decode_error=lambda message, exc: self._receive(message),
            accept=accept,
            prefetch_count=self.prefetch,
        )

    def _receive(self, message: Any) -> None:
        self.inbox.put(_delivery(message))

    def _run(self) -> None:
        with suppress(ContainerBeingKilled):
            while not self._stopping.ready():
                if batch := self._next_batch():
                    self._handle(batch)

    def _next_batch(self) -> list[Delivery]:
        """Return the held events that are due, or else the events that have arrived.

        Waits for an event. The list is empty at a stop, or if no event arrived in time.
        """
        batch: list[Delivery | None] = [*self.held.take_due(monotonic(), MAX_BATCH)]
        if not batch and (first := self._wait_for_one()):
            if self._is_probing and self.prefetch > 1:
                eventlet.sleep(GATHER_S)
            batch = [first]
            while len(batch) < MAX_BATCH and not self.inbox.empty():
                batch.append(self.inbox.get())
        return [delivery for delivery in batch if delivery and delivery.is_alive]

    def _wait_for_one(self) -> Delivery | None:
        """Wait for an event to arrive. Return None at a stop or a timeout.

        The timeout ends when a held event is due. While probing, it is PROBE_S.
        """
        timeout_s = self.held.next_due() - monotonic() if self.held else None
        if self._is_probing:
            timeout_s = PROBE_S
        try:
            delivery: Delivery | None = self.inbox.get(timeout=timeout_s)
        except eventlet.queue.Empty:
            if self._is_probing and self.queue_consumer.is_consuming(self):
                self._resume()
            return None
        return None if self._stopping.ready() else delivery

    # Handling a batch

    def _handle(self, batch: Sequence[Delivery]) -> None:
        """Handle a batch, ack, hold or move each of its messages, and pause if necessary."""
        with self._watch.step():
            attempt = self._attempt(batch)
            done = len(attempt.done)
            metrics.EVENTS.labels(self.queue.name, "done").inc(done)
            metrics.EVENTS.labels(self.queue.name, "failed").inc(len(batch) - done)
            pause_reason = self._finish(batch, attempt)
            if not pause_reason and self._is_probing and attempt.method_returned:
                self._resume()
            if done:
                self._pauses_in_row = 0
                self._probe_size = 1
        if pause_reason:
            self._pause(pause_reason)

    def _attempt(self, batch: Sequence[Delivery]) -> BatchAttempt:
        """Call the method with the events of a batch. A message that cannot be decoded fails."""
        attempt = BatchAttempt(run_method=self._run_method)
        events = []
        for delivery in batch:
            try:
                events.append((delivery, _decode(delivery.message)))
            except Exception as exc:
                # Retries cannot help. The next recorded failure is the last one allowed.
                delivery.failures = MAX_FAILURES - 1
                attempt.failed.append(Failure(delivery, exc, is_attributed=True))
        if events:
            attempt.handle(events)
        return attempt

    def _run_method(self, events: Events) -> tuple[FailedEvents, Exception | None]:
        """Run the method in a worker, with the request id of the first event.

        Returns the events that it could not handle, and the exception that it raised.
        """
        finished = eventlet.Event()

        def finish(worker_ctx: Any, result: Any, exc_info: Any) -> tuple[Any, Any]:
            finished.send((result, exc_info and exc_info[1]))
            return result, exc_info

        self.container.spawn_worker(
            self,
            ([event for _, event in events],),
            {},
            context_data=self.unpack_message_headers(events[0][0].message),
            handle_result=finish,
        )
        return finished.wait()

    # Acks, retries and dead letters

    def _finish(self, batch: Sequence[Delivery], attempt: BatchAttempt) -> str:
        """Ack, hold or move each message. Return the reason to pause, or "".

        No failure is recorded while a dependency is unavailable. Before a pause, done messages are
        acked. A failed probe is moved. The broker requeues all others.
        """
        if attempt.stopped_by:
            self._ack(batch, attempt.done)
            self._probe_size = 1
            return first_line(attempt.stopped_by)
        same_failure = self._update_streak(attempt)
        if self._is_probing and not attempt.method_returned:
            return self._move_probe(batch, attempt, same_failure)
        return same_failure or self._retry_or_dead_letter(batch, attempt)

    def _update_streak(self, attempt: BatchAttempt) -> str:
        """Record an attempt in the streak of failures.

        Returns a description if different events failed with the same error, or "".
        """
        failures = [
            failure
            for failure in attempt.failed
            if not failure.is_attributed and not isinstance(failure.error, FAULTS)
        ]
        if attempt.method_returned:
            self._streak.record_success([each.delivery.id for each in failures])
            return ""
        same = [
            failure.error
            for failure in failures
            if self._streak.record_failure(failure.delivery.id, failure.error)
        ]
        return (
            f"different events fail with the same error: {description(same[0])}"
            if same
            else ""
        )

    def _retry_or_dead_letter(
        self, batch: Sequence[Delivery], attempt: BatchAttempt
    ) -> str:
        """Hold the failed events for a retry or move them. Return the reason to pause, or ""."""
        # One time for all of them, so that they are retried together.
        now = monotonic()
        moved = self._hold_for_retry(attempt.failed, now)
        try:
            self._move(moved)
        except Unavailable as exc:
            if not self._hold_dead_letters(moved, now):
                self._ack(batch, attempt.done)
                return first_line(exc)
            log.warning(
                "dead_lettering_postponed",
                extra={"queue": self.queue.name, "error": str(exc)},
            )
            moved = []
        self._ack(batch, [*attempt.done, *moved])
        if any(not delivery.is_exhausted for delivery in moved):
            eventlet.sleep(OVERFLOW_PAUSE_S)
        return ""

    def _move_probe(
        self, batch: Sequence[Delivery], attempt: BatchAttempt, same_failure: str
    ) -> str:
        """Move all events of a failed probe. Return the reason to pause, or "".

        They go to the end of the queue, or to the dead-letter queue if they are exhausted. The next
        probe gets other events, and twice as many. The failed ones may be malformed, and must not
        prevent a probe with good events. The reason is "" if no message of the probe could be
        decoded: then the method was not called.
        """
        # If different events fail with the same error, it does not count against them.
        for failure in attempt.failed:
            if failure.is_attributed or not same_failure:
                failure.delivery.record_attempt(failure.error)
        try:
            self._move(batch)
        except Unavailable as exc:
            return first_line(exc)
        self._ack(batch, batch)
        self._probe_size = min(2 * self._probe_size, MAX_BATCH)
        if all(failure.is_attributed for failure in attempt.failed):
            return ""
        return (
            same_failure
            or f"no event has succeeded yet: {description(attempt.failed[0].error)}"
        )

    def _hold_for_retry(
        self, failures: Sequence[Failure], now: float
    ) -> list[Delivery]:
        """Record failed attempts, and hold the events. Return the ones to move instead."""
        moved: list[Delivery] = []
        for delivery, error, _ in failures:
            delivery.record_attempt(error)
            if delivery.is_exhausted or not self.held.has_room_for(delivery, now):
                moved.append(delivery)
            else:
                self.held.hold(delivery, now)
        if failures:
            log.warning(
                "events_failed",
                extra={
                    "queue": self.queue.name,
                    "events": len(failures),
                    "first": failures[0].delivery.id,
                    "error": failures[0].delivery.error,
                },
            )
        return moved

    def _hold_dead_letters(self, moved: Sequence[Delivery], now: float) -> bool:
        """Hold dead letters that the broker does not accept now.

        Returns False if there is no room, or if one of the messages is not a dead letter.

        A broker with a memory alarm accepts no messages. The handler must go on nevertheless,
        because an empty queue needs less memory.
        """
        can_hold_all = len(self.held) + len(moved) <= MAX_HELD and all(
            delivery.is_exhausted and self.held.has_room_for(delivery, now)
            for delivery in moved
        )
        if can_hold_all:
            for delivery in moved:
                self.held.hold(delivery, now)
        return can_hold_all

    def _move(self, deliveries: Sequence[Delivery]) -> None:
        """Publish copies: exhausted events to the dead-letter queue, others to their queue.

        Raises Unavailable unless the broker confirms that all of them are in a queue.
        """
        if not deliveries:
            return
        if not all(self.publisher.publish([self._copy(each) for each in deliveries])):
            raise Unavailable(
                f"{self.queue.name} or its dead-letter queue is missing:"
                " the migrations have not run"
            )
        dead = [delivery for delivery in deliveries if delivery.is_exhausted]
        metrics.EVENTS.labels(self.queue.name, "parked").inc(len(dead))
        for delivery in dead:
            log.error(
                "event_dead_lettered",
                extra={
                    "queue": self.dead_letter_queue,
                    "event_id": delivery.id,
                    "error": delivery.error,
                },
            )

    def _copy(self, delivery: Delivery) -> OutgoingMessage:
        """Return a copy of a message, with the record of its attempts in the headers."""
        return OutgoingMessage(
            exchange=self.moves_exchange.name,
            routing_key=(
                self.dead_letter_queue if delivery.is_exhausted else self.queue.name
            ),
            body=bytes(delivery.message.body or b""),
            headers={
                **copied_headers(delivery.message),
                ATTEMPTS: delivery.attempts,
                FAILURES: delivery.failures,
                ERROR: delivery.error,
            },
            properties={
                **copied_properties(delivery.message),
                "message_id": delivery.id,
            },
        )

    def _ack(self, batch: Sequence[Delivery], finished: Sequence[Delivery]) -> None:
        """Ack the finished messages of a batch, and no other message.

        An ack with `multiple` covers all lower delivery tags of the channel. So it stops below the
        first message that is held or unfinished. Later finished messages are acked one by one.
        """
        unfinished = {each.tag for each in batch} - {each.tag for each in finished}
        lowest_unfinished = min([self.held.lowest_tag(), *unfinished])
        covered = [each for each in finished if each.tag < lowest_unfinished]
        others = [each.message for each in finished if each.tag > lowest_unfinished]
        if covered:
            self.queue_consumer.ack_up_to(max(covered, key=attrgetter("tag")).message)
        for message in others:
            self.queue_consumer.ack_message(message)

    # Pausing

    @property
    def _is_probing(self) -> bool:
        """Whether the handler tries a few events after a pause, before it resumes."""
        return 0 < self.prefetch < PREFETCH

    def _pause(self, reason: str) -> None:
        """Have the broker requeue all messages, wait, and consume the events of a probe."""
        pause_s = PAUSES_S[min(self._pauses_in_row, len(PAUSES_S) - 1)]
        self._pauses_in_row += 1
        self._pause_reason = reason
        log.warning(
            "event_handler_paused",
            extra={"queue": self.queue.name, "error": reason, "seconds": pause_s},
        )
        self._set_prefetch(0)
        self._stopping.wait(timeout=pause_s)
        self._set_prefetch(self._probe_size)

    def _resume(self) -> None:
        """Consume as usual again."""
        log.info("event_handler_resumed", extra={"queue": self.queue.name})
        self._set_prefetch(PREFETCH)

    def _set_prefetch(self, prefetch: int) -> None:
        """Set the prefetch. With 0 the queue has no consumer, and the broker requeues messages."""
        self.prefetch = prefetch
        self.queue_consumer.apply_prefetch(self)

    def _check_running(self) -> None:
        """For /readyz: raise Unavailable while the handler pauses or its loop is stuck."""
        self._watch.check()
        if self.prefetch != PREFETCH:
            raise Unavailable(self._pause_reason)


def moves_exchange(service: str) -> kombu.Exchange:
    """Return the exchange by which a service moves events to its own queues.

    The default exchange reaches every queue, and the broker's permissions cannot restrict that.
    """
    return kombu.Exchange(f"evt-moves--{service}.direct", type="direct")


def copied_headers(message: Any) -> dict[str, Any]:
    """Return the headers for a copy of a message, without the record of its attempts.

    By CC and BCC, the publisher of a message could send its copy to any queue, with the
    permissions of the service that copies it.
    """
    headers = message.headers or {}
    names = headers.keys() - ROUTING_HEADERS - {ATTEMPTS, FAILURES, ERROR}
    copied = {name: headers[name] for name in names}
    return copied if can_encode_headers(copied) else {}


def copied_properties(message: Any) -> dict[str, Any]:
    """Return the properties for a copy of a message.

    The others are omitted. The broker would refuse the `user_id` of another user, and discard the
    copy after its `expiration`.
    """
    return {
        name: value
        for name, value in message.properties.items()
        if name in COPIED_PROPERTIES
    }


def _delivery(message: Any) -> Delivery:
    """Return the delivery of a message, with the counts of earlier attempts from its headers.

    An event of stock Nameko does not have a message id. The digest of its body replaces it.
    """
    return Delivery(
        message=message,
        id=(
            message.properties.get("message_id")
            or hashlib.sha256(message.body or b"").hexdigest()
        ),
        attempts=_count(message, ATTEMPTS),
        failures=_count(message, FAILURES),
        received_at=monotonic(),
    )


def _decode(message: Any) -> Any:
    """Return the event in a message. Raises an exception if it cannot be decoded."""
    # kombu records decoding errors (as exc_info) when the message arrives.
    for _, exc, _ in message.errors:
        raise exc
    return message.decode()


def _count(message: Any, header: str) -> int:
    """Return the count in a header, or 0 if it is not a positive integer."""
    count = message.headers.get(header)
    return min(count, MAX_COUNT) if isinstance(count, int) and count > 0 else 0


event_handler = EventHandler.decorator
