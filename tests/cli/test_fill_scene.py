"""`fill-scene` and `plan` as a user types them: products, refusals, deaths and resumptions."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers the accessor that writes a CRS
import xarray as xr
import zarr
from rio_cogeo.cogeo import cog_validate

import stpipe
from stpipe.cli.main import run

SMALL = ("--method", "pyramid", "--workers", "1", "--no-geotiff")


def make_cube(path: Path, *, frames: int = 6, side: int = 64, seed: int = 5, **more: Any) -> xr.Dataset:
    """Write a small int16 cube with clouds, an all-gap frame and a land mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    values = np.stack([0.4 + 0.3 * np.sin(4 * x + t / 2) * y for t in range(frames)])
    clouds = rng.random((frames, side // 8, side // 8)) < 0.4
    gap = np.kron(clouds, np.ones((8, 8), dtype=bool))
    gap[frames // 2] = True
    days = np.cumsum(rng.integers(1, 9, frames)).astype("timedelta64[D]")
    cube = xr.Dataset(
        {
            "ndvi": (("time", "y", "x"), np.where(gap, np.nan, values), {"long_name": "greenness", "units": "1"}),
            "land": (("y", "x"), (x + y > 0.3).astype(np.uint8)),
        },
        coords={
            "time": np.datetime64("2024-03-01", "ns") + days,
            "y": 5_000_000 - 10.0 * np.arange(side) - 5,
            "x": 600_000 + 10.0 * np.arange(side) + 5,
        },
    ).rio.write_crs(32633)
    packed = {"dtype": "int16", "scale_factor": 1e-4, "_FillValue": -32768, "chunks": (3, 32, 32)}
    cube.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding={"ndvi": {**packed, **more}})
    return cube


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cubes") / "cube.zarr"
    make_cube(path)
    return path


def stored(path: Path, name: str) -> np.ndarray:
    return np.asarray(zarr.open_group(str(path), mode="r")[name][...])  # type: ignore[index]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was said on stderr, checked to be one line."""
    text = capsys.readouterr().err
    assert text.count("\n") == 1, text
    return text


def test_a_scene_comes_back_filled_with_its_observations_untouched(cube: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert run(["fill-scene", str(cube), "-o", str(out), "--method", "pyramid", "--domain", "land", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    products = ["filled.zarr", "geotiff", "items.json", "quicklook.png", "report.html", "run.json"]
    assert sorted(p.name for p in out.iterdir()) == products
    before, after = stored(cube, "ndvi"), stored(out / "filled.zarr", "ndvi")
    source, half = stored(out / "filled.zarr", "ndvi_source"), stored(out / "filled.zarr", "ndvi_ci90")
    land = stored(cube, "land") > 0
    observed = (before != -32768) & land
    assert after.dtype == before.dtype
    assert after[observed].tobytes() == before[observed].tobytes()
    assert (source[observed] == 1).all()
    assert (source[:, ~land] == 0).all()
    assert (after[:, ~land] == before[:, ~land]).all()
    gap = ~observed & land
    assert (source[gap] == 2).all()
    assert (after[gap] != -32768).all()
    assert (half[observed] == 0).all()
    assert (half[gap] > 0).all()
    assert np.isnan(half[:, ~land]).all()
    assert report["counts"]["ndvi"]["filled"] == gap.sum()
    decoded = xr.open_zarr(out / "filled.zarr")
    assert decoded.ndvi.attrs["units"] == "1"
    assert decoded.ndvi_source.attrs["flag_meanings"].split()[3] == "filled_by_fallback"
    assert decoded.indexes["time"].equals(xr.open_zarr(cube, consolidated=False).indexes["time"])
    assert decoded.rio.crs.to_epsg() == 32633

    tiffs = sorted((out / "geotiff" / "ndvi").glob("ndvi_2*.tif"))
    assert len(tiffs) == 6
    assert len(list((out / "geotiff" / "ndvi").glob("ndvi_source_*.tif"))) == 6
    for t, tiff in enumerate(tiffs):
        assert cog_validate(tiff, quiet=True)[0]
        with rasterio.open(tiff) as dataset:
            np.testing.assert_array_equal(dataset.read(1), after[t])
            assert (dataset.nodata, dataset.scales, dataset.crs.to_epsg()) == (-32768, (1e-4,), 32633)
            stamp = str(decoded.time.values[t])[:19].replace("-", "").replace(":", "")
            assert tiff.name == f"ndvi_{stamp}.tif"
    for product in report["products"]:
        assert (out / product["path"]).exists()

    again = snapshot(out)
    assert run(["fill-scene", str(cube), "-o", str(out), "--method", "pyramid", "--domain", "land"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert snapshot(out) == again


def test_plan_says_what_fill_scene_does_and_does_nothing(cube: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    words = [str(cube), "-o", str(out), *SMALL, "--json"]
    assert run(["plan", *words]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not out.exists()
    assert run(["fill-scene", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert plan["run_id"] == report["run_id"]
    assert plan["blocks_with_gaps"] == report["blocks"]["with_gaps"]
    assert plan["peak_worker_bytes"] == report["projected_peak_bytes"]


def test_the_python_interface_gives_the_numbers_of_the_command_line(cube: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--block", "6,24,24", "--overlap", "0,8,8", "--method", "linear", "--workers", "1", "--no-geotiff"]
    assert run(["fill-scene", str(cube), "-o", str(out), *words]) == 0
    lazy = stpipe.open_cube(cube)
    filled = stpipe.fill(lazy, variables=["ndvi"], method="linear", block=(6, 24, 24), overlap=(0, 8, 8))
    assert filled.ndvi.chunks is not None
    now = stpipe.fill(lazy.compute(), variables=["ndvi"], method="linear", block=(6, 24, 24), overlap=(0, 8, 8))
    np.testing.assert_array_equal(filled.ndvi.compute(scheduler="synchronous"), now.ndvi)
    ours = xr.open_zarr(out / "filled.zarr").load()
    np.testing.assert_allclose(now.ndvi, ours.ndvi, atol=0.5001e-4)
    np.testing.assert_array_equal(now.ndvi_source, ours.ndvi_source)
    np.testing.assert_allclose(now.ndvi_ci90, ours.ndvi_ci90, rtol=1e-2)


def odd_cube(values: np.ndarray, days: np.ndarray | None = None) -> xr.Dataset:
    t = values.shape[0]
    when = np.datetime64("2024-01-01", "ns") + (np.arange(t) if days is None else days).astype("timedelta64[D]")
    return xr.Dataset({"v": (("time", "y", "x"), values)}, coords={"time": when})


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.full((3, 9, 9), np.nan), id="nothing-observed"),
        pytest.param(np.arange(243, dtype=np.float64).reshape(3, 9, 9), id="no-gap"),
        pytest.param(np.array([1.0, np.nan, -5.0, np.inf]).reshape(4, 1, 1), id="one-pixel"),
        pytest.param(np.array([[[1.0, np.nan], [-np.inf, -3.0]]]), id="one-frame"),
        pytest.param(np.where(np.arange(50).reshape(2, 5, 5) % 3, -1e6, np.nan), id="negative-and-constant"),
        pytest.param(np.where(np.arange(50).reshape(2, 5, 5) % 2, 3, -9).astype(np.float16), id="half-precision"),
    ],
)
@pytest.mark.parametrize("method", ["pyramid", "linear"])
def test_odd_cubes_work(values: np.ndarray, method: str, tmp_path: Path) -> None:
    path, out = tmp_path / "odd.zarr", tmp_path / "out"
    odd_cube(values).to_zarr(path, zarr_format=2)
    words = ["--method", method, "--workers", "1", "--layout", "stack"]
    assert run(["fill-scene", str(path), "-o", str(out), *words]) == 0
    after, source = stored(out / "filled.zarr", "v"), stored(out / "filled.zarr", "v_source")
    seen = np.isfinite(values)
    assert after[seen].tobytes() == values[seen].tobytes()
    assert (source[seen] == 1).all()
    if seen.any():
        assert np.isfinite(after).all()
        assert np.isin(source[~seen], (2, 3)).all()
    else:
        assert (source == 4).all()
        assert np.isnan(after).all()


REFUSALS = [
    pytest.param(["nowhere.zarr"], "there is no file or folder", id="no-file"),
    pytest.param(["CUBE", "--var", "nvdi"], "ndvi", id="no-variable"),
    pytest.param(["CUBE", "--method", "magic"], "pconv, pyramid, linear", id="no-method"),
    pytest.param(
        ["CUBE", "--method", "linear", "--model", "x.keras"], "leave one of them out", id="model-without-pconv"
    ),
    pytest.param(["CUBE", "--block", "4,8"], "T,Y,X", id="short-block"),
    pytest.param(["CUBE", "--block", "0,8,8"], "at least 1 along time", id="empty-block"),
    pytest.param(["CUBE", "--block", "4,8,8", "--overlap", "0,8,8"], "overlap along y", id="overlap-too-long"),
    pytest.param(["CUBE", "--memory-limit", "much"], "4GiB", id="no-size"),
    pytest.param(["CUBE", "--memory-limit", "100MiB"], "--memory-limit", id="too-little-memory"),
    pytest.param(["CUBE", "--workers", "0"], "at least 1 worker", id="no-workers"),
    pytest.param(["CUBE", "--valid-range", "1,0"], "LO <= HI", id="range-backwards"),
    pytest.param(["CUBE", "--max-gap", "0"], "--max-gap needs a number of days above 0", id="no-max-gap"),
    pytest.param(["CUBE", "--max-gap", "week"], "--max-gap", id="max-gap-in-words"),
    pytest.param(["CUBE", "--interval", "90"], "--interval needs the share", id="interval-in-per-cent"),
    pytest.param(["CUBE", "--interval", "nan"], "--interval needs the share", id="no-interval"),
    pytest.param(["CUBE", "--resume", "--overwrite"], "give one of them", id="resume-and-overwrite"),
    pytest.param(["CUBE", "--resume"], "no run to go on with", id="nothing-to-resume"),
    pytest.param(["CUBE", "--no-geotiff", "--layout", "stack"], "give one of them", id="layout-of-nothing"),
    pytest.param(["CUBE", "--scheduler", "tcp://127.0.0.1:1", "--workers", "2"], "give one of them", id="two-clusters"),
    pytest.param(["CUBE", "--time", "2030-01-01/"], "2024", id="period-outside"),
    pytest.param(["CUBE", "--time", "yesterday"], "START/END", id="no-period"),
    pytest.param(["CUBE", "--domain", "sea"], "sea", id="no-domain"),
    pytest.param(["CUBE", "-o", "CUBE/filled"], "lies in the input", id="output-in-input"),
    pytest.param(["CUBE", "--frobnicate"], "--help", id="no-such-option"),
]


@pytest.mark.parametrize("verb", ["fill-scene", "plan"])
@pytest.mark.parametrize(("words", "expected"), REFUSALS)
def test_a_refusal_is_one_line_and_leaves_everything(
    verb: str, words: list[str], expected: str, cube: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    before = snapshot(cube.parent)
    if "--method" not in words:
        words = [*words, "--method", "pyramid"]
    arguments = [word.replace("CUBE", str(cube)) for word in words]
    if "-o" not in arguments:
        arguments += ["-o", "out"]
    assert run([verb, *arguments]) == 2
    assert expected in said(capsys)
    assert snapshot(cube.parent) == before
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_holds_something_else_is_left_alone(cube: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for more in ([], ["--overwrite"]):
        assert run(["fill-scene", str(cube), "-o", str(out), *SMALL, *more]) == 2
        assert "holds something else (thesis.tex)" in said(capsys)
    assert snapshot(out) == {"thesis.tex": b"years of work"}
    assert run(["fill-scene", str(cube), "-o", str(out / "thesis.tex"), *SMALL]) == 2
    assert "is a file" in said(capsys)


def test_a_plan_says_that_the_folder_would_be_refused(cube: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    words = ["plan", str(cube), "-o", str(out), *SMALL, "--no-scan"]
    assert run([*words, "--json"]) == 0
    printed, note = capsys.readouterr()
    plan = json.loads(printed)
    assert plan["state"] == "refused"
    assert plan["refusal"] in note
    assert note.startswith("stpipe: note: fill-scene would refuse: the output folder")
    assert note == "".join(f"stpipe: note: {text}\n" for text in plan["notes"])
    assert run(words) == 0
    assert "(refused)" in capsys.readouterr().out
    assert snapshot(out) == {"thesis.tex": b"years of work"}


def test_another_run_is_replaced_only_when_asked(cube: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert run(["fill-scene", str(cube), "-o", str(out), *SMALL]) == 0
    before = snapshot(out)
    capsys.readouterr()
    assert run(["fill-scene", str(cube), "-o", str(out), *SMALL, "--valid-range", "0,1"]) == 2
    assert "valid_range" in said(capsys)
    assert snapshot(out) == before
    assert run(["fill-scene", str(cube), "-o", str(out), *SMALL, "--valid-range", "0,1", "--overwrite"]) == 0
    assert snapshot(out) != before


def test_gaps_too_long_stay_and_intervals_have_their_share_in_their_name(
    cube: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    words = ["fill-scene", str(cube), "-o", str(out), *SMALL, "--max-gap", "4", "--interval", "0.8"]
    assert run([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["interval"] == 0.8
    told = report["learned"]["ndvi"]
    assert (len(told["sha256"]), told["identity"]["coverage"]) == (64, 0.8)
    assert sorted(zarr.open_group(str(out / "filled.zarr"), mode="r")) == sorted(
        ["ndvi", "ndvi_source", "ndvi_ci80", "time", "y", "x", "spatial_ref"]
    )
    with (
        xr.open_zarr(cube, consolidated=False) as input_cube,
        xr.open_zarr(out / "filled.zarr") as filled,
    ):
        ours = stpipe.fill(input_cube[["ndvi"]].load(), method="pyramid", max_gap=4, interval=0.8)
        np.testing.assert_array_equal(filled.ndvi_source, ours.ndvi_source)
        assert 0 < (filled.ndvi_source == 4).mean() < 0.5
        assert np.isnan(filled.ndvi_ci80.values[filled.ndvi_source.values == 4]).all()
        assert filled.ndvi_ci80.attrs["long_name"] == "half-width of a 80 % interval of greenness"
    assert run(words) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run([*words[:-1], "0.9"]) == 2
    assert "differs in interval" in said(capsys)


def test_a_range_that_fits_nothing_is_said_aloud(cube: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["fill-scene", str(cube), "-o", str(tmp_path / "out"), *SMALL, "--valid-range", "273,320", "--no-geotiff"]
    assert run(words) == 0
    said = capsys.readouterr().err.splitlines()
    assert "stpipe: note: ndvi has no valid sample, so nothing was filled: does --valid-range fit its units?" in said


def test_each_variable_with_gaps_is_learned_from_and_spoken_of(tmp_path: Path, capsys: Any) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(4, 16, 16))
    holes = np.where(rng.random(values.shape) < 0.3, np.nan, values)
    when = np.datetime64("2024-03-01", "ns") + np.arange(4).astype("timedelta64[D]")
    arrays = {"a": holes, "whole": values, "b": holes[::-1]}
    cube = xr.Dataset({name: (("time", "y", "x"), array) for name, array in arrays.items()}, coords={"time": when})
    cube.to_zarr(tmp_path / "cube.zarr", consolidated=False)
    assert run(["fill-scene", str(tmp_path / "cube.zarr"), *SMALL]) == 0
    said = capsys.readouterr().err.splitlines()
    report = json.loads((tmp_path / "cube.filled" / "run.json").read_text())
    assert sorted(report["learned"]) == ["a", "b"]
    for name in ("a", "b"):
        told = next(note for note in report["notes"] if note.startswith(f"{name}: intervals rest on only "))
        assert f"stpipe: note: {told}" in said


def has_free(size: int, monkeypatch: Any) -> None:
    """Let every disk have so many bytes free, whatever this machine's has."""
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(size, 0, size))  # type: ignore[attr-defined]


def test_too_little_disk_is_refused(cube: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    has_free(1000, monkeypatch)
    assert run(["fill-scene", str(cube), "-o", str(tmp_path / "out"), *SMALL]) == 2
    assert "of disk" in said(capsys)
    assert not (tmp_path / "out").exists()


def test_gaps_are_counted_before_disk_that_would_do_is_called_too_little(
    cube: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    words = ["plan", str(cube), "-o", str(tmp_path / "out"), *SMALL, "--no-scan", "--json"]
    has_free(2**40, monkeypatch)
    assert run(words) == 0
    plan = json.loads(capsys.readouterr().out)
    all_gap = plan["scratch_bytes"] + plan["output_bytes"]
    no_gap = all_gap - plan["gap_bytes"]
    has_free(all_gap - 1, monkeypatch)  # a third of this cube is gap
    assert run(words) == 0
    has_free(no_gap, monkeypatch)
    assert run(words) == 2
    assert "of disk" in capsys.readouterr().err
    # Where a range drops samples nobody knows how many are left.
    has_free(all_gap - 1, monkeypatch)
    assert run([*words, "--valid-range", "-1,1"]) == 2


def test_a_block_too_large_for_the_memory_names_one_that_fits(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    has_free(2**40, monkeypatch)
    path = tmp_path / "large.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    for name, shape, attrs in (
        ("time", (40,), {"units": "days since 2024-01-01"}),
        ("v", (40, 4000, 4000), {}),
    ):
        dims = ("time",) if len(shape) == 1 else ("time", "y", "x")
        array = group.create_array(
            name,
            shape=shape,
            chunks=tuple(min(n, 200) for n in shape),
            dtype="float32",
            dimension_names=dims,
            attributes=attrs,
        )
        if name == "time":
            array[...] = np.arange(40)
    words = ["--method", "pyramid", "--memory-limit", "1GiB", "--workers", "1"]
    assert run(["plan", str(path), "--block", "40,2000,2000", *words]) == 2
    message = said(capsys)
    fits = message.split("--block ")[1].split()[0]
    assert run(["plan", str(path), "--block", fits, "--no-scan", *words]) == 0


def test_a_corrupt_chunk_is_named_and_the_run_goes_on_after_its_repair(cube: Path, tmp_path: Path, capsys: Any) -> None:
    broken, out, whole = tmp_path / "broken.zarr", tmp_path / "out", tmp_path / "whole"
    shutil.copytree(cube, broken)
    chunk = broken / "ndvi" / "c" / "1" / "0" / "1"
    content = chunk.read_bytes()
    chunk.write_bytes(content[: len(content) // 2])
    words = ["fill-scene", str(broken), "-o", str(out), *SMALL]
    assert run(words) == 1
    message = said(capsys)
    assert "ndvi/c/1/0/1" in message
    assert "run the same command again" in message
    assert not (out / "filled.zarr").exists()
    chunk.write_bytes(content)
    assert run([*words, "--resume"]) == 0
    assert run(["fill-scene", str(cube), "-o", str(whole), *SMALL]) == 0
    for name in ("ndvi", "ndvi_source", "ndvi_ci90"):
        np.testing.assert_array_equal(stored(out / "filled.zarr", name), stored(whole / "filled.zarr", name))


def test_a_work_folder_of_somebody_else_is_left_alone(cube: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    (out / "work").mkdir(parents=True)
    (out / "work" / "thesis.txt").write_text("years of work")
    for more in ([], ["--overwrite"]):
        assert run(["fill-scene", str(cube), "-o", str(out), *SMALL, *more]) == 2
        assert "work/thesis.txt" in said(capsys)
    (out / "work" / "thesis.txt").rename(out / "run.json")
    (out / "run.json").write_text('{"mine": true}')
    assert run(["fill-scene", str(cube), "-o", str(out), *SMALL, "--overwrite"]) == 2
    assert "run.json" in said(capsys)
    assert snapshot(out) == {"run.json": b'{"mine": true}'}


def test_an_input_in_the_output_folder_is_never_replaced(cube: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert run(["fill-scene", str(cube), "-o", str(out), *SMALL]) == 0
    before = snapshot(out)
    capsys.readouterr()
    assert run(["fill-scene", str(out / "filled.zarr"), "-o", str(out), *SMALL, "--overwrite"]) == 2
    assert "lies in the output folder" in said(capsys)
    assert snapshot(out) == before


def test_gaps_that_a_type_cannot_mark_are_told(tmp_path: Path, capsys: Any) -> None:
    path, out = tmp_path / "cube.zarr", tmp_path / "out"
    cube = make_cube(tmp_path / "other.zarr")
    raw = cube[["ndvi"]].assign(ndvi=(cube.ndvi.fillna(-1) * 100 + 200).astype("uint16"))
    raw.to_zarr(path, zarr_format=2)
    words = ["--valid-range", "150,400", "--max-gap", "0.5"]
    assert run(["fill-scene", str(path), "-o", str(out), *SMALL, *words]) == 0
    unfilled = stored(out / "filled.zarr", "ndvi_source") == 4
    note = f"uint16 without nodata can't say gap, so {unfilled.sum()} samples that stay unfilled keep what the cube has"
    assert unfilled.any()
    assert note in capsys.readouterr().err
    told = json.loads((out / "run.json").read_text())
    assert note in " ".join(told["notes"])
    assert {"gdal", "keras", "lightgbm", "numpy", "scipy", "stpipe", "zarr"} <= set(told["versions"])


def test_codes_are_left_out_and_a_second_filling_says_so(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "cube.zarr"
    cube = make_cube(path)
    cube["SCL"] = (("time", "y", "x"), np.where(np.isnan(cube.ndvi), np.nan, 4.0))
    cube[["ndvi", "SCL"]].to_zarr(path, mode="w", zarr_format=2)
    out = tmp_path / "out"
    assert run(["plan", str(path), "-o", str(out), *SMALL, "--json"]) == 0
    assert "left out SCL" in json.loads(capsys.readouterr().out)["notes"][0]
    assert run(["fill-scene", str(path), "-o", str(out), *SMALL, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["counts"]) == ["ndvi"]
    assert "left out SCL" in report["notes"][0]
    assert run(["fill-scene", str(out / "filled.zarr"), "-o", str(tmp_path / "again"), *SMALL]) == 0
    assert "was filled before" in capsys.readouterr().err


def test_absurd_values_come_back_and_speak_for_nobody(tmp_path: Path) -> None:
    path, out = tmp_path / "odd.zarr", tmp_path / "out"
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 40, 40)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    values[1, 3, 3], values[2, 9, 9] = 1e30, -3.4e38
    odd_cube(values).to_zarr(path, zarr_format=2)
    assert run(["fill-scene", str(path), "-o", str(out), *SMALL]) == 0
    after, half = stored(out / "filled.zarr", "v"), stored(out / "filled.zarr", "v_ci90")
    seen = np.isfinite(values)
    assert after[seen].tobytes() == values[seen].tobytes()
    assert np.abs(after[~seen]).max() < 10
    assert np.isfinite(half).all()


def test_sigterm_leaves_a_line_and_a_run_to_go_on_with(tmp_path: Path) -> None:
    path, out = tmp_path / "cube.zarr", tmp_path / "out"
    make_cube(path, frames=8, side=160)
    words = ["fill-scene", str(path), "-o", str(out), *SMALL, "--block", "8,16,16"]
    driver = subprocess.Popen([sys.executable, "-m", "stpipe.cli.main", *words], stderr=subprocess.PIPE, text=True)
    while driver.poll() is None and len(list((out / "work" / "records" / "fill").glob("*.json"))) < 5:
        time.sleep(0.02)
    driver.terminate()
    _, said_last = driver.communicate(timeout=60)
    assert driver.returncode == 1
    assert said_last.startswith("stpipe: error: interrupted; what is done is kept")
    assert said_last.count("\n") == 1
    assert not (out / "run.json").exists()
    assert run([*words, "--resume"]) == 0


def digests(out: Path) -> dict[str, str]:
    return {p["path"]: p["sha256"] for p in json.loads((out / "run.json").read_text())["products"]}


def worker_processes(driver: int) -> list[int]:
    """Return the ids of a driver's worker processes."""
    try:
        children = psutil.Process(driver).children(recursive=True)
        return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:  # it ended while we looked
        return []


@pytest.mark.integration
@pytest.mark.processes
def test_products_do_not_depend_on_workers_deaths_or_interruptions(tmp_path: Path) -> None:
    path = tmp_path / "cube.zarr"
    make_cube(path, frames=8, side=160)
    words = ["fill-scene", str(path), "--method", "pyramid", "--block", "8,24,24", "--overlap", "0,8,8"]
    for workers in ("1", "2"):
        assert run([*words, "-o", str(tmp_path / workers), "--workers", workers]) == 0
    expected = digests(tmp_path / "1")
    assert len(expected) == 3 + 16  # filled.zarr, items.json, quicklook.png, and the GeoTIFFs
    assert digests(tmp_path / "2") == expected

    out = tmp_path / "killed"
    chance = random.Random(11)
    deaths = 0
    for _ in range(6):
        driver = subprocess.Popen(
            [sys.executable, "-m", "stpipe.cli.main", *words, "-o", str(out), "--workers", "2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Wait until it works, so that deaths fall into every stage and not all into the start.
        before = len(list((out / "work" / "records").rglob("*.json"))) if out.exists() else 0
        while driver.poll() is None and len(list((out / "work" / "records").rglob("*.json"))) <= before:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.6))
        victims = worker_processes(driver.pid)
        if victims:
            os.kill(chance.choice(victims), signal.SIGKILL)
            deaths += 1
            time.sleep(chance.uniform(0, 0.5))
        if driver.poll() is None:
            driver.kill()
            deaths += 1
        driver.wait()
        if (out / "run.json").exists():
            break
        assert not (out / "filled.zarr").exists() or (out / "filled.zarr" / "zarr.json").exists()
    assert deaths >= 4
    assert run([*words, "-o", str(out), "--workers", "1"]) == 0
    assert digests(out) == expected
