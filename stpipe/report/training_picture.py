"""The picture of a training: its loss, and the error on what was held out, against the steps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpipe.core.ports import JSON

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSS, HELD_OUT, KEPT = "#56b4e9", "#0072b2", "#d55e00"


def draw_training(looks: Sequence[Mapping[str, JSON]], path: Path, *, before: float | None = None) -> None:
    """Write the picture as PNG.

    Parameters
    ----------
    looks : sequence of mapping
        ``step``, ``loss`` and ``held_out``, the error against that of the base, of each look; at least one. None is
        left out.
    path : Path
        The file to write; replaced if it exists.
    before : float, optional
        Error of the weights that the training started from.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: Any = {"font.family": "DejaVu Sans", "font.size": 9}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(10, 4), dpi=90, layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        _curve(left, looks, "loss", LOSS, "loss, mean since the look before")
        _curve(right, looks, "held_out", HELD_OUT, "error on what was held out, against the base")
        right.axhline(1.0, color="#606060", linewidth=0.8, linestyle="--", label="the base")
        if before is not None:
            right.axhline(before, color=KEPT, linewidth=0.8, linestyle=":", label="the weights it started from")
        errors = [float(look["held_out"]) for look in looks]
        best = int(np.argmin(errors))
        right.plot(looks[best]["step"], errors[best], "o", color=KEPT, label=f"kept: {errors[best]:.3f}")
        right.legend(frameon=False, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(buffer.getvalue())
    partial.replace(path)


def _curve(axes: Axes, looks: Sequence[Mapping[str, JSON]], name: str, colour: str, title: str) -> None:
    values = [np.nan if look[name] is None else look[name] for look in looks]
    axes.plot([look["step"] for look in looks], values, color=colour, marker=".", linewidth=1.2)
    axes.set_title(title, fontsize=9.5, loc="left")
    axes.set_xlabel("steps")
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
