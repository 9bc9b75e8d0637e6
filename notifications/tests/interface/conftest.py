"""notifications on a real broker and database, beside a twin of users."""

import uuid
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import REGISTRY

from conftest import eventually
from notifications.service import Service
from tests.serving import Twin, serving


@pytest.fixture(scope="module")
def running(suite_config) -> Iterator[Twin]:
    twin = Twin("users", "get_many")
    with serving(suite_config, twin.service, Service):
        yield twin


@pytest.fixture
def users(running, clean) -> Twin:
    """The twin of users: notifications runs beside it; it knows nobody, and records who asks."""
    running.forget()
    running.answers["get_many"] = lambda user_ids: [None for _ in user_ids]
    return running


@pytest.fixture
def notifications(users, rpc):
    """How other services call notifications."""
    return rpc.notifications


@pytest.fixture
def a_user() -> Callable[..., dict]:
    """`a_user(locale="ru")`: what user_created tells of a new user."""

    def make(**given) -> dict:
        user_id = str(uuid.uuid4())
        new = {"user_id": user_id, "username": "Ann", "email": f"{user_id}@example.com", "locale": "en"}
        return {**new, **given}

    return make


SOURCES = {"user_created": "users", "order_paid": "orders", "order_rejected": "orders"}


def handled() -> int:
    """How many deliveries of events the handlers are through with, whether done or failed."""
    queues = [f"evt-{source}-{event}--notifications.handle_{event}" for event, source in SOURCES.items()]
    samples = [{"queue": queue, "outcome": outcome} for queue in queues for outcome in ("done", "failed")]
    name = "shop_events_handled_total"
    return sum(int(REGISTRY.get_sample_value(name, sample) or 0) for sample in samples)


@pytest.fixture
def tell(notifications, dispatch) -> Callable[..., None]:
    """`tell(("order_paid", {...}), ...)`: events, delivered in that order; returns when the handler
    is through with each."""

    def deliver(*events) -> None:
        before = handled()
        for type_, event in events:
            dispatch(SOURCES[type_], type_, event)
        eventually(lambda: handled() >= before + len(events))

    return deliver
