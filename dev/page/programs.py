"""The programs of the supervisor: their states, and two faults for each of them."""

import logging
import math
import os
import signal
import subprocess
import time
from contextlib import suppress
from threading import Lock, Thread
from typing import Any

from dev import process_tree
from dev.page import freezing
from dev.ports import PAGE
from dev.supervisor import Supervisor
from gateway import problems

FREEZE_S = 10

log = logging.getLogger(__name__)


class Programs:
    """All programs of a supervisor, without this server."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        # One fault at a time, so that it sees the effect of the previous one.
        self._lock = Lock()
        self._frozen_until: dict[str, float] = {}  # by name, on the monotonic clock

    def list(self) -> dict[str, Any]:
        """Return the name, the state and the number of restarts of each program.

        A program that this server has frozen has also the seconds until it continues.
        """
        return {
            "processes": [
                self._row(name, pid) for name, pid in self._processes().items()
            ]
        }

    def _row(self, name: str, pid: int) -> dict[str, Any]:
        row: dict[str, Any] = {
            "name": name,
            "state": _state(pid),
            "restarts": max(self._supervisor.starts(name) - 1, 0),
        }
        left_s = self._frozen_until.get(name, 0.0) - time.monotonic()
        if row["state"] == "frozen" and left_s > 0:
            row["continues_in_s"] = math.ceil(left_s)
        return row

    def kill(self, name: str) -> dict[str, Any]:
        """Send SIGKILL to the process that the supervisor started. It starts another one."""
        with self._lock:
            pid = self._pid(name)
            processes = process_tree.tree(pid)
            _send_kill(pid)
            # The descendants of a frozen process must notice its end.
            process_tree.resume(processes)
        log.info("program_killed name=%s pid=%d", name, pid)
        return {"name": name}

    def freeze(self, name: str) -> dict[str, Any]:
        """Stop all processes of a program. They continue after FREEZE_S."""
        with self._lock:
            pid = self._pid(name)
            if process_tree.state(pid) == process_tree.STOPPED:
                raise problems.Problem(
                    409, "already-frozen", f"{name} is frozen. Wait until it continues."
                )
            helper = freezing.start(pid, FREEZE_S)
            if helper is None:
                raise _not_running(name)
            self._frozen_until[name] = time.monotonic() + FREEZE_S
        log.info("program_frozen name=%s pid=%d seconds=%d", name, pid, FREEZE_S)
        Thread(target=self._await_end, args=(name, helper), daemon=True).start()
        return {"name": name, "seconds": FREEZE_S}

    def resume(self) -> None:
        """Continue all programs, in case a freeze was left behind."""
        self._supervisor.resume(*self._supervisor.processes())

    def _await_end(self, name: str, helper: subprocess.Popen[bytes]) -> None:
        if helper.wait():  # it was killed before it ended the freeze
            self._supervisor.resume(name)

    def _pid(self, name: str) -> int:
        """Return the process id of a program. Raises Problem if it is unknown or stopped."""
        processes = self._processes()
        if name not in processes:
            raise problems.not_found()
        if not processes[name]:
            raise _not_running(name)
        return processes[name]

    def _processes(self) -> dict[str, int]:
        """Return the process id of each program, 0 for a stopped one."""
        found = self._supervisor.processes()
        if not found:
            raise problems.unavailable("supervisord does not respond: see make status.")
        return {name: pid for name, pid in found.items() if name != PAGE}


def _state(pid: int) -> str:
    if not pid:
        return "stopped"
    return "frozen" if process_tree.state(pid) == process_tree.STOPPED else "running"


def _not_running(name: str) -> problems.Problem:
    return problems.Problem(409, "not-running", f"{name} does not run. Retry later.")


def _send_kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGKILL)
