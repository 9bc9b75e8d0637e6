"""Deposits, withdrawals and cancellations, with a real broker and database."""

import uuid

import psycopg2
import pytest

from billing import domain, store
from chassis.errors import Unavailable
from conftest import eventually

INVALID_AMOUNTS = [
    0,
    -1,
    True,
    1.5,
    10.0,
    "100",
    None,
    [],
    {},
    2**63,
    domain.MAX_AMOUNT_MINOR + 1,
    10**4000,
]


def new_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def user_id(open_account) -> str:
    return open_account(1000)


def withdrawal(user_id: str, amount: int = 300, **name: str) -> dict:
    return {
        "user_id": user_id,
        "amount_minor": amount,
        **(name or {"order_id": new_id()}),
    }


def statuses(outcomes: list[dict]) -> list[str]:
    return [outcome["status"] for outcome in outcomes]


def call_concurrently(method, items: list[dict]) -> list[dict]:
    """Call `method` for all items at once. The service handles as many as it has workers."""
    return [call.result() for call in [method.call_async(**item) for item in items]]


def test_a_withdrawal_returns_the_operation(billing, user_id, balance) -> None:
    order = withdrawal(user_id)
    outcome = billing.withdraw(**order)
    assert outcome["status"] == "done"
    assert outcome["reason"] is None
    assert outcome["order_id"] == order["order_id"]
    assert outcome["balance_after_minor"] == balance(user_id) == 700


def test_a_redelivered_withdrawal_moves_no_money(billing, user_id, balance) -> None:
    order = withdrawal(user_id)
    first = billing.withdraw(**order)
    assert [billing.withdraw(**order) for _ in range(3)] == [first] * 3
    assert balance(user_id) == 700


def test_a_refusal_stays_final_after_a_deposit(billing, user_id, balance) -> None:
    order = withdrawal(user_id, 1001)
    refused = billing.withdraw(**order)
    assert (refused["status"], refused["reason"]) == ("refused", "insufficient-funds")
    billing.deposit(user_id=user_id, amount_minor=5000, ref="top up")
    assert [billing.withdraw(**order) for _ in range(10)] == [refused] * 10
    assert balance(user_id) == 6000


def test_a_deposit_above_the_balance_limit_is_refused(
    billing, open_account, sql, balance
) -> None:
    user_id = open_account()
    sql("billing", "UPDATE accounts SET balance_minor = %s", [domain.MAX_BALANCE_MINOR])
    outcome = billing.deposit(user_id=user_id, amount_minor=1, ref="too much")
    assert (outcome["status"], outcome["reason"]) == ("refused", "balance-limit")
    assert outcome["balance_after_minor"] == domain.MAX_BALANCE_MINOR


@pytest.mark.parametrize("method", ["deposit", "withdraw", "cancel"])
def test_an_invalid_amount_is_named_and_not_stored(
    billing, user_id, operations, subtests, method
) -> None:
    before = operations()
    name = {
        "deposit": {"ref": "till"},
        "withdraw": {"key": "k"},
        "cancel": {"order_id": new_id()},
    }[method]
    for amount in INVALID_AMOUNTS:
        with subtests.test(amount=str(amount)[:20]):
            outcome = getattr(billing, method)(**withdrawal(user_id, amount, **name))
            assert outcome["status"] == "invalid"
            assert list(outcome["errors"]) == ["amount_minor"]
    assert operations() == before


INVALID_ARGUMENTS = [
    ("deposit", {"user_id": "42"}, "user_id"),
    ("deposit", {"user_id": None}, "user_id"),
    ("deposit", {"ref": ""}, "ref"),
    ("deposit", {"ref": "x" * 256}, "ref"),
    ("deposit", {"ref": "a\x00b"}, "ref"),
    ("deposit", {"key": "and a ref"}, "ref"),
    ("deposit", {"order_id": new_id()}, "order_id"),
    ("deposit", {"balance_minor": 1}, "balance_minor"),
    ("withdraw", {"user_id": new_id().upper()}, "user_id"),
    ("withdraw", {"order_id": new_id()}, "ref"),
    ("withdraw", {"ref": "\ud800"}, "ref"),
    ("withdraw", {"status": "done"}, "status"),
    ("cancel", {}, "ref"),
]


def test_an_invalid_argument_is_named_and_not_stored(
    billing, user_id, operations, subtests
) -> None:
    before = operations()
    for method, change, field in INVALID_ARGUMENTS:
        with subtests.test(method, change=change):
            outcome = getattr(billing, method)(
                **{**withdrawal(user_id, ref="r"), **change}
            )
            assert outcome["status"] == "invalid"
            assert field in outcome["errors"]
    assert operations() == before


