"""Where the pixels of a cube are on Earth: its CRS, its affine transform, and areas of interest."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.windows import Window
from stpipe.errors import CubeError, MissingFileError
from stpipe.execution.storage import one_line
from stpipe.io.dimensions import degrees_role

if TYPE_CHECKING:  # xarray takes 40 MiB, and workers, who burn outlines, do without
    import xarray as xr

Affine6 = tuple[float, float, float, float, float, float]
"""``x = a * col + b * row + c; y = d * col + e * row + f`` of pixel corners, as (a, b, c, d, e, f)."""

_WKT_ATTRS = ("crs_wkt", "spatial_ref", "esri_pe_string")
_MAPPING_NAMES = ("spatial_ref", "crs", "grid_mapping", "epsg", "proj:epsg", "transverse_mercator")
_SPACING_TOLERANCE = 0.01  # of a pixel: what rounding in text and float32 coordinates amounts to


def grid_mapping_name(dataset: xr.Dataset, variable: xr.Variable) -> str | None:
    """Return the name of the variable that holds a variable's CRS, or None."""
    declared = str(variable.attrs.get("grid_mapping", variable.encoding.get("grid_mapping", "")))
    # CF also allows "name: coordinate coordinate ...".
    name = declared.split(":", maxsplit=1)[0].strip()
    if name in dataset.variables:
        return name
    for candidate in _MAPPING_NAMES:
        if candidate in dataset.variables and dataset.variables[candidate].ndim == 0:
            return candidate
    return None


