"""The part in which PostgreSQL answers and cannot write: standby, read-only role, full disk."""

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
SIGN_UP_PAUSE_S = (
    0.5,
    1.5,
)  # each new user costs a password's hash, and a comparison at the end
POLL_S = 0.2
# The least and the most time of a fault; it ends when the services have reported it.
SHORT, LONG = (1.0, 8.0), (10.0, 10.0)
SHORT_FULL, LONG_FULL = (3.0, 12.0), (30.0, 30.0)
# A page that is not full takes some more rows. After so many failures a service must say so.
MANY_FAILURES = 5
CONVERGED_S = 45.0
ANSWERED_S = 8.0  # the gateway's own limit is 5 s; the machine may be busy
STATUSES = {200, 201, 202, 409, 503, 504}
Write = Callable[[Clients, User], None]
WRITES = {
    "POST /users",
    "POST /orders",
    "POST /account/deposits",
    "POST /notifications",
}


def readonly(run: Run) -> None:
    """Writes fail for a while. The services report it, and write again soon without a restart."""
    run.clients.join(8, 1_000_00)
    with run.without_restart(), standby(run.arena) as server, _writes(run):
        for _ in range(run.pick(1, 2)):
            _meet_standby(run, server)
            _read_only_sessions(run)
        _lose_primary(run, server)
        _fill_disk(run, server)
        _return_primary(run, server)
    run.clients.finish()
    run.expect_answers_in(ANSWERED_S)
    run.expect_only(STATUSES)


def _meet_standby(run: Run, server: Standby) -> None:
    """Connections that are made to it stay there afterwards."""
    database = run.arena.proxies["postgresql"]
    run.fault("the address of the database leads to a standby")
    try:
        database.switch(server.port, hang_up=True)
        _expect_unready(run, DATABASES)
    finally:
        database.switch(run.arena.suite.ports["postgresql"], hang_up=False)
    expect_recovery(run, RESUMED_S)


def _read_only_sessions(run: Run) -> None:
    for role in run.pick([run.chance.choice(DATABASES)], DATABASES):
        run.fault(f"all sessions of {role} are read-only")
        with run.arena.read_only([role]):
            _expect_unready(run, [role])
        expect_recovery(run, RESUMED_S)


def _lose_primary(run: Run, server: Standby) -> None:
    """No commit that was confirmed may be lost: the standby has confirmed it, too."""
    server.synchronous(True)
    eventlet.sleep(1)
    run.fault("the primary dies, and the standby takes over")
    server.take_over()
    run.arena.proxies["postgresql"].switch(server.port, hang_up=True)
    expect_recovery(run, RESUMED_S)


def _fill_disk(run: Run, server: Standby) -> None:
    """At least one copy of each service whose writes fail says so."""
    run.fault("the disk of the database is full")
    before = Counter(run.clients.answers)

    def failing() -> list[str]:
        failures = server.disk_full_errors()
        return [service for service in DATABASES if failures[service] >= MANY_FAILURES]

    def silent(seen: set[str]) -> list[str]:
        if not (services := failing()):
            return ["none"]
        return [
            service for service in services if not seen & set(run.arena.copies(service))
        ]

    with server.full():
        seen = _unready(
            run, lambda seen: not silent(seen), *run.pick(SHORT_FULL, LONG_FULL)
        )
        services, unreported = failing(), silent(seen)
    answers = run.clients.answers - before
    refused = sum(
        n for (route, status), n in answers.items() if route in WRITES and status == 503
    )
    run.result.notes["writes refused by a full disk"] = dict(server.disk_full_errors())
    run.expect(
        refused, f"no write was answered 503 while the disk was full: {dict(answers)}"
    )
    names = ", ".join(unreported)
    run.expect(
        not unreported, f"ready while their writes failed: {names}, of {services}"
    )
    expect_recovery(run, RESUMED_S)


def _return_primary(run: Run, server: Standby) -> None:
    """The arena's own server gets the address back, and the data of the other one."""
    server.hand_back()
    run.arena.proxies["postgresql"].switch(
        run.arena.suite.ports["postgresql"], hang_up=True
    )
    expect_recovery(run, RESUMED_S)


def _expect_unready(run: Run, services: Collection[str]) -> None:
    """Wait until each copy of the services has said that it is not ready; all must."""
    names = {name for service in services for name in run.arena.copies(service)}
    seen = _unready(run, lambda seen: names <= seen, *run.pick(SHORT, LONG))
    silent = sorted(names - seen)
    run.expect(not silent, f"ready while they could not write: {', '.join(silent)}")


def _unready(
    run: Run,
    is_enough: Callable[[set[str]], bool],
    least_s: float,
    most_s: float,
) -> set[str]:
    """The copies whose /readyz answers 503 at some time, from now until there are enough."""
    names = [name for service in DATABASES for name in run.arena.copies(service)]
    seen: set[str] = set()
    started = time.monotonic()
    while (passed_s := time.monotonic() - started) < most_s:
        statuses = GreenPool().imap(run.arena.readiness, names)
        seen |= {
            name for name, status in zip(names, statuses, strict=True) if status == 503
        }
        if passed_s > least_s and is_enough(seen):
            break
        eventlet.sleep(POLL_S)
    return seen


@contextmanager
def _writes(run: Run) -> Iterator[None]:
    """Clients have all four services write inside, one request at a time each."""
    going = [True]
    for write in (_deposit, _order, _send_letter) * CLIENTS:
        run.clients.spawn(_again_and_again, write, run.clients, going, PAUSE_S)
    for _ in range(CLIENTS):
        run.clients.spawn(
            _again_and_again, _sign_up, run.clients, going, SIGN_UP_PAUSE_S
        )
    try:
        yield
    finally:
        going.clear()


def _again_and_again(
    write: Write,
    clients: Clients,
    going: list[bool],
    pause_s: tuple[float, float],
) -> None:
    while going:
        write(clients, clients.chance.choice(clients.users))
        eventlet.sleep(clients.chance.uniform(*pause_s))


def _sign_up(clients: Clients, user: User) -> None:
    clients.sign_up()


def _deposit(clients: Clients, user: User) -> None:
    clients.ask(user, "deposit", 1_00)


def _order(clients: Clients, user: User) -> None:
    clients.order(user)


def _send_letter(clients: Clients, user: User) -> None:
    clients.insist("POST", "/notifications", user, json={"subject": "a", "body": "b"})


PARTS = (
    Part(
        "readonly",
        "a database that answers and cannot write is noticed, and used again when it can",
        readonly,
        converge_s=CONVERGED_S,
        proxied=True,
    ),
)
