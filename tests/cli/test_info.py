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
        "median_step_days": 2,
        "longest_step_days": 60,
        "longest_step_after": "2020-01-09",
    }
    assert (report["resolution"], report["crs"], report["south_up"]) == ([1, 1], None, False)
    assert report["size_bytes"] == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert any("no CRS" in hint for hint in report["hints"])
    assert any("60 days without a frame after 2020-01-09" in hint for hint in report["hints"])


def test_text_shows_the_table_and_no_scan_leaves_gaps_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene().to_netcdf(tmp_path / "c.nc")
    assert run(["info", str(tmp_path / "c.nc")]) == 0
    text = capsys.readouterr().out
    assert "6 from 2020-01-01 to 2020-03-09; 2 days apart (median), at most 60" in text
    assert "gaps" in text
    assert "float64" in text
    assert run(["info", str(tmp_path / "c.nc"), "--no-scan"]) == 0
    assert "gaps" not in capsys.readouterr().out


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
    hints = inspect_cube(open_source(tmp_path / "c.zarr"))["hints"]
    assert any(hint.startswith("plane: a chunk is one large frame") for hint in hints)
    assert any(hint.startswith("crumbs: more than 20000 chunks below 64 KiB") for hint in hints)
    assert any(hint.startswith("plane: uint8 without nodata can't say gap") for hint in hints)


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
