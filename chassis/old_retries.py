"""Deletes the retry queues of earlier versions: `python -m chassis.old_retries delete`.

Run it when no copy of such a version runs: they declare these queues and publish into them. The
events in them are moved into the main queues first.
"""

import argparse
import sys
from typing import Any

from amqp.exceptions import NotFound, PreconditionFailed
from nameko.exceptions import ConfigurationError

from chassis import command
from chassis.migrate import all_event_handlers
from chassis.moves import move, open_channel
from chassis.retry_queues import retry_queues
from chassis.settings import SECONDS, read

MAX_ATTEMPTS = 5


def main(arguments: list[str] | None = None) -> None:
    """The command. Ends with one line and code 1 where something is missing or wrong."""
    parser = argparse.ArgumentParser(prog="python -m chassis.old_retries", description=__doc__)
    parser.add_argument("--config", default="config.yaml", help="default: %(default)s")
    parser.add_argument("verb", choices=("delete",))
    options = parser.parse_args(arguments)
    try:
        config = command.settings(options.config)
        timeout_s = read(config, "CONFIRM_TIMEOUT_S", SECONDS)
        with open_channel(config) as channel:
            for handler in all_event_handlers(config):
                queue = handler.queue.name
                deleted = sum(delete(channel, name, queue, timeout_s) for name in retry_queues(queue))
                print(f"{queue}: {deleted} retry queues deleted")
    except command.Errors as exc:
        sys.exit(f"{options.config}: {command.last_line(exc)}")


def delete(channel: Any, name: str, queue: str, timeout_s: float) -> bool:
    """Empty a retry queue into `queue`, and delete it; whether there was one.

    Raises ConfigurationError where it fills again each time.
    """
    for _ in range(MAX_ATTEMPTS):
        try:
            move(channel, name, queue, timeout_s)
            channel.queue_delete(name, if_empty=True)
            return True
        except PreconditionFailed:  # an older copy has just published there
            continue
        except NotFound:
            return False
    raise ConfigurationError(f"{name} fills again: stop all copies of the earlier version first")


if __name__ == "__main__":
    main()
