"""`make bench-growth`: whether a large ledger makes orders slower. Two shops, one of them with ten million
operations in its ledger, are loaded in turn.
"""

import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import psycopg2

from dev.bench import figures
from dev.bench.load import Measure
from dev.bench.shop import Shop, opened, say
from dev.broker import CHECKOUT
from dev.failure import Failure

CLIENTS = 128
SMALL = 10_000  # operations
BYTES_EACH = 800  # with indexes, and what PostgreSQL logs of it: generous

# Deposits of a cent, in turn for all who have money. The ids are in order of time, as those of the service.
SEED = """
    INSERT INTO operations
      (id, ref, user_id, seq, kind, amount_minor, status, balance_after_minor, created_at)
    SELECT
      (lpad(to_hex(%(start_ms)s + n), 12, '0') || '7' || left(noise, 3) || '8' || right(noise, 15))::uuid,
      concat('key:', user_id, ':seed-', n), user_id, last_seq + turn, 'deposit', 1, 'done',
      balance_minor + turn, now()
    FROM (
      SELECT *, count(*) OVER () AS accounts, row_number() OVER (ORDER BY user_id) - 1 AS place
      FROM accounts WHERE balance_minor > 0
    ) AS rich, generate_series(0, %(number)s - 1) AS n,
      LATERAL (SELECT n / accounts + 1 AS turn, md5(n::text) AS noise) AS its
    WHERE place = n %% (SELECT count(*) FROM accounts WHERE balance_minor > 0)"""
BALANCES = """
    UPDATE accounts SET (balance_minor, last_seq) = (
      SELECT balance_after_minor, seq FROM operations
      WHERE operations.user_id = accounts.user_id AND seq > 0 ORDER BY seq DESC LIMIT 1)
    WHERE balance_minor > 0"""


def measure(large: int, pairs: int, seconds: int) -> dict[str, Any]:
    _check_disk(large)
    with opened() as one, opened() as other:
        shops = {SMALL: one, large: other}
        seeding_s = [seed(shop, operations) for operations, shop in shops.items()]
        for shop in shops.values():
            shop.orders(CLIENTS, seconds)  # to warm up
        done = []
        for number in range(pairs):
            runs = {
                size: shops[size].orders(CLIENTS, seconds)
                for size in in_turn(shops, number)
            }
            done.append([runs[size] for size in shops])
            say(
                f"pair {number + 1} of {pairs}: "
                + ", ".join(f"{run.rate:.0f}" for run in done[-1])
            )
        audits = [shop.audit() for shop in shops.values()]
        faults = one.faults + other.faults
        return {
            "environment": {
                **one.environment(),
                "clients": CLIENTS,
                "pairs": pairs,
                "seconds": seconds,
            },
            "targets": [
                figures.GROWTH.judge_median(ratios(done)),
                figures.WRONG.judge(len(faults)),
            ],
            "operations": list(shops),
            "seeding_s": seeding_s,
            "medians": [asdict(m) for m in figures.medians(done)],
            "audits": audits,
            "faults": faults,
            "pairs": [[asdict(run) for run in pair] for pair in done],
        }


def in_turn(sizes: Iterable[int], number: int) -> list[int]:
    """Which is measured first, then second, turned round in every other pair.

    A machine gets faster or slower meanwhile, and would flatter one of them.
    """
    return [*sizes][:: -1 if number % 2 else 1]


def ratios(pairs: Sequence[Sequence[Measure]]) -> list[float]:
    """How fast orders are beside a large ledger, in each pair; 1 where it makes no difference."""
    return [large.rate / small.rate for small, large in pairs]


def seed(shop: Shop, operations: int) -> float:
    """Fills the ledger, in which no account is off by a cent then; the seconds it took."""
    started = time.monotonic()
    with closing(
        psycopg2.connect(shop.suite.servers.superuser_dsn(), dbname="billing")
    ) as connection:
        connection.autocommit = True  # VACUUM allows no transaction
        cursor = connection.cursor()
        start_ms = int(time.time() * 1000) - operations
        cursor.execute(SEED, {"start_ms": start_ms, "number": operations})
        cursor.execute(BALANCES)
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("CHECKPOINT")  # what is measured must not have to write it
        cursor.execute("SELECT pg_database_size(current_database())")
        gigabytes = cursor.fetchall()[0][0] / 2**30
    taken_s = round(time.monotonic() - started, 1)
    say(f"{operations} operations seeded in {taken_s} s, {gigabytes:.2f} GB")
    return taken_s


def _check_disk(operations: int) -> None:
    free = shutil.disk_usage(CHECKOUT).free
    if free < operations * BYTES_EACH:
        raise Failure(
            f"{operations * BYTES_EACH / 2**30:.0f} GB of disk are needed, {free / 2**30:.0f} are free"
        )
