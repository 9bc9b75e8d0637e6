"""`Prefer: wait`: its grammar, the limit of waiting requests, and the end of each wait."""

from typing import Any

import eventlet
import pytest
from hypothesis import given, strategies as st

from chassis.outcomes import MAX_ITEMS
from conftest import DEADLINE_S, eventually
from gateway.waits import MAX_WAIT_S, WaitingRequests, preferred_wait_s

Applied = tuple[dict[str, Any], dict[str, str]]


def order(number: int, status: str = "pending") -> dict[str, Any]:
    return {"id": f"order-{number}", "status": status}


def start(
    waiting: WaitingRequests, *numbers: int, prefer: str = "wait=30"
) -> list[Any]:
    """Start a request for each of these pending orders, in this order."""
    requests = [
        eventlet.spawn(waiting.apply, prefer, order(number)) for number in numbers
    ]
    eventlet.sleep(0)
    return requests


def results(requests: list[Any]) -> list[Applied]:
    with eventlet.Timeout(DEADLINE_S):
        return [request.wait() for request in requests]


# The header


def test_the_seconds_are_at_most_30() -> None:
    assert preferred_wait_s("wait=1") == 1
    assert preferred_wait_s("wait=30") == MAX_WAIT_S == 30
    assert preferred_wait_s("wait=31") == preferred_wait_s(f"wait={'9' * 400}") == 30


@pytest.mark.parametrize(
    "prefer",
    [
        "wait=7",
        "Wait=7",
        "WAIT = 7",
        "wait\t=\t7",
        "wait=07",
        'wait="7"',
        "wait=7;a",
        'wait=7 ; a="x, wait=8"; b',
        "respond-async, wait=7",
        "wait=7, respond-async",
        ",, wait=7,",
        "waiting=8, wait=7",
        "x;wait=8, wait=7",
        'x="wait=8", wait=7',
        'x=",wait=8", wait=7',
        r'x="\",wait=8", wait=7',
        "wait=7, wait=8",
        "wait=7, wait=no",
    ],
)
def test_a_valid_preference_is_found_among_others(prefer: str) -> None:
    assert preferred_wait_s(prefer) == 7


@pytest.mark.parametrize(
    "prefer",
    [
        "",
        "wait",
        "wait=",
        'wait=""',
        "wait=0",
        "wait=-7",
        "wait=+7",
        "wait=7.5",
        "wait=7s",
        "wait=7 8",
        "wait=7_0",
        "wait=0x7",
        "wait=\xb2",
        "wait=٧",
        'wait="7',
        'wait=7"',
        '"wait=7"',
        "wait:7",
        "wait 7",
        "=7",
        "wait;x=7",
        "waiting=7",
        "no-wait=7",
        "wait, wait=7",
        "wait=no, wait=7",
        'x="unfinished, wait=7',
        r'x="unfinished\", wait=7',
        "x" * 500 + ", wait=7",
    ],
)
def test_an_invalid_preference_is_ignored(prefer: str) -> None:
    assert preferred_wait_s(prefer) == 0


TOKENS = st.text("abitw!#-", min_size=1, max_size=5)
SPACES = st.text(" \t", max_size=2)
QUOTED = st.lists(
    st.sampled_from(["a", " ", ",", ";", "=", "wait=8", r"\"", r"\\"]), max_size=5
).map(lambda parts: f'"{"".join(parts)}"')
WORDS = TOKENS | QUOTED
SECONDS = st.integers(0, 99)


@st.composite
def assignments(draw: st.DrawFn, name: st.SearchStrategy[str]) -> str:
    """A name, and perhaps a value: `token [ BWS "=" BWS word ]`."""
    value = draw(st.none() | WORDS)
    if value is None:
        return draw(name)
    return f"{draw(name)}{draw(SPACES)}={draw(SPACES)}{value}"


@st.composite
def preferences(draw: st.DrawFn) -> tuple[str, int | None]:
    """A preference by the grammar of RFC 7240, and its seconds if it is a `wait`."""
    parameters = "".join(
        f"{draw(SPACES)};{draw(SPACES)}{parameter}"
        for parameter in draw(
            st.lists(st.just("") | assignments(TOKENS | st.just("wait")), max_size=2)
        )
    )
    if draw(st.booleans()):
        name = draw(st.sampled_from(["wait", "Wait", "WAIT"]))
        seconds = draw(SECONDS)
        value = draw(st.sampled_from([f"{seconds}", f'"{seconds}"']))
        written = f"{name}{draw(SPACES)}={draw(SPACES)}{value}"
        return written + parameters, seconds
    others = TOKENS.filter(lambda token: token != "wait")
    return draw(assignments(others)) + parameters, None


