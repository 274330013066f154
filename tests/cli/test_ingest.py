"""`stpipe ingest` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.transform import from_origin

from stpipe.cli.main import run
from stpipe.io.run_folder import tree_digest


def series(folder: Path, days: int = 3, size: int = 16) -> None:
    """Write a series of one variable."""
    folder.mkdir()
    for day in range(1, days + 1):
        samples = np.full((size, size), day, dtype="int16")
        profile = {"driver": "GTiff", "count": 1, "width": size, "height": size, "dtype": "int16", "nodata": 0}
        transform = from_origin(500_000, 5_000_000, 10, 10)
        with rasterio.open(
            folder / f"202001{day:02d}_red.tif", "w", crs="EPSG:32633", transform=transform, **profile
        ) as f:
            f.write(samples, 1)


def test_a_series_becomes_a_cube_that_info_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path / "in")
    output = str(tmp_path / "c.zarr")
    assert run(["ingest", str(tmp_path / "in"), "-o", output, "--chunks", "2,8,8", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["shape"], result["chunks"], result["crs"]) == ([3, 16, 16], [2, 8, 8], "EPSG:32633")
    assert result["variables"]["red"]["nodata"] == 0
    assert run(["info", output, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["dims"] == {"time": 3, "y": 16, "x": 16}
    assert report["variables"]["red"]["gap_share"] == 0


def test_the_summary_is_three_lines_and_progress_is_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path / "in")
    assert run(["ingest", str(tmp_path / "in" / "*.tif"), "-o", str(tmp_path / "c.zarr")]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1:] == [
        "3 frames from 2020-01-01 to 2020-01-03, 16 x 16 pixels, EPSG:32633",
        "from 3 files; 0 layers warped, 0 frames composited",
    ]
    assert captured.err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--chunks", "2,8"], "--chunks needs three whole numbers"),
        (["--chunks", "0,8,8"], "--chunks needs three lengths of at least 1"),
        (["--nodata", "none"], "--nodata needs a number, got 'none'"),
        (["--nodata", "nan"], "--nodata nan can't be stored"),
        (["--nodata", "inf"], "--nodata inf can't be stored"),
        (["--resampling", "magic"], "--resampling is one of nearest"),
        (["--same-day", "best"], "'best' is not one of"),
        (["--pattern", "{variable}.tif"], "needs a {date:%Y%m%d} field"),
        (["--align", "second.tif"], "--align: there is no file second.tif"),
        (["--index", "ndvj=red,red"], "spyndex has no index 'ndvj' among its"),
        (["--index", "ndvi=nir,red"], "there is no variable 'nir': name them, as in --index ndvi=N:BAND,R:BAND"),
        (["--index", "red=red"], "--index"),
        (["--qa", "s3-scl"], "s2-scl"),
        (["--qa", "s2-scl"], "the series has no variable 'SCL'"),
        (["--drop", "red"], "--drop 'red' can't be read"),
        (["--drop", "red:bits=16"], "bit 16 lies beyond red, whose type int16 has bits 0 to 15"),
        (["--buffer", "2"], "--buffer grows what rules call unclear"),
        (["--every", "fortnight"], "--every takes a period such as 10D"),
        (["--every", "1M", "--same-day", "first"], "leave out --same-day"),
        (["--empty-periods"], "--empty-periods needs periods"),
        (["--bbox", "1,2,3"], "--bbox needs four numbers W,S,E,N"),
        (["--bbox", "0,0,1,1"], "--bbox 0,0,1,1 does not touch the files"),
        (["--bbox", "15.1,45,15,45.2"], "W and E are exchanged, did you mean 15,45,15.1,45.2?"),
        (["--bbox", "15.1,45.2,15,45"], "W and E and S and N are exchanged, did you mean 15,45,15.1,45.2?"),
        (["--bbox", "45,14.9,45.2,15.1"], "it would as 14.9,45,15.1,45.2: W and E are longitudes"),
        (
            ["--bbox", "500000,4999900,500100,5000000"],
            "say in which CRS it is with --bbox-crs: that of the files is EPSG:",
        ),
        (
            ["--bbox", "14.9,45,15.1,45.2", "--bbox-crs", "EPSG:32633"],
            "it would if it was in degrees and not in EPSG:32633: leave --bbox-crs out",
        ),
        (["--crs", "EPSG:nine"], "--crs needs a CRS such as EPSG:32633"),
        (["--crs", "EPSG:999999"], "--crs needs a CRS such as EPSG:32633, got 'EPSG:999999'"),
        (["--time", "2021/2020"], "--time needs START before END"),
        (["--nodata", "1", "--nodata", "2"], "--nodata is given twice"),
        (["--nodata", "nir=2"], "--nodata: there is no variable 'nir'"),
        (["--var", "nir"], "--var: there is no variable 'nir'; there are red"),
        (["--var", "redd"], "--var: there is no variable 'redd'; did you mean 'red'? there are red"),
        (["--var", "RED"], "did you mean 'red'?"),
        (["--pattern", "{date:%Y%m%d}_{variable}_x.tif"], "3 of 3 names do not fit --pattern"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    series(tmp_path / "in")
    assert run(["ingest", str(tmp_path / "in"), "-o", str(tmp_path / "c.zarr"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("stpipe: error: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_no_library_speaks_beside_the_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """PROJ writes to the process's own stderr."""
    series(tmp_path / "in")
    words = ["ingest", str(tmp_path / "in"), "-o", str(tmp_path / "c.zarr"), "--crs", "EPSG:999999"]
    assert run(words) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("stpipe: error: --crs needs a CRS")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("inn", "no file matches inn; beside it: in"),
        ("inn/*.tif", "no file matches inn/*.tif; there is no inn; beside that: in"),
        ("in/*.jp2", "no file matches in/*.jp2; beside it: 20200101_red.tif, 20200102_red.tif, 20200103_red.tif"),
        ("in/20200101_ret.tif", "beside it: 20200101_red.tif, 202001"),
        ("c.nc", "there is no file or folder"),
    ],
)
def test_a_missing_source_is_guessed_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    series(tmp_path / "in")
    assert run(["ingest", source, "-o", "c.zarr"]) == 2
    assert message in capsys.readouterr().err


