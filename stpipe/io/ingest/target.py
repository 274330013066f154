"""The grid of the cube to be: that of the files, a part of it, or another one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stpipe.errors import CubeError, OptionError
from stpipe.io.georeference import is_geographic, quiet_gdal, read_area
from stpipe.io.ingest.layers import Layer
from stpipe.io.rasters import Grid, crs_name, grid_of, same_crs

Box = tuple[float, float, float, float]
"""West, south, east, north."""

LONGEST_SIDE = 2_000_000
"""Pixels; a longer one is a mistake in --resolution or --crs."""

_TOUCHED = 1e-6  # of a pixel: what rounding adds to a box drawn along pixel borders


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the user says of the grid; nothing: files must share one."""

    align: str | None = None
    """``"first"``, or a raster whose grid is taken."""

    crs: str | None = None
    """CRS of the cube, as GDAL reads it: EPSG:32633, WKT."""

    resolution: float | None = None
    """Side of a pixel, in units of the CRS."""

    bbox: Box | None = None
    """What to cut out."""

    bbox_crs: str = "EPSG:4326"
    """CRS of `bbox`."""

    aoi: Path | None = None
    """GeoJSON polygons whose bounding box is cut out."""

    def __post_init__(self) -> None:
        if self.align is not None and (self.crs is not None or self.resolution is not None):
            raise OptionError("--align takes a grid as it is, so that --crs and --resolution can't be given with it")
        if self.bbox is not None and self.aoi is not None:
            raise OptionError("--bbox and --aoi both say what to cut out; give one of them")
        if self.resolution is not None and not (math.isfinite(self.resolution) and self.resolution > 0):
            raise OptionError(f"--resolution needs a positive number, got {self.resolution:g}")
        if self.bbox is not None:
            west, south, east, north = self.bbox
            if not (all(map(math.isfinite, self.bbox)) and west < east and south < north):
                raise OptionError(
                    f"--bbox needs W,S,E,N with W < E and S < N, got {_numbers(self.bbox)}{_exchanged(self.bbox)}"
                )

    @property
    def warps(self) -> bool:
        """Whether layers may lie on other grids."""
        return self.align is not None or self.crs is not None or self.resolution is not None

    @property
    def cuts(self) -> bool:
        """Whether only a part is wanted."""
        return self.bbox is not None or self.aoi is not None


def choose_grid(layers: Sequence[Layer], target: Target) -> Grid:
    """Return the grid of the cube.

    Parameters
    ----------
    layers : sequence of Layer
        All layers, in the order of the files.
    target : Target
        What the user says.

    Raises
    ------
    CubeError
        If layers lie on several grids and nothing says what to make of them; if a CRS is needed and there is none.
    """
    first = layers[0]
    if target.crs is not None or target.resolution is not None:
        return _new_grid(layers, target)
    grid = first.grid if target.align in {None, "first"} else grid_of(Path(str(target.align)).expanduser())
    if grid.transform[1] or grid.transform[3]:
        raise CubeError(
            f"a cube has rows and columns along its axes, but the grid of {first.path} is turned: {grid}; give a "
            "--crs and a --resolution to warp to"
        )
    _check_others(layers, grid, target)
    if not target.cuts:
        return grid
    box = _wanted_box(target, grid, first.path)
    around = grid if target.align is not None else _joined(grid, _grids(layers))
    return _cut(around, box, target)


def _grids(layers: Iterable[Layer]) -> list[Grid]:
    return list(dict.fromkeys(layer.grid for layer in layers))


