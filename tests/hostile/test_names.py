"""Names of variables come from files; none makes a path, and one that can't be written is refused before any work."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from stpipe.cli.main import run
from stpipe.errors import CubeError
from stpipe.io.names import check_array_names
from tests.io.ingest_sources import raster
from tests.io.test_ingest_items import item_of

from .doors import QUICK, snapshot

BAD = {
    "..": "it is no name of a folder",
    ".": "it is no name of a folder",
    "a\\b": "it has a slash",
    "a\0b": "it has characters that are no text",
    "a\nb": "it has characters that are no text",
    "zarr.json": "Zarr has a file of that name",
    "time": "a coordinate has that name",
    "y": "a coordinate has that name",
    "é" * 120: "it has 240 bytes, and the most is 200",
}
"""Names that no array of the products can have, and what is said of them."""

named = pytest.mark.parametrize("name", BAD, ids=ascii)


def band_cube(path: Path, *names: str) -> Path:
    """Write a cube of one array with a band dimension, whose labels become the names of variables."""
    values = np.random.default_rng(0).random((4, len(names), 8, 8)).astype(np.float32)
    values[1, :, 2:5, 2:5] = np.nan
    xr.Dataset(
        {"stack": (("time", "band", "y", "x"), values)},
        coords={
            "time": np.datetime64("2024-03-01", "ns") + np.arange(4) * np.timedelta64(5, "D"),
            "band": list(names),
            "y": -10.0 * np.arange(8),
            "x": 10.0 * np.arange(8),
        },
    ).to_zarr(path, mode="w", zarr_format=2, consolidated=False)
    return path


@named
def test_names_that_no_array_can_have_are_refused_before_any_work(name: str, tmp_path: Path, refused: Any) -> None:
    cube = band_cube(tmp_path / "cube.zarr", name, "fine")
    before = snapshot(tmp_path)
    for words in (
        ("fill-scene", cube, *QUICK, "--no-geotiff", "-o", tmp_path / "filled"),
        ("plan", cube, *QUICK, "-o", tmp_path / "filled"),
        ("ingest", cube, "-o", tmp_path / "again.zarr"),
    ):
        assert BAD[name] in refused(*words)
    if name not in {"time", "y"}:  # statistics have longer names
        assert BAD[name] in refused("gaps", cube, "--zarr", "--workers", "1", "-o", tmp_path / "gaps")
    assert snapshot(tmp_path) == before
    assert run(["plan", str(cube), *QUICK, "--var", "fine", "-o", str(tmp_path / "filled")]) == 0
    assert run(["ingest", str(cube), "--var", "fine", "-o", str(tmp_path / "again.zarr")]) == 0


def test_a_name_that_no_geotiff_can_have_is_refused_before_the_fill(tmp_path: Path, refused: Any) -> None:
    cube = band_cube(tmp_path / "cube.zarr", "x" * 190)
    assert "gives 190; rename it" in refused("fill-scene", cube, *QUICK, "-o", tmp_path / "filled")
    assert not (tmp_path / "filled").exists()
    assert run(["plan", str(cube), *QUICK, "--no-geotiff"]) == 0


def test_a_fill_of_a_path_as_a_name_stays_in_its_folder(tmp_path: Path) -> None:
    cube = band_cube(tmp_path / "in" / "deep" / "cube.zarr", "../../[/bold]")
    before = snapshot(tmp_path)
    assert run(["fill-scene", str(cube), *QUICK, "-o", str(tmp_path / "out" / "deep" / "filled")]) == 0
    made = snapshot(tmp_path)
    assert {name for name in made.keys() - before.keys() if not name.startswith("out/deep/filled/")} == set()
    assert sum(name.endswith(".tif") for name in made) == 8


@given(
    st.text(st.characters(exclude_categories=()), max_size=12)
    | st.lists(st.sampled_from(["..", "/", "\\", "\0", "\x1b[31m", "zarr.json", "x", " ", "é" * 60])).map("".join)
)
def test_a_name_that_is_not_refused_is_a_folder_of_its_own(name: str) -> None:
    try:
        check_array_names([name], taken=["time"], place="a.zarr")
    except CubeError:
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).mkdir()
        assert [path.name for path in Path(folder).iterdir()] == [name]


def test_bands_that_are_called_like_paths_are_ingested_into_the_cube(tmp_path: Path) -> None:
    cube = band_cube(tmp_path / "in" / "cube.zarr", "../../[/bold]", "$^{%s", "a/../b", "\u202e")
    before = snapshot(tmp_path)
    assert run(["ingest", str(cube), "-o", str(tmp_path / "in" / "out.zarr")]) == 0
    made = snapshot(tmp_path).keys() - before.keys()
    assert {path for path in made if not path.startswith("in/out.zarr/")} == set()
    found = xr.open_zarr(tmp_path / "in" / "out.zarr", consolidated=False)
    assert set(map(str, found.data_vars)) == {".._.._[_bold]", "$^{%s", "a_.._b", "\u202e"}


@named
def test_bands_of_rasters_and_assets_of_items_are_held_to_the_same(name: str, tmp_path: Path, refused: Any) -> None:
    raster(tmp_path / "tiff" / "20240301.tif", np.ones((2, 4, 4), dtype=np.int16), descriptions=(name, "fine"))
    if "\0" not in name and name != "a\nb":  # GDAL cuts descriptions there, and white space becomes a bar
        assert BAD[name] in refused("ingest", tmp_path / "tiff", "-o", tmp_path / "out.zarr")
    paths = {band: tmp_path / "stac" / f"{band}.tif" for band in ("evil", "fine")}
    for path in paths.values():
        raster(path, np.ones((4, 4), dtype=np.int16))
    document = item_of(paths, "2024-03-01", "scene").to_dict()
    for evil in (name, f"../../{name}"):
        assets = document["assets"]
        renamed = {evil if band == "evil" else band: asset for band, asset in assets.items()}
        listed = tmp_path / "stac" / "items.json"
        listed.write_text(json.dumps({"type": "FeatureCollection", "features": [document | {"assets": renamed}]}))
        refused("ingest", listed, "-o", tmp_path / "out.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stac", "tiff"]
