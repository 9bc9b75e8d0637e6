"""Snapshots of the four databases, each taken at one moment and read in streams."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import psycopg2
from sqlalchemy import make_url

from chassis.db import TCP_KEEPALIVE, database_uri

BATCH_ROWS = 5000  # rows of a stream in memory at a time
# Effects come before their causes: a row in a snapshot has its cause in those taken after it,
# however busy the suite is. A letter has its ended order, a recipient its user, and an ended
# order its withdrawal.
SNAPSHOT_ORDER = ("notifications", "orders", "users", "billing")
# Large tables take their time. All rows are read, so a plan that finds the first rows early does
# not help. The settings are made in each transaction: a pooler refuses startup parameters, and
# shares sessions.
NO_LIMITS = """
    SET LOCAL statement_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0;
    SET LOCAL cursor_tuple_fraction = 1
"""
SNAPSHOT = {"isolation_level": "REPEATABLE READ", "readonly": True}
CONNECT_TIMEOUT_S = 5


@dataclass(frozen=True)
class Query:
    """A SELECT in the database of a service. It may use the parameter `settled`."""

    service: str
    sql: str


Read = Callable[[Query], Iterator[tuple[Any, ...]]]


@contextmanager
def snapshots(config: dict[str, Any], settled: bool) -> Iterator[Read]:
    """Yield a function that runs a query in a snapshot of its database and streams the rows.

    Raises ConfigurationError, psycopg2.Error.
    """
    numbers = count()
    with ExitStack() as stack:
        databases = {
            name: stack.enter_context(closing(connect(config, name, **SNAPSHOT)))
            for name in SNAPSHOT_ORDER
        }
        for database in databases.values():
            # The first statement that reads takes the snapshot.
            database.cursor().execute(f"{NO_LIMITS}; SELECT 1")

        def read(query: Query) -> Iterator[tuple[Any, ...]]:
            cursor_name = f"audit_{next(numbers)}"
            with databases[query.service].cursor(cursor_name) as cursor:
                cursor.itersize = BATCH_ROWS
                cursor.execute(query.sql, {"settled": settled})
                yield from cursor

        yield read


def connect(config: dict[str, Any], service: str, **session: Any) -> Any:
    """Connect to the database of `service` with its role.

    `session` has the arguments of psycopg2's set_session. It must not have autocommit: psycopg2
    would then change the session, not the transaction. Raises ConfigurationError, psycopg2.Error.
    """
    url = make_url(database_uri(config, "DB_URIS", service))
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    parameters: dict[str, Any] = {
        **TCP_KEEPALIVE,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "client_encoding": "utf8",
    }
    connection = psycopg2.connect(dsn, **parameters)
    connection.set_session(**session)
    return connection
