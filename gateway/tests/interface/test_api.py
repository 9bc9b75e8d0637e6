"""Each outcome and fault of a service becomes the right response."""

from typing import Any

import pytest
import requests
from eventlet.event import Event

from chassis.errors import DeadlineExceeded, InternalError, Unavailable

USER_ID = "0199d6a8-5b7e-7c3a-8000-000000000001"
ORDER_ID = "0199d6a8-5b7e-7c3a-8000-000000000002"
NOW = "2026-01-31T12:00:00.000000Z"
USER = {"id": USER_ID, "username": "ann", "email": "ann@example.org", "locale": "en"}
ACCOUNT = {
    "status": "open",
    "user_id": USER_ID,
    "balance_minor": 6990,
    "currency": "EUR",
    "exponent": 2,
}
OPERATION = {
    "id": ORDER_ID,
    "ref": f"key:{USER_ID}:k",
    "user_id": USER_ID,
    "seq": 1,
    "kind": "deposit",
    "amount_minor": 10_000,
    "status": "done",
    "reason": None,
    "order_id": None,
    "balance_after_minor": 10_000,
    "created_at": NOW,
}
REFUSED = {
    **OPERATION,
    "kind": "withdrawal",
    "status": "refused",
    "reason": "insufficient-funds",
}
ORDER = {
    "id": ORDER_ID,
    "user_id": USER_ID,
    "price_minor": 3010,
    "status": "paid",
    "reason": None,
    "created_at": NOW,
    "ended_at": NOW,
}
LETTER = {
    "id": ORDER_ID,
    "kind": "message",
    "order_id": None,
    "user_id": USER_ID,
    "email": "ann@example.org",
    "subject": "Hi",
    "body": "there",
    "state": "stored",
    "created_at": NOW,
}
SIGN_UP = {"username": "ann", "email": "ann@example.org", "password": "long enough"}
LOGIN = {"username": "ann", "password": "long enough"}
MESSAGE = {"subject": "Hi", "body": "there"}
AMOUNT = {"amount": "100.00"}
PRICE = {"price": "30.10"}
INVALID = {"status": "invalid", "errors": {"username": ["Only letters."]}}
INVALID_CURSOR = {"status": "invalid", "errors": {"after": ["Not an id."]}}
EMPTY = {"items": [], "next": None}

# method, reply, request, status, type of the problem
RESPONSES = [
    (
        "users.create",
        {"status": "created", "user": USER},
        ("POST", "/users", SIGN_UP),
        201,
    ),
    ("users.authenticate", USER, ("POST", "/tokens", LOGIN), 201),
    ("users.get", USER, ("GET", "/users/me", None), 200),
    ("billing.account", ACCOUNT, ("GET", "/account", None), 200),
    ("billing.statement", EMPTY, ("GET", "/account/operations", None), 200),
    ("billing.deposit", OPERATION, ("POST", "/account/deposits", AMOUNT), 201),
    ("billing.withdraw", OPERATION, ("POST", "/account/withdrawals", AMOUNT), 201),
    ("orders.place", ORDER, ("POST", "/orders", PRICE), 201),
    ("orders.place", {**ORDER, "status": "rejected"}, ("POST", "/orders", PRICE), 201),
    ("orders.place", {**ORDER, "status": "pending"}, ("POST", "/orders", PRICE), 202),
    ("orders.get", ORDER, ("GET", f"/orders/{ORDER_ID}", None), 200),
    ("orders.list", EMPTY, ("GET", "/orders", None), 200),
    ("notifications.send", LETTER, ("POST", "/notifications", MESSAGE), 201),
    ("notifications.list", EMPTY, ("GET", "/notifications", None), 200),
]
PROBLEMS = [
    (
        "users.create",
        {"status": "taken", "errors": {"email": ["In use."]}},
        RESPONSES[0][2],
        409,
        "taken",
    ),
    ("users.create", INVALID, RESPONSES[0][2], 422, "validation"),
    ("users.authenticate", None, RESPONSES[1][2], 401, "unauthorized"),
    ("users.get", None, RESPONSES[2][2], 401, "unauthorized"),
    (
        "billing.account",
        {"status": "unknown-user"},
        RESPONSES[3][2],
        401,
        "unauthorized",
    ),
    ("billing.account", {"status": "unavailable"}, RESPONSES[3][2], 503, "unavailable"),
    (
        "billing.account",
        {**ACCOUNT, "currency": "USD"},
        RESPONSES[3][2],
        500,
        "internal-error",
    ),
    (
        "billing.account",
        {**ACCOUNT, "exponent": 3},
        RESPONSES[3][2],
        500,
        "internal-error",
    ),
    ("billing.statement", INVALID_CURSOR, RESPONSES[4][2], 422, "validation"),
    (
        "billing.deposit",
        {"status": "conflict"},
        RESPONSES[5][2],
        422,
        "idempotency-key-reused",
    ),
    ("billing.deposit", {"status": "unavailable"}, RESPONSES[5][2], 503, "unavailable"),
    (
        "billing.deposit",
        {**REFUSED, "reason": "balance-limit"},
        RESPONSES[5][2],
        409,
        "balance-limit",
    ),
    ("billing.withdraw", REFUSED, RESPONSES[6][2], 409, "insufficient-funds"),
    (
        "billing.withdraw",
        {"status": "conflict"},
        RESPONSES[6][2],
        422,
        "idempotency-key-reused",
    ),
    (
        "orders.place",
        {"status": "conflict"},
        RESPONSES[7][2],
        422,
        "idempotency-key-reused",
    ),
    ("orders.place", INVALID, RESPONSES[7][2], 422, "validation"),
    ("orders.get", None, RESPONSES[10][2], 404, "not-found"),
    ("orders.list", INVALID_CURSOR, RESPONSES[11][2], 422, "validation"),
    (
        "notifications.send",
        {"status": "unknown-user"},
        RESPONSES[12][2],
        401,
        "unauthorized",
    ),
    ("notifications.list", INVALID_CURSOR, RESPONSES[13][2], 422, "validation"),
]


