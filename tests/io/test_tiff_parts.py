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
from stpipe.io.tiff_parts import Band, TiledRaster, assemble, encode

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


def write(raster: TiledRaster, values: NDArray[np.float32], path: Path) -> None:
    tiles: dict[tuple[int, ...], list[bytes]] = {}
    for level in range(raster.levels):
        columns = raster.counts(level)[1]
        encoded = encode(values[:, :: 2**level, :: 2**level], raster.tile)
        tiles |= {(level, *divmod(i, columns)): pieces for i, pieces in enumerate(encoded)}
    assemble(
        raster,
        path,
        lambda *place: [len(piece) for piece in tiles[place]],
        lambda level, row, column, band: tiles[level, row, column][band],
    )


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


def test_a_disk_that_loses_bytes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = tiff_parts._crc_of

    def after_damage(path: Path) -> int:
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
        return true(path)

    monkeypatch.setattr(tiff_parts, "_crc_of", after_damage)
    with pytest.raises(RunError, match="does not hold what was written; is the disk full"):
        write(raster_of((70, 20)), np.ones((3, 70, 20), dtype=np.float32), tmp_path / "out.tif")
