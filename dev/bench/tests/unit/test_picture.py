"""The picture has all its series, and is the same each time."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dev.bench.picture import draw

GIDS = {"orders-rate", "pgbench-rate", "orders-median", "orders-p99", "pgbench-median"}


def result(rate: float) -> dict[str, Any]:
    def measure(workload: str, clients: int, rate: float) -> dict[str, Any]:
        return {
            "workload": workload,
            "clients": clients,
            "rate": rate,
            "p50_ms": 5.0 * clients,
            "p99_ms": 9.0 * clients,
        }

    orders = [measure("orders", clients, rate) for clients in (1, 16, 64)]
    reads = measure("account", 64, 2000)
    return {
        "medians": [
            measure("pgbench", 1, 400),
            *orders,
            reads,
            measure("pgbench", 16, 1700),
        ]
    }


def test_every_series_is_in_the_picture(tmp_path: Path) -> None:
    draw(result(600), tmp_path / "a.svg")
    svg = ElementTree.parse(tmp_path / "a.svg").getroot()
    groups = {
        group.get("id"): group for group in svg.iter("{http://www.w3.org/2000/svg}g")
    }
    assert groups.keys() >= GIDS
    markers = [
        len(list(groups[name].iter("{http://www.w3.org/2000/svg}use")))
        for name in sorted(GIDS)
    ]
    assert markers == [3, 3, 3, 2, 0]  # pgbench's rate is a line without points
    assert "the whole suite: 600" in (tmp_path / "a.svg").read_text()


def test_the_background_is_white_for_dark_pages(tmp_path: Path) -> None:
    draw(result(600), tmp_path / "a.svg")
    assert "fill: #ffffff" in (tmp_path / "a.svg").read_text()


def test_equal_results_give_equal_files(
    tmp_path: Path,
) -> None:
    for name, rate in (("a", 600), ("b", 600), ("c", 1600), ("d", 2600)):
        draw(result(rate), tmp_path / f"{name}.svg")
    a, b, c, d = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert a == b
    assert len({a, c, d}) == 3
