"""Load: wrk on the suite's HTTP API, pgbench on the same database cluster, users to act for."""

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
RIGHT = {"orders": (SETTLED, PENDING), "account": (READ,)}
RICH, POOR_ONE_IN = (
    "10000000.00",
    20,
)  # a user in 20 has no money: all orders are rejected
TIMEOUT_S = 10  # longer than any deadline of the suite


@dataclass(frozen=True)
class Measure:
    """One run of some clients. `rate` is what was done in a second: orders settled, accounts read,
    pgbench's transactions. `letter_p99_s` is from an order's end to its letter, `letter_growth` by how
    many seconds that grows in a second. `answers` counts the HTTP statuses, and connections that were
    `broken`; `cpu_ms` is what an answer cost, by kind of process.
    """

    what: str
    clients: int
    rate: float
    p50_ms: float
    p99_ms: float
    letter_p99_s: float | None = None
    letter_growth: float | None = None
    answers: dict[str, int] = field(default_factory=dict)
    cpu_ms: dict[str, float] = field(default_factory=dict)
    prefix: str = ""  # of the run's idempotency keys

    def wrong_answers(self) -> dict[str, int]:
        return {
            name: n
            for name, n in self.answers.items()
            if n and name not in RIGHT[self.what]
        }


def require_wrk() -> None:
    """Raises Failure where wrk is missing; `make bench` installs it as root."""
    if not shutil.which("wrk"):
        raise Failure("wrk is missing: as root, apt-get install wrk")


def sign_up(url: str, number: int) -> list[str]:
    """The tokens of so many new users, most with money; through the API, as clients do it."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda n: _new_user(url, n), range(number)))


def _new_user(url: str, number: int) -> str:
    user = {
        "username": f"user{number}",
        "email": f"user{number}@example.org",
        "password": "correct horse",
    }
    user["locale"] = "en" if number % 2 else "ru"
    token: str = _post(f"{url}/users", user)["access_token"]
    if number % POOR_ONE_IN:
        _post(
            f"{url}/account/deposits", {"amount": RICH}, Authorization=f"Bearer {token}"
        )
    return token


def _post(url: str, body: dict[str, str], **headers: str) -> Any:
    response = requests.post(url, json=body, headers=headers, timeout=60)
    response.raise_for_status()
    return response.json()


def wrk(
    url: str, what: str, clients: int, seconds: int, tokens: Path, prefix: str
) -> Measure:
    """POST /orders or GET /account on keep-alive connections."""
    command = [
        "wrk",
        "-t",
        "1",
        "-c",
        str(clients),
        "-d",
        f"{seconds}s",
        "--timeout",
        f"{TIMEOUT_S}s",
    ]
    command += ["-s", str(HERE / "load.lua"), url, "--", what, str(tokens), prefix]
    told = json.loads(_run(command, os.environ, HERE).splitlines()[-1])
    times, answers = told["times"], told["answers"]
    rate = answers.get(RIGHT[what][0], 0) / times["seconds"]
    return Measure(
        what,
        clients,
        rate,
        times["p50_ms"],
        times["p99_ms"],
        answers=answers,
        prefix=prefix,
    )


def pgbench(database: Mapping[str, str], seconds: int, clients: int) -> Measure:
    """A plain SQL version of an order, four commits. `database` is libpq's parameters."""
    env = {
        **os.environ,
        **{f"PG{name.upper()}": value for name, value in database.items()},
    }
    command = ["pgbench", "-n", "-c", str(clients), "-j", "1", "-T", str(seconds), "-l"]
    command += ["-f", str(HERE / "one_order.sql"), database["dbname"]]
    with tempfile.TemporaryDirectory() as folder:
        output = _run(command, env, folder)
        times_ms = [
            int(line.split()[2]) / 1000
            for log in Path(folder).iterdir()
            for line in log.open()
        ]
    [rate] = [line.split()[2] for line in output.splitlines() if line.startswith("tps")]
    percentiles = quantiles(times_ms, n=100)
    return Measure("pgbench", clients, float(rate), percentiles[49], percentiles[98])


def _run(command: list[str], env: Mapping[str, str], cwd: str | Path) -> str:
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise Failure(
            f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout
