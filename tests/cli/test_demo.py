"""The demo: real fills of a small scene, scored against an independent reading of the products."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from stpipe.cli import demo
from stpipe.cli.main import run
from stpipe.core.scene import SceneSpec, make_scene
from stpipe.core.sky import Sample
from stpipe.errors import OptionError
from stpipe.io.scene import write_scene
from stpipe.resources import shipped

QUICK = """
scene: {seed: 3, frames: 12, height: 96, width: 112, swath_frames: 2, striped_frames: 1, overcast_frames: 1}
small: {}
methods: [pyramid, linear]
block: [12, 64, 80]
"""


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the demo be a quick one."""
    pipeline = tmp_path / "quick.yaml"
    pipeline.write_text(QUICK)
    monkeypatch.setattr(demo, "shipped", lambda *_: pipeline)
    return pipeline


@pytest.mark.processes
def test_the_demo_fills_scores_and_draws_and_may_be_run_again(
    quick: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert run(["demo", "-o", str(folder), "--workers", "1", "--json", "--debug"]) == 0
    first = json.loads(capfd.readouterr().out)
    assert set(first["methods"]) == {"pyramid", "linear"}
    assert (folder / "demo.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "demo.png").stat().st_size > 50_000

    # The scores once more, from the files alone and with whole arrays.
    with (
        xr.open_zarr(folder / "truth.zarr", chunks=None) as truth,
        xr.open_zarr(folder / "scene.zarr", chunks=None) as seen,
    ):
        known, observed, sample = truth["ndvi"].values, seen["ndvi"].values, truth["sample"].values
    gaps = np.isnan(observed) & np.isfinite(known)
    np.testing.assert_array_equal(gaps, (sample != Sample.OBSERVED) & (sample != Sample.OUTSIDE_DOMAIN))
    maes = {}
    for method, outcome in first["methods"].items():
        with xr.open_zarr(Path(outcome["folder"]) / "filled.zarr", chunks=None) as filled:
            values, half = filled["ndvi"].values, filled["ndvi_ci90"].values
        np.testing.assert_array_equal(values[~gaps], observed[~gaps])
        error = (values.astype(np.float64) - known)[gaps]
        maes[method] = float(np.abs(error).mean())
        scores = outcome["scores"]["all gaps"]
        assert scores["samples"] == gaps.sum()
        assert scores["filled"] == 1.0
        assert scores["mae"] == pytest.approx(maes[method], rel=1e-9)
        assert scores["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-9)
        assert scores["coverage"] == pytest.approx((np.abs(error) <= half[gaps]).mean(), abs=1e-3)
        kinds = outcome["scores"]
        assert sum(kinds[kind]["samples"] for kind in kinds if kind != "all gaps") == gaps.sum()
    assert first["best"] == min(maes, key=lambda method: maes[method])

    assert run(["demo", "-o", str(folder), "--workers", "1", "--small"]) == 0
    printed = capfd.readouterr().out
    second = json.loads((folder / "demo.json").read_text())
    for method, outcome in first["methods"].items():
        assert second["methods"][method]["scores"] == outcome["scores"]
        assert f"{outcome['scores']['all gaps']['mae']:.4f}" in printed
    assert f"* {first['best']}" in " ".join(printed.split())
    assert str(folder / "demo.png") in printed


def test_the_shipped_demo_is_the_scene_that_its_file_describes() -> None:
    spec = demo.DemoSpec.read(shipped("pipelines", "demo.yaml"))
    assert spec.scene == SceneSpec()  # the file spells the defaults out
    assert spec.small.height * spec.small.width * spec.small.frames < spec.scene.height * spec.scene.width * 3
    assert spec.methods == ("pyramid", "linear", "pconv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "scene: {frmes: 3}\nmethods: [linear]", "no key 'frmes' in a scene; did you mean 'frames'", id="scene"
        ),
        pytest.param("scenes: {}\nmethods: [linear]", "no key 'scenes' in a demo; did you mean 'scene'", id="top"),
        pytest.param("small: {noise: x}\nmethods: [linear]", "small: noise must be a number, got 'x'", id="small"),
        pytest.param("methods: linear", "methods must be a list of names, got 'linear'", id="methods"),
        pytest.param("scene: 3\nmethods: [linear]", "scene must hold keys and values, got 3", id="section"),
        pytest.param("[1, 2]", "must hold keys and values, got list", id="list"),
        pytest.param("a: [", "is not YAML", id="damaged"),
        pytest.param("block: [1, 2]\nmethods: [linear]", "block must be three whole numbers above 0", id="block"),
    ],
)
def test_a_wrong_pipeline_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(OptionError) as caught:
        demo.DemoSpec.read(path)
    assert message in str(caught.value)


def test_a_folder_with_other_files_is_left_alone(
    quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert run(["demo", "-o", str(tmp_path / "mine")]) == 2
    assert "holds files that are not the demo's" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert run(["demo", "-o", str(tmp_path / "mine" / "thesis.txt")]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err
    assert run(["demo", "-o", str(tmp_path / "mine" / "thesis.txt" / "deeper")]) == 2
    assert "(Not a directory); name another folder with -o" in capsys.readouterr().err


def test_the_chosen_frames_show_each_kind_of_gap_once() -> None:
    scene = make_scene(demo.DemoSpec.read(shipped("pipelines", "demo.yaml")).small)
    chosen = demo.choose_frames(scene)
    assert len(chosen) == len(set(chosen.values())) == 5
    by_kind = {kind: scene.sample[number] for number, kind in chosen.items()}
    assert not (by_kind["nothing observed"] == Sample.OBSERVED).any()
    assert (by_kind["swath edge"] == Sample.SWATH).any()
    assert (by_kind["dead lines"] == Sample.LINES).any()


def test_the_written_scene_reads_back_as_it_was_made(tmp_path: Path) -> None:
    scene = make_scene(SceneSpec(frames=10, height=40, width=52, swath_frames=2, resolution_m=10.0))
    write_scene(scene, tmp_path / "scene.zarr", tmp_path / "truth.zarr")
    write_scene(scene, tmp_path / "scene.zarr", tmp_path / "truth.zarr")  # replaces
    with xr.open_zarr(tmp_path / "scene.zarr") as cube:
        assert cube["ndvi"].encoding["dtype"] == np.dtype("int16")
        assert cube.rio.crs.to_epsg() == 32632
        assert cube.rio.resolution() == (10.0, -10.0)
        assert cube.rio.bounds()[0] == scene.spec.west_m
        assert cube.rio.bounds()[3] == scene.spec.north_m
        np.testing.assert_allclose(cube["ndvi"].values, scene.observed, atol=0.51e-4)
        np.testing.assert_array_equal(cube["time"].values, scene.times)
        np.testing.assert_array_equal(cube["land"].values.astype(bool), scene.land)
    with xr.open_zarr(tmp_path / "truth.zarr") as truth:
        np.testing.assert_array_equal(truth["ndvi"].values, scene.truth)
        np.testing.assert_array_equal(truth["sample"].values, scene.sample)
        assert len(truth["sample"].attrs["flag_meanings"].split()) == len(truth["sample"].attrs["flag_values"])
