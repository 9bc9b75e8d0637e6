"""Fixtures that run the command, in this process or in another one."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
import yaml

from dev.cli import QUIET
from replay.__main__ import main

TIMEOUT_S = 120


@pytest.fixture
def replay(config, tmp_path, capsys) -> Callable[..., tuple[int, str, str]]:
    """Return a function: `replay("--dry-run", HEARTBEAT=0)` gives exit code, stdout and stderr."""

    def run(*flags: str, **settings: Any) -> tuple[int, str, str]:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**config, **settings}))
        code = main(["--config", str(path), *flags])
        return code, *capsys.readouterr()

    return run


class Process:
    """`python -m replay` as a process."""

    def __init__(self, environment: dict[str, str], *flags: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "replay", *flags],
            env={**environment, **QUIET},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self) -> str:
        """Return its output. It must have succeeded."""
        printed, _ = self._process.communicate(timeout=TIMEOUT_S)
        assert self._process.returncode == 0, printed
        return printed


@pytest.fixture
def start_replay(environment) -> Callable[..., Process]:
    """Return a function: `start_replay("--settled").wait()` gives the output."""
    return lambda *flags: Process(environment, *flags)


@pytest.fixture
def owner(suite_config) -> Iterator[Any]:
    """Yield a connection to the database of orders as its owner, in a transaction."""
    uri = suite_config["DB_OWNER_URIS"]["orders:Base"].replace("+psycopg2", "")
    with closing(psycopg2.connect(uri)) as connection:
        yield connection
