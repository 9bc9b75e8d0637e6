"""Run all tests in two tracks, side by side: `python -m dev.all_tests`, which `make test` calls.

The first track runs the tests of the services and of the whole suite, which mostly wait. It
prints its output at once.

The second track begins with tests that need only a processor, at the lowest priority, so that
they do not slow down the first track. Then it tests the documents, the promises under faults, and
the page, on servers of its own. Its output is printed after that of the first track.

Each test is in one track. conftest.py sets the marks. The tests of the page have a process and a
pytest.ini of their own.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from dev.supervisor import end_with_parent

PYTEST = (sys.executable, "-m", "pytest")
LOWEST_PRIORITY = 19
POLL_S = 0.1
STOP_TIMEOUT_S = 60.0  # for pytest, which stops its servers first
INTERRUPTED = 128 + signal.SIGINT  # the exit code that shells use


@dataclass(frozen=True)
class Step:
    """A command and its niceness, 0 to 19."""

    command: Sequence[str]
    niceness: int = 0

    def __str__(self) -> str:
        return shlex.join(self.command)


FIRST_TRACK = (Step((*PYTEST, "-m", "not processor_only and not own_servers")),)
SECOND_TRACK = (
    Step((*PYTEST, "-m", "processor_only"), LOWEST_PRIORITY),
    Step((sys.executable, "-m", "tests.mutants", "--quick"), LOWEST_PRIORITY),
    Step((*PYTEST, "-m", "own_servers")),
    Step((*PYTEST, "tests/browser")),
)


@dataclass
class Track:
    """Steps that run one after another, even if one fails."""

    steps: Sequence[Step]
    output: IO[bytes] | None = None  # None is the output of this process
    codes: list[int] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def failures(self) -> list[str]:
        """Return a line for each failed step. All steps must have ended."""
        ended = zip(self.steps, self.codes, strict=True)
        return [f"FAILED, exit code {code}: {step}" for step, code in ended if code]

    def has_ended(self) -> bool:
        """Return whether all steps have ended. Start the next step if none runs."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return False
            self.codes.append(code)
            self._process = None
        if len(self.codes) == len(self.steps):
            return True
        self._process = self._start(self.steps[len(self.codes)])
        return False

    def interrupt(self) -> None:
        """Interrupt the running step, as Ctrl-C does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGINT)

    def await_end(self) -> None:
        """Wait until the interrupted step has ended. Kill it after STOP_TIMEOUT_S."""
        if self._process is not None:
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _start(self, step: Step) -> subprocess.Popen[bytes]:
        """Start a step in its own session, so that Ctrl-C reaches it only by `interrupt`."""

        def prepare() -> None:
            end_with_parent()
            os.nice(step.niceness)
            # Linux may group processes by session. Then only the niceness of the group matters.
            with suppress(OSError):
                Path("/proc/self/autogroup").write_text(str(step.niceness))

        return subprocess.Popen(
            step.command,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            start_new_session=True,
            preexec_fn=prepare,
        )


def run(first: Sequence[Step], second: Sequence[Step]) -> int:
    """Run both tracks. Return 0 if no step failed."""
    with tempfile.NamedTemporaryFile() as kept, open(kept.name, "rb") as output:
        tracks = [Track(first), Track(second, kept.file)]
        try:
            _wait(tracks, output)
        except KeyboardInterrupt:
            for track in tracks:
                track.interrupt()
            for track in tracks:
                track.await_end()
            return INTERRUPTED
        finally:
            _show(output)
    failures = [line for track in tracks for line in track.failures]
    print("\n".join(failures or ["All tests passed."]), flush=True)
    return 1 if failures else 0


def _wait(tracks: Sequence[Track], output: IO[bytes]) -> None:
    """Wait until all tracks have ended. Show the output of the second when the first has ended."""
    while True:
        ended = [track.has_ended() for track in tracks]
        if ended[0]:
            _show(output)
        if all(ended):
            return
        time.sleep(POLL_S)


def _show(output: IO[bytes]) -> None:
    """Print the output written since the last call."""
    sys.stdout.flush()
    shutil.copyfileobj(output, sys.stdout.buffer)
    sys.stdout.flush()


def end_on_signals() -> None:
    """Let Ctrl-C and SIGTERM interrupt this process. A shell may have disabled Ctrl-C for it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


if __name__ == "__main__":
    end_on_signals()
    sys.exit(run(FIRST_TRACK, SECOND_TRACK))
