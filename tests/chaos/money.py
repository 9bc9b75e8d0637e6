"""Parts about money: redelivered messages, concurrent orders, reused keys, refusals."""

import uuid
from functools import partial
from typing import Any

import eventlet
from eventlet.greenpool import GreenPool

from tests.chaos.clients import Submission, User
from tests.chaos.run import Part, Run
from tests.chaos.taps import CapturedMessage, Tap, redelivered, tap

PRICE = 2_50
AFFORDABLE, ORDERED, CONCURRENT = 400, 1600, 32
CONCURRENT_SAME_KEY = 20
REDELIVERIES = 10

# The number of orders of a user by status.
COUNT_BY_STATUS = """
    SELECT status, count(*)
    FROM orders
    WHERE user_id = CAST(%s AS uuid)
    GROUP BY status
"""


def duplicates(run: Run) -> None:
    """Deliver each event, sign-up, order and money RPC one to five times, out of order."""
    orders, late_s = run.pick((100, 4.0), (500, 60.0))
    with redelivered(run.arena.suite.env()["AMQP_URI"], run.rng, late_s) as redeliverer:
        run.clients.add_users(8)
        for _ in range(orders // 20):
            run.clients.wave(20)
            eventlet.sleep(0.2)
        run.clients.finish()
        run.say("waiting for late redeliveries")
    run.result.faults = redeliverer.copies.total()
    run.result.notes = dict(redeliverer.copies)
    found = f"{run.result.faults} messages were redelivered"
    run.expect(run.result.faults >= orders, found)
    kinds = dict(redeliverer.copies)
    run.expect(len(kinds) >= 6, f"a kind of message is missing: {kinds}")


def overdraft(run: Run) -> None:
    """Place many orders at once. The account pays exactly as many as it can."""
    for number in range(run.pick(1, 10)):
        run.say(f"round {number + 1}")
        [user] = run.clients.add_users(1, AFFORDABLE * PRICE)
        order = partial(run.clients.submit, user, "order")
        for _ in GreenPool(CONCURRENT).imap(order, [PRICE] * ORDERED):
            pass
        run.arena.wait_until(
            lambda: run.arena.pending_orders() == 0, "no order is pending"
        )
        _expect_exactly_paid(run, user)


def _expect_exactly_paid(run: Run, user: User) -> None:
    found = dict(run.arena.query("orders", COUNT_BY_STATUS, user.id))
    wanted = {"paid": AFFORDABLE, "rejected": ORDERED - AFFORDABLE}
    run.expect(found == wanted, f"{found} of {ORDERED} orders, not {wanted}")
    balance = run.clients.request("GET", "/account", user).body.get("balance")
    run.expect(balance == "0.00", f"the balance is {balance}, not 0.00")


def keys(run: Run) -> None:
    """Use one key concurrently, again, with another body, and as another user."""
    for number in range(run.pick(1, 200)):
        run.say(f"round {number + 1}")
        user, other = run.clients.add_users(2, 100_00)
        for kind in ("order", "deposit", "withdrawal"):
            _many_with_one_key(run, user, other, kind)


def _many_with_one_key(run: Run, user: User, other: User, kind: str) -> None:
    key = f"{kind}-{uuid.UUID(int=run.rng.getrandbits(128))}"
    submission = Submission(kind=kind, key=key, cents=3_00)
    user.submissions.append(submission)
    threads = [
        eventlet.spawn(run.clients.resubmit, user, submission)
        for _ in range(CONCURRENT_SAME_KEY)
    ]
    for thread in threads:
        thread.wait()
    run.clients.resubmit(user, submission)
    ids = {response["id"] for response in submission.responses}
    run.expect(len(ids) == 1, f"one key of {kind} created {len(ids)}: {ids}")
    _expect_key_reused(run, user, Submission(kind=kind, key=key, cents=3_01))
    others = run.clients.submit(other, kind, 4_00, key)
    is_other = others.responses[-1]["id"] not in ids
    run.expect(is_other, f"the key of a {kind} returned another user's")


def _expect_key_reused(run: Run, user: User, submission: Submission) -> None:
    response = run.clients.post(user, submission)
    kind = response.body.get("type", "")
    is_refused = response.status == 422 and kind.endswith(":idempotency-key-reused")
    problem = f"{submission.kind} with another body and the same key: {response}"
    run.expect(is_refused, problem)


def refusal(run: Run) -> None:
    """Redeliver a refused withdrawal when there is money. It stays refused."""
    with tap(run.arena.suite.env()["AMQP_URI"]) as opened:
        [user] = run.clients.add_users(1, 1_00)
        order = run.clients.submit(user, "order", 5_00)
        run.arena.wait_until(
            lambda: _status(run, user, order) == "rejected", "the order is rejected"
        )
        request = _withdrawal_of(run, opened, order.responses[-1]["id"])
        run.clients.submit(user, "deposit", 100_00)
        for number in range(REDELIVERIES):
            run.fault(f"redelivery {number + 1}")
            outcome = _redeliver(run, opened, request)
            problem = f"a refused withdrawal is {outcome} after redelivery"
            run.expect(outcome == "refused", problem)
    balance = run.clients.request("GET", "/account", user).body.get("balance")
    run.expect(balance == "101.00", f"the balance is {balance}, not 101.00")


def _status(run: Run, user: User, order: Submission) -> Any:
    path = f"/orders/{order.responses[-1]['id']}"
    return run.clients.request("GET", path, user).body.get("status")


def _withdrawal_of(run: Run, opened: Tap, order_id: str) -> CapturedMessage:
    """Return the captured request for the withdrawal of an order."""

    def seen() -> list[CapturedMessage]:
        opened.drain()
        return [
            message
            for message in opened.captured
            if message.routing_key == "billing.withdraw_many"
            and order_id in message.body.decode()
        ]

    run.arena.wait_until(
        seen, f"the withdrawal for order {order_id} is seen on the bus"
    )
    return seen()[0]


def _redeliver(run: Run, opened: Tap, request: CapturedMessage) -> Any:
    """Publish the request again and return the status in the reply, or the error."""
    replies: list[dict[str, Any]] = []

    def received() -> list[dict[str, Any]]:
        opened.drain()
        return replies

    request.publish(opened.producer, reply_to=opened.reply_queue(replies.append))
    run.arena.wait_until(received, "billing replies to the redelivered withdrawal")
    return replies[0]["error"] or replies[0]["result"][0]["status"]


PARTS = (
    Part(name="duplicates", promise="duplicates change nothing", play=duplicates),
    Part(name="overdraft", promise="no account is overdrawn", play=overdraft),
    Part(name="keys", promise="one idempotency key has one effect", play=keys),
    Part(name="refusal", promise="a refusal is final", play=refusal),
)
