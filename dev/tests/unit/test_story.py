"""`make story`: the drawing of a story, and what it reads over RPC."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from nameko.exceptions import MethodNotFound, UnknownService

from chassis.errors import DeadlineExceeded, InternalError, Unavailable
from dev import story
from dev.broker import CHECKOUT
from dev.failure import Failure
from dev.shell import NotPermitted, OutcomeUnknown
from gateway.story import compose
from tests.contracts import rpc_sample
from tests.stories import HISTORIES, HISTORY, LETTER, LETTERS, OPERATION, OPERATIONS

PAID = """\
Order 01993b8f-1c22-7d10-8a55-3d2c7c1e9b02: paid, 99.90 EUR
Placed on 2026-01-31. Times are in UTC.

  gateway              orders                billing           notifications
     |                    |                     |                    |
     |    order_placed    |                     |                    |
     |------------------->|                     |                    |  12:05:00.000000
     |                    | withdrawal_recorded |                    |
     |                    |-------------------->|                    |  12:05:00.200000  +200.0 ms
     |                    |    order_settled    |                    |
     |                    |<--------------------|                    |  12:05:00.250000   +50.0 ms
     |                    |             event_published              |
     |                    |----------------------------------------->|  12:05:00.350000  +100.0 ms
     |                    |                     |     letter_written o  12:05:00.500000  +150.0 ms
     |                    |                     |                    |

The withdrawal is done. Balance: 0.10 EUR.
The letter is of happiness: Your order is paid
Retries by orders: 0.
Each time is from the clock of its service. If a step seems earlier than the previous one, its
duration is 0."""
UNFINISHED = """\
Order 01993b8f-1c22-7d10-8a55-3d2c7c1e9b02: pending, 99.90 EUR
Placed on 2026-01-31. Times are in UTC.

  gateway              orders                billing           notifications
     |                    |                     |                    |
     |    order_placed    |                     |                    |
     |------------------->|                     |                    |  12:05:00.000000
     |                    | withdrawal_recorded |                    |
     |                    |????????????????????>|                    |  unknown
     |                    |    order_settled    |                    |
     |                    |<....................|                    |  pending
     |                    |             event_published              |
     |                    |.........................................>|  pending
     |                    |                     |     letter_written .  pending
     |                    |                     |                    |

