"""NetCDF files and Zarr groups as sources: xarray's own reading of them is the oracle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from affine import Affine
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject

from stpipe.cli.main import run
from stpipe.errors import CubeError, OptionError, RunError
from stpipe.io.cube import open_cube
from stpipe.io.ingest import cubes, pictures
from stpipe.io.ingest import write as ingest_write
from stpipe.io.ingest.write import write_cube
from stpipe.io.reader import StoredReader
from tests.io.ingest_sources import SHAPE, ingest, plan_ingest, raster


def made_up(
    days: list[int], *, seed: int = 0, names: tuple[str, ...] = ("red",), side: float = 10.0, shape: Any = SHAPE
) -> xr.Dataset:
    """Return a packed cube with gaps."""
    rng = np.random.default_rng(seed)
    time = np.array(["2020-01-01"], "datetime64[ns]") + np.array(days, "timedelta64[D]")
    y, x = 5e6 - side * (np.arange(shape[0]) + 0.5), 5e5 + side * (np.arange(shape[1]) + 0.5)
    attrs = {"long_name": "made up", "_FillValue": -9, "scale_factor": 0.01}
    arrays = {}
    for name in names:
        samples = rng.integers(1, 999, (len(days), *shape)).astype("int16")
        samples[rng.random(samples.shape) < 0.2] = -9
        arrays[name] = (("time", "y", "x"), samples, attrs)
    crs = xr.Variable((), 0, {"crs_wkt": rasterio.crs.CRS.from_epsg(32633).to_wkt()})
    return xr.Dataset(arrays, coords={"time": time, "y": y, "x": x, "spatial_ref": crs})


def stored(path: Path) -> xr.Dataset:
    """Open a cube as it is stored."""
    return xr.open_zarr(path, consolidated=False, mask_and_scale=False)


def save(dataset: xr.Dataset, path: Path, **encoding: Any) -> Path:
    """Write a cube as the suffix says."""
    packed = dataset.copy()
    options = {name: dict(encoding) for name in dataset.data_vars}
    if path.suffix == ".nc":
        packed.to_netcdf(path, encoding={k: {"chunksizes": v["chunks"]} if v else {} for k, v in options.items()})
    else:
        packed.to_zarr(path, consolidated=False, encoding=options)
    return path


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_a_cube_comes_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    cube = made_up([0, 5, 9])
    save(cube, tmp_path / f"in{suffix}", chunks=(2, 7, 8))
    found = ingest(tmp_path / f"in{suffix}", output=tmp_path / "c.zarr")
    np.testing.assert_array_equal(found["red"].values, cube["red"].values)
    np.testing.assert_array_equal(found["time"].values, cube["time"].values)
    np.testing.assert_allclose(found["x"].values, cube["x"].values)
    np.testing.assert_allclose(found["y"].values, cube["y"].values)
    assert found["red"].dtype == "int16"
    assert (found["red"].attrs["_FillValue"], found["red"].attrs["scale_factor"]) == (-9, 0.01)
    assert found["red"].attrs["long_name"] == "made up"


def test_cubes_along_time_and_by_variable_become_one(tmp_path: Path) -> None:
    early, late, other = made_up([7, 2, 4]), made_up([1, 30], seed=1), made_up([2, 3], seed=2, names=("vv",))
    sources = [save(early, tmp_path / "b.nc"), save(late, tmp_path / "a.zarr"), save(other, tmp_path / "s1.zarr")]
    cube = ingest(*sources, output=tmp_path / "c.zarr", chunks=(2, 16, 16))
    joined = xr.concat([early, late], "time").sortby("time")
    dates = np.union1d(joined["time"].values, other["time"].values)
    np.testing.assert_array_equal(cube["time"].values, dates)
    for name, oracle in (("red", joined), ("vv", other)):
        expected = np.full((len(dates), *SHAPE), -9, "int16")
        expected[np.searchsorted(dates, oracle["time"].values)] = oracle[name].values
        np.testing.assert_array_equal(cube[name].values, expected)


def test_one_name_at_one_time_in_two_cubes_is_told_apart_or_composited(tmp_path: Path) -> None:
    one, other = made_up([0, 1], names=("red", "nir")), made_up([1, 2], seed=1)
    sources = [save(one, tmp_path / "l8.nc"), save(other, tmp_path / "s2.nc")]
    plan = plan_ingest([str(source) for source in sources])
    assert plan.warnings[0] == "several cubes have red at one time, so each has its cube's name before it"
    assert plan.written == ("l8_red", "nir", "s2_red")
    write_cube(plan, tmp_path / "apart.zarr")
    np.testing.assert_array_equal(stored(tmp_path / "apart.zarr")["s2_red"].values[1:], other["red"].values)
    mean = ingest(*sources, output=tmp_path / "mean.zarr", same_day="first")
    middle = np.where(one["red"].values[1] != -9, one["red"].values[1], other["red"].values[0])
    np.testing.assert_array_equal(mean["red"].values[1], middle)


def test_axes_may_be_named_and_turned_as_they_like(tmp_path: Path) -> None:
    cube = made_up([0, 1]).isel(y=slice(None, None, -1)).drop_vars("spatial_ref")
    turned = cube.rename(y="lat", x="lon").transpose("lon", "lat", "time")
    turned["lat"] = ("lat", 40 + 0.1 * np.arange(SHAPE[0]), {"units": "degrees_north"})
    turned["lon"] = ("lon", 5 + 0.1 * np.arange(SHAPE[1]), {"units": "degrees_east"})
    found = ingest(save(turned, tmp_path / "in.nc"), output=tmp_path / "c.zarr")
    np.testing.assert_array_equal(found["red"].values, turned["red"].transpose("time", "lat", "lon").values)
    np.testing.assert_allclose(found["y"].values, turned["lat"].values)
    assert found["spatial_ref"].attrs["grid_mapping_name"] == "latitude_longitude"


def test_rules_decide_on_the_bands_of_their_own_product(tmp_path: Path) -> None:
    red = made_up([0, 1], side=10)
    scl = made_up([0, 1], seed=3, names=("SCL",), side=20, shape=(10, 15))
    codes = np.random.default_rng(0).integers(1, 5, (2, 10, 15)).astype("uint8")
    scl["SCL"] = (("time", "y", "x"), codes, {"_FillValue": 0})
    radar = made_up([0, 2], seed=4, names=("vv",), side=10)
    sources = [save(red, tmp_path / "10m.nc"), save(scl, tmp_path / "20m.nc"), save(radar, tmp_path / "s1.nc")]
    plan = plan_ingest([str(source) for source in sources], rules=("SCL:3",), align="first")
    assert "not all rules decide on vv: their scenes have not all of SCL" in plan.warnings
    write_cube(plan, tmp_path / "c.zarr")
    cube = stored(tmp_path / "c.zarr")
    clear = codes.repeat(2, axis=1).repeat(2, axis=2) != 3
    np.testing.assert_array_equal(cube["red"].values[:2], np.where(clear, red["red"].values, -9))
    np.testing.assert_array_equal(cube["vv"].values[[0, 2]], radar["vv"].values)


@pytest.mark.parametrize(("epsg", "resampling"), [(32633, "average"), (32634, "nearest"), (3035, "bilinear")])
def test_a_cube_is_warped_as_gdal_warps_its_frames(tmp_path: Path, epsg: int, resampling: str) -> None:
    cube = made_up([0, 1])
    save(cube, tmp_path / "in.zarr", chunks=(1, 8, 8))
    options: dict[str, Any] = {"crs": f"EPSG:{epsg}", "resolution": 25.0, "resampling": resampling}
    found = ingest(tmp_path / "in.zarr", output=tmp_path / "c.zarr", **options)
    c, a, _, f, _, e = (float(number) for number in found["spatial_ref"].attrs["GeoTransform"].split())
    for number in range(2):
        expected = np.full(found["red"].shape[1:], -9, "int16")
        reproject(
            cube["red"].values[number],
            expected,
            src_crs="EPSG:32633",
            dst_crs=f"EPSG:{epsg}",
            src_transform=from_origin(5e5, 5e6, 10, 10),
            dst_transform=Affine(a, 0, c, 0, e, f),
            src_nodata=-9,
            dst_nodata=-9,
            resampling=Resampling[resampling],
        )
        np.testing.assert_array_equal(found["red"].values[number], expected)
    assert (found["red"].values != -9).mean() > 0.5


def test_cubes_and_rasters_mix(tmp_path: Path) -> None:
    cube = made_up([0, 1])
    save(cube, tmp_path / "in.nc")
    red = raster(tmp_path / "tif" / "20200110_red.tif", nodata=-9, scale=0.01)
    found = ingest(tmp_path / "in.nc", tmp_path / "tif", output=tmp_path / "c.zarr")
    np.testing.assert_array_equal(found["red"].values, np.concatenate([cube["red"].values, red]))


def test_frames_that_share_chunks_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(made_up(list(range(12))), tmp_path / "in.zarr", chunks=(4, *SHAPE))
    calls = []
    reading = StoredReader.read

    def counted(self: StoredReader, variable: str, window: Any) -> Any:
        calls.append(window.start[0])
        return reading(self, variable, window)

    monkeypatch.setattr(StoredReader, "read", counted)
    whole = ingest(tmp_path / "in.zarr", output=tmp_path / "a.zarr", chunks=(12, *SHAPE))
    assert calls == [0, 4, 8]
    monkeypatch.setattr(cubes, "BATCH_BYTES", SHAPE[0] * SHAPE[1] * 2 * 3)  # room for three of the four
    calls.clear()
    pieces = ingest(tmp_path / "in.zarr", output=tmp_path / "b.zarr", chunks=(12, *SHAPE))
    assert calls == [0, 3, 4, 7, 8, 11]
    np.testing.assert_array_equal(whole["red"].values, pieces["red"].values)


def test_a_folder_of_cubes_is_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save(made_up([0]), tmp_path / "in" / "a.nc")
    save(made_up([1]), tmp_path / "in" / "b.zarr")
    assert len(plan_ingest([str(tmp_path / "in")]).times) == 2
    raster(tmp_path / "in" / "20200105_red.tif", nodata=-9)
    with pytest.raises(CubeError, match=r"holds rasters and cubes \((a\.nc|b\.zarr)\)"):
        plan_ingest([str(tmp_path / "in")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.drop_vars("time"), r"has no dates: there is no coordinate variable along it|has no time axis"),
        (lambda d: d.assign_coords(x=np.sort(np.random.default_rng(0).random(SHAPE[1]))), "are no even grid"),
        (lambda d: d.isel(time=0), "has no time axis"),
        (lambda d: d.isel(time=slice(0, 0)), "has length 0|has no dates"),
    ],
)
def test_what_is_no_cube_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    save(change(made_up([0, 1])), tmp_path / "in.nc")
    with pytest.raises(CubeError, match=message):
        plan_ingest([str(tmp_path / "in.nc")])


def test_grids_that_differ_are_named_by_variable_too(tmp_path: Path) -> None:
    one, other = save(made_up([0]), tmp_path / "a.nc"), save(made_up([0], names=("b",), side=20), tmp_path / "b.nc")
    with pytest.raises(CubeError, match=r"one grid, but .*a\.nc has .* pixel 10 x -10.*b\.nc has .* 20 x -20"):
        plan_ingest([str(one), str(other)])


def test_sea_surface_temperature_is_kept_to_the_bit(data_folder: Path, tmp_path: Path) -> None:
    path = data_folder / "dineof_alboran_sst" / "alboranSST_small.nc"
    assert run(["ingest", str(path), "-o", str(tmp_path / "c.zarr"), "--json"]) == 0
    raw = xr.open_dataset(path, mask_and_scale=False, decode_times=False)["SST"].values
    found = open_cube(tmp_path / "c.zarr")
    np.testing.assert_array_equal(found["SST"].values, np.where(raw == raw.max(), np.nan, raw))
    assert found["SST"].attrs["units"] == "degree Celsius"
    assert run(["ingest", str(tmp_path / "c.zarr"), "-o", str(tmp_path / "d.zarr")]) == 0
    xr.testing.assert_identical(found.load(), open_cube(tmp_path / "d.zarr").load())


# --- parts of grids, and other grids -----------------------------------------------------------------------------


def test_a_box_is_a_slice(tmp_path: Path) -> None:
    cube = made_up([0, 1])
    save(cube, tmp_path / "in.nc")
    options: dict[str, Any] = {"bbox": (500_035, 4_999_871, 500_100, 4_999_960), "bbox_crs": "EPSG:32633"}
    found = ingest(tmp_path / "in.nc", output=tmp_path / "c.zarr", **options)
    np.testing.assert_array_equal(found["red"].values, cube["red"].values[:, 4:13, 3:10])
    np.testing.assert_allclose(found["x"].values, cube["x"].values[3:10])


def test_an_area_is_the_box_around_it(tmp_path: Path) -> None:
    cube = made_up([0])
    save(cube, tmp_path / "in.nc")
    ring = [[500_035, 4_999_900], [500_090, 4_999_900], [500_060, 4_999_950], [500_035, 4_999_900]]
    area = {"type": "Polygon", "coordinates": [ring], "crs": {"properties": {"name": "EPSG:32633"}}}
    (tmp_path / "area.geojson").write_text(json.dumps(area))
    found = ingest(tmp_path / "in.nc", output=tmp_path / "c.zarr", aoi=tmp_path / "area.geojson")
    np.testing.assert_array_equal(found["red"].values, cube["red"].values[:, 5:10, 3:9])


def test_tiles_on_one_lattice_are_joined_without_a_warp(tmp_path: Path) -> None:
    left = raster(tmp_path / "20200101_T1_red.tif", nodata=0)[0]
    right = raster(tmp_path / "20200101_T2_red.tif", seed=1, nodata=0, west=500_300)[0]
    plan = plan_ingest([str(tmp_path)], bbox=(14, 44, 16, 46), same_day="first")
    write_cube(plan, tmp_path / "c.zarr")
    cube = stored(tmp_path / "c.zarr")["red"].values
    np.testing.assert_array_equal(cube[0], np.concatenate([left, right], axis=1))
    assert plan.warped == 0


def test_a_coarser_resolution_averages_blocks(tmp_path: Path) -> None:
    samples = raster(tmp_path / "20200101_red.tif", np.random.default_rng(0).random(SHAPE).astype("float32"))[0]
    cube = ingest(tmp_path / "*.tif", output=tmp_path / "c.zarr", resolution=20, resampling="average")
    expected = samples.reshape(10, 2, 15, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(cube["red"].values[0], expected, rtol=1e-6)


def test_another_crs_keeps_the_detail_and_covers_all(tmp_path: Path) -> None:
    raster(tmp_path / "20200101_red.tif", np.full(SHAPE, 7, "int16"), nodata=0)
    cube = ingest(tmp_path / "*.tif", output=tmp_path / "c.zarr", crs="EPSG:3035")
    assert cube["x"].diff("x").values[0] == pytest.approx(10, rel=0.02)
    area = float((cube["red"].values == 7).sum()) * float(cube["x"].diff("x")[0]) ** 2
    assert area == pytest.approx(SHAPE[0] * SHAPE[1] * 100, rel=0.03)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"bbox": (0, 0, 1, 1)}, CubeError, "--bbox 0,0,1,1 does not touch the files"),
        ({"bbox": (1, 0, 0, 1)}, OptionError, "--bbox needs W,S,E,N with W < E and S < N, got 1,0,0,1"),
        ({"bbox": (14, 44, 16, 46), "aoi": Path("x")}, OptionError, "--bbox and --aoi both"),
        ({"align": "first", "crs": "EPSG:3035"}, OptionError, "--align takes a grid as it is"),
        ({"crs": "EPSG:1"}, OptionError, "--crs needs a CRS such as EPSG:32633, got 'EPSG:1'"),
        ({"bbox": (14, 44, 16, 46), "bbox_crs": "moon"}, OptionError, "--bbox-crs needs a CRS"),
        ({"resolution": 0.0}, OptionError, "--resolution needs a positive number, got 0"),
        ({"resolution": 1e-5}, OptionError, "--resolution 1e-05 makes .* pixels"),
        ({"resolution": 1e6}, OptionError, "--resolution 1e[+]06 is more than all files cover"),
        ({"resolution": 20.0}, CubeError, r"red.tif is to be warped, .*'red' may have gaps, .*--nodata red=VALUE"),
    ],
)
def test_grids_that_can_not_be_are_refused(tmp_path: Path, options: dict[str, Any], kind: Any, message: str) -> None:
    raster(tmp_path / "20200101_red.tif")
    with pytest.raises(kind, match=message):
        plan_ingest([str(tmp_path)], **options)


def test_files_without_a_crs_can_not_be_cut_or_warped(tmp_path: Path) -> None:
    raster(tmp_path / "20200101_red.tif", crs=None)
    with pytest.raises(CubeError, match=r"--bbox needs files with a CRS, and .*red\.tif has none"):
        plan_ingest([str(tmp_path)], bbox=(14, 44, 16, 46))
    with pytest.raises(CubeError, match=r"red\.tif has no CRS, so it can't be brought to --crs or --resolution"):
        plan_ingest([str(tmp_path)], resolution=20.0)


# --- going on ----------------------------------------------------------------------------------------------------


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let reading fail after so many frames, and return a list that grows with each."""
    reading, calls = pictures.read_frame, []

    def limited(*args: Any) -> Any:
        if len(calls) == count:
            raise RunError("the cable was pulled")
        calls.append(1)
        return reading(*args)

    monkeypatch.setattr(ingest_write, "read_frame", limited)
    return calls


