"""The outcomes of billing match its samples, and its calls and events those of users."""

import pytest

from billing.service import Service
from conftest import eventually
from tests.contracts import (
    alike,
    event_sample,
    methods_with_samples,
    rpc_methods,
    rpc_sample,
)


def test_every_method_has_a_sample(config) -> None:
    assert methods_with_samples("billing") == rpc_methods(Service, config)


@pytest.mark.parametrize("method", methods_with_samples("billing"))
def test_outcomes_match_the_samples(billing, users, method) -> None:
    """The account has 100.00. The service `users` is unavailable for the other user."""
    user_id = event_sample("users.user_created")["user_id"]
    billing.open_account(user_id=user_id)
    billing.deposit(user_id=user_id, amount_minor=10_000, ref="till-1")
    if method == "get_withdrawal":
        billing.withdraw(**rpc_sample("billing.withdraw")["request"])
    del users.replies["get_many"]
    sample = rpc_sample(f"billing.{method}")
    assert alike(getattr(billing, method)(**sample["request"])) == alike(
        sample["reply"]
    )


def test_user_created_of_the_sample_opens_the_account(billing, dispatch, sql) -> None:
    event = event_sample("users.user_created")
    dispatch("users", "user_created", event)
    eventually(
        lambda: (
            sql("billing", "SELECT user_id::text FROM accounts")
            == [(event["user_id"],)]
        )
    )


def test_calls_to_users_match_the_sample(billing, users) -> None:
    sample = rpc_sample("users.get_many")
    users.replies["get_many"] = lambda user_ids: sample["reply"]
    accounts = billing.account_many(
        items=[{"user_id": id_} for id_ in sample["request"]["user_ids"]]
    )
    assert [account["status"] for account in accounts] == ["open", "unknown-user"]
    assert users.calls == [("get_many", sample["request"])]
