"""Requirements on a database, and the time limits of its role.

docs/reliability.md lists all assumptions about a database, and the check of each.
"""

import logging
from contextlib import suppress

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from chassis.errors import first_line

log = logging.getLogger(__name__)

TIME_LIMITS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
)
# Older versions let every role create tables in the schema public.
MIN_POSTGRESQL = 15

BY_ROLE = "ALTER ROLE {role} IN DATABASE {database} SET {name} = '{value}'"
BY_SERVER = "set it to {value} in postgresql.conf"

# The allowed values, the preferred one first, and the remedy. The last two are not settings.
REQUIRED = {
    "server_encoding": (
        ("UTF8",),
        "restore a dump into a database made with TEMPLATE template0 ENCODING '{value}'",
    ),
    "fsync": (("on",), BY_SERVER),
    "full_page_writes": (("on",), BY_SERVER),
    "synchronous_commit": (("on", "local", "remote_write", "remote_apply"), BY_ROLE),
    "default_transaction_isolation": (("read committed", "read uncommitted"), BY_ROLE),
    "IntervalStyle": (("postgres",), BY_ROLE),
    "session_replication_role": (("origin", "local"), BY_ROLE),
    "current_schema": (
        ("the schema of the tables",),
        "the tables are in another schema, and the search_path of {role} must begin with it",
    ),
    "version": ((f"{MIN_POSTGRESQL} or later",), "upgrade PostgreSQL to {value}"),
}
# The found values of REQUIRED, and the names of role and database.
FIND_VALUES = text("""
    SELECT name, setting
    FROM pg_settings
    WHERE name = ANY(:names)
    UNION ALL VALUES
        ('role', quote_ident(session_user)),
        ('database', quote_ident(current_database())),
        ('current_schema', CASE
            WHEN (
                SELECT bool_and(nspname IS DISTINCT FROM current_schema())
                FROM pg_class
                JOIN pg_namespace ON pg_namespace.oid = relnamespace
                WHERE relname = 'alembic_version' AND relkind = 'r'
            )
            THEN coalesce(quote_ident(current_schema()), 'none')
            ELSE 'the schema of the tables'
        END),
        ('version', CASE
            WHEN current_setting('server_version_num')::int < :oldest * 10000
            THEN current_setting('server_version')
            ELSE :oldest || ' or later'
        END)
""")
# The time limits in force.
FIND_LIMITS = text("""
    SELECT name, setting
    FROM pg_settings
    WHERE name = ANY(:names)
""")


def violations(connection: Connection, service: str) -> list[str]:
    """Return a line, with the remedy, for each requirement that is not met."""
    found: dict[str, str] = dict(
        connection.execute(
            FIND_VALUES, {"names": [*REQUIRED], "oldest": MIN_POSTGRESQL}
        ).all()
    )
    return [
        f"{service}: {name} is {found[name]}: "
        + remedy.format(
            name=name, value=allowed[0], role=found["role"], database=found["database"]
        )
        for name, (allowed, remedy) in REQUIRED.items()
        if found[name] not in allowed
    ]


def ensure_time_limits(engine: Engine, service: str, timeout_s: float) -> None:
    """Store the time limits as settings of the role. Log a warning if they are not in force.

    A pooler refuses startup parameters, and does not keep values that SET changes. Older
    connections of other engines, and older sessions of a pooler, keep their limits.
    """
    wanted = dict.fromkeys(TIME_LIMITS, str(int(timeout_s * 1000)))
    try:
        with engine.connect() as connection:
            if _limits(connection) == wanted:
                return
            _set_for_role(connection, wanted)
        with engine.connect() as connection:
            found = _limits(connection)
    except DBAPIError as exc:
        found = {"error": first_line(exc)}
    if found != wanted:
        log.warning(
            "time_limits_not_in_force",
            extra={"service": service, "needed": wanted["statement_timeout"], **found},
        )


def _set_for_role(connection: Connection, settings: dict[str, str]) -> None:
    """Store settings of the session's role in this database. It may change its own."""
    database = connection.execute(
        text("SELECT quote_ident(current_database())")
    ).scalar()
    # Concurrent ALTER ROLE statements fail. chassis/migrate.py and replay/outbox.py use other ids.
    connection.execute(text("SELECT pg_advisory_xact_lock(7369003)"))
    for name, value in settings.items():
        connection.exec_driver_sql(
            f"ALTER ROLE CURRENT_USER IN DATABASE {database} SET {name} = {value}",
        )
    connection.commit()
    # A pooler would lend this older session to other clients.
    with suppress(DBAPIError):
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


def _limits(connection: Connection) -> dict[str, str]:
    return dict(connection.execute(FIND_LIMITS, {"names": [*TIME_LIMITS]}).all())