def test_missing_arguments_are_all_named(billing) -> None:
    assert set(billing.deposit()["errors"]) == {"user_id", "amount_minor"}
    assert set(billing.withdraw(user_id=new_id(), amount_minor=1)["errors"]) == {"ref"}
    assert set(billing.cancel()["errors"]) == {"user_id", "amount_minor", "order_id"}


def test_an_invalid_item_does_not_affect_the_others(billing, user_id, balance) -> None:
    items = [
        withdrawal(user_id, 100),
        "not an item",
        withdrawal(user_id, 0),
        withdrawal(user_id, 200),
    ]
    assert statuses(billing.withdraw_many(items=items)) == [
        "done",
        "invalid",
        "invalid",
        "done",
    ]
    assert balance(user_id) == 700
    assert billing.withdraw_many(items=[]) == []


def test_duplicates_in_one_batch_are_one_operation(billing, user_id, balance) -> None:
    order = withdrawal(user_id)
    other_amount = {**order, "amount_minor": 1}
    first, again, conflict = billing.withdraw_many(items=[order, order, other_amount])
    assert first == again
    assert conflict == {"status": "conflict"}
    assert balance(user_id) == 700


def test_a_ref_with_another_amount_user_or_kind_is_a_conflict(
    billing, open_account, balance
) -> None:
    ann, bob = open_account(1000), open_account(1000)
    first = withdrawal(ann, 100, ref="till-1")
    billing.withdraw(**first)
    conflicts = [
        billing.withdraw(**{**first, "amount_minor": 101}),
        billing.withdraw(**{**first, "user_id": bob}),
        billing.deposit(**first),
    ]
    assert statuses(conflicts) == ["conflict"] * 3
    assert (balance(ann), balance(bob)) == (900, 1000)


def test_no_key_or_ref_collides_with_the_ref_of_an_order(
    billing, open_account, balance
) -> None:
    ann, bob = open_account(1000), open_account(1000)
    order = withdrawal(ann)
    texts = [
        order["order_id"],
        f"order:{order['order_id']}",
        f"key:{ann}:k",
        f"shell:order:{order['order_id']}",
    ]
    names = [{name: text} for name in ("key", "ref") for text in texts]
    withdrawals = [withdrawal(ann, 1, **name) for name in names]
    withdrawals += [withdrawal(bob, 1, key=text) for text in texts]
    assert set(statuses(call_concurrently(billing.withdraw, withdrawals))) == {"done"}
    deposits = [
        withdrawal(user, 1, key=f"d {text}") for user in (ann, bob) for text in texts
    ]
    assert set(statuses(call_concurrently(billing.deposit, deposits))) == {"done"}
    assert billing.withdraw(**order)["status"] == "done"
    assert (
        billing.withdraw(**order)["balance_after_minor"]
        == balance(ann)
        == 1000 - 8 + 4 - 300
    )
    assert balance(bob) == 1000 - 4 + 4


def test_two_users_may_use_the_same_key(billing, open_account, balance) -> None:
    ann, bob = open_account(1000), open_account(1000)
    billing.withdraw(**withdrawal(ann, 100, key="k"))
    assert billing.withdraw(**withdrawal(bob, 100, key="k"))["status"] == "done"
    assert billing.withdraw(**withdrawal(bob, 50, key=f"{ann}:k"))["status"] == "done"
    assert (
        billing.withdraw(**withdrawal(bob, 100, ref=f"key:{ann}:k"))["status"] == "done"
    )
    assert (balance(ann), balance(bob)) == (900, 750)


def test_the_order_of_another_user_is_a_conflict(
    billing, open_account, balance
) -> None:
    ann, bob = open_account(1000), open_account(1000)
    order = withdrawal(ann)
    billing.withdraw(**order)
    assert billing.withdraw(**{**order, "user_id": bob}) == {"status": "conflict"}
    assert billing.cancel(**{**order, "user_id": bob}) == {"status": "conflict"}
    assert balance(bob) == 1000


def test_concurrent_withdrawals_never_overdraw_an_account(
    billing, open_account, balance
) -> None:
    user_id = open_account(1000)
    orders = [withdrawal(user_id, 50) for _ in range(40)]
    outcomes = call_concurrently(billing.withdraw, orders + orders)
    assert outcomes[:40] == outcomes[40:]
    assert sorted(statuses(outcomes[:40])) == ["done"] * 20 + ["refused"] * 20
    assert balance(user_id) == 0
    # Number 1 is the deposit.
    assert sorted(o["seq"] for o in outcomes[:40]) == list(range(2, 42))


