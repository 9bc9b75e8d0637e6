"""billing with a real broker and database."""

import uuid

import pytest

from billing.service import Service

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def user_id(sql) -> str:
    """A user with an account."""
    user_id = str(uuid.uuid4())
    sql("billing", "INSERT INTO accounts (user_id) VALUES (%s)", [user_id])
    return user_id


def test_a_redelivered_withdrawal_moves_no_money(run, rpc, user_id) -> None:
    run(Service)
    rpc.billing.deposit(user_id=user_id, amount_minor=1000, ref="till-1")
    order = {"user_id": user_id, "amount_minor": 300, "order_id": str(uuid.uuid4())}
    first = rpc.billing.withdraw(**order)
    again = rpc.billing.withdraw(**order)
    assert first == again
    assert rpc.billing.account(user_id=user_id)["balance_minor"] == 700
