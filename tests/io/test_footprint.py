from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.io.footprint import placed
from stpipe.io.frames import RasterGrid

pytest.importorskip("rasterio")


def grid_of(height: int, width: int, transform: tuple[float, ...] | None, crs: str | None) -> RasterGrid:
    from rasterio.crs import CRS

    wkt = None if crs is None else CRS.from_user_input(crs).to_wkt()
    return RasterGrid.place(height=height, width=width, crs_wkt=wkt, transform=transform, y=None, x=None)


SINUSOIDAL = "+proj=sinu +R=6371007.181 +units=m"
GOES = "+proj=geos +h=35786023 +lon_0=-75 +sweep=x +ellps=GRS80"
ROTATED = "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +R=6371229"
PLACES = {
    "UTM": ("EPSG:32615", (5e5, 4e6), 30.0),
    "UTM, south": ("EPSG:32733", (4e5, 8e6), 500.0),
    "across the antimeridian, in UTM": ("EPSG:32601", (1.9e5, 6e6), 900.0),
    "degrees from 0 to 360": ("EPSG:4326", (150.0, 40.0), 0.5),
    "degrees": ("EPSG:4326", (-70.0, 40.0), 0.5),
    "around the north pole": ("EPSG:3413", (-1e6, 1e6), 25_000.0),
    "around the south pole": ("EPSG:3031", (-1e6, 1e6), 25_000.0),
    "sinusoidal": (SINUSOIDAL, (-6.6e6, 4.4e6), 4633.0),
    "a globe from 0 to 360": ("EPSG:4326", (0.0, 90.0), 360 / 80),
    "a globe in metres": ("EPSG:4087", (-20037508.342789244, 10018754.171394622), 40075016.68557849 / 80),
    "to the pole, in metres": ("EPSG:4087", (1.8e7, 10018754.171394622), 1e5),
    "corner at the pole": ("EPSG:3413", (0.0, 0.0), 25_000.0),
    "from the pole": ("EPSG:3413", (-1e6, 25_000.0 * 7), 25_000.0),
    "rotated pole": (ROTATED, (-28.0, 22.0), 0.44),
    "rotated pole, around the true one": (ROTATED, (-28.0, 60.0), 0.9),
    "sinusoidal, at the rim": (SINUSOIDAL, (-8.9e6, 6.67e6), 13_900.0),
    "across the antimeridian, in Mercator's": ("EPSG:3857", (1.95e7, 6e6), 1e4),
    "on a cone": ("EPSG:3034", (2e6, 5.5e6), 5e4),
    "a little west of -180": ("EPSG:4326", (-180.0000001, 40.0), 0.5),
}


def centres_on_globe(grid: RasterGrid) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude, from -180 to 180, and latitude of every pixel's centre."""
    from rasterio.warp import transform

    assert grid.transform is not None
    a, b, c, d, e, f = grid.transform
    row, column = (side.ravel() + 0.5 for side in np.mgrid[: grid.height, : grid.width])
    x, y = a * column + b * row + c, d * column + e * row + f
    longitude, latitude = (np.array(side) for side in transform(grid.crs_wkt, "OGC:CRS84", x, y))
    if "Sinusoidal" in str(grid.crs_wkt):  # beyond its rim is nothing
        back = np.array(transform("OGC:CRS84", grid.crs_wkt, longitude, latitude)[0])
        longitude, latitude = longitude[np.abs(back - x) < a], latitude[np.abs(back - x) < a]
    return (longitude + 180) % 360 - 180, latitude


def degrees_a_pixel(longitude: np.ndarray, latitude: np.ndarray) -> float:
    """Return about how far apart neighbours are, at most."""
    lon, lat = np.radians(longitude), np.radians(latitude)
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    return float(np.degrees(np.linalg.norm(np.diff(points[:50], axis=0), axis=1).min()))


@pytest.mark.parametrize("place", PLACES)
@given(height=st.integers(2, 80), width=st.integers(2, 80))
@settings(max_examples=15)
def test_every_pixel_lies_inside_the_footprint_and_the_box(place: str, height: int, width: int) -> None:
    shapely = pytest.importorskip("shapely")
    crs, (left, top), side = PLACES[place]
    south_pole = {"EPSG:4326": -90, "EPSG:4087": -10018754.171394622}.get(crs, -np.inf)
    height = int(min(height, (top - south_pole) / side + 1e-6))
    grid = grid_of(height, width, (side, 0.0, left, 0.0, -side, top), crs)
    where = placed(grid)
    assert where.geometry is not None
    assert where.bbox is not None
    outline = shapely.geometry.shape(where.geometry)
    assert outline.is_valid
    longitude, latitude = centres_on_globe(grid)
    # The sides between points are straight lines in degrees: they may leave out half a pixel, and no more.
    half = 0.51 * degrees_a_pixel(longitude, latitude)
    wide = half / max(0.02, np.cos(np.radians(latitude)).min())
    assert shapely.contains_xy(outline.buffer(wide), longitude, latitude).all()
    west, south, east, north = where.bbox
    assert (latitude >= south - half).all()
    assert (latitude <= north + half).all()
    assert -180 <= west <= 180
    assert -180 <= east <= 180
    after, before = longitude >= west - wide, longitude <= east + wide
    assert (after & before if west <= east else after | before).all()
    for part in getattr(outline, "geoms", [outline]):
        assert part.exterior.is_ccw
        assert part.bounds[0] >= -180
        assert part.bounds[2] <= 180


