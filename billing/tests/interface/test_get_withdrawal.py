"""The withdrawal for an order, with a real broker and database."""

import uuid

import pytest


def new_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def user_id(open_account) -> str:
    return open_account(1000)


@pytest.mark.parametrize(
    ("method", "amount_minor", "status", "reason"),
    [
        ("withdraw", 300, "done", None),
        ("withdraw", 1001, "refused", "insufficient-funds"),
        ("cancel", 300, "refused", "cancelled"),
    ],
)
def test_the_operation_is_the_recorded_one(
    billing, user_id, method, amount_minor, status, reason
) -> None:
    order = {"user_id": user_id, "order_id": new_id()}
    operation = getattr(billing, method)(**order, amount_minor=amount_minor)
    assert (operation["status"], operation["reason"]) == (status, reason)
    assert billing.get_withdrawal(**order) == operation


def test_a_withdrawal_is_visible_to_its_user_only(
    billing, user_id, open_account
) -> None:
    order_id = new_id()
    billing.withdraw(user_id=user_id, order_id=order_id, amount_minor=1)
    for stranger in (open_account(), new_id()):
        assert billing.get_withdrawal(user_id=stranger, order_id=order_id) is None


def test_only_the_withdrawal_for_the_order_is_found(billing, user_id) -> None:
    """A key that looks like the ref of an order is the key of another operation."""
    order_id = new_id()
    for key in (order_id, f"order:{order_id}"):
        billing.withdraw(user_id=user_id, key=key, amount_minor=1)
        billing.deposit(user_id=user_id, ref=key, amount_minor=1)
    assert billing.get_withdrawal(user_id=user_id, order_id=order_id) is None


def test_a_refusal_of_an_unknown_user_is_found(billing, users, sql) -> None:
    """A refusal from before the user had an account is found, and opens no account."""
    order = {"user_id": new_id(), "order_id": new_id()}
    refused = billing.withdraw(**order, amount_minor=1)
    assert (refused["reason"], refused["seq"]) == ("unknown-user", 0)
    assert billing.get_withdrawal(**order) == refused
    users.calls.clear()
    assert billing.get_withdrawal(user_id=new_id(), order_id=new_id()) is None
    assert users.calls == []
    assert sql("billing", "SELECT user_id FROM accounts") == []


INVALID = {
    "order_id": ("", "42", None, 42, new_id().upper()),
    "user_id": ("", "42", None, 42),
    "amount_minor": (1,),
    "key": ("k",),
}


@pytest.mark.parametrize("field", INVALID)
def test_an_invalid_argument_is_named(billing, subtests, field) -> None:
    query = {"order_id": new_id(), "user_id": new_id()}
    for value in INVALID[field]:
        with subtests.test(value=value):
            outcome = billing.get_withdrawal(**{**query, field: value})
            assert (outcome["status"], list(outcome["errors"])) == ("invalid", [field])
    assert billing.get_withdrawal()["errors"].keys() == query.keys()
