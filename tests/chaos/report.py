"""What is shown while it goes on, and what remains: a line, a table, a file."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dev.broker import CHECKOUT
from tests.chaos.run import Result

RESULTS = (
    Path(__file__).parent / "results"
)  # not tracked: a run must not dirty the checkout
WIDTH = 110
HEAD = (
    "",
    "orders",
    "faults",
    "converged s",
    "retries",
    "longest answer s",
    "took s",
    "broken",
)


def progress(text: str) -> None:
    """One line, rewritten on a terminal."""
    if sys.stdout.isatty():
        print(f"\r\x1b[2K{text[:WIDTH]}", end="", flush=True)
    else:
        print(text, flush=True)


def commit() -> str:
    """The commit that is tested; empty where the files are not those of any."""
    head, changes = (_git("rev-parse", "HEAD"), _git("status", "--porcelain"))
    return head if head and not changes else ""


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def earlier(of_commit: str, large: bool) -> dict[str, Any]:
    """The last report of this size, if it is of this very commit; resumed is only what is certain."""
    if not of_commit or not _file(large).exists():
        return {}
    report: dict[str, Any] = json.loads(_file(large).read_text())
    return report if report["commit"] == of_commit else {}


def _file(large: bool) -> Path:
    """Each size has its own: a small run leaves a large one to be resumed."""
    return RESULTS / ("large.json" if large else "small.json")


def passed(report: Mapping[str, Any], seed: int) -> list[Result]:
    """What has passed with this seed."""
    results = [
        Result(**result) for result in report.get("parts", ()) if report["seed"] == seed
    ]
    return [result for result in results if not result.broken]


def write(results: Sequence[Result], of_commit: str, seed: int, *, large: bool) -> None:
    """Written after each part: an interrupted run is resumed behind the last one."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"date": now, "commit": of_commit, "seed": seed, "large": large}
    _file(large).write_text(
        json.dumps({**head, "parts": [r.as_json() for r in results]}, indent=1) + "\n"
    )


def show(results: Sequence[Result], seed: int) -> None:
    """The table, and what is broken."""
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
        result.longest_answer_s,
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
