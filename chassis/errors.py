"""Faults that cross the wire, and classification of exceptions.

A refused request is a value with a reason. An exception means that something is broken. Nameko
sends an exception as its dotted path and arguments, so each path here is part of the API.
"""

from amqp.exceptions import AMQPError
from kombu.exceptions import OperationalError as BrokerError
from nameko.exceptions import deserialize_to_instance
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    OperationalError,
    TimeoutError as PoolTimeout,
)


@deserialize_to_instance
class DeadlineExceeded(Exception):
    """No reply in time. The outcome of the work is unknown."""


@deserialize_to_instance
class Unavailable(Exception):
    """A dependency is unavailable or overloaded. The outcome of the work may be unknown."""


@deserialize_to_instance
class InternalError(Exception):
    """The service has failed. Its log has the details, which are not sent to the caller."""


# The faults of a call to another service.
FAULTS = (DeadlineExceeded, Unavailable, InternalError)

TRANSIENT_ERRORS = (
    DeadlineExceeded,
    Unavailable,
    AMQPError,
    BrokerError,
    OSError,
    PoolTimeout,
)


def is_transient(exc: BaseException) -> bool:
    """Whether a dependency is unavailable, so that the same work may succeed later.

    True for database errors of connections, locks and timeouts, and for a read-only database,
    which may be a standby before its promotion. SQLAlchemy raises OperationalError or
    InterfaceError for PostgreSQL's classes 08, 40, 53, 55 and 57.

    False for an OSError about a file.
    """
    if isinstance(exc, OSError) and exc.filename is not None:
        return False
    if isinstance(exc, DBAPIError):
        return (
            exc.connection_invalidated
            or isinstance(exc, OperationalError | InterfaceError)
            or is_session_unusable(exc)
        )
    return isinstance(exc, TRANSIENT_ERRORS)


def sqlstate(exc: BaseException) -> str:
    """Return PostgreSQL's error code (SQLSTATE), or "" for other exceptions."""
    cause = exc.orig if isinstance(exc, DBAPIError) else exc
    return getattr(cause, "pgcode", None) or ""


def is_session_unusable(exc: BaseException) -> bool:
    """Whether the database session cannot do any work, such as a read-only one on a standby.

    PostgreSQL's class 25. No value in a statement causes an error of this class.
    """
    return sqlstate(exc)[:2] == "25"


def prevents_writing(exc: BaseException) -> bool:
    """Whether the database server refuses all writes of this kind.

    It is read-only, a privilege is missing, its disk is full (class 53) or broken (class 58).
    """
    return sqlstate(exc) in ("25006", "42501") or sqlstate(exc)[:2] in ("53", "58")


def to_fault(exc: Exception, service: str) -> Exception:
    """Return the fault that the caller receives for `exc`, without SQL or a traceback."""
    if isinstance(exc, FAULTS):
        return exc
    return (
        Unavailable(f"a dependency of {service} is unavailable")
        if is_transient(exc)
        else InternalError(f"{service} failed")
    )


def description(exc: BaseException) -> str:
    """Return the type of `exc` and the first line of its message.

    repr() may quote a whole message, as for UnicodeDecodeError.
    """
    return f"{type(exc).__name__}: {first_line(exc)}"


def first_line(exc: BaseException) -> str:
    """Return the first line of an exception's message, without the SQL that SQLAlchemy adds."""
    cause = exc.orig if isinstance(exc, DBAPIError) else exc
    # py-amqp writes "(0, 0)" for an error without a method, such as a refused login.
    message = str(cause).removeprefix("(0, 0): ").strip()
    return message.partition("\n")[0] or type(exc).__name__
