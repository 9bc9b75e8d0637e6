"""Prove the promises under real faults: `make chaos`, `make chaos PART=kills SEED=7`.

A part that has passed with the same seed on the same commit is skipped, unless AGAIN=1.
The exit code is 1 if a promise is broken. The seed and the differences are printed.
"""

import eventlet

eventlet.monkey_patch()  # first of all, as `nameko run` does

import argparse
import os
import random
import signal
import sys

from tests.chaos import report
from tests.chaos.arena import Arenas
from tests.chaos.parts import PARTS
from tests.chaos.run import Part, Result, play
from dev.failure import Failure
from dev.proxies import without_proxy


def run(parts: list[Part], seed: int, *, large: bool, again: bool) -> list[Result]:
    """Play the parts that have not passed before. Return the results of all."""
    commit = report.commit()
    results = report.passed(report.earlier(commit, large), seed)
    if again:
        names = {part.name for part in parts}
        results = [result for result in results if result.part not in names]
    arenas = Arenas()
    try:
        for part in parts:
            if part.name in [result.part for result in results]:
                report.progress(f"{part.name}: has passed before")
                continue
            arena = arenas.get()
            results.append(play(part, arena, seed, large=large, say=report.progress))
            report.write(results, commit, seed, large=large)
    finally:
        arenas.close()
    return results


def default_seed(large: bool) -> int:
    """Return the seed of an earlier run on this commit, or else a new one."""
    before = report.earlier(report.commit(), large)
    return int(before["seed"]) if before else random.randrange(1_000_000)


def main() -> int:
    os.environ.update(without_proxy(os.environ))
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--part", choices=names, action="append", help="only this part; may be repeated"
    )
    parser.add_argument("--seed", type=int, help="seed of all random choices")
    parser.add_argument(
        "--again", action="store_true", help="also parts that have passed before"
    )
    parser.add_argument("--small", action="store_true", help="in the size of pytest")
    options = parser.parse_args()
    # Let `finally` clauses stop all processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    large = not options.small
    seed = default_seed(large) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    chosen = [part for part in PARTS if part.name in (options.part or names)]
    try:
        results = run(chosen, seed, large=large, again=options.again)
    except Failure as failure:
        sys.exit(f"error: {failure} (seed {seed})")
    except KeyboardInterrupt:
        sys.exit(f"interrupted; SEED={seed} continues it")
    report.show(results, seed)
    return 1 if any(result.broken for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
