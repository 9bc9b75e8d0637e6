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


def drain(handler: Any, stopping: Event) -> None:
    """Move what waits in the retry queues beside the handler's queue back into it, each EVERY_S.

    Returns at a stop, and where there are none, as in every new installation.
    """
    config, queue = handler.container.config, handler.queue.name
    target = (queue, handler.moves.name, read(config, "CONFIRM_TIMEOUT_S", SECONDS))
    while not stopping.ready():
        try:
            with open_channel(config) as channel:
                handler.declare(channel)  # with the exchange, of which earlier versions know nothing
                while not stopping.ready():
                    if moved := sum(move(channel, name, *target) for name in retry_queues(queue)):
                        log.info("retry queues drained", extra={"queue": queue, "events": moved})
                    _wait(stopping, EVERY_S)
        except NotFound:
            return
        except (MessageNacked, *CONNECTION_ERRORS) as exc:
            log.warning("can't drain retry queues", extra={"error": first_line(exc)})
            _wait(stopping, RECONNECT_S)


def _wait(stopping: Event, seconds: float) -> None:
    with eventlet.Timeout(seconds, exception=False):
        stopping.wait()
