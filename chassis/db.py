"""Database connections: nameko-sqlalchemy's, with time limits, and a start that waits for the schema."""

import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import eventlet
import psycopg2.extensions
from nameko.exceptions import ConfigurationError
from nameko_sqlalchemy import Database as NamekoDatabase
from sqlalchemy import Connection, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, ProgrammingError

from chassis import health
from chassis.database_checks import ensure_time_limits, refuse_unfit_database
from chassis.errors import first_line
from chassis.settings import COUNT, SECONDS, TEXT, read

log = logging.getLogger(__name__)

WAIT_S = 1.0
DRIVER = "postgresql+psycopg2"
_UUID_AS_TEXT = psycopg2.extensions.new_type((2950,), "UUID", lambda value, cursor: value)
# libpq: how a server that is gone without a word is noticed (its own time-outs end nothing then).
GONE_AFTER = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,  # milliseconds; psycopg2 under eventlet knows no connect_timeout
}
OLDEST_S = "coalesce(extract(epoch FROM now() - min(created_at)), 0)"  # of the rows of a query; 0: of none


class Database(NamekoDatabase):
    """`db = Database(Base)`; `with self.db.transaction() as connection:` or `self.db.autocommit()`.

    Each has a pool of its own: to switch a connection to and fro costs as much as a statement. Leave it
    before an RPC or a return. A statement ends after DB_STATEMENT_TIMEOUT_S, a wait for a lock as well;
    one that idles in a transaction is ended by the server.
    """

    def check(self) -> None:
        self.db_uri = database_uri(self.container.config, "DB_URIS", self.container.service_name)
        timeout_s = read(self.container.config, "DB_STATEMENT_TIMEOUT_S", SECONDS)
        self.engine_options = {
            "pool_size": read(self.container.config, "DB_POOL_SIZE", COUNT),
            "max_overflow": 0,
            "pool_timeout": timeout_s,
            "hide_parameters": True,  # an error's text would show them, in the log too
            "connect_args": {
                **GONE_AFTER,
                "application_name": self.container.service_name,
                "client_encoding": "utf8",  # whatever the role, the database or the environment says
            },
        }

    def setup(self) -> None:
        super().setup()
        event.listen(self.engine, "connect", _read_ids_as_text)
        self._autocommit = create_engine(self.db_uri, isolation_level="AUTOCOMMIT", **self.engine_options)
        event.listen(self._autocommit, "connect", _read_ids_as_text)
        health.add_check(self.container.service_name, "database", self._ping)
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
        who = {"service": self.container.service_name}
        needed = newest_migration(self.container.service_name)
        try:
            with self.autocommit() as connection:
                refuse_unfit_database(connection, self.container.service_name)
                found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        except ProgrammingError:  # no such table yet
            found = None
        except DBAPIError as exc:
            log.warning("waiting for the database", extra={**who, "error": first_line(exc)})
            return False
        if not (found and found.isdigit() and found >= needed):  # other digits: newer; letters: not ours
            who |= {"found": found, "needed": needed}
            log.warning("waiting for the schema: make migrate", extra=who)
            return False
        return True

    def _ping(self) -> None:
        with self.autocommit() as connection:
            connection.execute(text("SELECT 1"))


def recordset(rows: Sequence[Any]) -> str:
    """`rows`, mappings or dataclasses of plain values and times, as json_to_recordset() takes them: one
    parameter for any number of rows, and the cheapest for both sides."""
    return _ROWS.encode(rows)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


_ROWS = json.JSONEncoder(default=_plain, allow_nan=False)


def _read_ids_as_text(connection: Any, record: Any) -> None:
    """Ids are text everywhere in the suite; SQLAlchemy would have psycopg2 make UUID objects."""
    psycopg2.extensions.register_type(_UUID_AS_TEXT, connection)


def database_uri(config: Any, setting: str, service: str) -> str:
    """The URI of `service` in DB_URIS or DB_OWNER_URIS; raises ConfigurationError."""
    name = f"{setting}.{service}:Base"
    uri: str = read(config, name, TEXT)
    with suppress(ArgumentError):
        if make_url(uri).drivername == DRIVER:
            return uri
    raise ConfigurationError(f"{name} is wrong: it must read {DRIVER}://role:password@host/database")


def newest_migration(service: str) -> str:
    """The revision of the last file in the service's migrations/, which are named by number."""
    return max(path.stem[:4] for path in migrations_of(service).glob("[0-9]*.py"))


def migrations_of(service: str) -> Path:
    """The service's migrations/: services stand beside the chassis."""
    return Path(__file__).resolve().parent.parent / service / "migrations"
