"""`make bench-scale`: the same with 1, 2 and 4 copies of each service."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from dev.bench import figures
from dev.bench.load import Measure
from dev.bench.rounds import BUSY
from dev.bench.shop import Shop, opened, say

COPIES = (1, 2, 4)
CLIENTS = (64, 128, 256)


def measure(rounds: int, seconds: int) -> dict[str, Any]:
    """One number of copies after the other: what is compared is each with pgbench beside it."""
    all_of = [_with_copies(copies, rounds, seconds) for copies in COPIES]
    faults = [fault for each in all_of for fault in each.pop("faults")]
    environment = all_of[0].pop("environment")
    return {
        "environment": {**environment, "rounds": rounds, "seconds": seconds},
        "targets": [figures.WRONG.judge(len(faults))],
        "copies": all_of,
        "faults": faults,
    }


def _with_copies(copies: int, rounds: int, seconds: int) -> dict[str, Any]:
    with opened(copies) as shop:
        shop.orders(BUSY, seconds)  # to warm up
        done = [_round(shop, seconds) for _ in range(rounds)]
        say(f"{copies} of each service: {rounds} rounds are done")
        medians = figures.medians(done)
        [cpu_ms] = [m.cpu_ms for m in medians if m.clients == BUSY]
        return {
            "environment": shop.environment(),
            "copies": copies,
            "medians": [asdict(m) for m in medians],
            "by_pgbench": {
                str(clients): by_pgbench(done, clients) for clients in CLIENTS
            },
            "cpu_ms": cpu_ms,
            "memory_mb": shop.memory_mb(),
            "audit": shop.audit(),
            "faults": [f"{copies} copies: {fault}" for fault in shop.faults],
            "rounds": [[asdict(m) for m in measures] for measures in done],
        }


def _round(shop: Shop, seconds: int) -> list[Measure]:
    low, *high = CLIENTS
    runs = [shop.orders(low, seconds), shop.pgbench(16, seconds)]
    return [*runs, *(shop.orders(clients, seconds) for clients in high)]


def by_pgbench(rounds: Sequence[Sequence[Measure]], clients: int) -> float:
    """Orders a second for each of pgbench's: the median of what the rounds come to."""
    each = [{(m.what, m.clients): m.rate for m in measures} for measures in rounds]
    return median(rates["orders", clients] / rates["pgbench", 16] for rates in each)
