"""Faults. A refusal is a value with a reason; an exception says that something broke.

Nameko sends an exception as its dotted path and arguments, so the path of each class here is a
contract between services.
"""

from amqp.exceptions import AMQPError
from kombu.exceptions import OperationalError as BrokerError
from nameko.exceptions import deserialize_to_instance
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout


@deserialize_to_instance
class DeadlineExceeded(Exception):
    """No answer came in time; whether the work was done is unknown."""


@deserialize_to_instance
class Unavailable(Exception):
    """A part that the work needs is away or overloaded. Whether the work was done may be unknown."""


@deserialize_to_instance
class InternalError(Exception):
    """The service failed in a way of its own; its log says how, the caller is not told."""


AWAY = (DeadlineExceeded, Unavailable, AMQPError, BrokerError, OSError, PoolTimeout)


def is_away(exc: BaseException) -> bool:
    """Whether `exc` says that a part is only away, so that the same work may succeed later.

    Of the database's errors, those of the connection, of locks and of time-outs do
    (sqlalchemy.exc.OperationalError and InterfaceError; PostgreSQL's classes 08, 40, 53, 55, 57), and
    that it may only be read, as a standby until it takes over. An OSError does unless it is about a file.
    """
    if isinstance(exc, OSError) and exc.filename is not None:
        return False
    if isinstance(exc, DBAPIError):
        return (
            exc.connection_invalidated
            or isinstance(exc, OperationalError | InterfaceError)
            or is_session_unusable(exc)
        )
    return isinstance(exc, AWAY)


def sqlstate(exc: BaseException) -> str:
    """PostgreSQL's code of the error; "" where it has none."""
    cause = exc.orig if isinstance(exc, DBAPIError) else exc
    return getattr(cause, "pgcode", None) or ""


def is_session_unusable(exc: BaseException) -> bool:
    """Whether the session answers but cannot do the work, as a read-only one on a standby.

    PostgreSQL's class 25. No value in a statement causes an error of this class.
    """
    return sqlstate(exc)[:2] == "25"


def prevents_writing(exc: BaseException) -> bool:
    """Whether the server refuses a write for a reason of its own.

    It is read-only, a grant is missing, its disk is full (class 53) or broken (class 58).
    """
    return sqlstate(exc) in ("25006", "42501") or sqlstate(exc)[:2] in ("53", "58")


def to_fault(exc: Exception, service: str) -> Exception:
    """The fault a caller is told in place of `exc`: never a text with SQL or a stack in it."""
    if isinstance(exc, DeadlineExceeded | Unavailable | InternalError):
        return exc
    if is_away(exc):
        return Unavailable(f"{service} can't reach a part it needs")
    return InternalError(f"{service} failed")


def description(exc: BaseException) -> str:
    """The type of `exc` and what it says. repr() could quote a whole message: UnicodeDecodeError's does."""
    return f"{type(exc).__name__}: {first_line(exc)}"


def first_line(exc: BaseException) -> str:
    """What `exc` says, for a log line: its first line, without the SQL that SQLAlchemy adds."""
    cause = exc.orig if isinstance(exc, DBAPIError) else exc
    # "(0, 0)" is py-amqp's name for no method, as at a refused login.
    return (
        str(cause).removeprefix("(0, 0): ").strip().partition("\n")[0]
        or type(exc).__name__
    )
