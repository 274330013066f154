"""Opening cubes, and reading windows of them: xarray's own decoding is the oracle."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stpipe.core.samples import physical
from stpipe.core.windows import Window
from stpipe.io.cube import open_cube, open_source
from stpipe.io.stored import open_raw

EXTENT = (5, 7, 6)
TIMES = np.array(["2020-01-01", "2020-01-04", "2020-02-01T10:30", "2020-03-01", "2020-12-31"], dtype="datetime64[ns]")


def make(
    names: tuple[str, str, str] = ("time", "y", "x"),
    *,
    order: tuple[int, ...] = (0, 1, 2),
    dtype: str = "float32",
    down: bool = True,
    seed: int = 0,
) -> xr.Dataset:
    """Return a small cube in physical units with NaN in its gaps."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 100, EXTENT).astype(np.float64)
    values[rng.random(EXTENT) < 0.3] = np.nan
    y = 4_000_000.0 + 10 * np.arange(EXTENT[1])
    coords = {names[0]: TIMES, names[1]: y[::-1] if down else y, names[2]: 500_000.0 + 10 * np.arange(EXTENT[2])}
    array = xr.DataArray(values, dims=names, coords=coords, name="v").transpose(*(names[i] for i in order))
    array.encoding = {"dtype": dtype} | (
        {} if dtype.startswith("f") else {"_FillValue": 255 if dtype == "uint8" else -99}
    )
    return array.to_dataset()


NAMES = [
    ("time", "y", "x"),
    ("t", "lat", "lon"),
    ("timestamp", "latitude", "longitude"),
    ("Time", "northing", "easting"),
]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.sampled_from(NAMES),
    order=st.permutations([0, 1, 2]),
    dtype=st.sampled_from(["float32", "float64", "int16", "uint8", "int32"]),
    down=st.booleans(),
    storage=st.sampled_from([2, 3, "netcdf"]),
    consolidated=st.booleans(),
    chunks=st.tuples(st.integers(2, 5), st.integers(2, 7), st.integers(3, 6)),
    data=st.data(),
)
def test_any_layout_reads_as_xarray_decodes_it(
    tmp_path_factory: pytest.TempPathFactory,
    names: tuple[str, str, str],
    order: list[int],
    dtype: str,
    down: bool,
    storage: Any,
    consolidated: bool,
    chunks: tuple[int, int, int],
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("cube")
    dataset = make(names, order=tuple(order), dtype=dtype, down=down)
    stored_chunks = tuple(chunks[i] for i in order)
    encoding = dataset["v"].encoding
    if storage == "netcdf":
        path = folder / "cube.nc"
        encoding["chunksizes"] = stored_chunks
        dataset.to_netcdf(path)
        oracle = xr.open_dataset(path)
    else:
        path = folder / "cube.zarr"
        encoding["chunks"] = stored_chunks
        with_copy = consolidated and storage == 2
        dataset.to_zarr(path, zarr_format=storage, consolidated=with_copy)
        oracle = xr.open_dataset(path, engine="zarr", consolidated=with_copy)

    cube = open_source(path)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in EXTENT)
    stop = tuple(data.draw(st.integers(a, n)) for a, n in zip(start, EXTENT, strict=True))
    window = Window(start, stop)  # type: ignore[arg-type]
    samples = pickle.loads(pickle.dumps(cube.reader())).read("v", window)

    with oracle:
        expected = oracle["v"].transpose(*names)[window.slices].values
    assert cube.extent == EXTENT
    assert cube.dims == names
    assert cube.variable("v").chunks == chunks
    assert samples.dtype == np.dtype(dtype)
    assert samples.flags.c_contiguous
    np.testing.assert_array_equal(physical(samples, cube.variable("v")), expected)
    np.testing.assert_array_equal(cube.times, TIMES)
    np.testing.assert_array_equal(cube.y, dataset[names[1]].values)
    assert cube.transform is not None
    assert cube.transform[4] == (-10 if down else 10)


def test_scale_and_offset_are_the_files(tmp_path: Path) -> None:
    dataset = make()
    dataset["v"].encoding = {"dtype": "int16", "_FillValue": -9999, "scale_factor": 0.5, "add_offset": -20.0}
    dataset["v"].attrs = {"units": "K", "long_name": "heat"}
    dataset.to_zarr(tmp_path / "c.zarr", consolidated=False)
    cube = open_source(tmp_path / "c.zarr")
    info = cube.variable("v")
    assert (info.nodata, info.scale_factor, info.add_offset) == (-9999, 0.5, -20.0)
    assert info.attrs == {"units": "K", "long_name": "heat"}
    np.testing.assert_allclose(physical(cube.reader().read("v", Window.of(EXTENT)), info), dataset["v"].values)


