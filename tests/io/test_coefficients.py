"""Coefficients of one run for another: the same numbers come back, of the same pixels, or one line says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers the accessor that writes a CRS
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.geometry import TileGrid
from stpipe.core.windows import Window
from stpipe.errors import RefusedError
from stpipe.io.coefficients import GivenCoefficients, open_coefficients, write_coefficients
from stpipe.io.cube import Cube, open_source
from stpipe.io.radar import Radar, open_radar
from stpipe.methods.sar.coefficients import field_names, in_units, standardised
from stpipe.methods.sar.options import Average, RadarOptions

T, Y, X = 24, 13, 9
FIELDS = 10


def write_cube(path: Path, names: tuple[str, ...], *, low: float, shift: float = 0.0, epsg: int = 32631) -> str:
    rng = np.random.default_rng(7)
    coords = {
        "time": np.datetime64("2020-01-01", "ns") + np.arange(T) * np.timedelta64(6, "D"),
        "y": 5_000_000 - 10.0 * np.arange(Y),
        "x": 500_000 + shift + 10.0 * np.arange(X),
    }
    dims = ("time", "y", "x")
    values = {name: (dims, (low + rng.random((T, Y, X))).astype(np.float32)) for name in names}
    dataset = xr.Dataset(values, coords=coords).rio.write_crs(f"EPSG:{epsg}")
    dataset.to_zarr(path, zarr_format=3, consolidated=False)
    return str(path)


def opened(folder: Path, *, average: Average = "power", window: float = 12.0) -> tuple[Cube, Radar]:
    place = folder / "ndvi.zarr"
    if not place.exists():
        write_cube(place, ("ndvi", "evi"), low=0.2)
        write_cube(folder / "s1.zarr", ("VV", "VH"), low=-15.0)
    cube = open_source(str(place), variables=["ndvi"])
    return cube, open_radar([folder / "s1.zarr"], cube, RadarOptions(average=average, window_days=window))


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, np.ndarray]:
    cube, radar = opened(tmp_path)
    fields = np.random.default_rng(1).standard_normal((FIELDS, Y, X)).astype(np.float32)
    fields[:, 3, 4] = np.nan
    tiles = TileGrid((T, Y, X), (T, 5, 4))
    place = tmp_path / "coefficients.zarr"
    write_coefficients(place, cube, tiles, radar, {"ndvi": lambda tile: fields[:, *tile.slices[1:]]})
    return place, fields


@given(top=st.integers(-3, Y + 2), left=st.integers(-3, X + 2), height=st.integers(1, 8), width=st.integers(1, 8))
def test_any_window_is_that_part_of_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, top: int, left: int, height: int, width: int
) -> None:
    made, fields = _once(tmp_path_factory)
    window = Window((0, top, left), (T, top + height, left + width))
    around = 12
    padded = np.pad(fields, ((0, 0), (around, around), (around, around)), constant_values=np.nan)
    expected = padded[:, top + around : top + around + height, left + around : left + around + width]
    np.testing.assert_array_equal(made.read(window), expected)


_made: list[tuple[GivenCoefficients, np.ndarray]] = []


def _once(factory: pytest.TempPathFactory) -> tuple[GivenCoefficients, np.ndarray]:
    if not _made:
        folder = factory.mktemp("coefficients")
        cube, radar = opened(folder)
        fields = np.random.default_rng(1).standard_normal((FIELDS, Y, X)).astype(np.float32)
        place = folder / "coefficients.zarr"
        tiles = TileGrid((T, Y, X), (T, 5, 4))
        write_coefficients(place, cube, tiles, radar, {"ndvi": lambda tile: fields[:, *tile.slices[1:]]})
        _made.append((open_coefficients(place, cube, "ndvi", radar), fields))
    return _made[0]


def test_a_cube_that_begins_elsewhere_gets_those_of_its_own_pixels(
    tmp_path: Path, written: tuple[Path, np.ndarray]
) -> None:
    place, fields = written
    write_cube(tmp_path / "east.zarr", ("ndvi",), low=0.2, shift=40.0)
    cube = open_source(str(tmp_path / "east.zarr"))
    radar = open_radar([tmp_path / "s1.zarr"], cube, RadarOptions())
    made = open_coefficients(place, cube, "ndvi", radar).read(Window.of((T, Y, X)))
    np.testing.assert_array_equal(made[:, :, : X - 4], fields[:, :, 4:])
    assert np.isnan(made[:, :, X - 4 :]).all()


def test_others_can_read_them(written: tuple[Path, np.ndarray]) -> None:
    place, fields = written
    with xr.open_zarr(place) as dataset:
        assert dataset["ndvi_constant"].rio.crs.to_epsg() == 32631
        assert (float(dataset.x[0]), float(dataset.y[0])) == (500_000, 5_000_000)
        for name, field in zip(field_names([["VV", "VH"]]), fields, strict=True):
            np.testing.assert_array_equal(dataset[f"ndvi_{name}"].values, field)


def test_a_chunk_that_is_written_again_changes_the_state(tmp_path: Path, written: tuple[Path, np.ndarray]) -> None:
    cube, radar = opened(tmp_path)
    made = open_coefficients(written[0], cube, "ndvi", radar)
    before = made.state()
    assert made.state() == before
    chunk = next(file for file in (written[0] / "ndvi_VV_mean").rglob("*") if file.is_file() and "c" in file.parts)
    chunk.write_bytes(chunk.read_bytes() + b"x")
    assert made.state() != before


@pytest.mark.parametrize(
    ("window", "average", "message"),
    [
        (20.0, "power", "are of --sar-window 12, not 20; give the same options"),
        (12.0, "db", "are of --sar-average power, not db; give the same options"),
    ],
)
def test_radar_that_was_made_in_another_way_is_refused(
    tmp_path: Path, written: tuple[Path, np.ndarray], window: float, average: Average, message: str
) -> None:
    cube, radar = opened(tmp_path, average=average, window=window)
    with pytest.raises(RefusedError, match=message):
        open_coefficients(written[0], cube, "ndvi", radar)


def test_other_variables_places_and_pixels_are_refused(tmp_path: Path, written: tuple[Path, np.ndarray]) -> None:
    cube, radar = opened(tmp_path)
    with pytest.raises(RefusedError, match="has no coefficients of evi, but of ndvi"):
        open_coefficients(written[0], cube, "evi", radar)
    with pytest.raises(RefusedError, match=r"there are no coefficients in .*nothing\.zarr; name the"):
        open_coefficients(tmp_path / "nothing.zarr", cube, "ndvi", radar)
    with pytest.raises(RefusedError, match=r"ndvi\.zarr holds no coefficients"):
        open_coefficients(tmp_path / "ndvi.zarr", cube, "ndvi", radar)
    for name, shift, epsg, message in (
        ("half", 45.0, 32631, "are not those of"),
        ("far", 9000.0, 32631, "are of another place than"),
        ("other", 0.0, 32632, "no common CRS"),
    ):
        other = open_source(write_cube(tmp_path / f"{name}.zarr", ("ndvi",), low=0.2, shift=shift, epsg=epsg))
        with pytest.raises(RefusedError, match=message):
            open_coefficients(written[0], other, "ndvi", radar)


@given(location=st.floats(-100, 100), spread=st.floats(0.01, 50), groups=st.integers(1, 2))
def test_units_go_there_and_back(location: float, spread: float, groups: int) -> None:
    names = [["VV ascending"], ["VV descending"]][:groups]
    fields = np.random.default_rng(0).standard_normal((len(field_names(names)), 5)).astype(np.float32)
    back = standardised(in_units(fields, names, location, spread), names, location, spread)
    np.testing.assert_allclose(back, fields, atol=1e-6 * (1 + abs(location) / spread) * 4)
    # What a regression says in units is what it says of standardised values, in units.
    radar = np.random.default_rng(1).standard_normal(4)
    own = fields[:5].astype(np.float64)
    said = own[0] + radar @ own[1:5]
    units = in_units(fields, names, location, spread)[:5].astype(np.float64)
    np.testing.assert_allclose(
        units[0] + radar @ units[1:5], location + spread * said, rtol=1e-5, atol=1e-4 * (spread + abs(location))
    )
