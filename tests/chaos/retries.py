"""The part in which events wait for a retry while the broker is killed again and again."""

import time
from collections.abc import Collection

import eventlet

from tests.chaos.run import Part, Run

ORDERS_AT_ONCE = 25
PAUSE_S = 0.1  # between two waves of orders
RETRIES_DUE_S = (
    1.0 + 5 + 15
)  # the third retry of all events, which fail together for the first time
DOWN_BEFORE_S = 1.5  # so long before, the broker is killed: it takes longer to start
EARLIEST_S, LATEST_S = 0.3, 3.0  # a kill comes so long after the broker answers
POLL_S = 0.005
DELIVERED = (
    0.8  # so few of the messages that were ready are left when some have been delivered
)
RANDOM = "at random"
DELIVERY = "as events are delivered"
RETURN = "as failed events return"
QUEUES = "evt-orders-"  # of the events that become letters


def retries(run: Run) -> None:
    """Kills the broker while the database of notifications is unavailable and its events wait.

    The last quarter of the kills comes when the database is available again, under load.
    """
    orders, kills = run.pick((600, 4), (2000, 20))
    kills_under_load = kills // 4
    run.clients.join(8)
    with run.arena.locked_out("notifications"):
        with run.arena.frozen(run.arena.copies("notifications")):
            _place(run, orders)
        due = time.monotonic() + RETRIES_DUE_S
        queues = _await_waiting_events(run)
        eventlet.sleep(max(0, due - DOWN_BEFORE_S - time.monotonic()))
        _kill(run, "before retries are due")
        for number in range(kills - kills_under_load - 1):
            _kill_at(run, queues, RANDOM if number % 2 else RETURN)
    with run.clients.arrivals(per_s=5):
        for number in range(kills_under_load):
            _kill_at(run, queues, RANDOM if number % 2 else DELIVERY)


def _place(run: Run, orders: int) -> None:
    """Returns when the orders have ended."""
    for _ in range(orders // ORDERS_AT_ONCE):
        run.clients.wave(ORDERS_AT_ONCE)
        eventlet.sleep(PAUSE_S)
    run.clients.finish()
    run.arena.await_(lambda: not run.arena.pending_orders(), "each order has ended")


def _await_waiting_events(run: Run) -> Collection[str]:
    """Returns the queues of the events as soon as they hold one event for each order."""
    [[orders]] = run.arena.ask("orders", "SELECT count(*) FROM orders")
    [[letters]] = run.arena.ask(
        "notifications", "SELECT count(*) FROM letters WHERE order_id IS NOT NULL"
    )
    waiting = orders - letters

    def queues() -> Collection[str]:
        messages = run.arena.messages(QUEUES)
        return messages.keys() if sum(messages.values()) >= waiting else ()

    run.arena.await_(queues, f"{waiting} events wait")
    run.result.notes["events that wait"] = waiting
    return queues()


def _kill_at(run: Run, queues: Collection[str], moment: str) -> None:
    if moment == RANDOM:
        eventlet.sleep(run.chance.uniform(EARLIEST_S, LATEST_S))
    else:
        _await(run, queues, moment)
    _kill(run, moment)


def _kill(run: Run, moment: str) -> None:
    run.fault(f"kill -9 of the broker {moment}")
    run.arena.crash_broker()


def _await(run: Run, queues: Collection[str], moment: str) -> None:
    """Returns when events have been delivered and, for RETURN, the first one is ready again.

    RETURN is the worst moment: events that were moved without a confirm may be in the memory of the
    broker only. The frequent polls are part of the fault: a classic queue that is never idle for
    0.2 s writes only what a confirm waits for. Returns after LATEST_S in any case.
    """
    until = time.monotonic() + LATEST_S
    with run.arena.ready_messages(queues) as count:
        lowest = highest = count()
        while time.monotonic() < until:
            ready = count()
            if lowest < DELIVERED * highest and (ready > lowest or moment == DELIVERY):
                return
            highest = max(ready, highest)
            lowest = min(ready, lowest)
            eventlet.sleep(POLL_S)


PARTS = (
    Part(
        "retries",
        "events that wait for a retry survive a broker that is killed again and again",
        retries,
    ),
)
