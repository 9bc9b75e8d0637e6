"""SQL of orders: a list in, a list out, one statement a step."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Row, text

from chassis import outbox
from chassis.db import OLDEST_S, recordset
from chassis.outbox import Event, OutboxWriter
from orders.domain import Ending

Order = Row[Any]  # its columns are those of ORDER
Key = tuple[str, str]  # whose, and the client's idempotency key
ORDER = (
    "id, user_id, key, price_minor, orders.status, orders.reason, orders.request_id, attempts,"
    " created_at, ended_at"
)

INSERT_NEW = text(
    "INSERT INTO orders (id, user_id, key, price_minor, request_id, next_attempt_at)"
    " SELECT id, user_id, key, price_minor, request_id, now() + :first_look FROM json_to_recordset(:rows)"
    " AS new (id uuid, user_id uuid, key text, price_minor bigint, request_id text)"
    f" ON CONFLICT (user_id, key) DO NOTHING RETURNING {ORDER}"
)
BY_KEYS = text(
    f"SELECT {ORDER} FROM orders WHERE (user_id, key) IN"
    " (SELECT * FROM json_to_recordset(:rows) AS new (user_id uuid, key text))"
)
BY_IDS = text(f"SELECT {ORDER} FROM orders WHERE id = ANY(CAST(:ids AS uuid[]))")
END = text(
    "WITH ended AS (UPDATE orders SET status = new.status, reason = new.reason, ended_at = now()"
    f" FROM json_to_recordset(:rows) AS new (order_id uuid, status text, reason text, {outbox.COLUMN_TYPES})"
    " WHERE id = new.order_id AND orders.status = 'pending'"
    f" RETURNING {ORDER}, event_id, type, payload),"
    f" told AS (INSERT INTO outbox ({outbox.COLUMNS}) SELECT {outbox.COLUMNS} FROM ended)"
    " SELECT * FROM ended"
)
# ARRAY() runs its query once; IN may run it again for each row, and lock and claim more than `limit`.
CLAIM_DUE = text(
    "UPDATE orders SET attempts = attempts + 1, next_attempt_at = now() + :lease"
    " WHERE id = ANY(ARRAY(SELECT id FROM orders WHERE status = 'pending'"
    " AND next_attempt_at > coalesce(now() - CAST(:reach AS interval), '-infinity')"
    " AND next_attempt_at <= now() ORDER BY next_attempt_at LIMIT :limit"
    f" FOR UPDATE SKIP LOCKED)) RETURNING {ORDER}, now() - created_at AS age"
)
MEASURE_PENDING = text(
    f"SELECT {OLDEST_S},"
    " coalesce(bool_or(next_attempt_at <= now() - CAST(:reach AS interval)), false)"
    " FROM orders WHERE status = 'pending'"
)
POSTPONE = text(
    "UPDATE orders SET next_attempt_at = now() + make_interval(secs => new.wait_s)"
    " FROM unnest(CAST(:ids AS uuid[]), CAST(:waits_s AS float8[])) AS new (order_id, wait_s)"
    " WHERE id = new.order_id AND status = 'pending'"
)
OF_USER = text(
    f"SELECT {ORDER} FROM orders WHERE user_id = CAST(:user_id AS uuid)"
    " AND (CAST(:after AS uuid) IS NULL OR id < CAST(:after AS uuid)) ORDER BY id DESC LIMIT :limit"
)


def insert_new(
    connection: Connection, orders: Sequence[Mapping[str, Any]], first_look: timedelta
) -> dict[Key, Order]:
    """Store pending orders, but those whose (user, key) is taken; those stored, by that pair.

    The sweeper leaves them alone for `first_look`. Stored in the order of their keys, so two
    batches with the same keys can't wait for each other in turn.
    """
    rows = recordset(sorted(orders, key=itemgetter("user_id", "key")))
    return _by_key(
        connection.execute(INSERT_NEW, {"rows": rows, "first_look": first_look})
    )


def by_keys(
    connection: Connection, orders: Sequence[Mapping[str, Any]]
) -> dict[Key, Order]:
    """The orders under these (user_id, key), by that pair."""
    return _by_key(connection.execute(BY_KEYS, {"rows": recordset(orders)}))


def _by_key(orders: Iterable[Order]) -> dict[Key, Order]:
    return {(order.user_id, order.key): order for order in orders}


def end(
    connection: Connection,
    writer: OutboxWriter,
    endings: Sequence[Ending],
    events: Sequence[Event],
) -> list[Order]:
    """End orders that are still pending, each with its event: one statement, so both or none. Returns the
    orders that this call ended. `status = 'pending'` is the guard: an order ends once.
    """
    pairs = sorted(zip(endings, events, strict=True), key=lambda pair: pair[0].order_id)
    changes = [
        {
            "order_id": ending.order_id,
            "status": ending.status,
            "reason": ending.reason,
        }
        for ending, _ in pairs
    ]
    return [*writer.stage(connection, [event for _, event in pairs], END, changes)]


def by_ids(connection: Connection, ids: Iterable[str]) -> dict[str, Order]:
    """The orders with these ids."""
    return {order.id: order for order in connection.execute(BY_IDS, {"ids": list(ids)})}


def claim_due(
    connection: Connection, limit: int, lease: timedelta, reach: timedelta | None = None
) -> list[Order]:
    """Pending orders that are due, with their `age`; no other sweeper gets them for `lease`.

    With `reach`, only orders that have been due for less than that. A search for all of them costs
    more: it reads the index entry of each order that has ended since the oldest snapshot.
    """
    return [
        *connection.execute(CLAIM_DUE, {"lease": lease, "limit": limit, "reach": reach})
    ]


def measure_pending(connection: Connection, reach: timedelta) -> tuple[float, bool]:
    """The age in seconds of the oldest pending order (0 where there is none), and whether any has
    been due for `reach` or longer."""
    oldest_s, is_behind = connection.execute(MEASURE_PENDING, {"reach": reach}).one()
    return float(oldest_s), is_behind


def postpone(connection: Connection, waits_s: Mapping[str, float]) -> None:
    """Set the next attempt of orders, in so many seconds from now."""
    ids = sorted(waits_s)
    connection.execute(
        POSTPONE, {"ids": ids, "waits_s": [waits_s[order_id] for order_id in ids]}
    )


def of_user(
    connection: Connection, user_id: str, limit: int, after: str | None
) -> list[Order]:
    """The last `limit` orders of a user, newest first, of those before the order `after`."""
    return [
        *connection.execute(
            OF_USER, {"user_id": user_id, "after": after, "limit": limit}
        )
    ]
