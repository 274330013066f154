"""What has no dates in cubes that are ingested: land masks, elevation, classes. It comes along, one array each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON
from stpipe.errors import CubeError
from stpipe.execution.storage import located
from stpipe.io.dimensions import degrees_role
from stpipe.io.ingest.cubes import CubeFrame, warped
from stpipe.io.ingest.files import file_identity, shifted_read
from stpipe.io.ingest.layers import Layer, Want, fill_value
from stpipe.io.rasters import Grid
from stpipe.io.run_folder import file_state
from stpipe.io.stored import Kind, StoredVariable, open_raw
from stpipe.io.variables import statics_over, stored_domain


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticField:
    """A variable without dates in one file."""

    path: str
    """The file."""

    kind: Kind
    """How it is opened."""

    stored: StoredVariable
    """Where the variable lies in it."""

    dims: tuple[str, str]
    """The file's names of the axes y and x."""

    grid: Grid
    """The file's grid."""

    @property
    def dtype(self) -> str:
        """Type of its samples as they are written: flags are numbers."""
        return "uint8" if self.stored.info.dtype == "bool" else self.stored.info.dtype

    @property
    def nodata(self) -> float | None:
        """Stored value where nothing is known."""
        nodata = self.stored.info.nodata
        return float("nan") if nodata is None and np.dtype(self.dtype).kind == "f" else nodata

    @property
    def attrs(self) -> dict[str, JSON]:
        """Units and whatever else the file says, scale and offset too."""
        info = self.stored.info
        attrs = dict(info.attrs) | ({} if info.scale_factor == 1 else {"scale_factor": info.scale_factor})
        return attrs | ({} if info.add_offset == 0 else {"add_offset": info.add_offset})

    def read(self, want: Want) -> NDArray[Any]:
        """Return the stored samples of a window of the target grid, (y, x)."""
        offset = want.offset_in(self.grid)
        if offset is not None:
            return shifted_read(self._part, offset, want, self.grid.shape)
        return warped(self._part, self.grid, np.dtype(self.dtype), want)

    def _part(self, rows: slice, columns: slice) -> NDArray[Any]:
        y, x = self.dims
        with open_raw(self.path, self.kind) as raw:
            picked = raw.variables[self.stored.source].isel({y: rows, x: columns, **dict(self.stored.picks)})
            samples = np.asarray(picked.transpose(y, x).values)
        native = samples.astype(samples.dtype.newbyteorder("="), copy=False)
        return native.view(self.dtype) if native.dtype.kind in "iub" else native

    def identity(self) -> JSON:
        """Return the variable, and the state of the files that it is in."""
        if self.kind == "zarr":
            state = f"{file_state(located(self.path), [self.stored.source])} {self.grid!r}"
            return [self.path, hashlib.sha256(state.encode()).hexdigest(), self.stored.source]
        return [*file_identity(self.path), self.stored.source]


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPlan:
    """A variable without dates that is written."""

    name: str
    """Its name."""

    fields: tuple[StaticField, ...]
    """Where it is from: one file for each grid; what the first does not cover is taken from the next."""

    @property
    def dtype(self) -> str:
        """Stored type."""
        return self.fields[0].dtype

    @property
    def nodata(self) -> float | None:
        """Stored value where nothing is known; zero is written where there is none."""
        return self.fields[0].nodata

    def read(self, grid: Grid, rows: slice, columns: slice) -> NDArray[Any]:
        """Return the stored samples of a window of the cube, (y, x)."""
        nodata = self.nodata
        fill = fill_value(np.dtype(self.dtype), nodata)
        result: NDArray[Any] | None = None
        for field in self.fields:
            own = field.nodata
            want = Want(grid=grid, rows=rows, columns=columns, resampling="nearest", source_nodata=own, fill=nodata)
            samples = field.read(want)
            if own is not None:
                samples = np.where(_equal(samples, own), fill, samples)
            result = samples if result is None else np.where(_equal(result, fill), samples, result)
        assert result is not None
        return result


def _equal(samples: NDArray[Any], value: Any) -> NDArray[np.bool_]:
    return np.asarray(np.isnan(samples) if np.isnan(value) else samples == value)


def find_statics(layers: Sequence[Layer]) -> tuple[StaticPlan, ...]:
    """Return the variables without dates of the cubes that layers are from.

    A series of files mostly has the same ones in each; those of the first file of a grid and variable are taken.

    Parameters
    ----------
    layers : sequence of Layer
        What has dates.

    Raises
    ------
    CubeError
        If files on different grids store one in different types.
    """
    firsts: dict[tuple[Grid, str], CubeFrame] = {}
    for layer in layers:
        if isinstance(layer.source, CubeFrame):
            firsts.setdefault((layer.grid, layer.variable), layer.source)
    places: dict[tuple[str, tuple[str, ...]], CubeFrame] = {}
    for frame in firsts.values():
        places.setdefault((frame.reader.path, frame.reader.dims), frame)
    found: dict[str, dict[Grid, StaticField]] = {}
    for frame in places.values():
        for name, field in _fields_beside(frame):
            found.setdefault(name, {}).setdefault(field.grid, field)
    plans = []
    for name in sorted(found.keys() - {layer.variable for layer in layers}):
        fields = tuple(found[name].values())
        odd = next((field for field in fields if field.dtype != fields[0].dtype), None)
        if odd is not None:
            raise CubeError(
                f"variable {name!r} has no dates and needs one type, but {fields[0].path} has {fields[0].dtype} and "
                f"{odd.path} has {odd.dtype}; bring them to one first"
            )
        plans.append(StaticPlan(name=name, fields=fields))
    return tuple(plans)


def _fields_beside(frame: CubeFrame) -> Iterable[tuple[str, StaticField]]:
    """Yield the static variables of a file that lie on the grid of one with dates."""
    path, kind, dims = frame.reader.path, frame.reader.kind, frame.reader.dims
    with open_raw(path, kind) as raw:
        coordinates = {name for variable in raw.variables.values() for name in _coordinates(variable.attrs)}
        for name in statics_over(raw, dims):
            variable = raw.variables[name]
            along = {dim: size for dim, size in variable.sizes.items() if size != 1 or dim in dims}
            if name in coordinates or degrees_role(variable) is not None or set(along) != set(dims[1:]):
                continue
            stored = stored_domain(raw, name, dims, path)
            yield name, StaticField(path=path, kind=kind, stored=stored, dims=dims[1:], grid=frame.layer_grid)


def _coordinates(attrs: Mapping[Any, Any]) -> list[str]:
    return str(attrs.get("coordinates", "")).split()
