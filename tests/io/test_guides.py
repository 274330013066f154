"""Guides from files and objects on a cube's grid: where they lie, what is refused, and that windows change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers the accessor that writes a CRS
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import stpipe
from stpipe.core.qa_products import parse_trust
from stpipe.core.windows import Window, triple
from stpipe.errors import CubeError, OptionError, RefusedError
from stpipe.io.cube import Cube, open_source
from stpipe.io.guide_sources import object_guides, open_guides, open_led
from stpipe.io.guides import GuideOptions, Guides
from stpipe.io.objects import understand

START = np.datetime64("2024-03-01T10:00", "ns")


def grid(side: int, step: float, *, left: float = 600_000, top: float = 5_000_000, up: bool = False) -> dict[str, Any]:
    y = top - step * (np.arange(side) + 0.5)
    return {"y": y[::-1] if up else y, "x": left + step * (np.arange(side) + 0.5)}


def dated(days: np.ndarray) -> np.ndarray:
    return np.asarray(START + np.round(days * 86400e9).astype("timedelta64[ns]"))


def field(y: np.ndarray, x: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Something that is linear in space and time, so that interpolation is exact."""
    return (
        0.02 * (x - 600_000)[None, None, :] - 0.01 * (y - 5_000_000)[None, :, None] + 0.3 * days[:, None, None]
    ).astype(np.float64)


def target(frames: int = 7, side: int = 20) -> xr.Dataset:
    rng = np.random.default_rng(0)
    days = np.cumsum(rng.uniform(3, 9, frames))
    where = grid(side, 10.0)
    values = field(where["y"], where["x"], days) / 5
    values[rng.random(values.shape) < 0.3] = np.nan
    return xr.Dataset({"ndvi": (("time", "y", "x"), values)}, coords={"time": dated(days), **where}).rio.write_crs(
        32633
    )


def radar(step: float = 20.0, side: int = 16, *, up: bool = False, crs: int = 32633, first: float = -6.0) -> xr.Dataset:
    days = first + 4.0 * np.arange(18)
    where = grid(side, step, left=600_000 - 2 * step, top=5_000_000 + step, up=up)
    values = field(where["y"], where["x"], days)
    both = {"vv": (("time", "y", "x"), values), "vh": (("time", "y", "x"), 3 - 2 * values)}
    return xr.Dataset(both, coords={"time": dated(days), **where}).rio.write_crs(crs)


PACKED = {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -9999, "chunks": (7, 23, 15)}


def write(path: Path, dataset: xr.Dataset, **encoding: Any) -> Path:
    every = {name: {**encoding} for name in dataset.data_vars} if encoding else {}
    dataset.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=every)
    return path


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Cube:
    return open_source(write(tmp_path_factory.mktemp("cube") / "cube.zarr", target()))


@pytest.fixture(scope="module")
def patchy(tmp_path_factory: pytest.TempPathFactory, cube: Cube) -> dict[str, Guides]:
    """Guides with gaps of their own, in odd chunks, by every resampling."""
    rng = np.random.default_rng(1)
    made = radar(step=7.0, side=40)
    for name in made.data_vars:
        values = made[name].values
        values += rng.standard_normal(values.shape)
        values[rng.random(values.shape) < 0.3] = np.nan
        values[4] = np.nan
    path = write(tmp_path_factory.mktemp("guide") / "s1.zarr", made, **PACKED)
    return {
        how: open_guides([path], cube, GuideOptions(resampling=how, window_days=9.0))  # type: ignore[arg-type]
        for how in ("nearest", "bilinear", "average")
    }


@given(data=st.data())
@settings(max_examples=8, deadline=None)
@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "average"])
def test_a_sample_is_the_same_in_any_window(resampling: str, data: st.DataObject, patchy: dict[str, Guides]) -> None:
    guides = patchy[resampling]
    whole = guides.read(Window.of(guides.parts[0].extent))
    start = triple(data.draw(st.integers(0, n - 1)) for n in guides.parts[0].extent)
    stop = triple(data.draw(st.integers(a + 1, n + 3)) for a, n in zip(start, guides.parts[0].extent, strict=True))
    window = Window(start, stop)
    part = guides.read(window)
    inside = window.intersect(Window.of(guides.parts[0].extent))
    for name in ("vv", "vh"):
        assert np.isfinite(whole[name]).mean() > 0.5
        np.testing.assert_array_equal(part[name][inside.within(window).slices], whole[name][inside.slices])
        outside = np.ones(window.shape, dtype=bool)
        outside[inside.within(window).slices] = False
        assert np.isnan(part[name][outside]).all()


