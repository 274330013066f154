"""What the network sees: gaps say nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.timeline import median_step, neighbours
from stpipe.model.features import CHANNELS, network_input


@st.composite
def series(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 9))
    values = rng.standard_normal((count, 3, 4)).astype(np.float32)
    valid = rng.random(values.shape) < draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
    days = np.cumsum(rng.uniform(0.5, 20, count))
    return values, valid, days


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
