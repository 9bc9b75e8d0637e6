"""The processes of a program are found, and a freeze stops and continues all of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dev import process_tree
from dev.page import freezing
from dev.supervisor import wait_for

# As a backend of PostgreSQL, the grandchild has a session of its own. Parentheses in a name are
# allowed.
FAMILY = """
import os, time
open("/proc/self/comm", "w").write("a) R 1 (b")
if not os.fork():
    if not os.fork():
        os.setsid()
    time.sleep(1000)
time.sleep(1000)
"""
LONG_S, SHORT_S = 600.0, 0.5


@pytest.fixture
def family() -> Iterator[list[int]]:
    """A process with a child and a grandchild."""
    parent = subprocess.Popen([sys.executable, "-c", FAMILY])
    assert wait_for(lambda: len(process_tree.tree(parent.pid)) == 3, 10)
    pids = process_tree.tree(parent.pid)
    yield pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    parent.wait()


def states(pids: list[int]) -> set[str]:
    return {process_tree.state(pid) for pid in pids}


def test_a_tree_begins_with_its_root(family: list[int]) -> None:
    parent, child, grandchild = family
    assert process_tree.tree(parent) == family
    assert process_tree.tree(child) == [child, grandchild]
    assert process_tree.tree(grandchild, child) == [grandchild, child]
    assert os.getpid() not in process_tree.tree(parent)


def test_a_process_that_has_ended_has_no_tree_and_no_state() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    assert process_tree.tree(ended.pid) == []
    assert process_tree.state(ended.pid) == ""
    process_tree.resume([ended.pid])


def test_a_freeze_stops_all_processes_and_continues_them(family: list[int]) -> None:
    helper = freezing.start(family[0], SHORT_S)
    assert helper is not None
    assert states(family) == {"T"}
    assert helper.wait(10) == 0
    assert "T" not in states(family)


def test_sigterm_ends_a_freeze_early(family: list[int]) -> None:
    helper = freezing.start(family[0], LONG_S)
    assert helper is not None
    helper.terminate()
    assert helper.wait(10) == 0
    assert "T" not in states(family)


def test_a_freeze_does_not_depend_on_the_session_of_its_server(
    family: list[int],
) -> None:
    helper = freezing.start(family[0], SHORT_S)
    assert helper is not None
    assert os.getsid(helper.pid) == helper.pid
    assert helper.wait(10) == 0


def test_a_second_freeze_leaves_no_process_stopped(family: list[int]) -> None:
    first = freezing.start(family[0], SHORT_S)
    second = freezing.start(family[0], 2 * SHORT_S)
    assert first is not None
    assert second is not None
    assert first.wait(10) == second.wait(10) == 0
    assert "T" not in states(family)


def test_a_process_killed_in_a_freeze_does_not_keep_the_others_stopped(
    family: list[int],
) -> None:
    helper = freezing.start(family[0], SHORT_S)
    assert helper is not None
    os.kill(family[0], signal.SIGKILL)
    assert helper.wait(10) == 0
    assert "T" not in states(family)


def test_a_process_that_has_ended_is_not_frozen() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    assert freezing.start(ended.pid, LONG_S) is None


def test_a_killed_freeze_can_be_ended_by_another_process(family: list[int]) -> None:
    helper = freezing.start(family[0], LONG_S)
    assert helper is not None
    helper.kill()
    helper.wait()
    assert states(family) == {"T"}
    process_tree.resume(process_tree.tree(family[0]))
    assert wait_for(lambda: "T" not in states(family), 10)


def test_the_freezing_process_starts_in_any_folder(
    family: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    helper = freezing.start(family[0], 0)
    assert helper is not None
    assert helper.wait(10) == 0


KILLED_SERVER = """
import os, signal, sys
from dev.page import freezing
assert freezing.start(int(sys.argv[1]), float(sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_freeze_ends_after_its_server_was_killed(family: list[int]) -> None:
    command = [sys.executable, "-c", KILLED_SERVER, str(family[0]), str(SHORT_S)]
    killed = subprocess.run(command, cwd=freezing.CHECKOUT)
    assert killed.returncode == -signal.SIGKILL
    assert wait_for(lambda: "T" not in states(family), 10)
