"""The rules of billing: which operations a batch of requests becomes."""

from datetime import UTC, datetime
from itertools import count

import pytest
from hypothesis import given, strategies as st

from billing import domain
from billing.domain import (
    MAX_BALANCE_MINOR,
    Account,
    Conflict,
    PostingRequest,
    decide,
)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
KNOWN = ("ann", "bob")
ids = count(1)


def request(
    kind="withdrawal", amount=100, *, ref="r", user="ann", cancels=False
) -> PostingRequest:
    return PostingRequest(
        id=f"id-{next(ids)}",
        ref=ref,
        user_id=user,
        kind=kind,
        amount_minor=amount,
        requested_at=NOW,
        cancels=cancels,
    )


def ann(balance: int, last_seq: int = 0) -> dict[str, Account]:
    return {"ann": Account(user_id="ann", balance_minor=balance, last_seq=last_seq)}


requests = st.builds(
    request,
    st.sampled_from(["deposit", "withdrawal"]),
    st.integers(1, 60),
    ref=st.sampled_from("abcdef"),
    user=st.sampled_from([*KNOWN, "eve"]),
    cancels=st.booleans(),
)
batches = st.lists(requests, max_size=12)
balances = st.one_of(
    st.integers(0, 120), st.integers(MAX_BALANCE_MINOR - 120, MAX_BALANCE_MINOR)
)
books = st.fixed_dictionaries(
    {
        name: balances.map(lambda b, n=name: Account(user_id=n, balance_minor=b))
        for name in KNOWN
    }
)


class Ledger:
    """A fake of the database. It stores the decisions."""

    def __init__(self, accounts, recorded=()) -> None:
        self.accounts = dict(accounts)
        self.recorded = dict(recorded)

    def apply(self, batch):
        decisions = decide(self.accounts, self.recorded, batch)
        self.accounts |= {
            account.user_id: account for account in decisions.changed_accounts
        }
        self.recorded |= {
            operation.ref: operation for operation in decisions.new_operations
        }
        return decisions


@given(books, batches, batches)
def test_a_batch_has_the_effect_of_its_single_requests(
    accounts, history, batch
) -> None:
    together, singly = Ledger(accounts), Ledger(accounts)
    together.apply(history)
    singly.apply(history)
    outcomes = [singly.apply([one]).outcomes[0] for one in batch]
    assert together.apply(batch).outcomes == outcomes
    assert (together.accounts, together.recorded) == (singly.accounts, singly.recorded)


@given(books, batches)
def test_balances_change_by_exactly_the_done_operations(accounts, batch) -> None:
    ledger = Ledger(accounts)
    operations = ledger.apply(batch).new_operations
    for name in KNOWN:
        done = [o for o in operations if o.user_id == name and o.status == "done"]
        moved = sum(
            o.amount_minor if o.kind == "deposit" else -o.amount_minor for o in done
        )
        assert (
            ledger.accounts[name].balance_minor == accounts[name].balance_minor + moved
        )


@given(books, batches)
def test_deciding_again_changes_nothing(accounts, batch) -> None:
    ledger = Ledger(accounts)
    first = ledger.apply(batch)
    again = ledger.apply(batch)
    assert again.outcomes == first.outcomes
    assert (again.new_operations, again.changed_accounts) == ([], [])


@given(books, batches)
def test_balances_stay_within_their_limits(accounts, batch) -> None:
    ledger = Ledger(accounts)
    for operation in ledger.apply(batch).new_operations:
        assert 0 <= operation.balance_after_minor <= MAX_BALANCE_MINOR
    assert all(
        0 <= a.balance_minor <= MAX_BALANCE_MINOR for a in ledger.accounts.values()
    )


@given(books, batches, batches)
def test_operations_of_an_account_are_numbered_without_gaps(
    accounts, history, batch
) -> None:
    ledger = Ledger(accounts)
    operations = (
        ledger.apply(history).new_operations + ledger.apply(batch).new_operations
    )
    for name in KNOWN:
        numbers = [o.seq for o in operations if o.user_id == name]
        assert numbers == list(range(1, len(numbers) + 1))
        assert ledger.accounts[name].last_seq == len(numbers)
    assert all(o.seq == 0 for o in operations if o.user_id == "eve")


