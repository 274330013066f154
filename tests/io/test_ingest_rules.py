"""Rules, composites and periods at the door: slow loops over pixels are the oracle."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.vrt import WarpedVRT
from scipy.ndimage import binary_dilation

from stpipe.cli.trust import parse_trust
from stpipe.core.compositing import COMPOSITES, Period
from stpipe.core.windows import Window
from stpipe.errors import CubeError, OptionError
from stpipe.io.cube import open_cube, open_source
from stpipe.io.indices import IndexRequest
from stpipe.io.ingest import plan as planning
from stpipe.io.ingest import write as ingest_write
from stpipe.io.ingest.options import IngestOptions
from stpipe.io.ingest.target import Target
from stpipe.io.ingest.write import summary, write_cube
from tests.io.ingest_sources import SHAPE, ingest, plan_ingest, raster

CLOUD = (3, 8, 9, 10)
RULE = ("SCL:3,8-10",)


def scenes(folder: Path, *, days: int = 3, sensors: str = "AB", **profile: Any) -> dict[str, np.ndarray]:
    """Write a day's scenes of some sensors, and return each by variable, as (day, sensor, y, x)."""
    rng = np.random.default_rng(11)
    red = rng.integers(1, 500, (days, len(sensors), *SHAPE)).astype("int16")
    scl = rng.integers(0, 12, red.shape).astype("uint8")
    red[rng.random(red.shape) < 0.1] = -9
    for day in range(days):
        for number, sensor in enumerate(sensors):
            for name, stack, nodata in (("red", red, -9), ("SCL", scl, 0)):
                path = folder / f"2020010{day + 1}_{sensor}_{name}.tif"
                raster(path, stack[day, number], **{"nodata": nodata} | profile)
    return {"red": red, "SCL": scl}


