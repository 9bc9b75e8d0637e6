"""Accounts and statements, with a real broker and database and a fake of users."""

import uuid

import pytest
from eventlet.event import Event

from conftest import eventually
from tests.paging import read_all


def new_id() -> str:
    return str(uuid.uuid4())


def stored_accounts(sql) -> list[str]:
    return [
        user_id for (user_id,) in sql("billing", "SELECT user_id::text FROM accounts")
    ]


def knows(*known: str):
    """Return a `get_many` of users that knows the users with these ids."""
    return lambda user_ids: [{"id": id_} if id_ in known else None for id_ in user_ids]


def test_user_created_opens_the_account_without_a_call(
    billing, users, dispatch, sql
) -> None:
    user_id = new_id()
    for _ in range(3):
        dispatch("users", "user_created", {"user_id": user_id})
    eventually(lambda: stored_accounts(sql) == [user_id])
    money = {"balance_minor": 0, "currency": "EUR", "exponent": 2}
    assert billing.account(user_id=user_id) == {
        "status": "open",
        "user_id": user_id,
        **money,
    }
    assert users.calls == []


@pytest.mark.parametrize("malformed", [1, True, 1.5, "not a UUID", [], {}])
def test_a_malformed_user_created_does_not_delay_other_accounts(
    billing, users, dispatch, sql, malformed
) -> None:
    ids = [new_id() for _ in range(3)]
    for user_id in (malformed, *ids):
        dispatch("users", "user_created", {"user_id": user_id})
    eventually(lambda: set(stored_accounts(sql)) >= set(ids))


def test_a_late_user_created_does_not_change_the_account(
    billing, open_account, dispatch, sql
) -> None:
    user_id, newer = open_account(700), new_id()
    dispatch("users", "user_created", {"user_id": user_id})
    dispatch("users", "user_created", {"user_id": newer})
    eventually(lambda: newer in stored_accounts(sql))
    assert billing.account(user_id=user_id)["balance_minor"] == 700


def test_a_deposit_before_user_created_opens_the_account(
    billing, users, balance
) -> None:
    user_id = new_id()
    users.replies["get_many"] = knows(user_id)
    assert (
        billing.deposit(user_id=user_id, amount_minor=500, ref="first")["status"]
        == "done"
    )
    assert users.calls == [("get_many", {"user_ids": [user_id]})]
    assert balance(user_id) == 500


def test_an_account_query_before_user_created_opens_the_account(
    billing, users, sql
) -> None:
    user_id, unknown = new_id(), new_id()
    users.replies["get_many"] = knows(user_id)
    outcomes = billing.account_many(
        items=[{"user_id": unknown}, {"user_id": user_id}, {"user_id": 7}]
    )
    assert [outcome["status"] for outcome in outcomes] == [
        "unknown-user",
        "open",
        "invalid",
    ]
    assert stored_accounts(sql) == [user_id]


def test_the_refusal_of_an_unknown_user_is_final(billing, users, sql) -> None:
    order = {"user_id": new_id(), "amount_minor": 100, "order_id": new_id()}
    refused = billing.withdraw(**order)
    assert (refused["status"], refused["reason"], refused["seq"]) == (
        "refused",
        "unknown-user",
        0,
    )
    billing.open_account(user_id=order["user_id"])
    billing.deposit(user_id=order["user_id"], amount_minor=500, ref="till")
    assert billing.withdraw(**order) == refused
    assert billing.account(user_id=order["user_id"])["balance_minor"] == 500
    assert [o["ref"] for o in billing.statement(user_id=order["user_id"])["items"]] == [
        "shell:till"
    ]


@pytest.fixture(params=["fails", "is slow"])
def unavailable_users(request, users):
    """users fails, or takes longer than the timeout of a call."""
    recovered = Event()
    if request.param == "is slow":
        users.replies["get_many"] = lambda user_ids: recovered.wait()
    else:
        del users.replies["get_many"]
    yield users
    recovered.send([])


