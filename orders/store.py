"""The SQL of orders: one statement for each function.

A statement reads or writes any number of orders. Its rows are one parameter, a JSON array.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Row, text

from chassis import outbox
from chassis.db import OLDEST_AGE_SQL, rows_as_json
from chassis.outbox import NewEvent, OutboxWriter
from orders.domain import Settlement

Order = Row[Any]  # with the columns ORDER_COLUMNS
UserKey = tuple[str, str]  # a user's id and an idempotency key
# The table is named where SETTLE or SELECT_HISTORY has another column of the same name.
ORDER_COLUMNS = """
    id, user_id, key, price_minor, orders.status, orders.reason, orders.request_id,
    attempts, orders.created_at, ended_at
"""

# Insert the orders whose idempotency key is new.
INSERT_NEW = text(f"""
    INSERT INTO orders (id, user_id, key, price_minor, request_id, next_attempt_at)
    SELECT id, user_id, key, price_minor, request_id, now() + :first_retry_after
    FROM json_to_recordset(:rows) AS new (
        id uuid, user_id uuid, key text, price_minor bigint, request_id text
    )
    ON CONFLICT (user_id, key) DO NOTHING
    RETURNING {ORDER_COLUMNS}
""")

# Read the orders of these users with these idempotency keys.
SELECT_BY_USER_KEYS = text(f"""
    SELECT {ORDER_COLUMNS}
    FROM orders
    WHERE (user_id, key) IN (
        SELECT *
        FROM json_to_recordset(:rows) AS wanted (user_id uuid, key text)
    )
""")

# Read the orders with these ids.
SELECT_BY_IDS = text(f"""
    SELECT {ORDER_COLUMNS}
    FROM orders
    WHERE id = ANY(CAST(:ids AS uuid[]))
""")

# Read an order of a user with the publication of its event. The publication is unknown after the
# outbox has deleted the event, and for orders that an earlier version settled.
SELECT_HISTORY = text(f"""
    SELECT
        {ORDER_COLUMNS},
        last_attempt_at,
        sent_at AS published_at,
        orders.status <> 'pending' AND event_id IS NULL AS is_publication_unknown
    FROM orders
    LEFT JOIN outbox ON event_id = settlement_event_id
    WHERE id = CAST(:order_id AS uuid) AND user_id = CAST(:user_id AS uuid)
""")

# Set the final status of orders that are still pending, and insert one event for each of them.
SETTLE = text(f"""
    WITH settled AS (
        UPDATE orders
        SET
            status = new.status,
            reason = new.reason,
            ended_at = now(),
            settlement_event_id = new.event_id
        FROM json_to_recordset(:rows) AS new (
            order_id uuid, status text, reason text, {outbox.COLUMN_TYPES}
        )
        WHERE id = new.order_id AND orders.status = 'pending'
        RETURNING {ORDER_COLUMNS}, event_id, type, payload
    ),
    inserted_events AS (
        INSERT INTO outbox ({outbox.COLUMNS})
        SELECT {outbox.COLUMNS}
        FROM settled
    )
    SELECT *
    FROM settled
