"""A suite as `make up` starts it, and a terminal beside it."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.ports import VARIABLES, free_ports
from dev.cli import PRIVATE, Suite
from tests.docs.markdown import ROOT
from tests.proxies import DEAD_PROXY, EXEMPTIONS

TIMEOUT_S = 300


@pytest.fixture(scope="package")
def suite() -> Iterator[Suite]:
    """All five services, ready."""
    with tempfile.TemporaryDirectory(prefix="shop-docs-") as folder:
        suite = Suite(Path(folder, "run"), free_ports(), tied=True)
        try:
            suite.up()
            yield suite
        finally:
            suite.servers.erase()


class Terminal:
    """Somebody's terminal, in the top folder. Variables that one block sets hold for those after it."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables

    def run(self, text: str) -> str:
        """What the commands print, errors too; fails where one of them does."""
        with tempfile.NamedTemporaryFile("r", prefix="shop-docs-") as kept:
            script = f"trap 'env -0 >{kept.name}' EXIT\nset -a -e -o pipefail\n{text}"  # -a: functions too
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=ROOT,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=TIMEOUT_S,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}"
            self.variables = dict(
                line.split("=", 1) for line in kept.read().split("\0") if line
            )
        return done.stdout


@pytest.fixture(scope="package")
def variables(suite: Suite) -> dict[str, str]:
    """The environment of whoever has started the suite on these ports, and has no other servers.

    A proxy is set, which does not answer: nothing in the documents asks it for this machine.
    """
    unwanted = {*PRIVATE, *EXEMPTIONS}
    others = {
        name: value for name, value in os.environ.items() if name not in unwanted
    } | DEAD_PROXY
    ports = {variable: str(suite.ports[name]) for name, variable in VARIABLES.items()}
    return {**others, **ports, "RUN_DIR": str(suite.servers.wanted)}


@pytest.fixture
def terminal(variables: dict[str, str]) -> Terminal:
    return Terminal(variables)
