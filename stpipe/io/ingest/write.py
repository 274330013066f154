"""Write an ingest's cube: Zarr v3 with CF, a row of chunks at a time, under its final name only when complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stpipe.core.trust import Trust, remarks
from stpipe.errors import OutputError, RunError, StpipeError
from stpipe.execution.storage import one_line
from stpipe.io.georeference import grid_mapping_attrs
from stpipe.io.indices import SCALED
from stpipe.io.ingest.clear import CLEAR_TYPE, beside, rules_text
from stpipe.io.ingest.cubes import forget_batches
from stpipe.io.ingest.files import OPEN
from stpipe.io.ingest.partial import clear, locked, remove, remove_entry
from stpipe.io.ingest.pictures import Tally, count_clear, read_frame
from stpipe.io.ingest.plan import IngestPlan, Progress
from stpipe.io.ingest.records import Records
from stpipe.io.ingest.scenes import Frame, Scene
from stpipe.io.rasters import Grid, crs_name
from stpipe.io.run_folder import check_writable
from stpipe.io.times import nanoseconds
from stpipe.io.zarr_groups import consolidate

SOURCE = "stpipe ingest"
"""Attribute `source` of a cube made here, by which --overwrite knows what it may delete."""

YEAR_OF_REFORM = 1582
"""When the Gregorian calendar began."""

CUBE = "cube"
"""Name of the cube until it is complete, in a hidden folder beside the output."""

BUFFER_BYTES = 64 * 2**20
"""A row of chunks is written in pieces of at most this, all variables together, but never less than a chunk."""

AVERAGE_BYTES = 24
"""What a mean or a median takes for each sample that goes into it: two arrays of float64 and a few of bool."""

GDAL_CACHE_BYTES = 64 * 2**20
"""What GDAL may keep of blocks it has decoded."""


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse an output that exists, unless it is a cube made here and may be replaced."""
    if not output.exists() and not output.is_symlink():
        if not output.parent.is_dir():
            raise OutputError(f"there is no folder {output.parent} to write {output.name} into")
        check_writable(output)
        return
    if not overwrite:
        raise OutputError(f"{output} exists; choose another name with -o, or replace it with --overwrite")
    if not _is_ours(output):
        raise OutputError(
            f"{output} was not made by stpipe ingest, so --overwrite won't delete it; choose another name"
        )


def check_apart(plan: IngestPlan, output: Path) -> None:
    """Refuse to replace what is read."""
    place = output.resolve()
    for source in (Path(name).resolve() for name in {layer.origin or layer.path for layer in plan.layers}):
        if source.is_relative_to(place) or place.is_relative_to(source):
            raise OutputError(f"{output} is read from, so it can't be written; choose another name")


def write_cube(plan: IngestPlan, output: Path, *, overwrite: bool = False, progress: Progress | None = None) -> Tally:
    """Write the cube of a plan, or go on with it, and return what its rules did.

    Parameters
    ----------
    plan : IngestPlan
        From `stpipe.io.ingest.plan.plan_ingest`.
    output : Path
        Zarr group to make. Until it is complete it is in a hidden folder beside it, where the same plan finds what was
        written before it was interrupted; another plan starts anew.
    overwrite : bool
        Replace a cube made here before.
    progress : callable, optional
        Called with samples written and samples there are.

    Raises
    ------
    OutputError
        If the output may not be replaced, also if it came to be in the meantime; or if another process is writing it.
    """
    check_output(output, overwrite=overwrite)
    check_apart(plan, output)
    partial = partial_of(output)
    with locked(partial, output):
        return _write(plan, partial, output, overwrite=overwrite, progress=progress)


def partial_of(output: Path) -> Path:
    """Return the folder in which a cube is until it is complete.

    >>> partial_of(Path("data/cube.zarr")).as_posix()
    'data/.cube.zarr.partial'
    """
    return output.with_name(f".{output.name}.partial")


def _write(plan: IngestPlan, partial: Path, output: Path, *, overwrite: bool, progress: Progress | None) -> Tally:
    """Write the cube in a folder that no other process is at work in."""
    records = Records(partial, plan.identity())
    try:
        if not records.known():
            clear(partial)
            _create(plan, partial / CUBE)
            records.begin()
        for torn in (partial / CUBE).rglob("*.partial"):  # what zarr leaves when it is killed
            torn.unlink()
        tally = _fill(plan, partial / CUBE, records, progress)
        check_output(output, overwrite=overwrite)  # hours may have passed
        _put_in_place(partial / CUBE, output)
        remove(partial)
    except BaseException as error:
        kept = records.any_done()
        if not kept:
            with suppress(OSError):
                remove(partial)
        fate = "the same command goes on from what was written" if kept else "nothing of it was kept"
        if isinstance(error, StpipeError) and kept:
            raise type(error)(f"{error}; {fate}") from error
        if isinstance(error, OSError) and not isinstance(error, StpipeError):
            raise RunError(f"{output} can't be written, and {fate}: {one_line(error)}") from error
        raise
    return tally


