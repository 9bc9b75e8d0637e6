"""The figures, ratios and targets that are computed from the measurements."""

from typing import Any

import pytest

from dev.bench import figures
from dev.bench.figures import (
    Target,
    median_of,
    medians,
    memory_slopes,
    sample_after,
    targets,
)
from dev.bench.growth import measuring_order, ratios
from dev.bench.load import Measure
from dev.bench.scale import by_pgbench


def orders(clients: int, rate: float, **more: Any) -> Measure:
    lags = {"letter_p99_s": 0.5, "letter_lag_growth": 0.0}
    figures_of_run = {"rate": rate, "p50_ms": 10.0, "p99_ms": 20.0, **lags, **more}
    return Measure(workload="orders", clients=clients, **figures_of_run)


def pgbench(clients: int, rate: float) -> Measure:
    return Measure(
        workload="pgbench", clients=clients, rate=rate, p50_ms=2.5, p99_ms=8.0
    )


def reads(clients: int, rate: float) -> Measure:
    return Measure(
        workload="account", clients=clients, rate=rate, p50_ms=40, p99_ms=100
    )


def a_round(
    pgbench_rate: float = 1000, rate_of_256: float = 800, **of_128: Any
) -> list[Measure]:
    return [
        pgbench(1, 400),
        orders(1, 50),
        orders(16, 310),
        orders(64, 500),
        reads(64, 1000),
        pgbench(16, pgbench_rate),
        orders(128, **{"rate": 900, **of_128}),
        orders(256, rate_of_256, letter_p99_s=1.5),
    ]


def figure_of(found: list[dict[str, Any]], words: str) -> tuple[float, bool]:
    [target] = [target for target in found if words in target["name"]]
    return target["figure"], target["met"]


def test_every_target_is_judged_in_a_round() -> None:
    found = targets([a_round()])
    assert figure_of(found, "the better of 128 and 256") == (0.9, False)
    assert figure_of(found, "16 clients / pgbench") == (0.31, True)
    assert figure_of(found, "a single order") == (4, True)
    assert figure_of(found, "p99 / median") == (2, True)
    assert figure_of(found, "order to letter") == (1.5, True)
    assert figure_of(found, "growth of their lag") == (0, True)
    assert figure_of(found, "reads / orders") == (2, True)
    assert len(found) == 7


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    rounds = [a_round(1000), a_round(9000), a_round(500)]
    assert figure_of(targets(rounds), "the better of 128 and 256") == (0.9, False)


def test_the_better_median_is_judged() -> None:
    rounds = [
        a_round(rate=of_128, rate_of_256=of_256)
        for of_128, of_256 in ((1200, 700), (800, 1100))
    ]
    found, *_ = targets([*rounds, a_round(rate=900, rate_of_256=950)])
    assert (found["figure"], found["lowest"], found["highest"]) == (0.95, 0.7, 1.1)


def test_it_shows_if_all_rounds_agree_on_a_target() -> None:
    target = Target("x", 1, is_minimum=True)
    judged = [
        target.judge_median(figures)
        for figures in ([0.9, 1.1, 1.2], [1.1, 1.2], [0.9, 0.8, 1], [0.1])
    ]
    assert [(t["met"], t["always"]) for t in judged] == [
        (True, False),
        (True, True),
        (False, False),
        (False, True),
    ]


def test_letters_that_fall_behind_miss_their_targets() -> None:
    found = targets([a_round(letter_lag_growth=0.3, letter_p99_s=2.1)])
    assert figure_of(found, "growth of their lag") == (0.3, False)
    assert figure_of(found, "order to letter") == (2.1, False)


@pytest.mark.parametrize(
    ("target", "figure", "met"),
    [
        (Target("x", 1, is_minimum=True), 1.0, True),
        (Target("x", 1, is_minimum=True), 0.9996, False),
        (Target("x", 5), 5.0, True),
        (Target("x", 5), 5.0004, False),
        (figures.FAULTS, 0, True),
        (figures.FAULTS, 1, False),
    ],
)
def test_a_nearly_met_target_is_missed(
    target: Target, figure: float, met: bool
) -> None:
    assert target.judge(figure)["met"] is met


def test_a_target_is_shown_in_words() -> None:
    assert Target("x", 0.3, is_minimum=True).judge(1)["wanted"] == "at least 0.3"
    assert figures.MEMORY.judge(1)["wanted"] == "at most 120"
    assert figures.FAULTS.judge(1)["wanted"] == "none"


def test_runs_give_their_medians_and_all_their_responses() -> None:
    runs = [
        orders(
            16, rate, responses={"201": 10}, cpu_ms={"gateway": rate / 100}, prefix="a"
        )
        for rate in (100, 300, 200)
    ]
    assert median_of(runs) == orders(
        16, 200, responses={"201": 30}, cpu_ms={"gateway": 2.0}
    )


def test_pgbench_has_no_median_of_letters() -> None:
    [found] = medians([[pgbench(1, 400)], [pgbench(1, 500)]])
    assert (found.rate, found.letter_p99_s) == (450, None)


def test_growth_is_the_median_of_the_pairs() -> None:
    pairs = [(1000, 900), (500, 450), (800, 800)]
    found = ratios([[orders(128, small), orders(128, large)] for small, large in pairs])
    assert figures.GROWTH.judge_median(found)["figure"] == 0.9


def test_the_order_of_measuring_alternates() -> None:
    assert [measuring_order({10: "a", 20: "b"}, number) for number in range(3)] == [
        [10, 20],
        [20, 10],
        [10, 20],
    ]


def test_scale_is_compared_with_pgbench_of_the_same_round() -> None:
    rounds = [[orders(64, 500), pgbench(16, 1000)], [orders(64, 200), pgbench(16, 500)]]
    assert by_pgbench(rounds, 64) == 0.45


def test_memory_growth_in_the_first_third_does_not_count() -> None:
    used = {0: 60, 50_000: 80, 100_000: 85, 200_000: 85, 300_000: 85}
    grown = {0: 60, 50_000: 80, 100_000: 85, 200_000: 88, 300_000: 91}
    samples = [
        {"orders": n, "memory_mb": {"users": used[n], "orders": grown[n]}} for n in used
    ]
    assert memory_slopes(samples) == pytest.approx({"users": 0, "orders": 3})


def test_a_sample_is_the_first_with_enough_orders() -> None:
    samples = [{"orders": 0}, {"orders": 11}, {"orders": 23}]
    assert [sample_after(samples, n)["orders"] for n in (0, 10, 20, 30)] == [
        0,
        11,
        23,
        23,
    ]
