"""Parts in which what the services stand on goes away: the broker, the database, billing."""

from collections import Counter
from collections.abc import Callable

import eventlet

from dev.failure import Failure
from tests.chaos.arena import shuffled
from tests.chaos.clients import User
from tests.chaos.run import Part, Run

Fault = Callable[[], None]
ALARM_S = 30.0
ANSWERED_S = 10.0
ALARM_STATUSES = {200, 201, 202, 409, 503}
CONVERGED_S = 60.0  # after an alarm, and after billing's return
RECOVERED_S = 15.0
# Longer faults: a statement that began in one ends after 7 s, then its handler pauses for 15 s.
RESUMED_S = 25.0
PATIENCE_S = 60.0  # then the part ends
NOT_RECOVERED = Failure(
    f"no new order is paid, or a service is not ready, after {PATIENCE_S:g} s"
)
UNAFFECTED = ("/users/me", "/orders", "/notifications")


def broker(run: Run) -> None:
    """The broker is restarted, dies, or closes all connections, under load."""
    arena = run.arena
    faults = (arena.restart_broker, arena.crash_broker, arena.close_connections)
    _under_load(run, faults, arena.await_ready)


def database(run: Run) -> None:
    """The database is restarted, dies, or ends all sessions, under load; all work again soon."""
    arena = run.arena
    faults = (arena.restart_database, arena.crash_database, arena.kill_sessions)
    _under_load(run, faults, lambda: expect_recovery(run))


def _under_load(
    run: Run, faults: tuple[Fault, ...], recovered: Callable[[], object]
) -> None:
    times = run.pick(1, 10)
    run.clients.join(8)
    with run.clients.arrivals():
        for fault in shuffled(faults * times, run.chance):
            eventlet.sleep(run.chance.uniform(0.5, 1.5))
            run.fault(fault.__name__.replace("_", " "))
            fault()
            recovered()


def expect_recovery(run: Run, within_s: float = RECOVERED_S) -> None:
    """A new order is paid, and all services are ready, in time and without a hand."""
    with run.timed(within_s, "to recover"), eventlet.Timeout(PATIENCE_S, NOT_RECOVERED):
        [user] = run.clients.join(1)
        run.clients.ended_order(user, 1)
        run.arena.await_ready()


def blocked(run: Run) -> None:
    """The broker takes no messages for a while: the shop says so in time, and comes back."""
    run.clients.join(8)
    with run.clients.arrivals(per_s=4):
        eventlet.sleep(1)
        with run.arena.memory_alarm():
            run.fault("the broker is short of memory")
            eventlet.sleep(ALARM_S)
    run.clients.finish()
    run.expect_answers_in(ANSWERED_S)
    run.expect_only(ALARM_STATUSES)


def billing_down(run: Run) -> None:
    """Billing is away: orders wait for it, all else goes on."""
    seconds, orders = run.pick((15.0, 20), (600.0, 200))
    users = run.clients.join(8, 1_000_00)
    before = Counter(run.clients.answers)
    with run.arena.down(run.arena.copies("billing")):
        run.fault("billing is down")
        for _ in range(orders):
            run.clients.spawn(run.clients.order, run.chance.choice(users))
            _expect_unaffected(run, run.chance.choice(users))
            eventlet.sleep(seconds / orders)
        run.clients.finish()
        answers = run.clients.answers - before
    told = {
        status: n for (route, status), n in answers.items() if route == "POST /orders"
    }
    run.expect(
        told == {202: orders}, f"{orders} orders without billing are answered {told}"
    )
    run.arena.await_(
        lambda: not run.arena.pending_orders(), "the orders are settled", CONVERGED_S
    )


def _expect_unaffected(run: Run, user: User) -> None:
    """What needs no billing is answered at once, the first time."""
    letter = {"subject": "a", "body": "b"}
    wanted = [(run.clients.attempt("GET", path, user), 200) for path in UNAFFECTED]
    wanted.append(
        (run.clients.attempt("POST", "/notifications", user, json=letter), 201)
    )
    for reply, status in wanted:
        run.expect(
            reply.status == status, f"without billing something else fails: {reply}"
        )


PARTS = (
    Part("broker", "a broker that restarts, dies or hangs up loses nothing", broker),
    Part(
        "blocked", "a blocked broker is told in time", blocked, converge_s=CONVERGED_S
    ),
    Part(
        "database", "a database that restarts, dies or hangs up loses nothing", database
    ),
    Part(
        "billing_down", "one dead service does not take the rest with it", billing_down
    ),
)
