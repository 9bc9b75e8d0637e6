"""Which faults mean that a part is away, and what callers are told."""

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
    is_away,
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
    """As psycopg2 raises it for an answer of the server."""

    pgcode = "25006"


AWAY = [
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
    exc.InternalError(SQL, {}, ReadOnly("a standby, as yet")),
]
BROKEN = [
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


@pytest.mark.parametrize("fault", AWAY, ids=repr)
def test_a_part_that_is_away_is_waited_for(fault) -> None:
    assert is_away(fault)


@pytest.mark.parametrize("fault", BROKEN, ids=repr)
def test_what_cannot_be_right_later_is_not_waited_for(fault) -> None:
    assert not is_away(fault)


@pytest.mark.parametrize(
    "fault", [DeadlineExceeded("a"), Unavailable("b"), InternalError("c")]
)
def test_a_fault_of_the_suite_is_told_as_it_is(fault) -> None:
    assert to_fault(fault, "billing") is fault


@pytest.mark.parametrize(
    "fault", [of_database(exc.OperationalError), OSError("Socket closed")]
)
def test_a_part_away_is_told_as_unavailable_without_its_text(fault) -> None:
    told = to_fault(fault, "billing")
    assert isinstance(told, Unavailable)
    assert str(told) == "billing can't reach a part it needs"


@pytest.mark.parametrize("fault", [of_database(exc.IntegrityError), ValueError(SQL)])
def test_any_other_exception_is_told_as_internal_error_without_its_text(fault) -> None:
    told = to_fault(fault, "billing")
    assert isinstance(told, InternalError)
    assert str(told) == "billing failed"


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


def test_a_log_line_holds_neither_sql_nor_a_second_line() -> None:
    assert first_line(of_database(exc.OperationalError)) == "broken"
    assert first_line(ValueError()) == "ValueError"
