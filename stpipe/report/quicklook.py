"""The quicklook: one picture that shows a few frames before and after, and where each sample comes from."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import CubeReader, VariableInfo
from stpipe.core.samples import SOURCE_CODES, is_nodata, physical
from stpipe.core.windows import Triple, Window
from stpipe.errors import OptionError
from stpipe.io.frames import (
    HALF_WIDTH_SUFFIX,
    SOURCE_COLOURS,
    SOURCE_SUFFIX,
    FrameSource,
    RasterGrid,
    frame_dates,
    holds_sources,
    infos_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.patches import Patch

MOST_FRAMES = 5
"""Columns of the picture."""

LONGEST_SIDE = 400
"""Pixels along a side of each small picture, at most."""

READ_BYTES = 16 * 2**30
"""Bytes that may be decoded; a larger scene is shown in part."""

STEP_BYTES = 64 * 2**20
"""Bytes that are decoded at once."""

SAMPLE_CHUNKS = 9
"""Chunks of the scene that the choice of frames looks at."""

MOST_SURVEYED = 512
"""Frames that the choice looks at."""

GAP_GREY = "#d9d9d9"

LARGEST_PICTURE = 2 * 10**6
"""Bytes of the PNG; a noisy scene is drawn smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The part of the scene that is shown, and how coarsely."""

    window: tuple[int, int, int, int]
    """First row, row after the last, first column, column after the last, in the cube."""

    stride: int
    """Every how many pixels one is shown."""

    whole: bool
    """Whether that is the whole scene."""


def write_quicklook(
    path: str | Path,
    *,
    observed: FrameSource,
    filled: FrameSource,
    variable: str,
    frames: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Write a PNG of a few frames: observed, filled, half-width of the interval, and source.

    Memory does not grow with the scene, and neither does the time beyond some gigabytes: of a larger scene the middle
    is shown. The same cubes give the same bytes.

    Parameters
    ----------
    path : path
        Where the picture goes; it appears there when it is complete.
    observed, filled : FrameSource
        The cube before and after; rows whose variable the second lacks are left out.
    variable : str
        A variable of both.
    frames : sequence of int, optional
        Which frames; by default a few from nearly clear to all gap.

    Returns
    -------
    tuple of int
        The frames shown.

    Raises
    ------
    OptionError
        If the variable or a frame does not exist, or the two cubes differ in shape.
    """
    for cube, name in ((observed, "observed"), (filled, "filled")):
        if variable not in infos_of(cube):
            raise OptionError(
                f"the {name} cube has no variable {variable!r}; it has {', '.join(sorted(infos_of(cube)))}"
            )
    if observed.extent != filled.extent:
        raise OptionError(f"the observed cube's shape is {observed.extent}, the filled one's {filled.extent}")
    if frames is None:
        frames = choose_frames(gap_shares(observed, filled, variable))
    for frame in frames:
        if not 0 <= frame < observed.extent[0]:
            raise OptionError(f"there is no frame {frame}; the cube has {observed.extent[0]}, from 0")
    if not frames:
        raise OptionError("a quicklook needs at least one frame")
    picture = _draw(observed, filled, variable, tuple(frames))
    _write_atomically(Path(path), picture)
    return tuple(frames)


def choose_frames(gap_share: NDArray[np.float64], most: int = MOST_FRAMES) -> tuple[int, ...]:
    """Return a few frames, in order of time, from nearly clear to all gap.

    Parameters
    ----------
    gap_share : (time,) ndarray of float64
        Share of gap in each frame; NaN where unknown.

    Examples
    --------
    >>> choose_frames(np.array([0.0, 0.12, 1.0, 0.5, 0.9, 0.3, 0.0]))
    (1, 2, 3, 4, 5)
    """
    known = np.flatnonzero(np.isfinite(gap_share))
    if len(known) <= most:
        return tuple(int(frame) for frame in known) or (0,)
    chosen: list[int] = []
    for target in (0.1, 0.5, 0.9, 1.0, 0.3, 0.7)[:most]:
        rest = np.array([frame for frame in known if frame not in chosen])
        # The first of the nearest: np.argmin breaks ties that way.
        chosen.append(int(rest[np.argmin(np.abs(gap_share[rest] - target))]))
    return tuple(sorted(chosen))


