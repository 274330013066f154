"""Objects of xarray as cubes: which variables there are, over which dimensions, and a reader of their samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from dask.base import is_dask_collection
from numpy.typing import NDArray

from stpipe.core.ports import VariableInfo
from stpipe.core.windows import Triple, Window, triple
from stpipe.errors import CubeError
from stpipe.io.dimensions import coordinate_of, roles_of
from stpipe.io.frames import companions
from stpipe.io.times import check_order, decode_times

NAMELESS = "values"
"""What a DataArray without a name is called."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectCube:
    """A Dataset or DataArray, understood."""

    dataset: xr.Dataset
    """The object."""

    names: tuple[str, ...]
    """Variables to work on."""

    dims: tuple[str, str, str]
    """Names of its dimensions, in the order (time, y, x)."""

    days: NDArray[np.float64]
    """(time,), true times in days."""

    domain: NDArray[np.bool_] | None
    """(y, x), where values can exist; None: everywhere."""

    @property
    def extent(self) -> Triple:
        """Shape of the cube."""
        return triple(self.dataset.sizes[dim] for dim in self.dims)

    def array(self, name: str) -> xr.DataArray:
        """Return a variable, its dimensions in order."""
        return self.dataset[name].transpose(*self.dims)

    def reader(self, name: str) -> ArrayReader:
        """Return a reader of a variable's samples."""
        return ArrayReader(name=name, array=self.array(name).variable.data, domain=self.domain)

    def info(self, name: str) -> VariableInfo:
        """Describe a variable."""
        return _info(self.array(name), name)


def understand(
    obj: xr.Dataset | xr.DataArray,
    *,
    variables: Sequence[str] | None = None,
    domain: str | xr.DataArray | None = None,
) -> ObjectCube:
    """Return an object as a cube; nothing is computed but the domain.

    Parameters
    ----------
    obj : Dataset or DataArray
        Variables over (time, y, x) in any order and by any names that `stpipe.open_cube` takes.
    variables : sequence of str, optional
        What to work on; all numeric variables over (time, y, x) unless given.
    domain : str or DataArray over (y, x), optional
        Non-zero where values can exist at all.

    Raises
    ------
    CubeError
        If it is no cube.

    Examples
    --------
    >>> when = np.array(["2024-05-01", "2024-05-06"], dtype="M8[ns]")
    >>> cube = understand(xr.DataArray(np.ones((3, 2, 4)), dims=("x", "time", "y"), coords={"time": when}))
    >>> cube.names, cube.dims, cube.extent
    (('values',), ('time', 'y', 'x'), (2, 4, 3))
    """
    dataset = obj.to_dataset(name=obj.name or NAMELESS) if isinstance(obj, xr.DataArray) else obj
    names = _choose(dataset, variables)
    dims = _dims(dataset, names[0])
    time = coordinate_of(dataset, dims[0], "time")
    if time is None:
        raise CubeError(f"axis {dims[0]!r} has no dates: give it a coordinate, with assign_coords({dims[0]}=...)")
    axis = decode_times(time, "the dataset")
    check_order(axis, "the dataset", dims[0])
    return ObjectCube(
        dataset=dataset, names=tuple(names), dims=dims, days=axis.days, domain=_domain(dataset, domain, dims)
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArrayReader:
    """A `CubeReader` over an array; a Dask array is evaluated window by window, in the thread that asks."""

    name: str
    """The variable."""

    array: Any
    """(t, y, x) NumPy or Dask array."""

    domain: NDArray[np.bool_] | None = None
    """(y, x), where values can exist."""

    @property
    def extent(self) -> Triple:
        """Shape of the cube."""
        return triple(self.array.shape)

    def read(self, variable: str, window: Window) -> NDArray[Any]:  # noqa: ARG002 - there is one variable
        """Return the samples of a window inside the cube."""
        part = self.array[window.slices]
        return np.asarray(part.compute(scheduler="synchronous") if is_dask_collection(part) else part)

    def read_domain(self, window: Window) -> NDArray[np.bool_] | None:
        """Return (y, x) True where values can exist, or None where that is everywhere."""
        return None if self.domain is None else self.domain[window.slices[1:]]


def _choose(dataset: xr.Dataset, variables: Sequence[str] | None) -> list[str]:
    """Return the names of the variables to work on: those asked for, or all that hold measurements.

    Raises
    ------
    CubeError
        If there is none, or not one that was asked for.
    """
    cubes = [
        str(name)
        for name, array in dataset.data_vars.items()
        if set(roles_of(dataset, array.dims)) == {"time", "y", "x"} and array.ndim == 3 and array.dtype.kind in "iuf"
    ]
    if variables is not None:
        unknown = [name for name in variables if name not in cubes]
        if unknown:
            raise CubeError(f"no variable {unknown[0]!r} over (time, y, x); there are {', '.join(cubes) or 'none'}")
        return list(variables)
    known = {companion for name in cubes for companion in companions(name)}
    chosen = [name for name in cubes if name not in known]
    if not chosen:
        listed = ", ".join(f"{name} over {array.dims}" for name, array in dataset.data_vars.items()) or "nothing"
        raise CubeError(f"no numeric variable over (time, y, x) to fill; the dataset has {listed}")
    return chosen


def _dims(dataset: xr.Dataset, name: str) -> tuple[str, str, str]:
    """Return the names of a variable's dimensions in the order (time, y, x)."""
    roles = roles_of(dataset, dataset[name].dims)
    return roles["time"], roles["y"], roles["x"]


def _domain(
    dataset: xr.Dataset, domain: str | xr.DataArray | None, dims: tuple[str, str, str]
) -> NDArray[np.bool_] | None:
    """Return (y, x) True where values can exist, or None where that is everywhere.

    Raises
    ------
    CubeError
        If there is no such variable, or it does not lie over the frames.
    """
    if domain is None:
        return None
    if isinstance(domain, str):
        if domain not in dataset.variables:
            raise CubeError(
                f"no variable {domain!r} for the domain; there are {', '.join(map(str, dataset.variables))}"
            )
        domain = dataset[domain]
    if set(domain.dims) != set(dims[1:]):
        raise CubeError(f"the domain has to be over ({dims[1]}, {dims[2]}), got {domain.dims}")
    values = domain.transpose(*dims[1:]).to_numpy()
    if values.shape != tuple(dataset.sizes[dim] for dim in dims[1:]):
        raise CubeError(f"the domain's shape {values.shape} is not that of the cube's frames")
    return np.asarray(np.isfinite(values) & (values != 0))


def _info(array: xr.DataArray, name: str) -> VariableInfo:
    """Describe an array as it is: decoded values, with NaN or an undecoded _FillValue for nodata."""
    data = array.variable.data
    chunks = triple(max(part) for part in data.chunks) if is_dask_collection(data) else triple(array.shape)
    nodata = array.attrs.get("_FillValue")
    return VariableInfo(
        name=name, dtype=array.dtype.name, chunks=chunks, nodata=None if nodata is None else float(nodata)
    )
