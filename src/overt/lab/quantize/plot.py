"""The frontier of size and divergence, drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from overt.evaluation import plots
from overt.lab.quantize.frontier import on_frontier


def png(path: Path, rows: Sequence[Mapping[str, Any]], title: str, limit: float | None) -> None:
    """Draw size against divergence, with intervals.

    Args:
        path: where to.
        rows: of the table; those without a divergence are left out.
        title: above the plot.
        limit: a line across at this divergence.

    Raises:
        Unsupported, Failure: as `plots.figure` and `plots.save`.
    """
    shown = [row for row in rows if row.get("kld_mean")]
    best = on_frontier(shown)
    figure = plots.figure(5)
    axes = figure.add_subplot()
    for row in shown:
        x, y = row["bytes"] / 2**20, row["kld_mean"]
        low, high = row["kld_mean_interval"]
        on = row["type"] in best
        axes.errorbar(
            [x],
            [y],
            yerr=[[max(y - max(low, y / 100), 0)], [max(high - y, 0)]],
            fmt="o",
            color="#1f4e79" if on else "#9aa5b1",
            markersize=5,
            capsize=2,
            linewidth=1,
        )
        axes.annotate(
            row["type"],
            (x, y),
            (5, 4),
            textcoords="offset points",
            fontsize=7,
            color="#1f4e79" if on else "#6b7280",
        )
    line = sorted((row["bytes"] / 2**20, row["kld_mean"]) for row in shown if row["type"] in best)
    axes.plot([x for x, _ in line], [y for _, y in line], color="#1f4e79", linewidth=1)
    if limit:
        axes.axhline(limit, color="#b45309", linewidth=1, linestyle="--")
        axes.annotate(
            f"limit {limit:g}",
            (0.99, limit),
            (0, 3),
            ha="right",
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            fontsize=7,
            color="#b45309",
        )
    axes.set_yscale("log")
    axes.set_xlabel("file size (MiB)")
    axes.set_ylabel("mean KL divergence to the source (nats a token)")
    axes.set_title(title, fontsize=10)
    axes.grid(visible=True, which="major", linewidth=0.3)
    plots.save(figure, path)