def gap_shares(observed: FrameSource, filled: FrameSource, variable: str) -> NDArray[np.float64]:
    """Return the share of gap in each frame, from a few chunks spread over the scene; NaN for frames not looked at."""
    source = f"{variable}{SOURCE_SUFFIX}"
    cube, name = (filled, source) if _has_sources(filled, variable) else (observed, variable)
    info, (time, height, width) = infos_of(cube)[name], cube.extent
    reader = cube.reader([name])
    t_chunk, y_chunk, x_chunk = _chunk(info, cube.extent)
    gap, domain = np.zeros(time), np.zeros(time)
    side = max(8, int((STEP_BYTES / (8 * t_chunk)) ** 0.5))
    corners = [
        (y * y_chunk, x * x_chunk)
        for y in _spread(-(-height // y_chunk), 3)
        for x in _spread(-(-width // x_chunk), SAMPLE_CHUNKS // 3)
    ]
    for group in _spread(-(-time // t_chunk), max(1, MOST_SURVEYED // t_chunk)):
        start, stop = group * t_chunk, min(time, (group + 1) * t_chunk)
        for y, x in corners:
            end = min(height, y + min(side, y_chunk)), min(width, x + min(side, x_chunk))
            missing, inside = _gaps(reader.read(name, Window((start, y, x), (stop, *end))), info, name == source)
            gap[start:stop] += missing.sum(axis=(1, 2))
            domain[start:stop] += inside.sum(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        shares: NDArray[np.float64] = gap / np.where(domain == 0, np.nan, domain)
    return shares


def _has_sources(filled: FrameSource, variable: str) -> bool:
    info = infos_of(filled).get(f"{variable}{SOURCE_SUFFIX}")
    return info is not None and holds_sources(info)


def _gaps(stored: NDArray[Any], info: VariableInfo, is_source: bool) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if is_source:
        inside = stored != SOURCE_CODES["outside_domain"]
        return inside & (stored != SOURCE_CODES["observed"]), inside
    return is_nodata(stored, info), np.ones(stored.shape, dtype=bool)


def _chunk(info: VariableInfo, extent: Triple) -> Triple:
    t, y, x = (min(pair) for pair in zip(info.chunks, extent, strict=True))
    return t, y, x


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, evenly apart and in the middle of equal parts."""
    parts = min(count, most)
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


def plan_view(extent: Triple, infos: Sequence[VariableInfo], frames: Sequence[int]) -> View:
    """Return the part of the scene that can be read in reasonable time, in the middle, and its stride."""
    _, height, width = extent
    cost = 0.0  # bytes decoded for a pixel of the scene
    for info in infos:
        t_chunk = min(info.chunks[0], extent[0])
        cost += len(frames) * t_chunk * np.dtype(info.dtype).itemsize
    share = min(1.0, (READ_BYTES / (cost * height * width)) ** 0.5)
    rows, columns = max(1, int(height * share)), max(1, int(width * share))
    top, left = (height - rows) // 2, (width - columns) // 2
    stride = max(1, -(-max(rows, columns) // LONGEST_SIDE))
    return View(window=(top, top + rows, left, left + columns), stride=stride, whole=share == 1.0)


def read_view(cube: FrameSource, name: str, frame: int, view: View, reader: CubeReader) -> NDArray[Any]:
    """Return the stored samples of a view, north up, reading bands of whole chunks that fit `STEP_BYTES`."""
    info = infos_of(cube)[name]
    t_chunk, y_chunk, x_chunk = _chunk(info, cube.extent)
    top, bottom, left, right = view.window
    item = np.dtype(info.dtype).itemsize
    rows = max(1, STEP_BYTES // (t_chunk * (right - left + 2 * x_chunk) * item * y_chunk)) * y_chunk
    parts = []
    start = top
    while start < bottom:
        stop = min(bottom, (start // rows + 1) * rows)
        first = start + (top - start) % view.stride
        if first < stop:
            values = reader.read(name, Window((frame, first, left), (frame + 1, stop, right)))
            parts.append(values[0, :: view.stride, :: view.stride].copy())
        start = stop
    shown: NDArray[Any] = RasterGrid.of(cube).turn(np.concatenate(parts)[None])[0]
    return shown


def _draw(observed: FrameSource, filled: FrameSource, variable: str, frames: tuple[int, ...]) -> bytes:
    source, half_width = f"{variable}{SOURCE_SUFFIX}", f"{variable}{HALF_WIDTH_SUFFIX}"
    names = [variable]
    names += [half_width] if half_width in infos_of(filled) else []
    names += [source] if _has_sources(filled, variable) else []
    infos = [infos_of(observed)[variable], *(infos_of(filled)[name] for name in names)]
    view = plan_view(observed.extent, infos, frames)
    old, new = observed.reader([variable]), filled.reader(names)
    before = [_values(observed, variable, frame, view, old) for frame in frames]
    after = [_values(filled, variable, frame, view, new) for frame in frames]
    widths = [_values(filled, half_width, frame, view, new) for frame in frames] if half_width in names else []
    codes = [read_view(filled, source, frame, view, new) for frame in frames] if source in names else []
    if codes:
        # What was not trusted is a gap, though the file holds a number there.
        trusted = (code == SOURCE_CODES["observed"] for code in codes)
        before = [np.where(mask, image, np.nan) for mask, image in zip(trusted, before, strict=True)]
    picture = _Picture(
        frames=frames,
        view=view,
        cube=observed,
        variable=variable,
        before=before,
        after=after,
        widths=widths,
        codes=codes,
    )
    for dots_per_inch in (100, 80, 60, 45):
        png = _render(picture, dots_per_inch)
        if len(png) <= LARGEST_PICTURE:
            break
    return png


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """All that is drawn."""

    frames: tuple[int, ...]
    view: View
    cube: FrameSource
    variable: str
    before: list[NDArray[np.float64]]
    after: list[NDArray[np.float64]]
    widths: list[NDArray[np.float64]]
    codes: list[NDArray[np.uint8]]


def _render(picture: _Picture, dots_per_inch: int) -> bytes:
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
        for axis, title in zip(axes["observed"], _titles(picture), strict=True):
            axis.set_title(title, fontsize=9, pad=4)
        limits = _limits([*picture.before, *picture.after])
        _images(axes["observed"], picture.before, "observed", "viridis", limits)
        drawn = _images(axes["filled"], picture.after, "filled", "viridis", limits)
        label = _bar_label(picture)
        _colour_bar(figure, drawn, axes["observed"][-1], axes["filled"][-1], label, "both")
        if picture.widths:
            # No width where observed: white, so that the eye goes to what was filled.
            limits = 0.0, _limits(picture.widths)[1]
            drawn = _images(axes["interval"], picture.widths, "90 % interval, ±", "BuPu", limits)
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


def _bar_label(picture: _Picture) -> str:
    units = str(infos_of(picture.cube)[picture.variable].attrs.get("units", ""))
    return f"{picture.variable} ({units})"[:40] if units not in {"", "1"} else picture.variable[:40]


def _values(cube: FrameSource, name: str, frame: int, view: View, reader: CubeReader) -> NDArray[np.float64]:
    return physical(read_view(cube, name, frame, view, reader), infos_of(cube)[name])


def _limits(images: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the 2nd and 98th percentile of all finite values, never the same number twice."""
    values = np.concatenate([image[np.isfinite(image)] for image in images])
    if not values.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(values, (2, 98)))
    return (low, high) if high > low else (low, low + max(abs(low) * 1e-3, 1e-6))


def _gap_counts(picture: _Picture, index: int) -> tuple[int, int, int]:
    """Return samples inside the domain, gaps among them before, and after."""
    before, after = picture.before[index], picture.after[index]
    inside = (
        picture.codes[index] != SOURCE_CODES["outside_domain"] if picture.codes else np.ones(before.shape, dtype=bool)
    )
    return int(inside.sum()), int((inside & ~np.isfinite(before)).sum()), int((inside & ~np.isfinite(after)).sum())


def _titles(picture: _Picture) -> list[str]:
    """Return the date of each frame, with the hour where days repeat, and its share of gap."""
    dates = frame_dates(picture.cube.times)
    digits = 10 if len({date[:10] for date in dates}) == len(dates) else 16
    titles = []
    for index, frame in enumerate(picture.frames):
        inside, gap, _ = _gap_counts(picture, index)
        titles.append(f"{dates[frame][:digits].replace('T', ' ')}\n{_percent(gap / max(1, inside))} gap")
    return titles


def _heading(picture: _Picture, columns: int) -> list[str]:
    """Return what the picture shows, in lines of at most so many characters."""
    counts = [_gap_counts(picture, index) for index in range(len(picture.frames))]
    inside, before, after = (int(total) for total in np.sum(counts, axis=0))
    time, height, width = picture.cube.extent
    text = (
        f"Gaps: {_percent(before / max(1, inside))} of the samples shown before, "
        f"{_percent(after / max(1, inside))} after. "
        f"{len(picture.frames)} of {time} frames, {height:,} × {width:,} pixels"
    )
    if not picture.view.whole:
        top, bottom, left, right = picture.view.window
        text += f", of which rows {top:,} to {bottom - 1:,} and columns {left:,} to {right - 1:,}"
    if picture.view.stride > 1:
        text += f", one in {picture.view.stride} drawn along each side"
    return textwrap.wrap(f"{text}.", columns)


def _percent(share: float) -> str:
    """Return a share as text that says 0 or 100 only where it is.

    >>> _percent(0.0004), _percent(1.0), _percent(0.9999), _percent(0.123)
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
            label=f"{meaning.replace('_', ' ')}: {counts[number]:,} ({_percent(counts[number] / counts.sum())})",
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


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".partial-{uuid4().hex[:8]}-{path.name}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
