"""How each variable of a cube lies in its file: dimension order, picked indices, nodata, and the raw dataset itself."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpipe.core.ports import JSON, VariableInfo
from stpipe.core.windows import Triple, triple
from stpipe.errors import CubeError, MissingFileError
from stpipe.execution.storage import WRITABLE, is_remote, located, names_at, one_line, scheme_of, zarr_place

if TYPE_CHECKING:  # xarray takes 40 MiB, and workers read Zarr without
    import xarray as xr

Kind = Literal["zarr", "netcdf"]
"""File formats that a cube can have."""

CONTIGUOUS_CHUNKS: Triple = (32, 256, 256)
"""Windows to read a variable by that is stored in one piece."""

LONGEST_AXIS = 20_000_000
"""Frames or pixels along an axis; a file that claims more has no such samples, and no memory holds its coordinates."""

_SHOWN = 4
_SHOWN_OF_PATH = 200

_DAP = ("http", "https", "dods")
_GROUP_MARKS = ("zarr.json", ".zgroup", ".zmetadata", ".zattrs")
_NETCDF_MAGIC = (b"\x89HDF", b"CDF\x01", b"CDF\x02", b"CDF\x05")
_TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_ENCODING_ATTRS = frozenset(
    {
        *("_FillValue", "missing_value", "nodata", "scale_factor", "add_offset", "_Unsigned", "dtype"),
        *("grid_mapping", "coordinates", "_ARRAY_DIMENSIONS"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVariable:
    """Where the samples of one variable lie in the file."""

    info: VariableInfo
    """What they mean; chunks along (time, y, x)."""

    source: str
    """Name of the array in the file."""

    dims: tuple[str, ...]
    """Dimensions of the array, in the file's order."""

    shape: tuple[int, ...]
    """Lengths of `dims`."""

    picks: tuple[tuple[str, int], ...] = ()
    """Index along each dimension that is not time, y or x."""

    also_nodata: tuple[float, ...] = ()
    """Further stored values that mean gap; the reader turns them into `info.nodata`."""


def absolute(path: str | Path) -> str:
    """Return a local path as absolute; a URL as it is."""
    if not str(path):
        raise MissingFileError("no cube is named: its path is empty")
    return str(path).rstrip("/") if is_remote(path) else str(local(path).resolve())


def local(path: str | Path) -> Path:
    """Return a path without ``~``; refuse what the system takes for no path at all."""
    try:
        place = Path(path).expanduser()
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise MissingFileError(f"{str(path)[:_SHOWN_OF_PATH]!r} can't be looked at: {reason}") from error
    return place


def kind_of(path: str) -> Kind:
    """Return the format of a cube; refuse what is neither Zarr nor NetCDF, saying what it looks like."""
    if scheme_of(path) in _DAP and path.endswith((".nc", ".nc4", ".h5")):
        return "netcdf"  # a server of DAP, which the library of NetCDF asks itself
    if is_remote(path):
        return _kind_there(path)
    try:
        return _kind_here(path)
    except PermissionError as error:
        raise CubeError(f"{path} can't be looked at: {error.strerror}; ask whoever it belongs to for leave") from error


def _kind_here(path: str) -> Kind:
    """Return the format of a cube on this machine, or refuse."""
    place = Path(path)
    if not place.exists():
        raise MissingFileError(f"there is no file or folder {path}{beside(place)}")
    if place.is_dir():
        if (place / ".zarray").exists():
            raise CubeError(f"{path} is a single Zarr array; name the Zarr group that holds it and its coordinates")
        marks = [place / name for name in _GROUP_MARKS if (place / name).exists()]
        for mark in marks:
            check_plain(mark)
        if marks:
            return "zarr"
        if any(p.suffix.lower() in {".tif", ".tiff", ".jp2"} for p in place.iterdir()):
            raise CubeError(f"{path} is a folder of images, not a Zarr group; make a cube of them with: stpipe ingest")
        inside = ", ".join(sorted(p.name for p in place.glob("*.zarr"))[:4])
        hint = f"; inside it: {inside}" if inside else ""
        raise CubeError(f"{path} is not a Zarr group: it has no zarr.json, .zgroup or .zmetadata{hint}")
    check_plain(place)
    try:
        with place.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise CubeError(f"{path} can't be read: {error.strerror}") from error
    if magic in _NETCDF_MAGIC:
        return "netcdf"
    if magic in _TIFF_MAGIC:
        raise CubeError(f"{path} is a GeoTIFF, not a cube; make a cube of the series with: stpipe ingest")
    raise CubeError(f"{path} is neither a Zarr group nor a NetCDF file (its first bytes are {magic!r})")


