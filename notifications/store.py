"""SQL of notifications: a list in, a list out, one statement a step."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from sqlalchemy import Connection, RowMapping, Table, select, text
from sqlalchemy.dialects.postgresql import insert

from chassis.db import recordset
from notifications.domain import Recipient
from notifications.models import Letter
from notifications.models import Recipient as RecipientRow

LETTERS, RECIPIENTS = cast(Table, Letter.__table__), cast(Table, RecipientRow.__table__)
INSERT_LETTERS = text(
    "INSERT INTO letters (id, kind, order_id, user_id, email, subject, body, state)"
    " SELECT * FROM json_to_recordset(:rows) AS new (id uuid, kind text, order_id uuid, user_id uuid,"
    " email text, subject text, body text, state text) ON CONFLICT DO NOTHING RETURNING *"
)
RECIPIENTS_OF = text(
    "SELECT user_id, username, email, locale FROM recipients WHERE user_id = ANY(CAST(:ids AS uuid[]))"
)


def keep_recipients(connection: Connection, recipients: Sequence[Recipient]) -> None:
    """Keep who is not kept yet."""
    statement = insert(RECIPIENTS).on_conflict_do_nothing()
    connection.execute(statement, [asdict(recipient) for recipient in recipients])


def recipients(connection: Connection, user_ids: Iterable[str]) -> dict[str, Recipient]:
    """Who these users are, as far as we were told."""
    rows = connection.execute(RECIPIENTS_OF, {"ids": list(user_ids)})
    return {row.user_id: Recipient(*row) for row in rows}


def insert_letters(connection: Connection, letters: Sequence[dict[str, Any]]) -> list[RowMapping]:
    """Store letters, but those whose order has one already; those stored.

    In the order of their orders, so two batches with the same ones can't wait for each other in turn.
    """
    rows = recordset(sorted(letters, key=lambda letter: letter["order_id"] or ""))
    return list(connection.execute(INSERT_LETTERS, {"rows": rows}).mappings())


def by_id(connection: Connection, letter_id: str) -> RowMapping:
    """The letter with this id, which there is."""
    return connection.execute(select(*LETTERS.c).where(LETTERS.c.id == letter_id)).mappings().one()


def letters(connection: Connection, to: Mapping[str, str], limit: int, after: str | None) -> list[RowMapping]:
    """The last `limit` letters, newest first, to the user or address in `to`, of those before the
    letter `after`."""
    query = select(*LETTERS.c).where(*[getattr(Letter, name) == value for name, value in to.items()])
    if after:
        query = query.where(Letter.id < after)
    return list(connection.execute(query.order_by(Letter.id.desc()).limit(limit)).mappings())
