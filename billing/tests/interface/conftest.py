"""billing on a real broker and database, beside a fake of users."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from billing.service import Service
from tests.serving import FakeService, serving


@pytest.fixture(scope="module")
def running(suite_config) -> Iterator[FakeService]:
    fake = FakeService("users", "get_many")
    patient = {**suite_config, "RPC_TIMEOUT_S": 60}  # longer than any test waits
    with serving(patient, fake.service, Service):
        yield fake


@pytest.fixture
def users(running, clean) -> FakeService:
    """The fake of users: billing runs beside it; it knows nobody, and records who asks."""
    running.reset()
    running.answers["get_many"] = lambda user_ids: [None for _ in user_ids]
    return running


@pytest.fixture
def billing(users, rpc):
    """How other services call billing."""
    return rpc.billing


@pytest.fixture
def open_account(billing) -> Callable[..., str]:
    """`open_account(500)`: a new user's id, whose account holds 500."""

    def open_(balance_minor: int = 0) -> str:
        user_id = new_id()
        billing.open_account(user_id=user_id)
        if balance_minor:
            billing.deposit(user_id=user_id, amount_minor=balance_minor, ref=new_id())
        return user_id

    return open_


@pytest.fixture
def balance(sql) -> Callable[[str], int]:
    """An account's balance as stored, which is what its ledger adds up to."""

    def read(user_id: str) -> int:
        [(balance,)] = sql(
            "billing",
            "SELECT balance_minor FROM accounts WHERE user_id = %s",
            [user_id],
        )
        [(total,)] = sql(
            "billing",
            "SELECT coalesce(sum(CASE kind WHEN 'deposit' THEN amount_minor ELSE -amount_minor END), 0)"
            " FROM operations WHERE user_id = %s AND status = 'done'",
            [user_id],
        )
        assert balance == total
        return balance

    return read


@pytest.fixture
def operations(sql) -> Callable[[], list]:
    """All operations as stored: (ref, kind, status), in the order of refs."""
    return lambda: sql(
        "billing", "SELECT ref, kind, status FROM operations ORDER BY ref"
    )


def new_id() -> str:
    return str(uuid.uuid4())
