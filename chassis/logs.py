"""Logging: one structured line an event, as JSON or readable on a terminal.

The message is the event's stable name: `log.info("order_paid", extra={"order_id": ...})`.
The lines of a worker also have its `request_id`, which travels in message headers.
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

# Keys in Nameko's context data, and so in message headers.
REQUEST_ID = "request_id"
CLIENT = "client"
_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_STANDARD_FIELDS = {*logging.makeLogRecord({}).__dict__, "message", "asctime"}
# ASCII only: no value can control a terminal or reverse the direction of text.
_JSON = json.JSONEncoder(default=repr)
# The fields of each log line of this greenthread.
_bound: ContextVar[dict[str, Any]] = ContextVar("bound")
_client: ContextVar[str] = ContextVar("client", default="")


def bind(**fields: Any) -> None:
    """Add fields to each further log line of this greenthread."""
    _bound.set({**_bound.get({}), **fields})


def bind_request_id(data: Mapping[str, Any]) -> str:
    """Bind and return the caller's request id in `data`, or a new one."""
    request_id = clean_request_id(data.get(REQUEST_ID))
    bind(**{REQUEST_ID: request_id})
    return request_id


def current_request_id() -> str:
    """Return the request id of this greenthread's work, or a new one."""
    return _bound.get({}).get(REQUEST_ID) or clean_request_id(None)


def bind_client(data: Mapping[str, Any]) -> None:
    """Bind the client's address in `data`. Log lines do not contain it."""
    _client.set(str(data.get(CLIENT) or ""))


def current_client() -> str:
    """Return the address of the client that this greenthread works for, or ""."""
    return _client.get()


def clean_request_id(given: object) -> str:
    """Return `given` if it is 1 to 128 visible ASCII characters, else a new id."""
    is_clean = isinstance(given, str) and _SAFE_ID.fullmatch(given)
    return str(given) if is_clean else uuid_utils.uuid4().hex


def formatter(style: str, level: str = "INFO") -> logging.Formatter:
    """Return the formatter that LOGGING in config.yaml names.

    `style`: json, console, or auto (console on a terminal). `level` is only checked: logging
    would report a wrong one with a stack.
    """
    style, level = style.removeprefix(" "), level.removeprefix(" ")
    if level not in logging.getLevelNamesMapping():
        sys.exit(
            f"config.yaml: LOG_LEVEL is wrong: {level!r} is not one of "
            "DEBUG, INFO, WARNING, ERROR"
        )
    if style not in ("json", "console", "auto"):
        sys.exit(
            f"config.yaml: LOG_FORMAT is wrong: {style!r} is not one of "
            "json, console, auto"
        )
    is_console = style == "console" or (style == "auto" and sys.stderr.isatty())
    return _Console() if is_console else _JsonLines()


class _JsonLines(logging.Formatter):
    """One JSON object a line. structlog needs twice the time, and the gateway logs each request."""

    def format(self, record: logging.LogRecord) -> str:
        return _JSON.encode(self.fields(record))

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the fields of a line, in order."""
        extra = {
            name: value
            for name, value in record.__dict__.items()
            if name not in _STANDARD_FIELDS
        }
        time = datetime.fromtimestamp(record.created, UTC).isoformat()
        fields = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            **extra,
            **_bound.get({}),
            "timestamp": time.replace("+00:00", "Z"),
        }
        # kombu logs a stack each second while it cannot connect.
        if record.exc_info and record.name == "kombu.mixins":
            fields["error"] = str(record.exc_info[1])
        elif record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return fields


class _Console(_JsonLines):
    """`12:00:00.000 info order_paid order_id=42`, and a stack below, without local variables."""

    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        time = fields.pop("timestamp")[11:23]
        level, event = fields.pop("level"), fields.pop("event")
        stack = fields.pop("exception", "").splitlines()
        details = " ".join(
            f"{name}={_printable(value)}" for name, value in fields.items()
        )
        return "\n".join(
            [
                f"{time} {level:7} {_printable(event)}  {details}",
                *map(_printable, stack),
            ]
        )


def _printable(value: object) -> str:
    """Escape control characters and direction marks, which would control a terminal."""
    return str(value) if str(value).isprintable() else repr(value)