@pytest.mark.parametrize("up", [False, True], ids=["north up", "south up"])
@pytest.mark.parametrize(
    ("step", "resampling", "tolerance"),
    [
        pytest.param(20.0, None, 1e-4, id="coarser bilinear by default"),
        pytest.param(5.0, None, 1e-4, id="finer average by default"),
        pytest.param(10.0, "average", 1e-4, id="same grid"),
        pytest.param(2.5, "nearest", 0.03, id="nearest"),
    ],
)
def test_a_linear_field_comes_back(
    cube: Cube, tmp_path: Path, step: float, resampling: Any, tolerance: float, up: bool
) -> None:
    dataset = radar(step=step, side=int(300 / step), up=up)
    path = write(tmp_path / "s1.zarr", dataset)
    guides = open_guides([path], cube, GuideOptions(resampling=resampling))
    assert guides.names == ("vh", "vv")
    where = grid(20, 10.0)
    expected = field(where["y"], where["x"], cube.days + float((cube.times[0] - START) / np.timedelta64(1, "D")))
    read = guides.read(Window.of(cube.extent))
    for one in guides.parts[0].variables:
        truth = expected if one.name == "vv" else 3 - 2 * expected
        np.testing.assert_allclose(
            read[one.name] * one.spread + one.location, truth, atol=tolerance * one.spread + 1e-4
        )
        assert read[one.name].dtype == np.float32


def test_time_is_true_and_reaches_as_far_as_the_window(cube: Cube, tmp_path: Path) -> None:
    """xarray's own interpolation in time is the second opinion; far from any date there is nothing."""
    where = grid(20, 10.0)
    days = np.array([10.0, 11.0, 19.0, 22.5])
    values = np.random.default_rng(2).standard_normal((4, 20, 20))
    dataset = xr.Dataset({"vv": (("time", "y", "x"), values)}, coords={"time": dated(days), **where}).rio.write_crs(
        32633
    )
    guides = open_guides([write(tmp_path / "g.zarr", dataset)], cube, GuideOptions(window_days=8.5))
    (one,) = guides.parts[0].variables
    read = guides.read(Window.of(cube.extent))["vv"] * one.spread + one.location
    expected = dataset.vv.interp(time=cube.times).values
    between = np.isfinite(expected)
    np.testing.assert_allclose(read[between], expected[between], atol=1e-3)
    own = cube.days + float((cube.times[0] - START) / np.timedelta64(1, "D"))
    for t, day in enumerate(own):
        if day < 10:
            np.testing.assert_allclose(read[t], values[0] if 10 - day <= 8.5 else np.nan, atol=1e-3)
        if day > 22.5:
            np.testing.assert_allclose(read[t], values[3] if day - 22.5 <= 8.5 else np.nan, atol=1e-3)


def test_by_default_a_date_counts_for_two_steps_of_the_guide(cube: Cube, tmp_path: Path) -> None:
    guides = open_guides([write(tmp_path / "g.zarr", radar())], cube, GuideOptions())
    assert guides.parts[0].window_days == 8.0
    assert guides.parts[0].resampling == "bilinear"


def test_objects_are_read_as_files_are(cube: Cube, tmp_path: Path) -> None:
    dataset = radar(step=5.0, side=60)
    path = write(tmp_path / "s1.zarr", dataset)
    options = GuideOptions(variables=("vh",))
    from_file = open_guides([path], cube, options)
    scene = understand(target())
    whole = Window.of(cube.extent)
    for given_ in ([path], [dataset], [dataset.chunk({"time": 4})], [dataset.vh, dataset.vv]):
        guides = object_guides(given_, scene, options)
        assert guides.names == ("vh",)
        np.testing.assert_array_equal(guides.read(whole)["vh"], from_file.read(whole)["vh"])