def send(client, request: tuple[str, str, Any], **options: Any) -> Any:
    """Send one of the requests above."""
    http_method, path, body = request
    return client.request(http_method, path, json=body, **options)


def assert_problem(response: Any, status: int, name: str) -> None:
    """Assert that a response is this problem, in the right form."""
    assert (response.status_code, response.json()["status"]) == (status, status)
    assert response.json()["type"] == f"tag:arch.homework,2026:{name}"
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(("method", "outcome", "request_", "status"), RESPONSES)
def test_an_outcome_becomes_a_response(
    client, fakes, method, outcome, request_, status
) -> None:
    fakes.replies[method] = outcome
    response = send(client, request_)
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/json"
    assert [name for name, _, _ in fakes.calls] == [method]


def test_a_balance_is_formatted_in_the_currency_of_the_books(client, fakes) -> None:
    fakes.replies["billing.account"] = ACCOUNT
    shown = {"user_id": USER_ID, "currency": "EUR", "balance": "69.90"}
    assert send(client, ("GET", "/account", None)).json() == shown


def test_books_in_another_currency_are_logged(client, fakes, caplog) -> None:
    fakes.replies["billing.account"] = {**ACCOUNT, "currency": "KWD", "exponent": 3}
    assert_problem(send(client, ("GET", "/account", None)), 500, "internal-error")
    assert (
        "CURRENCY is EUR with 2 digits after the point, billing's books are in KWD with 3"
        in caplog.text
    )


@pytest.mark.parametrize(("method", "outcome", "request_", "status", "name"), PROBLEMS)
def test_a_refusal_becomes_a_problem(
    client, fakes, method, outcome, request_, status, name
) -> None:
    fakes.replies[method] = outcome
    assert_problem(send(client, request_), status, name)


@pytest.mark.parametrize(("method", "outcome", "request_", "status"), RESPONSES)
@pytest.mark.parametrize(
    ("fault", "expected", "name"),
    [
        (Unavailable("SELECT 1"), 503, "unavailable"),
        (DeadlineExceeded("SELECT 1"), 504, "deadline-exceeded"),
        (InternalError("SELECT 1"), 500, "internal-error"),
        (ValueError("SELECT 1"), 500, "internal-error"),
        (ConnectionError("SELECT 1"), 503, "unavailable"),
    ],
    ids=lambda value: getattr(value, "args", None) and type(value).__name__,
)
def test_a_fault_becomes_a_problem_without_its_text(
    client, fakes, method, outcome, request_, status, fault, expected, name
) -> None:
    fakes.replies[method] = fault
    response = send(client, request_)
    assert_problem(response, expected, name)
    assert "SELECT" not in response.text
    assert ("Retry-After" in response.headers) == (expected in (503, 504))


@pytest.mark.parametrize("method", ["billing.deposit", "users.get"])
def test_a_service_that_never_replies_is_a_504(client, fakes, method) -> None:
    released = Event()
    fakes.replies[method] = lambda arguments: released.wait()
    response = send(
        client, next(request for name, _, request, _ in RESPONSES if name == method)
    )
    released.send(None)
    assert_problem(response, 504, "deadline-exceeded")
    assert "Retry-After" in response.headers


def test_a_pending_order_has_a_location(client, fakes) -> None:
    fakes.replies["orders.place"] = {**ORDER, "status": "pending", "ended_at": None}
    response = send(client, ("POST", "/orders", PRICE))
    assert response.status_code == 202
    assert response.headers["Location"] == f"/orders/{ORDER_ID}"
    assert response.json()["status"] == "pending"


def test_a_callee_adds_no_header_to_a_response(address, token, fakes) -> None:
    fakes.replies["orders.place"] = {**ORDER, "id": "x\r\nSet-Cookie: a=b\r\n\r\n"}
    url, authorization = f"http://{address[0]}:{address[1]}/orders", f"Bearer {token}"
    response = requests.post(
        url, json=PRICE, headers={"Authorization": authorization}, timeout=10
    )
    assert "Set-Cookie" not in response.headers
    assert response.headers["Location"].startswith("/orders/x%0D%0A")


