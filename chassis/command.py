"""What `python -m chassis.migrate` and its like share: their settings, and how they end in an error."""

from pathlib import Path
from typing import Any

import psycopg2
import yaml
from amqp.exceptions import ChannelError, IrrecoverableConnectionError, MessageNacked
from nameko.cli.main import setup_yaml_parser
from nameko.exceptions import ConfigurationError
from sqlalchemy.exc import DBAPIError

from chassis.amqp import CONNECTION_ERRORS, broker_settings
from chassis.errors import first_line, is_away

Errors = (
    ConfigurationError,
    yaml.YAMLError,
    DBAPIError,
    psycopg2.Error,
    MessageNacked,
    *CONNECTION_ERRORS,
)


def settings(file: str) -> dict[str, Any]:
    """What stands in the file; raises one of Errors."""
    setup_yaml_parser()
    return broker_settings(yaml.safe_load(Path(file).read_text(encoding="utf-8")))


def last_line(exc: Exception) -> str:
    """One of Errors, for the one who called the command."""
    line = first_line(exc)
    if isinstance(exc, ChannelError) and exc.reply_code in (
        312,
        404,
    ):  # no route, not found
        return f"{line}: the migrations have not run"
    is_the_brokers = is_away(exc) and not isinstance(exc, DBAPIError)
    verb = (
        "refuses"
        if isinstance(exc, ChannelError | IrrecoverableConnectionError)
        else "is away"
    )
    return f"the broker {verb}: {line}" if is_the_brokers else line
