"""The mosaic: a cube's frames as Cloud Optimized GeoTIFFs, a task for the frames of one stored chunk.

The plan is a pure function of the cube; `write_frames` carries out one task, anywhere, any number of times. A task is
the only writer of its files. It walks the scene once in windows aligned with the stored chunks::

      window 0 | window 1 | ...      read (frames, y, x), append to one plain GeoTIFF a frame
      ...                            then, a frame at a time: plain GeoTIFF -> COG -> compare -> rename

so that its memory does not grow with the scene, and each stored chunk is decoded as few times as can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from stpipe.core.ports import CubeReader, VariableInfo
from stpipe.core.sizes import gib
from stpipe.core.windows import Triple, Window
from stpipe.errors import CubeError, OptionError, OutputError, PlanError, RunError
from stpipe.execution.storage import fetch, is_remote, is_there, located, send
from stpipe.io.frames import (
    PERCENTS,
    SOURCE_SUFFIX,
    FrameSource,
    RasterGrid,
    frame_dates,
    frame_labels,
    half_width_name,
    holds_sources,
    infos_of,
    safe_names,
)

Layout = Literal["frames", "stack"]
"""One file a frame, or one file with a band a frame."""

MOST_FRAMES = 8
"""Frames of one task: enough to decode a chunk few times, few enough to spread the work."""

CACHE_BYTES = 64 * 2**20
"""GDAL's block cache while writing."""

COMFORTABLE_WINDOW = 1024
"""Pixels along an axis beyond which a larger window saves nothing worth its memory."""

