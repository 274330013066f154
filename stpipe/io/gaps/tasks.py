"""What a worker does for gap statistics: read into bits, work out a footprint, put overviews together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.gap_statistics import NO_DAY, GapCalendar, GapOptions, gap_statistics
from stpipe.core.ports import CubeReader, VariableInfo
from stpipe.core.samples import is_nodata
from stpipe.core.windows import Window
from stpipe.execution.context import read_samples
from stpipe.execution.records import RecordBook
from stpipe.io.gaps.plan import GapPlan
from stpipe.io.scratch import forget_stores, open_array, use_one_thread
from stpipe.io.tiff_parts import TiledRaster, encode

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class GapContext:
    """What all tasks of a variable share; picklable."""

    reader: CubeReader
    """The cube."""

    info: VariableInfo
    """The variable."""

    valid_range: tuple[float, float] | None
    """Physical values outside of it are gaps."""

    calendar: GapCalendar
    """Its dates."""

    options: GapOptions
    """What to work out."""

    plan: GapPlan
    """How to walk it."""

    raster: TiledRaster
    """The file that all goes into."""

    folder: str
    """Where parts and records go."""

    key: str
    """Tells the records of this run from others."""

    store: str | None = None
    """Group of the statistics as Zarr, if they are wanted."""

    def book(self, stage: str) -> RecordBook:
        """Return the records of a stage."""
        return RecordBook(str(Path(self.folder) / stage), self.key)

    def part(self, stage: str, number: int) -> Path:
        """Return the file of a task's encoded tiles."""
        return Path(self.folder) / stage / f"{number:07d}.bin"

    def lattice(self, number: int) -> Path:
        """Return the file of a footprint's pixels for the levels that it can't complete."""
        return Path(self.folder) / "lattices" / f"{number:07d}.npy"

    @property
    def bits(self) -> str:
        """File of the bits."""
        return str(Path(self.folder) / "clear.bits")


def start_worker(_: Any) -> None:
    """Ready a worker process: one decoding thread, nothing cached of older stores."""
    use_one_thread()
    forget_stores()


def clear_samples(
    reader: CubeReader,
    info: VariableInfo,
    window: Window,
    valid_range: tuple[float, float] | None,
    out: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.int64] | None]:
    """Return (t, y, x) True where a window holds observations to trust, and how often each rule on trust matched.

    Given `out`, that is where it is written.
    """
    clear = np.empty(window.shape, dtype=bool) if out is None else out
    if valid_range is not None:
        samples = read_samples(reader, info, window, valid_range)
        np.stack([samples.frame(t)[1] for t in range(window.shape[0])], out=clear)
        return clear, samples.rule_counts
    judged = reader.read_judged(window)
    observed(reader.read(info.name, window), info, clear)
    domain = reader.read_domain(window)
    if domain is not None:
        clear &= domain
    if judged is None:
        return clear, None
    clear &= judged[0]
    return clear, judged[1]


