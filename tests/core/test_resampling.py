"""Weights and dates against slow loops, in whichever window they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.resampling import RESAMPLINGS, Axis, Resampling, at_frames

STEPS = st.sampled_from([-2.5, -1.0, -0.4, 0.3, 0.5, 1.0, 2.0, 3.25])


def slow_weights(axis: Axis, pixel: int, resampling: Resampling) -> dict[int, float]:
    """Return the weights of one pixel."""
    edges = sorted(axis.start + axis.step * (pixel + side) for side in (0, 1))
    centre = round(sum(edges) / 2, 6)
    if resampling == "average":
        shares = {n: min(edges[1], n + 1) - max(edges[0], n) for n in range(axis.length)}
    elif not 0 <= centre <= axis.length:
        shares = {}
    elif resampling == "nearest":
        shares = {n: float(n <= centre < n + 1) for n in range(axis.length)}
    else:
        shares = {n: 1 - abs(centre - 0.5 - n) for n in range(axis.length)}
    return {n: share for n, share in shares.items() if share > 1e-5}


@given(start=st.floats(-6, 12), step=STEPS, first=st.integers(0, 5), count=st.integers(1, 6))
@settings(max_examples=40)
@pytest.mark.parametrize("resampling", RESAMPLINGS)
def test_weights_are_those_of_a_slow_loop(
    resampling: Resampling, start: float, step: float, first: int, count: int
) -> None:
    axis = Axis(start=round(start, 1), step=step, length=9)
    part, weights = axis.weights(first, first + count, resampling)
    dense = np.zeros((count, 9))
    dense[:, part] = weights.toarray()
    for row in range(count):
        expected = np.zeros(9)
        for column, share in slow_weights(axis, first + row, resampling).items():
            expected[column] = share
        np.testing.assert_allclose(dense[row], expected, atol=1e-5)


@pytest.mark.parametrize("resampling", RESAMPLINGS)
def test_the_same_grid_is_left_alone(resampling: Resampling) -> None:
    part, weights = Axis(start=0.0, step=1.0, length=7).weights(2, 6, resampling)
    assert part == slice(2, 6)
    np.testing.assert_array_equal(weights.toarray(), np.eye(4))


def slow_at_frames(stack: np.ndarray, dates: np.ndarray, days: np.ndarray, window: float) -> np.ndarray:
    made = np.full((days.size, *stack.shape[1:]), np.nan)
    for t, y, x in np.ndindex(made.shape):
        known = np.isfinite(stack[:, y, x])
        before = [n for n in np.flatnonzero(known) if 0 <= days[t] - dates[n] <= window + 1e-6]
        after = [n for n in np.flatnonzero(known) if 0 <= dates[n] - days[t] <= window + 1e-6]
        if before and after and dates[after[0]] > dates[before[-1]]:
            early, late = before[-1], after[0]
            share = (days[t] - dates[early]) / (dates[late] - dates[early])
            made[t, y, x] = (1 - share) * stack[early, y, x] + share * stack[late, y, x]
        elif before or after:
            made[t, y, x] = stack[before[-1] if before else after[0], y, x]
    return made


@given(seed=st.integers(0, 10_000), window=st.sampled_from([0.0, 2.0, 7.5, 100.0]), dates=st.integers(0, 9))
@settings(max_examples=40)
def test_dates_are_those_of_a_slow_loop(seed: int, window: float, dates: int) -> None:
    rng = np.random.default_rng(seed)
    when = np.cumsum(rng.integers(1, 8, dates)).astype(float)
    days = np.cumsum(rng.integers(1, 6, 11)).astype(float) - 4
    stack = rng.standard_normal((dates, 3, 2)).astype(np.float32)
    stack[rng.random(stack.shape) < 0.4] = np.nan
    made = at_frames(stack, when, days, window)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, slow_at_frames(stack, when, days, window), atol=1e-5)
