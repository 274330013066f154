"""Laws of the patterns: a normal series' conditional means, and what learning makes of gaps and empty frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.methods.modes import Modes, learn_modes, project
from tests.methods.scenes import patterned


@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(0, 4), frames=st.integers(1, 9))
@settings(max_examples=25)
def test_the_projection_is_the_conditional_mean_of_a_normal_series(seed: int, rank: int, frames: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stpipe.methods.modes.TAILS", 1e12)  # as good as normal: then there is a formula
        compare_with_conditional_means(seed, rank, frames)


def compare_with_conditional_means(seed: int, rank: int, frames: int) -> None:
    rng = np.random.default_rng(seed)
    rank = min(rank, frames)
    modes = Modes(
        days=np.arange(float(frames)),
        mean=rng.normal(size=frames),
        vectors=np.linalg.qr(rng.normal(size=(frames, frames)))[0][:, :rank],
        variances=rng.uniform(0.1, 5, rank),
        noise=rng.uniform(0.05, 1, frames),
        ranks=np.array([rank]),
        scores=np.zeros(1),
    )
    valid = rng.random((frames, 6)) < 0.6
    values = rng.normal(size=valid.shape).astype(np.float32)
    estimate, deviation, left_out = project(values, valid, modes)
    signal = (modes.vectors * modes.variances) @ modes.vectors.T
    for pixel in range(6):
        known = valid[:, pixel]
        if not known.any():
            assert np.isnan(estimate[:, pixel]).all()
            continue
        total = signal[np.ix_(known, known)] + np.diag(modes.noise[known])
        gain = np.linalg.solve(total, signal[known]).T
        expected = modes.mean + gain @ (values[known, pixel] - modes.mean[known])
        variance = np.diag(signal - gain @ signal[known]) + modes.noise
        np.testing.assert_allclose(estimate[:, pixel], expected, atol=1e-4)
        np.testing.assert_allclose(deviation[:, pixel], np.sqrt(variance), rtol=1e-3)
        for t in np.flatnonzero(known):
            others = known.copy()
            others[t] = False
            within = signal[np.ix_(others, others)] + np.diag(modes.noise[others])
            guess = modes.mean[t] + signal[t, others] @ np.linalg.solve(within, (values[:, pixel] - modes.mean)[others])
            if modes.noise[t] > 0.05 * (signal[t, t] + modes.noise[t]):
                np.testing.assert_allclose(left_out[t, pixel], values[t, pixel] - guess, atol=1e-3)
        assert not left_out[~known, pixel].any()


def test_an_observation_that_is_far_off_says_little() -> None:
    modes = Modes(
        days=np.arange(9.0), mean=np.zeros(9), vectors=np.full((9, 1), 1 / 3), variances=np.array([9.0]),
        noise=np.full(9, 0.01), ranks=np.array([1]), scores=np.zeros(1),
    )  # fmt: skip
    series = np.ones((9, 1), dtype=np.float32)
    cloudy = np.where(np.arange(9)[:, None] == 4, np.float32(-5), series)
    estimate = project(cloudy, np.ones((9, 1), dtype=bool), modes)[0]
    assert np.abs(estimate - 1).max() < 0.1


def test_values_that_float64_cannot_hold_beside_others_leave_a_mean() -> None:
    """Standardised samples may be as far off as 1e9 spreads, whose squares leave nothing of the ones beside them."""
    values, valid, days, _ = patterned(2)
    values = values.reshape(24, -1).astype(np.float32) * np.float32(2e9)
    modes = learn_modes(values, valid.reshape(24, -1), days, seed=0)
    assert np.isfinite(modes.mean).all()
    assert np.isfinite(project(values, valid.reshape(24, -1), modes)[0]).all()


def test_what_was_learned_comes_back_from_bytes() -> None:
    values, valid, days, _ = patterned(2)
    modes = learn_modes(values.reshape(24, -1).astype(np.float32), valid.reshape(24, -1), days, seed=0)
    back = Modes.from_bytes(modes.to_bytes())
    for name in Modes.__slots__:
        np.testing.assert_array_equal(getattr(back, name), getattr(modes, name))
    np.testing.assert_allclose(modes.vectors.T @ modes.vectors, np.eye(modes.rank), atol=1e-9)
    assert modes.rank >= 3


def test_one_pixel_does_not_hear_another() -> None:
    values, valid, days, _ = patterned(3)
    matrix, known = values.reshape(24, -1).astype(np.float32), valid.reshape(24, -1)
    modes = learn_modes(matrix, known, days, seed=0)
    whole, part = project(matrix, known, modes), project(matrix[:, 100:150], known[:, 100:150], modes)
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_allclose(one[:, 100:150], other, rtol=0, atol=1e-6)


def test_a_frame_without_data_lies_between_its_neighbours_and_is_less_sure() -> None:
    values, valid, days, truth = patterned(5, noise=0.02)
    modes = learn_modes(values.reshape(24, -1).astype(np.float32), valid.reshape(24, -1), days, seed=0)
    estimate, deviation, _ = project(values.reshape(24, -1).astype(np.float32), valid.reshape(24, -1), modes)
    error = np.abs(estimate[12] - truth[12].ravel())
    assert np.nanmean(error) < 0.3 * truth.std()
    assert np.nanmean(deviation[12]) > np.nanmean(deviation[[10, 14]])


def test_tiles_of_a_pass_do_not_make_patterns_of_what_a_pass_is_like() -> None:
    rng = np.random.default_rng(0)
    days = 5.0 * np.arange(40)
    field = rng.normal(size=(2, 900))
    truth = np.stack([np.sin(days / 20), np.cos(days / 33)], axis=1) @ field + 0.8 * rng.normal(size=(40, 900))
    valid = rng.random(truth.shape) < 0.7
    single = learn_modes(truth.astype(np.float32), valid, days, seed=0)
    twice = (days[:, None] + [0, 15 / 86400]).ravel()
    noisy = np.repeat(truth, 2, axis=0) + 0.05 * rng.normal(size=(80, 900))
    pairs = learn_modes(noisy.astype(np.float32), np.repeat(valid, 2, axis=0), twice, seed=0)
    assert single.rank <= 4
    assert pairs.rank <= single.rank + 1
