"""supervisord restarts programs, and no program outlives it. The programs are toys."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import state
from dev.supervisor import Program, Supervisor, wait_for

WORD = 'a word\'s "%(x)s" $HOME'
# ` #` and ` ;` begin a comment in supervisord's configuration.
ODD = "Лавка #1 ;new 'q' \"d\" 50% %(here)s $HOME `id`"
PRINTS_FOLDER = 'pwd; echo "$1"; sleep 1000\n'


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    wanted = tmp_path / "run"
    folder = state.make(wanted)
    supervisor = Supervisor(folder)
    another = "nobody" if os.geteuid() == 0 else None
    odd = tmp_path / ODD
    odd.mkdir()
    (odd / "script").write_text(PRINTS_FOLDER)
    programs = [
        Program(
            name="sleeper",
            command=["sleep", "1000"],
            directory=folder,
            user=another,
        ),
        Program(name="odd", command=["sh", str(odd / "script"), ODD], directory=odd),
        Program(name="dying", command=["false"], directory=folder),
        Program(
            name="speaker",
            command=["sh", "-c", 'echo "$WORD"; sleep 1000'],
            directory=folder,
            env={"WORD": WORD},
        ),
        Program(
            name="deaf",
            command=["sh", "-c", "trap '' TERM; sleep 1000"],
            directory=folder,
            stop_wait_s=1,
        ),
    ]
    umask = os.umask(0o077)
    try:
        supervisor.begin(programs, os.environ, tied=True)
    finally:
        os.umask(umask)
    yield supervisor
    supervisor.stop()
    state.remove(wanted)


def test_a_killed_program_is_restarted(supervisor: Supervisor) -> None:
    supervisor.start("sleeper")
    assert wait_for(lambda: supervisor.starts("sleeper") == 1, 5)
    os.kill(supervisor.processes()["sleeper"], signal.SIGKILL)
    assert wait_for(lambda: supervisor.starts("sleeper") == 2, 10)


def test_a_program_runs_in_any_folder_with_any_arguments(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.start("odd")
    assert wait_for(
        lambda: supervisor.log("odd").read_text() == f"{tmp_path / ODD}\n{ODD}\n", 5
    )


def test_only_the_program_can_read_its_variables(supervisor: Supervisor) -> None:
    """Every user of the machine can see a password in a command line."""
    supervisor.start("speaker")
    assert wait_for(lambda: supervisor.log("speaker").read_text() == f"{WORD}\n", 5)
    pid = supervisor.processes()["speaker"]
    assert WORD.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    for path in ("programs/speaker", "log"):
        assert not supervisor.state.joinpath(path).stat().st_mode & 0o077, path
    assert WORD not in (supervisor.state / "supervisord.conf").read_text()


def test_a_failing_program_is_restarted_without_limit_but_slowly(
    supervisor: Supervisor,
) -> None:
    supervisor.start("dying")
    time.sleep(6)  # by default supervisord would have stopped its restarts
    assert 3 <= supervisor.starts("dying") <= 8


def test_a_program_that_ignores_its_stop_signal_is_killed(
    supervisor: Supervisor,
) -> None:
    supervisor.start("deaf")
    assert wait_for(lambda: supervisor.starts("deaf") == 1, 5)
    assert supervisor.stop()
    assert supervisor.orphans() == []


def test_programs_of_a_killed_supervisord_are_stopped(
    supervisor: Supervisor,
) -> None:
    supervisor.start("sleeper")
    assert wait_for(lambda: supervisor.starts("sleeper") == 1, 5)
    pid = supervisor.pid()
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: supervisor.pid() is None, 5)
    assert supervisor.orphans()
    assert supervisor.stop()
    assert supervisor.orphans() == []


def test_other_users_can_neither_write_files_nor_read_variables(
    tmp_path: Path,
) -> None:
    supervisor = Supervisor(state.make(tmp_path / "run"))
    umask = os.umask(0o000)
    try:
        supervisor.begin(
            [
                Program(
                    name="sleeper",
                    command=["sleep", "1000"],
                    directory=supervisor.state,
                )
            ],
            os.environ,
            tied=True,
        )
        own = [
            path
            for path in supervisor.state.rglob("*")
            if path.is_file() and not path.is_symlink()
        ]
        assert [path for path in own if path.stat().st_mode & 0o022] == []
        assert (supervisor.state / "programs" / "sleeper").stat().st_mode & 0o077 == 0
    finally:
        os.umask(umask)
        supervisor.stop()
        state.remove(tmp_path / "run")


def test_a_second_stop_reports_that_nothing_ran(supervisor: Supervisor) -> None:
    assert supervisor.stop()
    assert not supervisor.stop()


def test_a_reused_process_id_is_ignored(
    supervisor: Supervisor,
) -> None:
    supervisor.stop()
    (supervisor.state / "supervisord.pid").write_text(str(os.getpid()))
    assert supervisor.pid() is None
