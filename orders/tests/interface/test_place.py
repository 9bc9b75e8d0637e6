"""Placing orders, with a real broker and database and a fake of billing."""

import uuid
from itertools import count

import psycopg2.errors
import pytest
from eventlet.event import Event

from chassis.broker import connect
from chassis.errors import InternalError
from conftest import eventually
from orders import domain

REFUSED = {"status": "refused", "reason": "insufficient-funds"}
UNAVAILABLE = {"status": "unavailable"}


def each(outcome: dict):
    return lambda items: [outcome for _ in items]


def withdrawals(billing) -> list[dict]:
    """Return the items of all calls of withdraw_many."""
    return [
        item
        for method, call in billing.calls
        if method == "withdraw_many"
        for item in call["items"]
    ]


def stored(sql) -> list[tuple[str, str]]:
    return sql("orders", "SELECT id::text, status FROM orders ORDER BY id")


def test_a_done_withdrawal_pays_the_order(orders, billing, an_order, events) -> None:
    new = an_order()
    order = orders.place(**new)
    assert (order["status"], order["reason"]) == ("paid", None)
    assert (order["user_id"], order["price_minor"]) == (new["user_id"], 300)
    assert order["created_at"] < order["ended_at"]
    withdrawal = {
        "user_id": new["user_id"],
        "amount_minor": 300,
        "order_id": order["id"],
        "request_id": "r",
    }
    assert withdrawals(billing) == [withdrawal]
    assert events() == [("order_paid", order["id"])]


def test_a_refused_withdrawal_rejects_the_order(
    orders, billing, an_order, events, sql
) -> None:
    billing.replies["withdraw_many"] = each(REFUSED)
    order = orders.place(**an_order())
    assert (order["status"], order["reason"]) == ("rejected", "insufficient-funds")
    assert events() == [("order_rejected", order["id"])]
    assert sql("orders", "SELECT payload->>'reason', request_id FROM outbox") == [
        ("insufficient-funds", "r")
    ]


def test_an_order_is_stored_before_the_withdrawal(
    orders, billing, an_order, sql
) -> None:
    seen = []

    def withdraw(items):
        seen.extend(stored(sql))
        return [{"status": "done"}]

    billing.replies["withdraw_many"] = withdraw
    order = orders.place(**an_order())
    assert seen == [(order["id"], "pending")]


def test_any_other_outcome_leaves_the_order_pending(
    orders, billing, an_order, events, subtests
) -> None:
    outcomes = [
        UNAVAILABLE,
        {"status": "conflict"},
        {"status": "invalid"},
        None,
        "done",
    ]
    malformed = [[], {}, None, [{"status": "done"}] * 2]
    for reply in [*([outcome] for outcome in outcomes), *malformed]:
        with subtests.test(reply=reply):
            billing.replies["withdraw_many"] = lambda items, reply=reply: reply
            order = orders.place(**an_order())
            assert (order["status"], order["reason"], order["ended_at"]) == (
                "pending",
                None,
                None,
            )
    assert events() == []


def test_orders_stay_pending_while_billing_fails(orders, billing, an_order) -> None:
    del billing.replies["withdraw_many"]
    outcomes = orders.place_many(items=[an_order() for _ in range(3)])
    assert [order["status"] for order in outcomes] == ["pending"] * 3


def test_while_billing_is_slow_an_order_is_pending_and_is_paid_later(
    orders, billing, an_order, events, sql
) -> None:
    replied = Event()
    billing.replies["withdraw_many"] = lambda items: replied.wait()
    new = an_order()
    # The timeout of a withdrawal ends this call.
    order = orders.place(**new)
    assert order["status"] == "pending"
    assert events() == []
    # The withdrawal is done, but its caller has timed out.
    replied.send([{"status": "done"}])
    sql("orders", "UPDATE orders SET next_attempt_at = now() WHERE status = 'pending'")
    eventually(lambda: orders.place(**new)["status"] == "paid")
    assert withdrawals(billing)[0] == withdrawals(billing)[1]
    assert events() == [("order_paid", order["id"])]


def test_a_batch_is_one_call_and_each_order_has_its_own_outcome(
    orders, billing, an_order
) -> None:
    outcomes = {1: {"status": "done"}, 2: REFUSED, 3: UNAVAILABLE}
    billing.replies["withdraw_many"] = lambda items: [
        outcomes[item["amount_minor"]] for item in items
    ]
    placed = orders.place_many(items=[an_order(price_minor=n) for n in (3, 1, 2)])
    assert [order["status"] for order in placed] == ["pending", "paid", "rejected"]
    assert len(billing.calls) == 1


