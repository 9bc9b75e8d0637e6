"""Counts what a statement reads, by PostgreSQL's own count: the same on any machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from sqlalchemy import Engine, event


@contextmanager
def recorded(engine: Engine, start: str) -> Iterator[list[tuple[str, Any]]]:
    """The statements that begin with `start`, and their parameters, as the engine executes them."""
    statements: list[tuple[str, Any]] = []

    def record(*arguments: Any) -> None:
        _, _, statement, parameters, _, _ = arguments
        if statement.startswith(start):
            statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", record)


def buffers_of(uri: str, statement: str, parameters: Any) -> int:
    """The 8 KB pages that the statement reads. What it changes is rolled back."""
    connection = psycopg2.connect(uri.replace("+psycopg2", ""))
    with connection.cursor() as cursor:
        cursor.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
        )
        [([explained],)] = cursor.fetchall()
    connection.close()
    return int(
        explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"]
    )


@contextmanager
def old_snapshot(uri: str) -> Iterator[None]:
    """A transaction like pg_dump's: it keeps the index entries of rows that change meanwhile."""
    connection = psycopg2.connect(uri.replace("+psycopg2", ""))
    connection.set_session(isolation_level="REPEATABLE READ")
    connection.cursor().execute("SELECT 1")
    yield
    connection.close()
