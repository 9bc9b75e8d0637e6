"""CPU time by kind of process."""

import os
from pathlib import Path

import pytest

from dev.bench.cpu import (
    IDLE,
    REST,
    STEAL,
    TICKS,
    backend_kind,
    machine,
    process,
    used_between,
)


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("postgres: billing billing 127.0.0.1(43210) idle ", "PostgreSQL, billing"),
        (
            "postgres: orders_owner orders 127.0.0.1(43210) COMMIT ",
            "PostgreSQL, orders",
        ),
        ("postgres: postgres bench 127.0.0.1(43210) SELECT ", "PostgreSQL, itself"),
        ("postgres: walwriter ", "PostgreSQL, itself"),
        ("postgres: autovacuum worker orders ", "PostgreSQL, itself"),
        ("", "PostgreSQL, itself"),
    ],
)
def test_a_backend_counts_for_its_database(title: str, kind: str) -> None:
    assert backend_kind(title) == kind


def test_only_the_time_between_counts() -> None:
    before = {("orders", 1): 5.0, ("orders", 2): 1.0, ("users", 3): 9.0}
    after = {("orders", 1): 6.0, ("orders", 2): 1.5, ("orders", 4): 0.25}
    before |= {(REST, 0): 100.0, (IDLE, 0): 50.0, (STEAL, 0): 7.0}
    after |= {(REST, 0): 104.0, (IDLE, 0): 51.0, (STEAL, 0): 7.5}
    assert used_between(before, after) == {
        "orders": 1.75,
        REST: 2.25,
        IDLE: 1.0,
        STEAL: 0.5,
    }


def test_all_cores_together_are_busy_idle_or_taken_by_the_host() -> None:
    stat = "cpu  200 0 100 400 100 0 100 77 0 0\ncpu0 1 2 3"
    assert machine(stat) == (400 / TICKS, 500 / TICKS, 77 / TICKS)


def test_a_process_name_may_have_brackets_and_spaces() -> None:
    stat = f"7 (a) b (c) S 42 {'0 ' * 9}300 100 0 0 20"
    assert process(stat) == (42, 400 / TICKS)
    parent, used = process(Path("/proc/self/stat").read_text())
    assert parent == os.getppid()
    assert used > 0
