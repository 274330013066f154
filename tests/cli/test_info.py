"""`stpipe info` as a user types it; the numbers are xarray's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import stpipe
from stpipe.cli.main import run
from stpipe.core.ports import VariableInfo
from stpipe.core.qa_products import parse_trust
from stpipe.core.windows import Window
from stpipe.io.cube import open_source
from stpipe.io.inspection import inspect_cube, tiles_of
from stpipe.model.weights import model_path, read_info


def scene(**encoding: Any) -> xr.Dataset:
    """Return a cube with gaps, an empty frame and a complete one, over a lake."""
    rng = np.random.default_rng(2)
    values = rng.random((6, 9, 11))
    values[rng.random(values.shape) < 0.4] = np.nan
    values[2], values[4] = np.nan, 1.0
    days = np.array(
        ["2020-01-01", "2020-01-03", "2020-01-05", "2020-01-07", "2020-01-09", "2020-03-09"], "datetime64[ns]"
    )
    dataset = xr.Dataset(
        {"v": (("time", "y", "x"), values), "lake": (("y", "x"), (rng.random((9, 11)) < 0.7).astype("uint8"))},
        {"time": days, "y": np.arange(9.0)[::-1], "x": np.arange(11.0)},
    )
    dataset["v"].encoding = encoding
    return dataset


def report_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run info and return its JSON."""
    assert run(["info", *words, "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_gaps_are_those_of_xarray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = scene(dtype="int16", scale_factor=0.01, _FillValue=-1, chunks=(2, 4, 3))
    dataset.to_zarr(tmp_path / "c.zarr", consolidated=False)
    gaps = dataset["v"].isnull()
    whole = report_of(capsys, str(tmp_path / "c.zarr"))["variables"]["v"]
    assert whole["gap_share"] == pytest.approx(float(gaps.mean()))
    assert (whole["empty_dates"], whole["full_frames"]) == (["2020-01-05"], 1)
    assert (whole["dtype"], whole["nodata"], whole["scale_factor"]) == ("int16", -1, 0.01)
    assert (whole["chunks"], whole["chunk_count"]) == ([2, 4, 3], 36)
    lake = report_of(capsys, str(tmp_path / "c.zarr"), "--domain", "lake")["variables"]["v"]
    assert lake["gap_share"] == pytest.approx(float(gaps.where(dataset["lake"] != 0).mean()))
    late = report_of(capsys, str(tmp_path / "c.zarr"), "--time", "2020-01-06/")
    assert late["variables"]["v"]["gap_share"] == pytest.approx(float(gaps[3:].mean()))
    assert late["dims"]["time"] == 3


def test_dates_grid_size_and_hints_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.zarr"
    scene().to_zarr(path, consolidated=False)
    report = report_of(capsys, str(path))
    assert report["dates"] == {
        "count": 6,
        "first": "2020-01-01",
        "last": "2020-03-09",
        "in_order": True,
        "shortest_step_days": 2,
        "median_step_days": 2,
        "longest_step_days": 60,
        "longest_step_after": "2020-01-09",
    }
    assert (report["resolution"], report["crs"], report["south_up"]) == ([1, 1], None, False)
    assert report["size_bytes"] == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert any("no CRS" in hint for hint in report["hints"])
    assert any("60 days without a frame after 2020-01-09" in hint for hint in report["hints"])


def test_tiles_of_a_pass_are_told_and_are_not_the_step_of_the_series(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = scene()
    second = first.assign_coords(time=first["time"] + np.timedelta64(15, "s"))
    xr.concat([first, second], "time", data_vars="minimal").sortby("time").to_zarr(
        tmp_path / "c.zarr", consolidated=False
    )
    report = report_of(capsys, str(tmp_path / "c.zarr"))
    assert report["dates"]["median_step_days"] == 2
    assert report["dates"]["shortest_step_days"] == pytest.approx(15 / 86400)
    assert any(hint.startswith("6 of 12 frames follow on another within 100 s") for hint in report["hints"])
    first.to_zarr(tmp_path / "d.zarr", consolidated=False)
    assert not any("within 100 s" in hint for hint in report_of(capsys, str(tmp_path / "d.zarr"))["hints"])


def test_text_shows_the_table_and_no_scan_leaves_gaps_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene().to_netcdf(tmp_path / "c.nc")
    assert run(["info", str(tmp_path / "c.nc")]) == 0
    text = capsys.readouterr().out
    assert "6 from 2020-01-01 to 2020-03-09; 2 days apart (median), 2 to 60 days" in text
    assert "%" in text  # the share of gaps
    assert "float64" in text
    assert "v: nothing on 1 date: 2020-01-05; longest without: 60 days from 2020-01-09" in text
    assert run(["info", str(tmp_path / "c.nc"), "--no-scan"]) == 0
    assert "%" not in capsys.readouterr().out


def test_badly_shaped_chunks_and_types_without_gaps_are_noted(tmp_path: Path) -> None:
    import zarr

    group = zarr.open_group(tmp_path / "c.zarr", mode="w")
    time = group.create_array("time", shape=(3,), dtype="int64", dimension_names=["time"])
    time[:] = [0, 1, 2]
    time.attrs["units"] = "days since 2020-01-01"
    for name, chunks in (("plane", (1, 4096, 4096)), ("crumbs", (1, 16, 16))):
        group.create_array(
            name, shape=(3, 4096, 4096), chunks=chunks, dtype="uint8", dimension_names=["time", "y", "x"]
        )
    report = inspect_cube(open_source(tmp_path / "c.zarr"))
    hints = report["hints"]
    assert report["rechunk"] == {"time": 3, "y": 256, "x": 256}
    assert any(hint.endswith("rechunk: ds.chunk(time=3, y=256, x=256)") for hint in hints)
    assert any(hint.startswith("plane: a chunk is one large frame") for hint in hints)
    assert any(hint.startswith("crumbs: more than 20000 chunks below 64 KiB") for hint in hints)
    assert any(hint.startswith("plane: uint8 without nodata can't say gap") for hint in hints)


def test_one_chunk_of_everything_is_noted(tmp_path: Path) -> None:
    import zarr

    group = zarr.open_group(tmp_path / "c.zarr", mode="w")
    time = group.create_array("time", shape=(80,), dtype="int64", dimension_names=["time"])
    time[:] = np.arange(80)
    time.attrs["units"] = "days since 2020-01-01"
    shape = (80, 1024, 1024)
    group.create_array("v", shape=shape, chunks=shape, dtype="float32", dimension_names=["time", "y", "x"])
    report = inspect_cube(open_source(tmp_path / "c.zarr"), scan=False)
    assert any("v: a chunk takes more than 256 MiB" in hint for hint in report["hints"])
    assert report["rechunk"] == {"time": 32, "y": 256, "x": 256}


def test_frames_out_of_order_are_shown_and_nothing_else_takes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = scene()
    order = [3, 0, 1, 5, 4, 2]
    dataset.to_zarr(tmp_path / "sorted.zarr", consolidated=False)
    dataset.isel(time=order).to_zarr(tmp_path / "c.zarr", consolidated=False)
    report, expected = (report_of(capsys, str(tmp_path / name)) for name in ("c.zarr", "sorted.zarr"))
    assert report["dates"] == {**expected["dates"], "in_order": False}
    for key in ("gap_share", "empty_dates", "full_frames", "longest_without_days", "longest_without_after"):
        assert report["variables"]["v"][key] == expected["variables"]["v"][key]
    assert any("frame 1 (2020-01-01) comes after frame 0 (2020-01-07)" in hint for hint in report["hints"])
    assert run(["info", str(tmp_path / "c.zarr"), "--time", "2020-01-02/"]) == 2
    assert run(["plan", str(tmp_path / "c.zarr")]) == 2
    assert capsys.readouterr().err.count("times must increase") == 2
    dataset.isel(time=[0, 1, 1, 2]).to_zarr(tmp_path / "twice.zarr", consolidated=False)
    twice = report_of(capsys, str(tmp_path / "twice.zarr"))
    assert twice["dates"]["shortest_step_days"] == 0
    assert any("repeats 2020-01-03 (2 frames)" in hint for hint in twice["hints"])


@pytest.mark.parametrize(
    ("name", "attrs", "hint"),
    [
        ("SCL", {}, "SCL tells which samples to trust: --qa s2-scl (Sentinel-2 Level-2A"),
        ("qa_pixel", {}, "qa_pixel tells which samples to trust: --qa landsat-c2 (Landsat"),
        ("QA-PIXEL", {}, "QA-PIXEL tells which samples to trust: --qa landsat-c2 (Landsat"),
        (
            "qa_value",
            {},
            "--qa s5p (Sentinel-5P: CO, CH4, HCHO) or --qa s5p-no2 (Sentinel-5P: tropospheric NO2) or --qa",
        ),
        ("class", {"flag_values": [0, 1]}, "class holds codes: say which samples to trust with --keep class:... or"),
    ],
)
def test_a_quality_layer_gets_the_rule_that_fits(name: str, attrs: dict[str, Any], hint: str, tmp_path: Path) -> None:
    dataset = scene()
    codes = np.random.default_rng(3).integers(0, 12, (6, 9, 11)).astype("uint8")
    dataset[name] = (("time", "y", "x"), codes, attrs)
    dataset.to_zarr(tmp_path / "c.zarr", consolidated=False)
    hints = inspect_cube(open_source(tmp_path / "c.zarr"))["hints"]
    assert sum(hint in each for each in hints) == 1
    assert not any(each.startswith(f"{name}: uint8 without nodata") for each in hints)
    heeded = open_source(tmp_path / "c.zarr", trust=parse_trust(drop=[f"{name}:3"]))
    assert not any(hint in each for each in inspect_cube(heeded)["hints"])


@pytest.mark.parametrize("offset", [(0, 0, 0), (1, 5, 3)])
def test_tiles_cover_the_cube_once_and_keep_to_chunks(
    offset: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stpipe.io.inspection.TILE_BYTES", 4000)
    info = VariableInfo(name="v", dtype="float32", chunks=(2, 8, 5))
    seen = np.zeros((7, 30, 29), dtype=int)
    for window in tiles_of((7, 30, 29), offset, info):
        seen[window.slices] += 1
        for start, first, chunk in zip(window.start, offset, info.chunks, strict=True):
            assert start == 0 or (start + first) % chunk == 0
    assert (seen == 1).all()
    assert next(iter(tiles_of((7, 30, 29), offset, info))) != Window.of((7, 30, 29))


def test_a_damaged_chunk_is_a_failure_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.zarr"
    scene(chunks=(2, 4, 3)).to_zarr(path, consolidated=False)
    (path / "v" / "c" / "1" / "0" / "2").write_bytes(b"damage")
    assert run(["info", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("stpipe: error: chunk v/c/1/0/2 of ")
    assert error.count("\n") == 1


def test_what_is_no_cube_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(tmp_path / "none.zarr")]) == 2
    assert "there is no file or folder" in capsys.readouterr().err


def test_the_alboran_sea_has_the_gaps_that_its_authors_state(
    data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data_folder / "dineof_alboran_sst" / "alboranSST_small.nc"
    report = report_of(capsys, str(path), "--domain", "mask")
    assert report["variables"]["SST"]["gap_share"] == pytest.approx(0.454, abs=5e-4)
    assert report["dates"]["longest_step_days"] == 2
    assert report["south_up"]


@pytest.mark.parametrize(
    ("pattern", "rules"),
    [
        ("worldcereal_s1_s2_l8/S2_L2A_20m_*.nc", "s2-scl"),
        ("worldcereal_s1_s2_l8/L8_L2-ST_10m_*.nc", "landsat-c2"),
        ("dineof_alboran_sst/alboranSST_small.nc", None),
    ],
    ids=["sentinel-2-under-its-classes", "landsat-under-its-bits", "sea-as-it-is"],
)
def test_real_cubes_hold_what_a_slow_loop_finds(
    pattern: str, rules: str | None, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = data_folder.glob(pattern)
    report = report_of(capsys, str(path), *(() if rules is None else ("--qa", rules)))
    raw = xr.open_dataset(path, mask_and_scale=False)
    quality = raw["SCL" if "SCL" in raw else "QA-PIXEL"].values if rules is not None else None
    days = raw[next(iter(raw.sizes))].values.astype("datetime64[ns]")
    steps = np.diff(days) / np.timedelta64(1, "D")
    dates = report["dates"]
    assert dates["count"] == len(days)
    found = [dates[f"{which}_step_days"] for which in ("shortest", "median", "longest")]
    assert found == pytest.approx([steps.min(), np.median(steps), steps.max()])
    assert set(report["variables"]) == {str(v) for v in raw if raw[v].ndim == 3} - {"SCL", "QA-PIXEL"}
    for name, told in report["variables"].items():
        observed, empty, seen = 0, 0, []
        for number, frame in enumerate(raw[name].values):
            clear = np.isfinite(frame) & (frame != raw[name].attrs["_FillValue"])
            if rules == "s2-scl":
                clear &= np.isin(quality[number], [2, 4, 5, 6, 7])
            elif rules is not None:
                clear &= (quality[number] & 0b111111 == 0) & (quality[number] != 0)
            observed += int(clear.sum())
            if clear.any():
                seen.append(number)
            else:
                empty += 1
        assert told["gap_share"] == pytest.approx(1 - observed / raw[name].size)
        assert (told["empty_frames"], len(told["empty_dates"])) == (empty, empty)
        ends = days[sorted({0, *seen, len(days) - 1})]
        assert told["longest_without_days"] == pytest.approx((np.diff(ends) / np.timedelta64(1, "D")).max())
        assert told["dtype"] == str(raw[name].dtype)
        assert told["scale_factor"] == pytest.approx(raw[name].attrs.get("scale_factor", 1))
    assert report["size_bytes"] == path.stat().st_size


def test_the_card_of_the_packaged_weights_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", "--model", "default"]) == 0
    card = Path(stpipe.__file__).parent / "model" / "packaged" / "MODEL_CARD.md"
    assert capsys.readouterr().out == card.read_text()


def test_another_model_file_says_where_it_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.keras"
    own.write_bytes(model_path("default").read_bytes())
    info = read_info("default")
    assert run(["info", "--model", str(own)]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in (str(own), info.digest, "provenance", *info.provenance))
    told = report_of(capsys, "--model", str(own))
    assert (told["digest"], told["kind"], told["provenance"]) == (info.digest, "unet", dict(info.provenance))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["--model", "gone.keras"], "no model 'gone.keras'", id="no-file"),
        pytest.param(["--model", "FOLDER"], "is a folder", id="folder"),
        pytest.param(["--model", "TEXT"], "is damaged, or no model file", id="text"),
        pytest.param(["cube.zarr", "--model", "default"], "a cube or a model", id="both"),
        pytest.param([], "needs a CUBE", id="neither"),
    ],
)
def test_no_model_is_one_line(
    words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "x.keras"
    text.write_text("weights")
    places = {"FOLDER": str(tmp_path), "TEXT": str(text)}
    assert run(["info", *(places.get(word, word) for word in words)]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1


def test_static_variables_may_be_domains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dims = ("time", "y", "x")
    dataset = xr.Dataset(
        {
            "sst": (dims, np.ones((2, 6, 8), np.float32)),
            "sea": (dims[1:], np.ones((6, 8), np.int8)),
            "land_share": (dims[1:], np.ones((6, 8), np.float32)),
            "height": (dims[1:], np.ones((6, 8), np.float32)),
            "rows": ("y", np.arange(6)),
        },
        {"time": np.array(["2024-01-01", "2024-01-09"], "M8[ns]"), "y": np.arange(6.0), "x": np.arange(8.0)},
    )
    dataset.to_zarr(tmp_path / "c.zarr", consolidated=False)
    (hint,) = (line for line in report_of(capsys, str(tmp_path / "c.zarr"))["hints"] if "--domain" in line)
    assert hint.startswith("land_share, sea: no dates; what is non-zero where values can exist")
    hints = report_of(capsys, str(tmp_path / "c.zarr"), "--domain", "sea")["hints"]
    assert not any("--domain" in line for line in hints)


def test_rules_that_ingest_heeded_are_not_asked_for_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dims = ("time", "y", "x")
    values, codes = np.ones((2, 6, 8), np.float32), np.full((2, 6, 8), 4, np.uint8)
    dataset = xr.Dataset(
        {"red": (dims, values, {"quality_rules": "--qa s2-scl"}), "SCL": (dims, codes), "nir": (dims, values)},
        {"time": np.array(["2024-01-01", "2024-01-09"], "M8[ns]"), "y": np.arange(6.0), "x": np.arange(8.0)},
    )
    dataset.to_zarr(tmp_path / "some.zarr", consolidated=False)
    assert any("SCL tells which samples" in hint for hint in report_of(capsys, str(tmp_path / "some.zarr"))["hints"])
    dataset.drop_vars("nir").to_zarr(tmp_path / "all.zarr", consolidated=False)
    (hint,) = (hint for hint in report_of(capsys, str(tmp_path / "all.zarr"))["hints"] if "SCL" in hint)
    assert hint == "SCL was heeded when the cube was made: --qa s2-scl"
