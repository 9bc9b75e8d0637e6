"""The load: wrk on the suite's HTTP API, pgbench on the same database cluster, and users."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import requests

from dev.failure import Failure

HERE = Path(__file__).resolve().parent
SETTLED, PENDING, READ = "201", "202", "200"
# The expected statuses by workload. Only the first one counts for the rate.
EXPECTED = {"orders": (SETTLED, PENDING), "account": (READ,)}
DEPOSIT = "10000000.00"
# Each 20th user has no money, so all of its orders are rejected.
USERS_PER_POOR_USER = 20
TIMEOUT_S = 10  # longer than any deadline of the suite


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One run of a number of clients.

    `workload`: orders, account (reads) or pgbench.
    `rate`: settled orders, read accounts or pgbench's transactions in a second.
    `letter_p99_s`: the time from an order's end to its letter.
    `letter_lag_growth`: the growth of that time, in seconds a second.
    `responses`: the number of responses by HTTP status, and of `broken` connections.
    `cpu_ms`: CPU time of a response, by kind of process.
    """

    workload: str
    clients: int
    rate: float
    p50_ms: float
    p99_ms: float
    letter_p99_s: float | None = None
    letter_lag_growth: float | None = None
    responses: dict[str, int] = field(default_factory=dict)
    cpu_ms: dict[str, float] = field(default_factory=dict)
    prefix: str = ""  # of the run's idempotency keys

    def wrong_responses(self) -> dict[str, int]:
        """Return the number of responses with unexpected statuses, by status."""
        expected = EXPECTED[self.workload]
        return {
            status: number
            for status, number in self.responses.items()
            if number and status not in expected
        }


def require_wrk() -> None:
    """Raise Failure if wrk is missing. `make bench` installs it as root."""
    if not shutil.which("wrk"):
        raise Failure("wrk is missing: as root, apt-get install wrk")


def sign_up(url: str, number: int) -> list[str]:
    """Sign up `number` users through the API, most with money, and return their tokens."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda n: _new_user(url, n), range(number)))


def _new_user(url: str, number: int) -> str:
    user = {
        "username": f"user{number}",
        "email": f"user{number}@example.org",
        "password": "correct horse",
        "locale": "en" if number % 2 else "ru",
    }
    token: str = _post(f"{url}/users", user)["access_token"]
    if number % USERS_PER_POOR_USER:
        bearer = f"Bearer {token}"
        _post(f"{url}/account/deposits", {"amount": DEPOSIT}, Authorization=bearer)
    return token


def _post(url: str, body: dict[str, str], **headers: str) -> Any:
    response = requests.post(url, json=body, headers=headers, timeout=60)
    response.raise_for_status()
    return response.json()


def wrk(
    url: str, workload: str, clients: int, seconds: int, tokens: Path, prefix: str
) -> Measure:
    """Run POST /orders or GET /account on keep-alive connections."""
    command = ["wrk", "-t", "1", "-c", str(clients), "-d", f"{seconds}s"]
    command += ["--timeout", f"{TIMEOUT_S}s", "-s", str(HERE / "load.lua"), url]
    command += ["--", workload, str(tokens), prefix]
    last_line = _run(command, os.environ, HERE).splitlines()[-1]
    result = json.loads(last_line)
    times, responses = result["times"], result["responses"]
    return Measure(
        workload=workload,
        clients=clients,
        rate=responses.get(EXPECTED[workload][0], 0) / times["seconds"],
        p50_ms=times["p50_ms"],
        p99_ms=times["p99_ms"],
        responses=responses,
        prefix=prefix,
    )


def pgbench(database: Mapping[str, str], seconds: int, clients: int) -> Measure:
    """Run an order in plain SQL, with four commits. `database` has libpq's parameters."""
    parameters = {f"PG{name.upper()}": value for name, value in database.items()}
    command = ["pgbench", "-n", "-c", str(clients), "-j", "1", "-T", str(seconds), "-l"]
    command += ["-f", str(HERE / "one_order.sql"), database["dbname"]]
    with tempfile.TemporaryDirectory() as folder:
        output = _run(command, {**os.environ, **parameters}, folder)
        times_ms = [
            int(line.split()[2]) / 1000
            for log in Path(folder).iterdir()
            for line in log.open()
        ]
    [rate] = [line.split()[2] for line in output.splitlines() if line.startswith("tps")]
    percentiles = quantiles(times_ms, n=100)
    return Measure(
        workload="pgbench",
        clients=clients,
        rate=float(rate),
        p50_ms=percentiles[49],
        p99_ms=percentiles[98],
    )


def _run(command: list[str], env: Mapping[str, str], cwd: str | Path) -> str:
    """Return the output of a command. Raise Failure if it fails."""
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        message = done.stderr.strip() or done.stdout.strip()
        raise Failure(f"{command[0]} failed: {message}")
    return done.stdout
