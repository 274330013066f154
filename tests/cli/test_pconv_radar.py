"""The default method with radar as a user types it: products, notes, whoever works, and a run that was broken off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stpipe.cli.main import run
from stpipe.core.ports import BlockInput, Prediction
from stpipe.errors import ReadError
from stpipe.methods.radar_stack import RadarStackFiller
from tests.cli.test_sar import FRAMES, scene, snapshot, stored
from tests.methods.networks import write_model

# Keras' own meeting with NumPy 2, when it writes a file.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What is typed behind a verb, but for the output and who works."""
    folder = tmp_path_factory.mktemp("radar")
    optical, radar, _ = scene()
    optical.to_zarr(folder / "ndvi.zarr", zarr_format=2, consolidated=False)
    radar.to_zarr(folder / "s1.zarr", zarr_format=2, consolidated=False)
    model = write_model(folder / "fresh.keras", None)
    given = [str(folder / "ndvi.zarr"), "--guide", str(folder / "s1.zarr"), "--model", model]
    return [*given, "--block", f"{FRAMES},16,24", "--no-geotiff", "--memory-limit", "4GiB", "--json"]


@pytest.fixture(scope="module")
def undisturbed(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run by a worker."""
    out = tmp_path_factory.mktemp("out") / "whole"
    assert run(["fill-scene", *words, "-o", str(out), "--workers", "1"]) == 0
    return out


@pytest.mark.slow
def test_it_looks_at_the_scene_learns_and_says_whether_radar_helps(
    words: list[str], undisturbed: Path, tmp_path: Path, capsys: Any
) -> None:
    report = json.loads((undisturbed / "run.json").read_text())
    assert sorted(one["name"] for one in report["guides"]) == ["vh", "vh@dB", "vv", "vv@dB"]
    assert {"means", "regression", "calibration"} <= set(report["seconds"])
    (said,) = (note for note in report["notes"] if "by sar, on " in note)
    assert said.startswith("radar helps, and counts in ")
    assert any(note.startswith("radar vv@dB, vh@dB: a regression in ") for note in report["notes"])
    assert not (undisturbed / "coefficients.zarr").exists()
    before, after = scene()[0]["ndvi"].values, stored(undisturbed / "filled.zarr", "ndvi")
    seen = np.isfinite(before)
    np.testing.assert_array_equal(after[seen], before[seen])
    assert np.abs(after - scene()[2])[~seen].mean() < 0.05
    assert run(["plan", *words, "-o", str(tmp_path / "out"), "--workers", "1", "--no-scan"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["run_id"] == report["run_id"]
    assert report["peak_worker_bytes"] <= plan["peak_worker_bytes"] == report["projected_peak_bytes"]


@pytest.mark.slow
def test_a_run_that_was_broken_off_ends_as_one_that_was_not_whoever_works(
    words: list[str], undisturbed: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, blocks = tmp_path / "broken", 0
    fill: Callable[[RadarStackFiller, BlockInput], Prediction] = RadarStackFiller.fill

    def failing(self: RadarStackFiller, block: BlockInput) -> Prediction:
        nonlocal blocks
        blocks += block.all_days is not None and self.leaning is not None
        if blocks > 4:
            raise ReadError("a disk that fails")
        return fill(self, block)

    typed = ["fill-scene", *words, "-o", str(out), "--shard", "1/1"]
    monkeypatch.setattr(RadarStackFiller, "fill", failing)
    assert run(typed) == 1
    assert "a disk that fails" in capsys.readouterr().err
    assert not (out / "filled.zarr").exists()
    monkeypatch.setattr(RadarStackFiller, "fill", fill)
    assert run(typed) == 0
    assert snapshot(out / "filled.zarr") == snapshot(undisturbed / "filled.zarr")


def test_options_of_infilling_from_radar_are_not_the_default_method_s(words: list[str], tmp_path: Path) -> None:
    assert run(["plan", *words, "-o", str(tmp_path / "out"), "--sar-window", "9"]) == 2
    assert run(["plan", *words, "-o", str(tmp_path / "out"), "--no-tune"]) == 2
