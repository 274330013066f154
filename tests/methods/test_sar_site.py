"""Infilling from radar on a real site, each step against slow loops over the very files.

The slow side reads the site's NetCDF files by itself and goes step by step as docs/sar.md says, pixel by pixel; of
stpipe it sees nothing. The other side is what a user types, or what the typed words call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.cli.main import run
from stpipe.core.crops import Crop, fill_crop, settled_on
from stpipe.core.windows import triple
from stpipe.io.cube import Cube, open_source
from stpipe.io.evaluate import read_crops
from stpipe.io.radar import open_radar
from stpipe.methods.sar.covariates import covariates, scene_mean, scene_sums
from stpipe.methods.sar.filler import SarFiller
from stpipe.methods.sar.options import RadarOptions, SarOptions
from stpipe.methods.sar.regression import fit, predict
from tests.methods.sar_oracle import Slow, slow_calibrate, slow_composite, slow_covariates, slow_smooth
from tests.methods.test_sar_filler import around, by_parts, part_of, tiles

pytestmark = pytest.mark.processes

TOP, LEFT, SIDE = 21, 21, 23
"""The part of the site that is looked at, in its pixels of 10 m: odd, so that it cuts pixels of 20 m in two."""

CLEAR = (2, 4, 5, 6, 7)
"""Classes of SCL that are neither fill, saturated, cloud, shadow, cirrus nor snow."""

WINDOW, LEAST, SHARE, CLOUDY = 12.0, 18, 0.5, 0.5
"""Days of the composites, clear dates of a regression, components kept, cloud share from which nothing is calibrated;
as docs/sar.md says them."""

SPLIT = "2018-06-01"
"""Dates before this are earlier, others later."""


# ---------------------------------------------------------------- the slow version, from the files on


@dataclass(frozen=True)
class Site:
    """What the files say of the part, and what the steps make of it, one after the other."""

    folder: Path

    def file(self, product: str) -> Path:
        (path,) = self.folder.glob(f"{product}_*.nc")
        return path

    def stored(self, product: str, name: str) -> np.ndarray:
        """The integers as they are in the file, all of the site."""
        with xr.open_dataset(self.file(product), mask_and_scale=False) as dataset:
            return np.asarray(dataset[name].values)

    def times(self, product: str) -> np.ndarray:
        with xr.open_dataset(self.file(product)) as dataset:
            return np.asarray(dataset["timestamp"].values).astype("datetime64[ns]")

    @cached_property
    def days(self) -> np.ndarray:
        """Of the frames, since the first of them."""
        times = self.times("S2_L2A_10m")
        return (times - times[0]) / np.timedelta64(1, "D")

    @cached_property
    def ndvi(self) -> np.ndarray:
        """Steps 1 and 2, NaN under clouds."""
        red, infrared = (self.stored("S2_L2A_10m", band).astype(np.float64) for band in ("B04", "B08"))
        classes = self.stored("S2_L2A_20m", "SCL")
        made = np.full((len(red), SIDE, SIDE), np.nan)
        for t, y, x in np.ndindex(made.shape):
            row, column = TOP + y, LEFT + x
            r, n = red[t, row, column], infrared[t, row, column]
            if r > 0 and n > 0 and classes[t, row // 2, column // 2] in CLEAR:  # zero is nodata in all three
                made[t, y, x] = (n - r) / (n + r)
        return made

    @cached_property
    def composites(self) -> list[np.ndarray]:
        """Step 3, of VV and VH."""
        product = "S1_GRD-ASCENDING_20m"
        days = (self.times(product) - self.times("S2_L2A_10m")[0]) / np.timedelta64(1, "D")
        near = (days >= self.days[0] - 20) & (days <= self.days[-1] + 20)
        made = []
        for name in ("VV", "VH"):
            images = np.array([on_fine_pixels(image) for image in self.stored(product, name)[near]])
            made.append(slow_composite(images, days[near], self.days, WINDOW))
        return made

    @cached_property
    def covariates(self) -> np.ndarray:
        """Steps 4 and 5, (8, t, pixel)."""
        return slow_covariates(self.composites).reshape(8, self.days.size, -1)

    def regression(self, chosen: np.ndarray) -> Slow:
        """Step 6, of some frames, and 7, of all."""
        values = self.ndvi.reshape(self.days.size, -1)
        return Slow.of(self.covariates, np.nan_to_num(values), np.isfinite(values) & chosen[:, None], LEAST)

    @cached_property
    def learned(self) -> Slow:
        """Of all frames."""
        return self.regression(np.ones(self.days.size, dtype=bool))

    def filled(self, predicted: np.ndarray, *, smoothing: bool = True, calibration: bool = True) -> np.ndarray:
        """Steps 8 to 10 on (t, pixel) of the last frames: (t, y, x), NaN where radar says nothing of a gap."""
        values = self.ndvi[-len(predicted) :].reshape(len(predicted), -1)
        clear = np.isfinite(values)
        made = slow_smooth(predicted, SHARE, None) if smoothing else predicted
        if calibration:
            inside = np.ones(values.shape[1], dtype=bool)
            made, stretched = slow_calibrate(made, np.nan_to_num(values), clear, inside, CLOUDY)
            assert 0.2 < stretched.mean() < 0.8
        return np.where(clear, values, made).reshape(-1, SIDE, SIDE)


def on_fine_pixels(stored: np.ndarray) -> np.ndarray:
    """An image of 20 m at the part's pixels of 10 m, in dB: power, weighted by how near the four pixels around are."""
    made = np.full((SIDE, SIDE), np.nan)
    for y, x in np.ndindex(made.shape):
        total = weight = 0.0
        for row, near_y in nearest_two(TOP + y):
            for column, near_x in nearest_two(LEFT + x):
                if row in range(len(stored)) and column in range(len(stored)):
                    integer = int(stored[row, column])
                    if integer != 0 and integer * 1e-4 > -40:  # nodata, and noise at an image's edge
                        total += near_y * near_x * 10 ** (integer * 1e-5)
                        weight += near_y * near_x
        if weight:
            made[y, x] = 10 * np.log10(total / weight)
    return made