LARGE = {
    "Antarctica": ("EPSG:3031", (0.0, 960_000.0), 30.0, 30_000, 30_000),
    "Greenland": ("EPSG:3413", (-700_000.0, -600_000.0), 150.0, 18_000, 11_000),
    "Europe": ("EPSG:3035", (2_500_000.0, 5_500_000.0), 100.0, 46_000, 55_000),
    "CONUS": ("EPSG:5070", (-2_400_000.0, 3_200_000.0), 30.0, 97_000, 154_000),
    "a tile of Sentinel-2": ("EPSG:32633", (399_960.0, 5_900_040.0), 10.0, 10_980, 10_980),
    "a tile in the Arctic": ("EPSG:3413", (200_000.0, 600_000.0), 2.0, 50_000, 50_000),
    "the globe of GOES": (GOES, (-5_434_894.9, 5_434_894.9), 2004.017, 5424, 5424),
    "the globe of MODIS": (SINUSOIDAL, (-20_015_109.356, 10_007_554.678), 4633.127, 4320, 8640),
    "the globe of Mollweide": ("ESRI:54009", (-18_040_096.0, 9_020_048.0), 10_000.0, 1804, 3608),
    "half the globe, to its rim": ("EPSG:3408", (-9_030_574.0, 9_030_574.0), 25_067.5, 720, 720),
    "twice over the antimeridian": ("EPSG:32660", (30_000.0, 1_100_000.0), 1000.0, 2200, 800),
    "twice over the antimeridian, large": (
        "+proj=laea +lat_0=0 +lon_0=170", (-1_250_000.0, 2_000_000.0), 1000.0, 4000, 2500
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", LARGE)
def test_a_large_scene_lies_inside_its_footprint_whatever_bends(place: str) -> None:
    pyproj = pytest.importorskip("pyproj")
    shapely = pytest.importorskip("shapely")
    crs, (left, top), side, height, width = LARGE[place]
    grid = grid_of(height, width, (side, 0.0, left, 0.0, -side, top), crs)
    where = placed(grid)
    assert where.geometry is not None
    assert where.bbox is not None
    outline = shapely.geometry.shape(where.geometry)
    assert outline.is_valid
    # Pixels along the sides, where lines between points leave out most, and some of all.
    along = np.linspace(0.5, 1, 4001) * 2 - 1
    net = np.linspace(0, 1, 120)
    across = np.concatenate([along, along, 0 * along, 0 * along + 1, np.tile(net, 120)]) * (width - 1) + 0.5
    down = np.concatenate([0 * along, 0 * along + 1, along, along, np.repeat(net, 120)]) * (height - 1) + 0.5
    x, y = left + side * across, top - side * down
    there = pyproj.Transformer.from_crs(grid.crs_wkt, "OGC:CRS84", always_xy=True)
    longitude, latitude = (np.where(np.isfinite(one), one, np.nan) for one in there.transform(x, y))
    back = [
        np.where(np.isfinite(one), one, np.nan) for one in there.transform(longitude, latitude, direction="INVERSE")
    ]
    known = np.hypot(back[0] - x, back[1] - y) < side
    assert known.sum() > 1000
    longitude, latitude = (longitude[known] + 180) % 360 - 180, latitude[known]
    assert shapely.intersects_xy(outline, longitude, latitude).all()
    west, south, east, north = where.bbox
    after, before = longitude >= west, longitude <= east
    assert (after & before if west <= east else after | before).all()
    assert (latitude >= south).all()
    assert (latitude <= north).all()
    if "globe" not in place:  # and no more of the globe than needed
        assert outline.area < 1.2 * shapely.MultiPoint(np.stack([longitude % 360, latitude], axis=1)).convex_hull.area


def test_a_scene_that_crosses_the_antimeridian_is_cut_in_two() -> None:
    where = placed(grid_of(10, 20, (1.0, 0.0, 170.0, 0.0, -1.0, 10.0), "EPSG:4326"))
    assert where.geometry is not None
    assert where.geometry["type"] == "MultiPolygon"
    assert where.bbox == [170.0, 0.0, -170.0, 10.0]


def test_a_scene_around_a_pole_reaches_it() -> None:
    where = placed(grid_of(80, 80, (25_000.0, 0.0, -1e6, 0.0, -25_000.0, 1e6), "EPSG:3031"))
    assert where.bbox is not None
    assert where.bbox[:2] == [-180.0, -90.0]
    assert where.bbox[2] == 180.0
    assert where.bbox[3] < -60


def test_a_scene_around_the_apex_of_a_cone_reaches_the_pole() -> None:
    """Which is behind the cut there, where the projection shows nothing."""
    where = placed(grid_of(80, 80, (5e4, 0.0, 2e6, 0.0, -5e4, 8.5e6), "EPSG:3034"))
    assert where.bbox is not None
    assert (where.bbox[0], *where.bbox[2:]) == (-180.0, 180.0, 90.0)


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        pytest.param((1.0, 0.0, 0.0, 0.0, -1.0, 0.0), None, id="no CRS"),
        pytest.param(None, None, id="no grid"),
        pytest.param((1.0, 0.0, 0.0, 0.0, -1.0, 0.0), 'LOCAL_CS["camera",UNIT["metre",1]]', id="a plane of its own"),
    ],
)
def test_what_lies_nowhere_has_no_footprint(transform: tuple[float, ...] | None, crs: str | None) -> None:
    where = placed(grid_of(3, 2, transform, crs))
    assert where.geometry is None
    assert where.bbox is None
    assert where.properties["proj:shape"] == [3, 2]
