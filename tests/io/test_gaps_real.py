"""Real products from files to gap statistics, as typed: each against a loop that reads the original files by itself.

What is clear is decided here by plain arithmetic on the codes, bits and pixels of the files, without stpipe.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from numpy.typing import NDArray
from pyproj import Transformer

from stpipe.cli.main import run as stpipe_cli
from stpipe.core.gap_statistics import GapOptions
from tests.io.test_gaps import bands_of, hold_to_the_loop

PIXELS = 12
"""Random pixels of each comparison; the loop takes some milliseconds for each."""


class Truth(NamedTuple):
    """What the files say."""

    clear: NDArray[np.bool_]
    """(t, y, x), north up."""

    times: NDArray[np.datetime64]
    """(t,)."""


def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Any:
    """Type a command line that works, and return the JSON that it prints."""
    assert stpipe_cli([*map(str, words), "--json"]) == 0
    printed, said = capsys.readouterr()
    assert "error" not in said
    return json.loads(printed)


def site(data_folder: Path, product: str) -> Path:
    (path,) = (data_folder / "worldcereal_s1_s2_l8").glob(f"{product}_*.nc")
    return path


def stored(path: Path) -> xr.Dataset:
    """Return the integers that are in a file, its times decoded."""
    with xr.open_dataset(path, mask_and_scale=False) as dataset:
        loaded: xr.Dataset = dataset.load()
    return loaded.assign_coords(timestamp=pd.to_datetime(loaded.timestamp.values).values)


def hold_info_to(report: Any, variable: str, truth: Truth) -> None:
    """Compare what `info` says of a variable with what the files say."""
    said = report["variables"][variable]
    assert list(report["dims"].values()) == list(truth.clear.shape)
    assert said["gap_share"] == pytest.approx(1 - truth.clear.mean(), abs=1e-12)
    empty = truth.times[~truth.clear.any(axis=(1, 2))]
    assert np.array_equal(np.array(said["empty_dates"], dtype="M8[s]"), empty.astype("M8[s]"))
    assert said["full_frames"] == truth.clear.all(axis=(1, 2)).sum()


def hold_gaps_to(
    folder: Path, variable: str, truth: Truth, options: GapOptions | None = None, pixels: int = PIXELS
) -> None:
    """Compare random pixels with the loop, and the counts of all with the files."""
    found = bands_of(folder / f"{variable}_gaps.tif")
    hold_to_the_loop(found, truth.clear, truth.times, options or GapOptions(), pixels=pixels)
    if options is None:
        days = truth.times.astype("M8[D]")
        by_day = np.stack([truth.clear[days == day].any(axis=0) for day in np.unique(days)])
        assert np.array_equal(found["clear_count"], by_day.sum(axis=0))


# --- WorldCereal: Sentinel-2 at 10 and 20 m, with its scene classification at 20 m --------------------------------


def sentinel_2(data_folder: Path, *bands: str) -> Truth:
    """Return where bands of 10 m hold something, and no cloud, shadow, snow or fault is seen at 20 m."""
    fine, coarse = (stored(site(data_folder, f"S2_L2A_{side}m")) for side in (10, 20))
    assert np.array_equal(fine.timestamp.values, coarse.timestamp.values)
    # Both grids begin in one corner, so that a pixel of 20 m is four of 10 m.
    for name, axis in (("x", fine.x), ("y", fine.y)):
        assert np.allclose(axis.values.reshape(-1, 2).mean(axis=1), coarse[name].values)
    classes = np.repeat(np.repeat(coarse.SCL.values, 2, axis=1), 2, axis=2)
    clear = np.array([2, 4, 5, 6, 7])  # dark, vegetation, bare soil, water, unclassified
    seen = np.logical_and.reduce([fine[band].values != 0 for band in bands])
    return Truth(seen & np.isin(classes, clear), fine.timestamp.values)


def test_sentinel_2_and_its_classes(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rule is heeded on ingest, and then on reading; the classes lie on another grid than the bands."""
    files = [site(data_folder, f"S2_L2A_{side}m") for side in (10, 20)]
    cube, plain = tmp_path / "s2.zarr", tmp_path / "plain.zarr"
    words = ["--align", "first", "--index", "ndvi=N:B08,R:B04", "--var", "ndvi", "--var", "B04", "--var", "SCL"]
    made = told(capsys, "ingest", *files, "-o", cube, "--qa", "s2-scl", *words)
    assert made["warped_layers"] == 118
    both, red = sentinel_2(data_folder, "B04", "B08"), sentinel_2(data_folder, "B04")
    assert 0.4 < both.clear.mean() < 0.6
    report = told(capsys, "info", cube)
    hold_info_to(report, "ndvi", both)
    hold_info_to(report, "B04", red)
    told(capsys, "gaps", cube, "--var", "ndvi")
    hold_gaps_to(tmp_path / "s2.gaps", "ndvi", both)
    told(capsys, "ingest", *files, "-o", plain, *words)
    hold_info_to(told(capsys, "info", plain, "--qa", "s2-scl"), "B04", red)
    told(capsys, "gaps", plain, "--qa", "s2-scl", "--var", "ndvi", "--var", "B04")
    for variable in ("ndvi", "B04"):
        hold_gaps_to(tmp_path / "plain.gaps", variable, both if variable == "ndvi" else red)
    words = ["--by", "season", "--percentiles", "10,90", "--boundaries", "include"]
    told(capsys, "gaps", plain, "--qa", "s2-scl", "--var", "ndvi", "-o", tmp_path / "seasons", *words)
    options = GapOptions(by="season", percentiles=(10, 90), boundaries="include")
    hold_gaps_to(tmp_path / "seasons", "ndvi", both, options, pixels=4)


