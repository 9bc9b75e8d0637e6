"""`python -m audit` finds no difference in a running suite, busy or settled."""

import json
import subprocess
import sys
from typing import Any

import eventlet
import pytest

from conftest import eventually
from dev.broker import MIGRATIONS
from dev.cli import QUIET
from tests.system.shopper import PASSWORD

SHOPPERS, AUDITS = 6, 4


@pytest.fixture
def settled(suite, sql, request) -> None:
    """Wait until nothing is in flight, then remove the data of earlier tests."""
    unfinished = [
        ("orders", "SELECT FROM orders WHERE status = 'pending'"),
        ("orders", "SELECT FROM outbox WHERE sent_at IS NULL"),
        ("users", "SELECT FROM outbox WHERE sent_at IS NULL"),
    ]
    eventually(
        lambda: not any(sql(service, query) for service, query in unfinished), 60
    )
    eventlet.sleep(1)  # for the last letter
    request.getfixturevalue("clean")


@pytest.fixture
def audit(suite, settled):
    """Return a function that runs the command: its exit code and its output."""

    def run(*flags: str) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "audit", "--json", *flags]
        env = {**suite.environment_of(MIGRATIONS), **QUIET}
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=120
        )
        return done.returncode, json.loads(done.stdout)

    return run


def test_a_complete_story_leaves_no_differences(audit, new_shopper) -> None:
    for locale in ("en", "ru"):
        shopper = new_shopper(locale=locale)
        shopper.deposit("10.00")
        assert shopper.ended_order("4.00")["status"] == "paid"
        assert shopper.ended_order("7.00")["status"] == "rejected"
        shopper.withdraw("1.00")
        shopper.letters(2)
        shopper.post("/notifications", json={"subject": PASSWORD, "body": "b"})

    def audited() -> dict[str, Any] | None:
        code, found = audit("--settled")
        return found if code == 0 else None

    found = eventually(audited)
    assert found["differences"] == 0
    assert found["checked"] == {
        "users": 2,
        "accounts": 2,
        "operations": 8,
        "orders": 4,
        "letters": 6,
        "money": "10.00",
    }


def test_a_running_suite_has_no_differences(audit, new_shopper) -> None:
    """Users sign up, deposit and order all the time while the audits run."""
    stop: list[bool] = []

    def work() -> None:
        while not stop:
            shopper = new_shopper()
            shopper.deposit("10.00")
            for price in ("4.00", "7.00", "6.00", "0.01"):
                shopper.order(price)

    workers = [eventlet.spawn(work) for _ in range(SHOPPERS)]
    try:
        audits = [audit() for _ in range(AUDITS)]
    finally:
        stop.append(True)
        for worker in workers:
            worker.wait()
    assert [(code, found["first"]) for code, found in audits] == [(0, [])] * AUDITS
    checked = [found["checked"]["orders"] for _, found in audits]
    assert checked == sorted(checked)
    assert checked[-1] > checked[0]
    eventually(lambda: audit("--settled")[0] == 0)