def test_lazy_dataset_writes_back_the_same_stored_samples(tmp_path: Path) -> None:
    dataset = make(order=(2, 0, 1), dtype="int16")
    dataset["v"].encoding |= {"scale_factor": 0.25, "chunks": (4, 3, 5)}
    dataset.to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False)
    lazy = open_cube(tmp_path / "a.zarr", time=("2020-01-02", None))
    assert lazy["v"].dims == ("time", "y", "x")
    assert lazy["v"].chunks is not None
    lazy.to_zarr(tmp_path / "b.zarr", consolidated=False)
    before, after = open_source(tmp_path / "a.zarr", time=("2020-01-02", None)), open_source(tmp_path / "b.zarr")
    window = Window.of(after.extent)
    np.testing.assert_array_equal(before.reader().read("v", window), after.reader().read("v", window))
    assert before.variables == after.variables


def test_two_nodata_values_become_one(tmp_path: Path) -> None:
    samples = np.arange(8, dtype="int16").reshape(2, 2, 2)
    dataset = xr.Dataset(
        {
            "v": (
                ("time", "y", "x"),
                samples,
                {"_FillValue": np.int16(3), "missing_value": np.array([3, 5], dtype="int16")},
            )
        },
        {"time": TIMES[:2]},
    )
    dataset.to_netcdf(tmp_path / "c.nc")
    cube = open_source(tmp_path / "c.nc")
    read = cube.reader().read("v", Window.of((2, 2, 2)))
    assert cube.variable("v").nodata == 3
    assert np.flatnonzero(np.isnan(physical(read, cube.variable("v")))).tolist() == [3, 5]


def test_plain_nodata_attribute_counts_where_there_is_no_fill_value(tmp_path: Path) -> None:
    samples = np.arange(8, dtype="int16").reshape(2, 2, 2)
    dataset = xr.Dataset({"v": (("time", "y", "x"), samples, {"nodata": 0})}, {"time": TIMES[:2]})
    dataset.to_zarr(tmp_path / "c.zarr", consolidated=False)
    assert open_source(tmp_path / "c.zarr").variable("v").nodata == 0
    assert int(open_cube(tmp_path / "c.zarr")["v"].isnull().sum()) == 1


def test_unsigned_bytes_of_netcdf_are_unsigned(tmp_path: Path) -> None:
    samples = np.array([0, -1, 100, -56], dtype="int8").reshape(1, 2, 2)
    attrs = {"_Unsigned": "true", "_FillValue": np.int8(-1)}
    xr.Dataset({"v": (("time", "y", "x"), samples, attrs)}, {"time": TIMES[:1]}).to_netcdf(tmp_path / "c.nc")
    cube = open_source(tmp_path / "c.nc")
    assert (cube.variable("v").dtype, cube.variable("v").nodata) == ("uint8", 255)
    assert cube.reader().read("v", Window.of((1, 2, 2))).ravel().tolist() == [0, 255, 100, 200]
    with xr.open_dataset(tmp_path / "c.nc") as oracle:
        np.testing.assert_array_equal(open_cube(tmp_path / "c.nc")["v"].values, oracle["v"].values)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_cube_written_anew_under_its_name_is_read_anew(tmp_path: Path, zarr_format: Any) -> None:
    path = tmp_path / "c.zarr"
    window = Window.of(EXTENT)
    make(seed=1).to_zarr(path, zarr_format=2, consolidated=False)
    open_source(path).reader().read("v", window)
    shutil.rmtree(path)
    make(seed=2).to_zarr(path, zarr_format=zarr_format, consolidated=False)
    np.testing.assert_array_equal(open_source(path).reader().read("v", window), make(seed=2)["v"].values)


def test_a_crs_told_by_a_code_or_by_units_becomes_a_grid_mapping(tmp_path: Path) -> None:
    dataset = make().assign_coords(epsg=32633)
    dataset.to_zarr(tmp_path / "c.zarr", zarr_format=2, consolidated=False)
    template = open_source(tmp_path / "c.zarr", time=("2020-02", None)).template()
    assert "WGS 84 / UTM zone 33N" in template["spatial_ref"].attrs["crs_wkt"]
    assert template["spatial_ref"].attrs["grid_mapping_name"] == "transverse_mercator"
    assert template["spatial_ref"].attrs["GeoTransform"] == "499995.0 10.0 0.0 4000065.0 0.0 -10.0"
    open_cube(tmp_path / "c.zarr").to_zarr(tmp_path / "d.zarr", consolidated=False)
    copy = open_source(tmp_path / "d.zarr")
    assert copy.crs_wkt == open_source(tmp_path / "c.zarr").crs_wkt


