"""users with a real broker and database."""

from collections.abc import Callable, Iterator

import pytest

from tests.serving import serving
from users.service import Service


@pytest.fixture(scope="module")
def running(suite_config) -> Iterator[None]:
    with serving(suite_config, Service):
        yield


@pytest.fixture
def users(running, clean, rpc):
    """The RPC methods of users."""
    return rpc.users


@pytest.fixture
def stored(sql) -> Callable[[], tuple[int, int]]:
    """Count the stored users and the stored events user_created."""

    def count() -> tuple[int, int]:
        [(users,)] = sql("users", "SELECT count(*) FROM users")
        [(events,)] = sql(
            "users", "SELECT count(*) FROM outbox WHERE type = 'user_created'"
        )
        return users, events

    return count
