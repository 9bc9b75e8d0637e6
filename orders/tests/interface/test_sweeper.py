"""The sweeper settles pending orders, with a real broker and database and a fake of billing."""

from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from chassis.db import Database
from conftest import eventually
from orders import domain, service
from orders.service import Service
from tests.buffers import buffers_of, old_snapshot, recorded
from tests.serving import FakeService, serving

DONE = {"status": "done"}
CANCELLED = {"status": "refused", "reason": "cancelled"}
UNAVAILABLE = {"status": "unavailable"}


def each(outcome: dict):
    return lambda items: [outcome for _ in items]


@pytest.fixture
def pending(orders, billing, an_order, monkeypatch) -> list[dict]:
    """Three pending orders, which the sweeper retries from now on. billing is unavailable."""
    billing.replies["withdraw_many"] = each(UNAVAILABLE)
    monkeypatch.setattr(domain, "FIRST_RETRY_AFTER", timedelta())
    monkeypatch.setattr(domain, "MAX_RETRY_DELAY_S", 0.1)
    placed = orders.place_many(items=[an_order(price_minor=n) for n in (1, 2, 3)])
    assert [order["status"] for order in placed] == ["pending"] * 3
    return placed


def statuses(sql) -> list[tuple[str, str | None]]:
    return sql("orders", "SELECT status, reason FROM orders ORDER BY price_minor")


def test_pending_orders_are_settled_once_billing_is_available(
    pending, billing, events, sql
) -> None:
    billing.calls.clear()
    billing.replies["withdraw_many"] = each(DONE)
    eventually(lambda: statuses(sql) == [("paid", None)] * 3)
    retried = {
        (i["order_id"], i["amount_minor"])
        for _, call in billing.calls
        for i in call["items"]
    }
    assert retried == {(order["id"], order["price_minor"]) for order in pending}
    assert sorted(events()) == sorted(("order_paid", order["id"]) for order in pending)


def test_a_refusal_rejects_a_pending_order(pending, billing, events, sql) -> None:
    billing.replies["withdraw_many"] = each(
        {"status": "refused", "reason": "insufficient-funds"}
    )
    eventually(lambda: statuses(sql) == [("rejected", "insufficient-funds")] * 3)
    assert sorted(events()) == sorted(
        ("order_rejected", order["id"]) for order in pending
    )


def test_an_unsettled_order_does_not_delay_the_others(pending, billing, sql) -> None:
    unsettled = pending[1]["id"]
    billing.replies["withdraw_many"] = lambda items: [
        UNAVAILABLE if item["order_id"] == unsettled else DONE for item in items
    ]
    eventually(
        lambda: statuses(sql) == [("paid", None), ("pending", None), ("paid", None)]
    )
    billing.replies["withdraw_many"] = each(DONE)
    eventually(lambda: statuses(sql) == [("paid", None)] * 3)


def test_an_overdue_order_is_rejected_once_billing_has_cancelled_it(
    pending, billing, events, sql, monkeypatch
) -> None:
    billing.replies["cancel_many"] = each(CANCELLED)
    monkeypatch.setattr(domain, "CANCEL_AFTER", timedelta())
    eventually(lambda: statuses(sql) == [("rejected", "cancelled")] * 3)
    cancelled = {
        i["order_id"]
        for method, call in billing.calls
        if method == "cancel_many"
        for i in call["items"]
    }
    assert cancelled == {order["id"] for order in pending}
    assert sorted(events()) == sorted(
        ("order_rejected", order["id"]) for order in pending
    )


def test_an_overdue_order_with_a_done_withdrawal_is_paid(
    pending, billing, events, sql, monkeypatch
) -> None:
    billing.replies["cancel_many"] = each(DONE)
    monkeypatch.setattr(domain, "CANCEL_AFTER", timedelta())
    eventually(lambda: statuses(sql) == [("paid", None)] * 3)
    assert {type_ for type_, _ in events()} == {"order_paid"}


def test_an_overdue_order_stays_pending_while_billing_fails(
    pending, billing, events, sql, monkeypatch
) -> None:
    # cancel_many has no reply, so each call fails.
    monkeypatch.setattr(domain, "CANCEL_AFTER", timedelta())
    eventually(lambda: [method for method, _ in billing.calls].count("cancel_many") > 1)
    assert statuses(sql) == [("pending", None)] * 3
    assert events() == []
    billing.replies["cancel_many"] = each(CANCELLED)
    eventually(lambda: statuses(sql) == [("rejected", "cancelled")] * 3)