def nearest_two(fine: int) -> list[tuple[int, float]]:
    """The coarse pixels whose centres lie around that of a fine one, and how much each counts."""
    own = fine // 2
    return [(own, 0.75), (own - 1 if fine % 2 == 0 else own + 1, 0.25)]


# ---------------------------------------------------------------- what stpipe makes of it


@pytest.fixture(scope="module")
def site(data_folder: Path) -> Site:
    return Site(data_folder / "worldcereal_s1_s2_l8")


def ingested(site: Site, path: Path, *words: str) -> Path:
    """Make the cube as a user does."""
    bands = [str(site.file(f"S2_L2A_{side}m")) for side in (10, 20)]
    with xr.open_dataset(bands[0]) as fine:
        x, y = fine["x"].values, fine["y"].values
    # A box of whole pixels, drawn in by a metre so that it touches no others.
    west, east = x[LEFT] - 4, x[LEFT + SIDE - 1] + 4
    south, north = y[TOP + SIDE - 1] - 4, y[TOP] + 4
    box = ["--bbox", f"{west},{south},{east},{north}", "--bbox-crs", "EPSG:32631"]
    more = ["--qa", "s2-scl", "--resolution", "10", "--index", "ndvi=B08,B04", "--drop-bands", *box, *words]
    assert run(["ingest", *bands, "-o", str(path), *more]) == 0
    return path


