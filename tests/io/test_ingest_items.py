"""STAC items through odc-stac: the same files as rasters are the oracle. Nothing is asked of a network."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pystac_client
import pytest
import xarray as xr
from rasterio.transform import from_origin
from rio_stac import create_stac_item

from stpipe.cli.main import run
from stpipe.errors import CubeError, OptionError
from stpipe.io.cube import open_cube
from stpipe.io.ingest.target import Target
from tests.io.ingest_sources import SHAPE, ingest, plan_ingest, raster


def item_of(paths: dict[str, Path], when: str, name: str, *, relative_to: Path | None = None) -> pystac.Item:
    """Return an item of one scene, an asset a band, as rio-stac describes the files."""
    moment = datetime.fromisoformat(when).replace(tzinfo=UTC)
    described = {
        band: create_stac_item(
            str(path), moment, id=name, asset_name=band, with_proj=True, with_raster=True, with_eo=False
        )
        for band, path in paths.items()
    }
    item = next(iter(described.values()))
    for band, other in described.items():
        item.assets[band] = other.assets[band].clone()
        item.assets[band].set_owner(item)
        for key in [key for key in other.properties if key.startswith("proj:")]:
            item.assets[band].extra_fields[key] = other.properties[key]
        if relative_to is not None:
            item.assets[band].href = str(paths[band].relative_to(relative_to))
    return item


def collection(items: list[pystac.Item], path: Path) -> Path:
    """Write items as a file."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [item.to_dict() for item in items]}))
    return path


def small_items(folder: Path, **profile: Any) -> list[pystac.Item]:
    """Write three scenes of two bands, and return their items."""
    items = []
    for day in (1, 2, 3):
        paths = {band: folder / f"2020010{day}_{band}.tif" for band in ("red", "SCL")}
        raster(paths["red"], seed=day, **{"nodata": 0} | profile)
        scl = np.random.default_rng(day).integers(1, 11, SHAPE).astype("uint8")
        raster(paths["SCL"], scl, **{"nodata": 0} | profile)
        items.append(item_of(paths, f"2020-01-0{day}", f"scene{day}", relative_to=folder))
    return items


def same(one: xr.Dataset, other: xr.Dataset) -> None:
    """Compare two cubes, all but attributes that say where they are from."""
    assert set(one.variables) == set(other.variables)
    for name in one.variables:
        np.testing.assert_array_equal(one[name].values, other[name].values)
        assert one[name].dtype == other[name].dtype
        np.testing.assert_equal(one[name].attrs.get("_FillValue"), other[name].attrs.get("_FillValue"))


def test_hls_items_load_to_the_numbers_of_the_files(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "hls_T15SWD_2023"
    scenes: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("20230[67]*.tif")):
        scenes.setdefault(path.name[:12], {})[path.stem.rsplit("_", 1)[1]] = path
    items = [item_of(paths, f"{name[:4]}-{name[4:6]}-{name[6:8]}", name) for name, paths in scenes.items()]
    listed = collection(items, tmp_path / "items.json")
    same(
        ingest(listed, output=tmp_path / "items.zarr", same_day="mean", variables=("B04", "NIR")),
        ingest(folder / "20230[67]*.tif", output=tmp_path / "files.zarr", same_day="mean", variables=("B04", "NIR")),
    )
    assert len(open_cube(tmp_path / "items.zarr").time) > 10


def test_items_obey_rules_and_chunks_as_files_do(tmp_path: Path) -> None:
    listed = collection(small_items(tmp_path / "in"), tmp_path / "in" / "items.json")
    options: dict[str, Any] = {"rules": ("SCL:3,8-10",), "buffer": 1, "chunks": (2, 8, 8)}
    same(
        ingest(listed, output=tmp_path / "items.zarr", **options),
        ingest(tmp_path / "in" / "*.tif", output=tmp_path / "files.zarr", **options),
    )


def test_a_part_of_items_on_another_grid_is_what_files_give(tmp_path: Path) -> None:
    listed = collection(small_items(tmp_path / "in"), tmp_path / "in" / "items.json")
    box: dict[str, Any] = {"bbox": (500_042, 4_999_880, 500_151, 4_999_950), "bbox_crs": "EPSG:32633"}
    same(
        ingest(listed, output=tmp_path / "a.zarr", **box),
        ingest(tmp_path / "in" / "*.tif", output=tmp_path / "b.zarr", **box),
    )
    coarse = ingest(listed, output=tmp_path / "c.zarr", resolution=20, resampling="average")
    files = ingest(tmp_path / "in" / "*.tif", output=tmp_path / "d.zarr", resolution=20, resampling="average")
    same(coarse, files)
    assert coarse["red"].shape == (3, 10, 15)


def test_types_come_from_the_file_where_the_item_is_silent(tmp_path: Path) -> None:
    items = small_items(tmp_path / "in")
    for item in items:
        for asset in item.assets.values():
            asset.extra_fields.pop("raster:bands", None)
            asset.extra_fields.pop("bands", None)
    listed = collection(items, tmp_path / "in" / "items.json")
    cube = ingest(listed, output=tmp_path / "c.zarr")
    assert (cube["red"].dtype, cube["SCL"].dtype) == ("int16", "uint8")
    same(cube, ingest(tmp_path / "in" / "*.tif", output=tmp_path / "d.zarr"))


