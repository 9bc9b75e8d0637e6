"""SQL of billing: a list in, a list out, one statement a step."""

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from sqlalchemy import Connection, text

from billing.domain import Account, Operation, Unit
from billing.exceptions import RefTaken
from chassis.connections import allow_statements_of
from chassis.db import recordset

OPERATION = "id, ref, user_id, seq, kind, amount_minor, status, reason, balance_after_minor, created_at"

OPEN = text(
    "INSERT INTO accounts (user_id) SELECT unnest(CAST(:ids AS uuid[])) ON CONFLICT DO NOTHING"
)
READ = text(
    "SELECT user_id, balance_minor, last_seq FROM accounts WHERE user_id = ANY(CAST(:ids AS uuid[]))"
)
LOCK = text(f"{READ.text} ORDER BY user_id FOR UPDATE")
RECORDED = text(f"SELECT {OPERATION} FROM operations WHERE ref = ANY(:refs)")
WRITE = text(
    f"WITH inserted AS (INSERT INTO operations ({OPERATION}) SELECT {OPERATION}"
    " FROM json_to_recordset(:operations) AS new (id uuid, ref text, user_id uuid, seq bigint, kind text,"
    " amount_minor bigint, status text, reason text, balance_after_minor bigint, created_at timestamptz)"
    " ON CONFLICT (ref) DO NOTHING RETURNING 1),"
    " changed AS (UPDATE accounts SET balance_minor = new.balance_minor, last_seq = new.last_seq"
    " FROM json_to_recordset(:accounts) AS new (user_id uuid, balance_minor bigint, last_seq bigint)"
    " WHERE accounts.user_id = new.user_id)"
    " SELECT count(*) FROM inserted"
)
STATEMENT = text(
    f"SELECT {OPERATION} FROM operations WHERE user_id = CAST(:user_id AS uuid) AND seq > 0"
    " AND (CAST(:before AS bigint) IS NULL OR seq < CAST(:before AS bigint)) ORDER BY seq DESC LIMIT :limit"
)

UNIT = text("SELECT currency, exponent FROM books")
# Without a row, the operations are an earlier version's, whose amounts have two digits.
SET_UNIT = text("""
    INSERT INTO books (currency, exponent)
    SELECT :currency, :exponent
    WHERE :exponent = 2 OR NOT EXISTS (SELECT FROM operations)
    ON CONFLICT DO NOTHING
""")


def claim_unit(connection: Connection, unit: Unit) -> Unit | None:
    """Make `unit` that of books that have none yet. Returns the unit of the books.

    It never changes by itself: another copy may serve the books. Returns None for operations of an
    earlier version whose two digits `unit` does not have.
    """
    connection.execute(SET_UNIT, unit._asdict())
    row = connection.execute(UNIT).one_or_none()
    return Unit(*row) if row else None


def open_accounts(connection: Connection, user_ids: Iterable[str]) -> None:
    """Open the accounts that are not open yet."""
    connection.execute(OPEN, {"ids": sorted(user_ids)})


def accounts(
    connection: Connection, user_ids: Iterable[str], *, lock: bool = False
) -> dict[str, Account]:
    """The accounts of these users; with `lock` nobody else changes them until the transaction ends.

    Locked in the order of their ids, so two batches that meet can't wait for each other in turn.
    """
    return {
        row.user_id: Account(*row)
        for row in connection.execute(LOCK if lock else READ, {"ids": list(user_ids)})
    }


def recorded(connection: Connection, refs: Iterable[str]) -> dict[str, Operation]:
    """The operations that stand under these refs."""
    return {
        row.ref: Operation(*row)
        for row in connection.execute(RECORDED, {"refs": list(refs)})
    }


def write(
    connection: Connection, operations: Sequence[Operation], accounts: Sequence[Account]
) -> None:
    """Write new operations into the ledger, and the balances that follow from them; RefTaken, and nothing
    to be committed, where one of their refs is taken by now.

    In the order of their refs, for the reason that accounts are locked in order.
    """
    written = connection.execute(
        WRITE,
        {
            "operations": recordset(sorted(operations, key=attrgetter("ref"))),
            "accounts": recordset(accounts),
        },
    )
    if written.scalar_one() != len(operations):
        raise RefTaken


def statement(
    connection: Connection, user_id: str, limit: int, before: str | None
) -> list[Operation]:
    """The last `limit` operations of an account, newest first, of those numbered below `before`."""
    return [
        Operation(*row)
        for row in connection.execute(
            STATEMENT, {"user_id": user_id, "before": before, "limit": limit}
        )
    ]


def ledgers(
    connection: Connection, batch: int
) -> Iterator[tuple[Account, Account, int]]:
    """Each account, what its operations come to, and how many of these do not follow from the one before.
    Each batch is fetched by a statement of its own; all tell of one moment."""
    allow_statements_of(connection, 60)  # an account may have a long history
    rows = connection.execute(
        text(
            "SELECT user_id, balance_minor, last_seq, ledger.* FROM accounts, LATERAL ("
            " SELECT coalesce(sum(effect), 0)::bigint, count(*), count(*) FILTER ("
            "  WHERE seq <> number OR balance_after_minor <> balance OR balance < 0)"
            " FROM (SELECT *, row_number() OVER chain AS number, sum(effect) OVER chain AS balance"
            "  FROM operations, LATERAL (SELECT CASE WHEN status = 'refused' THEN 0"
            "   WHEN kind = 'deposit' THEN amount_minor ELSE -amount_minor END AS effect) AS its"
            "  WHERE user_id = accounts.user_id AND seq > 0 WINDOW chain AS (ORDER BY seq)) AS chained"
            ") AS ledger"
        ),
        execution_options={"yield_per": batch},
    )
    return ((Account(*row[:3]), Account(row[0], *row[3:5]), row[5]) for row in rows)
