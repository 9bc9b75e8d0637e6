"""Fixtures of the chassis's tests: small services, the broker, and a proxy before it."""

import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import eventlet
import kombu
import psycopg2
import pytest
from sqlalchemy.orm import DeclarativeBase
from eventlet.greenio import shutdown_safe

from chassis.broker import connect
from chassis.container import Container
from chassis.db import Database
from conftest import eventually
from dev.servers import Servers

# The services of these tests.
SERVICES = ("echo", "caller", "listener", "worker", "leaver")
WORKERS = 8
# The timeout of calls that must time out.
SHORT_S = 0.3


def _headers(table: bytes) -> bytes:
    """Encode the properties of a message with only headers (AMQP 0-9-1, 4.2.5.5 and 4.2.6.1)."""
    return struct.pack(">HI", 1 << 13, len(table)) + table


def _nested(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return table


UNREADABLE_HEADERS = {
    "a time after 9999": _headers(b"\x01aT" + struct.pack(">Q", 2**40)),
    "a time that no clock has": _headers(b"\x01aT" + struct.pack(">Q", 2**62)),
    "tables in tables": _headers(_nested(3000)),
    "a name that is not text": _headers(b"\x01\xffV"),
}


class Base(DeclarativeBase):
    pass


class Keeper:
    """A service with a database."""

    name = "users"

    db = Database(Base)


class Broker:
    """Publishes arbitrary messages, and reads queues."""

    def __init__(self, connection: kombu.Connection) -> None:
        self.channel = connection.default_channel

    def publish(
        self, exchange: str, routing_key: str, body: bytes | str, **properties: Any
    ) -> None:
        message = self.channel.prepare_message(body, **properties)
        self.channel.basic_publish(message, exchange=exchange, routing_key=routing_key)

    def count(self, queue: str) -> int:
        """Return the number of messages that are ready in a queue."""
        return int(self.channel.queue_declare(queue, passive=True).message_count)

    def bind(self, exchange: str, routing_key: str, **arguments: Any) -> str:
        """Declare a queue that is deleted after the test. Return its name."""
        queue = self.channel.queue_declare(exclusive=True, arguments=arguments).queue
        if exchange:
            self.channel.exchange_declare(
                exchange, "topic", durable=True, auto_delete=False
            )
            self.channel.queue_bind(queue, exchange, routing_key)
        return str(queue)

    def take(self, queue: str) -> list[Any]:
        """Remove and return all messages that are ready."""
        return list(iter(lambda: self.channel.basic_get(queue, no_ack=True), None))


class Proxy:
    """A proxy before the broker. It can refuse connections, cut them, or hold all bytes."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._uri = urlsplit(config["AMQP_URI"])
        self._sockets: list[Any] = []
        self._passes = True
        self.port = 0
        self.open()
        user = f"{self._uri.username}:{self._uri.password}"
        own = self._uri._replace(netloc=f"{user}@127.0.0.1:{self.port}")
        self.config = {**config, "AMQP_URI": own.geturl()}

    def open(self) -> None:
        """Accept connections."""
        self._listener = eventlet.listen(("127.0.0.1", self.port), reuse_port=False)
        self.port = self._listener.getsockname()[1]
        eventlet.spawn(self._accept, self._listener)

    def close(self) -> None:
        """Refuse connections, and cut the open ones."""
        shutdown_safe(self._listener)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut all connections."""
        for sock in self._sockets:
            shutdown_safe(sock)
        self._sockets.clear()

    def hold(self) -> None:
        """Stop passing bytes on, in both directions."""
        self._passes = False

    def release(self) -> None:
        self._passes = True

    def _accept(self, listener: Any) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                broker = eventlet.connect((self._uri.hostname, self._uri.port))
                self._sockets += (client, broker)
                eventlet.spawn(self._pass, client, broker)
                eventlet.spawn(self._pass, broker, client)

    def _pass(self, source: Any, target: Any) -> None:
        with suppress(OSError):
            while piece := source.recv(4096):
                while not self._passes:
                    eventlet.sleep(0.02)
                target.sendall(piece)
        shutdown_safe(target)


@pytest.fixture
def proxy(chassis_config: dict[str, Any]) -> Iterator[Proxy]:
    """A proxy for this test. Services with its `config` use it."""
    proxy = Proxy(chassis_config)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def chassis_config(suite_config: dict[str, Any]) -> dict[str, Any]:
    workers = {**suite_config["WORKERS"], **dict.fromkeys(SERVICES, WORKERS)}
    own = {"WORKERS": workers, "SHORT_S": SHORT_S, "HEALTH_ADDRESS": "127.0.0.1:0"}
    return {**suite_config, **own}


@pytest.fixture
def config(chassis_config: dict[str, Any]) -> dict[str, Any]:
    """A copy for one test, which may change it."""
    return dict(chassis_config)


@contextmanager
def running(*containers: Container) -> Iterator[None]:
    """Start containers together, and stop them together."""
    _all(container.start for container in containers)
    try:
        yield
    finally:
        _all(container.stop for container in containers)


def _all(steps: Any) -> None:
    for thread in [eventlet.spawn(step) for step in steps]:
        thread.wait()


class Process:
    """A process with `nameko run`."""

    def __init__(
        self, log: Path, environment: dict[str, str], services: tuple[str, ...]
    ) -> None:
        nameko = str(Path(sys.executable).with_name("nameko"))
        command = [nameko, "run", "--config", "config.yaml", *services]
        own = {"HEALTH_PORT": "0", "LOG_FORMAT": "json", "PYTHONWARNINGS": "ignore"}
        self.log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(
                command,
                env={**environment, **own},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def says(self, text: str) -> bool:
        return text in self.log.read_text()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def last_line_and_code(self) -> tuple[str, int]:
        """Wait for the end of the process."""
        eventually(lambda: self._process.poll() is not None)
        return self.log.read_text().splitlines()[-1], self._process.returncode

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def nameko_run(environment, tmp_path) -> Iterator[Callable[..., Process]]:
    """Return a function: `nameko_run("users.service", USERS_WORKERS="1")`."""
    started: list[Process] = []

    def run(*services: str, **changes: str) -> Process:
        log = tmp_path / f"{len(started)}.log"
        started.append(Process(log, {**environment, **changes}, services))
        return started[-1]

    yield run
    for process in started:
        process.kill()


class Context:
    """A worker context."""


def dependency(container: Container, name: str) -> Any:
    """Return the dependency that a service's methods use as `self.<name>`."""
    [provider] = [d for d in container.dependencies if d.attr_name == name]
    return provider.get_dependency(Context())


@pytest.fixture
def broker(chassis_config: dict[str, Any]) -> Iterator[Broker]:
    with connect(chassis_config) as connection:
        yield Broker(connection)


@pytest.fixture
def superuser(servers: Servers) -> Iterator[Callable[[str], list[Any]]]:
    """Return a function that runs a statement as the superuser, and returns its rows."""
    connection = psycopg2.connect(servers.superuser_dsn())
    connection.autocommit = True

    def run(statement: str) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    yield run
    connection.close()


@pytest.fixture
def close_connections(servers: Servers) -> Callable[[], None]:
    """Return a function that has the broker close all connections."""
    return lambda: servers.rabbitmqctl("close_all_connections", "--vhost", "/", "test")
