"""What tests share: a real broker and real databases of their own, services run in this process.

Unit tests need none of it; the servers start when the first test asks for them.
"""

import eventlet

eventlet.monkey_patch()  # first of all, as `nameko run` does

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from kombu import Queue
from nameko.cli.main import setup_yaml_parser
from nameko.rpc import get_rpc_exchange
from nameko.standalone.events import event_dispatcher
from nameko.standalone.rpc import ClusterRpcProxy

from chassis.amqp import connect
from chassis.container import Container
from chassis.migrate import declare_queues, event_handlers, migrate_tables
from dev.ports import free_ports
from dev.proxies import without_proxy
from dev.servers import Servers
from dev.cli import PRIVATE

os.environ.update(
    without_proxy(os.environ)
)  # for every client of this run, and what it starts
SERVICES_WITH_TABLES = ("users", "billing", "orders", "notifications")
SIGNING_KEY = "a secret of more than 32 characters, for tests"
DEADLINE_S = 20.0  # generous: for waiting, never for measuring
PROCESSOR_ONLY = (
    "tests/chart/",
    "tests/specs/",
    "tests/docs/test_text.py",
    "tests/test_mutants.py",
    "tests/test_workflows.py",
)
STARTS_SERVERS = {
    "servers",
    "server",
}  # fixtures of the tests there that have servers all the same
OWN_SERVERS = ("tests/docs/", "tests/chaos/")


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marks
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Marks the tests that `make test` runs beside the others: see dev/all_tests.py."""
    for item in items:
        path = item.path.relative_to(config.rootpath).as_posix()
        if path.startswith(PROCESSOR_ONLY) and not STARTS_SERVERS & set(
            item.fixturenames
        ):
            item.add_marker("processor_only")
        elif path.startswith(OWN_SERVERS):
            item.add_marker("own_servers")


def loopback() -> list[str]:
    """This machine's own addresses. Without IPv6 there is one."""
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return ["127.0.0.1", "::1"]
    return ["127.0.0.1"]


def in_uri(host: str) -> str:
    """A host as it stands in a URI."""
    return f"[{host}]" if ":" in host else host


def eventually(check: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The first truthy result of `check`, polled; fails after `deadline_s`."""
    with eventlet.Timeout(
        deadline_s, AssertionError(f"not so within {deadline_s:g} s")
    ):
        while not (result := check()):
            eventlet.sleep(0.02)
        return result


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """A broker and a database server of this test run's own, with empty databases."""
    with tempfile.TemporaryDirectory(prefix="shop-tests-") as folder:
        started = Servers(Path(folder, "run"), free_ports())
        try:
            started.start()
            yield started
        finally:
            started.erase()


@pytest.fixture(scope="session")
def environment(servers: Servers) -> dict[str, str]:
    """The environment of processes that use these servers."""
    public = {name: value for name, value in os.environ.items() if name not in PRIVATE}
    own = {"TOKEN_SECRET": SIGNING_KEY, "GATEWAY_PORT": str(servers.ports["gateway"])}
    return {**public, **servers.env(), **own}


@pytest.fixture(scope="session")
def suite_config(environment: dict[str, str]) -> dict[str, Any]:
    """config.yaml as these servers need it; the tables and queues are made."""
    setup_yaml_parser()
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        config: dict[str, Any] = yaml.safe_load(Path("config.yaml").read_text())
    finally:
        os.environ.clear()
        os.environ.update(before)
    for service in SERVICES_WITH_TABLES:
        migrate_tables(config, service)
        declare_queues(config, service)
    return config


@pytest.fixture
def config(suite_config: dict[str, Any]) -> dict[str, Any]:
    """A copy for one test, which may change it."""
    return dict(suite_config)


@pytest.fixture
def sql(suite_config: dict[str, Any]) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """`sql("billing", "SELECT ...", parameters)`: rows, read as the owner of that database."""
    connections: dict[str, Any] = {}

    def run(
        service: str, statement: str, parameters: Any = None
    ) -> list[tuple[Any, ...]]:
        if service not in connections:
            uri = suite_config["DB_OWNER_URIS"][f"{service}:Base"].replace(
                "+psycopg2", ""
            )
            connections[service] = psycopg2.connect(uri)
            connections[service].autocommit = True
        with connections[service].cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    yield run
    for connection in connections.values():
        connection.close()


@pytest.fixture
def clean(suite_config: dict[str, Any], sql: Callable[..., Any]) -> None:
    """Empty tables and queues before the test."""
    for service in SERVICES_WITH_TABLES:
        names = sql(
            service, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
        tables = [name for (name,) in names if name != "alembic_version"]
        sql(
            service, "; ".join(f"DELETE FROM {table}" for table in tables)
        )  # quicker than TRUNCATE
    with connect(suite_config) as connection:
        for service in SERVICES_WITH_TABLES:
            requests = Queue(
                f"rpc-{service}", get_rpc_exchange(suite_config), f"{service}.*"
            )
            requests(connection.default_channel).declare()
            requests(connection.default_channel).purge()
            for handler in event_handlers(suite_config, service):
                for queue in (handler.queue.name, handler.dead_name()):
                    connection.default_channel.queue_purge(queue)


@pytest.fixture
def run(config: dict[str, Any], clean: None) -> Iterator[Callable[..., Container]]:
    """`run(Service, ...)`: the service in this process, on the real broker and database."""
    running: list[Container] = []

    def start(service_cls: type, **settings: Any) -> Container:
        container = Container(
            service_cls, {**config, "HEALTH_ADDRESS": "127.0.0.1:0", **settings}
        )
        running.append(container)
        container.start()
        return container

    yield start
    for container in running:
        container.stop()


@pytest.fixture
def rpc(config: dict[str, Any]) -> Iterator[Any]:
    """What `nameko shell` calls `n.rpc`."""
    with ClusterRpcProxy(config, timeout=DEADLINE_S) as proxy:
        yield proxy


@pytest.fixture
def dispatch(config: dict[str, Any]) -> Callable[[str, str, Any], None]:
    """What `nameko shell` calls `n.dispatch_event`."""
    emit: Callable[[str, str, Any], None] = event_dispatcher(config)
    return emit
