"""Objects of xarray as cubes: which variables there are, over which dimensions, and a reader of their samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr
from dask.base import is_dask_collection
from numpy.typing import NDArray

from stpipe.core.geometry import QualityCost
from stpipe.core.ports import VariableInfo
from stpipe.core.samples import tells_clear
from stpipe.core.trust import Judged, Trust, judge
from stpipe.core.windows import Triple, Window, triple
from stpipe.errors import CubeError, OptionError
from stpipe.io.cube import quality_cost
from stpipe.io.dimensions import coordinate_of, roles_of
from stpipe.io.frames import SOURCE_SUFFIX, companions, holds_codes, holds_sources
from stpipe.io.stored import describe, plain_attrs
from stpipe.io.times import check_order, decode_times

MOST_EXACT = 2**53
"""From here on a float64 is no longer each whole number."""

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

    trust: Trust | None = None
    """Rules on which samples to trust, resolved; None: all are trusted."""

    quality: Mapping[str, QualityArray] = field(default_factory=dict)
    """The variables that the rules are about."""

    @property
    def extent(self) -> Triple:
        """Shape of the cube."""
        return triple(self.dataset.sizes[dim] for dim in self.dims)

    def array(self, name: str) -> xr.DataArray:
        """Return a variable, its dimensions in order."""
        return self.dataset[name].transpose(*self.dims)

    def reader(self, name: str) -> ArrayReader:
        """Return a reader of a variable's samples."""
        return ArrayReader(
            name=name,
            array=self.array(name).variable.data,
            domain=self.domain,
            trust=self.trust,
            quality=self.quality,
        )

    @property
    def quality_cost(self) -> QualityCost:
        """What it takes to tell which samples are trusted."""
        return quality_cost(self.trust, [quality.info for quality in self.quality.values()])

    def info(self, name: str) -> VariableInfo:
        """Describe a variable."""
        info, more = _described(self.array(name), name)
        if more:
            marks = ", ".join(f"{value:g}" for value in (info.nodata, *more) if value is not None)
            raise CubeError(
                f"{name!r} has more than one value for nodata ({marks}), of which stored samples can have one; decode "
                "it with xarray.decode_cf, or put NaN in its gaps"
            )
        return info


def understand(
    obj: xr.Dataset | xr.DataArray,
    *,
    variables: Sequence[str] | None = None,
    domain: str | xr.DataArray | None = None,
    trust: Trust | None = None,
    tell: Callable[[str], None] | None = None,
    codes: bool = False,
) -> ObjectCube:
    """Return an object as a cube; nothing is computed but the domain.

    Parameters
    ----------
    obj : Dataset or DataArray
        Variables over (time, y, x) in any order and by any names that `stpipe.open_cube` takes.
    variables : sequence of str, optional
        What to work on; all numeric variables over (time, y, x) unless given, but codes, those that rules are about,
        and what came with variables that were filled before.
    domain : str or DataArray over (y, x), optional
        Non-zero where values can exist at all; brought into the order of the cube's coordinates.
    trust : Trust, optional
        Rules on which samples to trust.
    tell : callable, optional
        Told what the user should know.
    codes : bool
        Whether variables of codes, such as classes of land cover, are among those to work on.

    Raises
    ------
    CubeError
        If it is no cube, or the domain lies elsewhere.
    OptionError
        If a rule is about a variable that is not there, or asks of it what its type can't tell.

    Examples
    --------
    >>> when = np.array(["2024-05-01", "2024-05-06"], dtype="M8[ns]")
    >>> cube = understand(xr.DataArray(np.ones((3, 2, 4)), dims=("x", "time", "y"), coords={"time": when}))
    >>> cube.names, cube.dims, cube.extent
    (('values',), ('time', 'y', 'x'), (2, 4, 3))
    """
    if not isinstance(obj, xr.Dataset | xr.DataArray):
        raise CubeError(f"a cube is a Dataset or DataArray of xarray, got {type(obj).__name__}")
    dataset = obj.to_dataset(name=obj.name or NAMELESS) if isinstance(obj, xr.DataArray) else obj
    if trust is not None:
        trust = trust.resolved(_cube_names(dataset, "iufb"), "the dataset")
    names, notes = _choose(dataset, variables, () if trust is None else trust.variables, with_codes=codes)
    if tell is not None:
        for note in notes:
            tell(note)
    if trust is not None:
        trust.refuse_measured(names)
    dims = _dims(dataset, names[0])
    time = coordinate_of(dataset, dims[0], "time")
    if time is None:
        raise CubeError(f"axis {dims[0]!r} has no dates: give it a coordinate, with assign_coords({dims[0]}=...)")
    axis = decode_times(time, "the dataset")
    check_order(axis, "the dataset", dims[0])
    return ObjectCube(
        dataset=dataset,
        names=tuple(names),
        dims=dims,
        days=axis.days,
        domain=_domain(dataset, domain, dims),
        trust=trust,
        quality={} if trust is None else _quality(dataset, trust, dims),
    )


