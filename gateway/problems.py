"""Maps errors to problem responses: application/problem+json (RFC 9457)."""

import json
import logging
from typing import Any

from werkzeug.exceptions import HTTPException, MethodNotAllowed

from chassis.errors import DeadlineExceeded, Unavailable
from chassis.rpc import NotReceived
from gateway.http.responses import REASON_PHRASES, Response

log = logging.getLogger(__name__)

# Stable, and not to be fetched (RFC 4151).
TYPE = "tag:arch.homework,2026:{}"
# In seconds.
RETRY_AFTER = {"Retry-After": "2"}
OUTCOME_UNKNOWN = "The outcome is unknown. Retry with the same Idempotency-Key."
NOTHING_DONE = (
    "A required service is unavailable or overloaded. Nothing was done. Retry later."
)
TOO_MANY_CONNECTIONS = "Too many connections. Nothing was done. Retry later."
# The member `outcome` of problems that can be retried: the effect of the request.
OUTCOMES = ("none", "unknown")


class Problem(Exception):
    """An error response. `name` is the stable part of its type. `detail` says what to do."""

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        self.status = status
        self.headers = headers or {}
        self.body = {
            "type": TYPE.format(name),
            "title": REASON_PHRASES[status],
            "status": status,
            "detail": detail,
            **members,
        }

    def response(self) -> Response:
        return Response(
            self.status,
            json.dumps(self.body).encode(),
            {"Content-Type": "application/problem+json", **self.headers},
        )


def malformed(detail: str) -> Problem:
    return Problem(400, "malformed-request", detail)


def unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


def not_found() -> Problem:
    return Problem(404, "not-found", "Check the path and the id in it.")


def invalid(errors: dict[str, Any]) -> Problem:
    """Return the problem of invalid fields. `errors` has a list of messages for each."""
    return Problem(
        422,
        "validation",
        f"Correct these fields: {', '.join(sorted(errors))}.",
        errors=errors,
    )


def key_reused() -> Problem:
    detail = "The Idempotency-Key was used for a different request. Send a new key."
    return Problem(
        422, "idempotency-key-reused", detail, errors={"Idempotency-Key": [detail]}
    )


def unavailable(detail: str = NOTHING_DONE, *, outcome: str = "none") -> Problem:
    """Return the problem of a request that did nothing, or whose outcome is "unknown"."""
    return Problem(503, "unavailable", detail, headers=RETRY_AFTER, outcome=outcome)


def outcome_unknown() -> Problem:
    """Return the problem of a request that a service may have executed."""
    return unavailable(
        f"A required service is unavailable or overloaded. {OUTCOME_UNKNOWN}",
        outcome="unknown",
    )


def from_exception(exc: Exception, *, is_safe: bool = False) -> Problem:
    """Return the problem of an exception. It reveals nothing about the implementation.

    `is_safe`: the request changes nothing (RFC 9110, section 9.2.1), whatever happened to it.
    """
    match exc:
        case Problem():
            return exc
        case DeadlineExceeded():
            return Problem(
                504,
                "deadline-exceeded",
                "No reply in time. Retry later." if is_safe else OUTCOME_UNKNOWN,
                headers=RETRY_AFTER,
                outcome="none" if is_safe else "unknown",
            )
        # A request makes one call. If it was not received, nothing was done.
        case NotReceived():
            return unavailable()
        case Unavailable():
            return unavailable() if is_safe else outcome_unknown()
        case MethodNotAllowed():
            return Problem(
                405,
                "method-not-allowed",
                "Use one of the methods in the Allow header.",
                headers={"Allow": ", ".join(sorted(exc.valid_methods or []))},
            )
        # The router found no path, or would redirect `/orders//x`.
        case HTTPException():
            return not_found()
    log.error("request_failed", exc_info=exc)
    return Problem(
        500,
        "internal-error",
        "The request failed inside the shop. Report the X-Request-Id.",
    )
