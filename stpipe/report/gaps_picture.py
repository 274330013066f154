"""The picture of gap statistics: where the longest gaps are, how long they are, and how clear each date was."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stpipe.io.gaps.summary import clear_shares, read_shown
from stpipe.report.drawing import GAP_GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

MOST_MAPS = 12
"""Groups that get a map; of more, the last are left out."""

MOST_PIXELS = 600 * 600
"""Pixels of a map."""

BINS = 40
"""Bars of a histogram, at most."""

_LONGEST, _MEAN = "#b2182b", "#4477aa"
_GREY = "#505050"

F32 = NDArray[np.float32]


def draw_gaps(path: Path, summary: Mapping[str, Any], raster: Path) -> None:
    """Write the picture of one variable as PNG.

    Parameters
    ----------
    path : Path
        The file to write; replaced if it exists.
    summary : dict
        What gaps.json says of the variable, and of the period and the options.
    raster : Path
        VAR_gaps.tif.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    longest = [i + 1 for i, row in enumerate(summary["rows"]) if row["statistic"] == "gap_max"]
    means = [i + 1 for i, row in enumerate(summary["rows"]) if row["statistic"] == "gap_mean"]
    groups = [summary["rows"][band - 1]["group"] for band in longest]
    maps = [read_shown(raster, band, MOST_PIXELS) for band in longest[:MOST_MAPS]]
    means_of = [read_shown(raster, band, MOST_PIXELS) for band in means[:MOST_MAPS]]
    settings: Any = {"font.family": "DejaVu Sans", "font.size": 9, "hatch.linewidth": 0.5, "hatch.color": "#bdbdbd"}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(12, 5.6 if len(maps) == 1 else 3.4 + 2.9 * -(-len(maps) // 4)), dpi=90)
        FigureCanvasAgg(figure)
        figure.set_layout_engine("constrained")
        _draw(figure, summary, groups, maps, means_of)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(buffer.getvalue())
    partial.replace(path)


def _draw(
    figure: Figure, summary: Mapping[str, Any], groups: Sequence[str], maps: Sequence[F32], means: Sequence[F32]
) -> None:
    first, last = summary["period"]
    left_out = f"; the first {len(maps)} of {len(groups)}" if len(groups) > len(maps) else ""
    title = (
        f"{summary['variable'][:40]}: days between clear observations, {first} to {last}, "
        f"{summary['dates']} dates, boundaries {summary['boundaries']}d{left_out}"
    )
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", parse_math=False)
    single = len(maps) == 1
    rows = -(-len(maps) // 4)
    halves: Any = (
        figure.subfigures(1, 2, width_ratios=[1, 1.2])
        if single
        else figure.subfigures(2, 1, height_ratios=[0.95 * rows, 1])
    )
    upper, lower = halves
    columns = min(4, len(maps))
    axes = upper.subplots(rows, columns, squeeze=False).ravel()
    low, high = _limits(maps)
    drawn = None
    for axis, values, group in zip(axes, maps, groups, strict=False):
        drawn = _map(axis, values, (low, high))
        axis.set_title("longest gap" if single else group, fontsize=9.5, loc="left", parse_math=False)
    for axis in axes[len(maps) :]:
        axis.set_visible(False)
    assert drawn is not None
    upper.colorbar(drawn, ax=list(axes), label="longest gap (days)", extend="both", shrink=0.9)
    histogram, through_time = lower.subplots(2, 1) if single else lower.subplots(1, 2)
    if single:
        _histogram(histogram, [maps[0], means[0]], ["longest gap", "mean gap"], [_LONGEST, _MEAN])
    else:
        _histogram(histogram, maps, groups, _colours(len(maps)))
        histogram.set_title("longest gap", fontsize=9.5, loc="left")
    _through_time(through_time, summary)


def _limits(images: Sequence[F32]) -> tuple[float, float]:
    """Return the 2nd and 98th percentile of all numbers, never the same number twice."""
    values = np.concatenate([image[np.isfinite(image)] for image in images])
    if not values.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(values, (2, 98)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _map(axes: Axes, values: F32, limits: tuple[float, float]) -> AxesImage:
    axes.set(xticks=[], yticks=[], facecolor=GAP_GREY)
    axes.patch.set_hatch("////")
    for spine in axes.spines.values():
        spine.set(color="#909090", linewidth=0.6)
    return axes.imshow(
        np.ma.masked_invalid(values), cmap="YlOrRd", vmin=limits[0], vmax=limits[1], interpolation="nearest"
    )


def _colours(count: int) -> list[Any]:
    import matplotlib as mpl

    return [mpl.colormaps["turbo"](0.08 + 0.84 * i / max(1, count - 1)) for i in range(count)]


def _histogram(axes: Axes, images: Sequence[F32], labels: Sequence[str], colours: Sequence[Any]) -> None:
    """Draw the share of the pixels by days, in bars that are whole days wide."""
    kept = [image[np.isfinite(image)] for image in images]
    values = np.concatenate(kept)
    top = float(np.percentile(values, 99.5)) if values.size else 1.0
    low = np.floor(float(values.min())) if values.size else 0.0
    width = max(1.0, np.ceil((top - low) / BINS))
    edges = np.arange(low - 0.5, top + width + 0.5, width)
    if len(edges) < 2:
        edges = np.array([low - 0.5, low + 0.5])
    for image, label, colour in zip(kept, labels, colours, strict=False):
        if image.size:
            share = np.histogram(np.clip(image, edges[0], edges[-1]), edges)[0] / image.size
            axes.stairs(100 * share, edges, color=colour, label=str(label), linewidth=1.4, fill=False)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="days (longer ones in the last bar)", ylabel="% of the pixels with gaps")
    if any(image.size for image in kept):
        axes.legend(frameon=False, fontsize=8, ncols=1 + (len(kept) > 4))
    _plain(axes)


def _through_time(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Draw how clear each date was."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    dates, shares = clear_shares(summary)
    when: Any = np.array(dates, dtype="M8[D]")
    axes.vlines(when, 0, 100 * shares, color=_MEAN, linewidth=1.0)
    axes.plot(when, 100 * shares, linestyle="none", marker="o", markersize=2.5, color=_MEAN)
    edges: Any = np.array(summary["period"], dtype="M8[D]")
    margin = max(1, summary["period_days"] // 50)
    first, last = np.datetime64("0001-01-01"), np.datetime64("9999-12-31")  # no other dates can be drawn
    axes.set_xlim(max(edges[0] - margin, first), min(edges[1] + margin, last))
    axes.set_ylim(0, 103)
    locator: Any = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_ylabel("% clear")
    axes.set_title("clear pixels on each date", fontsize=9.5, loc="left")
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=_GREY)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
