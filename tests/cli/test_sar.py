"""Infilling from radar as a user types it: products, notes, blocks, workers, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers the accessor that writes a CRS
import xarray as xr
import zarr

from stpipe.cli.main import run

FRAMES, HEIGHT, WIDTH = 30, 32, 40
UNSEEN, CLOUDED = 17, 8
"""A frame without radar, and one wholly under clouds."""

SMALL = ("--method", "sar", "--workers", "1", "--no-geotiff", "--sar-clear-dates", "12")
WHERE = {"y": 5_000_000 - 10.0 * np.arange(HEIGHT) - 5, "x": 600_000 + 10.0 * np.arange(WIDTH) + 5}
START = np.datetime64("2024-03-01T10:00", "ns")


def dated(days: np.ndarray) -> np.ndarray:
    return np.asarray(START + (days * 86400).astype("timedelta64[s]"))


def scene() -> tuple[xr.Dataset, xr.Dataset, np.ndarray]:
    """Greenness that follows the radar of its days, under clouds; the radar; and the truth."""
    rng = np.random.default_rng(3)
    days = 5.0 * np.arange(FRAMES)
    dates = np.arange(-10.5, days[-1] + 12, 3.0)
    dates = dates[(dates < days[UNSEEN] - 6) | (dates >= days[UNSEEN] + 6)]
    y, x = np.mgrid[:HEIGHT, :WIDTH] / 10.0

    def wet(day: float) -> np.ndarray:
        return np.asarray(np.sin(day / 9 + x) + np.cos(day / 17 + 2 * y) + np.sin(day / 25))

    vv = np.array([-9 + 2 * wet(day) + rng.normal(0, 0.3, y.shape) for day in dates])
    vh = np.array([-16 + wet(0.7 * day) + rng.normal(0, 0.3, y.shape) for day in dates])
    vv[:, :2, :2] = vh[:, :2, :2] = -50.0  # nothing but noise
    truth = np.array([0.4 + 0.1 * wet(day) for day in days])
    clouds = rng.random((FRAMES, 4, 5)) < rng.uniform(0, 0.8, FRAMES)[:, None, None]
    gap = np.kron(clouds, np.ones((8, 8))) > 0
    gap[CLOUDED] = True
    gap[5:, 30, 30] = True
    values = np.where(gap, np.nan, truth + rng.normal(0, 0.005, truth.shape)).astype(np.float32)
    optical = xr.Dataset(
        {"ndvi": (("time", "y", "x"), values, {"long_name": "greenness"})}, coords={"time": dated(days), **WHERE}
    )
    orbits = np.where(np.arange(dates.size) % 2 > 0, "ascending", "descending")
    radar = xr.Dataset(
        {"vv": (("time", "y", "x"), vv), "vh": (("time", "y", "x"), vh), "orbit": ("time", orbits)},
        coords={"time": dated(dates), **WHERE},
    )
    return optical.rio.write_crs(32633), radar.rio.write_crs(32633), truth


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths of cubes, by the words that stand for them."""
    folder = tmp_path_factory.mktemp("cubes")
    optical, radar, _ = scene()
    packed = {"dtype": "int16", "scale_factor": 1e-4, "_FillValue": -32768, "chunks": (10, 16, 16)}
    elsewhere = radar.assign_coords(x=radar.x + 90_000)
    linear = radar.assign({name: 10 ** (radar[name] / 10) for name in ("vv", "vh")})
    both = optical.assign(radar[["vv", "vh"]].interp(time=optical.time, method="nearest"))
    made = {
        "CUBE": (optical, {"ndvi": packed}),
        "FLOAT": (optical, {"ndvi": {"chunks": (10, 16, 16)}}),
        "RADAR": (radar, {"vv": {"chunks": (7, 20, 20)}}),
        "FAR": (elsewhere, {}),
        "LATE": (radar.assign_coords(time=radar.time + np.timedelta64(900, "D")), {}),
        "FEW": (radar.isel(time=slice(0, 6)), {}),
        "WARPED": (radar.drop_vars("spatial_ref").rio.write_crs(32634), {}),
        "COUNTS": (radar.assign(vv=50 * (radar.vv + 60)), {}),
        "SINGLE": (radar.drop_vars("vh"), {}),
        "SAYS_DB": (linear.assign(vv=linear.vv.assign_attrs(units="dB")), {}),
        "SAYS_POWER": (radar.assign(vv=radar.vv.assign_attrs(units="linear")), {}),
        "SHORT": (optical.where(optical.time < optical.time[9]), {}),
        "BOTH": (both, {}),
    }
    paths = {}
    for name, (dataset, encoding) in made.items():
        paths[name] = folder / f"{name.lower()}.zarr"
        dataset.to_zarr(paths[name], zarr_format=2, consolidated=False, encoding=encoding)
    return paths


