"""Draw the story of an order as a sequence: `make story ORDER=<id>`.

It reads the parts of the story over RPC, as an operator, and composes them as the gateway does
(gateway/story.py). The part of a service that is unavailable is unknown.

usage: python -m dev.story <id of an order>
"""

import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from nameko.exceptions import BadRequest, RemoteError, UnknownService

from chassis import cli
from chassis.errors import DeadlineExceeded, InternalError, Unavailable, first_line
from chassis.outcomes import Outcome
from chassis.schemas import is_id
from chassis.settings import ISO_4217_CODE, read
from dev.failure import Failure
from dev.shell import ClusterRpcProxy, NotPermitted, OutcomeUnknown
from gateway import money
from gateway.story import compose

USAGE = "make story ORDER=<id of an order>"
# The errors of a call to a service that is unavailable, has failed, or is of an earlier version.
FAULTS = (
    BadRequest,
    DeadlineExceeded,
    InternalError,
    NotPermitted,
    OutcomeUnknown,
    RemoteError,
    Unavailable,
    UnknownService,
)
WIDTH = 100
# The columns of the lifelines, and of the times.
LIFELINES = {"gateway": 5, "orders": 26, "billing": 48, "notifications": 69}
TIMES = 72
# The ends of each step's arrow.
ARROWS = {
    "order_placed": ("gateway", "orders"),
    "withdrawal_recorded": ("orders", "billing"),
    "order_settled": ("billing", "orders"),
    "event_published": ("orders", "notifications"),
    "letter_written": ("notifications", "notifications"),
}
# Why a step is unknown, if not because its service is unavailable.
CAUSES = {
    "event_published": "the event is deleted, or an earlier version settled the order"
}
LINES = {"done": "-", "pending": ".", "unknown": "?"}


def read_story(rpc: Any, order_id: str) -> dict[str, Any]:
    """Read and compose the story of an order. Raises Failure if orders does not return it.

    The letter is read first and the operation last. So no step is done before an earlier one,
    except that event_published may follow the letter.
    """
    try:
        order = rpc.orders.get(order_id=order_id)
        if order is None:
            raise Failure(f"there is no order {order_id}")
        query = {"order_id": order_id, "user_id": order["user_id"]}
        letter = _part(rpc.notifications.get_letter, query)
        history = rpc.orders.get_history(**query)
    except FAULTS as fault:
        raise Failure(f"orders is unavailable: {_reason(fault)}") from None
    operation = _part(rpc.billing.get_withdrawal, query)
    return compose(history, operation, letter)


def _part(
    method: Callable[..., Outcome | None], query: dict[str, str]
) -> Outcome | None:
    """Call a method. Return None if its service is unavailable, and {} if it returns nothing."""
    try:
        return method(**query) or {}
    except FAULTS:
        return None


def _reason(fault: BaseException) -> str:
    """Return the first sentence of a fault. The others are advice for calls that change data."""
    return first_line(fault).partition(". ")[0]


def draw(story: dict[str, Any]) -> str:
    """Return the drawing of a story: a header, the sequence, and the details."""
    lines = [*_header(story["order"]), ""]
    lines += _sequence(story["steps"])
    lines += ["", *_details(story)]
    return "\n".join(line.rstrip() for line in lines)


def _header(order: dict[str, Any]) -> list[str]:
    reason = f" ({order['reason']})" if order["reason"] else ""
    price = f"{order['price']} {money.currency}"
    date = order["created_at"].partition("T")[0]
    return [
        f"Order {order['id']}: {order['status']}{reason}, {price}",
        f"Placed on {date}. Times are in UTC.",
    ]