PACKED_NODATA = int(np.iinfo(np.int64).min)
"""Stands for NaN in codes that were decoded to floats and are read as integers again."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QualityArray:
    """A variable that rules are about."""

    info: VariableInfo
    """How its samples are stored, or were before xarray decoded them to floats."""

    array: Any
    """(t, y, x) NumPy or Dask array."""

    decoded: bool = False
    """Whether they were: they are then read as the integers that they were."""

    def read(self, box: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Return stored samples."""
        part = self.array[box]
        samples = np.asarray(part.compute(scheduler="synchronous") if is_dask_collection(part) else part)
        if not self.decoded:
            return samples
        whole = np.full(samples.shape, PACKED_NODATA)
        known = np.isfinite(samples)
        if (np.abs(samples[known]) >= MOST_EXACT).any():
            raise CubeError(
                f"{self.info.name!r} has codes of {self.info.dtype} that xarray decoded to {samples.dtype}, which "
                "has lost bits of them; open it with mask_and_scale=False"
            )
        whole[known] = np.rint((samples[known] - self.info.add_offset) / self.info.scale_factor)
        return whole

    @property
    def as_read(self) -> VariableInfo:
        """How the samples are stored that `read` returns."""
        return replace(self.info, dtype="int64", nodata=PACKED_NODATA) if self.decoded else self.info


def _quality(dataset: xr.Dataset, trust: Trust, dims: tuple[str, str, str]) -> dict[str, QualityArray]:
    """Return the variables that rules are about; refuse those on another grid, or of a type that can't tell."""
    found: dict[str, QualityArray] = {}
    for rule in trust.rules:
        array = dataset[rule.variable]
        if set(array.dims) != set(dims):
            raise OptionError(
                f"{rule.text}: {rule.variable!r} is on another grid {array.dims} than the cube {dims}; bring it onto "
                "that grid, by the nearest neighbour"
            )
        array = array.transpose(*dims)
        info = replace(_info(array, rule.variable), attrs=plain_attrs(array.attrs))  # the names of flags are there
        packed = array.encoding.get("dtype")
        decoded = array.dtype.kind == "f" and packed is not None and np.dtype(packed).kind in "iu"
        if decoded:
            info = replace(
                info,
                dtype=np.dtype(packed).name,
                scale_factor=float(array.encoding.get("scale_factor", 1.0)),
                add_offset=float(array.encoding.get("add_offset", 0.0)),
            )
        found[rule.variable] = QualityArray(info=info, array=array.variable.data, decoded=decoded)
    trust.check({name: quality.info for name, quality in found.items()})
    return {name: found[name] for name in trust.variables}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArrayReader:
    """A `CubeReader` over an array; a Dask array is evaluated window by window, in the thread that asks."""

    name: str
    """The variable."""

    array: Any
    """(t, y, x) NumPy or Dask array."""

    domain: NDArray[np.bool_] | None = None
    """(y, x), where values can exist."""

    trust: Trust | None = None
    """Rules on which samples to trust; None: all."""

    quality: Mapping[str, QualityArray] = field(default_factory=dict)
    """The variables that they are about."""

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

    def read_trusted(self, window: Window) -> NDArray[np.bool_] | None:
        """Return (t, y, x) True where rules let samples be trusted, or None where there are no rules."""
        judged = self.read_judged(window)
        return None if judged is None else judged[0]

    def read_judged(self, window: Window) -> Judged | None:
        """Return what `read_trusted` does, and how often each rule matched in the window."""
        if self.trust is None:
            return None
        frames, *box = window.slices
        reach = self.trust.buffer
        rows, columns = (
            slice(max(0, cut.start - reach), min(length, cut.stop + reach))
            for cut, length in zip(box, self.extent[1:], strict=True)
        )
        inner = tuple(
            slice(cut.start - around.start, cut.stop - around.start)
            for cut, around in zip(box, (rows, columns), strict=True)
        )
        samples = {name: quality.read((frames, rows, columns)) for name, quality in self.quality.items()}
        infos = {name: quality.as_read for name, quality in self.quality.items()}
        return judge(self.trust, samples, infos, inner=(inner[0], inner[1]))


def _cube_names(dataset: xr.Dataset, kinds: str) -> list[str]:
    """Return the names of the variables over (time, y, x) of some kinds of types."""
    return [
        str(name)
        for name, array in dataset.data_vars.items()
        if set(roles_of(dataset, array.dims)) == {"time", "y", "x"} and array.ndim == 3 and array.dtype.kind in kinds
    ]


def own_companions(dataset: xr.Dataset, name: str) -> list[str]:
    """Return what came with a variable that stpipe has filled; a name alone says little."""
    own: list[str] = []
    for twin in companions(name):
        if twin in dataset.data_vars and dataset[twin].dtype.kind in "iuf":
            array = dataset[twin]
            info = VariableInfo(name=twin, dtype=array.dtype.name, chunks=(1, 1, 1), attrs=plain_attrs(array.attrs))
            if holds_sources(info) or str(array.attrs.get("long_name", "")).startswith("half-width of a "):
                own.append(twin)
    return own


