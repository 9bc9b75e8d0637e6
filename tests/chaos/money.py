"""Parts about money alone: what is repeated, refused, or wanted by too many at once."""

import uuid
from typing import Any

import eventlet
from eventlet.greenpool import GreenPool

from tests.chaos.clients import Asked, Reply, User
from tests.chaos.run import Part, Run
from tests.chaos.taps import Caught, Tap, repeated, tap

PRICE = 2_50
PAID_ONES, ASKED_FOR, AT_ONCE = 400, 1600, 32
SAME_AT_ONCE = 20
REDELIVERIES = 10


def duplicates(run: Run) -> None:
    """Each event, sign-up, order and RPC that moves money is delivered one to five times, out of order."""
    orders, late_s = run.pick((100, 4.0), (500, 60.0))
    with repeated(run.arena.suite.env()["AMQP_URI"], run.chance, late_s) as repeater:
        run.clients.join(8)
        for _ in range(orders // 20):
            run.clients.wave(20)
            eventlet.sleep(0.2)
        run.clients.finish()
        run.say("waiting for what is late")
    run.result.faults = repeater.copies.total()
    run.result.notes = dict(repeater.copies)
    run.expect(
        run.result.faults >= orders,
        f"{run.result.faults} messages were delivered again",
    )
    run.expect(
        len(repeater.copies) >= 6,
        f"not every kind of message passed: {dict(repeater.copies)}",
    )


def overdraft(run: Run) -> None:
    """Of many orders at once an account pays exactly those that it can pay."""
    for number in range(run.pick(1, 10)):
        run.say(f"round {number + 1}")
        [user] = run.clients.join(1, PAID_ONES * PRICE)
        pool = GreenPool(AT_ONCE)
        for _ in pool.imap(
            lambda _, user=user: run.clients.ask(user, "order", PRICE), range(ASKED_FOR)
        ):
            pass
        run.arena.await_(lambda: run.arena.pending_orders() == 0, "no order is pending")
        _expect_exactly_paid(run, user)


def _expect_exactly_paid(run: Run, user: User) -> None:
    query = "SELECT status, count(*) FROM orders WHERE user_id = CAST(%s AS uuid) GROUP BY 1"
    ended = dict(run.arena.ask("orders", query, user.id))
    wanted = {"paid": PAID_ONES, "rejected": ASKED_FOR - PAID_ONES}
    run.expect(ended == wanted, f"{ended} of {ASKED_FOR} orders, not {wanted}")
    balance = run.clients.insist("GET", "/account", user).body.get("balance")
    run.expect(balance == "0.00", f"the balance is {balance}, not 0.00")


def keys(run: Run) -> None:
    """One key, one effect: at once, again, with another body, in another user's name."""
    for number in range(run.pick(1, 200)):
        run.say(f"round {number + 1}")
        user, other = run.clients.join(2, 100_00)
        for kind in ("order", "deposit", "withdrawal"):
            _many_with_one_key(run, user, other, kind)


def _many_with_one_key(run: Run, user: User, other: User, kind: str) -> None:
    asked = Asked(kind, f"{kind}-{uuid.UUID(int=run.chance.getrandbits(128))}", 3_00)
    user.asked.append(asked)
    threads = [
        eventlet.spawn(run.clients.repeat, user, asked) for _ in range(SAME_AT_ONCE)
    ]
    for thread in threads:
        thread.wait()
    run.clients.repeat(user, asked)
    ids = {told["id"] for told in asked.told}
    run.expect(len(ids) == 1, f"one key of {kind} made {len(ids)}: {ids}")
    _expect_key_reused(run, user, Asked(kind, asked.key, 3_01))
    others = run.clients.ask(other, kind, 4_00, asked.key)
    run.expect(
        others.told[-1]["id"] not in ids, f"the key of a {kind} brought someone else's"
    )


def _expect_key_reused(run: Run, user: User, asked: Asked) -> None:
    reply: Reply = run.clients.request(user, asked)
    is_refused = reply.status == 422 and reply.body.get("type", "").endswith(
        ":idempotency-key-reused"
    )
    run.expect(is_refused, f"{asked.kind} with another body and the same key: {reply}")


def refusal(run: Run) -> None:
    """A withdrawal that was refused stays refused, however often it comes when there is money."""
    with tap(run.arena.suite.env()["AMQP_URI"]) as opened:
        [user] = run.clients.join(1, 1_00)
        order = run.clients.ask(user, "order", 5_00)
        run.arena.await_(
            lambda: _status(run, user, order) == "rejected", "the order is rejected"
        )
        request = _withdrawal_of(run, opened, order.told[-1]["id"])
        run.clients.ask(user, "deposit", 100_00)
        for number in range(REDELIVERIES):
            run.fault(f"redelivery {number + 1}")
            answer = _answer(run, opened, request)
            run.expect(
                answer == "refused",
                f"a refused withdrawal, delivered again, is {answer}",
            )
    balance = run.clients.insist("GET", "/account", user).body.get("balance")
    run.expect(balance == "101.00", f"the balance is {balance}, not 101.00")


def _status(run: Run, user: User, order: Asked) -> Any:
    return run.clients.insist("GET", f"/orders/{order.told[-1]['id']}", user).body.get(
        "status"
    )


def _withdrawal_of(run: Run, opened: Tap, order_id: str) -> Caught:
    """The RPC that asked billing for the order's money, as it passed on the bus."""

    def seen() -> list[Caught]:
        opened.look()
        asked = [
            one for one in opened.caught if one.routing_key == "billing.withdraw_many"
        ]
        return [one for one in asked if order_id in one.body.decode()]

    run.arena.await_(seen, f"the withdrawal for order {order_id} is seen on the bus")
    return seen()[0]


def _answer(run: Run, opened: Tap, request: Caught) -> Any:
    """Deliver the request again, and tell what status billing answers; the answer comes to us."""
    answers: list[dict[str, Any]] = []

    def answered() -> list[dict[str, Any]]:
        opened.look()
        return answers

    request.publish(opened.producer, reply_to=opened.answers(answers.append))
    run.arena.await_(
        answered, "billing answers the withdrawal that was delivered again"
    )
    return answers[0]["error"] or answers[0]["result"][0]["status"]


PARTS = (
    Part("duplicates", "duplicates change nothing", duplicates),
    Part("overdraft", "no account is overdrawn", overdraft),
    Part("keys", "one idempotency key has one effect", keys),
    Part("refusal", "a refusal is final", refusal),
)