def _check_others(layers: Sequence[Layer], grid: Grid, target: Target) -> None:
    agree = {g: g.offset_in(grid) is not None if target.cuts else g.same_as(grid) for g in _grids(layers)}
    others = [layer for layer in layers if not agree[layer.grid]]
    if not others:
        return
    aim = layers[0].path if target.align in {None, "first"} else str(target.align)
    for layer in others:
        if (layer.grid.crs_wkt is None) == (grid.crs_wkt is None):
            continue
        bare, placed = (layer.path, aim) if layer.grid.crs_wkt is None else (aim, layer.path)
        crs = crs_name(grid.crs_wkt or layer.grid.crs_wkt)
        raise CubeError(
            f"{bare} has no CRS, and {placed} has {crs}, so that nothing tells how they lie to each other; if the "
            "first is damaged, get it again, else give it a CRS: gdal_edit.py -a_srs, or ds.rio.write_crs"
        )
    if target.align is None:
        first, other = layers[0], others[0]
        count, total = len({layer.path for layer in others}), len({layer.path for layer in layers})
        where = f"{first.path} has {grid}, and {other.path} has {other.grid}"
        if first.path == other.path:
            where = f"variable {first.variable!r} of {first.path} has {grid}, and {other.variable!r} has {other.grid}"
        raise CubeError(
            f"all files need one grid, but {where}; {count} of {total} files differ from the first; warp them with "
            "--align first, --align FILE or --resolution, or choose files that agree"
        )
    for layer in others:
        if grid.crs_wkt is None:
            raise CubeError(f"{layer.path} can't be warped to the grid of --align: neither has a CRS")


# --- parts -------------------------------------------------------------------------------------------------------


def _wanted_box(target: Target, grid: Grid, path: str) -> Box:
    """Return the bounding box of what is wanted, in the CRS of a grid."""
    if target.aoi is not None:
        area = json.loads(read_area(target.aoi, grid.crs_wkt, grid.transform, path))
        points = [point for polygon in area["coordinates"] for ring in polygon for point in ring]
        xs, ys = [point[0] for point in points], [point[1] for point in points]
        return min(xs), min(ys), max(xs), max(ys)
    assert target.bbox is not None  # the caller has seen to it
    if grid.crs_wkt is None:
        raise CubeError(f"--bbox needs files with a CRS, and {path} has none")
    source = crs_wkt_of_text(target.bbox_crs, "--bbox-crs")
    check_degrees(target, source, f"that of the files is {crs_name(grid.crs_wkt)}")
    return moved_box(target.bbox, source, grid.crs_wkt, "--bbox")


def check_degrees(target: Target, bbox_wkt: str, hint: str) -> None:
    """Refuse a box that can't be in the degrees that its CRS has.

    Parameters
    ----------
    target : Target
        With a box.
    bbox_wkt : str
        The box's CRS.
    hint : str
        What is known of other CRS.
    """
    if target.bbox is not None and is_geographic(bbox_wkt) and not _could_be_degrees(target.bbox):
        raise OptionError(
            f"--bbox {_numbers(target.bbox)} is not in degrees, as {target.bbox_crs} is; say in which CRS it is with "
            f"--bbox-crs: {hint}"
        )


def _could_be_degrees(box: Box) -> bool:
    west, south, east, north = box
    return -360 <= west <= east <= 360 and -90 <= south <= north <= 90


def _exchanged(box: Box) -> str:
    """Return the tail of a message about a box whose sides are the wrong way round."""
    west, south, east, north = box
    if not all(map(math.isfinite, box)) or west == east or south == north:
        return ""
    wrong = " and ".join(["W and E"] * (west > east) + ["S and N"] * (south > north))
    right = (min(west, east), min(south, north), max(west, east), max(south, north))
    return f"; {wrong} are exchanged, did you mean {_numbers(right)}?"


def _misread(target: Target, grid: Grid) -> str:
    """Return the tail of a message about a box that touches nothing: how it would, if it was meant otherwise."""
    if target.bbox is None or grid.crs_wkt is None or not _could_be_degrees(target.bbox):
        return ""
    west, south, east, north = target.bbox
    if not is_geographic(crs_wkt_of_text(target.bbox_crs, "--bbox-crs")):
        if _touches(target.bbox, grid):
            return f"; it would if it was in degrees and not in {target.bbox_crs}: leave --bbox-crs out"
    elif _touches((south, west, north, east), grid):
        return f"; it would as {_numbers((south, west, north, east))}: W and E are longitudes, S and N latitudes"
    return ""


