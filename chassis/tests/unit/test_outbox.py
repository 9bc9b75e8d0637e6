"""The row of an event."""

from chassis.outbox import event_row

PAYLOAD = {"order_id": "1", "request_id": "r"}


def test_the_row_of_an_event_has_its_id_version_and_time() -> None:
    row = event_row(("order_paid", PAYLOAD))
    assert (row["type"], row["request_id"]) == ("order_paid", "r")
    assert list(row["payload"]) == ["event_id", "version", "occurred_at", "order_id"]
    assert row["payload"]["event_id"] == row["event_id"]
    assert PAYLOAD == {"order_id": "1", "request_id": "r"}


def test_an_event_may_contain_its_own_time() -> None:
    moment = "2026-01-31T12:00:00.000000Z"
    row = event_row(("order_paid", {**PAYLOAD, "occurred_at": moment}))
    assert row["payload"]["occurred_at"] == moment
    assert list(row["payload"]) == ["event_id", "version", "occurred_at", "order_id"]
