"""Guides as a user types them: products, blocks, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers the accessor that writes a CRS
import xarray as xr

from stpipe.cli.main import run

SIDE, FRAMES = 48, 12


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """A cube of noise under clouds, a guide that knows it at twice the dates, and the truth."""
    folder = tmp_path_factory.mktemp("guided")
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((2 * FRAMES, SIDE, SIDE)).astype(np.float32)
    when = np.datetime64("2024-03-01", "ns") + np.arange(2 * FRAMES) * np.timedelta64(3, "D")
    where = {"y": 5_000_000 - 10.0 * np.arange(SIDE), "x": 600_000 + 10.0 * np.arange(SIDE)}
    gap = np.kron(rng.random((FRAMES, 6, 6)) < 0.4, np.ones((8, 8))) > 0
    cube = xr.Dataset(
        {"ndvi": (("time", "y", "x"), np.where(gap, np.nan, truth[::2]))}, coords={"time": when[::2], **where}
    ).rio.write_crs(32633)
    guide = xr.Dataset({"vv": (("time", "y", "x"), 7 - 20 * truth)}, coords={"time": when, **where})
    for name, dataset in (("cube", cube), ("s1", guide.rio.write_crs(32633))):
        dataset.to_zarr(folder / f"{name}.zarr", zarr_format=3, consolidated=False)
    return folder / "cube.zarr", folder / "s1.zarr", truth[::2]


def test_a_scene_is_filled_by_its_guide_in_any_blocks(files: Any, tmp_path: Path, capsys: Any) -> None:
    cube, guide, truth = files
    words = ["--guide", str(guide), "--method", "guided", "--workers", "1", "--no-geotiff"]
    made = {}
    for name, block in (("whole", "12,48,48"), ("parts", "12,24,24")):
        out = tmp_path / name
        assert run(["fill-scene", str(cube), "-o", str(out), *words, "--block", block, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        (said,) = report["guides"]
        assert (said["name"], said["variable"], said["resampling"], said["window_days"]) == ("vv", "vv", "bilinear", 6)
        assert said["location"] == pytest.approx(7, abs=1)
        assert any("off the error of interpolation" in note for note in report["notes"])
        with xr.open_zarr(out / "filled.zarr") as filled:
            made[name] = filled.ndvi.values
    np.testing.assert_allclose(made["whole"], truth, atol=0.02)
    np.testing.assert_allclose(made["parts"], made["whole"], atol=1e-4)
    # A guide that was written again is another input.
    with xr.open_zarr(guide, consolidated=False) as dataset:
        dataset.load().to_zarr(guide, mode="w", zarr_format=3, consolidated=False)
    assert run(["fill-scene", str(cube), "-o", str(tmp_path / "whole"), *words, "--block", "12,48,48"]) == 2
    assert "chang" in capsys.readouterr().err


def test_the_plan_knows_the_guide(files: Any, tmp_path: Path, capsys: Any) -> None:
    cube, guide, _ = files
    words = ["plan", str(cube), "-o", str(tmp_path / "out"), "--method", "stack", "--no-scan"]
    plans = []
    for more in ([], ["--guide", str(guide)], ["--guide", str(guide), "--guide-window", "4"]):
        assert run([*words, *more, "--json"]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    assert [guide["name"] for plan in plans for guide in plan["guides"]] == ["vv", "vv"]
    assert len({plan["run_id"] for plan in plans}) == 3
    assert plans[1]["peak_bytes"]["fill"] > plans[0]["peak_bytes"]["fill"]
    assert plans[1]["peak_bytes"]["learn"] > plans[0]["peak_bytes"]["learn"]
    assert run([*words, "--guide", str(guide)]) == 0
    assert "leans on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--method", "guided"], "leans on guides alone; give one with --guide", id="no guide"),
        pytest.param(["--method", "kriging", "--guide", "G"], "method kriging takes no --guide; guided", id="kriging"),
        pytest.param(["--no-tune", "--guide", "G"], "leave --no-tune out", id="untuned"),
        pytest.param(["--guide-var", "vv"], "--guide-var is about guides, and there is none", id="variable alone"),
        pytest.param(["--guide-window", "0"], "--guide-window is about guides", id="window alone"),
        pytest.param(["--guide", "G", "--guide-var", "vx"], "has none of vx; it has vv", id="no such variable"),
        pytest.param(["--guide", "none.zarr"], "none.zarr", id="no such file"),
        pytest.param(["--guide", "G", "--guide-window", "-1"], "at least 0, got -1", id="window below nought"),
        pytest.param(["--guide", "CUBE"], "has nothing besides what is to be filled", id="the cube itself"),
    ],
)
@pytest.mark.parametrize("verb", ["fill-scene", "plan"])
def test_what_can_not_be_is_refused_before_work(
    verb: str, words: list[str], message: str, files: Any, tmp_path: Path, capsys: Any
) -> None:
    cube, guide, _ = files
    typed = [{"G": str(guide), "CUBE": str(cube)}.get(word, word) for word in words]
    assert run([verb, str(cube), "-o", str(tmp_path / "out"), *typed]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert message in said
    assert not (tmp_path / "out").exists()


def test_methods_are_scored_with_a_guide(files: Any, capsys: Any) -> None:
    cube, guide, _ = files
    words = ["evaluate", str(cube), "--guide", str(guide), "--method", "pyramid", "--method", "guided", "--draws", "1"]
    assert run([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["variables"][0]["rows"]
    errors = {row["method"]: row["mae"] for row in rows if row["group"] == "all"}
    assert errors["guided"] < 0.1 * min(errors["linear"], errors["pyramid"])


def test_a_guide_that_no_method_to_score_listens_to_is_refused(files: Any, capsys: Any) -> None:
    cube, guide, _ = files
    assert run(["evaluate", str(cube), "--guide", str(guide), "--method", "linear", "--method", "pyramid"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert "none of the methods linear, pyramid listens to any" in said
