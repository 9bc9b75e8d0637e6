"""Events that could not be right, parked in `<queue>.dead`: `python -m chassis.dead VERB [queue ...]`.

`list` shows them and takes nothing; `redrive` moves them back into their queues, to be tried anew.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import amqp
from nameko.exceptions import ConfigurationError

from chassis import command
from chassis.amqp import connect
from chassis.events import ATTEMPTS, ERROR, FAILURES, EventHandler
from chassis.logs import REQUEST_ID
from chassis.migrate import event_handlers, services_with_tables
from chassis.settings import SECONDS, read

MOST_SHOWN = 100  # events of a queue: all of them are held until the last is read
MOST_SHOWN_BYTES = 200  # of a body


def main(arguments: list[str] | None = None) -> None:
    """The command. Ends with one line and code 1 where something is missing or wrong."""
    parser = argparse.ArgumentParser(prog="python -m chassis.dead", description=__doc__)
    parser.add_argument("--config", default="config.yaml", help="default: %(default)s")
    parser.add_argument("verb", choices=("list", "redrive"))
    parser.add_argument("queues", nargs="*", metavar="queue", help="default: all event queues")
    options = parser.parse_args(arguments)
    try:
        config = command.settings(options.config)
        timeout_s = read(config, "CONFIRM_TIMEOUT_S", SECONDS)
        for handler in _handlers(config, options.queues):
            with _channel(config) as channel:
                show(channel, handler) if options.verb == "list" else redrive(channel, handler, timeout_s)
    except command.Errors as exc:
        sys.exit(f"{options.config}: {command.last_line(exc)}")


def show(channel: Any, handler: EventHandler) -> None:
    """Print what is parked. Unacked, all of it returns to its place when the channel closes."""
    parked = _count(channel, handler)
    print(f"{handler.queue.name}: {parked} parked")
    for _ in range(min(parked, MOST_SHOWN)):
        if message := channel.basic_get(handler.dead_name()):
            print(_description(message, handler.event_type))
    if parked > MOST_SHOWN:
        print(f"  ... and {parked - MOST_SHOWN} more")


def redrive(channel: Any, handler: EventHandler, timeout_s: float) -> None:
    """Move what is parked now; what is parked again meanwhile stays. Each is acked when the broker
    has its copy: a crash in between doubles it, which changes nothing."""
    moved = 0
    for _ in range(_count(channel, handler)):
        if message := channel.basic_get(handler.dead_name()):
            copy = (_fresh(message), "", handler.queue.name)
            channel.basic_publish_confirm(*copy, mandatory=True, timeout=timeout_s, confirm_timeout=timeout_s)
            channel.basic_ack(message.delivery_tag)
            moved += 1
    print(f"{handler.queue.name}: {moved} redriven")


def _handlers(config: dict[str, Any], names: list[str]) -> list[EventHandler]:
    """Those of the queues that are named, or all."""
    handlers = [h for service in services_with_tables(config) for h in event_handlers(config, service)]
    known = {h.queue.name: h for h in sorted(handlers, key=lambda h: h.queue.name)}
    wanted = dict.fromkeys(name.removesuffix(".dead") for name in names or known)
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigurationError(f"no event queues: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


@contextmanager
def _channel(config: dict[str, Any]) -> Iterator[Any]:
    connection = connect(config).transport.establish_connection()
    try:
        channel = connection.channel()
        channel.auto_decode = False  # a body is its bytes, whatever its encoding claims
        yield channel
        connection.close()
    finally:
        connection.collect()  # at once: a broker that is blocked would not answer to a close


def _count(channel: Any, handler: EventHandler) -> int:
    return int(channel.queue_declare(handler.dead_name(), passive=True).message_count)


def _fresh(message: Any) -> amqp.Message:
    """The message as it was before its first try."""
    given = message.headers or {}
    kept = {name: value for name, value in given.items() if name not in (ATTEMPTS, FAILURES, ERROR)}
    properties = {**message.properties, "application_headers": kept, "delivery_mode": 2}
    return amqp.Message(message.body or b"", **properties)


def _description(message: Any, event_type: str) -> str:
    """repr(): anybody may have written it, and a terminal would obey its control characters."""
    headers = message.headers or {}
    event = f"{event_type} {message.properties.get('message_id')!r}"
    tries = f"{headers.get(ATTEMPTS)!r} attempts, request {headers.get(f'nameko.{REQUEST_ID}')!r}"
    text = (message.body or b"")[:MOST_SHOWN_BYTES].decode("utf-8", "replace")
    return f"  {event}, {tries}: {headers.get(ERROR)!r}\n    {text!r}"


if __name__ == "__main__":
    main()
