"""The part in which PostgreSQL responds but cannot write: standby, read-only role, full disk."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import eventlet
from eventlet.greenpool import GreenPool

from dev.servers import DATABASES
from tests.chaos.clients import Clients, User
from tests.chaos.run import Part, Run
from tests.chaos.servers import RESUMED_S, expect_recovery
from tests.chaos.standby import Standby, standby

CLIENTS = 3  # of each kind
PAUSE_S = (0.1, 0.3)  # of a client, between two requests that write
# Longer: each new user needs a password hash, and a comparison at the end.
SIGN_UP_PAUSE_S = (0.5, 1.5)
POLL_S = 0.2
# The minimum and maximum duration of a fault. It ends when the services have reported it.
SHORT, LONG = (1.0, 8.0), (10.0, 10.0)
SHORT_FULL, LONG_FULL = (3.0, 12.0), (30.0, 30.0)
# A page with free space still accepts rows. After 5 failures a service must report it.
REPORTED_FAILURES = 5
CONVERGED_S = 45.0
MAX_RESPONSE_S = 8.0  # the gateway's own limit is 5 s; the machine may be busy
STATUSES = {200, 201, 202, 409, 503, 504}
Write = Callable[[Clients, User], None]
WRITES = {
    "POST /users",
    "POST /orders",
    "POST /account/deposits",
    "POST /notifications",
}


def readonly(run: Run) -> None:
    """Let writes fail for a while. The services report it, and recover without a restart."""
    run.clients.add_users(8, 1_000_00)
    with run.without_restart(), standby(run.arena) as server, _writes(run):
        for _ in range(run.pick(1, 2)):
            _switch_to_standby(run, server)
            _read_only_sessions(run)
        _lose_primary(run, server)
        _fill_disk(run, server)
        _return_primary(run, server)
    run.clients.finish()
    run.expect_responses_in(MAX_RESPONSE_S)
    run.expect_only(STATUSES)


def _switch_to_standby(run: Run, server: Standby) -> None:
    """Let the address of the database lead to a standby. Connections to it stay open later."""
    database = run.arena.proxies["postgresql"]
    run.fault("the address of the database leads to a standby")
    try:
        database.switch(server.port, hang_up=True)
        _expect_unready(run, DATABASES)
    finally:
        database.switch(run.arena.suite.ports["postgresql"], hang_up=False)
    expect_recovery(run, RESUMED_S)


def _read_only_sessions(run: Run) -> None:
    for role in run.pick([run.rng.choice(DATABASES)], DATABASES):
        run.fault(f"all sessions of {role} are read-only")
        with run.arena.read_only([role]):
            _expect_unready(run, [role])
        expect_recovery(run, RESUMED_S)


def _lose_primary(run: Run, server: Standby) -> None:
    """Kill the primary and promote the standby, which has confirmed every commit, too."""
    server.synchronous(True)
    eventlet.sleep(1)
    run.fault("the primary is killed and the standby promoted")
    server.promote()
    run.arena.proxies["postgresql"].switch(server.port, hang_up=True)
    expect_recovery(run, RESUMED_S)


def _fill_disk(run: Run, server: Standby) -> None:
    """Fill the disk. At least one copy of each service with failed writes must report it."""
    run.fault("the disk of the database is full")
    before = Counter(run.clients.responses)

    def failing() -> list[str]:
        failures = server.disk_full_errors()
        return [name for name in DATABASES if failures[name] >= REPORTED_FAILURES]

    def silent(seen: set[str]) -> list[str]:
        copies_of = run.arena.copies
        return [name for name in failing() if not seen & set(copies_of(name))]

    def is_enough(seen: set[str]) -> bool:
        return bool(failing()) and not silent(seen)

    with server.full():
        limits = run.pick(SHORT_FULL, LONG_FULL)
        seen = _collect_unready(run, is_enough, *limits)
        services, unreported = failing(), silent(seen)
    responses = run.clients.responses - before
    refused = [key for key in responses if key[0] in WRITES and key[1] == 503]
    run.result.notes["writes refused by a full disk"] = dict(server.disk_full_errors())
    run.expect(refused, f"no write got 503 with a full disk: {dict(responses)}")
    run.expect(services, "no service had failed writes with a full disk")
    names = ", ".join(unreported)
    problem = f"ready while their writes failed: {names}, of {services}"
    run.expect(not unreported, problem)
    expect_recovery(run, RESUMED_S)


def _return_primary(run: Run, server: Standby) -> None:
    """Start the arena's own server with the data of the other one, and use its address again."""
    server.hand_back()
    port = run.arena.suite.ports["postgresql"]
    run.arena.proxies["postgresql"].switch(port, hang_up=True)
    expect_recovery(run, RESUMED_S)


def _expect_unready(run: Run, services: Collection[str]) -> None:
    """Expect that each copy of the services reports that it is not ready."""
    names = {name for service in services for name in run.arena.copies(service)}
    seen = _collect_unready(run, lambda seen: names <= seen, *run.pick(SHORT, LONG))
    silent = sorted(names - seen)
    run.expect(not silent, f"ready while they could not write: {', '.join(silent)}")


def _collect_unready(
    run: Run,
    is_enough: Callable[[set[str]], bool],
    min_s: float,
    max_s: float,
) -> set[str]:
    """Return the copies whose /readyz is 503 at some time, from now until they are enough."""
    names = [name for service in DATABASES for name in run.arena.copies(service)]
    seen: set[str] = set()
    started = time.monotonic()
    while (passed_s := time.monotonic() - started) < max_s:
        statuses = GreenPool().imap(run.arena.readiness, names)
        found = zip(names, statuses, strict=True)
        seen |= {name for name, status in found if status == 503}
        if passed_s > min_s and is_enough(seen):
            break
        eventlet.sleep(POLL_S)
    return seen


@contextmanager
def _writes(run: Run) -> Iterator[None]:
    """Let clients cause writes of all four services inside, one request at a time each."""
    running = [True]
    pauses = {
        _deposit: PAUSE_S,
        _order: PAUSE_S,
        _send_letter: PAUSE_S,
        _sign_up: SIGN_UP_PAUSE_S,
    }
    for write, pause_s in pauses.items():
        for _ in range(CLIENTS):
            run.clients.spawn(_write_repeatedly, write, run.clients, running, pause_s)
    try:
        yield
    finally:
        running.clear()


def _write_repeatedly(
    write: Write,
    clients: Clients,
    running: list[bool],
    pause_s: tuple[float, float],
) -> None:
    while running:
        write(clients, clients.rng.choice(clients.users))
        eventlet.sleep(clients.rng.uniform(*pause_s))


def _sign_up(clients: Clients, user: User) -> None:
    clients.sign_up()


def _deposit(clients: Clients, user: User) -> None:
    clients.submit(user, "deposit", 1_00)


def _order(clients: Clients, user: User) -> None:
    clients.order(user)


def _send_letter(clients: Clients, user: User) -> None:
    clients.request("POST", "/notifications", user, json={"subject": "a", "body": "b"})


PARTS = (
    Part(
        name="readonly",
        promise="a database that cannot write is reported, and used again when it can",
        play=readonly,
        converge_s=CONVERGED_S,
        proxied=True,
    ),
)
