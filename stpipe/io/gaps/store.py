"""Gap statistics as Zarr: a variable for each of them, dates as CF has them, north up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from xarray.backends.zarr import FillValueCoder
from zarr.codecs import BloscCodec, BloscShuffle

from stpipe.core.gap_statistics import EPOCH_UNITS, NO_DAY, GapCalendar, GapOptions, Statistic
from stpipe.core.ports import JSON, VariableInfo
from stpipe.io.cube import Cube
from stpipe.io.frames import RasterGrid
from stpipe.io.zarr_groups import consolidate

_STORED = ("chunks", "preferred_chunks", "compressors", "filters", "serializer", "compressor", "shards")


def create_store(
    path: Path, cube: Cube, calendar: GapCalendar, options: GapOptions, *, side: int, attrs: dict[str, JSON]
) -> None:
    """Create the group: coordinates of the cube without its time, and an empty array for every statistic.

    Parameters
    ----------
    path : Path
        Its folder.
    cube : Cube
        The cube; all its variables get statistics.
    calendar, options
        What is worked out.
    side : int
        Side of a footprint, which is a chunk.
    attrs : dict
        Attributes of the group.
    """
    grid = RasterGrid.of(cube)
    _, y, x = cube.dims
    template = cube.template().drop_dims(cube.dims[0])
    turned = {dim: slice(None, None, -1) for dim, flip in ((y, grid.flip_y), (x, grid.flip_x)) if flip}
    template = template.isel(turned, missing_dims="ignore")
    if options.by != "none":
        template = template.assign_coords({options.by: [group.key for group in calendar.groups]})
    for coordinate in template.variables.values():
        for key in _STORED:
            coordinate.encoding.pop(key, None)
    xr.Dataset(coords=template.coords, attrs={"Conventions": "CF-1.11", **attrs}).to_zarr(
        path, mode="w", zarr_format=3, consolidated=False
    )
    group = zarr.open_group(str(path), mode="r+")
    by = () if options.by == "none" else (options.by,)
    shape = (*((len(calendar.groups),) if by else ()), grid.height, grid.width)
    chunks = (*((1,) if by else ()), min(side, grid.height), min(side, grid.width))
    mapping: dict[str, JSON] = {} if cube.grid_mapping is None else {"grid_mapping": cube.grid_mapping}
    for info in cube.variables:
        for statistic in options.statistics:
            _create(group, info, statistic, shape, chunks, (*by, y, x), mapping)
    consolidate(path)


def _create(
    group: zarr.Group,
    info: VariableInfo,
    statistic: Statistic,
    shape: Sequence[int],
    chunks: Sequence[int],
    dims: Sequence[str],
    attrs: dict[str, JSON],
) -> None:
    dated = statistic.units == EPOCH_UNITS
    dtype = np.dtype(np.int32 if dated else np.float32)
    missing = NO_DAY if dated else float("nan")
    group.create_array(
        f"{info.name}_{statistic.name}",
        shape=tuple(shape),
        chunks=tuple(chunks),
        dtype=dtype,
        fill_value=missing,
        compressors=[BloscCodec(cname="zstd", clevel=1, shuffle=BloscShuffle.shuffle, typesize=4)],
        dimension_names=tuple(dims),
        attributes={
            **statistic_attrs(info.name, statistic),
            "_FillValue": FillValueCoder.encode(missing, dtype),
            **attrs,
        },
    )


def statistic_attrs(variable: str, statistic: Statistic) -> dict[str, JSON]:
    """Return the CF attributes of a statistic as it is stored.

    >>> from stpipe.core.gap_statistics import statistics_of
    >>> statistic_attrs("ndvi", statistics_of(())[5])
    {'long_name': 'ndvi: longest gap', 'units': 'day'}
    """
    attrs: dict[str, JSON] = {"long_name": f"{variable}: {statistic.long_name}", "units": statistic.units}
    if statistic.units == EPOCH_UNITS:
        attrs["calendar"] = "proleptic_gregorian"
    return attrs