def summary(plan: IngestPlan, output: Path, tally: Tally | None = None) -> dict[str, Any]:
    """Return what was made, as JSON can hold it."""
    written = [variable for variable in plan.variables if variable.name in plan.written]
    variables: dict[str, Any] = {
        variable.name: {
            "dtype": variable.dtype,
            "nodata": _plain(variable.nodata),
            "scale": variable.scale,
            "offset": variable.offset,
            "missing_frames": sum(not _scenes_of(frame, variable.name) for frame in plan.frames),
        }
        for variable in written
    }
    observed, lost = ({}, {}) if tally is None else (tally.observed, tally.dropped)
    shares = {name: lost[name] / max(1, count) for name, count in observed.items()}
    for index in plan.indices:
        variables[index.name] = {"dtype": index.dtype, "nodata": _plain(index.nodata), "formula": index.formula}
        if of_bands := [shares[band] for _, band in index.bands if band in shares]:
            shares[index.name] = max(of_bands)
    for name, share in shares.items():
        if name in variables:
            variables[name]["dropped"] = share
    said = () if tally is None else _remarks(plan, tally)
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
        "composited": [frame.time.isoformat() for frame in plan.frames if _most_scenes(frame) > 1],
        "rules": None if plan.trust is None else rules_text(plan.trust),
        "variables": {name: variables[name] for name in sorted(variables)},
        "clear": {layer.name: list(layer.variables) for layer in plan.clear},
        "static": [static.name for static in plan.statics],
        "warnings": [*plan.warnings, *said],
    }


def _remarks(plan: IngestPlan, tally: Tally) -> tuple[str, ...]:
    """Return what to say of the rules that decided on something; the others were not tested on any sample."""
    rules = () if plan.trust is None else plan.trust.rules
    asked = {rule for variable in plan.variables if variable.trust is not None for rule in variable.trust.rules}
    heeded = [number for number, rule in enumerate(rules) if rule in asked]
    return remarks(Trust(tuple(rules[number] for number in heeded)), tally.matches[heeded])


def _plain(nodata: float | None) -> float | None:
    return None if nodata is None or np.isnan(nodata) else nodata


def _scenes_of(frame: Frame, name: str) -> int:
    return sum(name in scene.layers for scene in frame.scenes)


def _most_scenes(frame: Frame) -> int:
    return max((_scenes_of(frame, name) for scene in frame.scenes for name in scene.layers), default=0)


def _is_ours(output: Path) -> bool:
    try:
        document = json.loads((output / "zarr.json").read_text())
        return str(document["attributes"]["source"]).startswith(SOURCE)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _put_in_place(partial: Path, output: Path) -> None:
    if not output.exists():
        partial.rename(output)
        return
    old = output.with_name(f".{output.name}.old")
    if old.exists() or old.is_symlink():
        remove_entry(old)
    output.rename(old)  # a folder can't be renamed over another one
    try:
        partial.rename(output)
    except BaseException:
        old.rename(output)
        raise
    remove_entry(old)


# --- metadata ----------------------------------------------------------------------------------------------------


def _create(plan: IngestPlan, path: Path) -> None:
    import dask.array as da

    coords = coordinates(plan.times, plan.grid)
    arrays: dict[str, xr.Variable] = {}
    for name, dtype, nodata, attrs in _described(plan):
        if linked := beside(attrs, name, plan.clear, plan.arrays):
            attrs["ancillary_variables"] = linked
        else:
            attrs.pop("ancillary_variables", None)
        # One Dask chunk of any size: it tells shape and type, and is never computed.
        empty = da.zeros(plan.extent, dtype=dtype, chunks=plan.extent)
        encoding = _encoding(dtype, nodata, plan.chunks, placed="spatial_ref" in coords)
        arrays[name] = xr.Variable(("time", "y", "x"), empty, attrs, encoding)
    for static in plan.statics:
        encoding = _encoding(static.dtype, static.nodata, plan.chunks[1:], placed="spatial_ref" in coords)
        empty = da.zeros(plan.grid.shape, dtype=static.dtype, chunks=plan.grid.shape)
        arrays[static.name] = xr.Variable(("y", "x"), empty, static.fields[0].attrs, encoding)
    attributes = {"Conventions": "CF-1.11", "source": SOURCE}
    if plan.every is not None:
        attributes["comment"] = f"each frame is the {plan.how} of {plan.every} from its date on"
    dataset = xr.Dataset(arrays, coords=coords, attrs=attributes)
    dataset.to_zarr(path, mode="w", compute=False, consolidated=False, zarr_format=3)
    consolidate(path)


