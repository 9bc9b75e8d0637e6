"""Whether all services tell the same story: `python -m audit`. Reads only; the suite may be at work.

Exit code 0: they do; 1: there are differences; 2: it could not look.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from audit.checks import differences
from audit.snapshots import snapshots
from chassis import cli
from chassis.amqp import connect

SHOWN = 100
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
MONEY = """billing:
    SELECT concat_ws(' ', round(total / 10::numeric ^ digits, digits), currency)
    FROM
        (SELECT coalesce(sum(balance_minor), 0) AS total FROM accounts) AS balances,
        (SELECT coalesce(max(exponent), 2) AS digits, max(currency) AS currency FROM books) AS unit
"""


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m audit", description=__doc__)
    parser.add_argument("--config", default="config.yaml", help="default: %(default)s")
    parser.add_argument(
        "--settled",
        action="store_true",
        help="nothing is under way: allow no time for it",
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(arguments)
    try:
        result = audit(cli.load_settings(options.config), options.settled)
    except cli.ERRORS as exc:
        print(f"could not look: {cli.error_line(exc)}", file=sys.stderr)
        return 2
    print(json.dumps(result) if options.json else _table(result))
    return 1 if result["differences"] else 0


def audit(config: dict[str, Any], settled: bool = False) -> dict[str, Any]:
    """{"checked": {what: how many, "money": "0.00 EUR"}, "differences": how many, "first": [line, ...]}.

    Raises one of chassis.cli.ERRORS.
    """
    in_queues = list(_in_queues(config, settled))
    with snapshots(config, settled) as ask:
        tables = (name.split(".") for name in TABLES)
        checked = {
            table: next(ask(f"{service}: SELECT count(*) FROM {table}"))[0]
            for service, table in tables
        }
        checked["money"] = next(ask(MONEY))[0]
        lines = chain(in_queues, differences(ask))
        first = list(islice(lines, SHOWN))
        return {
            "checked": checked,
            "differences": len(first) + sum(1 for _ in lines),
            "first": first,
        }


def _in_queues(config: dict[str, Any], settled: bool) -> Iterator[str]:
    """Dead-lettered events; where nothing is under way, those that wait as well."""
    with connect(config) as connection:
        for queue in QUEUES:
            looked_at = {f"{queue}.dead": "parked"}
            if settled:
                looked_at[queue] = "waiting"
            for name, check in looked_at.items():
                if events := _ready(connection.default_channel, name):
                    yield f"{check}: {name}: {events} events"


def _ready(channel: Any, queue: str) -> int:
    """How many messages are ready. Raises NotFound where the queue is missing."""
    return int(channel.queue_declare(queue, passive=True).message_count)


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{what:12} {amount:>16}" for what, amount in result["checked"].items()
    ] + result["first"]
    if more := result["differences"] - len(result["first"]):
        lines.append(f"... and {more} more")
    return "\n".join([*lines, f"differences: {result['differences'] or 'none'}"])


if __name__ == "__main__":
    sys.exit(main())
