"""The picture of an evaluation: errors and coverage of each method, by kind of gap and by distance."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpipe.core.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito (2008): told apart by people who see few colours.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#f0e442")
MARKERS = "osD^vP*Xh"

LEAST_SAMPLES = 30
"""Groups with fewer samples are left out: a dot would say more than is known."""


def draw_scores(results: Sequence[Evaluation], path: Path) -> None:
    """Write the picture as PNG.

    Parameters
    ----------
    results : sequence of Evaluation
        A row of panels each.
    path : Path
        The file to write; replaced if it exists.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: Any = {"font.family": "DejaVu Sans", "font.size": 9}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(15, 4.1 * len(results) + 0.4), dpi=90, layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(len(results), 4, squeeze=False, width_ratios=[1.25, 1.25, 1, 1])
        for axes, result in zip(rows, results, strict=True):
            units = f" ({result.units})" if result.units not in {"", "1"} else ""
            name = result.variable[:40]
            _panel(axes[0], result, ("all", "gap class"), "mae", f"{name}: mean absolute error{units}"[:60])
            _panel(axes[1], result, ("all", "gap class"), "coverage", f"{name}: truth inside the interval")
            axes[1].axhline(result.interval, color="#606060", linewidth=0.8, linestyle="--", zorder=1.5)
            _panel(axes[2], result, ("distance in space",), "mae", "MAE by distance to the nearest valid sample")
            _panel(axes[3], result, ("distance in time",), "mae", "MAE by days to the nearest observation")
        handles, labels = rows[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 9), frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(buffer.getvalue())
    partial.replace(path)


def _panel(axes: Axes, result: Evaluation, groupings: Sequence[str], column: str, title: str) -> None:
    """Draw a column of the scores: a place for each group, a dot for each method beside the others."""
    rows = [row for row in result.rows if row.grouping in groupings and row.samples >= LEAST_SAMPLES]
    groups = list(dict.fromkeys(row.group for row in rows))
    methods = [cost.method for cost in result.costs]
    spread = 0.7 / max(1, len(methods))
    for m, method in enumerate(methods):
        values = {row.group: getattr(row, column) for row in rows if row.method == method}
        places = np.arange(len(groups)) + spread * (m - (len(methods) - 1) / 2)
        axes.plot(
            places,
            [values[group] for group in groups],
            linestyle="none",
            marker=MARKERS[m % len(MARKERS)],
            color=COLOURS[m % len(COLOURS)],
            markersize=6,
            label=method,
        )
    counts = {row.group: row.samples for row in rows}
    labels = [f"{_short(group)}\n{counts[group]:,}" for group in groups]
    axes.set_xticks(range(len(groups)), labels, fontsize=7.5, rotation=35, ha="right", rotation_mode="anchor")
    for edge in range(1, len(groups)):
        axes.axvline(edge - 0.5, color="#e0e0e0", linewidth=0.8, zorder=0)
    axes.set_xlim(-0.5, max(1, len(groups)) - 0.5)
    if column == "mae":
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(top=1.0)
    axes.set_title(title, fontsize=9.5, loc="left", parse_math=False)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _short(group: str) -> str:
    """Shorten a group's name.

    >>> _short("up to 2 days"), _short("2 to 5 days")
    ('≤ 2 days', '2–5 days')
    """
    return group.replace("up to ", "≤ ").replace("over ", "> ").replace(" to ", "–")
