"""The running suite, and its users."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.servers import Servers
from tests.system.processes import Suite
from tests.system.shopper import Client, Shopper
from tests.system.traffic import Traffic

COUNTS = {
    "billing": [
        "SELECT balance_minor FROM accounts WHERE user_id = %s",
        "SELECT count(*) FROM operations WHERE user_id = %s",
    ],
    "orders": ["SELECT count(*) FROM orders WHERE user_id = %s"],
    "notifications": ["SELECT count(*) FROM letters WHERE user_id = %s"],
}


@pytest.fixture(scope="package")
def traffic(servers: Servers, suite_config: dict[str, Any]) -> Iterator[Traffic]:
    """All messages of these tests. At the end docs/asyncapi.yaml must describe each of them."""
    with Traffic(servers, suite_config) as traffic:
        yield traffic
        differences = traffic.differences()
        assert not differences, "\n".join(differences)


@pytest.fixture(scope="package")
def suite(
    servers: Servers,
    environment: dict[str, str],
    traffic: Traffic,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Suite]:
    """All five services, ready, each as its own user of the broker."""
    # Other tests may have given these users other permissions.
    servers.load_permissions(again=True)
    folder = tmp_path_factory.mktemp("suite")
    with Suite(environment, servers.ports, folder, servers.env).running() as suite:
        yield suite


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    """A client without a token."""
    with Client(suite.url) as client:
        yield client


@pytest.fixture
def new_shopper(suite: Suite) -> Callable[..., Shopper]:
    """Return a function that makes users."""
    return lambda **details: Shopper(suite.url, **details)


@pytest.fixture
def shopper(new_shopper: Callable[..., Shopper]) -> Shopper:
    """A new user without money."""
    return new_shopper()


@pytest.fixture
def state(sql: Callable[..., Any]) -> Callable[[str], tuple[Any, ...]]:
    """Return a user's balance, and the counts of operations, orders and letters."""

    def read(user_id: str) -> tuple[Any, ...]:
        return tuple(
            sql(service, statement, [user_id])
            for service, statements in COUNTS.items()
            for statement in statements
        )

    return read


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return Path.cwd()
