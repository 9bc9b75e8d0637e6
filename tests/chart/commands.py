"""What a container of the chart runs, run here: its command, its variables, on servers of the tests."""

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
    """How a command ended, and all it printed."""

    code: int
    says: str


class Run:
    """`run("audit")`: the command of that component; `run("migrations", module)`: this module instead.

    Its variables have the values of the tests' servers; that of the broker is one of `uris`, by user.
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
        """What it is given and no more, so that what the chart forgets is missed."""
        given = {
            name: value
            for name, value in raw(container).items()
            if isinstance(value, str)
        }
        here = {name: self._servers[name] for name in given if name in self._servers}
        for name in (
            each for each in here if each.endswith(("_DB_URI", "_DB_OWNER_URI"))
        ):
            assert make_url(given[name]).username == make_url(here[name]).username
        return {**here, "AMQP_URI": self._uris[parse_url(given["AMQP_URI"])["userid"]]}
