"""The comparing: what is due by one table's rows, beside what is found in another's.

Both are streams of (key, what is said of it, whether it may not stand alone), merged by their keys in
little memory: uuids order as their texts do in Python, and texts under the collation "C". A row may
stand alone while its counterpart can be on its way: what a user or an order brings about or, as the
snapshots are not one, the order of a new withdrawal. The clock is that of the row's own database (a
withdrawal's moment is billing's, made before it was asked to commit). All else is strict at any time.
"""

import heapq
from collections.abc import Iterable, Iterator
from itertools import groupby, repeat
from typing import Any

from audit.snapshots import Ask

NOTHING = ""
LATE = "(%(settled)s OR {} < now() - interval '{} s')"
EFFECT = "CASE WHEN status = 'refused' THEN 0 WHEN kind = 'deposit' THEN amount_minor ELSE -amount_minor END"
CREATED_LATE = LATE.format("created_at", 60)
OPENED_LATE = LATE.format("opened_at", 60)
ENDED_LATE = LATE.format("ended_at", 90)
HAS_LETTER = "(status = 'paid' OR reason <> 'unknown-user')"  # nobody can write to an unknown user
UNSENT = f"SELECT event_id, type || ' sent', {CREATED_LATE} FROM outbox WHERE sent_at IS NULL ORDER BY 1"
FACTS = "md5(ARRAY[username, email, locale]::text)"  # an address is nothing for a log
CHECKS = (  # name, what is due, what is found
    (
        "accounts",  # number 0 is for the refusals of users nobody knows, who have no account
        f"""billing: SELECT user_id, concat(sum(effect), ' after operation ', max(number),
              ', wrong from operation ' || min(seq) FILTER (WHERE CASE seq WHEN 0 THEN is_odd
                ELSE seq <> number OR balance_after_minor <> balance OR balance < 0 END)), true
            FROM (
              SELECT *, sum(effect) OVER chain AS balance, count(nullif(seq, 0)) OVER chain AS number,
                reason IS DISTINCT FROM 'unknown-user' AS is_odd
              FROM operations, LATERAL (SELECT {EFFECT} AS effect) AS its
              WINDOW chain AS (PARTITION BY user_id ORDER BY seq, id)
            ) AS chains GROUP BY user_id HAVING max(seq) > 0 OR bool_or(is_odd) ORDER BY user_id""",
        """billing: SELECT user_id, concat(balance_minor, ' after operation ', last_seq), true
            FROM accounts WHERE (balance_minor, last_seq) <> (0, 0) ORDER BY user_id""",
    ),
    (
        "money",
        f"billing: SELECT 'all', coalesce(sum({EFFECT}), 0)::text, true FROM operations",
        "billing: SELECT 'all', coalesce(sum(balance_minor), 0)::text, true FROM accounts",
    ),
    (
        "users",
        f"users: SELECT id, 'account', {CREATED_LATE} FROM users ORDER BY 1",
        f"billing: SELECT user_id, 'account', {OPENED_LATE} FROM accounts ORDER BY 1",
    ),
    (
        "recipients",
        f"users: SELECT id, {FACTS}, {CREATED_LATE} FROM users ORDER BY 1",
        f"notifications: SELECT user_id, {FACTS}, true FROM recipients ORDER BY 1",
    ),
    (
        "ledger",  # what is said of a pending order's withdrawal is NULL: it may be anything
        """orders: SELECT id, concat_ws(' ', 'withdrawal', price_minor, user_id,
              CASE status WHEN 'paid' THEN 'done' ELSE 'refused' END, reason), true
            FROM orders WHERE status <> 'pending'
            UNION ALL SELECT id, NULL, false FROM orders WHERE status = 'pending' ORDER BY 1""",
        f"""billing: SELECT substr(ref, 7) COLLATE "C", concat_ws(' ', kind, amount_minor, user_id, status,
              reason), {CREATED_LATE}
            FROM operations WHERE starts_with(ref, 'order:') ORDER BY 1""",
    ),
    (
        "letters",
        f"""orders: SELECT id, CASE status WHEN 'paid' THEN 'happiness to ' ELSE 'grief to ' END || user_id,
              {ENDED_LATE}
            FROM orders WHERE {HAS_LETTER} ORDER BY 1""",
        """notifications: SELECT order_id, concat(kind, ' to ', user_id, CASE WHEN letters.email
              IS DISTINCT FROM recipients.email THEN ' at another address' END), true
            FROM letters LEFT JOIN recipients USING (user_id) WHERE order_id IS NOT NULL ORDER BY 1""",
    ),
    (
        "events",  # which are cleaned up after a time
        NOTHING,
        """orders: SELECT payload ->> 'order_id', string_agg(type, ', '), true
            FROM outbox LEFT JOIN orders ON payload ->> 'order_id' = id::text
            GROUP BY 1, status HAVING count(*) > 1 OR min(type) IS DISTINCT FROM 'order_' || status""",
    ),
    (
        "pending",
        f"orders: SELECT id, 'an end', {CREATED_LATE} FROM orders WHERE status = 'pending'",
        NOTHING,
    ),
    ("outbox", f"users: {UNSENT}", NOTHING),
    ("outbox", f"orders: {UNSENT}", NOTHING),
    (
        "refs",
        NOTHING,
        "billing: SELECT ref, count(*), true FROM operations GROUP BY 1 HAVING count(*) > 1",
    ),
    (
        "keys",
        NOTHING,
        """orders: SELECT concat(user_id, ' ', key), count(*), true FROM orders
            GROUP BY user_id, key HAVING count(*) > 1""",
    ),
)


def differences(ask: Ask) -> Iterator[str]:
    """All of them, a line each, which begins with the name of the check."""
    for name, due, found in CHECKS:
        for line in compare(
            *(ask(question) if question else () for question in (due, found))
        ):
            yield f"{name}: {line}"


def compare(
    due: Iterable[tuple[Any, ...]], found: Iterable[tuple[Any, ...]]
) -> Iterator[str]:
    """The keys of which not the same is said. Holds the rows of one key at a time."""
    rows = heapq.merge(zip(repeat(0), due), zip(repeat(1), found), key=_key)
    for key, together in groupby(rows, _key):
        said: tuple[list[Any], list[Any]] = [], []
        is_late = False
        for side, (_, text, is_late_alone) in together:
            said[side].append(text)
            is_late |= is_late_alone
        if said[0] != said[1] and None not in said[0] and (is_late or all(said)):
            about = (
                key if str(key).isprintable() else repr(key)
            )  # a ref may hold what its maker liked
            yield f"{about}: due is {said[0]}, found is {said[1]}"


def _key(row: tuple[int, tuple[Any, ...]]) -> Any:
    return row[1][0]
