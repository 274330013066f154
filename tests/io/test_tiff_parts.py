"""A COG put together from tiles that were encoded apart, read back by GDAL."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rio_cogeo.cogeo import cog_validate

from stpipe.errors import RunError
from stpipe.io import tiff_parts
from stpipe.io.frames import RasterGrid
from stpipe.io.tiff_parts import Band, Stretch, TiledRaster, assemble, encode

BANDS = (Band(name="clear_count", units="1"), Band(name="gap_mean", units="day"), Band(name="ünits"))


def raster_of(shape: tuple[int, int], *, placed: bool = True) -> TiledRaster:
    grid = RasterGrid(
        height=shape[0],
        width=shape[1],
        crs_wkt=CRS.from_epsg(32633).to_wkt() if placed else None,
        transform=(10.0, 0.0, 5e5, 0.0, -10.0, 5e6) if placed else None,
        flip_y=False,
        flip_x=False,
    )
    return TiledRaster(grid=grid, bands=BANDS, tile=64, tags=(("stpipe_gaps", "ndvi"),))


def write(raster: TiledRaster, values: NDArray[np.float32], path: Path, *, lose: int = 0, forget: bool = False) -> None:
    """Write a file from parts of one row of tiles, the lowest row first."""

    def stretches(level: int) -> list[Stretch]:
        found = []
        rows, columns = raster.counts(level)
        shown = values[:, :: 2**level, :: 2**level]
        for row in reversed(range(rows)):
            encoded = encode(shown[:, row * raster.tile : (row + 1) * raster.tile], raster.tile)
            file = path.with_name(f"{level}-{row}.part")
            content = b"other" + b"".join(piece for pieces in encoded for piece in pieces)
            file.write_bytes(content[: len(content) - lose])
            sizes = [[len(piece) for piece in pieces] for pieces in encoded]
            places = [(row, column) for column in range(columns)]
            found.append(Stretch(file=file, start=len(b"other"), sizes=sizes, places=places))
        return found[forget:]

    assemble(raster, path, stretches)


@pytest.mark.parametrize("big", [False, True], ids=["classic", "BigTIFF"])
@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (65, 30), (300, 200)])
def test_gdal_reads_back_what_went_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], big: bool
) -> None:
    if big:
        monkeypatch.setattr(tiff_parts, "LARGEST_CLASSIC", 0)
    raster, path = raster_of(shape), tmp_path / "out.tif"
    values = np.random.default_rng(0).normal(size=(len(BANDS), *shape)).astype(np.float32)
    values[1, : shape[0] // 2] = np.nan
    write(raster, values, path)
    assert path.read_bytes()[2] == (43 if big else 42)
    with rasterio.open(path) as dataset:
        assert np.array_equal(dataset.read(), values, equal_nan=True)
        assert dataset.descriptions == tuple(band.name for band in BANDS)
        assert [units or "" for units in dataset.units] == [band.units for band in BANDS]
        assert np.isnan(dataset.nodata)
        assert dataset.crs == CRS.from_epsg(32633)
        assert tuple(dataset.transform)[:6] == raster.grid.transform
        assert dataset.tags()["stpipe_gaps"] == "ndvi"
        factors = dataset.overviews(1)
    assert factors == [2**level for level in range(1, raster.levels)]
    for number, factor in enumerate(factors):
        with rasterio.open(path, overview_level=number) as dataset:
            assert np.array_equal(dataset.read(), values[:, ::factor, ::factor], equal_nan=True)
    assert cog_validate(str(path), quiet=True) == (True, [], [])
    assert list(tmp_path.iterdir()) == [path], "what it was made of is gone"


def test_the_header_counts_for_what_a_classic_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raster = raster_of((300, 200))
    values = np.zeros((len(BANDS), 300, 200), dtype=np.float32)
    write(raster, values, tmp_path / "classic.tif")
    size = (tmp_path / "classic.tif").stat().st_size
    for largest, version in ((size, 42), (size - 1, 43)):
        monkeypatch.setattr(tiff_parts, "LARGEST_CLASSIC", largest)
        write(raster, values, tmp_path / "out.tif")
        assert (tmp_path / "out.tif").read_bytes()[2] == version


def test_without_a_crs_it_says_nothing_of_its_place(tmp_path: Path) -> None:
    raster = raster_of((70, 20), placed=False)
    write(raster, np.ones((3, 70, 20), dtype=np.float32), tmp_path / "out.tif")
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        dataset = rasterio.open(tmp_path / "out.tif")
    with dataset:
        assert dataset.crs is None
        assert (dataset.read() == 1).all()


def test_what_is_missing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raster, values = raster_of((70, 20)), np.ones((3, 70, 20), dtype=np.float32)
    with pytest.raises(RunError, match=r"part is shorter than its record says; run the same command again"):
        write(raster, values, tmp_path / "out.tif", lose=1)
    with pytest.raises(RunError, match=r"tiles of .*out\.tif were never written; run the same command again"):
        write(raster, values, tmp_path / "out.tif", forget=True)
    monkeypatch.setattr(tiff_parts, "_copy", lambda *_: None)
    with pytest.raises(RunError, match="does not hold what was written; is the disk full"):
        write(raster, values, tmp_path / "out.tif")


def test_a_damaged_tile_does_not_pass_for_a_whole_one(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 64, 64)).astype(np.float32)
    write(raster_of((64, 64)), values, tmp_path / "out.tif")
    content = bytearray((tmp_path / "out.tif").read_bytes())
    content[-1000] ^= 1
    (tmp_path / "out.tif").write_bytes(content)
    with rasterio.open(tmp_path / "out.tif") as dataset, pytest.raises(rasterio.errors.RasterioIOError):
        dataset.read()