# --- the NDVI patch, with values under cloud, and HLS, with pairs of a day ----------------------------------------


def test_ndvi_with_values_under_cloud(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the cloud layer says what is clear; it is heeded on ingest, and then on reading."""
    folder = data_folder / "eolearn_testeopatch_s2"
    ndvi, clouds = (np.load(folder / f"{name}.npy").squeeze() for name in ("NDVI", "CLM"))
    times = np.array([text.rstrip("Z") for text in json.loads((folder / "timestamps.json").read_text())], "M8[ns]")
    dims = ("time", "y", "x")
    variables = {"ndvi": (dims, ndvi.astype(np.float32)), "clm": (dims, clouds.astype(np.uint8))}
    place = {"y": 5e6 - 10.0 * np.arange(ndvi.shape[1]), "x": 5e5 + 10.0 * np.arange(ndvi.shape[2])}
    dataset = xr.Dataset(variables, {"time": times, **place})
    for name in ("y", "x"):
        dataset[name].attrs = {"standard_name": f"projection_{name}_coordinate", "units": "m"}
    dataset.to_netcdf(tmp_path / "patch.nc")
    truth = Truth(np.isfinite(ndvi) & (clouds == 0), times)
    assert truth.clear.mean() < np.isfinite(ndvi).mean() - 0.1
    masked, plain = tmp_path / "masked.zarr", tmp_path / "plain.zarr"
    told(capsys, "ingest", tmp_path / "patch.nc", "-o", masked, "--drop", "clm:1")
    hold_info_to(told(capsys, "info", masked), "ndvi", truth)
    told(capsys, "gaps", masked, "--var", "ndvi")
    hold_gaps_to(tmp_path / "masked.gaps", "ndvi", truth)
    told(capsys, "ingest", tmp_path / "patch.nc", "-o", plain)
    hold_info_to(told(capsys, "info", plain, "--drop", "clm:1"), "ndvi", truth)
    words = ["--drop", "clm:1", "--percentiles", "5,95", "--by", "year"]
    told(capsys, "gaps", plain, "--var", "ndvi", *words)
    hold_gaps_to(tmp_path / "plain.gaps", "ndvi", truth, GapOptions(percentiles=(5, 95), by="year"), pixels=4)


def harmonised(folder: Path, band: str) -> Truth:
    """Return where the scenes of Landsat and Sentinel-2 hold a number, by what their names say of the day."""
    clear, days = [], []
    for path in sorted(folder.glob(f"*{band}*.tif")):
        days.append(np.datetime64(pd.Timestamp(path.name[:8]), "ns"))
        with rasterio.open(path) as raster:
            clear.append(np.isfinite(raster.read(1)))
    order = np.argsort(days, kind="stable")
    return Truth(np.stack(clear)[order], np.array(days)[order])


def test_pairs_of_a_day_are_composited(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Landsat and Sentinel-2 passed on the same day three times; each day counts once."""
    folder, cube = data_folder / "hls_T15SWD_2023", tmp_path / "hls.zarr"
    truth = harmonised(folder, "B04")
    assert len(truth.times) == 33
    days = np.unique(truth.times)
    composite = np.stack([truth.clear[truth.times == day].any(axis=0) for day in days])
    made = told(capsys, "ingest", folder, "-o", cube, "--same-day", "mean")
    assert made["shape"][0] == len(days) == 30
    report = told(capsys, "info", cube)
    hold_info_to(report, "B04", Truth(composite, days))
    told(capsys, "gaps", cube, "--var", "B04")
    hold_gaps_to(tmp_path / "hls.gaps", "B04", truth)
    shares = json.loads((tmp_path / "hls.gaps" / "gaps.json").read_text())["variables"]["B04"]["by_date"]
    assert [row["clear_share"] for row in shares] == pytest.approx(composite.mean(axis=(1, 2)).tolist())


# --- WorldCereal: Landsat -----------------------------------------------------------------------------------------


def test_landsat_of_collection_1_and_pairs_of_a_day(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Negative reflectances are wrapped to 65 thousand and something; a range of values takes them out."""
    path, cube = site(data_folder, "L8_SR_10m"), tmp_path / "sr.zarr"
    dataset = stored(path)
    quality, red = dataset.pixel_qa.values, dataset.B04.values
    unclear = (quality & 1) | (quality >> 3 & 1) | (quality >> 4 & 1) | (quality >> 5 & 1) | ((quality >> 8 & 3) == 3)
    clear = (red != 0) & (quality != 0) & (unclear == 0)
    truth = Truth(clear, dataset.timestamp.values)
    days = truth.times.astype("M8[D]")
    assert len(np.unique(days)) == len(days) - 2
    told(capsys, "ingest", path, "-o", cube, "--var", "B04", "--var", "pixel_qa")
    hold_info_to(told(capsys, "info", cube, "--qa", "landsat-c1"), "B04", truth)
    report = told(capsys, "gaps", cube, "--qa", "landsat-c1")
    assert (report["frames"], report["dates"]) == (26, 24)
    hold_gaps_to(tmp_path / "sr.gaps", "B04", truth)
    inside = clear & (red <= 2000)
    assert 0.5 < inside.sum() / clear.sum() < 1
    told(capsys, "gaps", cube, "--qa", "landsat-c1", "--valid-range", "0,0.2", "-o", tmp_path / "dark")
    hold_gaps_to(tmp_path / "dark", "B04", Truth(inside, truth.times))


def test_landsat_of_collection_2(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dates are text in this file, and the layer's name has a dash where the product has none."""
    path, cube = site(data_folder, "L8_L2-ST_10m"), tmp_path / "st.zarr"
    dataset = stored(path)
    quality = dataset["QA-PIXEL"].values
    # Fill, dilated cloud, cirrus, cloud, shadow and snow are the six lowest bits.
    truth = Truth((dataset["ST-B10"].values != 0) & (quality % 64 == 0), dataset.timestamp.values)
    assert 0.2 < truth.clear.mean() < 0.3
    told(capsys, "ingest", path, "-o", cube, "--qa", "landsat-c2=QA-PIXEL")
    hold_info_to(told(capsys, "info", cube), "ST-B10", truth)
    told(capsys, "gaps", cube)
    hold_gaps_to(tmp_path / "st.gaps", "ST-B10", truth)
    told(capsys, "gaps", path, "--qa", "landsat-c2", "-o", tmp_path / "file", "--by", "year")
    hold_gaps_to(tmp_path / "file", "ST-B10", truth, GapOptions(by="year"), pixels=4)


# --- 19 Landsat scenes on 19 grids --------------------------------------------------------------------------------


def scenes_under(
    folder: Path, x: NDArray[np.float64], y: NDArray[np.float64], push: tuple[float, float] = (0.0, 0.0)
) -> Truth:
    """Return where scenes are clear at points (row, column) of their CRS in metres, pushed by parts of a pixel."""
    clear, days = [], []
    for path in sorted(folder.glob("*/*_BQA.TIF")):
        with rasterio.open(path) as raster:
            quality, (a, _, west, _, e, north) = raster.read(1), raster.transform[:6]
        with rasterio.open(path.with_name(path.name.replace("BQA", "B4"))) as raster:
            red = raster.read(1)
        column, row = np.floor((x - west) / a + push[0]).astype(int), np.floor((y - north) / e + push[1]).astype(int)
        inside = (column >= 0) & (column < red.shape[1]) & (row >= 0) & (row < red.shape[0])
        at = np.where(inside, row, 0), np.where(inside, column, 0)
        code = quality[at]
        likely = ((code >> 7 & 3) == 3) | ((code >> 9 & 3) == 3) | ((code >> 11 & 3) == 3)  # shadow, snow, cirrus
        clear.append(inside & (red[at] != 0) & (code & 1 == 0) & (code >> 4 & 1 == 0) & ~likely)
        days.append(np.datetime64(pd.Timestamp(path.parent.name.split("_")[3]), "ns"))
    order = np.argsort(days, kind="stable")
    return Truth(np.stack(clear)[order], np.array(days)[order])


@pytest.mark.parametrize(
    ("words", "shape", "exact"),
    [
        (["--align", "first"], (77, 76), True),
        (["--crs", "EPSG:32618", "--resolution", "3000"], (133, 123), True),
        (["--crs", "EPSG:4326", "--resolution", "0.05", "--bbox=-75,40,-73,42"], (40, 40), False),
    ],
    ids=["on the first grid", "on a grid of its own", "in degrees"],
)
def test_landsat_scenes_on_19_grids(
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: Sequence[str],
    shape: tuple[int, int],
    exact: bool,
) -> None:
    """Two paths were seen on the same day twice: what one scene lacks is taken from the other."""
    folder, cube = data_folder / "gdalcubes_l8_ny2018", tmp_path / "ny.zarr"
    rest = ["--same-day", "first", "--nodata", "0", "--qa", "landsat-c1-bqa", "--var", "B4", *words]
    made = told(capsys, "ingest", folder / "*" / "*_B4.TIF", folder / "*" / "*_BQA.TIF", "-o", cube, *rest)
    assert (made["files"], made["shape"]) == (38, [17, *shape])
    told(capsys, "gaps", cube)
    with rasterio.open(tmp_path / "ny.gaps" / "B4_gaps.tif") as raster:
        rows, columns = np.indices(raster.shape)
        xs, ys = raster.transform @ (columns + 0.5, rows + 0.5)
        crs = raster.crs
    moved = Transformer.from_crs(crs.to_wkt(), "EPSG:32618", always_xy=True).transform(xs, ys)
    truth = scenes_under(folder, *moved)
    if exact:  # as a warp within one CRS is
        days = np.unique(truth.times)
        frames = np.stack([truth.clear[truth.times == day].any(axis=0) for day in days])
        hold_info_to(told(capsys, "info", cube), "B4", Truth(frames, days))
        hold_gaps_to(tmp_path / "ny.gaps", "B4", truth)
        return
    # GDAL may be wrong by an eighth of a pixel: what hangs on that is left out.
    pushes = [(dx, dy) for dx in (-0.13, 0.13) for dy in (-0.13, 0.13)]
    near = [scenes_under(folder, *moved, push).clear == truth.clear for push in pushes]
    sure = np.logical_and.reduce(near).all(axis=0)
    assert np.count_nonzero(sure) > 100
    picked = {name: band[sure][None] for name, band in bands_of(tmp_path / "ny.gaps" / "B4_gaps.tif").items()}
    hold_to_the_loop(picked, truth.clear[:, sure][:, None], truth.times, GapOptions(), pixels=PIXELS)
