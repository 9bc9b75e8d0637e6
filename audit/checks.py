"""Compares expected rows, from one table, with actual rows, from another.

Both sides are streams of (key, text, is_overdue), merged by their keys in little memory. UUIDs
sort like their texts in Python, and texts sort so under the collation "C".

A row may lack its counterpart while that can be in flight: an effect of a user or an order or,
because the snapshots are not taken at one moment, the order of a new withdrawal. Such a row is
overdue after a time, by the clock of its own database. (The time of a withdrawal is billing's,
and is taken before its commit is sent.) All other differences count at any time.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, repeat
from typing import Any

from audit.snapshots import Query, Read

Row = tuple[Any, ...]  # key, text, is_overdue

OVERDUE = "(%(settled)s OR {} < now() - interval '{} s')"
CREATED_OVERDUE = OVERDUE.format("created_at", 60)
OPENED_OVERDUE = OVERDUE.format("opened_at", 60)
ENDED_OVERDUE = OVERDUE.format("ended_at", 90)
SIGNED_AMOUNT = """
    CASE
      WHEN status = 'refused' THEN 0
      WHEN kind = 'deposit' THEN amount_minor
      ELSE -amount_minor
    END
"""
# An unknown user has no address, so the order has no letter.
HAS_LETTER = "(status = 'paid' OR reason <> 'unknown-user')"
# A digest, because an address must not be printed or logged.
RECIPIENT = "md5(ARRAY[username, email, locale]::text)"

# The balance and the last number of each account, by its operations. Number 0 is for refusals of
# unknown users, which have no account.
BALANCES_BY_LEDGER = f"""
    SELECT
      user_id,
      concat(
        sum(signed_amount), ' after operation ', max(number),
        ', wrong from operation ' || min(seq) FILTER (
          WHERE CASE seq
            WHEN 0 THEN needs_number
            ELSE seq <> number OR balance_after_minor <> balance OR balance < 0
          END
        )
      ),
      true
    FROM (
      SELECT
        *,
        sum(signed_amount) OVER chain AS balance,
        count(nullif(seq, 0)) OVER chain AS number,
        reason IS DISTINCT FROM 'unknown-user' AS needs_number
      FROM operations, LATERAL (SELECT {SIGNED_AMOUNT} AS signed_amount) AS computed
      WINDOW chain AS (PARTITION BY user_id ORDER BY seq, id)
    ) AS chains
    GROUP BY user_id
    HAVING max(seq) > 0 OR bool_or(needs_number)
    ORDER BY user_id
"""
# The same as stored in the accounts.
BALANCES = """
    SELECT user_id, concat(balance_minor, ' after operation ', last_seq), true
    FROM accounts
    WHERE (balance_minor, last_seq) <> (0, 0)
    ORDER BY user_id
"""
# The withdrawal that each ended order must have. A pending order's may have any outcome, or be
# missing, so its text is NULL.
WITHDRAWALS_BY_ORDER = """
    SELECT
      id,
      concat_ws(
        ' ', 'withdrawal', price_minor, user_id,
        CASE status WHEN 'paid' THEN 'done' ELSE 'refused' END, reason
      ),
      true
    FROM orders
    WHERE status <> 'pending'
    UNION ALL
    SELECT id, NULL, false
    FROM orders
    WHERE status = 'pending'
    ORDER BY 1
"""
# The operations in the name of an order.
WITHDRAWALS = f"""
    SELECT
      substr(ref, 7) COLLATE "C",
      concat_ws(' ', kind, amount_minor, user_id, status, reason),
      {CREATED_OVERDUE}
    FROM operations
    WHERE starts_with(ref, 'order:')
    ORDER BY 1
"""
# The letter that each ended order must have.
LETTERS_BY_ORDER = f"""
    SELECT
      id,
      CASE status WHEN 'paid' THEN 'happiness to ' ELSE 'grief to ' END || user_id,
      {ENDED_OVERDUE}
    FROM orders
    WHERE {HAS_LETTER}
    ORDER BY 1
"""
# The letters about orders.
LETTERS = """
    SELECT
      order_id,
      concat(
        kind, ' to ', user_id,
        CASE
          WHEN letters.email IS DISTINCT FROM recipients.email THEN ' at another address'
        END
      ),
      true
    FROM letters
    LEFT JOIN recipients USING (user_id)
    WHERE order_id IS NOT NULL
    ORDER BY 1
