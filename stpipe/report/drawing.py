"""Drawing the quicklook: rows of small pictures on one sheet, with colour bars and a legend."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.samples import SOURCE_CODES
from stpipe.io.frames import (
    SOURCE_COLOURS,
    FrameSource,
    frame_dates,
    infos_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.patches import Patch

GAP_GREY = "#d9d9d9"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The part of the scene that is shown, and how coarsely."""

    window: tuple[int, int, int, int]
    """First row, row after the last, first column, column after the last, in the cube."""

    stride: int
    """Every how many pixels one is shown."""

    whole: bool
    """Whether that is the whole scene."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """All that is drawn."""

    frames: tuple[int, ...]
    view: View
    cube: FrameSource
    variable: str
    before: list[NDArray[np.float64]]
    after: list[NDArray[np.float64]]
    widths: list[NDArray[np.float64]]
    percent: int
    codes: list[NDArray[np.uint8]]


def render(picture: Picture, dots_per_inch: int) -> bytes:
    """Return the sheet as a PNG; the same picture gives the same bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = ["observed", "filled", *(["interval"] if picture.widths else []), *(["source"] if picture.codes else [])]
    height, width = picture.before[0].shape
    aspect = min(4.0, max(0.3, height / width))
    cell_width = min(2.4, 3.2 / aspect)
    left, right = 0.45, 1.15
    inner = max(cell_width * len(picture.frames), 3.4)
    total_width = left + inner + right
    heading = _heading(picture, int(total_width * 13))
    legend = _legend(picture.codes)
    columns = min(len(legend), max(1, int(total_width / 2.5)))
    top, bottom = 0.75 + 0.16 * len(heading), 0.2 + 0.22 * -(-len(legend) // max(1, columns))
    body = inner / len(picture.frames) * aspect * len(rows)
    size = total_width, top + body + bottom
    settings: Any = {"font.family": "DejaVu Sans", "font.size": 9, "hatch.linewidth": 0.5, "hatch.color": "#bdbdbd"}
    # A name in a script that the font lacks is drawn as boxes; that is no reason to stop.
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, dpi=dots_per_inch, facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            len(rows),
            len(picture.frames),
            wspace=0.05,
            hspace=0.05,
            left=left / size[0],
            right=1 - right / size[0],
            top=1 - top / size[1],
            bottom=bottom / size[1],
        )
        axes = {row: [figure.add_subplot(grid[i, j]) for j in range(len(picture.frames))] for i, row in enumerate(rows)}
        name = str(infos_of(picture.cube)[picture.variable].attrs.get("long_name") or picture.variable)
        figure.text(
            0.12 / size[0], 1 - 0.1 / size[1], name[: int(total_width * 10)], va="top", fontsize=11, parse_math=False
        )
        figure.text(
            0.12 / size[0],
            1 - 0.34 / size[1],
            "\n".join(heading),
            va="top",
            fontsize=8,
            color="#505050",
            parse_math=False,
        )
        for axis, title in zip(axes["observed"], titles(picture), strict=True):
            axis.set_title(title, fontsize=9, pad=4)
        limits = limits_of([*picture.before, *picture.after])
        _images(axes["observed"], picture.before, "observed", "viridis", limits)
        drawn = _images(axes["filled"], picture.after, "filled", "viridis", limits)
        label = _bar_label(picture)
        _colour_bar(figure, drawn, axes["observed"][-1], axes["filled"][-1], label, "both")
        if picture.widths:
            # No width where observed: white, so that the eye goes to what was filled.
            limits = 0.0, width_limit(picture.widths)
            drawn = _images(axes["interval"], picture.widths, f"{picture.percent} % interval, ±", "BuPu", limits)
            _colour_bar(figure, drawn, axes["interval"][-1], axes["interval"][-1], label, "max")
        if picture.codes:
            _sources(axes["source"], picture.codes)
            figure.legend(
                handles=legend,
                loc="lower left",
                bbox_to_anchor=(0.02, 0.04 / size[1]),
                ncols=columns,
                frameon=False,
                fontsize=8,
                handlelength=1.2,
                columnspacing=1.4,
            )
        buffer = io.BytesIO()
        # Without the library's version in it, the picture is the same on every machine with the same fonts.
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _bar_label(picture: Picture) -> str:
    units = str(infos_of(picture.cube)[picture.variable].attrs.get("units", ""))
    return f"{picture.variable} ({units})"[:40] if units not in {"", "1"} else picture.variable[:40]


