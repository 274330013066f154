"""The layer that tells what rules dropped from what was never there: loops over pixels are the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import stpipe
from stpipe.cli.trust import parse_trust
from stpipe.core.compositing import COMPOSITES, Period
from stpipe.core.windows import Window
from stpipe.io.cube import open_source
from stpipe.io.fillable import open_fillable
from stpipe.io.indices import IndexRequest
from stpipe.io.inspection import inspect_cube
from tests.io.ingest_sources import SHAPE, ingest, plan_ingest, raster
from tests.io.test_ingest_rules import RULE, is_clear, scenes

NO_DATA, CLEAR, DROPPED = 0, 1, 2


def expected_codes(red: np.ndarray, scl: np.ndarray, nodata: int = -9) -> np.ndarray:
    """Return the codes of the scenes of one frame, (scene, y, x), pixel by pixel."""
    codes = np.zeros(red.shape[1:], dtype="uint8")
    clear = np.array([is_clear(one) for one in scl])
    for y, x in np.ndindex(codes.shape):
        there = [at for at in range(len(red)) if red[at, y, x] != nodata]
        if any(clear[at, y, x] for at in there):
            codes[y, x] = CLEAR
        elif there:
            codes[y, x] = DROPPED
    return codes


@pytest.mark.parametrize("how", COMPOSITES)
def test_dropped_is_told_from_never_there_however_many_scenes(tmp_path: Path, how: Any) -> None:
    stacks = scenes(tmp_path / "in", sensors="ABC")
    cube = ingest(tmp_path / "in", output=tmp_path / "c.zarr", rules=RULE, same_day=how, chunks=(2, 7, 6))
    for day in range(3):
        np.testing.assert_array_equal(cube["clear"].values[day], expected_codes(stacks["red"][day], stacks["SCL"][day]))
    # What has a value is what is clear, and nothing else.
    np.testing.assert_array_equal(cube["clear"].values == CLEAR, cube["red"].values != -9)
    assert set(np.unique(cube["clear"].values)) == {NO_DATA, CLEAR, DROPPED}
    assert cube["clear"].dtype == np.uint8
    assert cube["clear"].encoding["chunks"] == cube["red"].encoding["chunks"] == (2, 7, 6)
    attrs = cube["clear"].attrs
    assert dict(zip(attrs["flag_meanings"].split(), attrs["flag_values"], strict=True)) == {
        "no_data": NO_DATA,
        "clear": CLEAR,
        "dropped": DROPPED,
    }
    assert attrs["quality_rules"] == cube["red"].attrs["quality_rules"] == "--drop SCL:3,8-10"
    assert cube["red"].attrs["ancillary_variables"] == "clear"
    assert "ancillary_variables" not in cube["SCL"].attrs


def test_what_is_beside_the_swath_is_no_data_and_what_a_buffer_takes_is_dropped(tmp_path: Path) -> None:
    red, scl = np.full(SHAPE, 7, "int16"), np.full(SHAPE, 4, "uint8")
    red[:, :5] = scl[:, :5] = 0
    scl[10, 20] = 9
    for name, samples in (("red", red), ("SCL", scl)):
        raster(tmp_path / "in" / f"20200101_{name}.tif", samples, nodata=0)
        raster(tmp_path / "in" / f"20200103_{name}.tif", np.full_like(samples, 5), nodata=0)
    cube = ingest(
        tmp_path / "in", output=tmp_path / "c.zarr", rules=RULE, buffer=2, every=Period(days=1), empty_periods=True
    )
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    near = (y - 10) ** 2 + (x - 20) ** 2 <= 4
    first = np.where(x < 5, NO_DATA, np.where(near, DROPPED, CLEAR))
    np.testing.assert_array_equal(cube["clear"].values, [first, np.full(SHAPE, NO_DATA), np.full(SHAPE, CLEAR)])


def test_there_is_none_without_rules_or_where_no_rule_decides(tmp_path: Path) -> None:
    scenes(tmp_path / "in", sensors="A")
    raster(tmp_path / "in" / "20200102_radar_VV.tif", seed=4, nodata=0)
    assert plan_ingest([str(tmp_path / "in")]).clear == ()
    assert plan_ingest([str(tmp_path / "in")], rules=RULE, variables=("VV",)).clear == ()
    (layer,) = plan_ingest([str(tmp_path / "in")], rules=RULE).clear
    assert (layer.name, layer.variables) == ("clear", ("red",))


def test_bands_under_one_rule_share_one_layer_and_an_index_has_that_of_its_bands(tmp_path: Path) -> None:
    stacks = scenes(tmp_path / "in", sensors="A")
    for path in sorted((tmp_path / "in").glob("*_red.tif")):
        raster(path.with_name(path.name.replace("red", "nir")), seed=1, nodata=0)
    options: dict[str, Any] = {"rules": RULE, "indices": (IndexRequest.parse("ndvi"),)}
    cube = ingest(tmp_path / "in", output=tmp_path / "c.zarr", **options, variables=("ndvi",))
    assert set(cube.data_vars) - {"spatial_ref"} == {"ndvi", "clear"}
    assert cube["ndvi"].attrs["ancillary_variables"] == "clear"
    clear = np.array([is_clear(scl) for scl in stacks["SCL"][:, 0]])
    # Near infrared is everywhere, so that all that is not clear was dropped.
    np.testing.assert_array_equal(cube["clear"].values, np.where(clear, CLEAR, DROPPED))
    (layer,) = plan_ingest([str(tmp_path / "in")], **options).clear
    assert layer.variables == ("nir", "red", "ndvi")


def test_sensors_with_rules_of_their_own_have_layers_of_their_own(tmp_path: Path) -> None:
    stacks = scenes(tmp_path / "in", sensors="A")
    for day in (1, 2, 3):
        raster(tmp_path / "in" / f"2020010{day}_L_blue.tif", seed=day, nodata=0)
        quality = np.full(SHAPE, 21824, "uint16")
        quality[day] = 8
        raster(tmp_path / "in" / f"2020010{day}_L_BQ.tif", quality, nodata=1)
    cube = ingest(tmp_path / "in", output=tmp_path / "c.zarr", rules=(*RULE, "BQ:bits=3"))
    assert cube["red"].attrs["ancillary_variables"] == "clear_SCL"
    assert cube["blue"].attrs["ancillary_variables"] == "clear_BQ"
    assert cube["clear_BQ"].attrs["quality_rules"] == "--drop BQ:bits=3"
    for day in range(3):
        codes = expected_codes(stacks["red"][day], stacks["SCL"][day])
        np.testing.assert_array_equal(cube["clear_SCL"].values[day], codes)
        dropped = np.arange(SHAPE[0])[:, None] == day + 1
        np.testing.assert_array_equal(cube["clear_BQ"].values[day], np.where(dropped, DROPPED, CLEAR) + np.zeros(SHAPE))


def test_a_cube_that_has_the_layer_is_ingested_again(tmp_path: Path) -> None:
    stacks = scenes(tmp_path / "in", sensors="A", days=2)
    first = ingest(tmp_path / "in", output=tmp_path / "c.zarr", rules=RULE)
    # Other rules are told in another layer; the older one comes along.
    again = ingest(tmp_path / "c.zarr", output=tmp_path / "d.zarr", rules=("SCL:4",))
    np.testing.assert_array_equal(again["clear"].values, first["clear"].values)
    scl, left = stacks["SCL"][:, 0], first["red"].values != -9
    trusted = (scl != 4) & (scl != 0)
    codes = np.where(left & trusted, CLEAR, np.where(left, DROPPED, NO_DATA))
    np.testing.assert_array_equal(again["clear_2"].values, codes)
    assert again["red"].attrs["ancillary_variables"] == "clear clear_2"
    # Frames of several are clear where one was, as their values are those of the clear ones.
    both = ingest(tmp_path / "c.zarr", output=tmp_path / "e.zarr", every=Period(days=10), composite="median")
    np.testing.assert_array_equal(both["clear"].values == CLEAR, both["red"].values != -9)
    assert (both["clear"].values == DROPPED).any()
    # A larger grid has no data beside the old one, and needs no nodata to say so.
    wide = ingest(tmp_path / "c.zarr", output=tmp_path / "f.zarr", align=str(wider(tmp_path)), nodata_of={"SCL": 0})
    np.testing.assert_array_equal(wide["clear"].values[:, :, : SHAPE[1]], first["clear"].values)
    assert (wide["clear"].values[:, :, SHAPE[1] :] == NO_DATA).all()


def wider(folder: Path) -> Path:
    """Write a raster on a grid that reaches farther east, and return its place."""
    raster(folder / "wide.tif", np.ones((SHAPE[0], SHAPE[1] + 9), "uint8"))
    return folder / "wide.tif"


def test_an_interrupted_ingest_has_the_same_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stpipe.io.ingest import write as ingest_write

    scenes(tmp_path / "in")
    options: dict[str, Any] = {"rules": RULE, "same_day": "mean", "chunks": (1, 20, 10)}
    whole = ingest(tmp_path / "in", output=tmp_path / "a.zarr", **options)
    real, calls = ingest_write.read_frame, []

    def stop(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(ingest_write, "read_frame", stop)
    with pytest.raises(KeyboardInterrupt):
        ingest(tmp_path / "in", output=tmp_path / "b.zarr", **options)
    resumed = ingest(tmp_path / "in", output=tmp_path / "b.zarr", **options)
    xr.testing.assert_identical(whole.load(), resumed.load())


def test_it_is_no_measurement_and_can_be_kept_by(tmp_path: Path) -> None:
    scenes(tmp_path / "in", sensors="A")
    ingest(tmp_path / "in", output=tmp_path / "c.zarr", rules=RULE)
    place = tmp_path / "c.zarr"
    cube, notes = open_fillable(place)
    assert cube.names == ("red",)
    assert notes == ("left out SCL, clear: codes are no measurements; name one with --var to take it as one",)
    for rule in ("clear:1", "clear:flags=clear", "clear==1"):
        kept = open_source(place, variables=["red"], trust=parse_trust([], [rule], []))
        trusted = kept.reader().read_trusted(Window.of(kept.extent))
        stored = kept.reader().read("red", Window.of(kept.extent))
        np.testing.assert_array_equal(trusted, stored != -9)
    hints = inspect_cube(open_source(place))["hints"]
    assert "clear tells gaps that ingest made by --drop SCL:3,8-10 from those without data" in hints
    assert not any("clear" in hint and ("--keep" in hint or "nodata" in hint) for hint in hints)
    with xr.open_zarr(place, consolidated=False) as opened:
        assert set(stpipe.fill(opened[["red", "clear"]], method="linear")) == {"red", "clear", "red_source", "red_ci90"}
