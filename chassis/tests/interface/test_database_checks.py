"""Services and migrations refuse an unsuitable database."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import eventlet
import psycopg2
import pytest
import yaml
from sqlalchemy import create_engine, text

from chassis import database_checks
from chassis.container import Container
from chassis.database_checks import TIME_LIMITS, ensure_time_limits
from chassis.migrate import main
from chassis.tests.conftest import Keeper, dependency, running
from conftest import DEADLINE_S

Run = Callable[[str], list[Any]]
NOT_IN_FORCE = "time_limits_not_in_force"
ROLE_SETTINGS = """
    SELECT unnest(setconfig)
    FROM pg_db_role_setting
    WHERE setrole = 'users'::regrole
    AND setdatabase = (SELECT oid FROM pg_database WHERE datname = 'users')
"""


@pytest.fixture
def database(superuser: Run) -> Iterator[Callable[[str], str]]:
    """Return a function: `database("LATIN1")` creates one with this encoding."""
    made: list[str] = []

    def make(encoding: str) -> str:
        made.append(f"users_{encoding.lower()}")
        locale = "LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        superuser(
            f"CREATE DATABASE {made[-1]} OWNER users_owner ENCODING '{encoding}' {locale}"
        )
        return made[-1]

    yield make
    for name in made:
        superuser(f"DROP DATABASE {name} WITH (FORCE)")


def use(config: dict[str, Any], database: str) -> dict[str, Any]:
    """Return the settings with another database for users."""
    changed = {}
    for setting in ("DB_URIS", "DB_OWNER_URIS"):
        uri = config[setting]["users:Base"].rpartition("/")[0]
        changed[setting] = {**config[setting], "users:Base": f"{uri}/{database}"}
    return {**config, **changed}


@contextmanager
def changed(superuser: Run, statement: str, back: str) -> Iterator[None]:
    superuser(statement)
    try:
        yield
    finally:
        superuser(back)


def refusal(config: dict[str, Any]) -> str:
    """Return the error of a service that does not start."""
    with pytest.raises(SystemExit) as ended, eventlet.Timeout(DEADLINE_S):
        Container(Keeper, config).start()
    return str(ended.value)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_service_refuses_a_database_that_is_not_utf8(
    config, database, encoding
) -> None:
    assert refusal(use(config, database(encoding))) == (
        f"users: server_encoding is {encoding}: "
        "restore a dump into a database made with TEMPLATE template0 ENCODING 'UTF8'"
    )


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("synchronous_commit", "off", "on"),
        ("default_transaction_isolation", "repeatable read", "read committed"),
        ("default_transaction_isolation", "serializable", "read committed"),
        ("IntervalStyle", "iso_8601", "postgres"),
        ("IntervalStyle", "sql_standard", "postgres"),
        ("session_replication_role", "replica", "origin"),
    ],
)
@pytest.mark.parametrize("where", ["ROLE", "DATABASE"])
def test_a_service_refuses_an_unsuitable_setting(
    config, superuser, where, name, value, remedy
) -> None:
    change = f"ALTER {where} users SET {name} = '{value}'"
    with changed(superuser, change, f"ALTER {where} users RESET {name}"):
        line = refusal(config)
    statement = f"ALTER ROLE users IN DATABASE users SET {name} = '{remedy}'"
    assert line == f"users: {name} is {value}: {statement}"
    with changed(superuser, change, f"ALTER {where} users RESET {name}"):
        superuser(statement)  # the remedy works
        with running(Container(Keeper, config)):
            superuser(f"ALTER ROLE users IN DATABASE users RESET {name}")


def test_a_service_refuses_a_server_that_may_lose_commits(config, superuser) -> None:
    off = "ALTER SYSTEM SET full_page_writes = off"
    with changed(superuser, off, "ALTER SYSTEM RESET full_page_writes"):
        superuser("SELECT pg_reload_conf()")
        line = refusal(config)
    superuser("SELECT pg_reload_conf()")
    assert line == "users: full_page_writes is off: set it to on in postgresql.conf"


def test_a_service_refuses_a_schema_that_hides_its_tables(config, sql) -> None:
    with changed(partial(sql, "users"), "CREATE SCHEMA users", "DROP SCHEMA users"):
        sql("users", "GRANT USAGE ON SCHEMA users TO users")
        line = refusal(config)
    remedy = (
        "the tables are in another schema, and the search_path of users must begin "
        "with it"
    )
    assert line == f"users: current_schema is users: {remedy}"


def test_a_service_refuses_a_server_that_is_too_old(
    config, monkeypatch, superuser
) -> None:
    monkeypatch.setattr(database_checks, "MIN_POSTGRESQL", 99)
    [(version,)] = superuser("SHOW server_version")
    assert (
        refusal(config)
        == f"users: version is {version}: upgrade PostgreSQL to 15 or later"
    )


def test_a_process_reports_all_violations_and_ends(nameko_run, superuser) -> None:
    superuser("ALTER ROLE users SET synchronous_commit = off")
    superuser("ALTER ROLE users SET IntervalStyle = iso_8601")
    try:
        process = nameko_run("users.service")
        last, code = process.last_line_and_code()
    finally:
        superuser("ALTER ROLE users RESET ALL")
    lines = process.log.read_text().splitlines()
    assert [line.partition(": ALTER")[0] for line in lines if " is " in line] == [
        "users: synchronous_commit is off",
        "users: IntervalStyle is iso_8601",
    ]
    assert last in lines
    assert code == 1


def test_a_migration_creates_no_table_in_an_unsuitable_database(
    config, database, tmp_path
) -> None:
    settings = use(config, database("SQL_ASCII"))
    billing = use(config, database("LATIN1"))
    for setting in ("DB_URIS", "DB_OWNER_URIS"):
        settings[setting]["billing:Base"] = billing[setting]["users:Base"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(path), "users", "billing"])
    assert [
        line.partition(": restore")[0] for line in str(ended.value).splitlines()
    ] == [
        "users: server_encoding is SQL_ASCII",
        "billing: server_encoding is LATIN1",
    ]
    owner = settings["DB_OWNER_URIS"]["users:Base"].replace("+psycopg2", "")
    with closing(psycopg2.connect(owner)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'public'")
        assert not cursor.fetchall()


@pytest.mark.parametrize("where", ["role", "environment"])
def test_texts_are_utf8_with_any_client_encoding(
    config, superuser, monkeypatch, where
) -> None:
    if where == "environment":
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    else:
        superuser("ALTER ROLE users SET client_encoding = 'LATIN1'")
    container = Container(Keeper, config)
    try:
        with running(container), dependency(container, "db").autocommit() as connection:
            sent = {"text": "Счастье"}
            assert (
                connection.execute(text("SELECT :text"), sent).scalar() == sent["text"]
            )
    finally:
        superuser("ALTER ROLE users RESET client_encoding")


# Time limits


@pytest.fixture
def unlimited(superuser: Run) -> Run:
    """Remove the time limits of the role of users."""
    superuser("ALTER ROLE users IN DATABASE users RESET ALL")
    return superuser


def _limits_of(connection: Any) -> list[str]:
    return [connection.execute(text(f"SHOW {name}")).scalar() for name in TIME_LIMITS]


def test_the_first_start_stores_the_limits_for_the_role(
    config, unlimited, caplog
) -> None:
    container = Container(Keeper, {**config, "DB_STATEMENT_TIMEOUT_S": 4.5})
    with running(container):
        db = dependency(container, "db")
        with db.autocommit() as one, db.transaction() as other:
            assert _limits_of(one) == _limits_of(other) == ["4500ms"] * 3
    assert unlimited(ROLE_SETTINGS) == [(f"{name}=4500",) for name in TIME_LIMITS]
    assert NOT_IN_FORCE not in caplog.messages


def test_a_new_limit_is_in_force_after_the_start(config, unlimited) -> None:
    for limit_s in (7, 3):
        container = Container(Keeper, {**config, "DB_STATEMENT_TIMEOUT_S": limit_s})
        with running(container), dependency(container, "db").autocommit() as connection:
            assert _limits_of(connection) == [f"{limit_s}s"] * 3


def test_copies_can_start_at_the_same_time(config, unlimited, caplog) -> None:
    with running(*(Container(Keeper, config) for _ in range(4))):
        assert unlimited(ROLE_SETTINGS) == [(f"{name}=5000",) for name in TIME_LIMITS]
    assert NOT_IN_FORCE not in caplog.messages


def test_a_session_with_other_limits_is_reported(config, unlimited, caplog) -> None:
    """A pooler can have a session that is older than the settings."""
    engine = create_engine(
        config["DB_URIS"]["users:Base"],
        connect_args={"options": "-c lock_timeout=0"},
    )
    ensure_time_limits(engine, "users", 5)
    [record] = [record for record in caplog.records if record.message == NOT_IN_FORCE]
    assert record.needed == record.statement_timeout == "5000"
    assert record.lock_timeout == "0"
    engine.dispose()


def test_a_service_starts_if_limits_cannot_be_stored(config, unlimited, caplog) -> None:
    url = create_engine(config["DB_URIS"]["users:Base"]).url.set(port=1)
    ensure_time_limits(create_engine(url), "users", 5)
    [record] = [record for record in caplog.records if record.message == NOT_IN_FORCE]
    assert "refused" in record.error
