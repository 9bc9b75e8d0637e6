"""orders on a real broker and database, beside a fake of billing."""

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
    """The fake of billing: orders runs beside it; every withdrawal is done unless told otherwise."""
    running.reset()
    running.answers["withdraw_many"] = every({"status": "done"})
    return running


@pytest.fixture
def orders(billing, rpc):
    """How other services call orders."""
    return rpc.orders


@pytest.fixture
def events(sql) -> Callable[[], list[tuple[str, str]]]:
    """The events written so far: (type, order id), in the order of their writing."""
    statement = "SELECT type, payload->>'order_id' FROM outbox ORDER BY event_id"
    return lambda: sql("orders", statement)


def every(outcome: dict) -> Callable[..., list[dict]]:
    """What billing answers when the same happens to every item."""
    return lambda items: [outcome for _ in items]


@pytest.fixture
def an_order() -> Callable[..., dict]:
    """`an_order(price_minor=...)`: a new order of a new user, unless told otherwise."""

    def make(**given) -> dict:
        new = {
            "user_id": str(uuid.uuid4()),
            "price_minor": 300,
            "key": "k",
            "request_id": "r",
        }
        return {**new, **given}

    return make
