"""Computes medians, ratios within a round, and the targets that they must meet."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import linear_regression, median
from typing import Any

from dev.bench.load import Measure

Round = Mapping[tuple[str, int], Measure]  # by workload and number of clients
FIGURES = ("rate", "p50_ms", "p99_ms", "letter_p99_s", "letter_lag_growth")


@dataclass(frozen=True)
class Target:
    """A limit for a figure: a maximum, or a minimum if `is_minimum`."""

    name: str
    limit: float
    is_minimum: bool = False

    def judge(self, figure: float) -> dict[str, Any]:
        """Return the figure, the limit and whether it is met, as in the results."""
        is_met = figure >= self.limit if self.is_minimum else figure <= self.limit
        bound = "at least" if self.is_minimum else "at most"
        return {
            "name": self.name,
            "figure": round(figure, 4),
            "wanted": f"{bound} {self.limit:g}" if self.limit else "none",
            "met": is_met,
        }

    def judge_median(self, figures: Sequence[float]) -> dict[str, Any]:
        """Judge the median of several runs. `always`: each run would have the same result."""
        judged = self.judge(median(figures))
        ends = {"lowest": min(figures), "highest": max(figures)}
        return {
            **judged,
            **{name: round(end, 4) for name, end in ends.items()},
            "always": all(
                self.judge(end)["met"] is judged["met"] for end in ends.values()
            ),
        }


FAULTS = Target(
    "wrong responses (429, 5xx, ...), lost orders, differences in the books", 0
)
MEMORY = Target("memory of the largest process, MB", 120)
MEMORY_GROWTH = Target(
    "memory growth of a process for 100,000 orders, after the first third, MB", 2
)
LETTERS = Target("order to letter, p99, the worse of 128 and 256 clients, s", 2)
LETTERS_LONG = Target("order to letter, p99, the worst of all runs, s", 2)
BACKLOG = Target("letters: growth of their lag, seconds a second of load", 0.05)
GROWTH = Target(
    "orders a second, the large ledger / the small one", 0.7, is_minimum=True
)


HIGH_LOADS = (128, 256)  # clients
RATE = Target(
    "orders a second, the better of 128 and 256 clients / pgbench, 16 clients",
    1,
    is_minimum=True,
)


def _worst(figure: str) -> Callable[[Round], float]:
    return lambda measures: max(
        getattr(measures["orders", clients], figure) for clients in HIGH_LOADS
    )


# Each is judged by the median of its figure in all rounds.
ROUND_TARGETS: dict[Target, Callable[[Round], float]] = {
    Target("orders a second, 16 clients / pgbench, 16 clients", 0.3, is_minimum=True): (
        lambda m: m["orders", 16].rate / m["pgbench", 16].rate
    ),
    Target("a single order's median / pgbench's, 1 client", 5): (
        lambda m: m["orders", 1].p50_ms / m["pgbench", 1].p50_ms
    ),
    Target("p99 / median, 128 clients", 3): (
        lambda m: m["orders", 128].p99_ms / m["orders", 128].p50_ms
    ),
    LETTERS: _worst("letter_p99_s"),
    BACKLOG: _worst("letter_lag_growth"),
    Target("reads / orders a second, 64 clients", 1.5, is_minimum=True): (
        lambda m: m["account", 64].rate / m["orders", 64].rate
    ),
}


def targets(rounds: Sequence[Sequence[Measure]]) -> list[dict[str, Any]]:
    """Judge the median of the rounds. It varies little if the speed of the machine drifts."""
    by_workload = [{(m.workload, m.clients): m for m in round_} for round_ in rounds]
    judged = [RATE.judge_median(_better_rates(by_workload))]
    for target, figure in ROUND_TARGETS.items():
        judged.append(target.judge_median([figure(round_) for round_ in by_workload]))
    return judged


def _better_rates(rounds: Sequence[Round]) -> list[float]:
    """Return the rates of the number of clients with the better median.

    The better rate of each round would combine the best luck of both.
    """
    rates = [
        [m["orders", clients].rate / m["pgbench", 16].rate for m in rounds]
        for clients in HIGH_LOADS
    ]
    return max(rates, key=median)


def medians(rounds: Sequence[Sequence[Measure]]) -> list[Measure]:
    """Return the median of each measurement over all rounds."""
    return [median_of(same) for same in zip(*rounds, strict=True)]


def median_of(runs: Sequence[Measure]) -> Measure:
    """Return the medians of several runs of the same workload, and the sum of their responses."""
    first = runs[0]
    figures: dict[str, Any] = {
        name: median(getattr(m, name) for m in runs)
        for name in FIGURES
        if getattr(first, name) is not None
    }
    responses: Counter[str] = sum((Counter(m.responses) for m in runs), Counter())
    cpu_ms = {
        kind: median(m.cpu_ms.get(kind, 0.0) for m in runs) for kind in first.cpu_ms
    }
    return replace(
        first, **figures, responses=dict(responses), cpu_ms=cpu_ms, prefix=""
    )


def memory_slopes(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the growth of each process in MB for 100,000 orders, by linear regression.

    The first third, in which pools and caches fill, does not count.
    """
    late = [s for s in samples if s["orders"] * 3 >= samples[-1]["orders"]]
    orders = [s["orders"] / 100_000 for s in late]
    memory = {
        name: [s["memory_mb"][name] for s in late] for name in late[0]["memory_mb"]
    }
    return {name: linear_regression(orders, mb).slope for name, mb in memory.items()}


def sample_after(samples: Sequence[dict[str, Any]], orders: float) -> dict[str, Any]:
    """Return the first sample with at least `orders` orders, or the last sample."""
    return next((s for s in samples if s["orders"] >= orders), samples[-1])