CHUNKS_IN_FLIGHT = 10
"""Zarr decodes about this many chunks at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicTask:
    """Frames of one variable that are written together; picklable, and all that decides the bytes of the files."""

    variable: str
    """Name in the cube."""

    stored: VariableInfo
    """How its samples are stored."""

    is_source: bool
    """Whether these are source codes and not values."""

    grid: RasterGrid
    """Size and place of the files."""

    first: int
    """Index of the first frame in the cube."""

    dates: tuple[str, ...]
    """ISO 8601 date of each frame."""

    files: tuple[str, ...]
    """Where each frame goes, below the output folder; a stack has one for all frames."""

    step: Triple
    """Shape of the windows that are read at once; along y and x a multiple of the stored chunks where memory allows."""

    @property
    def is_stack(self) -> bool:
        """Whether the frames are bands of one file."""
        return len(self.files) == 1 and len(self.dates) > 1

    @property
    def raw_bytes(self) -> int:
        """Bytes of all samples, uncompressed."""
        item = raster_dtype(self.stored.dtype).itemsize
        return len(self.dates) * self.grid.height * self.grid.width * item

    def windows(self, first: int, stop: int) -> Iterator[Window]:
        """Cut frames `first` to `stop` of the cube into windows, x fastest."""
        t_step, y_step, x_step = self.step
        t = first
        while t < stop:
            # Cuts along time fall on borders of stored chunks.
            t_stop = min(stop, (t // t_step + 1) * t_step) if self.is_stack else stop
            for y in range(0, self.grid.height, y_step):
                for x in range(0, self.grid.width, x_step):
                    yield Window(
                        (t, y, x), (t_stop, min(y + y_step, self.grid.height), min(x + x_step, self.grid.width))
                    )
            t = t_stop


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """A finished file."""

    path: str
    """Below the output folder, with ``/`` on every system."""

    bytes: int
    """Its size."""

    sha256: str
    """Digest of its bytes."""

    kept: bool
    """Whether it was there already, the same."""


def raster_dtype(dtype: str) -> np.dtype[Any]:
    """Return the type of a file's samples: the stored one, or the smallest that holds all its values.

    >>> raster_dtype("<i2"), raster_dtype("float16"), raster_dtype("bool")
    (dtype('int16'), dtype('float32'), dtype('uint8'))
    """
    stored: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
    substitutes: dict[str, np.dtype[Any]] = {"float16": np.dtype("float32"), "bool": np.dtype("uint8")}
    replaced = substitutes.get(stored.name, stored)
    if replaced.kind not in "iuf" or replaced.itemsize > 8:
        raise CubeError(f"GeoTIFF holds integers and floats of up to 64 bits, not {dtype}; choose other variables")
    return replaced


def mosaic_variables(infos: Mapping[str, VariableInfo]) -> tuple[str, ...]:
    """Return the variables worth a mosaic of their own: all but the source codes and intervals of another.

    >>> names = ["ndvi", "ndvi_ci90", "water_source"]
    >>> mosaic_variables({name: VariableInfo(name=name, dtype="uint8", chunks=(1, 1, 1)) for name in names})
    ('ndvi', 'water_source')
    """
    intervals = {half_width_name(name, percent) for name in infos for percent in PERCENTS}
    sources = {_source_of(name, infos) for name in infos}
    return tuple(name for name in infos if name not in intervals | sources)


def _source_of(variable: str, infos: Mapping[str, VariableInfo]) -> str | None:
    name = f"{variable}{SOURCE_SUFFIX}"
    return name if name in infos and holds_sources(infos[name]) else None


def plan_mosaic(
    cube: FrameSource, variables: Sequence[str] | None, layout: Layout, memory_bytes: int
) -> tuple[MosaicTask, ...]:
    """Return the tasks that together write every frame of the variables, and of their VAR_source, once.

    Parameters
    ----------
    cube : FrameSource
        An opened cube, filled or not.
    variables : sequence of str, optional
        Names in the cube; None means all but the companions of others.
    layout : {"frames", "stack"}
        One file a frame, or one file with a band a frame.
    memory_bytes : int
        What one task may hold, beyond the interpreter and its libraries.

    Raises
    ------
    OptionError
        If a variable does not exist or the layout is unknown.
    CubeError
        If names or dates can't become file names, or a type has no place in a GeoTIFF.
    PlanError
        If one stored chunk is larger than the memory.
    """
    if layout not in ("frames", "stack"):
        raise OptionError(f"--layout is frames or stack, got {layout!r}")
    known = infos_of(cube)
    chosen = tuple(dict.fromkeys(mosaic_variables(known) if variables is None else variables))
    for name in chosen:
        if name not in known:
            raise OptionError(f"the cube has no variable {name!r}; it has {', '.join(sorted(known))}")
    if not chosen:
        raise CubeError("the cube has no variable over (time, y, x) to mosaic")
    if min(cube.extent) < 1:
        raise CubeError(f"a mosaic needs at least one frame of one pixel, the cube's shape is {cube.extent}")
    companions = {_source_of(name, known) for name in chosen}
    owners = [name for name in chosen if name not in companions]
    folders = safe_names(owners)
    grid = RasterGrid.of(cube)
    labels, dates = frame_labels(cube.times), frame_dates(cube.times)
    tasks: list[MosaicTask] = []
    for owner in owners:
        source = _source_of(owner, known)
        for name in (owner,) if source is None else (owner, source):
            role = "" if name == owner else SOURCE_SUFFIX
            stem = f"{folders[owner]}/{folders[owner]}{role}"
            info = known[name]
            for first, stop in _frame_groups(cube.extent[0], info.chunks[0], layout):
                files = (
                    (f"{stem}.tif",)
                    if layout == "stack"
                    else tuple(f"{stem}_{label}.tif" for label in labels[first:stop])
                )
                tasks.append(
                    MosaicTask(
                        variable=name,
                        stored=info,
                        is_source=holds_sources(info),
                        grid=grid,
                        first=first,
                        dates=dates[first:stop],
                        files=files,
                        step=_window_shape(cube.extent, info, stop - first, memory_bytes),
                    )
                )
    return tuple(tasks)


def _frame_groups(frames: int, chunk: int, layout: Layout) -> Iterator[tuple[int, int]]:
    """Yield first and last-plus-one of the frames of each task; none crosses a stored chunk, save a stack."""
    if layout == "stack":
        yield 0, frames
        return
    for start in range(0, frames, chunk):
        length = min(chunk, frames - start)
        parts = -(-length // MOST_FRAMES)
        for part in range(parts):
            yield start + length * part // parts, start + length * (part + 1) // parts


def _window_shape(extent: Triple, info: VariableInfo, frames: int, memory_bytes: int) -> Triple:
    """Return the largest comfortable window of whole chunks, in space, that the memory allows."""
    stored_item = np.dtype(info.dtype).itemsize
    item = stored_item + 2 * raster_dtype(info.dtype).itemsize  # as read, as turned, as encoded by GDAL
    t_chunk, y_chunk, x_chunk = (min(chunk, n) for chunk, n in zip(info.chunks, extent, strict=True))
    held = min(frames, t_chunk)
    chunk_bytes = 2 * t_chunk * y_chunk * x_chunk * stored_item

    def cost(y: int, x: int) -> int:
        in_flight = min(CHUNKS_IN_FLIGHT, -(-y // y_chunk) * -(-x // x_chunk))
        return CACHE_BYTES + in_flight * chunk_bytes + held * y * x * item

    y, x = y_chunk, x_chunk
    least = cost(min(y, 512), min(x, 512))
    if least > memory_bytes:
        raise PlanError(
            f"a mosaic of {info.name!r} decodes stored chunks of {info.chunks} samples, which takes "
            f"{least / 2**20:,.0f} MiB, more than the {memory_bytes / 2**20:,.0f} MiB there are; "
            "give it more memory with --memory-limit, or store the cube in smaller chunks"
        )
    # A chunk that fits only by itself is read in parts, and decoded once for each.
    while cost(y, x) > memory_bytes and max(y, x) > 512:
        y, x = (max(512, y // 2), x) if y >= x else (y, max(512, x // 2))
    while True:
        grown = [
            (min(2 * y, extent[1]), x) if axis == "y" else (y, min(2 * x, extent[2]))
            for axis, length, limit in (("x", x, extent[2]), ("y", y, extent[1]))
            if length < min(limit, COMFORTABLE_WINDOW)
        ]
        fitting = [shape for shape in sorted(grown, key=max) if cost(*shape) <= memory_bytes]
        if not fitting:
            return held, y, x
        y, x = fitting[0]


def mosaic_bytes(tasks: Sequence[MosaicTask], *, at_once: int = 1) -> int:
    """Return the disk space that a mosaic may need: values that don't compress, overviews, and temporary files.

    >>> mosaic_bytes(())
    0
    """
    # Source codes come in large patches; a tenth is a careful guess.
    products = sum(task.raw_bytes * 4 // (30 if task.is_source else 3) for task in tasks)
    temporary = sorted((task.raw_bytes * 4 // 3 for task in tasks), reverse=True)[:at_once]
    return products + sum(temporary)


def write_frames(
    task: MosaicTask,
    reader: CubeReader,
    folder: str | Path,
    *,
    replace: bool = False,
    known: Mapping[str, str] | None = None,
    threads: int = 1,
) -> tuple[WrittenFile, ...]:
    """Write the files of one task, each under its final name only when it is complete and equal to the cube.

    A file that is there already is compared with the cube, sample by sample, and kept if it is the same. What an
    earlier try left behind under a temporary name is removed.

    Parameters
    ----------
    task : MosaicTask
        One task of `plan_mosaic`.
    reader : CubeReader
        Reads the stored samples of `task.variable`.
    folder : path
        Output folder; made where it is missing.
    replace : bool
        Whether to write a file again that differs from the cube.
    known : mapping of str to str, optional
        sha256 of finished files by their path below `folder`: one that has it is kept without looking at the cube.
    threads : int
        Threads that compress; the bytes do not depend on it.

    Returns
    -------
    tuple of WrittenFile
        In the order of `task.files`.

    Raises
    ------
    OutputError
        If a file is there that differs from the cube, and `replace` is False.
    RunError
        If a file can't be written, or is not what it should be when read back.
    """
    # rasterio takes a while to load, and a plan has no need of it.
    from stpipe.io.geotiff import write_task

    place = located(folder)
    if not is_remote(place):
        return write_task(task, reader, place, replace=replace, known=known or {}, threads=threads)
    # GDAL's driver for COGs writes back and forth, which no store lets it: a file goes there when it is finished.
    with TemporaryDirectory(prefix="stpipe-mosaic-") as name:
        here, free, needed = Path(name), disk_usage(name).free, mosaic_bytes([task])
        if free < needed:
            raise RunError(
                f"GeoTIFFs on their way to {place} are made in {here.parent}, where {gib(needed)} may be needed and "
                f"{gib(free)} are free; set TMPDIR to a larger disk and run it again"
            )
        for file in task.files:
            if is_there(place / file):
                (here / file).parent.mkdir(parents=True, exist_ok=True)
                fetch(place / file, here / file)
        try:
            written = write_task(task, reader, here, replace=replace, known=known or {}, threads=threads)
        except (RunError, OutputError) as error:
            raise type(error)(str(error).replace(name, str(place))) from error
        for made in written:
            if not made.kept:
                send(here / made.path, place / made.path)
        return written
