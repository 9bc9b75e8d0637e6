"""The benchmark's own database: pgbench's tables, and foreign tables of orders and notifications.

The foreign tables show how late the letters are. No service reads the database of another one.
"""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn
from sqlalchemy import make_url

from dev.bench.load import HERE, PENDING, SETTLED, Measure
from dev.supervisor import wait_for

DATABASE = "bench"
LETTERS_TIMEOUT_S = 120
# The 99th percentile of the lag of letters, and its growth by linear regression.
LETTER_LAG = """
    SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY lag), regr_slope(lag, ended)
    FROM (
      SELECT
        extract(epoch FROM letters.created_at - orders.ended_at)::float8 AS lag,
        extract(epoch FROM orders.ended_at)::float8 AS ended
      FROM orders.orders AS orders
      JOIN notifications.letters AS letters ON letters.order_id = orders.id
      WHERE starts_with(orders.key, %s)
    ) AS lags
"""
# True when all events are published, all orders have ended, and each has its letter.
LETTERS_ARE_WRITTEN = """
    SELECT
      NOT EXISTS (SELECT FROM orders.outbox WHERE sent_at IS NULL)
      AND NOT EXISTS (SELECT FROM orders.orders WHERE status = 'pending')
      AND (
        (SELECT count(*) FROM orders.orders)
        <= (SELECT count(*) FROM notifications.letters WHERE order_id IS NOT NULL)
      )
"""
COUNT_ORDERS = """
    SELECT count(*)
    FROM orders.orders
    WHERE starts_with(key, %s)
"""
FOREIGN_SERVICES = ("orders", "notifications")
# The tables of a service, as foreign tables in a schema with its name.
IMPORT_TABLES = """
    CREATE SERVER {0}
      FOREIGN DATA WRAPPER postgres_fdw
      OPTIONS (
        host '{1.host}', port '{1.port}', dbname '{1.database}', fetch_size '10000'
      );
    CREATE USER MAPPING FOR CURRENT_USER
      SERVER {0}
      OPTIONS (user '{1.username}', password '{1.password}');
    CREATE SCHEMA {0};
    IMPORT FOREIGN SCHEMA public FROM SERVER {0} INTO {0}
"""


class BenchDatabase:
    """The benchmark's database, used as the cluster's superuser."""

    def __init__(self, superuser_dsn: str, uris: Mapping[str, str]) -> None:
        self.dsn: dict[str, Any] = parse_dsn(superuser_dsn)
        self.query(f"CREATE DATABASE {DATABASE}")
        self.dsn["dbname"] = DATABASE
        self.query((HERE / "schema.sql").read_text())
        self.query("CREATE EXTENSION postgres_fdw")
        for service in FOREIGN_SERVICES:
            url = make_url(uris[f"{service.upper()}_DB_OWNER_URI"])
            self.query(IMPORT_TABLES.format(service, url))

    def query(self, sql: str, *parameters: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query. Its connection is closed, so none idles during a run."""
        with closing(psycopg2.connect(**self.dsn)) as connection:
            connection.autocommit = True  # CREATE DATABASE allows no transaction
            cursor = connection.cursor()
            cursor.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def wait_for_letters(self) -> bool:
        """Wait until every order has its letter. Return False after LETTERS_TIMEOUT_S."""
        return wait_for(
            lambda: self.query(LETTERS_ARE_WRITTEN)[0][0],
            LETTERS_TIMEOUT_S,
            every_s=0.2,
        )

    def letter_lag(self, measure: Measure) -> tuple[float, float]:
        """Return the p99 of the lag from an order's end to its letter, and the growth of the lag.

        Both are of one run: seconds, and seconds of lag for each second. The growth is 0 if the
        letters keep up with the orders.
        """
        [(p99, slope)] = self.query(LETTER_LAG, measure.prefix)
        return float(p99 or 0), float(slope or 0)

    def count_mismatches(self, measure: Measure) -> int:
        """Return the number of orders of a run that were answered or stored, but not both.

        When wrk stops, each of its clients may have an order that is stored and not answered.
        """
        [(stored,)] = self.query(COUNT_ORDERS, measure.prefix)
        responses = measure.responses
        answered = responses.get(SETTLED, 0) + responses.get(PENDING, 0)
        lost = max(0, answered - stored)
        unanswered = max(0, stored - answered - measure.clients)
        return lost + unanswered
