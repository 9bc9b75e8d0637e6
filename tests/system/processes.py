"""Services as real processes: `nameko run --config config.yaml users.service ...`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from conftest import eventually
from dev.broker import ALL_RIGHTS
from dev.cli import QUIET, SERVICES
from dev.servers import uri_names

NAMEKO = str(Path(sys.executable).with_name("nameko"))
START_S = 90.0
STOP_S = 40.0


def debian_program(name: str) -> str:
    """Return the path of a program that dev/install.sh installed.

    An ordinary user's PATH may lack its folder.
    """
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    assert path, f"{name} is missing: dev/install.sh {name}"
    return path


def without_uris(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that names no servers."""
    hidden = uri_names(ALL_RIGHTS)
    return {name: value for name, value in environment.items() if name not in hidden}


def calls_done(port: int, method: str) -> int:
    """Return how many calls of a method a process has finished, by the metrics on its port."""
    metrics = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    labels = f'method="{method}",outcome="done"'
    found = [
        line
        for line in metrics.splitlines()
        if line.startswith(f"shop_worker_seconds_count{{{labels},")
    ]
    return sum(int(float(line.split()[-1])) for line in found)


class Process:
    """One `nameko run` with its log in a file. It ends with the tests, even if they are killed."""

    def __init__(
        self,
        services: tuple[str, ...],
        environment: Mapping[str, str],
        log: Path,
        config: Path = Path("config.yaml"),
    ) -> None:
        self.log = log
        log_format = environment.get("LOG_FORMAT", "json")
        self._environment = {**environment, **QUIET, "LOG_FORMAT": log_format}
        modules = [f"{service}.service" for service in services]
        run = [NAMEKO, "run", "--config", str(config), *modules]
        self._command = ["setpriv", "--pdeathsig", "TERM", *run]

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._running = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        return self._running.pid

    def ended(self) -> bool:
        return self._running.poll() is not None

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait until it has ended, and return the exit code."""
        eventually(self.ended, timeout_s)
        code: int = self._running.returncode
        return code

    def stop(self) -> int:
        """End it as a supervisor does, and return the exit code."""
        if not self.ended():
            self._running.terminate()
        try:
            return self.wait()
        except AssertionError:
            self._running.kill()
            raise

    def rss_mb(self) -> float:
        """Return its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024

    def lines(self) -> list[dict[str, Any]]:
        """Return its log lines, each of which is JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


class Suite:
    """Five processes, one for each service.

    `own` returns the URIs of one service. They replace the URIs of all services in `environment`.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        ports: Mapping[str, int],
        folder: Path,
        own: Callable[[str], Mapping[str, str]] | None = None,
    ) -> None:
        self.own = own
        self.environment = environment
        self.ports = ports
        self.folder = folder
        self.processes = {name: self._process(name) for name in SERVICES}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['gateway']}"

    def start(self, *names: str) -> None:
        """Start these services (by default all) and wait until they are ready."""
        for name in names or SERVICES:
            self.processes[name].start()
        for name in names or SERVICES:
            eventually(lambda name=name: self.is_ready(name), START_S)

    def stop(self, *names: str) -> None:
        for name in names or SERVICES:  # all at once, then wait for each
            if not self.processes[name].ended():
                self.processes[name]._running.terminate()
        for name in names or SERVICES:
            self.processes[name].stop()

    @contextmanager
    def running(self) -> Iterator["Suite"]:
        """Start all services, and stop them at the end."""
        try:
            self.start()
            yield self
        finally:
            self.stop()

    def is_ready(self, name: str) -> bool:
        process = self.processes[name]
        assert not process.ended(), (
            f"{name} has ended:\n{process.log.read_text()[-2000:]}"
        )
        response = self.health(name, "/readyz")
        return response is not None and response.status_code == 200

    def health(self, name: str, path: str) -> requests.Response | None:
        """Return the response of a service's health server, or None if it does not listen."""
        url = f"http://127.0.0.1:{self.ports[name]}{path}"
        try:
            return requests.get(url, timeout=10)
        except requests.ConnectionError:
            return None

    def environment_of(self, user: str) -> dict[str, str]:
        """Return the environment of a process that acts as this user of the broker."""
        if not self.own:
            return {**self.environment}
        return {**without_uris(self.environment), **self.own(user)}

    def _process(self, name: str) -> Process:
        health = {"HEALTH_PORT": str(self.ports[name])}
        if name == "gateway":
            health = {"GATEWAY_HEALTH_PUBLIC": "true"}
        environment = {**self.environment_of(name), **health}
        return Process((name,), environment, self.folder / f"{name}.log")