""")

# Claim orders that are due, for the time of the lease. ARRAY() runs its query once. IN could run it
# again for each row, and claim more than `limit` orders.
CLAIM_DUE = text(f"""
    UPDATE orders
    SET attempts = attempts + 1, last_attempt_at = now(), next_attempt_at = now() + :lease
    WHERE id = ANY(ARRAY(
        SELECT id
        FROM orders
        WHERE status = 'pending'
            AND next_attempt_at > coalesce(now() - CAST(:lookback AS interval), '-infinity')
            AND next_attempt_at <= now()
        ORDER BY next_attempt_at
        LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING {ORDER_COLUMNS}, now() - created_at AS age
""")

# Replace the lease of each pending order by its retry delay.
SCHEDULE_RETRIES = text("""
    UPDATE orders
    SET next_attempt_at = now() + make_interval(secs => new.delay_s)
    FROM unnest(CAST(:ids AS uuid[]), CAST(:delays_s AS float8[])) AS new (order_id, delay_s)
    WHERE id = new.order_id AND status = 'pending'
""")

# Read the age of the oldest pending order, and whether one has been due for longer than the
# lookback.
MEASURE_PENDING = text(f"""
    SELECT
        {OLDEST_AGE_SQL},
        coalesce(bool_or(next_attempt_at <= now() - CAST(:lookback AS interval)), false)
    FROM orders
    WHERE status = 'pending'
""")

# Read a page of a user's orders, newest first. Ids grow with time.
SELECT_PAGE = text(f"""
    SELECT {ORDER_COLUMNS}
    FROM orders
    WHERE user_id = CAST(:user_id AS uuid)
        AND (CAST(:after AS uuid) IS NULL OR id < CAST(:after AS uuid))
    ORDER BY id DESC
    LIMIT :limit
""")


def insert_new(
    connection: Connection,
    orders: Sequence[Mapping[str, Any]],
    first_retry_after: timedelta,
) -> dict[UserKey, Order]:
    """Insert pending orders and return them by (user_id, key). Existing ones are left out.

    The rows are inserted in this order. So two batches with the same keys cannot deadlock.
    """
    rows = rows_as_json(sorted(orders, key=itemgetter("user_id", "key")))
    return _by_user_key(
        connection.execute(
            INSERT_NEW, {"rows": rows, "first_retry_after": first_retry_after}
        )
    )


def load_by_user_keys(
    connection: Connection, orders: Sequence[Mapping[str, Any]]
) -> dict[UserKey, Order]:
    """Load the orders that have the same users and keys as these, by (user_id, key)."""
    return _by_user_key(
        connection.execute(SELECT_BY_USER_KEYS, {"rows": rows_as_json(orders)})
    )


def _by_user_key(orders: Iterable[Order]) -> dict[UserKey, Order]:
    return {(order.user_id, order.key): order for order in orders}


def load_by_ids(connection: Connection, ids: Sequence[str]) -> dict[str, Order]:
    """Load the orders with these ids, by id."""
    return {
        order.id: order for order in connection.execute(SELECT_BY_IDS, {"ids": ids})
    }


def load_history(connection: Connection, order_id: str, user_id: str) -> Order | None:
    """Load an order of a user, with the columns of SELECT_HISTORY."""
    return connection.execute(
        SELECT_HISTORY, {"order_id": order_id, "user_id": user_id}
    ).one_or_none()


def settle(
    connection: Connection,
    outbox_writer: OutboxWriter,
    settlements: Sequence[Settlement],
    events: Sequence[NewEvent],
) -> Sequence[Order]:
    """Settle orders, each together with its event. Return the orders that this call settled.

    An order that is already settled does not change and gets no second event. The rows are sorted,
    so that two calls normally lock in the same order. If they deadlock, PostgreSQL aborts one.
    """
    pairs = sorted(
        zip(settlements, events, strict=True), key=lambda pair: pair[0].order_id
    )
    return outbox_writer.stage(
        connection,
        events=[event for _, event in pairs],
        statement=SETTLE,
        changes=[asdict(settlement) for settlement, _ in pairs],
    ).all()


def claim_due(
    connection: Connection,
    limit: int,
    lease: timedelta,
    lookback: timedelta | None = None,
) -> Sequence[Order]:
    """Claim pending orders that are due. Return them with their `age`.

    No other sweeper claims them during the `lease`. With a `lookback`, the search leaves out the
    orders that have been due for longer. Without a `lookback`, it is slow while an old snapshot
    is open: the index keeps an entry for each order that was settled since then.
    """
    return connection.execute(
        CLAIM_DUE, {"lease": lease, "limit": limit, "lookback": lookback}
    ).all()


def schedule_retries(connection: Connection, delays_s: Mapping[str, float]) -> None:
    """Replace the lease of each pending order by its retry delay, in seconds by order id.

    The ids are sorted, so that two calls normally lock in the same order.
    """
    ids = sorted(delays_s)
    connection.execute(
        SCHEDULE_RETRIES,
        {"ids": ids, "delays_s": [delays_s[order_id] for order_id in ids]},
    )


def measure_pending(connection: Connection, lookback: timedelta) -> tuple[float, bool]:
    """Return the age of the oldest pending order, and whether one has been due for too long.

    The age is in seconds, and 0 without pending orders. Too long means longer than `lookback`.
    """
    oldest_s, has_missed = connection.execute(
        MEASURE_PENDING, {"lookback": lookback}
    ).one()
    return float(oldest_s), has_missed


def load_page(
    connection: Connection, user_id: str, limit: int, after: str | None
) -> Sequence[Order]:
    """Load up to `limit` orders of a user, newest first, that are older than the order `after`."""
    return connection.execute(
        SELECT_PAGE, {"user_id": user_id, "after": after, "limit": limit}
    ).all()
