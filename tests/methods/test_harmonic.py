"""Laws of the harmonic fit, with SciPy's least squares as the second opinion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from stpipe.methods import harmonic
from stpipe.methods.harmonic import basis, fit, robust_fit


def noisy_seasons(seed: int, frames: int, pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    days = np.cumsum(rng.uniform(1, 30, frames))
    weights = (rng.random((frames, pixels)) < 0.7).astype(np.float64)
    weights[0] = 1
    season = np.cos(2 * np.pi * days / 365.25)[:, None] * rng.normal(size=pixels)
    return days, weights, weights * (season + 0.2 * rng.standard_t(3, size=(frames, pixels)))


@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(1, 50))
@settings(max_examples=20)
def test_without_reweighting_it_is_scipys_ridge(seed: int, frames: int) -> None:
    days, weights, observed = noisy_seasons(seed, frames, 3)
    waves, ridge = basis(days)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harmonic, "HUBER", 1e9)
        curve, scale, _ = robust_fit(weights, observed, waves, ridge)
    for pixel in range(3):
        known = weights[:, pixel] > 0
        rows = np.concatenate([waves[known], np.diag(np.sqrt(ridge))])
        right = np.concatenate([observed[known, pixel], np.zeros(ridge.size)])
        expected = optimize.lsq_linear(rows, right, tol=1e-12).x
        np.testing.assert_allclose(curve[:, pixel], waves @ expected, atol=1e-6)
    assert (scale > 0).all()


def test_the_rounds_are_those_of_a_slow_loop() -> None:
    days, weights, observed = noisy_seasons(11, 40, 4)
    waves, ridge = basis(days)
    curve, _, _ = robust_fit(weights, observed, waves, ridge)
    for pixel in range(4):
        known = weights[:, pixel] > 0
        rows, right, trust = waves[known], observed[known, pixel], np.ones(int(known.sum()))
        for _ in range(harmonic.ROUNDS + 1):
            found = np.linalg.solve(rows.T @ (trust[:, None] * rows) + np.diag(ridge), rows.T @ (trust * right))
            distance = np.abs(right - rows @ found)
            typical = 1.4826 * np.sort(distance)[(distance.size - 1) // 2]
            prior = harmonic.PRIOR_COUNT * harmonic.PRIOR_SCALE**2
            scale = np.sqrt((distance.size * typical**2 + prior) / (distance.size + harmonic.PRIOR_COUNT))
            trust = np.minimum(1, harmonic.HUBER * scale / np.maximum(distance, 1e-12))
        np.testing.assert_allclose(curve[:, pixel], waves @ found, atol=1e-9)


def test_wild_observations_move_it_less_than_plain_least_squares() -> None:
    days = np.arange(0.0, 730.0, 8.0)
    season = np.broadcast_to(np.cos(2 * np.pi * days / 365.25)[:, None, None], (days.size, 1, 1)).astype(np.float32)
    wild = season.copy()
    wild[::10] -= 5
    valid = np.ones(wild.shape, dtype=bool)
    robust = np.abs(fit(wild, valid, days)[0] - season).mean()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harmonic, "HUBER", 1e9)
        plain = np.abs(fit(wild, valid, days)[0] - season).mean()
    assert robust < 0.5 * plain


def test_a_series_of_days_hardly_bends_and_clustered_observations_stay_tame() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(10, 8, 8)).astype(np.float32)
    valid = np.ones(values.shape, dtype=bool)
    short, _ = fit(values, valid, np.arange(10.0))
    assert short.std(axis=0).mean() < 0.3 * values.std(axis=0).mean()
    days = np.arange(0.0, 730.0, 10.0)
    values = rng.normal(size=(days.size, 8, 8)).astype(np.float32)
    valid = np.zeros(values.shape, dtype=bool)
    valid[10:14] = True
    fitted, half_width = fit(values, valid, days)
    assert np.abs(fitted).max() < 2 * np.abs(values[valid]).max()
    assert (half_width[40] > half_width[12]).all()


def test_one_pixel_does_not_hear_another() -> None:
    rng = np.random.default_rng(5)
    values, valid = rng.normal(size=(15, 8, 16)).astype(np.float32), rng.random((15, 8, 16)) < 0.4
    days = np.cumsum(rng.uniform(1, 9, 15))
    whole = fit(values, valid, days)
    part = fit(values[:, 2:5, 3:9], valid[:, 2:5, 3:9], days)
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_allclose(one[:, 2:5, 3:9], other, rtol=0, atol=1e-6)
