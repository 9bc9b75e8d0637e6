"""The events that can be replayed, and their effects: rows in other databases."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from audit.checks import CREATED_OVERDUE, ENDED_OVERDUE, HAS_LETTER
from chassis.outbox import NewEvent
from orders.domain import Settlement
from orders.events import settlement_event
from users.events import user_created

# The ids of those rows that have the effect: {0} is the column of the id, {1} the table.
IDS_WITH_ROW = "SELECT {0} FROM {1} WHERE {0} = ANY(%(ids)s::uuid[])"


@dataclass(frozen=True, slots=True)
class Effect:
    """A row that the handler of an event writes."""

    name: str
    service: str
    query: str  # returns those of %(ids)s that have it


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A table whose rows have an event each.

    `query` returns `id`, `occurred_at` and the columns that `event` reads, of the rows since
    %(since)s. It omits young rows, whose effects may be in flight, unless %(settled)s.
    """

    service: str
    id_name: str  # in the event's payload
    query: str
    effects: tuple[Effect, ...]
    event: Callable[[Any], NewEvent]


def _order_event(order: Any) -> NewEvent:
    return settlement_event(order, Settlement(order.id, order.status, order.reason))


USERS = Source(
    service="users",
    id_name="user_id",
    query=f"""
        SELECT id, created_at AS occurred_at, username, email, locale
        FROM users
        WHERE created_at >= %(since)s::timestamptz AND {CREATED_OVERDUE}
    """,
    effects=(
        Effect("account", "billing", IDS_WITH_ROW.format("user_id", "accounts")),
        Effect(
            "recipient", "notifications", IDS_WITH_ROW.format("user_id", "recipients")
        ),
    ),
    event=user_created,
)
ORDERS = Source(
    service="orders",
    id_name="order_id",
    query=f"""
        SELECT id, ended_at AS occurred_at, user_id, price_minor, status, reason, request_id
        FROM orders
        WHERE ended_at >= %(since)s::timestamptz AND {HAS_LETTER} AND {ENDED_OVERDUE}
    """,
    effects=(
        Effect("letter", "notifications", IDS_WITH_ROW.format("order_id", "letters")),
    ),
    event=_order_event,
)
# Users come first: a letter whose recipient is known needs no call to users.
SOURCES = (USERS, ORDERS)
