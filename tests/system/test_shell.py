"""`nameko shell` and `make shell` execute an operator's lines from standard input."""

import json
import subprocess
import sys
import uuid
from typing import Any

import pytest

from dev.broker import OPERATOR
from dev.cli import QUIET
from tests.system.processes import NAMEKO


@pytest.fixture(
    params=[[NAMEKO, "shell"], [sys.executable, "-m", "dev.shell"]],
    ids=["nameko shell", "make shell"],
)
def shell(suite, request):
    """Return a function that runs lines in a shell and returns the value of each."""

    def run(*lines: str) -> list[Any]:
        code = "".join(f"print('=>', json.dumps({line}))\n" for line in lines)
        done = subprocess.run(
            [*request.param, "--config", "config.yaml"],
            env={**suite.environment_of(OPERATOR), **QUIET},
            input="import json\n" + code,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return [
            json.loads(line.split("=> ", 1)[1])
            for line in done.stdout.splitlines()
            if "=> " in line
        ]

    return run


def test_an_operator_pays_in_and_orders_for_a_user(shell, shopper) -> None:
    user = f"user_id='{shopper.id}'"
    deposit, again, conflict, order, refused = shell(
        f"n.rpc.billing.deposit({user}, amount_minor=10000, ref='till-{shopper.id}')",
        f"n.rpc.billing.deposit({user}, amount_minor=10000, ref='till-{shopper.id}')",
        f"n.rpc.billing.deposit({user}, amount_minor=10001, ref='till-{shopper.id}')",
        f"n.rpc.orders.place({user}, price_minor=3010)",
        f"n.rpc.billing.withdraw({user}, amount_minor=6991, ref='till-2-{shopper.id}')",
    )
    assert (deposit["status"], deposit["balance_after_minor"]) == ("done", 10000)
    assert again == deposit
    assert conflict == {"status": "conflict"}
    assert order["status"] == "paid"
    assert (refused["status"], refused["reason"]) == ("refused", "insufficient-funds")
    assert shopper.balance == "69.90"
    assert shopper.letters(1)[0]["order_id"] == order["id"]


def test_an_operator_runs_billings_audit(shell, shopper, sql) -> None:
    shopper.deposit("1.00")
    [reply] = shell("n.rpc.billing.audit()")
    assert [(reply["accounts"],)] == sql("billing", "SELECT count(*) FROM accounts")
    assert [(reply["operations"],)] == sql(
        "billing", "SELECT count(*) FROM operations WHERE seq > 0"
    )


def test_an_operator_writes_to_users_and_addresses(shell, shopper) -> None:
    address = f"{uuid.uuid4()}@example.org"
    letter, listed, other, others = shell(
        f"n.rpc.notifications.send(user_id='{shopper.id}', subject='Hi', body='there')",
        f"n.rpc.notifications.list(user_id='{shopper.id}')",
        f"n.rpc.notifications.send(email='{address}', subject='Hi', body='you')",
        f"n.rpc.notifications.list(email='{address}')",
    )
    assert letter["email"] == shopper.user["email"]
    assert [item["id"] for item in listed["items"]] == [letter["id"]]
    assert [item["id"] for item in others["items"]] == [other["id"]]
    assert [item["id"] for item in shopper.all("/notifications")] == [letter["id"]]


def test_an_operators_mistake_is_answered_as_invalid(shell, shopper) -> None:
    user = f"user_id='{shopper.id}'"
    replies = shell(
        "n.rpc.billing.deposit()",
        f"n.rpc.billing.deposit({user}, amount_minor=1.5, ref='x')",
        f"n.rpc.billing.deposit({user}, amount_minor=True, ref='x')",
        f"n.rpc.billing.deposit({user}, amount_minor=0, ref='x')",
        f"n.rpc.billing.deposit({user}, amount_minor=100)",
        f"n.rpc.billing.deposit({user}, amount_minor=100, ref='x', key='y')",
        f"n.rpc.billing.deposit({user}, amount_minor=10**18, ref='x')",
        f"n.rpc.orders.place({user}, price_minor=-1)",
        f"n.rpc.orders.place({user}, price_minor='1')",
        f"n.rpc.notifications.send({user}, subject='Hi')",
        "n.rpc.notifications.list()",
    )
    assert [reply["status"] for reply in replies] == ["invalid"] * len(replies)
    assert shopper.all("/account/operations") == shopper.all("/orders") == []
