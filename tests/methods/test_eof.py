"""Laws of the patterns, with a plain DINEOF and a slow loop over pixels as second opinions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.crops import Crop, fill_crop
from stpipe.core.ports import Learner
from stpipe.core.windows import Window
from stpipe.errors import ModelFileError, RunError, ShapeError
from stpipe.methods import eof
from stpipe.methods.eof import EofFiller, Modes, learn_modes, project


def crop_of(values: np.ndarray, valid: np.ndarray, days: np.ndarray) -> Crop:
    clean = np.where(valid, values, 0).astype(np.float32)
    return Crop(values=clean, valid=valid, days=days, window=Window.of(values.shape))


def patterned(seed: int, frames: int = 24, side: int = 24, noise: float = 0.1) -> tuple[np.ndarray, ...]:
    """Three patterns under clouds; one frame lies wholly under one."""
    rng = np.random.default_rng(seed)
    days = np.cumsum(rng.uniform(2, 12, frames))
    series = np.stack([np.ones(frames), np.sin(days / 40), np.cos(days / 25)], axis=1)
    truth = np.einsum("tk,kyx->tyx", series, rng.normal(size=(3, side, side)))
    values = truth + noise * rng.normal(size=truth.shape)
    clouds = rng.random((frames, side // 4, side // 4)) < 0.5
    valid = ~clouds.repeat(4, axis=1).repeat(4, axis=2)
    valid[frames // 2] = False
    return values, valid, days, truth


def plain_dineof(values: np.ndarray, valid: np.ndarray, rank: int) -> np.ndarray:
    """The published iteration: gaps start at the mean, and are the truncated reconstruction until that rests."""
    mean = values[valid].mean()
    filled = np.where(valid, values - mean, 0.0)
    for modes in range(1, rank + 1):
        for _ in range(300):
            left, sizes, right = np.linalg.svd(filled, full_matrices=False)
            again = np.where(valid, values - mean, (left[:, :modes] * sizes[:modes]) @ right[:modes])
            change = np.sqrt(((again - filled)[~valid] ** 2).mean())
            filled = again
            if change < 1e-3 * values[valid].std():
                break
    return filled + mean


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_it_fills_gaps_as_well_as_the_plain_iteration_that_is_told_the_rank(seed: int) -> None:
    values, valid, days, truth = patterned(seed)
    filler = EofFiller()
    crop = crop_of(values, valid, days)
    filled = fill_crop(filler.taught(filler.learn([crop], seed=0)), crop)
    seen = valid.any(axis=(1, 2))
    gaps = ~valid & seen[:, None, None]
    matrix, known = values[seen].reshape(seen.sum(), -1), valid[seen].reshape(seen.sum(), -1)
    plain = {
        rank: np.abs(plain_dineof(matrix, known, rank).reshape(-1, *values.shape[1:]) - truth[seen])[gaps[seen]].mean()
        for rank in (3, 4)
    }
    error = np.abs(filled.values - truth)[gaps].mean()
    # An exact rank in white noise is where patterns to spare, as it keeps them, cost most.
    assert error < 1.05 * plain[3]
    assert error < plain[4]
    assert 0.8 < (np.abs(filled.values - values) < filled.half_width)[gaps].mean() <= 1


@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(0, 4), frames=st.integers(1, 9))
@settings(max_examples=25)
def test_the_projection_is_the_conditional_mean_of_a_normal_series(seed: int, rank: int, frames: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eof, "TAILS", 1e12)  # as good as normal: then there is a formula
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


def test_the_same_crops_and_seed_give_the_same_bytes_and_other_ones_another_identity() -> None:
    values, valid, days, _ = patterned(1)
    filler = EofFiller()
    assert isinstance(filler, Learner)
    crops = [crop_of(values[..., :12], valid[..., :12], days), crop_of(values[..., 12:], valid[..., 12:], days)]
    once, again = (filler.learn(crops, seed=7) for _ in range(2))
    other = filler.learn(crops[:1], seed=7)
    assert once == again
    assert filler.taught(once).identity() == filler.taught(again).identity()
    identities = [str(f.identity()) for f in (filler, filler.taught(once), filler.taught(other))]
    assert len(set(identities)) == 3


def test_what_was_learned_comes_back_from_bytes() -> None:
    values, valid, days, _ = patterned(2)
    modes = learn_modes(values.reshape(24, -1).astype(np.float32), valid.reshape(24, -1), days, seed=0)
    back = Modes.from_bytes(modes.to_bytes())
    for name in Modes.__slots__:
        np.testing.assert_array_equal(getattr(back, name), getattr(modes, name))
    np.testing.assert_allclose(modes.vectors.T @ modes.vectors, np.eye(modes.rank), atol=1e-9)
    assert modes.rank >= 3


def test_nothing_under_a_gap_is_heard_in_learning_or_filling() -> None:
    values, valid, days, _ = patterned(3)
    matrix, known = values.reshape(24, -1).astype(np.float32), valid.reshape(24, -1)
    junk = np.where(known, matrix, np.float32(np.nan))
    modes = learn_modes(matrix, known, days, seed=0)
    assert learn_modes(junk, known, days, seed=0).to_bytes() == modes.to_bytes()
    whole, part = project(matrix, known, modes), project(junk[:, 100:150], known[:, 100:150], modes)
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_allclose(one[:, 100:150], other, rtol=0, atol=1e-6)


def test_a_frame_without_data_lies_between_its_neighbours_and_is_less_sure() -> None:
    values, valid, days, truth = patterned(5, noise=0.02)
    modes = learn_modes(values.reshape(24, -1).astype(np.float32), valid.reshape(24, -1), days, seed=0)
    estimate, deviation, _ = project(values.reshape(24, -1).astype(np.float32), valid.reshape(24, -1), modes)
    error = np.abs(estimate[12] - truth[12].ravel())
    assert np.nanmean(error) < 0.3 * truth.std()
    assert np.nanmean(deviation[12]) > np.nanmean(deviation[[10, 14]])


@pytest.mark.parametrize("frames", [1, 2, 3, 9], ids=["one frame", "two frames", "three frames", "nine frames"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_sparse_cubes_have_an_answer_wherever_the_pyramid_has(frames: int, share: float) -> None:
    rng = np.random.default_rng(frames)
    values = rng.normal(size=(frames, 9, 11)).astype(np.float32)
    valid = rng.random(values.shape) < share
    crop = crop_of(values, valid, np.cumsum(rng.uniform(0, 9, frames)))
    filler = EofFiller()
    result = fill_crop(filler.taught(filler.learn([crop], seed=0)), crop)
    assert result.values.dtype == result.half_width.dtype == np.float32
    assert np.isfinite(result.values).all() == valid.any()
    np.testing.assert_array_equal(result.fallback, np.broadcast_to(~valid.any(axis=0), valid.shape))


def test_a_constant_cube_is_filled_with_the_constant() -> None:
    valid = np.random.default_rng(0).random((12, 16, 16)) < 0.5
    crop = crop_of(np.full(valid.shape, 1.5), valid, np.arange(12.0))
    filler = EofFiller()
    result = fill_crop(filler.taught(filler.learn([crop], seed=0)), crop)
    np.testing.assert_allclose(result.values[:, valid.any(axis=0)], 1.5, atol=0.05)


def test_misuse_is_refused() -> None:
    values, valid, days, _ = patterned(6)
    crop = crop_of(values, valid, days)
    with pytest.raises(RunError, match="call learn"):
        fill_crop(EofFiller(), crop)
    with pytest.raises(RunError, match="got none"):
        EofFiller().learn([], seed=0)
    with pytest.raises(ModelFileError, match="no patterns"):
        EofFiller().taught(b"something else")
    taught = EofFiller().taught(EofFiller().learn([crop], seed=0))
    with pytest.raises(ShapeError, match="learned on 24 frames, and is to fill 20"):
        fill_crop(taught, crop_of(values[:20], valid[:20], days[:20]))