def _touches(degrees: Box, grid: Grid) -> bool:
    """Whether a box in degrees touches a grid."""
    try:
        west, south, east, north = moved_box(degrees, crs_wkt_of_text("EPSG:4326", ""), str(grid.crs_wkt), "")
    except OptionError:
        return False
    left, bottom, right, top = grid.bounds
    return west < right and left < east and south < top and bottom < north


def _cut(grid: Grid, box: Box, target: Target) -> Grid:
    """Return the part of a grid whose pixels a box touches."""
    a, b, c, d, e, f = grid.transform
    west, south, east, north = box
    columns, rows = sorted(((west - c) / a, (east - c) / a)), sorted(((south - f) / e, (north - f) / e))
    (top, bottom), (left, right) = (
        (max(0, math.floor(low + _TOUCHED)), min(length, math.ceil(high - _TOUCHED)))
        for (low, high), length in zip((rows, columns), grid.shape, strict=True)
    )
    if top >= bottom or left >= right:
        what = f"--bbox {_numbers(target.bbox)}" if target.bbox is not None else f"--aoi {target.aoi}"
        raise CubeError(
            f"{what} does not touch the files: in their CRS it reaches from ({_numbers(box[:2])}) to "
            f"({_numbers(box[2:])}), and they from ({_numbers(grid.bounds[:2])}) to "
            f"({_numbers(grid.bounds[2:])}){_misread(target, grid)}"
        )
    moved = (a, b, c + a * left, d, e, f + e * top)
    return Grid(crs_wkt=grid.crs_wkt, transform=moved, shape=(bottom - top, right - left))


def _joined(grid: Grid, others: Sequence[Grid]) -> Grid:
    """Return the smallest grid on a lattice that holds all of several grids on it."""
    a, b, c, d, e, f = grid.transform
    offsets = [(other.offset_in(grid) or (0, 0), other.shape) for other in others]
    top, left = (min(0, *(offset[axis] for offset, _ in offsets)) for axis in (0, 1))
    bottom, right = (
        max(grid.shape[axis], *(offset[axis] + shape[axis] for offset, shape in offsets)) for axis in (0, 1)
    )
    moved = (a, b, c + a * left, d, e, f + e * top)
    return Grid(crs_wkt=grid.crs_wkt, transform=moved, shape=(bottom - top, right - left))


# --- other grids -------------------------------------------------------------------------------------------------


def _new_grid(layers: Sequence[Layer], target: Target) -> Grid:
    """Return a grid in a CRS and a resolution, as large as all layers or as the part that is wanted.

    Pixel borders lie at those of the first layer where its pixels fit in whole, else at multiples of the resolution.
    """
    first = layers[0]
    for layer in layers:
        if layer.grid.crs_wkt is None:
            raise CubeError(
                f"{layer.path} has no CRS, so it can't be brought to --crs or --resolution; give it one: "
                "gdal_edit.py -a_srs, or ds.rio.write_crs"
            )
    wkt = str(first.grid.crs_wkt) if target.crs is None else crs_wkt_of_text(target.crs, "--crs")
    step = target.resolution if target.resolution is not None else _resolution_in(wkt, layers)
    boxes = [moved_box(grid.bounds, str(grid.crs_wkt), wkt, "--crs") for grid in _grids(layers)]
    west, south = (min(box[axis] for box in boxes) for axis in (0, 1))
    east, north = (max(box[axis] for box in boxes) for axis in (2, 3))
    origin = _origin(first.grid, wkt, step)
    left, right = (math.floor((west - origin[0]) / step + _TOUCHED), math.ceil((east - origin[0]) / step - _TOUCHED))
    top, bottom = (math.floor((origin[1] - north) / step + _TOUCHED), math.ceil((origin[1] - south) / step - _TOUCHED))
    # The part that is wanted is cut out of a grid that may well be too large to be written whole.
    whole = Grid(
        crs_wkt=wkt,
        transform=(step, 0.0, origin[0] + left * step, 0.0, -step, origin[1] - top * step),
        shape=(max(1, bottom - top), max(1, right - left)),
    )
    grid = _cut(whole, _wanted_box(target, whole, first.path), target) if target.cuts else whole
    if step > max(east - west, north - south):
        raise OptionError(
            f"--resolution {step:g} is more than all files cover, {east - west:g} x {north - south:g} in units of the "
            "cube's CRS, which it is in too"
        )
    if max(grid.shape) > LONGEST_SIDE:
        raise OptionError(
            f"--resolution {step:g} makes {grid.shape[0]} x {grid.shape[1]} pixels, and the most along a side is "
            f"{LONGEST_SIDE}; --resolution is in units of the cube's CRS"
        )
    return grid