def test_two_guides_of_one_name_are_told_apart(cube: Cube, tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.zarr", radar(step=step)) for n, step in enumerate((20.0, 40.0))]
    guides = open_guides(paths, cube, GuideOptions(variables=("vv",)))
    assert guides.names == ("vv", "vv_2")
    assert list(guides.read(Window.of(cube.extent))) == ["vv", "vv_2"]


def test_identity_and_state_tell_one_guide_from_another(cube: Cube, tmp_path: Path) -> None:
    path = write(tmp_path / "s1.zarr", radar())
    first = open_guides([path], cube, GuideOptions())
    assert open_guides([path], cube, GuideOptions()).identity() == first.identity()
    assert open_guides([path], cube, GuideOptions(window_days=3.0)).identity() != first.identity()
    assert open_guides([path], cube, GuideOptions(resampling="nearest")).identity() != first.identity()
    assert open_guides([path], cube, GuideOptions(variables=("vv",))).identity() != first.identity()
    before = first.state()
    write(path, radar())
    assert first.state() != before


def test_a_variable_of_the_cube_itself_can_be_the_guide(tmp_path: Path) -> None:
    both = target().assign(vv=target().ndvi * 2, fmask=target().ndvi.fillna(0).astype("uint8"))
    path = write(tmp_path / "both.zarr", both)
    options = GuideOptions(variables=("vv",))
    opened, _ = open_led(path, [path], options)
    assert opened.names == ("ndvi",)
    assert open_guides([path], opened, options).names == ("vv",)
    with pytest.raises(CubeError, match="has none of ndvi besides what is to be filled"):
        open_guides([path], opened, GuideOptions(variables=("ndvi",)))
    everything, _ = open_led(path, [path], GuideOptions())
    with pytest.raises(CubeError, match="has nothing besides what is to be filled; choose that with --var"):
        open_guides([path], everything, GuideOptions())
    with pytest.raises(CubeError, match="nothing is left to fill"):
        open_led(path, [path], GuideOptions(variables=("vv", "ndvi")))


def test_rules_hold_for_guides_that_are_variables_of_the_cube(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    code = rng.integers(0, 2, target().ndvi.shape).astype("uint8")
    both = target().assign(vv=target().ndvi * 2, code=(("time", "y", "x"), code))
    clean = both.assign(vv=both.vv.where(code == 0))
    cloudy = both.assign(vv=both.vv.where(code == 0, 500.0))  # what is not trusted is far off
    trust, options = parse_trust(drop=["code:1"]), GuideOptions(variables=("vv",))
    path, other = write(tmp_path / "both.zarr", cloudy), write(tmp_path / "vv.zarr", clean[["vv"]])
    opened, _ = open_led(path, [path], options, trust=trust)
    window = Window.of(opened.extent)
    wanted = open_guides([other], opened, options).read(window)["vv"]
    ruled = open_guides([path], opened, options)
    np.testing.assert_array_equal(ruled.read(window)["vv"], wanted)
    plain, _ = open_led(path, [path], options)
    free = open_guides([path], plain, options)
    assert ruled.identity() != free.identity()
    assert ruled.cost.sample_bytes > free.cost.sample_bytes
    seen = understand(cloudy, variables=["ndvi"], trust=trust)
    for some in (options, GuideOptions()):  # the codes are no guide
        guides = object_guides([cloudy], seen, some)
        assert guides.names == ("vv",)
        np.testing.assert_allclose(guides.read(window)["vv"], wanted, atol=1e-5)
    apart = object_guides([cloudy[["vv"]]], seen, options)  # a cube of its own, to which rules do not reach
    assert not np.array_equal(np.isfinite(apart.read(window)["vv"]), np.isfinite(wanted))
    only, _ = open_led(path, [path], GuideOptions(), variables=["ndvi"], trust=trust)
    assert open_guides([path], only, GuideOptions()).names == ("vv",)


def far(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords(x=dataset.x + 90_000)


def many(count: int) -> xr.Dataset:
    return radar()[["vv"]].assign({f"v{n}": radar().vv for n in range(count - 1)})


def nameless(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.drop_vars("spatial_ref")


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        pytest.param(radar(crs=32634), {}, r"no common CRS \(EPSG:32634 and EPSG:32633\); warp", id="another CRS"),
        pytest.param(nameless(radar()), {}, r"no common CRS \(none and EPSG:32633\)", id="no CRS"),
        pytest.param(far(radar()), {}, "do not overlap: x 68.* to .* and y .*, x 600000 to 600200", id="elsewhere"),
        pytest.param(
            radar(first=400.0), {}, "no time in common within 8 days: 2025-04-05 to .*, 2024-03-0", id="another year"
        ),
        pytest.param(radar(), {"variables": ("vx",)}, "has none of vx; it has vh, vv", id="no such variable"),
        pytest.param(radar(), {"variables": ("vv", "hh")}, "--guide-var hh: no guide has such", id="one is not there"),
        pytest.param(radar() * np.nan, {}, "has no valid sample on .* dates", id="nothing in it"),
        pytest.param(radar().drop_vars("time"), {}, "has no dates", id="no dates"),
        pytest.param(
            radar().assign_coords(y=radar().y.values - np.arange(16.0) ** 2),
            {},
            "on different grids, and one is uneven",
            id="uneven",
        ),
        pytest.param(many(9), {}, "at most 8 variables .* got 9", id="too many"),
    ],
)
def test_what_can_be_no_guide_is_refused_in_one_line(
    cube: Cube, tmp_path: Path, made: xr.Dataset, options: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "g.zarr", made)
    with pytest.raises(RefusedError, match=message) as caught:
        open_guides([path], cube, GuideOptions(**options))
    assert "\n" not in str(caught.value)


def test_a_guide_that_is_not_there_is_refused(cube: Cube, tmp_path: Path) -> None:
    for options in (GuideOptions(), GuideOptions(variables=("vv",))):
        with pytest.raises(RefusedError, match=r"none\.zarr"):
            open_guides([tmp_path / "none.zarr"], cube, options)


@pytest.mark.parametrize("options", [{"window_days": -1.0}, {"window_days": float("nan")}, {"resampling": "cubic"}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="a guide"):
        GuideOptions(**options)


def clouded(seed: int = 0) -> tuple[xr.Dataset, np.ndarray]:
    """A scene of noise, which nothing but its guide can tell, and the truth."""
    rng = np.random.default_rng(seed)
    days, where = np.cumsum(rng.uniform(3, 9, 24)), grid(48, 10.0)
    truth = rng.standard_normal((24, 48, 48))
    gap = np.kron(rng.random((24, 6, 6)) < 0.4, np.ones((8, 8))) > 0
    both = {"ndvi": np.where(gap, np.nan, truth), "vv": 4 - 3 * truth}
    coords = {"time": dated(days), **where}
    return xr.Dataset({n: (("time", "y", "x"), v) for n, v in both.items()}, coords=coords).rio.write_crs(32633), truth


def test_python_fills_by_a_guide_in_memory_and_lazily() -> None:
    scene, truth = clouded()
    alone, guide = scene[["ndvi"]], scene[["vv"]]
    made = stpipe.fill(alone, method="guided", guide=guide)
    np.testing.assert_allclose(made.ndvi.values, truth, atol=0.02)
    own = stpipe.fill(scene, method="guided", guide=scene, guide_var="vv")
    np.testing.assert_allclose(own.ndvi.values, made.ndvi.values, atol=1e-6)
    assert "vv_source" not in own
    block = {"block": (24, 32, 32), "overlap": (0, 8, 8)}
    lazy = stpipe.fill(alone.chunk({"y": 16}), method="guided", guide=guide.chunk({"time": 6}), **block)  # type: ignore[arg-type]
    np.testing.assert_allclose(lazy.ndvi.compute(scheduler="synchronous").values, made.ndvi.values, atol=1e-4)


def test_python_scores_what_leans_on_a_guide() -> None:
    scene, _ = clouded()
    scores = stpipe.evaluate(scene[["ndvi"]], methods=["guided"], guide=scene.vv, draws=1)
    errors = scores.mae.sel(variable="ndvi", group="all")
    assert float(errors.sel(method_name="guided")) < 0.02 < float(errors.sel(method_name="linear"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"method": "guided"}, "method guided leans on guides alone; give one with guide", id="none"),
        pytest.param({"method": "pyramid", "guide": 1}, "method pyramid takes no guide; guided, pconv", id="pyramid"),
        pytest.param({"guide": 1, "tune": False}, "leave tune=False out", id="untuned"),
        pytest.param({"method": "linear", "guide_var": "vv"}, "goes with a guide; name its cube", id="no cube"),
        pytest.param({"method": "guided", "guide": 1, "guide_var": "vx"}, "no guide has a variable vx", id="variable"),
        pytest.param({"method": "guided", "guide": 1, "model": "x"}, "model goes with method pconv", id="model"),
    ],
)
def test_python_refuses_what_can_not_be(options: dict[str, Any], message: str) -> None:
    scene, _ = clouded()
    if "guide" in options:
        options = {**options, "guide": scene[["vv"]]}
    with pytest.raises(RefusedError, match=message):
        stpipe.fill(scene[["ndvi"]], **options)
