"""`--qa`, `--keep`, `--drop` and `--buffer` as a user types them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers the accessor that writes a CRS
import xarray as xr
import zarr
from scipy import ndimage

from stpipe.cli.main import run

FRAMES, SIDE = 5, 48
SAMPLES = FRAMES * SIDE * SIDE
CLOUD, SHADOW, LAND = 9, 3, 4
NOTE = f"stpipe: note: --drop SCL:77 matches none of {SAMPLES} samples, so that it drops nothing"


def make() -> xr.Dataset:
    """Return a small packed cube of two variables, with bright values under cloud."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    values = np.stack([0.3 + 0.2 * np.sin(5 * x + t) * y for t in range(FRAMES)])
    scl = np.kron(rng.choice([CLOUD, SHADOW, LAND, LAND, LAND], (FRAMES, 6, 6)), np.ones((1, 8, 8)))
    dims = ("time", "y", "x")
    cube = xr.Dataset(
        {
            "red": (dims, np.where(scl == CLOUD, 0.9, values), {"units": "1"}),
            "nir": (dims, np.where(scl == CLOUD, 0.95, 2 * values), {"units": "1"}),
            "SCL": (dims, scl),
        },
        coords={
            "time": np.datetime64("2024-03-01", "ns") + 5 * np.arange(FRAMES) * np.timedelta64(1, "D"),
            "y": 5_000_000 - 10.0 * np.arange(SIDE) - 5,
            "x": 600_000 + 10.0 * np.arange(SIDE) + 5,
        },
    ).rio.write_crs(32633)
    for name in ("red", "nir"):
        cube[name].encoding = {"dtype": "int16", "scale_factor": 1e-4, "_FillValue": -9999, "chunks": (2, 16, 48)}
    cube["SCL"].encoding = {"dtype": "uint8", "_FillValue": 0, "chunks": (5, 10, 48)}
    return cube


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cubes") / "cube.zarr"
    make().to_zarr(path, zarr_format=3, consolidated=False)
    return path


def stored(path: Path, name: str) -> np.ndarray:
    return np.asarray(zarr.open_group(str(path), mode="r")[name][...])  # type: ignore[index]


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def fill(cube: Path, out: Path, *more: str) -> int:
    options = ["--method", "pyramid", "--workers", "1", "--no-geotiff", "--block", "5,32,32", "--overlap", "0,4,4"]
    return run(["fill-scene", str(cube), "-o", str(out), *options, *more])


def test_what_is_dropped_is_filled_as_if_it_were_nodata(cube: Path, tmp_path: Path, capsys: Any) -> None:
    assert fill(cube, tmp_path / "out", "--qa", "s2-scl:-shadow", "--buffer", "2") == 0
    near = np.stack([ndimage.distance_transform_edt(frame != CLOUD) <= 2 for frame in make().SCL])
    masked = make()
    for name in ("red", "nir"):
        encoding = masked[name].encoding
        masked[name] = masked[name].where(~near)
        masked[name].encoding = encoding
    masked.drop_vars("SCL").to_zarr(tmp_path / "masked.zarr", zarr_format=3, consolidated=False)
    assert fill(tmp_path / "masked.zarr", tmp_path / "other") == 0
    assert lines(capsys) == []
    found, expected = tmp_path / "out" / "filled.zarr", tmp_path / "other" / "filled.zarr"
    for name in ("red", "nir"):
        for part in ("", "_source", "_ci90"):
            np.testing.assert_array_equal(stored(found, name + part), stored(expected, name + part))
        before, source = stored(cube, name), stored(found, f"{name}_source")
        np.testing.assert_array_equal(source == 2, near)
        np.testing.assert_array_equal(stored(found, name)[~near], before[~near])
    assert stored(found, "red").max() < 8900  # no cloud is left
    assert "SCL" not in zarr.open_group(str(found), mode="r")


def test_a_run_knows_its_rules_and_the_files_they_are_about(cube: Path, tmp_path: Path, capsys: Any) -> None:
    own, out = tmp_path / "cube.zarr", tmp_path / "out"
    make()[["red", "SCL"]].to_zarr(own, zarr_format=3, consolidated=False)
    rules = ["--qa", "s2-scl", "--drop", "SCL:77"]
    assert fill(own, out, *rules) == 0
    assert lines(capsys) == [NOTE]
    report = json.loads((out / "run.json").read_text())
    assert report["identity"]["input"]["trust"]["buffer"] == 0
    assert report["notes"] == [NOTE.removeprefix("stpipe: note: ")]
    assert fill(own, out, *rules) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert fill(own, out, *rules, "--buffer", "1") == 2
    assert "holds a finished run of another kind (differs in buffer)" in lines(capsys)[-1]
    assert fill(own, out, *rules, "--keep", "SCL:1-9") == 2
    assert "(differs in rules)" in lines(capsys)[-1]
    chunk = next(file for file in sorted((own / "SCL" / "c").rglob("*")) if file.is_file())
    os.utime(chunk, ns=(1, 1))
    assert fill(own, out, *rules) == 2
    assert "the cube's files have changed since" in lines(capsys)[-1]


