"""A suite with two copies of each service, and real faults to inject into it."""

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
# Each connection reaches one of two gateways. 12 probes miss one of them once in 4,096 times.
GATEWAY_PROBES = 12
RESTARTED_S = 1.5
READYZ_S = 5.0  # also generous
PROXIED = ("postgresql", "rabbitmq")
STANDBY = "standby"
CONFIG = "config.yaml"
LOWEST_WATERMARK, WATERMARK = "0.00001", "0.4"

# End all sessions of these roles.
END_SESSIONS = """
    SELECT count(pg_terminate_backend(pid))
    FROM pg_stat_activity
    WHERE usename = ANY(%s)
"""


class ScriptedSuite(Suite):
    """A suite whose services run a script, so that their commands can change: see `Arena.arm`.

    After their next start, services read `config`, and use the `addresses` instead of the direct
    addresses of servers.
    """

    addresses: Mapping[str, str] = {}
    config = Path(CONFIG)

    def command(self, name: str) -> list[str]:
        self.set_command(name, self.default_command(name))
        return ["/bin/sh", str(self._script(name))]

    def default_command(self, name: str) -> list[str]:
        words = super().command(name)
        return [str(self.config) if word == CONFIG else word for word in words]

    def set_command(self, name: str, command: list[str]) -> None:
        """Set the command that the service's next process runs."""
        self._script(name).parent.mkdir(exist_ok=True)
        folder = shlex.quote(str(self.checkout))
        variables = self.env(service_of(name))
        for direct, other in self.addresses.items():
            variables = {
                name: value.replace(direct, other) for name, value in variables.items()
            }
        script = f"{exports(variables)}cd {folder} && exec {shlex.join(command)}\n"
        write_private(self._script(name), script)

    def _script(self, name: str) -> Path:
        return self.servers.state / "commands" / name