"""
# Orders with several events, or with one that does not fit their status. Events are deleted
# some time after they were published, so a missing one is not a difference.
WRONG_EVENTS = """
    SELECT payload ->> 'order_id', string_agg(type, ', '), true
    FROM outbox
    LEFT JOIN orders ON payload ->> 'order_id' = id::text
    GROUP BY 1, status
    HAVING count(*) > 1 OR min(type) IS DISTINCT FROM 'order_' || status
"""
# Orders that have not ended.
PENDING_ORDERS = f"""
    SELECT id, 'an end', {CREATED_OVERDUE}
    FROM orders
    WHERE status = 'pending'
"""
# Events that are not published.
UNSENT_EVENTS = f"""
    SELECT event_id, type || ' sent', {CREATED_OVERDUE}
    FROM outbox
    WHERE sent_at IS NULL
    ORDER BY 1
"""
# Refs of several operations.
SHARED_REFS = """
    SELECT ref, count(*), true
    FROM operations
    GROUP BY 1
    HAVING count(*) > 1
"""
# Idempotency keys of several orders.
SHARED_KEYS = """
    SELECT concat(user_id, ' ', key), count(*), true
    FROM orders
    GROUP BY user_id, key
    HAVING count(*) > 1
"""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A comparison. A side without a query has no rows."""

    name: str
    expected: Query | None = None
    actual: Query | None = None


CHECKS = (
    Check(
        name="accounts",
        expected=Query("billing", BALANCES_BY_LEDGER),
        actual=Query("billing", BALANCES),
    ),
    Check(
        name="money",
        expected=Query(
            "billing",
            f"SELECT 'all', coalesce(sum({SIGNED_AMOUNT}), 0)::text, true FROM operations",
        ),
        actual=Query(
            "billing",
            "SELECT 'all', coalesce(sum(balance_minor), 0)::text, true FROM accounts",
        ),
    ),
    Check(
        name="users",
        expected=Query(
            "users", f"SELECT id, 'account', {CREATED_OVERDUE} FROM users ORDER BY 1"
        ),
        actual=Query(
            "billing",
            f"SELECT user_id, 'account', {OPENED_OVERDUE} FROM accounts ORDER BY 1",
        ),
    ),
    Check(
        name="recipients",
        expected=Query(
            "users", f"SELECT id, {RECIPIENT}, {CREATED_OVERDUE} FROM users ORDER BY 1"
        ),
        actual=Query(
            "notifications",
            f"SELECT user_id, {RECIPIENT}, true FROM recipients ORDER BY 1",
        ),
    ),
    Check(
        name="ledger",
        expected=Query("orders", WITHDRAWALS_BY_ORDER),
        actual=Query("billing", WITHDRAWALS),
    ),
    Check(
        name="letters",
        expected=Query("orders", LETTERS_BY_ORDER),
        actual=Query("notifications", LETTERS),
    ),
    Check(name="events", actual=Query("orders", WRONG_EVENTS)),
    Check(name="pending", expected=Query("orders", PENDING_ORDERS)),
    Check(name="outbox", expected=Query("users", UNSENT_EVENTS)),
    Check(name="outbox", expected=Query("orders", UNSENT_EVENTS)),
    Check(name="refs", actual=Query("billing", SHARED_REFS)),
    Check(name="keys", actual=Query("orders", SHARED_KEYS)),
)


def differences(read: Read) -> Iterator[str]:
    """Yield a line for each difference. It begins with the name of the check."""
    for check in CHECKS:
        expected = read(check.expected) if check.expected else ()
        actual = read(check.actual) if check.actual else ()
        for line in compare(expected, actual):
            yield f"{check.name}: {line}"


def compare(expected: Iterable[Row], actual: Iterable[Row]) -> Iterator[str]:
    """Yield a line for each key whose texts differ. Keeps the rows of one key in memory."""
    rows = heapq.merge(zip(repeat(0), expected), zip(repeat(1), actual), key=_key)
    for key, rows_of_key in groupby(rows, _key):
        texts: tuple[list[Any], list[Any]] = [], []
        is_overdue = False
        for side, (_, text, is_row_overdue) in rows_of_key:
            texts[side].append(text)
            is_overdue |= is_row_overdue
        if _differ(*texts, is_overdue=is_overdue):
            yield f"{_printable(key)}: expected {texts[0]}, found {texts[1]}"


def _differ(expected: list[Any], actual: list[Any], *, is_overdue: bool) -> bool:
    if expected == actual or None in expected:
        return False
    has_both_sides = bool(expected and actual)
    return is_overdue or has_both_sides


def _printable(key: Any) -> Any:
    # A client chooses the ref, so it may contain control characters.
    return key if str(key).isprintable() else repr(key)


def _key(row: tuple[int, Row]) -> Any:
    return row[1][0]
