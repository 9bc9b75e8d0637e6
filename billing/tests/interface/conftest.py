"""billing with a real broker and database, and a fake of users."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from billing.service import Service
from tests.serving import FakeService, serving


@pytest.fixture(scope="module")
def running(suite_config) -> Iterator[FakeService]:
    fake = FakeService("users", "get_many")
    # Longer than any test waits.
    config = {**suite_config, "RPC_TIMEOUT_S": 60}
    with serving(config, fake.service, Service):
        yield fake


@pytest.fixture
def users(running, clean) -> FakeService:
    """The fake of users. It knows no user, and records the calls. billing is running."""
    running.reset()
    running.replies["get_many"] = lambda user_ids: [None for _ in user_ids]
    return running


@pytest.fixture
def billing(users, rpc):
    """The RPC methods of billing."""
    return rpc.billing


@pytest.fixture
def open_account(billing) -> Callable[..., str]:
    """`open_account(500)` opens an account with 500, and returns the id of its new user."""

    def open_(balance_minor: int = 0) -> str:
        user_id = new_id()
        billing.open_account(user_id=user_id)
        if balance_minor:
            billing.deposit(user_id=user_id, amount_minor=balance_minor, ref=new_id())
        return user_id

    return open_


@pytest.fixture
def balance(sql) -> Callable[[str], int]:
    """Read the stored balance of an account, and check that it is the sum of its operations."""

    def read(user_id: str) -> int:
        [(balance,)] = sql(
            "billing",
            "SELECT balance_minor FROM accounts WHERE user_id = %s",
            [user_id],
        )
        [(total,)] = sql(
            "billing",
            """
            SELECT coalesce(
                sum(CASE kind WHEN 'deposit' THEN amount_minor ELSE -amount_minor END), 0
            )
            FROM operations
            WHERE user_id = %s AND status = 'done'
            """,
            [user_id],
        )
        assert balance == total
        return balance

    return read


@pytest.fixture
def operations(sql) -> Callable[[], list]:
    """Read all operations as (ref, kind, status), ordered by ref."""
    return lambda: sql(
        "billing", "SELECT ref, kind, status FROM operations ORDER BY ref"
    )


def new_id() -> str:
    return str(uuid.uuid4())
