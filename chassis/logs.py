"""Logging: one structured line an event, JSON for machines or readable on a terminal.

Code logs through the standard library: `log.info("paid", extra={"order_id": ...})`. Every line of a
worker carries its `request_id`, which travels in message headers.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import uuid_utils

REQUEST_ID, CLIENT = (
    "request_id",
    "client",
)  # keys in nameko's context data, and so in headers
_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_STANDARD = {*logging.makeLogRecord({}).__dict__, "message", "asctime"}
_JSON = json.JSONEncoder(
    default=repr
)  # in ASCII: no line steers a terminal or turns its text around
_bound: ContextVar[dict[str, Any]] = ContextVar(
    "bound"
)  # what each line of this greenthread tells
_client: ContextVar[str] = ContextVar("client", default="")


def bind(**fields: Any) -> None:
    """Each further log line of this greenthread tells these fields."""
    _bound.set({**_bound.get({}), **fields})


def bind_request_id(data: Mapping[str, Any]) -> str:
    """Take the request id from `data` (what the caller sent), or make one; bind it."""
    request_id = clean_request_id(data.get(REQUEST_ID))
    bind(**{REQUEST_ID: request_id})
    return request_id


def current_request_id() -> str:
    """The request id of the work this greenthread does; a new one where it has none."""
    return _bound.get({}).get(REQUEST_ID) or clean_request_id(None)


def bind_client(data: Mapping[str, Any]) -> None:
    """Bind the client's address from `data`. It is not logged: the gateway alone logs it, for a
    refused connection."""
    _client.set(str(data.get(CLIENT) or ""))


def current_client() -> str:
    """The address of the client that this greenthread works for; "" where it is not known."""
    return _client.get()


def clean_request_id(given: object) -> str:
    """`given` where it is 1 to 128 visible ASCII characters, else a new id."""
    if isinstance(given, str) and _SAFE_ID.fullmatch(given):
        return given
    return uuid_utils.uuid4().hex


def formatter(style: str, level: str = "INFO") -> logging.Formatter:
    """The formatter that config.yaml's LOGGING names. `style`: json, console, or auto (console on a
    terminal). `level` is only checked: logging itself would answer a wrong one with a stack."""
    style, level = style.removeprefix(" "), level.removeprefix(" ")
    if level not in logging.getLevelNamesMapping():
        sys.exit(
            f"config.yaml: LOG_LEVEL is wrong: {level!r} is not one of DEBUG, INFO, WARNING, ERROR"
        )
    if style not in ("json", "console", "auto"):
        sys.exit(
            f"config.yaml: LOG_FORMAT is wrong: {style!r} is not one of json, console, auto"
        )
    is_console = style == "console" or (style == "auto" and sys.stderr.isatty())
    return _Console() if is_console else _JsonLines()


class _JsonLines(logging.Formatter):
    """By hand, because the gateway writes a line for each request: structlog takes twice as long."""

    def format(self, record: logging.LogRecord) -> str:
        return _JSON.encode(self.fields(record))

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What a line tells."""
        fields = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields |= {
            name: value
            for name, value in record.__dict__.items()
            if name not in _STANDARD
        }
        fields |= _bound.get({})
        fields["timestamp"] = (
            datetime.fromtimestamp(record.created, UTC)
            .isoformat()
            .replace("+00:00", "Z")
        )
        if (
            record.exc_info and record.name == "kombu.mixins"
        ):  # a consumer that can't connect, each second
            fields["error"] = str(record.exc_info[1])
        elif record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return fields


class _Console(_JsonLines):
    """`12:00:00.000 info paid order_id=42`; a stack stands below, without its variables (passwords!)."""

    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        time, level, event = (
            fields.pop("timestamp")[11:23],
            fields.pop("level"),
            fields.pop("event"),
        )
        stack = fields.pop("exception", "").splitlines()
        told = " ".join(f"{name}={_printable(value)}" for name, value in fields.items())
        return "\n".join(
            [f"{time} {level:7} {_printable(event)}  {told}", *map(_printable, stack)]
        )


def _printable(value: object) -> str:
    """Escapes control characters and direction marks, which would steer the terminal."""
    return str(value) if str(value).isprintable() else repr(value)
