"""Make a cube of a series of rasters: decide frames, grid and types first, then write it a row of chunks at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from stpipe.core.windows import Triple, triple
from stpipe.errors import CubeError, OptionError
from stpipe.io.filenames import YEAR_WITHOUT, has_year, read_names
from stpipe.io.rasters import Grid, Layer, describe_file, find_files, grid_of

SameDay = Literal["refuse", "first", "last", "mean", "median"]
"""What to make of several scenes of one day."""

RESAMPLINGS = (
    *("nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average", "mode"),
    *("max", "min", "med", "q1", "q3", "rms"),
)
"""GDAL's ways to resample that a warp can use."""

DEFAULT_CHUNKS: Triple = (32, 256, 256)
"""Small enough to read a block without much else, large enough to be few."""

_SHOWN = 3

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariablePlan:
    """One variable of the cube to be, and where each frame of it comes from."""

    name: str
    """Name in the cube."""

    dtype: str
    """Stored type."""

    nodata: float | None
    """Stored value of gaps; NaN for floats; None where integers have none."""

    scale: float
    """Physical value = stored value x scale + offset."""

    offset: float
    """See `scale`."""

    units: str | None
    """Units, if the files say so."""

    frames: tuple[tuple[Layer, ...], ...]
    """Scenes of each frame, earliest first; none where the series has no file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestPlan:
    """All that is decided before the first sample is read."""

    grid: Grid
    """Grid of the cube."""

    times: tuple[datetime, ...]
    """Time of each frame."""

    variables: tuple[VariablePlan, ...]
    """What is written."""

    chunks: Triple
    """Chunk lengths along (time, y, x)."""

    resampling: str
    """How layers on other grids are warped."""

    same_day: SameDay
    """How scenes of one frame are put together."""

    extra_nodata: float | None
    """Stored value that means gap in every file."""

    warnings: tuple[str, ...]
    """What the user should know."""

    @property
    def extent(self) -> Triple:
        """Shape of the cube."""
        return (len(self.times), *self.grid.shape)

    @property
    def layers(self) -> list[Layer]:
        """All layers."""
        return [layer for variable in self.variables for frame in variable.frames for layer in frame]

    @property
    def warped(self) -> int:
        """Number of layers that lie on another grid."""
        return sum(not layer.grid.same_as(self.grid) for layer in self.layers)


def plan_ingest(
    sources: Sequence[str],
    *,
    pattern: str | None = None,
    align: str | None = None,
    resampling: str = "nearest",
    same_day: SameDay = "refuse",
    chunks: Triple | None = None,
    nodata: float | None = None,
    progress: Progress | None = None,
) -> IngestPlan:
    """Return what a cube of these files will be; only their headers are read.

    Parameters
    ----------
    sources : sequence of str
        Folders, globs and files.
    pattern : str, optional
        Template or regular expression of the file names; see `stpipe.io.filenames.read_names`.
    align : str, optional
        ``"first"``, or a raster on whose grid all files are warped; without it, files must share one grid.
    resampling : str
        One of `RESAMPLINGS`, for files that are warped.
    same_day : {"refuse", "first", "last", "mean", "median"}
        What to make of several scenes of one day: refuse those of the very same time, or make one frame of each day.
    chunks : (time, y, x), optional
        Chunk lengths; `DEFAULT_CHUNKS` unless given.
    nodata : float, optional
        Stored value that means gap, in addition to what the files say.
    progress : callable, optional
        Called with files seen and files there are.
    """
    if resampling not in RESAMPLINGS:
        raise OptionError(f"--resampling is one of {', '.join(RESAMPLINGS)}, got {resampling!r}")
    if same_day not in get_args(SameDay):
        raise OptionError(f"--same-day is one of {', '.join(get_args(SameDay))}, got {same_day!r}")
    if chunks is not None and min(chunks) < 1:
        raise OptionError(f"--chunks needs three lengths of at least 1, got {chunks}")
    files = read_names(find_files(sources), pattern)
    several = len({file.variable for file in files}) > 1
    layers: list[Layer] = []
    for number, file in enumerate(files):
        layers += describe_file(file.path, file.variable, file.time, prefix=several)
        if progress is not None:
            progress(number + 1, len(files))

    grid = _common_grid(layers, align)
    times, scenes = _frames(layers, same_day)
    variables = tuple(_plan_variable(name, frames, times, grid, nodata) for name, frames in scenes.items())
    wanted = DEFAULT_CHUNKS if chunks is None else chunks
    extent = (len(times), *grid.shape)
    return IngestPlan(
        grid=grid,
        times=times,
        variables=variables,
        chunks=triple(min(pair) for pair in zip(wanted, extent, strict=True)),
        resampling=resampling,
        same_day=same_day,
        extra_nodata=nodata,
        warnings=tuple(_warnings(variables, times, grid, pattern)),
    )


def _common_grid(layers: Sequence[Layer], align: str | None) -> Grid:
    first = layers[0]
    grid = first.grid if align in {None, "first"} else grid_of(Path(str(align)).expanduser())
    if grid.transform[1] or grid.transform[3]:
        raise CubeError(f"a cube has rows and columns along its axes, but the grid of {first.path} is turned: {grid}")
    others = [layer for layer in layers if not layer.grid.same_as(grid)]
    if not others:
        return grid
    if align is None:
        count, total = len({layer.path for layer in others}), len({layer.path for layer in layers})
        raise CubeError(
            f"all files need one grid, but {first.path} has {grid}, and {others[0].path} has {others[0].grid}; "
            f"{count} of {total} files differ from the first; warp them with --align first or --align FILE, or choose "
            "files that agree"
        )
    for layer in others:
        if layer.grid.crs_wkt is None or grid.crs_wkt is None:
            raise CubeError(f"{layer.path} can't be warped to the grid of --align: one of both has no CRS")
    return grid


def _frames(
    layers: Iterable[Layer], same_day: SameDay
) -> tuple[tuple[datetime, ...], dict[str, tuple[tuple[Layer, ...], ...]]]:
    """Return the times of the frames, and by variable the layers of each."""
    by_frame: defaultdict[datetime, defaultdict[str, list[Layer]]] = defaultdict(lambda: defaultdict(list))
    for layer in layers:
        midnight = layer.time.replace(hour=0, minute=0, second=0, microsecond=0)
        by_frame[layer.time if same_day == "refuse" else midnight][layer.variable].append(layer)
    keys = sorted(by_frame)
    if same_day == "refuse":
        _refuse_pairs([(key, name, found) for key in keys for name, found in by_frame[key].items() if len(found) > 1])
    times = tuple(min(layer.time for found in by_frame[key].values() for layer in found) for key in keys)
    names = sorted({name for frame in by_frame.values() for name in frame})
    scenes = {name: tuple(tuple(sorted(by_frame[key].get(name, ()), key=_age)) for key in keys) for name in names}
    return times, scenes


def _age(layer: Layer) -> tuple[datetime, str, int]:
    return layer.time, layer.path, layer.band


def _refuse_pairs(pairs: Sequence[tuple[datetime, str, Sequence[Layer]]]) -> None:
    if not pairs:
        return
    dates = list(dict.fromkeys(key for key, _, _ in pairs))
    shown = ", ".join(str(key).removesuffix(" 00:00:00") for key in dates[:_SHOWN])
    more = f" and {len(dates) - _SHOWN} more" if len(dates) > _SHOWN else ""
    _, name, found = pairs[0]
    some = "1 date has" if len(dates) == 1 else f"{len(dates)} dates have"
    raise CubeError(
        f"{some} several scenes of one variable: {shown}{more} (variable {name!r}: "
        f"{', '.join(Path(layer.path).name for layer in found[:_SHOWN])}); make one frame of them with "
        "--same-day first, last, mean or median"
    )


def _plan_variable(
    name: str, frames: tuple[tuple[Layer, ...], ...], times: Sequence[datetime], grid: Grid, extra: float | None
) -> VariablePlan:
    layers = [layer for frame in frames for layer in frame]
    first = layers[0]
    dtype = _common_dtype(name, layers)
    for layer in layers:
        if (layer.scale, layer.offset) != (first.scale, first.offset):
            raise CubeError(
                f"variable {name!r} needs one scale and offset, but {first.path} has {first.scale:g} and "
                f"{first.offset:g}, and {layer.path} has {layer.scale:g} and {layer.offset:g}; bring them to one first"
            )
    nodata = _common_nodata(name, layers, dtype, extra)
    if nodata is None:
        absent = [str(time) for time, frame in zip(times, frames, strict=True) if not frame]
        if absent:
            raise CubeError(
                f"variable {name!r} has no file on {len(absent)} of {len(times)} dates ({absent[0]}), and its type "
                f"{dtype} has no nodata to say so; give one with --nodata"
            )
        warped = [layer for layer in layers if not layer.grid.same_as(grid)]
        if warped:
            raise CubeError(
                f"{warped[0].path} is to be warped, and its type {dtype} has no nodata for pixels that it does not "
                "cover; give one with --nodata"
            )
    return VariablePlan(
        name=name,
        dtype=dtype.name,
        nodata=nodata,
        scale=first.scale,
        offset=first.offset,
        units=next((layer.units for layer in layers if layer.units), None),
        frames=frames,
    )


def _common_dtype(name: str, layers: Sequence[Layer]) -> np.dtype[Any]:
    """Return the type that holds all samples of a variable exactly."""
    by_type = {np.dtype(layer.dtype): layer for layer in layers}
    common = np.result_type(*by_type)
    for dtype, layer in by_type.items():
        if dtype.kind in "iu" and common.kind == "f":
            other = next(o for d, o in by_type.items() if d != dtype)
            raise CubeError(
                f"variable {name!r} has several types that have no common one: {dtype} in {layer.path}, {other.dtype} "
                f"in {other.path}; convert them first: gdal_translate -ot"
            )
    return common


def _common_nodata(name: str, layers: Sequence[Layer], dtype: np.dtype[Any], extra: float | None) -> float | None:
    if dtype.kind == "f":
        return float("nan")
    limits = np.iinfo(dtype)
    if extra is not None:
        if extra != np.rint(extra) or not limits.min <= extra <= limits.max:
            raise OptionError(f"--nodata {extra:g} can't be stored in variable {name!r}, whose type is {dtype}")
        return int(extra)
    stated = {layer.nodata: layer for layer in layers if layer.nodata is not None and _holds(dtype, layer.nodata)}
    if len(stated) > 1:
        (a, one), (b, other) = list(stated.items())[:2]
        raise CubeError(
            f"variable {name!r} needs one nodata, but {one.path} has {a:g} and {other.path} has {b:g}; choose one with "
            "--nodata, and both will become it"
        )
    return int(next(iter(stated))) if stated else None


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    limits = np.iinfo(dtype)
    return bool(np.isfinite(value)) and value == np.rint(value) and limits.min <= value <= limits.max


def _warnings(
    variables: Sequence[VariablePlan], times: Sequence[datetime], grid: Grid, pattern: str | None
) -> Iterable[str]:
    if not has_year(pattern):
        yield f"the pattern has no year, so the frames are dated {YEAR_WITHOUT}"
    if grid.crs_wkt is None:
        yield "the files have no CRS, so the cube has none"
    for variable in variables:
        absent = [time for time, frame in zip(times, variable.frames, strict=True) if not frame]
        if absent:
            yield f"variable {variable.name!r} has no file on {len(absent)} of {len(times)} dates; they are all gap"