def observed(stored: NDArray[Any], info: VariableInfo, out: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Return True where a stored sample is an observation, in `out` if that is given.

    >>> observed(np.array([3, -1], dtype="int16"), VariableInfo(name="v", dtype="int16", chunks=(1, 1, 1), nodata=-1))
    array([ True, False])
    """
    clear = np.empty(stored.shape, dtype=bool) if out is None else out
    if stored.dtype.kind == "f":
        # Not by `out`: NumPy 2.4 writes elsewhere if neighbours in it lie apart, as in a column of a wider window.
        clear[...] = np.isfinite(stored)
        clear &= ~is_nodata(stored, info)
    elif info.nodata is None:
        clear[...] = True
    else:
        # Compared with a float, integers are turned into floats first, which takes longer than all else here.
        whole = stored.dtype.itemsize <= 4 and float(info.nodata).is_integer()
        np.not_equal(stored, int(info.nodata) if whole else info.nodata, out=clear)
    return clear


def gather_task(context: GapContext, number: int) -> str:
    """Read a few chunks into bits."""
    window = context.plan.gather_window(number)
    clear, matched = clear_samples(context.reader, context.info, window, context.valid_range)
    context.plan.bits(context.bits).write(window, clear)
    context.book("gather").write(f"{number:07d}", {"rules": None if matched is None else matched.tolist()})
    return "done"


def footprint_task(context: GapContext, number: int) -> str:
    """Work out a footprint; write its tiles, its part of the Zarr, and its record."""
    plan, grid = context.plan, context.plan.grid
    window = plan.window(number)
    _, height, width = window.shape
    shape = (len(context.calendar.groups), len(context.options.statistics), height, width)
    values = np.empty(shape, dtype=np.float32)  # north up
    of_cube = values[:, :, :: -1 if grid.flip_y else 1, :: -1 if grid.flip_x else 1]
    by_date = np.zeros(len(context.calendar.numbers), dtype=np.int64)
    pixels = 0
    total: NDArray[np.int64] | None = None
    for column in plan.columns(window):
        clear, matched = _read(context, column)
        if matched is not None:
            total = matched if total is None else total + matched
        domain = context.reader.read_domain(column)
        pixels += clear[0].size if domain is None else int(np.count_nonzero(domain))
        by_date += _clear_by_date(clear, context.calendar)
        _, rows, columns = column.within(window).slices
        gap_statistics(clear, context.calendar, context.options, domain=domain, out=of_cube[:, :, rows, columns])
        del clear  # or it is there twice while the next one is read
    record: dict[str, Any] = {
        "rules": None if total is None else total.tolist(),
        "pixels": pixels,
        "clear": by_date.tolist(),
    }
    if context.store is not None:
        _write_store(context, context.store, values, number)
    bands = values.reshape(-1, *values.shape[2:])
    record["bands"] = [_numbers(band) for band in bands]
    levels = min(plan.depth + 1, context.raster.levels)
    record["sizes"] = _write_part(context.part("footprints", number), bands, context.raster.tile, levels)
    if levels < context.raster.levels:
        step = 2**levels
        place = context.lattice(number)
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, bands[:, ::step, ::step])
    context.book("footprints").write(f"{number:07d}", record)
    return "done"


def overview_task(context: GapContext, number: int) -> str:
    """Encode one tile of the levels that no footprint completes, from their pixels."""
    level, row, column = overview_tiles(context)[number]
    raster, plan = context.raster, context.plan
    rows, columns = raster.shape(level)
    tile, step = raster.tile, 2**level
    top, left = row * tile, column * tile
    shape = (min(tile, rows - top), min(tile, columns - left))
    values = np.empty((len(raster.bands), *shape), dtype=np.float32)
    kept = plan.depth + 1
    for y in range(top * step // plan.side, -(-min((top + shape[0]) * step, plan.grid.height) // plan.side)):
        for x in range(left * step // plan.side, -(-min((left + shape[1]) * step, plan.grid.width) // plan.side)):
            lattice = np.load(context.lattice(y * plan.counts[1] + x), mmap_mode="r")
            # The first row and column of the footprint that belong to this level.
            first = [-(-start * plan.side // step) for start in (y, x)]
            inside = tuple(
                slice((at * step - start * plan.side) >> kept, None, step >> kept)
                for at, start in zip(first, (y, x), strict=True)
            )
            piece = lattice[:, inside[0], inside[1]]
            i, j = first[0] - top, first[1] - left
            skip = max(0, -i), max(0, -j)
            piece = piece[:, skip[0] :, skip[1] :]
            i, j = max(0, i), max(0, j)
            piece = piece[:, : shape[0] - i, : shape[1] - j]
            values[:, i : i + piece.shape[1], j : j + piece.shape[2]] = piece
    sizes = _write_part(context.part("overviews", number), values, tile, 1)
    context.book("overviews").write(f"{number:07d}", {"sizes": sizes})
    return "done"


def overview_tiles(context: GapContext) -> list[tuple[int, int, int]]:
    """Return (level, row, column) of the tiles that no footprint completes."""
    raster = context.raster
    tiles = []
    for level in range(context.plan.depth + 1, raster.levels):
        rows, columns = raster.counts(level)
        tiles += [(level, row, column) for row in range(rows) for column in range(columns)]
    return tiles


def _read(context: GapContext, window: Window) -> tuple[NDArray[np.bool_], NDArray[np.int64] | None]:
    """Return what is clear in a window of all frames."""
    plan = context.plan
    if plan.gather:
        return plan.bits(context.bits).read(window), None
    clear = np.empty(window.shape, dtype=bool)
    total: NDArray[np.int64] | None = None
    for piece in plan.reads(window):
        part = clear[piece.within(window).slices]
        _, matched = clear_samples(context.reader, context.info, piece, context.valid_range, part)
        if matched is not None:
            total = matched if total is None else total + matched
    return clear, total


def _clear_by_date(clear: NDArray[np.bool_], calendar: GapCalendar) -> NDArray[np.int64]:
    """Return the number of clear pixels on each date."""
    edges = [*calendar.frames.tolist(), calendar.frame_count]
    counts = []
    for first, stop in pairwise(edges):
        frame = clear[first] if stop == first + 1 else clear[first:stop].any(axis=0)
        counts.append(np.count_nonzero(frame))
    return np.array(counts, dtype=np.int64)


def _numbers(band: F32) -> dict[str, float | int | None]:
    """Return how many pixels have a number, and the least, the mean and the largest."""
    total = float(band.sum(dtype=np.float64))
    if np.isnan(total):
        band = band[~np.isnan(band)]
        total = float(band.sum(dtype=np.float64))
    if not band.size:
        return {"pixels": 0, "min": None, "max": None, "sum": 0.0}
    return {"pixels": int(band.size), "min": float(band.min()), "max": float(band.max()), "sum": total}


def _write_part(path: Path, bands: F32, tile: int, levels: int) -> list[list[list[int]]]:
    """Write the encoded tiles of a few levels, and return the bytes of each by level, band and tile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = []
    with path.open("wb") as file:
        for level in range(levels):
            tiles = encode(bands[:, :: 2**level, :: 2**level], tile)
            sizes.append([[len(piece) for piece in pieces] for pieces in tiles])
            for pieces in tiles:
                file.writelines(pieces)
    return sizes


def _write_store(context: GapContext, store: str, values: F32, number: int) -> None:
    """Write a footprint of each statistic."""
    rows, columns = context.plan.footprint(number)
    place = (slice(*rows), slice(*columns))
    for s, statistic in enumerate(context.options.statistics):
        array = open_array(store, f"{context.info.name}_{statistic.name}", "r+")
        stored = _as_stored(values[:, s], array.dtype)
        if context.options.by == "none":
            array[place] = stored[0]
        else:
            array[:, place[0], place[1]] = stored


def _as_stored(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a statistic as its array holds it: dates as whole days, `NO_DAY` where there is none.

    >>> _as_stored(np.array([19000, np.nan], np.float32), np.dtype(np.int32)).tolist()
    [19000, -2147483648]
    """
    if dtype.kind == "f":
        return values
    known = np.isfinite(values)
    days = np.full(values.shape, NO_DAY, dtype=dtype)
    days[known] = values[known]
    return days
