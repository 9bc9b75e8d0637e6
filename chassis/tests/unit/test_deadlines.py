"""Time that travels with a call."""

import eventlet
import pytest

from chassis.deadlines import (
    MIN_CALL_S,
    RESERVE_S,
    TIMEOUT,
    bind_deadline,
    time_for_a_call,
)


def in_a_worker(data: dict[str, object], limit_s: float) -> float:
    """What a call may take in a worker of its own that was asked with `data`."""

    def work() -> float:
        bind_deadline(data)
        return time_for_a_call(limit_s)

    seconds: float = eventlet.spawn(work).wait()
    return seconds


def test_without_a_deadline_a_call_takes_what_its_setting_says() -> None:
    assert in_a_worker({}, 3) == 3


def test_a_patient_caller_leaves_the_setting_as_it_is() -> None:
    assert in_a_worker({TIMEOUT: 60}, 3) == 3


def test_a_call_leaves_time_for_the_answer() -> None:
    assert in_a_worker({TIMEOUT: 2}, 3) <= 2 - RESERVE_S


def test_a_hurried_caller_still_gets_a_try() -> None:
    assert in_a_worker({TIMEOUT: 0.001}, 3) == MIN_CALL_S


@pytest.mark.parametrize("odd", ["2", -1, 0, None, [], float("nan")])
def test_a_deadline_that_can_not_be_one_is_none(odd) -> None:
    assert in_a_worker({TIMEOUT: odd}, 3) == 3


def test_the_deadline_of_one_worker_is_not_that_of_another() -> None:
    assert in_a_worker({TIMEOUT: 1}, 3) < 1
    assert in_a_worker({}, 3) == 3