withdrawal_recorded is unknown: billing is unavailable.
Retries by orders: 3, the last one at 2026-01-31 12:05:10.
Each time is from the clock of its service. If a step seems earlier than the previous one, its
duration is 0."""
UNAVAILABLE = [
    OutcomeUnknown("billing.get_withdrawal: no reply within 5 s. Retry it."),
    NotPermitted("billing.get_withdrawal: no service has this method"),
    MethodNotFound("get_withdrawal"),
    UnknownService("billing"),
    Unavailable("x"),
    DeadlineExceeded("x"),
    InternalError("x"),
]
ORDER_ID, USER_ID = HISTORY["id"], HISTORY["user_id"]


def test_a_finished_story_is_drawn_with_its_times() -> None:
    assert story.draw(compose(HISTORY, OPERATION, LETTER)) == PAID


def test_the_documented_drawing_is_the_real_one() -> None:
    assert f"```text\n{PAID}\n```" in (CHECKOUT / "docs" / "operations.md").read_text()


def test_pending_and_unknown_steps_have_other_lines() -> None:
    pending = {
        **HISTORY,
        "status": "pending",
        "ended_at": None,
        "published_at": None,
        "attempts": 3,
        "last_attempt_at": "2026-01-31T12:05:10.123456Z",
    }
    assert story.draw(compose(pending, None, {})) == UNFINISHED


def test_a_rejected_order_has_its_reason() -> None:
    why = {"reason": "insufficient-funds"}
    rejected = {**HISTORY, **why, "status": "rejected"}
    refused = {**OPERATION, **why, "status": "refused"}
    drawing = story.draw(compose(rejected, refused, LETTER)).splitlines()
    assert drawing[0].endswith(": rejected (insufficient-funds), 99.90 EUR")
    withdrawal = "The withdrawal is refused (insufficient-funds). Balance: 0.10 EUR."
    assert withdrawal in drawing


def test_an_unknown_publication_has_its_cause() -> None:
    deleted = {**HISTORY, "published_at": None, "is_publication_unknown": True}
    drawing = story.draw(compose(deleted, OPERATION, LETTER)).splitlines()
    [line] = [line for line in drawing if line.startswith("event_published")]
    assert line == (
        "event_published is unknown: the event is deleted, or an earlier version settled the"
        " order."
    )


@settings(deadline=None)
@given(HISTORIES, OPERATIONS, LETTERS)
def test_every_drawing_fits_a_terminal_and_shows_each_step_once(
    history, operation, letter
) -> None:
    composed = compose(history, operation, letter)
    lines = story.draw(composed).splitlines()
    assert max(map(len, lines)) <= story.WIDTH
    assert all(line == line.rstrip() for line in lines)
    assert "".join(lines).isascii()
    assert "".join(lines).isprintable()
    sequence = lines[3 : lines.index("", 3)]
    for step in composed["steps"]:
        [at] = [n for n, line in enumerate(sequence) if step["event"] in line]
        row = sequence[at if step["event"] == "letter_written" else at + 1]
        shown = row[story.TIMES :].split()
        expected = step["at"][11:26] if step["state"] == "done" else step["state"]
        assert shown[0] == expected
        has_duration = "since_previous_ms" in step and step["event"] != "order_placed"
        assert (len(shown) > 1) == has_duration


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (0.0, "+0.0 ms"),
        (0.123, "+0.1 ms"),
        (999.94, "+999.9 ms"),
        (999.96, "+1.00 s"),
        (59_994, "+59.99 s"),
        (99_996, "+1.7 min"),
        (600_000, "+10.0 min"),
        (5_999_000, "+2 h"),
        (3_600_000_000, "+1000 h"),
    ],
)
def test_a_duration_has_a_unit_and_at_most_nine_characters(milliseconds, shown) -> None:
    assert story._duration(milliseconds) == shown
    assert len(shown) <= 9


def services(**changes: Any) -> Any:
    """Return a fake of `n.rpc` whose methods return or raise these values."""
    replies = {
        "orders.get": rpc_sample("orders.get")["reply"],
        "orders.get_history": HISTORY,
        "billing.get_withdrawal": OPERATION,
        "notifications.get_letter": LETTER,
        **changes,
    }
    rpc = SimpleNamespace(
        orders=SimpleNamespace(),
        billing=SimpleNamespace(),
        notifications=SimpleNamespace(),
        calls=[],
    )

    def method(name: str) -> Any:
        def call(**arguments: Any) -> Any:
            rpc.calls.append((name, arguments))
            if isinstance(replies[name], Exception):
                raise replies[name]
            return replies[name]

        return call

    for name in replies:
        service, _, verb = name.partition(".")
        setattr(getattr(rpc, service), verb, method(name))
    return rpc


def test_a_story_is_read_by_the_id_of_the_order_alone() -> None:
    rpc = services()
    assert story.read_story(rpc, ORDER_ID) == compose(HISTORY, OPERATION, LETTER)
    query = {"order_id": ORDER_ID, "user_id": USER_ID}
    assert rpc.calls == [
        ("orders.get", {"order_id": ORDER_ID}),
        ("notifications.get_letter", query),
        ("orders.get_history", query),
        ("billing.get_withdrawal", query),
    ]


@pytest.mark.parametrize("fault", UNAVAILABLE, ids=lambda fault: type(fault).__name__)
def test_the_part_of_an_unavailable_service_is_unknown(fault) -> None:
    for method, parts in {
        "billing.get_withdrawal": (None, LETTER),
        "notifications.get_letter": (OPERATION, None),
    }.items():
        found = story.read_story(services(**{method: fault}), ORDER_ID)
        assert found == compose(HISTORY, *parts)


def test_a_missing_part_is_pending() -> None:
    rpc = services(**{"billing.get_withdrawal": None, "notifications.get_letter": None})
    assert story.read_story(rpc, ORDER_ID) == compose(HISTORY, {}, {})


@pytest.mark.parametrize("method", ["orders.get", "orders.get_history"])
@pytest.mark.parametrize("fault", UNAVAILABLE, ids=lambda fault: type(fault).__name__)
def test_without_orders_there_is_no_story(method, fault) -> None:
    with pytest.raises(Failure, match=r"^orders is unavailable: "):
        story.read_story(services(**{method: fault}), ORDER_ID)


def test_the_reason_of_a_fault_has_no_advice_about_retries() -> None:
    fault = OutcomeUnknown("orders.get: no reply within 5 s. It is safe to retry.")
    line = "^orders is unavailable: orders.get: no reply within 5 s$"
    with pytest.raises(Failure, match=line):
        story.read_story(services(**{"orders.get": fault}), ORDER_ID)


def test_an_unknown_order_is_named() -> None:
    with pytest.raises(Failure, match=f"^there is no order {ORDER_ID}$"):
        story.read_story(services(**{"orders.get": None}), ORDER_ID)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "error: no order is named: make story ORDER=<id of an order>"),
        ([""], "error: no order is named: make story ORDER=<id of an order>"),
        (["42"], "error: '42' is not an id: make story ORDER=<id of an order>"),
        (["a\nb"], r"error: 'a\nb' is not an id: make story ORDER=<id of an order>"),
    ],
)
def test_a_missing_or_malformed_id_is_reported_in_one_line(
    monkeypatch, arguments, line
) -> None:
    monkeypatch.setattr("sys.argv", ["story", *arguments])
    with pytest.raises(SystemExit) as ended:
        story.main()
    assert ended.value.code == line
