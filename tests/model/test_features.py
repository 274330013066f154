"""What the network sees: neighbours in time against a slow search, and gaps that say nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.methods.linear import interpolate
from stpipe.model.features import CHANNELS, LONGEST_STEPS, median_step, neighbours, network_input


@st.composite
def series(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 9))
    values = rng.standard_normal((count, 3, 4)).astype(np.float32)
    valid = rng.random(values.shape) < draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
    days = np.cumsum(rng.uniform(0.5, 20, count))
    return values, valid, days


@settings(max_examples=40)
@given(series())
def test_neighbours_leave_the_sample_itself_out(made: tuple[Any, Any, Any]) -> None:
    values, valid, days = made
    around = neighbours(values, valid, days, step=2.0)
    for t, y, x in np.ndindex(values.shape):
        known = np.flatnonzero(valid[:, y, x])
        others = known[known != t]
        if not others.size:
            assert np.isnan(around.linear[t, y, x])
            continue
        expected = np.interp(days[t], days[others], values[others, y, x].astype(float))
        assert around.linear[t, y, x] == pytest.approx(expected, abs=1e-3)
        earlier, later = others[others < t], others[others > t]
        since = (days[t] - days[earlier[-1]]) / 2 if earlier.size else LONGEST_STEPS
        until = (days[later[0]] - days[t]) / 2 if later.size else LONGEST_STEPS
        assert around.since[t, y, x] == pytest.approx(since, abs=1e-3)
        assert around.until[t, y, x] == pytest.approx(until, abs=1e-3)
        change = values[later[0], y, x] - values[earlier[-1], y, x] if earlier.size and later.size else 0.0
        assert around.change[t, y, x] == pytest.approx(change, abs=1e-5)
        assert around.half_width[t, y, x] > 0


@settings(max_examples=20)
@given(series())
def test_in_gaps_they_are_the_linear_method(made: tuple[Any, Any, Any]) -> None:
    values, valid, days = made
    np.testing.assert_allclose(
        neighbours(values, valid, days, median_step(days)).linear[~valid],
        interpolate(values, valid, days)[0][~valid],
        rtol=1e-3,
        atol=1e-3,
    )


@settings(max_examples=30)
@given(series(), st.sampled_from([np.nan, np.inf, -np.inf, 3e38]))
def test_values_under_gaps_say_nothing_and_all_inputs_are_finite(made: tuple[Any, Any, Any], poison: float) -> None:
    values, valid, days = made
    pyramid = np.where(np.random.default_rng(0).random(values.shape) < 0.7, np.float32(0.5), np.float32(np.nan))
    results = []
    for version in (values, np.where(valid, values, np.float32(poison))):
        around = neighbours(version, valid, days, median_step(days))
        results.append(network_input(version, valid, pyramid, pyramid * 2, around))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.isfinite(one).all()
    inputs, _ = results[0]
    assert (inputs[..., 0][~valid] == 0).all()
    np.testing.assert_array_equal(inputs[..., len(CHANNELS)].astype(bool), valid)


@pytest.mark.parametrize(
    ("days", "step"), [([3.0], 1.0), ([0.0, 4.0], 4.0), ([0.0, 0.0, 7.0], 7.0)], ids=["one", "two", "same day twice"]
)
def test_the_median_step_is_never_zero(days: list[float], step: float) -> None:
    assert median_step(np.array(days)) == step
