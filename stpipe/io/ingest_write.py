"""Write an ingest's cube: Zarr v3 with CF, a row of chunks at a time, under its final name only when complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stpipe.errors import OutputError, RunError, StpipeError
from stpipe.io.georeference import grid_mapping_attrs
from stpipe.io.ingest import IngestPlan, Progress, VariablePlan
from stpipe.io.rasters import Grid, Layer, LayerReader, crs_name
from stpipe.io.stored import one_line

SOURCE = "stpipe ingest"
"""Attribute `source` of a cube made here, by which --overwrite knows what it may delete."""

BUFFER_BYTES = 128 * 2**20
"""A row of chunks is written in pieces of at most this, but never less than a chunk."""

GDAL_CACHE_BYTES = 128 * 2**20
"""What GDAL may keep of blocks it has decoded."""


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse an output that exists, unless it is a cube made here and may be replaced."""
    if not output.exists() and not output.is_symlink():
        if not output.parent.is_dir():
            raise OutputError(f"there is no folder {output.parent} to write {output.name} into")
        return
    if not overwrite:
        raise OutputError(f"{output} exists; choose another name with -o, or replace it with --overwrite")
    if not _is_ours(output):
        raise OutputError(
            f"{output} was not made by stpipe ingest, so --overwrite won't delete it; choose another name"
        )


def write_cube(plan: IngestPlan, output: Path, *, overwrite: bool = False, progress: Progress | None = None) -> None:
    """Write the cube of a plan.

    Parameters
    ----------
    plan : IngestPlan
        From `stpipe.io.ingest.plan_ingest`.
    output : Path
        Zarr group to make. Until it is complete it goes by a hidden name beside it.
    overwrite : bool
        Replace a cube made here before.
    progress : callable, optional
        Called with samples written and samples there are.
    """
    check_output(output, overwrite=overwrite)
    partial = output.with_name(f".{output.name}.partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)  # what a killed run left
        _create(plan, partial)
        _fill(plan, partial, progress)
        _put_in_place(partial, output)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, StpipeError):
            raise RunError(f"{output} can't be written, and nothing of it was kept: {one_line(error)}") from error
        raise


def summary(plan: IngestPlan, output: Path) -> dict[str, Any]:
    """Return what was made, as JSON can hold it."""
    several = [time for time, scenes in zip(plan.times, _scenes_by_frame(plan), strict=True) if scenes > 1]
    return {
        "output": str(output),
        "shape": list(plan.extent),
        "chunks": list(plan.chunks),
        "first": plan.times[0].isoformat(),
        "last": plan.times[-1].isoformat(),
        "crs": crs_name(plan.grid.crs_wkt) if plan.grid.crs_wkt else None,
        "transform": list(plan.grid.transform),
        "files": len({layer.path for layer in plan.layers}),
        "warped_layers": plan.warped,
        "composited": [time.isoformat() for time in several],
        "variables": {
            variable.name: {
                "dtype": variable.dtype,
                "nodata": None if variable.nodata is None or np.isnan(variable.nodata) else variable.nodata,
                "scale": variable.scale,
                "offset": variable.offset,
                "missing_frames": sum(not frame for frame in variable.frames),
            }
            for variable in plan.variables
        },
        "warnings": list(plan.warnings),
    }


def _scenes_by_frame(plan: IngestPlan) -> Iterator[int]:
    for number in range(len(plan.times)):
        yield max(len(variable.frames[number]) for variable in plan.variables)


def _is_ours(output: Path) -> bool:
    try:
        document = json.loads((output / "zarr.json").read_text())
        return str(document["attributes"]["source"]).startswith(SOURCE)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _put_in_place(partial: Path, output: Path) -> None:
    if not output.exists():
        partial.rename(output)
        return
    old = output.with_name(f".{output.name}.old")
    if old.exists():
        shutil.rmtree(old)
    output.rename(old)  # a folder can't be renamed over another one
    try:
        partial.rename(output)
    except BaseException:
        old.rename(output)
        raise
    shutil.rmtree(old)


# --- metadata ----------------------------------------------------------------------------------------------------


