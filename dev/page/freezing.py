"""Freeze a program for some seconds: `python -m dev.page.freezing PID SECONDS`.

A process of its own does it, so that the freeze ends even if the development server is killed.
SIGTERM ends the freeze early.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from dev import process_tree

CHECKOUT = Path(__file__).parents[2]

# Blocked from the start, so that none of them ends this process before it sends SIGCONT.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A process in an uninterruptible system call stops later.
STOP_TIMEOUT_S = 2.0
FROZEN = b"frozen\n"


def start(pid: int, seconds: float) -> subprocess.Popen[bytes] | None:
    """Freeze a process and its descendants, and return when they are frozen.

    The result is the process that ends the freeze, or None if `pid` does not exist.
    """
    command = [sys.executable, "-m", "dev.page.freezing", str(pid), str(seconds)]
    helper = subprocess.Popen(
        command,
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,  # no signal to the server's group reaches it
    )
    assert helper.stdout
    with helper.stdout as output:
        if output.readline() == FROZEN:
            return helper
    helper.wait()
    return None


def freeze(root: int, seconds: float) -> bool:
    """Stop a process and its descendants, report it, and continue them after some seconds.

    Return whether there was a process to stop.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    stopped: dict[int, int] = {}  # file descriptors, by process id
    try:
        _stop(root, stopped)
        if stopped:
            os.write(sys.stdout.fileno(), FROZEN)
            signal.sigtimedwait(ENDING, seconds)
    finally:
        for descriptor in stopped.values():
            _send(descriptor, signal.SIGCONT)
    return bool(stopped)


def _stop(root: int, stopped: dict[int, int]) -> None:
    """Stop all processes of the tree.

    A running process may start another one. So the tree is read again when all are stopped.
    """
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while new := [pid for pid in process_tree.tree(root) if pid not in stopped]:
        for pid in new:
            with suppress(ProcessLookupError):
                # A pidfd never names a later process.
                stopped[pid] = os.pidfd_open(pid)
                _send(stopped[pid], signal.SIGSTOP)
        while any(map(_is_running, new)) and time.monotonic() < deadline:
            time.sleep(0.005)


def _is_running(pid: int) -> bool:
    return process_tree.state(pid) not in ("", "Z", process_tree.STOPPED)


def _send(descriptor: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)


if __name__ == "__main__":
    sys.exit(not freeze(int(sys.argv[1]), float(sys.argv[2])))
