"""The tables of a result, printed and, with `python -m dev.bench.report`, in docs/performance.md: those are of
the reference results, which `make bench KEEP=1` and its like write. The picture is drawn anew, too.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dev.bench import figures, picture
from dev.bench.cpu import NOT_OURS

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
DOCUMENT = HERE.parents[1] / "docs" / "performance.md"
MARKED = re.compile(r"(<!-- bench: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

LATENCIES = ("median ms", "p99 ms", "letters p99 s")
VERBS = {
    "rounds": "bench",
    "growth": "bench-growth",
    "long": "bench-long",
    "scale": "bench-scale",
}

Result = dict[str, Any]
Table = list[
    tuple[str, ...]
]  # the first row is the head; the first column names, the others figures


def result_file(part: str, *, keep: bool) -> Path:
    """Where the result of a part is kept: a reference is tracked, the latest must not dirty the checkout."""
    name = "reference" if keep else "latest"
    return RESULTS / (f"{name}.json" if part == "rounds" else f"{name}-{part}.json")


def show(part: str, result: Result) -> None:
    """Prints the tables of a result."""
    print(f"\n{measured(result)}\n")
    for table in (
        targets({part: result}),
        *TABLES[part](result).values(),
        _audit(result),
    ):
        print(plain(table) + "\n")
    for fault in result["faults"]:
        print(f"WRONG: {fault}")


def measured(result: Result) -> str:
    """On what, and how long, in a line."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in result["environment"].items()
    )


def targets(results: Mapping[str, Result]) -> Table:
    """All targets of these parts, and by which verb each was measured."""
    rows = [
        (
            *(
                t["what"],
                VERBS[part],
                number(t["figure"]),
                number(t.get("lowest")),
                number(t.get("highest")),
            ),
            *(
                t["wanted"],
                ("" if t.get("always", True) else "mostly ")
                + ("met" if t["met"] else "missed"),
            ),
        )
        for part, result in results.items()
        for t in result["targets"]
    ]
    return [("target", "make", "figure", "lowest", "highest", "wanted", ""), *rows]


def of_rounds(result: Result) -> dict[str, Table]:
    return {
        "figures": _figures(result["medians"]),
        "cpu": _shares(result["cpu_ms"]),
        "memory": [
            ("memory, MB", "at rest", "after"),
            *(
                (name, f"{rest:.0f}", f"{after:.0f}")
                for name, (rest, after) in result["memory_mb"].items()
            ),
        ],
    }


def _figures(medians: Iterable[Mapping[str, Any]]) -> Table:
    head = ("", "clients", "a second", *LATENCIES, "fall behind s/s", "answers")
    return [head, *((m["what"], str(m["clients"]), *_run(m)) for m in medians)]


def _run(m: Mapping[str, Any]) -> tuple[str, ...]:
    lag, growth = _seconds(m["letter_p99_s"]), _seconds(m["letter_growth"])
    answers = ", ".join(
        f"{n} x {name}" for name, n in sorted(m["answers"].items()) if n
    )
    return (
        f"{m['rate']:.0f}",
        f"{m['p50_ms']:.1f}",
        f"{m['p99_ms']:.1f}",
        lag,
        growth,
        answers,
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:z.2f}"  # z: no -0.00


def _shares(cpu_ms: Mapping[str, float]) -> Table:
    """Where the time goes: what took most first, what is not the suite's last."""
    total = sum(cpu_ms.values())
    most_first = sorted(cpu_ms.items(), key=_rank)
    rows = [(kind, f"{ms:.3f}", f"{100 * ms / total:.0f} %") for kind, ms in most_first]
    return [
        ("CPU", "ms an order", "of the sum"),
        *rows,
        ("sum", f"{total:.3f}", "100 %"),
    ]


def _rank(kind_and_ms: tuple[str, float]) -> tuple[bool, float]:
    kind, ms = kind_and_ms
    return kind in NOT_OURS, -ms


def of_growth(result: Result) -> dict[str, Table]:
    head = (
        "operations in the ledger at first",
        "orders a second",
        "lowest",
        "highest",
        *LATENCIES,
    )
    rows = []
    for place, (operations, m) in enumerate(
        zip(result["operations"], result["medians"], strict=True)
    ):
        rates = sorted(pair[place]["rate"] for pair in result["pairs"])
        rate, p50, p99, lag, *_ = _run(m)
        rows.append(
            (
                f"{operations:,}",
                rate,
                f"{rates[0]:.0f}",
                f"{rates[-1]:.0f}",
                p50,
                p99,
                lag,
            )
        )
    return {"growth": [head, *rows]}