def test_attempts_are_counted_and_the_next_one_is_delayed(
    pending, billing, sql, monkeypatch
) -> None:
    monkeypatch.setattr(domain, "MAX_RETRY_DELAY_S", 15.0)
    sql("orders", "UPDATE orders SET attempts = 10, next_attempt_at = now()")
    eventually(
        lambda: sql(
            "orders",
            "SELECT 1 FROM orders"
            " WHERE attempts = 11 AND next_attempt_at < now() + interval '16 s'",
        )
    )
    waits = sql(
        "orders",
        "SELECT extract(epoch FROM next_attempt_at - now())::float FROM orders",
    )
    assert all(0 < wait <= 15 for (wait,) in waits)


def test_an_order_is_settled_once_billing_starts(
    run, rpc, an_order, sql, monkeypatch
) -> None:
    """billing does not run, so a call ends with its timeout."""
    monkeypatch.setattr(domain, "FIRST_RETRY_AFTER", timedelta())
    run(Service, WITHDRAW_TIMEOUT_S=0.3)
    order = rpc.orders.place(**an_order())
    assert order["status"] == "pending"
    billing = FakeService("billing", "withdraw_many")
    billing.replies["withdraw_many"] = each(DONE)
    run(billing.service)
    eventually(lambda: rpc.orders.get(order_id=order["id"])["status"] == "paid")


def test_a_metric_shows_the_age_of_the_oldest_pending_order(
    pending, billing, sql, config
) -> None:
    def oldest_s() -> float:
        return REGISTRY.get_sample_value("shop_oldest_pending_seconds") or 0

    sql(
        "orders",
        "UPDATE orders SET created_at = now() - interval '2 minutes' WHERE price_minor = 1",
    )
    with serving(config, Service):  # another copy measures at its start
        eventually(lambda: 120 <= oldest_s() < 180)
    billing.replies["withdraw_many"] = each(DONE)
    eventually(lambda: statuses(sql) == [("paid", None)] * 3)
    with serving(config, Service):
        eventually(lambda: oldest_s() == 0)


def insert_due(sql, count: int, due: str) -> None:
    """Insert pending orders that have been due for an interval, as after a crash."""
    sql(
        "orders",
        """
        INSERT INTO orders (id, user_id, key, price_minor, request_id, next_attempt_at)
        SELECT gen_random_uuid(), gen_random_uuid(), 'k', 1, 'r', now() - CAST(%s AS interval)
        FROM generate_series(1, %s)
        """,
        [due, count],
    )


def test_orders_that_sweeps_missed_are_settled(
    billing, config, sql, monkeypatch
) -> None:
    monkeypatch.setattr(Service, "search_all", False)
    monkeypatch.setattr(service, "MAX_SWEPT", 2)
    insert_due(sql, count=5, due="1 hour")
    with serving(config, Service):  # another copy measures at its start
        eventually(lambda: statuses(sql) == [("paid", None)] * 5)


def test_a_sweep_reads_no_orders_settled_since_the_oldest_snapshot(
    run, config, sql
) -> None:
    owner, application = (
        config[name]["orders:Base"] for name in ("DB_OWNER_URIS", "DB_URIS")
    )
    with old_snapshot(owner):
        # In one transaction, so that no sweeper finds them pending.
        sql("orders", "BEGIN")
        insert_due(sql, count=10_000, due="1 minute")
        sql("orders", "UPDATE orders SET status = 'paid', ended_at = now()")
        sql("orders", "COMMIT")
        # Autovacuum may have analyzed an empty table.
        sql("orders", "ANALYZE orders")
        [database] = [d for d in run(Service).dependencies if isinstance(d, Database)]
        with recorded(database._autocommit, "UPDATE orders SET attempts") as sweeps:
            eventually(lambda: len(sweeps) == 2)
        statement, parameters = sweeps[1]
        assert (
            buffers_of(application, statement, {**parameters, "lookback": None}) > 100
        )
        assert buffers_of(application, statement, parameters) <= 20
