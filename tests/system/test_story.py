"""The story of an order over the whole suite, also while services are down."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from chassis.schemas import utc
from conftest import eventually
from dev.broker import OPERATOR
from dev.cli import QUIET
from dev.story import WIDTH
from tests.system.processes import Suite
from tests.system.shopper import Shopper

# The stored time of each step, as a select of an order's id.
STORED_TIMES = {
    "order_placed": ("orders", "SELECT created_at FROM orders WHERE id = %s"),
    "withdrawal_recorded": (
        "billing",
        "SELECT created_at FROM operations WHERE ref = 'order:' || %s",
    ),
    "order_settled": ("orders", "SELECT ended_at FROM orders WHERE id = %s"),
    "event_published": (
        "orders",
        "SELECT sent_at FROM outbox WHERE payload->>'order_id' = %s",
    ),
    "letter_written": (
        "notifications",
        "SELECT created_at FROM letters WHERE order_id = %s",
    ),
}

Story = dict[str, Any]


def read(shopper: Shopper, order: dict[str, Any]) -> Story:
    response = shopper.get(f"/orders/{order['id']}/story")
    assert response.status_code == 200, response.text
    story: Story = response.json()
    return story


def states(story: Story) -> list[str]:
    return [step["state"] for step in story["steps"]]


def complete(shopper: Shopper, order: dict[str, Any]) -> Story:
    """Wait until each step is done, and return the story."""

    def found() -> Story | None:
        story = read(shopper, order)
        return story if states(story) == ["done"] * 5 else None

    return eventually(found, 60)


@pytest.fixture
def payer(new_shopper: Callable[..., Shopper]) -> Shopper:
    """A user with 10.00."""
    payer = new_shopper()
    payer.deposit("10.00")
    return payer


@pytest.mark.parametrize(
    ("price", "status", "balance"),
    [("4.00", "paid", "6.00"), ("11.00", "rejected", "10.00")],
)
def test_a_story_has_the_times_of_the_rows(payer, sql, price, status, balance) -> None:
    order = payer.ended_order(price)
    story = complete(payer, order)
    assert story["order"] == order
    assert order["status"] == status
    stored = {
        event: utc(sql(service, select, [order["id"]])[0][0])
        for event, (service, select) in STORED_TIMES.items()
    }
    steps = story["steps"]
    assert {step["event"]: step["at"] for step in steps} == stored
    for previous, step in pairwise(steps):
        elapsed = datetime.fromisoformat(step["at"]) - datetime.fromisoformat(
            previous["at"]
        )
        elapsed_ms = max(elapsed.total_seconds() * 1000, 0)
        assert step["since_previous_ms"] == pytest.approx(elapsed_ms)
    assert steps[1]["operation"] in payer.all("/account/operations")
    assert steps[1]["operation"]["balance_after"] == balance
    assert [steps[4]["letter"]] == payer.all("/notifications")
    assert story["attempts"] == {"count": 0, "last_at": None}
    sql("orders", "DELETE FROM outbox WHERE payload->>'order_id' = %s", [order["id"]])
    later = read(payer, order)
    assert states(later) == ["done", "done", "done", "unknown", "done"]


def test_a_story_shows_a_killed_billing_and_the_sweepers_retry(suite, payer) -> None:
    os.kill(suite.processes["billing"].pid, signal.SIGKILL)
    try:
        suite.processes["billing"].wait()
        order = payer.order("4.00").json()
        assert order["status"] == "pending"
        story = read(payer, order)
        assert states(story) == ["done", "unknown", "pending", "pending", "pending"]
    finally:
        suite.start("billing")
    story = complete(payer, order)
    assert story["order"]["status"] == "paid"
    assert story["attempts"]["count"] >= 1
    _, withdrawn, settled, *_ = story["steps"]
    assert order["created_at"] < story["attempts"]["last_at"] < settled["at"]
    assert story["attempts"]["last_at"] < withdrawn["at"]


def test_the_letter_is_unknown_while_notifications_is_down(suite, payer) -> None:
    suite.stop("notifications")
    try:
        order = payer.ended_order("4.00")
        story = eventually(lambda: _published(read(payer, order)))
        assert states(story) == [*["done"] * 4, "unknown"]
    finally:
        suite.start("notifications")
    assert complete(payer, order)["steps"][:4] == story["steps"][:4]


def _published(story: Story) -> Story | None:
    return story if states(story)[3] == "done" else None


def test_without_orders_there_is_no_story(suite, payer) -> None:
    order = payer.ended_order("4.00")
    suite.stop("orders")
    try:
        response = payer.get(f"/orders/{order['id']}/story")
        assert response.status_code in (503, 504)
        assert "Retry-After" in response.headers
    finally:
        suite.start("orders")
    assert complete(payer, order)["order"] == order


def test_an_operator_draws_a_story_by_the_id_of_the_order(suite, payer) -> None:
    order = payer.ended_order("4.00")
    steps = complete(payer, order)["steps"]
    drawing = make_story(suite, order["id"]).stdout
    assert drawing.startswith(f"Order {order['id']}: paid, 4.00 EUR\n")
    assert max(map(len, drawing.splitlines())) <= WIDTH
    for step in steps:
        assert step["event"] in drawing
        assert step["at"][11:26] in drawing
    suite.stop("billing")
    try:
        unknown = make_story(suite, order["id"]).stdout
    finally:
        suite.start("billing")
    assert "withdrawal_recorded is unknown: billing is unavailable." in unknown
    assert steps[4]["at"][11:26] in unknown


def test_a_story_that_cannot_be_drawn_has_one_line(suite, payer) -> None:
    order, unknown = payer.ended_order("4.00"), str(uuid.uuid4())
    for order_id, line in {
        unknown: f"error: there is no order {unknown}\n",
        "42": "error: '42' is not an id: make story ORDER=<id of an order>\n",
    }.items():
        done = make_story(suite, order_id)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    suite.stop("orders")
    try:
        done = make_story(suite, order["id"])
    finally:
        suite.start("orders")
    [line] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith("error: orders is unavailable: orders.get: no reply within")


def make_story(suite: Suite, order_id: str) -> subprocess.CompletedProcess[str]:
    """Run the program of `make story` as the operator, and return its output."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "dev.story", order_id],
        env={**suite.environment_of(OPERATOR), **QUIET},
        capture_output=True,
        text=True,
        timeout=120,
    )
