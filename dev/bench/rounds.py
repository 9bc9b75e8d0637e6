"""`make bench`: the suite beside PostgreSQL alone, for more and more clients, in rounds."""

from dataclasses import asdict
from typing import Any

from dev.bench import figures
from dev.bench.load import Measure
from dev.bench.shop import Shop, opened, say

BUSY = 128  # clients: for these it is told where the time goes


def measure(rounds: int, seconds: int) -> dict[str, Any]:
    with opened() as shop:
        shop.orders(16, seconds)  # to warm up
        done = []
        for number in range(rounds):
            done.append(_round(shop, seconds))
            say(f"round {number + 1} of {rounds} is done")
        memory, found = shop.memory_mb(), shop.audit()
        medians = figures.medians(done)
        [busy] = [m for m in medians if (m.what, m.clients) == ("orders", BUSY)]
        return {
            "environment": {**shop.environment(), "rounds": rounds, "seconds": seconds},
            "targets": [
                *figures.targets(done),
                figures.MEMORY.judge(max(memory.values())),
                figures.WRONG.judge(len(shop.faults)),
            ],
            "medians": [asdict(m) for m in medians],
            "cpu_ms": busy.cpu_ms,
            "memory_mb": {
                name: (rest, memory[name]) for name, rest in shop.memory_at_rest.items()
            },
            "audit": found,
            "faults": shop.faults,
            "rounds": [[asdict(m) for m in measures] for measures in done],
        }


def _round(shop: Shop, seconds: int) -> list[Measure]:
    """Every measurement once; pgbench's stand among those they are compared with."""
    return [
        shop.pgbench(1, seconds),
        shop.orders(1, seconds),
        shop.orders(16, seconds),
        shop.orders(64, seconds),
        shop.reads(64, seconds),
        shop.pgbench(16, seconds),
        shop.pgbench(64, seconds),
        shop.orders(128, seconds),
        shop.orders(256, seconds),
    ]