def test_a_plan_counts_with_the_rules(cube: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["plan", str(cube), "--method", "pyramid", "-o", str(tmp_path / "out"), "--drop", f"SCL:{CLOUD}"]
    assert run([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["gap_share"] == pytest.approx(float((make().SCL == CLOUD).mean()))
    assert said["trust"] == [f"--drop SCL:{CLOUD}"]
    assert said["variables"] == ["nir", "red"]
    assert run([*words, "--buffer", "3"]) == 0
    assert f"--drop SCL:{CLOUD}, grown by 3" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "out").exists()


def test_rules_that_match_nothing_are_said_aloud(cube: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(["plan", str(cube), "--method", "pyramid", "-o", str(tmp_path / "p"), "--drop", "SCL:77"]) == 0
    assert lines(capsys) == [NOTE]
    words = ["evaluate", str(cube), "--var", "red", "--method", "linear", "--draws", "1", "--keep", "SCL:0-20"]
    assert run(words) == 0
    line, shapes = lines(capsys)
    assert "there is no gap to take shapes from" in shapes
    assert f"--keep SCL:0-20 matches all of {SAMPLES} samples, so that it drops nothing (of the parts" in line
    blocks = ["blocks", "export", str(cube), "-o", str(tmp_path / "b"), "--block", "5,24,24", "--drop", "SCL:77"]
    assert run([*blocks, "--gaps", "none"]) == 0
    assert NOTE in lines(capsys)
    assert run(["info", str(cube), "--drop", "SCL:77"]) == 0
    assert "--drop SCL:77 matches none" in capsys.readouterr().out


def test_blocks_are_cut_with_gaps_where_nothing_is_trusted(cube: Path, tmp_path: Path) -> None:
    words = ["blocks", "export", str(cube), "-o", str(tmp_path / "b"), "--var", "red", "--block", f"5,{SIDE},{SIDE}"]
    assert run([*words, "--gaps", "none", "--qa", "s2-scl"]) == 0
    with rasterio.open(tmp_path / "b" / "MASK_red_0_0_0.tif") as flags:
        np.testing.assert_array_equal(flags.read() == 1, make().SCL == LAND)


def test_scores_leave_out_what_is_not_trusted(cube: Path, capsys: Any) -> None:
    words = ["evaluate", str(cube), "--var", "red", "--method", "linear", "--draws", "1", "--json"]
    assert run(words) == 0
    whole = json.loads(capsys.readouterr().out)["variables"][0]
    assert run([*words, "--qa", "s2-scl"]) == 0
    clear = json.loads(capsys.readouterr().out)["variables"][0]
    assert clear["spread"] < whole["spread"]  # clouds spread it


REFUSED = [
    (["--qa", "sentinel2"], "there are s2-scl, landsat-c2"),
    (["--qa", "hls-fmask"], "has no variable 'Fmask'"),
    (["--qa", "s2-scl=SLC"], "did you mean 'SCL'?"),
    (["--drop", "SCL:bits=8"], "bit 8 lies beyond SCL, whose type uint8 has bits 0 to 7"),
    (["--keep", "SCL"], "a rule is VAR:4,5,8-10 (values), VAR:bits=3,4 (any of the bits), VAR:bits=8-9:2,3 (field)"),
    (["--keep", "SCL=4"], "can't be read"),
    (["--buffer", "2"], "--buffer grows what rules call unclear"),
    (["--buffer", "2000", "--qa", "s2-scl"], "--buffer takes 0 to 1000 pixels"),
    (["--var", "SCL", "--qa", "s2-scl"], "can't be filled or scored on as well"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
@pytest.mark.parametrize("verb", ["fill-scene", "plan", "evaluate", "blocks export", "train"])
def test_bad_rules_are_refused_in_one_line_before_any_work(
    verb: str, words: list[str], message: str, cube: Path, tmp_path: Path, capsys: Any
) -> None:
    own = {
        "fill-scene": ["-o", str(tmp_path / "out"), "--method", "pyramid"],
        "plan": ["-o", str(tmp_path / "out"), "--method", "pyramid"],
        "evaluate": ["--method", "linear"],
        "blocks export": ["-o", str(tmp_path / "out")],
        "train": ["-o", str(tmp_path / "w.keras"), "--from", "scratch"],
    }[verb]
    assert run([*verb.split(), str(cube), *own, *words]) == 2
    (line,) = lines(capsys)
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_folders_of_blocks_have_no_rules(cube: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(["blocks", "export", str(cube), "-o", str(tmp_path / "b"), "--var", "red", "--gaps", "none"]) == 0
    assert run(["train", str(tmp_path / "b"), "-o", str(tmp_path / "w.keras"), "--qa", "s2-scl"]) == 2
    assert "--qa, --keep or --drop goes with cubes" in lines(capsys)[-1]