def test_odd_files_of_a_folder_are_named_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path / "in")
    words = ["ingest", str(tmp_path / "in"), "-o", str(tmp_path / "c.zarr")]
    for name in ("dem.tif", "slope.tif", "aspect.tif", "water.tif"):
        (tmp_path / "in" / name).write_bytes(b"")
    assert run(words) == 2
    error = capsys.readouterr().err
    assert "no date in the name of 4 of 7 files, such as aspect.tif, dem.tif, slope.tif; say where it is" in error
    assert "or leave out with a glob" in error
    assert run([*words, "--pattern", "{date:%Y%m%d}_{variable}.tif"]) == 2
    error = capsys.readouterr().err
    assert "4 of 7 names do not fit --pattern" in error
    assert ", such as aspect.tif, dem.tif, slope.tif; choose files" in error


def test_what_is_no_raster_is_said_before_what_its_name_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series(tmp_path / "in")
    (tmp_path / "t2.txt").write_text("20200101_red.tif\n20200102_red.tif\n")
    for more in ([], [str(tmp_path / "in")]):
        assert run(["ingest", str(tmp_path / "t2.txt"), *more, "-o", str(tmp_path / "c.zarr")]) == 2
        error = capsys.readouterr().err
        assert "t2.txt can't be opened as a raster" in error
        assert error.endswith("; ingest reads rasters, NetCDF files (.nc), Zarr groups and JSON files of STAC items\n")
        assert error.count("\n") == 1
    # What GDAL opens is a raster, whatever its suffix: then it is the name that says too little.
    (tmp_path / "in" / "20200101_red.tif").rename(tmp_path / "first.bin")
    assert run(["ingest", str(tmp_path / "first.bin"), "-o", str(tmp_path / "c.zarr")]) == 2
    assert "no date in the name of" in capsys.readouterr().err


def test_names_without_dates_and_several_resolutions_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series(tmp_path / "in")
    (tmp_path / "in" / "20200102_red.tif").rename(tmp_path / "in" / "second_red.tif")
    assert run(["ingest", str(tmp_path / "in"), "-o", str(tmp_path / "c.zarr")]) == 2
    error = capsys.readouterr().err
    assert "second_red.tif; say where it is: --pattern '{date:%Y%m%d}_{variable}.tif'" in error
    (tmp_path / "in" / "second_red.tif").unlink()
    series(tmp_path / "other", days=2, size=8)
    words = [str(tmp_path / "in"), str(tmp_path / "other" / "20200102_red.tif")]
    assert run(["ingest", *words, "-o", str(tmp_path / "c.zarr")]) == 2
    assert "warp them with --align first, --align FILE or --resolution" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "other"]


