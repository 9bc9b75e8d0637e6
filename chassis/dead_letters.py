"""Lists and redrives dead letters: `python -m chassis.dead_letters list|redrive [queue ...]`.

A dead letter is an event whose handling has failed permanently. It is in the queue `<queue>.dead`.
`list` shows dead letters and leaves them there. `redrive` moves them back into their queues,
where they have all their attempts again.
"""

import argparse
import sys
from typing import Any

import amqp
from nameko.exceptions import ConfigurationError

from chassis import cli
from chassis.broker import open_channel
from chassis.events import (
    ATTEMPTS,
    ERROR,
    EventHandler,
    copied_headers,
    copied_properties,
)
from chassis.logs import REQUEST_ID
from chassis.migrate import event_handlers, services_with_tables
from chassis.settings import SECONDS, read

# Events of a queue that `list` shows. The channel holds all of them until it is closed.
MAX_SHOWN = 100


def main(arguments: list[str] | None = None) -> None:
    """Run the command. It exits with one line and code 1 after one of cli.ERRORS."""
    parser = argparse.ArgumentParser(
        prog="python -m chassis.dead_letters", description=__doc__
    )
    parser.add_argument("--config", default="config.yaml", help="default: %(default)s")
    parser.add_argument("verb", choices=["list", "redrive"])
    parser.add_argument(
        "queues", nargs="*", metavar="queue", help="default: all event queues"
    )
    options = parser.parse_args(arguments)
    try:
        config = cli.load_settings(options.config)
        timeout_s = read(config, "CONFIRM_TIMEOUT_S", SECONDS)
        for handler in _handlers(config, options.queues):
            with open_channel(config) as channel:
                if options.verb == "list":
                    show(channel, handler)
                else:
                    redrive(channel, handler, timeout_s)
    except cli.ERRORS as exc:
        sys.exit(f"{options.config}: {cli.error_line(exc)}")


def show(channel: Any, handler: EventHandler) -> None:
    """Print a handler's dead letters.

    They are not acked, so the broker returns them to their places when the channel is closed.
    """
    dead = _count(channel, handler.dead_letter_queue)
    print(f"{handler.queue.name}: {dead} dead-lettered")
    for _ in range(min(dead, MAX_SHOWN)):
        if message := channel.basic_get(handler.dead_letter_queue):
            print(_description(message, handler.event_type))
    if dead > MAX_SHOWN:
        print(f"  ... and {dead - MAX_SHOWN} more")


def redrive(channel: Any, handler: EventHandler, timeout_s: float) -> None:
    """Move the dead letters that a handler has now back to its queue.

    Each message is acked after the broker has confirmed its copy. A crash in between duplicates
    it. That has no effect, because handlers are idempotent. Raises one of
    chassis.broker.CONNECTION_ERRORS, also if a queue is missing.
    """
    moved = 0
    for _ in range(_count(channel, handler.dead_letter_queue)):
        if message := channel.basic_get(handler.dead_letter_queue):
            channel.basic_publish_confirm(
                copy_of(message),
                handler.moves_exchange.name,
                handler.queue.name,
                mandatory=True,
                timeout=timeout_s,
                confirm_timeout=timeout_s,
            )
            channel.basic_ack(message.delivery_tag)
            moved += 1
    print(f"{handler.queue.name}: {moved} redriven")


def copy_of(message: Any) -> amqp.Message:
    """Return a persistent copy of a dead letter, without the record of its attempts."""
    return amqp.Message(
        message.body or b"",
        application_headers=copied_headers(message),
        delivery_mode=2,
        **copied_properties(message),
    )


def _count(channel: Any, queue: str) -> int:
    """Return the number of messages that are ready in a queue. Raises NotFound."""
    return int(channel.queue_declare(queue, passive=True).message_count)


def _handlers(config: dict[str, Any], names: list[str]) -> list[EventHandler]:
    """Return the handlers of the named queues, or all. Raises ConfigurationError."""
    known = {
        handler.queue.name: handler
        for handler in event_handlers(config, *services_with_tables(config))
    }
    wanted = dict.fromkeys(name.removesuffix(".dead") for name in names or known)
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigurationError(
            f"no event queues: {', '.join(unknown)}; there are {', '.join(known)}"
        )
    return [known[name] for name in wanted]


def _description(message: Any, event_type: str) -> str:
    """Return two lines that describe an event.

    Values are shown by repr(): a terminal would obey control characters in a message.
    """
    headers = message.headers or {}
    # Its first bytes are enough to recognize the event.
    body = (message.body or b"")[:200].decode("utf-8", "replace")
    return (
        f"  {event_type} {message.properties.get('message_id')!r},"
        f" {headers.get(ATTEMPTS)!r} attempts,"
        f" request {headers.get('nameko.' + REQUEST_ID)!r}:"
        f" {headers.get(ERROR)!r}\n    {body!r}"
    )


if __name__ == "__main__":
    main()
