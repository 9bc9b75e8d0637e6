"""A suite with two copies of each service, and what can be done to it: real faults, by real means."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import eventlet
import kombu
import psycopg2
import requests

from dev.broker import BUS, CHECKOUT, MIGRATIONS
from dev.cli import GATEWAYS, SECOND, SECOND_COPIES, Suite, service_of
from dev.failure import Failure
from dev.passwords import exports, write_private
from dev.ports import free_ports, listening
from dev.servers import DATABASES
from tests.chaos.points import Point
from tests.chaos.proxy import HOST, Proxy

T = TypeVar("T")
READY_S = 90.0  # generous: for waiting, never for measuring
GATEWAY_LOOKS = (
    12  # connections fall to one of two gateways: so many all miss one in 1 of 4,096
)
RESTARTED_S = 1.5
READYZ_S = 5.0  # generous, too
PROXIED = ("postgresql", "rabbitmq")
STANDBY = "standby"
CONFIG = "config.yaml"
LOWEST_WATERMARK, WATERMARK = "0.00001", "0.4"


class StagedSuite(Suite):
    """A suite whose services start with what a file says: see `Arena.arm`.

    From their next start on, services read `config`, and reach a server at its place in `places`.
    """

    places: Mapping[str, str] = {}
    config = Path(CONFIG)

    def command(self, name: str) -> list[str]:
        self.stage(name, self.plain_command(name))
        return ["/bin/sh", str(self._script(name))]

    def plain_command(self, name: str) -> list[str]:
        return [
            str(self.config) if word == CONFIG else word
            for word in super().command(name)
        ]

    def stage(self, name: str, command: list[str]) -> None:
        """Let the service's next process be `command`."""
        self._script(name).parent.mkdir(exist_ok=True)
        folder = shlex.quote(str(self.checkout))
        variables = self.env(service_of(name))
        for direct, place in self.places.items():
            variables = {
                key: value.replace(direct, place) for key, value in variables.items()
            }
        script = f"{exports(variables)}cd {folder} && exec {shlex.join(command)}\n"
        write_private(self._script(name), script)

    def _script(self, name: str) -> Path:
        return self.servers.state / "commands" / name


