"""Makes the tables of a result for the terminal and for docs/performance.md.

`python -m dev.bench.report` writes the tables of the reference results into the document, and
draws the picture. `make bench KEEP=1` writes such a reference; so does each other part.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dev.bench import figures, picture
from dev.bench.cpu import OUTSIDE_SUITE

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
# The first row is the head. The first column has names, the others figures.
Table = list[tuple[str, ...]]


def result_file(part: str, *, keep: bool) -> Path:
    """Return the file of a part's result. Git tracks a reference, and ignores the latest result."""
    name = "reference" if keep else "latest"
    return RESULTS / (f"{name}.json" if part == "rounds" else f"{name}-{part}.json")


def show(part: str, result: Result) -> None:
    """Print the tables of a result."""
    tables = [
        target_table({part: result}),
        *TABLES[part](result).values(),
        _audit_table(result),
    ]
    print(f"\n{environment_line(result)}\n")
    for table in tables:
        print(as_text(table) + "\n")
    for fault in result["faults"]:
        print(f"WRONG: {fault}")


def environment_line(result: Result) -> str:
    """Return the machine, the versions and the duration in one line."""
    environment = result["environment"]
    return ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in environment.items()
    )


def target_table(results: Mapping[str, Result]) -> Table:
    """Return all targets of these parts, with the make verb that measures each."""
    head = ("target", "make", "figure", "lowest", "highest", "wanted", "")
    rows = [
        _target_row(VERBS[part], target)
        for part, result in results.items()
        for target in result["targets"]
    ]
    return [head, *rows]


def _target_row(verb: str, target: Mapping[str, Any]) -> tuple[str, ...]:
    verdict = "met" if target["met"] else "missed"
    if not target.get("always", True):
        verdict = f"mostly {verdict}"
    return (
        target["name"],
        verb,
        format_number(target["figure"]),
        format_number(target.get("lowest")),
        format_number(target.get("highest")),
        target["wanted"],
        verdict,
    )


def round_tables(result: Result) -> dict[str, Table]:
    """Return the tables of `make bench` by name."""
    memory = [
        (name, f"{at_rest:.0f}", f"{after:.0f}")
        for name, (at_rest, after) in result["memory_mb"].items()
    ]
    return {
        "figures": _figure_table(result["medians"]),
        "cpu": _cpu_table(result["cpu_ms"]),
        "memory": [("memory, MB", "at rest", "after"), *memory],
    }


def _figure_table(medians: Iterable[Mapping[str, Any]]) -> Table:
    head = ("", "clients", "a second", *LATENCIES, "lag growth s/s", "responses")
    rows = [(m["workload"], str(m["clients"]), *_figure_cells(m)) for m in medians]
    return [head, *rows]


def _figure_cells(m: Mapping[str, Any]) -> tuple[str, ...]:
    responses = [f"{n} x {status}" for status, n in sorted(m["responses"].items()) if n]
    return (
        f"{m['rate']:.0f}",
        f"{m['p50_ms']:.1f}",
        f"{m['p99_ms']:.1f}",
        _format_seconds(m["letter_p99_s"]),
        _format_seconds(m["letter_lag_growth"]),
        ", ".join(responses),
    )


def _format_seconds(value: float | None) -> str:
    return "" if value is None else f"{value:z.2f}"  # z: 0.00 instead of -0.00


def _cpu_table(cpu_ms: Mapping[str, float]) -> Table:
    """Return the CPU time by kind, the largest first and the rest of the machine last."""
    total = sum(cpu_ms.values())
    ranked = sorted(cpu_ms.items(), key=_rank)
    rows = [(kind, f"{ms:.3f}", f"{100 * ms / total:.0f} %") for kind, ms in ranked]
    head = ("CPU", "ms an order", "of the sum")
    return [head, *rows, ("sum", f"{total:.3f}", "100 %")]


def _rank(kind_and_ms: tuple[str, float]) -> tuple[bool, float]:
    kind, ms = kind_and_ms
    return kind in OUTSIDE_SUITE, -ms


def growth_tables(result: Result) -> dict[str, Table]:
    """Return the table of `make bench-growth` by name."""
    head = (
        "operations in the ledger at first",
        "orders a second",
        "lowest",
        "highest",
        *LATENCIES,
    )
    rows = []
    sizes = zip(result["operations"], result["medians"], strict=True)
    for place, (operations, m) in enumerate(sizes):
        rates = sorted(pair[place]["rate"] for pair in result["pairs"])
        lowest, highest = f"{rates[0]:.0f}", f"{rates[-1]:.0f}"
        rate, p50, p99, lag, *_ = _figure_cells(m)
        rows.append((f"{operations:,}", rate, lowest, highest, p50, p99, lag))
    return {"growth": [head, *rows]}


