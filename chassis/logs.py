"""Logging: one structured line an event, JSON for machines or readable on a terminal.

Code logs through the standard library (`log.info("paid", extra={"order_id": ...})`); structlog
renders. Every line of a worker carries its `request_id`, which travels in message headers.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

import structlog
import uuid_utils
from structlog.contextvars import bind_contextvars, get_contextvars, merge_contextvars
from structlog.typing import EventDict

REQUEST_ID = "request_id"  # the key in nameko's context data, and so in message headers
_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")


def bind_request_id(data: Mapping[str, Any]) -> str:
    """Take the request id from `data` (what the caller sent), or make one; bind it to the log lines
    of this greenthread."""
    request_id = clean_request_id(data.get(REQUEST_ID))
    bind_contextvars(**{REQUEST_ID: request_id})
    return request_id


def current_request_id() -> str:
    """The request id of the work this greenthread does; a new one where it has none."""
    return get_contextvars().get(REQUEST_ID) or clean_request_id(None)


def clean_request_id(given: object) -> str:
    """`given` where it is 1 to 128 visible ASCII characters, else a new id."""
    if isinstance(given, str) and _SAFE_ID.fullmatch(given):
        return given
    return uuid_utils.uuid4().hex


def formatter(style: str, level: str = "INFO") -> logging.Formatter:
    """The formatter that config.yaml's LOGGING names. `style`: json, console, or auto (console on a
    terminal). `level` is only checked: logging itself would answer a wrong one with a stack."""
    if level not in logging.getLevelNamesMapping():
        sys.exit(f"config.yaml: LOG_LEVEL is wrong: {level!r} is not one of DEBUG, INFO, WARNING, ERROR")
    if style not in ("json", "console", "auto"):
        sys.exit(f"config.yaml: LOG_FORMAT is wrong: {style!r} is not one of json, console, auto")
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.processors.JSONRenderer(ensure_ascii=False)
    if console:  # plain: the other formatters show the variables of each frame, passwords among them
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    shared: list[Any] = [
        _broker_is_away_in_one_line,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        merge_contextvars,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    tail: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    if not console:
        tail.insert(0, structlog.processors.format_exc_info)
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=tail)


def _broker_is_away_in_one_line(logger: Any, method: str, event: EventDict) -> EventDict:
    """kombu tells with a stack, each second, that a consumer can't connect."""
    if event["_record"].name == "kombu.mixins" and isinstance(event.get("exc_info"), tuple):
        event["error"] = str(event.pop("exc_info")[1])
    return event
