"""Rules on what to trust, heeded on reading: xarray's own `where` is the oracle."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stpipe
from stpipe.core.plan import make_plan
from stpipe.core.qa_products import parse_trust
from stpipe.core.samples import physical
from stpipe.core.trust import trusted
from stpipe.core.windows import Window
from stpipe.errors import CubeError, OptionError
from stpipe.io.cube import open_cube, open_source
from stpipe.io.fillable import open_fillable
from stpipe.io.inspection import inspect_cube
from stpipe.io.training_data import gather, open_sources, split_sources
from stpipe.methods import make_filler

EXTENT = (6, 20, 24)


def make(frames: int = EXTENT[0], **encoding: Any) -> xr.Dataset:
    """Return a cube with values under cloud, a scene classification and a quality value."""
    rng = np.random.default_rng(0)
    t, y, x = (np.arange(n) for n in (frames, *EXTENT[1:]))
    scl = np.kron(rng.choice([0, 3, 4, 4, 4, 5, 8], (frames, 5, 6)), np.ones((1, 4, 4))).astype("uint8")
    values = np.sin(y / 5)[:, None] + np.cos(x / 7) + 0.1 * t[:, None, None]
    values[scl == 8] += 5  # a cloud is bright
    cube = xr.Dataset(
        {
            "ndvi": (("time", "y", "x"), values.astype("float32"), {"units": "1"}),
            "SCL": (("time", "y", "x"), scl),
            "qa_value": (("time", "y", "x"), rng.integers(0, 101, scl.shape) / 100),
            "coarse": (("time", "y20", "x20"), scl[:, ::2, ::2]),
            "land": (("y", "x"), np.ones(EXTENT[1:], dtype="uint8")),
        },
        coords={
            "time": np.datetime64("2024-05-01", "ns") + 5 * t * np.timedelta64(1, "D"),
            "y": 5_000_000 - 10.0 * y,
            "x": 600_000 + 10.0 * x,
            "y20": ("y20", 5_000_000 - 20.0 * np.arange(10), {"axis": "Y"}),
            "x20": ("x20", 600_000 + 20.0 * np.arange(12), {"axis": "X"}),
        },
    )
    cube["ndvi"].encoding = {"chunks": (3, 8, 10)}
    cube["SCL"].encoding = {"chunks": (2, 20, 7), "_FillValue": 0, "dtype": "uint8"} | encoding
    cube["qa_value"].encoding = {"dtype": "uint8", "scale_factor": 0.01, "_FillValue": 255}
    return cube


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cubes") / "cube.zarr"
    make().to_zarr(place, zarr_format=3, consolidated=False)
    return place


CLEAR = (4, 5)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.integers(0, 6))
def test_any_window_gives_the_same_answer(path: Path, data: st.DataObject, buffer: int) -> None:
    cube = open_source(path, variables=["ndvi"], trust=parse_trust("s2-scl", keep="qa_value>=0.1", buffer=buffer))
    reader = pickle.loads(pickle.dumps(cube.reader(["ndvi"])))
    whole = reader.read_trusted(Window.of(EXTENT))
    start = tuple(data.draw(st.integers(0, n - 1)) for n in EXTENT)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, EXTENT, strict=True))
    window = Window(start, stop)  # type: ignore[arg-type]
    part = reader.read_trusted(window)
    np.testing.assert_array_equal(part, whole[window.slices])
    assert part.any() or not whole[window.slices].any()
    if not buffer:
        raw = make()
        expected = np.isin(raw.SCL, CLEAR) & (np.rint(100 * raw.qa_value) >= 10)
        np.testing.assert_array_equal(whole, expected)


def test_files_and_objects_are_judged_alike(path: Path) -> None:
    rules: dict[str, Any] = {"qa": "s2-scl", "keep": ["qa_value>0.2"], "buffer": 2}
    whole = Window.of(EXTENT)
    expected = open_source(path, variables=["ndvi"], trust=parse_trust(**rules)).reader().read_judged(whole)
    assert expected is not None
    decoded = xr.open_zarr(path, consolidated=False)
    assert decoded["SCL"].dtype.kind == "f"  # xarray made floats of the codes, for they have a nodata value
    from stpipe.io.objects import understand

    for obj in (decoded, decoded.load(), decoded.transpose("x", "time", ...)):
        found = understand(obj, variables=["ndvi"], trust=parse_trust(**rules)).reader("ndvi").read_judged(whole)
        assert found is not None
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_codes_that_lost_bits_on_the_way_are_refused(path: Path) -> None:
    decoded = xr.open_zarr(path, consolidated=False).load()
    wide = decoded["SCL"].astype(np.float64).copy()
    wide.encoding = {"dtype": np.dtype("uint64")}
    trust = parse_trust(drop="SCL:bits=3")
    small = decoded.assign(SCL=wide)
    from stpipe.io.objects import understand

    found = understand(small, variables=["ndvi"], trust=trust).reader("ndvi").read_trusted(Window.of(EXTENT))
    assert found is not None  # small codes are exact
    wide[0, 0, 0] = 2.0**60
    with pytest.raises(CubeError, match="has lost bits of them; open it with mask_and_scale=False"):
        understand(small, variables=["ndvi"], trust=trust).reader("ndvi").read_trusted(Window.of(EXTENT))


def test_a_period_and_an_area_are_judged_as_in_the_whole(path: Path) -> None:
    trust = parse_trust("s2-scl", buffer=3)
    whole = open_source(path, variables=["ndvi"], trust=trust).reader().read_trusted(Window.of(EXTENT))
    cut = open_source(path, variables=["ndvi"], trust=trust, time=("2024-05-06", "2024-05-16"))
    found = cut.reader().read_trusted(Window.of(cut.extent))
    assert whole is not None
    np.testing.assert_array_equal(found, whole[1:4])


def test_without_rules_nothing_is_said(path: Path) -> None:
    reader = open_source(path, variables=["ndvi"]).reader()
    assert reader.read_trusted(Window.of(EXTENT)) is None
    assert reader.read_judged(Window.of(EXTENT)) is None


def test_what_rules_are_about_is_no_measurement(path: Path) -> None:
    with pytest.raises(CubeError, match="2"):  # two grids: what is on the other one is for the user to leave out
        open_source(path)
    names = ["ndvi", "qa_value", "SCL"]
    trust = parse_trust("s2-scl")
    cube, notes = open_fillable(path, variables=["ndvi"], trust=trust)
    assert cube.names == ("ndvi",)
    assert notes == ()
    with pytest.raises(OptionError, match="--qa s2-scl is about SCL, which can't be filled or scored on as well"):
        open_fillable(path, variables=names, trust=trust)
    dataset = make().drop_vars("coarse")
    filled = stpipe.fill(dataset, qa="s2-scl", drop="qa_value<0.01", method="pyramid")
    assert set(filled) - set(dataset) == {"ndvi_ci90", "ndvi_source"}
    with pytest.raises(OptionError, match="leave it out of the variables"):
        stpipe.fill(dataset, variables=["ndvi", "SCL"], qa="s2-scl", method="pyramid")


def test_a_cube_of_nothing_else_can_be_opened_but_not_filled(tmp_path: Path) -> None:
    make()[["SCL"]].to_zarr(tmp_path / "c.zarr", zarr_format=3, consolidated=False)
    trust = parse_trust("s2-scl")
    assert open_source(tmp_path / "c.zarr", trust=trust).names == ("SCL",)
    with pytest.raises(CubeError, match="holds nothing but codes"):
        open_fillable(tmp_path / "c.zarr", trust=trust)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"qa": "s2-scl=SLC"}, "has no variable 'SLC' over .time, y, x.; did you mean 'SCL'"),
        ({"qa": "landsat-c2"}, "no variable 'QA_PIXEL' .*, or name the layer, as in --qa NAME=VAR"),
        ({"drop": "coarse:3"}, r"--drop coarse:3: 'coarse' of .* is on another grid \(time 6 x y20 10 x x20 12\) than"),
        ({"drop": "land:0"}, r"'land' of .* is over y \(20\), x \(24\).*one over \(y, x\) goes with --domain"),
        ({"drop": "SCL:bits=8"}, "bit 8 lies beyond SCL"),
        ({"drop": "ndvi:1"}, "ndvi is stored as float32, and lists of values are asked of integers alone"),
    ],
    ids=["no-such", "no-such-product", "another-grid", "static", "beyond", "floats"],
)
def test_a_rule_that_can_not_be_met_is_refused_on_opening(path: Path, rules: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        open_source(path, variables=["ndvi"], trust=parse_trust(**rules))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"qa": "hls-fmask"}, "the dataset has no variable 'Fmask' over"),
        ({"drop": "coarse:3"}, "'coarse' is on another grid"),
        ({"drop": "SCL:bits=8"}, "bit 8 lies beyond SCL"),
        ({"drop": "qa_value:1"}, "qa_value is stored as float64"),
    ],
    ids=["no-such", "another-grid", "beyond", "floats"],
)
def test_objects_are_refused_alike(rules: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        stpipe.fill(make().drop_encoding(), variables=["ndvi"], method="pyramid", **rules)


def test_rules_and_their_variables_are_in_the_fingerprint(path: Path, tmp_path: Path) -> None:
    def fingerprint(place: Path, **rules: Any) -> str:
        return open_source(place, variables=["ndvi"], trust=parse_trust(**rules)).fingerprint

    plain = fingerprint(path)
    ruled = fingerprint(path, qa="s2-scl")
    assert len({plain, ruled, fingerprint(path, qa="s2-scl", buffer=1), fingerprint(path, drop="SCL:3")}) == 4
    other = tmp_path / path.name
    make(chunks=(6, 20, 24)).to_zarr(other, zarr_format=3, consolidated=False)
    assert open_source(other, variables=["ndvi"], trust=parse_trust("s2-scl")).sources == ("ndvi", "SCL")
    # The place differs too; the digest of what is stored is what counts here.
    here, there = (open_source(p, variables=["ndvi"], trust=parse_trust("s2-scl")).quality for p in (path, other))
    assert here != there


def test_a_cube_is_opened_with_nan_where_nothing_is_trusted(path: Path, tmp_path: Path) -> None:
    raw = make()
    cube = open_cube(path, variables=["ndvi"], qa="s2-scl")
    assert dask.is_dask_collection(cube.ndvi.data)
    np.testing.assert_array_equal(cube.ndvi, raw.ndvi.where(np.isin(raw.SCL, CLEAR)))
    assert cube.ndvi.dtype == np.float32
    np.testing.assert_array_equal(cube.SCL, raw.SCL.where(raw.SCL != 0))  # it comes along, as it is
    part = open_cube(path, variables=["ndvi"], qa="s2-scl", buffer=2, time=("2024-05-06", None)).ndvi[1:, 3:17, 5:]
    whole = open_cube(path, variables=["ndvi"], qa="s2-scl", buffer=2).ndvi[2:, 3:17, 5:]
    np.testing.assert_array_equal(part, whole)
    cube.to_zarr(tmp_path / "again.zarr", zarr_format=3, consolidated=False)
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "again.zarr", consolidated=False).ndvi, cube.ndvi)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32"])
def test_integers_that_can_not_say_gap_become_floats(tmp_path: Path, dtype: str) -> None:
    raw = make()[["ndvi", "SCL"]]
    raw["ndvi"] = (("time", "y", "x"), np.arange(np.prod(EXTENT)).reshape(EXTENT).astype(dtype))
    raw.to_zarr(tmp_path / "c.zarr", zarr_format=3, consolidated=False)
    cube = open_cube(tmp_path / "c.zarr", qa="s2-scl")
    np.testing.assert_array_equal(cube.ndvi, raw.ndvi.where(np.isin(raw.SCL, CLEAR)))
    assert cube.ndvi.dtype.kind == "f"
    cube.to_zarr(tmp_path / "again.zarr", zarr_format=3, consolidated=False)
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "again.zarr", consolidated=False).ndvi, cube.ndvi)


def test_dropped_samples_are_filled_as_if_they_were_not_there() -> None:
    raw = make().drop_vars("coarse")
    clear = np.isin(raw.SCL, CLEAR)
    expected = stpipe.fill(raw.assign(ndvi=raw.ndvi.where(clear))[["ndvi"]], method="pyramid")
    now = stpipe.fill(raw, variables=["ndvi"], qa="s2-scl", method="pyramid")
    lazy = raw.chunk({"time": 3, "y": 8, "x": 10})
    later = stpipe.fill(lazy, variables=["ndvi"], qa="s2-scl", method="pyramid")
    by_accessor = raw.stpipe.fill(variables=["ndvi"], qa="s2-scl", method="pyramid")
    assert dask.is_dask_collection(later.ndvi.data)
    for filled in (now, later.compute(scheduler="synchronous"), by_accessor):
        for name in ("ndvi", "ndvi_source", "ndvi_ci90"):
            np.testing.assert_array_equal(filled[name], expected[name])
    assert set(np.unique(now.ndvi_source.values[~clear])) == {2}
    np.testing.assert_array_equal(now.ndvi.values[clear], raw.ndvi.values[clear])
    np.testing.assert_array_equal(raw.ndvi, make().ndvi)  # what was given is as it was
    others = stpipe.fill(lazy, variables=["ndvi"], drop="SCL:8", method="pyramid")
    assert others.ndvi.data.name != later.ndvi.data.name


def test_a_rule_that_does_nothing_is_warned_of() -> None:
    raw = make().drop_vars("coarse")
    with pytest.warns(UserWarning, match="drop SCL:77 matches none of 2[0-9]* samples, so that it drops nothing"):
        stpipe.fill(raw, variables=["ndvi"], drop="SCL:77", method="pyramid")


def test_methods_are_scored_on_what_is_trusted() -> None:
    raw = make().drop_vars("coarse")
    clear = np.isin(raw.SCL, CLEAR)
    expected = stpipe.evaluate(raw.assign(ndvi=raw.ndvi.where(clear))[["ndvi"]], methods=["linear"], draws=1)
    found = stpipe.evaluate(raw, variables=["ndvi"], methods=["linear"], draws=1, qa="s2-scl")
    np.testing.assert_array_equal(found.mae, expected.mae)
    np.testing.assert_array_equal(found.samples, expected.samples)
    assert int(found.samples.sel(group="all").item()) < clear.sum()


def test_a_rule_that_does_nothing_is_warned_of_where_methods_are_scored() -> None:
    raw = make().drop_vars("coarse")
    with pytest.warns(UserWarning, match="drop SCL:77 matches none of .* .of the parts that were read."):
        stpipe.evaluate(raw, variables=["ndvi"], methods=["linear"], draws=1, drop="SCL:77")


def test_flags_are_found_by_the_names_in_the_file(tmp_path: Path) -> None:
    raw = make()[["ndvi", "SCL"]].rename(SCL="WQSF")
    raw["WQSF"].attrs = {"flag_masks": np.array([1, 2, 4, 8], "uint8"), "flag_meanings": "INVALID COAST WATER CLOUD"}
    raw["WQSF"].encoding.pop("_FillValue")
    raw.to_zarr(tmp_path / "c.zarr", zarr_format=3, consolidated=False)
    expected = (raw.WQSF.values & 8) == 0
    trust = parse_trust(drop="WQSF:flags=cloud")
    cube = open_source(tmp_path / "c.zarr", trust=trust)
    np.testing.assert_array_equal(cube.reader().read_trusted(Window.of(EXTENT)), expected)
    filled = stpipe.fill(raw, drop="wqsf:flags=Cloud", method="pyramid")
    np.testing.assert_array_equal(filled.ndvi_source == 1, expected)
    with pytest.raises(OptionError, match="WQSF has no flag GLINT; it has invalid, coast, water, cloud"):
        open_source(tmp_path / "c.zarr", trust=parse_trust(drop="WQSF:flags=GLINT"))


def test_a_plan_leaves_room_for_what_judges(path: Path) -> None:
    def planned(**rules: Any) -> Any:
        cube = open_source(path, variables=["ndvi"], trust=parse_trust(**rules))
        return make_plan(
            extent=(40, 3000, 3000),
            variables=cube.variables,
            filler=make_filler("pyramid"),
            identity={},
            memory_limit=4 * 2**30,
            block=(40, 512, 512),
            quality=cube.quality_cost,
        )

    plain, ruled, grown = planned(), planned(qa="s2-scl"), planned(qa="s2-scl", buffer=30)
    read = np.prod(plain.blocks.read_shape)
    assert ruled.memory.fill - plain.memory.fill == 2 * read  # a byte of SCL and one that says what is trusted
    frames, height, width = plain.blocks.read_shape
    assert grown.memory.fill - plain.memory.fill == read + frames * (height + 60) * (width + 60)
    assert ruled.run_id == plain.run_id  # that is for the cube's fingerprint to tell


def test_gaps_are_counted_with_the_rules(path: Path) -> None:
    raw = make()
    cube = open_source(path, variables=["ndvi"], trust=parse_trust("s2-scl", drop="SCL:99"))
    report = inspect_cube(cube)
    expected = 1 - np.isin(raw.SCL, CLEAR).mean()
    assert report["variables"]["ndvi"]["gap_share"] == pytest.approx(expected)
    assert report["trust"] == ["--qa s2-scl", "--drop SCL:99"]
    assert any(hint.startswith("--drop SCL:99 matches none of") for hint in report["hints"])


def test_training_reads_what_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    make(12).to_zarr(path, zarr_format=3, consolidated=False)
    trust = parse_trust("s2-scl", keep="SCL:0-99")
    (source,), _ = open_sources([path], variables=["ndvi"], trust=trust)
    (plain,), _ = open_sources([path], variables=["ndvi"])
    assert source.identity != plain.identity
    assert source.remarks() == ()
    (family,) = split_sources([source], share=0.25, learned_samples=10**6, held_out_samples=10**6, seed=0)
    scenes, _ = gather(family.learned, 10**6)
    seen = sum(int(scene.valid.sum()) for scene in scenes)
    assert 0 < seen < sum(scene.valid.size for scene in scenes)
    assert max(float(np.abs(scene.values).max()) for scene in scenes) < 5  # no cloud among them
    (line,) = source.remarks()
    assert "--keep SCL:0-99 matches all of" in line


def test_clouds_of_a_real_scene_are_those_of_its_classification(data_folder: Path, tmp_path: Path) -> None:
    """WorldCereal's own rule is SCL in (0, 1, 3, 8, 9, 10, 11)."""
    (file,) = (data_folder / "worldcereal_s1_s2_l8").glob("S2_L2A_20m_*.nc")
    with xr.open_dataset(file, mask_and_scale=False) as raw:
        scl, stored = raw["SCL"].values, raw["B05"].values
    cube = open_source(file, variables=["B05"], trust=parse_trust("s2-scl"))
    cloud = np.isin(scl, (0, 1, 3, 8, 9, 10, 11))
    np.testing.assert_array_equal(cube.reader().read_trusted(Window.of(cube.extent)), ~cloud)
    opened = open_cube(file, variables=["B05"], qa="s2-scl")
    np.testing.assert_array_equal(np.isnan(opened.B05), cloud | (stored == 0))
    # Under its clouds the scene is brighter: the numbers are there, and they are wrong.
    values = physical(stored, cube.variable("B05"))
    assert np.nanmedian(values[cloud]) > 2 * np.nanmedian(values[~cloud])