def test_each_band_is_a_variable(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4 * 5, dtype="float32").reshape(2, 3, 4, 5)
    coords = {"time": TIMES[:2], "band": ["red", "nir", "scl"]}
    stacked = xr.DataArray(values, dims=("time", "band", "y", "x"), coords=coords, name="stack").chunk({"band": 1})
    stacked.to_dataset().to_zarr(tmp_path / "c.zarr", zarr_format=2, consolidated=False)
    cube = open_source(tmp_path / "c.zarr", variables=["scl", "red"])
    assert cube.names == ("scl", "red")
    np.testing.assert_array_equal(cube.reader().read("scl", Window.of((2, 4, 5))), values[:, 2])
    np.testing.assert_array_equal(open_cube(tmp_path / "c.zarr")["nir"].values, values[:, 1])


def test_bands_of_several_variables_carry_the_variables_name(tmp_path: Path) -> None:
    values = np.zeros((2, 2, 3, 3), dtype="float32")
    dims = ("band", "time", "y", "x")
    xr.Dataset({"a": (dims, values), "b": (dims, values + 1)}, {"time": TIMES[:2], "band": [1, 2]}).to_netcdf(
        tmp_path / "c.nc"
    )
    cube = open_source(tmp_path / "c.nc")
    assert cube.names == ("a_b1", "a_b2", "b_b1", "b_b2")
    assert cube.reader().read("b_b2", Window.of((2, 3, 3))).min() == 1


def test_axes_without_known_names_are_found_by_attributes(tmp_path: Path) -> None:
    dataset = make(("when", "rows", "cols"))
    dataset["when"].attrs["axis"] = "T"
    dataset["rows"].attrs["standard_name"] = "projection_y_coordinate"
    dataset["cols"].attrs["axis"] = "X"
    dataset.expand_dims(height=[2.0]).to_zarr(tmp_path / "c.zarr", consolidated=False)
    cube = open_source(tmp_path / "c.zarr")
    assert cube.dims == ("when", "rows", "cols")
    np.testing.assert_array_equal(cube.reader().read("v", Window.of(EXTENT)), dataset["v"].values.astype("float32"))


@pytest.mark.parametrize(
    ("calendar", "days"),
    [("standard", [0, 2, 3]), ("noleap", [0, 1, 2]), ("360_day", [0, 3, 4]), ("all_leap", [0, 2, 3])],
)
def test_days_are_counted_in_the_files_calendar(tmp_path: Path, calendar: str, days: list[float]) -> None:
    cftime = pytest.importorskip("cftime")
    dates = [cftime.datetime(2020, m, d, calendar=calendar) for m, d in [(2, 28), (3, 1), (3, 2)]]
    values = np.zeros((3, 2, 2), dtype="float32")
    dataset = xr.Dataset({"v": (("time", "y", "x"), values)}, {"time": dates})
    dataset.to_netcdf(tmp_path / "c.nc")
    cube = open_source(tmp_path / "c.nc")
    np.testing.assert_array_equal(cube.days, days)
    assert [str(label)[:10] for label in cube.times] == ["2020-02-28", "2020-03-01", "2020-03-02"]
    assert cube.template().sizes["time"] == 3


def test_dates_that_the_common_calendar_lacks_get_labels_all_the_same(tmp_path: Path) -> None:
    cftime = pytest.importorskip("cftime")
    dates = [cftime.datetime(2021, 2, d, calendar="360_day") for d in (28, 29, 30)]
    xr.Dataset({"v": (("time", "y", "x"), np.zeros((3, 2, 2)))}, {"time": dates}).to_netcdf(tmp_path / "c.nc")
    cube = open_source(tmp_path / "c.nc")
    np.testing.assert_array_equal(cube.days, [0, 1, 2])
    assert (np.diff(cube.times) > np.timedelta64(0)).all()


def test_text_dates_are_dates(tmp_path: Path) -> None:
    coords = {"timestamp": ["2018-01-01", "2018-01-17"]}
    xr.Dataset({"v": (("timestamp", "y", "x"), np.zeros((2, 2, 2)))}, coords).to_netcdf(tmp_path / "c.nc")
    np.testing.assert_array_equal(open_source(tmp_path / "c.nc").days, [0, 16])