def test_items_without_a_crs_or_of_several_resolutions_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = small_items(tmp_path / "in")
    for document in (item.properties for item in items):
        for key in [key for key in document if key.startswith("proj:")]:
            del document[key]
    for item in items:
        for asset in item.assets.values():
            asset.extra_fields = {k: v for k, v in asset.extra_fields.items() if not k.startswith("proj:")}
        item.stac_extensions = []
    listed = collection(items, tmp_path / "in" / "items.json")
    assert run(["ingest", str(listed), "-o", str(tmp_path / "c.zarr")]) == 2
    error = capsys.readouterr().err
    assert "item scene1 does not say CRS, shape and transform of its asset 'SCL'" in error
    assert error.count("\n") == 1
    forced = ingest(listed, output=tmp_path / "d.zarr", crs="EPSG:32633", resolution=10.0)
    assert int((forced["red"].values != 0).sum()) >= 0.9 * 3 * SHAPE[0] * SHAPE[1]

    fine = small_items(tmp_path / "fine")
    paths = {"red": tmp_path / "fine" / "20200102_red.tif"}
    raster(paths["red"], np.ones((10, 15), "int16"), nodata=0, transform=from_origin(500_000, 5_000_000, 20, 20))
    mixed = collection([fine[0], item_of(paths, "2020-01-02", "coarse")], tmp_path / "fine" / "items.json")
    with pytest.raises(CubeError, match=r"all files need one grid, but .* pixel 10 x -10, .* pixel 20 x -20"):
        plan_ingest([str(mixed)])
    with pytest.raises(CubeError, match=r"several resolutions: 10 in .*, 20 in .*--resolution"):
        plan_ingest([str(mixed)], crs="EPSG:32634")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can't be read as JSON"),
        ("[]", "is no STAC ItemCollection"),
        ('{"type": "Topology"}', "its type is 'Topology'"),
        ('{"type": "FeatureCollection", "features": []}', "holds no STAC item"),
        ('{"type": "FeatureCollection", "features": [{"type": "Feature"}]}', "none has assets; GeoJSON of an area"),
        ('{"type": "FeatureCollection", "features": [{"type": "Feature", "assets": {}}]}', "holds no valid STAC items"),
        ('{"type": "FeatureCollection", "features": [7]}', "none has assets"),
        ('{"type": "Feature", "features": null}', "none has assets"),
        ('{"type": "Polygon", "coordinates": []}', "its type is 'Polygon'; GeoJSON of an area to cut out goes behind"),
    ],
)
def test_files_that_hold_no_items_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "items.json").write_text(text)
    with pytest.raises(CubeError, match=message):
        plan_ingest([str(tmp_path / "items.json")])


def test_an_api_is_asked_for_place_period_and_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items, asked = small_items(tmp_path), {}
    for item in items:
        for asset in item.assets.values():
            asset.href = str(tmp_path / asset.href)

    class Answer:
        def items(self) -> list[pystac.Item]:
            return items

    class Client:
        def search(self, **query: Any) -> Answer:
            asked.update(query)
            return Answer()

    monkeypatch.setattr(pystac_client.Client, "open", lambda address: asked.update(address=address) or Client())
    address = "https://example.org/stac/v1"
    box = {"bbox": (15.0, 45.0, 15.003, 45.16)}
    plan = plan_ingest([address], collections=("s2",), time=("2020-01-02", None), **box)
    assert [time.day for time in plan.times] == [2, 3]
    assert asked["address"] == address
    assert (asked["collections"], asked["datetime"]) == (["s2"], "2020-01-02/..")
    np.testing.assert_allclose(asked["bbox"], box["bbox"])
    with pytest.raises(OptionError, match="a STAC API is asked for a collection; name one of"):
        plan_ingest([address], **box)
    with pytest.raises(OptionError, match="say where with --bbox or --aoi"):
        plan_ingest([address], collections=("s2",))
    items.clear()
    with pytest.raises(CubeError, match="holds no STAC item of this place, period and collection"):
        plan_ingest([address], collections=("s2",), **box)


def test_a_box_to_search_is_in_degrees(tmp_path: Path) -> None:
    from stpipe.io.ingest.items import _search_box

    west, south, east, north = _search_box(Target(bbox=(500_000, 4e6, 510_000, 4.01e6), bbox_crs="EPSG:32633")) or []
    assert 14.99 < west < east < 15.2
    assert 36.1 < south < north < 36.3
    area = {"type": "Polygon", "coordinates": [[[5, 47], [6, 47], [6, 48], [5, 47]]]}
    (tmp_path / "area.geojson").write_text(json.dumps(area))
    np.testing.assert_allclose(_search_box(Target(aoi=tmp_path / "area.geojson")) or [], [5, 47, 6, 48], atol=1e-6)


def test_only_assets_that_are_needed_are_looked_into(tmp_path: Path) -> None:
    items = small_items(tmp_path / "in")
    for item in items:
        for name in ("nir", "visual"):
            asset = item.assets["red"].clone()
            asset.href = f"no_such_{name}.tif"
            asset.extra_fields.pop("raster:bands", None)
            asset.extra_fields.pop("bands", None)
            item.assets[name] = asset
    listed = collection(items, tmp_path / "in" / "items.json")
    with pytest.raises(CubeError, match=r"no_such_nir\.tif can't be opened as a raster"):
        plan_ingest([str(listed)])
    cube = ingest(listed, output=tmp_path / "c.zarr", variables=("red",), rules=("scl:3",))
    assert set(cube.data_vars) - {"spatial_ref"} == {"clear", "red"}
    with pytest.raises(CubeError, match=r"no raster assets that were asked for; they have SCL, nir, red, visual"):
        plan_ingest([str(listed)], variables=("B04",))
