"""Show the progress, print the table of results, and write the file of results."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dev.broker import CHECKOUT
from tests.chaos.run import Result

RESULTS = Path(__file__).parent / "results"  # ignored by git
WIDTH = 110
HEAD = (
    "",
    "orders",
    "faults",
    "converged s",
    "retries",
    "longest response s",
    "took s",
    "broken",
)


def progress(text: str) -> None:
    """Print a line. On a terminal, replace the previous one."""
    if sys.stdout.isatty():
        print(f"\r\x1b[2K{text[:WIDTH]}", end="", flush=True)
    else:
        print(text, flush=True)


def commit() -> str:
    """Return the commit that is tested, or "" if files have changed."""
    has_changes = bool(_git("status", "--porcelain"))
    return "" if has_changes else _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def earlier(of_commit: str, large: bool) -> dict[str, Any]:
    """Return the last report of this size if it is of this commit, or else {}."""
    if not of_commit or not _file(large).exists():
        return {}
    report: dict[str, Any] = json.loads(_file(large).read_text())
    return report if report["commit"] == of_commit else {}


def _file(large: bool) -> Path:
    """Return the file of a size. A small run does not overwrite the results of a large one."""
    return RESULTS / ("large.json" if large else "small.json")


def passed(report: Mapping[str, Any], seed: int) -> list[Result]:
    """Return the results of a report that have passed with this seed."""
    if report.get("seed") != seed:
        return []
    results = [Result(**result) for result in report["parts"]]
    return [result for result in results if not result.broken]


def write(results: Sequence[Result], of_commit: str, seed: int, *, large: bool) -> None:
    """Write the file of results after each part, so that an interrupted run can continue."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"date": now, "commit": of_commit, "seed": seed, "large": large}
    report = {**head, "parts": [result.as_json() for result in results]}
    _file(large).write_text(json.dumps(report, indent=1) + "\n")


def show(results: Sequence[Result], seed: int) -> None:
    """Print the table and all that is broken."""
    print()
    _print_table([HEAD, *map(_row, results)])
    for result in results:
        for line in result.broken:
            print(f"BROKEN, {result.part}: {line}")
    broken = sum(bool(result.broken) for result in results)
    print(f"seed {seed}: {len(results) - broken} parts passed, {broken} did not")


def _row(result: Result) -> tuple[str, ...]:
    figures = (
        result.orders,
        result.faults,
        result.converged_s,
        result.retries,
        result.longest_response_s,
    )
    return (
        result.part,
        *map(str, figures),
        f"{result.took_s:.0f}",
        str(len(result.broken)),
    )


def _print_table(rows: Iterable[tuple[str, ...]]) -> None:
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *figures in lines:
        cells = [name.ljust(widths[0]), *map(str.rjust, figures, widths[1:])]
        print("  ".join(cells).rstrip())
