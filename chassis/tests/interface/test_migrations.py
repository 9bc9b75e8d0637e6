"""Migrations create the tables of the models, and grant the role of a service only its needs."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
import yaml
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.util import CommandError
from psycopg2.errors import InsufficientPrivilege
from sqlalchemy import create_engine

from chassis import migrate
from chassis.db import newest_migration
from chassis.migrate import declare_queues, main, migrate_tables
from conftest import SERVICES_WITH_TABLES


def role(config: dict[str, Any], service: str, database: str | None = None) -> Any:
    """Connect with the role of a service."""
    uri = config["DB_URIS"][f"{service}:Base"].replace("+psycopg2", "")
    connection = psycopg2.connect(uri.rpartition("/")[0] + "/" + (database or service))
    connection.autocommit = True
    return connection


@pytest.fixture
def config_file(config, tmp_path) -> Any:
    """Return a function that writes a config.yaml, and returns its path."""

    def write(**changes: Any) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**config, **changes}))
        return str(path)

    return write


@pytest.mark.parametrize("service", SERVICES_WITH_TABLES)
def test_only_services_with_an_outbox_have_an_exchange_of_events(
    config, monkeypatch, service
) -> None:
    declared = []
    monkeypatch.setattr(
        migrate, "declare_exchange", lambda exchange, _: declared.append(exchange.name)
    )
    declare_queues(config, service)
    own = [f"{service}.events"] if service in ("users", "orders") else []
    assert declared == ["nameko-rpc", *own]


@pytest.mark.parametrize("service", SERVICES_WITH_TABLES)
def test_migrations_equal_models(config, service) -> None:
    base = importlib.import_module(f"{service}.models").Base
    engine = create_engine(config["DB_OWNER_URIS"][f"{service}:Base"])
    with engine.connect() as connection:
        options = {
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, parents: name != "alembic_version",
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, base.metadata) == []
    engine.dispose()


@pytest.mark.parametrize("service", SERVICES_WITH_TABLES)
def test_migrating_again_changes_nothing(config, sql, service) -> None:
    before = sql(service, "SELECT * FROM alembic_version")
    migrate_tables(config, service)
    declare_queues(config, service)
    assert (
        sql(service, "SELECT * FROM alembic_version")
        == before
        == [(newest_migration(service),)]
    )


@pytest.fixture
def revision(sql) -> Iterator[Callable[[str], None]]:
    """Return a function that sets the revision of the tables of users."""
    yield lambda name: sql(
        "users", "UPDATE alembic_version SET version_num = %s", [name]
    )
    sql(
        "users",
        "UPDATE alembic_version SET version_num = %s",
        [newest_migration("users")],
    )


def test_tables_newer_than_this_code_stay_unchanged(config, sql, revision) -> None:
    """After a rollback, older services use them."""
    revision("9999")
    migrate_tables(config, "users")
    assert sql("users", "SELECT * FROM alembic_version") == [("9999",)]


def test_tables_of_an_unknown_revision_are_refused(config, revision) -> None:
    revision("ae1027a6acf")
    with pytest.raises(CommandError, match="ae1027a6acf"):
        migrate_tables(config, "users")


def test_the_ledger_is_append_only_for_its_service(config) -> None:
    connection = role(config, "billing")
    for statement in (
        "UPDATE operations SET amount_minor = 1",
        "DELETE FROM operations",
        "TRUNCATE operations",
        "DELETE FROM accounts",
        "UPDATE accounts SET user_id = user_id",
    ):
        with pytest.raises(InsufficientPrivilege):
            connection.cursor().execute(statement)
    connection.cursor().execute("UPDATE accounts SET balance_minor = balance_minor")
    connection.close()


@pytest.mark.parametrize("service", SERVICES_WITH_TABLES)
def test_a_service_cannot_change_its_schema(config, service) -> None:
    connection = role(config, service)
    for statement in (
        "CREATE TABLE mine (id int)",
        "ALTER TABLE alembic_version ADD COLUMN mine int",
        "UPDATE alembic_version SET version_num = '9999'",
        "DROP TABLE alembic_version",
    ):
        with pytest.raises(InsufficientPrivilege):
            connection.cursor().execute(statement)
    connection.close()


@pytest.mark.parametrize("service", SERVICES_WITH_TABLES)
def test_a_service_cannot_read_the_database_of_another(config, service) -> None:
    for other in set(SERVICES_WITH_TABLES) - {service}:
        with pytest.raises(
            psycopg2.OperationalError, match="permission denied for database"
        ):
            role(config, service, other)


def test_the_command_prints_a_line_for_each_service(config_file, capsys) -> None:
    main(["--config", config_file(), "users", "billing"])
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"{service}: tables and queues are ready" for service in ("users", "billing")
    ]


UNAVAILABLE = "postgresql+psycopg2://a:b@127.0.0.1:1/c"


@pytest.mark.parametrize(
    ("changes", "services", "names"),
    [
        ({"AMQP_URI": None}, ["billing"], "AMQP_URI is missing"),
        ({"AMQP_URI": "localhost"}, ["billing"], "AMQP_URI is wrong"),
        (
            {"AMQP_URI": "amqp://a:b@127.0.0.1:1/"},
            ["billing"],
            "the broker is unavailable",
        ),
        ({"HEARTBEAT": "often"}, ["billing"], "HEARTBEAT is wrong"),
        ({"DB_URIS": None}, [], "DB_URIS is missing"),
        ({"DB_URIS": "users"}, [], "DB_URIS is wrong"),
        ({"DB_URIS": {"users:Base": "sqlite://"}}, [], "USERS_DB_URI is wrong"),
        ({"DB_OWNER_URIS": {}}, ["users"], "USERS_DB_OWNER_URI is missing"),
        ({"DB_OWNER_URIS": {"users:Base": UNAVAILABLE}}, ["users"], "onnection"),
    ],
)
def test_a_wrong_setting_ends_the_command_with_one_line(
    config_file, changes, services, names
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--config", config_file(**changes), *services])
    assert names in ended.value.code
    assert "\n" not in ended.value.code


@pytest.mark.parametrize("text", ["", "[", "a: ${", "- 1"])
def test_an_unreadable_file_ends_the_command_with_one_line(tmp_path, text) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    for name in (path, tmp_path / "missing.yaml"):
        with pytest.raises(SystemExit) as ended:
            main(["--config", str(name)])
        assert "\n" not in ended.value.code


def test_an_unknown_service_is_refused(config_file) -> None:
    with pytest.raises(SystemExit, match=r"UNKNOWN_DB_OWNER_URI is missing"):
        main(["--config", config_file(), "unknown"])


def test_the_path_of_the_checkout_may_contain_a_percent_sign(
    config, tmp_path, monkeypatch
) -> None:
    place = tmp_path / "50% off"
    place.mkdir()
    (place / "alembic").symlink_to(migrate.HERE / "alembic")
    (place / "versions").symlink_to(migrate.migrations_of("users"))
    monkeypatch.setattr(migrate, "HERE", place)
    monkeypatch.setattr(migrate, "migrations_of", lambda _: place / "versions")
    migrate_tables(config, "users")
