"""One key has one effect: a retry gets the response of the first request."""

import eventlet
import pytest

from conftest import eventually
from tests.system.shopper import assert_problem

COPIES = 20


def at_once(request, count: int = COPIES) -> list:
    """Return the responses to `count` copies of a request, sent together."""
    pool = eventlet.GreenPool(count)
    return [thread.wait() for thread in [pool.spawn(request) for _ in range(count)]]


@pytest.fixture
def rich(new_shopper):
    """A user with 100.00."""
    shopper = new_shopper()
    shopper.deposit("100.00")
    return shopper


@pytest.mark.parametrize(
    ("verb", "balance"), [("deposit", "130.10"), ("withdraw", "69.90")]
)
def test_many_copies_at_once_move_money_once(rich, verb, balance) -> None:
    responses = at_once(lambda: getattr(rich, verb)("30.10", "k-1"))
    done = [response for response in responses if response.status_code == 201]
    assert {response.status_code for response in responses} == {201}
    assert done
    assert all(response.json() == done[0].json() for response in done)
    again = getattr(rich, verb)("30.10", "k-1")
    assert (again.status_code, again.json()) == (201, done[0].json())
    assert rich.balance == balance


def test_copies_of_an_order_are_one_order(rich) -> None:
    responses = at_once(lambda: rich.order("30.10", "k-1"))
    assert {response.status_code for response in responses} <= {201, 202}
    ids = {response.json()["id"] for response in responses}
    assert len(ids) == 1
    rich.letters(1)
    again = rich.order("30.10", "k-1")
    assert again.status_code == 201
    assert {again.json()["id"]} == ids
    assert again.json()["status"] == "paid"
    assert len(rich.all("/orders")) == 1
    assert rich.balance == "69.90"
    assert rich.letters(1)[0]["order_id"] in ids


@pytest.mark.parametrize("verb", ["deposit", "withdraw", "order"])
def test_a_key_with_another_body_is_refused(rich, state, verb) -> None:
    assert getattr(rich, verb)("1.00", "k-1").status_code in (201, 202)
    if verb == "order":
        rich.letters(1)
    before = state(rich.id)
    response = getattr(rich, verb)("1.01", "k-1")
    assert_problem(response, 422, "Idempotency-Key")
    assert response.json()["type"].endswith(":idempotency-key-reused")
    assert state(rich.id) == before


def test_a_deposits_key_is_refused_for_a_withdrawal(rich, state) -> None:
    rich.deposit("1.00", "k-1")
    before = state(rich.id)
    assert_problem(rich.withdraw("1.00", "k-1"), 422, "Idempotency-Key")
    assert state(rich.id) == before


def test_a_refusal_is_final_despite_a_later_deposit(new_shopper) -> None:
    shopper = new_shopper()
    refused = shopper.withdraw("5.00", "k-1")
    assert refused.status_code == 409
    rejected = shopper.order("5.00", "k-2").json()
    shopper.letters(1)
    shopper.deposit("10.00")
    assert shopper.withdraw("5.00", "k-1").json() == refused.json()
    again = shopper.order("5.00", "k-2").json()
    assert (again["id"], again["status"]) == (rejected["id"], "rejected")
    assert shopper.balance == "10.00"


def test_a_key_is_the_same_bare_and_quoted(rich) -> None:
    assert rich.deposit("1.00", "k-1").json() == rich.deposit("1.00", '"k-1"').json()
    quoted = rich.order("1.00", '"k-2"').json()
    assert quoted["id"] == rich.order("1.00", "k-2").json()["id"]
    # In upper case it is another key.
    assert rich.deposit("1.00", "K-1").json()["balance_after"] == "101.00"


def test_two_users_may_use_the_same_key(rich, new_shopper) -> None:
    other = new_shopper()
    mine = rich.deposit("1.00", "k-1").json()
    others = other.deposit("2.00", "k-1").json()
    assert mine["id"] != others["id"]
    assert (rich.balance, other.balance) == ("101.00", "2.00")
    mine, others = rich.order("1.00", "k-2").json(), other.order("1.00", "k-2").json()
    assert mine["id"] != others["id"]
    assert_problem(other.get(f"/orders/{mine['id']}"), 404)


def test_without_a_key_each_request_counts(rich) -> None:
    assert rich.deposit("1.00").json()["id"] != rich.deposit("1.00").json()["id"]
    assert rich.balance == "102.00"


@pytest.mark.parametrize("price", ["30.10", "100.01"])
@pytest.mark.parametrize("written", ["{}", "order:{}", '"order:{}"'])
def test_an_orders_id_as_a_key_is_not_the_order(rich, price, written) -> None:
    order = rich.ended_order(price)
    letters = rich.letters(1)
    left = rich.balance
    key = written.format(order["id"])
    withdrawal = rich.withdraw(price, key)
    assert withdrawal.status_code == (201 if float(left) >= float(price) else 409)
    operation = withdrawal.json().get("operation", withdrawal.json())
    assert operation["order_id"] is None
    # The withdrawal has used this key.
    assert_problem(rich.deposit(price, key), 422, "Idempotency-Key")
    assert rich.get(f"/orders/{order['id']}").json() == order
    assert rich.order("0.01", key).json()["id"] != order["id"]
    order_ids = [o["order_id"] for o in rich.all("/account/operations")]
    assert order_ids.count(order["id"]) == 1
    assert rich.letters(2)[1:] == letters


@pytest.mark.parametrize("prefix", ["key:{}:", "shell:", "order:"])
def test_a_key_that_looks_like_a_ref_is_a_key(rich, new_shopper, prefix) -> None:
    other = new_shopper()
    rich.deposit("1.00", "k-1")
    key = prefix.format(rich.id) + "k-1"
    assert other.deposit("1.00", key).json()["balance_after"] == "1.00"
    assert rich.deposit("1.00", key).json()["balance_after"] == "102.00"
    assert rich.balance == "102.00"


def test_a_first_deposit_never_fails_for_a_new_account(suite, new_shopper, sql) -> None:
    def sign_up_and_pay_in(_: int):
        shopper = new_shopper()
        return shopper, [eventlet.spawn(shopper.deposit, "1.00") for _ in range(3)]

    ids = []
    for shopper, deposits in eventlet.GreenPool(8).imap(sign_up_and_pay_in, range(40)):
        assert [deposit.wait().status_code for deposit in deposits] == [201] * 3
        assert shopper.balance == "3.00"
        ids.append(shopper.id)
    count = "SELECT count(*), count(DISTINCT user_id) FROM accounts WHERE user_id::text = ANY(%s)"
    assert sql("billing", count, [ids]) == [(40, 40)]


def test_every_user_gets_an_account_without_a_request(new_shopper, sql) -> None:
    ids = [new_shopper().id for _ in range(5)]
    count = "SELECT count(*) FROM accounts WHERE user_id::text = ANY(%s)"
    eventually(lambda: sql("billing", count, [ids]) == [(5,)])


def test_orders_at_once_never_overdraw(rich) -> None:
    pool = eventlet.GreenPool(16)
    threads = [pool.spawn(rich.order, "9.00") for _ in range(30)]
    assert {thread.wait().status_code for thread in threads} <= {201, 202}
    kinds = [letter["kind"] for letter in rich.letters(30)]
    assert (kinds.count("happiness"), kinds.count("grief")) == (11, 19)
    assert rich.balance == "1.00"
