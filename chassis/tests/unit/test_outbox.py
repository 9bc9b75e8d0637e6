"""The row of an event."""

from chassis.outbox import event_row

FACT = {"order_id": "1", "request_id": "r"}


def test_an_event_says_what_it_is_and_when_it_occurred() -> None:
    row = event_row(("order_paid", FACT))
    assert (row["type"], row["request_id"]) == ("order_paid", "r")
    assert list(row["payload"]) == ["event_id", "version", "occurred_at", "order_id"]
    assert row["payload"]["event_id"] == row["event_id"]
    assert FACT == {"order_id": "1", "request_id": "r"}


def test_a_fact_may_say_itself_when_it_occurred() -> None:
    moment = "2026-01-31T12:00:00.000000Z"
    row = event_row(("order_paid", {**FACT, "occurred_at": moment}))
    assert row["payload"]["occurred_at"] == moment
    assert list(row["payload"]) == ["event_id", "version", "occurred_at", "order_id"]
