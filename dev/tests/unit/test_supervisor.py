"""What supervisord keeps running, and that nothing outlives it; with toy programs."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import state
from dev.supervisor import Program, Supervisor, wait_for

WORD = 'a word\'s "%(x)s" $HOME'
ODD = "Лавка #1 ;new 'q' \"d\" 50% %(here)s $HOME `id`"  # a comment for supervisord, at ` #` and ` ;`
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
        Program("sleeper", ["sleep", "1000"], folder, another),
        Program("odd", ["sh", str(odd / "script"), ODD], odd),
        Program("dying", ["false"], folder),
        Program(
            "speaker",
            ["sh", "-c", 'echo "$WORD"; sleep 1000'],
            folder,
            env={"WORD": WORD},
        ),
        Program(
            "deaf", ["sh", "-c", "trap '' TERM; sleep 1000"], folder, stop_wait_s=1
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


def test_a_killed_program_is_started_again(supervisor: Supervisor) -> None:
    supervisor.start("sleeper")
    assert wait_for(lambda: supervisor.starts("sleeper") == 1, 5)
    os.kill(supervisor.processes()["sleeper"], signal.SIGKILL)
    assert wait_for(lambda: supervisor.starts("sleeper") == 2, 10)


def test_a_program_runs_in_any_folder_with_any_words(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.start("odd")
    assert wait_for(
        lambda: supervisor.log("odd").read_text() == f"{tmp_path / ODD}\n{ODD}\n", 5
    )


def test_variables_reach_a_program_and_nobody_else(supervisor: Supervisor) -> None:
    """A password in a command line would be seen by every user of the machine."""
    supervisor.start("speaker")
    assert wait_for(lambda: supervisor.log("speaker").read_text() == f"{WORD}\n", 5)
    pid = supervisor.processes()["speaker"]
    assert WORD.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    for path in ("programs/speaker", "log"):
        assert not supervisor.state.joinpath(path).stat().st_mode & 0o077, path
    assert WORD not in (supervisor.state / "supervisord.conf").read_text()


def test_a_program_that_dies_at_once_is_started_again_for_ever_but_not_hot(
    supervisor: Supervisor,
) -> None:
    supervisor.start("dying")
    time.sleep(6)  # supervisord's own default has given up by then
    assert 3 <= supervisor.starts("dying") <= 8


def test_a_program_that_ignores_its_stop_signal_ends_all_the_same(
    supervisor: Supervisor,
) -> None:
    supervisor.start("deaf")
    assert wait_for(lambda: supervisor.starts("deaf") == 1, 5)
    assert supervisor.stop()
    assert supervisor.orphans() == []


def test_what_a_killed_supervisord_left_is_found_and_ended(
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


def test_others_may_write_nothing_and_read_no_variables_whatever_the_umask_is(
    tmp_path: Path,
) -> None:
    supervisor = Supervisor(state.make(tmp_path / "run"))
    umask = os.umask(0o000)
    try:
        supervisor.begin(
            [Program("sleeper", ["sleep", "1000"], supervisor.state)],
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


def test_stopping_twice_says_that_nothing_ran(supervisor: Supervisor) -> None:
    assert supervisor.stop()
    assert not supervisor.stop()


def test_a_process_id_that_now_is_someone_elses_is_not_taken_for_ours(
    supervisor: Supervisor,
) -> None:
    supervisor.stop()
    (supervisor.state / "supervisord.pid").write_text(str(os.getpid()))
    assert supervisor.pid() is None
