"""What can't be used is refused in one line that names the file, the values and the next step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from stpipe.core.windows import Window
from stpipe.errors import CubeError, MissingFileError, OptionError, ReadError, ShapeError
from stpipe.io.cube import open_source

DAYS = np.array(["2020-01-01", "2020-01-02", "2020-01-05"], dtype="datetime64[ns]")


def cube(**changes: Any) -> xr.Dataset:
    """Return a small cube with a static variable."""
    values = np.arange(3 * 4 * 5, dtype="float32").reshape(3, 4, 5)
    coords = {"time": DAYS, "y": [40.0, 30.0, 20.0, 10.0], "x": [0.0, 10.0, 20.0, 30.0, 40.0]} | changes
    return xr.Dataset({"ndvi": (("time", "y", "x"), values), "land": (("y", "x"), np.ones((4, 5)))}, coords)


def write(folder: Path, dataset: xr.Dataset) -> Path:
    """Write a cube as NetCDF and return its path."""
    dataset.to_netcdf(folder / "cube.nc")
    return folder / "cube.nc"


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    cube().to_zarr(tmp_path / "scene.zarr", consolidated=False)
    with pytest.raises(MissingFileError, match=r"no file or folder .*cube\.zarr; beside it: scene\.zarr"):
        open_source(tmp_path / "cube.zarr")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.mkdir(), "not a Zarr group: it has no zarr.json"),
        (lambda p: (p / "filled.zarr").mkdir(parents=True), r"not a Zarr group: .*; inside it: filled\.zarr"),
        (lambda p: (p.mkdir(), (p / "a.tif").touch()), "folder of images.*stpipe ingest"),
        (lambda p: p.write_bytes(b"II*\x00rest"), "is a GeoTIFF.*stpipe ingest"),
        (lambda p: p.write_bytes(b""), "neither a Zarr group nor a NetCDF file"),
        (lambda p: p.write_text("hello"), "neither a Zarr group nor a NetCDF file"),
        (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n cut short"), "can't be opened as netcdf"),
        (lambda p: (p.mkdir(), (p / "zarr.json").write_text("{")), "can't be opened as zarr"),
    ],
    ids=[
        "empty folder",
        "folder of a run",
        "images",
        "GeoTIFF",
        "empty file",
        "text",
        "cut NetCDF",
        "broken zarr.json",
    ],
)
def test_other_things_are_not_cubes(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "thing")
    with pytest.raises(CubeError, match=message) as refusal:
        open_source(tmp_path / "thing")
    assert "\n" not in str(refusal.value)
    assert "thing" in str(refusal.value)


def test_an_empty_path_is_no_cube() -> None:
    with pytest.raises(MissingFileError, match="its path is empty"):
        open_source("")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_single_zarr_array_is_not_a_group(tmp_path: Path, zarr_format: Any) -> None:
    import zarr

    zarr.create_array(tmp_path / "a", shape=(2, 2, 2), dtype="uint8", zarr_format=zarr_format)
    with pytest.raises(CubeError, match="single Zarr array"):
        open_source(tmp_path / "a")


def test_an_empty_group_says_that_it_may_have_groups_inside(tmp_path: Path) -> None:
    import zarr

    zarr.open_group(tmp_path / "g", mode="w")
    with pytest.raises(CubeError, match=r"holds no variable.*PATH/GROUP"):
        open_source(tmp_path / "g")


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (cube(), {"variables": ["nvdi"]}, "no variable 'nvdi'; did you mean 'ndvi'"),
        (cube(), {"variables": ["height"]}, "no variable 'height'; it has ndvi"),
        (cube(), {"variables": ["land"]}, r"'land' of .* is not over \(time, y, x\) alone but over y \(4\), x \(5\)"),
        (cube(), {"variables": []}, "no variable is named"),
        (cube().isel(time=0, drop=True), {}, "no time axis; it has ndvi over"),
        (cube().rename(y="j", x="i"), {}, "no y and no x axis"),
        (cube().drop_vars("time"), {}, "axis 'time' of .* has no dates"),
        (cube(time=[1, 2, 3]), {}, "plain numbers.*days since"),
        (cube(time=["spring", "summer", "autumn"]), {}, "text that is not dates"),
        (
            cube(time=DAYS[[1, 0, 2]]),
            {},
            r"frame 1 \(2020-01-01\) comes after frame 0 \(2020-01-02\), at 1 place in all.*sortby\(\"time\"\)",
        ),
        (cube(time=DAYS[[0, 0, 2]]), {}, r"repeats 2020-01-01 \(2 frames\).*groupby\(\"time\"\)\.mean\(\)"),
        (cube(time=np.array([DAYS[0], np.datetime64("NaT"), DAYS[2]])), {}, "frame 1 of .* has none"),
        (cube().isel(x=slice(0)), {}, "axis 'x' of .* has length 0"),
        (cube().isel(time=slice(0)), {}, "axis 'time' of .* has length 0"),
        (cube().expand_dims(depth=3), {}, r"no variable over time, y and x alone; it has .*depth"),
        (cube().astype(str), {}, "no variable of .* holds numbers"),
        (cube().astype(str), {"variables": ["ndvi"]}, "only numbers can be used"),
        (
            cube().assign(fine=(("time", "lat", "lon"), np.zeros((3, 2, 2)))),
            {},
            r"a run has one grid, but .* has 2: fine over \(time, lat, lon\); ndvi over \(time, y, x\); choose .*--var",
        ),
        (cube(), {"time": ("2021", None)}, "no frame lies in 2021/.*from 2020-01-01 to 2020-01-05"),
        (cube(), {"domain": "sea"}, "--domain: .* no variable 'sea'; static variables: land"),
        (cube(), {"domain": "ndvi"}, "--domain takes a static variable.*isel"),
        (cube().assign(low=(("y2", "x2"), np.ones((2, 2)))), {"domain": "low"}, r"of shape \(4, 5\), but 'low'"),
    ],
    ids=lambda value: None if not isinstance(value, str) else value[:30],
)
def test_datasets_that_do_not_fit_are_refused(
    tmp_path: Path, dataset: xr.Dataset, options: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, dataset)
    with pytest.raises(CubeError, match=message) as refusal:
        open_source(path, **options)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("scale", [0.0, np.nan])
def test_a_scale_that_loses_every_sample_is_refused(tmp_path: Path, scale: float) -> None:
    dataset = cube()
    dataset["ndvi"].attrs["scale_factor"] = scale
    with pytest.raises(CubeError, match="scale_factor"):
        open_source(write(tmp_path, dataset))


@pytest.mark.parametrize(
    ("period", "message"), [(("soon", None), "got 'soon'"), (("2021", "2020"), "START before END")]
)
def test_a_period_that_is_none_is_refused(tmp_path: Path, period: tuple[str, str | None], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        open_source(write(tmp_path, cube()), time=period)


# --- chunks that can't be read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("zarr_format", "key"), [(3, "ndvi/c/0/1/1"), (2, "ndvi/0.1.1")])
def test_a_damaged_zarr_chunk_is_named(tmp_path: Path, zarr_format: Any, key: str) -> None:
    dataset = cube()
    dataset["ndvi"].encoding["chunks"] = (3, 2, 3)
    path = tmp_path / "c.zarr"
    dataset.to_zarr(path, zarr_format=zarr_format, consolidated=False)
    (path / key).write_bytes(b"this is no chunk")
    reader = open_source(path).reader()
    assert reader.read("ndvi", Window((0, 0, 0), (3, 2, 5))).shape == (3, 2, 5)
    with pytest.raises(ReadError, match=rf"^chunk {key} of .*c\.zarr can't be read: \w+: ") as failure:
        reader.read("ndvi", Window.of((3, 4, 5)))
    assert "\n" not in str(failure.value)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    dataset = cube()
    dataset["ndvi"].encoding |= {"chunks": (1, 2, 5), "shards": (3, 2, 5)}
    path = tmp_path / "c.zarr"
    dataset.to_zarr(path, consolidated=False)
    (path / "ndvi" / "c" / "0" / "1" / "0").write_bytes(b"\x01" * 80)
    with pytest.raises(ReadError, match=r"^chunk ndvi/c/0/1/0 of"):
        open_source(path).reader().read("ndvi", Window.of((3, 4, 5)))


def test_an_absent_chunk_is_fill_value(tmp_path: Path) -> None:
    dataset = cube()
    dataset["ndvi"].encoding["chunks"] = (3, 2, 5)
    path = tmp_path / "c.zarr"
    dataset.to_zarr(path, consolidated=False)
    (path / "ndvi" / "c" / "0" / "1" / "0").unlink()
    read = open_source(path).reader().read("ndvi", Window.of((3, 4, 5)))
    assert np.isfinite(read[:, :2]).all()
    assert np.isnan(read[:, 2:]).all() or (read[:, 2:] == 0).all()


def test_a_damaged_netcdf_chunk_is_named_by_its_indices(tmp_path: Path) -> None:
    dataset = cube()
    rng = np.random.default_rng(1)
    dataset["ndvi"] = ("time", "y", "x"), rng.random((3, 4, 5)).astype("float32")
    dataset["ndvi"].encoding |= {"chunksizes": (3, 2, 5), "fletcher32": True}
    path = write(tmp_path, dataset)
    h5py = pytest.importorskip("h5py")
    with h5py.File(path) as file:
        stored = file["ndvi"].id.get_chunk_info(1)
    raw = bytearray(path.read_bytes())
    raw[stored.byte_offset + 5] ^= 0xFF
    path.write_bytes(raw)
    reader = open_source(path).reader()
    with pytest.raises(ReadError, match=r"^chunk ndvi\[time 0:3, y 2:4, x 0:5\] of .*cube\.nc can't be read"):
        reader.read("ndvi", Window.of((3, 4, 5)))


def test_a_cube_that_vanishes_is_a_failure_not_a_crash(tmp_path: Path) -> None:
    path = write(tmp_path, cube())
    reader = open_source(path).reader()
    path.unlink()
    with pytest.raises(ReadError, match=r"'ndvi' of .*cube.nc can't be opened"):
        reader.read("ndvi", Window.of((1, 1, 1)))


def test_a_window_outside_is_refused(tmp_path: Path) -> None:
    reader = open_source(write(tmp_path, cube())).reader()
    with pytest.raises(ShapeError, match="reaches outside the cube"):
        reader.read("ndvi", Window((0, 0, 0), (4, 4, 5)))


# --- areas of interest -------------------------------------------------------------------------------------------


def square(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    """Return a GeoJSON polygon."""
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}


def degrees(folder: Path) -> Path:
    """Write a cube of 10 x 10 pixels of 1 degree, from 0 to 10, north up."""
    coords = {
        "time": DAYS,
        "lat": ("lat", np.arange(9.5, 0, -1), {"units": "degrees_north"}),
        "lon": ("lon", np.arange(0.5, 10), {"units": "degrees_east"}),
    }
    values = np.arange(300, dtype="float32").reshape(3, 10, 10)
    dataset = xr.Dataset({"v": (("time", "lat", "lon"), values)}, coords)
    dataset["half"] = ("lat", "lon"), np.tile([1.0] * 5 + [0.0] * 4 + [np.nan], (10, 1))
    return write(folder, dataset)


def test_an_area_cuts_the_cube_to_its_box_and_the_domain_to_its_pixels(tmp_path: Path) -> None:
    area = tmp_path / "area.geojson"
    triangle = {"type": "Polygon", "coordinates": [[[2.1, 1.1], [6.9, 1.1], [2.1, 4.9], [2.1, 1.1]]]}
    area.write_text(json.dumps(triangle))
    cube = open_source(degrees(tmp_path), aoi=area, domain="half")
    assert (cube.offset, cube.extent) == ((0, 5, 2), (3, 4, 5))
    assert cube.transform == pytest.approx((1.0, 0.0, 2.0, 0.0, -1.0, 5.0))
    assert cube.y is not None
    assert cube.y.tolist() == [4.5, 3.5, 2.5, 1.5]
    reader = cube.reader()
    whole = np.arange(300, dtype="float32").reshape(3, 10, 10)
    np.testing.assert_array_equal(reader.read("v", Window.of(cube.extent)), whole[:, 5:9, 2:7])
    domain = reader.read_domain(Window.of(cube.extent))
    assert domain is not None
    # Row by row: the hypotenuse runs from (2.1, 4.9) to (6.9, 1.1), and half ends the domain at x = 5.
    assert domain.astype(int).tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    part = reader.read_domain(Window((0, 1, 1), (1, 3, 4)))
    np.testing.assert_array_equal(part, domain[1:3, 1:4])
    assert cube.template()["lon"].values.tolist() == [2.5, 3.5, 4.5, 5.5, 6.5]


def test_an_area_is_brought_into_the_crs_of_the_cube(tmp_path: Path) -> None:
    pytest.importorskip("rioxarray")
    from rasterio.warp import transform_bounds

    dataset = cube(y=[4_000_035.0, 4_000_025.0, 4_000_015.0, 4_000_005.0], x=500_005.0 + 10 * np.arange(5))
    path = write(tmp_path, dataset.rio.write_crs("EPSG:32633"))
    box = transform_bounds("EPSG:32633", "EPSG:4326", 500_012, 4_000_012, 500_028, 4_000_028)
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [square(*box)]}))
    assert open_source(path, aoi=tmp_path / "a.geojson").offset == (0, 1, 1)
    assert open_source(path, aoi=tmp_path / "a.geojson").extent == (3, 2, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(square(50, 50, 60, 60)), "do not touch"),
        (json.dumps(square(500_000, 50, 600_000, 60)), "GeoJSON is in degrees"),
        ("{", "is not JSON"),
        (json.dumps({"type": "Point", "coordinates": [1, 1]}), "has none: it holds Point"),
        (json.dumps({"type": "FeatureCollection", "features": []}), "holds no geometry"),
        (json.dumps([1, 2]), "holds no geometry"),
        (json.dumps({"type": "Polygon", "coordinates": [["a", "b"]]}), "can't be brought into the CRS"),
    ],
    ids=["elsewhere", "projected", "broken", "a point", "no feature", "a list", "no numbers"],
)
def test_areas_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    area = tmp_path / "a.geojson"
    area.write_text(text)
    with pytest.raises(CubeError, match=message):
        open_source(degrees(tmp_path), aoi=area)


def test_an_area_needs_a_file_a_crs_and_an_even_grid(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text(json.dumps(square(0, 0, 1, 1)))
    with pytest.raises(MissingFileError, match=r"no file .*b.geojson"):
        open_source(degrees(tmp_path), aoi=tmp_path / "b.geojson")
    with pytest.raises(CubeError, match="needs a cube with a CRS"):
        open_source(write(tmp_path, cube()), aoi=tmp_path / "a.geojson")
