"""`stpipe evaluate` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from stpipe.cli.main import run
from stpipe.core.gap_classes import REPORT_CLASSES


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cube with clouds, a missing frame, codes, an all-gap variable, and a domain."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:40, :48] / 15
    values = np.stack([np.sin(y + t / 4) * np.cos(x - t / 5) for t in range(9)]) + 0.05 * rng.normal(size=(9, 40, 48))
    for t in range(9):
        top, left = rng.integers(0, 26, 2)
        values[t, top : top + 12, left : left + 14] = np.nan
    values[4] = np.nan
    when = np.datetime64("2023-05-01", "ns") + np.cumsum(rng.integers(2, 9, 9)) * np.timedelta64(1, "D")
    dims = ("time", "y", "x")
    dataset = xr.Dataset(
        {
            "ndvi": (dims, values.astype(np.float32), {"units": "1"}),
            "scl": (dims, np.ones(values.shape, np.uint8)),
            "nothing": (dims, np.full(values.shape, np.nan, np.float32)),
            "land": (("y", "x"), np.ones((40, 48), np.uint8)),
        },
        {"time": when, "y": np.arange(40.0)[::-1], "x": np.arange(48.0)},
    )
    path = tmp_path_factory.mktemp("evaluate") / "cube.zarr"
    dataset.to_zarr(path, consolidated=False)
    dataset[["ndvi"]].isel(time=[0]).to_zarr(path.with_name("one.zarr"), consolidated=False)
    return str(path)


def test_the_table_says_which_method_is_best(cube: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "scores.png"
    words = ["evaluate", cube, "--var", "ndvi", "--method", "pyramid", "--domain", "land", "--picture", str(picture)]
    assert run(words) == 0
    out, err = capsys.readouterr()
    assert "note" not in err.replace("stpipe: note: ndvi", "")
    lines = out.splitlines()
    assert "samples hidden in 2 draws with seed 0" in out
    for method in ("pyramid", "linear"):
        assert any(line.split()[:1] == [method] for line in lines)
    assert any(line.lstrip().startswith("cloud core") for line in lines)
    assert sum(line.count("*") for line in lines if line.split()[:1] in (["pyramid"], ["linear"])) == 1
    with Image.open(picture) as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(2**20) or []) > 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.png"]


def test_json_holds_the_same_numbers_for_the_same_seed(cube: str, capsys: pytest.CaptureFixture[str]) -> None:
    def scores(*words: str) -> dict[str, object]:
        assert run(["evaluate", cube, "--var", "ndvi", "--method", "linear", "--draws", "1", "--json", *words]) == 0
        (variable,) = json.loads(capsys.readouterr().out)["variables"]
        return dict(variable)

    one, same, other = scores(), scores(), scores("--seed", "3")
    assert one["rows"] == same["rows"] != other["rows"]
    assert one["variable"] == "ndvi"
    assert {row["group"] for row in one["rows"] if row["grouping"] == "gap class"} <= set(REPORT_CLASSES)
    overall = one["rows"][0]
    assert (overall["method"], overall["group"], overall["skill"]) == ("linear", "all", 0)
    wide = scores("--interval", "0.99")["rows"][0]
    assert wide["width"] > overall["width"]
    assert wide["coverage"] >= overall["coverage"]
    assert wide["mae"] == overall["mae"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--draws", "0"], "drawn at least once, got --draws 0"),
        (["--interval", "1"], "the coverage of an interval must lie between 0 and 1"),
        (["--interval", "0"], "the coverage of an interval must lie between 0 and 1"),
        (["--interval", "nan"], "the coverage of an interval must lie between 0 and 1"),
        (["--method", "magic"], "no method 'magic'; there are pconv"),
        (["--model", "none.keras"], "--model none.keras goes with pconv"),
        (["--valid-range", "5,6"], "variable 'ndvi' has no valid sample"),
        (["--valid-range", "6,5"], "--valid-range needs LO,HI with LO <= HI"),
        (["--var", "nothing"], "variable 'nothing' has no valid sample"),
        (["--var", "ndiv"], "ndvi"),
        (["--time", "1999-01-01/1999-02-01"], "1999"),
        (["--picture", "scores.jpg"], "--picture needs a file that ends with .png"),
        (["--picture", "nowhere/scores.png"], "--picture can't be written to nowhere/scores.png"),
        (["--seed", "-1"], "--seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_refused_in_one_line(
    cube: str, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    variable = [] if "--var" in words else ["--var", "ndvi"]
    method = [] if "--method" in words else ["--method", "linear"]
    assert run(["evaluate", cube, *variable, *method, *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stpipe: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_one_frame_and_methods_in_time_alone_are_refused(cube: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = cube.replace("cube.zarr", "one.zarr")
    assert run(["evaluate", one, "--method", "linear"]) == 2
    assert "the cube has one frame, of which linear can say nothing" in capsys.readouterr().err
    assert run(["evaluate", one, "--method", "pyramid", "--draws", "1"]) == 0


def test_codes_are_left_out_and_what_is_empty_is_told(cube: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", cube, "--method", "linear"]) == 2
    assert "variable 'nothing' has no valid sample" in capsys.readouterr().err