def test_while_users_is_unavailable_only_new_users_wait(
    billing, unavailable_users, open_account, balance, sql
) -> None:
    user_id, new_user_id = open_account(1000), new_id()
    items = [
        {"user_id": id_, "amount_minor": 100, "order_id": new_id()}
        for id_ in (user_id, new_user_id, user_id)
    ]
    outcomes = billing.withdraw_many(items=items)
    assert [outcome["status"] for outcome in outcomes] == [
        "done",
        "unavailable",
        "done",
    ]
    assert balance(user_id) == 800
    accounts = billing.account_many(
        items=[{"user_id": new_user_id}, {"user_id": user_id}]
    )
    assert [account["status"] for account in accounts] == ["unavailable", "open"]
    assert (
        sql("billing", "SELECT 1 FROM operations WHERE user_id = %s", [new_user_id])
        == []
    )


def test_a_deposit_succeeds_once_users_is_available(billing, users, balance) -> None:
    deposit = {"user_id": new_id(), "amount_minor": 100, "ref": "till"}
    del users.replies["get_many"]
    assert billing.deposit(**deposit) == {"status": "unavailable"}
    users.replies["get_many"] = knows(deposit["user_id"])
    assert billing.deposit(**deposit)["status"] == "done"
    assert balance(deposit["user_id"]) == 100


def test_opening_an_account_is_idempotent(billing, sql) -> None:
    user_id = new_id()
    assert billing.open_account(user_id=user_id) == billing.open_account(
        user_id=user_id
    )
    assert stored_accounts(sql) == [user_id]


@pytest.mark.parametrize("method", ["account", "open_account", "statement"])
def test_an_invalid_id_is_named(billing, sql, subtests, method) -> None:
    for user_id in ("", "42", None, 42, new_id().upper(), new_id() + "0"):
        with subtests.test(user_id=user_id):
            outcome = getattr(billing, method)(user_id=user_id)
            assert (outcome["status"], list(outcome["errors"])) == (
                "invalid",
                ["user_id"],
            )
    assert stored_accounts(sql) == []


def numbers(statement: list[dict]) -> list[int]:
    return [operation["seq"] for operation in statement]


def test_a_statement_has_every_operation_once_newest_first(
    billing, open_account
) -> None:
    user_id = open_account(100)
    items = [{"user_id": user_id, "amount_minor": 40, "key": f"k{n}"} for n in range(6)]
    billing.withdraw_many(items=items)
    for limit in (1, 3, 7, 100):
        assert numbers(read_all(billing.statement, limit, user_id=user_id)) == [
            7,
            6,
            5,
            4,
            3,
            2,
            1,
        ]


def test_pages_are_complete_while_operations_are_added(billing, open_account) -> None:
    user_id = open_account(100)
    billing.withdraw_many(
        items=[
            {"user_id": user_id, "amount_minor": 1, "key": f"k{n}"} for n in range(9)
        ]
    )

    def add() -> None:
        billing.deposit_many(
            items=[
                {"user_id": user_id, "amount_minor": 1, "ref": new_id()}
                for _ in range(3)
            ]
        )

    assert numbers(read_all(billing.statement, 2, add, user_id=user_id)) == list(
        range(10, 0, -1)
    )


def test_a_statement_shows_its_own_account_only(billing, open_account) -> None:
    ann, bob = open_account(100), open_account(200)
    assert [o["user_id"] for o in billing.statement(user_id=ann)["items"]] == [ann]
    assert [o["amount_minor"] for o in billing.statement(user_id=bob)["items"]] == [200]
    assert billing.statement(user_id=new_id()) == {"items": [], "next": None}


INVALID_PAGES = {
    "limit": (0, -1, 101, 10**9, "x", None, 1.5),
    "after": (0, "x", new_id(), 2**63),
}


@pytest.mark.parametrize("field", INVALID_PAGES)
def test_an_invalid_page_is_named(billing, subtests, field) -> None:
    for value in INVALID_PAGES[field]:
        with subtests.test(value=value):
            outcome = billing.statement(**{"user_id": new_id(), field: value})
            assert (outcome["status"], list(outcome["errors"])) == ("invalid", [field])


def test_concurrent_reads_show_only_committed_balances(billing, open_account) -> None:
    user_id = open_account(100)
    moves = [
        billing.withdraw.call_async(user_id=user_id, amount_minor=30, key=f"k{n}")
        for n in range(20)
    ]
    reads = [billing.account.call_async(user_id=user_id) for _ in range(20)]
    seen = {call.result()["balance_minor"] for call in reads}
    assert seen <= {100, 70, 40, 10}
    assert [call.result()["status"] for call in moves].count("done") == 3
