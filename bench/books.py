"""Reconciliation: whether orders, ledger, balances, events and letters tell the same story.

A database of the benchmark's own sees the tables of all services (books.sql says how they are
compared); it holds pgbench's tables too. The suite itself never looks across.
"""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn
from sqlalchemy import make_url

from bench.load import HERE, PENDING, SETTLED, Measure
from dev.keeper import wait_for
from dev.servers import DATABASES

DATABASE = "bench"
LETTERS_TIMEOUT_S = 120
LETTER_LAG = """
    SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM l.created_at - o.ended_at))
    FROM orders.orders o JOIN notifications.letters l ON l.order_id = o.id WHERE starts_with(o.key, %s)"""
OPEN = """
    CREATE SERVER {0} FOREIGN DATA WRAPPER postgres_fdw
      OPTIONS (host '{1.host}', port '{1.port}', dbname '{1.database}', fetch_size '10000');
    CREATE USER MAPPING FOR CURRENT_USER SERVER {0}
      OPTIONS (user '{1.username}', password '{1.password}');
    CREATE SCHEMA {0};
    IMPORT FOREIGN SCHEMA public FROM SERVER {0} INTO {0}"""


class Books:
    """The tables of all services, through the eyes of the cluster's superuser."""

    def __init__(self, superuser_dsn: str, uris: Mapping[str, str]) -> None:
        self.dsn: dict[str, Any] = parse_dsn(superuser_dsn)
        self.ask(f"CREATE DATABASE {DATABASE}")
        self.dsn["dbname"] = DATABASE
        self.ask((HERE / "schema.sql").read_text())
        self.ask("CREATE EXTENSION postgres_fdw")
        for service in DATABASES:
            self.ask(OPEN.format(service, make_url(uris[f"{service.upper()}_DB_OWNER_URI"])))
        self.ask((HERE / "books.sql").read_text())

    def ask(self, query: str, *parameters: str) -> list[tuple[Any, ...]]:
        """The rows of a query; on a connection of its own, so that none idles beside the suite's."""
        with closing(psycopg2.connect(**self.dsn)) as connection:
            connection.autocommit = True  # CREATE DATABASE allows no transaction
            cursor = connection.cursor()
            cursor.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def wait_for_letters(self) -> bool:
        """Whether every order got its letter in time."""
        return wait_for(lambda: self.ask("TABLE unfinished") == [(False,)], LETTERS_TIMEOUT_S, every_s=0.2)

    def letter_lag_s(self, measure: Measure) -> float:
        """Seconds from the end of an order to its letter, the 99th percentile of a run."""
        return float(self.ask(LETTER_LAG, measure.prefix)[0][0] or 0)

    def differences(self) -> dict[str, int]:
        """Each comparison with the number of rows that are wrong."""
        views = self.ask("SELECT viewname FROM pg_views WHERE schemaname = 'books' ORDER BY 1")
        return {view: self.ask(f"SELECT count(*) FROM books.{view}")[0][0] for (view,) in views}

    def astray(self, measure: Measure) -> int:
        """Orders of a run that were answered and are not stored, or stored and were never asked for.

        When wrk stops, as many orders as it has clients may be stored and not answered.
        """
        [(stored,)] = self.ask(
            "SELECT count(*) FROM orders.orders WHERE starts_with(key, %s)", measure.prefix
        )
        answered = measure.answers.get(SETTLED, 0) + measure.answers.get(PENDING, 0)
        return max(0, answered - stored) + max(0, stored - answered - measure.clients)
