"""The SQL of billing. Each function reads or writes any number of rows at once.

New rows are one parameter, a JSON array.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from sqlalchemy import Connection, text

from billing.domain import Account, BooksCurrency, Operation
from billing.exceptions import RefTaken
from chassis.database_limits import set_statement_timeout
from chassis.db import rows_as_json

OPERATION_COLUMNS = """
    id, ref, user_id, seq, kind, amount_minor, status, reason, balance_after_minor, created_at
"""

# Insert the accounts that do not exist.
OPEN_ACCOUNTS = text("""
    INSERT INTO accounts (user_id)
    SELECT unnest(CAST(:ids AS uuid[]))
    ON CONFLICT DO NOTHING
""")

# Read the accounts of these users.
SELECT_ACCOUNTS = text("""
    SELECT user_id, balance_minor, last_seq
    FROM accounts
    WHERE user_id = ANY(CAST(:ids AS uuid[]))
""")

# Read the accounts, and lock them in the order of their ids. So two batches cannot deadlock.
LOCK_ACCOUNTS = text(f"""
    {SELECT_ACCOUNTS.text}
    ORDER BY user_id
    FOR UPDATE
""")

# Read the operations with these refs.
SELECT_OPERATIONS = text(f"""
    SELECT {OPERATION_COLUMNS}
    FROM operations
    WHERE ref = ANY(:refs)
""")

# Insert operations, set the balances of their accounts, and count the inserted operations.
INSERT_OPERATIONS = text(f"""
    WITH inserted AS (
        INSERT INTO operations ({OPERATION_COLUMNS})
        SELECT {OPERATION_COLUMNS}
        FROM json_to_recordset(:operations) AS new (
            id uuid, ref text, user_id uuid, seq bigint, kind text, amount_minor bigint,
            status text, reason text, balance_after_minor bigint, created_at timestamptz
        )
        ON CONFLICT (ref) DO NOTHING
        RETURNING 1
    ),
    changed AS (
        UPDATE accounts
        SET balance_minor = new.balance_minor, last_seq = new.last_seq
        FROM json_to_recordset(:accounts) AS new (
            user_id uuid, balance_minor bigint, last_seq bigint
        )
        WHERE accounts.user_id = new.user_id
    )
    SELECT count(*)
    FROM inserted
""")

# Read a page of an account's operations, newest first. An operation with the `seq` 0 is a refusal
# from before the user had an account, and belongs to no account.
SELECT_PAGE = text(f"""
    SELECT {OPERATION_COLUMNS}
    FROM operations
    WHERE user_id = CAST(:user_id AS uuid)
        AND seq > 0
        AND (CAST(:after AS bigint) IS NULL OR seq < CAST(:after AS bigint))
    ORDER BY seq DESC
    LIMIT :limit
""")

# Read each account with three values from its operations: their balance, their count, and the
# count of invalid ones, whose `seq` or balance does not follow from the previous operation.
SELECT_LEDGERS = text("""
    SELECT user_id, balance_minor, last_seq, ledger.*
    FROM accounts, LATERAL (
        SELECT
            coalesce(sum(signed_amount), 0)::bigint,
            count(*),
            count(*) FILTER (
                WHERE seq <> expected_seq
                    OR balance_after_minor <> balance
                    OR balance < 0
            )
        FROM (
            SELECT
                *,
                row_number() OVER chain AS expected_seq,
                sum(signed_amount) OVER chain AS balance
            FROM operations, LATERAL (
                SELECT CASE
                    WHEN status = 'refused' THEN 0
                    WHEN kind = 'deposit' THEN amount_minor
                    ELSE -amount_minor
                END AS signed_amount
            ) AS amounts
            WHERE user_id = accounts.user_id AND seq > 0
            WINDOW chain AS (ORDER BY seq)
        ) AS chained
    ) AS ledger
""")

# Read the currency of the books.
SELECT_BOOKS = text("""
    SELECT currency, exponent
    FROM books
""")

# Store the currency if none is stored. If there are already operations, an earlier version wrote
# them, with two decimal places. Then only a currency with two decimal places is stored.
INSERT_BOOKS = text("""
    INSERT INTO books (currency, exponent)
    SELECT :currency, :exponent
    WHERE :exponent = 2 OR NOT EXISTS (SELECT FROM operations)
    ON CONFLICT DO NOTHING
""")


def initialize_books(
    connection: Connection, currency: BooksCurrency
) -> BooksCurrency | None:
    """Store the currency of the books if none is stored, and return the stored one.

    A stored currency never changes here, because another copy of billing may be using it. None
    means that an earlier version wrote the operations, with two decimal places, and that
    `currency` has another exponent.
    """
    connection.execute(INSERT_BOOKS, currency._asdict())
    row = connection.execute(SELECT_BOOKS).one_or_none()
    return BooksCurrency(*row) if row else None


def open_accounts(connection: Connection, user_ids: Iterable[str]) -> None:
    """Open the accounts that do not exist."""
    connection.execute(OPEN_ACCOUNTS, {"ids": sorted(user_ids)})


def load_accounts(
    connection: Connection, user_ids: Iterable[str], *, lock: bool = False
) -> dict[str, Account]:
    """Load the accounts of these users. With `lock`, lock them until the transaction ends."""
    statement = LOCK_ACCOUNTS if lock else SELECT_ACCOUNTS
    rows = connection.execute(statement, {"ids": list(user_ids)}).mappings()
    return {row["user_id"]: Account(**row) for row in rows}


def load_operations(
    connection: Connection, refs: Iterable[str]
) -> dict[str, Operation]:
    """Load the operations with these refs, by ref."""
    rows = connection.execute(SELECT_OPERATIONS, {"refs": list(refs)}).mappings()
    return {row["ref"]: Operation(**row) for row in rows}


def insert_operations(
    connection: Connection, operations: Sequence[Operation], accounts: Sequence[Account]
) -> None:
    """Insert operations, and set the accounts to their new balances.

    The operations are inserted in the order of their refs. So two batches cannot deadlock.
    Raises RefTaken if another transaction has inserted an operation with one of the refs. The
    caller must then roll back.
    """
    inserted = connection.execute(
        INSERT_OPERATIONS,
        {
            "operations": rows_as_json(sorted(operations, key=attrgetter("ref"))),
            "accounts": rows_as_json(accounts),
        },
    )
    if inserted.scalar_one() != len(operations):
        raise RefTaken


def load_page(
    connection: Connection, user_id: str, limit: int, after: str | None
) -> list[Operation]:
    """Load up to `limit` operations of an account, newest first, with a `seq` below `after`."""
    rows = connection.execute(
        SELECT_PAGE, {"user_id": user_id, "after": after, "limit": limit}
    ).mappings()
    return [Operation(**row) for row in rows]


def load_ledgers(
    connection: Connection, batch_size: int
) -> Iterator[tuple[Account, Account, int]]:
    """Yield each account as stored, as computed from its operations, and its count of invalid ones.

    An operation is invalid if its `seq` or balance does not follow from the previous operation. All
    rows are from one snapshot. They are fetched in batches of `batch_size`.
    """
    # 60 seconds for each batch, because an account may have a long history.
    set_statement_timeout(connection, 60)
    rows = connection.execute(
        SELECT_LEDGERS, execution_options={"yield_per": batch_size}
    )
    for user_id, balance, last_seq, computed_balance, computed_seq, invalid in rows:
        yield (
            Account(user_id=user_id, balance_minor=balance, last_seq=last_seq),
            Account(
                user_id=user_id, balance_minor=computed_balance, last_seq=computed_seq
            ),
            invalid,
        )
