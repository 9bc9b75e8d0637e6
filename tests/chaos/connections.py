"""The part in which connections to the servers are open and do not work."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import product

import eventlet

from tests.chaos.arena import PROXIED, shuffled
from tests.chaos.proxy import Proxy
from tests.chaos.run import SHORT_HEARTBEAT_S, Part, Run
from tests.chaos.servers import RESUMED_S, expect_recovery

ORDERS_AT_ONCE = 40  # enough to open more connections than one request needs
IDLE_S = (1.0, 3.0)  # after which a connection is forgotten: shorter than the heartbeat
DELAY_S = 0.05
CUT = 0.03  # the share of replies that are cut
ANSWERED_S = 8.0  # the gateway's own limit is 5 s; the machine may be busy
# A lost connection is noticed after two missed heartbeats, of 3 or 10 s each.
BROKER_S = (RESUMED_S + 2 * SHORT_HEARTBEAT_S, RESUMED_S + 20)
CONVERGED_S = 45.0
STATUSES = {200, 201, 202, 409, 503, 504}
Servers = Sequence[str]
Fault = Callable[[Run, Sequence[Proxy]], None]


def halfdead(run: Run) -> None:
    """Proxies before both servers misbehave; after each fault all works again soon, by itself."""
    run.clients.join(8, 1_000_00)
    with run.without_restart():
        for fault, servers in _faults(run):
            run.fault(f"{' and '.join(servers)}: {fault.__doc__}")
            fault(run, [run.arena.proxies[name] for name in servers])
            broker_s = run.pick(*BROKER_S)
            expect_recovery(run, broker_s if "rabbitmq" in servers else RESUMED_S)
            run.clients.finish()
            run.expect_answers_in(ANSWERED_S)
    run.expect_only(STATUSES)
    for name, proxy in run.arena.proxies.items():
        run.result.notes[name] = {"forgotten": proxy.forgotten, "cut": proxy.cut}
        run.expect(
            proxy.forgotten and proxy.cut, f"the faults of {name} met no connection"
        )


def _faults(run: Run) -> list[tuple[Fault, Servers]]:
    """Small: two faults, on both servers. Large: each fault, on both servers and on each alone."""
    faults: list[Fault] = run.pick([forget_and_hold, cut], [forget, hold, delay, cut])
    servers: list[Servers] = run.pick(
        [PROXIED], [PROXIED, *([name] for name in PROXIED)]
    )
    return shuffled(list(product(faults, servers)), run.chance)


def forget(run: Run, proxies: Sequence[Proxy]) -> None:
    """idle connections are forgotten"""
    with _forgetting(run, proxies), run.clients.arrivals(per_s=10):
        eventlet.sleep(5)


def hold(run: Run, proxies: Sequence[Proxy]) -> None:
    """all bytes are accepted and held for a while"""
    with run.clients.arrivals(per_s=10), _all(proxy.holding() for proxy in proxies):
        eventlet.sleep(run.pick(6, 25))


def forget_and_hold(run: Run, proxies: Sequence[Proxy]) -> None:
    """idle connections are forgotten, then all bytes are accepted and held for a while"""
    with _forgetting(run, proxies):
        hold(run, proxies)


@contextmanager
def _forgetting(run: Run, proxies: Sequence[Proxy]) -> Iterator[None]:
    """Forget idle connections inside; those of the wave before are idle when it begins."""
    idle_s = run.pick(*IDLE_S)
    run.clients.wave(ORDERS_AT_ONCE)
    run.clients.finish()
    with _all(proxy.forgetting(idle_s) for proxy in proxies):
        eventlet.sleep(idle_s + 0.5)
        yield


def delay(run: Run, proxies: Sequence[Proxy]) -> None:
    """each byte takes 50 ms each way"""
    with (
        run.clients.arrivals(per_s=10),
        _all(proxy.delaying(DELAY_S) for proxy in proxies),
    ):
        eventlet.sleep(run.pick(3, 5))


def cut(run: Run, proxies: Sequence[Proxy]) -> None:
    """connections are closed inside a reply, and each byte takes 50 ms each way"""
    slow = (proxy.delaying(DELAY_S) for proxy in proxies)
    cutting = (proxy.cutting(CUT, run.chance) for proxy in proxies)
    with run.clients.arrivals(per_s=10), _all(slow), _all(cutting):
        eventlet.sleep(run.pick(4, 10))


@contextmanager
def _all(faults: Iterable[AbstractContextManager[None]]) -> Iterator[None]:
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault)
        yield


PARTS = (
    Part(
        "halfdead",
        "connections that are there and do not work hold up nothing for long",
        halfdead,
        converge_s=CONVERGED_S,
        proxied=True,
    ),
)
