"""Laws of the Whittaker smoother, and SciPy's banded solver as its second opinion."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from stpipe.core.timeline import median_step
from stpipe.methods.whittaker import GRID, TENSION, choose_smoothing, roughness, smooth, solve


def matrix(days: np.ndarray) -> np.ndarray:
    """Roughness, slowly: a sum over inner times and over steps."""
    usual = median_step(days)
    step = np.maximum(np.diff(days), usual / 2) / usual
    total = np.zeros((days.size, days.size))
    for i in range(1, days.size - 1):
        before, after = step[i - 1], step[i]
        second = np.zeros(days.size)
        second[i - 1 : i + 2] = 1 / before, -1 / before - 1 / after, 1 / after
        second /= (before + after) / 2
        total += np.outer(second, second) * (before + after) / 2
    for i in range(days.size - 1):
        slope = np.zeros(days.size)
        slope[i : i + 2] = -1 / step[i], 1 / step[i]
        total += TENSION * np.outer(slope, slope) * step[i]
    return total


@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(2, 40), power=st.floats(-2, 5))
@settings(max_examples=30)
def test_the_solver_gives_what_scipy_gives(seed: int, frames: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    days = np.cumsum(rng.choice([0.001, 1.0, 5.0, 16.0, 60.0], frames))
    weights = (rng.random((frames, 5)) < 0.5).astype(np.float64)
    weights[rng.integers(frames)] = 1
    observed = weights * rng.normal(size=weights.shape)
    smoothing = 10.0 ** (power + rng.uniform(-0.5, 0.5, 5))
    curve, inverse = solve(weights, observed, smoothing, roughness(days))
    penalty = matrix(days)
    for pixel in range(5):
        whole = np.diag(weights[:, pixel]) + smoothing[pixel] * penalty
        bands = np.zeros((3, frames))
        for k in range(min(3, frames)):
            bands[k, : frames - k] = np.diag(whole, -k)
        expected = linalg.solveh_banded(bands, observed[:, pixel], lower=True)
        np.testing.assert_allclose(curve[:, pixel], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(inverse[:, pixel], np.diag(np.linalg.inv(whole)), rtol=1e-5)


def test_the_smoothing_has_the_least_score_of_the_grid() -> None:
    rng = np.random.default_rng(3)
    days = np.cumsum(rng.uniform(1, 9, 20))
    weights = (rng.random((20, 6)) < 0.7).astype(np.float64)
    observed = weights * (np.sin(days / 20)[:, None] + 0.3 * rng.normal(size=(20, 6)))
    chosen = choose_smoothing(weights, observed, roughness(days))
    for pixel, best in enumerate(chosen):
        scores = []
        for smoothing in GRID:
            hat = np.linalg.inv(np.diag(weights[:, pixel]) + smoothing * matrix(days)) @ np.diag(weights[:, pixel])
            rest = weights[:, pixel] * (observed[:, pixel] - hat @ observed[:, pixel])
            number = weights[:, pixel].sum()
            score = np.log((rest @ rest + 2 * 0.3**2) / (number + 2 - np.trace(hat)) ** 2)
            scores.append(score + 2 * np.log10(smoothing) ** 2 / number)
        assert best == GRID[int(np.argmin(scores))]


@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-5, 5), days=st.sampled_from(["even", "uneven", "twins"]))
@settings(max_examples=20)
def test_a_shifted_constant_stays_one(seed: int, shift: float, days: str) -> None:
    rng = np.random.default_rng(seed)
    times = {"even": np.arange(12.0), "uneven": np.cumsum(rng.uniform(0.1, 30, 12)), "twins": np.arange(12.0) // 2}[
        days
    ]
    valid = rng.random((12, 3, 3)) < 0.4
    values = np.where(valid, np.float32(shift), np.float32(np.nan))
    smoothed, half_width = smooth(values, valid, times)
    seen = valid.any(axis=0)
    np.testing.assert_allclose(smoothed[:, seen], shift, atol=1e-4)
    assert np.isnan(smoothed[:, ~seen]).all()
    assert (half_width[:, seen] > 0).all()


def test_smoother_series_are_smoothed_more_and_errors_grow_away_from_observations() -> None:
    rng = np.random.default_rng(0)
    days = np.arange(60.0)
    season = np.sin(days / 15)[:, None, None] + 0.4 * rng.normal(size=(60, 8, 8))
    valid = np.ones(season.shape, dtype=bool)
    valid[20:32] = False
    smoothed, half_width = smooth(season.astype(np.float32), valid, days)
    truth = np.broadcast_to(np.sin(days / 15)[:, None, None], season.shape)
    assert np.abs(smoothed - truth)[valid].mean() < 0.6 * np.abs(season - truth)[valid].mean()
    assert (half_width[26] > half_width[19]).all()


def test_one_pixel_does_not_hear_another() -> None:
    rng = np.random.default_rng(5)
    values, valid = rng.normal(size=(15, 8, 16)).astype(np.float32), rng.random((15, 8, 16)) < 0.4
    days = np.cumsum(rng.uniform(1, 9, 15))
    whole = smooth(values, valid, days)
    part = smooth(values[:, 2:5, 3:9], valid[:, 2:5, 3:9], days)
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_allclose(one[:, 2:5, 3:9], other, rtol=0, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), tiles=st.integers(2, 4))
@settings(max_examples=20)
def test_tiles_of_a_pass_that_see_the_same_are_one_observation(seed: int, tiles: int) -> None:
    rng = np.random.default_rng(seed)
    days = np.cumsum(rng.choice([1.0, 5.0, 16.0], 12))
    values = rng.normal(size=(12, 3, 4)).astype(np.float32)
    valid = rng.random(values.shape) < 0.6
    many = (days[:, None] + np.arange(tiles) * 15 / 86400).ravel()
    shown = np.repeat(valid, tiles, axis=0)
    hidden = shown & (rng.random(shown.shape) < 0.3)
    hidden[::tiles] = False  # the first tile sees what any of them sees
    found = smooth(np.repeat(values, tiles, axis=0), shown & ~hidden, many)
    for part, whole in zip(found, smooth(values, valid, days), strict=True):
        np.testing.assert_allclose(part, np.repeat(whole, tiles, axis=0), rtol=1e-4, atol=1e-5)