@pytest.fixture(scope="module")
def cube_path(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested(site, tmp_path_factory.mktemp("site") / "ndvi.zarr")


@pytest.fixture(scope="module")
def cube(cube_path: Path) -> Cube:
    return open_source(cube_path, variables=("ndvi",))


@pytest.fixture(scope="module")
def crop(site: Site, cube: Cube) -> Crop:
    """The cube with its radar, in its own units."""
    radar = open_radar([site.file("S1_GRD-ASCENDING_20m")], cube, RadarOptions())
    (found,), spread = read_crops(cube.reader(), cube.variables[0], cube.days, guides=radar)
    location = found.scale[0]
    return replace(found, values=np.where(found.valid, location + spread * found.values, 0).astype(np.float32))


def stored(folder: Path, name: str) -> np.ndarray:
    return np.asarray(zarr.open_group(str(folder), mode="r")[name][...])  # type: ignore[index]


def fill(site: Site, cube: Path, out: Path, *words: str) -> Path:
    """Fill a cube as a user does, and return the filled one."""
    typed = ["fill-scene", str(cube), "--var", "ndvi", "--method", "sar", "-o", str(out), "--workers", "1"]
    assert run([*typed, "--no-geotiff", "--guide", str(site.file("S1_GRD-ASCENDING_20m")), *words]) == 0
    return out / "filled.zarr"


def assert_near(made: np.ndarray, wanted: np.ndarray) -> None:
    """Compare what is filled; where the slow version has nothing, straight lines in time stand in."""
    there = np.isfinite(wanted)
    assert there.mean() > 0.95
    apart = np.abs(made[there] - wanted[there])
    # Percentiles are told from bins; where the covariates nearly say the same thing, slopes cancel out.
    assert (apart < 5e-4).mean() > 0.999
    assert apart.max() < 5e-3


# ---------------------------------------------------------------- step by step


def test_steps_1_and_2_make_ndvi_of_what_is_clear(site: Site, cube_path: Path) -> None:
    made = stored(cube_path, "ndvi")
    np.testing.assert_array_equal(np.isnan(made), np.isnan(site.ndvi))
    assert 0.3 < np.isnan(made).mean() < 0.7
    np.testing.assert_allclose(made, site.ndvi, rtol=1e-6, atol=1e-7)


def test_step_3_averages_the_images_around_each_date(site: Site, crop: Crop) -> None:
    assert list(crop.guides) == ["VV", "VH"]
    for made, wanted in zip(crop.guides.values(), site.composites, strict=True):
        assert np.isfinite(wanted).mean() > 0.99
        np.testing.assert_allclose(made, wanted, atol=2e-5)


def covariates_of(crop: Crop) -> np.ndarray:
    means = {name: scene_mean(scene_sums(frames)) for name, frames in crop.guides.items()}
    return covariates(crop.guides, means, (slice(0, SIDE), slice(0, SIDE))).reshape(8, len(crop.days), -1)


def test_steps_4_and_5_make_eight_covariates_without_speckle(site: Site, crop: Crop) -> None:
    np.testing.assert_allclose(covariates_of(crop), site.covariates, atol=5e-5)


def test_steps_6_and_7_regress_and_predict(site: Site, crop: Crop) -> None:
    fields, frames = covariates_of(crop), len(crop.days)
    made = fit(fields, crop.values.reshape(frames, -1), crop.valid.reshape(frames, -1), least=LEAST)
    fits = [one for one in site.learned.fits if one is not None]
    assert len(fits) == SIDE * SIDE
    # Outliers, and whether a ridge is needed, may be told otherwise where it is on a knife's edge.
    assert np.mean(made.clear == [one.kept for one in fits]) > 0.99
    assert np.mean(made.ridged == [one.ridged for one in fits]) > 0.99
    assert sum(one.used - one.kept for one in fits) > 500
    assert_near(predict(made.coefficients, fields), site.learned.predicted)
    same = (made.clear == [one.kept for one in fits]) & (made.ridged == [one.ridged for one in fits])
    np.testing.assert_allclose(made.spread[same], site.learned.spread[same], rtol=1e-3)


@pytest.mark.parametrize("calibration", [True, False], ids=["calibrated", "not calibrated"])
@pytest.mark.parametrize("smoothing", [True, False], ids=["smoothed", "not smoothed"])
def test_steps_8_to_10_smooth_and_calibrate_and_fill(
    site: Site, crop: Crop, *, smoothing: bool, calibration: bool
) -> None:
    options = SarOptions(smoothing=smoothing, calibration=calibration)
    made = fill_crop(SarFiller(groups=(("VV", "VH"),), options=options), crop)
    filled = np.where(crop.valid, crop.values, made.values)
    assert_near(filled, site.filled(site.learned.predicted, smoothing=smoothing, calibration=calibration))


# ---------------------------------------------------------------- as typed


def test_the_site_is_filled_as_by_the_slow_version_in_one_piece_and_in_blocks(
    site: Site, cube_path: Path, tmp_path: Path
) -> None:
    made = []
    for name, block in (("whole", "118,24,24"), ("blocks", "118,8,16")):
        filled = fill(site, cube_path, tmp_path / name, "--block", block)
        made.append([stored(filled, f"ndvi{end}") for end in ("", "_source")])
        seen = np.isfinite(site.ndvi)
        assert made[-1][0][seen].tobytes() == stored(cube_path, "ndvi")[seen].tobytes()
        wanted = site.filled(site.learned.predicted)
        np.testing.assert_array_equal(made[-1][1], np.where(seen, 1, np.where(np.isfinite(wanted), 2, 3)))
        assert_near(made[-1][0], wanted)
    report = json.loads((tmp_path / "blocks" / "run.json").read_text())
    assert report["blocks"]["with_gaps"] >= 6
    np.testing.assert_allclose(made[1][0], made[0][0], atol=1e-5)


@given(data=st.data())
@settings(max_examples=2)
def test_it_is_the_same_wherever_borders_fall(crop: Crop, data: st.DataObject) -> None:
    method = SarFiller(groups=(("VV", "VH"),))
    whole, extent = settled_on(method, crop), triple(crop.valid.shape)
    assert isinstance(whole, SarFiller)
    expected = fill_crop(method, crop)
    looked, filled = (tiles(data.draw(st.integers(9, SIDE)), data.draw(st.integers(9, SIDE)), extent) for _ in range(2))
    settled = by_parts(method, crop, looked)
    for tile in filled:
        made = settled.fill(part_of(crop, around(tile, settled.halo, extent), tile))
        own = tile.within(around(tile, settled.halo, extent)).slices
        np.testing.assert_allclose(made.values[own], expected.values[tile.slices], atol=1e-5)
        np.testing.assert_array_equal(made.fallback[own], expected.fallback[tile.slices])


def test_coefficients_of_earlier_dates_predict_later_ones(site: Site, tmp_path: Path) -> None:
    periods: dict[str, Sequence[str]] = {"earlier": ("--time", f"/{SPLIT}"), "later": ("--time", f"{SPLIT}/")}
    earlier, later = (ingested(site, tmp_path / f"{name}.zarr", *words) for name, words in periods.items())
    fill(site, earlier, tmp_path / "first")
    words = ("--coefficients", str(tmp_path / "first" / "coefficients.zarr"))
    times = site.times("S2_L2A_10m")
    before = times < np.datetime64(SPLIT)
    number = np.count_nonzero(~before)
    assert (stored(earlier, "ndvi").shape[0], stored(later, "ndvi").shape[0]) == (np.count_nonzero(before), number)
    assert number > 30
    predicted = site.regression(before).predicted[-number:]
    wanted = site.filled(predicted)
    filled = fill(site, later, tmp_path / "second", *words)
    made, source = (stored(filled, f"ndvi{end}") for end in ("", "_source"))
    assert_near(made, wanted)
    seen = np.isfinite(site.ndvi[-number:])
    np.testing.assert_array_equal(source, np.where(seen, 1, np.where(np.isfinite(wanted), 2, 3)))
    notes = json.loads((tmp_path / "second" / "run.json").read_text())["notes"]
    assert "radar VV, VH: 100.0% of the pixels have coefficients" in notes
    # A regression of all dates says something else: the later ones were not fitted to.
    other = site.filled(site.learned.predicted[-number:])
    assert np.nanmean(np.abs(other - wanted)[~seen]) > 0.01