@given(st.lists(preferences(), max_size=3), SPACES)
def test_the_first_wait_of_any_valid_header_counts(
    given_preferences: list[tuple[str, int | None]], space: str
) -> None:
    header = f"{space},{space}".join(text for text, _ in given_preferences)
    waits = [seconds for _, seconds in given_preferences if seconds is not None]
    first = waits[0] if waits else 0
    assert preferred_wait_s(header) == min(first, MAX_WAIT_S)


@given(st.text(st.characters(max_codepoint=255)) | st.text('wait=7,;" \t\\'))
def test_any_header_is_read(prefer: str) -> None:
    assert 0 <= preferred_wait_s(prefer) <= MAX_WAIT_S


# The wait


def test_a_wait_ends_when_its_order_has_settled() -> None:
    waiting = WaitingRequests(10)
    requests = start(waiting, 1, 2, 1)
    assert waiting.order_ids() == ["order-1", "order-2"]
    waiting.report([order(1, "paid"), order(3, "paid")])
    applied = {"Preference-Applied": "wait=30"}
    assert results([requests[0], requests[2]]) == [(order(1, "paid"), applied)] * 2
    assert waiting.order_ids() == ["order-2"]
    waiting.report([order(2, "rejected")])
    assert results([requests[1]]) == [(order(2, "rejected"), applied)]
    assert waiting.order_ids() == []


def test_a_wait_that_times_out_ends_with_the_pending_order() -> None:
    waiting = WaitingRequests(1)
    [request] = start(waiting, 1, prefer="wait=1")
    assert results([request]) == [(order(1), {"Preference-Applied": "wait=1"})]
    assert waiting.order_ids() == []


def test_an_order_without_a_preference_is_answered_at_once() -> None:
    waiting = WaitingRequests(1)
    assert waiting.apply("", order(1)) == (order(1), {})
    assert waiting.apply("wait=0", order(1)) == (order(1), {})


def test_a_settled_order_is_answered_at_once() -> None:
    paid = order(1, "paid")
    applied = {"Preference-Applied": "wait=30"}
    assert WaitingRequests(0).apply("wait=60", paid) == (paid, applied)
    assert WaitingRequests(0).apply("", paid) == (paid, {})


def test_requests_beyond_the_limit_are_answered_at_once() -> None:
    waiting = WaitingRequests(2)
    first, second = start(waiting, 1, 1)
    assert waiting.apply("wait=30", order(1)) == (order(1), {})
    waiting.report([order(1, "paid")])
    results([first, second])
    [third] = start(waiting, 2)
    assert waiting.order_ids() == ["order-2"]
    third.kill()


def test_a_request_that_is_killed_frees_its_place() -> None:
    waiting = WaitingRequests(1)
    [request] = start(waiting, 1)
    request.kill()
    eventually(lambda: waiting.order_ids() == [])
    waiting.report([order(1, "paid")])
    [next_request] = start(waiting, 2)
    assert waiting.order_ids() == ["order-2"]
    next_request.kill()


def test_one_call_can_read_all_orders() -> None:
    waiting = WaitingRequests(MAX_ITEMS + 500)
    requests = start(waiting, *range(MAX_ITEMS + 500))
    assert len(waiting.order_ids()) == MAX_ITEMS
    waiting.release()
    assert len(results(requests)) == MAX_ITEMS + 500


def test_a_stop_answers_all_requests_and_no_request_waits_after_it() -> None:
    waiting = WaitingRequests(10)
    requests = start(waiting, 1, 2)
    waiting.release()
    applied = {"Preference-Applied": "wait=30"}
    assert results(requests) == [(order(1), applied), (order(2), applied)]
    assert waiting.apply("wait=30", order(1)) == (order(1), {})


def test_a_wait_ends_once() -> None:
    """A wait has ended already, but its request has not run since."""
    waiting = WaitingRequests(10)
    [request] = start(waiting, 1)
    waiting.report([order(1, "paid")])
    waiting.report([order(1, "paid")])
    waiting.release()
    assert results([request])[0][0] == order(1, "paid")