def test_the_same_key_is_the_same_order(orders, billing, an_order, events, sql) -> None:
    new = an_order()
    first = orders.place(**new)
    assert [orders.place(**{**new, "request_id": "again"}) for _ in range(3)] == [
        first
    ] * 3
    assert len(stored(sql)) == len(withdrawals(billing)) == len(events()) == 1


def test_the_same_key_with_another_price_is_a_conflict(orders, an_order, sql) -> None:
    new = an_order()
    orders.place(**new)
    assert orders.place(**{**new, "price_minor": 301}) == {"status": "conflict"}
    assert len(stored(sql)) == 1


def test_two_users_may_use_the_same_key(orders, an_order, sql) -> None:
    ids = {orders.place(**an_order(key="mine"))["id"] for _ in range(2)}
    assert {id_ for id_, _ in stored(sql)} == ids
    assert len(ids) == 2


def test_equal_keys_in_one_batch_are_one_order(
    orders, billing, an_order, events
) -> None:
    new = an_order()
    first, again, conflict = orders.place_many(
        items=[new, new, {**new, "price_minor": 1}]
    )
    assert first == again
    assert first["status"] == "paid"
    assert conflict == {"status": "conflict"}
    assert len(withdrawals(billing)) == len(events()) == 1


def test_concurrent_orders_with_one_key_are_one_order(
    orders, billing, an_order, events, sql
) -> None:
    new = an_order()
    calls = [orders.place.call_async(**new) for _ in range(20)]
    assert len({call.result()["id"] for call in calls}) == 1
    eventually(lambda: [status for _, status in stored(sql)] == ["paid"])
    assert len(withdrawals(billing)) == len(events()) == 1


def test_batches_with_the_same_keys_do_not_deadlock(orders, an_order, sql) -> None:
    """Both wait for a key of a third transaction, after each has inserted its first key."""
    user_id = str(uuid.uuid4())
    new = [an_order(user_id=user_id, key=key) for key in ("a", "m", "z")]
    sql("orders", "BEGIN")
    sql(
        "orders",
        "INSERT INTO orders (id, user_id, key, price_minor, request_id, next_attempt_at)"
        " VALUES (gen_random_uuid(), %s, 'm', 1, 'r', now())",
        [user_id],
    )
    calls = [orders.place_many.call_async(items=batch) for batch in (new, new[::-1])]
    eventually(
        lambda: (
            sql("orders", "SELECT count(*) FROM pg_locks WHERE NOT granted") == [(2,)]
        )
    )
    sql("orders", "ROLLBACK")
    forward, backward = [[order["id"] for order in call.result()] for call in calls]
    assert forward == backward[::-1]
    assert sorted(forward) == [id_ for id_, _ in stored(sql)]


def test_without_a_key_each_order_is_new(orders, an_order) -> None:
    new = an_order()
    without_key = {"user_id": new["user_id"], "price_minor": 300}
    assert orders.place(**without_key)["id"] != orders.place(**without_key)["id"]


def test_a_redelivered_call_without_a_key_places_one_order(
    orders, an_order, config, sql
) -> None:
    kwargs = {"user_id": an_order()["user_id"], "price_minor": 300}
    with connect(config) as connection, connection.Producer() as producer:
        for _ in range(2):
            producer.publish(
                {"args": [], "kwargs": kwargs},
                exchange="nameko-rpc",
                routing_key="orders.place",
                reply_to=str(uuid.uuid4()),
                correlation_id="0199d6a8-5b7e-4c3a-8000-000000000001",
            )
    # This one is behind them in the queue.
    orders.place(**an_order())
    eventually(
        lambda: (
            sql("orders", "SELECT count(*) FROM orders WHERE status = 'paid'") == [(2,)]
        )
    )
    assert sql("orders", "SELECT count(*) FROM orders") == [(2,)]


INVALID = {
    "user_id": [None, "", "42", 42, str(uuid.uuid4()).upper()],
    "price_minor": [
        0,
        -1,
        True,
        10.0,
        "100",
        None,
        [],
        2**63,
        domain.MAX_PRICE_MINOR + 1,
    ],
    "key": [None, "", "x" * 256, "a\x00b", 1],
    "request_id": [None, "", "x" * 129, 1],
    "status": ["paid"],
    "id": [str(uuid.uuid4())],
}


