"""Files that are not what they are named for: YAML with types, JSON without end, pipes, devices, rasters with code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers the accessor that writes a CRS
import xarray as xr
from hypothesis import example, given
from hypothesis import strategies as st

from stpipe.cli.main import run
from stpipe.cli.yaml_files import DEEPEST, LARGEST
from stpipe.errors import CubeError
from stpipe.io.georeference import read_area
from tests.io.ingest_sources import raster

from .doors import QUICK, tiny_cube

DEEP = "[" * 100_000 + "]" * 100_000

CANARY = "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{}]]"

PAGES = {
    "a tag that runs code": (f"gaps:\n  cube: {CANARY}\n", "line 2: {what} has no tags such as !!python"),
    "a tag on a stage": (f"gaps: {CANARY}\n", "line 1: {what} has no tags such as !!python"),
    "a harmless tag": ("gaps:\n  cube: !!binary aGVsbG8=\n", "line 2: {what} has no tags"),
    "brackets without end": (f"gaps: {DEEP}\n", "line 1: this is nested too deep for {what}"),
    "brackets that go deep": ("gaps: " + "[" * (DEEPEST + 1), "line 1: this is nested too deep for {what}"),
    "keys without end": ("".join(" " * i + "a:\n" for i in range(300)), "this is nested too deep for {what}"),
    "megabytes": ("#" * LARGEST + "\n", "is larger than 1 MiB; {what} has a few lines"),
    "a null byte": ("gaps:\n  cube: a\0b\n", "this is not YAML"),
    "two documents": ("gaps: on\n---\ngaps: on\n", "this is not YAML"),
    "bytes": ("gaps: on".encode("utf-16").decode("latin-1"), ""),
    "a key that is a list": ("? [a]\n: b\n", "line 1: a key is a word"),
    "a list": ("- a\n", "holds"),
    "a number": ("5\n", "holds"),
}


@pytest.mark.parametrize("kind", PAGES)
@pytest.mark.parametrize(("verb", "what"), [(("run",), "a pipeline"), (("cluster", "show"), "a cluster's file")])
def test_pages_of_yaml_run_nothing_and_end(
    verb: tuple[str, ...], what: str, kind: str, tmp_path: Path, refused: Any
) -> None:
    text, message = PAGES[kind]
    (tmp_path / "page.yaml").write_text(text.replace("{}", str(tmp_path / "canary")))
    assert message.format(what=what) in refused(*verb, tmp_path / "page.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["page.yaml"]


def test_aliases_in_pipelines_are_values_and_never_grow(tmp_path: Path, refused: Any) -> None:
    laughs = "about: &a0 [x, x]\ngaps:\n" + "".join(f"  k{i}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(60))
    for text in (laughs, "gaps: &a\n  cube: *a\n", "gaps:\n  cube: &a [*a]\n"):
        (tmp_path / "page.yaml").write_text(text)
        refused("run", tmp_path / "page.yaml")
        refused("cluster", "show", tmp_path / "page.yaml")
    (tmp_path / "page.yaml").write_text('gaps:\n  cube: "a\\0b"\n')
    assert "line 2: cube has a null character" in refused("run", tmp_path / "page.yaml")


def test_a_value_that_looks_like_an_option_is_none(tmp_path: Path, refused: Any) -> None:
    cube = tiny_cube(tmp_path / "cube.zarr")
    for key, value in (("cube", "--overwrite"), ("percentiles", "--output=/evil"), ("time", "--zarr")):
        (tmp_path / "page.yaml").write_text(f"gaps:\n  {key}: '{value}'\n" + f"  cube: {cube}\n" * (key != "cube"))
        refused("run", tmp_path / "page.yaml", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


READERS = {
    "info": ("info",),
    "plan": ("plan", *QUICK),
    "mosaic": ("mosaic",),
    "gaps": ("gaps", "--workers", "1"),
    "evaluate": ("evaluate", "--method", "linear"),
    "blocks": ("blocks", "export", "-o", "out"),
    "ingest": ("ingest", "-o", "out.zarr"),
}


@pytest.mark.parametrize("verb", READERS)
def test_pipes_devices_and_impossible_paths_are_refused(
    verb: str, tmp_path: Path, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    (tmp_path / "pipe.zarr").mkdir()
    os.mkfifo("pipe.zarr/zarr.json")
    for place in (
        "pipe",
        "pipe.zarr",
        "/dev/zero",
        "/dev/null",
        "a" * 5000,
        "~nobody-of-that-name/x",
        "\udcff",
    ):
        refused(*READERS[verb], place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipe", "pipe.zarr"]


def test_pipes_in_place_of_other_inputs_are_not_waited_for(tmp_path: Path, refused: Any) -> None:
    cube, pipe = tiny_cube(tmp_path / "cube.zarr"), tmp_path / "pipe"
    for name in ("pipe", "pipe.yaml", "pipe.keras", "pipe.h5", "pipe.json", "X_a.tif"):
        os.mkfifo(tmp_path / name)
    for words in (
        ("plan", cube, *QUICK, "--aoi", pipe),
        ("plan", cube, "--method", "guided", "--guide", pipe),
        ("plan", cube, "--method", "sar", "--guide", pipe, "--coefficients", pipe),
        ("info", "--model", f"{pipe}.keras"),
        ("info", "--model", f"{pipe}.h5"),
        ("run", f"{pipe}.yaml"),
        ("cluster", "show", f"{pipe}.yaml"),
        ("ingest", f"{pipe}.json", "-o", tmp_path / "out.zarr"),
        ("ingest", cube, "--align", pipe, "-o", tmp_path / "out.zarr"),
        ("blocks", "fill", tmp_path, "-o", tmp_path / "out"),
    ):
        refused(*words)


AREAS = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "features", "geometry", "geometries", "coordinates", "crs", "properties"]),
            inner | st.sampled_from(["FeatureCollection", "Feature", "Polygon", "MultiPolygon", "GeometryCollection"]),
        )
    ),
)


@given(document=AREAS)
@example(document={"type": "FeatureCollection", "features": 5})
@example(document={"type": "GeometryCollection", "geometries": [5]})
@example(document={"type": "Polygon", "coordinates": {"a": 1}})
@example(document={"type": "Polygon", "coordinates": [[[0, 0], [1, float("nan")], [1, 1], [0, 0]]]})
@example(document={"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]], "crs": {"properties": 5}})
@example(
    document={
        "type": "Polygon",
        "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]],
        "crs": {"properties": {"name": "\x1b"}},
    }
)
def test_no_area_of_interest_ends_otherwise_than_as_an_area_or_an_error(
    document: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "area.geojson"
    path.write_text(json.dumps(document))
    wkt = str(xr.DataArray(np.zeros((1, 1)), dims=("y", "x")).rio.write_crs(32633).rio.crs.to_wkt())
    try:
        area = read_area(path, wkt, (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0), "cube.zarr")
    except CubeError:
        return
    assert json.loads(area)["type"] == "MultiPolygon"


@pytest.mark.parametrize("text", [DEEP, '{"type": "Feature", "geometry": ' * 5000 + "5" + "}" * 5000, "", "\0"])
def test_json_without_end_is_no_area_and_no_items(text: str, tmp_path: Path, refused: Any) -> None:
    cube = xr.open_zarr(tiny_cube(tmp_path / "plain.zarr"), consolidated=False).rio.write_crs(32633)
    cube.drop_encoding().to_zarr(tmp_path / "cube.zarr", zarr_format=3, consolidated=False)
    for name in ("area.geojson", "items.json"):
        (tmp_path / name).write_text(text)
    assert "--aoi" in refused("plan", tmp_path / "cube.zarr", *QUICK, "--aoi", tmp_path / "area.geojson")
    refused("ingest", tmp_path / "items.json", "-o", tmp_path / "out.zarr")


def test_code_in_a_virtual_raster_is_not_run(tmp_path: Path) -> None:
    raster(tmp_path / "plain" / "20240301.tif", np.ones((4, 4), dtype=np.int16))
    (tmp_path / "20240302.vrt").write_text(
        f"""<VRTDataset rasterXSize="4" rasterYSize="4"><GeoTransform>0,10,0,40,0,-10</GeoTransform>
        <VRTRasterBand dataType="Int16" band="1" subClass="VRTDerivedRasterBand">
        <PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>
        <PixelFunctionCode><![CDATA[
import pathlib
pathlib.Path({str(tmp_path / "canary")!r}).touch()
def f(*args, **more): pass
]]></PixelFunctionCode>
        <SimpleSource><SourceFilename>{tmp_path / "plain" / "20240301.tif"}</SourceFilename></SimpleSource>
        </VRTRasterBand></VRTDataset>"""
    )
    assert run(["ingest", str(tmp_path / "20240302.vrt"), "-o", str(tmp_path / "out.zarr")]) in {1, 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["20240302.vrt", "plain"]


def test_a_folder_that_may_not_be_looked_at_is_refused(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube = tmp_path / "cube.zarr"
    tiny_cube(cube)
    exists = Path.exists

    def forbidden(path: Path) -> bool:
        if path.parent == cube:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    capsys.readouterr()
    monkeypatch.setattr(Path, "exists", forbidden)
    assert run(["info", str(cube)]) == 2
    assert "can't be looked at: Permission denied" in capsys.readouterr().err
