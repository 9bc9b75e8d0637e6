"""SQL of orders: a list in, a list out, one statement a step."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from orders.domain import Ending

Row = RowMapping | dict[str, Any]
Key = tuple[str, str]  # whose, and the client's idempotency key
ORDER = (
    "id, user_id, key, price_minor, orders.status, orders.reason, request_id, attempts, created_at, ended_at"
)


def insert_new(session: Session, orders: Sequence[Row], first_look: timedelta) -> dict[Key, RowMapping]:
    """Store pending orders, but those whose (user, key) is taken; those stored, by that pair.

    The sweeper leaves them alone for `first_look`. Stored in the order of their keys, so two
    batches with the same keys can't wait for each other in turn.
    """
    orders = sorted(orders, key=itemgetter("user_id", "key"))
    rows = session.execute(
        text(
            "INSERT INTO orders (id, user_id, key, price_minor, request_id, next_attempt_at)"
            " SELECT new.*, now() + :first_look FROM unnest(CAST(:id AS uuid[]),"
            " CAST(:user_id AS uuid[]), CAST(:key AS text[]), CAST(:price_minor AS bigint[]),"
            " CAST(:request_id AS text[])) AS new"
            f" ON CONFLICT (user_id, key) DO NOTHING RETURNING {ORDER}"
        ),
        {
            "first_look": first_look,
            **_columns(orders, ("id", "user_id", "key", "price_minor", "request_id")),
        },
    )
    return {(row["user_id"], row["key"]): row for row in rows.mappings()}


def by_keys(session: Session, orders: Iterable[Row]) -> dict[Key, RowMapping]:
    """The orders under these (user_id, key), by that pair."""
    rows = session.execute(
        text(
            f"SELECT {ORDER} FROM orders WHERE (user_id, key) IN"
            " (SELECT * FROM unnest(CAST(:user_id AS uuid[]), CAST(:key AS text[])))"
        ),
        _columns(list(orders), ("user_id", "key")),
    )
    return {(row["user_id"], row["key"]): row for row in rows.mappings()}


def end(session: Session, endings: Sequence[Ending]) -> list[RowMapping]:
    """End orders that are still pending; the orders that this call ended.

    `status = 'pending'` is the guard: an order ends once, and is never changed again.
    """
    rows = session.execute(
        text(
            "UPDATE orders SET status = new.status, reason = new.reason, ended_at = now()"
            " FROM unnest(CAST(:order_id AS uuid[]), CAST(:status AS text[]),"
            " CAST(:reason AS text[])) AS new (order_id, status, reason)"
            " WHERE id = new.order_id AND orders.status = 'pending'"
            f" RETURNING {ORDER}"
        ),
        {
            "order_id": [e.order_id for e in endings],
            "status": [e.status for e in endings],
            "reason": [e.reason for e in endings],
        },
    )
    return list(rows.mappings())


def by_ids(session: Session, ids: Iterable[str]) -> dict[str, RowMapping]:
    """The orders with these ids."""
    rows = session.execute(
        text(f"SELECT {ORDER} FROM orders WHERE id = ANY(CAST(:ids AS uuid[]))"), {"ids": list(ids)}
    )
    return {row["id"]: row for row in rows.mappings()}


def claim_due(session: Session, limit: int, lease: timedelta) -> list[RowMapping]:
    """Pending orders whose next attempt is due, with their `age`; no other sweeper gets them for
    `lease`.

    ARRAY() runs its query once; IN may run it again for each row, and lock and claim more than `limit`.
    """
    rows = session.execute(
        text(
            "UPDATE orders SET attempts = attempts + 1, next_attempt_at = now() + :lease"
            " WHERE id = ANY(ARRAY(SELECT id FROM orders WHERE status = 'pending'"
            " AND next_attempt_at <= now() ORDER BY next_attempt_at LIMIT :limit"
            " FOR UPDATE SKIP LOCKED))"
            f" RETURNING {ORDER}, now() - created_at AS age"
        ),
        {"lease": lease, "limit": limit},
    )
    return list(rows.mappings())


def oldest_pending_s(session: Session) -> float:
    """The age in seconds of the oldest pending order; 0 where there is none."""
    age_s = "extract(epoch FROM now() - min(created_at))"
    query = f"SELECT coalesce({age_s}, 0) FROM orders WHERE status = 'pending'"
    return float(session.execute(text(query)).scalar_one())


def postpone(session: Session, waits_s: Mapping[str, float]) -> None:
    """Set the next attempt of orders, in so many seconds from now."""
    session.execute(
        text(
            "UPDATE orders SET next_attempt_at = now() + make_interval(secs => new.wait_s)"
            " FROM unnest(CAST(:ids AS uuid[]), CAST(:waits_s AS float8[])) AS new (order_id, wait_s)"
            " WHERE id = new.order_id AND status = 'pending'"
        ),
        {"ids": list(waits_s), "waits_s": list(waits_s.values())},
    )


def of_user(session: Session, user_id: str, limit: int, after: str | None) -> list[RowMapping]:
    """The last `limit` orders of a user, newest first, of those before the order `after`."""
    rows = session.execute(
        text(
            f"SELECT {ORDER} FROM orders WHERE user_id = CAST(:user_id AS uuid)"
            " AND (CAST(:after AS uuid) IS NULL OR id < CAST(:after AS uuid))"
            " ORDER BY id DESC LIMIT :limit"
        ),
        {"user_id": user_id, "after": after, "limit": limit},
    )
    return list(rows.mappings())


def _columns(rows: Sequence[Row], names: Sequence[str]) -> dict[str, list[Any]]:
    """Rows as one list a column, as PostgreSQL's unnest() takes them."""
    return {name: [row[name] for row in rows] for name in names}
