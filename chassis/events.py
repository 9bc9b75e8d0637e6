"""`@event_handler` in batches, losing nothing: what fails is tried again later, then parked.

Events that arrive while a batch is worked on gather, and are the next one. A message is acked only when
its work is done or a copy of it is safe in another queue. What fails because a part is away is retried
without end, what can't be right MAX_ATTEMPTS times; then it is parked in `<queue>.dead` with its error.
The main queue is declared as stock Nameko declares it.
"""

import logging
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import eventlet
import kombu
from eventlet.event import Event
from eventlet.queue import LightQueue
from kombu import Queue
from nameko.events import EventHandler as NamekoEventHandler
from nameko.exceptions import ContainerBeingKilled

from chassis import metrics
from chassis.amqp import ConfirmedPublisher, Message, can_carry
from chassis.errors import Unavailable, first_line, is_away
from chassis.queues import QueueConsumer

log = logging.getLogger(__name__)

BATCH = 200  # events
RETRY_DELAYS_S = (1, 5, 15)  # the last one again and again
MAX_ATTEMPTS = 5
MOST = 1_000_000  # counted attempts: a forged header must not overflow
REQUEUE_S = 1
# Our headers: how often it was tried, how often of these it failed by itself, and what failed last.
ATTEMPTS, FAILURES, ERROR = "x-attempts", "x-failures", "x-error"

Failure = tuple[Any, Exception]  # a message, and why it failed