@pytest.mark.parametrize(
    ("period", "frames"),
    [
        (("2020-01-04", "2020-02-01"), [1, 2]),
        (("2020-02", None), [2, 3, 4]),
        ((None, "2020-01"), [0, 1]),
        (("2020", "2020"), [0, 1, 2, 3, 4]),
    ],
    ids=["both ends inside", "a month to the end", "up to a month's end", "a year"],
)
def test_a_period_selects_frames(tmp_path: Path, period: tuple[str | None, str | None], frames: list[int]) -> None:
    dataset = make()
    dataset.to_zarr(tmp_path / "c.zarr", consolidated=False)
    cube = open_source(tmp_path / "c.zarr", time=period)
    assert cube.extent == (len(frames), *EXTENT[1:])
    np.testing.assert_array_equal(cube.times, TIMES[frames])
    assert cube.days[0] == 0
    read = cube.reader().read("v", Window.of(cube.extent))
    np.testing.assert_array_equal(read, dataset["v"].values[frames].astype("float32"))
    np.testing.assert_array_equal(cube.template()["time"].values, TIMES[frames])


def test_fingerprint_tells_cubes_apart_but_not_their_samples(tmp_path: Path) -> None:
    dataset = make()
    path = tmp_path / "c.zarr"
    dataset.to_zarr(path, consolidated=False)
    first = open_source(path).fingerprint
    (path / "v" / "c" / "0" / "0" / "0").write_bytes(b"damaged")
    assert open_source(path).fingerprint == first
    assert open_source(path, time=("2020-01-04", None)).fingerprint != first
    dataset.assign_coords(time=TIMES + np.timedelta64(1, "h")).to_zarr(path, mode="w", consolidated=False)
    assert open_source(path).fingerprint != first


def test_template_carries_the_coordinates_and_the_grid_mapping(tmp_path: Path) -> None:
    pytest.importorskip("rioxarray")
    dataset = make().rio.write_crs("EPSG:32633")
    dataset.to_zarr(tmp_path / "c.zarr", consolidated=False)
    cube = open_source(tmp_path / "c.zarr", time=("2020-02", None))
    template = cube.template()
    assert cube.grid_mapping == "spatial_ref"
    assert not template.data_vars
    assert set(template.coords) == {"time", "y", "x", "spatial_ref"}
    assert template.rio.crs.to_epsg() == 32633
    lazy = open_cube(tmp_path / "c.zarr")
    assert lazy["v"].rio.crs.to_epsg() == 32633


def test_crs_is_wgs84_where_coordinates_are_in_degrees_and_none_without_a_word(tmp_path: Path) -> None:
    dataset = make(("time", "lat", "lon"))
    dataset.to_zarr(tmp_path / "silent.zarr", consolidated=False)
    dataset["lat"].attrs["units"], dataset["lon"].attrs["units"] = "degrees_north", "degrees_east"
    dataset.to_zarr(tmp_path / "said.zarr", consolidated=False)
    assert open_source(tmp_path / "silent.zarr").crs_wkt is None
    assert "4326" in str(open_source(tmp_path / "said.zarr").crs_wkt)


@pytest.mark.parametrize("bad", [np.nan, 3.0], ids=["a coordinate that is NaN", "an uneven axis"])
def test_uneven_coordinates_have_no_transform(tmp_path: Path, bad: float) -> None:
    dataset = make()
    y = dataset["y"].values.copy()
    y[2] = bad
    dataset.assign_coords(y=y).to_netcdf(tmp_path / "c.nc")
    cube = open_source(tmp_path / "c.nc")
    assert cube.transform is None
    assert cube.extent == EXTENT


def test_packed_coordinates_are_unpacked(tmp_path: Path) -> None:
    dataset = make(("time", "lat", "lon"))
    dataset = dataset.assign_coords(lat=45 - 0.25 * np.arange(7), lon=("lon", 5 + 0.25 * np.arange(6)))
    for name in ("lat", "lon"):
        dataset[name].encoding = {"dtype": "int16", "scale_factor": 0.25, "add_offset": 20.0, "_FillValue": -999}
    dataset.to_netcdf(tmp_path / "c.nc")
    cube = open_source(tmp_path / "c.nc")
    assert cube.transform == (0.25, 0.0, 4.875, 0.0, -0.25, 45.125)
    np.testing.assert_array_equal(open_cube(tmp_path / "c.nc")["lon"].values, dataset["lon"].values)