def long_tables(result: Result) -> dict[str, Table]:
    """Return the table of `make bench-long` by name."""
    samples = result["samples"]
    third = samples[-1]["orders"] / 3
    shown = [figures.sample_after(samples, share * third) for share in range(4)]
    orders = [f"{sample['orders']:,}" for sample in shown]
    head = ("orders placed", *orders, "highest", "MB in 100,000")
    rows = []
    for name, slope in result["slopes_mb"].items():
        highest = max(samples, key=lambda sample: sample["memory_mb"][name])
        memory = [f"{sample['memory_mb'][name]:.1f}" for sample in (*shown, highest)]
        rows.append((f"{name}, MB", *memory, f"{slope:+.2f}"))
    rates = [f"{sample['rate']:.0f}" if "rate" in sample else "" for sample in shown]
    max_rate = max(sample["rate"] for sample in samples[1:])
    rows.append(("orders a second", *rates, f"{max_rate:.0f}", ""))
    return {"long": [head, *rows]}


def scale_tables(result: Result) -> dict[str, Table]:
    """Return the tables of `make bench-scale` by name."""
    head = (
        "copies of each service",
        "clients",
        "orders a second",
        "/ pgbench",
        *LATENCIES,
    )
    rows = [
        _scale_row(suite, m)
        for suite in result["copies"]
        for m in suite["medians"]
        if m["workload"] == "orders"
    ]
    cpu_head = (
        "CPU, ms an order",
        *(f"{s['copies']} of each" for s in result["copies"]),
    )
    costs = [suite["cpu_ms"] for suite in result["copies"]]
    kinds = [kind for kind, _ in sorted(costs[0].items(), key=_rank)]
    cpu = [(kind, *(f"{cost.get(kind, 0):.3f}" for cost in costs)) for kind in kinds]
    return {"scale": [head, *rows], "scale-cpu": [cpu_head, *cpu]}


def _scale_row(suite: Mapping[str, Any], m: Mapping[str, Any]) -> tuple[str, ...]:
    clients = str(m["clients"])
    rate, p50, p99, lag, *_ = _figure_cells(m)
    by_pgbench = f"{suite['by_pgbench'][clients]:.2f}"
    return (str(suite["copies"]), clients, rate, by_pgbench, p50, p99, lag)


TABLES: dict[str, Callable[[Result], dict[str, Table]]] = {
    "rounds": round_tables,
    "growth": growth_tables,
    "long": long_tables,
    "scale": scale_tables,
}


def _audit_table(result: Result) -> Table:
    """Return the counts of the audits of all suites."""
    audits = result.get("audits") or [
        part["audit"] for part in result.get("copies", [result])
    ]
    names = {name: None for audit in audits for name in audit["checked"]}
    rows = [
        (name, *(str(audit["checked"].get(name, "")) for audit in audits))
        for name in names
    ]
    return [*rows, ("differences", *(str(audit["differences"]) for audit in audits))]


def format_number(value: float | None) -> str:
    """Format a number with about three digits, and None as an empty text."""
    is_whole = value is not None and (value >= 100 or value == int(value))
    return f"{value:.0f}" if is_whole else _format_seconds(value)


def as_text(table: Table) -> str:
    """Return the table with aligned columns, for a terminal."""
    first, *others = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join([name.ljust(first), *map(str.rjust, row, others)])
        for name, *row in table
    ]
    return "\n".join(map(str.rstrip, lines))


def as_markdown(table: Table) -> str:
    """Return the table in Markdown."""
    head, *rows = table
    rule = ("---", *["--:"] * (len(head) - 1))
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def fill_document(text: str, results: Mapping[str, Result]) -> str:
    """Return the document with the tables of these results between its markers."""
    blocks = {"targets": as_markdown(target_table(results))}
    for part, result in results.items():
        blocks[f"{part}-measured"] = f"{environment_line(result)}.\n"
        for name, table in TABLES[part](result).items():
            blocks[name] = as_markdown(table)
    return MARKED.sub(lambda found: f"{found[1]}{blocks[found[2]]}{found[3]}", text)


def references() -> dict[str, Result]:
    """Return the reference results by part."""
    return {
        part: json.loads(result_file(part, keep=True).read_text()) for part in TABLES
    }


if __name__ == "__main__":
    picture.draw(
        references()["rounds"], result_file("rounds", keep=True).with_suffix(".svg")
    )
    DOCUMENT.write_text(fill_document(DOCUMENT.read_text(), references()))
