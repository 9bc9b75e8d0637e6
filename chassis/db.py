"""The database of a service, based on nameko-sqlalchemy. The start waits for the schema."""

import json
import logging
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import eventlet
from nameko_sqlalchemy import Database as NamekoDatabase
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from chassis import health, lookups
from chassis.database_checks import ensure_time_limits, violations
from chassis.database_limits import LimitedConnection, limit_waits
from chassis.errors import Unavailable, first_line, prevents_writing, sqlstate
from chassis.lifecycle import Lifecycle
from chassis.settings import COUNT, DB_URI, SECONDS, read

log = logging.getLogger(__name__)

RETRY_S = 1.0
# Parameters of libpq: how soon the kernel notices that a server has disappeared.
TCP_KEEPALIVE = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,  # milliseconds
}
# Writes to the disk: rows that exceed work_mem go to a temporary file, which needs no privilege.
TRY_DISK = text("""
    SET LOCAL work_mem = '64kB';
    SELECT count(*) FROM generate_series(1, 20000)
""")
# The reasons why the service cannot write into its tables; none if it can.
FIND_WRITE_OBSTACLES = text("""
    SELECT 'the database is read-only'
    WHERE current_setting('transaction_read_only') = 'on'
    UNION ALL
    SELECT 'no right to write into ' || name
    FROM unnest(CAST(:tables AS text[])) AS name
    WHERE NOT has_table_privilege(name, 'SELECT')
        OR NOT has_any_column_privilege(name, 'INSERT')
""")
# The age in seconds of the oldest row of a query; 0 if there is none.
OLDEST_AGE_SQL = "coalesce(extract(epoch FROM now() - min(created_at)), 0)"


