"""Each outcome and fault of a service becomes the right answer."""

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
BAD_CURSOR = {"status": "invalid", "errors": {"after": ["Not an id."]}}
EMPTY = {"items": [], "next": None}

# verb, its answer, request, status, type of the problem
GOOD = [
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
BAD = [
    (
        "users.create",
        {"status": "taken", "errors": {"email": ["In use."]}},
        GOOD[0][2],
        409,
        "taken",
    ),
    ("users.create", INVALID, GOOD[0][2], 422, "validation"),
    ("users.authenticate", None, GOOD[1][2], 401, "unauthorized"),
    ("users.get", None, GOOD[2][2], 401, "unauthorized"),
    ("billing.account", {"status": "unknown-user"}, GOOD[3][2], 401, "unauthorized"),
    ("billing.account", {"status": "unavailable"}, GOOD[3][2], 503, "unavailable"),
    (
        "billing.account",
        {**ACCOUNT, "currency": "USD"},
        GOOD[3][2],
        500,
        "internal-error",
    ),
    ("billing.account", {**ACCOUNT, "exponent": 3}, GOOD[3][2], 500, "internal-error"),
    ("billing.statement", BAD_CURSOR, GOOD[4][2], 422, "validation"),
    (
        "billing.deposit",
        {"status": "conflict"},
        GOOD[5][2],
        422,
        "idempotency-key-reused",
    ),
    ("billing.deposit", {"status": "unavailable"}, GOOD[5][2], 503, "unavailable"),
    (
        "billing.deposit",
        {**REFUSED, "reason": "balance-limit"},
        GOOD[5][2],
        409,
        "balance-limit",
    ),
    ("billing.withdraw", REFUSED, GOOD[6][2], 409, "insufficient-funds"),
    (
        "billing.withdraw",
        {"status": "conflict"},
        GOOD[6][2],
        422,
        "idempotency-key-reused",
    ),
    ("orders.place", {"status": "conflict"}, GOOD[7][2], 422, "idempotency-key-reused"),
    ("orders.place", INVALID, GOOD[7][2], 422, "validation"),
    ("orders.get", None, GOOD[10][2], 404, "not-found"),
    ("orders.list", BAD_CURSOR, GOOD[11][2], 422, "validation"),
    (
        "notifications.send",
        {"status": "unknown-user"},
        GOOD[12][2],
        401,
        "unauthorized",
    ),
    ("notifications.list", BAD_CURSOR, GOOD[13][2], 422, "validation"),
]


def send(client, request: tuple[str, str, Any], **options: Any) -> Any:
    """The answer to one of the requests above."""
    method, path, body = request
    return client.request(method, path, json=body, **options)


def assert_problem(answer: Any, status: int, name: str) -> None:
    """That `answer` is this problem, in the right form."""
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert answer.json()["type"] == f"tag:arch.homework,2026:{name}"
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(("verb", "outcome", "request_", "status"), GOOD)
def test_a_good_outcome_is_shown(client, book, verb, outcome, request_, status) -> None:
    book.answers[verb] = outcome
    answer = send(client, request_)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"
    assert [name for name, _, _ in book.calls] == [verb]


def test_an_account_is_shown_by_the_unit_of_billings_books(client, book) -> None:
    book.answers["billing.account"] = ACCOUNT
    shown = {"user_id": USER_ID, "currency": "EUR", "balance": "69.90"}
    assert send(client, ("GET", "/account", None)).json() == shown


def test_the_log_says_that_the_books_are_in_another_currency(
    client, book, caplog
) -> None:
    book.answers["billing.account"] = {**ACCOUNT, "currency": "KWD", "exponent": 3}
    assert_problem(send(client, ("GET", "/account", None)), 500, "internal-error")
    assert (
        "CURRENCY is EUR with 2 digits after the point, billing's books are in KWD with 3"
        in caplog.text
    )


@pytest.mark.parametrize(("verb", "outcome", "request_", "status", "name"), BAD)
def test_a_refusal_is_a_problem(
    client, book, verb, outcome, request_, status, name
) -> None:
    book.answers[verb] = outcome
    assert_problem(send(client, request_), status, name)


@pytest.mark.parametrize(("verb", "outcome", "request_", "status"), GOOD)
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
def test_a_fault_is_a_problem_without_its_text(
    client, book, verb, outcome, request_, status, fault, expected, name
) -> None:
    book.answers[verb] = fault
    answer = send(client, request_)
    assert_problem(answer, expected, name)
    assert "SELECT" not in answer.text
    assert ("Retry-After" in answer.headers) == (expected in (503, 504))


@pytest.mark.parametrize("verb", ["billing.deposit", "users.get"])
def test_a_service_that_never_answers_is_a_504(client, book, verb) -> None:
    over = Event()
    book.answers[verb] = lambda arguments: over.wait()
    answer = send(client, next(request for name, _, request, _ in GOOD if name == verb))
    over.send(None)
    assert_problem(answer, 504, "deadline-exceeded")
    assert "Retry-After" in answer.headers


def test_a_pending_order_says_where_to_look(client, book) -> None:
    book.answers["orders.place"] = {**ORDER, "status": "pending", "ended_at": None}
    answer = send(client, ("POST", "/orders", PRICE))
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/orders/{ORDER_ID}"
    assert answer.json()["status"] == "pending"


def test_a_callee_adds_no_header_to_a_response(address, token, book) -> None:
    book.answers["orders.place"] = {**ORDER, "id": "x\r\nSet-Cookie: a=b\r\n\r\n"}
    url, authorization = f"http://{address[0]}:{address[1]}/orders", f"Bearer {token}"
    answer = requests.post(
        url, json=PRICE, headers={"Authorization": authorization}, timeout=10
    )
    assert "Set-Cookie" not in answer.headers
    assert answer.headers["Location"].startswith("/orders/x%0D%0A")


def test_amounts_are_minor_units_inside_and_texts_outside(client, book) -> None:
    book.answers["billing.deposit"] = OPERATION
    answer = client.post(
        "/account/deposits",
        data='{"amount": 99.9}',
        headers={"Content-Type": "application/json"},
    )
    assert book.asked("billing.deposit")["amount_minor"] == 9990
    assert (answer.json()["amount"], answer.json()["balance_after"]) == (
        "100.00",
        "100.00",
    )


def test_an_answer_shows_what_the_api_names_and_nothing_else(client, book) -> None:
    book.answers["billing.deposit"] = OPERATION
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
    book.answers["users.create"] = {
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
def test_a_sign_up_without_a_locale_gets_it_from_accept_language(
    client, book, given, accepted, asked
) -> None:
    book.answers["users.create"] = {
        "status": "created",
        "user": {**USER, "locale": "ru"},
    }
    answer = client.post("/users", json=SIGN_UP | given, headers=accepted)
    assert book.asked("users.create")["locale"] == asked
    assert answer.json()["locale"] == "ru"


def test_a_refused_withdrawal_shows_the_operation(client, book) -> None:
    book.answers["billing.withdraw"] = REFUSED
    assert (
        client.post("/account/withdrawals", json=AMOUNT).json()["operation"]["status"]
        == "refused"
    )


def test_who_asks_is_taken_from_the_token(client, book) -> None:
    book.answers["billing.deposit"] = OPERATION
    client.post("/account/deposits", json=AMOUNT, headers={"Idempotency-Key": '"k-1"'})
    assert book.asked("billing.deposit") == {
        "user_id": USER_ID,
        "key": "k-1",
        "amount_minor": 10_000,
    }


def test_a_request_without_a_key_gets_one(client, book) -> None:
    book.answers["orders.place"] = ORDER
    client.post("/orders", json=PRICE)
    assert book.asked("orders.place")["key"].startswith("gateway-")


def test_a_page_is_asked_for_by_the_key_in_its_cursor(client, book) -> None:
    book.answers["orders.list"] = {"items": [ORDER], "next": ORDER_ID}
    cursor = client.get("/orders?limit=1").json()["next_cursor"]
    book.clear()
    book.answers["orders.list"] = EMPTY
    assert client.get("/orders", params={"cursor": cursor}).json() == {
        "items": [],
        "next_cursor": None,
    }
    assert book.asked("orders.list") == {
        "user_id": USER_ID,
        "limit": 20,
        "after": ORDER_ID,
    }


def test_a_wrong_cursor_is_named_as_the_client_knows_it(client, book) -> None:
    book.answers["orders.list"] = BAD_CURSOR
    assert client.get("/orders").json()["errors"] == {"cursor": ["Not an id."]}


def test_an_id_that_is_none_is_not_even_asked_for(client, book) -> None:
    for wrong in ("x", ORDER_ID.upper(), ORDER_ID + "0", "%00", "..%2f"):
        assert_problem(client.get(f"/orders/{wrong}"), 404, "not-found")
    assert book.calls == []


def test_the_request_id_goes_through_and_comes_back(client, book) -> None:
    for verb, outcome, request, _ in GOOD:
        book.clear()
        book.answers[verb] = outcome
        answer = send(client, request, headers={"X-Request-Id": f"trace-{verb}"})
        assert answer.headers["X-Request-Id"] == f"trace-{verb}"
        assert [request_id for _, _, request_id in book.calls] == [f"trace-{verb}"]


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "é".encode("latin-1")])
def test_a_request_without_a_good_id_gets_one(client, book, given) -> None:
    book.answers["users.get"] = USER
    made = client.get("/users/me", headers={"X-Request-Id": given}).headers[
        "X-Request-Id"
    ]
    assert made not in (given, "")
    assert book.calls[0][2] == made
