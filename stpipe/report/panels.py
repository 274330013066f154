"""The demo's picture: a column a date; what was observed, what was filled, what was there, and how far off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

LOWEST, HIGHEST = -0.1, 0.95
"""NDVI at the ends of the colour bar."""

WORST = 0.3
"""Error and half-width at the ends of theirs."""

GAP = "#c9c9cf"
OUTSIDE = "#8fa9c4"

# Water, bare soil, sparse, and ever denser green: what a reader of NDVI maps expects.
NDVI_COLOURS = [
    (0.00, "#7f9db9"),
    (0.10, "#b9a48a"),
    (0.22, "#c9a66b"),
    (0.38, "#e6d493"),
    (0.52, "#d3dc86"),
    (0.68, "#8fbf57"),
    (0.84, "#3c8f3f"),
    (1.00, "#0b4723"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One date; every array is (y, x)."""

    title: str
    """Date and kind of gap."""

    observed: NDArray[np.float32]
    """NaN in gaps."""

    filled: NDArray[np.float32]
    """NaN where unfilled."""

    truth: NDArray[np.float32]
    """NaN outside the domain."""

    half_width: NDArray[np.float32]
    """0 where observed, NaN where unfilled."""


def draw_panels(columns: list[Column], path: Path, *, method: str, title: str) -> None:
    """Write the picture as PNG.

    Parameters
    ----------
    columns : list of Column
        From left to right.
    path : Path
        The file to write; replaced if it exists.
    method : str
        Name of the method that filled.
    title : str
        Line above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    ndvi = LinearSegmentedColormap.from_list("ndvi", NDVI_COLOURS, N=48).with_extremes(bad=GAP)
    error = _colormap("PuOr_r", steps=24)
    width = _colormap("magma_r", steps=24)
    height, across = columns[0].truth.shape
    side = 2.9
    figure = Figure(figsize=(side * len(columns) + 1.3, 5 * side * height / across + 1.3), dpi=84, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    axes = figure.subplots(5, len(columns), squeeze=False)
    rows = ("observed", f"filled\n({method})", "truth", "filled - truth", "half-width of\n90 % interval")
    for row, name in enumerate(rows):
        axes[row, 0].set_ylabel(name, fontsize=11)
    for at, column in enumerate(columns):
        axes[0, at].set_title(column.title, fontsize=10)
        gap = np.isnan(column.observed) & np.isfinite(column.truth)
        outside = np.isnan(column.truth)
        difference = np.where(gap, column.filled - column.truth, np.nan)
        half_width = np.where(gap, column.half_width, np.nan)
        _show(axes[0, at], column.observed, outside, ndvi, (LOWEST, HIGHEST))
        _show(axes[1, at], column.filled, outside, ndvi, (LOWEST, HIGHEST))
        _show(axes[2, at], column.truth, outside, ndvi, (LOWEST, HIGHEST))
        _show(axes[3, at], difference, outside, error, (-WORST, WORST))
        _show(axes[4, at], half_width, outside, width, (0.0, WORST))
    bars: list[tuple[Any, Colormap, tuple[float, float], str]] = [
        (axes[0:3, :], ndvi, (LOWEST, HIGHEST), "NDVI (grey: gap, blue: lake, outside the domain)"),
        (axes[3, :], error, (-WORST, WORST), "NDVI, in gaps"),
        (axes[4, :], width, (0.0, WORST), "NDVI, in gaps"),
    ]
    for where, colours, limits, label in bars:
        mappable = ScalarMappable(Normalize(*limits), colours)
        extend = "min" if colours is ndvi else "both" if colours is error else "max"
        bar = figure.colorbar(mappable, ax=where, shrink=0.9, aspect=28 if colours is ndvi else 9, extend=extend)
        bar.set_label(label, fontsize=9)
    _save(figure, path)


def _colormap(name: str, *, steps: int) -> Colormap:
    from matplotlib import colormaps

    return colormaps[name].resampled(steps).with_extremes(bad="#f4f4f4")


def _show(
    ax: Axes, values: NDArray[Any], outside: NDArray[np.bool_], colours: Colormap, limits: tuple[float, float]
) -> None:
    from matplotlib.colors import ListedColormap

    ax.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    if outside.any():
        lake = np.where(outside, 1.0, np.nan)
        ax.imshow(lake, cmap=ListedColormap([OUTSIDE]), vmin=0.0, vmax=1.0, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])


def _save(figure: Any, path: Path) -> None:
    """Write a figure as PNG with a palette: the colour maps have few steps, so that nothing is lost by it."""
    from PIL import Image

    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    partial = path.with_name(path.name + ".partial")
    picture.quantize(colors=256, dither=Image.Dither.NONE).save(partial, format="PNG", optimize=True)
    partial.replace(path)