def test_an_ingest_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate("ab"):
        save(made_up(list(range(6)), seed=number), tmp_path / f"{name}.nc")
    options: dict[str, Any] = {"chunks": (2, *SHAPE), "same_day": "least-cloud"}
    sources, output = [tmp_path / "a.nc", tmp_path / "b.nc"], tmp_path / "c.zarr"
    whole = ingest(*sources, output=tmp_path / "whole.zarr", **options)
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(RunError, match="the cable was pulled; the same command goes on from what was written"):
            ingest(*sources, output=output, **options)
    assert not output.exists()
    torn = next((tmp_path / ".c.zarr.partial").glob("cube/red/c/0/0")) / "0.abc.partial"
    torn.write_bytes(b"torn")
    calls = stop_after(100, monkeypatch)
    counted = []
    counting = ingest_write.count_clear
    monkeypatch.setattr(ingest_write, "count_clear", lambda *a: counted.append(1) or counting(*a))
    found = ingest(*sources, output=output, **options)
    assert len(calls) == 2  # the last chunk's frames
    assert not counted  # all scenes had been counted
    xr.testing.assert_identical(found.load(), whole.load())
    assert not (tmp_path / ".c.zarr.partial").exists()
    assert not list(output.rglob("*.partial"))


def test_a_torn_record_does_not_swallow_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(made_up(list(range(6))), tmp_path / "a.nc")
    for attempt in range(2):
        with monkeypatch.context() as patch:
            stop_after(3, patch)
            with pytest.raises(RunError, match="goes on from what was written"):
                ingest(tmp_path / "a.nc", output=tmp_path / "c.zarr", chunks=(2, *SHAPE))
        if attempt == 0:
            with (tmp_path / ".c.zarr.partial" / "done").open("a") as file:
                file.write('{"piece": [2, 0')
    calls = stop_after(100, monkeypatch)
    found = ingest(tmp_path / "a.nc", output=tmp_path / "c.zarr", chunks=(2, *SHAPE))
    assert len(calls) == 2  # both earlier runs had written two frames
    np.testing.assert_array_equal(found["red"].values, made_up(list(range(6)))["red"].values)


