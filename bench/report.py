"""What the rounds come to, for people and for machines."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from bench.load import Measure

FIGURES = ("rate", "p50_ms", "p99_ms", "letter_p99_s")


def medians(rounds: Sequence[Sequence[Measure]]) -> list[Measure]:
    """One for each thing measured; the answers are those of all rounds."""
    return [_median(same) for same in zip(*rounds, strict=True)]


def _median(same: Sequence[Measure]) -> Measure:
    names = [name for name in FIGURES if getattr(same[0], name) is not None]
    figures: dict[str, Any] = {name: median(getattr(m, name) for m in same) for name in names}
    answers: Counter[str] = sum((Counter(m.answers) for m in same), Counter())
    return replace(same[0], **figures, answers=dict(answers), prefix="")


def ratios(rounds: Sequence[Sequence[Measure]]) -> dict[str, float]:
    """The figures that a drifting machine moves least: medians of ratios within a round."""
    each = [_ratios({(m.what, m.clients): m for m in measures}) for measures in rounds]
    return {name: round(median(ratios[name] for ratios in each), 3) for name in each[0]}


def _ratios(m: Mapping[tuple[str, int], Measure]) -> dict[str, float]:
    best, alone = max(m["orders", 128].rate, m["orders", 256].rate), m["pgbench", 16].rate
    return {
        "orders a second, 128 or 256 clients / pgbench, 16": best / alone,
        "orders a second, 16 clients / pgbench, 16": m["orders", 16].rate / alone,
        "a lone order's median / pgbench's, 1": m["orders", 1].p50_ms / m["pgbench", 1].p50_ms,
        "p99 / median, 128 clients": m["orders", 128].p99_ms / m["orders", 128].p50_ms,
        "reads / orders a second, 64 clients": m["account", 64].rate / m["orders", 64].rate,
    }


def show(result: dict[str, Any]) -> None:
    """Prints the tables. `result` is what the file has."""
    print("\n" + ", ".join(f"{name} {value}" for name, value in result["environment"].items()) + "\n")
    head = ("", "clients", "a second", "median ms", "p99 ms", "letter p99 s", "answers")
    _print_table([head, *map(_row, result["medians"])])
    _print_table((name, f"{value:.2f}") for name, value in result["ratios"].items())
    memory = [(name, f"{rest:.0f}", f"{after:.0f}") for name, (rest, after) in result["memory_mb"].items()]
    _print_table([("memory, MB", "at rest", "after"), *memory])
    audit = {**result["audit"]["checked"], "differences": result["audit"]["differences"]}
    _print_table((name, str(number)) for name, number in audit.items())
    for fault in result["faults"]:
        print(f"WRONG: {fault}")


def _row(m: dict[str, Any]) -> tuple[str, ...]:
    lag = "" if m["letter_p99_s"] is None else f"{m['letter_p99_s']:.2f}"
    answers = ", ".join(f"{number} x {name}" for name, number in sorted(m["answers"].items()))
    figures = (f"{m['rate']:.0f}", f"{m['p50_ms']:.1f}", f"{m['p99_ms']:.1f}")
    return m["what"], str(m["clients"]), *figures, lag, answers


def _print_table(rows: Iterable[tuple[str, ...]]) -> None:
    """The first column is names, the others are figures."""
    lines = list(rows)
    first, *others = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *figures in lines:
        print("  ".join([name.ljust(first), *map(str.rjust, figures, others)]).rstrip())
    print()
