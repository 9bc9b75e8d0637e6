"""Two tracks of tests side by side: output, exit codes, and the end of all processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dev.all_tests import INTERRUPTED, LOWEST_PRIORITY, Step, run
from dev.supervisor import wait_for

PROGRAM = (
    "import sys; from dev.all_tests import Step, end_on_signals, run; end_on_signals()"
)
WAIT_S = 20.0  # generous


def shell(script: str, niceness: int = 0) -> Step:
    return Step(("sh", "-c", script), niceness)


def runs(pid: str) -> bool:
    """Return whether the process runs. A zombie is in /proc, but has no command line."""
    try:
        return bool(Path("/proc", pid, "cmdline").read_bytes())
    except OSError:
        return False


def test_the_output_of_the_second_track_follows_the_first(capfd) -> None:
    first = [shell("sleep 0.5; echo first; sleep 0.5; echo track")]
    second = [
        shell("echo second"),
        shell("echo errors >&2"),
        shell("sleep 1; echo last"),
    ]
    assert run(first, second) == 0
    assert (
        capfd.readouterr().out
        == "first\ntrack\nsecond\nerrors\nlast\nAll tests passed.\n"
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["exit 1"], ["true"]),
        (["true"], ["exit 1", "true"]),
        (["true"], ["true", "kill -9 $$"]),
    ],
)
def test_all_steps_run_and_a_failing_one_is_reported(
    capfd, first: list[str], second: list[str]
) -> None:
    def steps(scripts: Sequence[str]) -> list[Step]:
        return [shell(f"echo ran; {script}") for script in scripts]

    assert run(steps(first), steps(second)) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines.count("ran") == len(first) + len(second)
    [failure] = [line for line in lines if line != "ran"]
    assert failure.startswith("FAILED")


def test_a_step_runs_with_its_niceness(capfd) -> None:
    assert run([shell("nice")], [shell("nice", LOWEST_PRIORITY)]) == 0
    ours = str(os.nice(0))  # the tests themselves may have a niceness
    assert capfd.readouterr().out.split()[:2] == [ours, str(LOWEST_PRIORITY)]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, INTERRUPTED),
        (signal.SIGTERM, INTERRUPTED),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_no_process_outlives_the_tracks(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    scripts = [
        f"echo $$ >{tmp_path / name}; exec sleep 1000" for name in ("first", "second")
    ]
    steps = [f"[Step(('sh', '-c', {script!r}))]" for script in scripts]
    program = f"{PROGRAM}; sys.exit(run({', '.join(steps)}))"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE
    ) as tracks:
        files = [tmp_path / "first", tmp_path / "second"]
        assert wait_for(
            lambda: all(file.exists() and file.read_text() for file in files), WAIT_S
        )
        pids = [file.read_text().strip() for file in files]
        tracks.send_signal(number)
        assert tracks.wait(WAIT_S) == code
        assert wait_for(lambda: not any(runs(pid) for pid in pids), WAIT_S)
