"""Where on the globe a grid lies: an outline in longitude and latitude that holds all its pixels, whatever bends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON
from stpipe.io.frames import RasterGrid

SIDE_POINTS = 20
"""Points along each side of a footprint: straight lines of a projection are bent on the globe."""

FULL_CIRCLE = 1e-3
"""Degrees that may be missing from a way round the globe: coordinates are rounded."""

LOOKS = 64
"""Places along each side of a grid that are looked at where its outline leaves the globe."""

CROWDED = 75.0
"""Degrees of latitude beyond which such a grid is taken to reach the pole."""

GLOBE = "OGC:CRS84"
"""Longitude and latitude, in this order."""

DECIMALS = 6
"""Of degrees: a tenth of a metre, and the same on every machine."""


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
    from pyproj.exceptions import ProjError
    from rasterio.crs import CRS

    crs = CRS.from_wkt(grid.crs_wkt)
    authority = crs.to_authority()
    properties["proj:code"] = None if authority is None else ":".join(authority)
    properties["proj:epsg"] = int(authority[1]) if authority is not None and authority[0] == "EPSG" else None
    if authority is None:
        properties["proj:wkt2"] = crs.to_wkt(version="WKT2_2019")
    try:
        geometry = _footprint(grid, crs)
    except (ProjError, ValueError):  # a plane of its own, such as a camera's
        return Placed(geometry=None, bbox=None, properties=properties)
    return Placed(geometry=geometry, bbox=_bbox(geometry), properties=properties)


def _footprint(grid: RasterGrid, crs: Any) -> dict[str, Any]:
    """Return an outline in longitude and latitude that holds all pixels of a grid, cut in two at the antimeridian.

    Raises
    ------
    ValueError
        If no part of the grid lies on the globe.
    """
    poles = [_holds_pole(grid, crs, pole) for pole in (-90.0, 90.0)]
    points = _outline(grid, crs)
    west, south, east, north = _extremes(grid, crs) if points is None else _box(points)
    if any(poles) or points is None:
        # To the pole, or where the outline leaves the globe, all as far as any side or pixel of the grid.
        south, north = (-90.0 if poles[0] else south), (90.0 if poles[1] else north)
        west, east = (-180.0, 180.0) if any(poles) else (west, east)
        points = np.array([[west, south], [east, south], [east, north], [west, north]])
    if np.ptp(points[:, 0]) >= 360 - FULL_CIRCLE:
        points = np.array([[-180.0, south], [180.0, south], [180.0, north], [-180.0, north]])
    points[:, 0] -= 360 * np.floor((points[:, 0].min() + 180) / 360)
    rings = _cut(points, keep=-1.0) + [ring - (360.0, 0.0) for ring in _cut(points, keep=1.0)]
    outlines = [[_closed(ring)] for ring in rings if abs(_twice_area(ring.round(DECIMALS))) > 0]
    if not outlines:
        raise ValueError("the frames are too small to have an outline")
    if len(outlines) == 1:
        return {"type": "Polygon", "coordinates": outlines[0]}
    return {"type": "MultiPolygon", "coordinates": outlines}


def _box(points: NDArray[np.float64]) -> tuple[float, float, float, float]:
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    return float(west), float(south), float(east), float(north)


def _outline(grid: RasterGrid, crs: Any) -> NDArray[np.float64] | None:
    """Return longitude, without leaps, and latitude of points around a grid; None if some lie off the globe."""
    outline = _drawn(grid, crs, 0.0)
    if outline is None:
        return None
    if _are_straight(outline, np.ptp(outline, axis=0).min() / (2 * max(grid.height, grid.width))):
        return outline[::SIDE_POINTS]
    # Straight lines from point to point leave out what a side bends outwards; as much further out they leave out none.
    left_out = _depth_of_chords(grid, crs, outline)
    wider = _drawn(grid, crs, 1.1 * left_out) if left_out > 0.5 else None
    return outline if wider is None else wider


def _drawn(grid: RasterGrid, crs: Any, margin: float) -> NDArray[np.float64] | None:
    """Return the outline of a grid that is larger by some pixels, as straight as the lines between its points are."""
    steps = np.linspace(0, 1, SIDE_POINTS, endpoint=False)
    across = np.concatenate([steps, np.ones_like(steps), 1 - steps, np.zeros_like(steps)])
    down = np.concatenate([np.zeros_like(steps), steps, np.ones_like(steps), 1 - steps])
    columns = across * (grid.width + 2 * margin) - margin
    rows = down * (grid.height + 2 * margin) - margin
    points = _on_globe(grid, crs, columns, rows)
    if not np.isfinite(points).all():
        return None
    points[:, 0] = np.unwrap(points[:, 0], period=360.0)
    return points.round(DECIMALS)


def _depth_of_chords(grid: RasterGrid, crs: Any, outline: NDArray[np.float64]) -> float:
    """Return how many pixels the straight lines between points of an outline run inside the grid, at most."""
    middle = (outline + np.roll(outline, -1, axis=0)) / 2
    columns, rows = _in_grid(grid, crs, middle[:, 0], middle[:, 1])
    depth = np.minimum(np.minimum(columns, grid.width - columns), np.minimum(rows, grid.height - rows))
    return float(np.nanmax(depth, initial=0.0))


def _extremes(grid: RasterGrid, crs: Any) -> tuple[float, float, float, float]:
    """Return west, south, east and north of those pixels of a grid that lie on the globe, and a little more.

    Raises
    ------
    ValueError
        If none does.
    """
    down, across = (side.ravel() for side in np.mgrid[0 : 1 : LOOKS * 1j, 0 : 1 : LOOKS * 1j])
    points = _on_globe(grid, crs, across * grid.width, down * grid.height)
    known = np.isfinite(points).all(axis=1)
    if not known.any():
        raise ValueError("the frames lie off the globe")
    net = points.reshape(LOOKS, LOOKS, 2)
    steps = np.concatenate([np.abs(np.diff(net, axis=axis)).reshape(-1, 2) for axis in (0, 1)])
    steps = steps[np.isfinite(steps).all(axis=1)]
    steps[:, 0] = np.minimum(steps[:, 0] % 360, 360 - steps[:, 0] % 360)
    margin = steps.max(axis=0, initial=0.0)  # what lies between the looks
    longitude, latitude = np.sort(points[known, 0] % 360), points[known, 1]
    empty = np.append(np.diff(longitude), longitude[0] + 360 - longitude[-1])
    widest = int(empty.argmax())  # all lies in what is left of the circle
    west, east = longitude[(widest + 1) % len(longitude)] - margin[0], longitude[widest] + margin[0]
    east += 360 * np.ceil((west - east) / 360) if east < west else 0.0
    if empty[widest] <= 2 * margin[0]:
        west, east = -180.0, 180.0
    south, north = float(latitude.min() - margin[1]), float(latitude.max() + margin[1])
    # At a rim the steps from look to look have no bound, and where whole globes end is a pole.
    south, north = (-90.0 if south < -CROWDED else south), (90.0 if north > CROWDED else north)
    return float(west), south, float(east), north


def _on_globe(
    grid: RasterGrid, crs: Any, columns: NDArray[np.float64], rows: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return longitude and latitude of places in a grid, NaN beyond the rim of the projection."""
    assert grid.transform is not None
    a, b, c, d, e, f = grid.transform
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    points = np.stack(_moved(crs, x, y, inverse=False), axis=1)
    back_x, back_y = _in_plane(crs, points[:, 0], points[:, 1])
    west, east = _in_plane(crs, np.array([-180.0, 180.0]), np.zeros(2))[0]
    turn = 360.0 if crs.is_geographic else abs(east - west)
    pixel = min(np.hypot(a, d), np.hypot(b, e))
    away = np.abs(back_x - x)
    if np.isfinite(turn) and turn > pixel:  # whole turns round the globe are as good
        away = np.minimum(away % turn, turn - away % turn)
    beyond = ~(np.hypot(away, back_y - y) < pixel / 2)
    points[:, 1] = points[:, 1].clip(-90, 90)
    points[beyond] = np.nan
    return points


