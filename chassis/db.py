"""A service's database: nameko-sqlalchemy's, with a start that waits for the schema."""

import json
import logging
from collections.abc import Sequence
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

WAIT_S = 1.0
# libpq: how soon the kernel notices a server that has disappeared.
GONE_AFTER = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,  # milliseconds
}
NO_RIGHT = "42501"  # SQLSTATE: insufficient privilege
NO_TABLE = "42P01"  # undefined table
# Rows that exceed work_mem go into a temporary file, which needs no privilege and leaves no trace.
TRY_DISK = text(
    "SET LOCAL work_mem = '64kB'; SELECT count(*) FROM generate_series(1, 20000)"
)
CANNOT_WRITE = text("""
    SELECT 'the database is read-only'
    WHERE current_setting('transaction_read_only') = 'on'
    UNION ALL
    SELECT 'no right to write into ' || name
    FROM unnest(CAST(:tables AS text[])) AS name
    WHERE NOT has_table_privilege(name, 'SELECT') OR NOT has_any_column_privilege(name, 'INSERT')
""")
OLDEST_S = "coalesce(extract(epoch FROM now() - min(created_at)), 0)"  # of the rows of a query; 0: of none


class Database(Lifecycle, NamekoDatabase):
    """`db = Database(Base)`; `with self.db.transaction() as connection:` or `self.db.autocommit()`.

    Each has a pool of its own: to switch a connection to and fro costs as much as a statement. Leave it
    before an RPC or a return. A statement ends after DB_STATEMENT_TIMEOUT_S, a wait for a lock as well;
    the server ends a connection that idles in a transaction. Where the server does not answer, the
    service closes the connection (chassis/database_limits.py).
    """

    def check(self) -> None:
        self.db_uri = database_uri(
            self.container.config, "DB_URIS", self.container.service_name
        )
        self.engine_options = {
            "pool_size": read(self.container.config, "DB_POOL_SIZE", COUNT),
            "max_overflow": 0,
            "pool_timeout": read(
                self.container.config, "DB_STATEMENT_TIMEOUT_S", SECONDS
            ),
            "hide_parameters": True,  # an error's text would show them, in the log too
            "connect_args": {
                **GONE_AFTER,
                "connection_factory": LimitedConnection,
                "application_name": self.container.service_name,
                "client_encoding": "utf8",  # whatever role, database and environment say
            },
        }

    def setup(self) -> None:
        # nameko-sqlalchemy's setup() would take braces in a password for fields to fill in.
        self.engine = create_engine(self.db_uri, **self.engine_options)
        self._autocommit = create_engine(
            self.db_uri, isolation_level="AUTOCOMMIT", **self.engine_options
        )
        for engine in (self.engine, self._autocommit):
            event.listen(engine, "do_connect", lookups.connect)
            limit_waits(engine, self.engine_options["pool_timeout"])
            event.listen(engine, "handle_error", self._note_failure)
            event.listen(engine, "after_cursor_execute", self._note_success)
        self._failed_write: tuple[str, BaseException] | None = (
            None  # the statement, and its error
        )
        health.add_check(self.container.service_name, "database", self._check_writable)
        while not self._is_ready():
            eventlet.sleep(WAIT_S)
        ensure_time_limits(
            self.engine,
            self.container.service_name,
            timeout_s=self.engine_options["pool_timeout"],
        )
        self._autocommit.dispose()  # its connections may be older than the limits

    def stop(self) -> None:
        """Close what nobody uses; who still works (the relay, until it has stopped) may go on."""
        self.engine.dispose()
        self._autocommit.dispose()

    kill = stop

    def get_dependency(self, worker_ctx: Any) -> "Database":
        return self

    def worker_teardown(self, worker_ctx: Any) -> None:
        """Nameko-sqlalchemy's closes sessions here; ours end with their `with`."""

    def transaction(self) -> AbstractContextManager[Connection]:
        """What is executed in it is committed together, at its end."""
        return self.engine.begin()

    def autocommit(self) -> Connection:
        """Each statement is a transaction: one round trip to the server, not three."""
        return self._autocommit.connect()

    def _is_ready(self) -> bool:
        """Whether the database answers and its schema is as new as this code; says so if not."""
        service = self.container.service_name
        needed = newest_migration(service)
        try:
            with self.autocommit() as connection:
                if lines := violations(connection, service):
                    raise SystemExit("\n".join(lines))
                found = connection.execute(
                    text("SELECT version_num FROM alembic_version")
                ).scalar()
                if (
                    found and found.isdigit() and found >= needed
                ):  # other digits: newer; letters: not ours
                    self.check_content(connection)
                    return True
        except DBAPIError as exc:
            if sqlstate(exc) != NO_TABLE:
                log.warning(
                    "waiting_for_database",
                    extra={"service": service, "error": first_line(exc)},
                )
                return False
            found = None
        log.warning(
            "waiting_for_schema",
            extra={"service": service, "found": found, "needed": needed},
        )
        return False

    def check_content(self, connection: Connection) -> None:
        """Raise SystemExit where the service must not use its tables. Subclasses override it."""

    def _note_failure(self, context: Any) -> None:
        if prevents_writing(context.original_exception):
            self._failed_write = context.statement, context.original_exception

    def _note_success(
        self, connection: Any, cursor: Any, statement: str, *_: Any
    ) -> None:
        if self._failed_write and self._failed_write[0] == statement:
            self._failed_write = None

    def _check_writable(self) -> None:
        """For /readyz: raises Unavailable where the service cannot write into its tables.

        After a write that the server has refused, its disk is tried. A grant can't be tried: a write
        that succeeds shows that it is there.
        """
        with self.autocommit() as connection:
            if self._failed_write:
                connection.execute(TRY_DISK)  # raises where it is full
            tables = [*self.declarative_base.metadata.tables]
            reasons = [*connection.execute(CANNOT_WRITE, {"tables": tables}).scalars()]
        if self._failed_write and sqlstate(self._failed_write[1]) == NO_RIGHT:
            reasons.append(first_line(self._failed_write[1]))
        if reasons:
            raise Unavailable("; ".join(reasons))
        self._failed_write = None


def recordset(rows: Sequence[Any]) -> str:
    """`rows`, mappings or dataclasses of plain values and times, as json_to_recordset() takes them.

    That is one parameter for any number of rows, and the cheapest for both sides.
    """
    return _ROWS.encode(rows)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


_ROWS = json.JSONEncoder(default=_plain, allow_nan=False)


def database_uri(config: Any, setting: str, service: str) -> str:
    """The URI of `service` in DB_URIS or DB_OWNER_URIS; raises ConfigurationError."""
    return str(
        read(
            config,
            f"{setting}.{service}:Base",
            DB_URI,
            variable=f"{service.upper()}_{setting.removesuffix('S')}",
        )
    )


def newest_migration(service: str) -> str:
    """The revision of the last file in the service's migrations/, which are named by number."""
    return max(path.stem[:4] for path in migrations_of(service).glob("[0-9]*.py"))


def migrations_of(service: str) -> Path:
    """The service's migrations/: services stand beside the chassis."""
    return Path(__file__).resolve().parent.parent / service / "migrations"
