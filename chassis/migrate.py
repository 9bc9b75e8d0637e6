"""Makes a service's tables and declares its queues: `python -m chassis.migrate [service ...]`.

Runs as one job before the services start (`make migrate`, the chart's Job), never in every
replica's start. The queues belong to it because an event that finds no queue is lost: all of them
exist before the first event is published. A broker that drops their messages is refused
(chassis/queue_limits.py). It can be run again at any time.
"""

import argparse
import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Any

from alembic import command, context, op
from alembic.config import Config
from alembic.util import CommandError
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
from chassis.broker_user import check_broker_user
from chassis.database_checks import violations
from chassis.db import TCP_KEEPALIVE, database_uri, migrations_of
from chassis.events import EventHandler
from chassis.outbox import Outbox
from chassis.queue_limits import check_queue_limits
from chassis.settings import SWITCH, read

HERE = Path(__file__).parent
TAKE_TURN = text("SELECT pg_try_advisory_xact_lock(7369001)")  # any number that is ours
MAX_ATTEMPTS, RETRY_S = 30, 1.0
# While a statement waits for a lock on a table, all queries of that table queue behind it.
LIMITS = """
    SET LOCAL lock_timeout = '1s';
    SET LOCAL statement_timeout = '60s';
    SET LOCAL idle_in_transaction_session_timeout = 0;
    SET LOCAL tcp_keepalives_idle = 30
"""
LOCK_HOLDERS = text("""
    SELECT DISTINCT
        virtualtransaction,
        format('pid %s (%s, role %s)', pid, application_name, usename)
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE granted AND database = datid AND datname = current_database() AND relation >= 16384
""")  # objects from 16384 on are not PostgreSQL's own


def main(arguments: list[str] | None = None) -> None:
    """The command. Ends with one line and code 1 where something is missing or wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m chassis.migrate", description=__doc__
    )
    parser.add_argument("--config", default="config.yaml", help="default: %(default)s")
    parser.add_argument("services", nargs="*", help="default: all that have a database")
    options = parser.parse_args(arguments)
    try:
        config = cli.load_settings(options.config)
        if read(config, "AMQP_USER_RESTRICTED", SWITCH):
            check_broker_user(config, "migrations")
        services = options.services or services_with_tables(config)
        check_databases(config, services)  # an unknown service ends here
        for service in services:
            declare_queues(config, service)
        # Services wait for their tables: on a broker that drops events they must not start.
        check_queue_limits(config, event_queues(config, services))
        for service in services:
            migrate_tables(config, service)
            print(f"{service}: tables and queues are ready")
    except (CommandError, *cli.ERRORS) as exc:
        sys.exit(f"{options.config}: {cli.error_line(exc)}")


def services_with_tables(config: dict[str, Any]) -> list[str]:
    """The services that DB_URIS names; only they listen to events."""
    return [name.partition(":")[0] for name in read(config, "DB_URIS", fields.Dict())]


def _engine(uri: str) -> Engine:
    """An engine for migrations. A snapshot that lasts a transaction would hold up index builds."""
    engine = create_engine(
        uri,
        poolclass=NullPool,
        isolation_level="READ COMMITTED",
        connect_args=TCP_KEEPALIVE,
    )
    event.listen(engine, "do_connect", lookups.connect)
    return engine


def check_databases(config: dict[str, Any], services: Iterable[str]) -> None:
    """Exit with code 1 and a line for each violation, if there is one."""
    lines: list[str] = []
    for service in services:
        with _engine(
            database_uri(config, "DB_OWNER_URIS", service)
        ).connect() as connection:
            lines += violations(connection, service)
    if lines:
        sys.exit("\n".join(lines))


def migrate_tables(
    config: dict[str, Any], service: str, revision: str = "head"
) -> None:
    """Bring the service's tables to `revision`, as their owner; several at once take turns."""
    alembic = Config(
        attributes={
            "config": config,
            "application_role": make_url(
                database_uri(config, "DB_URIS", service)
            ).username,
            "uri": database_uri(config, "DB_OWNER_URIS", service),
            "service": service,
        }
    )
    for option, place in {
        "script_location": HERE / "alembic",
        "version_locations": migrations_of(service),
    }.items():
        alembic.set_main_option(option, str(place).replace("%", "%%"))
    alembic.set_main_option("path_separator", "newline")
    command.upgrade(alembic, revision)