def of_long(result: Result) -> dict[str, Table]:
    samples = result["samples"]
    third = samples[-1]["orders"] / 3
    told = [figures.at(samples, share * third) for share in range(4)]
    head = (
        "after so many orders",
        *(f"{s['orders']:,}" for s in told),
        "highest",
        "MB in 100,000",
    )
    slopes = result["slopes_mb"]
    rows = [
        (
            f"{name}, MB",
            *(f"{s['memory_mb'][name]:.1f}" for s in (*told, _largest(samples, name))),
            f"{slopes[name]:+.2f}",
        )
        for name in slopes
    ]
    rates = [s["rate"] for s in samples[1:]]
    speed = (
        "orders a second",
        *(f"{s['rate']:.0f}" if "rate" in s else "" for s in told),
        f"{max(rates):.0f}",
        "",
    )
    return {"long": [head, *rows, speed]}


def _largest(samples: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    return max(samples, key=lambda s: s["memory_mb"][name])


def of_scale(result: Result) -> dict[str, Table]:
    head = (
        "copies of each service",
        "clients",
        "orders a second",
        "/ pgbench",
        *LATENCIES,
    )
    rows = []
    for each in result["copies"]:
        for m in each["medians"]:
            if m["what"] == "orders":
                rate, p50, p99, lag, *_ = _run(m)
                by_pgbench = f"{each['by_pgbench'][str(m['clients'])]:.2f}"
                rows.append(
                    (
                        str(each["copies"]),
                        str(m["clients"]),
                        rate,
                        by_pgbench,
                        p50,
                        p99,
                        lag,
                    )
                )
    costs = [each["cpu_ms"] for each in result["copies"]]
    kinds = [kind for kind, _ in sorted(costs[0].items(), key=_rank)]
    cpu_head = (
        "CPU, ms an order",
        *(f"{each['copies']} of each" for each in result["copies"]),
    )
    cpu = [(kind, *(f"{cost.get(kind, 0):.3f}" for cost in costs)) for kind in kinds]
    return {"scale": [head, *rows], "scale-cpu": [cpu_head, *cpu]}


TABLES: dict[str, Callable[[Result], dict[str, Table]]] = {
    "rounds": of_rounds,
    "growth": of_growth,
    "long": of_long,
    "scale": of_scale,
}


def _audit(result: Result) -> Table:
    """What was compared, of all suites together."""
    audits = result.get("audits") or [
        part["audit"] for part in result.get("copies", [result])
    ]
    names = {name: None for audit in audits for name in audit["checked"]}
    rows = [
        (name, *(str(audit["checked"].get(name, "")) for audit in audits))
        for name in names
    ]
    return [*rows, ("differences", *(str(audit["differences"]) for audit in audits))]


def number(value: float | None) -> str:
    """Three digits, about; nothing for None."""
    is_whole = value is not None and (value >= 100 or value == int(value))
    return f"{value:.0f}" if is_whole else _seconds(value)


def plain(table: Table) -> str:
    """For a terminal."""
    first, *others = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join([name.ljust(first), *map(str.rjust, row, others)])
        for name, *row in table
    ]
    return "\n".join(map(str.rstrip, lines))


def markdown(table: Table) -> str:
    head, *rows = table
    rule = ("---", *["--:"] * (len(head) - 1))
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def filled(text: str, results: Mapping[str, Result]) -> str:
    """The document with the tables of these results between its markers."""
    blocks = {
        f"{part}-measured": f"{measured(result)}.\n" for part, result in results.items()
    }
    for part, result in results.items():
        blocks |= {
            name: markdown(table) for name, table in TABLES[part](result).items()
        }
    blocks["targets"] = markdown(targets(results))
    return MARKED.sub(lambda found: f"{found[1]}{blocks[found[2]]}{found[3]}", text)


def references() -> dict[str, Result]:
    return {
        part: json.loads(result_file(part, keep=True).read_text()) for part in TABLES
    }


if __name__ == "__main__":
    picture.draw(
        references()["rounds"], result_file("rounds", keep=True).with_suffix(".svg")
    )
    DOCUMENT.write_text(filled(DOCUMENT.read_text(), references()))