class Arena:
    """The suite under faults.

    If a part has failed, it `must_be_replaced` for the next part.
    Services reach "postgresql" and "rabbitmq" through `proxies`, or directly if there are none.
    """

    def __init__(self, suite: ScriptedSuite) -> None:
        self.suite = suite
        self.supervisor = suite.supervisor
        self.url = suite.url
        self.services = suite.services
        self.proxies: dict[str, Proxy] = {}
        self.must_be_replaced = False

    # State

    def copies(self, service: str) -> list[str]:
        return [service, service + SECOND]

    def pid(self, name: str) -> int:
        """Return the process id of a program, 0 if it does not run."""
        return self.supervisor.processes().get(name, 0)

    def readiness(self, name: str) -> int:
        """Return the status of this copy's /readyz, 0 if it does not respond."""
        url = f"http://{HOST}:{self.suite.ports[name]}/readyz"
        with suppress(requests.RequestException):
            return requests.get(url, timeout=READYZ_S, proxies={"http": ""}).status_code
        return 0

    def is_ready(self, name: str) -> bool:
        """Return whether this copy is ready."""
        if not self.pid(name):
            return False
        if name in GATEWAYS:
            return self._gateways_are_ready()
        return self.suite.is_ready(name)

    def _gateways_are_ready(self) -> bool:
        running = sum(self.pid(name) > 0 for name in GATEWAYS)
        if len(listening(self.suite.ports["gateway"])) != running:
            return False
        return all(self.suite.is_ready("gateway") for _ in range(GATEWAY_PROBES))

    def await_ready(self, names: Iterable[str] = ()) -> None:
        """Wait until these services, or all, are ready. Raises Failure."""
        for name in names or self.services:
            self.wait_until(partial(self.is_ready, name), f"{name} is ready")

    def wait_until(
        self, done: Callable[[], object], goal: str, timeout_s: float = READY_S
    ) -> float:
        """Wait until `done` is true and return the seconds. Raises Failure after the timeout."""
        started = time.monotonic()
        while not done():
            if time.monotonic() - started > timeout_s:
                raise Failure(f"after {timeout_s:g} s it is not true that {goal}")
            eventlet.sleep(0.1)
        return time.monotonic() - started

    def query(
        self, database: str, query: str, *parameters: Any
    ) -> list[tuple[Any, ...]]:
        """Run a query as the superuser and return its rows."""
        dsn = f"{self.suite.servers.superuser_dsn()} connect_timeout=5"
        with closing(psycopg2.connect(dsn, dbname=database)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def pending_orders(self) -> int:
        query = "SELECT count(*) FROM orders WHERE status = 'pending'"
        [[number]] = self.query("orders", query)
        return int(number)

    def audit(self) -> list[str]:
        """Return the differences that the audit finds, a line each."""
        done = self.run_module("audit", "--settled", "--json")
        if done.returncode == 0:
            return []
        if done.returncode == 1:
            first: list[str] = json.loads(done.stdout)["first"]
            return first
        return [f"the audit ended with an error: {done.stderr.strip()[-500:]}"]

    def run_module(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a module of this checkout as a command, in the environment of the suite."""
        command = [sys.executable, "-m", *arguments]
        env = self.suite.environ(MIGRATIONS)
        return subprocess.run(
            command, cwd=CHECKOUT, env=env, capture_output=True, text=True
        )

    # Faults of processes. The supervisor restarts them.

    def send(self, name: str, number: signal.Signals) -> int:
        """Send a signal to a program and return its process id."""
        pid = self.pid(name)
        if not pid:
            raise Failure(f"{name} does not run: it cannot receive {number.name}")
        os.kill(pid, number)
        return pid

    def kill(self, name: str) -> None:
        self.send(name, signal.SIGKILL)

    def replace(self, name: str, number: signal.Signals) -> None:
        """End a process by a signal and wait until its successor is ready."""
        old = self.send(name, number)
        self._await_restart(name, old)
        self.await_ready([name])

    def _await_restart(self, name: str, old: int) -> None:
        self.wait_until(lambda: self.pid(name) not in (0, old), f"{name} has restarted")

    def halt(self, name: str) -> None:
        """Stop a program, even if it ends after each start.

        The supervisor does not stop a program that has just ended. It restarts it within 1 s.
        """
        starts = -1
        while self.pid(name) or self.supervisor.starts(name) != starts:
            starts = self.supervisor.starts(name)
            self.supervisor.halt(name)
            eventlet.sleep(RESTARTED_S)

    @contextmanager
    def suspended(self, names: Sequence[str]) -> Iterator[None]:
        """Suspend these processes inside."""
        pids: list[int] = []
        try:
            for name in names:
                pids.append(self.send(name, signal.SIGSTOP))
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):  # it was killed; resume the others
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def down(self, names: Sequence[str]) -> Iterator[None]:
        """Stop these services inside. Afterwards wait until they are ready."""
        self.supervisor.halt(*names)
        try:
            yield
        finally:
            for name in names:
                self.supervisor.start(name)
        self.await_ready(names)

    def arm(self, name: str, point: Point, record: Path, times: int, call: int) -> None:
        """Let the service crash at a point, in its `call`-th call, until it has crashed `times`.

        `record` counts the crashes.
        """
        _, *arguments = self.suite.default_command(name)
        options = ["--record", str(record), "--times", str(times), "--call", str(call)]
        if point.containing:
            options += ["--containing", point.containing]
        launcher = [sys.executable, "-m", "tests.chaos.crashing", *options]
        crash = [*launcher, point.moment, point.function, "--", *arguments]
        self.suite.set_command(name, crash)

    def switch(self, name: str, checkout: Path) -> None:
        """Replace a copy by one that runs the code of `checkout`, and wait until it is ready."""
        self.suite.checkout = checkout
        self.suite.set_command(name, self.suite.default_command(name))
        self.replace(name, signal.SIGTERM)

    def disarm(self) -> None:
        for name in self.services:
            self.suite.set_command(name, self.suite.default_command(name))

    # Connections between services and servers

    def connect_by_proxies(self, heartbeat_s: int | None = None) -> None:
        """Connect the services to both servers through proxies, and wait until they are ready.

        `heartbeat_s` replaces the heartbeat of the broker in config.yaml.
        """
        if self.proxies:
            return
        ports = {name: self.suite.ports[name] for name in PROXIED}
        self.proxies = {name: Proxy(port) for name, port in ports.items()}
        addresses = {
            f"{HOST}:{ports[name]}/": f"{HOST}:{self.proxies[name].port}/"
            for name in ports
        }
        if heartbeat_s:
            self.suite.config = self._config_with(heartbeat_s)
        self._restart_services(addresses)

    def _config_with(self, heartbeat_s: int) -> Path:
        """Write a copy of the suite's config.yaml with another heartbeat. Return its path."""
        text = (self.suite.checkout / CONFIG).read_text()
        line = re.compile(r"^HEARTBEAT: \d+", re.MULTILINE)
        changed, found = line.subn(f"HEARTBEAT: {heartbeat_s}", text)
        if found != 1:
            raise Failure(f"{CONFIG} has no line with HEARTBEAT")
        path = self.suite.servers.state / CONFIG
        path.write_text(changed)
        return path

    def connect_directly(self) -> None:
        """Connect the services to both servers directly."""
        if self.proxies:
            self.suite.config = Path(CONFIG)
            self._restart_services({})
            self.close_proxies()

    def close_proxies(self) -> None:
        for proxy in self.proxies.values():
            proxy.close()
        self.proxies = {}

    def _restart_services(self, addresses: Mapping[str, str]) -> None:
        self.suite.addresses = addresses
        self.disarm()
        self.supervisor.halt(*self.services)
        for name in self.services:
            self.supervisor.start(name)
        self.await_ready()

    # Faults of the broker

    def permit(self, *permissions: Path) -> None:
        """Load the permissions in these files."""
        self.suite.servers.permissions = permissions
        self.suite.servers.load_permissions()

    def crash_broker(self) -> None:
        old = self.send("rabbitmq", signal.SIGKILL)
        self._await_restart("rabbitmq", old)
        self._await_broker()

    def restart_broker(self) -> None:
        self.suite.servers.rabbitmqctl("stop_app")
        self.suite.servers.rabbitmqctl("start_app")
        self._await_broker()

    def close_connections(self) -> None:
        self.suite.servers.rabbitmqctl("close_all_connections", "chaos")

    @contextmanager
    def memory_alarm(self) -> Iterator[None]:
        """Let the broker block publishers inside."""
        self.suite.servers.rabbitmqctl("set_vm_memory_high_watermark", LOWEST_WATERMARK)
        try:
            yield
        finally:
            self.suite.servers.rabbitmqctl("set_vm_memory_high_watermark", WATERMARK)

    def messages(self, prefix: str) -> dict[str, int]:
        """Return the number of messages in queues whose names start with `prefix`.

        Unacknowledged messages count, too.
        """
        listed = self.suite.servers.rabbitmqctl(
            "list_queues", "--quiet", "--no-table-headers", "name", "messages"
        )
        rows = [line.split() for line in listed.splitlines()]
        return {name: int(count) for name, count in rows if name.startswith(prefix)}

    @contextmanager
    def ready_messages(self, queues: Collection[str]) -> Iterator[Callable[[], int]]:
        """Yield a fast function that counts the queues' messages ready for delivery."""
        with kombu.Connection(self.suite.env()["AMQP_URI"]) as connection:
            declare = partial(connection.channel().queue_declare, passive=True)
            yield lambda: sum(declare(queue).message_count for queue in queues)

    def _await_broker(self) -> None:
        responds = partial(self.suite.servers.responds, "rabbitmq")
        self.wait_until(responds, "the broker responds")

    # Faults of the database

    def crash_database(self) -> None:
        """Kill its first process. Then the others end."""
        self._end_database(signal.SIGKILL)

    def restart_database(self) -> None:
        self._end_database(signal.SIGINT)

    def kill_sessions(self) -> None:
        self._end_sessions(DATABASES)

    @contextmanager
    def locked_out(self, role: str) -> Iterator[None]:
        """Make the database unavailable to this role inside: it has no session and gets none."""
        self.query("postgres", f"ALTER ROLE {role} NOLOGIN")
        try:
            self._end_sessions([role])
            yield
        finally:
            self.query("postgres", f"ALTER ROLE {role} LOGIN")

    @contextmanager
    def read_only(self, roles: Sequence[str]) -> Iterator[None]:
        """Make new sessions of these roles read-only inside. Old sessions are ended first.

        Sessions that begin inside stay read-only afterwards.
        """
        parameter = "default_transaction_read_only"
        try:
            for role in roles:
                self.query("postgres", f"ALTER ROLE {role} SET {parameter} = on")
            self._end_sessions(roles)
            yield
        finally:
            for role in roles:
                self.query("postgres", f"ALTER ROLE {role} RESET {parameter}")

    def _end_sessions(self, roles: Sequence[str]) -> None:
        self.query("postgres", END_SESSIONS, list(roles))

    def _end_database(self, number: signal.Signals) -> None:
        old = self.send("postgresql", number)
        self._await_restart("postgresql", old)
        self._await_database()

    def start_database(self) -> None:
        self.supervisor.start("postgresql")
        self._await_database()

    def _await_database(self) -> None:
        responds = partial(self.suite.servers.responds, "postgresql")
        self.wait_until(responds, "the database responds")


@contextmanager
def arena(
    checkout: Path = CHECKOUT, permissions: Sequence[Path] = (BUS,)
) -> Iterator[Arena]:
    """Start an arena with empty databases. Remove it completely afterwards.

    Its services run the code of `checkout`, and have these permissions on the broker.
    """
    # In the checkout, because /tmp may be in memory.
    with tempfile.TemporaryDirectory(prefix=".run-chaos-", dir=CHECKOUT) as folder:
        ports = free_ports([*SECOND_COPIES, STANDBY])
        run = Path(folder, "run")
        suite = ScriptedSuite(
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
    """The arena for one part after another. An arena with a failed part is replaced."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._current: Arena | None = None

    def get(self) -> Arena:
        if self._current is None or self._current.must_be_replaced:
            self.close()
            self._current = self._stack.enter_context(arena())
        return self._current

    def close(self) -> None:
        self._stack.close()
        self._current = None


def shuffled(items: Sequence[T], rng: random.Random) -> list[T]:
    """Return the items in random order."""
    return rng.sample(items, len(items))
