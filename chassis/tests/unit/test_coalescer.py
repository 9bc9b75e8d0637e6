"""Natural batching, with a `send` that the test holds back."""

from collections.abc import Sequence
from time import monotonic
from typing import Any

import eventlet
import pytest
from eventlet.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.coalescer import MOST_SLOW, Call, Coalescer
from chassis.errors import DeadlineExceeded, InternalError, Unavailable
from conftest import eventually

LONG_S = 20


class Outside:
    """What batches are sent to: it records each and answers when told to."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.times: list[tuple[float, float]] = []
        self._answers: list[Event] = []

    def send(self, items: Sequence[Any], tell_s: float, wait_s: float) -> Sequence[Any]:
        self.batches.append(list(items))
        self.times.append((tell_s, wait_s))
        self._answers.append(Event())
        return self._answers[-1].wait()

    def answer(self, number: int, outcomes: Sequence[Any] | None = None) -> None:
        """Let batch `number` succeed: with f"<item> done" for each item, or `outcomes`."""
        done = [f"{item} done" for item in self.batches[number]]
        self._answers[number].send(done if outcomes is None else outcomes)

    def fail(self, number: int, fault: Exception) -> None:
        self._answers[number].send_exception(fault)


@pytest.fixture
def outside() -> Outside:
    return Outside()


def coalescer_of(
    outside: Outside, patience_s: float = LONG_S, **limits: int
) -> Coalescer:
    return Coalescer(outside.send, eventlet.spawn, patience_s=patience_s, **limits)


def submit(coalescer: Coalescer, *items: Any, timeout_s: float = LONG_S) -> list[Call]:
    """Calls that arrive one after the other, each seen before the next."""
    calls = []
    for item in items:
        calls.append(coalescer.submit(item, timeout_s))
        eventlet.sleep(0)
    return calls


def results(calls: list[Call]) -> list[Any]:
    return [call.result() for call in calls]


def test_a_lone_call_goes_alone_and_at_once(outside) -> None:
    coalescer = coalescer_of(outside)
    [call] = submit(coalescer, "a")
    assert outside.batches == [["a"]]
    outside.answer(0)
    assert call.result() == "a done"


def test_calls_made_while_a_batch_is_under_way_go_together_in_order(outside) -> None:
    coalescer = coalescer_of(outside, lanes=1)
    calls = submit(coalescer, *"abcd")
    assert outside.batches == [["a"]]
    outside.answer(0)
    eventually(lambda: len(outside.batches) == 2)
    assert outside.batches[1] == ["b", "c", "d"]
    outside.answer(1)
    assert results(calls) == ["a done", "b done", "c done", "d done"]


def test_each_lane_has_one_batch_under_way(outside) -> None:
    coalescer = coalescer_of(outside, lanes=2)
    submit(coalescer, *"abcd")
    assert outside.batches == [["a"], ["b"]]
    outside.answer(1)
    eventually(lambda: outside.batches[2:])
    assert outside.batches[2:] == [["c", "d"]]


def test_a_batch_has_at_most_max_items(outside) -> None:
    coalescer = coalescer_of(outside, lanes=1, max_items=2)
    submit(coalescer, *"abcd")
    for number in range(2):
        outside.answer(number)
        eventually(lambda: len(outside.batches) == number + 2)  # noqa: B023
    assert outside.batches == [["a"], ["b", "c"], ["d"]]


def test_a_fault_reaches_the_items_of_its_batch_and_no_others(outside) -> None:
    coalescer = coalescer_of(outside, lanes=1)
    first, *second = submit(coalescer, *"abc")
    outside.answer(0)
    eventually(lambda: len(outside.batches) == 2)
    [third] = submit(coalescer, "d")
    outside.fail(1, Unavailable("gone"))
    eventually(lambda: len(outside.batches) == 3)
    outside.answer(2)
    assert first.result() == "a done"
    for call in second:
        with pytest.raises(Unavailable, match="gone"):
            call.result()
    assert third.result() == "d done"


def test_a_late_item_is_not_sent_and_its_caller_knows(outside) -> None:
    coalescer = coalescer_of(outside, lanes=1)
    first, late, last = [
        *submit(coalescer, "a"),
        *submit(coalescer, "b", timeout_s=0.01),
        *submit(coalescer, "c"),
    ]
    with pytest.raises(DeadlineExceeded):
        late.result()
    outside.answer(0)
    eventually(lambda: len(outside.batches) == 2)
    assert outside.batches[1] == ["c"]
    outside.answer(1)
    assert results([first, last]) == ["a done", "c done"]


def test_a_caller_who_gives_up_fails_nobody_else(outside) -> None:
    coalescer = coalescer_of(outside, lanes=1)
    submit(coalescer, "a")
    [impatient] = submit(coalescer, "b", timeout_s=1)
    [patient] = submit(coalescer, "c")
    outside.answer(0)
    eventually(lambda: len(outside.batches) == 2)
    assert outside.batches[1] == ["b", "c"]
    with pytest.raises(DeadlineExceeded):
        impatient.result()
    outside.answer(1)
    assert patient.result() == "c done"


@pytest.mark.parametrize("outcomes", [[], ["one"], ["one", "two", "three"]])
def test_a_batch_not_answered_item_by_item_fails_its_callers_and_the_next_one_goes(
    outside, outcomes
) -> None:
    coalescer = coalescer_of(outside, lanes=1)
    _, *calls = submit(coalescer, "a", "b", "c")
    outside.answer(0)
    eventually(lambda: len(outside.batches) == 2)
    outside.answer(1, outcomes)
    for call in calls:
        with pytest.raises(InternalError):
            call.result()
    [after] = submit(coalescer, "d")
    eventually(lambda: len(outside.batches) == 3)
    outside.answer(2)
    assert after.result() == "d done"


def test_an_outcome_that_is_there_is_told_even_after_the_deadline(outside) -> None:
    coalescer = coalescer_of(outside)
    [call] = submit(coalescer, "a", timeout_s=0.05)
    outside.answer(0)
    eventually(lambda: call.deadline < monotonic())
    assert call.result() == "a done"


# What may happen, in any order: an item arrives (True: one whose time is over when it does), or the
# oldest batch under way is answered, or fails.
EVENTS = st.lists(
    st.sampled_from(["call", "call", "call", "late", "answer", "fail"]), max_size=60
)


@settings(deadline=None, max_examples=200)
@given(EVENTS, st.integers(1, 4), st.integers(1, 3))
def test_whatever_arrives_when_each_item_is_sent_once_or_dropped_late(
    events, max_items, lanes
) -> None:
    outside = Outside()
    coalescer = coalescer_of(outside, max_items=max_items, lanes=lanes)
    calls: list[Call] = []
    ended = 0
    failed: set[int] = set()

    def end(fails: bool) -> None:
        nonlocal ended
        if fails:
            failed.update(outside.batches[ended])
            outside.fail(ended, Unavailable("gone"))
        else:
            outside.answer(ended)
        ended += 1
        eventlet.sleep(0)

    for event in events:
        if event in ("call", "late"):
            calls.append(
                coalescer.submit(len(calls), -1 if event == "late" else LONG_S)
            )
            eventlet.sleep(0)
        elif ended < len(outside.batches):
            end(event == "fail")
        assert len(outside.batches) - ended <= lanes
    while ended < len(outside.batches):
        end(False)
        eventlet.sleep(0)

    sent = [item for batch in outside.batches for item in batch]
    late = [number for number, call in enumerate(calls) if call.deadline < monotonic()]
    assert sent == sorted(
        set(range(len(calls))) - set(late)
    )  # each once, in the order they came
    assert all(1 <= len(batch) <= max_items for batch in outside.batches)
    for number, call in enumerate(calls):
        assert _outcome(call) == (
            DeadlineExceeded
            if number in late
            else Unavailable
            if number in failed
            else f"{number} done"
        )


def _outcome(call: Call) -> Any:
    try:
        return call.result()
    except (DeadlineExceeded, Unavailable) as fault:
        return type(fault)


def test_a_batch_is_told_when_its_first_and_its_last_caller_stop_waiting(
    outside,
) -> None:
    coalescer = coalescer_of(outside, lanes=1)
    submit(coalescer, "alone")
    coalescer.submit("patient", 50)
    coalescer.submit("hurried", 20)
    outside.answer(0)
    eventually(lambda: len(outside.batches) == 2)
    tell_s, wait_s = outside.times[1]
    assert 0 < tell_s <= 20 < wait_s <= 50
    outside.answer(1)


def test_an_item_that_is_nearly_late_does_not_hurry_its_batch(outside) -> None:
    coalescer = coalescer_of(outside, lanes=1)
    submit(coalescer, "alone")
    late = coalescer.submit("nearly late", 2)
    coalescer.submit("in time", 50)
    eventlet.sleep(
        1.8
    )  # most of its time: what is left would be all that the batch has
    outside.answer(0)
    eventually(lambda: len(outside.batches) == 2)
    assert outside.batches[1] == ["in time"]
    assert outside.times[1][0] > 10
    with pytest.raises(DeadlineExceeded):
        late.result()
    outside.answer(1)


def test_a_batch_that_hangs_holds_up_nobody_else(outside) -> None:
    coalescer = coalescer_of(outside, lanes=1, patience_s=0.05)
    [hangs, other] = submit(coalescer, "hangs", "other")
    assert outside.batches == [["hangs"]]
    eventually(lambda: outside.batches[1:] == [["other"]])
    outside.answer(1)
    assert other.result() == "other done"
    outside.answer(0)
    assert hangs.result() == "hangs done"
    [last] = submit(coalescer, "last")
    outside.answer(2)
    assert last.result() == "last done"


def test_only_so_many_batches_hang_at_a_time(outside) -> None:
    coalescer = coalescer_of(outside, lanes=1, max_items=1, patience_s=0.01)
    calls = submit(coalescer, *range(MOST_SLOW + 3))
    eventually(lambda: len(outside.batches) == MOST_SLOW + 1)
    eventlet.sleep(0.1)
    assert len(outside.batches) == MOST_SLOW + 1
    for number in range(len(calls)):
        eventually(lambda: len(outside.batches) > number)  # noqa: B023
        outside.answer(number)
    assert results(calls) == [f"{number} done" for number in range(MOST_SLOW + 3)]
    eventually(lambda: (coalescer._busy, coalescer._slow) == (set(), set()))
