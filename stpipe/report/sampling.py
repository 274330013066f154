"""What the report's numbers and curves rest on: all of a small cube, parts of a large one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import CubeReader, VariableInfo
from stpipe.core.samples import SOURCE_CODES, physical
from stpipe.core.windows import Triple, Window, triple
from stpipe.io.frames import SOURCE_SUFFIX, USUAL_PERCENT, FrameSource, half_width_name, infos_of, percent_of

LOOK_BYTES = 4 * 2**30
"""Bytes of one variable, and of what comes with it, that may be decoded."""

STEP_BYTES = 32 * 2**20
"""Bytes that are decoded at once, where chunks are no larger."""

KEPT_SAMPLES = 10**6
"""Samples that percentiles rest on, about."""

TRIED_PIXELS = 2**14
"""Pixels among which those with a curve are chosen, about."""

CURVES = (0.25, 0.5, 0.75)
"""Pixels with a curve: more of the others have fewer observations than so many."""

WITHIN = (0.05, 0.5, 0.95)
"""Which percentiles are told."""

_FILLED = (SOURCE_CODES["filled"], SOURCE_CODES["filled_by_fallback"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Which samples are looked at: some frames of some tiles."""

    frames: tuple[int, ...]
    """Indices, in order."""

    tiles: tuple[tuple[slice, slice], ...]
    """Rows and columns."""

    share: float
    """Of all samples of the cube."""

    @property
    def whole(self) -> bool:
        """Whether that is all there is."""
        return self.share == 1


