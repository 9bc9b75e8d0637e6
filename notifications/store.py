"""SQL of notifications: a list in, a list out, one statement a step."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, RowMapping, Text, func, select, text
from sqlalchemy.dialects.postgresql import insert

from chassis.db import recordset
from notifications.domain import Recipient
from notifications.models import LETTERS, RECIPIENTS

MAX_PAGE_BYTES = 64 * 1024  # of texts as JSON: many clients may read such a page slowly
# Their state is `stored`: nothing delivers them yet.
INSERT_LETTERS = text(
    "INSERT INTO letters (id, kind, order_id, user_id, email, subject, body, state)"
    " SELECT *, 'stored' FROM json_to_recordset(:rows) AS new (id uuid, kind text, order_id uuid,"
    " user_id uuid, email text, subject text, body text) ON CONFLICT DO NOTHING RETURNING *"
)
RECIPIENTS_OF = text(
    "SELECT user_id, username, email, locale FROM recipients WHERE user_id = ANY(CAST(:ids AS uuid[]))"
)


def keep_recipients(connection: Connection, recipients: Sequence[Recipient]) -> None:
    """Store new recipients."""
    connection.execute(
        insert(RECIPIENTS).on_conflict_do_nothing(),
        sorted(
            map(asdict, recipients), key=itemgetter("user_id")
        ),  # two copies wait in one order
    )


def recipients(connection: Connection, user_ids: Iterable[str]) -> dict[str, Recipient]:
    """Who these users are, as far as we were told."""
    return {
        row.user_id: Recipient(*row)
        for row in connection.execute(RECIPIENTS_OF, {"ids": list(user_ids)})
    }


def insert_letters(
    connection: Connection, letters: Sequence[dict[str, Any]]
) -> list[RowMapping]:
    """Store letters, but those whose order has one already; those stored. In the order of their orders, so
    two batches with the same ones can't wait for each other in turn."""
    rows = recordset(sorted(letters, key=lambda letter: letter["order_id"] or ""))
    return list(connection.execute(INSERT_LETTERS, {"rows": rows}).mappings())


def letters(
    connection: Connection, of: Mapping[str, str], limit: int, after: str | None
) -> list[RowMapping]:
    """The last `limit` letters before `after` that have these values (a user's id, say), newest first.

    Each has `bytes`, the size as JSON of all texts read up to and with its own. The first letter with which
    that is more than MAX_PAGE_BYTES is the last one read. A letter counts as a page at most.
    """
    query = select(LETTERS).where(
        *[LETTERS.c[name] == value for name, value in of.items()]
    )
    if after:
        query = query.where(LETTERS.c.id < after)
    newest = query.order_by(LETTERS.c.id.desc()).limit(limit).subquery()
    escaped = func.to_json(
        newest.c.subject + newest.c.body
    )  # a control character takes six bytes
    size = func.least(func.octet_length(escaped.cast(Text)), MAX_PAGE_BYTES)
    total = func.sum(size).over(order_by=newest.c.id.desc())
    sized = select(newest, size.label("size"), total.label("bytes")).subquery()
    fitting = select(sized).where(sized.c.bytes - sized.c.size <= MAX_PAGE_BYTES)
    return list(connection.execute(fitting.order_by(sized.c.id.desc())).mappings())
