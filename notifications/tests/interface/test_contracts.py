"""The outcomes of notifications match its samples, and its calls and events those of others."""

import pytest

from notifications.service import Service
from tests.contracts import (
    alike,
    event_sample,
    methods_with_samples,
    rpc_methods,
    rpc_sample,
)


def test_every_method_has_a_sample(config) -> None:
    assert methods_with_samples("notifications") == rpc_methods(Service, config)


@pytest.fixture
def samples_published(publish) -> None:
    """The events of the samples: a user, and an order of this user."""
    publish(("user_created", event_sample("users.user_created")))
    publish(("order_paid", event_sample("orders.order_paid")))


@pytest.mark.parametrize("method", methods_with_samples("notifications"))
def test_outcomes_match_the_samples(notifications, samples_published, method) -> None:
    sample = rpc_sample(f"notifications.{method}")
    assert alike(getattr(notifications, method)(**sample["request"])) == alike(
        sample["reply"]
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("order_paid", "happiness"), ("order_rejected", "grief")]
)
def test_calls_to_users_match_the_sample(
    notifications, users, publish, name, kind
) -> None:
    event = event_sample(f"orders.{name}")
    sample = rpc_sample("users.get_many")
    users.replies["get_many"] = lambda user_ids: sample["reply"][:1]
    publish((name, event))
    [letter] = notifications.list(user_id=event["user_id"])["items"]
    assert (letter["kind"], letter["order_id"]) == (kind, event["order_id"])
    assert letter["email"] == sample["reply"][0]["email"]
    assert users.calls == [
        ("get_many", {"user_ids": sample["request"]["user_ids"][:1]})
    ]
