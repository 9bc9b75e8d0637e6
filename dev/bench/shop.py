"""A suite of the benchmark's own, full of users: what is done to it and seen of it."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from dev.bench import cpu, load
from dev.bench.books import Books
from dev.bench.load import Measure
from dev.broker import CHECKOUT, MIGRATIONS
from dev.cli import Suite, further_copies
from dev.failure import Failure
from dev.ports import free_ports, listening
from dev.supervisor import wait_for

USERS = 1000
GATEWAYS_TIMEOUT_S = (
    60  # several listen on one port: when one answers, others may still start
)
LOAD_BEFORE = round(os.getloadavg()[0], 1)


class Shop:
    """A suite under load; `faults` tells in words what went wrong."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.memory_at_rest = self.memory_mb()
        self.tokens = suite.servers.state / "tokens"
        started = time.monotonic()
        self.tokens.write_text("\n".join(load.sign_up(suite.url, USERS)))
        say(f"{USERS} users signed up in {time.monotonic() - started:.0f} s")
        self.books = Books(suite.servers.superuser_dsn(), suite.env())
        self.faults: list[str] = []
        self._runs = count(1)

    def orders(self, clients: int, seconds: int) -> Measure:
        """Returns when all letters are written: what is measured next has the machine for itself."""
        measure = self.wrk("orders", clients, seconds)
        if not self.books.wait_for_letters():
            self.faults.append(f"letters are missing after orders of {clients} clients")
        if astray := self.books.astray(measure):
            self.faults.append(
                f"{astray} orders of {clients} clients are lost, or too many"
            )
        lag_s, growth = self.books.letter_lag(measure)
        return replace(measure, letter_p99_s=lag_s, letter_growth=growth)

    def reads(self, clients: int, seconds: int) -> Measure:
        return self.wrk("account", clients, seconds)

    def pgbench(self, clients: int, seconds: int) -> Measure:
        return load.pgbench(self.books.dsn, seconds, clients)

    def wrk(self, what: str, clients: int, seconds: int) -> Measure:
        """One run; wrong answers are faults."""
        prefix = f"bench-{next(self._runs)}-"
        before = cpu.spent(self.suite)
        measure = load.wrk(self.suite.url, what, clients, seconds, self.tokens, prefix)
        used = cpu.between(before, cpu.spent(self.suite))
        for name, number in measure.wrong_answers().items():
            self.faults.append(f"{what} of {clients} clients: {number} x {name}")
        answers = sum(measure.answers.values()) or 1
        return replace(
            measure, cpu_ms={kind: 1000 * s / answers for kind, s in used.items()}
        )

    def memory_mb(self) -> dict[str, float]:
        """The resident memory of each service's process."""
        pids, page_mb = (
            self.suite.supervisor.processes(),
            os.sysconf("SC_PAGE_SIZE") / 2**20,
        )
        statm = {
            name: Path(f"/proc/{pids[name]}/statm").read_text()
            for name in self.suite.services
        }
        return {
            name: round(int(text.split()[1]) * page_mb, 1)
            for name, text in statm.items()
        }

    def audit(self) -> dict[str, Any]:
        """What the audit finds now that nothing is under way; its differences are faults."""
        command = [sys.executable, "-m", "audit", "--settled", "--json"]
        env = self.suite.environ(MIGRATIONS)
        done = subprocess.run(
            command, env=env, cwd=CHECKOUT, capture_output=True, text=True
        )
        if done.returncode > 1:
            raise Failure(f"the audit failed: {done.stderr.strip()}")
        found: dict[str, Any] = json.loads(done.stdout)
        self.faults += found["first"]
        return found

    def environment(self) -> dict[str, Any]:
        """On what it was measured. The load is what the machine had to do before."""
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "cores": len(os.sched_getaffinity(0)),
            "load_before": LOAD_BEFORE,
            "python": platform.python_version(),
            "nameko": version("nameko"),
            "postgresql": self.books.ask("SHOW server_version")[0][0].split()[0],
            "rabbitmq": self.suite.servers.rabbitmqctl("version").split()[-1],
            "log_level": os.environ.get("LOG_LEVEL", "INFO"),
        }


@contextmanager
def opened(copies: int = 1) -> Iterator[Shop]:
    """A shop that starts with empty databases and leaves nothing behind."""
    with tempfile.TemporaryDirectory(
        prefix=".run-bench-", dir=CHECKOUT
    ) as folder:  # /tmp may be no disk
        ports = free_ports(further_copies(copies))
        suite = Suite(Path(folder, "run"), ports, tied=True, copies=copies)
        try:
            suite.up()
            wait_for(
                lambda: len(listening(ports["gateway"])) == copies, GATEWAYS_TIMEOUT_S
            )
            yield Shop(suite)
        finally:
            suite.servers.erase()


def say(text: str) -> None:
    print(text, flush=True)