def test_batches_with_the_same_accounts_do_not_deadlock(
    billing, open_account, balance
) -> None:
    users = [open_account(1000) for _ in range(4)]
    batches = [
        {"items": [withdrawal(u, 10) for u in users[n % 4 :] + users[: n % 4]]}
        for n in range(16)
    ]
    outcomes = call_concurrently(billing.withdraw_many, batches)
    assert {status for batch in outcomes for status in statuses(batch)} == {"done"}
    assert [balance(user) for user in users] == [840] * 4


@pytest.fixture
def insert_uncommitted(sql):
    """`insert_uncommitted(ref, user_id)` inserts an operation in a transaction that stays open."""

    def begin(ref: str, user_id: str) -> None:
        sql("billing", "BEGIN")
        sql(
            "billing",
            """
            INSERT INTO operations
                (id, ref, user_id, seq, kind, amount_minor, status, balance_after_minor)
            VALUES (%s, %s, %s, 0, 'withdrawal', 100, 'done', 0)
            """,
            [new_id(), ref, user_id],
        )

    yield begin
    sql("billing", "ROLLBACK")


def test_a_ref_taken_by_another_transaction_is_a_conflict(
    billing, open_account, sql, insert_uncommitted
) -> None:
    ann, bob = open_account(1000), open_account(1000)
    insert_uncommitted("shell:till-1", bob)
    call = billing.withdraw_many.call_async(
        items=[withdrawal(ann, 100, ref="till-1"), withdrawal(ann, 200)]
    )
    eventually(lambda: sql("billing", "SELECT 1 FROM pg_locks WHERE NOT granted"))
    sql("billing", "COMMIT")
    assert statuses(call.result()) == ["conflict", "done"]
    assert billing.account(user_id=ann)["balance_minor"] == 800


def test_refs_that_conflict_in_each_attempt_end_in_unavailable(
    billing, user_id, balance, monkeypatch
) -> None:
    order = withdrawal(user_id)
    billing.withdraw(**order)
    # No attempt finds the operation that exists.
    monkeypatch.setattr(store, "load_operations", lambda connection, refs: {})
    with pytest.raises(Unavailable, match="other requests use the same refs"):
        billing.withdraw(**order)
    assert balance(user_id) == 700


def test_one_of_two_users_gets_a_ref_that_both_use(
    billing, open_account, balance
) -> None:
    ann, bob = open_account(1000), open_account(1000)
    pairs = [
        (withdrawal(ann, 10, ref=f"r{n}"), withdrawal(bob, 10, ref=f"r{n}"))
        for n in range(20)
    ]
    outcomes = call_concurrently(
        billing.withdraw, [item for pair in pairs for item in pair]
    )
    for one, other in zip(outcomes[::2], outcomes[1::2], strict=True):
        assert sorted(statuses([one, other])) == ["conflict", "done"]
    assert balance(ann) + balance(bob) == 1800


def test_a_cancelled_withdrawal_never_happens(billing, user_id, balance) -> None:
    order = withdrawal(user_id)
    cancelled = billing.cancel(**order)
    assert (cancelled["status"], cancelled["reason"]) == ("refused", "cancelled")
    assert billing.cancel(**order) == billing.withdraw(**order) == cancelled
    assert balance(user_id) == 1000


def test_a_done_withdrawal_is_not_cancelled(billing, user_id, balance) -> None:
    order = withdrawal(user_id)
    done = billing.withdraw(**order)
    assert billing.cancel(**order) == done
    assert balance(user_id) == 700


def test_concurrent_withdrawal_and_cancellation_have_one_outcome(
    billing, user_id, balance
) -> None:
    orders = [withdrawal(user_id, 10) for _ in range(20)]
    withdrawals = [billing.withdraw.call_async(**order) for order in orders]
    cancellations = [billing.cancel.call_async(**order) for order in orders]
    done = [call.result() for call in withdrawals]
    assert done == [call.result() for call in cancellations]
    assert balance(user_id) == 1000 - 10 * statuses(done).count("done")


def test_the_ledger_is_append_only(billing, user_id, config) -> None:
    """The role of the service has no other rights in the database."""
    connection = psycopg2.connect(
        config["DB_URIS"]["billing:Base"].replace("+psycopg2", "")
    )
    for statement in (
        "UPDATE operations SET amount_minor = 1",
        "DELETE FROM operations",
        "DELETE FROM accounts",
    ):
        with (
            connection,
            connection.cursor() as cursor,
            pytest.raises(psycopg2.errors.InsufficientPrivilege),
        ):
            cursor.execute(statement)
    connection.close()
