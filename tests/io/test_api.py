"""`stpipe.fill` on xarray objects: lazy, in memory and blocked give one answer, and wrong input one line."""

from __future__ import annotations

import subprocess
import sys

import dask
import numpy as np
import pytest
import xarray as xr

import stpipe
from stpipe.errors import CubeError, OptionError, PlanError, RefusedError


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
    pytest.param(make(), {"block": (6, 0, 4)}, PlanError, "at least 1 along y", id="block"),
]


@pytest.mark.parametrize(("cube", "options", "kind", "message"), REFUSALS)
def test_what_is_no_cube_is_refused(
    cube: xr.DataArray, options: dict[str, object], kind: type[RefusedError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        stpipe.fill(cube, **{"method": "pyramid", **options})  # type: ignore[arg-type]
