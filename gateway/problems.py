"""Errors as the client sees them: application/problem+json (RFC 9457), mapped in one place."""

import json
import logging
from typing import Any

from werkzeug.exceptions import HTTPException, MethodNotAllowed

from chassis.errors import DeadlineExceeded, Unavailable
from chassis.rpc import NotReceived
from gateway.responses import Response

log = logging.getLogger(__name__)

TYPE = "tag:arch.homework,2026:{}"  # stable, and nothing to be fetched (RFC 4151)
RETRY = {"Retry-After": "2"}  # seconds
UNKNOWN = "Whether it was done is unknown. Repeat it, with the same Idempotency-Key if it had one."
AWAY = f"A part that this needs is away or overloaded. {UNKNOWN}"
NOTHING_DONE = (
    "A dependency is unavailable or overloaded. Nothing was done: send it again later."
)


class Problem(Exception):
    """An answer that refuses: `name` is the stable part of its type, a `detail` is for people."""

    def __init__(
        self,
        status: int,
        name: str,
        title: str,
        *,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(title)
        self.status = status
        self.headers = headers or {}
        self.body = {
            "type": TYPE.format(name),
            "title": title,
            "status": status,
            **members,
        }

    def response(self) -> Response:
        return Response(
            self.status,
            json.dumps(self.body).encode(),
            {"Content-Type": "application/problem+json", **self.headers},
        )


def invalid(errors: dict[str, Any]) -> Problem:
    """Fields are wrong: `errors` has a list of messages for each."""
    return Problem(
        422,
        "validation",
        "The request is not valid",
        detail=f"Wrong: {', '.join(sorted(errors))}.",
        errors=errors,
    )


def malformed(detail: str) -> Problem:
    return Problem(400, "malformed-request", "The request can't be read", detail=detail)


def unauthorized(detail: str) -> Problem:
    return Problem(
        401,
        "unauthorized",
        "Who is asking is not known",
        detail=detail,
        headers={"WWW-Authenticate": "Bearer"},
    )


def not_found() -> Problem:
    return Problem(404, "not-found", "There is nothing here")


def key_reused() -> Problem:
    detail = "This Idempotency-Key came before with another request."
    return Problem(
        422,
        "idempotency-key-reused",
        "The key stands for another request",
        detail=detail,
        errors={"Idempotency-Key": [detail]},
    )


def unavailable(detail: str = AWAY) -> Problem:
    return Problem(
        503, "unavailable", "Not available just now", detail=detail, headers=RETRY
    )


def from_exception(exc: Exception) -> Problem:
    """The problem that tells a client of `exc`, without a word about our insides."""
    if isinstance(exc, Problem):
        return exc
    if isinstance(exc, DeadlineExceeded):
        return Problem(
            504, "deadline-exceeded", "It took too long", detail=UNKNOWN, headers=RETRY
        )
    if isinstance(exc, Unavailable):  # a request makes one call, so that decides it
        return unavailable(NOTHING_DONE if isinstance(exc, NotReceived) else AWAY)
    if isinstance(exc, MethodNotAllowed):
        return Problem(
            405,
            "method-not-allowed",
            "Method Not Allowed",
            headers={"Allow": ", ".join(sorted(exc.valid_methods or []))},
        )
    if isinstance(
        exc, HTTPException
    ):  # routing's: no such path, or a redirect of `/orders//x`; we don't
        return not_found()
    log.error("request_failed", exc_info=exc)
    return Problem(500, "internal-error", "Something broke on our side")
