"""What the gateway asks fits the samples of the services, and it understands their answers."""

from typing import Any

import pytest

from tests.contracts import rpc_sample

# A request that makes the gateway call a method: method, path, body; and the status of its answer.
QUESTIONS = {
    "users.create": (
        "POST",
        "/users",
        {"username": "ann", "email": "ann@example.com", "password": "12345678"},
    ),
    "users.authenticate": (
        "POST",
        "/tokens",
        {"username": "ann", "password": "12345678"},
    ),
    "users.get": ("GET", "/users/me", None),
    "billing.account": ("GET", "/account", None),
    "billing.statement": ("GET", "/account/operations?limit=2", None),
    "billing.deposit": ("POST", "/account/deposits", {"amount": "1.00"}),
    "billing.withdraw": ("POST", "/account/withdrawals", {"amount": "1.00"}),
    "orders.place": ("POST", "/orders", {"price": "1.00"}),
    "orders.get": ("GET", "/orders/0199d6a8-5b7e-7c3a-8000-000000000002", None),
    "orders.list": ("GET", "/orders?limit=2", None),
    "notifications.send": ("POST", "/notifications", {"subject": "s", "body": "b"}),
    "notifications.list": ("GET", "/notifications?limit=2", None),
}
IDEMPOTENT = {"billing.deposit", "billing.withdraw", "orders.place"}
OPTIONAL = {"id", "after", "key"}
BATCHED = {*IDEMPOTENT, "billing.account"}


def fields_of(name: str) -> set[str]:
    """All arguments that the samples of a method show, of its batched form too."""
    questions = [rpc_sample(name)["request"]]
    if name in BATCHED:
        questions += rpc_sample(f"{name}_many")["request"]["items"]
    return {field for question in questions for field in question}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_is_asked_as_the_sample_shows_and_its_answer_understood(
    client, book, name
) -> None:
    method, path, body = QUESTIONS[name]
    sample = rpc_sample(name)
    book.answers[name] = sample["reply"]
    answer = client.request(method, path, json=body)
    assert answer.status_code == (201 if method == "POST" else 200)
    assert set(book.asked(name)) <= fields_of(name) | OPTIONAL
    if name != "users.authenticate":  # its answer becomes a token
        assert_nothing_is_lost(sample["reply"], answer.json())


def assert_nothing_is_lost(inside: dict[str, Any], outside: dict[str, Any]) -> None:
    """That an id, a status or a text of the answer is told as it is."""
    inside = inside.get("user", inside)
    for one, other in zip(
        inside.get("items", [inside]), outside.get("items", [outside]), strict=True
    ):
        shared = set(one) & set(other) - {"currency"}
        assert shared
        assert {name: other[name] for name in shared} == {
            name: one[name] for name in shared
        }