def declare_queues(config: dict[str, Any], service: str) -> None:
    """Declare the exchanges of the service, and the queue of each event that it listens to.

    Only a service with an Outbox has an exchange of events.
    """
    events = [
        get_event_exchange(service, config)
        for dependency in _container(config, service).dependencies
        if isinstance(dependency, Outbox)
    ]
    with connect(config) as connection:
        for exchange in (get_rpc_exchange(config), *events):
            declare_exchange(exchange, connection.default_channel)
        for handler in event_handlers(config, service):
            handler.declare(connection.default_channel)


def event_queues(config: dict[str, Any], services: Iterable[str]) -> list[str]:
    """The names of these services' event queues, and of the queues of their dead letters."""
    return [
        name
        for handler in event_handlers(config, *services)
        for name in (handler.queue.name, handler.dead_letter_queue)
    ]


def event_handlers(config: dict[str, Any], *services: str) -> list[EventHandler]:
    """What the services do with events, by the names of their queues."""
    containers = [
        _container(config, service) for service in services
    ]  # live while they are set up
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
    """In a migration: let the application's role do `privileges` on `table`, and nothing else."""
    role = context.config.attributes["application_role"]
    context.execute(f'GRANT {privileges} ON "{table}" TO "{role}"')


@contextmanager
def without_limits() -> Iterator[None]:
    """In a migration: for index builds and changes of data, which may take hours.

        with without_limits():
            # A killed run leaves an invalid index.
            op.drop_index("name", if_exists=True, postgresql_concurrently=True)
            op.create_index("name", "table", ["column"], postgresql_concurrently=True)

    Each statement in it commits by itself, and all statements before it are committed first. Such a
    migration must do nothing else, and must be repeatable as a whole.
    """
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0; SET statement_timeout = 0")
        yield
    op.execute(LIMITS)


def run_migrations() -> None:
    """What chassis/alembic/env.py runs. Raises CommandError where a table stays locked."""
    engine = _engine(context.config.attributes["uri"])
    service = context.config.attributes["service"]
    with engine.connect() as turn, turn.begin():
        turn.execute(text(LIMITS))
        if not turn.execute(TAKE_TURN).scalar():
            print(f"{service}: another migration runs; waiting for its end", flush=True)
            # A query that waits for the lock itself would hold up index builds.
            while not turn.execute(TAKE_TURN).scalar():
                sleep(RETRY_S)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            holders = {*turn.execute(LOCK_HOLDERS)}
            try:
                with engine.connect() as connection:
                    _migrate(connection)
                return
            except OperationalError as exc:
                if not isinstance(exc.orig, LockNotAvailable):
                    raise
            holders &= {
                *turn.execute(LOCK_HOLDERS)
            }  # sessions that held a lock all the time
            names = (
                ", ".join(sorted(name for _, name in holders)) or "short transactions"
            )
            locked = f"{service}: a table is locked by {names}"
            print(f"{locked}; attempt {attempt} of {MAX_ATTEMPTS}", flush=True)
            sleep(RETRY_S)
    raise CommandError(f"{locked}: run it again later")


def _migrate(connection: Connection) -> None:
    """Run all migrations in one transaction, except the parts `without_limits`."""
    context.configure(connection=connection)
    with context.begin_transaction():
        context.execute(LIMITS)
        found = context.get_context().get_current_revision() or ""
        if not found.isdigit() or found <= str(context.get_head_revision()):
            context.run_migrations()  # else the tables are newer than this code, which was rolled back
        grant("alembic_version", "SELECT")


if __name__ == "__main__":
    main()
