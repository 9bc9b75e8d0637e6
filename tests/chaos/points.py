"""Where a process may die, and who heals it. The product knows nothing of this: chaos.crashing wraps
the functions that are named here."""

from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal

from dev.cli import SECOND


@dataclass(frozen=True, slots=True)
class Point:
    """A process of `service` dies just `before` or `after` a call of `function` (module:name or
    module:Class.name); with `where`, only a call that has this text in its arguments counts."""

    name: str
    service: str
    moment: Literal["before", "after"]
    function: str
    healed_by: str
    where: str = ""


REPEATED = "The client repeats the request with its key"
REDELIVERED = "The broker delivers the unacknowledged request again"
SWEPT = "The sweeper asks billing again under the order's id"
RELAYED = "The relay publishes again what is not marked as sent"
ONE_LETTER = "the order's letter is unique"

POINTS = (
    Point(
        "gateway, before its RPC",
        "gateway",
        "before",
        "chassis.rpc:RpcProxy._call",
        f"{REPEATED}.",
    ),
    Point(
        "gateway, after the reply",
        "gateway",
        "after",
        "chassis.rpc:RpcProxy._call",
        f"{REPEATED} and is answered with what was stored.",
    ),
    Point(
        "orders, before the insert",
        "orders",
        "before",
        "orders.store:insert_new",
        f"{REDELIVERED}; if its time is over, the client repeats it.",
    ),
    Point(
        "orders, after the insert",
        "orders",
        "before",
        "orders.service:_withdrawals",
        f"{SWEPT} after the first look (10 s); the client gets 202 meanwhile.",
    ),
    Point(
        "orders, after the withdrawal was sent",
        "orders",
        "after",
        "chassis.broker:PublisherConnection.publish",
        f"{SWEPT}; billing answers with the operation it has recorded.",
        where="billing.withdraw_many",
    ),
    Point(
        "orders, after the withdrawal's reply",
        "orders",
        "before",
        "orders.domain:settlement_of",
        f"{SWEPT}; billing answers with the operation it has recorded.",
    ),
    Point(
        "orders, after the end and its event",
        "orders",
        "after",
        "orders.store:settle",
        f"{RELAYED}. {REPEATED} and is answered with the ended order.",
    ),
    Point(
        "orders, before publishing",
        "orders",
        "before",
        "chassis.publishers:ConfirmedPublisher.publish",
        "The relay publishes what is not marked as sent.",
    ),
    Point(
        "orders, after publishing",
        "orders",
        "after",
        "chassis.publishers:ConfirmedPublisher.publish",
        f"{RELAYED}; {ONE_LETTER}, so the second event writes none.",
    ),
    Point(
        "orders, after marking as sent",
        "orders",
        "after",
        "chassis.outbox:Outbox._relay_batch",
        "Nobody needs to: the event is out, and marked.",
    ),
    Point(
        "billing, on receipt",
        "billing",
        "before",
        "billing.service:Service.withdraw_many",
        f"{REDELIVERED}. {SWEPT} otherwise.",
    ),
    Point(
        "billing, after the lock",
        "billing",
        "after",
        "billing.store:load_accounts",
        f"PostgreSQL rolls back and unlocks. {REDELIVERED}.",
    ),
    Point(
        "billing, before the commit",
        "billing",
        "after",
        "billing.store:insert_operations",
        f"PostgreSQL rolls back operations and balances together. {REDELIVERED}.",
    ),
    Point(
        "billing, after the commit",
        "billing",
        "after",
        "billing.service:Service._post_batch",
        f"{REDELIVERED}; it is answered with the operation under its ref.",
    ),
    Point(
        "billing, after the acknowledgement, before the reply is sent",
        "billing",
        "after",
        "chassis.rpc:RpcConsumer.handle_result",
        f"{SWEPT}; of a deposit or withdrawal, the client repeats it with its key.",
    ),
    Point(
        "billing, after the reply",
        "billing",
        "after",
        "chassis.broker:PublisherConnection.publish",
        f"Nobody needs to. {REDELIVERED}, if the acknowledgement was lost.",
    ),
    Point(
        "notifications, on receipt",
        "notifications",
        "before",
        "notifications.service:Service.handle_order_paid",
        "The broker delivers the unacknowledged event again.",
    ),
    Point(
        "notifications, after the letters",
        "notifications",
        "after",
        "notifications.service:Service._save_letters",
        f"The broker delivers the event again; {ONE_LETTER}.",
    ),
    Point(
        "users, before the commit",
        "users",
        "after",
        "users.store:insert_new",
        f"PostgreSQL rolls back user and event together. {REDELIVERED}.",
    ),
    Point(
        "users, after the commit",
        "users",
        "after",
        "users.service:Service.create",
        f"{REDELIVERED}; the user under its id is answered. {RELAYED}.",
    ),
)


def rounds() -> list[list[tuple[str, Point]]]:
    """All points in rounds, with the copy that dies there: in a round each copy has one at most."""
    services = dict.fromkeys(point.service for point in POINTS)
    in_turn = [_pairs(service) for service in services]
    return [
        [*chain.from_iterable(pairs)] for pairs in zip_longest(*in_turn, fillvalue=())
    ]


def _pairs(service: str) -> list[list[tuple[str, Point]]]:
    """The points of a service, two at a time: one for each of its copies."""
    own = [point for point in POINTS if point.service == service]
    copies = (service, service + SECOND)
    return [
        list(zip(copies, own[n : n + 2], strict=False)) for n in range(0, len(own), 2)
    ]


def deaths(record: Path) -> int:
    """How often a process has died that had this record."""
    return record.stat().st_size if record.exists() else 0
