"""`@event_handler` that loses nothing: a handler that fails is tried again later, then parked.

A message is acked only when its work is done or a copy of it is safe in another queue. What fails
because a part is away is retried without end, what can't be right MAX_ATTEMPTS times; then it is
parked in `<queue>.dead` with its error. The main queue is declared as stock Nameko declares it.
"""

import logging
import uuid
from typing import Any

import eventlet
from kombu import Queue
from nameko.events import EventHandler as NamekoEventHandler

from chassis import metrics
from chassis.amqp import ConfirmedPublisher, Message
from chassis.errors import Unavailable, first_line, is_away
from chassis.queues import QueueConsumer

log = logging.getLogger(__name__)

RETRY_DELAYS_S = (1, 5, 15)  # the last one again and again
MAX_ATTEMPTS = 5
MOST = 1_000_000  # counted attempts: a forged header must not overflow
REQUEUE_S = 1
# Our headers: how often it was tried, how often of these it failed by itself, and what failed last.
ATTEMPTS, FAILURES, ERROR = "x-attempts", "x-failures", "x-error"


class EventHandler(NamekoEventHandler):
    """Delivery is at least once: the handler's effect must be protected by a unique key.

    A retry is a confirmed publish to `<queue>.retry.<n>`, whose messages expire after
    RETRY_DELAYS_S[n] and are dead-lettered back; then the ack. Where not even that can be done, the
    message goes back into its queue.
    """

    queue_consumer = QueueConsumer()
    publisher = ConfirmedPublisher()

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

    def handle_undecodable(self, message: Any, exc: Exception) -> None:
        """Park what no handler can be given, at once: it will not become readable."""
        message.headers[FAILURES] = MAX_ATTEMPTS
        exc_info = (type(exc), exc, exc.__traceback__)
        self.container.spawn_managed_thread(lambda: self.handle_result(message, None, exc_info=exc_info))

    def handle_result(
        self, message: Any, worker_ctx: Any, result: Any = None, exc_info: Any = None
    ) -> tuple[Any, Any]:
        if not exc_info or self._put_aside(message, exc_info[1]):
            self.queue_consumer.ack_message(message)
        else:
            eventlet.sleep(REQUEUE_S)
            self.queue_consumer.requeue_message(message)
        metrics.EVENTS.labels(self.queue.name, "failed" if exc_info else "done").inc()
        return result, exc_info

    def _put_aside(self, message: Any, exc: Exception) -> bool:
        """Store a copy of `message` where it belongs next; whether that was done."""
        attempts = _count(message, ATTEMPTS) + 1
        failures = _count(message, FAILURES) + (not is_away(exc))
        target = f"{self.queue.name}.retry.{min(attempts, len(RETRY_DELAYS_S)) - 1}"
        if failures >= MAX_ATTEMPTS:
            target = self.dead_name()
        counts = {ATTEMPTS: attempts, FAILURES: failures, ERROR: repr(exc)[:1000]}
        fields = {"queue": target, "attempts": attempts, "failures": failures}
        try:
            [stored] = self.publisher.publish([_copy(message, target, counts)])
        except Unavailable as away:
            log.warning("can't put an event aside", extra={**fields, "error": first_line(away)})
            return False
        if stored and target == self.dead_name():
            metrics.EVENTS.labels(self.queue.name, "parked").inc()
        log.warning("event put aside" if stored else "queue is missing: make migrate", extra=fields)
        return stored


def _copy(message: Any, target: str, headers: dict[str, Any]) -> Message:
    given = message.properties
    properties = {name: given[name] for name in ("content_type", "content_encoding") if name in given}
    properties["message_id"] = given.get("message_id") or str(uuid.uuid4())
    body = message.body
    if isinstance(body, str):  # the client library has decoded it
        body, properties["content_encoding"] = _encode(body, given.get("content_encoding", "utf-8"))
    return Message("", target, bytes(body), {**message.headers, **headers}, properties)


def _encode(body: str, encoding: str) -> tuple[bytes, str]:
    """The bytes of `body`, and their encoding: one may be unknown, or not encode all that it decodes."""
    try:
        return body.encode(encoding), encoding
    except (UnicodeError, LookupError):
        return body.encode("utf-8", "surrogatepass"), "utf-8"


def _count(message: Any, header: str) -> int:
    given = message.headers.get(header)
    return min(given, MOST) if isinstance(given, int) and given > 0 else 0


event_handler = EventHandler.decorator
