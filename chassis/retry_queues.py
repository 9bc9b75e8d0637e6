"""Drains the retry queues of earlier versions, which may still run beside this one.

There a failed event waits in `<queue>.retry.<n>`, from where it expires back into its queue. The
broker does not confirm this hop, and may lose the event when it is killed. So each service moves
these events by confirmed publishes. The queues stay, because older copies publish into them at any
time. `python -m chassis.dead retire-retries` deletes them when there are no such copies.
"""

import logging
from typing import Any

import eventlet
from amqp.exceptions import MessageNacked, NotFound
from eventlet.event import Event
from nameko.extensions import SharedExtension

from chassis.amqp import CONNECTION_ERRORS
from chassis.errors import first_line
from chassis.moves import move, open_channel
from chassis.settings import SECONDS, read

log = logging.getLogger(__name__)

LEVELS = 3  # .retry.0 to .retry.2
EVERY_S = 1.0
RECONNECT_S = 5.0


def retry_queues(queue: str) -> list[str]:
    """The retry queues that an earlier version has declared beside `queue`."""
    return [f"{queue}.retry.{level}" for level in range(LEVELS)]


class RetryQueueDrain(SharedExtension):
    """Moves what waits in the retry queues of a service back into its main queues, each EVERY_S.

    It ends where there are none, as in every new installation.
    """

    def __init__(self) -> None:
        self._handlers: list[Any] = []
        self._stopping = Event()

    def check(self) -> None:
        self._timeout_s = read(self.container.config, "CONFIRM_TIMEOUT_S", SECONDS)

    def register(self, handler: Any) -> None:
        """Let it look beside the queue of this event handler, too."""
        self._handlers.append(handler)

    def start(self) -> None:
        self._thread = self.container.spawn_managed_thread(self._run, identifier="retry queues")

    def stop(self) -> None:
        self._stopping.send()
        self._thread.wait()

    def _run(self) -> None:
        while not self._stopping.ready():
            try:
                with open_channel(self.container.config) as channel:
                    self._drain_all(channel)
                return
            except (MessageNacked, *CONNECTION_ERRORS) as exc:
                log.warning("can't drain retry queues", extra={"error": first_line(exc)})
                self._wait(RECONNECT_S)

    def _drain_all(self, channel: Any) -> None:
        """Returns where no queue is left, and at a stop."""
        left = list(self._handlers)
        for handler in left:
            handler.declare(channel)  # with the exchange, of which earlier versions know nothing
        while not self._stopping.ready() and (left := [h for h in left if self._drain(channel, h)]):
            self._wait(EVERY_S)

    def _drain(self, channel: Any, handler: Any) -> bool:
        """Move what waits beside the handler's queue; whether it has retry queues."""
        queue = handler.queue.name
        target = (queue, handler.moves.name, self._timeout_s)
        try:
            moved = sum(move(channel, name, *target) for name in retry_queues(queue))
        except NotFound:  # the channel lives on: py-amqp opens it again
            return False
        if moved:
            log.info("retry queues drained", extra={"queue": queue, "events": moved})
        return True

    def _wait(self, seconds: float) -> None:
        with eventlet.Timeout(seconds, exception=False):
            self._stopping.wait()
