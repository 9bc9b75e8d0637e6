"""Runs the command of a container of the chart on this machine, with the tests' servers."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from kombu.utils.url import parse_url
from sqlalchemy import make_url

from tests.chart.environment import raw
from tests.chart.helm import Object, component, of, pods

LIMIT_S = 120


@dataclass(frozen=True)
class Command:
    """The exit code of a command, and its output."""

    code: int
    output: str


class Run:
    """Runs commands: `run("audit")` runs the command of the component `audit`.

    `run("migrations", module)` runs a module in the environment of the migrations. The variables
    have the values of the tests' servers. AMQP_URI is one of `uris`, by the chart's user.
    """

    def __init__(
        self, found: list[Object], servers: Mapping[str, str], uris: Mapping[str, str]
    ) -> None:
        jobs = of(found, "Job", "CronJob")
        self._containers = {
            component(each): pod["spec"]["containers"][0]
            for each in jobs
            for pod in pods([each]).values()
        }
        self._servers = servers
        self._uris = uris

    def __call__(self, name: str, *module: str, **more: str) -> Command:
        container = self._containers[name]
        python, *rest = ["python", "-m", *module] if module else container["command"]
        assert python == "python"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *rest],
            env={"PATH": os.environ["PATH"], **self._environment(container), **more},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
        )
        return Command(done.returncode, done.stdout)

    def _environment(self, container: Object) -> dict[str, str]:
        """Return only variables that the chart sets, so that a missing one is noticed."""
        variables = raw(container).items()
        given = {name: value for name, value in variables if isinstance(value, str)}
        here = {name: self._servers[name] for name in given if name in self._servers}
        for name, uri in here.items():
            if name.endswith(("_DB_URI", "_DB_OWNER_URI")):
                assert make_url(given[name]).username == make_url(uri).username
        return {**here, "AMQP_URI": self._uris[parse_url(given["AMQP_URI"])["userid"]]}
