"""Where cubes of one row, one column or one pixel lie: as in the cube that they were cut from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers the accessor that writes a CRS
import xarray as xr

from stpipe.cli.main import run
from stpipe.errors import CubeError
from stpipe.io.cube import open_source
from stpipe.io.georeference import read_area

ROWS, COLUMNS = 4, 6
CUTS: dict[str, dict[str, Any]] = {
    "row": {"y": [2]},
    "column": {"x": [3]},
    "pixel": {"y": [2], "x": [3]},
}


def made(side: tuple[float, float] = (20.0, 20.0), *, south_up: bool = False, declared: bool = True) -> xr.Dataset:
    """Return a cube with pixels of these sides, (y, x)."""
    height, width = side
    y = 4_000_000 - height * (np.arange(ROWS) + 0.5)
    cube = xr.Dataset(
        {"v": (("time", "y", "x"), np.random.default_rng(2).random((3, ROWS, COLUMNS)).astype("float32"))},
        coords={
            "time": np.datetime64("2024-03-01", "ns") + np.arange(3) * np.timedelta64(5, "D"),
            "y": y[::-1] if south_up else y,
            "x": 500_000 + width * (np.arange(COLUMNS) + 0.5),
        },
    ).rio.write_crs(32633)
    if declared:  # of the whole frame, from its upper left corner, or its lower left one
        top, step = (4_000_000 - ROWS * height, height) if south_up else (4_000_000, -height)
        cube["spatial_ref"].attrs["GeoTransform"] = f"500000 {width} 0 {top} 0 {step}"
    return cube


def place(cube: xr.Dataset, folder: Path) -> tuple[float, ...] | None:
    cube.to_zarr(folder / "c.zarr", zarr_format=3, consolidated=False, mode="w")
    return open_source(folder / "c.zarr").transform


@pytest.mark.parametrize("south_up", [False, True], ids=["north-up", "south-up"])
@pytest.mark.parametrize("cut", ["row", "column", "pixel"])
def test_what_is_left_of_a_frame_lies_where_it_lay(tmp_path: Path, cut: str, south_up: bool) -> None:
    whole = made((30.0, 20.0), south_up=south_up)
    a, _, c, _, e, f = place(whole, tmp_path) or (0.0,) * 6
    assert (a, e) == (20.0, 30.0 if south_up else -30.0)
    row, column = (2 if "y" in CUTS[cut] else 0), (3 if "x" in CUTS[cut] else 0)
    assert place(whole.isel(CUTS[cut]), tmp_path) == (a, 0.0, c + column * a, 0.0, e, f + row * e)


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        ("row", (20.0, 0.0, 500_000.0, 0.0, -20.0, 3_999_960.0)),
        ("column", (20.0, 0.0, 500_060.0, 0.0, -20.0, 4_000_000.0)),
        ("pixel", None),
    ],
)
def test_without_a_geotransform_pixels_are_square_and_a_single_one_has_no_size(
    tmp_path: Path, cut: str, expected: tuple[float, ...] | None
) -> None:
    cube = made(declared=False).isel(CUTS[cut])
    assert "GeoTransform" not in cube["spatial_ref"].attrs
    assert place(cube, tmp_path) == expected


def test_an_axis_without_coordinates_is_where_the_geotransform_says(tmp_path: Path) -> None:
    assert place(made().drop_vars("y"), tmp_path) == (20.0, 0.0, 500_000.0, 0.0, -20.0, 4_000_000.0)
    assert place(made(declared=False).drop_vars("y"), tmp_path) is None
    turned = made().drop_vars(["y", "x"])
    turned["spatial_ref"].attrs["GeoTransform"] = "500000 10 3 4000000 3 -10"
    assert place(turned, tmp_path) == (10.0, 3.0, 500_000.0, 3.0, -10.0, 4_000_000.0)
    uneven = made().assign_coords(y=[0.0, 1.0, 5.0, 6.0])
    assert place(uneven, tmp_path) is None


@pytest.mark.processes
def test_a_row_is_filled_into_geotiffs_that_are_placed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = made().isel(y=[2])
    row["v"][1, 0, 2] = np.nan
    row.to_zarr(tmp_path / "c.zarr", zarr_format=3, consolidated=False)
    words = ["--method", "linear", "--workers", "1"]
    assert run(["fill-scene", str(tmp_path / "c.zarr"), "-o", str(tmp_path / "out"), *words]) == 0
    assert "can't be placed" not in capsys.readouterr().err
    with rasterio.open(tmp_path / "out" / "geotiff" / "v" / "v_20240306T000000.tif") as file:
        assert file.crs.to_epsg() == 32633
        assert tuple(file.bounds) == (500_000.0, 3_999_940.0, 500_120.0, 3_999_960.0)


def test_an_area_in_a_crs_that_nobody_knows_is_refused_on_one_line(tmp_path: Path) -> None:
    area = tmp_path / "field.geojson"
    area.write_text(
        '{"type": "Polygon", "crs": {"type": "name", "properties": {"name": "EPSG:99999"}},'
        ' "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}'
    )
    cube = made()
    said = r"field.geojson says that it is in 'EPSG:99999', which is no known CRS"
    with pytest.raises(CubeError, match=said) as info:
        read_area(area, cube["spatial_ref"].attrs["crs_wkt"], (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), "c.zarr")
    assert "PROJ" not in str(info.value)
    assert "\n" not in str(info.value)
