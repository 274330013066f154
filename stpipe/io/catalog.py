"""What GeoTIFFs there are, when and where: a STAC ItemCollection, for software that loads them by date and place.

Written as a file it stands beside the folder of the GeoTIFFs, and names them relative to itself, so that both can be
moved together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe import __version__
from stpipe.core.ports import JSON
from stpipe.core.samples import SOURCE_CODES
from stpipe.io.frames import SOURCE_COLOURS, RasterGrid, holds_sources
from stpipe.io.mosaic import MosaicTask, raster_dtype

EXTENSIONS = (
    # Both proj:code and the older proj:epsg, which much software still looks for.
    "https://stac-extensions.github.io/projection/v1.2.0/schema.json",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
)
"""What gives the fields their meaning."""

CLASSES = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
"""The same of source codes."""

SIDE_POINTS = 20
"""Points along each side of a footprint: straight lines of a projection are bent on the globe."""

FULL_CIRCLE = 1e-3
"""Degrees that may be missing from a way round the globe: coordinates are rounded."""

LEAP = 60.0
"""Degrees between neighbours of an outline that has lost points: across the cut of a cone."""

GLOBE = "OGC:CRS84"
"""Longitude and latitude, in this order."""

DECIMALS = 6
"""Of degrees: a tenth of a metre, and the same on every machine."""


@dataclass(slots=True)
class _Item:
    """What is known of one date, or of a stack of them."""

    dates: tuple[str, ...]
    label: str
    assets: dict[str, Any] = field(default_factory=dict)


def item_collection(
    tasks: Sequence[MosaicTask],
    files: Iterable[Mapping[str, Any]],
    *,
    labels: Sequence[str],
    name: str,
    folder: str,
    about: Mapping[str, JSON] | None = None,
) -> bytes:
    """Return the items of a mosaic as JSON: one for each date, or one for all where files are stacks.

    An asset is a variable, or a variable's source codes. Item and asset fields are those of STAC 1.1 and its
    extensions projection, raster, file, processing and classification (https://stac-extensions.github.io).

    Parameters
    ----------
    tasks : sequence of MosaicTask
        What was written, from `plan_mosaic`.
    files : iterable of mapping
        ``path``, below the folder of the mosaic, ``bytes`` and ``sha256`` of each file.
    labels : (time,) sequence of str
        Name of each frame, see `frame_labels`.
    name : str
        What the identifiers of items begin with.
    folder : str
        Where the files lie, relative to the JSON.
    about : mapping, optional
        More properties of every item.

    Returns
    -------
    bytes
        The same for the same files, whoever wrote them, and wherever they lie.
    """
    import pystac

    known = {str(file["path"]): file for file in files}
    items: dict[str, _Item] = {}
    for task in tasks:
        for number, path in enumerate(task.files):
            frame = task.first + number
            label = f"{labels[frame]}_{labels[frame + len(task.dates) - 1]}" if task.is_stack else labels[frame]
            dates = task.dates if task.is_stack else task.dates[number : number + 1]
            item = items.setdefault(label, _Item(dates=dates, label=label))
            item.assets[task.variable] = _asset(task, known[path], f"./{folder}/{path}", dates)
    place = placed(tasks[0].grid)
    made = []
    for item in sorted(items.values(), key=lambda item: (item.dates[0], item.label)):
        first, last = (_instant(item.dates[at]) for at in (0, -1))
        stack = len(item.dates) > 1
        one = pystac.Item(
            id=f"{name}_{item.label}",
            geometry=place.geometry,
            bbox=place.bbox,
            datetime=None if stack else first,
            start_datetime=first if stack else None,
            end_datetime=last if stack else None,
            properties={**place.properties, "processing:software": {"stpipe": __version__}, **(about or {})},
            stac_extensions=list(EXTENSIONS),
        )
        for key, asset in item.assets.items():
            one.add_asset(key, pystac.Asset.from_dict(asset))
            if "classification:classes" in asset["raster:bands"][0]:
                one.stac_extensions = [*EXTENSIONS, CLASSES]
        made.append(one)
    document = pystac.ItemCollection(made, clone_items=False).to_dict(transform_hrefs=False)
    features = [json.dumps(one, ensure_ascii=False, allow_nan=False) for one in document.pop("features")]
    head = json.dumps(document, ensure_ascii=False, allow_nan=False).removesuffix("}")
    return '{}, "features": [\n{}\n]}}\n'.format(head, ",\n".join(features)).encode()  # a line an item


def _instant(date: str) -> datetime:
    """Return a frame's date; STAC has no more than microseconds."""
    return datetime.fromisoformat(str(np.datetime64(date, "us"))).replace(tzinfo=UTC)


def _asset(task: MosaicTask, file: Mapping[str, Any], href: str, dates: Sequence[str]) -> dict[str, Any]:
    """Return one file as STAC describes it."""
    attrs = task.stored.attrs
    asset: dict[str, Any] = {
        "href": href,
        "title": str(attrs.get("long_name") or task.variable),
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "roles": ["data-mask" if task.is_source else "data"],
        "raster:bands": [_band(task)] * len(dates),
        "file:size": file["bytes"],
        "file:checksum": f"1220{file['sha256']}",  # as a multihash: sha2-256, 32 bytes
    }
    if task.is_stack:
        asset["description"] = "a band for each date"
        asset["bands"] = [{"name": str(number), "description": date} for number, date in enumerate(dates, 1)]
    return asset


def _band(task: MosaicTask) -> dict[str, Any]:
    # rasterio takes a while to load, and a plan has no need of it.
    from stpipe.io.geotiff import file_nodata

    stored, nodata = task.stored, file_nodata(task)
    band: dict[str, Any] = {"data_type": raster_dtype(stored.dtype).name, "sampling": "area"}
    if nodata is not None:
        band["nodata"] = nodata if np.isfinite(nodata) else _spelled(nodata)
    if stored.attrs.get("units"):
        band["unit"] = str(stored.attrs["units"])
    if (stored.scale_factor, stored.add_offset) != (1.0, 0.0):
        band |= {"scale": float(stored.scale_factor), "offset": float(stored.add_offset)}
    if task.is_source and holds_sources(stored):
        band["classification:classes"] = [
            {"value": value, "name": meaning, "color_hint": SOURCE_COLOURS[meaning].removeprefix("#").upper()}
            for meaning, value in SOURCE_CODES.items()
        ]
    return band


def _spelled(value: float) -> str:
    """Return a number that JSON hasn't, as the raster extension spells it.

    >>> _spelled(float("nan")), _spelled(float("-inf"))
    ('nan', '-inf')
    """
    return "nan" if np.isnan(value) else f"{value:f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where frames lie."""

    geometry: dict[str, Any] | None
    """GeoJSON in longitude and latitude; None where nobody knows."""

    bbox: list[float] | None
    """West, south, east, north; west is beyond east across the antimeridian."""

    properties: dict[str, JSON]
    """The same in the frames' own coordinates, as the projection extension says it."""


def placed(grid: RasterGrid) -> Placed:
    """Return where the pixels of a grid lie.

    Examples
    --------
    >>> from rasterio.crs import CRS
    >>> utm = CRS.from_epsg(32615).to_wkt()
    >>> grid = RasterGrid.place(
    ...     height=3, width=2, crs_wkt=utm, transform=(10, 0, 5e5, 0, -10, 4e6), y=None, x=None
    ... )
    >>> where = placed(grid)
    >>> where.bbox, where.properties["proj:code"]
    ([-93.0, 36.144448, -92.999778, 36.144718], 'EPSG:32615')
    """
    properties: dict[str, JSON] = {"proj:shape": [grid.height, grid.width]}
    if grid.transform is not None:
        properties["proj:transform"] = list(grid.transform)
    if grid.crs_wkt is None or grid.transform is None:
        return Placed(geometry=None, bbox=None, properties=properties)
    from rasterio.crs import CRS
    from rasterio.errors import RasterioError

    from stpipe.io.geotiff import CPLE_BaseError

    crs = CRS.from_wkt(grid.crs_wkt)
    authority = crs.to_authority()
    properties["proj:code"] = None if authority is None else ":".join(authority)
    properties["proj:epsg"] = int(authority[1]) if authority is not None and authority[0] == "EPSG" else None
    if authority is None:
        properties["proj:wkt2"] = crs.to_wkt(version="WKT2_2019")
    try:
        geometry = _footprint(grid, crs)
    except (CPLE_BaseError, RasterioError, ValueError):  # a plane of its own, such as a camera's
        return Placed(geometry=None, bbox=None, properties=properties)
    return Placed(geometry=geometry, bbox=_bbox(geometry), properties=properties)


def _footprint(grid: RasterGrid, crs: Any) -> dict[str, Any]:
    """Return the outline of a grid in longitude and latitude, cut in two at the antimeridian.

    Raises
    ------
    ValueError
        If a side of the grid lies where there is no longitude and latitude.
    """
    from rasterio.warp import transform

    assert grid.transform is not None
    a, b, c, d, e, f = grid.transform
    steps = np.linspace(0, 1, SIDE_POINTS, endpoint=False)
    columns = np.concatenate([steps, np.ones_like(steps), 1 - steps, np.zeros_like(steps)]) * grid.width
    rows = np.concatenate([np.zeros_like(steps), steps, np.ones_like(steps), 1 - steps]) * grid.height
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    longitude, latitude = (np.array(side, dtype=float) for side in transform(crs, GLOBE, x, y))
    if not (np.isfinite(longitude).all() and np.isfinite(latitude).all()):
        raise ValueError("a side of the frames lies off the globe")
    there = _comes_back(crs, (longitude, latitude), (x, y), pixel=min(np.hypot(a, d), np.hypot(b, e)))
    longitude, latitude = longitude[there], latitude[there].clip(-90, 90)
    if len(longitude) < 3:
        raise ValueError("the frames lie off the globe")
    points = np.stack([np.unwrap(longitude, period=360.0), latitude], axis=1).round(DECIMALS)
    if there.all() and _are_straight(points, np.ptp(points, axis=0).min() / (2 * max(grid.height, grid.width))):
        points = points[::SIDE_POINTS]
    south, north = float(points[:, 1].min()), float(points[:, 1].max())
    poles = [_holds_pole(grid, crs, pole) for pole in (-90.0, 90.0)]
    leap = np.abs(np.diff(points[:, 0])).max()
    if any(poles) or np.ptp(points[:, 0]) >= 360 - FULL_CIRCLE or (leap > LEAP and not there.all()):
        # All round: from the pole, or to it, as far as any side of the grid.
        south, north = (-90.0 if poles[0] else south), (90.0 if poles[1] else north)
        rings = [np.array([[-180.0, south], [180.0, south], [180.0, north], [-180.0, north]])]
    else:
        points[:, 0] -= 360 * np.floor((points[:, 0].min() + 180) / 360)
        beyond = _cut(points, keep=1.0)
        beyond[:, 0] -= 360
        rings = [_cut(points, keep=-1.0), beyond]
    outlines = [[_closed(ring)] for ring in rings if abs(_twice_area(ring.round(DECIMALS))) > 0]
    if not outlines:
        raise ValueError("the frames are too small to have an outline")
    if len(outlines) == 1:
        return {"type": "Polygon", "coordinates": outlines[0]}
    return {"type": "MultiPolygon", "coordinates": outlines}


def _comes_back(
    crs: Any,
    globe: tuple[NDArray[np.float64], NDArray[np.float64]],
    plane: tuple[NDArray[np.float64], NDArray[np.float64]],
    *,
    pixel: float,
) -> NDArray[np.bool_]:
    """Whether points on the globe lie in the plane where they were taken from, or whole turns of the globe from it.

    Others lie beyond the rim of the projection, where it shows nothing.
    """
    (x, y), (back_x, back_y) = plane, _in_plane(crs, *globe)
    west, east = _in_plane(crs, np.array([-180.0, 180.0]), np.zeros(2))[0]
    turn = 360.0 if crs.is_geographic else abs(east - west)
    away = np.abs(back_x - x)
    if np.isfinite(turn) and turn > pixel:
        away = np.minimum(away % turn, turn - away % turn)
    there: NDArray[np.bool_] = np.hypot(away, back_y - y) < pixel / 2
    return there


def _holds_pole(grid: RasterGrid, crs: Any, pole: float) -> bool:
    """Whether a pole is a point of the plane, and not a line, and a grid holds it, or nearly so."""
    assert grid.transform is not None
    a, b, c, d, e, f = grid.transform
    x, y = _in_plane(crs, np.array([0.0, 90.0, 180.0, -90.0]), np.full(4, pole))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return False
    columns, rows = np.linalg.solve([[a, b], [d, e]], [x - c, y - f])
    if max(np.ptp(columns), np.ptp(rows)) > 1e-3:  # a line; less is rounding
        return False
    near = 1 / SIDE_POINTS  # closer to a pole straight lines between the points of an outline leave it out
    across, down = columns[0] / grid.width, rows[0] / grid.height
    return bool(-near <= across <= 1 + near and -near <= down <= 1 + near)


def _in_plane(
    crs: Any, longitude: NDArray[np.float64], latitude: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where points of the globe lie in a plane, NaN where that is nowhere."""
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    from stpipe.io.geotiff import CPLE_BaseError

    try:
        x, y = transform(GLOBE, crs, longitude, latitude)
    except (CPLE_BaseError, RasterioError):
        return np.full(len(longitude), np.nan), np.full(len(longitude), np.nan)
    plane = np.array([x, y], dtype=float)
    plane[~np.isfinite(plane)] = np.nan
    return plane[0], plane[1]


def _are_straight(points: NDArray[np.float64], tolerance: float) -> bool:
    """Whether no point of an outline is further than that from the straight lines between its corners."""
    sides = points.reshape(4, SIDE_POINTS, 2)
    share = np.linspace(0, 1, SIDE_POINTS, endpoint=False)[None, :, None]
    straight = sides[:, :1] * (1 - share) + np.roll(sides[:, :1], -1, axis=0) * share
    return bool(np.abs(sides - straight).max() <= tolerance)


def _cut(points: NDArray[np.float64], *, keep: float) -> NDArray[np.float64]:
    """Return the part of an outline west of 180 degrees, or east of it with `keep` 1.

    >>> _cut(np.array([[170.0, 0.0], [190.0, 0.0], [190.0, 5.0], [170.0, 5.0]]), keep=1.0).tolist()
    [[180.0, 0.0], [190.0, 0.0], [190.0, 5.0], [180.0, 5.0]]
    """
    kept = []
    for here, there in zip(points, np.roll(points, -1, axis=0), strict=True):
        inside = keep * (here[0] - 180) > 0
        if inside:
            kept.append(here)
        if inside != (keep * (there[0] - 180) > 0) and here[0] != there[0]:
            share = (180 - here[0]) / (there[0] - here[0])
            kept.append(np.array([180.0, here[1] + share * (there[1] - here[1])]))
    return np.array(kept).reshape(-1, 2)


def _closed(ring: NDArray[np.float64]) -> list[list[float]]:
    """Return an outline that ends where it began and goes round against the clock, as GeoJSON has it."""
    if _twice_area(ring) < 0:
        ring = ring[::-1]
    rounded = ring.round(DECIMALS) + 0.0  # no minus zero
    return [[float(lon), float(lat)] for lon, lat in (*rounded, rounded[0])]


def _twice_area(ring: NDArray[np.float64]) -> float:
    """Return twice what an outline holds, below zero where it goes round with the clock.

    >>> _twice_area(np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]]))
    4.0
    """
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def _bbox(geometry: Mapping[str, Any]) -> list[float]:
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    boxes = [(*np.min(part[0], axis=0)[:2], *np.max(part[0], axis=0)[:2]) for part in parts]
    south, north = min(box[1] for box in boxes), max(box[3] for box in boxes)
    if len(boxes) == 1:
        west, east = boxes[0][0], boxes[0][2]
    else:  # the part that ends at 180 degrees is the western one
        west = min(box[0] for box in boxes if box[2] == 180)
        east = max(box[2] for box in boxes if box[0] == -180)
    return [float(side) for side in (west, south, east, north)]
