"""The SQL of notifications: one statement for each function.

A statement reads or writes any number of rows. New rows are one parameter, a JSON array.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, RowMapping, text

from chassis.db import rows_as_json
from notifications.domain import Recipient

# The size of the texts in a page, as JSON. Many clients may receive such a page slowly.
MAX_PAGE_BYTES = 64 * 1024

# Insert the recipients that are new.
INSERT_RECIPIENTS = text("""
    INSERT INTO recipients (user_id, username, email, locale)
    SELECT user_id, username, email, locale
    FROM json_to_recordset(:rows) AS new (
        user_id uuid, username text, email text, locale text
    )
    ON CONFLICT DO NOTHING
""")

# Read the recipients with these user ids.
SELECT_RECIPIENTS = text("""
    SELECT user_id, username, email, locale
    FROM recipients
    WHERE user_id = ANY(CAST(:ids AS uuid[]))
""")

# Insert the letters that are new. No delivery follows, so their state stays `stored`.
INSERT_LETTERS = text("""
    INSERT INTO letters (id, kind, order_id, user_id, email, subject, body, state)
    SELECT id, kind, order_id, user_id, email, subject, body, 'stored'
    FROM json_to_recordset(:rows) AS new (
        id uuid, kind text, order_id uuid, user_id uuid, email text, subject text, body text
    )
    ON CONFLICT DO NOTHING
    RETURNING *
""")

# Read the letter with this id.
SELECT_LETTER = text("""
    SELECT *
    FROM letters
    WHERE id = CAST(:id AS uuid)
""")

# Read the letter to a user about an order.
SELECT_ORDER_LETTER = text("""
    SELECT *
    FROM letters
    WHERE order_id = CAST(:order_id AS uuid) AND user_id = CAST(:user_id AS uuid)
""")

# Read a page of letters to a user or to an address, newest first. `bytes` is the size of the texts
# up to and with this letter. The page ends with the first letter that exceeds the limit. A single
# letter counts as a page at most. A control character takes six bytes in JSON.
SELECT_PAGE = text("""
    SELECT *
    FROM (
        SELECT *, sum(size) OVER (ORDER BY id DESC) AS bytes
        FROM (
            SELECT *, least(octet_length(to_json(subject || body)::text), :max_bytes) AS size
            FROM letters
            WHERE (CAST(:user_id AS uuid) IS NULL OR user_id = CAST(:user_id AS uuid))
                AND (CAST(:email AS text) IS NULL OR email = :email)
                AND (CAST(:after AS uuid) IS NULL OR id < CAST(:after AS uuid))
            ORDER BY id DESC
            LIMIT :limit
        ) AS newest
    ) AS sized
    WHERE bytes - size <= :max_bytes
    ORDER BY id DESC
""")


def insert_recipients(connection: Connection, recipients: Sequence[Recipient]) -> None:
    """Insert the recipients that are new.

    The rows are in the order of their ids. So two calls with the same users cannot deadlock.
    """
    rows = rows_as_json(sorted(recipients, key=attrgetter("user_id")))
    connection.execute(INSERT_RECIPIENTS, {"rows": rows})


def load_recipients(
    connection: Connection, user_ids: Iterable[str]
) -> dict[str, Recipient]:
    """Load the stored recipients with these user ids, by user id."""
    found = connection.execute(SELECT_RECIPIENTS, {"ids": list(user_ids)})
    return {row["user_id"]: Recipient(**row) for row in found.mappings()}


def insert_letters(
    connection: Connection, letters: Sequence[Mapping[str, Any]]
) -> Sequence[RowMapping]:
    """Insert letters and return the new ones. An order that has a letter gets no other one.

    The rows are in the order of their order ids. So two calls with the same orders cannot deadlock.
    """
    rows = rows_as_json(sorted(letters, key=lambda letter: letter["order_id"] or ""))
    return connection.execute(INSERT_LETTERS, {"rows": rows}).mappings().all()


def load_letter(connection: Connection, id_: str) -> RowMapping:
    """Load the letter with this id."""
    return connection.execute(SELECT_LETTER, {"id": id_}).mappings().one()


def load_order_letter(
    connection: Connection, order_id: str, user_id: str
) -> RowMapping | None:
    """Load the letter to a user about an order, or None."""
    parameters = {"order_id": order_id, "user_id": user_id}
    found = connection.execute(SELECT_ORDER_LETTER, parameters)
    return found.mappings().one_or_none()


def load_page(
    connection: Connection,
    recipient: Mapping[str, str],
    limit: int,
    after: str | None,
) -> Sequence[RowMapping]:
    """Load up to `limit` letters, newest first, that are older than the letter `after`.

    `recipient` is {"user_id": ...} or {"email": ...}. Each letter has `bytes`, the size of the
    texts up to and with its own. The first letter above MAX_PAGE_BYTES is the last one loaded.
    """
    return (
        connection.execute(
            SELECT_PAGE,
            {
                "user_id": recipient.get("user_id"),
                "email": recipient.get("email"),
                "after": after,
                "limit": limit,
                "max_bytes": MAX_PAGE_BYTES,
            },
        )
        .mappings()
        .all()
    )
