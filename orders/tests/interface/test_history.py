"""The history of an order, with a real broker and database and a fake of billing."""

import uuid
from datetime import timedelta

import pytest

from chassis.outbox import Outbox
from chassis.schemas import utc
from conftest import eventually
from orders import domain

DONE = {"status": "done"}
REFUSED = {"status": "refused", "reason": "insufficient-funds"}
UNAVAILABLE = {"status": "unavailable"}
HISTORY_ONLY = {
    "attempts",
    "last_attempt_at",
    "published_at",
    "is_publication_unknown",
}


@pytest.fixture
def history_of(orders):
    """`history_of(order)` returns the history of an order, as its user gets it."""

    def read(order: dict) -> dict:
        return orders.get_history(order_id=order["id"], user_id=order["user_id"])

    return read


def new_id() -> str:
    return str(uuid.uuid4())


def each(outcome: dict):
    return lambda items: [outcome for _ in items]


@pytest.mark.parametrize(("outcome", "status"), [(DONE, "paid"), (REFUSED, "rejected")])
def test_a_settled_order_has_the_time_at_which_its_event_was_sent(
    orders, billing, an_order, history_of, sql, outcome, status
) -> None:
    billing.replies["withdraw_many"] = each(outcome)
    order = orders.place(**an_order())
    history = eventually(lambda: _published(history_of(order)))
    assert order["status"] == status
    assert {name: history[name] for name in history.keys() - HISTORY_ONLY} == order
    assert (history["attempts"], history["last_attempt_at"]) == (0, None)
    [(sent_at,)] = sql("orders", "SELECT sent_at FROM outbox")
    assert history["published_at"] == utc(sent_at)
    assert history["published_at"] >= order["ended_at"]
    assert not history["is_publication_unknown"]


def _published(history: dict) -> dict | None:
    return history if history["published_at"] else None


def test_a_pending_order_has_no_event_yet(
    orders, billing, an_order, history_of
) -> None:
    billing.replies["withdraw_many"] = each(UNAVAILABLE)
    history = history_of(orders.place(**an_order()))
    assert history["status"] == "pending"
    assert history["published_at"] is None
    assert not history["is_publication_unknown"]


def test_an_unsent_event_is_not_published(
    orders, an_order, history_of, monkeypatch
) -> None:
    monkeypatch.setattr(Outbox, "_relay_batch", lambda outbox: 0)
    history = history_of(orders.place(**an_order()))
    assert history["status"] == "paid"
    assert history["published_at"] is None
    assert not history["is_publication_unknown"]


def test_a_publication_is_unknown_once_the_outbox_has_deleted_the_event(
    orders, an_order, history_of, sql
) -> None:
    order = orders.place(**an_order())
    eventually(lambda: _published(history_of(order)))
    sql("orders", "DELETE FROM outbox")
    history = history_of(order)
    assert history["published_at"] is None
    assert history["is_publication_unknown"]


def test_a_publication_is_unknown_for_an_order_of_an_earlier_version(
    orders, history_of, sql
) -> None:
    """An earlier version does not store the event of an order, nor the time of an attempt."""
    order = {"id": new_id(), "user_id": new_id()}
    sql(
        "orders",
        """
        INSERT INTO orders (
            id, user_id, key, price_minor, status, request_id, attempts, next_attempt_at,
            ended_at
        )
        VALUES (%(id)s, %(user_id)s, 'k', 1, 'paid', 'r', 2, now(), now())
        """,
        order,
    )
    history = history_of(order)
    assert history["is_publication_unknown"]
    assert history["published_at"] is None
    assert (history["attempts"], history["last_attempt_at"]) == (2, None)


def test_a_history_has_the_count_and_the_last_time_of_the_sweepers_attempts(
    orders, billing, an_order, history_of, monkeypatch
) -> None:
    monkeypatch.setattr(domain, "FIRST_RETRY_AFTER", timedelta())
    monkeypatch.setattr(domain, "MAX_RETRY_DELAY_S", 0.1)
    billing.replies["withdraw_many"] = each(UNAVAILABLE)
    order = orders.place(**an_order())
    eventually(lambda: history_of(order)["attempts"] >= 2)
    retried = history_of(order)
    assert order["created_at"] < retried["last_attempt_at"]
    billing.replies["withdraw_many"] = each(DONE)
    settled = eventually(lambda: _published(history_of(order)))
    assert settled["attempts"] > retried["attempts"]
    assert retried["last_attempt_at"] < settled["last_attempt_at"]
    assert settled["last_attempt_at"] < settled["ended_at"]


def test_a_history_is_visible_to_its_user_only(orders, an_order) -> None:
    order = orders.place(**an_order())
    assert orders.get_history(order_id=order["id"], user_id=new_id()) is None
    assert orders.get_history(order_id=new_id(), user_id=order["user_id"]) is None


INVALID = {
    "order_id": ("", "42", None, 42, new_id().upper()),
    "user_id": ("", "42", None, 42),
    "limit": (1,),
}


@pytest.mark.parametrize("field", INVALID)
def test_an_invalid_argument_is_named(orders, subtests, field) -> None:
    query = {"order_id": new_id(), "user_id": new_id()}
    for value in INVALID[field]:
        with subtests.test(value=value):
            outcome = orders.get_history(**{**query, field: value})
            assert (outcome["status"], list(outcome["errors"])) == ("invalid", [field])
    assert orders.get_history()["errors"].keys() == query.keys()
