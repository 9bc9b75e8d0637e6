"""The rules for events that failed."""

from dataclasses import dataclass, field
from math import inf
from typing import Any

import psycopg2
import pytest
from amqp.exceptions import ConnectionForced
from hypothesis import given, strategies as st
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, ProgrammingError

from chassis.errors import DeadlineExceeded, InternalError, Unavailable
from chassis.retries import (
    MAX_FAILURES,
    MAX_HELD,
    MAX_HELD_S,
    MAX_REMEMBERED,
    MAX_SAME_FAILURES,
    Delivery,
    FailureStreak,
    HeldDeliveries,
    own_dependency_failed,
)


@dataclass
class Message:
    """The part of a message that the rules read."""

    delivery_info: dict[str, Any] = field(default_factory=dict)


def delivery(tag: int = 1, received_at: float = 0.0) -> Delivery:
    return Delivery(
        message=Message({"delivery_tag": tag}),
        id=f"event-{tag}",
        received_at=received_at,
    )


def sql_error(kind: type, code: str | None) -> Exception:
    cause = type("Cause", (psycopg2.Error,), {"pgcode": code})
    return kind("INSERT", {}, cause("refused"))


def delays(*errors: Exception) -> list[float]:
    """The delay after each of these failed attempts."""
    event, seconds = delivery(), []
    for error in errors:
        event.record_attempt(error)
        seconds.append(event.delay_s())
    return seconds


def test_an_event_is_retried_after_1_5_and_15_seconds() -> None:
    assert delays(*[ValueError()] * 4) == [1, 5, 15, 15]


def test_an_event_is_exhausted_after_five_failures() -> None:
    event = delivery()
    for number in range(1, MAX_FAILURES + 1):
        event.record_attempt(ValueError("no"))
        assert event.is_exhausted is (number == MAX_FAILURES)
    assert (event.attempts, event.error) == (5, "ValueError: no")


@pytest.mark.parametrize("fault", [DeadlineExceeded(), Unavailable(), InternalError()])
def test_a_failed_call_delays_an_event_and_never_exhausts_it(fault) -> None:
    assert delays(*[fault] * 30) == [1, 5] + [15] * 28
    event = delivery()
    for _ in range(30):
        event.record_attempt(fault)
    assert not event.is_exhausted


def test_held_events_are_due_together_after_their_delay() -> None:
    held = HeldDeliveries()
    events = [delivery(tag) for tag in (3, 1, 2)]
    for event in events:
        event.record_attempt(ValueError())
        held.hold(event, now=10)
    assert held.next_due() == 11
    assert held.take_due(10.9, limit=10) == []
    assert held.take_due(11, limit=2) == events[:2]
    assert held.lowest_tag() == 2
    assert held.take_due(11, limit=2) == events[2:]
    assert (len(held), held.next_due(), held.lowest_tag()) == (0, inf, inf)


def test_the_number_of_held_events_is_limited() -> None:
    held = HeldDeliveries()
    for tag in range(MAX_HELD):
        assert held.has_room_for(delivery(tag), now=0)
        held.hold(delivery(tag), now=0)
    assert not held.has_room_for(delivery(MAX_HELD), now=0)


def test_the_time_that_an_event_is_held_is_limited() -> None:
    event = delivery(received_at=100)
    event.record_attempt(ValueError())
    assert HeldDeliveries().has_room_for(event, now=100 + MAX_HELD_S - 1)
    assert not HeldDeliveries().has_room_for(event, now=100 + MAX_HELD_S)


def test_different_events_with_the_same_error_are_a_streak() -> None:
    streak = FailureStreak()
    recorded = [
        streak.record_failure(f"e{number}", KeyError())
        for number in range(MAX_SAME_FAILURES + 1)
    ]
    assert recorded == [False, False, True, True]


def test_one_event_that_fails_often_is_not_a_streak() -> None:
    streak = FailureStreak()
    assert not any(streak.record_failure("e", KeyError()) for _ in range(10))


def test_different_errors_are_not_a_streak() -> None:
    streak = FailureStreak()
    errors = [
        KeyError(),
        TypeError(),
        sql_error(DataError, "22001"),
        sql_error(DataError, "22003"),
        sql_error(IntegrityError, "23502"),
    ]
    for number, error in enumerate(errors):
        assert not streak.record_failure(f"e{number}", error)


def test_a_success_ends_a_streak() -> None:
    streak = FailureStreak()
    for number in range(20):
        assert not streak.record_failure(f"e{number}", KeyError())
        streak.record_success()


def test_events_that_failed_beside_a_success_are_not_counted_again() -> None:
    streak = FailureStreak()
    for number in range(5):
        streak.record_failure(f"e{number}", KeyError())
    streak.record_success(["in-the-same-batch"])
    again = [f"e{number}" for number in range(5)] + ["in-the-same-batch"]
    for event_id in again * 3:
        assert not streak.record_failure(event_id, KeyError())


@given(st.lists(st.one_of(st.integers(0, 5000), st.none()), max_size=3000))
def test_the_memory_of_a_streak_is_limited(ids) -> None:
    streak = FailureStreak()
    for number in [*range(MAX_REMEMBERED), *ids]:
        if number is None:
            streak.record_success()
        else:
            streak.record_failure(f"e{number}", KeyError())
    assert len(streak._failed) <= MAX_REMEMBERED
    assert len(streak._malformed) <= MAX_REMEMBERED


OWN_DEPENDENCY = [
    sql_error(OperationalError, None),  # no connection
    sql_error(OperationalError, "57P01"),  # the server shuts down
    sql_error(OperationalError, "53100"),  # its disk is full
    sql_error(ProgrammingError, "42501"),  # a privilege is missing
    sql_error(ProgrammingError, "42703"),  # a column is missing
    sql_error(ProgrammingError, "42P01"),  # a table is missing
    ConnectionForced("the broker shuts down"),
    ConnectionResetError(),
]
CONTENTION = [
    sql_error(OperationalError, "57014"),  # the statement took too long
    sql_error(OperationalError, "55P03"),  # a row is locked
    sql_error(OperationalError, "40P01"),  # a deadlock
]
EVENT = [
    sql_error(ProgrammingError, "42846"),  # a number where a uuid is expected
    sql_error(DataError, "22P02"),  # not a uuid
    sql_error(IntegrityError, "23502"),  # null
    sql_error(OperationalError, "54000"),  # a value too large for the server
    KeyError("id"),
    ValueError(),
]
OTHER_SERVICE = [DeadlineExceeded(), Unavailable(), InternalError()]


@pytest.mark.parametrize("error", OWN_DEPENDENCY, ids=repr)
def test_errors_of_the_database_and_the_broker_are_not_the_events(error) -> None:
    assert own_dependency_failed(error)


@pytest.mark.parametrize("error", [*EVENT, *OTHER_SERVICE, *CONTENTION], ids=repr)
def test_other_errors_do_not_pause_the_handler(error) -> None:
    assert not own_dependency_failed(error)


@pytest.mark.parametrize("error", CONTENTION, ids=repr)
def test_contention_never_exhausts_an_event(error) -> None:
    event = delivery()
    for _ in range(30):
        event.record_attempt(error)
    assert not event.is_exhausted
    assert event.attempts == 30