def disc(radius: int) -> np.ndarray:
    """Return a digital disc."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return y**2 + x**2 <= radius**2


def is_clear(scl: np.ndarray, radius: int = 0) -> np.ndarray:
    """Return where a scene is clear, plainly."""
    cloud = np.isin(scl, CLOUD)
    return (scl != 0) & ~(binary_dilation(cloud, disc(radius)) if radius else cloud)


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_what_rules_drop_is_gap_and_the_quality_stays(tmp_path: Path, radius: int) -> None:
    stacks = scenes(tmp_path / "in", sensors="A")
    cube = ingest(tmp_path / "in", output=tmp_path / "c.zarr", rules=RULE, buffer=radius)
    for day in range(3):
        clear = is_clear(stacks["SCL"][day, 0], radius)
        np.testing.assert_array_equal(cube["red"].values[day], np.where(clear, stacks["red"][day, 0], -9))
    np.testing.assert_array_equal(cube["SCL"].values, stacks["SCL"][:, 0])
    typed = "--drop SCL:3,8-10" + (f" --buffer {radius}" if radius else "")
    assert cube["red"].attrs["quality_rules"] == typed
    assert "quality_rules" not in cube["SCL"].attrs


def test_pieces_have_no_say_in_what_a_buffer_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes(tmp_path / "in")
    options: dict[str, Any] = {"rules": RULE, "buffer": 2, "same_day": "mean", "chunks": (2, 7, 6)}
    plan = plan_ingest([str(tmp_path / "in")], **options)
    whole = write_cube(plan, tmp_path / "a.zarr")
    monkeypatch.setattr(ingest_write, "BUFFER_BYTES", 1)
    pieces = write_cube(plan, tmp_path / "b.zarr")
    with (
        xr.open_zarr(tmp_path / "a.zarr", consolidated=False) as a,
        xr.open_zarr(tmp_path / "b.zarr", consolidated=False) as b,
    ):
        xr.testing.assert_identical(a.load(), b.load())
    np.testing.assert_array_equal(whole.matches, pieces.matches)
    assert (whole.observed, whole.dropped) == (pieces.observed, pieces.dropped)
    assert whole.matches[0, 1] == np.count_nonzero(scenes(tmp_path / "again")["SCL"])


@pytest.mark.parametrize("how", COMPOSITES)
def test_a_day_is_made_of_what_is_clear_in_its_scenes(tmp_path: Path, how: Any) -> None:
    stacks = scenes(tmp_path / "in", sensors="ABC")
    cube = ingest(tmp_path / "in", output=tmp_path / "c.zarr", rules=RULE, same_day=how)
    assert cube["red"].shape == (3, *SHAPE)
    for day in range(3):
        red, scl = stacks["red"][day], stacks["SCL"][day]
        clear = np.array([is_clear(one) for one in scl])
        order = list(range(3))
        if how == "least-cloud":
            order.sort(key=lambda at: -int((clear[at] & (red[at] != -9)).sum()))
        if how == "last":
            order.reverse()
        for y, x in np.ndindex(SHAPE):
            good = [int(red[at, y, x]) for at in order if clear[at, y, x] and red[at, y, x] != -9]
            averages = {"mean": np.mean, "median": np.median}
            expected = np.rint(averages[how](good)) if good and how in averages else (good or [-9])[0]
            assert cube["red"].values[day, y, x] == expected
            codes = [int(scl[at, y, x]) for at in order if clear[at, y, x]]
            codes += [int(scl[at, y, x]) for at in order if scl[at, y, x] != 0]
            assert cube["SCL"].values[day, y, x] == (codes or [0])[0]


@pytest.mark.parametrize("how", ["first", "last", "least-cloud", "mean"])
def test_rules_on_reading_agree_with_rules_at_the_door(tmp_path: Path, how: Any) -> None:
    scenes(tmp_path / "in")
    ingest(tmp_path / "in", output=tmp_path / "c.zarr", rules=RULE, same_day=how)
    cube = open_source(tmp_path / "c.zarr", variables=["red"], trust=parse_trust([], [], RULE))
    stored = cube.reader().read("red", Window.of(cube.extent))
    trusted = cube.reader().read_trusted(Window.of(cube.extent))
    assert trusted is not None
    assert not (stored[~trusted] != -9).any()
    assert (stored != -9).any()


def test_quality_is_never_averaged_even_without_rules(tmp_path: Path) -> None:
    stacks = scenes(tmp_path / "in")
    cube = ingest(tmp_path / "in", output=tmp_path / "c.zarr", same_day="mean")
    first, second = stacks["SCL"][:, 0], stacks["SCL"][:, 1]
    np.testing.assert_array_equal(cube["SCL"].values, np.where(first != 0, first, second))


def test_quality_is_warped_by_the_nearest_pixel(tmp_path: Path) -> None:
    stacks = scenes(tmp_path / "in", sensors="A", days=1)
    cube = ingest(tmp_path / "in", output=tmp_path / "c.zarr", resolution=5, resampling="bilinear")
    doubled = stacks["SCL"][0, 0].repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(cube["SCL"].values[0], doubled)
    assert not np.isin(cube["red"].values, stacks["red"]).all()


def test_integers_need_a_nodata_to_lose_samples(tmp_path: Path) -> None:
    stacks = scenes(tmp_path / "in", sensors="A", nodata=None)
    with pytest.raises(CubeError, match=r"'red' loses samples to rules, and its type int16 has no nodata.*red=VALUE"):
        plan_ingest([str(tmp_path / "in")], rules=RULE)
    cube = ingest(tmp_path / "in", output=tmp_path / "c.zarr", rules=RULE, nodata=-1)
    kept = ~np.isin(stacks["SCL"][:, 0], CLOUD)
    np.testing.assert_array_equal(cube["red"].values, np.where(kept, stacks["red"][:, 0], -1))
    assert "_FillValue" not in cube["SCL"].attrs
    only = ingest(tmp_path / "in", output=tmp_path / "d.zarr", rules=RULE, nodata_of={"red": -2})
    assert only["red"].attrs["_FillValue"] == -2


def test_quality_that_is_absent_is_the_products_own_fill(tmp_path: Path) -> None:
    for name, dtype in (("SCL", "uint8"), ("QA_PIXEL", "uint16"), ("Fmask", "uint8")):
        raster(tmp_path / "in" / f"20200101_{name}.tif", np.full(SHAPE, 4, dtype))
    raster(tmp_path / "in" / "20200102_red.tif", nodata=0)
    cube = ingest(tmp_path / "in", output=tmp_path / "c.zarr")
    assert [int(cube[name].values[1, 0, 0]) for name in ("SCL", "QA_PIXEL", "Fmask")] == [0, 1, 255]
    assert (cube["SCL"].values[0] == 4).all()
    raster(tmp_path / "in" / "20200101_codes.tif", np.full(SHAPE, 4, "uint8"))
    with pytest.raises(CubeError, match=r"'codes' has no file on 1 of 2 dates \(2020-01-02\).*--nodata codes=VALUE"):
        plan_ingest([str(tmp_path / "in")])


def test_a_scene_without_its_quality_is_refused(tmp_path: Path) -> None:
    scenes(tmp_path / "in")
    (tmp_path / "in" / "20200102_B_SCL.tif").unlink()
    with pytest.raises(
        CubeError,
        match=r"--drop SCL:3,8-10: 1 of 6 scenes of variable 'red' have no SCL beside them, such as "
        r".*20200102_B_red\.tif \(2020-01-02\)",
    ):
        plan_ingest([str(tmp_path / "in")], rules=RULE, same_day="first")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("SLC:3", r"the series has no variable 'SLC' .*did you mean 'SCL'\? it has SCL, red"),
        ("SCL:bits=9", "bit 9 lies beyond SCL, whose type uint8 has bits 0 to 7"),
    ],
)
def test_rules_that_can_not_be_tested_are_refused(tmp_path: Path, rule: str, message: str) -> None:
    scenes(tmp_path / "in", sensors="A")
    with pytest.raises(OptionError, match=message):
        plan_ingest([str(tmp_path / "in")], rules=(rule,))


def test_a_rule_that_matches_nothing_is_said_aloud(tmp_path: Path) -> None:
    scenes(tmp_path / "in", sensors="A")
    plan = plan_ingest([str(tmp_path / "in")], rules=("SCL:77",))
    tally = write_cube(plan, tmp_path / "c.zarr")
    result = summary(plan, tmp_path / "c.zarr", tally)
    assert "--drop SCL:77 matches none of" in result["warnings"][-1]
    assert result["variables"]["red"]["dropped"] > 0  # where SCL itself is nodata
    assert result["rules"] == "--drop SCL:77"


def test_the_rules_of_a_product_are_counted_each(tmp_path: Path) -> None:
    stacks = scenes(tmp_path / "in", sensors="A")
    options = IngestOptions(trust=parse_trust(("s2-scl",), (), (), 0))
    plan = planning.plan_ingest([str(tmp_path / "in")], options)
    tally = write_cube(plan, tmp_path / "c.zarr")
    known = int(np.count_nonzero(stacks["SCL"]))
    cloud = int(np.isin(stacks["SCL"], (1, 3, 8, 9, 10, 11)).sum())
    assert tally.matches.tolist() == [[0, known], [cloud, known]]
    assert summary(plan, tmp_path / "c.zarr", tally)["warnings"] == []


# --- periods -----------------------------------------------------------------------------------------------------


def test_periods_are_composites_of_their_scenes(tmp_path: Path) -> None:
    paths = [tmp_path / "in" / f"202001{day:02d}_red.tif" for day in (1, 4, 9, 12, 31)]
    stack = [raster(path, seed=number, nodata=0)[0] for number, path in enumerate(paths)]
    cube = ingest(tmp_path / "in", output=tmp_path / "c.zarr", every=Period.parse("10D"), composite="median")
    assert [str(time)[:10] for time in open_source(tmp_path / "c.zarr").times] == [
        "2020-01-01",
        "2020-01-11",
        "2020-01-31",
    ]
    np.testing.assert_array_equal(cube["red"].values[0], np.rint(np.median(stack[:3], axis=0)))
    np.testing.assert_array_equal(cube["red"].values[1:], stack[3:])
    assert cube.attrs["comment"] == "each frame is the median of 10 days from its date on"
    every = plan_ingest([str(tmp_path / "in")], every=Period.parse("10D"), empty_periods=True)
    assert [time.day for time in every.times] == [1, 11, 21, 31]
    full = ingest(tmp_path / "in", output=tmp_path / "d.zarr", every=Period.parse("10D"), empty_periods=True)
    assert (full["red"].values[2] == 0).all()


def test_periods_are_counted_from_the_start_that_is_asked_for(tmp_path: Path) -> None:
    for day in (4, 5, 9, 20):
        raster(tmp_path / "in" / f"202001{day:02d}_red.tif", nodata=0)
    plan = plan_ingest([str(tmp_path / "in")], every=Period.parse("1W"), time=("2020-01-01", "2020-01-19"))
    assert plan.times == (datetime(2020, 1, 1), datetime(2020, 1, 8))  # noqa: DTZ001
    with pytest.raises(CubeError, match=r"no frame lies in 2021/\.\.; the series reaches from 2020-01-04"):
        plan_ingest([str(tmp_path / "in")], time=("2021", None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": Period(days=5), "same_day": "first"}, "leave out --same-day"),
        ({"composite": "mean"}, "--composite says what to make of a period's scenes; give its length with --every"),
        ({"empty_periods": True}, "--empty-periods is about periods"),
        ({"drop_bands": True}, "leaves nothing to write without an --index"),
        ({"variables": ("blue",)}, "--var: there is no variable 'blue'; there are SCL, red"),
        ({"nodata_of": {"blue": 1.0}}, "--nodata: there is no variable 'blue'"),
        ({"same_day": "best"}, "--same-day is one of refuse, first, last, mean, median, least-cloud"),
        ({"composite": "best"}, "--composite is one of first"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    scenes(tmp_path / "in", sensors="A", days=1)
    with pytest.raises(OptionError, match=message):
        plan_ingest([str(tmp_path / "in")], **options)


# --- indices -----------------------------------------------------------------------------------------------------


def test_an_index_says_what_its_bands_lost(tmp_path: Path) -> None:
    scenes(tmp_path / "in", sensors="A")
    for path in sorted((tmp_path / "in").glob("*_red.tif")):
        raster(path.with_name(path.name.replace("red", "nir")), seed=1, nodata=0)
    options = IngestOptions(trust=parse_trust([], [], RULE), variables=("ndvi",), indices=(IndexRequest.parse("ndvi"),))
    plan = planning.plan_ingest([str(tmp_path / "in")], options)
    tally = write_cube(plan, tmp_path / "c.zarr")
    told = summary(plan, tmp_path / "c.zarr", tally)["variables"]["ndvi"]["dropped"]
    assert told == max(tally.dropped[name] / tally.observed[name] for name in ("red", "nir"))
    assert told > 0.2


def test_an_index_is_computed_from_the_cubes_own_bands(tmp_path: Path) -> None:
    scenes(tmp_path / "in")
    for path in sorted((tmp_path / "in").glob("*_red.tif")):
        seed = int(path.name[7]) + ord(path.name[9])
        raster(path.with_name(path.name.replace("red", "nir")), seed=seed, nodata=0, scale=0.001)
    for path in sorted((tmp_path / "in").glob("*_red.tif")):
        with rasterio.open(path, "r+") as file:
            file.scales = (0.001,)
    options: dict[str, Any] = {"rules": RULE, "same_day": "mean", "indices": (IndexRequest.parse("ndvi"),)}
    cube = ingest(tmp_path / "in", output=tmp_path / "c.zarr", **options)
    bands = open_cube(tmp_path / "c.zarr")
    nir, red = bands["nir"].values.astype("float64"), bands["red"].values.astype("float64")
    np.testing.assert_allclose(cube["ndvi"].values, (nir - red) / (nir + red), rtol=1e-5, atol=1e-7)
    assert cube["ndvi"].attrs["long_name"] == "Normalized Difference Vegetation Index"
    assert cube["ndvi"].attrs["formula"] == "(N-R)/(N+R) with N=nir, R=red"
    assert np.isnan(cube["ndvi"].values).any()
    few = ingest(tmp_path / "in", output=tmp_path / "d.zarr", drop_bands=True, scaled_indices=True, **options)
    assert set(few.data_vars) - {"spatial_ref"} == {"SCL", "clear", "ndvi"}
    decoded = open_cube(tmp_path / "d.zarr")["ndvi"].values
    np.testing.assert_allclose(decoded, cube["ndvi"].values, atol=0.5001e-4)
    assert cube["ndvi"].attrs["quality_rules"] == cube["nir"].attrs["quality_rules"] == "--drop SCL:3,8-10"
    one = ingest(tmp_path / "in", output=tmp_path / "e.zarr", variables=("ndvi",), **options)
    assert set(one.data_vars) - {"spatial_ref"} == {"clear", "ndvi"}
    np.testing.assert_array_equal(one["ndvi"].values, cube["ndvi"].values)


# --- real data ---------------------------------------------------------------------------------------------------


def random_pixels(shape: tuple[int, ...], count: int = 200) -> np.ndarray:
    """Return random places in a cube."""
    return np.stack([np.random.default_rng(0).integers(0, length, count) for length in shape], axis=1)


def test_worldcereal_sentinel_2_under_its_scene_classification(data_folder: Path, tmp_path: Path) -> None:
    (fine,) = (data_folder / "worldcereal_s1_s2_l8").glob("S2_L2A_10m_*.nc")
    (coarse,) = (data_folder / "worldcereal_s1_s2_l8").glob("S2_L2A_20m_*.nc")

    trust = parse_trust(["s2-scl"], [], [], 0)
    options = IngestOptions(target=Target(align="first"), trust=trust, variables=("B08", "B11", "SCL"))
    write_cube(planning.plan_ingest([str(fine), str(coarse)], options), tmp_path / "c.zarr")
    cube = open_source(tmp_path / "c.zarr")
    reader = cube.reader()
    b08, b11, scl = (reader.read(name, Window.of(cube.extent)) for name in ("B08", "B11", "SCL"))
    raw10 = xr.open_dataset(fine, mask_and_scale=False)[["B08"]].load()
    raw20 = xr.open_dataset(coarse, mask_and_scale=False)[["B11", "SCL"]].load()
    for t, y, x in random_pixels(cube.extent):
        code = int(raw20["SCL"].values[t, y // 2, x // 2])
        assert scl[t, y, x] == code
        clear = code in {2, 4, 5, 6, 7}
        assert b08[t, y, x] == (raw10["B08"].values[t, y, x] if clear else 0)
        assert b11[t, y, x] == (raw20["B11"].values[t, y // 2, x // 2] if clear else 0)
    assert cube.variable("B08").scale_factor == pytest.approx(0.0001)


def test_ndvi_with_values_under_cloud(data_folder: Path, tmp_path: Path) -> None:
    patch = data_folder / "eolearn_testeopatch_s2"
    ndvi, cloud = np.load(patch / "NDVI.npy")[..., 0], np.load(patch / "CLM.npy")[..., 0].astype("uint8")
    stamps = [text.replace(":", "") for text in json.loads((patch / "timestamps.json").read_text())]
    for day, values, codes in zip(stamps, ndvi, cloud, strict=True):
        raster(tmp_path / "in" / f"{day}_NDVI.tif", values)
        raster(tmp_path / "in" / f"{day}_CLM.tif", codes)
    cube = ingest(tmp_path / "in", output=tmp_path / "c.zarr", rules=("CLM:1",))
    found = cube["NDVI"].values
    assert found.shape == ndvi.shape
    for t, y, x in random_pixels(found.shape):
        np.testing.assert_equal(found[t, y, x], np.nan if cloud[t, y, x] == 1 else ndvi[t, y, x])
    assert 0.05 < np.isnan(found).mean() < 0.9


def test_landsat_quality_bits_of_surface_temperature(data_folder: Path, tmp_path: Path) -> None:
    (path,) = (data_folder / "worldcereal_s1_s2_l8").glob("L8_L2-ST_10m_*.nc")
    options = IngestOptions(trust=parse_trust(["landsat-c2=QA-PIXEL"], [], [], 0))
    write_cube(planning.plan_ingest([str(path)], options), tmp_path / "c.zarr")
    found = xr.open_zarr(tmp_path / "c.zarr", consolidated=False, mask_and_scale=False).load()
    raw = xr.open_dataset(path, mask_and_scale=False).load()
    dropped = 0
    for t, y, x in random_pixels(found["ST-B10"].shape):
        bits = int(raw["QA-PIXEL"].values[t, y, x])
        bad = bits == 0 or any(bits >> bit & 1 for bit in (0, 1, 2, 3, 4, 5))
        expected = 0 if bad else raw["ST-B10"].values[t, y, x]
        assert found["ST-B10"].values[t, y, x] == expected
        assert found["QA-PIXEL"].values[t, y, x] == bits
        dropped += bad
    assert 0 < dropped < 200


def test_landsat_scenes_of_a_day_on_nineteen_grids(data_folder: Path, tmp_path: Path) -> None:

    names = [str(data_folder / "gdalcubes_l8_ny2018" / "*" / f"*_{band}.TIF") for band in ("B4", "BQA")]
    first = next(iter(sorted((data_folder / "gdalcubes_l8_ny2018").glob("*/*_B4.TIF"))))
    trust = parse_trust(["landsat-c1-bqa"], [], [], 0)
    options = IngestOptions(target=Target(align=str(first)), trust=trust, same_day="least-cloud", nodata=0)
    plan = planning.plan_ingest(names, options)
    write_cube(plan, tmp_path / "c.zarr")
    cube = xr.open_zarr(tmp_path / "c.zarr", consolidated=False, mask_and_scale=False)
    with rasterio.open(first) as target:
        shape = {"crs": target.crs, "transform": target.transform, "height": target.height, "width": target.width}
    seen = 0
    for number, frame in enumerate(plan.frames):
        pictures = []
        for scene in frame.scenes:
            view = {}
            for name in ("B4", "BQA"):
                with rasterio.open(scene.layers[name].path) as source:
                    fill = 0 if name == "B4" else 1
                    with WarpedVRT(source, src_nodata=fill, nodata=fill, **shape) as warped:
                        view[name] = warped.read(1)
            quality = view["BQA"]
            bad = ((quality & 1) > 0) | ((quality >> 4 & 1) > 0) | (quality >> 7 & 3 == 3) | (quality >> 9 & 3 == 3)
            bad |= quality >> 11 & 3 == 3
            pictures.append(np.where(bad, 0, view["B4"]))
        pictures.sort(key=lambda picture: -np.count_nonzero(picture))
        expected = pictures[0]
        for other in pictures[1:]:
            expected = np.where(expected == 0, other, expected)
        np.testing.assert_array_equal(cube["B4"].values[number], expected)
        seen += np.count_nonzero(expected)
    assert seen > 1000
    assert max(len(frame.scenes) for frame in plan.frames) == 2
