"""Batches of the coalescer, with a fake callee that the test controls."""

from collections.abc import Sequence
from time import monotonic
from typing import Any

import eventlet
import pytest
from eventlet.event import Event
from hypothesis import given, settings, strategies as st

from chassis.coalescer import MAX_SLOW_BATCHES, Coalescer, PendingItem
from chassis.errors import DeadlineExceeded, InternalError, Unavailable
from conftest import eventually

LONG_S = 20


class FakeCallee:
    """Records each batch, and replies to it when the test calls `reply` or `fail`."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.timeouts: list[tuple[float, float]] = []
        self._replies: list[Event] = []

    def send(
        self, items: Sequence[Any], callee_timeout_s: float, reply_timeout_s: float
    ) -> Sequence[Any]:
        self.batches.append(list(items))
        self.timeouts.append((callee_timeout_s, reply_timeout_s))
        self._replies.append(Event())
        return self._replies[-1].wait()

    def reply(self, number: int, outcomes: Sequence[Any] | None = None) -> None:
        """Reply to batch `number` with `outcomes`, or with f"{item} done" for each item."""
        done = [f"{item} done" for item in self.batches[number]]
        self._replies[number].send(done if outcomes is None else outcomes)

    def fail(self, number: int, fault: Exception) -> None:
        self._replies[number].send_exception(fault)


@pytest.fixture
def callee() -> FakeCallee:
    return FakeCallee()


def coalescer_of(
    callee: FakeCallee, slow_after_s: float = LONG_S, **limits: int
) -> Coalescer:
    return Coalescer(callee.send, eventlet.spawn, slow_after_s=slow_after_s, **limits)


def submit(
    coalescer: Coalescer, *items: Any, timeout_s: float = LONG_S
) -> list[PendingItem]:
    """Submit items one after the other. The coalescer may send each before the next."""
    pending = []
    for item in items:
        pending.append(coalescer.submit(item, timeout_s))
        eventlet.sleep(0)
    return pending


def results(pending: list[PendingItem]) -> list[Any]:
    return [each.result() for each in pending]


def test_a_single_item_is_sent_at_once(callee) -> None:
    coalescer = coalescer_of(callee)
    [pending] = submit(coalescer, "a")
    assert callee.batches == [["a"]]
    callee.reply(0)
    assert pending.result() == "a done"


def test_items_that_wait_form_the_next_batch_in_order(callee) -> None:
    coalescer = coalescer_of(callee, max_in_flight=1)
    pending = submit(coalescer, *"abcd")
    assert callee.batches == [["a"]]
    callee.reply(0)
    eventually(lambda: len(callee.batches) == 2)
    assert callee.batches[1] == ["b", "c", "d"]
    callee.reply(1)
    assert results(pending) == ["a done", "b done", "c done", "d done"]


def test_batches_in_flight_are_limited(callee) -> None:
    coalescer = coalescer_of(callee, max_in_flight=2)
    submit(coalescer, *"abcd")
    assert callee.batches == [["a"], ["b"]]
    callee.reply(1)
    eventually(lambda: callee.batches[2:])
    assert callee.batches[2:] == [["c", "d"]]


def test_a_batch_has_at_most_max_items(callee) -> None:
    coalescer = coalescer_of(callee, max_in_flight=1, max_items=2)
    submit(coalescer, *"abcd")
    for number in range(2):
        callee.reply(number)
        eventually(lambda: len(callee.batches) == number + 2)  # noqa: B023
    assert callee.batches == [["a"], ["b", "c"], ["d"]]


def test_a_fault_affects_only_the_items_of_its_batch(callee) -> None:
    coalescer = coalescer_of(callee, max_in_flight=1)
    first, *second = submit(coalescer, *"abc")
    callee.reply(0)
    eventually(lambda: len(callee.batches) == 2)
    [third] = submit(coalescer, "d")
    callee.fail(1, Unavailable("gone"))
    eventually(lambda: len(callee.batches) == 3)
    callee.reply(2)
    assert first.result() == "a done"
    for pending in second:
        with pytest.raises(Unavailable, match="gone"):
            pending.result()
    assert third.result() == "d done"


def test_a_late_item_is_not_sent_and_its_caller_gets_a_fault(callee) -> None:
    coalescer = coalescer_of(callee, max_in_flight=1)
    first, late, last = [
        *submit(coalescer, "a"),
        *submit(coalescer, "b", timeout_s=0.01),
        *submit(coalescer, "c"),
    ]
    with pytest.raises(DeadlineExceeded):
        late.result()
    callee.reply(0)
    eventually(lambda: len(callee.batches) == 2)
    assert callee.batches[1] == ["c"]
    callee.reply(1)
    assert results([first, last]) == ["a done", "c done"]


def test_a_timeout_of_one_caller_does_not_affect_the_others(callee) -> None:
    coalescer = coalescer_of(callee, max_in_flight=1)
    submit(coalescer, "a")
    [short] = submit(coalescer, "b", timeout_s=1)
    [long] = submit(coalescer, "c")
    callee.reply(0)
    eventually(lambda: len(callee.batches) == 2)
    assert callee.batches[1] == ["b", "c"]
    with pytest.raises(DeadlineExceeded):
        short.result()
    callee.reply(1)
    assert long.result() == "c done"


@pytest.mark.parametrize("outcomes", [[], ["one"], ["one", "two", "three"]])
def test_a_malformed_reply_fails_its_batch_and_no_other(callee, outcomes) -> None:
    coalescer = coalescer_of(callee, max_in_flight=1)
    _, *batch = submit(coalescer, "a", "b", "c")
    callee.reply(0)
    eventually(lambda: len(callee.batches) == 2)
    callee.reply(1, outcomes)
    for pending in batch:
        with pytest.raises(InternalError):
            pending.result()
    [after] = submit(coalescer, "d")
    eventually(lambda: len(callee.batches) == 3)
    callee.reply(2)
    assert after.result() == "d done"


def test_an_outcome_that_has_arrived_is_returned_after_the_deadline(callee) -> None:
    coalescer = coalescer_of(callee)
    [pending] = submit(coalescer, "a", timeout_s=0.05)
    callee.reply(0)
    eventually(lambda: pending.deadline < monotonic())
    assert pending.result() == "a done"


# In any order: an item arrives, in time or after its deadline; or the oldest batch in flight ends
# with a reply or a fault.
EVENTS = st.lists(
    st.sampled_from(["item", "item", "item", "late item", "reply", "fault"]),
    max_size=60,
)


@settings(deadline=None, max_examples=200)
@given(EVENTS, st.integers(1, 4), st.integers(1, 3))
def test_each_item_is_sent_once_or_dropped_late(
    events, max_items, max_in_flight
) -> None:
    callee = FakeCallee()
    coalescer = coalescer_of(callee, max_items=max_items, max_in_flight=max_in_flight)
    submitted: list[PendingItem] = []
    ended = 0
    failed: set[int] = set()

    def end_oldest_batch(with_fault: bool) -> None:
        nonlocal ended
        if with_fault:
            failed.update(callee.batches[ended])
            callee.fail(ended, Unavailable("gone"))
        else:
            callee.reply(ended)
        ended += 1
        eventlet.sleep(0)

    for event in events:
        if event in ("item", "late item"):
            timeout_s = -1 if event == "late item" else LONG_S
            submitted.append(coalescer.submit(len(submitted), timeout_s))
            eventlet.sleep(0)
        elif ended < len(callee.batches):
            end_oldest_batch(event == "fault")
        assert len(callee.batches) - ended <= max_in_flight
    while ended < len(callee.batches):
        end_oldest_batch(with_fault=False)
        eventlet.sleep(0)

    now = monotonic()
    late = {number for number, item in enumerate(submitted) if item.deadline < now}
    sent = [number for batch in callee.batches for number in batch]
    # Each item in time is sent once, in the order of arrival.
    assert sent == sorted(set(range(len(submitted))) - late)
    assert all(1 <= len(batch) <= max_items for batch in callee.batches)
    for number, pending in enumerate(submitted):
        assert _outcome(pending) == _expected_outcome(number, late, failed)


def _outcome(pending: PendingItem) -> Any:
    try:
        return pending.result()
    except (DeadlineExceeded, Unavailable) as fault:
        return type(fault)


def _expected_outcome(number: int, late: set[int], failed: set[int]) -> Any:
    if number in late:
        return DeadlineExceeded
    return Unavailable if number in failed else f"{number} done"


def test_timeouts_are_the_shortest_and_the_longest_of_the_items(callee) -> None:
    coalescer = coalescer_of(callee, max_in_flight=1)
    submit(coalescer, "alone")
    coalescer.submit("long timeout", 50)
    coalescer.submit("short timeout", 20)
    callee.reply(0)
    eventually(lambda: len(callee.batches) == 2)
    callee_timeout_s, reply_timeout_s = callee.timeouts[1]
    assert 0 < callee_timeout_s <= 20 < reply_timeout_s <= 50
    callee.reply(1)


def test_an_almost_late_item_does_not_shorten_the_timeout_of_others(callee) -> None:
    coalescer = coalescer_of(callee, max_in_flight=1)
    submit(coalescer, "alone")
    late = coalescer.submit("almost late", 2)
    coalescer.submit("in time", 50)
    # Most of the timeout of the late item.
    eventlet.sleep(1.8)
    callee.reply(0)
    eventually(lambda: len(callee.batches) == 2)
    assert callee.batches[1] == ["in time"]
    callee_timeout_s, _ = callee.timeouts[1]
    assert callee_timeout_s > 10
    with pytest.raises(DeadlineExceeded):
        late.result()
    callee.reply(1)


def test_a_slow_batch_does_not_delay_others(callee) -> None:
    coalescer = coalescer_of(callee, max_in_flight=1, slow_after_s=0.05)
    [slow, other] = submit(coalescer, "slow", "other")
    assert callee.batches == [["slow"]]
    eventually(lambda: callee.batches[1:] == [["other"]])
    callee.reply(1)
    assert other.result() == "other done"
    callee.reply(0)
    assert slow.result() == "slow done"
    [last] = submit(coalescer, "last")
    callee.reply(2)
    assert last.result() == "last done"


def test_slow_batches_are_limited(callee) -> None:
    coalescer = coalescer_of(callee, max_in_flight=1, max_items=1, slow_after_s=0.01)
    pending = submit(coalescer, *range(MAX_SLOW_BATCHES + 3))
    eventually(lambda: len(callee.batches) == MAX_SLOW_BATCHES + 1)
    eventlet.sleep(0.1)
    assert len(callee.batches) == MAX_SLOW_BATCHES + 1
    for number in range(len(pending)):
        eventually(lambda: len(callee.batches) > number)  # noqa: B023
        callee.reply(number)
    assert results(pending) == [
        f"{number} done" for number in range(MAX_SLOW_BATCHES + 3)
    ]
    eventually(lambda: coalescer._senders_with_slot == set())
    eventually(lambda: coalescer._slow_senders == set())
