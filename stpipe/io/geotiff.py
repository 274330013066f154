"""Cloud Optimized GeoTIFFs, written so that a file under its final name is complete and equal to the cube.

A disk that fills up does not always make GDAL fail, and what was never written reads as zeros. So each window's
checksum is kept while it is written, and the finished COG is read back and held against all of them.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from rasterio.windows import Window as RasterWindow

from stpipe.core.ports import CubeReader
from stpipe.core.samples import SOURCE_CODES, gap_value
from stpipe.core.windows import Window
from stpipe.errors import OutputError, RunError, StpipeError
from stpipe.io.frames import SOURCE_COLOURS
from stpipe.io.mosaic import CACHE_BYTES, MosaicTask, WrittenFile, raster_dtype

CPLE_BaseError = rasterio._err.CPLE_BaseError  # noqa: SLF001 - its only name

LOG = logging.getLogger(__name__)

PARTIAL = ".partial-"
"""Start of the name of every file that is not finished."""

MARK = "stpipe_variable"
"""Tag by which a file is known as a mosaic's."""

DEFLATE_LEVEL = 4
"""Takes two thirds of the time of GDAL's own 6; files of real reflectance are 0.4 % larger."""

FULL_BYTES = 2**20
"""A disk with less is full."""

LARGEST_EXACT = 2**53
"""GDAL keeps nodata as text of a float64; beyond this a 64-bit nodata would come back as another number."""


@dataclass(slots=True)
class _Output:
    """One file on its way."""

    name: str
    final: Path
    first: int
    stop: int
    partial: Path
    checksums: list[int] = field(default_factory=list)

    @property
    def raw(self) -> Path:
        return self.partial.with_name(f"{self.partial.name}.raw")

    def bands(self, window: Window) -> tuple[slice, list[int]]:
        """Return which frames of a window are this file's, and the bands they are."""
        start, stop = max(self.first, window.start[0]), min(self.stop, window.stop[0])
        inside = slice(start - window.start[0], max(start, stop) - window.start[0])
        return inside, list(range(start - self.first + 1, stop - self.first + 1))


def write_task(
    task: MosaicTask, reader: CubeReader, folder: Path, *, replace: bool, known: Mapping[str, str], threads: int
) -> tuple[WrittenFile, ...]:
    """Carry out one task; see `stpipe.io.mosaic.write_frames`."""
    outputs = _outputs(task, folder)
    place = folder / task.files[0]
    try:
        with _gdal(task):
            _check_crs(task.grid.crs_wkt)
            for output in outputs:
                output.final.parent.mkdir(parents=True, exist_ok=True)
                _remove_leftovers(output)
            kept = _finished(task, reader, outputs, known)
            wanted = [output for output in outputs if output.name not in kept]
            for output in wanted:
                if output.final.exists() and not replace:
                    raise OutputError(
                        f"{output.final} is there already and differs from the cube; "
                        "give --overwrite to write it again, or choose another folder with -o"
                    )
            written = _write(task, reader, wanted, threads) if wanted else {}
    except StpipeError:
        raise
    except (RasterioError, CRSError, OSError, CPLE_BaseError) as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        reason = " ".join(str(error if full else error.__cause__ or error).split())
        raise RunError(
            f"can't write {place}: {reason}; finished files are kept, so make room or mend the folder and run it again"
        ) from error
    results = {**kept, **written}
    return tuple(results[output.name] for output in outputs)


def is_mosaic_file(path: Path) -> bool:
    """Whether a file is a GeoTIFF that a mosaic wrote."""
    try:
        with _quiet(), rasterio.open(path, driver="GTiff") as dataset:
            return MARK in dataset.tags()
    except (RasterioError, OSError):
        return False


def file_nodata(task: MosaicTask) -> float | int | None:
    """Return the nodata value of a task's files; None where a file can't have one.

    Source codes have none: 0 is an answer too.
    """
    if task.is_source or np.dtype(task.stored.dtype) == np.bool_:
        return None
    value = gap_value(task.stored)
    if value is None:
        return None
    dtype = raster_dtype(task.stored.dtype)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return float(np.asarray(value).astype(task.stored.dtype).astype(dtype))  # as rounded as the samples are
    limits = np.iinfo(dtype)
    fits = np.isfinite(value) and value == int(value) and limits.min <= value <= limits.max
    return int(value) if fits and abs(value) < LARGEST_EXACT else None


