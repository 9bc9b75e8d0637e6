"""The deadline that travels with a call."""

import eventlet
import pytest

from chassis.deadlines import (
    MIN_CALL_S,
    RESERVE_S,
    TIMEOUT,
    bind_deadline,
    call_timeout_s,
)


def in_a_worker(data: dict[str, object], limit_s: float) -> float:
    """Return the time for a call, in a worker of its own with `data` from the caller."""

    def work() -> float:
        bind_deadline(data)
        return call_timeout_s(limit_s)

    seconds: float = eventlet.spawn(work).wait()
    return seconds


def test_without_a_deadline_the_setting_limits_a_call() -> None:
    assert in_a_worker({}, 3) == 3


def test_a_later_deadline_does_not_extend_a_call() -> None:
    assert in_a_worker({TIMEOUT: 60}, 3) == 3


def test_a_call_leaves_time_for_the_reply() -> None:
    assert in_a_worker({TIMEOUT: 2}, 3) <= 2 - RESERVE_S


def test_a_short_deadline_allows_a_minimal_call() -> None:
    assert in_a_worker({TIMEOUT: 0.001}, 3) == MIN_CALL_S


@pytest.mark.parametrize("odd", ["2", -1, 0, None, [], float("nan")])
def test_a_malformed_deadline_is_ignored(odd) -> None:
    assert in_a_worker({TIMEOUT: odd}, 3) == 3


def test_each_worker_has_its_own_deadline() -> None:
    assert in_a_worker({TIMEOUT: 1}, 3) < 1
    assert in_a_worker({}, 3) == 3
