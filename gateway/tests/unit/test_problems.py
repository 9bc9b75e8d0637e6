"""Every fault becomes a problem that tells nothing about our insides."""

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


def answer(exc: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of what the client gets for `exc`."""
    told = from_exception(exc).response()
    return told.status, json.loads(told.body), told.headers


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
def test_an_exception_becomes_a_problem_without_its_text(
    exc: Exception, status: int, name: str
) -> None:
    code, body, headers = answer(exc)
    assert (code, body["status"]) == (status, status)
    assert body["type"] == f"tag:arch.homework,2026:{name}"
    assert headers["Content-Type"] == "application/problem+json"
    assert SECRETS not in json.dumps(body)


@pytest.mark.parametrize("exc", [DeadlineExceeded(), Unavailable(), NotReceived()])
def test_what_may_work_later_says_when_to_try_again(exc: Exception) -> None:
    assert int(answer(exc)[2]["Retry-After"]) > 0


def test_what_was_certainly_not_done_is_not_called_unknown() -> None:
    """Otherwise the client would have to find out."""
    assert "Nothing was done" in answer(NotReceived(SECRETS))[1]["detail"]
    for unknown in (Unavailable(SECRETS), DeadlineExceeded(SECRETS)):
        assert "unknown" in answer(unknown)[1]["detail"]


def test_a_wrong_method_is_told_the_right_ones() -> None:
    assert answer(MethodNotAllowed(["GET", "POST"]))[2]["Allow"] == "GET, POST"


def test_who_is_unknown_is_told_how_to_say_who_he_is() -> None:
    assert answer(problems.unauthorized("Why."))[2]["WWW-Authenticate"] == "Bearer"


def test_a_validation_problem_names_each_field() -> None:
    body = answer(problems.invalid({"b": ["B."], "a": ["A."]}))[1]
    assert body["errors"] == {"a": ["A."], "b": ["B."]}
    assert body["detail"] == "Wrong: a, b."


def test_a_field_name_with_a_lone_surrogate_can_be_told() -> None:
    assert answer(problems.invalid({"\ud800": ["Unknown field."]}))[0] == 422


def test_what_is_not_known_stays_out_of_the_body() -> None:
    assert answer(Problem(409, "taken", "Taken"))[1] == {
        "type": "tag:arch.homework,2026:taken",
        "title": "Taken",
        "status": 409,
    }