def _encoding(dtype: str, nodata: float | None, chunks: tuple[int, ...], *, placed: bool) -> dict[str, Any]:
    from zarr.codecs import ZstdCodec

    encoding: dict[str, Any] = {
        "chunks": chunks,
        "_FillValue": None if nodata is None else np.dtype(dtype).type(nodata),
        # With a checksum, a damaged chunk is an error and not a wrong number.
        "compressors": (ZstdCodec(level=3, checksum=True),),
    }
    if nodata is not None:
        encoding["fill_value"] = nodata
    return encoding | ({"grid_mapping": "spatial_ref"} if placed else {})


def _described(plan: IngestPlan) -> Iterator[tuple[str, str, float | None, dict[str, Any]]]:
    """Yield name, type, nodata and attributes of what is written."""
    for variable in plan.variables:
        if variable.name in plan.written:
            attrs = dict(variable.attrs)
            if variable.scale != 1:
                attrs["scale_factor"] = variable.scale
            if variable.offset != 0:
                attrs["add_offset"] = variable.offset
            if variable.trust is not None:
                attrs["quality_rules"] = rules_text(variable.trust)
            yield variable.name, variable.dtype, variable.nodata, attrs
    for index in plan.indices:
        constants = [f"{letter}={number:g}" for letter, number in index.constants]
        bands = ", ".join([*(f"{letter}={name}" for letter, name in index.bands), *constants])
        attrs = {"long_name": index.title, "formula": f"{index.formula} with {bands}"}
        rules = [v.trust for v in plan.variables if v.trust is not None and v.name in dict(index.bands).values()]
        if rules:
            attrs["quality_rules"] = rules_text(max(rules, key=lambda trust: len(trust.rules)))
        yield index.name, index.dtype, index.nodata, attrs | ({"scale_factor": SCALED} if index.scaled else {})
    for layer in plan.clear:
        yield layer.name, CLEAR_TYPE.name, None, dict(layer.attrs)


def coordinates(times: tuple[datetime, ...], grid: Grid) -> dict[str, xr.Variable]:
    """Return CF coordinates of pixel centres and times, and the grid mapping if there is a CRS."""
    a, _, c, _, e, f = grid.transform
    rows, columns = grid.shape
    whole_days = all(time.time() == datetime.min.time() for time in times)
    unit = "days" if whole_days else "microseconds" if any(time.microsecond for time in times) else "seconds"
    labels = nanoseconds(np.array(times, dtype="datetime64[us]"))
    # The standard calendar is Julian before its reform, and Python's dates are not.
    calendar = "standard" if min(times).year > YEAR_OF_REFORM else "proleptic_gregorian"
    encoding = {"units": f"{unit} since 1970-01-01", "calendar": calendar, "dtype": "int64"}
    coords = {
        "time": xr.Variable("time", labels, {"standard_name": "time", "axis": "T"}, encoding),
        "y": xr.Variable("y", f + e * (np.arange(rows) + 0.5), _axis_attrs("y", grid.crs_wkt), {"_FillValue": None}),
        "x": xr.Variable("x", c + a * (np.arange(columns) + 0.5), _axis_attrs("x", grid.crs_wkt), {"_FillValue": None}),
    }
    if grid.crs_wkt is not None:
        coords["spatial_ref"] = xr.Variable((), np.int64(0), grid_mapping_attrs(grid.crs_wkt, grid.transform))
    return coords


def _axis_attrs(axis: str, crs_wkt: str | None) -> dict[str, str]:
    """Return what CF calls an axis, and its unit, by the CRS.

    >>> from pyproj import CRS
    >>> [_axis_attrs("y", CRS.from_epsg(code).to_wkt())["units"] for code in (32633, 4326, 2263)]
    ['m', 'degrees_north', '0.304800609601219 metre']
    """
    attrs = {"axis": axis.upper()}
    if crs_wkt is None:
        return attrs
    from pyproj import CRS

    usual = {"standard_name": f"projection_{axis}_coordinate", "units": "metre"}
    told = next((one for one in CRS.from_wkt(crs_wkt).cs_to_cf() if one.get("axis") == axis.upper()), {})
    found = {key: str(told.get(key, otherwise)) for key, otherwise in usual.items()}
    return attrs | found | ({"units": "m"} if found["units"] == "metre" else {})


# --- samples -----------------------------------------------------------------------------------------------------


def _fill(plan: IngestPlan, path: Path, records: Records, progress: Progress | None) -> Tally:
    import rasterio

    try:
        # GDAL's own cache would grow to a twentieth of the machine's memory.
        with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES):
            return _copy(plan, path, records, progress)
    finally:
        OPEN.close()
        forget_batches()


