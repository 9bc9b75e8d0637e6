"""Check that the databases of all services agree. It reads only, so the suite may be at work.

Exit code 0: they agree. 1: there are differences. 2: a database or the broker cannot be read.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from audit.checks import differences
from audit.snapshots import Query, snapshots
from chassis import cli
from chassis.broker import connect

MAX_SHOWN = 100
QUEUES = (
    "evt-users-user_created--billing.handle_user_created",
    "evt-users-user_created--notifications.handle_user_created",
    "evt-orders-order_paid--notifications.handle_order_paid",
    "evt-orders-order_rejected--notifications.handle_order_rejected",
)
TABLES = (
    "users.users",
    "billing.accounts",
    "billing.operations",
    "orders.orders",
    "notifications.letters",
)
# The sum of all balances in major units, with the currency of the books.
MONEY = Query(
    "billing",
    """
    SELECT concat_ws(' ', round(total / 10::numeric ^ digits, digits), currency)
    FROM
      (SELECT coalesce(sum(balance_minor), 0) AS total FROM accounts) AS balances,
      (
        SELECT coalesce(max(exponent), 2) AS digits, max(currency) AS currency
        FROM books
      ) AS unit
    """,
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m audit", description=__doc__)
    parser.add_argument("--config", default="config.yaml", help="default: %(default)s")
    parser.add_argument(
        "--settled",
        action="store_true",
        help="no request or event is in flight: allow no time for one",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        result = audit(cli.load_settings(options.config), options.settled)
    except cli.ERRORS as exc:
        print(f"error: {cli.error_line(exc)}", file=sys.stderr)
        return 2
    print(json.dumps(result) if options.json else format_result(result))
    return 1 if result["differences"] else 0


def audit(config: dict[str, Any], settled: bool = False) -> dict[str, Any]:
    """Compare the databases and count the events that must not be in the queues.

    The result has `checked` ({table: rows, ..., "money": "0.00 EUR"}), `differences` (their
    number), and `first` (a line for each of the first MAX_SHOWN). Raises one of
    chassis.cli.ERRORS.
    """
    queued_events = list(_queued_events(config, settled))
    with snapshots(config, settled) as read:
        checked = {}
        for name in TABLES:
            service, table = name.split(".")
            [checked[table]] = next(read(_count_query(service, table)))
        [checked["money"]] = next(read(MONEY))
        lines = chain(queued_events, differences(read))
        first = list(islice(lines, MAX_SHOWN))
        return {
            "checked": checked,
            "differences": len(first) + sum(1 for _ in lines),
            "first": first,
        }


def _count_query(service: str, table: str) -> Query:
    return Query(service, f"SELECT count(*) FROM {table}")


def _queued_events(config: dict[str, Any], settled: bool) -> Iterator[str]:
    """Yield a line for each queue with dead letters, and with waiting events if `settled`."""
    with connect(config) as connection:
        for queue in QUEUES:
            checks = {f"{queue}.dead": "dead-lettered"}
            if settled:
                checks[queue] = "waiting"
            for name, check in checks.items():
                if events := _count_messages(connection.default_channel, name):
                    yield f"{check}: {name}: {events} events"


def _count_messages(channel: Any, queue: str) -> int:
    """Return the number of ready messages. Raises NotFound if the queue is missing."""
    return int(channel.queue_declare(queue, passive=True).message_count)


def format_result(result: dict[str, Any]) -> str:
    """Return the lines that are printed for people."""
    lines = [f"{name:12} {amount:>16}" for name, amount in result["checked"].items()]
    lines += result["first"]
    if more := result["differences"] - len(result["first"]):
        lines.append(f"... and {more} more")
    lines.append(f"differences: {result['differences'] or 'none'}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
