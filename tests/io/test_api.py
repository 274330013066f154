"""`stpipe.fill` on xarray objects: lazy, in memory and blocked give one answer, and wrong input one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers the accessor that writes a CRS
import xarray as xr
import zarr

import stpipe
from stpipe.core.crops import fill_crop
from stpipe.errors import CubeError, OptionError, PlanError, RefusedError
from stpipe.io.cube import open_source
from stpipe.io.evaluate import evaluate_cube, read_crops
from stpipe.io.radar import open_radar
from stpipe.io.radar_evaluation import ScoredRadar
from stpipe.methods.sar.filler import SarFiller
from stpipe.methods.sar.options import RadarOptions, SarOptions


def make(shape: tuple[int, int, int] = (6, 40, 50), dtype: str = "float32", **dims: str) -> xr.DataArray:
    rng = np.random.default_rng(8)
    values = rng.normal(size=shape).cumsum(axis=1).astype(dtype)
    values[rng.random(shape) < 0.3] = np.nan
    values[2] = np.nan
    values[:, 10:30, 10:40] = np.nan
    values[1, 12, 12] = 4.0
    when = np.datetime64("2024-01-01", "ns") + np.array([0, 3, 4, 9, 20, 21]).astype("timedelta64[D]")
    cube = xr.DataArray(
        values, dims=("time", "y", "x"), coords={"time": when[: shape[0]]}, name="v", attrs={"units": "K"}
    )
    return cube.rename(dims) if dims else cube


@pytest.mark.parametrize("method", ["pyramid", "linear"])
def test_lazy_and_loaded_cubes_get_the_same_bytes(method: str) -> None:
    cube = make()
    lazy = stpipe.fill(cube.chunk(time=2, y=17, x=23), method=method, block=(6, 16, 16), overlap=(0, 4, 4))
    assert all(dask.is_dask_collection(lazy[name].data) for name in ("v", "v_source", "v_ci90"))
    now = stpipe.fill(cube, method=method, block=(6, 16, 16), overlap=(0, 4, 4))
    xr.testing.assert_identical(lazy.compute(scheduler="synchronous"), now)
    seen = np.isfinite(cube.values)
    assert now.v.values[seen].tobytes() == cube.values[seen].tobytes()
    assert np.isfinite(now.v).all()
    assert (now.v_source.values == np.where(seen, 1, now.v_source.values)).all()
    assert now.v_ci90.attrs["units"] == "K"


def test_a_block_is_one_task() -> None:
    lazy = stpipe.fill(make().chunk(time=2, y=17, x=23), method="pyramid", block=(6, 16, 16), overlap=(0, 4, 4))
    graph = dict(lazy.v.__dask_graph__())
    fills = [key for key in graph if str(key[0] if isinstance(key, tuple) else key).startswith("fill-block-")]
    assert len(fills) == 3 * 4  # starts 0, 12, 24 along y and 0, 12, 24, 34 along x


def test_building_the_graph_computes_nothing_and_names_repeat() -> None:
    def explode(block: np.ndarray) -> np.ndarray:
        raise AssertionError("computed")

    cube = make().chunk(time=2)
    cube.data = cube.data.map_blocks(explode, dtype="float32", meta=np.empty((0, 0, 0), "float32"))
    first, second = stpipe.fill(cube, method="pyramid"), stpipe.fill(cube, method="pyramid")
    assert set(first.v.__dask_graph__()) == set(second.v.__dask_graph__())


def test_names_and_order_of_dimensions_are_free() -> None:
    plain = stpipe.fill(make(), method="linear").v
    turned = make(y="lat", x="lon").transpose("lon", "time", "lat")
    odd = stpipe.fill(turned, method="linear").v
    np.testing.assert_array_equal(odd.transpose("time", "lat", "lon").values, plain.values)


def test_the_accessor_comes_with_stpipe_whichever_is_imported_first() -> None:
    for order in ("import stpipe, xarray as xr", "import xarray as xr, stpipe"):
        code = f"{order}\nassert xr.Dataset().stpipe.fill and xr.DataArray().stpipe.fill"
        subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    xr.testing.assert_identical(make().stpipe.fill(method="pyramid"), stpipe.fill(make(), method="pyramid"))


def test_a_domain_and_a_range_are_kept_to() -> None:
    cube = make()
    land = xr.DataArray(np.arange(50) < 25, dims="x").expand_dims(y=40)
    filled = stpipe.fill(cube, method="pyramid", domain=land, valid_range=(-2, 2))
    outside = ~land.values
    np.testing.assert_array_equal(filled.v.values[:, outside], cube.values[:, outside])
    assert (filled.v_source.values[:, outside] == 0).all()
    inside = filled.v.values[:, ~outside]
    assert ((inside >= -2) & (inside <= 2)).all()


def test_intervals_are_named_after_what_they_hold() -> None:
    cube = make()
    usual = stpipe.fill(cube, method="linear")
    narrow = stpipe.fill(usual, method="linear", variables=["v"], interval=0.5)
    assert set(narrow.data_vars) == {"v", "v_source", "v_ci50"}  # the intervals of another filling are gone
    narrow = stpipe.fill(cube, method="linear", interval=0.5)
    assert narrow.v_ci50.attrs["long_name"] == "half-width of a 50 % interval of v"
    gap = usual.v_source.values != 1
    assert narrow.v_ci50.values[gap].mean() < 0.8 * usual.v_ci90.values[gap].mean()
    np.testing.assert_array_equal(narrow.v, usual.v)


def with_radar() -> tuple[xr.Dataset, xr.Dataset]:
    """Greenness that follows the radar of its days, under some clouds; and the radar."""
    rng = np.random.default_rng(5)
    frames, height, width = 44, 18, 22
    days, dates = 5.0 * np.arange(frames), np.arange(-9.5, 5.0 * frames + 9, 4.0)
    weather = np.interp(dates, np.arange(-10, 260, 2.0), rng.normal(size=135).cumsum() / 3)
    y, x = np.mgrid[:height, :width] / 8
    where = {"y": 5_000_000 - 10.0 * np.arange(height) - 5, "x": 600_000 + 10.0 * np.arange(width) + 5}
    wet = weather[:, None, None] + 0.3 * np.sin(y + x + dates[:, None, None] / 20)
    values = 0.5 + 0.1 * np.array([wet[(dates >= day - 12) & (dates < day + 12)].mean(axis=0) for day in days])
    clouds = np.kron(rng.random((frames, 3, 2)) < rng.uniform(0, 0.7, (frames, 1, 1)), np.ones((6, 11))) > 0
    start = np.datetime64("2024-03-01T10:00", "ns")
    times, taken = (start + (when * 86400).astype("timedelta64[s]") for when in (days, dates))
    vv, vh = (base + 2 * wet + rng.normal(0, 0.2, wet.shape) for base in (-10, -17))
    optical = xr.Dataset({"ndvi": (("time", "y", "x"), np.where(clouds, np.nan, values))}, {"time": times, **where})
    axes = ("time", "y", "x")
    radar = xr.Dataset({"VV": (axes, vv), "VH": (axes, vh)}, {"time": taken, **where})
    return optical.rio.write_crs(32633), radar.rio.write_crs(32633)


def test_radar_fills_objects_lazily_or_not_as_a_scene_in_one_piece(tmp_path: Path) -> None:
    optical, radar = with_radar()
    now = stpipe.fill(optical, method="sar", guide=radar, block=(44, 8, 16))
    lazy = stpipe.fill(optical.chunk(time=7, y=9, x=9), method="sar", guide=radar.chunk(time=5, y=5), block=(44, 8, 16))
    assert all(dask.is_dask_collection(lazy[name].data) for name in ("ndvi", "ndvi_source", "ndvi_ci90"))
    xr.testing.assert_identical(lazy.compute(scheduler="synchronous"), now)
    gap = np.isnan(optical.ndvi.values)
    np.testing.assert_array_equal(now.ndvi_source, np.where(gap, 2, 1))
    np.testing.assert_array_equal(now.ndvi.values[~gap], optical.ndvi.values[~gap])

    optical.to_zarr(tmp_path / "ndvi.zarr", consolidated=False)
    radar.to_zarr(tmp_path / "s1.zarr", consolidated=False)
    cube = open_source(tmp_path / "ndvi.zarr")
    read = open_radar([tmp_path / "s1.zarr"], cube, RadarOptions())
    (crop,), spread = read_crops(cube.reader(), cube.variables[0], cube.days, guides=read)
    whole = crop.scale[0] + spread * fill_crop(SarFiller(groups=read.groups), crop).values
    np.testing.assert_allclose(now.ndvi.values[gap], whole[gap], atol=1e-5)
    # The same radar from its file, and in the cube itself.
    xr.testing.assert_identical(
        stpipe.fill(optical, method="sar", guide=tmp_path / "s1.zarr", block=(44, 8, 16)).ndvi, now.ndvi
    )
    both = optical.assign(radar.interp(time=optical.time, method="nearest", kwargs={"fill_value": "extrapolate"}))
    own = stpipe.fill(both, method="sar", guide=both)
    assert set(own.data_vars) == {"ndvi", "ndvi_source", "ndvi_ci90", "VV", "VH"}
    xr.testing.assert_identical(own.VV, both.VV)
    assert (own.ndvi_source.values == 2).any()


def test_guides_that_lie_elsewhere_make_other_tasks() -> None:
    optical, radar = with_radar()
    lazy = optical.chunk(time=7)
    moved = radar.assign_coords(x=radar.x + 40)
    for options in ({"method": "sar"}, {"method": "guided", "guide_var": "VV"}):
        here, there = (stpipe.fill(lazy, guide=guide, block=(44, 8, 16), **options).ndvi for guide in (radar, moved))
        again = stpipe.fill(lazy, guide=radar, block=(44, 8, 16), **options).ndvi
        assert set(here.__dask_graph__()) == set(again.__dask_graph__())
        shifted = stpipe.fill(lazy.assign_coords(x=lazy.x + 40), guide=radar, block=(44, 8, 16), **options).ndvi
        assert not {*_fills(here)} & {*_fills(there)}
        assert not {*_fills(here)} & {*_fills(shifted)}


def _fills(array: xr.DataArray) -> Iterator[str]:
    """Return the names of tasks that fill, of those that a graph has."""
    for key in array.__dask_graph__():
        name = key[0] if isinstance(key, tuple) else key
        if str(name).startswith("fill-"):
            yield str(name)


def test_a_scene_whose_coefficients_memory_does_not_hold_is_refused() -> None:
    optical, radar = with_radar()
    with pytest.raises(PlanError, match=r"keeps of 18 x 22 pixels takes .* with `stpipe fill-scene`"):
        stpipe.fill(optical, method="sar", guide=radar, memory_limit=2**15)


def test_radar_that_does_not_fit_is_refused_in_one_line() -> None:
    optical, radar = with_radar()
    fitting: dict[str, Any] = {"method": "sar", "guide": radar}
    for options, message in (
        ({"guide": ()}, "method sar leans on radar; name its cube with guide"),
        ({"guide": [radar, radar]}, "method sar takes one guide, the cube with the radar, got 2"),
        ({"guide": radar.drop_vars("VH")}, "guide 1 has no VH, but VV"),
        ({"guide": optical}, "guide 1 has no VV and no VH, but ndvi"),
        ({"guide_var": "vv"}, "did you mean VV.*guide 1 has VV, VH"),
        ({"guide": radar.assign_coords(x=radar.x + 90_000)}, "^guide 1 and the cube do not overlap"),
        ({"guide": radar.isel(time=slice(5))}, "frames have an image of guide 1 within 12 days, but a regression"),
        ({"guide": 50 * (radar + 60)}, "VV of guide 1 runs from .* neither in dB nor in linear power"),
        ({"model": "x.keras"}, "model goes with method pconv, not with sar"),
    ):
        with pytest.raises(RefusedError, match=message) as caught:
            stpipe.fill(optical, **{**fitting, **options})
        assert "\n" not in str(caught.value)
    with pytest.raises(CubeError, match="ndvi would be filled and be the radar"):
        stpipe.fill(optical, method="sar", guide=optical, guide_var="ndvi", variables=["ndvi"])
    mute = radar.assign(VV=radar.VV.assign_attrs(units="linear"))
    with pytest.warns(UserWarning, match="VV says it is in 'linear', but runs from .*: taken as dB"):
        stpipe.fill(optical, method="sar", guide=mute)


def test_radar_is_scored_on_objects(tmp_path: Path) -> None:
    optical, radar = with_radar()
    scores = stpipe.evaluate(optical, methods=["sar"], guide=radar, draws=1)
    assert list(scores.method_name) == ["sar", "sar-shuffled", "linear", "whittaker", "pyramid"]
    mae = scores.mae.sel(variable="ndvi", group="all")
    assert float(mae.sel(method_name="sar")) < 0.5 * float(mae.sel(method_name="sar-shuffled"))
    optical.to_zarr(tmp_path / "ndvi.zarr", consolidated=False)
    radar.to_zarr(tmp_path / "s1.zarr", consolidated=False)
    cube = open_source(tmp_path / "ndvi.zarr")
    own = ScoredRadar(radar=open_radar([tmp_path / "s1.zarr"], cube, RadarOptions()), steps=SarOptions())
    (found,) = evaluate_cube(cube.reader(), cube.variables, cube.days, methods=["sar"], draws=1, radar=own)
    for method in map(str, scores.method_name.values):
        assert float(mae.sel(method_name=method)) == pytest.approx(found.row(method).mae, rel=1e-4)


REFUSALS = [
    pytest.param(make().to_dataset(), {"variables": ["w"]}, CubeError, "no variable 'w'.*there are v", id="variable"),
    pytest.param(make().drop_vars("time"), {}, CubeError, "has no dates", id="no-dates"),
    pytest.param(make().isel(time=[1, 0, 2]), {}, CubeError, "sortby", id="unsorted"),
    pytest.param(make().isel(time=[0, 0, 1]), {}, CubeError, "groupby", id="repeated"),
    pytest.param(make().isel(time=0), {}, CubeError, "no numeric variable over", id="no-time"),
    pytest.param(make(), {"method": "best"}, OptionError, "no method 'best'", id="method"),
    pytest.param(
        make(), {"interval": 0.905}, OptionError, "interval needs .* in hundredths", id="interval-thousandths"
    ),
    pytest.param(make(), {"interval": 0.4}, OptionError, "from 0.5 to 0.99", id="interval-narrow"),
    pytest.param(make(), {"interval": 1.0}, OptionError, "from 0.5 to 0.99", id="interval-all"),
    pytest.param(make(), {"interval": "wide"}, OptionError, "got 'wide'", id="interval-in-words"),
    pytest.param(make(), {"domain": "sea"}, CubeError, "no variable 'sea'", id="domain"),
    pytest.param(make(), {"block": (6, 4)}, OptionError, r"block needs three .*got \(6, 4\)", id="block-of-two"),
    pytest.param(make(), {"valid_range": (1, 0)}, OptionError, "low <= high", id="range-upside-down"),
    pytest.param(make(), {"valid_range": (float("nan"), 1)}, OptionError, "low <= high", id="range-of-nan"),
    pytest.param(make(), {"valid_range": "0,1"}, OptionError, "two numbers", id="range-in-words"),
    pytest.param(make(), {"variables": []}, OptionError, "variables names nothing", id="no-variables"),
    pytest.param(make(), {"variables": "w"}, CubeError, "no variable 'w'", id="one-variable"),
    pytest.param(make(), {"memory_limit": "4GiB"}, OptionError, "memory_limit needs a whole", id="memory-in-words"),
    pytest.param(np.zeros((3, 4, 4)), {}, CubeError, "of xarray, got ndarray", id="array"),
    pytest.param(make(), {"block": (6, 0, 4)}, PlanError, "at least 1 along y", id="block"),
]


@pytest.mark.parametrize(("cube", "options", "kind", "message"), REFUSALS)
def test_what_is_no_cube_is_refused(
    cube: xr.DataArray, options: dict[str, object], kind: type[RefusedError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        stpipe.fill(cube, **{"method": "pyramid", **options})  # type: ignore[arg-type]


def flagged() -> xr.Dataset:
    """A cube with a layer of codes, all of them 0."""
    cube = make()
    return xr.Dataset({"v": cube, "q": xr.zeros_like(cube).fillna(0).astype("uint8")})


CALLS = [
    pytest.param(lambda cube, **options: stpipe.fill(cube, method="pyramid", **options), id="fill"),
    pytest.param(lambda cube, **options: cube.stpipe.fill(method="pyramid", **options), id="cube.stpipe.fill"),
    pytest.param(lambda cube, **options: stpipe.evaluate(cube, methods=["pyramid"], **options), id="evaluate"),
    pytest.param(stpipe.gap_statistics, id="gap_statistics"),
]


@pytest.mark.parametrize("call", CALLS)
def test_functions_warn_of_their_own_arguments_where_they_were_called(call: Any) -> None:
    with pytest.warns(UserWarning, match=r"^drop q:7 matches none of \d+ samples") as told:
        call(flagged(), variables="v", drop="q:7")
    assert {Path(warning.filename).name for warning in told} == {Path(__file__).name}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("options", "words"),
    [({"drop": "q"}, "drop"), ({"keep": "q:x"}, "keep"), ({"buffer": -1}, "buffer"), ({"buffer": 3}, "buffer")],
)
def test_functions_refuse_by_the_names_of_their_arguments(call: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError, match=words) as refused:
        call(flagged(), **options)
    assert "--" not in str(refused.value)


def test_a_yes_or_no_is_said_as_python_says_it() -> None:
    with pytest.raises(OptionError, match="leave tune=False out"):
        stpipe.fill(make(), method="auto", tune=False)


def south_up(mask: np.ndarray) -> xr.DataArray:
    """A domain whose rows go from south to north."""
    return xr.DataArray(mask[::-1], dims=("y", "x"), coords={"y": np.arange(40.0), "x": np.arange(50.0)})


def placed() -> xr.DataArray:
    """A cube whose rows go from north to south."""
    return make().assign_coords(y=np.arange(40.0)[::-1], x=np.arange(50.0))


def test_a_domain_is_placed_by_its_coordinates() -> None:
    mask = np.arange(40 * 50).reshape(40, 50) % 7 < 3
    plain = stpipe.fill(make(), method="pyramid", domain=xr.DataArray(mask, dims=("y", "x")))
    turned = stpipe.fill(placed(), method="pyramid", domain=south_up(mask))
    np.testing.assert_array_equal(turned.v_source, plain.v_source)
    np.testing.assert_array_equal(turned.v_source.values == 0, np.broadcast_to(~mask, turned.v_source.shape))
    with pytest.raises(
        CubeError, match="the domain lies elsewhere: its y go from 1000 to 1039, the cube's from 39 to 0"
    ):
        stpipe.fill(placed(), method="pyramid", domain=south_up(mask).assign_coords(y=1000 + np.arange(40.0)))


def test_what_only_has_the_name_of_a_product_is_not_lost() -> None:
    cube = xr.Dataset({"v": make(), "v_source": make() * 2})
    with pytest.raises(OptionError, match="v_source has the name of what comes with v"):
        stpipe.fill(cube, variables="v", method="pyramid")
    with pytest.raises(OptionError, match="v_ci90 has the name"):
        stpipe.fill(cube.rename(v_source="v_ci90"), variables="v", method="pyramid")
    assert set(stpipe.fill(cube.rename(v_source="v_ci80"), variables="v", method="pyramid")) >= {"v_ci80", "v_ci90"}
    filled = stpipe.fill(make(), method="pyramid", max_gap=1.5)
    with pytest.warns(UserWarning, match="v was filled before"):
        again = stpipe.fill(filled, method="pyramid")
    assert set(again) == {"v", "v_source", "v_ci90"}


@pytest.mark.parametrize("mark", ["_FillValue", "missing_value", "nodata"])
def test_stored_integers_mean_what_they_do_in_a_file(mark: str, tmp_path: Path) -> None:
    decoded = make().rename("v")
    stored = np.where(np.isnan(decoded), -999, np.round(decoded.fillna(0) * 100)).astype("int16")
    raw = decoded.copy(data=stored).assign_attrs({mark: np.int16(-999), "scale_factor": 0.01, "add_offset": 1.0})
    valid_range = (float(np.nanmin(decoded)) + 1.4, 60.0)
    made = stpipe.fill(raw, method="linear", valid_range=valid_range)
    assert made.v.dtype == np.int16
    clear = stpipe.gap_statistics(raw, valid_range=valid_range).v_clear_count
    values = stored * 0.01 + 1.0
    seen = (stored != -999) & (values >= valid_range[0])
    np.testing.assert_array_equal(made.v_source.values == 1, seen)
    np.testing.assert_array_equal(clear, seen.sum(axis=0))
    assert (made.v.values[seen] == stored[seen]).all()
    # The command line reads the same from a file.
    group = zarr.create_group(tmp_path / "cube.zarr")
    attrs = {key: value.item() if isinstance(value, np.generic) else value for key, value in raw.attrs.items()}
    group.create_array("v", data=stored, dimension_names=("time", "y", "x"), attributes=attrs)
    days = (decoded.time.values - decoded.time.values[0]).astype("timedelta64[D]").astype("int64")
    when = {"units": "days since 2024-01-01", "standard_name": "time"}
    group.create_array("time", data=days, dimension_names=("time",), attributes=when)
    info = open_source(tmp_path / "cube.zarr").variable("v")
    assert (info.nodata, info.scale_factor, info.add_offset) == (-999, 0.01, 1.0)


def test_what_was_said_of_integers_says_nothing_of_floats() -> None:
    cube = make().copy(data=np.where(np.isnan(make()), np.nan, 0.0)).assign_attrs(nodata=0, missing_value=0, units="K")
    made = stpipe.fill(cube, method="linear", max_gap=2)
    np.testing.assert_array_equal(made.v_source == 1, np.isfinite(cube))
    np.testing.assert_array_equal(np.isnan(made.v), made.v_source == 4)
    assert (made.v_source == 4).any()


def test_a_text_beside_a_variable_may_have_any_name_but_a_products() -> None:
    cube = xr.Dataset({"v": make(), "v_source": ("time", list("abcdef"))})
    with pytest.raises(OptionError, match="v_source has the name"):
        stpipe.fill(cube, method="pyramid")
    assert "v_ci80" in stpipe.fill(cube.rename(v_source="v_ci80"), method="pyramid")


def test_coordinates_of_a_domain_may_be_rounded_or_no_numbers() -> None:
    mask = np.arange(40 * 50).reshape(40, 50) % 7 < 3
    north = 5_200_000 - 10.0 * np.arange(40)
    cube = make().assign_coords(y=north, x=np.arange(50.0))
    domain = xr.DataArray(mask, dims=("y", "x"), coords={"y": north.astype("float32"), "x": np.arange(50)})
    made = stpipe.fill(cube, method="pyramid", domain=domain).v_source
    np.testing.assert_array_equal(made == 0, np.broadcast_to(~mask, made.shape))
    named = make().assign_coords(x=[f"column {number}" for number in range(50)])
    again = stpipe.fill(named, method="pyramid", domain=xr.DataArray(mask, dims=("y", "x"), coords={"x": named.x}))
    np.testing.assert_array_equal(again.v_source, made)


def test_several_marks_for_nodata_are_refused() -> None:
    raw = make().fillna(0).astype("int16").assign_attrs(_FillValue=-1, missing_value=[-1, -2])
    with pytest.raises(CubeError, match=r"more than one value for nodata \(-1, -2\).*decode it"):
        stpipe.fill(raw, method="pyramid")


def test_codes_are_left_out_with_a_word() -> None:
    cube = xr.Dataset({"v": make(), "SCL": make(), "kind": make().assign_attrs(flag_values=[0, 1])})
    for call in (stpipe.fill, stpipe.gap_statistics):
        options: dict[str, Any] = {"method": "pyramid"} if call is stpipe.fill else {}
        with pytest.warns(UserWarning, match="left out SCL, kind: codes are no measurements; name one with variables"):
            found = call(cube, **options)
        assert not {"SCL_source", "kind_source", "SCL_clear_count"} & set(found)
    assert "SCL_source" in stpipe.fill(cube, method="pyramid", variables="SCL")
    with pytest.raises(CubeError, match="nothing but codes"):
        stpipe.fill(cube[["SCL"]], method="pyramid")


@pytest.mark.parametrize(("value", "dtype", "scale"), [(-0.2, "float32", None), (0.7, "int16", 1e-4)])
def test_both_ends_of_a_range_are_valid_as_they_are_stored(value: float, dtype: str, scale: float | None) -> None:
    low, high = sorted((value, 0.1))
    stored = np.full((6, 4, 4), value if scale is None else round(value / scale), dtype=dtype)
    cube = make()[:, :4, :4].copy(data=stored)
    cube.attrs = {} if scale is None else {"scale_factor": scale}
    made = stpipe.fill(cube, method="pyramid", valid_range=(low, high))
    assert (made.v_source == 1).all()
    assert (stpipe.gap_statistics(cube, valid_range=(low, high)).v_clear_count == 6).all()


@pytest.mark.parametrize("percentiles", ["10,90", 50, [10, "90"], None])
def test_percentiles_are_numbers(percentiles: Any) -> None:
    if percentiles == 50:
        assert "v_gap_p50" in stpipe.gap_statistics(make(), percentiles=percentiles)
        return
    with pytest.raises(OptionError, match="percentiles needs numbers"):
        stpipe.gap_statistics(make(), percentiles=percentiles)
