"""What is computed of the measurements: medians, ratios within a round, and the targets they are held to."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import linear_regression, median
from typing import Any

from dev.bench.load import Measure

Round = Mapping[tuple[str, int], Measure]  # by what was measured, and clients
FIGURES = ("rate", "p50_ms", "p99_ms", "letter_p99_s", "letter_growth")


@dataclass(frozen=True)
class Target:
    """What a figure should be: at most the limit, or `at_least`."""

    what: str
    limit: float
    at_least: bool = False

    def judge(self, figure: float) -> dict[str, Any]:
        """The figure beside the target, and whether it is met; as the results have it."""
        met = figure >= self.limit if self.at_least else figure <= self.limit
        wanted = (
            f"at {'least' if self.at_least else 'most'} {self.limit:g}"
            if self.limit
            else "none"
        )
        return {
            "what": self.what,
            "figure": round(figure, 4),
            "wanted": wanted,
            "met": met,
        }

    def judge_median(self, figures: Sequence[float]) -> dict[str, Any]:
        """The median of several runs, with how far they lie apart, and whether all of them say the same."""
        judged = self.judge(median(figures))
        ends = {"lowest": min(figures), "highest": max(figures)}
        same = all(self.judge(end)["met"] is judged["met"] for end in ends.values())
        return {
            **judged,
            **{name: round(end, 4) for name, end in ends.items()},
            "always": same,
        }


WRONG = Target(
    "wrong answers (429, 5xx, ...), lost orders, differences in the books", 0
)
MEMORY = Target("memory of the largest process, MB", 120)
MEMORY_GROWTH = Target(
    "memory that a process gains with 100,000 orders, after the first third, MB", 2
)
LETTERS = Target("order to letter, p99, the worse of 128 and 256 clients, s", 2)
LETTERS_LONG = Target("order to letter, p99, the worst of all runs, s", 2)
BACKLOG = Target(
    "letters: by how many seconds they fall behind in a second of load", 0.05
)
GROWTH = Target("orders a second, the large ledger / the small one", 0.7, at_least=True)


MANY = (128, 256)  # clients
RATE = Target(
    "orders a second, the better of 128 and 256 clients / pgbench, 16 clients",
    1,
    at_least=True,
)


def _higher(figure: str) -> Callable[[Round], float]:
    return lambda m: max(getattr(m["orders", clients], figure) for clients in MANY)


OF_A_ROUND: dict[Target, Callable[[Round], float]] = {
    Target("orders a second, 16 clients / pgbench, 16 clients", 0.3, at_least=True): (
        lambda m: m["orders", 16].rate / m["pgbench", 16].rate
    ),
    Target("a lone order's median / pgbench's, 1 client", 5): (
        lambda m: m["orders", 1].p50_ms / m["pgbench", 1].p50_ms
    ),
    Target("p99 / median, 128 clients", 3): lambda m: (
        m["orders", 128].p99_ms / m["orders", 128].p50_ms
    ),
    LETTERS: _higher("letter_p99_s"),
    BACKLOG: _higher("letter_growth"),
    Target("reads / orders a second, 64 clients", 1.5, at_least=True): (
        lambda m: m["account", 64].rate / m["orders", 64].rate
    ),
}


def targets(rounds: Sequence[Sequence[Measure]]) -> list[dict[str, Any]]:
    """Medians of what each round comes to: a machine that drifts moves them least."""
    each = [{(m.what, m.clients): m for m in measures} for measures in rounds]
    others = [
        target.judge_median([*map(figure, each)])
        for target, figure in OF_A_ROUND.items()
    ]
    return [RATE.judge_median(_better_rates(each)), *others]


def _better_rates(rounds: Sequence[Round]) -> list[float]:
    """Of the number of clients with the better median: the better of each round would be the luck of both."""
    rates = [
        [m["orders", clients].rate / m["pgbench", 16].rate for m in rounds]
        for clients in MANY
    ]
    return max(rates, key=median)


def medians(rounds: Sequence[Sequence[Measure]]) -> list[Measure]:
    """One for each thing measured; the answers are those of all rounds."""
    return [median_of(same) for same in zip(*rounds, strict=True)]


def median_of(same: Sequence[Measure]) -> Measure:
    """What several runs of the same come to."""
    names = [name for name in FIGURES if getattr(same[0], name) is not None]
    figures: dict[str, Any] = {
        name: median(getattr(m, name) for m in same) for name in names
    }
    answers: Counter[str] = sum((Counter(m.answers) for m in same), Counter())
    cpu_ms = {
        kind: median(m.cpu_ms.get(kind, 0.0) for m in same) for kind in same[0].cpu_ms
    }
    return replace(same[0], **figures, answers=dict(answers), cpu_ms=cpu_ms, prefix="")


def memory_slopes(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """MB that each process gains with 100,000 orders, by least squares; the first third, in which
    pools and caches fill, is left out."""
    late = [s for s in samples if s["orders"] * 3 >= samples[-1]["orders"]]
    orders = [s["orders"] / 100_000 for s in late]
    memory = {
        name: [s["memory_mb"][name] for s in late] for name in late[0]["memory_mb"]
    }
    return {name: linear_regression(orders, mb).slope for name, mb in memory.items()}


def at(samples: Sequence[dict[str, Any]], orders: float) -> dict[str, Any]:
    """The first sample after so many orders."""
    return next((s for s in samples if s["orders"] >= orders), samples[-1])
