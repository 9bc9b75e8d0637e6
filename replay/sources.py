"""The events that can be replayed, and the rows in other databases that each brings about."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from audit.checks import CREATED_LATE, ENDED_LATE, HAS_LETTER
from chassis.outbox import Event
from orders.events import order_settled
from users.events import user_created

HAVING = "SELECT {0} FROM {1} WHERE {0} = ANY(%(ids)s::uuid[])"


@dataclass(frozen=True, slots=True)
class Effect:
    """A row that an event brings about."""

    name: str
    service: str
    query: str  # which of %(ids)s have it


@dataclass(frozen=True, slots=True)
class Source:
    """A table whose rows have an event each.

    `query` gives `id`, `occurred_at` and what `event` reads, of the rows since %(since)s. Rows so
    young that their effects may be on the way are left out, unless %(settled)s.
    """

    service: str
    id_name: str  # in the event's payload
    query: str
    effects: tuple[Effect, ...]
    event: Callable[[Any], Event]


def _order_event(order: Any) -> Event:
    return order_settled(order, order.reason)


USERS = Source(
    service="users",
    id_name="user_id",
    query=f"""
        SELECT id, created_at AS occurred_at, username, email, locale
        FROM users
        WHERE created_at >= %(since)s::timestamptz AND {CREATED_LATE}
    """,
    effects=(
        Effect("account", "billing", HAVING.format("user_id", "accounts")),
        Effect("recipient", "notifications", HAVING.format("user_id", "recipients")),
    ),
    event=user_created,
)
ORDERS = Source(
    service="orders",
    id_name="order_id",
    query=f"""
        SELECT id, ended_at AS occurred_at, user_id, price_minor, reason, request_id
        FROM orders
        WHERE ended_at >= %(since)s::timestamptz AND {HAS_LETTER} AND {ENDED_LATE}
    """,
    effects=(Effect("letter", "notifications", HAVING.format("order_id", "letters")),),
    event=_order_event,
)
SOURCES = (
    USERS,
    ORDERS,
)  # in this order: a letter whose recipient is known needs no call to users
