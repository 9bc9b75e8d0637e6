"""`make bench-long`: very many orders, and the memory of the services."""

from typing import Any

from dev.bench import figures
from dev.bench.load import SETTLED
from dev.bench.shop import Shop, new_shop, show_progress

CLIENTS = 128
# Orders in a run, about. wrk runs for a time, so the rate of the last run gives the seconds.
ORDERS_PER_SAMPLE = 10_000
MIN_SAMPLES = 30


def measure(total: int) -> dict[str, Any]:
    """Place `total` orders, and take samples of rates and memory."""
    with new_shop() as shop:
        orders_per_sample = min(ORDERS_PER_SAMPLE, total // MIN_SAMPLES)
        samples = [_sample(shop, 0, memory_mb=shop.memory_at_rest)]
        seconds = 2
        while samples[-1]["orders"] < total:
            run = shop.orders(CLIENTS, seconds)
            orders = samples[-1]["orders"] + run.responses.get(SETTLED, 0)
            figures_of_run = {
                name: getattr(run, name)
                for name in ("rate", "letter_p99_s", "letter_lag_growth")
            }
            samples.append(_sample(shop, orders, **figures_of_run))
            memory_mb = samples[-1]["memory_mb"]
            show_progress(f"{orders} orders, {run.rate:.0f} a second, {memory_mb}")
            seconds = max(1, round(orders_per_sample / run.rate))
        slopes = figures.memory_slopes(samples)
        return {
            "environment": {
                **shop.environment(),
                "clients": CLIENTS,
                "orders": samples[-1]["orders"],
            },
            "audit": shop.audit(),
            "targets": _targets(samples, slopes, shop.faults),
            "slopes_mb": slopes,
            "faults": shop.faults,
            "samples": samples,
        }


def _sample(shop: Shop, orders: int, **more: Any) -> dict[str, Any]:
    return {"orders": orders, "memory_mb": shop.memory_mb(), **more}


def _targets(
    samples: list[dict[str, Any]], slopes: dict[str, float], faults: list[str]
) -> list[dict[str, Any]]:
    runs = samples[1:]
    max_memory_mb = max(max(sample["memory_mb"].values()) for sample in samples)
    return [
        figures.MEMORY.judge(max_memory_mb),
        figures.MEMORY_GROWTH.judge(max(slopes.values())),
        figures.LETTERS_LONG.judge(max(run["letter_p99_s"] for run in runs)),
        figures.BACKLOG.judge_median([run["letter_lag_growth"] for run in runs]),
        figures.FAULTS.judge(len(faults)),
    ]
