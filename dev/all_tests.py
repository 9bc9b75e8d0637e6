"""Runs all tests in two tracks, side by side: `python -m dev.all_tests`, which `make test` calls.

The first track prints as it goes: the tests of the services and of the whole suite, which mostly wait.
The second track begins with what needs a processor alone, at the lowest priority, so that the first
track keeps its pace. Then it follows the documents and plays the promises under real faults, on servers
of its own. Its output follows that of the first track, whole. conftest.py sets the marks: each test is in
one track.
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
    """A command, and how far it stands back behind other processes: 0 to 19."""

    command: Sequence[str]
    niceness: int = 0

    def __str__(self) -> str:
        return shlex.join(self.command)


FIRST_TRACK = (Step((*PYTEST, "-m", "not processor_only and not own_servers")),)
SECOND_TRACK = (
    Step((*PYTEST, "-m", "processor_only"), LOWEST_PRIORITY),
    Step((sys.executable, "-m", "tests.mutants", "--quick"), LOWEST_PRIORITY),
    Step((*PYTEST, "-m", "own_servers")),
)


@dataclass
class Track:
    """Steps that run one after another, whether or not the one before has failed."""

    steps: Sequence[Step]
    output: IO[bytes] | None = None  # None is ours
    codes: list[int] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def failures(self) -> list[str]:
        """A line for each step that failed, once all have ended."""
        ended = zip(self.steps, self.codes, strict=True)
        return [f"FAILED, exit code {code}: {step}" for step, code in ended if code]

    def has_ended(self) -> bool:
        """Whether all steps have ended; starts the next one when the last one has."""
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
        """Tells the step that runs to end, as Ctrl-C does; no further one starts."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGINT)

    def await_end(self) -> None:
        """Returns when the step that was interrupted has ended; kills it when it takes too long."""
        if self._process is not None:
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _start(self, step: Step) -> subprocess.Popen[bytes]:
        """A step is a session of its own: Ctrl-C reaches it once, by `interrupt`, with its children."""

        def prepare() -> None:
            end_with_parent()
            os.nice(step.niceness)
            with suppress(
                OSError
            ):  # where Linux groups sessions, the niceness of the group counts
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
    """Runs both tracks to their ends; 0 where no step failed."""
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
    """Returns when all tracks have ended. Once the first one has, the others' output is shown."""
    while True:
        ended = [track.has_ended() for track in tracks]
        if ended[0]:
            _show(output)
        if all(ended):
            return
        time.sleep(POLL_S)


def _show(output: IO[bytes]) -> None:
    """Copies what was written since the last time."""
    sys.stdout.flush()
    shutil.copyfileobj(output, sys.stdout.buffer)
    sys.stdout.flush()


def end_on_signals() -> None:
    """Ctrl-C and SIGTERM interrupt this process, also where a shell has told it to ignore Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


if __name__ == "__main__":
    end_on_signals()
    sys.exit(run(FIRST_TRACK, SECOND_TRACK))
