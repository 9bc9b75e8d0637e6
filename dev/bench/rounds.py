"""`make bench`: the suite beside plain SQL on PostgreSQL, for 1 to 256 clients, in rounds."""

from dataclasses import asdict
from typing import Any

from dev.bench import figures
from dev.bench.load import Measure
from dev.bench.shop import Shop, new_shop, show_progress

CPU_CLIENTS = 128  # the table of CPU time is for this number of clients


def measure(rounds: int, seconds: int) -> dict[str, Any]:
    """Measure several rounds with runs of `seconds` seconds."""
    with new_shop() as shop:
        shop.orders(16, seconds)  # to warm up
        measured = []
        for number in range(rounds):
            measured.append(_round(shop, seconds))
            show_progress(f"round {number + 1} of {rounds} is done")
        memory_mb, audit = shop.memory_mb(), shop.audit()
        medians = figures.medians(measured)
        [cpu_ms] = [
            m.cpu_ms
            for m in medians
            if m.workload == "orders" and m.clients == CPU_CLIENTS
        ]
        return {
            "environment": {**shop.environment(), "rounds": rounds, "seconds": seconds},
            "targets": [
                *figures.targets(measured),
                figures.MEMORY.judge(max(memory_mb.values())),
                figures.FAULTS.judge(len(shop.faults)),
            ],
            "medians": [asdict(m) for m in medians],
            "cpu_ms": cpu_ms,
            "memory_mb": {
                name: (at_rest, memory_mb[name])
                for name, at_rest in shop.memory_at_rest.items()
            },
            "audit": audit,
            "faults": shop.faults,
            "rounds": [[asdict(m) for m in measures] for measures in measured],
        }


def _round(shop: Shop, seconds: int) -> list[Measure]:
    """Run every measurement once. pgbench runs next to the runs that it is compared with."""
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