def _create(plan: IngestPlan, path: Path) -> None:
    import dask.array as da
    from zarr.codecs import ZstdCodec

    coords = coordinates(plan.times, plan.grid)
    arrays: dict[str, xr.Variable] = {}
    for variable in plan.variables:
        # One Dask chunk of any size: it tells shape and type, and is never computed.
        empty = da.zeros(plan.extent, dtype=variable.dtype, chunks=plan.extent)
        attrs: dict[str, Any] = {"units": variable.units} if variable.units else {}
        if variable.scale != 1:
            attrs["scale_factor"] = variable.scale
        if variable.offset != 0:
            attrs["add_offset"] = variable.offset
        encoding: dict[str, Any] = {
            "chunks": plan.chunks,
            "_FillValue": None if variable.nodata is None else np.dtype(variable.dtype).type(variable.nodata),
            # With a checksum, a damaged chunk is an error and not a wrong number.
            "compressors": (ZstdCodec(level=3, checksum=True),),
        }
        if variable.nodata is not None:
            encoding["fill_value"] = variable.nodata
        if "spatial_ref" in coords:
            encoding["grid_mapping"] = "spatial_ref"
        arrays[variable.name] = xr.Variable(("time", "y", "x"), empty, attrs, encoding)
    dataset = xr.Dataset(arrays, coords=coords, attrs={"Conventions": "CF-1.11", "source": SOURCE})
    dataset.to_zarr(path, mode="w", compute=False, consolidated=False, zarr_format=3)


def coordinates(times: tuple[datetime, ...], grid: Grid) -> dict[str, xr.Variable]:
    """Return CF coordinates of pixel centres and times, and the grid mapping if there is a CRS."""
    a, _, c, _, e, f = grid.transform
    rows, columns = grid.shape
    geographic = _is_geographic(grid.crs_wkt)
    whole_days = all(time.time() == datetime.min.time() for time in times)
    unit = "days" if whole_days else "microseconds" if any(time.microsecond for time in times) else "seconds"
    labels = np.array(times, dtype="datetime64[us]").astype("datetime64[ns]")
    encoding = {"units": f"{unit} since 1970-01-01", "calendar": "standard", "dtype": "int64"}
    coords = {
        "time": xr.Variable("time", labels, {"standard_name": "time", "axis": "T"}, encoding),
        "y": xr.Variable("y", f + e * (np.arange(rows) + 0.5), _axis_attrs("y", geographic), {"_FillValue": None}),
        "x": xr.Variable("x", c + a * (np.arange(columns) + 0.5), _axis_attrs("x", geographic), {"_FillValue": None}),
    }
    if grid.crs_wkt is not None:
        coords["spatial_ref"] = xr.Variable((), np.int64(0), grid_mapping_attrs(grid.crs_wkt, grid.transform))
    return coords


def _axis_attrs(axis: str, geographic: bool | None) -> dict[str, str]:
    if geographic is None:
        return {"axis": axis.upper()}
    if geographic:
        names = {"y": ("latitude", "degrees_north"), "x": ("longitude", "degrees_east")}
        return {"axis": axis.upper(), "standard_name": names[axis][0], "units": names[axis][1]}
    return {"axis": axis.upper(), "standard_name": f"projection_{axis}_coordinate", "units": "m"}


def _is_geographic(crs_wkt: str | None) -> bool | None:
    if crs_wkt is None:
        return None
    from pyproj import CRS

    return bool(CRS.from_wkt(crs_wkt).is_geographic)


# --- samples -----------------------------------------------------------------------------------------------------


def _fill(plan: IngestPlan, path: Path, progress: Progress | None) -> None:
    import rasterio

    # GDAL's own cache would grow to a twentieth of the machine's memory.
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES):
        _copy(plan, path, progress)


def _copy(plan: IngestPlan, path: Path, progress: Progress | None) -> None:
    import zarr

    total, done = prod(plan.extent) * len(plan.variables), 0
    for variable in plan.variables:
        array = zarr.open_array(path / variable.name, mode="r+")
        for frames, pieces in _pieces(plan, np.dtype(variable.dtype).itemsize):
            with LayerReader(plan.grid, plan.resampling) as reader:  # open through all rows of these frames
                for rows, columns in pieces:
                    shape = (frames.stop - frames.start, rows.stop - rows.start, columns.stop - columns.start)
                    buffer = np.empty(shape, dtype=variable.dtype)
                    for place, number in enumerate(range(frames.start, frames.stop)):
                        scenes = variable.frames[number]
                        buffer[place] = _frame(plan, variable, reader, scenes, rows, columns)
                    array[frames, rows, columns] = buffer
                    done += buffer.size
                    if progress is not None:
                        progress(done, total)


