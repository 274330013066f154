from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stpipe.io.catalog import item_collection
from stpipe.io.frames import frame_labels
from stpipe.io.mosaic import plan_mosaic, write_frames
from tests.io.mosaic_sources import NORTH_UP, ArraySource, array_source

rasterio = pytest.importorskip("rasterio")


def written(folder: Path, source: ArraySource, layout: Any = "frames") -> tuple[bytes, list[dict[str, Any]]]:
    """Return the collection of a mosaic in `folder`/geotiff, and its items."""
    tasks = plan_mosaic(source, None, layout, 2**30)
    files = [
        {"path": file.path, "bytes": file.bytes, "sha256": file.sha256}
        for task in tasks
        for file in write_frames(task, source.reader(), folder / "geotiff")
    ]
    made = item_collection(tasks, files, labels=frame_labels(source.times), name="scene", folder="geotiff")
    return made, json.loads(made)["features"]


def scene(**about: Any) -> ArraySource:
    rng = np.random.default_rng(0)
    values = rng.integers(-500, 900, (3, 70, 90)).astype("int16")
    about = {
        "nodata": -9999,
        "scale_factor": 1e-3,
        "add_offset": 0.5,
        "attrs": {"units": "1", "long_name": "CO"},
    } | about
    return array_source({"co": values, "co_source": np.ones(values.shape, "uint8")}, **about)


def test_items_say_of_their_files_what_these_say_themselves(tmp_path: Path) -> None:
    rio_stac = pytest.importorskip("rio_stac")
    _, items = written(tmp_path, scene())
    assert [item["id"] for item in items] == [f"scene_{date}T103000" for date in ("20230101", "20230106", "20230111")]
    for item in items:
        assert item["properties"]["datetime"].endswith("T10:30:00Z")
        assert set(item["assets"]) == {"co", "co_source"}
        for asset in item["assets"].values():
            path = tmp_path / asset["href"]
            content = path.read_bytes()
            assert asset["file:size"] == len(content)
            assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
            with pytest.warns(UserWarning, match="parse date"):  # TIFF's own spelling of dates, which STAC's isn't
                other = rio_stac.create_stac_item(str(path), with_proj=True, with_raster=True).to_dict()
            assert other["bbox"] == pytest.approx(item["bbox"], abs=1e-5)
            for key in ("proj:shape", "proj:epsg"):
                assert other["properties"][key] == item["properties"][key]
            assert other["properties"]["proj:transform"][:6] == item["properties"]["proj:transform"]
            (said,), (band,) = other["assets"]["asset"]["raster:bands"], asset["raster:bands"]
            assert {"scale": 1.0, "offset": 0.0} | {k: v for k, v in band.items() if ":" not in k} == {
                key: value for key, value in said.items() if key not in {"statistics", "histogram"}
            }


def test_items_are_valid_stac(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    from pystac.validation import validate_dict

    for number, source in enumerate((scene(), scene(crs=None), scene(nodata=None), scene(transform=None, crs=None))):
        for layout in ("frames", "stack"):
            _, items = written(tmp_path / f"{number}-{layout}", source, layout)
            for item in items:
                assert validate_dict(item, stac_version="1.1.0", extensions=[])  # those of extensions are far away


def test_a_stack_is_one_item_with_a_band_for_each_date(tmp_path: Path) -> None:
    _, (item,) = written(tmp_path, scene(), "stack")
    assert item["id"] == "scene_20230101T103000_20230111T103000"
    assert item["properties"]["datetime"] is None
    assert item["properties"]["start_datetime"] == "2023-01-01T10:30:00Z"
    assert item["properties"]["end_datetime"] == "2023-01-11T10:30:00Z"
    co = item["assets"]["co"]
    assert len(co["raster:bands"]) == 3
    assert [band["description"] for band in co["bands"]] == [f"2023-01-{day}T10:30:00" for day in ("01", "06", "11")]
    with rasterio.open(tmp_path / co["href"]) as file:
        assert list(file.descriptions) == [band["description"] for band in co["bands"]]


def test_the_same_files_give_the_same_bytes_wherever_they_lie(tmp_path: Path) -> None:
    assert written(tmp_path / "a", scene())[0] == written(tmp_path / "deep" / "b", scene())[0]


def test_marks_that_json_has_no_word_for_are_spelled(tmp_path: Path) -> None:
    values = np.zeros((1, 8, 8), dtype="float32")
    _, (item,) = written(tmp_path, array_source({"v": values}, nodata=float("nan")))
    assert item["assets"]["v"]["raster:bands"][0]["nodata"] == "nan"


def test_source_codes_carry_their_meanings(tmp_path: Path) -> None:
    _, items = written(tmp_path, scene())
    (band,) = items[0]["assets"]["co_source"]["raster:bands"]
    assert [(one["value"], one["name"]) for one in band["classification:classes"]] == list(
        enumerate(("outside_domain", "observed", "filled", "filled_by_fallback", "unfilled"))
    )
    assert any("classification" in address for address in items[0]["stac_extensions"])


def test_frames_of_one_instant_are_items_of_their_own(tmp_path: Path) -> None:
    times = np.array(["2023-01-01T10:30", "2023-01-01T10:30", "2023-01-06"], dtype="M8[ns]")
    source = array_source({"v": np.zeros((3, 8, 8), dtype="float32")}, times=times, transform=NORTH_UP)
    _, items = written(tmp_path, source)
    assert len({item["id"] for item in items}) == 3
    assert len({item["assets"]["v"]["href"] for item in items}) == 3
