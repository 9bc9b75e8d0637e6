"""`make bench-growth`: the influence of a large ledger on the speed of orders.

It loads two shops in turn. One of them has ten million operations in its ledger.
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
from dev.bench.shop import Shop, new_shop, show_progress
from dev.broker import CHECKOUT
from dev.failure import Failure

CLIENTS = 128
SMALL = 10_000  # operations
# With indexes and PostgreSQL's log of the writes. A generous estimate.
BYTES_PER_OPERATION = 800

# Deposits of a cent, in turn for all users with money. Like the service's ids, these are in order
# of time.
SEED = """
    INSERT INTO operations (
      id, ref, user_id, seq, kind, amount_minor, status, balance_after_minor, created_at
    )
    SELECT
      (
        lpad(to_hex(%(start_ms)s + n), 12, '0')
        || '7' || left(noise, 3) || '8' || right(noise, 15)
      )::uuid,
      concat('key:', user_id, ':seed-', n),
      user_id,
      last_seq + turn,
      'deposit',
      1,
      'done',
      balance_minor + turn,
      now()
    FROM
      (
        SELECT
          *,
          count(*) OVER () AS accounts,
          row_number() OVER (ORDER BY user_id) - 1 AS place
        FROM accounts
        WHERE balance_minor > 0
      ) AS accounts_with_money,
      generate_series(0, %(number)s - 1) AS n,
      LATERAL (SELECT n / accounts + 1 AS turn, md5(n::text) AS noise) AS computed
    WHERE place = n %% (SELECT count(*) FROM accounts WHERE balance_minor > 0)
"""
# Each account gets the balance and the number of its last operation.
UPDATE_BALANCES = """
    UPDATE accounts
    SET (balance_minor, last_seq) = (
      SELECT balance_after_minor, seq
      FROM operations
      WHERE operations.user_id = accounts.user_id AND seq > 0
      ORDER BY seq DESC
      LIMIT 1
    )
    WHERE balance_minor > 0
"""


def measure(large: int, pairs: int, seconds: int) -> dict[str, Any]:
    """Measure `pairs` pairs of runs, one with SMALL and one with `large` operations."""
    _check_disk(large)
    with new_shop() as small_shop, new_shop() as large_shop:
        shops = {SMALL: small_shop, large: large_shop}
        seeding_s = [seed(shop, operations) for operations, shop in shops.items()]
        for shop in shops.values():
            shop.orders(CLIENTS, seconds)  # to warm up
        measured = []
        for number in range(pairs):
            runs = {
                size: shops[size].orders(CLIENTS, seconds)
                for size in measuring_order(shops, number)
            }
            pair = [runs[size] for size in shops]
            measured.append(pair)
            rates = ", ".join(f"{run.rate:.0f}" for run in pair)
            show_progress(f"pair {number + 1} of {pairs}: {rates}")
        audits = [shop.audit() for shop in shops.values()]
        faults = small_shop.faults + large_shop.faults
        return {
            "environment": {
                **small_shop.environment(),
                "clients": CLIENTS,
                "pairs": pairs,
                "seconds": seconds,
            },
            "targets": [
                figures.GROWTH.judge_median(ratios(measured)),
                figures.FAULTS.judge(len(faults)),
            ],
            "operations": list(shops),
            "seeding_s": seeding_s,
            "medians": [asdict(m) for m in figures.medians(measured)],
            "audits": audits,
            "faults": faults,
            "pairs": [[asdict(run) for run in pair] for pair in measured],
        }


def measuring_order(sizes: Iterable[int], number: int) -> list[int]:
    """Return the sizes in the order of measuring, which is reversed in every other pair.

    A drift in the speed of the machine would otherwise favour one of them.
    """
    ordered = [*sizes]
    return ordered[::-1] if number % 2 else ordered


def ratios(pairs: Sequence[Sequence[Measure]]) -> list[float]:
    """Return the rate of the large ledger divided by that of the small one, for each pair."""
    return [large.rate / small.rate for small, large in pairs]


def seed(shop: Shop, operations: int) -> float:
    """Fill the ledger with operations that match the balances. Return the seconds it took."""
    started = time.monotonic()
    dsn = shop.suite.servers.superuser_dsn()
    with closing(psycopg2.connect(dsn, dbname="billing")) as connection:
        connection.autocommit = True  # VACUUM allows no transaction
        cursor = connection.cursor()
        start_ms = int(time.time() * 1000) - operations
        cursor.execute(SEED, {"start_ms": start_ms, "number": operations})
        cursor.execute(UPDATE_BALANCES)
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("CHECKPOINT")  # so that the runs do not have to write it
        cursor.execute("SELECT pg_database_size(current_database())")
        gigabytes = cursor.fetchall()[0][0] / 2**30
    duration_s = round(time.monotonic() - started, 1)
    show_progress(
        f"{operations} operations seeded in {duration_s} s, {gigabytes:.2f} GB"
    )
    return duration_s


def _check_disk(operations: int) -> None:
    """Raise Failure if the disk is too small."""
    free_gb = shutil.disk_usage(CHECKOUT).free / 2**30
    needed_gb = operations * BYTES_PER_OPERATION / 2**30
    if free_gb < needed_gb:
        raise Failure(f"{needed_gb:.0f} GB of disk are needed, {free_gb:.0f} are free")