def _choose(
    dataset: xr.Dataset, variables: Sequence[str] | None, about: Sequence[str] = (), *, with_codes: bool = False
) -> tuple[list[str], list[str]]:
    """Return the names of the variables to work on, those asked for or all that hold measurements; and notes.

    Those that rules are `about` hold none, nor does the layer in which `stpipe ingest` says what rules dropped.

    Raises
    ------
    CubeError
        If there is none, or not one that was asked for.
    """
    cubes = _cube_names(dataset, "iuf")
    if variables is not None:
        unknown = [name for name in variables if name not in cubes]
        if unknown:
            raise CubeError(f"no variable {unknown[0]!r} over (time, y, x); there are {', '.join(cubes) or 'none'}")
        return list(variables), []
    known = {companion for name in cubes for companion in own_companions(dataset, name)} | set(about)
    measured = [name for name in cubes if name not in known and not tells_clear(dataset[name].attrs)]
    codes = [name for name in measured if not with_codes and holds_codes(name, dataset[name].attrs)]
    chosen = [name for name in measured if name not in codes]
    if not chosen and codes:
        raise CubeError(
            f"the dataset holds nothing but codes ({', '.join(codes)}); name one with --var to take it all the same"
        )
    if not chosen:
        listed = ", ".join(f"{name} over {array.dims}" for name, array in dataset.data_vars.items()) or "nothing"
        raise CubeError(f"no numeric variable over (time, y, x) to fill; the dataset has {listed}")
    notes = []
    if codes:
        notes.append(f"left out {', '.join(codes)}: codes are no measurements; name one with --var to take it as one")
    filled = [name for name in chosen if name + SOURCE_SUFFIX in own_companions(dataset, name)]
    if filled:
        notes.append(f"{', '.join(filled)} was filled before: what was filled then counts as observed now")
    return chosen, notes


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
    domain = domain.transpose(*dims[1:])
    if domain.shape != tuple(dataset.sizes[dim] for dim in dims[1:]):
        raise CubeError(f"the domain's shape {domain.shape} is not that of the cube's frames")
    for dim in dims[1:]:
        if dim in domain.coords and dim in dataset.coords:
            domain = domain.isel({dim: _places(domain[dim].to_numpy(), dataset[dim].to_numpy(), dim)})
    values = domain.to_numpy()
    return np.asarray(np.isfinite(values) & (values != 0))


_APART = 0.1
"""Pixels by which coordinates of the same grid may be apart: single precision rounds northings to half a metre."""


def _places(have: NDArray[Any], want: NDArray[Any], dim: str) -> NDArray[np.intp]:
    """Return which of the domain's rows or columns belongs to each of the cube's.

    Raises
    ------
    CubeError
        If they lie elsewhere.
    """
    if not {have.dtype.kind, want.dtype.kind} <= set("iuf") or np.array_equal(have, want, equal_nan=True):
        return np.arange(want.size, dtype=np.intp)
    place = np.empty(want.size, dtype=np.intp)
    place[np.argsort(want, kind="stable")] = np.argsort(have, kind="stable")
    step = float(np.median(np.abs(np.diff(want.astype(np.float64))))) if want.size > 1 else 1.0
    if not (np.abs(have[place].astype(np.float64) - want) <= _APART * step).all():
        raise CubeError(
            f"the domain lies elsewhere: its {dim} go from {have[0]:g} to {have[-1]:g}, the cube's from {want[0]:g} to "
            f"{want[-1]:g}; bring it onto the cube's grid, by the nearest neighbour, or drop its coordinates"
        )
    return place


def _info(array: xr.DataArray, name: str) -> VariableInfo:
    """Describe an array as it is: decoded values with NaN for nodata, or samples as they are stored in a file.

    Attributes that say what stored integers mean count, as they do in a file; xarray moves those that it has heeded.
    """
    return _described(array, name)[0]


def _described(array: xr.DataArray, name: str) -> tuple[VariableInfo, tuple[float, ...]]:
    """Return the same, and further values for nodata."""
    data = array.variable.data
    chunks = triple(max(part) for part in data.chunks) if is_dask_collection(data) else triple(array.shape)
    attrs = {key: value for key, value in array.attrs.items() if key != "_Unsigned"}
    if array.dtype.kind not in "iu":  # floats have NaN, and arithmetic leaves standing what was said of the integers
        told = {"scale_factor", "add_offset", "missing_value", "nodata"}
        attrs = {key: value for key, value in attrs.items() if key not in told}
    if array.dtype.kind not in "iuf":
        attrs.pop("_FillValue", None)
    info, more = describe(xr.Variable((), array.dtype.type(0), attrs), name, chunks, "the dataset")
    return replace(info, dtype=array.dtype.name), more