@given(books, batches)
def test_a_ref_has_one_operation_and_matches_equal_requests_only(
    accounts, batch
) -> None:
    decisions = Ledger(accounts).apply(batch)
    refs = [o.ref for o in decisions.new_operations]
    assert sorted(refs) == sorted({r.ref for r in batch})
    for wanted, outcome in zip(batch, decisions.outcomes, strict=True):
        assert isinstance(outcome, Conflict) or (
            (outcome.ref, outcome.user_id, outcome.kind, outcome.amount_minor)
            == (wanted.ref, wanted.user_id, wanted.kind, wanted.amount_minor)
        )


def test_the_whole_balance_can_be_withdrawn() -> None:
    [outcome] = decide(ann(100), {}, [request(amount=100)]).outcomes
    assert (outcome.status, outcome.balance_after_minor) == ("done", 0)


@pytest.mark.parametrize(
    ("accounts", "wanted", "reason"),
    [
        (ann(99), request(amount=100), "insufficient-funds"),
        (ann(MAX_BALANCE_MINOR), request("deposit", 1), "balance-limit"),
        (ann(500), request(cancels=True), "cancelled"),
        ({}, request("deposit"), "unknown-user"),
        ({}, request(cancels=True), "unknown-user"),
    ],
)
def test_a_refusal_is_recorded_and_moves_no_money(accounts, wanted, reason) -> None:
    decisions = decide(accounts, {}, [wanted])
    [operation] = decisions.new_operations
    assert decisions.outcomes == [operation]
    assert (operation.status, operation.reason) == ("refused", reason)
    assert [a.balance_minor for a in decisions.changed_accounts] == [
        a.balance_minor for a in accounts.values()
    ]


def test_a_refusal_stays_after_a_deposit() -> None:
    ledger = Ledger(ann(0))
    wanted = request(amount=100)
    ledger.apply([wanted, request("deposit", 500, ref="top up")])
    assert ledger.apply([wanted]).outcomes[0].reason == "insufficient-funds"
    assert ledger.accounts["ann"].balance_minor == 500


def test_a_done_withdrawal_is_not_cancelled() -> None:
    ledger = Ledger(ann(100))
    [done] = ledger.apply([request()]).outcomes
    assert ledger.apply([request(cancels=True)]).outcomes == [done]


def test_a_cancelled_withdrawal_never_happens() -> None:
    ledger = Ledger(ann(100))
    [cancelled] = ledger.apply([request(cancels=True)]).outcomes
    assert ledger.apply([request()]).outcomes == [cancelled]
    assert ledger.accounts["ann"].balance_minor == 100


@pytest.mark.parametrize(
    "other",
    [
        request(amount=99),
        request("deposit"),
        request(user="bob"),
        request(user="eve"),
    ],
)
def test_a_ref_with_another_amount_kind_or_user_is_a_conflict(other) -> None:
    accounts = {name: Account(user_id=name, balance_minor=100) for name in KNOWN}
    decisions = decide(accounts, {}, [request(), other])
    assert decisions.outcomes[1] == Conflict()
    assert len(decisions.new_operations) == 1


@given(st.text(min_size=1), st.uuids(), st.uuids())
def test_refs_of_orders_keys_and_operators_differ(text, user_id, order_id) -> None:
    user = str(user_id)
    order = domain.ref_of({"user_id": user, "order_id": str(order_id)})
    for wanted in (
        text,
        str(order_id),
        order,
        domain.ref_of({"user_id": user, "key": text}),
    ):
        key, shell = ({"user_id": user, name: wanted} for name in ("key", "ref"))
        refs = {order, domain.ref_of(key), domain.ref_of(shell)}
        assert len(refs) == 3
        assert [domain.order_id_of(ref) for ref in refs - {order}] == [None, None]
    assert domain.order_id_of(order) == str(order_id)
