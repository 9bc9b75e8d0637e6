"""The part in which connections to the servers are open but do not work."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import product

import eventlet

from tests.chaos.arena import PROXIED, shuffled
from tests.chaos.proxy import Proxy
from tests.chaos.run import SHORT_HEARTBEAT_S, Part, Run
from tests.chaos.servers import RESUMED_S, expect_recovery

ORDERS_AT_ONCE = 40  # enough to open more connections than one request needs
# A connection that idles longer is forgotten. It is shorter than the heartbeat.
IDLE_S = (1.0, 3.0)
DELAY_S = 0.05
CUT = 0.03  # the share of server replies that are cut
MAX_RESPONSE_S = 8.0  # the gateway's own limit is 5 s; the machine may be busy
# A lost connection is detected after two missed heartbeats, of 3 or 10 s each.
BROKER_S = (RESUMED_S + 2 * SHORT_HEARTBEAT_S, RESUMED_S + 20)
CONVERGED_S = 45.0
STATUSES = {200, 201, 202, 409, 503, 504}
Servers = Sequence[str]
Fault = Callable[[Run, Sequence[Proxy]], None]


def halfdead(run: Run) -> None:
    """Let the proxies of both servers misbehave. The suite recovers after each fault."""
    run.clients.add_users(8, 1_000_00)
    with run.without_restart():
        for fault, servers in _faults(run):
            run.fault(f"{' and '.join(servers)}: {fault.__doc__}")
            fault(run, [run.arena.proxies[name] for name in servers])
            broker_s = run.pick(*BROKER_S)
            expect_recovery(run, broker_s if "rabbitmq" in servers else RESUMED_S)
            run.clients.finish()
            run.expect_responses_in(MAX_RESPONSE_S)
    run.expect_only(STATUSES)
    for name, proxy in run.arena.proxies.items():
        run.result.notes[name] = {"forgotten": proxy.forgotten, "cut": proxy.cut}
        had_effect = proxy.forgotten and proxy.cut
        run.expect(had_effect, f"the faults of {name} had no effect")


def _faults(run: Run) -> list[tuple[Fault, Servers]]:
    """Return the faults in random order.

    Small: two faults, on both servers. Large: each fault, on both servers and on each of them.
    """
    faults: list[Fault] = run.pick([forget_and_hold, cut], [forget, hold, delay, cut])
    each_server = [[name] for name in PROXIED]
    servers: list[Servers] = run.pick([PROXIED], [PROXIED, *each_server])
    return shuffled(list(product(faults, servers)), run.rng)


def forget(run: Run, proxies: Sequence[Proxy]) -> None:
    """idle connections are forgotten"""
    with _forgetting(run, proxies), run.clients.background_load(per_s=10):
        eventlet.sleep(5)


def hold(run: Run, proxies: Sequence[Proxy]) -> None:
    """all bytes are accepted and held for a while"""
    with (
        run.clients.background_load(per_s=10),
        _all_of(proxy.holding() for proxy in proxies),
    ):
        eventlet.sleep(run.pick(6, 25))


def forget_and_hold(run: Run, proxies: Sequence[Proxy]) -> None:
    """idle connections are forgotten, then all bytes are accepted and held for a while"""
    with _forgetting(run, proxies):
        hold(run, proxies)


@contextmanager
def _forgetting(run: Run, proxies: Sequence[Proxy]) -> Iterator[None]:
    """Forget idle connections inside. The connections of a preceding wave are idle then."""
    idle_s = run.pick(*IDLE_S)
    run.clients.wave(ORDERS_AT_ONCE)
    run.clients.finish()
    with _all_of(proxy.forgetting(idle_s) for proxy in proxies):
        eventlet.sleep(idle_s + 0.5)
        yield


def delay(run: Run, proxies: Sequence[Proxy]) -> None:
    """each byte takes 50 ms each way"""
    with (
        run.clients.background_load(per_s=10),
        _all_of(proxy.delaying(DELAY_S) for proxy in proxies),
    ):
        eventlet.sleep(run.pick(3, 5))


def cut(run: Run, proxies: Sequence[Proxy]) -> None:
    """connections are closed inside a reply, and each byte takes 50 ms each way"""
    slow = (proxy.delaying(DELAY_S) for proxy in proxies)
    cutting = (proxy.cutting(CUT, run.rng) for proxy in proxies)
    with run.clients.background_load(per_s=10), _all_of(slow), _all_of(cutting):
        eventlet.sleep(run.pick(4, 10))


@contextmanager
def _all_of(faults: Iterable[AbstractContextManager[None]]) -> Iterator[None]:
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault)
        yield


PARTS = (
    Part(
        name="halfdead",
        promise="connections that are open but do not work cause only short delays",
        play=halfdead,
        converge_s=CONVERGED_S,
        proxied=True,
    ),
)
