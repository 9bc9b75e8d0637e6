"""Migrations beside other sessions: short waits for locks, and no limit for index builds."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml

from chassis import migrate
from chassis.db import migrations_of
from conftest import eventually

# `migrate_tables` for users, with the migrations of another folder.
COMMAND = """
import sys
from pathlib import Path
from chassis import cli, migrate
migrate.migrations_of = lambda service: Path(sys.argv[1])
migrate.migrate_tables(cli.load_settings(sys.argv[2]), "users")
"""
HEAD = """
from alembic import op
revision, down_revision = "0002", "0001"
"""
DDL = f"""{HEAD}
def upgrade():
    op.execute("CREATE TABLE limits AS SELECT current_setting('statement_timeout') AS inside")
    op.execute("ALTER TABLE users ADD COLUMN nickname text")
"""
INDEX = f"""{HEAD}
from chassis.migrate import without_limits

def upgrade():
    op.execute("CREATE TABLE IF NOT EXISTS limits (inside text, after text)")
    with without_limits():
        op.drop_index("users_by_locale", if_exists=True, postgresql_concurrently=True)
        op.create_index("users_by_locale", "users", ["locale"], postgresql_concurrently=True)
        op.execute("INSERT INTO limits SELECT current_setting('statement_timeout')"
                   " FROM pg_sleep(0.3)")
    op.execute("UPDATE limits SET after = current_setting('statement_timeout')")
"""


@pytest.fixture
def migrations(tmp_path, sql) -> Iterator[Callable[[str], str]]:
    """Return a function that copies the migrations of users, adds one, and returns the folder."""

    def write(text: str) -> str:
        folder = shutil.copytree(migrations_of("users"), tmp_path / "migrations")
        (folder / "0002_more.py").write_text(text)
        return str(folder)

    yield write
    sql("users", "DROP TABLE IF EXISTS limits")
    sql("users", "DROP INDEX IF EXISTS users_by_locale")
    sql("users", "ALTER TABLE users DROP COLUMN IF EXISTS nickname")
    sql("users", "UPDATE alembic_version SET version_num = '0001'")


@pytest.fixture
def config_file(config, tmp_path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.fixture
def command(config_file) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Return a function that starts the migrations in a folder, in a new process."""
    with ExitStack() as stack:

        def start(folder: str) -> subprocess.Popen[str]:
            arguments = [
                sys.executable,
                "-W",
                "ignore",
                "-c",
                COMMAND,
                folder,
                config_file,
            ]
            process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def reader(config) -> Iterator[Any]:
    """A session that has read users, and whose transaction is open."""
    uri = config["DB_URIS"]["users:Base"].replace("+psycopg2", "")
    with closing(psycopg2.connect(uri, application_name="report")) as connection:
        connection.cursor().execute("SELECT FROM users")
        yield connection


@pytest.fixture
def impatient_owner(superuser) -> Iterator[None]:
    """Set the statement timeout of the database to 0.1 s."""
    superuser("ALTER DATABASE users SET statement_timeout = '100ms'")
    yield
    superuser("ALTER DATABASE users RESET statement_timeout")


def has_queued(sql: Callable[..., Any]) -> bool:
    waiting = (
        "SELECT 1 FROM pg_locks WHERE relation = 'users'::regclass AND NOT granted"
    )
    return bool(sql("users", waiting))


def test_a_migration_that_waits_for_a_lock_does_not_block_queries(
    migrations, command, reader, sql
) -> None:
    process = command(migrations(DDL))
    eventually(lambda: has_queued(sql))
    sql("users", "SET statement_timeout = '10s'")
    sql("users", "SELECT FROM users")  # behind the migration in the queue for the lock
    assert process.poll() is None
    assert process.stdout is not None
    holder = f"pid {reader.info.backend_pid} (report, role users)"
    assert (
        process.stdout.readline()
        == f"users: a table is locked by {holder}; attempt 1 of 30\n"
    )
    reader.rollback()
    assert process.wait() == 0
    assert sql("users", "SELECT inside FROM limits") == [("1min",)]
    assert sql("users", "SELECT version_num FROM alembic_version") == [("0002",)]


def test_a_migration_of_a_locked_table_gives_up_without_a_change(
    migrations, config_file, reader, sql, monkeypatch
) -> None:
    folder = Path(migrations(DDL))
    monkeypatch.setattr(migrate, "migrations_of", lambda service: folder)
    monkeypatch.setattr(migrate, "MAX_ATTEMPTS", 2)
    monkeypatch.setattr(
        migrate, "check_queue_limits", lambda *arguments: None
    )  # takes several seconds
    with pytest.raises(SystemExit) as ended:
        migrate.main(["--config", config_file, "users"])
    holder = f"pid {reader.info.backend_pid} (report, role users)"
    assert f"a table is locked by {holder}: run it again later" in ended.value.code
    assert "\n" not in ended.value.code
    found = sql(
        "users", "SELECT to_regclass('limits'), version_num FROM alembic_version"
    )
    assert found == [(None, "0001")]


def test_index_builds_have_no_time_limit_and_migrations_take_turns(
    migrations, command, impatient_owner, superuser, sql
) -> None:
    folder = migrations(INDEX)
    sql("users", "SELECT pg_advisory_lock(7369001)")
    processes = [command(folder) for _ in range(2)]
    try_lock = "SELECT pg_try_advisory_xact_lock%"
    waiting = f"SELECT count(*) FROM pg_stat_activity WHERE query LIKE '{try_lock}'"
    eventually(lambda: superuser(waiting) == [(2,)])
    assert sql("users", "SELECT to_regclass('limits')") == [(None,)]
    sql("users", "SELECT pg_advisory_unlock(7369001)")
    assert [process.wait() for process in processes] == [0, 0]
    assert sql("users", "SELECT inside, after FROM limits") == [
        ("0", "1min")
    ]  # one of the two migrations ran
    [(is_valid,)] = sql(
        "users",
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'users_by_locale'::regclass",
    )
    assert is_valid
