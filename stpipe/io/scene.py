"""A made-up scene as two Zarr cubes: what was observed, and the truth beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import rioxarray  # noqa: F401 - registers the accessor that writes the coordinate system
import xarray as xr

from stpipe.core.scene import Scene
from stpipe.core.sky import Sample
from stpipe.io.zarr_groups import consolidate

VARIABLE = "ndvi"
SCALE = 1e-4
NODATA = -32768
CHUNKS = {"time": 8, "y": 128, "x": 128}


def write_scene(scene: Scene, observed: Path, truth: Path) -> None:
    """Write a scene's observations and its truth, replacing cubes of these names.

    Parameters
    ----------
    scene : Scene
        What to write.
    observed : Path
        Zarr group to make: `ndvi` as int16 with scale and nodata, and the static variable `land`.
    truth : Path
        Zarr group to make: `ndvi` as float32, and `sample`, which says why each sample is or isn't observed.
    """
    ndvi = {"standard_name": "normalized_difference_vegetation_index", "long_name": "NDVI", "units": "1"}
    dims = ("time", "y", "x")
    seen = _cube(scene)
    seen[VARIABLE] = (dims, scene.observed, ndvi)
    seen["land"] = (("y", "x"), scene.land.astype(np.uint8), {"long_name": "1 outside the lake"})
    seen.attrs["title"] = "Made-up NDVI scene as a sensor would have seen it"
    packed = {"dtype": "int16", "scale_factor": SCALE, "_FillValue": NODATA}
    _write(seen, observed, {VARIABLE: packed, "land": {}})

    known = _cube(scene)
    known[VARIABLE] = (dims, scene.truth, ndvi)
    meanings = {
        "long_name": "why a sample is or isn't observed",
        "flag_values": [int(code) for code in Sample],
        "flag_meanings": " ".join(code.name.lower() for code in Sample),
    }
    known["sample"] = (dims, scene.sample, meanings)
    known.attrs["title"] = "Made-up NDVI scene: the truth"
    _write(known, truth, {VARIABLE: {"dtype": "float32", "_FillValue": np.float32(np.nan)}, "sample": {}})


def _cube(scene: Scene) -> xr.Dataset:
    spec = scene.spec
    x = spec.west_m + spec.resolution_m * (np.arange(spec.width) + 0.5)
    y = spec.north_m - spec.resolution_m * (np.arange(spec.height) + 0.5)
    cube = xr.Dataset(coords={"time": scene.times.astype("datetime64[ns]"), "y": y, "x": x})
    cube["y"].attrs = {"standard_name": "projection_y_coordinate", "units": "m", "axis": "Y"}
    cube["x"].attrs = {"standard_name": "projection_x_coordinate", "units": "m", "axis": "X"}
    cube["time"].attrs = {"standard_name": "time", "axis": "T"}
    cube.attrs["Conventions"] = "CF-1.11"
    named: xr.Dataset = cube.rio.write_crs(spec.crs)
    return named


def _write(cube: xr.Dataset, path: Path, encoding: dict[str, dict[str, Any]]) -> None:
    if path.exists():
        shutil.rmtree(path)
    for name, how in encoding.items():
        variable = cube[name]
        variable.attrs["grid_mapping"] = "spatial_ref"
        how["chunks"] = tuple(min(CHUNKS[str(dim)], cube.sizes[dim]) for dim in variable.dims)
    seconds = {"time": {"units": "seconds since 1970-01-01", "dtype": "int64"}}
    cube.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=encoding | seconds)
    consolidate(path)
