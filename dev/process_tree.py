"""The processes of a program: its first process and the descendants, as /proc shows them.

A program cannot be recognized by its process group or session: each backend of PostgreSQL has a
session of its own.
"""

import os
import signal
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

STOPPED = "T"  # by a signal


def tree(*roots: int) -> list[int]:
    """Return those of the processes that exist, and their descendants, parents first."""
    children = defaultdict(list)
    numbers = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    parents = {pid: found[1] for pid in numbers if (found := _stat(pid))}
    for pid, parent in parents.items():
        children[parent].append(pid)
    found_pids = dict.fromkeys(pid for pid in roots if pid in parents)
    unread = list(found_pids)
    while unread:
        more = [pid for pid in children[unread.pop(0)] if pid not in found_pids]
        found_pids |= dict.fromkeys(more)
        unread += more
    return list(found_pids)


def state(pid: int) -> str:
    """Return the state of a process, one letter, or "" if it has ended (man 5 proc)."""
    found = _stat(pid)
    return found[0] if found else ""


def resume(pids: Iterable[int]) -> None:
    """Continue the processes that a signal has stopped. The others do not notice it."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _stat(pid: int) -> tuple[str, int] | None:
    """Return the state and the parent of a process, or None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may contain any character.
    letter, parent = text.rpartition(")")[2].split()[:2]
    return letter, int(parent)
