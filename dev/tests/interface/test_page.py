"""The development server kills and freezes programs of a supervisor. The programs are toys."""

import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from dev import process_tree, state
from dev.broker import CHECKOUT
from dev.page import TOKEN_FILE
from dev.page.programs import FREEZE_S
from dev.passwords import write_private
from dev.ports import PAGE, free_ports
from dev.supervisor import Program, Supervisor, wait_for

DEADLINE_S = 30.0  # generous, for waiting and never for measuring


class Stage:
    """A supervisor with a development server and two other programs."""

    def __init__(self, folder: Path) -> None:
        self.supervisor = Supervisor(folder)
        ports = free_ports([PAGE])
        self.url = f"http://127.0.0.1:{ports[PAGE]}"
        self.token = secrets.token_urlsafe()
        write_private(folder / TOKEN_FILE, self.token)
        server = Program(
            name=PAGE,
            command=[sys.executable, "-m", "dev.page"],
            directory=CHECKOUT,
            env={
                "PAGE_PORT": str(ports[PAGE]),
                "GATEWAY_PORT": str(ports["gateway"]),
            },
        )
        family = ["sh", "-c", "setsid sleep 1000 & wait"]
        toys = [
            Program(name=name, command=family, directory=folder)
            for name in ("family", "stopped")
        ]
        self.supervisor.begin([server, *toys], os.environ, tied=True)
        for name in (PAGE, "family"):
            self.supervisor.start(name)
        assert wait_for(lambda: len(self.processes("family")) == 2, DEADLINE_S)
        assert wait_for(self.responds, DEADLINE_S)

    def call(self, method: str, path: str) -> requests.Response:
        headers = {"X-Dev-Token": self.token}
        url = f"{self.url}/dev/processes{path}"
        return requests.request(method, url, headers=headers, timeout=DEADLINE_S)

    def inject(self, fault: str, name: str = "family") -> requests.Response:
        return self.call("POST", f"/{name}/{fault}")

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.call("GET", "").json()["processes"]}

    def responds(self) -> bool:
        try:
            return self.call("GET", "").ok
        except requests.ConnectionError:
            return False

    def processes(self, name: str) -> list[int]:
        pid = self.supervisor.processes().get(name)
        return process_tree.tree(pid) if pid else []

    def states(self, name: str = "family") -> set[str]:
        return {process_tree.state(pid) for pid in self.processes(name)}

    def is_thawed(self) -> bool:
        return "T" not in self.states()

    def helpers(self) -> list[int]:
        """Return the processes that end freezes."""
        words = {pid: command_line(pid) for pid in self.supervisor.orphans()}
        return [pid for pid in words if "dev.page.freezing" in words[pid]]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has just ended


@pytest.fixture(scope="module")
def shared_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    wanted = tmp_path_factory.mktemp("page") / "run"
    stage = Stage(state.make(wanted))
    yield stage
    stage.supervisor.stop()
    state.remove(wanted)


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    """No program is frozen before and after the test."""
    yield shared_stage
    for pid in shared_stage.helpers():
        os.kill(pid, signal.SIGTERM)
    assert wait_for(shared_stage.is_thawed, DEADLINE_S)
    assert wait_for(shared_stage.responds, DEADLINE_S)