def _in_grid(
    grid: RasterGrid, crs: Any, longitude: NDArray[np.float64], latitude: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return column and row of places on the globe."""
    assert grid.transform is not None
    a, b, c, d, e, f = grid.transform
    x, y = _in_plane(crs, longitude, latitude)
    columns, rows = np.linalg.solve([[a, b], [d, e]], [x - c, y - f])
    return columns, rows


def _holds_pole(grid: RasterGrid, crs: Any, pole: float) -> bool:
    """Whether a pole is a point of the plane, and not a line, and a grid holds it, or nearly so."""
    columns, rows = _in_grid(grid, crs, np.array([0.0, 90.0, 180.0, -90.0]), np.full(4, pole))
    if not (np.isfinite(columns).all() and np.isfinite(rows).all()):
        return False
    if max(np.ptp(columns), np.ptp(rows)) > 1e-3:  # a line; less is rounding
        return False
    near = max(grid.width, grid.height) / SIDE_POINTS  # closer to one, lines between the outline's points leave it out
    column, row = columns[0], rows[0]
    return bool(-near <= column <= grid.width + near and -near <= row <= grid.height + near)


def _in_plane(
    crs: Any, longitude: NDArray[np.float64], latitude: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where points of the globe lie in a plane, NaN where that is nowhere."""
    return _moved(crs, longitude, latitude, inverse=True)


def _moved(
    crs: Any, x: NDArray[np.float64], y: NDArray[np.float64], *, inverse: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points of a plane as longitude and latitude, or the other way round; NaN where there is no such point.

    pyproj's, for rasterio's raises an error for all points where one of them lies nowhere.
    """
    direction: Any = "INVERSE" if inverse else "FORWARD"
    moved = np.array(_transformer(crs.to_wkt()).transform(x, y, direction=direction), dtype=float)
    moved[~np.isfinite(moved)] = np.nan
    return moved[0], moved[1]


@lru_cache(maxsize=4)
def _transformer(wkt: str) -> Any:
    import pyproj

    return pyproj.Transformer.from_crs(wkt, GLOBE, always_xy=True)


def _are_straight(points: NDArray[np.float64], tolerance: float) -> bool:
    """Whether no point of an outline is further than that from the straight lines between its corners."""
    sides = points.reshape(4, SIDE_POINTS, 2)
    share = np.linspace(0, 1, SIDE_POINTS, endpoint=False)[None, :, None]
    straight = sides[:, :1] * (1 - share) + np.roll(sides[:, :1], -1, axis=0) * share
    return bool(np.abs(sides - straight).max() <= tolerance)


def _cut(points: NDArray[np.float64], *, keep: float) -> list[NDArray[np.float64]]:
    """Return the parts of an outline west of 180 degrees, or east of it with `keep` 1.

    An outline may cross that line several times: its parts begin and end there, and of the crossings in the order of
    their latitude each pair bounds a piece of the line that is inside.

    >>> [ring.tolist() for ring in _cut(np.array([[170.0, 0.0], [190.0, 0.0], [190.0, 5.0], [170.0, 5.0]]), keep=1.0)]
    [[[180.0, 0.0], [190.0, 0.0], [190.0, 5.0], [180.0, 5.0]]]
    """
    inside = keep * (points[:, 0] - 180) > 0
    if inside.all():
        return [points]
    chains = []
    for start in np.flatnonzero(inside & ~np.roll(inside, 1)):
        chain = [_crossing(points[start - 1], points[start])]
        at = int(start)
        while inside[at]:
            chain.append(points[at])
            at = (at + 1) % len(points)
        chain.append(_crossing(points[at - 1], points[at]))
        chains.append(np.array(chain))
    ends = sorted((chain[side, 1], number, side) for number, chain in enumerate(chains) for side in (0, -1))
    partner = {}
    for one, other in zip(ends[::2], ends[1::2], strict=True):
        partner[one[1:]], partner[other[1:]] = other[1:], one[1:]
    rings, left = [], set(range(len(chains)))
    while left:
        number, parts = min(left), []
        while number in left:
            left.remove(number)
            parts.append(chains[number])
            number = partner[number, -1][0]
        rings.append(np.concatenate(parts))
    return rings


def _crossing(here: NDArray[np.float64], there: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the way from a point to another crosses 180 degrees."""
    share = (180 - here[0]) / (there[0] - here[0])
    return np.array([180.0, here[1] + share * (there[1] - here[1])])


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
    western, eastern = [box for box in boxes if box[0] > -180], [box for box in boxes if box[0] == -180]
    if western and eastern and any(box[2] == 180 for box in western):  # across the antimeridian
        west, east = min(box[0] for box in western), max(box[2] for box in eastern)
    else:
        west, east = min(box[0] for box in boxes), max(box[2] for box in boxes)
    return [float(side) for side in (west, south, east, north)]