def _pieces(plan: IngestPlan, itemsize: int) -> Iterator[tuple[slice, list[tuple[slice, slice]]]]:
    """Yield frames, and the rows and columns of each piece to write at once: whole chunks, bounded in bytes."""
    t, y, x = plan.chunks
    frames, height, width = plan.extent
    wide = max(1, BUFFER_BYTES // (t * y * x * itemsize)) * x
    boxes = [
        (slice(row, min(row + y, height)), slice(column, min(column + wide, width)))
        for row in range(0, height, y)
        for column in range(0, width, wide)
    ]
    for frame in range(0, frames, t):
        yield slice(frame, min(frame + t, frames)), boxes


def _frame(
    plan: IngestPlan,
    variable: VariablePlan,
    reader: LayerReader,
    scenes: tuple[Layer, ...],
    rows: slice,
    columns: slice,
) -> NDArray[Any]:
    """Return a window of one frame, put together from its scenes."""
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    if not scenes:
        return np.full(shape, variable.nodata, dtype=variable.dtype)
    pictures = [_scene(plan, variable, reader, layer, rows, columns) for layer in scenes]
    return pictures[0] if len(pictures) == 1 else composite(pictures, variable.nodata, plan.same_day)


def _scene(
    plan: IngestPlan, variable: VariablePlan, reader: LayerReader, layer: Layer, rows: slice, columns: slice
) -> NDArray[Any]:
    """Return a window of one layer, in the variable's type, with the variable's nodata in its gaps."""
    stored = reader.read(layer, rows, columns, variable.nodata)
    samples = stored.astype(variable.dtype)
    for nodata in (layer.nodata, plan.extra_nodata):
        if nodata is not None and variable.nodata is not None and not np.isnan(nodata):
            # As in `stpipe.core.samples`: a float32 nodata written with few digits is not exactly the one in the file.
            gap = np.isclose(stored, nodata, rtol=1e-6, atol=0) if abs(nodata) > 1e30 else stored == nodata
            samples[gap] = variable.nodata
    return samples


def composite(pictures: list[NDArray[Any]], nodata: float | None, how: str) -> NDArray[Any]:
    """Return one picture of several, by pixel, gaps left out.

    Parameters
    ----------
    pictures : list of (y, x) ndarray
        Earliest first.
    nodata : float or None
        Stored value of gaps; NaN for floats.
    how : {"first", "last", "mean", "median"}
        Integers are rounded to the nearest.

    Examples
    --------
    >>> one, other = np.array([[1, 9, 9]]), np.array([[4, 5, 9]])
    >>> composite([one, other], 9, "mean"), composite([one, other], 9, "last")
    (array([[2, 5, 9]]), array([[4, 5, 9]]))
    """
    gaps = [_is_gap(picture, nodata) for picture in pictures]
    if how in {"first", "last"}:
        pairs = list(zip(pictures, gaps, strict=True))
        if how == "last":
            pairs.reverse()
        result, empty = pairs[0][0].copy(), pairs[0][1].copy()
        for picture, gap in pairs[1:]:
            usable = empty & ~gap
            result[usable] = picture[usable]
            empty &= gap
        return result
    stack = np.ma.masked_array(np.stack(pictures).astype(np.float64), mask=np.stack(gaps))
    middle: Any = stack.mean(axis=0) if how == "mean" else np.ma.median(stack, axis=0)  # type: ignore[no-untyped-call]
    empty = np.ma.getmaskarray(middle)
    values = np.ma.getdata(middle)
    dtype = pictures[0].dtype
    result = np.where(empty, 0, values if dtype.kind == "f" else np.rint(values)).astype(dtype)
    if empty.any():
        result[empty] = nodata
    return result


def _is_gap(picture: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    gap: NDArray[np.bool_] = np.zeros(picture.shape, dtype=bool)
    if picture.dtype.kind == "f":
        gap = np.isnan(picture)
    elif nodata is not None:
        gap = picture == nodata
    return gap
