"""`stpipe gaps` as a user types it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from PIL import Image

from stpipe.cli.main import run


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variables, codes, a domain, and a cube of one frame."""
    rng = np.random.default_rng(2)
    values = rng.random((8, 20, 24)).astype(np.float32)
    scl = np.where(rng.random(values.shape) < 0.4, 9, 4).astype(np.uint8)
    times = np.datetime64("2022-12-20", "ns") + np.cumsum(rng.integers(2, 30, 8)) * np.timedelta64(1, "D")
    dims = ("time", "y", "x")
    dataset = xr.Dataset(
        {"red": (dims, values), "nir": (dims, values), "SCL": (dims, scl), "land": (dims[1:], np.ones((20, 24), "u1"))},
        {"time": times, "y": 10.0 * np.arange(20)[::-1], "x": 10.0 * np.arange(24)},
    )
    path = tmp_path_factory.mktemp("cli") / "cube.zarr"
    dataset.to_zarr(path, consolidated=False)
    dataset[["red"]].isel(time=[0]).to_zarr(path.with_name("one.zarr"), consolidated=False)
    return path


def test_table_files_and_picture(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["gaps", str(cube), "-o", str(out), "--qa", "s2-scl", "--var", "red", "--percentiles", "10,90"]
    assert run([*words, "--by", "season"]) == 0
    printed, said = capsys.readouterr()
    assert re.search(
        r"^red: 480 pixels, 8 dates of 8 frames, 20\d\d-\d\d-\d\d to 2023-\d\d-\d\d", printed, re.MULTILINE
    )
    assert re.search(r"gap_p90 \(days\) +MAM", printed)
    assert "clear on the mean date: " in printed
    assert "no CRS" in said
    assert sorted(path.name for path in out.iterdir()) == ["gaps.json", "red_gaps.png", "red_gaps.tif"]
    with rasterio.open(out / "red_gaps.tif") as raster:
        assert raster.descriptions[0] == "DJF_clear_count"
        assert raster.units[2] == "day"
        assert raster.tags()["boundaries"] == "exclude"
    with Image.open(out / "red_gaps.png") as image:
        assert image.width > 900
        assert len(image.convert("RGB").getcolors(2**20) or []) > 50
    assert run([*words, "--by", "season"]) == 2
    assert "holds finished gap statistics" in capsys.readouterr().err
    assert run([*words, "--overwrite", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["products"] == ["red_gaps.png", "red_gaps.tif"]
    assert report["trust"][0].startswith("--qa s2-scl")
    scl = xr.open_zarr(cube, consolidated=False).SCL.values
    assert [row["clear_pixels"] for row in report["variables"]["red"]["by_date"]] == (scl == 4).sum(
        axis=(1, 2)
    ).tolist()


def test_all_measurements_unless_named(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gaps", str(cube), "-o", str(tmp_path / "out"), "--zarr", "--drop", "SCL:77"]) == 0
    printed, said = capsys.readouterr()
    assert "--drop SCL:77 matches none" in said
    assert said.count("--drop SCL:77") == 1
    assert (tmp_path / "out" / "nir_gaps.tif").exists()
    assert "gaps.zarr, gaps.json" in printed
    with xr.open_zarr(tmp_path / "out" / "gaps.zarr") as store:
        assert {"red_gap_mean", "nir_longest_start"} <= set(store)
        assert "SCL_gap_mean" not in store


def test_one_frame_can_have_no_gaps(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["gaps", str(cube.with_name("one.zarr")), "-o", str(tmp_path / "out")]
    assert run(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a gap lies between two dates, but" in line
    # Unless the period's ends count.
    date = np.datetime_as_string(xr.open_zarr(words[1], consolidated=False).time.values[0], unit="D")
    assert run([*words, "--boundaries", "include", "--time", f"2022-12-01/{date}"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("gap_max"))
    assert float(line.split()[-1]) == (np.datetime64(date) - np.datetime64("2022-12-01")).astype(int)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--var", "evi"], "has no variable 'evi'"),
        (["--var", "red", "--var", "red"], "--var names a variable twice: red, red"),
        (["--by", "week"], "'week' is not one of 'none', 'year', 'season', 'month'"),
        (["--boundaries", "both"], "'both' is not one of 'exclude', 'include'"),
        (["--percentiles", "10,120"], "--percentiles needs numbers from 0 to 100 such as 10,90, got '10,120'"),
        (["--percentiles", "90,90"], "percentiles are named once each, got 90, 90"),
        (["--time", "2030/2031"], "no frame lies in 2030/2031"),
        (["--domain", "sea"], "sea"),
        (["--qa", "nothing"], "there are s2-scl"),
        (["--keep", "red"], "red"),
        (["--valid-range", "2,1"], "--valid-range needs LO,HI with LO <= HI"),
        (["--memory-limit", "much"], "--memory-limit needs a size such as 4GiB"),
        (["--memory-limit", "4"], "--memory-limit 4 is 4 bytes; sizes are such as 4GiB or 500MB"),
        (["--memory-limit", "64MiB"], "but a worker may take 64.0 MiB"),
        (["--workers", "0"], "need at least 1 worker"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_nothing_is_written(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(["gaps", str(cube), "-o", str(tmp_path / "out"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stpipe: error: ")
    assert message in line
    assert not (tmp_path / "out").exists()
