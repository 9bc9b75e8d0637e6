"""Settings and error lines of the command lines: `python -m chassis.migrate` and others."""

from pathlib import Path
from typing import Any

import psycopg2
import yaml
from amqp.exceptions import ChannelError, IrrecoverableConnectionError, MessageNacked
from nameko.cli.main import setup_yaml_parser
from nameko.exceptions import ConfigurationError
from sqlalchemy.exc import DBAPIError

from chassis.broker import CONNECTION_ERRORS, broker_settings
from chassis.errors import first_line, is_transient

# The exceptions that end a command with one line. Any other one is a defect, with a traceback.
ERRORS = (
    ConfigurationError,
    yaml.YAMLError,
    DBAPIError,
    psycopg2.Error,
    MessageNacked,
    *CONNECTION_ERRORS,
)
# AMQP reply codes that mean a missing queue: NO_ROUTE and NOT_FOUND.
MISSING_QUEUE = (312, 404)


def load_settings(file: str) -> dict[str, Any]:
    """Return the settings in a YAML file. Raises one of ERRORS."""
    setup_yaml_parser()
    return broker_settings(yaml.safe_load(Path(file).read_text(encoding="utf-8")))


def error_line(exc: Exception) -> str:
    """Return the line that reports one of ERRORS to the user of a command."""
    line = first_line(exc)
    if isinstance(exc, ChannelError) and exc.reply_code in MISSING_QUEUE:
        return f"{line}: the migrations have not run"
    if isinstance(exc, DBAPIError) or not is_transient(exc):
        return line
    if isinstance(exc, ChannelError | IrrecoverableConnectionError):
        return f"the broker refuses: {line}"
    return f"the broker is unavailable: {line}"