def test_landsat_of_collection_1_is_decoded_as_its_words_say(data_folder: Path) -> None:
    (file,) = (data_folder / "worldcereal_s1_s2_l8").glob("L8_SR_10m_*.nc")
    cube = open_source(file, variables=["B04"], trust=parse_trust("landsat-c1"))
    with xr.open_dataset(file, mask_and_scale=False) as raw:
        values = raw["pixel_qa"].values
    clear = np.isin(values, (322, 386))  # all others that there are have cloud, shadow or cirrus, or are fill
    np.testing.assert_array_equal(cube.reader().read_trusted(Window.of(cube.extent)), clear)
    with pytest.raises(OptionError, match="no variable 'QA_PIXEL'"):
        open_source(file, trust=parse_trust("landsat-c2"))
    # Read as the other collection's, every clear sample would be cloud: that is said aloud.
    other = open_source(file, variables=["B04"], trust=parse_trust("landsat-c2=pixel_qa"))
    judged = other.reader().read_judged(Window.of(cube.extent))
    assert judged is not None
    assert not judged[0].any()


def test_quality_bands_of_landsat_scenes_are_decoded(data_folder: Path) -> None:
    import rasterio

    trust = parse_trust("landsat-c1-bqa")
    assert trust is not None
    seen = np.zeros(2, dtype=int)
    for file in sorted((data_folder / "gdalcubes_l8_ny2018").glob("*/*_BQA.TIF")):
        with rasterio.open(file) as band:
            values = band.read()
        info = open_info(values.dtype.name)
        found = trusted(trust, {"BQA": values}, {"BQA": info})
        # Clear is 2720, and 2752 with a cloud of medium confidence.
        np.testing.assert_array_equal(found, np.isin(values, (2720, 2752)))
        seen += [found.sum(), (~found).sum()]
    assert (seen > 10_000).all()


def open_info(dtype: str) -> Any:
    from stpipe.core.ports import VariableInfo

    return VariableInfo(name="BQA", dtype=dtype, chunks=(1, 1, 1))


def test_values_under_cloud_of_the_ndvi_patch_are_not_trusted(data_folder: Path) -> None:
    import json

    place = data_folder / "eolearn_testeopatch_s2"
    ndvi, clouds = np.load(place / "NDVI.npy").squeeze(), np.load(place / "CLM.npy").squeeze()
    when = np.array(json.loads((place / "timestamps.json").read_text()), dtype="datetime64[ns]")
    dims = ("time", "y", "x")
    cube = xr.Dataset({"NDVI": (dims, ndvi), "CLM": (dims, clouds.astype("uint8"))}, coords={"time": when})
    assert np.isfinite(ndvi[clouds != 0]).all()
    filled = stpipe.fill(cube.isel(time=slice(0, 12)), drop="CLM:1", method="pyramid")
    source, cloud = filled.NDVI_source.values, clouds[:12] != 0
    assert (source[~cloud & np.isfinite(ndvi[:12])] == 1).all()
    assert (source[cloud] == 2).all()