def stored(path: Path, name: str) -> np.ndarray:
    return np.asarray(zarr.open_group(str(path), mode="r")[name][...])  # type: ignore[index]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def fill(files: dict[str, Path], out: Path, capsys: Any, *words: str, cube: str = "CUBE", guide: str = "RADAR") -> Any:
    """Fill a cube and return the report."""
    typed = ["fill-scene", str(files[cube]), "--guide", str(files[guide]), "-o", str(out), *words, "--json"]
    status = run(typed)
    printed, said = capsys.readouterr()
    assert status == 0, said
    return json.loads(printed)


def test_a_scene_is_filled_from_radar_and_its_observations_stay(
    files: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    report = fill(files, tmp_path / "out", capsys, *SMALL, "--sar-window", "6")
    products = ["coefficients.zarr", "filled.zarr", "quicklook.png", "report.html", "run.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == products
    product = tmp_path / "out" / "filled.zarr"
    before, after, source, half = (
        stored(files["CUBE"], "ndvi"),
        *(stored(product, name) for name in ("ndvi", "ndvi_source", "ndvi_ci90")),
    )
    seen = before != -32768
    assert after.dtype == before.dtype
    assert after[seen].tobytes() == before[seen].tobytes()
    assert (source[seen] == 1).all()
    assert (half[seen] == 0).all()
    assert (after != -32768).all()
    assert (half[~seen] > 0).all()
    # By interpolation only where there is no radar, or too little that was clear.
    fallback = np.zeros(seen.shape, dtype=bool)
    fallback[UNSEEN] = fallback[:, :2, :2] = True
    fallback[:, np.delete(seen, UNSEEN, axis=0).sum(axis=0) < 12] = True
    assert 0 < fallback.all(axis=0).mean() < 0.2
    share = 1 - fallback.all(axis=0).mean()
    fallback &= ~seen
    assert fallback[UNSEEN].any()
    np.testing.assert_array_equal(source == 3, fallback)
    np.testing.assert_array_equal(source == 2, ~seen & ~fallback)
    counts = report["counts"]["ndvi"]
    assert (counts["filled"], counts["filled_by_fallback"]) == ((source == 2).sum(), fallback.sum())
    truth = scene()[2]
    error = np.abs(after * 1e-4 - truth)
    assert error[source == 2].mean() < 0.03
    assert error[CLOUDED][source[CLOUDED] == 2].mean() < 0.05
    assert (error <= half)[source == 2].mean() > 0.7

    kept = json.loads((tmp_path / "out" / "run.json").read_text())
    assert kept["guides"] == report["guides"]
    assert [(one["name"], one["variable"], one["stored_in"]) for one in kept["guides"]] == [
        ("vv", "vv", "dB"),
        ("vh", "vh", "dB"),
    ]
    assert {(one["window_days"], one["average"]) for one in kept["guides"]} == {(6.0, "power")}
    (told,) = (note for note in kept["notes"] if "a regression in" in note)
    assert told.startswith(f"radar vv, vh: a regression in {share:.1%} of the pixels, on ")
    (told,) = (note for note in kept["notes"] if "clear enough to be calibrated" in note)
    clear = seen.mean(axis=(1, 2)) > 0.5
    clear[UNSEEN] = False
    assert told == f"{clear.sum()} of {FRAMES} frames were clear enough to be calibrated"


def test_the_plan_says_what_is_done(files: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    more = [
        "--sar-window",
        "9",
        "--sar-average",
        "db",
        "--by-orbit",
        "orbit",
        "--sar-explained",
        "0.9",
        "--sar-cloud",
        "1",
    ]
    words = [str(files["CUBE"]), "--guide", str(files["RADAR"]), "-o", str(tmp_path / "out"), *SMALL, *more]
    assert run(["plan", *words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "out").exists()
    names = ["vv ascending", "vh ascending", "vv descending", "vh descending"]
    assert [one["name"] for one in plan["guides"]] == names
    assert {one["average"] for one in plan["guides"]} == {"db"}
    report = fill(files, tmp_path / "out", capsys, *SMALL, *more)
    assert plan["run_id"] == report["run_id"]
    assert plan["blocks_with_gaps"] == report["blocks"]["with_gaps"]
    assert plan["peak_worker_bytes"] == report["projected_peak_bytes"]
    assert any(note.startswith(f"radar {', '.join(names)}: ") for note in report["notes"])
    assert run(["plan", *words]) == 0
    assert "sar" in capsys.readouterr().out


def test_every_option_makes_another_run(files: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    words = [
        "plan",
        str(files["CUBE"]),
        "--guide",
        str(files["RADAR"]),
        "-o",
        str(tmp_path / "out"),
        "--no-scan",
        "--json",
    ]
    told = []
    for more in (
        [],
        ["--sar-window", "11"],
        ["--sar-average", "db"],
        ["--by-orbit", "orbit"],
        ["--sar-clear-dates", "19"],
        ["--sar-components", "0.4"],
        ["--sar-explained", "0.5"],
        ["--sar-cloud", "0.4"],
        ["--no-sar-smoothing"],
        ["--no-sar-calibration"],
        ["--guide-var", "vv"],
        ["--guide-resampling", "nearest"],
        ["--interval", "0.8"],
    ):
        assert run([*words, "--method", "sar", *more]) == 0, more
        told.append(json.loads(capsys.readouterr().out)["run_id"])
    assert len(set(told)) == len(told)
    assert (
        run([*words, "--method", "sar", "--sar-window", "12", "--sar-components", "0.5", "--sar-average", "power"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["run_id"] == told[0]


@pytest.mark.integration
def test_neither_blocks_nor_workers_make_a_difference(files: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    made = []
    for name, workers, block in (("whole", 1, (HEIGHT, WIDTH)), ("parts", 1, (16, 24)), ("two", 2, (16, 24))):
        words = ["--method", "sar", "--no-geotiff", "--sar-clear-dates", "12", "--workers", str(workers)]
        words += ["--block", f"{FRAMES},{block[0]},{block[1]}"]
        report = fill(files, tmp_path / name, capsys, *words, cube="FLOAT")
        made.append([stored(tmp_path / name / "filled.zarr", f"ndvi{end}") for end in ("", "_source", "_ci90")])
    assert report["blocks"]["with_gaps"] > 2
    whole, parts, _ = made
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-5)
    np.testing.assert_array_equal(parts[1], whole[1])
    np.testing.assert_allclose(parts[2], whole[2], rtol=2e-2)
    one, two = (snapshot(tmp_path / name / "filled.zarr") for name in ("parts", "two"))
    assert list(one) == list(two)
    assert one == two
    words = ["--method", "sar", "--no-geotiff", "--workers", "1"]
    words += ["--coefficients", str(tmp_path / "whole" / "coefficients.zarr")]
    fill(files, tmp_path / "again", capsys, *words, cube="FLOAT")
    np.testing.assert_allclose(stored(tmp_path / "again" / "filled.zarr", "ndvi"), whole[0], atol=1e-4)
    np.testing.assert_array_equal(stored(tmp_path / "again" / "filled.zarr", "ndvi_source"), whole[1])


def test_a_cube_has_its_own_radar(files: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    words = [*SMALL, "--var", "ndvi", "--no-sar-smoothing", "--no-sar-calibration"]
    report = fill(files, tmp_path / "out", capsys, *words, cube="BOTH", guide="BOTH")
    assert [one["name"] for one in report["guides"]] == ["vv", "vh"]
    assert list(report["counts"]) == ["ndvi"]
    source = stored(tmp_path / "out" / "filled.zarr", "ndvi_source")
    error = np.abs(stored(tmp_path / "out" / "filled.zarr", "ndvi") - scene()[2])
    assert error[source == 2].mean() < 0.05
    assert not any("calibrated" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("guide", "told"),
    [
        ("SAYS_DB", "vv says it is in 'dB', but runs from 0.0"),
        ("SAYS_POWER", "vv says it is in 'linear', but runs from -1"),
    ],
)
def test_units_that_the_range_belies_are_told_and_not_believed(
    guide: str, told: str, files: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    kind = "linear power" if guide == "SAYS_DB" else "dB"
    words = [str(files["CUBE"]), *SMALL[:2], "--guide", str(files[guide])]
    assert run(["plan", *words, "-o", str(tmp_path / "out"), "--json"]) == 0
    printed, said = capsys.readouterr()
    assert {one["stored_in"] for one in json.loads(printed)["guides"]} == {kind}
    (note,) = (line for line in said.splitlines() if "says it is in" in line)
    assert note.startswith(f"stpipe: note: {told}")
    assert note.endswith(f": taken as {kind}")
    assert run(["evaluate", *words, "--sar-clear-dates", "12", "--draws", "1", "--json"]) == 0
    assert note in capsys.readouterr().err.splitlines()


def test_a_cube_with_too_few_clear_dates_is_told_so(files: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    """There is radar on enough dates, but no pixel is clear on as many as a regression needs."""
    report = fill(files, tmp_path / "out", capsys, *SMALL, cube="SHORT")
    (told,) = (note for note in report["notes"] if note.startswith("radar vv, vh"))
    assert "no pixel has the 12 clear dates with radar that a regression needs" in told
    assert report["counts"]["ndvi"]["filled"] == 0
    assert (
        run(["evaluate", str(files["SHORT"]), "--method", "sar", "--guide", str(files["RADAR"]), "--draws", "1"]) == 0
    )
    assert "ndvi: sar is linear here: no pixel has as many clear dates with radar" in capsys.readouterr().err


REFUSALS = [
    pytest.param([], "method sar leans on radar; name its cube with --guide", id="no guide"),
    pytest.param(["--guide", "RADAR", "--guide", "RADAR"], "takes one --guide", id="two guides"),
    pytest.param(["--guide", "none.zarr"], "none.zarr", id="no such file"),
    pytest.param(["--guide", "FAR"], "do not overlap", id="elsewhere"),
    pytest.param(["--guide", "LATE"], "no time in common within 12 days", id="another year"),
    pytest.param(["--guide", "FEW"], "but a regression on radar needs 10; widen --sar-window", id="few pairs"),
    pytest.param(["--guide", "WARPED"], "no common CRS (EPSG:32634 and EPSG:32633)", id="another CRS"),
    pytest.param(["--guide", "COUNTS"], "neither in dB nor in linear power", id="counts"),
    pytest.param(["--guide", "SINGLE"], "has no VH, but vv", id="one polarisation"),
    pytest.param(["--guide", "CUBE"], "has no VV and no VH, but ndvi", id="the cube itself"),
    pytest.param(["--guide", "RADAR", "--guide-var", "vw"], "--guide-var vw is not there", id="no such variable"),
    pytest.param(["--guide", "RADAR", "--guide-window", "9"], "say with --sar-window how long", id="guide window"),
    pytest.param(["--guide", "RADAR", "--sar-window", "-1"], "days above 0, got -1", id="no window"),
    pytest.param(["--guide", "RADAR", "--sar-window", "nan"], "days above 0, got nan", id="window of nothing"),
    pytest.param(["--guide", "RADAR", "--sar-window", "week"], "--sar-window", id="window in words"),
    pytest.param(["--guide", "RADAR", "--sar-average", "mean"], "--sar-average", id="another average"),
    pytest.param(["--guide", "RADAR", "--by-orbit", "pass"], "--by-orbit pass is no variable along", id="no orbit"),
    pytest.param(["--guide", "RADAR", "--by-orbit", "vv"], "--by-orbit vv is no variable along", id="no directions"),
    pytest.param(["--guide", "RADAR", "--sar-clear-dates", "-3"], "at least 1 clear date, got -3", id="no clear dates"),
    pytest.param(["--guide", "RADAR", "--sar-clear-dates", "2.5"], "--sar-clear-dates", id="half a date"),
    pytest.param(["--guide", "RADAR", "--sar-components", "-0.5"], "at most 1, got -0.5", id="no components"),
    pytest.param(["--guide", "RADAR", "--sar-components", "20"], "at most 1, got 20", id="number of components"),
    pytest.param(["--guide", "RADAR", "--sar-explained", "-1"], "at most 1, got -1", id="nothing explained"),
    pytest.param(["--guide", "RADAR", "--sar-cloud", "50"], "at most 1, got 50", id="clouds in per cent"),
    pytest.param(["--guide", "RADAR", "--sar-cloud", "-0.1"], "at most 1, got -0.1", id="no clouds"),
    pytest.param(
        ["--guide", "RADAR", "--sar-components", "0.5", "--sar-explained", "0.5"], "give one of them", id="two rules"
    ),
    pytest.param(
        ["--guide", "RADAR", "--no-sar-smoothing", "--sar-components", "0.5"],
        "--no-sar-smoothing leaves out what --sar-components is about",
        id="components of nothing",
    ),
    pytest.param(
        ["--guide", "RADAR", "--no-sar-smoothing", "--sar-explained", "0.5"],
        "--no-sar-smoothing leaves out what --sar-explained is about",
        id="variance of nothing",
    ),
    pytest.param(
        ["--guide", "RADAR", "--no-sar-calibration", "--sar-cloud", "0.5"],
        "--no-sar-calibration leaves out what --sar-cloud is about",
        id="clouds of nothing",
    ),
    pytest.param(
        ["--guide", "RADAR", "--model", "x.keras"], "--model goes with --method pconv, not with sar", id="model"
    ),
    pytest.param(["--guide", "RADAR", "--tune"], "--tune goes with --method pconv, not with sar", id="tune"),
    pytest.param(
        ["--guide", "RADAR", "--method", "linear"],
        "method linear takes no --guide; guided, pconv",
        id="a method without",
    ),
    *(
        pytest.param(
            ["--guide", "RADAR", "--method", "guided", *words.split()],
            f"{words.split()[0]} goes with --method sar, not with guided",
            id=f"{words} without sar",
        )
        for words in (
            "--sar-window 9",
            "--sar-average db",
            "--by-orbit orbit",
            "--sar-clear-dates 9",
            "--sar-components 0.5",
            "--sar-explained 0.5",
            "--sar-cloud 0.5",
            "--no-sar-smoothing",
            "--no-sar-calibration",
            "--coefficients c.zarr",
        )
    ),
]


@pytest.mark.parametrize("verb", ["fill-scene", "plan"])
@pytest.mark.parametrize(("words", "expected"), REFUSALS)
def test_a_refusal_is_one_line_and_leaves_everything(
    verb: str, words: list[str], expected: str, files: dict[str, Path], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    method = [] if "--method" in words else ["--method", "sar"]
    typed = [str(files.get(word, word)) for word in words]
    assert run([verb, str(files["CUBE"]), "-o", "out", *method, *typed]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert expected in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "word", ["--sar-window", "--sar-clear-dates", "--sar-components", "--sar-explained", "--sar-cloud"]
)
def test_nought_is_refused_and_not_taken_for_nothing(files: dict[str, Path], tmp_path: Path, word: str) -> None:
    words = ["plan", str(files["CUBE"]), "-o", str(tmp_path / "o"), "--method", "sar", "--guide", str(files["RADAR"])]
    assert run([*words, word, "0", "--no-scan"]) == 2


def test_radar_in_the_cube_is_not_filled_from_itself(files: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    both = str(files["BOTH"])
    words = ["plan", both, "-o", str(tmp_path / "o"), "--method", "sar", "--guide", both, "--no-scan"]
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["variables"] == ["ndvi"]
    assert run([*words, "--var", "vv"]) == 2
    assert "vv of" in capsys.readouterr().err