def limits_of(images: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the 2nd and 98th percentile of all finite values, never the same number twice."""
    values = np.concatenate([image[np.isfinite(image)] for image in images])
    if not values.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(values, (2, 98)))
    return (low, high) if high > low else (low, low + max(abs(low) * 1e-3, 1e-6))


def width_limit(widths: Sequence[NDArray[np.float64]]) -> float:
    """Return the 98th percentile of half-widths where something was filled; those of observations are zero.

    >>> width_limit([np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])])
    2.002
    """
    return limits_of([width[width > 0] for width in widths])[1]


def _gap_counts(picture: Picture, index: int) -> tuple[int, int, int]:
    """Return samples inside the domain, gaps among them before, and after."""
    before, after = picture.before[index], picture.after[index]
    inside = (
        picture.codes[index] != SOURCE_CODES["outside_domain"] if picture.codes else np.ones(before.shape, dtype=bool)
    )
    return int(inside.sum()), int((inside & ~np.isfinite(before)).sum()), int((inside & ~np.isfinite(after)).sum())


def titles(picture: Picture) -> list[str]:
    """Return the date of each frame, with the hour where days repeat, and in a second line its share of gap."""
    dates = frame_dates(picture.cube.times)
    digits = 10 if len({date[:10] for date in dates}) == len(dates) else 16
    lines = []
    for index, frame in enumerate(picture.frames):
        inside, gap, _ = _gap_counts(picture, index)
        lines.append(f"{dates[frame][:digits].replace('T', ' ')}\n{percent_text(gap / max(1, inside))} gap")
    return lines


def _heading(picture: Picture, columns: int) -> list[str]:
    """Return what the picture shows, in lines of at most so many characters."""
    counts = [_gap_counts(picture, index) for index in range(len(picture.frames))]
    inside, before, after = (int(total) for total in np.sum(counts, axis=0))
    time, height, width = picture.cube.extent
    text = (
        f"Gaps: {percent_text(before / max(1, inside))} of the samples shown before, "
        f"{percent_text(after / max(1, inside))} after. "
        f"{len(picture.frames)} of {time} frames, {height:,} × {width:,} pixels"
    )
    if not picture.view.whole:
        top, bottom, left, right = picture.view.window
        text += f", of which rows {top:,} to {bottom - 1:,} and columns {left:,} to {right - 1:,}"
    if picture.view.stride > 1:
        text += f", one in {picture.view.stride} drawn along each side"
    return textwrap.wrap(f"{text}.", columns)


def percent_text(share: float) -> str:
    """Return a share as text that says 0 or 100 only where it is.

    >>> percent_text(0.0004), percent_text(1.0), percent_text(0.9999), percent_text(0.123)
    ('<1 %', '100 %', '>99 %', '12 %')
    """
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{share:.0%}".replace("%", " %")


def _images(
    axes: Sequence[Axes],
    images: Sequence[NDArray[np.float64]],
    label: str,
    colours: str,
    limits: tuple[float, float],
) -> AxesImage:
    """Draw one row of images, and return the last for its colour bar."""
    for axis, image in zip(axes, images, strict=True):
        _empty(axis)
        drawn = axis.imshow(
            np.ma.masked_invalid(image),
            cmap=colours,
            vmin=limits[0],
            vmax=limits[1],
            interpolation="nearest",
            aspect="auto",
        )
    axes[0].set_ylabel(label, fontsize=9)
    return drawn


def _colour_bar(figure: Figure, drawn: AxesImage, upper: Axes, lower: Axes, label: str, extend: str) -> None:
    """Draw one colour bar at the right of one or two rows."""
    box, top = lower.get_position(), upper.get_position().y1
    width = 0.12 / figure.get_figwidth()
    inset = 0.04 * (top - box.y0)
    place = figure.add_axes((box.x1 + width, box.y0 + inset, width, top - box.y0 - 2 * inset))
    figure.colorbar(drawn, cax=place, extend=extend)
    place.tick_params(labelsize=8)
    place.set_ylabel(label, fontsize=8, parse_math=False)


def _sources(axes: Sequence[Axes], codes: Sequence[NDArray[np.uint8]]) -> None:
    from matplotlib.colors import BoundaryNorm, ListedColormap

    palette = ListedColormap([SOURCE_COLOURS[meaning] for meaning in SOURCE_CODES])
    norm = BoundaryNorm(np.arange(len(SOURCE_CODES) + 1) - 0.5, len(SOURCE_CODES))
    for axis, code in zip(axes, codes, strict=True):
        _empty(axis)
        axis.imshow(code, cmap=palette, norm=norm, interpolation="nearest", aspect="auto")
    axes[0].set_ylabel("source", fontsize=9)


def _legend(codes: Sequence[NDArray[np.uint8]]) -> list[Patch]:
    """Return an entry for each source code that is in the picture, with its count."""
    from matplotlib.patches import Patch

    if not codes:
        return []
    counts = np.bincount(np.concatenate([code.ravel() for code in codes]), minlength=len(SOURCE_CODES))
    return [
        Patch(
            facecolor=SOURCE_COLOURS[meaning],
            edgecolor="#808080",
            linewidth=0.5,
            label=f"{meaning.replace('_', ' ')}: {counts[number]:,} ({percent_text(counts[number] / counts.sum())})",
        )
        for meaning, number in SOURCE_CODES.items()
        if counts[number]
    ]


def _empty(axis: Axes) -> None:
    """Make what is not drawn look like a gap."""
    axis.set(xticks=[], yticks=[], facecolor=GAP_GREY)
    axis.patch.set_hatch("////")
    for spine in axis.spines.values():
        spine.set(color="#909090", linewidth=0.6)
