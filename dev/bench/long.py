"""`make bench-long`: very many orders, and whether the services' memory stays as it is."""

from typing import Any

from dev.bench import figures
from dev.bench.load import SETTLED
from dev.bench.shop import Shop, opened, say

CLIENTS = 128
EVERY = (
    10_000  # orders, about: wrk counts seconds, so the last run's rate says how many
)
SAMPLES_AT_LEAST = 30


def measure(total: int) -> dict[str, Any]:
    with opened() as shop:
        every = min(EVERY, total // SAMPLES_AT_LEAST)
        samples = [_sample(shop, 0, memory_mb=shop.memory_at_rest)]
        seconds = 2
        while samples[-1]["orders"] < total:
            run = shop.orders(CLIENTS, seconds)
            orders = samples[-1]["orders"] + run.answers.get(SETTLED, 0)
            figures_of_run = {
                name: getattr(run, name)
                for name in ("rate", "letter_p99_s", "letter_growth")
            }
            samples.append(_sample(shop, orders, **figures_of_run))
            say(f"{orders} orders, {run.rate:.0f} a second, {samples[-1]['memory_mb']}")
            seconds = max(1, round(every / run.rate))
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
    return [
        figures.MEMORY.judge(
            max(max(sample["memory_mb"].values()) for sample in samples)
        ),
        figures.MEMORY_GROWTH.judge(max(slopes.values())),
        figures.LETTERS_LONG.judge(max(run["letter_p99_s"] for run in runs)),
        figures.BACKLOG.judge_median([run["letter_growth"] for run in runs]),
        figures.WRONG.judge(len(faults)),
    ]
