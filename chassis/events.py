"""`@event_handler` that loses nothing: a handler that fails is tried again later, then parked.

A message is acked only when its work is done or a copy of it is safe in another queue. What fails
because a part is away is retried without end, what can't be right MAX_ATTEMPTS times; then it is
parked in `<queue>.dead` with its error. The main queue is declared as stock Nameko declares it.
"""

import logging
import uuid
from typing import Any

from kombu import Queue
from nameko.events import EventHandler as NamekoEventHandler

from chassis import metrics
from chassis.amqp import ConfirmedPublisher, Message
from chassis.errors import is_away
from chassis.queues import QueueConsumer

log = logging.getLogger(__name__)

RETRY_DELAYS_S = (1, 5, 15)  # the last one again and again
MAX_ATTEMPTS = 5
ATTEMPT, ERROR = "x-attempt", "x-error"  # our headers: how often it was tried, and what failed last


class EventHandler(NamekoEventHandler):
    """Delivery is at least once: the handler's effect must be protected by a unique key.

    A retry is a confirmed publish to `<queue>.retry.<n>`, whose messages expire after
    RETRY_DELAYS_S[n] and are dead-lettered back; then the ack.
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
            Queue(f"{self.queue.name}.retry.{n}", queue_arguments={**back, "x-message-ttl": s * 1000})
            for n, s in enumerate(RETRY_DELAYS_S)
        ]
        return [self.queue, *retries, Queue(f"{self.queue.name}.dead")]

    def handle_result(
        self, message: Any, worker_ctx: Any, result: Any = None, exc_info: Any = None
    ) -> tuple[Any, Any]:
        if exc_info:
            self._put_aside(message, exc_info[1])
        self.queue_consumer.ack_message(message)
        metrics.EVENTS.labels(self.queue.name, "failed" if exc_info else "done").inc()
        return result, exc_info

    def _put_aside(self, message: Any, exc: Exception) -> None:
        """Store a copy of `message` where it belongs next.

        Raises Unavailable where the broker does not take it: the process then ends without an ack,
        its supervisor starts it anew, and the broker delivers again.
        """
        attempt = _attempt(message) + 1
        if is_away(exc) or attempt < MAX_ATTEMPTS:
            delay = min(attempt, len(RETRY_DELAYS_S)) - 1
            target = f"{self.queue.name}.retry.{delay}"
        else:
            target = f"{self.queue.name}.dead"
        headers = {**(message.headers or {}), ATTEMPT: attempt, ERROR: repr(exc)[:1000]}
        properties = {"message_id": message.properties.get("message_id") or str(uuid.uuid4())}
        self.publisher.publish([Message("", target, bytes(message.body), headers, properties)])
        log.warning("event put aside", extra={"queue": target, "attempt": attempt})


def _attempt(message: Any) -> int:
    given = (message.headers or {}).get(ATTEMPT)
    return given if isinstance(given, int) else 0


event_handler = EventHandler.decorator
