"""`--max-gap`: what is too far from an observation in true time stays unfilled, wherever block borders fall."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import stpipe
from stpipe.errors import OptionError
from stpipe.execution.tasks import near_observation


def slowly(valid: np.ndarray, days: np.ndarray, most: float) -> np.ndarray:
    """Look at every sample and every observation of its pixel."""
    near = np.zeros(valid.shape, dtype=bool)
    for t, y, x in np.ndindex(valid.shape):
        near[t, y, x] = any(valid[s, y, x] and abs(days[s] - days[t]) <= most for s in range(len(days)))
    return near


@given(st.data())
def test_near_is_what_a_loop_over_all_pairs_says(data: st.DataObject) -> None:
    valid = data.draw(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)))
    steps = data.draw(st.lists(st.integers(1, 9), min_size=len(valid), max_size=len(valid)))
    days = 19_800 + np.cumsum(steps) / 4
    most = data.draw(st.integers(1, 40)) / 4
    start = data.draw(st.integers(0, len(days) - 1))
    stop = data.draw(st.integers(start + 1, len(days)))
    given_frames = np.stack(list(near_observation(valid, days, most, slice(start, stop))))
    np.testing.assert_array_equal(given_frames, slowly(valid, days, most)[start:stop])


def test_rounded_times_decide_nothing() -> None:
    days = np.array([0.1, 0.1 + 0.2 + 1e-12, 20.0])
    first = np.array([True, False, False]).reshape(3, 1, 1)
    assert [near.item() for near in near_observation(first, days, 0.2, slice(0, 3))] == [True, True, False]


def scene() -> xr.DataArray:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(12, 24, 40)).cumsum(axis=2).astype("float32")
    values[rng.random(values.shape) < 0.7] = np.nan
    values[:, 5:9, 5:9] = np.nan  # never observed
    values[3:8] = np.nan
    days = np.cumsum([0, 1, 3, 3, 1, 2, 9, 4, 1, 30, 2, 2]).astype("timedelta64[D]")
    return xr.DataArray(
        values, dims=("time", "y", "x"), coords={"time": np.datetime64("2024-01-01", "ns") + days}, name="v"
    )


@pytest.mark.parametrize("method", ["pyramid", "linear"])
@pytest.mark.parametrize("block", [(12, 24, 40), (4, 16, 16)], ids=["whole", "blocks"])
def test_a_fill_leaves_exactly_what_is_too_far(method: str, block: tuple[int, int, int]) -> None:
    cube = scene()
    options: dict[str, Any] = {"method": method, "block": block, "overlap": (0, 4, 4)}
    days = (cube.time.values - cube.time.values[0]) / np.timedelta64(1, "D")
    seen = np.isfinite(cube.values)
    near = slowly(seen, days, 5.0)
    full, short = stpipe.fill(cube, **options), stpipe.fill(cube, max_gap=5, **options)
    assert (short.v_source.values == np.where(near, full.v_source, 4)).all()
    assert np.isnan(short.v.values[~near]).all()
    assert np.isnan(short.v_ci90.values[~near]).all()
    np.testing.assert_allclose(short.v.values[near], full.v.values[near], rtol=1e-5, atol=1e-6)
    assert short.v.values[seen].tobytes() == cube.values[seen].tobytes()
    lazy = stpipe.fill(cube.chunk(time=5, y=11, x=13), max_gap=5, **options)
    xr.testing.assert_identical(lazy.compute(scheduler="synchronous"), short)


@pytest.mark.parametrize("days", [0, -3, float("nan"), float("inf"), "5", True], ids=repr)
def test_what_is_no_length_of_time_is_refused(days: Any) -> None:
    with pytest.raises(OptionError, match="max_gap needs a number of days above 0, got"):
        stpipe.fill(scene(), method="pyramid", max_gap=days)
