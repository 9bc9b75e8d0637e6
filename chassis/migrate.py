"""Creates tables and declares queues: `python -m chassis.migrate [service ...]`.

It runs as one job before the services start (`make migrate`, the chart's Job), not at the start
of each copy. It can be repeated at any time. It declares all queues of events, because an event
without a queue is lost. It refuses a broker that drops messages (chassis/broker_checks.py).
"""

import argparse
import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Any

from alembic import command, context, op, util
from alembic.config import Config
from marshmallow import fields
from nameko.containers import ServiceContainer
from nameko.rpc import get_rpc_exchange
from nameko.standalone.events import get_event_exchange
from psycopg2.errors import LockNotAvailable
from sqlalchemy import (
    Connection,
    Engine,
    NullPool,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.exc import OperationalError

from chassis import cli, lookups
from chassis.broker import connect, declare_exchange
from chassis.broker_checks import check_broker_user, check_queue_limits
from chassis.database_checks import violations
from chassis.db import TCP_KEEPALIVE, database_uri, migrations_of
from chassis.events import EventHandler
from chassis.outbox import Outbox
from chassis.settings import SWITCH, read

HERE = Path(__file__).parent
MAX_ATTEMPTS = 30
RETRY_S = 1.0

# Take the lock of migrations, if it is free. Its number has no meaning.
TRY_ADVISORY_LOCK = text("SELECT pg_try_advisory_xact_lock(7369001)")

# Limits of a migration. While it waits for the lock of a table, all queries of that table wait.
LIMITS = """
    SET LOCAL lock_timeout = '1s';
    SET LOCAL statement_timeout = '60s';
    SET LOCAL idle_in_transaction_session_timeout = 0;
    SET LOCAL tcp_keepalives_idle = 30
"""

# Find the sessions with locks of tables. PostgreSQL's own objects have numbers below 16384.
LOCK_HOLDERS = text("""
    SELECT DISTINCT
        virtualtransaction,
        format('pid %s (%s, role %s)', pid, application_name, usename)
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE granted AND database = datid AND datname = current_database() AND relation >= 16384
""")


def main(arguments: list[str] | None = None) -> None:
    """Run the command. It exits with one line and code 1 after an expected error."""
    parser = argparse.ArgumentParser(
        prog="python -m chassis.migrate", description=__doc__
    )
    parser.add_argument("--config", default="config.yaml", help="default: %(default)s")
    parser.add_argument(
        "services", nargs="*", help="default: all services with a database"
    )
    options = parser.parse_args(arguments)
    try:
        config = cli.load_settings(options.config)
        if read(config, "AMQP_USER_RESTRICTED", SWITCH):
            check_broker_user(config, "migrations")
        services = options.services or services_with_tables(config)
        # Before all else: it also refuses an unknown service.
        check_databases(config, services)
        for service in services:
            declare_queues(config, service)
        # Before the tables exist. Services wait for them, so none uses a broker that drops events.
        check_queue_limits(config, event_queues(config, services))
        for service in services:
            migrate_tables(config, service)
            print(f"{service}: tables and queues are ready")
    except (util.CommandError, *cli.ERRORS) as exc:
        sys.exit(f"{options.config}: {cli.error_line(exc)}")


def services_with_tables(config: dict[str, Any]) -> list[str]:
    """Return the services in DB_URIS. Other services do not handle events."""
    return [name.partition(":")[0] for name in read(config, "DB_URIS", fields.Dict())]


def check_databases(config: dict[str, Any], services: Iterable[str]) -> None:
    """Exit with code 1 and one line for each violation, if there are any."""
    lines: list[str] = []
    for service in services:
        with _engine(config, service).connect() as connection:
            lines += violations(connection, service)
    if lines:
        sys.exit("\n".join(lines))


def migrate_tables(
    config: dict[str, Any], service: str, revision: str = "head"
) -> None:
    """Migrate the service's tables to `revision`, as their owner.

    Several migrations at the same time run one after the other.
    """
    alembic = Config(
        attributes={
            "config": config,
            "application_role": make_url(
                database_uri(config, "DB_URIS", service)
            ).username,
            "service": service,
        }
    )
    for option, folder in (
        ("script_location", HERE / "alembic"),
        ("version_locations", migrations_of(service)),
    ):
        # Alembic interpolates % in options.
        alembic.set_main_option(option, str(folder).replace("%", "%%"))
    alembic.set_main_option("path_separator", "newline")
    command.upgrade(alembic, revision)


def declare_queues(config: dict[str, Any], service: str) -> None:
    """Declare the service's exchanges, and a queue for each event that it handles.

    Only a service with an Outbox has an exchange of events.
    """
    event_exchanges = [
        get_event_exchange(service, config)
        for dependency in _container(config, service).dependencies
        if isinstance(dependency, Outbox)
    ]
    with connect(config) as connection:
        for exchange in (get_rpc_exchange(config), *event_exchanges):
            declare_exchange(exchange, connection.default_channel)
        for handler in event_handlers(config, service):
            handler.declare(connection.default_channel)


def event_queues(config: dict[str, Any], services: Iterable[str]) -> list[str]:
    """Return the names of the services' event queues and dead-letter queues."""
    return [
        name
        for handler in event_handlers(config, *services)
        for name in (handler.queue.name, handler.dead_letter_queue)
    ]


def event_handlers(config: dict[str, Any], *services: str) -> list[EventHandler]:
    """Return the event handlers of the services, sorted by the names of their queues."""
    # A handler refers to its container weakly, and needs it for `setup`.
    containers = [_container(config, service) for service in services]
    handlers = [
        entrypoint
        for container in containers
        for entrypoint in container.entrypoints
        if isinstance(entrypoint, EventHandler)
    ]
    for handler in handlers:
        handler.setup()
    return sorted(handlers, key=lambda handler: handler.queue.name)


def _container(config: dict[str, Any], service: str) -> ServiceContainer:
    return ServiceContainer(
        importlib.import_module(f"{service}.service").Service, config
    )


def grant(table: str, privileges: str) -> None:
    """Grant privileges on a table to the role of the service. For use in a migration."""
    role = context.config.attributes["application_role"]
    context.execute(f'GRANT {privileges} ON "{table}" TO "{role}"')


@contextmanager
def without_limits() -> Iterator[None]:
    """Lift the time limits, for index builds and changes of many rows. For use in a migration.

        with without_limits():
            # A killed run leaves an invalid index.
            op.drop_index("name", if_exists=True, postgresql_concurrently=True)
            op.create_index("name", "table", ["column"], postgresql_concurrently=True)

    All statements before it are committed, and each statement in it is committed alone. So the
    migration must contain nothing else, and must be repeatable.
    """
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0; SET statement_timeout = 0")
        yield
    op.execute(LIMITS)


def run_migrations() -> None:
    """Run all migrations, under the lock of migrations. chassis/alembic/env.py calls it.

    Raises CommandError if a table stays locked.
    """
    service = context.config.attributes["service"]
    engine = _engine(context.config.attributes["config"], service)
    with engine.connect() as connection, connection.begin():
        _wait_for_advisory_lock(connection, service)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            holders = {*connection.execute(LOCK_HOLDERS)}
            try:
                _migrate(engine)
                return
            except OperationalError as exc:
                if not isinstance(exc.orig, LockNotAvailable):
                    raise
            # The sessions that had a lock before and after the attempt.
            holders &= {*connection.execute(LOCK_HOLDERS)}
            names = sorted(name for _, name in holders) or ["short transactions"]
            locked = f"{service}: a table is locked by {', '.join(names)}"
            print(f"{locked}; attempt {attempt} of {MAX_ATTEMPTS}", flush=True)
            sleep(RETRY_S)
    raise util.CommandError(f"{locked}: run it again later")


def _engine(config: dict[str, Any], service: str) -> Engine:
    """Create an engine for migrations, with the role that owns the service's tables.

    A snapshot for a whole transaction would delay concurrent index builds.
    """
    engine = create_engine(
        database_uri(config, "DB_OWNER_URIS", service),
        poolclass=NullPool,
        isolation_level="READ COMMITTED",
        connect_args=TCP_KEEPALIVE,
    )
    event.listen(engine, "do_connect", lookups.connect)
    return engine


def _wait_for_advisory_lock(connection: Connection, service: str) -> None:
    """Wait for the end of other migrations.

    A statement that waits would delay concurrent index builds, so the lock is tried repeatedly.
    """
    connection.execute(text(LIMITS))
    if not connection.execute(TRY_ADVISORY_LOCK).scalar():
        print(f"{service}: waiting for the end of another migration", flush=True)
        while not connection.execute(TRY_ADVISORY_LOCK).scalar():
            sleep(RETRY_S)


def _migrate(engine: Engine) -> None:
    """Run all migrations in one transaction, except the parts `without_limits`."""
    with engine.connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.execute(LIMITS)
            found = context.get_context().get_current_revision() or ""
            # Tables that are newer than this code stay unchanged: the code was rolled back.
            if not found.isdigit() or found <= str(context.get_head_revision()):
                context.run_migrations()
            grant("alembic_version", "SELECT")


if __name__ == "__main__":
    main()
