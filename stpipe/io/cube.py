"""Cubes in: open a Zarr group or a NetCDF file, check it, and say all that a run needs to know of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stpipe.core.geometry import NO_RULES, QualityCost
from stpipe.core.ports import VariableInfo
from stpipe.core.qa_products import parse_trust
from stpipe.core.trust import Trust
from stpipe.core.windows import Triple, Window, triple
from stpipe.errors import CubeError
from stpipe.io.dimensions import Role, coordinate_of
from stpipe.io.georeference import (
    Affine6,
    area_window,
    burn,
    crs_wkt_of,
    grid_mapping_of,
    read_area,
    shifted,
    transform_of,
)
from stpipe.io.reader import StoredReader
from stpipe.io.stored import (
    Kind,
    StoredVariable,
    absolute,
    check_lengths,
    kind_of,
    loaded,
    nodata_values,
    open_raw,
    stored_dtype,
    unpacked,
)
from stpipe.io.times import TimeAxis, check_order, decode_times, select_period
from stpipe.io.variables import (
    choose,
    expand_bands,
    over_time_y_x,
    quality_names,
    stored_domain,
    stored_quality,
    stored_variable,
    suggest,
    why_not_a_cube,
)

Period = tuple[str | None, str | None]
"""First and last date of a selection; None is open."""

_CF_ENCODING = frozenset({"units", "calendar", "dtype", "_FillValue", "scale_factor", "add_offset"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cube:
    """What is known of a cube without reading a sample; picklable.

    All shapes, coordinates and indices are those of the selection, when a period or an area was given.
    """

    path: str
    """Absolute path of the file or folder."""

    kind: Kind
    """``"zarr"`` or ``"netcdf"``."""

    variables: tuple[VariableInfo, ...]
    """The variables over (time, y, x), in the order asked for, else the file's."""

    extent: Triple
    """Shape along (time, y, x)."""

    offset: Triple
    """Where the selection starts in the file."""

    full_extent: Triple
    """Shape of the whole file."""

    dims: tuple[str, str, str]
    """Names of time, y and x in the file."""

    times: NDArray[np.datetime64]
    """(t,) datetime64[ns]."""

    days: NDArray[np.float64]
    """(t,) true days since the first frame, in the calendar of the file."""

    y: NDArray[Any] | None
    """(y,) coordinates of the pixel centres as stored; None if the file has none."""

    x: NDArray[Any] | None
    """(x,) the same along x."""

    crs_wkt: str | None
    """CRS, or None if the file names none."""

    transform: Affine6 | None
    """Affine of the frames as stored (south-up has a positive fifth number); None on uneven grids."""

    fingerprint: str
    """sha256 of path, metadata, coordinates and selection; not of the samples, nor of modification times."""

    stored: tuple[StoredVariable, ...]
    """Where each variable lies in the file."""

    grid_mapping: str | None = None
    """Name of the coordinate that says the CRS; None without one."""

    grid_mapping_attrs: Mapping[str, Any] = field(default_factory=dict)
    """Its attributes."""

    domain: str | None = None
    """Name of the domain variable."""

    stored_domain: StoredVariable | None = None
    """Where it lies in the file."""

    area: str | None = None
    """Area of interest as GeoJSON in the CRS of the cube."""

    trust: Trust | None = None
    """Rules on which samples to trust, with the names that their variables have here; None: all are trusted."""

    quality: tuple[StoredVariable, ...] = ()
    """Where the variables lie that the rules are about."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables."""
        return tuple(info.name for info in self.variables)

    def variable(self, name: str) -> VariableInfo:
        """Return one variable by its name."""
        for info in self.variables:
            if info.name == name:
                return info
        raise CubeError(f"{self.path} has no variable {name!r}{suggest(name, self.names)}")

    def reader(self, names: Sequence[str] | None = None) -> StoredReader:
        """Return what reads windows of these variables (all unless named), on any worker."""
        wanted = {self.variable(name).name for name in (self.names if names is None else names)}
        return StoredReader(
            path=self.path,
            kind=self.kind,
            fingerprint=self.fingerprint,
            dims=self.dims,
            extent=self.extent,
            offset=self.offset,
            stored=tuple(stored for stored in self.stored if stored.info.name in wanted),
            domain=self.stored_domain,
            area=self.area,
            transform=self.transform,
            trust=self.trust,
            quality=self.quality,
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the arrays in the file that decide what is observed, what of it is trusted, what can be filled."""
        domain = () if self.stored_domain is None else (self.stored_domain,)
        return tuple(dict.fromkeys(stored.source for stored in (*self.stored, *self.quality, *domain)))

    @property
    def quality_cost(self) -> QualityCost:
        """What it takes to tell which samples are trusted."""
        return quality_cost(self.trust, [stored.info for stored in self.quality])

    def template(self) -> xr.Dataset:
        """Return a dataset without data variables: the coordinates and the grid mapping that an output has to carry.

        Time is decoded, with the encoding of the file. Variables refer to the CRS by ``grid_mapping``: the name of a
        scalar coordinate of the template.
        """
        with open_raw(self.path, self.kind) as raw:
            coords = _coordinates(raw, self)
            return xr.Dataset(coords=coords).isel(self.selection, missing_dims="ignore").load()

    @property
    def selection(self) -> dict[Hashable, slice]:
        """Indices that cut the file to this cube, by the file's dimension names."""
        return {
            dim: slice(start, start + length)
            for dim, start, length in zip(self.dims, self.offset, self.extent, strict=True)
        }


def open_source(
    path: str | Path,
    *,
    variables: Sequence[str] | None = None,
    domain: str | None = None,
    time: Period | None = None,
    aoi: Path | None = None,
    trust: Trust | None = None,
    any_order: bool = False,
) -> Cube:
    """Return a checked description of a cube; no sample is read.

    Parameters
    ----------
    path : str or Path
        A Zarr group (v2 or v3) or a NetCDF file.
    variables : sequence of str, optional
        Which to use; all numeric ones over (time, y, x) unless given, but those that rules are about. A band of a
        `band` dimension is a variable.
    domain : str, optional
        Static variable over (y, x) that is non-zero where values can exist.
    time : (start, end), optional
        Period to use, both ends inside; None is open.
    aoi : Path, optional
        GeoJSON polygons: the cube is cut to their bounding box, and the domain to the pixels they touch.
    trust : Trust, optional
        Rules on which samples to trust.
    any_order : bool
        Take times that do not increase strictly, to look at them; nothing else can be done with such a cube. A
        selection by `time` needs them in order in any case.

    Raises
    ------
    MissingFileError
        If there is no such file.
    CubeError
        If it is not a cube, or lacks what was asked for. One line says what, where and what to do.
    OptionError
        If a rule is about a variable that is not there, or asks of it what its type can't tell.
    """
    place = absolute(path)
    kind = kind_of(place)
    with open_raw(place, kind) as raw:
        ordered = not any_order or time is not None
        return _describe_cube(raw, place, kind, variables, domain, time, aoi, trust, ordered=ordered)


def _describe_cube(
    raw: xr.Dataset,
    path: str,
    kind: Kind,
    names: Sequence[str] | None,
    domain: str | None,
    period: Period | None,
    aoi: Path | None,
    trust: Trust | None,
    *,
    ordered: bool,
) -> Cube:
    found = over_time_y_x(raw)
    candidates = everything = expand_bands(raw, found, path)
    if not candidates:
        raise CubeError(why_not_a_cube(raw, path))
    if trust is not None:
        trust = trust.resolved(quality_names(raw, candidates, trust, path), path)
    if trust is not None and names is None:
        # Where there is nothing else, they are what the cube holds.
        candidates = [c for c in candidates if c[0] not in trust.variables] or candidates
    chosen = choose(raw, candidates, names, path)
    grids = {dims for _, _, _, dims in chosen}
    if len(grids) > 1:
        listed = "; ".join(
            f"{', '.join(name for name, _, _, dims in chosen if dims == grid)} over ({', '.join(grid)})"
            for grid in sorted(grids)
        )
        raise CubeError(f"a run has one grid, but {path} has {len(grids)}: {listed}; choose variables with --var")
    dims = chosen[0][3]
    full = triple(raw.sizes[dim] for dim in dims)
    check_lengths(raw.sizes, dims, path)
    times = _time_axis(raw, dims[0], path, ordered=ordered)
    y_variable, x_variable = coordinate_of(raw, dims[1], "y"), coordinate_of(raw, dims[2], "x")
    y, x = _values(y_variable, path), _values(x_variable, path)
    sample = raw.variables[chosen[0][1]]
    crs_wkt = crs_wkt_of(raw, sample, y_variable, x_variable)
    transform = transform_of(raw, sample, y, x)

    first, stop = select_period(times, period, path) if period is not None else (0, full[0])
    rows, columns, area = slice(0, full[1]), slice(0, full[2]), None
    if aoi is not None:
        area = read_area(aoi, crs_wkt, transform, path)
        rows, columns = _cut_to_area(area, transform, full, aoi, path)
    offset = (first, rows.start, columns.start)
    extent = (stop - first, rows.stop - rows.start, columns.stop - columns.start)

    stored = tuple(stored_variable(raw, name, source, picks, dims, path) for name, source, picks, _ in chosen)
    static = stored_domain(raw, domain, dims, path) if domain is not None else None
    quality = () if trust is None else stored_quality(raw, everything, trust, dims, path)
    y, x = (None if c is None else c[cut] for c, cut in ((y, rows), (x, columns)))
    days = times.days[first:stop]
    cut_transform = None if transform is None else shifted(transform, rows.start, columns.start)
    labels = times.labels[first:stop]
    mapping = grid_mapping_of(raw, sample, crs_wkt, cut_transform)
    digest = _fingerprint(
        {
            "place": [path, kind, dims, offset, extent, crs_wkt, cut_transform, area],
            "variables": [asdict(variable) for variable in stored],
            "domain": None if static is None else asdict(static),
            **(
                {}
                if trust is None
                else {"trust": trust.identity(), "quality": [asdict(variable) for variable in quality]}
            ),
        },
        [labels.astype("datetime64[us]").astype(np.int64), days, y, x],
    )
    return Cube(
        path=path,
        kind=kind,
        variables=tuple(s.info for s in stored),
        extent=extent,
        offset=offset,
        full_extent=full,
        dims=dims,
        times=labels,
        days=days - days[0],
        y=y,
        x=x,
        crs_wkt=crs_wkt,
        transform=cut_transform,
        fingerprint=digest,
        stored=stored,
        grid_mapping=None if mapping is None else mapping[0],
        grid_mapping_attrs={} if mapping is None else mapping[1],
        domain=domain,
        stored_domain=static,
        area=area,
        trust=trust,
        quality=quality,
    )


def quality_cost(trust: Trust | None, infos: Sequence[VariableInfo]) -> QualityCost:
    """Return what it takes to tell which samples are trusted, from the variables that the rules are about."""
    if trust is None:
        return NO_RULES
    items = [np.dtype(info.dtype).itemsize for info in infos]
    return QualityCost(
        item=sum(items),
        buffer=trust.buffer,
        chunk=max(prod(info.chunks) * item for info, item in zip(infos, items, strict=True)),
    )


def _time_axis(raw: xr.Dataset, dim: str, path: str, *, ordered: bool) -> TimeAxis:
    coordinate = coordinate_of(raw, dim, "time")
    if coordinate is None:
        raise CubeError(f"axis {dim!r} of {path} has no dates: there is no coordinate variable along it; add one")
    axis = decode_times(loaded(coordinate, path), path)
    if ordered:
        check_order(axis, path, dim)
    return axis


def _values(coordinate: xr.Variable | None, path: str) -> NDArray[Any] | None:
    if coordinate is None or coordinate.dtype.kind not in "iuf":
        return None
    values = np.asarray(unpacked(coordinate, path).values)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _coordinates(raw: xr.Dataset, cube: Cube) -> dict[str, xr.Variable]:
    """Return the coordinate variables along time, y and x that there are, time decoded; and the grid mapping."""
    coords: dict[str, xr.Variable] = {}
    roles: tuple[Role, ...] = ("time", "y", "x")
    for dim, role in zip(cube.dims, roles, strict=True):
        coordinate = coordinate_of(raw, dim, role)
        if coordinate is None:
            continue
        if role == "time":
            coords[dim] = decode_times(loaded(coordinate, cube.path), cube.path).decoded
        else:
            coords[dim] = unpacked(coordinate, cube.path)
        # Codecs of Zarr v2 or NetCDF can't be written to Zarr v3.
        kept = {key: value for key, value in coords[dim].encoding.items() if key in _CF_ENCODING}
        coords[dim] = coords[dim].copy(deep=False)
        coords[dim].encoding = kept
    if cube.grid_mapping is not None:
        coords[cube.grid_mapping] = xr.Variable((), np.int64(0), dict(cube.grid_mapping_attrs))
    return coords


def _cut_to_area(area: str, transform: Affine6 | None, full: Triple, aoi: Path, path: str) -> tuple[slice, slice]:
    assert transform is not None  # read_area has refused a cube without one
    box = area_window(area, transform, full[1:])
    if box is not None:
        rows, columns = box
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        if burn(area, shifted(transform, rows.start, columns.start), shape).any():
            return box
    a, _, left, _, e, top = transform
    raise CubeError(
        f"--aoi: the polygons of {aoi} do not touch {path}, which reaches from x {left:.12g} to "
        f"{left + a * full[2]:.12g} and y {top:.12g} to {top + e * full[1]:.12g} in its own CRS"
    )


def _fingerprint(document: Mapping[str, Any], arrays: Sequence[NDArray[Any] | None]) -> str:
    """Return the sha256 of what JSON can say and of coordinate values."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode())
    for values in arrays:
        digest.update(b"|none" if values is None else f"|{values.dtype.str}{values.shape}".encode())
        if values is not None:
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def open_cube(
    path: str | Path,
    *,
    variables: Sequence[str] | None = None,
    domain: str | None = None,
    time: Period | None = None,
    aoi: Path | None = None,
    qa: str | Sequence[str] = (),
    keep: str | Sequence[str] = (),
    drop: str | Sequence[str] = (),
    buffer: int = 0,
) -> xr.Dataset:
    """Return a cube as a lazy, decoded dataset: (time, y, x) order, the file's names, NaN in gaps.

    Takes what `open_source` takes, and which samples to trust as the command line does, see
    `stpipe.core.qa_products.parse_trust`: what is not trusted is NaN. Encodings are kept, so that `Dataset.to_zarr`
    writes the stored types again, but for integers that have no value for gaps and get some. The domain variable and
    the ones that rules are about are included; outside of an area of interest nothing is masked.
    """
    trust = parse_trust(qa, keep, drop, buffer)
    cube = open_source(path, variables=variables, domain=domain, time=time, aoi=aoi, trust=trust)
    raw = open_raw(cube.path, cube.kind, lazy_chunks=True)
    coords, mapping = _coordinates(raw, cube), cube.grid_mapping
    beside = tuple(stored for stored in cube.quality if stored.info.name not in cube.names)
    arrays = {s.info.name: _decoded(raw, s, cube.dims, mapping) for s in (*cube.stored, *beside)}
    if cube.stored_domain is not None:
        arrays[cube.stored_domain.info.name] = _decoded(raw, cube.stored_domain, cube.dims[1:], mapping)
    dataset = xr.Dataset(arrays, coords=coords, attrs=dict(raw.attrs)).isel(cube.selection, missing_dims="ignore")
    for info in (*cube.variables, *(stored.info for stored in beside)):
        # Zarr refuses Dask chunks that straddle stored ones, as they do after a cut.
        dataset[info.name] = dataset[info.name].chunk(dict(zip(cube.dims, info.chunks, strict=True)))
        dataset[info.name].encoding["chunks"] = info.chunks
    if cube.trust is not None:
        reader = cube.reader(())
        for name in set(cube.names) - set(cube.trust.variables):
            dataset[name] = _where_trusted(dataset[name], reader)
    return dataset


def _where_trusted(array: xr.DataArray, reader: StoredReader) -> xr.DataArray:
    """Return a lazy array with NaN where rules trust nothing; each chunk reads what the rules are about by itself."""

    def cut(values: NDArray[Any], block_info: Any = None) -> NDArray[Any]:
        place = block_info[0]["array-location"]
        window = Window(triple(start for start, _ in place), triple(stop for _, stop in place))
        trusted = reader.read_trusted(window)
        assert trusted is not None
        return np.where(trusted, values, dtype.type(np.nan))

    dtype = np.result_type(array.dtype, np.float32)  # float64 where float32 can't hold the integers
    data = array.data.map_blocks(cut, dtype=dtype, meta=np.empty((0, 0, 0), dtype=dtype))
    encoding = dict(array.encoding)
    if np.dtype(encoding.get("dtype", dtype)).kind in "iu" and "_FillValue" not in encoding:
        encoding.pop("dtype", None)
    trusted_only = array.copy(data=data)
    trusted_only.encoding = encoding
    return trusted_only


def _decoded(raw: xr.Dataset, stored: StoredVariable, dims: Sequence[str], mapping: str | None) -> xr.Variable:
    variable = raw.variables[stored.source].isel(dict(stored.picks)).transpose(*dims)
    attrs: Mapping[str, Any] = variable.attrs
    nodata = nodata_values(raw.variables[stored.source])
    kept = {k: v for k, v in attrs.items() if k not in {"grid_mapping", "coordinates", "nodata", "missing_value"}}
    if stored.info.nodata is not None:
        kept["_FillValue"] = _as_stored(nodata[0], raw.variables[stored.source])
        if len(nodata) > 1:
            kept["missing_value"] = _as_stored(nodata[1], raw.variables[stored.source])
    else:
        kept.pop("_FillValue", None)
    for name, factor, neutral in (
        ("scale_factor", stored.info.scale_factor, 1),
        ("add_offset", stored.info.add_offset, 0),
    ):
        kept.pop(name, None)
        if factor != neutral:
            kept[name] = factor  # as a float: xarray can't decode an integer's gaps with an integer factor
    if mapping is not None:
        kept["grid_mapping"] = mapping
    encoding = {k: v for k, v in variable.encoding.items() if k in {"dtype", "preferred_chunks"}}
    prepared = xr.Variable(variable.dims, variable.data, kept, encoding)
    decoded = xr.conventions.decode_cf_variable(stored.info.name, prepared, decode_times=False, decode_timedelta=False)
    if mapping is not None:
        decoded.encoding["grid_mapping"] = decoded.attrs.pop("grid_mapping")
    decoded.encoding.pop("preferred_chunks", None)
    return decoded


def _as_stored(value: float, variable: xr.Variable) -> Any:
    """Return a nodata value in the type that is written in the file, which `_Unsigned` reinterprets."""
    return np.array(value, dtype=stored_dtype(variable)).view(variable.dtype.newbyteorder("="))[()]