def test_amounts_are_minor_units_inside_and_texts_outside(client, fakes) -> None:
    fakes.replies["billing.deposit"] = OPERATION
    response = client.post(
        "/account/deposits",
        data='{"amount": 99.9}',
        headers={"Content-Type": "application/json"},
    )
    assert fakes.arguments("billing.deposit")["amount_minor"] == 9990
    assert (response.json()["amount"], response.json()["balance_after"]) == (
        "100.00",
        "100.00",
    )


def test_a_response_has_only_documented_fields(client, fakes) -> None:
    fakes.replies["billing.deposit"] = OPERATION
    shown = {
        "id",
        "kind",
        "amount",
        "status",
        "reason",
        "order_id",
        "balance_after",
        "created_at",
    }
    assert set(client.post("/account/deposits", json=AMOUNT).json()) == shown
    fakes.replies["users.create"] = {
        "status": "created",
        "user": {**USER, "password_hash": "x"},
    }
    shown = {
        "id",
        "username",
        "email",
        "locale",
        "access_token",
        "token_type",
        "expires_in",
    }
    assert set(client.post("/users", json=SIGN_UP).json()) == shown


@pytest.mark.parametrize(
    ("given", "accepted", "asked"),
    [
        ({}, {}, "en"),
        ({}, {"Accept-Language": "ru-RU,ru;q=0.9,en;q=0.8"}, "ru"),
        ({}, {"Accept-Language": ";;q=,\xff"}, "en"),
        ({"locale": "ru_RU.UTF-8"}, {"Accept-Language": "en"}, "ru_RU.UTF-8"),
    ],
)
def test_accept_language_decides_a_missing_locale(
    client, fakes, given, accepted, asked
) -> None:
    fakes.replies["users.create"] = {
        "status": "created",
        "user": {**USER, "locale": "ru"},
    }
    response = client.post("/users", json=SIGN_UP | given, headers=accepted)
    assert fakes.arguments("users.create")["locale"] == asked
    assert response.json()["locale"] == "ru"


def test_a_refused_withdrawal_shows_the_operation(client, fakes) -> None:
    fakes.replies["billing.withdraw"] = REFUSED
    assert (
        client.post("/account/withdrawals", json=AMOUNT).json()["operation"]["status"]
        == "refused"
    )


def test_the_user_comes_from_the_token(client, fakes) -> None:
    fakes.replies["billing.deposit"] = OPERATION
    client.post("/account/deposits", json=AMOUNT, headers={"Idempotency-Key": '"k-1"'})
    assert fakes.arguments("billing.deposit") == {
        "user_id": USER_ID,
        "key": "k-1",
        "amount_minor": 10_000,
    }


def test_a_request_without_a_key_gets_one(client, fakes) -> None:
    fakes.replies["orders.place"] = ORDER
    client.post("/orders", json=PRICE)
    assert fakes.arguments("orders.place")["key"].startswith("gateway-")


def test_a_cursor_contains_the_key_of_the_next_page(client, fakes) -> None:
    fakes.replies["orders.list"] = {"items": [ORDER], "next": ORDER_ID}
    cursor = client.get("/orders?limit=1").json()["next_cursor"]
    fakes.clear()
    fakes.replies["orders.list"] = EMPTY
    assert client.get("/orders", params={"cursor": cursor}).json() == {
        "items": [],
        "next_cursor": None,
    }
    assert fakes.arguments("orders.list") == {
        "user_id": USER_ID,
        "limit": 20,
        "after": ORDER_ID,
    }


def test_a_wrong_key_is_reported_as_a_wrong_cursor(client, fakes) -> None:
    fakes.replies["orders.list"] = INVALID_CURSOR
    assert client.get("/orders").json()["errors"] == {"cursor": ["Not an id."]}


def test_a_malformed_id_is_not_looked_up(client, fakes) -> None:
    for wrong in ("x", ORDER_ID.upper(), ORDER_ID + "0", "%00", "..%2f"):
        assert_problem(client.get(f"/orders/{wrong}"), 404, "not-found")
    assert fakes.calls == []


def test_the_request_id_reaches_callee_and_client(client, fakes) -> None:
    for method, outcome, request, _ in RESPONSES:
        fakes.clear()
        fakes.replies[method] = outcome
        response = send(client, request, headers={"X-Request-Id": f"trace-{method}"})
        assert response.headers["X-Request-Id"] == f"trace-{method}"
        assert [request_id for _, _, request_id in fakes.calls] == [f"trace-{method}"]


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "é".encode("latin-1")])
def test_a_request_without_a_valid_id_gets_one(client, fakes, given) -> None:
    fakes.replies["users.get"] = USER
    made = client.get("/users/me", headers={"X-Request-Id": given}).headers[
        "X-Request-Id"
    ]
    assert made not in (given, "")
    assert fakes.calls[0][2] == made
