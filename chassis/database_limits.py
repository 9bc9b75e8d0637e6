"""Limits for each wait of a connection to PostgreSQL. An unusable connection is replaced.

The limits of the server (statement_timeout) and of the kernel (tcp_user_timeout) have no effect
behind a proxy that acknowledges every byte and never answers. So psycopg2's wait callback has a
limit too. A wait that exceeds it closes the connection, and SQLAlchemy replaces it.
"""

from select import POLLIN
from time import monotonic
from typing import Any

import eventlet
import psycopg2
from eventlet import patcher
from eventlet.hubs import trampoline
from psycopg2 import extensions
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import InvalidatePoolError

from chassis.errors import first_line, is_session_unusable

# Added to the server's own limit, which leaves the connection usable.
MARGIN_S = 2.0
CHECK_IDLE_S = 5.0
CHECK_LIMIT_S = 2.0
# eventlet removes it because it can block; with a timeout of 0 it does not.
POLL = patcher.original("select").poll


class LimitedConnection(extensions.connection):
    """A psycopg2 connection with a limit for each wait."""

    # For connecting. `limit_waits` sets another one for the server's answers.
    limit_s = 3.0


def wait(connection: Any, timeout: float = -1) -> None:
    """Wait for the server, as psycopg2's wait callback.

    Raises OperationalError after the connection's `limit_s`, and psycopg2 closes the connection.
    Without `limit_s` there is no limit.
    """
    limit_s = getattr(connection, "limit_s", 0.0)
    with eventlet.Timeout(
        limit_s or None,
        psycopg2.OperationalError(f"the database did not answer in {limit_s:g} s"),
    ):
        while (state := connection.poll()) != extensions.POLL_OK:
            trampoline(
                connection.fileno(),
                read=state == extensions.POLL_READ,
                write=state == extensions.POLL_WRITE,
            )


def limit_waits(engine: Engine, statement_timeout_s: float) -> None:
    """Limit the waits of an engine's connections, for statements of `statement_timeout_s`."""
    extensions.set_wait_callback(wait)

    def make_ready(connection: Any, record: Any, proxy: Any) -> None:
        """Check a connection that was idle or has input, and set its limit.

        The server may have closed such a connection. A new one is not checked: SQLAlchemy ends
        after two failed checks.
        """
        used_at = record.info.get("used_at")
        try:
            if used_at and (
                monotonic() - used_at > CHECK_IDLE_S or _has_input(connection)
            ):
                connection.limit_s = CHECK_LIMIT_S
                engine.dialect.do_ping(connection)
        except psycopg2.Error as exc:
            # The other idle connections are probably lost, too.
            raise InvalidatePoolError(first_line(exc)) from exc
        # The previous user may have changed it.
        connection.limit_s = statement_timeout_s + MARGIN_S

    for name, listener in (
        ("connect", _read_ids_as_text),
        ("checkin", _note_use),
        ("checkout", make_ready),
        ("handle_error", _hide_row),
        ("handle_error", _retire_unusable),
    ):
        event.listen(engine, name, listener)


def _read_ids_as_text(connection: Any, record: Any) -> None:
    """Return ids as strings, as everywhere in the suite. SQLAlchemy's default is UUID objects."""
    extensions.register_type(
        extensions.new_type((2950,), "UUID", lambda value, cursor: value), connection
    )


def _note_use(connection: Any, record: Any) -> None:
    record.info["used_at"] = monotonic()


def set_statement_timeout(connection: Connection, seconds: int) -> None:
    """Set the timeout of each statement, until the connection's transaction ends."""
    connection.execute(text(f"SET LOCAL statement_timeout = '{seconds}s'"))
    connection.connection.driver_connection.limit_s = seconds + MARGIN_S  # type: ignore[union-attr]


def _has_input(connection: Any) -> bool:
    poll = POLL()
    poll.register(connection.fileno(), POLLIN)
    return bool(poll.poll(0))


def _hide_row(context: Any) -> None:
    """Cut an error's text after its first message: the rest quotes the row."""
    message = getattr(
        getattr(context.original_exception, "diag", None), "message_primary", None
    )
    for exc in filter(None, (context.original_exception, context.sqlalchemy_exception)):
        if message and exc.args:
            before, found, _ = str(exc.args[0]).partition(message)
            exc.args = (before + found, *exc.args[1:])


def _retire_unusable(context: Any) -> None:
    """Let SQLAlchemy replace all connections of the pool, which have the same fault."""
    context.is_disconnect |= is_session_unusable(context.original_exception)
