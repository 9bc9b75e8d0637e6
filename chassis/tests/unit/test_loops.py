"""Stuck loops are visible, and timers do not depend on the time of day."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import eventlet
import pytest
from prometheus_client import REGISTRY

from chassis import health
from chassis.errors import Unavailable
from chassis.loops import LoopWatch
from chassis.timers import Timer
from conftest import DEADLINE_S, eventually


@pytest.fixture(autouse=True)
def _own_checks(monkeypatch) -> None:
    """Keep the stuck loops of these tests out of other tests' readiness."""
    monkeypatch.setattr(health, "_checks", {})


def busy_metric() -> float:
    labels = {"service": "tests", "loop": "loop"}
    return REGISTRY.get_sample_value("shop_loop_busy_seconds", labels) or 0


def test_a_stuck_step_is_reported(
    caplog,
) -> None:
    watch = LoopWatch("tests", "loop", limit_s=0.05)
    with watch.step():
        eventually(lambda: "loop_stuck" in caplog.messages)
        assert busy_metric() > 0
        with pytest.raises(Unavailable, match="busy for"):
            watch.check()
    watch.check()
    assert busy_metric() == 0


def test_steps_that_end_in_time_are_not_reported(caplog) -> None:
    watch = LoopWatch("tests", "loop", limit_s=0.05)
    for _ in range(3):
        with watch.step():
            watch.check()
    eventlet.sleep(0.1)
    assert caplog.messages == []


def test_an_exception_ends_a_step() -> None:
    watch = LoopWatch("tests", "loop", limit_s=0)
    with pytest.raises(Unavailable), watch.step():
        raise Unavailable
    watch.check()


class Ticking(Timer):
    """A timer without a container. It counts ticks; each ends at once unless `blocks` is set."""

    def __init__(self, interval: float, **options: Any) -> None:
        super().__init__(interval, **options)
        self.ticks = 0
        self.blocks = False
        self._watch = LoopWatch("tests", "timer", limit_s=0.05)

    def handle_timer_tick(self) -> None:
        self.ticks += 1
        if not self.blocks:
            self.worker_complete.send()


@pytest.fixture
def ticking() -> Iterator[Callable[..., Ticking]]:
    timers = []

    def start(**options: Any) -> Ticking:
        timers.append(Ticking(0.05, **options))
        eventlet.spawn(timers[-1]._run)
        return timers[-1]

    yield start
    for timer in timers:
        timer.should_stop.send(True)


def test_a_timer_continues_when_the_time_of_day_is_set_back(
    ticking, monkeypatch
) -> None:
    timer = ticking()
    eventually(lambda: timer.ticks == 1)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    eventually(lambda: timer.ticks >= 3)


def test_a_timer_does_not_catch_up_on_missed_ticks(ticking) -> None:
    timer = ticking()
    timer.blocks = True
    eventually(lambda: timer.ticks == 1)
    eventlet.sleep(0.5)
    timer.blocks = False
    started = time.monotonic()
    timer.worker_complete.send()
    eventlet.sleep(0.2)
    elapsed_s = time.monotonic() - started
    assert timer.ticks <= 1 + 1 + elapsed_s / 0.05


def test_an_eager_timer_starts_at_once(ticking) -> None:
    eager, other = ticking(eager=True), ticking()
    eventlet.sleep(0)
    eventlet.sleep(0)
    assert (eager.ticks, other.ticks) == (1, 0)
    with eventlet.Timeout(DEADLINE_S):
        eventually(lambda: other.ticks == 1)


def test_a_timer_with_a_stuck_run_is_not_ready(ticking) -> None:
    timer = ticking()
    timer.blocks = True
    eventually(lambda: timer._watch.busy_s() > 0.05)
    with pytest.raises(Unavailable):
        timer._watch.check()
