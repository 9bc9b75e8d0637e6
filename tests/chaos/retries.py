"""The part in which the broker is killed repeatedly while events wait for a retry."""

import time
from collections.abc import Collection

import eventlet

from tests.chaos.run import Part, Run

ORDERS_AT_ONCE = 25
PAUSE_S = 0.1  # between two waves of orders
# The third retry of all events, which fail together for the first time.
RETRIES_DUE_S = 1.0 + 5 + 15
# The broker is killed this time before retries are due. It takes longer to start.
DOWN_BEFORE_S = 1.5
# A kill comes between these times after the broker responds.
MIN_KILL_DELAY_S, MAX_KILL_DELAY_S = 0.3, 3.0
POLL_S = 0.005
# Events have been delivered if less than this share of the ready messages is left.
DELIVERED = 0.8
RANDOM = "at random"
DELIVERY = "as events are delivered"
RETURN = "as failed events return"
QUEUES = "evt-orders-"  # of the events that cause letters

# The number of orders with a letter.
LETTERS = """
    SELECT count(*)
    FROM letters
    WHERE order_id IS NOT NULL
"""


def retries(run: Run) -> None:
    """Kill the broker while the database of notifications is unavailable and its events wait.

    The last quarter of the kills comes when the database is available again, under load.
    """
    orders, kills = run.pick((600, 4), (2000, 20))
    kills_under_load = kills // 4
    run.clients.add_users(8)
    with run.arena.locked_out("notifications"):
        with run.arena.suspended(run.arena.copies("notifications")):
            _place(run, orders)
        due = time.monotonic() + RETRIES_DUE_S
        queues = _await_waiting_events(run)
        eventlet.sleep(max(0, due - DOWN_BEFORE_S - time.monotonic()))
        _kill(run, "before retries are due")
        for number in range(kills - kills_under_load - 1):
            _kill_at(run, queues, RANDOM if number % 2 else RETURN)
    with run.clients.background_load(per_s=5):
        for number in range(kills_under_load):
            _kill_at(run, queues, RANDOM if number % 2 else DELIVERY)


def _place(run: Run, orders: int) -> None:
    """Place orders and wait until they are settled."""
    for _ in range(orders // ORDERS_AT_ONCE):
        run.clients.wave(ORDERS_AT_ONCE)
        eventlet.sleep(PAUSE_S)
    run.clients.finish()
    run.arena.wait_until(lambda: not run.arena.pending_orders(), "no order is pending")


def _await_waiting_events(run: Run) -> Collection[str]:
    """Wait until each order has an event in a queue. Return the queues."""
    [[orders]] = run.arena.query("orders", "SELECT count(*) FROM orders")
    [[letters]] = run.arena.query("notifications", LETTERS)
    waiting = orders - letters

    def queues() -> Collection[str]:
        messages = run.arena.messages(QUEUES)
        return messages.keys() if sum(messages.values()) >= waiting else ()

    run.arena.wait_until(queues, f"{waiting} events wait")
    run.result.notes["events that wait"] = waiting
    return queues()


def _kill_at(run: Run, queues: Collection[str], moment: str) -> None:
    if moment == RANDOM:
        eventlet.sleep(run.rng.uniform(MIN_KILL_DELAY_S, MAX_KILL_DELAY_S))
    else:
        _await(run, queues, moment)
    _kill(run, moment)


def _kill(run: Run, moment: str) -> None:
    run.fault(f"kill -9 of the broker {moment}")
    run.arena.crash_broker()


def _await(run: Run, queues: Collection[str], moment: str) -> None:
    """Wait until events have been delivered and, for RETURN, the first one is ready again.

    RETURN is the worst moment: events that were moved without a confirm may be only in the memory
    of the broker. The frequent polls are part of the fault: a classic queue that is never idle
    for 0.2 s writes only messages that need a confirm. Return after MAX_KILL_DELAY_S in any case.
    """
    deadline = time.monotonic() + MAX_KILL_DELAY_S
    with run.arena.ready_messages(queues) as count:
        lowest = highest = count()
        while time.monotonic() < deadline:
            ready = count()
            if lowest < DELIVERED * highest and (ready > lowest or moment == DELIVERY):
                return
            highest = max(ready, highest)
            lowest = min(ready, lowest)
            eventlet.sleep(POLL_S)


PARTS = (
    Part(
        name="retries",
        promise="events that wait for a retry survive repeated kills of the broker",
        play=retries,
    ),
)
