"""Play one part: clients run while faults happen, then the faults end.

The suite must converge in bounded time. Then all records are compared.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from dev.failure import Failure
from tests.chaos.arena import Arena
from tests.chaos.clients import Clients

ORDERS_SETTLE_S = 60.0  # after the end of the last fault
LETTERS_ARRIVE_S = 90.0
# In the small size, for services behind proxies. They wait for two heartbeats.
SHORT_HEARTBEAT_S = 3

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A promise and the function that proves it.

    With `proxied`, services reach their servers through proxies.
    """

    name: str
    promise: str
    play: Callable[["Run"], None]
    converge_s: float = LETTERS_ARRIVE_S
    proxied: bool = False


@dataclass(kw_only=True)
class Result:
    """The result of a part. It has passed if nothing is `broken`."""

    part: str
    seed: int
    orders: int = 0
    faults: int = 0
    retries: int = 0
    longest_response_s: float = 0.0
    converged_s: float = 0.0
    took_s: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Run:
    """The arena, the clients and the random numbers of a part.

    A seed determines the faults, their places and their order. It does not determine the actions
    of the clients: they have random numbers of their own, and their order depends on the timing
    of responses.
    """

    def __init__(
        self, part: Part, arena: Arena, seed: int, *, large: bool, say: Say
    ) -> None:
        self.part = part
        self.arena = arena
        self.large = large
        self.rng = random.Random(f"{seed}-{part.name}")
        clients_rng = random.Random(f"{seed}-{part.name}-clients")
        clients_name = f"{part.name}-{seed}-{time.time_ns()}"
        self.clients = Clients(arena.url, clients_name, clients_rng)
        self.result = Result(part=part.name, seed=seed)
        self._say = say

    def pick(self, small: Any, large: Any) -> Any:
        """Return the value for this run's size."""
        return large if self.large else small

    def say(self, text: str) -> None:
        self._say(f"{self.part.name}: {text}")

    def expect(self, condition: object, problem: str) -> None:
        """Record the problem as broken unless the condition is true."""
        if not condition:
            self.result.broken.append(problem)

    def expect_only(self, statuses: Collection[int]) -> None:
        """Expect no other statuses of responses. 0 is a failed connection."""
        unexpected = [
            f"{n} x {status or 'no response'} to {route}"
            for (route, status), n in self.clients.responses.items()
            if status not in statuses
        ]
        failures = f" ({dict(self.clients.failures)})" if self.clients.failures else ""
        problem = f"unexpected responses: {', '.join(unexpected)}{failures}"
        self.expect(not unexpected, problem)

    def expect_responses_in(self, seconds: float) -> None:
        """Expect that no client has waited longer for a response."""
        longest = self.clients.longest_s
        problem = f"a response took {longest:.1f} s, more than {seconds:g} s"
        self.expect(longest <= seconds, problem)

    @contextmanager
    def without_restart(self) -> Iterator[None]:
        """Expect that no service restarts inside."""
        starts_of = self.arena.supervisor.starts
        before = {name: starts_of(name) for name in self.arena.services}
        yield
        restarted = [name for name in before if starts_of(name) != before[name]]
        self.expect(not restarted, f"services were restarted: {', '.join(restarted)}")

    def fault(self, text: str) -> None:
        """Count and report a fault."""
        self.result.faults += 1
        self.say(f"fault {self.result.faults}, {text}")

    @contextmanager
    def timed(self, max_s: float, what: str) -> Iterator[None]:
        """Expect that the code inside takes at most `max_s`."""
        started = time.monotonic()
        yield
        took_s = time.monotonic() - started
        problem = f"{what} took {took_s:.1f} s, more than {max_s:g} s"
        self.expect(took_s <= max_s, problem)


def play(
    part: Part, arena: Arena, seed: int, *, large: bool = False, say: Say = print
) -> Result:
    """Play a part and return its result. Unless it has passed, the arena must be replaced."""
    arena.must_be_replaced = True  # until the part has passed
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
    arena.must_be_replaced = bool(run.result.broken)
    return run.result


def converge(run: Run) -> None:
    """Wait until the suite has converged after the faults. Raises Failure if it takes too long."""
    run.arena.await_ready()
    recovered = time.monotonic()
    run.say("converging")
    run.clients.finish()

    def pending() -> list[str]:
        return _pending(run.arena)

    _await_none(pending, "no order is pending", recovered, ORDERS_SETTLE_S)
    _await_none(run.arena.audit, "all records agree", recovered, run.part.converge_s)
    run.result.converged_s = round(time.monotonic() - recovered, 1)


def _pending(arena: Arena) -> list[str]:
    number = arena.pending_orders()
    return [f"{number} orders are pending"] if number else []


def _await_none(
    differences: Callable[[], Sequence[str]], goal: str, since: float, timeout_s: float
) -> None:
    """Wait until there are no differences. Raises Failure with them after the timeout."""
    while found := differences():
        if time.monotonic() - since > timeout_s:
            head = f"{timeout_s:g} s after the last fault it is not true that {goal}"
            raise Failure("\n".join([head, *found]))
        time.sleep(0.5)


def _sum_up(run: Run) -> None:
    clients, result = run.clients, run.result
    result.orders = clients.orders
    result.retries = clients.retries
    result.longest_response_s = round(clients.longest_s, 1)
    statuses: Counter[int] = Counter()
    for (_, status), number in clients.responses.items():
        statuses[status] += number
    result.statuses = {
        str(status or "no response"): statuses[status] for status in sorted(statuses)
    }