def _copy(plan: IngestPlan, path: Path, records: Records, progress: Progress | None) -> Tally:
    import zarr

    for static in plan.statics:
        array = zarr.open_array(path / static.name, mode="r+")
        for rows, columns in _boxes(plan):
            array[rows, columns] = static.read(plan.grid, rows, columns)
    arrays = {name: zarr.open_array(path / name, mode="r+") for name in plan.arrays}
    tally = Tally.of(plan)
    total, done = prod(plan.extent) * len(arrays), 0
    for frames, pieces in _pieces(plan):
        orders = {number: _ordered(plan, records, number) for number in range(frames.start, frames.stop)}
        for rows, columns in pieces:
            shape = (frames.stop - frames.start, rows.stop - rows.start, columns.stop - columns.start)
            key = (frames.start, rows.start, columns.start)
            counted = records.done(key, plan)
            if counted is None:
                buffers = {name: np.empty(shape, dtype=array.dtype) for name, array in arrays.items()}
                counted = Tally.of(plan)
                for place, number in enumerate(range(frames.start, frames.stop)):
                    frame = {name: buffer[place] for name, buffer in buffers.items()}
                    counted.add(_read_into(frame, plan, orders[number], rows, columns))
                for name, buffer in buffers.items():
                    arrays[name][frames, rows, columns] = buffer
                records.add(key, counted)
            tally.add(counted)
            done += prod(shape) * len(arrays)
            if progress is not None:
                progress(done, total)
        OPEN.close()  # the next frames have other files
    return tally


def _read_into(
    frame: dict[str, NDArray[Any]], plan: IngestPlan, scenes: tuple[Scene, ...], rows: slice, columns: slice
) -> Tally:
    """Read a window of a frame into arrays of its shape, part by part."""
    counted = Tally.of(plan)
    for part_rows, part_columns in _parts(plan, len(scenes), rows, columns):
        pictures, one = read_frame(plan, scenes, part_rows, part_columns)
        counted.add(one)
        down = slice(part_rows.start - rows.start, part_rows.stop - rows.start)
        across = slice(part_columns.start - columns.start, part_columns.stop - columns.start)
        for name, whole in frame.items():
            whole[down, across] = pictures[name]
    return counted


def _ordered(plan: IngestPlan, records: Records, number: int) -> tuple[Scene, ...]:
    """Return the scenes of a frame in the order that matters: the clearest first, or by time."""
    scenes = plan.frames[number].scenes
    if plan.how != "least-cloud" or len(scenes) < 2:
        return scenes
    counts = records.clear(number)
    if counts is None:
        boxes = list(_boxes(plan))
        counts = [sum(count_clear(plan, scene, rows, columns) for rows, columns in boxes) for scene in scenes]
        records.add_clear(number, counts)
    return tuple(scenes[at] for at in sorted(range(len(scenes)), key=lambda at: (-counts[at], at)))


def _pieces(plan: IngestPlan) -> Iterator[tuple[slice, list[tuple[slice, slice]]]]:
    """Yield frames, and the rows and columns of each piece to write at once: whole chunks, bounded in bytes."""
    boxes = list(_boxes(plan))
    for frame in range(0, plan.extent[0], plan.chunks[0]):
        yield slice(frame, min(frame + plan.chunks[0], plan.extent[0])), boxes


def _boxes(plan: IngestPlan) -> Iterator[tuple[slice, slice]]:
    _, height, width = plan.extent
    t, y, x = plan.chunks
    wide = max(1, BUFFER_BYTES // (t * y * x * _pixel_bytes(plan))) * x
    for row in range(0, height, y):
        for column in range(0, width, wide):
            yield slice(row, min(row + y, height)), slice(column, min(column + wide, width))


def _parts(plan: IngestPlan, scenes: int, rows: slice, columns: slice) -> Iterator[tuple[slice, slice]]:
    """Yield what is read of a piece at once, so that memory does not grow with the number of scenes of a frame.

    Whole chunks as long as they fit: sources are often cut as the cube is, and half of one takes as long as all of it.
    """
    fit = BUFFER_BYTES // (max(1, scenes) * (_pixel_bytes(plan) + AVERAGE_BYTES))
    y, x = plan.chunks[1:]
    wide = max(1, fit // (x * y)) * x
    tall = max(1, fit // min(wide, columns.stop - columns.start))
    for row in range(rows.start, rows.stop, tall):
        for column in range(columns.start, columns.stop, wide):
            yield slice(row, min(row + tall, rows.stop)), slice(column, min(column + wide, columns.stop))


def _pixel_bytes(plan: IngestPlan) -> int:
    types = {variable.name: variable.dtype for variable in plan.variables}
    types |= {index.name: index.dtype for index in plan.indices}
    types |= {layer.name: CLEAR_TYPE.name for layer in plan.clear}
    return sum(np.dtype(dtype).itemsize for dtype in types.values())
