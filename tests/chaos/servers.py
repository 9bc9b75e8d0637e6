"""Parts in which a dependency is unavailable: the broker, the database, billing."""

from collections import Counter
from collections.abc import Callable
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

import eventlet

from dev.failure import Failure
from tests.chaos.arena import shuffled
from tests.chaos.clients import User
from tests.chaos.run import Part, Run

Fault = Callable[[], None]
ALARM_S = 30.0
MAX_RESPONSE_S = 10.0
ALARM_STATUSES = {200, 201, 202, 409, 503}
CONVERGED_S = 60.0  # after an alarm, and after the restart of billing
RECOVERED_S = 15.0
# After a longer fault. A statement of the fault ends after 7 s, then its handler pauses for 15 s.
RESUMED_S = 25.0
RECOVERY_TIMEOUT_S = 60.0  # after it the part fails
NOT_RECOVERED = Failure(
    f"no new order is paid, or a service is not ready, after {RECOVERY_TIMEOUT_S:g} s"
)
WAITERS = 1_000  # clients that wait for pending orders
# The two gateways let 500 wait each, and a connection finds one of them at random.
MIN_WAITING = 900
OPEN_FILES = 4_096
UNAFFECTED = ("/users/me", "/orders", "/notifications")


def broker(run: Run) -> None:
    """Restart the broker, kill it, or close all its connections, under load."""
    arena = run.arena
    faults = (arena.restart_broker, arena.crash_broker, arena.close_connections)
    _under_load(run, faults, arena.await_ready)


def database(run: Run) -> None:
    """Restart the database, kill it, or end all its sessions, under load."""
    arena = run.arena
    faults = (arena.restart_database, arena.crash_database, arena.kill_sessions)
    _under_load(run, faults, lambda: expect_recovery(run))


def _under_load(
    run: Run, faults: tuple[Fault, ...], recovered: Callable[[], object]
) -> None:
    times = run.pick(1, 10)
    run.clients.add_users(8)
    with run.clients.background_load():
        for fault in shuffled(faults * times, run.rng):
            eventlet.sleep(run.rng.uniform(0.5, 1.5))
            run.fault(fault.__name__.replace("_", " "))
            fault()
            recovered()


def expect_recovery(run: Run, within_s: float = RECOVERED_S) -> None:
    """Expect that a new order is paid and all services are ready in time."""
    with (
        run.timed(within_s, "to recover"),
        eventlet.Timeout(RECOVERY_TIMEOUT_S, NOT_RECOVERED),
    ):
        [user] = run.clients.add_users(1)
        run.clients.place_settled_order(user, 1)
        run.arena.await_ready()


def blocked(run: Run) -> None:
    """Let the broker block publishers for a while. The shop reports it and recovers."""
    run.clients.add_users(8)
    with run.clients.background_load(per_s=4):
        eventlet.sleep(1)
        with run.arena.memory_alarm():
            run.fault("the broker has a memory alarm")
            eventlet.sleep(ALARM_S)
    run.clients.finish()
    run.expect_responses_in(MAX_RESPONSE_S)
    run.expect_only(ALARM_STATUSES)


def billing_down(run: Run) -> None:
    """Stop billing. Orders stay pending and many clients wait. All other requests succeed."""
    seconds, orders = run.pick((15.0, 20), (600.0, 200))
    raise_file_limit()
    users = run.clients.add_users(8, 1_000_00)
    before = Counter(run.clients.responses)
    with run.arena.down(run.arena.copies("billing")):
        run.fault("billing is down")
        for _ in range(orders):
            user = run.rng.choice(users)
            run.clients.spawn(run.clients.order, user, WAITERS // orders)
            _expect_unaffected(run, run.rng.choice(users))
            eventlet.sleep(seconds / orders)
        run.clients.finish()
        run.arena.wait_until(
            lambda: run.clients.waiting >= MIN_WAITING,
            f"{MIN_WAITING} requests wait for orders",
        )
        run.result.notes["waiting clients"] = run.clients.waiting
        _expect_unaffected(run, run.rng.choice(users))
        responses = run.clients.responses - before
    statuses = {
        status: n for (route, status), n in responses.items() if route == "POST /orders"
    }
    problem = f"{orders} orders without billing have the responses {statuses}"
    run.expect(statuses == {202: orders}, problem)
    run.arena.wait_until(
        lambda: not run.arena.pending_orders(), "the orders are settled", CONVERGED_S
    )


def raise_file_limit() -> None:
    """Let this process open a connection for each of many waiting clients."""
    limit, maximum = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (max(limit, min(OPEN_FILES, maximum)), maximum))


def _expect_unaffected(run: Run, user: User) -> None:
    """Expect that requests without billing succeed at the first attempt."""
    letter = {"subject": "a", "body": "b"}
    wanted = [(run.clients.attempt("GET", path, user), 200) for path in UNAFFECTED]
    sent = run.clients.attempt("POST", "/notifications", user, json=letter)
    wanted.append((sent, 201))
    for response, status in wanted:
        problem = f"a request that does not need billing failed: {response}"
        run.expect(response.status == status, problem)


PARTS = (
    Part(
        name="broker",
        promise="a broker that restarts, crashes or closes connections loses nothing",
        play=broker,
    ),
    Part(
        name="blocked",
        promise="a blocked broker is reported in time",
        play=blocked,
        converge_s=CONVERGED_S,
    ),
    Part(
        name="database",
        promise="a database that restarts, crashes or closes connections loses nothing",
        play=database,
    ),
    Part(
        name="billing_down",
        promise="one unavailable service does not stop the others",
        play=billing_down,
    ),
)