def plan_parts(extent: Triple, chunks: Triple, item_bytes: int, look_bytes: int = LOOK_BYTES) -> Parts:
    """Return the parts of a cube that can be decoded in reasonable time: whole chunks, spread evenly, all dates first.

    Parameters
    ----------
    extent : tuple of int
        Shape of the cube.
    chunks : tuple of int
        Shape of its chunks.
    item_bytes : int
        Bytes of a sample, of all that is looked at together.
    look_bytes : int
        What may be decoded; one chunk is, in any case.

    Examples
    --------
    >>> plan_parts((30, 400, 400), (10, 100, 100), 7).whole
    True
    >>> parts = plan_parts((30, 4000, 4000), (10, 100, 100), 7, look_bytes=9 * 30 * 100 * 100 * 7)
    >>> len(parts.frames), [tile[0].start for tile in parts.tiles]
    (30, [600, 600, 600, 2000, 2000, 2000, 3300, 3300, 3300])
    """
    step = triple(min(pair) for pair in zip(chunks, extent, strict=True))
    counts = triple(-(-n // size) for n, size in zip(extent, step, strict=True))
    chunk_bytes = step[0] * step[1] * step[2] * item_bytes
    affordable = max(1, look_bytes // chunk_bytes)
    groups = min(counts[0], affordable)
    columns = max(1, affordable // groups)
    rows = min(counts[1], max(1, int((columns * counts[1] / counts[2]) ** 0.5)))
    across = min(counts[2], max(1, columns // rows))
    rows = min(counts[1], max(1, columns // across))
    frames = [
        frame
        for group in _spread(counts[0], groups)
        for frame in range(group * step[0], min(extent[0], (group + 1) * step[0]))
    ]
    tiles = tuple(
        (_part(y, step[1], extent[1]), _part(x, step[2], extent[2]))
        for y in _spread(counts[1], rows)
        for x in _spread(counts[2], across)
    )
    looked = len(frames) * sum((y.stop - y.start) * (x.stop - x.start) for y, x in tiles)
    return Parts(frames=tuple(frames), tiles=tiles, share=looked / (extent[0] * extent[1] * extent[2]))


def _part(number: int, size: int, length: int) -> slice:
    return slice(number * size, min(length, (number + 1) * size))


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, in the middle of equal parts."""
    parts = min(count, most)
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One pixel through time."""

    y: int
    """Row in the cube."""

    x: int
    """Column in the cube."""

    values: NDArray[np.float64]
    """(n,), physical; NaN where nothing was filled, or nothing can be."""

    half_widths: NDArray[np.float64]
    """(n,), physical; 0 where observed."""

    codes: NDArray[np.uint8]
    """(n,), where each value comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found in the parts of a variable."""

    parts: Parts
    """What was looked at."""

    counts: NDArray[np.int64]
    """(n, 5), samples of each source code in each frame of the parts."""

    observed: tuple[float, float, float] | None
    """5th, 50th and 95th percentile of observed values, physical; None without any."""

    filled: tuple[float, float, float] | None
    """The same of filled ones."""

    half_widths: tuple[float, float, float] | None
    """The same of the half-widths of intervals around them."""

    curves: tuple[Curve, ...]
    """A few pixels, from rarely to often observed."""


def sample(filled: FrameSource, variable: str, *, look_bytes: int = LOOK_BYTES) -> Findings:
    """Look at parts of a filled variable.

    Parameters
    ----------
    filled : FrameSource
        A filled cube.
    variable : str
        A variable with source codes.
    look_bytes : int
        Bytes that may be decoded.

    Returns
    -------
    Findings
        The same for the same cube.
    """
    infos = infos_of(filled)
    source = variable + SOURCE_SUFFIX
    width = half_width_name(variable, percent_of(variable, infos) or USUAL_PERCENT)
    names = [name for name in (variable, width, source) if name in infos]
    item_bytes = sum(np.dtype(infos[name].dtype).itemsize for name in names)
    # Half of it for the curves, which go through the same chunks again.
    parts = plan_parts(filled.extent, infos[source].chunks, item_bytes, look_bytes // 2)
    reader = filled.reader(names)
    counts = np.zeros((len(parts.frames), len(SOURCE_CODES)), dtype=np.int64)
    every = max(1, int(parts.share * np.prod(filled.extent, dtype=float)) // KEPT_SAMPLES)
    stride = max(1, round((sum(_pixels(tile) for tile in parts.tiles) / TRIED_PIXELS) ** 0.5))
    kept: dict[str, list[NDArray[np.float64]]] = {"observed": [], "filled": [], "half_widths": []}
    tried = []
    for tile in parts.tiles:
        seen = np.zeros((2, *(len(range(side.start, side.stop, stride)) for side in tile)), dtype=np.int32)
        for first, window in _windows(parts.frames, tile, infos[source], filled.extent, item_bytes):
            codes = reader.read(source, window)
            for code in SOURCE_CODES.values():
                counts[first : first + len(codes), code] += (codes == code).sum(axis=(1, 2))
            coarse = codes[:, ::stride, ::stride]
            seen[0] += (coarse == SOURCE_CODES["observed"]).sum(axis=0)
            seen[1] += (coarse != SOURCE_CODES["outside_domain"]).sum(axis=0)
            values = _physical(reader, infos[variable], window)
            gap = np.isin(codes, _FILLED)
            kept["observed"].append(values[codes == SOURCE_CODES["observed"]][::every].copy())
            kept["filled"].append(values[gap][::every].copy())
            if width in infos:
                kept["half_widths"].append(_physical(reader, infos[width], window)[gap][::every].copy())
        tried.append((tile, seen))
    pixels = _pixels_to_show(tried, stride)
    percentiles = {name: _percentiles(found) for name, found in kept.items()}
    return Findings(
        parts=parts,
        counts=counts,
        observed=percentiles["observed"],
        filled=percentiles["filled"],
        half_widths=percentiles["half_widths"],
        curves=tuple(_curve(reader, infos, (variable, width, source), parts.frames, pixel) for pixel in pixels),
    )


def _pixels(tile: tuple[slice, slice]) -> int:
    return int(np.prod([side.stop - side.start for side in tile]))


def _windows(
    frames: tuple[int, ...], tile: tuple[slice, slice], info: VariableInfo, extent: Triple, item_bytes: int
) -> Iterator[tuple[int, Window]]:
    """Yield the number of the first frame and the window of runs of frames that are read at once."""
    step = triple(min(pair) for pair in zip(info.chunks, extent, strict=True))
    longest = max(1, STEP_BYTES // (step[0] * step[1] * step[2] * item_bytes)) * step[0]
    for first, stop in _runs(frames, longest):
        begin, end = frames[first], frames[stop - 1] + 1
        yield first, Window((begin, tile[0].start, tile[1].start), (end, tile[0].stop, tile[1].stop))


def _runs(frames: tuple[int, ...], longest: int) -> Iterator[tuple[int, int]]:
    """Cut numbers into runs without a hole, none longer than `longest`.

    >>> list(_runs((0, 1, 2, 3, 8, 9), 3))
    [(0, 3), (3, 4), (4, 6)]
    """
    first = 0
    for at in range(1, len(frames) + 1):
        if at == len(frames) or frames[at] != frames[at - 1] + 1 or at - first == longest:
            yield first, at
            first = at


def _physical(reader: CubeReader, info: VariableInfo, window: Window) -> NDArray[np.float64]:
    return physical(reader.read(info.name, window), info)


def _percentiles(found: list[NDArray[np.float64]]) -> tuple[float, float, float] | None:
    values = np.concatenate([np.empty(0), *found])
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    low, middle, high = np.quantile(values, WITHIN)
    return float(low), float(middle), float(high)


def _pixels_to_show(
    tried: list[tuple[tuple[slice, slice], NDArray[np.int32]]], stride: int
) -> tuple[tuple[int, int], ...]:
    """Return pixels inside the domain with few, some and many observations; of those with equally many the first."""
    rows = []
    for (y, x), (observed, inside) in tried:
        at = np.argwhere(inside > 0)
        place = at * stride + (y.start, x.start)
        rows.append(np.column_stack([observed[inside > 0], place]))
    known = np.concatenate([np.empty((0, 3), dtype=np.intp), *rows])
    if not len(known):
        return ()
    known = known[np.argsort(known[:, 0], kind="stable")]
    chosen = [known[min(len(known) - 1, int(share * len(known)))] for share in CURVES]
    return tuple(dict.fromkeys((int(y), int(x)) for _, y, x in chosen))


def _curve(
    reader: CubeReader,
    infos: dict[str, VariableInfo],
    names: tuple[str, str, str],
    frames: tuple[int, ...],
    pixel: tuple[int, int],
) -> Curve:
    variable, width, source = names
    y, x = pixel
    values, widths, codes = [], [], []
    for first, stop in _runs(frames, len(frames)):
        window = Window((frames[first], y, x), (frames[stop - 1] + 1, y + 1, x + 1))
        values.append(_physical(reader, infos[variable], window)[:, 0, 0])
        codes.append(reader.read(source, window)[:, 0, 0])
        given = width in infos
        widths.append(_physical(reader, infos[width], window)[:, 0, 0] if given else np.zeros(stop - first))
    known = np.isin(np.concatenate(codes), (SOURCE_CODES["observed"], *_FILLED))  # others may hold any number
    return Curve(
        y=y,
        x=x,
        values=np.where(known, np.concatenate(values), np.nan),
        half_widths=np.concatenate(widths),
        codes=np.concatenate(codes),
    )
