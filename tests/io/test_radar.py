"""Radar on a cube's frames and pixels: against a slow loop, in any window, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers the accessor that writes a CRS
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.windows import Window, triple
from stpipe.errors import CubeError, OptionError, RefusedError
from stpipe.io.cube import Cube, open_source
from stpipe.io.radar import Radar, open_radar
from stpipe.methods.sar.options import RadarOptions

START = np.datetime64("2024-03-01T10:00", "ns")
FRAMES, HEIGHT, WIDTH = 14, 18, 22
LEFT, TOP = 600_000, 5_000_000


def dated(days: np.ndarray) -> np.ndarray:
    return np.asarray(START + np.round(days * 86400e9).astype("timedelta64[ns]"))


def grid(height: int, width: int, step: float, shift: tuple[float, float] = (0.0, 0.0)) -> dict[str, np.ndarray]:
    """Centres of pixels, north up."""
    return {
        "y": TOP + shift[0] - step * (np.arange(height) + 0.5),
        "x": LEFT + shift[1] + step * (np.arange(width) + 0.5),
    }


FRAME_DAYS = 5.0 * np.arange(FRAMES) + 0.2
IMAGE_DAYS = np.concatenate([np.arange(-13.8, 30, 6), np.arange(46.2, 80, 6)])  # one is 12 days before a frame


def target(**more: Any) -> xr.Dataset:
    values = np.random.default_rng(0).standard_normal((FRAMES, HEIGHT, WIDTH)).astype(np.float32)
    values[values > 1] = np.nan
    arrays = {"ndvi": (("time", "y", "x"), values), **more}
    coords = {"time": dated(FRAME_DAYS), **grid(HEIGHT, WIDTH, 10.0)}
    return xr.Dataset(arrays, coords=coords).rio.write_crs(32633)


def backscatter(
    step: float = 20.0, *, seed: int = 1, crs: int = 32633, shift: float = 0.0, days: np.ndarray = IMAGE_DAYS
) -> xr.Dataset:
    """Two polarisations in dB, with gaps, a swath's edge and noise at it; it reaches past the cube in the north."""
    rng = np.random.default_rng(seed)
    height, width = (round(n * 10 / step) for n in (HEIGHT + 8, WIDTH - 4))
    arrays = {}
    for name, level in (("vv", -9.0), ("vh", -16.0)):
        values = level + rng.normal(0, 3, (days.size, height, width))
        values[rng.random(values.shape) < 0.1] = np.nan
        values[rng.random(values.shape) < 0.1] = -48.0
        values[rng.random(values.shape) < 0.05] = -40.0
        values[5] = np.nan
        values[3, : height // 2] = np.nan
        arrays[name] = (("time", "y", "x"), values.astype(np.float32))
    coords = {"time": dated(days), **grid(height, width, step, (80.0 + shift, shift))}
    orbits = np.where(np.arange(days.size) % 3 > 0, "ascending", "descending")
    return xr.Dataset({**arrays, "orbit": ("time", orbits)}, coords=coords).rio.write_crs(crs)


def linear(dataset: xr.Dataset) -> xr.Dataset:
    both = {name: (dataset[name].dims, 10 ** (dataset[name].values.astype(np.float64) / 10)) for name in ("vv", "vh")}
    return dataset.assign(both)


def write(path: Path, dataset: xr.Dataset, **encoding: Any) -> Path:
    every = {name: encoding for name in ("vv", "vh") if encoding}
    dataset.to_zarr(path, mode="w", zarr_format=2, consolidated=False, encoding=every)
    return path


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Cube:
    return open_source(write(tmp_path_factory.mktemp("cube") / "cube.zarr", target()))


def weights(centre: float, step: float, centres: np.ndarray, own: float, how: str) -> np.ndarray:
    """Of the radar's pixels along one axis, for one of the cube's."""
    away = np.abs(centres - centre)
    if how == "nearest":
        return (away <= own / 2).astype(float)
    if how == "bilinear":
        inside = centres.min() - own / 2 <= centre <= centres.max() + own / 2
        return np.maximum(0, 1 - away / own) * inside
    return np.maximum(
        0, np.minimum(centre + step / 2, centres + own / 2) - np.maximum(centre - step / 2, centres - own / 2)
    )


def slow(dataset: xr.Dataset, name: str, *, how: str, window: float, average: str, chosen: Any = True) -> np.ndarray:
    """(t, y, x) of one polarisation on the cube, pixel by pixel."""
    stored = dataset[name].values.astype(np.float64)  # dB
    chosen = np.broadcast_to(chosen, len(stored))
    own = abs(float(dataset.x[1] - dataset.x[0]))
    place = grid(HEIGHT, WIDTH, 10.0)
    down, across = (
        np.array([weights(centre, 10.0, dataset[axis].values, own, how) for centre in place[axis]]) for axis in "yx"
    )
    days = (dataset.time.values - START) / np.timedelta64(1, "D")
    known = stored > -40
    clean = np.where(known, stored, 0.0)
    echoes = 10 ** (clean / 10) if average == "power" else clean
    resampled = np.full((len(stored), HEIGHT, WIDTH), np.nan)
    for n, y, x in np.ndindex(resampled.shape):
        weight = np.outer(down[y], across[x]) * known[n]
        if weight.sum() > 1e-9:
            resampled[n, y, x] = (weight * echoes[n]).sum() / weight.sum()
    made = np.full((FRAMES, HEIGHT, WIDTH), np.nan)
    for t, frame in enumerate(FRAME_DAYS):
        for y, x in np.ndindex(HEIGHT, WIDTH):
            near = [
                image[y, x]
                for image, day, taken in zip(resampled, days, chosen, strict=True)
                if taken and -window - 1e-9 <= day - frame < window - 1e-9 and not math.isnan(image[y, x])
            ]
            if near:
                mean = sum(near) / len(near)
                made[t, y, x] = 10 * math.log10(mean) if average == "power" else mean
    return made


def read(radar: Radar, cube: Cube) -> dict[str, np.ndarray]:
    return radar.read(Window.of(cube.extent))


@pytest.mark.parametrize("average", ["power", "db"])
@pytest.mark.parametrize(
    ("step", "shift", "resampling", "how"),
    [
        pytest.param(20.0, 0.0, None, "bilinear", id="twice as coarse"),
        pytest.param(5.0, 0.0, None, "average", id="twice as fine"),
        pytest.param(5.0, 2.0, None, "average", id="twice as fine, shifted"),
        pytest.param(10.0, 0.0, None, "bilinear", id="the same pixels"),
        pytest.param(10.0, 3.0, None, "bilinear", id="the same size, shifted"),
        pytest.param(20.0, 0.0, "nearest", "nearest", id="nearest"),
    ],
)
def test_radar_is_the_mean_of_resampled_images(
    cube: Cube, tmp_path: Path, step: float, shift: float, resampling: Any, how: str, average: Any
) -> None:
    dataset = backscatter(step, shift=shift)
    path = write(tmp_path / "s1.zarr", dataset)
    radar = open_radar([path], cube, RadarOptions(average=average, resampling=resampling))
    assert radar.names == ("vv", "vh")
    assert radar.notes == ()
    made = read(radar, cube)
    wanted = {name: slow(dataset, name, how=how, window=12.0, average=average) for name in radar.names}
    for name, values in wanted.items():
        assert made[name].dtype == np.float32
        assert 0.5 < np.isfinite(values).mean() < 1
        np.testing.assert_allclose(made[name], values, atol=1e-4)
    assert not np.isfinite(made["vv"][..., -3:]).any()  # the radar ends in the east


@pytest.mark.parametrize("step", [5.0, 10.0, 20.0])
def test_which_way_is_up_makes_no_difference(cube: Cube, tmp_path: Path, step: float) -> None:
    dataset = backscatter(step)
    up, down = (
        open_radar([write(tmp_path / f"{n}.zarr", own)], cube, RadarOptions())
        for n, own in enumerate((dataset, dataset.isel(y=slice(None, None, -1))))
    )
    for name, values in read(up, cube).items():
        np.testing.assert_allclose(read(down, cube)[name], values, atol=1e-5)


@pytest.mark.parametrize("window", [3.0, 6.0, 30.0])
def test_images_count_as_long_as_the_user_says(cube: Cube, tmp_path: Path, window: float) -> None:
    dataset = backscatter(10.0)
    radar = open_radar([write(tmp_path / "s1.zarr", dataset)], cube, RadarOptions(window_days=window))
    wanted = slow(dataset, "vh", how="nearest", window=window, average="power")
    made = read(radar, cube)["vh"]
    np.testing.assert_allclose(made, wanted, atol=1e-4)
    away = np.array([[-window <= day - frame < window for day in IMAGE_DAYS] for frame in FRAME_DAYS])
    np.testing.assert_array_equal(radar.covered(), away.any(axis=1))
    assert radar.pairs() == away.any(axis=1).sum()


@pytest.mark.parametrize("average", ["power", "db"])
@pytest.mark.parametrize("step", [5.0, 10.0, 20.0])
def test_linear_power_is_the_same_as_decibels(cube: Cube, tmp_path: Path, step: float, average: Any) -> None:
    dataset = backscatter(step)
    dataset = dataset.assign({name: dataset[name].where(dataset[name] != -40) for name in ("vv", "vh")})
    options = RadarOptions(average=average)
    one, two = (
        open_radar([write(tmp_path / f"{n}.zarr", own)], cube, options)
        for n, own in enumerate((dataset, linear(dataset)))
    )
    assert [echo.decibels for radar in (one, two) for echo in radar.echoes] == [True, True, False, False]
    for name, values in read(one, cube).items():
        np.testing.assert_allclose(read(two, cube)[name], values, atol=1e-4)


@pytest.mark.parametrize("power", [False, True], ids=["dB", "linear power"])
def test_forty_decibels_below_and_less_are_no_echo(cube: Cube, tmp_path: Path, power: bool) -> None:
    dataset = backscatter(10.0)
    where = dataset.vv.dims
    for level, heard in ((-39.99, True), (-40.0, False), (-60.0, False)):
        own = dataset.assign(vv=(where, np.where(dataset.vv > -8, dataset.vv, level)))
        path = write(tmp_path / "s1.zarr", linear(own) if power else own)
        made = read(open_radar([path], cube, RadarOptions(window_days=3.0)), cube)["vv"]
        assert (np.nanmin(made) < -20) == heard


@pytest.fixture(scope="module")
def patchy(tmp_path_factory: pytest.TempPathFactory, cube: Cube) -> list[Radar]:
    """Radar in odd chunks, on finer, equal and coarser pixels."""
    packed = {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -9999, "chunks": (4, 11, 7)}
    folder = tmp_path_factory.mktemp("radar")
    return [
        open_radar(
            [write(folder / f"{step}.zarr", backscatter(step, shift=shift), **packed)],
            cube,
            RadarOptions(average=average, by_orbit=orbit),  # type: ignore[arg-type]
        )
        for step, shift, average, orbit in (
            (5.0, 2.0, "power", None),
            (10.0, 0.0, "db", "orbit"),
            (20.0, 3.0, "power", None),
        )
    ]


@given(data=st.data())
@settings(max_examples=6)
@pytest.mark.parametrize("number", [0, 1, 2], ids=["finer", "equal", "coarser"])
def test_a_sample_is_the_same_in_any_window(number: int, data: st.DataObject, patchy: list[Radar], cube: Cube) -> None:
    radar = patchy[number]
    whole = read(radar, cube)
    start = triple(data.draw(st.integers(0, n - 1)) for n in cube.extent)
    stop = triple(data.draw(st.integers(a + 1, n + 3)) for a, n in zip(start, cube.extent, strict=True))
    window = Window(start, stop)
    part = radar.read(window)
    assert list(part) == list(radar.names)
    inside = window.intersect(Window.of(cube.extent))
    outside = np.ones(window.shape, dtype=bool)
    outside[inside.within(window).slices] = False
    for name, values in whole.items():
        assert np.isfinite(values).mean() > 0.4
        np.testing.assert_array_equal(part[name][inside.within(window).slices], values[inside.slices])
        assert np.isnan(part[name][outside]).all()


def test_orbits_are_kept_apart(cube: Cube, tmp_path: Path) -> None:
    dataset = backscatter(10.0)
    radar = open_radar([write(tmp_path / "s1.zarr", dataset)], cube, RadarOptions(by_orbit="orbit", window_days=9.0))
    assert radar.groups == (("vv ascending", "vh ascending"), ("vv descending", "vh descending"))
    assert radar.names == tuple(name for group in radar.groups for name in group)
    made = read(radar, cube)
    for name in radar.names:
        band, orbit = name.split()
        chosen = dataset.orbit.values == orbit
        wanted = slow(dataset, band, how="nearest", window=9.0, average="power", chosen=chosen)
        np.testing.assert_allclose(made[name], wanted, atol=1e-4)
    mixed = open_radar([tmp_path / "s1.zarr"], cube, RadarOptions())
    assert mixed.groups == (("vv", "vh"),)


def test_variables_are_found_in_any_case_and_by_their_names(cube: Cube, tmp_path: Path) -> None:
    dataset = backscatter(10.0)
    plain = open_radar([write(tmp_path / "plain.zarr", dataset)], cube, RadarOptions())
    wanted = read(plain, cube)
    large = dataset.rename(vv="VV", vh="VH")
    large.to_zarr(tmp_path / "large.zarr", zarr_format=2, consolidated=False)
    found = open_radar([tmp_path / "large.zarr"], cube, RadarOptions())
    assert found.names == ("VV", "VH")
    other = dataset.rename(vv="gamma_co", vh="gamma_cross")
    other.to_zarr(tmp_path / "other.zarr", zarr_format=2, consolidated=False)
    named = open_radar([tmp_path / "other.zarr"], cube, RadarOptions(variables=("gamma_cross",)))
    assert named.names == ("gamma_cross",)
    np.testing.assert_array_equal(read(found, cube)["VV"], wanted["vv"])
    np.testing.assert_array_equal(read(named, cube)["gamma_cross"], wanted["vh"])


def test_the_cube_s_own_radar_is_its_guide(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    own = {
        name: (("time", "y", "x"), rng.normal(level, 2, (FRAMES, HEIGHT, WIDTH)))
        for name, level in (("vv", -9), ("vh", -16))
    }
    dataset = target(**own)
    path = write(tmp_path / "both.zarr", dataset)
    cube = open_source(path, variables=["ndvi"])
    radar = open_radar([path], cube, RadarOptions(window_days=7.0))
    assert radar.names == ("vv", "vh")
    for name, values in read(radar, cube).items():
        wanted = slow(dataset, name, how="nearest", window=7.0, average="power")
        np.testing.assert_allclose(values, wanted, atol=1e-4)
    with pytest.raises(CubeError, match=r"ndvi of .* would be filled and be the radar; choose another --var"):
        open_radar([path], cube, RadarOptions(variables=("vv", "ndvi")))


@pytest.mark.parametrize(
    ("units", "power", "taken"),
    [
        pytest.param("dB", True, "linear power", id="power that says it is dB"),
        pytest.param("linear", False, "dB", id="dB that says it is linear"),
        pytest.param("1", False, "dB", id="dB without a unit"),
        pytest.param("dB", False, None, id="dB"),
        pytest.param("linear power", True, None, id="power"),
        pytest.param("m2 m-2", True, None, id="a unit of its own"),
    ],
)
def test_units_that_contradict_the_range_are_told(
    cube: Cube, tmp_path: Path, units: str, power: bool, taken: str | None
) -> None:
    dataset = linear(backscatter(10.0)) if power else backscatter(10.0)
    dataset.vv.attrs["units"] = units
    radar = open_radar([write(tmp_path / "s1.zarr", dataset)], cube, RadarOptions())
    if taken is None:
        assert radar.notes == ()
    else:
        (note,) = radar.notes
        assert note.startswith("vv says it is in ")
        assert note.endswith(f"taken as {taken}")
    np.testing.assert_allclose(
        read(radar, cube)["vv"], slow(backscatter(10.0), "vv", how="nearest", window=12.0, average="power"), atol=1e-4
    )


def digital(dataset: xr.Dataset) -> xr.Dataset:
    """As sensors count: neither dB nor power."""
    return dataset.assign(vv=(dataset.vv.dims, np.random.default_rng(0).integers(50, 9000, dataset.vv.shape)))


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        pytest.param(
            digital(backscatter()), {}, "vv of .* runs from .* to .* neither in dB nor in linear", id="counts"
        ),
        pytest.param(backscatter().drop_vars("vh"), {}, "has no VH, but vv; name .* --guide-var", id="no VH"),
        pytest.param(
            backscatter().rename(vv="a", vh="b"), {}, "has no VV and no VH, but a, b; name .* --guide-var", id="neither"
        ),
        pytest.param(
            backscatter(),
            {"variables": ("vvv",)},
            "--guide-var vvv is not there; did you mean vv?.*has vh, vv",
            id="no vvv",
        ),
        pytest.param(
            backscatter(), {"by_orbit": "pass"}, "--by-orbit pass is no variable along time .* orbit", id="no orbit"
        ),
        pytest.param(
            backscatter(), {"by_orbit": "vv"}, "--by-orbit vv is no variable along time .* orbit", id="no directions"
        ),
        pytest.param(
            backscatter(crs=32634), {}, r"no common CRS \(EPSG:32634 and EPSG:32633\); warp", id="another CRS"
        ),
        pytest.param(backscatter(shift=90_000.0), {}, "do not overlap: x 69.*, x 600000 to 600220", id="elsewhere"),
        pytest.param(
            backscatter(days=IMAGE_DAYS + 400),
            {},
            "no time in common within 12 days: 2025-.*, 2024-.*; widen --sar-window",
            id="another year",
        ),
        pytest.param(
            backscatter(days=IMAGE_DAYS[8:] + 12),
            {"window_days": 8.0},
            r"^\d of 14 frames have an image of .* within 8 days, but .* needs 10; widen --sar-window",
            id="nine pairs",
        ),
        pytest.param(backscatter().drop_vars("time"), {}, "no dates|no time", id="no dates"),
    ],
)
def test_what_can_be_no_radar_is_refused_in_one_line(
    cube: Cube, tmp_path: Path, made: xr.Dataset, options: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "s1.zarr", made)
    with pytest.raises(RefusedError, match=message) as caught:
        open_radar([path], cube, RadarOptions(**options))
    assert isinstance(caught.value, CubeError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pairs", [9, 10])
def test_ten_frames_with_radar_are_enough(cube: Cube, tmp_path: Path, pairs: int) -> None:
    path = write(tmp_path / "s1.zarr", backscatter(days=FRAME_DAYS[:pairs] + 0.5))
    if pairs == 10:
        assert open_radar([path], cube, RadarOptions(window_days=1.0)).pairs() == 10
    else:
        with pytest.raises(CubeError, match=r"^9 of 14 frames"):
            open_radar([path], cube, RadarOptions(window_days=1.0))


def test_one_cube_has_the_radar(cube: Cube, tmp_path: Path) -> None:
    path = write(tmp_path / "s1.zarr", backscatter())
    with pytest.raises(OptionError, match="one --guide, the cube with the radar, got 2"):
        open_radar([path, path], cube, RadarOptions())
    with pytest.raises(RefusedError, match=r"none\.zarr"):
        open_radar([tmp_path / "none.zarr"], cube, RadarOptions())


def test_identity_tells_all_options_apart(cube: Cube, tmp_path: Path) -> None:
    path = write(tmp_path / "s1.zarr", backscatter())
    options = [
        {},
        {"variables": ("vv",)},
        {"variables": ("vh", "vv")},
        {"window_days": 11.0},
        {"average": "db"},
        {"by_orbit": "orbit"},
        {"resampling": "nearest"},
    ]
    told = [json.dumps(open_radar([path], cube, RadarOptions(**own)).identity()) for own in options]
    assert len(set(told)) == len(options)
    assert told[0] == json.dumps(open_radar([path], cube, RadarOptions()).identity())
    write(tmp_path / "power.zarr", linear(backscatter()))
    assert json.dumps(open_radar([tmp_path / "power.zarr"], cube, RadarOptions()).identity()) not in told


def test_state_changes_when_a_chunk_is_written_again(cube: Cube, tmp_path: Path) -> None:
    path = write(tmp_path / "s1.zarr", backscatter(), chunks=(5, 6, 6))
    radar = open_radar([path], cube, RadarOptions())
    before = radar.state()
    assert open_radar([path], cube, RadarOptions()).state() == before
    chunk = path / "vh" / "1.1.0"
    content = chunk.read_bytes()
    chunk.unlink()
    chunk.write_bytes(content[:-1] + b"x")
    assert radar.state() != before


def test_what_it_costs_is_told_by_its_names(cube: Cube, tmp_path: Path) -> None:
    radar = open_radar([write(tmp_path / "s1.zarr", backscatter())], cube, RadarOptions(by_orbit="orbit"))
    assert radar.cost.names == radar.names
    assert radar.cost.sample_bytes > 0
    assert radar.cost.chunk_bytes > 0


def test_orbits_in_both_cases_are_the_same_orbit(cube: Cube, tmp_path: Path) -> None:
    images = backscatter(10.0)
    odd = np.arange(images.sizes["time"]) % 2 > 0
    place = write(tmp_path / "s.zarr", images.assign(orbit=("time", np.where(odd, "ASCENDING", "ascending"))))
    made = open_radar([place], cube, RadarOptions(by_orbit="orbit"))
    assert [sum(echo.images or ()) for echo in made.echoes] == [odd.size, odd.size]


@pytest.mark.parametrize(("name", "message"), [("y", "is no variable along"), ("time", "is no variable along")])
def test_what_is_no_orbit_is_not_taken_for_one(cube: Cube, tmp_path: Path, name: str, message: str) -> None:
    rows = backscatter(10.0).sizes["y"]  # as many dates as rows
    place = write(tmp_path / "s.zarr", backscatter(10.0, days=np.linspace(-12, 75, rows)))
    with pytest.raises(CubeError, match=message):
        open_radar([place], cube, RadarOptions(by_orbit=name))


def test_a_variable_with_many_values_says_no_orbit(cube: Cube, tmp_path: Path) -> None:
    images = backscatter(10.0)
    place = write(tmp_path / "s.zarr", images.assign(track=("time", np.arange(images.sizes["time"]))))
    with pytest.raises(CubeError, match="--by-orbit track has 14 values"):
        open_radar([place], cube, RadarOptions(by_orbit="track"))


def test_nothing_but_noise_is_refused(cube: Cube, tmp_path: Path) -> None:
    images = backscatter(10.0)
    place = write(tmp_path / "s.zarr", images.assign({name: images[name] * 0 - 45 for name in ("vv", "vh")}))
    with pytest.raises(CubeError, match="is noise: it runs from -45 to -45 dB"):
        open_radar([place], cube, RadarOptions())
