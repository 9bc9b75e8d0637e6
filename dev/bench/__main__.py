"""Measures the whole suite on its own servers: `make bench`, or `python -m dev.bench PART`.

docs/performance.md explains the figures. The exit code is 1 if the audit finds a difference or a
response was wrong. A missed target is reported, and is not a failure.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from dev.bench import growth, load, long, picture, report, rounds, scale
from dev.failure import Failure
from dev.proxies import without_proxy


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m dev.bench", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, options in PARTS.items():
        part = parts.add_parser(name)
        for option, default in options.items():
            part.add_argument(
                f"--{option}", type=int, default=default, help=f"{default} by default"
            )
        part.add_argument(
            "--keep",
            action="store_true",
            help="keep the result as the reference for the documents",
        )
    return parser.parse_args(arguments)


PARTS = {
    "rounds": {"rounds": 3, "seconds": 5},
    "growth": {"operations": 10_000_000, "pairs": 5, "seconds": 8},
    "long": {"orders": 300_000},
    "scale": {"rounds": 3, "seconds": 5},
}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run a part of the benchmark and return its result."""
    if options.part == "growth":
        return growth.measure(options.operations, options.pairs, options.seconds)
    if options.part == "long":
        return long.measure(options.orders)
    part = scale if options.part == "scale" else rounds
    return part.measure(options.rounds, options.seconds)


def main() -> int:
    """Run the command and return its exit code."""
    os.environ.update(without_proxy(os.environ))
    options = parse(sys.argv[1:])
    # SystemExit ends the servers of the benchmark too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        load.require_wrk()
        result = measure(options)
    except Failure as failure:
        sys.exit(f"error: {failure}")
    file = report.result_file(options.part, keep=options.keep and not result["faults"])
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    if options.part == "rounds":
        picture.draw(result, file.with_suffix(".svg"))
    report.show(options.part, result)
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
