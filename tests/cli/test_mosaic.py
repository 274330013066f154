from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr

from stpipe.cli.main import run
from stpipe.core.samples import SOURCE_CODES

NDVI = np.arange(3 * 70 * 60, dtype="int16").reshape(3, 70, 60)


def write_cube(path: Path, **more: Any) -> Path:
    """Write a small south-up Zarr cube in UTM."""
    dims = ("time", "y", "x")
    attrs = {"units": "1", "long_name": "Vegetation index"}
    variables = {"ndvi": (dims, NDVI, attrs)} | {name: (dims, *value) for name, value in more.items()}
    coords = {
        "time": np.array(["2023-05-01T10:30", "2023-05-06T10:30", "2023-05-11T10:30"], "M8[ns]"),
        "y": 4_000_015.0 + 30 * np.arange(70),
        "x": 500_015.0 + 30 * np.arange(60),
    }
    cube = xr.Dataset(variables, coords=coords).rio.write_crs("EPSG:32615")
    chunks = {name: {"chunks": (2, 32, 32)} for name in variables}
    chunks["ndvi"] |= {"_FillValue": -9999}
    cube.to_zarr(path, zarr_format=3, consolidated=False, encoding=chunks)
    return path


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    pytest.importorskip("rioxarray")
    return write_cube(tmp_path / "cube.zarr")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    pytest.importorskip("rioxarray")
    folder = tmp_path / "cube.filled"
    folder.mkdir()
    meanings = {"flag_values": list(SOURCE_CODES.values()), "flag_meanings": " ".join(SOURCE_CODES)}
    codes = np.ones(NDVI.shape, dtype="uint8")
    write_cube(
        folder / "filled.zarr",
        ndvi_source=(codes, meanings),
        ndvi_ci90=(np.zeros(NDVI.shape, "float32"), {"units": "1"}),
    )
    return folder


def names_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_cube_becomes_a_file_for_each_frame_beside_it(cube: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mosaic", str(cube)]) == 0
    out, err = capsys.readouterr()
    folder = cube.with_name("cube.geotiff")
    assert names_below(folder) == [f"ndvi/ndvi_202305{day}T103000.tif" for day in ("01", "06", "11")]
    assert "3 files" in out
    assert err == ""
    with rasterio.open(folder / "ndvi" / "ndvi_20230506T103000.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), NDVI[1, ::-1])
        assert tuple(dataset.transform)[:6] == (30, 0, 500_000, 0, -30, 4_002_100)
        assert dataset.crs.to_epsg() == 32615
        assert dataset.nodata == -9999


def test_a_run_has_its_files_beside_the_filled_cube(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mosaic", str(run_folder), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["folder"] == str(run_folder / "geotiff")
    assert len(result["files"]) == 6
    assert result["warning"] is None
    for file in result["files"]:
        assert (run_folder / "geotiff" / file["path"]).stat().st_size == file["bytes"]
        assert len(file["sha256"]) == 64
    assert run(["mosaic", str(run_folder / "filled.zarr"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["files"]
    assert [file | {"kept": True} for file in result["files"]] == again


def test_intervals_are_written_when_asked_for(run_folder: Path, tmp_path: Path) -> None:
    where = tmp_path / "out"
    assert run(["mosaic", str(run_folder), "--var", "ndvi_ci90", "--layout", "stack", "-o", str(where)]) == 0
    assert names_below(where) == ["ndvi_ci90/ndvi_ci90.tif"]


def test_two_layouts_share_a_folder(cube: Path) -> None:
    assert run(["mosaic", str(cube)]) == 0
    assert run(["mosaic", str(cube), "--layout", "stack"]) == 0
    assert len(names_below(cube.with_name("cube.geotiff"))) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["{folder}/none.zarr"], "none.zarr", id="no such cube"),
        pytest.param(["{cube}", "--var", "nope"], "no variable 'nope'; it has ndvi", id="no such variable"),
        pytest.param(["{cube}", "-o", "{cube}/tifs"], "lies inside the cube", id="output inside the cube"),
        pytest.param(["{cube}", "-o", "{folder}/file"], "is a file", id="output is a file"),
        pytest.param(
            ["{cube}", "-o", "{folder}/full"], "no mosaic wrote: a.txt, b.txt, c.tif and 1 more", id="foreign"
        ),
        pytest.param(["{cube}", "--layout", "pile"], "pile", id="unknown layout"),
        pytest.param(["{cube}", "--memory-limit", "much"], "a size such as 512MiB", id="no size"),
        pytest.param(["{cube}", "--memory-limit", "1kB"], "more than the 0 MiB", id="too little memory"),
    ],
)
def test_what_is_refused_leaves_the_disk_untouched(
    cube: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    folder = cube.parent
    (folder / "file").write_text("mine")
    (folder / "full").mkdir()
    for name in ("a.txt", "b.txt", "c.tif", "d.txt"):
        (folder / "full" / name).write_text("mine")
    before = names_below(folder)
    assert run(["mosaic", *(text.format(cube=cube, folder=folder) for text in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stpipe: error: ")
    assert err.count("\n") == 1
    assert said in err
    assert names_below(folder) == before


def test_a_full_disk_is_refused(
    cube: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000})())
    assert run(["mosaic", str(cube)]) == 2
    assert "may need" in capsys.readouterr().err
    assert not cube.with_name("cube.geotiff").exists()


def test_overwriting_leaves_other_things_alone(cube: Path) -> None:
    folder = cube.with_name("cube.geotiff")
    assert run(["mosaic", str(cube)]) == 0
    (folder / "note.txt").write_text("mine")
    target = folder / "ndvi" / "ndvi_20230501T103000.tif"
    (folder / "ndvi" / "ndvi_20230506T103000.tif.aux.xml").write_text("a viewer's")
    right = target.read_bytes()
    target.write_bytes(right[:-100])
    assert run(["mosaic", str(cube)]) == 2
    assert run(["mosaic", str(cube), "--overwrite"]) == 0
    assert target.read_bytes() == right
    assert (folder / "note.txt").read_text() == "mine"


def test_a_cube_without_a_crs_is_warned_of_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cube = xr.Dataset(
        {"ndvi": (("time", "y", "x"), NDVI)},
        coords={"time": np.arange("2023-05-01", "2023-05-04", dtype="M8[D]").astype("M8[ns]")},
    )
    cube.to_zarr(tmp_path / "bare.zarr", zarr_format=3, consolidated=False)
    assert run(["mosaic", str(tmp_path / "bare.zarr")]) == 0
    err = capsys.readouterr().err
    assert err.startswith("stpipe: warning: the cube")
    assert err.count("\n") == 1
    assert len(names_below(tmp_path / "bare.geotiff")) == 3
