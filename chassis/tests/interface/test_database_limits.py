"""Connections that are closed, forgotten, silent or read-only, and their effect on /readyz."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import eventlet
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from chassis import database_limits, health
from chassis.container import Container
from chassis.database_limits import set_statement_timeout
from chassis.db import Database
from chassis.errors import is_transient
from chassis.tests.conftest import running
from conftest import DEADLINE_S, eventually

POOL_SIZE = 3
TIMEOUT_S = 0.5
# A constant, because a traceback shows lines of code.
SECRET = "correct horse"
PIDS = """
    SELECT pid
    FROM pg_stat_activity
    WHERE application_name = 'users' AND pid <> pg_backend_pid()
"""


class Base(DeclarativeBase):
    pass


class Note(Base):
    """A table of these tests."""

    __tablename__ = "notes"

    note: Mapped[str] = mapped_column(primary_key=True)


class Keeper:
    """A service with a database."""

    name = "users"

    db = Database(Base)


@pytest.fixture(scope="module")
def keeper(chassis_config) -> Iterator[Container]:
    limits = {"DB_STATEMENT_TIMEOUT_S": TIMEOUT_S, "DB_POOL_SIZE": POOL_SIZE}
    limits["CONFIRM_TIMEOUT_S"] = TIMEOUT_S / 2
    container = Container(Keeper, {**chassis_config, **limits})
    with running(container):
        yield container


@pytest.fixture
def notes(sql) -> Iterator[None]:
    sql("users", "CREATE TABLE notes (note text PRIMARY KEY)")
    sql("users", "GRANT SELECT, INSERT ON notes TO users")
    yield
    sql("users", "DROP TABLE notes")


@pytest.fixture
def db(keeper, notes, monkeypatch) -> Database:
    monkeypatch.setattr(health, "RESULT_TTL_S", 0)
    monkeypatch.setattr(database_limits, "MARGIN_S", 0.5)
    [database] = [d for d in keeper.dependencies if isinstance(d, Database)]
    eventually(lambda: readiness() == "ok")
    return database


def readiness() -> str:
    return health._checks["users database"].result()


def both(db: Database) -> list[Callable[[], Any]]:
    return [db.transaction, db.autocommit]


def fill(ways: Any) -> None:
    """Open all connections of the pools, and give them back."""
    with ExitStack() as stack:
        for way in ways:
            for _ in range(POOL_SIZE):
                stack.enter_context(way()).execute(text("SELECT 1"))


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Stop server processes: the kernel acknowledges all bytes, and no process answers."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def sessions(superuser) -> list[int]:
    return [pid for (pid,) in superuser(PIDS)]


def end_sessions(superuser) -> None:
    """End all sessions, and wait until the server has closed them."""
    pids = sessions(superuser)
    for pid in pids:
        superuser(f"SELECT pg_terminate_backend({pid})")
    eventually(lambda: not set(pids).intersection(sessions(superuser)))


def write(db: Database, note: str) -> None:
    with db.autocommit() as connection:
        connection.execute(text("INSERT INTO notes VALUES (:note)"), {"note": note})


def test_an_error_does_not_quote_the_refused_row(db, sql) -> None:
    """The error goes into the log and into dead letters."""
    sql("users", "CREATE TABLE secrets (secret text CHECK (secret = ''))")
    sql("users", "GRANT INSERT ON secrets TO users")
    try:
        with pytest.raises(DBAPIError) as caught, db.autocommit() as connection:
            connection.execute(
                text("INSERT INTO secrets VALUES (:secret)"), {"secret": SECRET}
            )
    finally:
        sql("users", "DROP TABLE secrets")
    output = "".join(traceback.format_exception(caught.value))
    assert "secrets_secret_check" in output
    assert SECRET not in output


def test_no_request_fails_after_a_restart_of_the_database(db, superuser) -> None:
    fill(both(db))
    # Other tests may have left further sessions.
    assert len(sessions(superuser)) >= 2 * POOL_SIZE
    end_sessions(superuser)
    fill(both(db))


def test_two_losses_in_one_checkout_are_a_database_error(
    db, superuser, monkeypatch
) -> None:
    """As in a restart of PostgreSQL: the replacement of the first connection is lost, too."""
    fill([db.autocommit])
    has_input = database_limits._has_input
    losses = []

    def lose(connection: Any) -> bool:
        if len(losses) < 2:
            losses.append(connection.info.backend_pid)
            superuser(f"SELECT pg_terminate_backend({losses[-1]})")
            eventually(lambda: losses[-1] not in sessions(superuser))
        return has_input(connection)

    monkeypatch.setattr(database_limits, "_has_input", lose)
    fill([db.autocommit])
    assert losses


def test_forgotten_idle_connections_fail_no_request(
    db,
    superuser,
    monkeypatch,
) -> None:
    fill(both(db))
    monkeypatch.setattr(database_limits, "CHECK_IDLE_S", 0)
    monkeypatch.setattr(database_limits, "CHECK_LIMIT_S", 0.3)
    with stopped(sessions(superuser)), eventlet.Timeout(DEADLINE_S):
        fill(both(db))


@pytest.mark.parametrize("way", ["transaction", "autocommit"])
def test_an_unanswered_statement_replaces_the_pool(
    db,
    superuser,
    way,
) -> None:
    enter = getattr(db, way)
    fill([enter])
    with enter() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
    silent = sessions(superuser)
    assert pid in silent
    with stopped(silent), eventlet.Timeout(DEADLINE_S):
        did_not_answer = pytest.raises(OperationalError, match="did not answer")
        with did_not_answer as caught, enter() as connection:
            connection.execute(text("SELECT 1"))
        assert is_transient(caught.value)
        fill([enter])


def test_the_limit_of_a_transaction_can_be_raised(db) -> None:
    with db.transaction() as connection:
        set_statement_timeout(connection, 5)
        # More than the limit with its margin.
        connection.execute(text("SELECT pg_sleep(1.2)"))
    with pytest.raises(DBAPIError), db.transaction() as connection:
        connection.execute(text("SELECT pg_sleep(5)"))


def test_a_read_only_connection_is_replaced_after_an_error(db) -> None:
    fill(both(db))
    with ExitStack() as stack:
        for _ in range(POOL_SIZE):
            connection = stack.enter_context(db.autocommit())
            connection.execute(text("SET default_transaction_read_only = on"))
    with pytest.raises(DBAPIError, match="read-only") as caught:
        write(db, "lost")
    assert is_transient(caught.value)
    for note in "abc":
        write(db, note)


def test_a_service_is_not_ready_while_its_server_is_read_only(db, superuser) -> None:
    fill(both(db))
    superuser("ALTER ROLE users SET default_transaction_read_only = on")
    try:
        end_sessions(superuser)
        with pytest.raises(DBAPIError) as caught:
            write(db, "lost")
        assert is_transient(caught.value)
        assert readiness() == "away"
    finally:
        superuser("ALTER ROLE users RESET default_transaction_read_only")
    write(db, "stored")
    assert readiness() == "ok"


def test_a_service_is_not_ready_while_a_grant_is_missing(db, sql) -> None:
    sql("users", "REVOKE INSERT ON notes FROM users")
    assert readiness() == "away"
    sql("users", "GRANT INSERT ON notes TO users")
    assert readiness() == "ok"


def test_a_service_is_not_ready_after_a_refused_write(db, sql) -> None:
    change = text("UPDATE notes SET note = note")
    with pytest.raises(DBAPIError), db.autocommit() as connection:
        connection.execute(change)
    write(db, "another statement")
    assert readiness() == "away"
    sql("users", "GRANT UPDATE ON notes TO users")
    with db.autocommit() as connection:
        connection.execute(change)
    assert readiness() == "ok"


def test_a_full_disk_is_tried_again(db, sql, superuser) -> None:
    """The limit of temporary files simulates a full disk: its errors have the same class."""
    refuse = "BEGIN RAISE 'no room' USING ERRCODE = 'disk_full'; END"
    sql(
        "users",
        f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $${refuse}$$",
    )
    sql(
        "users",
        "CREATE TRIGGER refuse BEFORE INSERT ON notes EXECUTE FUNCTION refuse()",
    )
    superuser("ALTER ROLE users SET temp_file_limit = '64kB'")
    try:
        end_sessions(superuser)
        with pytest.raises(DBAPIError, match="no room"):
            write(db, "lost")
        assert readiness() == "away"
    finally:
        superuser("ALTER ROLE users RESET temp_file_limit")
        sql("users", "DROP TRIGGER refuse ON notes; DROP FUNCTION refuse()")
    fill(both(db))
    end_sessions(superuser)
    eventually(lambda: readiness() == "ok")
    write(db, "stored")
