"""Coefficients of regressions on radar as a Zarr group on the cube's grid: written by one run, for others to go by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BloscShuffle

from stpipe.core.geometry import TileGrid
from stpipe.core.ports import JSON
from stpipe.core.resampling import Axis
from stpipe.core.windows import Window
from stpipe.errors import CubeError, OptionError
from stpipe.execution.storage import located, zarr_place
from stpipe.io.cube import Cube
from stpipe.io.places import Place, axes_of
from stpipe.io.radar import Radar
from stpipe.io.run_folder import file_state
from stpipe.io.scratch import open_array, read_checked
from stpipe.io.stored import absolute
from stpipe.io.zarr_groups import consolidate
from stpipe.methods.sar.coefficients import field_names

F32 = NDArray[np.float32]

MARK = "stpipe_coefficients"
"""Attribute that tells such a group from others."""

VERSION = 1
"""Of the layout."""

COEFFICIENTS = "coefficients.zarr"
"""Its name as a product."""


def radar_options(radar: Radar) -> dict[str, JSON]:
    """Return what a regression on radar depends on, as attributes of its coefficients."""
    return {
        "groups": [list(group) for group in radar.groups],
        "window_days": radar.part.window_days,
        "average": radar.average,
    }


def write_coefficients(
    path: Path,
    cube: Cube,
    tiles: TileGrid,
    radar: Radar,
    read: Mapping[str, Callable[[Window], F32]],
) -> None:
    """Write the coefficients of a run, tile by tile.

    Parameters
    ----------
    path : Path
        The group, which is made anew.
    cube : Cube
        Whose pixels they are of.
    tiles : TileGrid
        Parts of the scene, of which each becomes a chunk.
    radar : Radar
        What they are of.
    read : mapping of str to callable
        For each variable, given a tile, returns (field, y, x) in the variable's units, in the order of `field_names`.
    """
    template = cube.template()
    time, y, x = cube.dims
    kept = {name: c for name, c in template.coords.items() if time not in c.dims and c.dtype.kind in "iufbM"}
    for coordinate in kept.values():
        coordinate.encoding.clear()
    names = field_names(radar.groups)
    attrs = {
        "Conventions": "CF-1.11",
        "title": "coefficients of regressions on radar by stpipe",
        MARK: VERSION,
        "fields": list(names),
        **radar_options(radar),
    }
    xr.Dataset(coords=kept, attrs=attrs).to_zarr(zarr_place(path), mode="w", zarr_format=3, consolidated=False)
    group = zarr.open_group(zarr_place(path), mode="r+")
    common = {"grid_mapping": cube.grid_mapping} if cube.grid_mapping else {}
    for variable, of in read.items():
        arrays = [
            group.create_array(
                _array_name(variable, name),
                shape=cube.extent[1:],
                chunks=tiles.shape[1:],
                dtype="float32",
                fill_value=np.nan,
                compressors=[BloscCodec(cname="zstd", clevel=1, shuffle=BloscShuffle.shuffle, typesize=4)],
                dimension_names=(y, x),
                attributes={"long_name": f"{name} of {variable}", **common},
                config={"write_empty_chunks": True},
            )
            for name in names
        ]
        for tile in tiles:
            for array, values in zip(arrays, of(tile), strict=True):
                array[tile.slices[1:]] = values
    consolidate(path)


def _array_name(variable: str, field: str) -> str:
    return f"{variable}_{field}".replace(" ", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenCoefficients:
    """Coefficients of one variable from a file, on the cube's pixels; `stpipe.core.ports.Fields` in its own units."""

    path: str
    """The group."""

    variable: str
    """Of what."""

    groups: tuple[tuple[str, ...], ...]
    """Names of the radar of each regression."""

    rows: Axis
    """Along y."""

    columns: Axis
    """Along x."""

    def identity(self) -> JSON:
        """Return all that decides what is read."""
        axes = [[axis.start, axis.length] for axis in (self.rows, self.columns)]
        return {"variable": self.variable, "groups": [list(group) for group in self.groups], "axes": axes}

    def state(self) -> str:
        """Return a digest that changes when the file does."""
        names = [_array_name(self.variable, name) for name in field_names(self.groups)]
        return file_state(located(self.path), names)

    def read(self, window: Window) -> F32:
        """Return (field, y, x) of a window's pixels; NaN where the file has none."""
        names = field_names(self.groups)
        made = np.full((len(names), *window.shape[1:]), np.nan, dtype=np.float32)
        _, y, x = window.slices
        boxes = [axis.copied(cut.start, cut.stop) for axis, cut in ((self.rows, y), (self.columns, x))]
        (box_y, part_y), (box_x, part_x) = boxes
        if box_y.start < box_y.stop and box_x.start < box_x.stop:
            for field, name in zip(made, names, strict=True):
                array: Any = open_array(self.path, _array_name(self.variable, name), "r", None)
                field[part_y, part_x] = read_checked(array, (box_y, box_x))
        return made


def open_coefficients(path: str | Path, cube: Cube, variable: str, radar: Radar) -> GivenCoefficients:
    """Open the coefficients that another run left, and place them on a cube.

    Parameters
    ----------
    path : str or Path
        The group.
    cube : Cube
        What is to be filled.
    variable : str
        Of it.
    radar : Radar
        What the regressions lean on.

    Raises
    ------
    RefusedError
        If there are none, they are of another variable, of radar that was made in another way, or of other pixels.
    """
    place = absolute(path)
    try:
        dataset = xr.open_zarr(zarr_place(place), consolidated=False, chunks=None)
    except (OSError, ValueError, KeyError) as error:
        raise CubeError(
            f"there are no coefficients in {place}; name the {COEFFICIENTS} that a run of --method sar left"
        ) from error
    if dataset.attrs.get(MARK) != VERSION:
        raise CubeError(
            f"{place} holds no coefficients of regressions on radar; name the {COEFFICIENTS} of a run of --method sar"
        )
    own = {name: dataset.attrs.get(name) for name in ("groups", "window_days", "average")}
    wanted = radar_options(radar)
    words = {"groups": "radar", "window_days": "--sar-window", "average": "--sar-average"}
    for name, value in wanted.items():
        if own[name] != value:
            raise OptionError(
                f"the coefficients in {place} are of {words[name]} {_words(own[name])}, not {_words(value)}; give the "
                "same options as that run, or leave --coefficients out"
            )
    first = _array_name(variable, field_names(radar.groups)[0])
    if first not in dataset:
        there = sorted(str(name)[: -len("_constant")] for name in dataset.data_vars if str(name).endswith("_constant"))
        raise CubeError(f"{place} has no coefficients of {variable}, but of {', '.join(there) or 'nothing'}")
    y, x = map(str, dataset[first].dims)
    own_place = Place.of_variable(dataset, first, (y, x), label=place, times=np.array([], dtype="datetime64[ns]"))
    rows, columns = axes_of(own_place, Place.of_cube(cube))
    if not (rows.aligned and columns.aligned):
        raise CubeError(f"the pixels of the coefficients in {place} are not those of {cube.path}; fit them anew")
    made = GivenCoefficients(path=place, variable=variable, groups=radar.groups, rows=rows, columns=columns)
    boxes = [axis.copied(0, n)[0] for axis, n in zip((rows, columns), cube.extent[1:], strict=True)]
    if any(box.start >= box.stop for box in boxes):
        raise CubeError(f"the coefficients in {place} are of another place than {cube.path}; fit them anew")
    return made


def _words(value: JSON) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " and ".join(", ".join(group) for group in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
