"""A suite with empty databases and many users, under the load of the benchmark."""

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
from dev.bench.database import BenchDatabase
from dev.bench.load import Measure
from dev.broker import CHECKOUT, MIGRATIONS
from dev.cli import Suite, further_copies
from dev.failure import Failure
from dev.ports import free_ports, listening
from dev.supervisor import wait_for

USERS = 1000
# Several gateways listen on one port. When one answers, others may still be starting.
GATEWAYS_TIMEOUT_S = 60
LOAD_BEFORE = round(os.getloadavg()[0], 1)


class Shop:
    """A suite under load. `faults` has a line for each fault."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.memory_at_rest = self.memory_mb()
        self.tokens = suite.servers.state / "tokens"
        started = time.monotonic()
        self.tokens.write_text("\n".join(load.sign_up(suite.url, USERS)))
        duration_s = time.monotonic() - started
        show_progress(f"{USERS} users signed up in {duration_s:.0f} s")
        self.database = BenchDatabase(suite.servers.superuser_dsn(), suite.env())
        self.faults: list[str] = []
        self._runs = count(1)

    def orders(self, clients: int, seconds: int) -> Measure:
        """Place orders. Wait for all letters, so that they do not slow down the next run."""
        measure = self.wrk("orders", clients, seconds)
        if not self.database.wait_for_letters():
            self.faults.append(f"letters are missing after orders of {clients} clients")
        if mismatches := self.database.count_mismatches(measure):
            self.faults.append(
                f"{mismatches} orders of {clients} clients are lost, or too many"
            )
        lag_s, growth = self.database.letter_lag(measure)
        return replace(measure, letter_p99_s=lag_s, letter_lag_growth=growth)

    def reads(self, clients: int, seconds: int) -> Measure:
        """Read accounts."""
        return self.wrk("account", clients, seconds)

    def pgbench(self, clients: int, seconds: int) -> Measure:
        """Run orders in plain SQL."""
        return load.pgbench(self.database.dsn, seconds, clients)

    def wrk(self, workload: str, clients: int, seconds: int) -> Measure:
        """Run wrk once. Wrong responses are faults."""
        prefix = f"bench-{next(self._runs)}-"
        before = cpu.cpu_seconds(self.suite)
        measure = load.wrk(
            self.suite.url, workload, clients, seconds, self.tokens, prefix
        )
        used_s = cpu.used_between(before, cpu.cpu_seconds(self.suite))
        for status, number in measure.wrong_responses().items():
            self.faults.append(f"{workload} of {clients} clients: {number} x {status}")
        responses = sum(measure.responses.values()) or 1
        cpu_ms = {kind: 1000 * seconds / responses for kind, seconds in used_s.items()}
        return replace(measure, cpu_ms=cpu_ms)

    def memory_mb(self) -> dict[str, float]:
        """Return the resident memory of each service's process."""
        pids = self.suite.supervisor.processes()
        return {name: resident_mb(pids[name]) for name in self.suite.services}

    def audit(self) -> dict[str, Any]:
        """Run the audit when nothing is in flight. Its differences are faults."""
        command = [sys.executable, "-m", "audit", "--settled", "--json"]
        env = self.suite.environ(MIGRATIONS)
        done = subprocess.run(
            command, env=env, cwd=CHECKOUT, capture_output=True, text=True
        )
        if done.returncode > 1:
            raise Failure(f"the audit failed: {done.stderr.strip()}")
        result: dict[str, Any] = json.loads(done.stdout)
        self.faults += result["first"]
        return result

    def environment(self) -> dict[str, Any]:
        """Return the versions and the machine. `load_before` is its load before the benchmark."""
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "cores": len(os.sched_getaffinity(0)),
            "load_before": LOAD_BEFORE,
            "python": platform.python_version(),
            "nameko": version("nameko"),
            "postgresql": self.database.query("SHOW server_version")[0][0].split()[0],
            "rabbitmq": self.suite.servers.rabbitmqctl("version").split()[-1],
            "log_level": os.environ.get("LOG_LEVEL", "INFO"),
        }


def resident_mb(pid: Any) -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


@contextmanager
def new_shop(copies: int = 1) -> Iterator[Shop]:
    """Yield a shop with empty databases. Its files are deleted afterwards."""
    # Not in /tmp, which may be in memory.
    with tempfile.TemporaryDirectory(prefix=".run-bench-", dir=CHECKOUT) as folder:
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


def show_progress(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)
