"""Count the pages that a statement reads: PostgreSQL's count is the same on any machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from sqlalchemy import Engine, event


@contextmanager
def recorded(engine: Engine, start: str) -> Iterator[list[tuple[str, Any]]]:
    """Record the statements that begin with `start`, with their parameters."""
    statements: list[tuple[str, Any]] = []

    def record(*arguments: Any) -> None:
        _, _, statement, parameters, _, _ = arguments
        statement = " ".join(statement.split())
        if statement.startswith(start):
            statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", record)


def buffers_of(uri: str, statement: str, parameters: Any) -> int:
    """Return how many 8 KB pages a statement reads. Its changes are rolled back."""
    connection = psycopg2.connect(uri.replace("+psycopg2", ""))
    with connection.cursor() as cursor:
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
        cursor.execute(explain, parameters)
        [([explained],)] = cursor.fetchall()
    connection.close()
    plan = explained["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@contextmanager
def old_snapshot(uri: str) -> Iterator[None]:
    """Keep a transaction like pg_dump's: index entries of rows that change then remain."""
    connection = psycopg2.connect(uri.replace("+psycopg2", ""))
    connection.set_session(isolation_level="REPEATABLE READ")
    connection.cursor().execute("SELECT 1")
    yield
    connection.close()
