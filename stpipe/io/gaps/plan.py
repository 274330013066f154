"""How a cube is walked for its gap statistics: whole columns of time, a footprint at a time.

A footprint is a square of a few tiles of the GeoTIFF. It is worked out a column at a time: some of its pixels with all
their dates, a byte a sample, few enough to be in the processor's cache still when they have been read. Where the
cube's chunks fit into footprints, columns are chunks of it, or a few small ones. Where they don't, as with chunks that
are whole planes, the cube is first read once, chunk by chunk, into a file of bits; columns come from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, lcm, prod

import numpy as np

from stpipe.core.gap_statistics import BLOCK_SAMPLES, GapCalendar, GapOptions
from stpipe.core.ports import VariableInfo
from stpipe.core.sizes import MIB, gib
from stpipe.core.windows import Triple, Window, triple
from stpipe.errors import PlanError
from stpipe.io.bit_store import BitStore
from stpipe.io.frames import RasterGrid

PROCESS_BYTES = 150 * MIB
"""Memory of a worker that has loaded all it needs; measured on the smallest cubes."""

WORK_BYTES = 10 * BLOCK_SAMPLES
"""Memory that the statistics of a block are worked out in."""

FOOTPRINT_BYTES = 160 * MIB
"""What the samples and statistics of a footprint may take; larger ones save nothing worth it."""

READ_BYTES = 16 * MIB
"""Stored samples that are read at once, save where one chunk is larger."""

AGAIN = 1.3
"""How often a chunk may be decoded, on average, before it is worth reading the cube once into bits."""

SHAPES = ((512, 1), (512, 0), (256, 0), (128, 0))
"""Sides of a tile, and levels of overviews that a footprint completes, by falling size."""

_CHUNK_COPIES = 3  # compressed, decoded, cut out

Cut = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class GapPlan:
    """How one variable is walked; picklable."""

    grid: RasterGrid
    """Size and place of the products: north up."""

    frames: int
    """Number of frames."""

    tile: int
    """Side of a tile of the GeoTIFF."""

    depth: int
    """Levels of overviews that a footprint completes by itself."""

    steps: Triple
    """Frames, rows and columns of the file that are read at once; may reach past the cube."""

    offset: Triple
    """Where the cube starts in its file."""

    gather: bool
    """Whether the cube is read into bits first."""

    peak_bytes: int
    """Projected peak memory of a worker."""

    @property
    def side(self) -> int:
        """Side of a footprint in pixels."""
        return self.tile << self.depth

    @property
    def counts(self) -> tuple[int, int]:
        """Footprints along y and x."""
        return ceil(self.grid.height / self.side), ceil(self.grid.width / self.side)

    def footprint(self, number: int) -> tuple[Cut, Cut]:
        """Return the rows and columns of a footprint, in the order of the file."""
        row, column = divmod(number, self.counts[1])
        top, left = row * self.side, column * self.side
        return (top, min(top + self.side, self.grid.height)), (left, min(left + self.side, self.grid.width))

    def tiles(self, number: int, level: int) -> list[tuple[int, int]]:
        """Return the row and column of each tile of a level that a footprint holds, x fastest."""
        step = self.tile << level
        rows, columns = (range(first // step, ceil(stop / step)) for first, stop in self.footprint(number))
        return [(row, column) for row in rows for column in columns]

    def window(self, number: int) -> Window:
        """Return where a footprint lies in the cube."""
        return _window(self.grid, self.frames, *self.footprint(number))

    def reads(self, window: Window) -> list[Window]:
        """Cut a window of the cube where stored chunks end, into pieces to read at once."""
        axes = zip(window.start, window.stop, self.steps, self.offset, strict=True)
        t, y, x = (_cuts(start, stop, step, offset) for start, stop, step, offset in axes)
        return [Window((t0, y0, x0), (t1, y1, x1)) for t0, t1 in t for y0, y1 in y for x0, x1 in x]

    def columns(self, window: Window) -> list[Window]:
        """Cut a window of the cube into parts whose dates are worked out together."""
        steps = _column(self.frames, self.side, self.steps, gather=self.gather)
        offset = (0, 0) if self.gather else self.offset[1:]
        axes = zip(window.start[1:], window.stop[1:], steps, offset, strict=True)
        y, x = (_cuts(start, stop, step, before) for start, stop, step, before in axes)
        return [Window((0, y0, x0), (self.frames, y1, x1)) for y0, y1 in y for x0, x1 in x]

    def gather_cuts(self) -> tuple[list[Cut], list[Cut], list[Cut]]:
        """Return where the pieces lie that are read into bits, along each axis."""
        extent = (self.frames, self.grid.height, self.grid.width)
        t, y, x = (_cuts(0, n, step, offset) for n, step, offset in zip(extent, self.steps, self.offset, strict=True))
        return t, y, x

    def gather_window(self, number: int) -> Window:
        """Return one of these pieces, x fastest."""
        t, y, x = self.gather_cuts()
        rest, i = divmod(number, len(x))
        k, j = divmod(rest, len(y))
        return Window((t[k][0], y[j][0], x[i][0]), (t[k][1], y[j][1], x[i][1]))

    def bits(self, path: str) -> BitStore:
        """Return the file of bits."""
        return BitStore(path=path, extent=(self.frames, self.grid.height, self.grid.width), shift=self.offset[2] % 8)


def plan_gaps(
    *,
    grid: RasterGrid,
    info: VariableInfo,
    offset: Triple,
    calendar: GapCalendar,
    options: GapOptions,
    memory_limit: int,
) -> GapPlan:
    """Return how a variable is walked.

    Parameters
    ----------
    grid : RasterGrid
        Of the products.
    info : VariableInfo
        The variable.
    offset : (time, y, x)
        Where the cube starts in its file.
    calendar : GapCalendar
        Of the cube.
    options : GapOptions
        What is worked out.
    memory_limit : int
        Bytes a worker may take.

    Raises
    ------
    PlanError
        If a worker's memory does not hold the dates of one tile, or a stored chunk.

    Examples
    --------
    >>> from stpipe.core.gap_statistics import gap_calendar
    >>> grid = RasterGrid.place(height=4000, width=4000, crs_wkt=None, transform=None, y=None, x=None)
    >>> days = np.arange(73).astype("M8[D]").astype("M8[ns]")
    >>> plan = plan_gaps(
    ...     grid=grid, info=VariableInfo(name="v", dtype="int16", chunks=(1, 4000, 4000)), offset=(0, 0, 0),
    ...     calendar=gap_calendar(days), options=GapOptions(), memory_limit=2**30,
    ... )
    >>> plan.side, plan.gather, plan.gather_window(1)
    (1024, True, Window(start=(1, 0, 0), stop=(2, 4000, 4000)))
    """
    frames = calendar.frame_count
    extent = (frames, grid.height, grid.width)
    item = np.dtype(info.dtype).itemsize
    bands = len(calendar.groups) * len(options.statistics)
    chunks = _within(info.chunks, extent)
    longest = max(grid.height, grid.width)
    for tile, depth in SHAPES:
        # A file of one tile has no overviews, and nothing to spread over workers.
        if tile > 128 and longest <= tile:
            continue
        side = tile << depth
        gather = _decoded_share(grid, frames, side, info, offset) > AGAIN
        steps = _steps(extent, info.chunks, item, side, gather=gather)
        column = _column(frames, side, steps, gather=gather)
        # What is clear; statistics, and half as much again for encoded ones.
        samples = frames * min(column[0], side, grid.height) * min(column[1], side, grid.width) + WORK_BYTES
        samples += min(side, grid.height) * min(side, grid.width) * 6 * bands
        read = max(prod(_within(steps, extent)), prod(chunks)) * (item + 2) + _CHUNK_COPIES * prod(chunks) * item
        peak = PROCESS_BYTES + read + samples
        if samples <= FOOTPRINT_BYTES and peak <= memory_limit:
            return GapPlan(
                grid=grid, frames=frames, tile=tile, depth=depth, steps=steps, offset=offset, gather=gather,
                peak_bytes=peak,
            )  # fmt: skip
    raise PlanError(
        f"gap statistics of {info.name!r} take {gib(peak)} at least, for {frames} frames of {side} x {side} "
        f"pixels, {bands} bands and stored chunks of {info.chunks}, but a worker may take {gib(memory_limit)}; give it "
        "more with --memory-limit, shorten the period with --time, or rechunk the cube"
    )


def _window(grid: RasterGrid, frames: int, rows: Cut, columns: Cut) -> Window:
    """Return where rows and columns of the file lie in the cube."""
    top, bottom = (grid.height - rows[1], grid.height - rows[0]) if grid.flip_y else rows
    left, right = (grid.width - columns[1], grid.width - columns[0]) if grid.flip_x else columns
    return Window((0, top, left), (frames, bottom, right))


def _decoded_share(grid: RasterGrid, frames: int, side: int, info: VariableInfo, offset: Triple) -> float:
    """Return how often each stored chunk is decoded, on average, if footprints are read straight from the cube."""
    share = 1.0
    for axis, length in ((1, grid.height), (2, grid.width)):
        chunk, before = info.chunks[axis], offset[axis]
        touched = 0
        for start in range(0, length, side):
            cut = (start, min(start + side, length))
            window = _window(grid, frames, cut, cut) if axis == 1 else _window(grid, frames, (0, 1), cut)
            first, stop = window.start[axis] + before, window.stop[axis] + before
            touched += ceil(stop / chunk) - first // chunk
        share *= touched / (ceil((length + before) / chunk) - before // chunk)
    return share


def _within(lengths: Triple, extent: Triple) -> Triple:
    return triple(min(pair) for pair in zip(lengths, extent, strict=True))


def _steps(extent: Triple, chunks: Triple, item: int, side: int, *, gather: bool) -> Triple:
    """Return what is read at once: whole chunks, more of them where they are small.

    The cube may start and end within a chunk, so chunks count in full here: steps of what the cube holds of them would
    end where no chunk does.

    >>> _steps((73, 300, 300), (1, 400, 401), 4, 256, gather=True)
    (46, 400, 3208)
    """
    t, y, x = chunks
    # Steps in multiples of 8, however long, so that no two processes share a byte.
    x = lcm(x, 8) if gather else x
    height, width = extent[1:] if gather else (side, side)
    room = max(1, READ_BYTES // (prod(_within((t, y, x), extent)) * item))
    wider = max(1, min(room, ceil(width / x)))
    x, room = x * wider, room // wider
    taller = max(1, min(room, ceil(height / y)))
    y, room = y * taller, room // taller
    return t * max(1, min(room, ceil(extent[0] / t))), y, x


def _column(frames: int, side: int, steps: Triple, *, gather: bool) -> Cut:
    """Return the rows and columns of pixels whose dates are worked out together, at most.

    >>> _column(73, 1024, (73, 256, 512), gather=False), _column(73, 1024, (1, 4000, 4000), gather=True)
    ((256, 512), (224, 1024))
    """
    if gather:
        return max(1, min(side, READ_BYTES // (frames * side))), side
    return steps[1], steps[2]  # may reach past the footprint, but end where chunks do


def _cuts(start: int, stop: int, step: int, offset: int) -> list[Cut]:
    """Cut from start to stop where multiples of a step lie in the file.

    >>> _cuts(0, 10, 4, 3)
    [(0, 1), (1, 5), (5, 9), (9, 10)]
    """
    first = start + step - (start + offset) % step
    edges: Sequence[int] = [start, *range(first, stop, step), stop]
    return list(pairwise(edges))
