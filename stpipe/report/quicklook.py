"""The quicklook: one picture that shows a few frames before and after, and where each sample comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import CubeReader, VariableInfo
from stpipe.core.samples import SOURCE_CODES, is_nodata, physical
from stpipe.core.windows import Triple, Window
from stpipe.errors import OptionError
from stpipe.execution.storage import located, write_whole
from stpipe.io.frames import (
    SOURCE_SUFFIX,
    USUAL_PERCENT,
    FrameSource,
    RasterGrid,
    half_width_name,
    holds_sources,
    infos_of,
    percent_of,
)
from stpipe.report.drawing import Picture, View, render
from stpipe.report.sampling import spread

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

_HELD = tuple(SOURCE_CODES[source] for source in ("observed", "filled", "filled_by_fallback"))

LARGEST_PICTURE = 2 * 10**6
"""Bytes of the PNG; a noisy scene is drawn smaller."""


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
    write_whole(located(path), _drawn(picture := look(observed, filled, variable, frames)))
    return picture.frames


def look(
    observed: FrameSource,
    filled: FrameSource,
    variable: str,
    frames: Sequence[int] | None = None,
    *,
    read_bytes: int | None = None,
) -> Picture:
    """Read what a picture of a few frames needs; see `write_quicklook`.

    Parameters
    ----------
    observed, filled : FrameSource
        The cube before and after; the filled one for both where it holds the codes of its sources.
    variable : str
        A variable of both.
    frames : sequence of int, optional
        Which frames; by default a few from nearly clear to all gap.
    read_bytes : int, optional
        Bytes that may be decoded; of a larger scene the middle is shown.

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
    return _look(observed, filled, variable, tuple(frames), read_bytes)


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
        for y in spread(-(-height // y_chunk), 3)
        for x in spread(-(-width // x_chunk), SAMPLE_CHUNKS // 3)
    ]
    for group in spread(-(-time // t_chunk), max(1, MOST_SURVEYED // t_chunk)):
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


def plan_view(
    extent: Triple, infos: Sequence[VariableInfo], frames: Sequence[int], read_bytes: int | None = None
) -> View:
    """Return the part of the scene that can be read in reasonable time, in the middle, and its stride."""
    _, height, width = extent
    cost = 0.0  # bytes decoded for a pixel of the scene
    for info in infos:
        t_chunk = min(info.chunks[0], extent[0])
        cost += len(frames) * t_chunk * np.dtype(info.dtype).itemsize
    share = min(1.0, ((READ_BYTES if read_bytes is None else read_bytes) / (cost * height * width)) ** 0.5)
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


def _look(
    observed: FrameSource, filled: FrameSource, variable: str, frames: tuple[int, ...], read_bytes: int | None
) -> Picture:
    source, percent = f"{variable}{SOURCE_SUFFIX}", percent_of(variable, infos_of(filled))
    half_width = half_width_name(variable, percent or USUAL_PERCENT)
    names = [variable]
    names += [half_width] if percent is not None else []
    names += [source] if _has_sources(filled, variable) else []
    infos = [infos_of(observed)[variable], *(infos_of(filled)[name] for name in names)]
    view = plan_view(observed.extent, infos, frames, read_bytes)
    old, new = observed.reader([variable]), filled.reader(names)
    before = [_values(observed, variable, frame, view, old) for frame in frames]
    after = [_values(filled, variable, frame, view, new) for frame in frames]
    widths = [_values(filled, half_width, frame, view, new) for frame in frames] if half_width in names else []
    codes = [read_view(filled, source, frame, view, new) for frame in frames] if source in names else []
    if codes:
        # What was not trusted is a gap, though the file holds a number there.
        trusted = (code == SOURCE_CODES["observed"] for code in codes)
        before = [np.where(mask, image, np.nan) for mask, image in zip(trusted, before, strict=True)]
        # So is what is unfilled, where nodata has no number.
        after = [np.where(np.isin(code, _HELD), image, np.nan) for code, image in zip(codes, after, strict=True)]
    return Picture(
        frames=frames,
        view=view,
        cube=observed,
        variable=variable,
        before=before,
        after=after,
        widths=widths,
        percent=percent or USUAL_PERCENT,
        codes=codes,
    )


def _drawn(picture: Picture) -> bytes:
    for dots_per_inch in (100, 80, 60, 45):
        png = render(picture, dots_per_inch)
        if len(png) <= LARGEST_PICTURE:
            break
    return png


def _values(cube: FrameSource, name: str, frame: int, view: View, reader: CubeReader) -> NDArray[np.float64]:
    return physical(read_view(cube, name, frame, view, reader), infos_of(cube)[name])
