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

LOOK_BYTES = 6 * 2**30
"""Bytes of one variable, and of what comes with it, that may be decoded."""

CODE_SHARE = 1 / 3
"""Of them, for source codes alone: these are small, so that more of the scene is counted than averaged."""

STEP_BYTES = 32 * 2**20
"""Bytes that are decoded at once, where chunks are no larger."""

LEAST_BYTES = 2**18
"""A chunk costs no less than as many: it has to be found."""

TILE_SIDE = 256
"""Pixels along a side of a part, at least, whatever the chunks."""

KEPT_SAMPLES = 10**6
"""Samples that percentiles rest on, about."""

TRIED_PIXELS = 2**14
"""Pixels among which those with a curve are chosen, about."""

TRIED_SAMPLES = 2**21
"""All samples of these, about; fewer are tried where dates are many."""

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
        What may be decoded, as `LEAST_BYTES` a chunk where these are smaller; one chunk is, in any case.

    Examples
    --------
    >>> plan_parts((30, 400, 400), (10, 100, 100), 7).whole
    True
    >>> parts = plan_parts((30, 9000, 9000), (10, 300, 300), 7, look_bytes=9 * 30 * 300 * 300 * 7)
    >>> len(parts.frames), [tile[0].start for tile in parts.tiles]
    (30, [1500, 1500, 1500, 4500, 4500, 4500, 7500, 7500, 7500])
    """
    chunk = triple(min(pair) for pair in zip(chunks, extent, strict=True))
    chunk_bytes = max(chunk[0] * chunk[1] * chunk[2] * item_bytes, LEAST_BYTES)
    most = max(1, look_bytes // chunk_bytes)  # chunks
    across = min(most, max(1, round(TILE_SIDE / chunk[2])), -(-extent[2] // chunk[2]))  # of a tile
    down = min(most // across, max(1, round(TILE_SIDE / chunk[1])), -(-extent[1] // chunk[1]))
    step = triple((chunk[0], min(down * chunk[1], extent[1]), min(across * chunk[2], extent[2])))
    counts = triple(-(-n // size) for n, size in zip(extent, step, strict=True))
    affordable = max(1, most // (down * across))
    groups = min(counts[0], affordable)
    columns = max(1, affordable // groups)
    rows = min(counts[1], max(1, int((columns * counts[1] / counts[2]) ** 0.5)))
    across = min(counts[2], max(1, columns // rows))
    rows = min(counts[1], max(1, columns // across))
    frames = [
        frame
        for group in spread(counts[0], groups)
        for frame in range(group * step[0], min(extent[0], (group + 1) * step[0]))
    ]
    tiles = tuple(
        (_part(y, step[1], extent[1]), _part(x, step[2], extent[2]))
        for y in spread(counts[1], rows)
        for x in spread(counts[2], across)
    )
    looked = len(frames) * sum((y.stop - y.start) * (x.stop - x.start) for y, x in tiles)
    return Parts(frames=tuple(frames), tiles=tiles, share=looked / (extent[0] * extent[1] * extent[2]))


def _part(number: int, size: int, length: int) -> slice:
    return slice(number * size, min(length, (number + 1) * size))


def spread(count: int, most: int) -> list[int]:
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

    counted: Parts
    """What the counts rest on."""

    counts: NDArray[np.int64]
    """(n, 5), samples of each source code in each frame counted."""

    looked: Parts
    """What percentiles and curves rest on."""

    thinned: bool
    """Whether percentiles rest on about `KEPT_SAMPLES` of these, for there are more."""

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
    names = tuple(name for name in (variable, width, source) if name in infos)
    reader = filled.reader(names)
    for_codes = int(look_bytes * CODE_SHARE)
    counted = plan_parts(filled.extent, infos[source].chunks, 1, for_codes)
    item_bytes = sum(np.dtype(infos[name].dtype).itemsize for name in names)
    looked = plan_parts(filled.extent, infos[source].chunks, item_bytes, look_bytes - for_codes)
    values = _Values(looked)
    for first, tile, window in _windows(looked, infos[source].chunks, filled.extent, item_bytes):
        codes = reader.read(source, window)
        found = _physical(reader, infos[variable], window)
        widths = _physical(reader, infos[width], window) if width in infos else np.full(codes.shape, np.nan)
        values.add(first, tile, window, codes, found, widths)
    return Findings(
        counted=counted,
        counts=_counts(reader, infos[source], counted, filled.extent),
        looked=looked,
        thinned=any(kept.every > 1 for kept in (values.observed, values.filled, values.half_widths)),
        observed=values.observed.percentiles(),
        filled=values.filled.percentiles(),
        half_widths=values.half_widths.percentiles(),
        curves=values.curves(),
    )


def _counts(reader: CubeReader, source: VariableInfo, parts: Parts, extent: Triple) -> NDArray[np.int64]:
    """Return the samples of each source code in each frame of some parts."""
    counts = np.zeros((len(parts.frames), len(SOURCE_CODES)), dtype=np.int64)
    for first, _, window in _windows(parts, source.chunks, extent, 1):
        codes = reader.read(source.name, window)
        for code in SOURCE_CODES.values():
            counts[first : first + len(codes), code] += (codes == code).sum(axis=(1, 2))
    return counts


class _Thinned:
    """Samples that come in pieces, evenly thinned once they are too many.

    One in three is kept, and again: where a row has 256 samples, or 1000, one in a power of two would be a few columns.
    """

    def __init__(self) -> None:
        self.every = 1
        self._seen = 0
        self._kept: list[NDArray[np.float64]] = []
        self._count = 0

    def add(self, values: NDArray[np.float64]) -> None:
        taken = values[-self._seen % self.every :: self.every].copy()  # a view would keep all of them
        self._seen += len(values)
        self._kept.append(taken)
        self._count += len(taken)
        while self._count > 3 * KEPT_SAMPLES:
            thinner = np.concatenate(self._kept)[::3].copy()
            self._kept, self._count, self.every = [thinner], len(thinner), 3 * self.every

    def percentiles(self) -> tuple[float, float, float] | None:
        values = np.concatenate([np.empty(0), *self._kept])
        values = values[np.isfinite(values)]
        if not values.size:
            return None
        low, middle, high = np.quantile(values, WITHIN)
        return float(low), float(middle), float(high)


class _Values:
    """What is kept of the values of some parts, window by window: few samples of many, and all dates of few pixels."""

    def __init__(self, parts: Parts) -> None:
        pixels = sum(_pixels(tile) for tile in parts.tiles)
        most = max(len(CURVES), min(TRIED_PIXELS, TRIED_SAMPLES // len(parts.frames)))
        self._stride = max(1, round((pixels / most) ** 0.5))
        self.observed, self.filled, self.half_widths = _Thinned(), _Thinned(), _Thinned()
        self._tried = [_Tried(len(parts.frames), tile, self._stride) for tile in parts.tiles]

    def add(
        self,
        first: int,
        tile: int,
        window: Window,
        codes: NDArray[np.uint8],
        values: NDArray[np.float64],
        half_widths: NDArray[np.float64],
    ) -> None:
        """Take a window, of which frame (the first) and which tile it is among those of the parts."""
        gap = np.isin(codes, _FILLED)
        self.observed.add(values[codes == SOURCE_CODES["observed"]])
        self.filled.add(values[gap])
        self.half_widths.add(half_widths[gap])
        self._tried[tile].add(first, window, codes, values, half_widths)

    def curves(self) -> tuple[Curve, ...]:
        """Return pixels inside the domain with few, some and many observations; of equals the first."""
        rows = [tried.observed(number) for number, tried in enumerate(self._tried)]
        known = np.concatenate([np.empty((0, 4), dtype=np.intp), *rows])
        if not len(known):
            return ()
        known = known[np.argsort(known[:, 0], kind="stable")]
        chosen = [known[min(len(known) - 1, int(share * len(known)))] for share in CURVES]
        pixels = dict.fromkeys((int(number), int(y), int(x)) for _, number, y, x in chosen)
        return tuple(self._tried[number].curve(y, x) for number, y, x in pixels)


class _Tried:
    """Pixels of a tile, one in `stride` along each side, through all dates."""

    def __init__(self, frames: int, tile: tuple[slice, slice], stride: int) -> None:
        self._tile, self._stride = tile, stride
        shape = (frames, *(len(range(side.start, side.stop, stride)) for side in tile))
        self.codes = np.zeros(shape, dtype=np.uint8)
        self.values, self.half_widths = np.zeros(shape), np.zeros(shape)

    def add(
        self,
        first: int,
        window: Window,
        codes: NDArray[np.uint8],
        values: NDArray[np.float64],
        half_widths: NDArray[np.float64],
    ) -> None:
        """Take what of a window is tried."""
        into, taken = [slice(first, first + len(codes))], [slice(None)]
        for side, start, length in zip(self._tile, window.start[1:], codes.shape[1:], strict=True):
            skipped = -(start - side.start) % self._stride
            number = (start - side.start + skipped) // self._stride
            taken.append(slice(skipped, None, self._stride))
            into.append(slice(number, number + len(range(skipped, length, self._stride))))
        for kept, new in ((self.codes, codes), (self.values, values), (self.half_widths, half_widths)):
            kept[tuple(into)] = new[tuple(taken)]

    def observed(self, number: int) -> NDArray[np.intp]:
        """Return how often each pixel inside the domain was observed, with `number`, its row and column here."""
        often = (self.codes == SOURCE_CODES["observed"]).sum(axis=0)
        inside = (self.codes != SOURCE_CODES["outside_domain"]).any(axis=0)
        at = np.argwhere(inside)
        return np.column_stack([often[inside], np.full(len(at), number), at])

    def curve(self, row: int, column: int) -> Curve:
        codes = self.codes[:, row, column]
        known = np.isin(codes, (SOURCE_CODES["observed"], *_FILLED))  # others may hold any number
        values, half_widths = self.values[:, row, column], self.half_widths[:, row, column]
        return Curve(
            y=self._tile[0].start + row * self._stride,
            x=self._tile[1].start + column * self._stride,
            values=np.where(known, values, np.nan),
            half_widths=np.where(known & np.isfinite(half_widths), half_widths, 0.0),
            codes=codes,
        )


def _pixels(tile: tuple[slice, slice]) -> int:
    return int(np.prod([side.stop - side.start for side in tile]))


def _windows(parts: Parts, chunks: Triple, extent: Triple, item_bytes: int) -> Iterator[tuple[int, int, Window]]:
    """Yield what is read at once: its first frame's number among those of the parts, its tile's, and the window.

    Whole chunks, as many as `STEP_BYTES` hold, and one in any case.
    """
    t, height, width = (min(pair) for pair in zip(chunks, extent, strict=True))
    most = max(1, STEP_BYTES // (t * height * width * item_bytes))
    for number, (y, x) in enumerate(parts.tiles):
        across = min(most, -(-(x.stop - x.start) // width))
        down = min(most // across, -(-(y.stop - y.start) // height))
        runs = list(_runs(parts.frames, most // (across * down) * t))
        for top in range(y.start, y.stop, down * height):
            for left in range(x.start, x.stop, across * width):
                bottom, right = min(y.stop, top + down * height), min(x.stop, left + across * width)
                for first, stop in runs:
                    begin, end = parts.frames[first], parts.frames[stop - 1] + 1
                    yield first, number, Window((begin, top, left), (end, bottom, right))


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
