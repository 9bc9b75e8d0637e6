"""Points at which a process can crash, and how the suite recovers.

The product has no code for this. tests/chaos/crashing.py wraps the functions that are named here.
"""

from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal

from dev.cli import SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A process of `service` crashes just `before` or `after` a call of `function`.

    The function is module:name or module:Class.name. With `containing`, only calls with this text
    in their arguments count.
    """

    name: str
    service: str
    moment: Literal["before", "after"]
    function: str
    recovery: str
    containing: str = ""


REPEATED = "The client retries the request with its key"
REDELIVERED = "The broker redelivers the unacknowledged request"
SWEPT = "The sweeper retries the withdrawal under the order's id"
RELAYED = "The relay publishes events again that are not marked as sent"
ONE_LETTER = "The letter of an order is unique"

POINTS = (
    Point(
        name="gateway, before its RPC",
        service="gateway",
        moment="before",
        function="chassis.rpc:RpcProxy._call",
        recovery=f"{REPEATED}.",
    ),
    Point(
        name="gateway, after the reply",
        service="gateway",
        moment="after",
        function="chassis.rpc:RpcProxy._call",
        recovery=f"{REPEATED} and gets the stored response.",
    ),
    Point(
        name="orders, before the insert",
        service="orders",
        moment="before",
        function="orders.store:insert_new",
        recovery=f"{REDELIVERED}. If it has expired, the client retries it.",
    ),
    Point(
        name="orders, after the insert",
        service="orders",
        moment="before",
        function="orders.service:_withdrawals",
        recovery=f"{SWEPT} after 10 s. Until then the client gets 202.",
    ),
    Point(
        name="orders, after the withdrawal was sent",
        service="orders",
        moment="after",
        function="chassis.broker:PublisherConnection.publish",
        recovery=f"{SWEPT}. Billing replies with the recorded operation.",
        containing="billing.withdraw_many",
    ),
    Point(
        name="orders, after the withdrawal's reply",
        service="orders",
        moment="before",
        function="orders.domain:settlement_of",
        recovery=f"{SWEPT}. Billing replies with the recorded operation.",
    ),
    Point(
        name="orders, after the settlement and its event",
        service="orders",
        moment="after",
        function="orders.store:settle",
        recovery=f"{RELAYED}. {REPEATED} and gets the settled order.",
    ),
    Point(
        name="orders, before publishing",
        service="orders",
        moment="before",
        function="chassis.publishers:ConfirmedPublisher.publish",
        recovery="The relay publishes events that are not marked as sent.",
    ),
    Point(
        name="orders, after publishing",
        service="orders",
        moment="after",
        function="chassis.publishers:ConfirmedPublisher.publish",
        recovery=f"{RELAYED}. {ONE_LETTER}, so the second event has no effect.",
    ),
    Point(
        name="orders, after marking as sent",
        service="orders",
        moment="after",
        function="chassis.outbox:Outbox._relay_batch",
        recovery="Nothing is missing: the event is published and marked.",
    ),
    Point(
        name="billing, on receipt",
        service="billing",
        moment="before",
        function="billing.service:Service.withdraw_many",
        recovery=f"{REDELIVERED}. Otherwise: {SWEPT}.",
    ),
    Point(
        name="billing, after the lock",
        service="billing",
        moment="after",
        function="billing.store:load_accounts",
        recovery=f"PostgreSQL rolls back and unlocks. {REDELIVERED}.",
    ),
    Point(
        name="billing, before the commit",
        service="billing",
        moment="after",
        function="billing.store:insert_operations",
        recovery=f"PostgreSQL rolls back operations and balances together. {REDELIVERED}.",
    ),
    Point(
        name="billing, after the commit",
        service="billing",
        moment="after",
        function="billing.service:Service._post_batch",
        recovery=f"{REDELIVERED}. The reply is the operation with its ref.",
    ),
    Point(
        name="billing, after the acknowledgement, before the reply is sent",
        service="billing",
        moment="after",
        function="chassis.rpc:RpcConsumer.handle_result",
        recovery=f"{SWEPT}. The client retries a deposit or withdrawal with its key.",
    ),
    Point(
        name="billing, after the reply",
        service="billing",
        moment="after",
        function="chassis.broker:PublisherConnection.publish",
        recovery=f"Nothing is missing. {REDELIVERED} if the acknowledgement was lost.",
    ),
    Point(
        name="notifications, on receipt",
        service="notifications",
        moment="before",
        function="notifications.service:Service.handle_order_paid",
        recovery="The broker redelivers the unacknowledged event.",
    ),
    Point(
        name="notifications, after the letters",
        service="notifications",
        moment="after",
        function="notifications.service:Service._save_letters",
        recovery=f"The broker redelivers the event. {ONE_LETTER}.",
    ),
    Point(
        name="users, before the commit",
        service="users",
        moment="after",
        function="users.store:insert_new",
        recovery=f"PostgreSQL rolls back user and event together. {REDELIVERED}.",
    ),
    Point(
        name="users, after the commit",
        service="users",
        moment="after",
        function="users.service:Service.create",
        recovery=f"{REDELIVERED}. The reply is the user with its id. {RELAYED}.",
    ),
)


def rounds() -> list[list[tuple[str, Point]]]:
    """Return all points in rounds, with the copy that crashes. A copy has one point a round."""
    services = dict.fromkeys(point.service for point in POINTS)
    by_service = [_pairs(service) for service in services]
    in_turn = zip_longest(*by_service, fillvalue=())
    return [[*chain.from_iterable(pairs)] for pairs in in_turn]


def _pairs(service: str) -> list[list[tuple[str, Point]]]:
    """Return the points of a service, two at a time: one for each copy."""
    own = [point for point in POINTS if point.service == service]
    copies = (service, service + SECOND)
    starts = range(0, len(own), 2)
    return [list(zip(copies, own[n : n + 2], strict=False)) for n in starts]


def deaths(record: Path) -> int:
    """Return how many crashes this record has counted."""
    return record.stat().st_size if record.exists() else 0