@pytest.mark.parametrize("field", INVALID)
def test_an_invalid_value_is_named_and_not_stored(
    orders, billing, an_order, sql, subtests, field
) -> None:
    for value in INVALID[field]:
        with subtests.test(value=repr(value)[:40]):
            outcome = orders.place(**an_order(**{field: value}))
            assert (outcome["status"], list(outcome["errors"])) == ("invalid", [field])
    assert stored(sql) == billing.calls == []


def test_an_invalid_order_does_not_affect_the_others(orders, an_order) -> None:
    assert set(orders.place()["errors"]) == {"user_id", "price_minor"}
    statuses = [o["status"] for o in orders.place_many(items=[{}, an_order(), 7])]
    assert statuses == ["invalid", "paid", "invalid"]
    assert orders.place_many(items=[]) == []


def test_a_settlement_and_its_event_are_stored_together(
    orders, an_order, events, sql
) -> None:
    sql("orders", "ALTER TABLE outbox ADD CONSTRAINT refuse_all CHECK (false)")
    try:
        with pytest.raises(InternalError):
            orders.place(**an_order())
        [(order_id, status)] = stored(sql)
        assert status == "pending"
    finally:
        sql("orders", "ALTER TABLE outbox DROP CONSTRAINT refuse_all")
    sql("orders", "UPDATE orders SET next_attempt_at = now() WHERE status = 'pending'")
    eventually(lambda: stored(sql) == [(order_id, "paid")])
    assert events() == [("order_paid", order_id)]


def test_an_order_settled_twice_has_one_event(
    orders, billing, an_order, events, sql, monkeypatch
) -> None:
    """The sweeper and the first attempt both get the outcome. The sweeper settles it first."""
    monkeypatch.setattr(domain, "FIRST_RETRY_AFTER", domain.FIRST_RETRY_AFTER * 0)
    attempts, both = count(1), Event()

    def withdraw(items):
        attempt = next(attempts)
        if attempt == 2:
            both.send()
        both.wait()
        if attempt == 1:
            eventually(lambda: events())
        return [{"status": "done"} for _ in items]

    billing.replies["withdraw_many"] = withdraw
    order = orders.place(**an_order())
    assert order["status"] == "paid"
    assert withdrawals(billing)[0] == withdrawals(billing)[1]
    billing.replies["withdraw_many"] = each(UNAVAILABLE)
    other = orders.place(**an_order())
    eventually(
        lambda: sql(
            "orders",
            "SELECT 1 FROM orders WHERE id = %s AND attempts > 0",
            [other["id"]],
        )
    )
    # The sweep of the first order has ended.
    assert events() == [("order_paid", order["id"])]


def test_a_settled_order_never_changes(orders, billing, an_order, events, sql) -> None:
    new = an_order()
    paid = orders.place(**new)
    billing.replies["withdraw_many"] = each(REFUSED)
    billing.replies["cancel_many"] = each(REFUSED)
    # The order looks due. A trigger would refuse this change. It has a test of its own.
    sql("orders", "ALTER TABLE orders DISABLE TRIGGER ended_orders_stay")
    sql("orders", "UPDATE orders SET next_attempt_at = now() - interval '1 day'")
    sql("orders", "UPDATE orders SET created_at = now() - interval '1 day'")
    sql("orders", "ALTER TABLE orders ENABLE TRIGGER ended_orders_stay")
    other = an_order()
    billing.replies["withdraw_many"] = each(UNAVAILABLE)
    orders.place(**other)
    sql("orders", "UPDATE orders SET next_attempt_at = now() WHERE status = 'pending'")
    # The third withdrawal is the sweeper's.
    eventually(lambda: len(withdrawals(billing)) == 3)
    assert orders.get(order_id=paid["id"])["status"] == "paid"
    assert orders.place(**new)["ended_at"] == paid["ended_at"]
    assert events() == [("order_paid", paid["id"])]


@pytest.mark.parametrize(
    "change",
    [
        "status = 'pending', reason = NULL, ended_at = NULL",
        "attempts = attempts + 1, last_attempt_at = now()",
        "settlement_event_id = gen_random_uuid()",
    ],
)
def test_the_database_refuses_to_change_a_settled_order(
    orders, an_order, sql, change
) -> None:
    order = orders.place(**an_order())
    assert order["status"] == "paid"
    with pytest.raises(
        psycopg2.errors.RaiseException, match=f"order {order['id']} has ended"
    ):
        sql("orders", f"UPDATE orders SET {change}")
