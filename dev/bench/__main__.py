"""Measures the whole suite on servers of its own: `make bench` and its like, or `python -m dev.bench PART`.

docs/performance.md says what the figures mean. Ends with 1 where the audit finds a difference or an
answer was wrong; a target that is missed is told, and no failure.
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
            help="make it the reference that the docs show",
        )
    return parser.parse_args(arguments)


PARTS = {
    "rounds": {"rounds": 3, "seconds": 5},
    "growth": {"operations": 10_000_000, "pairs": 5, "seconds": 8},
    "long": {"orders": 300_000},
    "scale": {"rounds": 3, "seconds": 5},
}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.part == "growth":
        return growth.measure(options.operations, options.pairs, options.seconds)
    if options.part == "long":
        return long.measure(options.orders)
    return (scale if options.part == "scale" else rounds).measure(
        options.rounds, options.seconds
    )


def main() -> int:
    os.environ.update(without_proxy(os.environ))
    options = parse(sys.argv[1:])
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that all that was started ends
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
