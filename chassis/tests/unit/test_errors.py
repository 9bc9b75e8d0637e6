"""Transient errors, and the faults that callers receive."""

import socket

import psycopg2
import pytest
from amqp.exceptions import ConnectionForced
from kombu.exceptions import OperationalError as BrokerError
from nameko.exceptions import deserialize, serialize
from sqlalchemy import exc

from chassis.errors import (
    DeadlineExceeded,
    InternalError,
    Unavailable,
    first_line,
    is_transient,
    to_fault,
)

SQL = "SELECT secret FROM drawer"


def of_database(
    kind: type[exc.DBAPIError], *, invalidated: bool = False
) -> exc.DBAPIError:
    return kind(
        SQL, {}, Exception("broken\nDETAIL: more"), connection_invalidated=invalidated
    )


class ReadOnly(psycopg2.Error):
    """The exception of psycopg2 for an error that the server reports."""

    pgcode = "25006"


TRANSIENT = [
    DeadlineExceeded(),
    Unavailable(),
    ConnectionForced("shutdown"),
    BrokerError("refused"),
    ConnectionResetError(),
    TimeoutError(),
    socket.gaierror(-2, "unknown name"),
    OSError("Socket closed"),
    exc.TimeoutError(),
    of_database(exc.OperationalError),
    of_database(exc.InterfaceError),
    of_database(exc.InternalError, invalidated=True),
    exc.InternalError(SQL, {}, ReadOnly("a standby")),
]
PERMANENT = [
    ValueError("no"),
    KeyError("x"),
    InternalError(),
    FileNotFoundError(2, "No such file", "letters/en/joy.txt"),
    PermissionError(13, "Permission denied", "letters"),
    of_database(exc.IntegrityError),
    of_database(exc.DataError),
    of_database(exc.ProgrammingError),
    of_database(exc.InternalError),
]


@pytest.mark.parametrize("fault", TRANSIENT, ids=repr)
def test_an_unavailable_dependency_is_transient(fault) -> None:
    assert is_transient(fault)


@pytest.mark.parametrize("fault", PERMANENT, ids=repr)
def test_other_errors_are_not_transient(fault) -> None:
    assert not is_transient(fault)


@pytest.mark.parametrize(
    "fault", [DeadlineExceeded("a"), Unavailable("b"), InternalError("c")]
)
def test_a_fault_of_the_suite_is_passed_on_unchanged(fault) -> None:
    assert to_fault(fault, "billing") is fault


@pytest.mark.parametrize(
    "fault", [of_database(exc.OperationalError), OSError("Socket closed")]
)
def test_a_transient_error_becomes_unavailable_without_its_text(fault) -> None:
    received = to_fault(fault, "billing")
    assert isinstance(received, Unavailable)
    assert str(received) == "a dependency of billing is unavailable"


@pytest.mark.parametrize("fault", [of_database(exc.IntegrityError), ValueError(SQL)])
def test_other_exceptions_become_internal_errors_without_their_text(fault) -> None:
    received = to_fault(fault, "billing")
    assert isinstance(received, InternalError)
    assert str(received) == "billing failed"


@pytest.mark.parametrize("kind", [DeadlineExceeded, Unavailable, InternalError])
def test_a_fault_crosses_the_wire_as_itself(kind) -> None:
    again = deserialize(serialize(kind("why")))
    assert type(again) is kind
    assert str(again) == "why"


def test_the_path_of_each_fault_is_a_contract() -> None:
    paths = {
        serialize(kind())["exc_path"]
        for kind in (DeadlineExceeded, Unavailable, InternalError)
    }
    names = ("DeadlineExceeded", "Unavailable", "InternalError")
    assert paths == {f"chassis.errors.{name}" for name in names}


def test_the_first_line_of_an_error_contains_no_sql() -> None:
    assert first_line(of_database(exc.OperationalError)) == "broken"
    assert first_line(ValueError()) == "ValueError"
