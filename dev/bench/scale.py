"""`make bench-scale`: the suite with 1, 2 and 4 copies of each service."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from dev.bench import figures
from dev.bench.load import Measure
from dev.bench.rounds import CPU_CLIENTS
from dev.bench.shop import Shop, new_shop, show_progress

COPIES = (1, 2, 4)
CLIENTS = (64, 128, 256)


def measure(rounds: int, seconds: int) -> dict[str, Any]:
    """Measure each number of copies in turn, with pgbench in each round for comparison."""
    results = [_with_copies(copies, rounds, seconds) for copies in COPIES]
    faults = [fault for result in results for fault in result.pop("faults")]
    environment = results[0].pop("environment")
    return {
        "environment": {**environment, "rounds": rounds, "seconds": seconds},
        "targets": [figures.FAULTS.judge(len(faults))],
        "copies": results,
        "faults": faults,
    }


def _with_copies(copies: int, rounds: int, seconds: int) -> dict[str, Any]:
    with new_shop(copies) as shop:
        shop.orders(CPU_CLIENTS, seconds)  # to warm up
        measured = [_round(shop, seconds) for _ in range(rounds)]
        show_progress(f"{copies} of each service: {rounds} rounds are done")
        medians = figures.medians(measured)
        [cpu_ms] = [m.cpu_ms for m in medians if m.clients == CPU_CLIENTS]
        return {
            "environment": shop.environment(),
            "copies": copies,
            "medians": [asdict(m) for m in medians],
            "by_pgbench": {
                str(clients): by_pgbench(measured, clients) for clients in CLIENTS
            },
            "cpu_ms": cpu_ms,
            "memory_mb": shop.memory_mb(),
            "audit": shop.audit(),
            "faults": [f"{copies} copies: {fault}" for fault in shop.faults],
            "rounds": [[asdict(m) for m in measures] for measures in measured],
        }


def _round(shop: Shop, seconds: int) -> list[Measure]:
    first, *others = CLIENTS
    runs = [shop.orders(first, seconds), shop.pgbench(16, seconds)]
    return [*runs, *(shop.orders(clients, seconds) for clients in others)]


def by_pgbench(rounds: Sequence[Sequence[Measure]], clients: int) -> float:
    """Return the rate of orders divided by pgbench's: the median of the rounds."""
    all_rates = [
        {(m.workload, m.clients): m.rate for m in measures} for measures in rounds
    ]
    return median(
        rates["orders", clients] / rates["pgbench", 16] for rates in all_rates
    )
