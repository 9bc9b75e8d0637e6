"""Measures the whole suite on servers of its own: `make bench`, or `.venv/bin/python bench/run.py`.

docs/performance.md says what the figures mean. Ends with 1 where the audit finds a difference or
an answer was wrong.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # it is run as a file

from bench import load, report
from bench.books import Books
from bench.load import Measure
from dev.failure import Failure
from dev.ports import free_ports
from dev.suite import CHECKOUT, QUIET, SERVICES, Suite

USERS = 1000
LOAD_BEFORE = round(os.getloadavg()[0], 1)
RESULT = load.HERE / "results" / "latest.json"  # not tracked: a run shall not dirty the checkout


class Bench:
    """A suite full of users under load; `faults` tells in words what went wrong."""

    def __init__(self, suite: Suite, seconds: int) -> None:
        self.suite = suite
        self.seconds = seconds
        self.tokens = suite.servers.state / "tokens"
        self.tokens.write_text("\n".join(load.sign_up(suite.url, USERS)))
        self.books = Books(suite.servers.superuser_dsn(), suite.env())
        self.faults: list[str] = []
        self._runs = count(1)

    def round(self) -> list[Measure]:
        """Every measurement once; pgbench's stand among those they are compared with."""
        pgbench = partial(load.pgbench, self.books.dsn, self.seconds)
        low = [pgbench(1), self.orders(1), self.orders(16), self.orders(64), self.wrk("account", 64)]
        return [*low, pgbench(16), self.orders(128), self.orders(256)]

    def orders(self, clients: int) -> Measure:
        """Returns when all letters are written: what is measured next has the machine for itself."""
        measure = self.wrk("orders", clients)
        if not self.books.wait_for_letters():
            self.faults.append(f"letters are missing after orders of {clients} clients")
        if astray := self.books.astray(measure):
            self.faults.append(f"{astray} orders of {clients} clients are lost, or too many")
        return replace(measure, letter_p99_s=self.books.letter_lag_s(measure))

    def wrk(self, what: str, clients: int) -> Measure:
        """One run; wrong answers are faults."""
        prefix = f"bench-{next(self._runs)}-"
        measure = load.wrk(self.suite.url, what, clients, self.seconds, self.tokens, prefix)
        for name, number in measure.wrong_answers().items():
            self.faults.append(f"{what} of {clients} clients: {number} x {name}")
        return measure


def measure(suite: Suite, rounds: int, seconds: int) -> dict[str, Any]:
    """All that is found out about a suite that has just started."""
    at_rest, started = memory_mb(suite), time.monotonic()
    bench = Bench(suite, seconds)
    print(f"{time.monotonic() - started:5.1f} s for {USERS} users to sign up", flush=True)
    bench.orders(16)  # to warm up
    done = []
    for number in range(rounds):
        done.append(bench.round())
        print(f"round {number + 1} of {rounds} is done", flush=True)
    after, found = memory_mb(suite), audit(suite)
    bench.faults += found["first"]
    return {
        "environment": {**environment(bench), "rounds": rounds, "seconds": seconds},
        "medians": [asdict(m) for m in report.medians(done)],
        "ratios": report.ratios(done),
        "memory_mb": {name: (at_rest[name], after[name]) for name in SERVICES},
        "audit": found,
        "faults": bench.faults,
        "rounds": [[asdict(m) for m in measures] for measures in done],
    }


def audit(suite: Suite) -> dict[str, Any]:
    """What the audit finds now that nothing is under way: rows checked, and differences."""
    command = [sys.executable, "-m", "audit", "--settled", "--json"]
    env = {**os.environ, **suite.env(), **QUIET}
    done = subprocess.run(command, env=env, cwd=CHECKOUT, capture_output=True, text=True)
    if done.returncode > 1:
        raise Failure(f"the audit failed: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def memory_mb(suite: Suite) -> dict[str, float]:
    """The resident memory of each service's process."""
    pids, page_mb = suite.keeper.processes(), os.sysconf("SC_PAGE_SIZE") / 2**20
    pages = {name: int(Path(f"/proc/{pids[name]}/statm").read_text().split()[1]) for name in SERVICES}
    return {name: round(number * page_mb, 1) for name, number in pages.items()}


def environment(bench: Bench) -> dict[str, Any]:
    """On what it was measured. The load is what the machine had to do before."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": LOAD_BEFORE,
        "python": platform.python_version(),
        "nameko": version("nameko"),
        "postgresql": bench.books.ask("SHOW server_version")[0][0].split()[0],
        "rabbitmq": bench.suite.servers.rabbitmqctl("version").split()[-1],
        "log_level": os.environ.get("LOG_LEVEL", "INFO"),
    }


def run(rounds: int, seconds: int) -> dict[str, Any]:
    """Measures a suite that starts with empty databases and leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix=".run-bench-", dir=CHECKOUT) as folder:  # /tmp may be no disk
        suite = Suite(Path(folder, "run"), free_ports(), tied=True)
        try:
            suite.up()
            return measure(suite, rounds, seconds)
        finally:
            suite.servers.erase()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="3 by default")
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement; 4 by default")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that was started ends
    try:
        load.require_wrk()
        result = run(options.rounds, options.seconds)
    except Failure as failure:
        sys.exit(f"error: {failure}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    report.show(result)
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