class EventHandler(NamekoEventHandler):
    """`@event_handler("orders", "order_paid")`: the method gets a list of events, BATCH at most.

    Delivery is at least once: the handler's effect must be protected by a unique key. Where a batch
    fails by itself its halves are tried, down to the event that fails alone; where a part is away
    the whole batch is retried later.

    A retry is a confirmed publish to `<queue>.retry.<n>`, whose messages expire after RETRY_DELAYS_S[n]
    and are dead-lettered back; then the ack. Where that can't be done, the message is requeued.
    """

    queue_consumer = QueueConsumer()
    publisher = ConfirmedPublisher()

    def setup(self) -> None:
        super().setup()
        self.arrived = LightQueue()
        self._is_leaving = False

    def start(self) -> None:
        self._thread = self.container.spawn_managed_thread(self._run, identifier=self.queue.name)

    def stop(self) -> None:
        """Finish the batch at hand; what else has arrived goes back to the broker unacked."""
        super().stop()
        self._is_leaving = True
        self.arrived.put(None)  # whoever waits for more shall look
        self._thread.wait()

    def declare(self, channel: Any) -> None:
        """Declare the queue with all that stands beside it."""
        for queue in self.queues():
            queue(channel).declare()

    def queues(self) -> list[Queue]:
        """The main queue, those for retries, and the one for what can't be right."""
        back = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": self.queue.name}
        retries = [
            Queue(f"{self.queue.name}.retry.{n}", queue_arguments={**back, "x-message-ttl": int(s * 1000)})
            for n, s in enumerate(RETRY_DELAYS_S)
        ]
        return [self.queue, *retries, Queue(self.dead_name())]

    def dead_name(self) -> str:
        """The queue of what can't be right; `python -m chassis.dead` shows and redrives it."""
        return f"{self.queue.name}.dead"

    def consumer(self, channel: Any, accept: Any) -> kombu.Consumer:
        """What consumes for the queue consumer: on a channel of its own, because one ack of many would
        end requests that are still worked on. The next batch gathers while one is under way."""
        self.declare(channel)
        own = channel.connection.channel()
        own.auto_decode = False  # a body is its bytes, whatever its encoding claims
        consumer = kombu.Consumer(
            own,
            queues=[self.queue],
            on_message=self.arrived.put,
            on_decode_error=lambda message, exc: self.arrived.put(message),
            accept=accept,
        )
        consumer.qos(prefetch_count=2 * BATCH)
        return consumer

    def _run(self) -> None:
        with suppress(ContainerBeingKilled):
            while batch := self._next_batch():
                self._handle(batch)

    def _next_batch(self) -> list[Any]:
        """What has arrived, one message at least; none at the stop."""
        batch: list[Any] = []
        while not batch or (len(batch) < BATCH and not self.arrived.empty()):
            message = self.arrived.get()
            if self._is_leaving:
                return []
            if message.channel.connection:  # else it is lost, and the broker delivers again
                batch.append(message)
        return batch

    def _handle(self, batch: Sequence[Any]) -> None:
        """Work on all of them, put aside those that fail, end them with one ack."""
        failures = self._work(batch)
        stuck = self._put_aside(failures) if failures else []
        if stuck:
            eventlet.sleep(REQUEUE_S)
        for message in stuck:
            self.queue_consumer.requeue_message(message)
        done = [message for message in batch if message not in stuck]
        self.queue_consumer.ack_messages(done, up_to_the_last=not stuck)
        metrics.EVENTS.labels(self.queue.name, "failed").inc(len(failures))
        metrics.EVENTS.labels(self.queue.name, "done").inc(len(batch) - len(failures))

    def _work(self, batch: Sequence[Any]) -> list[Failure]:
        """Which messages failed, and why."""
        events, unreadable = [], []
        for message in batch:
            try:
                events.append((message, _payload(message)))
            except Exception as exc:  # it will not become readable: it is parked at once
                message.headers[FAILURES] = MAX_ATTEMPTS
                unreadable.append((message, exc))
        return unreadable + (self._work_on(events) if events else [])

    def _work_on(self, events: Sequence[tuple[Any, Any]]) -> list[Failure]:
        exc = self._call([event for _, event in events], events[0][0])
        if exc is None:
            return []
        if len(events) == 1 or is_away(exc):
            return [(message, exc) for message, _ in events]
        half = len(events) // 2
        return self._work_on(events[:half]) + self._work_on(events[half:])

    def _call(self, events: Sequence[Any], first: Any) -> Exception | None:
        """Run the handler in a worker, under the request id of the first message; what it raised."""
        raised = Event()

        def tell(worker_ctx: Any, result: Any, exc_info: Any) -> tuple[Any, Any]:
            raised.send(exc_info and exc_info[1])
            return result, exc_info

        headers = self.unpack_message_headers(first)
        self.container.spawn_worker(self, (events,), {}, context_data=headers, handle_result=tell)
        return raised.wait()

    def _put_aside(self, failures: Sequence[Failure]) -> list[Any]:
        """Store a copy of each message where it belongs next; those for which that was not done."""
        copies = [self._aside(message, exc) for message, exc in failures]
        try:
            stored = self.publisher.publish(copies)
        except Unavailable as away:
            log.warning("can't put events aside", extra={"queue": self.queue.name, "error": first_line(away)})
            return [message for message, _ in failures]
        for copy, is_stored in zip(copies, stored, strict=True):
            counts = {"attempts": copy.headers[ATTEMPTS], "failures": copy.headers[FAILURES]}
            text = "event put aside" if is_stored else "queue is missing: make migrate"
            log.warning(text, extra={"queue": copy.routing_key, **counts})
            if is_stored and copy.routing_key == self.dead_name():
                metrics.EVENTS.labels(self.queue.name, "parked").inc()
        return [message for (message, _), is_stored in zip(failures, stored, strict=True) if not is_stored]

    def _aside(self, message: Any, exc: Exception) -> Message:
        attempts = _count(message, ATTEMPTS) + 1
        failures = _count(message, FAILURES) + (not is_away(exc))
        target = f"{self.queue.name}.retry.{min(attempts, len(RETRY_DELAYS_S)) - 1}"
        if failures >= MAX_ATTEMPTS:
            target = self.dead_name()
        return _copy(message, target, {ATTEMPTS: attempts, FAILURES: failures, ERROR: repr(exc)[:1000]})


def _payload(message: Any) -> Any:
    """The event in a message; raises what is wrong with it."""
    for _, exc, _ in message.errors:  # found when it arrived
        raise exc
    return message.decode()


def _copy(message: Any, target: str, headers: dict[str, Any]) -> Message:
    given = message.properties
    properties = {name: given[name] for name in ("content_type", "content_encoding") if name in given}
    properties["message_id"] = given.get("message_id") or str(uuid.uuid4())
    kept = message.headers if can_carry(message.headers) else {}
    return Message("", target, bytes(message.body or b""), {**kept, **headers}, properties)


def _count(message: Any, header: str) -> int:
    given = message.headers.get(header)
    return min(given, MOST) if isinstance(given, int) and given > 0 else 0


event_handler = EventHandler.decorator
