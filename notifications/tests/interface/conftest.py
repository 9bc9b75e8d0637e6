"""notifications with a real broker and database, and a fake of users."""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chassis.events import EventHandler
from conftest import eventually
from notifications.service import Service
from tests.serving import FakeService, serving


@pytest.fixture(scope="module")
def running(suite_config) -> Iterator[FakeService]:
    fake = FakeService("users", "get_many")
    with serving(suite_config, fake.service, Service):
        yield fake


@pytest.fixture
def users(running, clean) -> FakeService:
    """The fake of users. It knows no user, and records the calls. notifications is running."""
    running.reset()
    running.replies["get_many"] = lambda user_ids: [None for _ in user_ids]
    return running


@pytest.fixture
def notifications(users, rpc):
    """The RPC methods of notifications."""
    return rpc.notifications


@pytest.fixture
def a_user() -> Callable[..., dict]:
    """`a_user(locale="ru")` returns the fields of user_created for a new user."""

    def make(**given) -> dict:
        user_id = str(uuid.uuid4())
        new = {
            "user_id": user_id,
            "username": "Ann",
            "email": f"{user_id}@example.com",
            "locale": "en",
        }
        return {**new, **given}

    return make


SOURCES = {"user_created": "users", "order_paid": "orders", "order_rejected": "orders"}


@pytest.fixture
def attempts(monkeypatch) -> Counter[str]:
    """Count the attempts of each event that have ended, in success or failure."""
    counts: Counter[str] = Counter()
    attempt = EventHandler._attempt

    def counted(handler: EventHandler, batch: Any) -> Any:
        result = attempt(handler, batch)
        counts.update(
            _identity(json.loads(delivery.message.body)) for delivery in batch
        )
        return result

    monkeypatch.setattr(EventHandler, "_attempt", counted)
    return counts


def _identity(event: dict) -> str:
    return json.dumps(event, sort_keys=True)


@pytest.fixture
def publish(notifications, attempts, dispatch) -> Callable[..., None]:
    """`publish(("order_paid", {...}), ...)` publishes events, and waits for their attempts.

    Retries of earlier events do not count.
    """

    def deliver(*events) -> None:
        expected = attempts + Counter(_identity(event) for _, event in events)
        for type_, event in events:
            dispatch(SOURCES[type_], type_, event)
        eventually(lambda: attempts >= expected)

    return deliver
