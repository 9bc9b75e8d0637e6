"""The database of the benchmark's own: pgbench's tables, and a view of those of orders and
notifications, to see how far the letters are. The suite itself never looks across; whether it tells one
story is the audit's to say.
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
LETTER_LAG = """
    SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY lag), regr_slope(lag, ended) FROM (
      SELECT extract(epoch FROM l.created_at - o.ended_at)::float8 AS lag,
        extract(epoch FROM o.ended_at)::float8 AS ended
      FROM orders.orders o JOIN notifications.letters l ON l.order_id = o.id WHERE starts_with(o.key, %s)
    ) AS lags"""
LETTERS_ARE_WRITTEN = """
    SELECT NOT EXISTS (SELECT FROM orders.outbox WHERE sent_at IS NULL)
      AND NOT EXISTS (SELECT FROM orders.orders WHERE status = 'pending')
      AND (SELECT count(*) FROM orders.orders)
        <= (SELECT count(*) FROM notifications.letters WHERE order_id IS NOT NULL)"""
SEEN = ("orders", "notifications")
OPEN = """
    CREATE SERVER {0} FOREIGN DATA WRAPPER postgres_fdw
      OPTIONS (host '{1.host}', port '{1.port}', dbname '{1.database}', fetch_size '10000');
    CREATE USER MAPPING FOR CURRENT_USER SERVER {0}
      OPTIONS (user '{1.username}', password '{1.password}');
    CREATE SCHEMA {0};
    IMPORT FOREIGN SCHEMA public FROM SERVER {0} INTO {0}"""


class Books:
    """The tables of SEEN services, through the eyes of the cluster's superuser."""

    def __init__(self, superuser_dsn: str, uris: Mapping[str, str]) -> None:
        self.dsn: dict[str, Any] = parse_dsn(superuser_dsn)
        self.ask(f"CREATE DATABASE {DATABASE}")
        self.dsn["dbname"] = DATABASE
        self.ask((HERE / "schema.sql").read_text())
        self.ask("CREATE EXTENSION postgres_fdw")
        for service in SEEN:
            self.ask(
                OPEN.format(service, make_url(uris[f"{service.upper()}_DB_OWNER_URI"]))
            )

    def ask(self, query: str, *parameters: str) -> list[tuple[Any, ...]]:
        """The rows of a query; on a connection of its own, so that none idles beside the suite's."""
        with closing(psycopg2.connect(**self.dsn)) as connection:
            connection.autocommit = True  # CREATE DATABASE allows no transaction
            cursor = connection.cursor()
            cursor.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def wait_for_letters(self) -> bool:
        """Whether every order got its letter in time."""
        return wait_for(
            lambda: self.ask(LETTERS_ARE_WRITTEN)[0][0], LETTERS_TIMEOUT_S, every_s=0.2
        )

    def letter_lag(self, measure: Measure) -> tuple[float, float]:
        """Seconds from the end of an order to its letter, the 99th percentile of a run; and by how many
        the lag grew in a second of it, by least squares: 0 where letters keep up with the orders."""
        [(p99, slope)] = self.ask(LETTER_LAG, measure.prefix)
        return float(p99 or 0), float(slope or 0)

    def astray(self, measure: Measure) -> int:
        """Orders of a run that were answered and are not stored, or stored and were never asked for.

        When wrk stops, as many orders as it has clients may be stored and not answered.
        """
        [(stored,)] = self.ask(
            "SELECT count(*) FROM orders.orders WHERE starts_with(key, %s)",
            measure.prefix,
        )
        answered = measure.answers.get(SETTLED, 0) + measure.answers.get(PENDING, 0)
        return max(0, answered - stored) + max(0, stored - answered - measure.clients)
