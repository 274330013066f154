"""`stpipe run` from files to GeoTIFFs: the packaged pipelines on real data, and a made-up one against its verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.transform import from_origin

from stpipe.cli.main import run

pytestmark = pytest.mark.processes

CHEAP = ("fill.method=pyramid",)
"""The page with a method that takes no time, so that these tests run with all others too."""

AS_SHIPPED = ()
"""The page as it comes with stpipe: what is said besides is where the files are, and which area and dates to take."""

CLEAR = {2, 4, 5, 6, 7}
"""Classes of SCL that are neither unclear nor snow nor fill."""


@pytest.fixture(
    params=[pytest.param(CHEAP, id="cheap"), pytest.param(AS_SHIPPED, id="as-shipped", marks=pytest.mark.integration)]
)
def page(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What to change of a packaged page, if anything."""
    words: tuple[str, ...] = request.param
    return words


def do(name: str, folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run a pipeline twice, the second time for nothing; return what the first one said of each stage."""
    capsys.readouterr()
    # One process at work, as the machine runs other tests too: it says how the work is done, and changes no byte.
    options = [word for text in ("fill.workers=1", *words) for word in ("--set", text)]
    reports = []
    for _ in range(2):
        assert run(["run", name, "-o", str(folder), *options, "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    first, again = reports
    assert not any(row["already"] for row in first["stages"])
    assert all(row["already"] for row in again["stages"])
    (fill,) = (row["command"] for row in first["stages"] if row["stage"] == "fill")
    assert fill[fill.index("--method") + 1] == ("pyramid" if CHEAP[0] in words else "pconv")
    return {row["stage"]: row["result"] for row in first["stages"]}


def opened(path: Path) -> xr.Dataset:
    return xr.open_dataset(path, engine="zarr", consolidated=False)


def check_products(folder: Path, observed: xr.DataArray, domain: np.ndarray[Any, Any] | bool = True) -> None:
    """Compare the products with what was observed: filled everywhere, observed samples kept, clear dates counted."""
    name = str(observed.name)
    filled = opened(folder / "filled" / "filled.zarr")
    values, clear = observed.values, np.isfinite(observed.values) & domain
    result = filled[name].values
    np.testing.assert_array_equal(result[clear], values[clear])
    assert np.isfinite(result[np.broadcast_to(domain, result.shape)]).all()
    assert clear.any()
    assert not clear.all()
    source = filled[f"{name}_source"].values
    assert ((source == 1) == clear).all()
    times = observed[observed.dims[0]].values
    # The GeoTIFFs are north up, whatever the cube is.
    flip = slice(None, None, -1) if observed[observed.dims[1]][0] < observed[observed.dims[1]][-1] else slice(None)
    by_day: dict[Any, np.ndarray[Any, Any]] = {}
    for time, frame in zip(times.astype("datetime64[D]"), clear, strict=True):
        by_day[time] = by_day.get(time, False) | frame
    with rasterio.open(folder / "gaps" / f"{name}_gaps.tif") as statistics:
        counts = statistics.read(statistics.descriptions.index("clear_count") + 1)
    expected = sum(frame.astype(int) for frame in by_day.values())[flip]
    inside = np.broadcast_to(domain, result.shape)[0][flip]
    np.testing.assert_array_equal(counts[inside], expected[inside])


def check_frames(folder: Path, name: str, crs: int) -> None:
    """Compare each GeoTIFF with its frame: samples, CRS, place and date."""
    filled = opened(folder / "filled" / "filled.zarr")[name].load()
    files = sorted(path for path in (folder / "geotiff" / name).iterdir() if "_source_" not in path.name)
    assert len(files) == len(filled)
    for path, frame in zip(files, filled, strict=True):
        with rasterio.open(path) as file:
            samples = file.read(1, masked=True) * file.scales[0] + file.offsets[0]
            assert file.crs.to_epsg() == crs
            y, x = frame.dims
            north, west = float(frame[y].max()), float(frame[x].min())
            np.testing.assert_allclose(file.xy(0, 0), (west, north), rtol=1e-9, atol=1e-9)
            date = str(frame["time"].values)[:19]
            assert file.descriptions == (date,)
            assert path.name == f"{name}_{date.translate({ord('-'): None, ord(':'): None})}.tif"
        values = frame.sortby(y, ascending=False).values
        np.testing.assert_allclose(samples.filled(np.nan), values, rtol=1e-6)


# --- the packaged ones -------------------------------------------------------------------------------------------


def test_sentinel_2(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], page: tuple[str, ...]
) -> None:
    (fine,) = (data_folder / "worldcereal_s1_s2_l8").glob("S2_L2A_10m_*.nc")
    (coarse,) = (data_folder / "worldcereal_s1_s2_l8").glob("S2_L2A_20m_*.nc")
    words = [f"ingest.src={fine}", f"ingest.src={coarse}", "ingest.time=2018-04-01/2018-05-31"]
    report = do("s2-ndvi", tmp_path / "out", capsys, *words, *page)
    assert report["ingest"]["variables"].keys() == {"SCL", "ndvi"}
    cube = opened(tmp_path / "out" / "cube.zarr")
    bands = xr.open_dataset(fine).sel(timestamp=slice("2018-04-01", "2018-05-31")).load()
    classes = xr.open_dataset(coarse, mask_and_scale=False).sel(timestamp=slice("2018-04-01", "2018-05-31"))
    scl = classes["SCL"].values.repeat(2, axis=1).repeat(2, axis=2)
    red, infrared = bands["B04"].values, bands["B08"].values
    total = infrared + red
    ratio = np.divide(infrared - red, total, out=np.full(total.shape, np.nan), where=total != 0)
    expected = np.where(np.isin(scl, list(CLEAR)), ratio, np.nan)
    np.testing.assert_allclose(cube["ndvi"].values, expected, rtol=1e-5, atol=1e-6)
    trusted, seen = np.isin(scl, list(CLEAR)), np.isfinite(red) | np.isfinite(infrared)
    np.testing.assert_array_equal(cube["clear"].values, np.where(seen, np.where(trusted, 1, 2), 0))
    check_products(tmp_path / "out", cube["ndvi"])
    check_frames(tmp_path / "out", "ndvi", 32631)


def test_harmonized_landsat_sentinel_2(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], page: tuple[str, ...]
) -> None:
    source = data_folder / "hls_T15SWD_2023"
    with rasterio.open(next(source.glob("20230720_S30_*_B04.tif"))) as file:
        left, top = file.transform @ (20, 30)
    box = f"ingest.bbox={left},{top - 64 * 30},{left + 64 * 30},{top}"
    words = [f"ingest.src={source}", "ingest.time=2023-07-01/2023-07-31", box, "ingest.bbox-crs=EPSG:32615"]
    do("hls-ndvi", tmp_path / "out", capsys, *words, *page)
    cube = opened(tmp_path / "out" / "cube.zarr")["ndvi"]
    assert cube.shape[1:] == (64, 64)
    # One of the days with a scene of each sensor.
    scenes = []
    for path in sorted(source.glob("20230720_*_B04.tif")):
        with rasterio.open(path) as first, rasterio.open(str(path).replace("_B04", "_NIR")) as second:
            window = rasterio.windows.Window(20, 30, 64, 64)
            red, infrared = first.read(1, window=window), second.read(1, window=window)
            scenes.append((red, infrared))
    assert len(scenes) == 2
    both = np.array(scenes, dtype=np.float64)
    seen = np.isfinite(both).sum(axis=0)
    mean = np.divide(np.nansum(both, axis=0), seen, out=np.full(seen.shape, np.nan), where=seen > 0)
    expected = (mean[1] - mean[0]) / (mean[1] + mean[0])
    np.testing.assert_allclose(cube.sel(time="2023-07-20").squeeze().values, expected, rtol=1e-4, atol=1e-6)
    kept = cube.where((cube >= -1) & (cube <= 1))
    check_products(tmp_path / "out", kept)
    check_frames(tmp_path / "out", "ndvi", 32615)


def test_landsat_collection_1(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (data_folder / "worldcereal_s1_s2_l8").glob("L8_SR_10m_*.nc")
    words = ["ingest.qa=landsat-c1", "ingest.var=B04", "ingest.var=pixel_qa", "fill.valid-range=0,1"]
    words += [*CHEAP, "gaps.valid-range=0,1"]
    do("landsat-reflectance", tmp_path / "out", capsys, f"ingest.src={path}", *words)
    cube = opened(tmp_path / "out" / "cube.zarr")
    raw = xr.open_dataset(path, mask_and_scale=False)
    bits = raw["pixel_qa"].values
    unclear = (bits == 0) | ((bits & 0b111001) > 0) | (bits >> 8 & 3 == 3)
    clear = np.where(unclear | (raw["B04"].values == 0), np.nan, raw["B04"].values * 1e-4)
    days = raw["timestamp"].values.astype("datetime64[D]")
    # Two days have two scenes each: a sample is that of one of them, and a gap where none is clear.
    assert len(cube["time"]) == len(set(days)) == len(days) - 2
    for time, frame in zip(cube["time"].values.astype("datetime64[D]"), cube["B04"].values, strict=True):
        scenes = clear[days == time]
        np.testing.assert_array_equal(np.isnan(frame), np.isnan(scenes).all(axis=0))
        found = np.isclose(scenes, frame, rtol=1e-6, equal_nan=True).any(axis=0)
        assert found.all()
    # Negative reflectance has become numbers above 6 in these files.
    check_products(tmp_path / "out", cube["B04"].where(cube["B04"] <= 1))
    assert [path.name for path in (tmp_path / "out" / "geotiff" / "B04").iterdir() if "source" not in path.name] == [
        "B04.tif"
    ]


def test_landsat_collection_2(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], page: tuple[str, ...]
) -> None:
    (path,) = (data_folder / "worldcereal_s1_s2_l8").glob("L8_L2-ST_10m_*.nc")
    words = [f"ingest.src={path}", "ingest.time=2018-05-01/2018-08-31"]
    report = do("landsat-reflectance", tmp_path / "out", capsys, *words, *page)
    assert 0 < report["ingest"]["variables"]["ST-B10"]["dropped"] < 1
    counts = report["fill"]["counts"]["ST-B10"]
    assert counts["unfilled"] == 0
    raw = xr.open_dataset(path, mask_and_scale=False)
    inside = raw.isel(timestamp=[("2018-05-01" <= day <= "2018-08-31") for day in raw["timestamp"].values.tolist()])
    bits = inside["QA-PIXEL"].values
    unclear = ((bits & 0b111111) > 0) | (bits == 0)
    kelvin = inside["ST-B10"].values * inside["ST-B10"].attrs.get("scale_factor", 1.0)
    kelvin = kelvin + inside["ST-B10"].attrs.get("add_offset", 0.0)
    cube = opened(tmp_path / "out" / "cube.zarr")
    observed = np.where(unclear | (inside["ST-B10"].values == 0), np.nan, kelvin)
    np.testing.assert_allclose(cube["ST-B10"].values, observed, rtol=1e-6)
    assert counts["observed"] == np.isfinite(observed).sum()
    check_products(tmp_path / "out", cube["ST-B10"])
    with rasterio.open(tmp_path / "out" / "geotiff" / "ST-B10" / "ST-B10.tif") as stack:
        assert stack.crs.to_epsg() == 32631
        assert stack.descriptions == tuple(str(time)[:19] for time in cube["time"].values)
        samples = stack.read(masked=True) * stack.scales[0] + stack.offsets[0]
    filled = opened(tmp_path / "out" / "filled" / "filled.zarr")["ST-B10"].values
    np.testing.assert_allclose(samples.filled(np.nan), filled, rtol=1e-6)


def test_carbon_monoxide(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], page: tuple[str, ...]
) -> None:
    with rasterio.open(data_folder / "stpconv_s5p_co" / "training" / "X_0_3_12.tif") as block:
        profile = {**block.profile, "count": 1}
        frames = block.read(masked=True)[:, :64, :64]
        profile |= {"height": 64, "width": 64}
    (tmp_path / "in").mkdir()
    days = np.datetime64("2021-01-01") + np.arange(len(frames))
    for day, frame in zip(days, frames, strict=True):
        with rasterio.open(tmp_path / "in" / f"S5P_{str(day).replace('-', '')}_CO.tif", "w", **profile) as file:
            file.write(frame.filled(profile["nodata"]), 1)
    do("s5p-co", tmp_path / "out", capsys, f"ingest.src={tmp_path / 'in'}", *page)
    cube = opened(tmp_path / "out" / "cube.zarr")["CO"]
    np.testing.assert_array_equal(cube.values, frames.filled(np.nan))
    check_products(tmp_path / "out", cube)
    check_frames(tmp_path / "out", "CO", 4326)


def test_sea_surface_temperature(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], page: tuple[str, ...]
) -> None:
    path = data_folder / "dineof_alboran_sst" / "alboranSST_small.nc"
    raw = xr.open_dataset(path)
    y, x = raw["SST"].dims[1:]
    raw = raw.isel({y: slice(60, 120), x: slice(80, 140)})
    west, east = sorted(raw[x].values[[0, -1]].tolist())
    south, north = sorted(raw[y].values[[0, -1]].tolist())
    do("sst", tmp_path / "out", capsys, f"ingest.src={path}", f"ingest.bbox={west},{south},{east},{north}", *page)
    land = raw["mask"].values == 0
    cube = opened(tmp_path / "out" / "cube.zarr")
    np.testing.assert_array_equal(cube["SST"].values, raw["SST"].values)
    np.testing.assert_array_equal(cube["mask"].values, raw["mask"].values)
    check_products(tmp_path / "out", raw["SST"], domain=~land)
    filled = opened(tmp_path / "out" / "filled" / "filled.zarr")
    np.testing.assert_array_equal(filled["SST"].values[:, land], raw["SST"].values[:, land])
    check_frames(tmp_path / "out", "SST", 4326)


# --- a made-up one -----------------------------------------------------------------------------------------------


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A folder with a raster a date, with gaps, and a layer that tells which."""
    rng = np.random.default_rng(5)
    folder = tmp_path / "in"
    folder.mkdir()
    profile = {"driver": "GTiff", "count": 1, "height": 24, "width": 32, "crs": "EPSG:32633"}
    profile["transform"] = from_origin(500_000, 5_000_000, 10, 10)
    for day in range(1, 7):
        values = rng.normal(0.5, 0.1, (24, 32)).astype("float32")
        classes = rng.choice([4, 9], p=[0.7, 0.3], size=(24, 32)).astype("uint8")
        for name, samples in (("NDVI", values), ("SCL", classes)):
            with rasterio.open(folder / f"2024060{day}_{name}.tif", "w", dtype=samples.dtype, **profile) as file:
                file.write(samples, 1)
    return folder


OWN = """\
ingest:
  src: in
gaps: on
fill:
  method: linear
  var: NDVI
  workers: 1
mosaic:
  layout: stack
"""


def test_a_run_makes_what_its_printed_command_lines_make(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(OWN)
    words = ["own.yaml", "--set", "ingest.qa=s2-scl"]
    assert run(["run", *words, "-o", "typed", "--dry-run", "--json"]) == 0
    for row in json.loads(capsys.readouterr().out):
        Path("typed").mkdir(exist_ok=True)
        assert run(row["command"][1:]) == 0
    assert run(["run", *words, "-o", "ran"]) == 0
    capsys.readouterr()

    def product(folder: str, name: str) -> bytes:
        return (Path(folder) / name).read_bytes()

    for name in ("geotiff/NDVI/NDVI.tif", "gaps/NDVI_gaps.tif"):
        assert product("ran", name) == product("typed", name)
    xr.testing.assert_identical(opened(Path("ran/cube.zarr")).load(), opened(Path("typed/cube.zarr")).load())

    # A changed option: the fill and the mosaic again, nothing of the older one left, even if it was interrupted.
    record = Path("ran/stages.json")
    told = json.loads(record.read_text())
    told["stages"]["mosaic"] = {**told["stages"]["mosaic"], "state": "begun", "products": []}
    record.write_text(json.dumps(told))
    before = product("ran", "gaps/gaps.json")
    again = ["run", *words, "-o", "ran", "--set", "fill.time=2024-06-02/", "--set", "mosaic.layout=frames"]
    assert run([*again, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["stage"] for row in report["stages"] if not row["already"]] == ["fill", "mosaic"]
    assert product("ran", "gaps/gaps.json") == before
    values = sorted(path.name for path in Path("ran/geotiff/NDVI").glob("NDVI_2*.tif"))
    assert values == [f"NDVI_2024060{day}T000000.tif" for day in range(2, 7)]
    assert not Path("ran/geotiff/NDVI/NDVI.tif").exists()


def test_a_layer_that_no_rule_heeds_is_said(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(OWN)
    off = [word for stage in ("gaps", "fill", "mosaic") for word in ("--set", f"{stage}=off")]
    assert run(["run", "own.yaml", *off]) == 0
    assert "warning: SCL tells which samples to trust: --qa s2-scl" in capsys.readouterr().err
    assert run(["run", "own.yaml", *off, "--set", "ingest.qa=s2-scl"]) == 0
    assert "tells which samples" not in capsys.readouterr().err


def test_what_is_not_the_runs_own_is_never_replaced(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(OWN)
    assert run(["ingest", "in", "-o", "mine.zarr", "--var", "NDVI"]) == 0
    Path("own.run").mkdir()
    Path("mine.zarr").rename("own.run/cube.zarr")
    before = sorted(path.stat().st_mtime_ns for path in Path("own.run").rglob("*"))
    assert run(["run", "own.yaml"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "own.yaml, line 1: ingest: own.run/cube.zarr exists" in error
    assert error.endswith("stpipe run replaces nothing but what stages.json in its folder lists")
    assert sorted(path.stat().st_mtime_ns for path in Path("own.run").rglob("*")) == before


def test_what_a_verb_refuses_is_found_in_the_file(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(OWN.replace("NDVI", "NDWI").replace("gaps: on\n", ""))
    assert run(["run", "own.yaml"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("stpipe: error: own.yaml, line 3: fill: ")
    assert "has no variable 'NDWI'" in error


def test_an_interrupted_fill_goes_on(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stpipe.cli import scene_run

    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(OWN)
    real = scene_run._quicklook

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scene_run, "_quicklook", stop)
    assert run(["run", "own.yaml"]) == 1
    assert "own.yaml, line 4: fill: interrupted; what is done is kept" in capsys.readouterr().err
    made = Path("own.run/filled/filled.zarr/zarr.json").stat().st_mtime_ns
    monkeypatch.setattr(scene_run, "_quicklook", real)
    assert run(["run", "own.yaml", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["already"] for row in report["stages"]] == [True, True, False, False]
    assert "--overwrite" not in report["stages"][2]["command"]
    assert Path("own.run/filled/filled.zarr/zarr.json").stat().st_mtime_ns == made