@pytest.fixture
def own_stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage that the test may stop."""
    stage = Stage(state.make(tmp_path / "run"))
    yield stage
    stage.supervisor.stop()
    state.remove(tmp_path / "run")


def test_the_list_has_all_programs_without_the_server(stage: Stage) -> None:
    rows = stage.rows()
    assert rows["stopped"] == {"name": "stopped", "state": "stopped", "restarts": 0}
    assert rows["family"]["state"] == "running"
    assert rows.keys() == {"family", "stopped"}


def test_a_killed_program_is_restarted_and_counted(stage: Stage) -> None:
    before, [first, *_] = stage.rows()["family"]["restarts"], stage.processes("family")
    response = stage.inject("kill")
    assert (response.status_code, response.json()) == (202, {"name": "family"})
    assert wait_for(
        lambda: stage.rows()["family"]["restarts"] == before + 1, DEADLINE_S
    )
    assert wait_for(lambda: len(stage.processes("family")) == 2, DEADLINE_S)
    assert first not in stage.processes("family")


def test_a_frozen_program_continues_without_a_further_call(stage: Stage) -> None:
    response = stage.inject("freeze")
    expected = {"name": "family", "seconds": FREEZE_S}
    assert (response.status_code, response.json()) == (202, expected)
    assert stage.states() == {"T"}
    assert len(stage.processes("family")) == 2
    row = stage.rows()["family"]
    assert row["state"] == "frozen"
    assert 0 < row["continues_in_s"] <= FREEZE_S
    assert wait_for(stage.is_thawed, DEADLINE_S)
    assert stage.rows()["family"]["state"] == "running"


def test_a_second_freeze_is_refused_and_the_first_one_ends(stage: Stage) -> None:
    stage.inject("freeze")
    response = stage.inject("freeze")
    assert response.status_code == 409
    assert response.json()["type"].endswith(":already-frozen")
    [helper] = stage.helpers()
    os.kill(helper, signal.SIGTERM)
    assert wait_for(stage.is_thawed, DEADLINE_S)


def test_a_frozen_program_can_be_killed(stage: Stage) -> None:
    stage.inject("freeze")
    frozen = stage.processes("family")
    assert stage.inject("kill").status_code == 202
    assert wait_for(lambda: len(stage.processes("family")) == 2, DEADLINE_S)
    assert "T" not in {process_tree.state(pid) for pid in frozen}
    assert stage.is_thawed()


def test_a_freeze_ends_if_the_server_is_killed(stage: Stage) -> None:
    stage.inject("freeze")
    os.kill(stage.supervisor.processes()[PAGE], signal.SIGKILL)
    assert wait_for(stage.is_thawed, DEADLINE_S)


def test_a_freeze_ends_if_the_helper_is_killed(stage: Stage) -> None:
    stage.inject("freeze")
    [helper] = stage.helpers()
    os.kill(helper, signal.SIGKILL)
    assert wait_for(stage.is_thawed, DEADLINE_S)


def test_a_starting_server_continues_frozen_programs(stage: Stage) -> None:
    """Server and helper were killed together."""
    pids = stage.processes("family")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    assert wait_for(lambda: stage.states() == {"T"}, DEADLINE_S)
    os.kill(stage.supervisor.processes()[PAGE], signal.SIGKILL)
    assert wait_for(stage.is_thawed, DEADLINE_S)


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_stopped_program_is_neither_killed_nor_frozen(
    stage: Stage, fault: str
) -> None:
    response = stage.inject(fault, "stopped")
    assert response.status_code == 409
    assert response.json()["type"].endswith(":not-running")


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_other_processes_are_not_found(stage: Stage, fault: str) -> None:
    pids = stage.supervisor.processes()
    others = [
        PAGE,
        "supervisord",
        *map(str, pids.values()),
        str(stage.supervisor.pid()),
    ]
    statuses = {name: stage.inject(fault, name).status_code for name in others}
    assert set(statuses.values()) == {404}, statuses
    assert stage.supervisor.processes() == pids
    assert stage.is_thawed()


def test_the_api_has_a_problem_without_the_gateway(stage: Stage) -> None:
    response = requests.get(f"{stage.url}/account", timeout=DEADLINE_S)
    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"


def test_the_token_is_in_no_command_line_and_no_log(stage: Stage) -> None:
    stage.inject("kill", "unknown")
    stage.inject("freeze")
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    assert [pid for pid in pids if stage.token in command_line(pid)] == []
    logs = list((stage.supervisor.state / "log").iterdir())
    assert [log for log in logs if stage.token in log.read_text()] == []
    [page_log] = [log for log in logs if log.name == f"{PAGE}.log"]
    assert "program_frozen name=family" in page_log.read_text()


def test_a_stop_ends_a_freeze(own_stage: Stage) -> None:
    own_stage.inject("freeze")
    frozen = own_stage.processes("family")
    assert own_stage.supervisor.stop()
    assert own_stage.supervisor.orphans() == []
    # The parent of an orphan may not have read its exit code yet.
    assert {process_tree.state(pid) for pid in frozen} <= {"", "Z"}


def test_a_frozen_program_can_be_stopped(own_stage: Stage) -> None:
    """`make restart` stops all services."""
    own_stage.inject("freeze")
    own_stage.supervisor.halt("family")
    assert own_stage.rows()["family"]["state"] == "stopped"
    own_stage.supervisor.start("family")
    assert wait_for(
        lambda: own_stage.rows()["family"]["state"] == "running", DEADLINE_S
    )


def test_a_killed_supervisor_gives_a_problem(own_stage: Stage) -> None:
    pid = own_stage.supervisor.pid()
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: own_stage.supervisor.pid() is None, DEADLINE_S)
    assert own_stage.call("GET", "").status_code == 503
    assert own_stage.inject("kill").status_code == 503
