"""After any failure of a batch, the broker keeps each event that is neither done nor copied."""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count, repeat
from typing import Any

import psycopg2
import pytest
from eventlet.event import Event
from eventlet.queue import LightQueue
from hypothesis import example, given, settings, strategies as st
from kombu import Queue
from sqlalchemy.exc import OperationalError

from chassis import events, health, retries
from chassis.errors import Unavailable
from chassis.events import EventHandler, _delivery, moves_exchange
from chassis.loops import LoopWatch
from chassis.retries import FailureStreak, HeldDeliveries

QUEUE = "evt-a-b--c.handle_b"
# The fake clock advances by this at each reading.
CLOCK_STEP_S = 2.0

Outcome = Exception | None


@dataclass
class Channel:
    """A channel, with its unacked messages by delivery tag."""

    connection: Any = True
    unacked: dict[int, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Message:
    """An event in a queue, or delivered."""

    number: int
    headers: dict[str, Any] = field(default_factory=dict)
    channel: Any = None
    delivery_info: dict[str, Any] = field(default_factory=dict)
    errors: tuple[Any, ...] = ()

    @property
    def body(self) -> bytes:
        return json.dumps(self.number).encode()

    @property
    def properties(self) -> dict[str, Any]:
        return {"message_id": f"event-{self.number}"}

    def decode(self) -> Any:
        return [self.number]  # a new object each time, as JSON returns


class FakeBroker:
    """A queue and its dead letters. Also the consumer and the publisher of one handler."""

    def __init__(self, outcomes: Iterator[Outcome], refusals: Iterator[bool]) -> None:
        self.ready: deque[Message] = deque()
        self.dead: list[int] = []
        self.done: set[int] = set()
        self.copied: set[int] = set()
        self.channel = Channel()
        self._tags = count(1)
        self._outcomes = outcomes
        self._refusals = refusals

    def deliver(self, limit: int) -> list[Any]:
        batch = []
        while self.ready and len(batch) < limit:
            message = self.ready.popleft()
            message.channel = self.channel
            message.delivery_info = {"delivery_tag": next(self._tags)}
            self.channel.unacked[message.delivery_info["delivery_tag"]] = message
            batch.append(_delivery(message))
        return batch

    def close_channel(self) -> None:
        self.ready.extendleft(reversed(self.channel.unacked.values()))
        self.channel.connection = None
        self.channel, self._tags = Channel(), count(1)

    # The interface of the queue consumer.

    def ack_up_to(self, message: Any) -> None:
        tags = [
            tag
            for tag in self.channel.unacked
            if tag <= message.delivery_info["delivery_tag"]
        ]
        self._ack(message, tags)

    def ack_message(self, message: Any) -> None:
        self._ack(message, [message.delivery_info["delivery_tag"]])

    def _ack(self, message: Any, tags: Sequence[int]) -> None:
        if message.channel is self.channel:
            for tag in tags:
                gone = self.channel.unacked.pop(tag)
                assert gone.number in self.done | self.copied, "an event is lost"

    def apply_prefetch(self, handler: EventHandler) -> None:
        if not handler.prefetch:
            self.close_channel()
            handler.held.clear()

    def is_consuming(self, handler: EventHandler) -> bool:
        return bool(self.channel.connection)

    # The interface of the publisher.

    def publish(self, copies: Sequence[Any]) -> list[bool]:
        if next(self._refusals):
            raise Unavailable("the broker confirms nothing")
        for copy in copies:
            number = json.loads(copy.body)
            self.copied.add(number)
            if copy.routing_key == QUEUE:
                self.ready.append(Message(number, copy.headers))
            else:
                self.dead.append(number)
        return [True] * len(copies)

    # The method of the handler.

    def call(self, batch: Sequence[Any]) -> tuple[Any, Outcome]:
        outcome = next(self._outcomes)
        if isinstance(outcome, OperationalError):
            return None, outcome
        numbers = [event[0] for _, event in batch]
        if any(number % 4 == 0 for number in numbers):  # malformed
            return None, ValueError("malformed")
        named = [event for _, event in batch if outcome and event[0] % 3 == 0]
        self.done |= {event[0] for _, event in batch if event not in named}
        return [(event, outcome) for event in named], None


@contextmanager
def handler_on(broker: FakeBroker, clock: Iterator[float]) -> Iterator[EventHandler]:
    handler = EventHandler("a", "b")
    handler.method_name = "handle_b"
    handler.queue, handler.moves_exchange = Queue(QUEUE), moves_exchange("c")
    handler.inbox, handler.held, handler._streak = (
        LightQueue(),
        HeldDeliveries(),
        FailureStreak(),
    )
    handler._probe_size = 1
    handler.prefetch, handler._pauses_in_row, handler._stopping = (
        events.PREFETCH,
        0,
        Event(),
    )
    handler._stopping.send()  # pauses take no time
    handler.queue_consumer = handler.publisher = broker
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(health, "_checks", {})
        handler._watch = LoopWatch("tests", "handler")
        patch.setattr(handler, "_run_method", broker.call)
        patch.setattr(events, "monotonic", lambda: next(clock))
        patch.setattr(retries, "monotonic", lambda: next(clock))
        patch.setattr(events, "OVERFLOW_PAUSE_S", 0)
        yield handler


def database_gone() -> OperationalError:
    return OperationalError("INSERT", {}, psycopg2.OperationalError("gone"))


FAULTS = st.sampled_from(
    [None, None, None, None, database_gone(), Unavailable("users is unavailable")]
)


@example(outcomes=[], refusals=[True], numbers=[4], limits=[1], losses=set())
@example(  # the second of [4, 1, 2, 3] is done, the first fails, and then the database does
    outcomes=[None, None, None, None, database_gone()],
    refusals=[],
    numbers=[4, 1, 2, 3],
    limits=[4],
    losses=set(),
)
@settings(max_examples=300, deadline=None)
@given(
    outcomes=st.lists(FAULTS, max_size=60),
    refusals=st.lists(st.booleans(), max_size=20),
    numbers=st.lists(st.integers(1, 99), min_size=1, max_size=40, unique=True),
    limits=st.lists(st.integers(1, 20), min_size=1, max_size=60),
    losses=st.sets(st.integers(0, 60), max_size=3),
)
def test_no_event_is_lost_after_any_failures(
    outcomes, refusals, numbers, limits, losses
) -> None:
    """Faults occur in any order, and then end. 201 is a good event that ends the last pause."""
    broker = FakeBroker(chain(outcomes, repeat(None)), chain(refusals, repeat(False)))
    broker.ready.extend(map(Message, [*numbers, 201]))
    clock = count(0.0, CLOCK_STEP_S)
    with handler_on(broker, clock) as handler:
        for step, limit in enumerate(chain(limits, repeat(20, 1000))):
            if step in losses:
                broker.close_channel()
                handler.held.clear()
            batch = handler.held.take_due(next(clock), limit)
            batch = batch or broker.deliver(min(limit, handler.prefetch))
            if batch:
                handler._handle(batch)
            elif not broker.channel.unacked:
                break
    malformed = {number for number in numbers if number % 4 == 0}
    assert broker.done == {*numbers, 201} - malformed
    assert set(broker.dead) == malformed
    assert not broker.ready


@pytest.mark.parametrize(
    ("connection", "prefetch"), [(True, events.PREFETCH), (None, 1)]
)
def test_a_pause_without_an_event_to_probe_ends_only_with_a_broker(
    connection, prefetch, monkeypatch
) -> None:
    broker = FakeBroker(repeat(None), repeat(False))
    broker.channel.connection = connection
    monkeypatch.setattr(events, "PROBE_S", 0.01)
    with handler_on(broker, count(0.0, CLOCK_STEP_S)) as handler:
        handler.prefetch = 1
        assert handler._next_batch() == []
        assert handler.prefetch == prefetch