def crs_wkt_of(dataset: xr.Dataset, variable: xr.Variable, y: xr.Variable | None, x: xr.Variable | None) -> str | None:
    """Return the CRS of a variable as WKT, or None where the file names none.

    Coordinates in CF's degrees north and east without a grid mapping are taken as EPSG:4326.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    candidates: list[Any] = []
    mapping = grid_mapping_name(dataset, variable)
    if mapping is not None:
        attrs = dataset.variables[mapping].attrs
        candidates += [attrs[name] for name in _WKT_ATTRS if attrs.get(name)]
        if "grid_mapping_name" in attrs:
            candidates.append(dict(attrs))
        if mapping in {"epsg", "proj:epsg"}:
            candidates.append(int(dataset.variables[mapping].values))
    candidates += [attrs["crs"] for attrs in (variable.attrs, dataset.attrs) if attrs.get("crs")]
    for candidate in candidates:
        try:
            crs = CRS.from_cf(candidate) if isinstance(candidate, dict) else CRS.from_user_input(_modern(candidate))
        except (CRSError, ValueError, TypeError, KeyError):
            continue
        return str(crs.to_wkt())
    if y is not None and x is not None and degrees_role(y) == "y" and degrees_role(x) == "x":
        return str(CRS.from_epsg(4326).to_wkt())
    return None


def grid_mapping_of(
    dataset: xr.Dataset, variable: xr.Variable, crs_wkt: str | None, transform: Affine6 | None
) -> tuple[str, dict[str, Any]] | None:
    """Return name and attributes of the grid mapping that an output has to carry; None without a CRS.

    What the file says is kept, and completed where it says it in another way: as an EPSG code, or by units alone.
    """
    if crs_wkt is None:
        return None
    name = grid_mapping_name(dataset, variable)
    attrs = dict(dataset.variables[name].attrs) if name is not None else {}
    if name is None or not (attrs.keys() & {*_WKT_ATTRS, "grid_mapping_name"}):
        name, attrs = "spatial_ref", {}
    attrs.pop("GeoTransform", None)  # of the whole frame, which the cube may be a part of
    return name, {**attrs, **grid_mapping_attrs(crs_wkt, transform, complete="grid_mapping_name" not in attrs)}


def grid_mapping_attrs(crs_wkt: str, transform: Affine6 | None, *, complete: bool = True) -> dict[str, Any]:
    """Return what rioxarray, GDAL and CF readers look for in a grid mapping.

    Parameters
    ----------
    crs_wkt : str
        The CRS.
    transform : Affine6, optional
        Of the frames.
    complete : bool
        Whether to add CF's own parameters, as far as it has any for this CRS.
    """
    from pyproj import CRS

    attrs: dict[str, Any] = {}
    if complete:
        parameters = CRS.from_wkt(crs_wkt).to_cf()
        attrs |= {key: value for key, value in parameters.items() if isinstance(value, str | int | float)}
    attrs |= {"crs_wkt": crs_wkt, "spatial_ref": crs_wkt}
    if transform is not None:
        a, b, c, d, e, f = transform
        attrs["GeoTransform"] = " ".join(repr(number) for number in (c, a, b, f, d, e))
    return attrs


def _modern(crs: Any) -> Any:
    """Return ``+init=epsg:32631`` as ``EPSG:32631``; PROJ warns of the old spelling."""
    text = str(crs).strip()
    return text.split("=", 1)[1].upper() if text.lower().startswith("+init=epsg:") else crs


def spacing(coordinate: NDArray[Any] | None) -> tuple[float, float] | None:
    """Return the first pixel centre and the step of an evenly spaced axis; None where it isn't.

    >>> spacing(np.array([10.0, 8.0, 6.0]))
    (10.0, -2.0)
    >>> spacing(np.array([0.0, 1.0, 5.0])) is None
    True
    """
    if coordinate is None or coordinate.size < 2 or coordinate.dtype.kind not in "iuf":
        return None
    values = coordinate.astype(np.float64)
    if not np.isfinite(values).all():
        return None
    step = (values[-1] - values[0]) / (values.size - 1)
    rounding = 4 * np.finfo(coordinate.dtype).eps * np.abs(values).max() if coordinate.dtype.kind == "f" else 0.0
    tolerance = max(_SPACING_TOLERANCE * abs(step), min(rounding, 0.25 * abs(step)))
    if step == 0 or np.abs(values - (values[0] + step * np.arange(values.size))).max() > tolerance:
        return None
    return float(values[0]), float(step)


def transform_of(
    dataset: xr.Dataset, variable: xr.Variable, y: NDArray[Any] | None, x: NDArray[Any] | None
) -> Affine6 | None:
    """Return the affine transform of the frames as stored: from even coordinates, else from a GeoTransform.

    A single row or column has a place and no step: the step is that of a GeoTransform, or else pixels are taken to be
    square. A south-up cube has a positive fifth number. None where the coordinates are uneven, or there are none, or a
    single pixel has nothing to tell its size.

    Examples
    --------
    >>> row, columns = np.array([900.0]), np.array([500.0, 510.0])
    >>> import xarray as xr
    >>> transform_of(xr.Dataset(), xr.Variable((), 0), row, columns)
    (10.0, 0.0, 495.0, 0.0, -10.0, 905.0)
    >>> transform_of(xr.Dataset(), xr.Variable((), 0), row, columns[:1]) is None
    True
    """
    along_y, along_x = spacing(y), spacing(x)
    if not all(known or c is None or c.size < 2 for c, known in ((y, along_y), (x, along_x))):
        return None
    declared = _geotransform(dataset, variable)
    if declared is not None and (declared[1] or declared[3]) and not (along_y and along_x):
        return declared  # turned: coordinates along the axes don't say where its pixels are
    a, _, c, _, e, f = declared or (0.0,) * 6
    rows = _edge_and_step(y, along_y, (f, e), beside=-abs(along_x[1]) if along_x else 0.0)
    columns = _edge_and_step(x, along_x, (c, a), beside=abs(along_y[1]) if along_y else 0.0)
    if rows is None or columns is None:
        return None
    (top, dy), (left, dx) = rows, columns
    return (dx, 0.0, left, 0.0, dy, top)


def _edge_and_step(
    coordinate: NDArray[Any] | None, known: tuple[float, float] | None, declared: tuple[float, float], *, beside: float
) -> tuple[float, float] | None:
    """Return where an axis begins and its step, 0 standing for a step that is not known.

    Parameters
    ----------
    coordinate : (n,) ndarray, optional
        Pixel centres.
    known : (first, step), optional
        From `spacing`.
    declared : (edge, step)
        As a GeoTransform has them, of the whole frame of which the axis may be a part.
    beside : float
        Step of the other axis.
    """
    if known is not None:
        first, step = known
        return first - step / 2, step
    step = declared[1]
    if coordinate is None or coordinate.size == 0 or coordinate.dtype.kind not in "iuf":
        return declared if step else None
    step = step or beside
    centre = float(coordinate.ravel()[0])
    return (centre - step / 2, step) if step and np.isfinite(centre) else None


def _geotransform(dataset: xr.Dataset, variable: xr.Variable) -> Affine6 | None:
    mapping = grid_mapping_name(dataset, variable)
    raw = dataset.variables[mapping].attrs.get("GeoTransform") if mapping is not None else None
    try:
        numbers = [
            float(part) for part in (raw.split() if isinstance(raw, str) else np.ravel(np.asarray(raw)).tolist())
        ]
    except (TypeError, ValueError):
        return None
    if len(numbers) != 6:
        return None
    c, a, b, f, d, e = numbers
    return (a, b, c, d, e, f)


def shifted(transform: Affine6, rows: int, columns: int) -> Affine6:
    """Return the transform of a window that starts some rows and columns in.

    >>> shifted((10.0, 0.0, 500.0, 0.0, -10.0, 900.0), rows=2, columns=1)
    (10.0, 0.0, 510.0, 0.0, -10.0, 880.0)
    """
    a, b, c, d, e, f = transform
    return (a, b, c + a * columns + b * rows, d, e, f + d * columns + e * rows)


def read_area(path: Path, crs_wkt: str | None, transform: Affine6 | None, cube: str) -> str:
    """Return the polygons of a GeoJSON file in the CRS of the cube, as canonical JSON."""
    if crs_wkt is None:
        raise CubeError(f"--aoi needs a cube with a CRS, and {cube} has none; set it with ds.rio.write_crs")
    if transform is None:
        raise CubeError(f"--aoi needs a cube on an even grid, and the coordinates of {cube} are uneven or missing")
    if not Path(path).is_file():
        raise MissingFileError(f"--aoi: there is no file {path}")
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CubeError(f"--aoi takes GeoJSON polygons, and {path} is not JSON: {one_line(error)}") from error
    from rasterio.crs import CRS
    from rasterio.warp import transform_geom

    try:
        polygons = _polygons(document, path)
        rings = [[np.asarray(ring, dtype=np.float64)[:, :2] for ring in polygon] for polygon in polygons]
        points = np.concatenate([ring for polygon in rings for ring in polygon])
        (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
        source = _declared_crs(document)
        there = _known_crs(source, path)
        _check_degrees(source, (west, south, east, north), path)
        # A straight edge in degrees is a curve in the cube's CRS; short pieces follow it.
        piece = max(east - west, north - south, 1e-9) / 64
        dense = [[_with_steps(ring, piece).tolist() for ring in polygon] for polygon in rings]
        area = {"type": "MultiPolygon", "coordinates": dense}
        with quiet_gdal():
            moved = transform_geom(there, CRS.from_wkt(crs_wkt), area)
    except CubeError:
        raise
    except Exception as error:
        raise CubeError(f"--aoi: {path} can't be brought into the CRS of the cube: {one_line(error)}") from error
    return json.dumps(moved, sort_keys=True)


def quiet_gdal() -> Any:
    """Return a context in which GDAL and PROJ raise what is wrong and print nothing."""
    from rasterio import Env

    return Env()


def is_geographic(crs_wkt: str) -> bool:
    """Whether a CRS is in degrees.

    >>> is_geographic('GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],'
    ...               'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]]')
    True
    """
    from rasterio.crs import CRS

    return bool(CRS.from_wkt(crs_wkt).is_geographic)


def _check_degrees(source: str, bounds: tuple[float, float, float, float], path: Path) -> None:
    west, south, east, north = bounds
    if source == "EPSG:4326" and not (-360 <= west <= east <= 360 and -90 <= south <= north <= 90):
        raise CubeError(
            f"GeoJSON is in degrees of WGS 84, but {path} reaches from ({west:.12g}, {south:.12g}) to "
            f"({east:.12g}, {north:.12g}); reproject it: ogr2ogr -t_srs EPSG:4326 out.geojson {Path(path).name}"
        )


def _with_steps(ring: NDArray[np.float64], piece: float) -> NDArray[np.float64]:
    """Return a ring with points added, so that no side is longer than a piece."""
    sides = []
    for start, end in itertools.pairwise(ring):
        count = max(1, int(np.ceil(np.abs(end - start).max() / piece)))
        sides.append(start + (end - start) * np.linspace(0, 1, count, endpoint=False)[:, None])
    return np.concatenate([*sides, ring[-1:]])


def _declared_crs(document: Mapping[str, Any]) -> str:
    """Return the CRS of a GeoJSON file: WGS 84, unless it names another in the way GDAL still writes."""
    crs = document.get("crs")
    name = crs.get("properties", {}).get("name") if isinstance(crs, Mapping) else None
    return "EPSG:4326" if not name or "CRS84" in str(name) else str(name)


def _known_crs(name: str, path: Path) -> Any:
    """Return the CRS that a GeoJSON file names, or say that there is none of this name."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        with quiet_gdal():
            return CRS.from_user_input(name)
    except (CRSError, ValueError, TypeError):
        raise CubeError(
            f"--aoi: {path} says that it is in {name[:80]!r}, which is no known CRS; correct its member crs, or leave "
            "that out if it is in degrees of WGS 84"
        ) from None