def test_another_plan_or_changed_files_start_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(made_up(list(range(6))), tmp_path / "a.nc")
    for change in ("options", "file"):
        with monkeypatch.context() as patch:
            stop_after(3, patch)
            with pytest.raises(RunError, match="cable"):
                ingest(tmp_path / "a.nc", output=tmp_path / "c.zarr", chunks=(2, *SHAPE))
        if change == "file":
            (tmp_path / "a.nc").unlink()
            save(made_up(list(range(6)), seed=9), tmp_path / "a.nc")
        with monkeypatch.context() as patch:
            calls = stop_after(100, patch)
            chunks = (3, *SHAPE) if change == "options" else (2, *SHAPE)
            found = ingest(tmp_path / "a.nc", output=tmp_path / f"{change}.zarr", chunks=chunks)
            plan = plan_ingest([str(tmp_path / "a.nc")], chunks=chunks)
            calls.clear()
            write_cube(plan, tmp_path / "c.zarr")
        assert len(calls) == 6
        np.testing.assert_array_equal(found["red"].values, stored(tmp_path / "c.zarr")["red"].values)
        shutil.rmtree(tmp_path / "c.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_chunks_written_again_start_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zarr_format: Any) -> None:
    source, chunks = tmp_path / "in.zarr", (2, *SHAPE)
    cube = made_up(list(range(6)))
    cube.to_zarr(source, consolidated=False, zarr_format=zarr_format, encoding={"red": {"chunks": chunks}})
    for change in ("chunks", "nothing"):
        with monkeypatch.context() as patch:
            stop_after(3, patch)
            with pytest.raises(RunError, match="goes on from what was written"):
                ingest(source, output=tmp_path / "c.zarr", chunks=chunks)
        if change == "chunks":  # in place, so that the metadata stay
            zarr.open_array(source / "red", mode="r+")[:] = made_up(list(range(6)), seed=9)["red"].values
        with monkeypatch.context() as patch:
            calls = stop_after(100, patch)
            found = ingest(source, output=tmp_path / "c.zarr", chunks=chunks)
        assert len(calls) == (6 if change == "chunks" else 4)
        np.testing.assert_array_equal(found["red"].values, made_up(list(range(6)), seed=9)["red"].values)
        shutil.rmtree(tmp_path / "c.zarr")
    before = plan_ingest([str(source)]).identity()
    zarr.open_array(source / "red", mode="r+")[0] = 3
    assert plan_ingest([str(source)]).identity() != before


def test_nothing_is_kept_of_an_ingest_that_wrote_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(made_up([0, 1]), tmp_path / "a.nc")
    stop_after(1, monkeypatch)
    with pytest.raises(RunError, match=r"^the cable was pulled$"):
        ingest(tmp_path / "a.nc", output=tmp_path / "c.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"]
