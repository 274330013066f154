"""Land masks and other variables without dates: xarray's and rasterio's own reading of them is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from rasterio.warp import Resampling, reproject

from stpipe.cli.main import run
from stpipe.errors import CubeError, OptionError
from tests.io.ingest_sources import SHAPE, ingest, plan_ingest, raster
from tests.io.test_ingest_cubes import made_up, stored


def with_statics(days: list[int], *, seed: int = 0, shape: tuple[int, int] = SHAPE) -> xr.Dataset:
    """Return a cube with flags, heights with a scale, axes in the other order, and what is no static variable."""
    rng = np.random.default_rng(seed)
    dataset = made_up(days, seed=seed, shape=shape)
    heights = rng.integers(0, 900, shape).astype("int16")
    heights[:2] = -1
    slope = rng.random(shape[::-1]).astype("float32")
    slope[3] = np.nan
    dataset["land"] = (("y", "x"), rng.random(shape) < 0.7)
    dataset["height"] = (("y", "x"), heights, {"_FillValue": np.int16(-1), "scale_factor": 0.5, "units": "m"})
    dataset["slope"] = (("x", "y"), slope)
    dataset["name"] = (("y", "x"), np.full(shape, "a"))
    dataset["profile"] = (("y",), np.arange(shape[0]))
    dataset["lat"] = (("y", "x"), np.ones(shape), {"units": "degrees_north"})
    dataset["swath"] = (("y", "x"), np.ones(shape))
    dataset["red"].attrs["coordinates"] = "swath"
    return dataset


def save(dataset: xr.Dataset, path: Path) -> Path:
    if path.suffix == ".nc":
        dataset.to_netcdf(path)
    else:
        dataset.drop_vars("name", errors="ignore").to_zarr(path, consolidated=False)
    return path


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("south_up", [False, True], ids=["north up", "south up"])
def test_they_come_along_as_they_are(tmp_path: Path, suffix: str, south_up: bool) -> None:
    dataset = with_statics([0, 3])
    dataset = dataset.isel(y=slice(None, None, -1)) if south_up else dataset
    made = ingest(save(dataset, tmp_path / f"in{suffix}"), output=tmp_path / "c.zarr", chunks=(1, 7, 8))
    assert set(made.data_vars) - {"spatial_ref"} == {"red", "land", "height", "slope"}
    made = made.sortby("y", ascending=not south_up) if south_up else made
    expected = dataset.sortby("y", ascending=not south_up) if south_up else dataset
    assert made["land"].dtype == np.uint8
    for name in ("land", "height", "slope"):
        np.testing.assert_array_equal(made[name].values, expected[name].transpose("y", "x").values)
    assert made["height"].attrs["_FillValue"] == -1
    assert (made["height"].attrs["scale_factor"], made["height"].attrs["units"]) == (0.5, "m")
    assert stored(tmp_path / "c.zarr")["land"].encoding["chunks"] == (7, 8)


def test_they_are_cut_with_the_rest(tmp_path: Path) -> None:
    dataset = with_statics([0])
    box = (5e5 + 41, 5e6 - 120, 5e5 + 199, 5e6 - 31)
    made = ingest(save(dataset, tmp_path / "in.nc"), output=tmp_path / "c.zarr", bbox=box, bbox_crs="EPSG:32633")
    for name in ("land", "height", "slope"):
        expected = dataset[name].transpose("y", "x")[3:12, 4:20]
        np.testing.assert_array_equal(made[name].values, expected.values)


def test_on_another_grid_the_nearest_pixel_counts(tmp_path: Path) -> None:
    dataset = with_statics([0])
    path = save(dataset, tmp_path / "in.nc")
    # A kernel that would mix heights, and land with sea.
    made = ingest(path, output=tmp_path / "c.zarr", resolution=7.0, resampling="bilinear", chunks=(1, 10, 10))
    place = made["spatial_ref"].attrs["GeoTransform"].split()
    c, a, _, f, _, e = (float(number) for number in place)
    for name, nodata in (("land", None), ("height", -1), ("slope", np.nan)):
        source = dataset[name].transpose("y", "x").values
        source = source.astype("uint8") if source.dtype == bool else source
        expected = np.full(made[name].shape, 0 if nodata is None else nodata, dtype=source.dtype)
        reproject(
            source, expected, src_crs="EPSG:32633", dst_crs="EPSG:32633", src_nodata=nodata, dst_nodata=nodata,
            src_transform=Affine(10, 0, 5e5, 0, -10, 5e6), dst_transform=Affine(a, 0, c, 0, e, f),
            resampling=Resampling.nearest,
        )  # fmt: skip
        np.testing.assert_array_equal(made[name].values, expected)


def test_tiles_are_joined_and_a_series_has_that_of_its_first_file(tmp_path: Path) -> None:
    whole = with_statics([0, 1], shape=(20, 60))
    tiles = {"west": whole.isel(x=slice(0, 30)), "east": whole.isel(x=slice(30, 60))}
    sources = []
    for name, tile in tiles.items():
        for day in (0, 1):
            one = tile.isel(time=[day]).copy(deep=True)
            if day == 1:  # a series whose files do not agree
                one["height"] += 1
            sources.append(save(one, tmp_path / f"{name}{day}.nc"))
    box = (5e5, 5e6 - 200, 5e5 + 600, 5e6)
    options: dict[str, Any] = {"bbox": box, "bbox_crs": "EPSG:32633", "same_day": "first"}
    made = ingest(*sources, output=tmp_path / "c.zarr", **options)
    for name in ("land", "height", "slope"):
        np.testing.assert_array_equal(made[name].values, whole[name].transpose("y", "x").values)


def test_what_var_names_is_written(tmp_path: Path) -> None:
    path = str(save(with_statics([0]), tmp_path / "in.nc"))
    assert [static.name for static in plan_ingest([path], variables=("red", "land")).statics] == ["land"]
    assert not plan_ingest([path], variables=("red",)).statics
    with pytest.raises(OptionError, match="--var land has no dates; name a variable that has some as well: red"):
        plan_ingest([path], variables=("land",))
    with pytest.raises(OptionError, match=r"no variable 'lnad'; did you mean 'land'\? there are red, height, land, "):
        plan_ingest([path], variables=("lnad",))


def test_one_of_two_types_is_refused(tmp_path: Path) -> None:
    whole = with_statics([0], shape=(20, 60))
    west, east = whole.isel(x=slice(0, 30)), whole.isel(x=slice(30, 60))
    east = east.assign(land=east["land"].astype("int16"))
    paths = [str(save(west, tmp_path / "west.nc")), str(save(east, tmp_path / "east.nc"))]
    box = (5e5, 5e6 - 200, 5e5 + 600, 5e6)
    with pytest.raises(CubeError, match=r"'land' has no dates .*west\.nc has .*int8 and .*int16"):
        plan_ingest(paths, bbox=box, bbox_crs="EPSG:32633", same_day="first")


def test_what_has_dates_elsewhere_goes_before(tmp_path: Path) -> None:
    """A band of rasters that is called like the land mask of a cube."""
    path = save(with_statics([0])[["red", "land", "spatial_ref"]], tmp_path / "in.nc")
    samples = raster(tmp_path / "tif" / "20200101_land.tif")
    made = ingest(path, tmp_path / "tif", output=tmp_path / "c.zarr")
    assert made["land"].dims == ("time", "y", "x")
    np.testing.assert_array_equal(made["land"].values, samples)


def test_a_changed_mask_is_another_plan(tmp_path: Path) -> None:
    dataset = with_statics([0])
    path = save(dataset, tmp_path / "in.zarr")
    before = plan_ingest([str(path)]).identity()
    assert plan_ingest([str(path)]).identity() == before
    changed = xr.Dataset({"land": ~dataset["land"]})
    changed.drop_vars(["spatial_ref"]).to_zarr(path, mode="r+", consolidated=False)
    assert plan_ingest([str(path)]).identity() != before


def test_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(with_statics([0]), tmp_path / "in.nc")
    assert run(["ingest", str(path), "-o", str(tmp_path / "c.zarr")]) == 0
    assert "c.zarr: red (int16); without dates: height, land, slope\n" in capsys.readouterr().out
