"""The four databases, each as it was at one moment, read in streams."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from typing import Any

import psycopg2
from sqlalchemy import make_url

from chassis.db import GONE_AFTER, database_uri

Ask = Callable[[str], Iterator[tuple[Any, ...]]]
BATCH = 5000  # rows of a stream in memory at a time
# Effects before their causes: what stands in a snapshot has its cause in those taken after it, however
# busy the suite is. A letter has its ended order, a recipient its user, an ended order its withdrawal.
ORDER = ("notifications", "orders", "users", "billing")
# Large tables take their time; all rows are read, so a plan that finds the first ones soon is no gain.
# Set in each transaction: a pooler refuses startup parameters, and shares sessions.
NO_LIMITS = """
    SET LOCAL statement_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0;
    SET LOCAL cursor_tuple_fraction = 1
"""
SNAPSHOT = {"isolation_level": "REPEATABLE READ", "readonly": True}
CONNECT_TIMEOUT_S = 5


@contextmanager
def snapshots(config: dict[str, Any], settled: bool) -> Iterator[Ask]:
    """Gives a function that asks "service: SELECT ..." and streams the rows; the SQL may use the
    parameter `settled`. Raises ConfigurationError, psycopg2.Error."""
    numbers = count()
    with ExitStack() as stack:
        databases = {
            name: stack.enter_context(closing(connect(config, name, **SNAPSHOT)))
            for name in ORDER
        }
        for database in databases.values():
            database.cursor().execute(f"{NO_LIMITS}; SELECT 1")  # takes the snapshot

        def ask(question: str) -> Iterator[tuple[Any, ...]]:
            service, _, query = question.partition(":")
            with databases[service].cursor(f"audit_{next(numbers)}") as cursor:
                cursor.itersize = BATCH
                cursor.execute(query, {"settled": settled})
                yield from cursor

        yield ask


def connect(config: dict[str, Any], service: str, **session: Any) -> Any:
    """Connect to the database of `service` with its role; `session` is what psycopg2's set_session takes.

    `session` must not have autocommit: psycopg2 would then change the session, not the transaction.
    Raises ConfigurationError, psycopg2.Error.
    """
    url = make_url(database_uri(config, "DB_URIS", service)).set(
        drivername="postgresql"
    )
    own: Any = {
        **GONE_AFTER,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "client_encoding": "utf8",
    }
    connection = psycopg2.connect(url.render_as_string(hide_password=False), **own)
    connection.set_session(**session)
    return connection