def _origin(grid: Grid, wkt: str, step: float) -> tuple[float, float]:
    a, b, c, d, e, f = grid.transform
    ratios = [max(step / side, side / step) for side in (abs(a), abs(e)) if side]
    whole = len(ratios) == 2 and all(abs(ratio - round(ratio)) < 1e-9 * ratio for ratio in ratios)
    return (c, f) if whole and not b and not d and same_crs(grid.crs_wkt, wkt) else (0.0, 0.0)


def _resolution_in(wkt: str, layers: Sequence[Layer]) -> float:
    """Return the side of a pixel in another CRS that keeps the files' detail; refuse where files differ."""
    from rasterio.crs import CRS
    from rasterio.warp import calculate_default_transform

    sides: dict[float, Layer] = {}
    for grid in _grids(layers):
        layer = next(layer for layer in layers if layer.grid == grid)
        side = math.sqrt(abs(grid.transform[0] * grid.transform[4] - grid.transform[1] * grid.transform[3]))
        if not any(math.isclose(side, known, rel_tol=0.05) for known in sides):
            sides[side] = layer
    if len(sides) > 1:
        (one, here), (other, there) = list(sides.items())[:2]
        raise CubeError(
            f"the files have several resolutions: {one:g} in {here.path} ({here.variable}), {other:g} in {there.path} "
            f"({there.variable}); choose one with --resolution"
        )
    grid = layers[0].grid
    if same_crs(grid.crs_wkt, wkt):
        return float(next(iter(sides)))
    transform, _, _ = calculate_default_transform(
        CRS.from_wkt(str(grid.crs_wkt)), CRS.from_wkt(wkt), grid.shape[1], grid.shape[0], *grid.bounds
    )
    return float(f"{abs(transform.a):.6g}")


def crs_wkt_of_text(text: str, option: str) -> str:
    """Return a CRS that was typed as WKT, or refuse.

    >>> crs_wkt_of_text("EPSG:4326", "--crs").startswith('GEOGCS["WGS 84"')
    True
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        with quiet_gdal():
            return str(CRS.from_user_input(text).to_wkt())
    except (CRSError, ValueError, TypeError):
        hint = f"; did you mean EPSG:{text.strip()}?" if text.strip().isdecimal() else ""
        raise OptionError(f"{option} needs a CRS such as EPSG:32633, got {text!r}{hint}") from None


def moved_box(box: Box, source: str, wkt: str, option: str) -> Box:
    """Return the box around a box in another CRS."""
    if same_crs(source, wkt):
        return box
    from rasterio.crs import CRS
    from rasterio.warp import transform_bounds

    try:
        with quiet_gdal():
            moved = transform_bounds(CRS.from_wkt(source), CRS.from_wkt(wkt), *box, densify_pts=21)
    except Exception:  # noqa: BLE001 - whatever PROJ says
        moved = (math.inf,) * 4
    if not all(map(math.isfinite, moved)):
        raise OptionError(f"{option}: ({_numbers(box)}) can't be brought into the CRS of the cube")
    west, south, east, north = moved
    return west, south, east, north


def _numbers(box: Sequence[float] | None) -> str:
    return ",".join(f"{number:.12g}" for number in box or ())
