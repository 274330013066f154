"""`stpipe evaluate` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers the accessor that writes a CRS
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
    assert run(["evaluate", cube, "--method", "linear", "--var", "nothing"]) == 2
    assert "variable 'nothing' has no valid sample" in capsys.readouterr().err
    assert run(["evaluate", cube, "--method", "linear", "--draws", "1", "--json"]) == 0
    told = capsys.readouterr()
    assert "variable 'nothing' has no valid sample" in told.err
    assert [each["variable"] for each in json.loads(told.out)["variables"]] == ["ndvi"]


def test_a_picture_that_could_not_be_written_is_refused_before_any_work(
    cube: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != tmp_path)
    assert run(["evaluate", cube, "--method", "linear", "--picture", str(tmp_path / "x.png")]) == 2
    assert "no right to write" in capsys.readouterr().err


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cube that follows its weather, radar that does too, and radar that is nothing but noise, by name."""
    rng = np.random.default_rng(5)
    days, dates = 6.0 * np.arange(24), np.arange(-10.0, 150.0, 5.0)
    weather = rng.normal(size=dates.size).cumsum() / 3
    y, x = np.mgrid[:24, :32] / 8
    wet = weather[:, None, None] + 0.3 * np.sin(y + x + dates[:, None, None] / 20)
    values = np.array([wet[(dates >= day - 12) & (dates < day + 12)].mean(axis=0) for day in days])
    values = (0.5 + 0.1 * values + 0.01 * rng.normal(size=values.shape)).astype(np.float32)
    values[np.kron(rng.random((24, 3, 4)) < rng.uniform(0, 0.8, (24, 1, 1)), np.ones((8, 8))) > 0] = np.nan
    start, axes = np.datetime64("2024-03-01", "ns"), {"y": 5e6 - 10.0 * np.arange(24), "x": 6e5 + 10.0 * np.arange(32)}
    dims = ("time", "y", "x")

    def dated(days: np.ndarray) -> np.ndarray:
        return np.asarray(start + (days * 86400).astype("timedelta64[s]"))

    noise = rng.normal(-12, 2, (2, *wet.shape)) + rng.normal(0, 2, (2, dates.size, 1, 1))
    made = {
        "cube": xr.Dataset({"ndvi": (dims, values)}, {"time": dated(days), **axes}),
        "radar": xr.Dataset(
            {"vv": (dims, -10 + 2 * wet), "vh": (dims, -17 + wet + rng.normal(0, 0.2, wet.shape))},
            {"time": dated(dates), **axes},
        ),
        "noise": xr.Dataset({"vv": (dims, noise[0]), "vh": (dims, noise[1])}, {"time": dated(dates), **axes}),
        "both": xr.Dataset(
            {name: (dims, np.where(np.isfinite(v), v, 0)) for name, v in (("vv", values - 12), ("vh", values - 18))},
            {"time": dated(days), **axes},
        ).assign(ndvi=(dims, values)),
        "late": xr.Dataset({"vv": (dims, wet), "vh": (dims, wet)}, {"time": dated(dates + 900), **axes}),
    }
    folder = tmp_path_factory.mktemp("radar")
    for name, dataset in made.items():
        dataset.rio.write_crs(32633).to_zarr(folder / f"{name}.zarr", consolidated=False)
    return {name: str(folder / f"{name}.zarr") for name in made}


SAR = ("--method", "sar", "--sar-clear-dates", "9")