def test_rules_periods_and_indices_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path / "in", days=5)
    for path in sorted((tmp_path / "in").iterdir()):
        with rasterio.open(path) as source:
            profile, red = source.profile, source.read(1)
        cloud = np.zeros_like(red)
        cloud[:8] = 9 if path.name.startswith("20200102") else 4
        cloud[8:] = 4
        for name, samples in (("nir", red * 3), ("SCL", cloud)):
            with rasterio.open(path.with_name(path.name.replace("red", name)), "w", **profile) as file:
                file.write(samples, 1)
    output = str(tmp_path / "c.zarr")
    words = ["ingest", str(tmp_path / "in"), "-o", output, "--qa", "s2-scl", "--every", "2D", "--composite", "last"]
    assert run([*words, "--index", "ndvi", "--index-type", "int16", "--drop-bands"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{output}: SCL (int16), ndvi (int16)"
    assert lines[1] == "3 frames from 2020-01-01 to 2020-01-05, 16 x 16 pixels, EPSG:32633"
    assert lines[3].startswith("--qa s2-scl dropped")
    assert lines[3].endswith("; clear tells where")
    assert run(["info", output, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["variables"]["ndvi"]["gap_share"] == 0
    assert run([*words, "--overwrite", "--var", "red"]) == 0
    with rasterio.open(tmp_path / "in" / "20200101_red.tif") as source:
        first = source.read(1)
    red = xr.open_zarr(output, mask_and_scale=False)["red"].values
    assert (red[0, :8] == first[:8]).all()  # the second day is cloudy there
    assert (red[0, 8:] == 2).all()


@pytest.mark.processes
def test_what_rules_dropped_is_told_and_no_verb_takes_it_for_a_measurement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    series(tmp_path / "in", days=4)
    for number, path in enumerate(sorted((tmp_path / "in").iterdir())):
        with rasterio.open(path, "r+") as file:
            red, profile = file.read(1), file.profile
            red[:, :4] = 0  # beside the swath
            file.write(red, 1)
        classes = np.full_like(red, 4)
        classes[number : number + 6, 8:] = 9
        with rasterio.open(path.with_name(path.name.replace("red", "SCL")), "w", **profile) as file:
            file.write(classes, 1)
    assert run(["ingest", "in", "-o", "c.zarr", "--qa", "s2-scl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clear"] == {"clear": ["red"]}
    codes = xr.open_zarr("c.zarr")["clear"].values
    rows, columns = np.mgrid[:16, :16]
    for number in range(4):
        cloudy = (columns >= 8) & (rows >= number) & (rows < number + 6)
        np.testing.assert_array_equal(codes[number], np.where(columns < 4, 0, np.where(cloudy, 2, 1)))
    fill = ["--method", "linear"]
    for words in (
        ["gaps", "c.zarr", "-o", "gaps", "--json"],
        ["plan", "c.zarr", *fill, "--json"],
        ["evaluate", "c.zarr", *fill, "--json"],
        ["fill-scene", "c.zarr", "-o", "filled", *fill, "--workers", "1", "--no-geotiff", "--json"],
    ):
        capsys.readouterr()
        assert run(words) == 0
        captured = capsys.readouterr()
        noted = "left out SCL, clear: codes are no measurements" in captured.err + captured.out
        assert noted or words[0] == "plan"  # whose JSON names what is taken
        assert '"clear": {' not in captured.out
        assert '"variable": "clear"' not in captured.out
        assert '"red"' in captured.out
    filled = xr.open_zarr("filled/filled.zarr")
    assert set(filled.data_vars) - {"spatial_ref"} == {"red", "red_source", "red_ci90"}
    assert "ancillary_variables" not in filled["red"].attrs
    # The layer says which samples were trusted to whoever asks it.
    capsys.readouterr()
    assert run(["info", "c.zarr", "--keep", "clear:1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["variables"]["red"]["gap_share"] == pytest.approx(float((codes != 1).mean()))
    assert run(["evaluate", "c.zarr", *fill, "--keep", "clear:1", "--var", "clear"]) == 2
    assert "--keep clear:1 is about clear, which can't be filled or scored on" in capsys.readouterr().err


def test_scenes_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("A", "B"):
        series(tmp_path / folder, days=1)
    assert run(["ingest", str(tmp_path / "A"), str(tmp_path / "B"), "-o", str(tmp_path / "c.zarr")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'A' / '20200101_red.tif'}, {tmp_path / 'B' / '20200101_red.tif'}); make one frame" in error


def test_a_file_that_lost_its_place_is_named_whichever_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series(tmp_path / "in")
    paths = sorted((tmp_path / "in").iterdir())
    for bare in (paths[0], paths[2]):
        whole = bare.read_bytes()
        with rasterio.open(bare) as file:
            samples, profile = file.read(), file.profile
        bare.unlink()
        with rasterio.open(bare, "w", **{**profile, "crs": None}) as file:
            file.write(samples)
        for more in ([], ["--align", "first"]):
            assert run(["ingest", str(tmp_path / "in"), "-o", str(tmp_path / "c.zarr"), *more]) == 2
            error = capsys.readouterr().err
            assert f"{bare} has no CRS, and " in error
            assert "has EPSG:32633, so that nothing tells how they lie to each other; if the first is damaged" in error
            assert error.count("\n") == 1
        bare.write_bytes(whole)
    assert run(["ingest", str(tmp_path / "in"), "-o", str(tmp_path / "c.zarr")]) == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["--index-type", "int16"], "--index-type says how indices are stored; give one with", id="index"),
        pytest.param(["--keep", "red=4,5-7"], "can't be read; did you mean red:4,5-7? a rule is", id="equals"),
        pytest.param(["--drop", "red:cloud"], "did you mean red:flags=cloud? a rule is", id="a-flag"),
        pytest.param(["--qa", "s2"], "did you mean s2-scl? there are", id="part-of-a-product"),
        pytest.param(["--qa", "landsat"], "did you mean landsat-c2 or landsat-c1 or landsat-c1-bqa?", id="products"),
        pytest.param(["--crs", "32633"], "got '32633'; did you mean EPSG:32633?", id="number-of-a-crs"),
        pytest.param(["--var", "red,red"], "no variable 'red,red'; did you mean --var red --var red?", id="list"),
        pytest.param(["--pattern", "{date:%Y%m}_x.tif"], "3 of 3 names do not fit --pattern", id="pattern"),
    ],
)
def test_what_was_meant_is_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    series(tmp_path / "in")
    assert run(["ingest", str(tmp_path / "in"), "-o", str(tmp_path / "c.zarr"), *words]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_sources_of_the_wrong_kind_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path / "in")
    cube, output = str(tmp_path / "c.zarr"), str(tmp_path / "d.zarr")
    assert run(["ingest", str(tmp_path / "in"), "-o", cube]) == 0
    area = tmp_path / "field.geojson"
    area.write_text(json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": None}]}))
    for words, expected in (
        ([cube, "--pattern", "{date:%Y%m%d}_{variable}.tif"], "--pattern is about the names of rasters, and none is"),
        ([str(area)], "holds no STAC items, for none has assets; GeoJSON of an area to cut out goes behind --aoi"),
        (["https://example.invalid/stac"], "name one of https://example.invalid/stac with --collection"),
    ):
        capsys.readouterr()
        assert run(["ingest", *words, "-o", output]) == 2
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1
    # A rule on all that is measured is told to do nothing, and not to find its variable empty.
    assert run(["ingest", cube, "-o", output, "--drop", "red:2"]) == 0
    said = capsys.readouterr().err
    assert "the rules decide on nothing: of red none is a measurement" in said
    assert "nodata everywhere" not in said


def test_an_existing_output_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.zarr").mkdir()
    assert run(["ingest", str(tmp_path / "no such folder"), "-o", str(tmp_path / "c.zarr")]) == 2
    assert "c.zarr exists" in capsys.readouterr().err


def test_what_is_read_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path / "in")
    output = tmp_path / "c.zarr"
    assert run(["ingest", str(tmp_path / "in"), "-o", str(output)]) == 0
    before = tree_digest(output)
    capsys.readouterr()
    for place in (output, output / "inside.zarr", tmp_path / "in" / ".." / "c.zarr"):
        assert run(["ingest", str(output), "-o", str(place), "--overwrite"]) == 2
        assert "is read from, so it can't be written; choose another name" in capsys.readouterr().err
    assert tree_digest(output) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.zarr", "in"]


@pytest.mark.processes
def test_a_killed_ingest_leaves_nothing_under_the_final_name_and_can_be_run_again(tmp_path: Path) -> None:
    series(tmp_path / "in", days=28, size=1024)
    output = tmp_path / "c.zarr"
    words = [sys.executable, "-m", "stpipe.cli.main", "ingest", str(tmp_path / "in"), "-o", str(output)]
    words += ["--chunks", "1,16,16"]  # many small files, so that there is time to kill it
    child = subprocess.Popen(words, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = tmp_path / ".c.zarr.partial" / "cube" / "red" / "c"
    deadline = time.monotonic() + 60
    while not partial.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not output.exists()
    assert partial.exists()
    for path in sorted((tmp_path / "in").iterdir())[2:]:
        path.unlink()
    assert run(["ingest", str(tmp_path / "in"), "-o", str(output)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.zarr", "in"]