class Database(Lifecycle, NamekoDatabase):
    """`db = Database(Base)`; `with self.db.transaction() as connection:` or `self.db.autocommit()`.

    Each of the two has a pool of its own: to switch a connection between them costs as much as a
    statement. End the `with` block before an RPC: until its end, the transaction is open and the
    connection is in use.

    A statement or a wait for a lock ends after DB_STATEMENT_TIMEOUT_S, and the server ends a
    connection that is idle in a transaction. If the server does not answer, the service closes
    the connection (chassis/database_limits.py).
    """

    def check(self) -> None:
        config = self.container.config
        self.db_uri = database_uri(config, "DB_URIS", self.container.service_name)
        self.engine_options = {
            "pool_size": read(config, "DB_POOL_SIZE", COUNT),
            "max_overflow": 0,
            "pool_timeout": read(config, "DB_STATEMENT_TIMEOUT_S", SECONDS),
            # An error's text would contain the parameters, also in the log.
            "hide_parameters": True,
            "connect_args": {
                **TCP_KEEPALIVE,
                "connection_factory": LimitedConnection,
                "application_name": self.container.service_name,
                # Overrides role, database and environment.
                "client_encoding": "utf8",
            },
        }

    def setup(self) -> None:
        # nameko-sqlalchemy's setup() would format braces in a password.
        self.engine = create_engine(self.db_uri, **self.engine_options)
        self._autocommit = create_engine(
            self.db_uri, isolation_level="AUTOCOMMIT", **self.engine_options
        )
        for engine in (self.engine, self._autocommit):
            event.listen(engine, "do_connect", lookups.connect)
            limit_waits(engine, self.engine_options["pool_timeout"])
            event.listen(engine, "handle_error", self._note_failure)
            event.listen(engine, "after_cursor_execute", self._note_success)
        # The statement and its error.
        self._failed_write: tuple[str, BaseException] | None = None
        health.add_check(self.container.service_name, "database", self._check_writable)
        while not self._is_ready():
            eventlet.sleep(RETRY_S)
        ensure_time_limits(
            self.engine,
            self.container.service_name,
            timeout_s=self.engine_options["pool_timeout"],
        )
        # Its connections may be older than the time limits.
        self._autocommit.dispose()

    def stop(self) -> None:
        """Close idle connections. The outbox relay may use its own until it has stopped."""
        self.engine.dispose()
        self._autocommit.dispose()

    kill = stop

    def get_dependency(self, worker_ctx: Any) -> "Database":
        return self

    def worker_teardown(self, worker_ctx: Any) -> None:
        """Do nothing. nameko-sqlalchemy's method closes sessions, which are not used here."""

    def transaction(self) -> AbstractContextManager[Connection]:
        """Commit the statements of the `with` block together, at its end."""
        return self.engine.begin()

    def autocommit(self) -> Connection:
        """Commit each statement on its own: one round trip to the server instead of three."""
        return self._autocommit.connect()

    def _is_ready(self) -> bool:
        """Whether the database answers and its schema is as new as this code. Logs why not."""
        service = self.container.service_name
        needed = newest_migration(service)
        found = None
        try:
            with self.autocommit() as connection:
                if lines := violations(connection, service):
                    raise SystemExit("\n".join(lines))
                found = connection.execute(
                    text("SELECT version_num FROM alembic_version")
                ).scalar()
                # A revision with letters does not belong to this service.
                if found and found.isdigit() and found >= needed:
                    self.check_content(connection)
                    return True
        except DBAPIError as exc:
            # 42P01 is the SQLSTATE of an undefined table.
            if sqlstate(exc) != "42P01":
                log.warning(
                    "waiting_for_database",
                    extra={"service": service, "error": first_line(exc)},
                )
                return False
        log.warning(
            "waiting_for_schema",
            extra={"service": service, "found": found, "needed": needed},
        )
        return False

    def check_content(self, connection: Connection) -> None:
        """Raise SystemExit if the service must not use its tables. Subclasses override it."""

    def _note_failure(self, context: Any) -> None:
        if prevents_writing(context.original_exception):
            self._failed_write = context.statement, context.original_exception

    def _note_success(
        self, connection: Any, cursor: Any, statement: str, *_: Any
    ) -> None:
        if self._failed_write and self._failed_write[0] == statement:
            self._failed_write = None

    def _check_writable(self) -> None:
        """Raise Unavailable, for /readyz, if the service cannot write into its tables.

        After a write that the server refused, its disk is tried. A missing grant cannot be tried:
        only a successful write shows that it exists.
        """
        with self.autocommit() as connection:
            if self._failed_write:
                connection.execute(TRY_DISK)
            reasons = [
                *connection.scalars(
                    FIND_WRITE_OBSTACLES,
                    {"tables": [*self.declarative_base.metadata.tables]},
                )
            ]
        # 42501 is the SQLSTATE of an insufficient privilege.
        if self._failed_write and sqlstate(self._failed_write[1]) == "42501":
            reasons.append(first_line(self._failed_write[1]))
        if reasons:
            raise Unavailable("; ".join(reasons))
        self._failed_write = None


def _json_default(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


# rows_as_json(rows) returns rows as one parameter for json_to_recordset(). They are mappings or
# dataclasses of plain values and times. One parameter for any number of rows costs the client and
# the server least. json.dumps() would build an encoder for each batch.
rows_as_json = json.JSONEncoder(default=_json_default, allow_nan=False).encode


def database_uri(config: Any, setting: str, service: str) -> str:
    """Return the URI of `service` in DB_URIS or DB_OWNER_URIS. Raises ConfigurationError."""
    return str(
        read(
            config,
            f"{setting}.{service}:Base",
            DB_URI,
            variable=f"{service.upper()}_{setting.removesuffix('S')}",
        )
    )


def newest_migration(service: str) -> str:
    """Return the number of the service's last migration, by which its file's name begins."""
    return max(path.stem[:4] for path in migrations_of(service).glob("[0-9]*.py"))


def migrations_of(service: str) -> Path:
    """Return the folder of the service's migrations. Services are beside the chassis."""
    return Path(__file__).resolve().parent.parent / service / "migrations"
