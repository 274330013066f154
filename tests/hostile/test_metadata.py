"""Metadata that lie: lengths of terabytes, chunks that fit nowhere, odd types, JSON without end, odd coordinates."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stpipe.cli.main import run
from stpipe.io.cube import open_source
from stpipe.io.stored import LONGEST_AXIS

from .doors import QUICK, edited, snapshot, tiny_cube

VERBS: dict[str, Callable[[Path, Path], tuple[Any, ...]]] = {
    "info": lambda cube, out: ("info", cube),
    "plan": lambda cube, out: ("plan", cube, *QUICK, "-o", out),
    "fill-scene": lambda cube, out: ("fill-scene", cube, *QUICK, "-o", out),
    "mosaic": lambda cube, out: ("mosaic", cube, "-o", out),
    "gaps": lambda cube, out: ("gaps", cube, "--workers", "1", "-o", out),
    "ingest": lambda cube, out: ("ingest", cube, "-o", out),
    "evaluate": lambda cube, out: ("evaluate", cube, "--method", "linear", "--method", "pyramid"),
    "blocks": lambda cube, out: ("blocks", "export", cube, "-o", out),
}
"""Command lines that read a cube."""

every_verb = pytest.mark.parametrize("verb", VERBS)


def claim(cube: Path, shape: tuple[int, int, int], chunks: tuple[int, int, int] = (4, 8, 8)) -> Path:
    """Let the metadata of a tiny cube and its coordinates claim another shape."""
    with edited(cube / "ndvi" / "zarr.json") as metadata:
        metadata["shape"] = shape
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = chunks
    for name, length in zip(("time", "y", "x"), shape, strict=True):
        with edited(cube / name / "zarr.json") as metadata:
            metadata["shape"] = metadata["chunk_grid"]["configuration"]["chunk_shape"] = [length]
    return cube


@every_verb
@pytest.mark.parametrize("shape", [(4, 10**12, 8), (10**12, 8, 8)], ids=["rows", "frames"])
def test_an_axis_of_terabytes_is_refused_before_its_coordinate_is_read(
    verb: str, shape: tuple[int, int, int], tmp_path: Path, refused: Any
) -> None:
    cube = claim(tiny_cube(tmp_path / "cube.zarr"), shape)
    said = refused(*VERBS[verb](cube, tmp_path / "out.zarr"))
    assert f"claims a length of 1000000000000; the most is {LONGEST_AXIS}" in said
    assert [path.name for path in tmp_path.iterdir()] == ["cube.zarr"]


def test_netcdf_that_claims_a_long_axis_is_refused_too(tmp_path: Path, refused: Any) -> None:
    with netCDF4.Dataset(tmp_path / "cube.nc", "w") as file:
        for name, length in (("time", 4), ("y", 10**9), ("x", 4)):
            file.createDimension(name, length)
            file.createVariable(name, "f8", (name,), chunksizes=(min(length, 10**6),))
        file["time"].units = "days since 2020-01-01"
        file["time"][:] = range(4)
        file.createVariable("ndvi", "f4", ("time", "y", "x"), chunksizes=(1, 1000, 4))
    assert "claims a length of 1000000000" in refused("info", tmp_path / "cube.nc")


def test_a_billion_bands_are_refused(tmp_path: Path, refused: Any) -> None:
    cube = tiny_cube(tmp_path / "cube.zarr")
    with edited(cube / "ndvi" / "zarr.json") as metadata:
        metadata["shape"].append(10**9)
        metadata["chunk_grid"]["configuration"]["chunk_shape"].append(1)
        metadata["dimension_names"].append("band")
    assert "claims 1000000000 bands; the most is 10000" in refused("info", cube)


@pytest.mark.parametrize(("verb", "code"), [("info", 1), ("plan", 2), ("mosaic", 2), ("gaps", 2), ("evaluate", 1)])
def test_a_chunk_that_fits_into_no_memory_is_not_decoded(verb: str, code: int, tmp_path: Path, refused: Any) -> None:
    cube = claim(tiny_cube(tmp_path / "cube.zarr"), (4, 10**6, 10**6), chunks=(4, 10**6, 10**6))
    shutil.rmtree(cube / "ndvi" / "c")  # what is missing is made up whole
    for name in ("y", "x"):
        shutil.rmtree(cube / name)
    assert re.search(r"chunks|smallest block", refused(*VERBS[verb](cube, tmp_path / "out"), code=code))


def test_petabytes_that_are_not_there_are_not_looked_for(tmp_path: Path, refused: Any) -> None:
    cube = claim(tiny_cube(tmp_path / "cube.zarr"), (4, 10**7, 10**7))
    for name in ("y", "x"):
        shutil.rmtree(cube / name)
    assert "too many to count gaps in" in refused("info", cube)
    assert "too many to look at" in refused("blocks", "export", cube, "--most", "1", "-o", tmp_path / "out")
    assert run(["info", str(cube), "--no-scan"]) == 0


@every_verb
def test_chunks_of_no_length_are_refused(verb: str, tmp_path: Path, refused: Any) -> None:
    cube = claim(tiny_cube(tmp_path / "cube.zarr"), (4, 8, 8), chunks=(0, 8, 8))
    assert "has chunks of no length" in refused(*VERBS[verb](cube, tmp_path / "out.zarr"))


def test_a_million_frames_are_shown_and_planned(tmp_path: Path) -> None:
    frames = 1_000_000
    xr.Dataset(
        {"v": (("time", "y", "x"), np.ones((frames, 1, 1), dtype=np.int8))},
        coords={"time": np.datetime64("1990-01-01", "ns") + np.arange(frames) * np.timedelta64(600, "s")},
    ).to_zarr(tmp_path / "cube.zarr", zarr_format=3, consolidated=False)
    assert run(["info", str(tmp_path / "cube.zarr")]) == 0
    assert run(["plan", str(tmp_path / "cube.zarr"), *QUICK, "--no-scan"]) == 0


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "", "[]", "\ufeff{", "null"])
@pytest.mark.parametrize("place", ["zarr.json", "ndvi/zarr.json"])
def test_metadata_that_are_no_metadata_are_refused(text: str, place: str, tmp_path: Path, refused: Any) -> None:
    cube = tiny_cube(tmp_path / "cube.zarr")
    (cube / place).write_text(text)
    refused("info", cube)


# NaN and numbers that no float holds are JSON to Python, and to attackers.
LEAVES = st.none() | st.booleans() | st.integers(-2, 10**13) | st.floats() | st.text(max_size=8)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
SPOTS = {
    "ndvi": (
        ("shape",), ("shape", 1), ("data_type",), ("chunk_grid",), ("chunk_grid", "configuration", "chunk_shape"),
        ("chunk_grid", "configuration", "chunk_shape", 2), ("chunk_key_encoding",), ("codecs",), ("codecs", 0),
        ("fill_value",), ("dimension_names",), ("dimension_names", 0), ("attributes",), ("attributes", "_FillValue"),
        ("attributes", "scale_factor"), ("attributes", "add_offset"), ("attributes", "units"),
        ("attributes", "grid_mapping"), ("attributes", "flag_values"), ("attributes", "flag_meanings"),
        ("attributes", "nodata"), ("attributes", "missing_value"), ("attributes", "_Unsigned"), ("attributes", "crs"),
    ),
    "time": (("shape",), ("attributes", "units"), ("attributes", "calendar"), ("attributes", "axis"), ("fill_value",)),
    "y": (("attributes", "units"), ("attributes", "scale_factor"), ("attributes", "standard_name"), ("data_type",)),
}  # fmt: skip


@given(spot=st.sampled_from([(name, keys) for name, spots in SPOTS.items() for keys in spots]), value=VALUES)
@example(spot=("ndvi", ("attributes", "missing_value")), value=[None, []])
@example(spot=("ndvi", ("attributes", "add_offset")), value=[[1], []])
@example(spot=("y", ("attributes", "scale_factor")), value=[])
@settings(max_examples=15)
def test_whatever_stands_in_the_metadata_the_answer_is_a_cube_or_one_line(spot: Any, value: Any) -> None:
    name, keys = spot
    with tempfile.TemporaryDirectory() as place:
        cube = tiny_cube(Path(place) / "cube.zarr")
        with edited(cube / name / "zarr.json") as metadata:
            inside = metadata
            for key in keys[:-1]:
                inside = inside[key]
            inside[keys[-1]] = value
        before = snapshot(Path(place))
        assert_one_line_or_none(["info", str(cube)])
        assert_one_line_or_none(["plan", str(cube), *QUICK])
        assert snapshot(Path(place)) == before


def assert_one_line_or_none(words: list[str]) -> None:
    """Check that a command line ends in a result, or in one line that is no internal error."""
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    said = err.getvalue()
    assert code in {0, 1, 2}
    assert "internal error" not in said, said
    assert "Traceback" not in said, said
    if code:
        assert said.startswith("stpipe: error: "), said
        assert said.count("\n") == 1, said
        assert said[:-1].isprintable(), said


ROWS = np.arange(8.0)
COORDINATES = {
    "a NaN": {"y": np.where(ROWS == 3, np.nan, ROWS)},
    "all NaN": {"y": ROWS * np.nan, "x": ROWS * np.nan},
    "infinite": {"x": np.where(ROWS == 7, np.inf, ROWS)},
    "duplicate": {"y": ROWS // 2, "x": ROWS * 0},
    "unsorted": {"y": ROWS[[0, 3, 2, 1, 5, 4, 7, 6]]},
    "beyond all floats": {"y": ROWS * 1e307, "x": -ROWS * 1e300},
    "denormal": {"y": ROWS * 1e-320},
    "text": {"y": np.array([*"abcdefgh"], dtype=object)},
    "complex": {"y": ROWS * 1j},
    "flags": {"y": ROWS > 3},
}


@pytest.mark.parametrize("kind", COORDINATES)
def test_odd_coordinates_are_taken_for_none_or_refused(kind: str, tmp_path: Path, capfd: Any) -> None:
    cube = xr.open_zarr(tiny_cube(tmp_path / "plain.zarr"), consolidated=False).load()
    cube = cube.assign_coords({name: (name, values) for name, values in COORDINATES[kind].items()})
    for variable in cube.variables.values():
        variable.encoding.clear()
    cube.to_zarr(tmp_path / "cube.zarr", zarr_format=2, consolidated=False)
    for verb in ("info", "plan", "mosaic", "ingest"):
        capfd.readouterr()
        code = run([str(word) for word in VERBS[verb](tmp_path / "cube.zarr", tmp_path / f"{verb}.zarr")])
        said = capfd.readouterr().err
        assert (code, verb) == (0, verb) or (code, verb) == (2, "ingest"), said
        assert "internal error" not in said
    assert json.loads((tmp_path / "cube.zarr" / ".zgroup").read_text())


@pytest.mark.parametrize("year", [1, 1600, 2300, 9998])
def test_dates_far_out_are_what_files_are_called_by(year: int, tmp_path: Path) -> None:
    cube = tiny_cube(tmp_path / "cube.zarr")
    with edited(cube / "time" / "zarr.json") as metadata:
        metadata["attributes"]["units"] = f"days since {year:04d}-03-01"
    assert run(["mosaic", str(cube), "-o", str(tmp_path / "geotiff")]) == 0
    stamps = [f"ndvi_{year:04d}03{day:02d}T000000.tif" for day in (1, 6, 11, 16)]
    assert sorted(path.name for path in (tmp_path / "geotiff" / "ndvi").iterdir()) == stamps
    assert run(["ingest", str(cube), "-o", str(tmp_path / "again.zarr")]) == 0
    times = open_source(tmp_path / "again.zarr").times
    assert [str(time)[:10] for time in times] == [f"{year:04d}-03-{day:02d}" for day in (1, 6, 11, 16)]
    if year in {1, 9998}:  # the first and the last that can be drawn
        assert run(["gaps", str(cube), "--workers", "1", "-o", str(tmp_path / "gaps")]) == 0


@pytest.mark.parametrize(
    ("verb", "start"), [("info", "99999999-01-01"), ("mosaic", "-4000-01-01"), ("ingest", "9999-12-30")]
)
def test_dates_that_no_calendar_has_are_refused(verb: str, start: str, tmp_path: Path, refused: Any) -> None:
    cube = tiny_cube(tmp_path / "cube.zarr")
    with edited(cube / "time" / "zarr.json") as metadata:
        metadata["attributes"]["units"] = f"days since {start}"
    assert "dates lie in the years 1 to 9999, but frame" in refused(*VERBS[verb](cube, tmp_path / "out.zarr"))