def _outputs(task: MosaicTask, folder: Path) -> list[_Output]:
    spans = (
        [(task.first, task.first + len(task.dates))]
        if task.is_stack
        else [(task.first + i, task.first + i + 1) for i in range(len(task.files))]
    )
    # Two workers may be at the same task when one was believed dead, so that a temporary name is for one try only.
    token = uuid4().hex[:8]
    return [
        _Output(
            name=name,
            final=folder / name,
            first=first,
            stop=stop,
            partial=(folder / name).with_name(f"{PARTIAL}{token}-{Path(name).name}"),
        )
        for name, (first, stop) in zip(task.files, spans, strict=True)
    ]


def _remove_leftovers(output: _Output) -> None:
    for path in output.final.parent.glob(f"{PARTIAL}????????-{output.final.name}*"):
        path.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what GDAL says on its way from the terminal: what is wrong comes as an exception, and says it once."""
    logger = logging.getLogger("rasterio")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _gdal(task: MosaicTask) -> Iterator[None]:
    """Hold the settings that decide memory and bytes, whatever the environment says."""
    settings = {
        "GDAL_CACHEMAX": CACHE_BYTES,
        "GDAL_PAM_ENABLED": "NO",  # no .aux.xml beside the files
        "GDAL_NUM_THREADS": "1",
        "GDAL_TIFF_OVR_BLOCKSIZE": str(_tile(task)),
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # thousands of files side by side
    }
    with _quiet(), rasterio.Env(**settings):
        yield


@cache
def _check_crs(wkt: str | None) -> None:
    """Warn, once in each process, of a CRS that GeoTIFF has no keys for."""
    if wkt is None:
        return
    with MemoryFile() as memory:
        place = Affine(1, 0, 0, 0, -1, 0)
        with memory.open(
            driver="GTiff", height=1, width=1, count=1, dtype="uint8", crs=CRS.from_wkt(wkt), transform=place
        ):
            pass
        with memory.open() as dataset:
            if not dataset.crs:
                LOG.warning(
                    "GeoTIFF can't hold the cube's CRS (%.60s...), so its files have coordinates without one", wkt
                )


def _tile(task: MosaicTask) -> int:
    """Return the side of a tile: small enough that even a small frame is worth an overview."""
    longest = max(task.grid.height, task.grid.width)
    return 128 if longest <= 256 else 256 if longest <= 512 else 512


def _is_categorical(task: MosaicTask) -> bool:
    return (
        task.is_source
        or bool({"flag_values", "flag_masks"} & set(task.stored.attrs))
        or np.dtype(task.stored.dtype) == np.bool_
    )


def _creation(task: MosaicTask, bands: int) -> dict[str, Any]:
    grid = task.grid
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": bands,
        "dtype": raster_dtype(task.stored.dtype).name,
        "nodata": file_nodata(task),
        "interleave": "band",
        "bigtiff": "IF_SAFER",
    }
    if grid.crs_wkt is not None:
        profile["crs"] = CRS.from_wkt(grid.crs_wkt)
    if grid.transform is not None:
        profile["transform"] = Affine(*grid.transform)
    return profile


def _describe(dataset: Any, task: MosaicTask, output: _Output) -> None:
    """Give an open file its dates, units, scale and meaning."""
    bands = dataset.count
    stored, attrs = task.stored, task.stored.attrs
    dates = task.dates[output.first - task.first : output.stop - task.first]
    dataset.descriptions = dates
    if (stored.scale_factor, stored.add_offset) != (1.0, 0.0):
        dataset.scales = (stored.scale_factor,) * bands
        dataset.offsets = (stored.add_offset,) * bands
    if attrs.get("units"):
        dataset.units = (str(attrs["units"]),) * bands
    tags = {MARK: task.variable}
    tags |= {key: str(attrs[key]) for key in ("long_name", "standard_name") if attrs.get(key)}
    if bands == 1:
        tags["TIFFTAG_DATETIME"] = dates[0][:19].replace("-", ":").replace("T", " ")
    if task.is_source:
        tags |= {f"source_{code}": meaning for meaning, code in SOURCE_CODES.items()}
    elif _is_categorical(task):
        flags = ("flag_values", "flag_masks", "flag_meanings")
        tags |= {key: " ".join(str(attrs[key]).strip("[]").split()) for key in flags if key in attrs}
    dataset.update_tags(**tags)
    if task.is_source and bands == 1:  # TIFF has colour tables for single bands only
        dataset.write_colormap(
            1, {SOURCE_CODES[name]: (*bytes.fromhex(colour[1:]), 255) for name, colour in SOURCE_COLOURS.items()}
        )


def _header(dataset: Any) -> dict[str, str]:
    """Return all that a file says about its samples, its size and place aside, as text that can be compared."""
    return {
        "type": repr(set(dataset.dtypes)),
        "bands": repr(dataset.count),
        "CRS": dataset.crs.to_wkt() if dataset.crs else "",
        "transform": repr(tuple(dataset.transform)),
        "nodata": repr(dataset.nodata),
        "scales": repr(dataset.scales),
        "offsets": repr(dataset.offsets),
        "units": repr(dataset.units),
        "dates": repr(dataset.descriptions),
        "tags": repr(sorted(item for item in dataset.tags().items() if item[0] != "AREA_OR_POINT")),
    }


def _expected_header(task: MosaicTask, output: _Output) -> dict[str, str]:
    """Return the header of a one-pixel file of the task: a CRS may change its wording on its way into a GeoTIFF."""
    with MemoryFile() as memory:
        with memory.open(height=1, width=1, **_creation(task, output.stop - output.first)) as dataset:
            _describe(dataset, task, output)
        with memory.open() as dataset:
            return _header(dataset)


def _difference(dataset: Any, task: MosaicTask, expected: Mapping[str, str]) -> str | None:
    """Return in what a file's header is not the task's; None where all agrees."""
    grid, tile = task.grid, _tile(task)
    if dataset.shape != (grid.height, grid.width):
        return f"size: {dataset.shape} instead of {(grid.height, grid.width)}"
    if dataset.block_shapes[0] != (tile, tile):
        return f"tile: {dataset.block_shapes[0]} instead of {(tile, tile)}"
    overviews = dataset.overviews(1)
    if bool(overviews) != (max(dataset.shape) > tile):
        return f"overviews: {overviews}"
    found = _header(dataset)
    for key, value in expected.items():
        if found[key] != value:
            return f"{key}: {found[key]} instead of {value}"
    return None


def _samples(task: MosaicTask, reader: CubeReader, window: Window) -> NDArray[Any]:
    """Return a window of the cube as the files hold it: type and order."""
    values = task.grid.turn(reader.read(task.variable, window))
    return np.ascontiguousarray(values, dtype=raster_dtype(task.stored.dtype))


def _raster_window(task: MosaicTask, window: Window) -> RasterWindow:
    row, column = task.grid.offsets(window)
    _, height, width = window.shape
    return RasterWindow(column, row, width, height)


def _span(outputs: Sequence[_Output]) -> tuple[int, int]:
    return min(output.first for output in outputs), max(output.stop for output in outputs)


def _finished(
    task: MosaicTask, reader: CubeReader, outputs: Sequence[_Output], known: Mapping[str, str]
) -> dict[str, WrittenFile]:
    """Return the files that are there already and the same."""
    kept: dict[str, WrittenFile] = {}
    doubtful: list[_Output] = []
    for output in (output for output in outputs if output.final.is_file()):
        found = _written(output, kept=True)
        if known.get(output.name) == found.sha256:
            kept[output.name] = found
        elif output.name not in known:  # what is not as it was written is written again, whatever is read of it
            doubtful.append(output)
    with ExitStack() as stack:
        opened: list[tuple[_Output, Any]] = []
        for output in doubtful:
            try:
                dataset = stack.enter_context(rasterio.open(output.final, driver="GTiff"))
            except RasterioError:
                continue
            if _difference(dataset, task, _expected_header(task, output)) is None:
                opened.append((output, dataset))
        if opened:
            for window in task.windows(*_span([output for output, _ in opened])):
                values = _samples(task, reader, window)
                opened = [pair for pair in opened if _same(task, *pair, window, values)]
                if not opened:
                    break
        return kept | {output.name: _written(output, kept=True) for output, _ in opened}


def _same(task: MosaicTask, output: _Output, dataset: Any, window: Window, values: NDArray[Any]) -> bool:
    inside, bands = output.bands(window)
    if not bands:
        return True
    try:
        there = dataset.read(bands, window=_raster_window(task, window))
    except RasterioError:
        return False
    return bool(there.tobytes() == values[inside].tobytes())


def _write(task: MosaicTask, reader: CubeReader, outputs: Sequence[_Output], threads: int) -> dict[str, WrittenFile]:
    """Write files that are not there, or are to be replaced."""
    try:
        _check_room(task, outputs)
        _write_raw(task, reader, outputs)
        written = {}
        for output in outputs:
            _optimise(task, output, threads)
            output.raw.unlink()
            _check(task, output, _span(outputs))
            _publish(output)
            written[output.name] = _written(output, kept=False)
    except (RasterioError, OSError, CPLE_BaseError) as error:
        # Asked before what was written is removed: GDAL's own words say which call failed, and seldom why.
        if shutil.disk_usage(outputs[0].partial.parent).free < FULL_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
    else:
        return written
    finally:
        for output in outputs:
            _remove_own(output)


def _check_room(task: MosaicTask, outputs: Sequence[_Output]) -> None:
    """Refuse to begin on a disk that is full: the library that writes TIFF says so line by line, to the terminal."""
    free = shutil.disk_usage(outputs[0].partial.parent).free
    frame = math.prod((task.grid.height, task.grid.width)) * raster_dtype(task.stored.dtype).itemsize
    if free < max(FULL_BYTES, frame * sum(output.stop - output.first for output in outputs)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _remove_own(output: _Output) -> None:
    for path in output.partial.parent.glob(f"{output.partial.name}*"):
        path.unlink(missing_ok=True)


def _write_raw(task: MosaicTask, reader: CubeReader, outputs: Sequence[_Output]) -> None:
    """Walk the scene once, and write each frame uncompressed: tiles that are written in parts are cheap so."""
    tile = _tile(task)
    size = {"height": task.grid.height, "width": task.grid.width}
    with ExitStack() as stack:
        opened = []
        for output in outputs:
            profile = _creation(task, output.stop - output.first) | size
            # The driver's own extension is not that of a temporary name.
            dataset = stack.enter_context(
                rasterio.open(output.raw, "w", tiled=True, blockxsize=tile, blockysize=tile, **profile)
            )
            _describe(dataset, task, output)
            opened.append((output, dataset))
        for window in task.windows(*_span(outputs)):
            values = _samples(task, reader, window)
            for output, dataset in opened:
                inside, bands = output.bands(window)
                if bands:
                    dataset.write(values[inside], bands, window=_raster_window(task, window))
                    output.checksums.append(zlib.crc32(values[inside].data))


def _optimise(task: MosaicTask, output: _Output, threads: int) -> None:
    """Turn the plain file into a COG."""
    tile, longest = _tile(task), max(task.grid.height, task.grid.width)
    kind, item = raster_dtype(task.stored.dtype).kind, raster_dtype(task.stored.dtype).itemsize
    resampling = Resampling.nearest if _is_categorical(task) else Resampling.average
    factors = [2**level for level in range(1, longest.bit_length()) if longest > tile * 2 ** (level - 1)]
    if factors:
        # The driver would make the same overviews by way of a compressed file, in more than half as much time again.
        with rasterio.open(output.raw, "r+") as dataset:
            dataset.build_overviews(factors, resampling)
    # Older readers know the integer predictor for up to 32 bits only.
    predictor = 3 if kind == "f" else 2 if item <= 4 else 1
    options: dict[str, Any] = {"COMPRESS": "DEFLATE", "BIGTIFF": "IF_SAFER", "NUM_THREADS": str(threads)}
    if not task.is_stack:
        named = {1: "NO", 2: "STANDARD", 3: "FLOATING_POINT"}[predictor]
        options |= {"BLOCKSIZE": tile, "PREDICTOR": named, "LEVEL": DEFLATE_LEVEL}
        rasterio.shutil.copy(output.raw, output.partial, driver="COG", **options)
        return
    # Before GDAL 3.11 the COG driver interleaves bands by pixel: a tile of a thousand dates would be read for one.
    options |= {"TILED": "YES", "BLOCKXSIZE": tile, "BLOCKYSIZE": tile, "INTERLEAVE": "BAND"}
    options |= {"PREDICTOR": predictor, "ZLEVEL": DEFLATE_LEVEL}
    rasterio.shutil.copy(output.raw, output.partial, driver="GTiff", COPY_SRC_OVERVIEWS="YES", **options)


def _check(task: MosaicTask, output: _Output, span: tuple[int, int]) -> None:
    """Read a finished file back, header and every sample."""
    with rasterio.open(output.partial, driver="GTiff") as dataset:
        difference = _difference(dataset, task, _expected_header(task, output))
        if difference is not None:
            raise RunError(f"{output.final} did not come out as planned, its {difference}; run it again")
        expected = iter(output.checksums)
        for window in task.windows(*span):
            _, bands = output.bands(window)
            if bands:
                values = dataset.read(bands, window=_raster_window(task, window))
                if zlib.crc32(np.ascontiguousarray(values).data) != next(expected):
                    raise RunError(
                        f"{output.final} does not hold what was written, rows and columns from "
                        f"{task.grid.offsets(window)}; is the disk full? Make room and run it again"
                    )


def _publish(output: _Output) -> None:
    """Give a checked file its final name, once its bytes are on the disk."""
    with output.partial.open("rb+") as file:
        os.fsync(file.fileno())
    output.partial.replace(output.final)
    if os.name == "posix":
        folder = os.open(output.final.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _written(output: _Output, *, kept: bool) -> WrittenFile:
    with output.final.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return WrittenFile(path=output.name, bytes=output.final.stat().st_size, sha256=digest, kept=kept)
