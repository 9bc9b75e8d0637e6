"""The picture of a result: orders a second and their latency over the number of clients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

# Of Okabe and Ito's palette, which colour-blind people can distinguish.
BLUE, VERMILION, GREY, INK = "#0072B2", "#D55E00", "#6B6B6B", "#222222"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "nameko-shop",  # the same result gives the same file
    "svg.fonttype": "path",  # looks the same everywhere
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 11,
    "figure.constrained_layout.w_pad": 0.14,  # inches
    "figure.constrained_layout.h_pad": 0.14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 2.2,
    "lines.markersize": 7,
}
# The background of a text, over the lines behind it.
TEXT_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1}
Series = Sequence[Mapping[str, Any]]


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the picture in the format of the path's ending, on white for dark pages too."""
    medians = result["medians"]
    orders = [m for m in medians if m["workload"] == "orders"]
    pgbench = [m for m in medians if m["workload"] == "pgbench"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 4.5), facecolor="white", layout="constrained")
        rate, latency = figure.subplots(1, 2, width_ratios=(1, 1))
        _rates(rate, orders, next(m for m in pgbench if m["clients"] == 16))
        _latencies(latency, orders, pgbench)
        metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata, dpi=120)


def _rates(axes: Axes, orders: Series, pgbench: Mapping[str, Any]) -> None:
    _prepare(axes, "Orders a second", orders)
    axes.axhline(pgbench["rate"], color=GREY, linestyle=(0, (5, 2)), gid="pgbench-rate")
    _line(axes, orders, "rate", BLUE, "o", "orders-rate")
    axes.set_ylim(0, 1.22 * max(pgbench["rate"], *(m["rate"] for m in orders)))
    text = f"PostgreSQL alone, 16 clients: {pgbench['rate']:,.0f}"
    axes.annotate(
        text,
        (0, pgbench["rate"]),
        (2, 5),
        textcoords="offset points",
        color=GREY,
        bbox=TEXT_BOX,
    )
    place, best = max(enumerate(orders), key=lambda at: at[1]["rate"])
    is_below_line = best["rate"] < pgbench["rate"] < 1.15 * best["rate"]
    axes.annotate(
        f"the whole suite: {best['rate']:,.0f}",
        (place, best["rate"]),
        (8, -52 if is_below_line else 10),
        textcoords="offset points",
        ha="right",
        color=BLUE,
        weight="bold",
        bbox=TEXT_BOX,
    )


def _latencies(axes: Axes, orders: Series, pgbench: Series) -> None:
    _prepare(axes, "Latency, ms", orders)
    axes.set_yscale("log")
    axes.grid(axis="y", which="major", color="#DDDDDD")
    _line(
        axes, orders, "p99_ms", VERMILION, "s", "orders-p99", "order, 99th percentile"
    )
    _line(axes, orders, "p50_ms", BLUE, "o", "orders-median", "order, median")
    clients = [m["clients"] for m in orders]
    known = [m for m in pgbench if m["clients"] in clients]
    places = [clients.index(m["clients"]) for m in known]
    axes.plot(
        places,
        [m["p50_ms"] for m in known],
        color=GREY,
        marker="^",
        linestyle=(0, (5, 2)),
        gid="pgbench-median",
        label="PostgreSQL alone, median",
    )
    values = [m[name] for m in orders for name in ("p50_ms", "p99_ms")]
    values += [m["p50_ms"] for m in known]
    axes.set_ylim(min(values) / 3, max(values) * 2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="lower right", framealpha=1, edgecolor="none")


def _prepare(axes: Axes, title: str, orders: Series) -> None:
    """Set title and axes. The numbers of clients are at equal distances, as on a log scale."""
    axes.set_title(title, loc="left", weight="bold", pad=12)
    axes.set_xlabel("clients")
    axes.set_xticks(range(len(orders)), [str(m["clients"]) for m in orders])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(-0.25, len(orders) - 0.75)
    axes.grid(axis="y", color="#DDDDDD")
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _line(
    axes: Axes,
    orders: Series,
    name: str,
    color: str,
    marker: str,
    gid: str,
    label: str = "",
) -> None:
    values = [m[name] for m in orders]
    axes.plot(
        range(len(orders)),
        values,
        color=color,
        marker=marker,
        gid=gid,
        label=label,
        clip_on=False,
    )
