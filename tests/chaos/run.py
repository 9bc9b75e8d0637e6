"""One part, as deterministic simulators do it: clients run while faults happen, everything heals, and
the suite must converge in bounded time. Then all records are compared."""

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from dev.failure import Failure
from tests.chaos.arena import Arena
from tests.chaos.clients import Clients

ORDERS_END_S = 60.0  # after the last fault's end
LETTERS_COME_S = 90.0
SHORT_HEARTBEAT_S = (
    3  # of services behind proxies in the small size: they wait for two of them
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """A promise, and what proves it. `proxied`: services reach their servers through proxies."""

    name: str
    promise: str
    play: Callable[["Run"], None]
    converge_s: float = LETTERS_COME_S
    proxied: bool = False


@dataclass
class Result:
    """What a part came to; it has passed where nothing is `broken`."""

    part: str
    seed: int
    orders: int = 0
    faults: int = 0
    retries: int = 0
    longest_answer_s: float = 0.0
    converged_s: float = 0.0
    took_s: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Run:
    """What a part works with: an arena, clients, and chance.

    A seed repeats which faults come, where, and in which order. It does not repeat what they meet: the
    clients have a chance of their own, and which of them draws next, or what passes on the bus and is
    copied, depends on who is answered when.
    """

    def __init__(
        self, part: Part, arena: Arena, seed: int, *, large: bool, say: Say
    ) -> None:
        self.part = part
        self.arena = arena
        self.large = large
        self.chance = random.Random(f"{seed}-{part.name}")
        clients_chance = random.Random(f"{seed}-{part.name}-clients")
        self.clients = Clients(
            arena.url, f"{part.name}-{seed}-{time.time_ns()}", clients_chance
        )
        self.result = Result(part.name, seed)
        self._say = say

    def pick(self, small: Any, large: Any) -> Any:
        """The one of both that fits this run's size."""
        return large if self.large else small

    def say(self, text: str) -> None:
        self._say(f"{self.part.name}: {text}")

    def expect(self, is_so: object, otherwise: str) -> None:
        """Record `otherwise` as broken unless `is_so`."""
        if not is_so:
            self.result.broken.append(otherwise)

    def expect_only(self, statuses: Collection[int]) -> None:
        """That no request of the clients was answered otherwise; 0 is a connection that failed."""
        others = {
            key: n for key, n in self.clients.answers.items() if key[1] not in statuses
        }
        told = [
            f"{n} x {status or 'cut off'} to {route}"
            for (route, status), n in others.items()
        ]
        failures = f" ({dict(self.clients.failures)})" if self.clients.failures else ""
        self.expect(
            not others, f"answers that should not be: {', '.join(told)}{failures}"
        )

    def expect_answers_in(self, seconds: float) -> None:
        """Expect that no client has waited longer for an answer."""
        longest = self.clients.longest_s
        self.expect(
            longest <= seconds,
            f"an answer took {longest:.1f} s, more than {seconds:g} s",
        )

    @contextmanager
    def without_restart(self) -> Iterator[None]:
        """No service may be started again inside."""
        starts = {
            name: self.arena.supervisor.starts(name) for name in self.arena.services
        }
        yield
        again = [
            name
            for name in starts
            if self.arena.supervisor.starts(name) != starts[name]
        ]
        self.expect(not again, f"services were restarted: {', '.join(again)}")

    def fault(self, text: str) -> None:
        """Count a fault, and tell of it."""
        self.result.faults += 1
        self.say(f"fault {self.result.faults}, {text}")

    @contextmanager
    def timed(self, most_s: float, what: str) -> Iterator[None]:
        """What happens inside must not take longer."""
        started = time.monotonic()
        yield
        took_s = time.monotonic() - started
        self.expect(
            took_s <= most_s, f"{what} took {took_s:.1f} s, more than {most_s:g} s"
        )


def play(
    part: Part, arena: Arena, seed: int, *, large: bool = False, say: Say = print
) -> Result:
    """Play a part and return what it came to. The arena is spoilt unless the part has passed."""
    arena.spoilt = True  # until all is known to be well
    run = Run(part, arena, seed, large=large, say=say)
    started = time.monotonic()
    try:
        run.say(part.promise)
        if part.proxied:
            arena.connect_by_proxies(run.pick(SHORT_HEARTBEAT_S, None))
        else:
            arena.connect_directly()
        part.play(run)
        converge(run)
        run.say("comparing the records")
        run.result.broken += run.clients.compare()
    except Failure as failure:
        run.result.broken += [str(failure), *run.clients.broken]
    finally:
        run.clients.stop()
    _sum_up(run)
    run.result.took_s = round(time.monotonic() - started, 1)
    arena.spoilt = bool(run.result.broken)
    return run.result


def converge(run: Run) -> None:
    """The faults are over: everything must come right by itself, in time."""
    run.arena.await_ready()
    healed = time.monotonic()
    run.say("converging")
    run.clients.finish()
    _within(ORDERS_END_S, healed, "each order has ended", lambda: _pending(run.arena))
    _within(
        run.part.converge_s,
        healed,
        "the books balance and all is quiet",
        run.arena.audit,
    )
    run.result.converged_s = round(time.monotonic() - healed, 1)


def _pending(arena: Arena) -> list[str]:
    number = arena.pending_orders()
    return [f"{number} orders are pending"] if number else []


def _within(
    seconds: float, since: float, what: str, differences: Callable[[], Sequence[str]]
) -> None:
    """Returns as soon as there are no differences; raises Failure with them when the time is over."""
    while found := differences():
        if time.monotonic() - since > seconds:
            raise Failure(
                f"not so {seconds:g} s after the last fault: {what}\n"
                + "\n".join(found)
            )
        time.sleep(0.5)


def _sum_up(run: Run) -> None:
    clients, result = run.clients, run.result
    result.orders = clients.orders
    result.retries = clients.retries
    result.longest_answer_s = round(clients.longest_s, 1)
    for (_, status), number in sorted(
        clients.answers.items(), key=lambda item: item[0][1]
    ):
        name = str(status or "cut off")
        result.statuses[name] = result.statuses.get(name, 0) + number
