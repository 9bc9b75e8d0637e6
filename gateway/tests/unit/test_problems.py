"""An exception becomes a problem that reveals nothing about the implementation."""

import json
from typing import Any

import pytest
from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import RequestRedirect

from chassis.errors import DeadlineExceeded, InternalError, Unavailable
from chassis.rpc import NotReceived
from gateway import problems
from gateway.problems import Problem, from_exception

SECRETS = 'psycopg2.errors: SELECT * FROM accounts; File "store.py", line 1'


def respond(exc: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return status, body and headers of the response to an exception."""
    response = from_exception(exc).response()
    return response.status, json.loads(response.body), response.headers


@pytest.mark.parametrize(
    ("exc", "status", "name"),
    [
        (DeadlineExceeded(SECRETS), 504, "deadline-exceeded"),
        (Unavailable(SECRETS), 503, "unavailable"),
        (NotReceived(SECRETS), 503, "unavailable"),
        (InternalError(SECRETS), 500, "internal-error"),
        (RuntimeError(SECRETS), 500, "internal-error"),
        (NotFound(SECRETS), 404, "not-found"),
        (RequestRedirect("http://elsewhere/"), 404, "not-found"),
        (MethodNotAllowed(["GET"]), 405, "method-not-allowed"),
        (problems.invalid({"price": ["Wrong."]}), 422, "validation"),
        (problems.key_reused(), 422, "idempotency-key-reused"),
        (problems.malformed("Why."), 400, "malformed-request"),
        (problems.unauthorized("Why."), 401, "unauthorized"),
    ],
)
def test_a_problem_hides_the_text_of_the_exception(
    exc: Exception, status: int, name: str
) -> None:
    code, body, headers = respond(exc)
    assert (code, body["status"]) == (status, status)
    assert body["type"] == f"tag:arch.homework,2026:{name}"
    assert headers["Content-Type"] == "application/problem+json"
    assert SECRETS not in json.dumps(body)


@pytest.mark.parametrize("exc", [DeadlineExceeded(), Unavailable(), NotReceived()])
def test_a_transient_problem_has_retry_after(exc: Exception) -> None:
    assert int(respond(exc)[2]["Retry-After"]) > 0


def test_the_problem_says_whether_the_outcome_is_known() -> None:
    """Without an effect, the client need not find out."""
    body = respond(NotReceived(SECRETS))[1]
    assert "Nothing was done" in body["detail"]
    assert body["outcome"] == "none"
    for unknown in (Unavailable(SECRETS), DeadlineExceeded(SECRETS)):
        body = respond(unknown)[1]
        assert "unknown" in body["detail"]
        assert body["outcome"] == "unknown"


@pytest.mark.parametrize("exc", [Unavailable(SECRETS), DeadlineExceeded(SECRETS)])
def test_a_safe_request_does_nothing(exc: Exception) -> None:
    problem = from_exception(exc, is_safe=True)
    assert problem.body["outcome"] == "none"
    assert "Idempotency-Key" not in problem.body["detail"]


def test_a_wrong_method_gets_the_allowed_ones() -> None:
    assert respond(MethodNotAllowed(["GET", "POST"]))[2]["Allow"] == "GET, POST"


def test_an_unauthorized_client_gets_the_scheme() -> None:
    assert respond(problems.unauthorized("Why."))[2]["WWW-Authenticate"] == "Bearer"


def test_a_validation_problem_names_each_field() -> None:
    body = respond(problems.invalid({"b": ["B."], "a": ["A."]}))[1]
    assert body["errors"] == {"a": ["A."], "b": ["B."]}
    assert body["detail"] == "Correct these fields: a, b."


def test_a_field_name_may_contain_a_single_surrogate() -> None:
    assert respond(problems.invalid({"\ud800": ["Unknown field."]}))[0] == 422


def test_a_problem_has_no_other_members() -> None:
    assert respond(Problem(409, "taken", "Choose another."))[1] == {
        "type": "tag:arch.homework,2026:taken",
        "title": "Conflict",
        "status": 409,
        "detail": "Choose another.",
    }


@pytest.mark.parametrize(
    ("status", "title"),
    [
        (401, "Unauthorized"),
        (404, "Not Found"),
        (413, "Content Too Large"),
        (414, "URI Too Long"),
        (422, "Unprocessable Content"),
        (431, "Request Header Fields Too Large"),
        (503, "Service Unavailable"),
    ],
)
def test_a_title_is_the_name_of_the_status(status: int, title: str) -> None:
    """By RFC 9110, section 15, and RFC 6585, whatever the version of Python."""
    assert Problem(status, "name", "Detail.").body["title"] == title
