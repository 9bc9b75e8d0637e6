"""The line that a command prints for an error."""

import pytest
from amqp.exceptions import AMQPError, ChannelError, error_for_code
from nameko.exceptions import ConfigurationError

from chassis.cli import error_line

NO_METHOD, DECLARE, OPEN = (0, 0), (50, 10), (10, 40)
LINES = {
    "a refused login": (
        error_for_code(403, "ACCESS_REFUSED - Login was refused", NO_METHOD, AMQPError),
        "the broker refuses: (403) ACCESS_REFUSED - Login was refused",
    ),
    "a missing permission": (
        error_for_code(403, "ACCESS_REFUSED - access to queue", DECLARE, AMQPError),
        "the broker refuses: Queue.declare: (403) ACCESS_REFUSED - access to queue",
    ),
    "another queue of the name": (
        error_for_code(
            406, "PRECONDITION_FAILED - inequivalent arg", DECLARE, AMQPError
        ),
        "the broker refuses: Queue.declare: (406) PRECONDITION_FAILED - inequivalent arg",
    ),
    "no such virtual host": (
        error_for_code(530, "NOT_ALLOWED - vhost shop not found", OPEN, AMQPError),
        "the broker refuses: Connection.open: (530) NOT_ALLOWED - vhost shop not found",
    ),
    "a missing queue": (
        error_for_code(404, "NOT_FOUND - no queue", DECLARE, AMQPError),
        "Queue.declare: (404) NOT_FOUND - no queue: the migrations have not run",
    ),
    "a message for a missing queue": (
        error_for_code(312, "NO_ROUTE", (60, 50), ChannelError),
        "Basic.return: (312) NO_ROUTE: the migrations have not run",
    ),
    "a broker that stops": (
        error_for_code(320, "CONNECTION_FORCED - broker forced", NO_METHOD, AMQPError),
        "the broker is unavailable: (320) CONNECTION_FORCED - broker forced",
    ),
    "no broker": (
        ConnectionRefusedError("Connection refused"),
        "the broker is unavailable: Connection refused",
    ),
    "a wrong setting": (
        ConfigurationError("CURRENCY is missing"),
        "CURRENCY is missing",
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_the_line_names_the_cause(
    case: str,
) -> None:
    error, line = LINES[case]
    assert error_line(error) == line
