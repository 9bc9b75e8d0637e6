"""Dead letters, events that failed for good, in `<queue>.dead`: `python -m chassis.dead VERB [queue ...]`.

`list` shows them and takes nothing; `redrive` moves them back into their queues, to be tried anew.
"""

import argparse
import sys
from functools import partial
from typing import Any

from nameko.exceptions import ConfigurationError

from chassis import command
from chassis.events import ATTEMPTS, ERROR, FAILURES, EventHandler
from chassis.logs import REQUEST_ID
from chassis.migrate import event_handlers, services_with_tables
from chassis.moves import copy_of, count, move, open_channel
from chassis.settings import SECONDS, read

MOST_SHOWN = 100  # events of a queue: all of them are held until the last is read
MOST_SHOWN_BYTES = 200  # of a body


def main(arguments: list[str] | None = None) -> None:
    """The command. Ends with one line and code 1 where something is missing or wrong."""
    parser = argparse.ArgumentParser(prog="python -m chassis.dead", description=__doc__)
    parser.add_argument("--config", default="config.yaml", help="default: %(default)s")
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument(
        "queues", nargs="*", metavar="queue", help="default: all event queues"
    )
    options = parser.parse_args(arguments)
    try:
        config = command.settings(options.config)
        timeout_s = read(config, "CONFIRM_TIMEOUT_S", SECONDS)
        for handler in _handlers(config, options.queues):
            with open_channel(config) as channel:
                VERBS[options.verb](channel, handler, timeout_s)
    except command.Errors as exc:
        sys.exit(f"{options.config}: {command.last_line(exc)}")


def show(channel: Any, handler: EventHandler, timeout_s: float) -> None:
    """Print the dead letters. Unacked, all of them return to its place when the channel closes."""
    parked = count(channel, handler.dead_name())
    print(f"{handler.queue.name}: {parked} parked")
    for _ in range(min(parked, MOST_SHOWN)):
        if message := channel.basic_get(handler.dead_name()):
            print(_description(message, handler.event_type))
    if parked > MOST_SHOWN:
        print(f"  ... and {parked - MOST_SHOWN} more")


def redrive(channel: Any, handler: EventHandler, timeout_s: float) -> None:
    """Move the dead letters of this moment back, each as it was before its first attempt.

    A crash may double a message, which changes nothing.
    """
    moved = move(
        channel,
        source=handler.dead_name(),
        target=handler.queue.name,
        exchange=handler.moves.name,
        timeout_s=timeout_s,
        copy=FRESH,
    )
    print(f"{handler.queue.name}: {moved} redriven")


def _handlers(config: dict[str, Any], names: list[str]) -> list[EventHandler]:
    """Those of the queues that are named, or all."""
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
    """repr(): anybody may have written it, and a terminal would obey its control characters."""
    headers = message.headers or {}
    event = f"{event_type} {message.properties.get('message_id')!r}"
    tries = f"{headers.get(ATTEMPTS)!r} attempts, request {headers.get(f'nameko.{REQUEST_ID}')!r}"
    text = (message.body or b"")[:MOST_SHOWN_BYTES].decode("utf-8", "replace")
    return f"  {event}, {tries}: {headers.get(ERROR)!r}\n    {text!r}"


FRESH = partial(copy_of, without=(ATTEMPTS, FAILURES, ERROR))
VERBS = {"list": show, "redrive": redrive}

if __name__ == "__main__":
    main()
