"""Series of rasters into cubes: rasterio's own reading of the same files is the oracle."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT

from stpipe.core.windows import Window
from stpipe.errors import CubeError, MissingFileError, OptionError, OutputError, ReadError, RunError
from stpipe.io.cube import open_source
from stpipe.io.filenames import read_names
from stpipe.io.ingest import files, partial
from stpipe.io.ingest import write as ingest_write
from stpipe.io.ingest.layers import Want
from stpipe.io.ingest.write import summary, write_cube
from stpipe.io.rasters import Grid, grid_of_dataset, open_raster
from tests.io.ingest_sources import SHAPE, ingest, plan_ingest, raster


def at(*parts: int) -> datetime:
    """Return a time without a zone, as file names have it."""
    return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["20230602_L30_T15SWD_B02.tif", "20230602_S30_T15SWD_NIR.tif"],
            [("2023-06-02", "B02"), ("2023-06-02", "NIR")],
        ),
        (["20230602_L30_T15SWD_B02.tif", "20230602_S30_T15SWD_B02.tif"], [("2023-06-02", "B02")] * 2),
        (["HLS.S30.T15SWD.2023153T165849.v2.0.B8A.tif"], [("2023-06-02T16:58:49", "B8A")]),
        (["LC08_L1TP_013032_20180131_20180207_01_T1_B10.TIF"], [("2018-01-31", "B10")]),
        (
            ["S2A_MSIL2A_20230101T101010_N0509_R022_T33UUP_20230102T000000_B04_10m.jp2"],
            [("2023-01-01T10:10:10", "B04")],
        ),
        (
            [f"LC08_L2SP_013032_20180131_20200902_02_T1_{band}.TIF" for band in ("SR_B4", "QA_PIXEL", "QA_RADSAT")],
            [("2018-01-31", "SR_B4"), ("2018-01-31", "QA_PIXEL"), ("2018-01-31", "QA_RADSAT")],
        ),
        (["TERRA_MODIS_h12v10_EVI_2013-09-14.jp2"], [("2013-09-14", "EVI")]),
        (["20230101.tif"], [("2023-01-01", "data")]),
        (["20230101/B02.tif", "20230105/B02.tif"], [("2023-01-01", "B02"), ("2023-01-05", "B02")]),
        (["snow_2020.01.03.tif", "temp_2020.01.03.tif"], [("2020-01-03", "snow"), ("2020-01-03", "temp")]),
        (["X_20201350_20200229_wet.tif"], [("2020-02-29", "wet")]),
        (["20200102030405_dry.tif"], [("2020-01-02T03:04:05", "dry")]),
    ],
    ids=[
        "HLS",
        "sensors",
        "HLS official",
        "Landsat",
        "Landsat Collection 2",
        "Sentinel-2",
        "MODIS",
        "date alone",
        "folder",
        "dots",
        "false date",
        "clock",
    ],
)
def test_dates_and_variables_are_found_in_names(names: list[str], expected: list[tuple[str, str]]) -> None:
    found = [(named.time, named.variable) for named in read_names([Path(name) for name in names])]
    assert found == [(datetime.fromisoformat(time), variable) for time, variable in expected]


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (
            [
                "LC08_L2SP_013032_20180131_20200902_02_T1_SR_B4.TIF",
                "LC08_L2SP_013032_20180131_20200902_02_T1_QA_PIXEL.TIF",
            ],
            None,
        ),
        (["R10m/T31UFS_20180131T105321_B04_10m.jp2", "R20m/T31UFS_20180131T105321_SCL_20m.jp2"], None),
        (["20180131_A_red.tif", "20180131_A_SCL.tif"], "{date:%Y%m%d}_{sensor}_{variable}.tif"),
        (["red/20180131.tif", "SCL/20180131.tif"], "{variable}/{date:%Y%m%d}.tif"),
    ],
    ids=["Landsat Collection 2", "Sentinel-2", "template", "folders"],
)
def test_names_of_one_scene_differ_in_the_variable_alone(names: list[str], pattern: str | None) -> None:
    one, other = read_names([Path("/in") / name for name in names], pattern)
    assert (one.time, one.scene) == (other.time, other.scene)
    assert one.variable != other.variable


def test_two_sensors_of_a_day_are_two_scenes() -> None:
    one, other = read_names([Path(f"20230602_{sensor}_T15SWD_B02.tif") for sensor in ("L30", "S30")])
    assert (one.time, one.variable) == (other.time, other.variable)
    assert one.scene != other.scene


@given(
    st.datetimes(at(1985, 1, 1), at(2035, 1, 1)),
    st.sampled_from(["%Y%m%d", "%Y-%m-%d", "%Y%j", "%Y_%m_%d"]),
)
def test_a_date_in_any_usual_form_is_found(time: datetime, form: str) -> None:
    (named,) = read_names([Path(f"scene_{time.strftime(form)}_B02.tif")])
    assert (named.time.date(), named.variable) == (time.date(), "B02")


@given(
    st.datetimes(at(1985, 1, 1), at(2035, 1, 1)),
    st.sampled_from(["%Y%m%d", "%d.%m.%Y", "%Y%jT%H%M%S", "%y-%b-%d", "%m-%Y-%d"]),
)
def test_a_template_reads_back_what_it_writes(time: datetime, form: str) -> None:
    name = f"S2_{time.strftime(form)}_T33_ndvi_max.tif"
    pattern = f"{{sensor}}_{{date:{form}}}_{{tile}}_{{variable}}.tif"
    (named,) = read_names([Path(name)], pattern)
    assert named.time.strftime(form) == time.strftime(form)
    assert named.variable == "ndvi_max"


def test_a_regular_expression_is_a_pattern_too() -> None:
    (named,) = read_names([Path("a/v1-red-20200203x.tif")], r"v\d-(?P<variable>\w+)-(?P<date>\d{8})x\.tif")
    assert (named.time, named.variable) == (at(2020, 2, 3), "red")


def test_a_template_may_reach_into_folders() -> None:
    (named,) = read_names([Path("/x/2020-02-03/red.tif")], "{date:%Y-%m-%d}/{variable}.tif")
    assert (named.time, named.variable) == (at(2020, 2, 3), "red")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{variable}.tif", "needs a {date:%Y%m%d} field"),
        ("{date:%Q}.tif", "can't have %Q"),
        ("(?P<day>x)", r"needs a group \(\?P<date>"),
        ("(?P<date>x", "no regular expression"),
        ("{da te}.tif", "a field needs a plain name"),
    ],
)
def test_patterns_that_are_none_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read_names([Path("20200101.tif")], pattern)


@pytest.mark.parametrize(
    ("name", "pattern", "message"),
    [
        ("scene_B02.tif", None, r"no date in the name of .*scene_B02\.tif; .*--pattern"),
        ("scene_20201340.tif", None, "no date in the name"),
        ("a_20200101.tif", "b_{date:%Y%m%d}.tif", "does not fit --pattern"),
        ("a_20201341.tif", "a_{date:%Y%m%d}.tif", "is no date of the form %Y%m%d"),
    ],
)
def test_names_that_do_not_fit_are_refused(name: str, pattern: str | None, message: str) -> None:
    with pytest.raises(CubeError, match=message):
        read_names([Path(name)], pattern)


# --- the cube ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_the_cube_holds_what_rasterio_reads(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(3)
    nodata = float("nan") if dtype.startswith("float") else 7
    stacks: dict[str, list[np.ndarray[Any, Any]]] = {"red": [], "nir": []}
    for day in (3, 1, 2):
        for variable, stack in stacks.items():
            samples = rng.integers(0, 100, SHAPE).astype(dtype)
            path = tmp_path / "in" / f"202001{day:02d}_{variable}.tif"
            stack.append(raster(path, samples, nodata=nodata, tiled=True, blockxsize=16, blockysize=16)[0])
    cube = ingest(tmp_path / "in", output=tmp_path / "c.zarr", chunks=(2, 7, 8))
    for variable, stack in stacks.items():
        np.testing.assert_array_equal(cube[variable].values, np.stack([stack[i] for i in (1, 2, 0)]))
        assert cube[variable].dtype == dtype
        assert cube[variable].encoding["chunks"] == (2, 7, 8)
        np.testing.assert_equal(float(cube[variable].attrs["_FillValue"]), nodata)
    np.testing.assert_array_equal(
        cube["time"].values, np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "datetime64")
    )
    with rasterio.open(tmp_path / "in" / "20200101_red.tif") as source:
        first, last = source.xy(0, 0), source.xy(SHAPE[0] - 1, SHAPE[1] - 1)
    assert (cube["x"].values[0], cube["y"].values[0]) == first
    assert (cube["x"].values[-1], cube["y"].values[-1]) == last
    assert cube["spatial_ref"].attrs["GeoTransform"].split()[:2] == ["500000.0", "10.0"]
    assert cube.attrs["source"] == "stpipe ingest"
    described = open_source(tmp_path / "c.zarr")
    assert described.names == ("nir", "red")
    assert described.transform == (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
    assert rasterio.crs.CRS.from_wkt(str(described.crs_wkt)).to_epsg() == 32633


def test_pieces_smaller_than_a_row_of_chunks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in (1, 2, 3):
        raster(tmp_path / "in" / f"2020010{day}_red.tif", seed=day)
    whole = ingest(tmp_path / "in", output=tmp_path / "a.zarr", chunks=(2, 8, 8))
    monkeypatch.setattr(ingest_write, "BUFFER_BYTES", 1)
    pieces = ingest(tmp_path / "in", output=tmp_path / "b.zarr", chunks=(2, 8, 8))
    np.testing.assert_array_equal(whole["red"].values, pieces["red"].values)


def test_bands_are_called_by_their_descriptions(tmp_path: Path) -> None:
    stack = np.arange(2 * 20 * 30, dtype="int16").reshape(2, *SHAPE)
    raster(tmp_path / "a" / "20200101.tif", stack, descriptions=("red edge", "nir"))
    raster(tmp_path / "b" / "20200101_refl.tif", stack)
    named = ingest(tmp_path / "a", output=tmp_path / "a.zarr")
    numbered = ingest(tmp_path / "b", output=tmp_path / "b.zarr")
    np.testing.assert_array_equal(named["red_edge"].values[0], stack[0])
    np.testing.assert_array_equal(named["nir"].values[0], stack[1])
    np.testing.assert_array_equal(numbered["refl_b2"].values[0], stack[1])


def test_scale_is_kept_and_may_not_change(tmp_path: Path) -> None:
    raster(tmp_path / "20200101_red.tif", scale=0.5)
    raster(tmp_path / "20200102_red.tif", scale=0.5)
    assert ingest(tmp_path, output=tmp_path / "c.zarr")["red"].attrs["scale_factor"] == 0.5
    raster(tmp_path / "20200103_red.tif", scale=0.1)
    with pytest.raises(
        CubeError, match=r"needs one scale and offset.*20200101_red\.tif has 0\.5.*0103_red\.tif has 0\.1"
    ):
        plan_ingest([str(tmp_path / "*.tif")])


def test_a_missing_scene_is_a_gap_and_needs_nodata(tmp_path: Path) -> None:
    raster(tmp_path / "20200101_red.tif", nodata=0)
    raster(tmp_path / "20200102_red.tif", nodata=0)
    raster(tmp_path / "20200101_nir.tif", nodata=0)
    plan = plan_ingest([str(tmp_path)])
    assert plan.warnings == ("variable 'nir' has no file on 1 of 2 dates; they are all gap",)
    cube = ingest(tmp_path, output=tmp_path / "c.zarr")
    assert (cube["nir"].values[1] == 0).all()
    assert (cube["nir"].values[0] > 0).all()
    raster(tmp_path / "20200101_nir.tif")
    with pytest.raises(CubeError, match=r"'nir' has no file on 1 of 2 dates \(2020-01-02\).*--nodata"):
        plan_ingest([str(tmp_path / "*.tif")])


def test_nodata_that_differs_is_refused_until_one_is_chosen(tmp_path: Path) -> None:
    one = raster(tmp_path / "20200101_red.tif", nodata=5)[0]
    other = raster(tmp_path / "20200102_red.tif", seed=1, nodata=6)[0]
    with pytest.raises(CubeError, match=r"needs one nodata, but .* has 5 and .* has 6"):
        plan_ingest([str(tmp_path)])
    cube = ingest(tmp_path, output=tmp_path / "c.zarr", nodata=-1)["red"].values
    np.testing.assert_array_equal(cube[0], np.where(one == 5, -1, one))
    np.testing.assert_array_equal(cube[1], np.where(other == 6, -1, other))
    with pytest.raises(OptionError, match=r"--nodata 40000 can't be stored .* int16"):
        plan_ingest([str(tmp_path / "*.tif")], nodata=40000)


@pytest.mark.parametrize(("nodata", "mark"), [(-3.40282e38, -np.inf), (3.4e38, np.inf)])
def test_the_lowest_float_is_nodata_with_however_few_digits_it_is_written(
    tmp_path: Path, nodata: float, mark: float
) -> None:
    samples = np.random.default_rng(0).normal(size=SHAPE).astype("float32")
    samples[0] = np.copysign(np.finfo("float32").max, mark)
    for day in (1, 2):
        raster(tmp_path / f"v_2024-01-0{day}.tif", samples, nodata=nodata)
    cube = ingest(tmp_path, output=tmp_path / "c.zarr")
    with rasterio.open(tmp_path / "v_2024-01-01.tif") as file:
        masked = file.read(1, masked=True).mask
    np.testing.assert_array_equal(np.isnan(cube["v"].values[0]), masked)
    assert masked.sum() == SHAPE[1]


@pytest.mark.parametrize(("start", "frames"), [("..", 2), ("2024-01-02Z", 2), ("", 2), ("2024-01-03", 1)])
def test_a_period_may_be_open_or_in_universal_time(tmp_path: Path, start: str, frames: int) -> None:
    for day in (2, 3, 9):
        raster(tmp_path / f"v_2024-01-0{day}.tif")
    cube = ingest(tmp_path, output=tmp_path / "c.zarr", time=(start, "2024-01-05"))
    assert cube.sizes["time"] == frames


@pytest.mark.parametrize(
    ("crs", "unit"),
    [("EPSG:32633", "m"), ("EPSG:2263", "0.304800609601219 metre"), ("EPSG:4326", "degrees_north"), (None, None)],
)
def test_coordinates_have_the_unit_of_their_crs(tmp_path: Path, crs: str | None, unit: str | None) -> None:
    where = {"transform": from_origin(10, 50, 0.1, 0.1)} if crs == "EPSG:4326" else {}
    raster(tmp_path / "v_2024-01-01.tif", crs=crs, **where)
    assert ingest(tmp_path, output=tmp_path / "c.zarr").y.attrs.get("units") == unit


def test_types_are_widened_only_without_loss(tmp_path: Path) -> None:
    raster(tmp_path / "20200101_red.tif", np.full(SHAPE, 200, dtype="uint8"))
    raster(tmp_path / "20200102_red.tif", np.full(SHAPE, -5, dtype="int16"))
    cube = ingest(tmp_path, output=tmp_path / "c.zarr")["red"]
    assert cube.dtype == "int16"
    assert cube.values[:, 0, 0].tolist() == [200, -5]
    raster(tmp_path / "20200103_red.tif", np.zeros(SHAPE, dtype="float32"))
    with pytest.raises(CubeError, match="several types that have no common one"):
        plan_ingest([str(tmp_path / "*.tif")])


# --- several scenes of a day -------------------------------------------------------------------------------------


def test_two_scenes_at_one_time_are_refused_and_at_two_times_are_two_frames(tmp_path: Path) -> None:
    raster(tmp_path / "a" / "20200101_L30_B02.tif")
    raster(tmp_path / "a" / "20200101_S30_B02.tif")
    with pytest.raises(
        CubeError,
        match=r"1 date has several scenes of one variable: 2020-01-01 \(variable 'B02': 20200101_L30_B02\.tif, "
        r"20200101_S30_B02\.tif\).*--same-day",
    ):
        plan_ingest([str(tmp_path / "a")])
    raster(tmp_path / "b" / "20200101T101500_B02.tif")
    raster(tmp_path / "b" / "20200101T103000_B02.tif")
    assert len(plan_ingest([str(tmp_path / "b")]).times) == 2
    plan = plan_ingest([str(tmp_path / "b")], same_day="mean")
    assert plan.times == (at(2020, 1, 1, 10, 15),)
    assert summary(plan, tmp_path)["composited"] == ["2020-01-01T10:15:00"]


# --- grids -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"west": 500_005}, r"origin \(500005, 5000000\)"),
        ({"crs": "EPSG:32634"}, "EPSG:32634"),
        ({"samples": np.ones((21, 30), dtype="int16")}, "30 x 21 pixels"),
        ({"transform": from_origin(500_000, 5_000_000, 20, 20)}, "pixel 20 x -20"),
    ],
    ids=["origin", "CRS", "shape", "resolution"],
)
def test_grids_that_differ_are_refused_with_both_named(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    raster(tmp_path / "20200101_red.tif")
    raster(tmp_path / "20200102_red.tif", **other)
    with pytest.raises(CubeError, match=rf"0101_red\.tif has EPSG:32633, .*0102_red\.tif has .*{said}.*--align first"):
        plan_ingest([str(tmp_path)])


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_aligned_layers_are_what_gdal_warps(tmp_path: Path, resampling: str) -> None:
    raster(tmp_path / "20200101_red.tif", nodata=0)
    raster(tmp_path / "20200102_red.tif", seed=1, nodata=0, west=500_104)
    cube = ingest(tmp_path, output=tmp_path / "c.zarr", align="first", resampling=resampling, chunks=(1, 8, 8))
    with (
        rasterio.open(tmp_path / "20200101_red.tif") as target,
        rasterio.open(tmp_path / "20200102_red.tif") as source,
        WarpedVRT(
            source,
            crs=target.crs,
            transform=target.transform,
            height=SHAPE[0],
            width=SHAPE[1],
            resampling=rasterio.enums.Resampling[resampling],
        ) as vrt,
    ):
        np.testing.assert_array_equal(cube["red"].values[0], target.read(1))
        np.testing.assert_array_equal(cube["red"].values[1], vrt.read(1))
    assert (cube["red"].values[1][:, :10] == 0).all()


def test_a_warp_needs_a_nodata_and_a_crs(tmp_path: Path) -> None:
    raster(tmp_path / "20200101_red.tif")
    raster(tmp_path / "20200102_red.tif", west=500_104)
    with pytest.raises(CubeError, match=r"20200102_red\.tif is to be warped.*--nodata"):
        plan_ingest([str(tmp_path)], align="first")
    raster(tmp_path / "20200102_red.tif", west=500_104, crs=None)
    with pytest.raises(CubeError, match="has no CRS"):
        plan_ingest([str(tmp_path)], align="first", nodata=0)
    with pytest.raises(MissingFileError, match=r"--align: there is no file .*none\.tif"):
        plan_ingest([str(tmp_path)], align=str(tmp_path / "none.tif"))


def test_a_turned_grid_is_refused(tmp_path: Path) -> None:
    raster(tmp_path / "20200101_red.tif", transform=from_origin(0, 0, 10, 10).rotation(20))
    with pytest.raises(CubeError, match="is turned"):
        plan_ingest([str(tmp_path)])


# --- files and outputs -------------------------------------------------------------------------------------------


def test_sources_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no file matches .*\*\.tif"):
        plan_ingest([str(tmp_path / "*.tif")])
    with pytest.raises(MissingFileError, match="holds no raster"):
        plan_ingest([str(tmp_path)])
    (tmp_path / "20200101_red.tif").write_text("no raster")
    with pytest.raises(CubeError, match=r"20200101_red\.tif can't be opened as a raster: "):
        plan_ingest([str(tmp_path)])


def test_a_warped_layer_is_filled_as_each_variable_wants(tmp_path: Path) -> None:
    raster(tmp_path / "20200101_red.tif")
    with open_raster(tmp_path / "20200101_red.tif") as opened:
        source = grid_of_dataset(opened)
    a, b, c, d, e, f = source.transform
    target = Grid(crs_wkt=source.crs_wkt, transform=(a, b, c + 10_004.0, d, e, f), shape=source.shape)
    band = files.RasterBand(path=str(tmp_path / "20200101_red.tif"), band=1, layer_grid=source)
    window: dict[str, Any] = {"rows": slice(0, 3), "columns": slice(0, 4), "resampling": "nearest"}
    with files.OPEN:
        for fill in (-7, -9):
            got = band.read(Want(grid=target, source_nodata=None, fill=fill, **window))
            np.testing.assert_array_equal(got, np.full((3, 4), fill))


def test_an_output_is_replaced_only_if_it_was_made_here(tmp_path: Path) -> None:
    raster(tmp_path / "in" / "20200101_red.tif")
    plan = plan_ingest([str(tmp_path / "in")])
    output = tmp_path / "c.zarr"
    write_cube(plan, output)
    with pytest.raises(OutputError, match=r"exists; .*--overwrite"):
        write_cube(plan, output)
    (output / "red" / "c" / "0" / "0" / "0").unlink()
    write_cube(plan, output, overwrite=True)
    assert (output / "red" / "c" / "0" / "0" / "0").exists()
    (tmp_path / "precious").mkdir()
    with pytest.raises(OutputError, match="was not made by stpipe ingest"):
        write_cube(plan, tmp_path / "precious", overwrite=True)
    with pytest.raises(OutputError, match="there is no folder"):
        write_cube(plan, tmp_path / "none" / "c.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.zarr", "in", "precious"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_at_once_do_not_harm_each_other(tmp_path: Path, overwrite: bool) -> None:
    samples = raster(tmp_path / "in" / "20200101_red.tif")
    plan, output = plan_ingest([str(tmp_path / "in")]), tmp_path / "c.zarr"
    if overwrite:
        write_cube(plan, output)
    refused = []

    def second(*_: int) -> None:
        with pytest.raises(OutputError, match=r"^another process is writing .*c\.zarr; wait for it or end it$"):
            write_cube(plan, output, overwrite=overwrite)
        refused.append(True)

    write_cube(plan, output, overwrite=overwrite, progress=second)
    assert refused
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.zarr", "in"]
    np.testing.assert_array_equal(xr.open_zarr(output)["red"].values, samples)


def test_what_came_to_be_in_the_meantime_stays(tmp_path: Path) -> None:
    raster(tmp_path / "in" / "20200101_red.tif")
    plan, output = plan_ingest([str(tmp_path / "in")]), tmp_path / "c.zarr"

    def meanwhile(*_: int) -> None:
        output.mkdir(exist_ok=True)
        (output / "precious").touch()

    with pytest.raises(OutputError, match=r"c\.zarr exists; .*; the same command goes on from what was written"):
        write_cube(plan, output, progress=meanwhile)
    with pytest.raises(OutputError, match="was not made by stpipe ingest"):
        write_cube(plan, output, overwrite=True)
    assert [path.name for path in output.iterdir()] == ["precious"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    folder = tmp_path / ".c.zarr.partial"
    folder.touch()
    said = r"\.partial can't be made: File exists; choose another name"
    with pytest.raises(OutputError, match=said), partial.locked(folder, folder):
        pytest.fail("there is no folder to work in")


def test_a_file_that_breaks_off_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    raster(tmp_path / "in" / "20200101_red.tif", compress="deflate")
    path = tmp_path / "in" / "20200102_red.tif"
    raster(path, compress="deflate", seed=5)
    whole = path.read_bytes()
    plan = plan_ingest([str(tmp_path / "in")])
    path.write_bytes(whole[:300] + b"\0" * (len(whole) - 300))
    with pytest.raises((ReadError, CubeError), match=r"20200102_red\.tif can't be"):
        write_cube(plan, tmp_path / "c.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_disk_that_is_full_is_a_failure_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = raster(tmp_path / "in" / "20200101_red.tif")
    plan, output = plan_ingest([str(tmp_path / "in")]), tmp_path / "c.zarr"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ingest_write, "_put_in_place", full)
        with pytest.raises(
            RunError, match=r"c\.zarr can't be written, and the same command goes on .*: OSError: .*No space left"
        ):
            write_cube(plan, output)
        patch.setattr(ingest_write, "_create", full)
        with pytest.raises(RunError, match="and nothing of it was kept"):
            write_cube(plan, tmp_path / "d.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".c.zarr.partial", "in"]
    monkeypatch.setattr(ingest_write, "read_frame", full)  # nothing is left to read
    write_cube(plan, output)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.zarr", "in"]
    np.testing.assert_array_equal(xr.open_zarr(output)["red"].values, samples)


# --- real series -------------------------------------------------------------------------------------------------


def test_hls_scenes_become_thirty_frames(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "hls_T15SWD_2023"
    with pytest.raises(
        CubeError, match=r"3 dates have several scenes of one variable: 2023-06-02, 2023-07-20, 2023-09-30"
    ):
        plan_ingest([str(folder)])
    write_cube(plan_ingest([str(folder)], same_day="mean"), tmp_path / "c.zarr")
    cube = open_source(tmp_path / "c.zarr")
    assert (cube.names, cube.extent) == (("B02", "B03", "B04", "NIR"), (30, 248, 248))
    reader = cube.reader()
    for number, time in enumerate(cube.times):
        day = str(time)[:10].replace("-", "")
        scenes = []
        for path in sorted(folder.glob(f"{day}_*_NIR.tif")):
            with rasterio.open(path) as source:
                scenes.append(source.read(1))
        got = reader.read("NIR", Window((number, 0, 0), (number + 1, 248, 248)))[0]
        count = np.sum([np.isfinite(scene) for scene in scenes], axis=0)
        total = np.nansum(np.array(scenes, dtype=np.float64), axis=0)
        expected = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_landsat_scenes_on_their_own_grids_are_refused_or_warped(data_folder: Path, tmp_path: Path) -> None:
    pattern = str(data_folder / "gdalcubes_l8_ny2018" / "*" / "*_B[45].TIF")
    with pytest.raises(CubeError, match="all files need one grid"):
        plan_ingest([pattern])
    plan = plan_ingest([pattern], align="first", nodata=0, same_day="first")
    write_cube(plan, tmp_path / "c.zarr")
    cube = open_source(tmp_path / "c.zarr")
    assert (cube.names, cube.extent) == (("B4", "B5"), (17, 77, 76))
    assert (cube.reader().read("B4", Window.of(cube.extent)) > 0).any(axis=(1, 2)).all()


def test_jp2_series_and_names_with_months_alone(data_folder: Path, tmp_path: Path) -> None:
    modis = plan_ingest([str(data_folder / "sits_mod13q1_sinop" / "*h12v10*.jp2")])
    assert ([v.name for v in modis.variables], modis.extent) == (["EVI", "NDVI"], (23, 144, 254))
    write_cube(modis, tmp_path / "modis.zarr")
    with rasterio.open(data_folder / "sits_mod13q1_sinop" / "TERRA-MODIS_h12v10_NDVI_2013-09-30.jp2") as source:
        got = open_source(tmp_path / "modis.zarr").reader().read("NDVI", Window((1, 0, 0), (2, 144, 254)))
        np.testing.assert_array_equal(got[0], source.read(1))
    monthly = plan_ingest(
        [str(data_folder / "s2_monthly_california_512")], pattern="month_{date:%m}_band_{variable}.tif"
    )
    assert ([v.name for v in monthly.variables], len(monthly.times)) == (["B04", "B08"], 12)
    assert [time.month for time in monthly.times] == list(range(1, 13))
    assert "no year" in monthly.warnings[0]