def _kind_there(path: str) -> Kind:
    """Return the format of a cube at an address, or refuse."""
    there = located(path)
    names = names_at(there)
    if not names and (names is None or scheme_of(path) not in WRITABLE):  # what isn't listed may be read all the same
        names = [name for name in (*_GROUP_MARKS, ".zarray") if (there / name).is_file()]
    if names == [there.name] and there.is_file():  # a store lists an object as what is under its own name
        raise CubeError(f"{path} is a file; of what is not on this machine only Zarr groups are read: fetch it first")
    if ".zarray" in names:
        raise CubeError(f"{path} is a single Zarr array; name the Zarr group that holds it and its coordinates")
    if any(name in names for name in _GROUP_MARKS):
        return "zarr"
    if not names:
        raise MissingFileError(f"there is nothing under {path}, or nothing that these credentials let be seen")
    inside = ", ".join(name for name in names if name.endswith(".zarr"))[:_SHOWN_OF_PATH]
    hint = f"; inside it: {inside}" if inside else ""
    raise CubeError(f"{path} is not a Zarr group: it has no zarr.json, .zgroup or .zmetadata{hint}")


def check_plain(place: Path) -> None:
    """Refuse pipes and devices, of which some never end, and some never begin."""
    if not place.is_file():
        raise CubeError(f"{place} is a pipe, a device or the like, and no plain file")


def beside(place: Path) -> str:
    """Return the tail of a message about a path that leads nowhere: what there is of similar names, or else cubes."""
    missing = place
    while not missing.parent.exists() and missing != missing.parent:
        missing = missing.parent
    folder = missing.parent
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if any(letter in missing.name for letter in "*?["):
        near = [name for name in names if not name.startswith(".")][:_SHOWN]
    else:
        near = get_close_matches(missing.name, names, n=_SHOWN)
        near = near or [name for name in names if name.startswith(missing.stem)][:_SHOWN]
        near = near or [name for name in names if name.endswith(".zarr")][:_SHOWN]
    where = "beside it" if missing == place else f"there is no {missing}; beside that"
    return f"; {where}: {', '.join(near)}" if near else ""