def _sequence(steps: list[dict[str, Any]]) -> list[str]:
    names = [" "] * WIDTH
    for name, column in LIFELINES.items():
        _put(names, column - len(name) // 2, name)
    rows = [names, _lifelines()]
    for step in steps:
        rows += _arrow(step)
        _put(rows[-1], TIMES, _time(step))
    return ["".join(row) for row in [*rows, _lifelines()]]


def _lifelines() -> list[str]:
    row = [" "] * WIDTH
    for column in LIFELINES.values():
        row[column] = "|"
    return row


def _arrow(step: dict[str, Any]) -> list[list[str]]:
    """Return the rows of a step: its name above an arrow, or beside a mark on one lifeline."""
    source, target = (LIFELINES[end] for end in ARROWS[step["event"]])
    line, name = LINES[step["state"]], step["event"]
    row = _lifelines()
    if source == target:
        mark = "o" if step["state"] == "done" else line
        _put(row, source - len(name) - 1, f"{name} {mark}")
        return [row]
    left, right = sorted((source, target))
    length = right - left - 1
    _put(row, left + 1, line * length)
    row[right - 1 if target > source else left + 1] = ">" if target > source else "<"
    above = _lifelines()
    _put(above, left + 1 + (length - len(name)) // 2, name)
    return [above, row]


def _put(row: list[str], column: int, text: str) -> None:
    row[column : column + len(text)] = text


def _time(step: dict[str, Any]) -> str:
    """Return the time of a step and the duration since the previous one, or its state."""
    if step["state"] != "done":
        return str(step["state"])
    since_ms = step.get("since_previous_ms")
    is_first = step["event"] == "order_placed"
    duration = "" if since_ms is None or is_first else _duration(since_ms)
    return f"{_time_of_day(step['at'])}  {duration:>9}"


def _time_of_day(time: str) -> str:
    return datetime.fromisoformat(time).time().isoformat("microseconds")


def _duration(ms: float) -> str:
    """Return a duration in at most nine characters."""
    seconds = ms / 1000
    if ms < 999.95:
        return f"+{ms:.1f} ms"
    if seconds < 99.995:
        return f"+{seconds:.2f} s"
    if seconds < 5999:
        return f"+{seconds / 60:.1f} min"
    return f"+{seconds / 3600:.0f} h"


def _details(story: dict[str, Any]) -> list[str]:
    """Return the facts that have no place in the sequence."""
    found = [line for step in story["steps"] for line in _details_of(step)]
    attempts = story["attempts"]
    last = attempts["last_at"]
    at = f", the last one at {datetime.fromisoformat(last):%F %T}" if last else ""
    found.append(f"Retries by orders: {attempts['count']}{at}.")
    return [*found, *textwrap.wrap(story["clocks"], WIDTH)]


def _details_of(step: dict[str, Any]) -> Iterator[str]:
    """Yield what a step is about, or why it is unknown."""
    if operation := step.get("operation"):
        reason = f" ({operation['reason']})" if operation["reason"] else ""
        balance = f"{operation['balance_after']} {money.currency}"
        yield f"The withdrawal is {operation['status']}{reason}. Balance: {balance}."
    if letter := step.get("letter"):
        yield f"The letter is of {letter['kind']}: {letter['subject']}"
    if step["state"] == "unknown":
        cause = CAUSES.get(step["event"], f"{step['service']} is unavailable")
        yield f"{step['event']} is unknown: {cause}."


def main() -> None:
    """Run the command. It exits with one line and code 1 after an expected error."""
    try:
        print(_drawing_of(" ".join(sys.argv[1:]).strip().lower()))
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except cli.ERRORS as exc:
        sys.exit(f"error: {cli.error_line(exc)}")


def _drawing_of(order_id: str) -> str:
    if not is_id(order_id):
        given = f"{order_id!r} is not an id" if order_id else "no order is named"
        raise Failure(f"{given}: {USAGE}")
    config = cli.load_settings("config.yaml")
    money.currency = read(config, "CURRENCY", ISO_4217_CODE)
    with ClusterRpcProxy(config) as rpc:
        return draw(read_story(rpc, order_id))


if __name__ == "__main__":
    main()