def test_radar_is_scored_beside_what_it_has_to_beat(site: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    # Half of the dates are those of the score, which no regression sees.
    assert run(["evaluate", site["cube"], *SAR[:-1], "7", "--guide", site["radar"]]) == 0
    out, err = capsys.readouterr()
    assert "note: ndvi: sar is " in err
    assert "better than the same regression on radar dates in a random order" in err
    assert "tells nothing" not in err
    lines = [line.split() for line in out.splitlines()]
    for method in ("sar", "sar-shuffled", "linear", "whittaker", "pyramid"):
        assert sum(line[:1] == [method] for line in lines) == 1
    assert "against whittaker" in out or "against linear" in out or "against pyramid" in out
    heading = lines.index(
        ["MAE", "by", "frame", "clear", "hidden", "sar", "sar-shuffled", "linear", "whittaker", "pyramid", "calibrated"]
    )
    frames = [line for line in lines[heading + 2 :] if line]
    assert all(line[0].startswith("2024-") and (line[-1] in {"yes", "no"} or line[-1] == "%") for line in frames)
    assert {line[-1] for line in frames} >= {"yes", "no"}


def test_radar_that_is_noise_is_said_to_tell_nothing(site: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", site["cube"], *SAR, "--guide", site["noise"], "--json", "--no-sar-calibration"]
    assert run(words) == 0
    out, err = capsys.readouterr()
    assert "radar tells nothing here that the regression could use" in err
    (found,) = json.loads(out)["variables"]
    assert all(frame["calibrated"] is None for frame in found["frames"])
    assert {one["other"] for one in found["differences"]} == {"linear", "sar-shuffled"}


def test_other_methods_take_the_radar_as_a_guide_in_the_same_call(
    site: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    def errors(*words: str) -> dict[str, float]:
        assert run(["evaluate", site["cube"], "--guide", site["radar"], "--draws", "1", "--json", *words]) == 0
        (found,) = json.loads(capsys.readouterr().out)["variables"]
        return {row["method"]: row["mae"] for row in found["rows"] if row["group"] == "all"}

    window = ("--guide-window", "9")
    together = errors(*SAR, "--method", "guided", *window)
    assert together["guided"] == errors("--method", "guided", *window)["guided"]
    alone = errors(*SAR)
    assert {name: mae for name, mae in together.items() if name != "guided"} == alone
    assert "guided" not in alone
    assert errors(*SAR, "--sar-window", "30")["sar"] != alone["sar"]


def test_radar_in_the_very_cube_is_not_scored_on(site: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", site["both"], *SAR, "--guide", site["both"], "--draws", "1", "--json"]) == 0
    assert [found["variable"] for found in json.loads(capsys.readouterr().out)["variables"]] == ["ndvi"]


def test_frames_are_printed_on_demand(cube: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", cube, "--var", "ndvi", "--method", "linear", "--draws", "1"]
    assert run(words) == 0
    assert "MAE by frame" not in capsys.readouterr().out
    assert run([*words, "--frames"]) == 0
    out = capsys.readouterr().out
    table = out[out.index("MAE by frame") :].splitlines()
    assert table[0].split() == ["MAE", "by", "frame", "clear", "hidden", "linear"]
    assert run([*words, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["variables"]
    printed = [line.split() for line in table[2:] if line.strip()]
    assert [line[0] for line in printed] == [frame["date"] for frame in found["frames"]]
    assert [int(line[3].replace(",", "")) for line in printed] == [frame["hidden"] for frame in found["frames"]]
    assert sum(frame["hidden"] for frame in found["frames"]) == found["hidden"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "sar"], "method sar leans on radar; name its cube with --guide"),
        (["--method", "sar", "--sar-window", "9"], "method sar leans on radar; name its cube with --guide"),
        (["--method", "linear", "--sar-window", "9"], "--sar-window goes with --method sar, not with linear"),
        (["--method", "guided", "--guide", "radar", "--by-orbit", "o"], "--by-orbit goes with --method sar, not with"),
        (["--sar-cloud", "0.5"], "--sar-cloud goes with --method sar, not with those that are scored unless named"),
        (
            ["--method", "sar", "--guide", "radar", "--coefficients", "c.zarr"],
            "--coefficients have seen the very samples that a score hides",
        ),
        (["--coefficients", "c.zarr"], "--coefficients have seen the very samples that a score hides"),
        (["--method", "sar", "--guide", "radar", "--guide", "noise"], "method sar takes one --guide"),
        (["--method", "sar", "--guide", "radar", "--guide-window", "9"], "--guide-window is for other methods"),
        (["--method", "sar", "--guide", "radar", "--sar-window", "0"], "the window of radar is a number of days above"),
        (["--method", "sar", "--guide", "late"], "late.zarr"),
        (["--method", "sar", "--guide", "cube"], "has no VV and no VH"),
        (["--method", "sar", "--guide", "radar", "--model", "m.keras"], "--model m.keras goes with pconv"),
        (["--method", "sar-shuffled", "--guide", "radar"], "no method 'sar-shuffled'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_with_radar_is_refused_in_one_line(
    site: dict[str, str], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(["evaluate", site["cube"], *(site.get(word, word) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stpipe: error: ")
    assert err.count("\n") == 1, err
    assert message in err
