"""The verbs of make report at once that nothing is installed or that nothing runs."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from dev.broker import CHECKOUT
from dev.cli import NOTHING_RUNS, Suite
from dev.failure import Failure
from dev.ports import PAGE, VARIABLES, free_ports

MAKEFILE = CHECKOUT / "Makefile"
WITHOUT_INSTALL = re.findall(
    r"^([\w-]+): installed  ##", MAKEFILE.read_text(), re.MULTILINE
)
NEEDS_THE_SUITE = [verb for verb in WITHOUT_INSTALL if verb != "status"]
TIMEOUT_S = 60.0  # generous


def make(verb: str, folder: Path, variables: dict[str, str]) -> tuple[int, list[str]]:
    """Return the exit code and the output, without make's own last line."""
    command = ["make", "--no-print-directory", verb]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )
    lines = done.stdout.splitlines()
    return done.returncode, [
        line for line in lines if not re.match(r"make(\[\d+\])?: \*\*\*", line)
    ]


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Unused ports and an unused folder."""
    ports = free_ports([PAGE])
    places = {variable: str(ports[name]) for name, variable in VARIABLES.items()}
    return {**places, "RUN_DIR": str(tmp_path_factory.mktemp("verbs") / "run")}


def test_verbs_that_need_the_suite_are_known() -> None:
    assert {"newman", "audit", "shell", "story", "load", "logs", "restart"} <= set(
        NEEDS_THE_SUITE
    )


@pytest.mark.parametrize("verb", NEEDS_THE_SUITE)
def test_a_verb_reports_in_one_line_that_nothing_runs(
    verb: str, variables: dict[str, str]
) -> None:
    assert make(verb, CHECKOUT, variables) == (2, [f"error: {NOTHING_RUNS}"])


def test_status_ends_with_advice_if_nothing_runs(variables: dict[str, str]) -> None:
    code, lines = make("status", CHECKOUT, variables)
    assert (code, lines[-1]) == (2, f"{NOTHING_RUNS}.")


def test_a_verb_reports_in_one_line_that_nothing_is_installed(tmp_path: Path) -> None:
    shutil.copy(MAKEFILE, tmp_path)
    for verb in WITHOUT_INSTALL:
        code, [line] = make(verb, tmp_path, {})
        assert code == 2
        assert line.startswith("error: nothing is installed. Run make up"), verb


def test_variables_for_other_programs_do_not_affect_a_verb(
    tmp_path: Path,
) -> None:
    """Another virtual environment, a git hook, a start file of the shell, another encoding."""
    ends = tmp_path / "ends"
    ends.write_text("exit 7\n")
    others = dict.fromkeys(
        ["PYTHONHOME", "PYTHONPATH", "GIT_DIR", "CDPATH"], str(tmp_path)
    )
    others |= {
        "BASH_ENV": str(ends),
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "MAKEFLAGS": "-j4",
    }
    code, lines = make("size", CHECKOUT, others)
    assert code == 0, lines


def test_a_command_names_the_unreachable_server(tmp_path: Path, monkeypatch) -> None:
    suite = Suite(tmp_path / "run", free_ports())
    monkeypatch.setattr(suite.supervisor, "pid", lambda: os.getpid())
    with socket.create_server(("127.0.0.1", suite.ports["rabbitmq"])):
        with pytest.raises(Failure, match=r"postgresql does not respond on .*make up"):
            suite.check_reachable(servers=True, gateway=False)
        with pytest.raises(Failure, match=r"gateway does not respond on .*make up"):
            suite.check_reachable(servers=False, gateway=True)


def test_external_servers_are_not_checked(tmp_path: Path) -> None:
    external = {
        "AMQP_URI": "amqp://elsewhere",
        "USERS_DB_URI": "postgresql://elsewhere",
    }
    Suite(tmp_path / "run", free_ports(), external).check_reachable(
        servers=True, gateway=False
    )
