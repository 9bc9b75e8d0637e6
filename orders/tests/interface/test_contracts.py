"""The outcomes and events of orders match its samples, and its calls those of billing."""

from datetime import timedelta

import pytest

from conftest import eventually
from orders import domain
from orders.service import Service
from tests.contracts import (
    alike,
    event_sample,
    methods_with_samples,
    rpc_methods,
    rpc_sample,
)


@pytest.fixture
def placed(orders, billing) -> list[dict]:
    """Place the orders of the sample. Billing has the outcomes of its own sample, by amount."""
    sample = rpc_sample("billing.withdraw_many")
    pairs = zip(sample["request"]["items"], sample["reply"], strict=True)
    outcomes = {item["amount_minor"]: outcome for item, outcome in list(pairs)[:2]}
    billing.replies["withdraw_many"] = lambda items: [
        outcomes[item["amount_minor"]] for item in items
    ]
    return orders.place_many(**rpc_sample("orders.place_many")["request"])


def test_every_method_has_a_sample(config) -> None:
    assert methods_with_samples("orders") == rpc_methods(Service, config)


@pytest.mark.parametrize("method", ["place", "place_many", "get", "get_many"])
def test_outcomes_match_the_samples(orders, placed, method) -> None:
    sample = rpc_sample(f"orders.{method}")
    request = with_first_id(sample["request"], placed[0]["id"])
    assert alike(getattr(orders, method)(**request)) == alike(sample["reply"])


def test_a_history_matches_the_sample_once_the_event_is_published(
    orders, placed
) -> None:
    sample = rpc_sample("orders.get_history")
    request = with_first_id(sample["request"], placed[0]["id"])
    eventually(lambda: alike(orders.get_history(**request)) == alike(sample["reply"]))


def with_first_id(request: dict, order_id: str) -> dict:
    """Return a request of a sample with the id of an order that exists."""
    ids = {
        "order_id": lambda _: order_id,
        "order_ids": lambda others: [order_id, *others[1:]],
    }
    return {
        name: ids[name](value) if name in ids else value
        for name, value in request.items()
    }


def test_a_list_matches_the_sample(orders, billing) -> None:
    orders.place(**rpc_sample("orders.place")["request"])
    sample = rpc_sample("orders.list")
    assert alike(orders.list(**sample["request"])) == alike(sample["reply"])


@pytest.mark.parametrize("name", ["order_paid", "order_rejected"])
def test_events_match_their_samples(placed, sql, name) -> None:
    [(event,)] = sql("orders", "SELECT payload FROM outbox WHERE type = %s", [name])
    assert alike(event) == alike(event_sample(f"orders.{name}"))


def test_withdrawals_match_the_sample(placed, billing) -> None:
    items = [item for _, call in billing.calls for item in call["items"]]
    assert alike(items) == alike(
        rpc_sample("billing.withdraw_many")["request"]["items"][:2]
    )


def test_cancellations_match_the_sample(orders, billing, sql, monkeypatch) -> None:
    sample = rpc_sample("billing.cancel_many")
    billing.replies["withdraw_many"] = lambda items: [{"status": "unavailable"}]
    billing.replies["cancel_many"] = lambda items: sample["reply"]
    [wanted] = sample["request"]["items"]
    new = {
        "price_minor": wanted["amount_minor"],
        "key": "k",
        "request_id": wanted["request_id"],
    }
    order = orders.place(user_id=wanted["user_id"], **new)
    monkeypatch.setattr(domain, "CANCEL_AFTER", timedelta())
    sql("orders", "UPDATE orders SET next_attempt_at = now() WHERE status = 'pending'")
    eventually(
        lambda: (
            orders.get(order_id=order["id"])["reason"] == sample["reply"][0]["reason"]
        )
    )
    [call] = [call for method, call in billing.calls if method == "cancel_many"]
    assert alike(call) == alike(sample["request"])