def open_raw(path: str, kind: Kind, *, lazy_chunks: bool = False) -> xr.Dataset:
    """Open a file so that variables hold stored samples and attributes what the file says.

    Parameters
    ----------
    path : str
        Absolute path, or URL.
    kind : {"zarr", "netcdf"}
        See `kind_of`.
    lazy_chunks : bool
        Back variables with Dask arrays of the stored chunks.
    """
    import xarray as xr

    options: dict[str, Any] = {"mask_and_scale": False, "decode_times": False, "decode_coords": False}
    # An index would be read at once, whatever length a file claims; xarray has not always had a way to leave it out.
    if "create_default_indexes" in inspect.signature(xr.open_dataset).parameters:
        options["create_default_indexes"] = False
    if kind == "zarr":
        # Reading each array's own metadata avoids both a stale consolidated copy and the warning where there is none.
        options |= {"engine": "zarr", "consolidated": None if is_remote(path) else False}
    else:
        options |= {"engine": netcdf_engine(), "cache": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = zarr_place(path) if kind == "zarr" else path
            dataset = xr.open_dataset(source, chunks={} if lazy_chunks else None, **options)
    except MemoryError:
        raise
    except Exception as error:
        if "ContainsArray" in type(error).__name__:
            raise CubeError(f"{path} is a single Zarr array; name the Zarr group that holds it") from error
        raise CubeError(f"{path} can't be opened as {kind}: {one_line(error)}") from error
    return _by_name(dataset) if kind == "zarr" else dataset


def _by_name(dataset: xr.Dataset) -> xr.Dataset:
    """Order what is in a folder by name: each time that it is opened, its arrays come as they happen to be read."""
    import xarray as xr

    variables = {name: dataset.variables[name] for name in sorted(dataset.variables, key=str)}
    coordinates = {name: variables.pop(name) for name in list(variables) if name in dataset.coords}
    ordered = xr.Dataset(variables, xr.Coordinates(coordinates, indexes={}), dataset.attrs)
    ordered.encoding = dataset.encoding
    ordered.set_close(dataset.close)
    return ordered


def netcdf_engine() -> str:
    """Return the xarray engine for NetCDF that is installed."""
    try:
        import netCDF4  # noqa: F401
    except ImportError:
        return "h5netcdf"
    return "netcdf4"


def check_lengths(sizes: Mapping[Hashable, int], dims: Sequence[str], path: str) -> None:
    """Refuse axes without a sample, and lengths that no cube has, before coordinates are read.

    >>> check_lengths({"x": 10**12}, ["x"], "cube.zarr")
    Traceback (most recent call last):
    ...
    stpipe.errors.CubeError: axis 'x' of cube.zarr claims a length of 1000000000000; the most is 20000000
    """
    for dim in dims:
        if sizes[dim] == 0:
            raise CubeError(f"axis {dim!r} of {path} has length 0, so there is nothing to read")
        if sizes[dim] > LONGEST_AXIS:
            raise CubeError(f"axis {dim!r} of {path} claims a length of {sizes[dim]}; the most is {LONGEST_AXIS}")


def loaded(coordinate: xr.Variable, path: str) -> xr.Variable:
    """Return a coordinate with its values in memory."""
    try:
        return coordinate.copy(deep=False).load()
    except Exception as error:
        raise CubeError(f"coordinate {coordinate.dims[0]!r} of {path} can't be read: {one_line(error)}") from error


def unpacked(coordinate: xr.Variable, path: str) -> xr.Variable:
    """Return a coordinate along y or x in memory and in physical units: CF lets it be packed as data are."""
    import xarray as xr

    packed = loaded(coordinate, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decoded = xr.conventions.decode_cf_variable(
                "coordinate", packed, decode_times=False, decode_timedelta=False
            )
            return decoded.load()
    except Exception as error:
        raise CubeError(f"coordinate {coordinate.dims[0]!r} of {path} can't be decoded: {one_line(error)}") from error


def stored_dtype(variable: xr.Variable) -> np.dtype[Any]:
    """Return the native dtype of the samples, heeding the `_Unsigned` attribute of NetCDF-3 and DAP."""
    dtype: np.dtype[Any] = variable.dtype.newbyteorder("=")
    unsigned = str(variable.attrs.get("_Unsigned", "")).lower()
    if dtype.kind == "i" and unsigned == "true":
        return np.dtype(f"u{dtype.itemsize}")
    if dtype.kind == "u" and unsigned == "false":
        return np.dtype(f"i{dtype.itemsize}")
    return dtype


def nodata_values(variable: xr.Variable) -> tuple[float, ...]:
    """Return the stored values that mean gap besides NaN, the one to write first.

    `_FillValue` comes first, then `missing_value`; a plain `nodata` attribute, as odc.stac leaves it, counts where
    neither is there. Values that the type can't hold are left out: no sample can equal them.

    >>> import xarray as xr
    >>> nodata_values(xr.Variable("x", np.zeros(1, "uint8"), {"_FillValue": 255, "missing_value": [255, 254]}))
    (255, 254)
    >>> nodata_values(xr.Variable("x", np.zeros(1, "uint16"), {"nodata": -9999}))
    ()
    """
    dtype, raw = stored_dtype(variable), variable.dtype.newbyteorder("=")
    names = [name for name in ("_FillValue", "missing_value") if name in variable.attrs] or ["nodata"]
    values: list[float] = []
    for name in names:
        for item in _items(variable.attrs.get(name, [])):
            number = _number(item)
            if number is None or (isinstance(number, float) and isnan(number)):
                continue
            if dtype.kind in "iu":
                if number != int(number) if isfinite(number) else True:
                    continue
                number = int(number)
                if raw != dtype and np.iinfo(raw).min <= number <= np.iinfo(raw).max:
                    number = int(np.array(number, dtype=raw).view(dtype))
                if not np.iinfo(dtype).min <= number <= np.iinfo(dtype).max:
                    continue
            if number not in values:
                values.append(number)
    return tuple(values)


def describe(variable: xr.Variable, name: str, chunks: Triple, path: str) -> tuple[VariableInfo, tuple[float, ...]]:
    """Return what the samples of a variable mean, and its further nodata values."""
    dtype = stored_dtype(variable)
    scale, offset = _factor(variable, "scale_factor", 1.0, name, path), _factor(variable, "add_offset", 0.0, name, path)
    if scale == 0:
        raise CubeError(f"variable {name!r} in {path} has scale_factor 0, so every sample would be the same")
    nodata, *more = nodata_values(variable) or (None,)
    info = VariableInfo(
        name=name,
        dtype=dtype.name,
        chunks=chunks,
        nodata=nodata,
        scale_factor=scale,
        add_offset=offset,
        attrs=plain_attrs(variable.attrs, without=_ENCODING_ATTRS),
    )
    return info, tuple(value for value in more if value is not None)


def chunks_of(variable: xr.Variable, dims: tuple[str, ...]) -> Triple:
    """Return the stored chunk lengths along (time, y, x); a default for a variable stored in one piece."""
    encoding = variable.encoding
    stored = encoding.get("chunks") or encoding.get("chunksizes")
    if not stored or encoding.get("contiguous"):
        return triple(
            max(1, min(variable.sizes[dim], default)) for dim, default in zip(dims, CONTIGUOUS_CHUNKS, strict=True)
        )
    lengths = dict(zip(variable.dims, stored, strict=True))
    # NetCDF chunks along an unlimited dimension may be longer than the dimension.
    return triple(max(1, min(variable.sizes[dim], int(lengths[dim]))) for dim in dims)


def plain_attrs(attrs: Mapping[Any, Any], *, without: frozenset[str] = frozenset()) -> dict[str, JSON]:
    """Return attributes as values that JSON can hold; leave out what it can't.

    >>> plain_attrs({"units": "m", "flags": np.array([1, 2]), "n": np.int16(3), "raw": b"x"})
    {'units': 'm', 'flags': [1, 2], 'n': 3}
    """
    plain: dict[str, JSON] = {}
    for key, value in attrs.items():
        if str(key) in without:
            continue
        item = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        if isinstance(item, str | int | float | bool | list | dict | tuple) or item is None:
            plain[str(key)] = list(item) if isinstance(item, tuple) else item
    return plain


def _items(value: Any) -> Any:
    """Return an attribute as a flat array; lists of lists of odd lengths as something that is no number."""
    try:
        return np.ravel(np.asarray(value))
    except ValueError:
        return np.array([None])


def _number(value: Any) -> float | None:
    """Return an attribute as a number; integers stay exact."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    try:
        return value if isinstance(value, int) else float(value)
    except (TypeError, ValueError):
        return None


def _factor(variable: xr.Variable, attribute: str, default: float, name: str, path: str) -> float:
    raw = variable.attrs.get(attribute, default)
    items = _items(raw)
    number = _number(items[0]) if items.size else default
    if number is None or not isfinite(number):
        raise CubeError(f"variable {name!r} in {path} has {attribute} {raw!r}, which is not a number")
    return float(number)