def _polygons(document: Any, path: Path) -> list[Any]:
    """Return the rings of every polygon in a GeoJSON document."""
    found: list[Any] = []
    others: set[str] = set()

    def collect(node: Any) -> None:
        if not isinstance(node, Mapping):
            return
        kind = node.get("type")
        if kind == "FeatureCollection":
            for feature in node.get("features") or ():
                collect(feature)
        elif kind == "Feature":
            collect(node.get("geometry"))
        elif kind == "GeometryCollection":
            for geometry in node.get("geometries") or ():
                collect(geometry)
        elif kind == "Polygon" and node.get("coordinates"):
            found.append(node["coordinates"])
        elif kind == "MultiPolygon":
            found.extend(node.get("coordinates") or ())
        else:
            others.add(str(kind))

    collect(document)
    if not found:
        seen = f"it holds {', '.join(sorted(others))}" if others else "it holds no geometry"
        raise CubeError(f"--aoi takes GeoJSON polygons, but {path} has none: {seen}")
    return found


def burn(area: str, transform: Affine6, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return (y, x) True where a pixel touches the area.

    Parameters
    ----------
    area : str
        Geometry in the CRS of the cube, from `read_area`.
    transform : Affine6
        Of the window that starts at row 0, column 0 of `shape`.
    shape : (rows, columns)
        Of the window.
    """
    from affine import Affine
    from rasterio.features import rasterize

    if 0 in shape:
        return np.zeros(shape, dtype=bool)
    burnt = rasterize(
        [(json.loads(area), 1)], out_shape=shape, transform=Affine(*transform), all_touched=True, dtype="uint8"
    )
    return np.asarray(burnt, dtype=bool)


BURN_TILE = 512
"""Side of the tiles in which `burn_window` burns."""


def burn_window(area: str, transform: Affine6, window: Window) -> NDArray[np.bool_]:
    """Return (y, x) True where a pixel of a window touches the area, the same in whatever windows it is asked for.

    Burning with a shifted origin rounds differently where an edge runs through pixel corners. So it is always done in
    the same tiles of the cube, of which the window is cut.
    """
    (_, top, left), (_, bottom, right) = window.start, window.stop
    inside = np.zeros((bottom - top, right - left), dtype=bool)
    for y in range(top // BURN_TILE * BURN_TILE, bottom, BURN_TILE):
        for x in range(left // BURN_TILE * BURN_TILE, right, BURN_TILE):
            tile = _burned_tile(area, transform, y, x)
            rows, columns = (
                slice(max(y, top), min(y + BURN_TILE, bottom)),
                slice(max(x, left), min(x + BURN_TILE, right)),
            )
            inside[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = tile[
                rows.start - y : rows.stop - y, columns.start - x : columns.stop - x
            ]
    return inside


@lru_cache(maxsize=32)
def _burned_tile(area: str, transform: Affine6, y: int, x: int) -> NDArray[np.bool_]:
    return burn(area, shifted(transform, y, x), (BURN_TILE, BURN_TILE))


def area_window(area: str, transform: Affine6, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    """Return the rows and columns of the box around an area, cut to the frame; None where they do not meet."""
    from affine import Affine

    points = np.array([point for polygon in json.loads(area)["coordinates"] for ring in polygon for point in ring])
    if not np.isfinite(points).all():
        return None
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    a, b, c, d, e, f = tuple(~Affine(*transform))[:6]
    corners = np.array([(a * x + b * y + c, d * x + e * y + f) for x in (west, east) for y in (south, north)])
    low = np.floor(np.round(corners.min(axis=0), 6)).astype(int)
    high = np.ceil(np.round(corners.max(axis=0), 6)).astype(int)
    columns = slice(max(0, int(low[0])), min(shape[1], max(int(high[0]), int(low[0]) + 1)))
    rows = slice(max(0, int(low[1])), min(shape[0], max(int(high[1]), int(low[1]) + 1)))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None
