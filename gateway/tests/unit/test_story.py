"""The story of an order, for every combination of stored, missing and unavailable parts."""

from datetime import datetime
from itertools import pairwise
from typing import Any

from hypothesis import given, settings

from gateway.story import compose
from tests.specs.conformance import documented
from tests.stories import HISTORIES, HISTORY, LETTER, LETTERS, OPERATION, OPERATIONS

EVENTS = [
    "order_placed",
    "withdrawal_recorded",
    "order_settled",
    "event_published",
    "letter_written",
]
SERVICES = ["orders", "billing", "orders", "orders", "notifications"]
DETAILS = {"withdrawal_recorded": "operation", "letter_written": "letter"}
PENDING = {
    **HISTORY,
    "status": "pending",
    "ended_at": None,
    "published_at": None,
}


def states(story: dict[str, Any]) -> list[str]:
    return [step["state"] for step in story["steps"]]


def state_of(part: dict[str, Any] | None, time: str = "created_at") -> str:
    """Return the expected state of a step from its part."""
    if part is None:
        return "unknown"
    return "done" if part.get(time) else "pending"


@settings(
    deadline=None
)  # a time limit for each example, and the first one reads the document
@given(HISTORIES, OPERATIONS, LETTERS)
def test_every_story_is_as_documented(history, operation, letter) -> None:
    schema = {"$ref": "#/components/schemas/Story"}
    documented().check_schema(schema, compose(history, operation, letter))


@given(HISTORIES, OPERATIONS, LETTERS)
def test_a_story_has_five_steps_and_a_part_decides_on_its_own_only(
    history, operation, letter
) -> None:
    story = compose(history, operation, letter)
    publication = None if history["is_publication_unknown"] else history
    assert [step["event"] for step in story["steps"]] == EVENTS
    assert [step["service"] for step in story["steps"]] == SERVICES
    assert states(story) == [
        "done",
        state_of(operation),
        state_of(history, "ended_at"),
        state_of(publication, "published_at"),
        state_of(letter),
    ]
    for step in story["steps"]:
        names = {"at", DETAILS.get(step["event"], "at")}
        assert names & step.keys() == (names if step["state"] == "done" else set())


@given(HISTORIES, OPERATIONS, LETTERS)
def test_only_two_steps_that_are_done_have_a_duration_and_it_is_never_negative(
    history, operation, letter
) -> None:
    steps = compose(history, operation, letter)["steps"]
    assert steps[0]["since_previous_ms"] == 0
    for previous, step in pairwise(steps):
        if "done" == previous["state"] == step["state"]:
            start, end = (
                datetime.fromisoformat(each["at"]) for each in (previous, step)
            )
            seconds = (end - start).total_seconds()
            assert step["since_previous_ms"] >= 0
            assert abs(step["since_previous_ms"] - max(seconds * 1000, 0)) < 0.001
        else:
            assert "since_previous_ms" not in step


def test_the_story_of_a_paid_order() -> None:
    story = compose(HISTORY, OPERATION, LETTER)
    durations = [step["since_previous_ms"] for step in story["steps"]]
    assert durations == [0, 200, 50, 100, 150]
    assert [step["at"] for step in story["steps"]] == [
        HISTORY["created_at"],
        OPERATION["created_at"],
        HISTORY["ended_at"],
        HISTORY["published_at"],
        LETTER["created_at"],
    ]
    assert story["order"]["id"] == HISTORY["id"]
    assert story["steps"][1]["operation"]["balance_after"] == "0.10"
    assert story["steps"][4]["letter"]["subject"] == LETTER["subject"]
    assert story["attempts"] == {"count": 0, "last_at": None}


def test_a_refused_withdrawal_is_recorded_too() -> None:
    refused = {**OPERATION, "status": "refused", "reason": "insufficient-funds"}
    rejected = {**HISTORY, "status": "rejected", "reason": "insufficient-funds"}
    story = compose(rejected, refused, LETTER)
    assert states(story) == ["done"] * 5
    assert story["steps"][1]["operation"]["status"] == "refused"
    assert story["steps"][1]["operation"]["reason"] == "insufficient-funds"


def test_a_pending_order_whose_withdrawal_is_retried() -> None:
    last = "2026-01-31T12:05:10.000000Z"
    story = compose({**PENDING, "attempts": 3, "last_attempt_at": last}, {}, {})
    assert states(story) == ["done", *["pending"] * 4]
    assert story["attempts"] == {"count": 3, "last_at": last}


def test_an_order_of_an_earlier_version_has_no_known_publication() -> None:
    earlier = {**HISTORY, "published_at": None, "is_publication_unknown": True}
    story = compose(earlier, OPERATION, LETTER)
    assert states(story) == ["done", "done", "done", "unknown", "done"]
    assert "since_previous_ms" not in story["steps"][4]


def test_a_clock_that_is_behind_makes_a_duration_of_zero() -> None:
    behind = {**OPERATION, "created_at": "2026-01-31T12:04:59.900000Z"}
    durations = [
        step["since_previous_ms"] for step in compose(HISTORY, behind, LETTER)["steps"]
    ]
    assert durations == [0, 0, 350, 100, 150]
