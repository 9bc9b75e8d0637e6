"""A suite as `make up` starts it, and a terminal with its environment."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.ports import PAGE, VARIABLES, free_ports
from dev.cli import PRIVATE, Suite
from tests.docs.markdown import ROOT
from tests.proxies import DEAD_PROXY, EXEMPTIONS

TIMEOUT_S = 300


@pytest.fixture(scope="package")
def suite() -> Iterator[Suite]:
    """Start all five services and the page, and wait until they are ready."""
    with tempfile.TemporaryDirectory(prefix="shop-docs-") as folder:
        suite = Suite(Path(folder, "run"), free_ports([PAGE]), tied=True)
        try:
            suite.up()
            yield suite
        finally:
            suite.servers.erase()


class Terminal:
    """A terminal in the top folder. Variables that a block sets remain for the next one."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables

    def run(self, text: str) -> str:
        """Run commands and return their output and errors.

        Raises AssertionError if one of them fails.
        """
        with tempfile.NamedTemporaryFile("r", prefix="shop-docs-") as kept:
            # `set -a` exports variables and functions.
            options = f"trap 'env -0 >{kept.name}' EXIT\nset -a -e -o pipefail"
            script = f"{options}\n{text}"
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
            lines = filter(None, kept.read().split("\0"))
            self.variables = dict(line.split("=", 1) for line in lines)
        return done.stdout


@pytest.fixture(scope="package")
def variables(suite: Suite) -> dict[str, str]:
    """Return the environment of a user with the suite on these ports.

    It has no other servers, and a dead proxy: no command in the documents uses a proxy for this
    machine.
    """
    removed = {*PRIVATE, *EXEMPTIONS}
    others = {key: value for key, value in os.environ.items() if key not in removed}
    ports = {variable: str(suite.ports[name]) for name, variable in VARIABLES.items()}
    return {**others, **DEAD_PROXY, **ports, "RUN_DIR": str(suite.servers.wanted)}


@pytest.fixture
def terminal(variables: dict[str, str]) -> Terminal:
    return Terminal(variables)