class Arena:
    """The suite under faults. `spoilt`: a part has failed in it, the next one needs another.

    Services reach "postgresql" and "rabbitmq" through `proxies`; directly where there are none.
    """

    def __init__(self, suite: StagedSuite) -> None:
        self.suite = suite
        self.supervisor = suite.supervisor
        self.url = suite.url
        self.services = suite.services
        self.proxies: dict[str, Proxy] = {}
        self.spoilt = False

    # What is the case

    def copies(self, service: str) -> list[str]:
        return [service, service + SECOND]

    def pid(self, name: str) -> int:
        """The process of a program; 0 while it does not run."""
        return self.supervisor.processes().get(name, 0)

    def readiness(self, name: str) -> int:
        """The status of this copy's /readyz; 0 where it does not answer."""
        url = f"http://{HOST}:{self.suite.ports[name]}/readyz"
        with suppress(requests.RequestException):
            return requests.get(url, timeout=READYZ_S, proxies={"http": ""}).status_code
        return 0

    def is_ready(self, name: str) -> bool:
        """Whether this very copy does its work."""
        if not self.pid(name):
            return False
        if name in GATEWAYS:
            return self._gateways_are_ready()
        return self.suite.is_ready(name)

    def _gateways_are_ready(self) -> bool:
        running = sum(self.pid(name) > 0 for name in GATEWAYS)
        listeners = len(listening(self.suite.ports["gateway"]))
        return listeners == running and all(
            self.suite.is_ready("gateway") for _ in range(GATEWAY_LOOKS)
        )

    def await_ready(self, names: Iterable[str] = ()) -> None:
        """Returns when these services (all, if none is named) are ready; raises Failure."""
        for name in names or self.services:
            self.await_(partial(self.is_ready, name), f"{name} is ready")

    def await_(
        self, done: Callable[[], object], what: str, timeout_s: float = READY_S
    ) -> float:
        """The seconds until `done` came true; raises Failure when it takes longer than `timeout_s`."""
        started = time.monotonic()
        while not done():
            if time.monotonic() - started > timeout_s:
                raise Failure(f"not so within {timeout_s:g} s: {what}")
            eventlet.sleep(0.1)
        return time.monotonic() - started

    def ask(self, database: str, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query, asked as the superuser of all databases."""
        dsn = f"{self.suite.servers.superuser_dsn()} connect_timeout=5"
        with closing(psycopg2.connect(dsn, dbname=database)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def pending_orders(self) -> int:
        return int(
            self.ask("orders", "SELECT count(*) FROM orders WHERE status = 'pending'")[
                0
            ][0]
        )

    def audit(self) -> list[str]:
        """The differences in the books, a line each; none where they balance and all is quiet."""
        done = self.run_module("audit", "--settled", "--json")
        if done.returncode == 0:
            return []
        if done.returncode == 1:
            first: list[str] = json.loads(done.stdout)["first"]
            return first
        return [f"the audit ended with an error: {done.stderr.strip()[-500:]}"]

    def run_module(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a module of this checkout as a command that finds the suite."""
        command = [sys.executable, "-m", *arguments]
        env = self.suite.environ(MIGRATIONS)
        return subprocess.run(
            command, cwd=CHECKOUT, env=env, capture_output=True, text=True
        )

    # What is done to processes; the supervisor starts again what ends

    def send(self, name: str, number: signal.Signals) -> int:
        """Send a signal to a program; the process id it had."""
        pid = self.pid(name)
        if not pid:
            raise Failure(f"{name} does not run: it can't be sent {number.name}")
        os.kill(pid, number)
        return pid

    def kill(self, name: str) -> None:
        self.send(name, signal.SIGKILL)

    def replace(self, name: str, number: signal.Signals) -> None:
        """End a process by a signal; returns when its successor is ready."""
        old = self.send(name, number)
        self.await_(lambda: self.pid(name) not in (0, old), f"{name} is started again")
        self.await_ready([name])

    def halt(self, name: str) -> None:
        """Stop a program, also one that ends after each start.

        The supervisor does not stop one that has just ended; it starts it again within 1 s.
        """
        starts = -1
        while self.pid(name) or self.supervisor.starts(name) != starts:
            starts = self.supervisor.starts(name)
            self.supervisor.halt(name)
            eventlet.sleep(RESTARTED_S)

    @contextmanager
    def frozen(self, names: Sequence[str]) -> Iterator[None]:
        """These processes stand still inside."""
        pids: list[int] = []
        try:
            for name in names:
                pids.append(self.send(name, signal.SIGSTOP))
            yield
        finally:
            for pid in pids:
                with suppress(
                    ProcessLookupError
                ):  # it has died; the others must go on all the same
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def down(self, names: Sequence[str]) -> Iterator[None]:
        """These services do not run inside; ready again behind it."""
        self.supervisor.halt(*names)
        try:
            yield
        finally:
            for name in names:
                self.supervisor.start(name)
        self.await_ready(names)

    def arm(self, name: str, point: Point, record: Path, times: int, call: int) -> None:
        """Let the service die at `point`, at its `call`-th passage, until `record` counts `times` deaths."""
        _, *arguments = self.suite.plain_command(name)
        options = ["--record", str(record), "--times", str(times), "--call", str(call)]
        options += ["--where", point.where] if point.where else []
        launcher = [
            sys.executable,
            "-m",
            "tests.chaos.crashing",
            *options,
            point.moment,
            point.function,
        ]
        self.suite.stage(name, [*launcher, "--", *arguments])

    def switch(self, name: str, checkout: Path) -> None:
        """Replace a copy by one that runs the code of `checkout`; returns when it is ready."""
        self.suite.checkout = checkout
        self.suite.stage(name, self.suite.plain_command(name))
        self.replace(name, signal.SIGTERM)

    def disarm(self) -> None:
        for name in self.services:
            self.suite.stage(name, self.suite.plain_command(name))

    # What is between the services and their servers

    def connect_by_proxies(self, heartbeat_s: int | None = None) -> None:
        """Let the services reach both servers through proxies; returns when they are ready.

        `heartbeat_s` replaces the product's heartbeat for the broker.
        """
        if self.proxies:
            return
        ports = {name: self.suite.ports[name] for name in PROXIED}
        self.proxies = {name: Proxy(port) for name, port in ports.items()}
        places = {
            f"{HOST}:{ports[name]}/": f"{HOST}:{self.proxies[name].port}/"
            for name in ports
        }
        if heartbeat_s:
            self.suite.config = self._config_with(heartbeat_s)
        self._restart_services(places)

    def _config_with(self, heartbeat_s: int) -> Path:
        """A copy of the suite's config.yaml with another heartbeat."""
        text = (self.suite.checkout / CONFIG).read_text()
        changed, found = re.subn(
            r"^HEARTBEAT: \d+", f"HEARTBEAT: {heartbeat_s}", text, flags=re.M
        )
        if found != 1:
            raise Failure(f"{CONFIG} has no line with HEARTBEAT")
        path = self.suite.servers.state / CONFIG
        path.write_text(changed)
        return path

    def connect_directly(self) -> None:
        """Let the services reach both servers directly again."""
        if self.proxies:
            self.suite.config = Path(CONFIG)
            self._restart_services({})
            self.close_proxies()

    def close_proxies(self) -> None:
        for proxy in self.proxies.values():
            proxy.close()
        self.proxies = {}

    def _restart_services(self, places: Mapping[str, str]) -> None:
        self.suite.places = places
        self.disarm()
        self.supervisor.halt(*self.services)
        for name in self.services:
            self.supervisor.start(name)
        self.await_ready()

    # What is done to the broker

    def permit(self, *permissions: Path) -> None:
        """Let the users of the broker do what these files say, from now on."""
        self.suite.servers.permissions = permissions
        self.suite.servers.load_permissions()

    def crash_broker(self) -> None:
        old = self.send("rabbitmq", signal.SIGKILL)
        self.await_(
            lambda: self.pid("rabbitmq") not in (0, old), "rabbitmq is started again"
        )
        self._await_broker()

    def restart_broker(self) -> None:
        self.suite.servers.rabbitmqctl("stop_app")
        self.suite.servers.rabbitmqctl("start_app")
        self._await_broker()

    def close_connections(self) -> None:
        self.suite.servers.rabbitmqctl("close_all_connections", "chaos")

    @contextmanager
    def memory_alarm(self) -> Iterator[None]:
        """The broker takes nothing from publishers inside."""
        self.suite.servers.rabbitmqctl("set_vm_memory_high_watermark", LOWEST_WATERMARK)
        try:
            yield
        finally:
            self.suite.servers.rabbitmqctl("set_vm_memory_high_watermark", WATERMARK)

    def messages(self, prefix: str) -> dict[str, int]:
        """How many messages each queue holds whose name starts with `prefix`, unacknowledged included."""
        listed = self.suite.servers.rabbitmqctl(
            "list_queues", "--quiet", "--no-table-headers", "name", "messages"
        )
        rows = [line.split() for line in listed.splitlines()]
        return {
            name: int(messages) for name, messages in rows if name.startswith(prefix)
        }

    @contextmanager
    def ready_messages(self, queues: Collection[str]) -> Iterator[Callable[[], int]]:
        """Yields a fast count of the messages in the queues that are ready for delivery."""
        with kombu.Connection(self.suite.env()["AMQP_URI"]) as connection:
            declare = partial(connection.channel().queue_declare, passive=True)
            yield lambda: sum(declare(queue).message_count for queue in queues)

    def _await_broker(self) -> None:
        self.await_(
            lambda: self.suite.servers.responds("rabbitmq"), "the broker answers"
        )

    # What is done to the database

    def crash_database(self) -> None:
        """Its first process dies; the others see that and leave."""
        self._end_database(signal.SIGKILL)

    def restart_database(self) -> None:
        self._end_database(signal.SIGINT)

    def kill_sessions(self) -> None:
        self._end_sessions(DATABASES)

    @contextmanager
    def locked_out(self, role: str) -> Iterator[None]:
        """The database is unavailable to this role inside: it has no session and gets none."""
        self.ask("postgres", f"ALTER ROLE {role} NOLOGIN")
        try:
            self._end_sessions([role])
            yield
        finally:
            self.ask("postgres", f"ALTER ROLE {role} LOGIN")

    @contextmanager
    def read_only(self, roles: Sequence[str]) -> Iterator[None]:
        """New sessions of these roles may only read inside; their old ones are ended before.

        Sessions that begin inside stay read-only afterwards.
        """
        parameter = "default_transaction_read_only"
        try:
            for role in roles:
                self.ask("postgres", f"ALTER ROLE {role} SET {parameter} = on")
            self._end_sessions(roles)
            yield
        finally:
            for role in roles:
                self.ask("postgres", f"ALTER ROLE {role} RESET {parameter}")

    def _end_sessions(self, roles: Sequence[str]) -> None:
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = ANY(%s)"
        self.ask("postgres", query, list(roles))

    def _end_database(self, number: signal.Signals) -> None:
        old = self.send("postgresql", number)
        self.await_(
            lambda: self.pid("postgresql") not in (0, old),
            "postgresql is started again",
        )
        self._await_database()

    def start_database(self) -> None:
        self.supervisor.start("postgresql")
        self._await_database()

    def _await_database(self) -> None:
        self.await_(
            lambda: self.suite.servers.responds("postgresql"), "the database answers"
        )


@contextmanager
def arena(
    checkout: Path = CHECKOUT, permissions: Sequence[Path] = (BUS,)
) -> Iterator[Arena]:
    """An arena of one's own, with empty databases; nothing is left of it.

    Its services run the code of `checkout`, and have these permissions on the broker.
    """
    with tempfile.TemporaryDirectory(
        prefix=".run-chaos-", dir=CHECKOUT
    ) as folder:  # /tmp may be no disk
        ports = free_ports([*SECOND_COPIES, STANDBY])
        run = Path(folder, "run")
        suite = StagedSuite(
            run, ports, tied=True, copies=2, checkout=checkout, permissions=permissions
        )
        played = Arena(suite)
        try:
            suite.up()
            yield played
        finally:
            suite.servers.erase()
            played.close_proxies()


class Arenas:
    """An arena for one part after the other; a spoilt one is replaced."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._current: Arena | None = None

    def get(self) -> Arena:
        if self._current is None or self._current.spoilt:
            self.close()
            self._current = self._stack.enter_context(arena())
        return self._current

    def close(self) -> None:
        self._stack.close()
        self._current = None


def shuffled(items: Sequence[T], chance: random.Random) -> list[T]:
    """The items in an order by chance."""
    return chance.sample(items, len(items))
