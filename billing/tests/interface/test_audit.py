"""The audit of billing compares each account with its ledger."""

import uuid

import pytest
from nameko.timer import Timer
from prometheus_client import REGISTRY

from billing import service
from chassis.container import Container
from conftest import eventually

BALANCED = {
    "status": "balanced",
    "accounts": 0,
    "operations": 0,
    "balance_minor": 0,
    "differences": [],
}
CHANGES = {
    "a balance": "UPDATE accounts SET balance_minor = balance_minor + 1 WHERE user_id = %s",
    "a last number": "UPDATE accounts SET last_seq = last_seq + 1 WHERE user_id = %s",
    "a deleted operation": "DELETE FROM operations WHERE seq = 2 AND user_id = %s",
    "a number": "UPDATE operations SET seq = 9 WHERE seq = 2 AND user_id = %s",
    "a balance after an operation": (
        "UPDATE operations SET balance_after_minor = 1 WHERE seq = 1 AND user_id = %s"
    ),
    "a status": (
        "UPDATE operations SET status = 'done', reason = NULL WHERE seq = 2 AND user_id = %s"
    ),
}


def metric(name: str) -> float | None:
    return REGISTRY.get_sample_value(name)


@pytest.fixture
def account(billing, open_account) -> str:
    """An account with a deposit of 1000, a refused withdrawal, and one of 300."""
    user_id = open_account(1000)
    for amount in (1001, 300):
        billing.withdraw(
            user_id=user_id, amount_minor=amount, order_id=str(uuid.uuid4())
        )
    return user_id


def test_accounts_that_match_their_ledgers_are_balanced(
    billing, account, open_account
) -> None:
    open_account()
    billing.withdraw(user_id=str(uuid.uuid4()), amount_minor=1, ref="unknown user")
    assert billing.audit() == {
        **BALANCED,
        "accounts": 2,
        "operations": 3,
        "balance_minor": 700,
    }


def test_an_audit_without_accounts_is_balanced(billing) -> None:
    assert billing.audit() == BALANCED


@pytest.mark.parametrize("change", CHANGES)
def test_a_difference_is_listed_with_its_account(
    billing, account, open_account, sql, change
) -> None:
    open_account(500)
    sql("billing", CHANGES[change], [account])
    outcome = billing.audit()
    assert (outcome["status"], outcome["accounts"]) == ("differs", 2)
    [line] = outcome["differences"]
    assert line.startswith(f"{account}: ")


def test_an_audit_counts_all_differences_and_lists_a_hundred(
    billing, sql, monkeypatch
) -> None:
    monkeypatch.setattr(service, "AUDIT_BATCH_SIZE", 7)
    sql(
        "billing",
        "INSERT INTO accounts SELECT gen_random_uuid(), 1 FROM generate_series(1, 105)",
    )
    outcome = billing.audit()
    assert (outcome["accounts"], len(outcome["differences"])) == (105, 100)
    assert metric("shop_audit_differences") == 105


def test_an_audit_while_money_moves_finds_no_difference(billing, open_account) -> None:
    users = [open_account(1000) for _ in range(5)]
    moves = [
        billing.withdraw.call_async(user_id=users[n % 5], amount_minor=30, key=f"k{n}")
        for n in range(100)
    ]
    audits = [billing.audit.call_async() for _ in range(10)]
    assert [audit.result()["status"] for audit in audits] == ["balanced"] * 10
    assert len([move.result() for move in moves]) == 100


def test_an_audit_runs_periodically(config, clean, sql) -> None:
    sql(
        "billing",
        "INSERT INTO accounts SELECT gen_random_uuid(), 1 FROM generate_series(1, 3)",
    )
    before = metric("shop_audit_timestamp_seconds") or 0
    container = Container(service.Service, {**config, "HEALTH_ADDRESS": "127.0.0.1:0"})
    [timer] = [e for e in container.entrypoints if isinstance(e, Timer)]
    timer.interval = 0.1  # instead of an hour
    container.start()
    eventually(lambda: (metric("shop_audit_timestamp_seconds") or 0) > before)
    container.stop()
    assert metric("shop_audit_differences") == 3
