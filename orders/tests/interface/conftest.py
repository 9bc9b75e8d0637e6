"""orders with a real broker and database, and a fake of billing."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from orders.service import Service
from tests.serving import FakeService, serving


@pytest.fixture(scope="module")
def running(suite_config) -> Iterator[FakeService]:
    fake = FakeService("billing", "withdraw_many", "cancel_many")
    with serving(suite_config, fake.service, Service):
        yield fake


@pytest.fixture
def billing(running, clean) -> FakeService:
    """The fake of billing. By default each withdrawal is done. orders is running."""
    running.reset()
    running.replies["withdraw_many"] = every({"status": "done"})
    return running


@pytest.fixture
def orders(billing, rpc):
    """The RPC methods of orders."""
    return rpc.orders


@pytest.fixture
def events(sql) -> Callable[[], list[tuple[str, str]]]:
    """Read the events in the outbox as (type, order id), oldest first."""
    statement = "SELECT type, payload->>'order_id' FROM outbox ORDER BY event_id"
    return lambda: sql("orders", statement)


def every(outcome: dict) -> Callable[..., list[dict]]:
    """Return a method of billing that has the same outcome for each item."""
    return lambda items: [outcome for _ in items]


@pytest.fixture
def an_order() -> Callable[..., dict]:
    """`an_order(price_minor=...)` returns the fields of a new order of a new user."""

    def make(**given) -> dict:
        new = {
            "user_id": str(uuid.uuid4()),
            "price_minor": 300,
            "key": "k",
            "request_id": "r",
        }
        return {**new, **given}

    return make