@pytest.mark.parametrize("file", ["dineof_alboran_sst/alboranSST_small.nc", "cftime", "text"])
def test_a_template_can_be_written(request: pytest.FixtureRequest, tmp_path: Path, file: str) -> None:
    if file.endswith(".nc"):
        path = request.getfixturevalue("data_folder") / file
    else:
        cftime = pytest.importorskip("cftime")
        noleap = [cftime.datetime(2020, 1, day, calendar="noleap") for day in (1, 2)]
        times = noleap if file == "cftime" else ["2020-01-01", "2020-01-02"]
        path = tmp_path / "c.nc"
        xr.Dataset({"v": (("t", "y", "x"), np.zeros((2, 2, 2)))}, {"t": times, "y": [1.0, 2.0]}).to_netcdf(path)
    cube = open_source(path)
    cube.template().to_zarr(tmp_path / "t.zarr", zarr_format=3, consolidated=False)
    with xr.open_dataset(tmp_path / "t.zarr", engine="zarr", consolidated=False, decode_coords="all") as again:
        xr.testing.assert_identical(again.load().drop_attrs(), cube.template().drop_attrs())


def test_geotransform_stands_in_for_absent_coordinates(tmp_path: Path) -> None:
    pytest.importorskip("rioxarray")
    from affine import Affine

    transform = Affine(30.0, 0.0, 100.0, 0.0, -30.0, 900.0)
    dataset = make().drop_vars(["y", "x"]).rio.write_crs("EPSG:32633").rio.write_transform(transform)
    dataset.to_zarr(tmp_path / "c.zarr", consolidated=False)
    assert open_source(tmp_path / "c.zarr").transform == tuple(transform)[:6]


def test_a_huge_declared_frame_is_opened_and_read_in_part(tmp_path: Path) -> None:
    import zarr

    group = zarr.open_group(tmp_path / "c.zarr", mode="w", zarr_format=3)
    time = group.create_array("time", shape=(2,), dtype="int64", dimension_names=["time"])
    time[:] = [0, 1]
    time.attrs["units"] = "days since 2020-01-01"
    group.create_array(
        "v", shape=(2, 10**7, 10**7), chunks=(1, 512, 512), dtype="uint8", dimension_names=["time", "y", "x"]
    )
    cube = open_source(tmp_path / "c.zarr")
    assert cube.extent == (2, 10**7, 10**7)
    window = Window((0, 10**7 - 2, 10**7 - 2), (2, 10**7, 10**7))
    assert cube.reader().read("v", window).shape == (2, 2, 2)


def test_real_files_are_read_as_the_netcdf_library_decodes_them(data_folder: Path) -> None:
    netCDF4 = pytest.importorskip("netCDF4")
    paths = [
        *sorted((data_folder / "worldcereal_s1_s2_l8").glob("*.nc")),
        *sorted((data_folder / "fusets_s2_ndvi_s1_rvi").glob("*.nc")),
        data_folder / "dineof_alboran_sst" / "alboranSST_small.nc",
    ]
    assert len(paths) > 10
    for path in paths:
        cube = open_source(path)
        with netCDF4.Dataset(path) as oracle:
            for info in cube.variables:
                expected = np.ma.filled(oracle[info.name][:].astype(np.float64), np.nan)
                got = physical(cube.reader([info.name]).read(info.name, Window.of(cube.extent)), info)
                np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=f"{path.name} {info.name}")


def test_the_sea_is_the_domain_of_a_real_product(data_folder: Path) -> None:
    path = data_folder / "dineof_alboran_sst" / "alboranSST_small.nc"
    cube = open_source(path, domain="mask")
    domain = cube.reader().read_domain(Window((0, 20, 30), (1, 120, 200)))
    with xr.open_dataset(path) as oracle:
        np.testing.assert_array_equal(domain, (oracle["mask"].values != 0)[20:120, 30:200])
    assert cube.days.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10]
    assert "4326" in str(cube.crs_wkt)


def test_what_is_in_a_folder_comes_in_the_order_of_its_names(tmp_path: Path) -> None:
    names = ["swir", "aerosol", "red", "b10", "b2", "zenith", "green", "mask"]
    frames = {name: (("time", "y", "x"), np.ones((2, 3, 4), dtype=np.float32)) for name in names}
    axes = {"y": np.arange(3.0), "time": np.array(["2024-01-01", "2024-01-09"], "M8[ns]"), "x": np.arange(4.0)}
    xr.Dataset(frames, axes, {"title": "bands"}).to_zarr(tmp_path / "c.zarr", consolidated=False)
    for _ in range(20):  # they come as they happen to be read: never twice alike
        with open_raw(str(tmp_path / "c.zarr"), "zarr") as raw:
            assert list(raw.data_vars) == sorted(names)
            assert list(raw.coords) == ["time", "x", "y"]
            assert not raw.indexes
            assert raw.attrs == {"title": "bands"}
    assert open_source(str(tmp_path / "c.zarr")).names == tuple(sorted(names))
