"""Kriging as a method: better than the pyramid where its covariance is right, and the pyramid where it has no say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.crops import fill_crop
from stpipe.core.ports import Learner
from stpipe.core.windows import Window
from stpipe.errors import ModelFileError, RunError
from stpipe.methods.kriging import REACH, KrigingFiller, learn_covariance
from stpipe.methods.kriging_systems import Covariance
from stpipe.methods.pyramid import PyramidFiller
from tests.methods.scenes import block_input, cloudy, crop_of


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 150), st.integers(1, 150)),
    size=st.integers(24, 90),
    share_valid=st.sampled_from([0.0, 0.002, 0.2, 0.6]),
)
def test_blocks_give_what_the_whole_scene_gives(
    seed: int, shape: tuple[int, int, int], size: int, share_valid: float
) -> None:
    rng = np.random.default_rng(seed)
    values, valid = rng.normal(size=shape).astype(np.float32), rng.random(shape) < share_valid
    valid[:, shape[1] // 4 : shape[1] // 2] = False
    filler = KrigingFiller()
    grid = BlockGrid(shape, BlockSpec(size=shape, stride=filler.stride))
    whole = filler.fill(block_input(values, valid, window=Window.of(grid.padded_extent)))
    spec = BlockSpec(size=(1, size, size), overlap=(0, 3, 3), halo=filler.halo, stride=filler.stride)
    for block in BlockGrid(shape, spec):
        part = filler.fill(block_input(values, valid, window=block.read, wanted=block.write))
        for name in ("values", "half_width", "fallback"):
            np.testing.assert_allclose(
                getattr(part, name)[block.trim], getattr(whole, name)[block.write.slices], rtol=0, atol=1e-5
            )


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(max_examples=6, deadline=None)
def test_units_make_no_difference(seed: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    values, valid = rng.normal(size=(2, 20, 60)), rng.random((2, 20, 60)) < 0.2
    valid[0, 0, 0], valid[:, :, 30:] = True, False
    plain = fill_crop(KrigingFiller(), crop_of(values, valid))
    other = fill_crop(KrigingFiller(), crop_of(scale * values + shift, valid))
    np.testing.assert_allclose(other.values, scale * plain.values + shift, rtol=0, atol=2e-4 * (scale + abs(shift)))
    np.testing.assert_allclose(other.half_width, scale * plain.half_width, rtol=0.02, atol=1e-4 * (scale + abs(shift)))


def test_a_slope_goes_on_under_a_gap_and_speckle_leaves_next_to_nothing_of_it() -> None:
    y, x = np.indices((64, 64))
    values = (0.05 * y + 0.02 * x)[None]
    valid = np.ones(values.shape, dtype=bool)
    valid[:, 24:40, 24:40] = False
    smooth = KrigingFiller(covariance=Covariance(range_px=1000.0, nugget=1e-6))
    error = np.abs(fill_crop(smooth, crop_of(values, valid)).values - values)[~valid]
    assert error.max() < 0.12 < np.abs(fill_crop(PyramidFiller(), crop_of(values, valid)).values - values)[~valid].max()
    speckle = np.random.default_rng(2).random(values.shape) < 0.5
    error = np.abs(fill_crop(smooth, crop_of(values, speckle)).values - values)[:, 4:-4, 4:-4]
    assert error[~speckle[:, 4:-4, 4:-4]].max() < 0.02


def test_a_field_of_the_covariance_assumed_is_filled_better_than_by_the_pyramid_and_its_intervals_hold() -> None:
    rng = np.random.default_rng(6)
    count = 128
    apart = np.minimum(np.arange(2 * count), 2 * count - np.arange(2 * count))
    spectrum = np.fft.fft2(np.exp(-np.hypot(apart[:, None], apart[None]) / 25)).real.clip(0)
    noise = rng.normal(size=(2, *spectrum.shape)) + 1j * rng.normal(size=(2, *spectrum.shape))
    values = np.fft.ifft2(np.sqrt(spectrum) * noise).real[:, :count, :count] * 2 * count
    values += np.sqrt(0.03) * rng.normal(size=values.shape)
    valid = cloudy(rng, values.shape, 0.6)
    gap = ~valid
    crop = crop_of(values, valid)
    made, pyramid = fill_crop(KrigingFiller(), crop), fill_crop(PyramidFiller(), crop)
    assert np.abs(made.values - values)[gap].mean() < 0.95 * np.abs(pyramid.values - values)[gap].mean()
    assert 0.86 < (np.abs(made.values - values) <= made.half_width)[gap].mean() < 0.94
    np.testing.assert_array_equal(made.values[valid], pyramid.values[valid])


def test_the_pyramid_answers_beyond_reach_and_nothing_jumps_on_the_way() -> None:
    values = np.ones((1, 64, 144))
    values[:, :, :40] = 0
    valid = np.ones(values.shape, dtype=bool)
    valid[:, :, 8:136] = False
    crop = crop_of(values, valid)
    made, pyramid = fill_crop(KrigingFiller(), crop), fill_crop(PyramidFiller(), crop)
    assert np.abs(np.diff(made.values[0, :, 8:136], axis=1)).max() < 0.06
    beyond = slice(8 + REACH - 1, 136 - REACH + 1)
    np.testing.assert_array_equal(made.values[0, :, beyond], pyramid.values[0, :, beyond])
    np.testing.assert_array_equal(made.half_width[0, :, beyond], pyramid.half_width[0, :, beyond])
    assert made.fallback[0, :, beyond].all()
    assert not made.fallback[0, :, :30].any()


def test_frames_without_samples_are_the_pyramids_and_frames_without_gaps_too() -> None:
    rng = np.random.default_rng(3)
    values, valid = rng.normal(size=(3, 24, 24)), rng.random((3, 24, 24)) < 0.5
    valid[1], valid[2] = False, True
    crop = crop_of(values, valid)
    made, pyramid = fill_crop(KrigingFiller(), crop), fill_crop(PyramidFiller(), crop)
    np.testing.assert_array_equal(made.values[1:], pyramid.values[1:])
    np.testing.assert_array_equal(made.half_width[1:], pyramid.half_width[1:])
    assert made.fallback[1].all()
    assert not made.fallback[2].any()


@pytest.mark.parametrize("nugget", [0.003, 0.3], ids=["a smooth field", "a noisy field"])
def test_learning_tells_smooth_from_noisy(nugget: float) -> None:
    rng = np.random.default_rng(4)
    values = ndimage.gaussian_filter(rng.normal(size=(3, 64, 64)), (0, 6, 6))
    values = values / values.std() + np.sqrt(nugget) * rng.normal(size=values.shape)
    crop = crop_of(values, cloudy(rng, values.shape, 0.7))
    learned = learn_covariance([crop], PyramidFiller(), seed=1, otherwise=Covariance())
    assert (learned.nugget * learned.range_px < 1) == (nugget < 0.05)  # a longer range is a lower slope


def test_what_was_learned_is_the_same_bytes_again_and_makes_another_method() -> None:
    rng = np.random.default_rng(4)
    values = ndimage.gaussian_filter(rng.normal(size=(2, 64, 64)), (0, 3, 3))
    filler = KrigingFiller()
    assert isinstance(filler, Learner)
    crop = crop_of(values, cloudy(rng, values.shape, 0.7))
    learned = filler.learn([crop], seed=1)
    assert learned == filler.learn([crop], seed=1)
    taught = filler.taught(learned)
    assert taught.covariance.to_bytes() == learned
    assert taught.covariance != Covariance()
    assert taught.identity() != filler.identity()
    assert (taught.halo, taught.stride, taught.sample_bytes) == (filler.halo, filler.stride, filler.sample_bytes)


@pytest.mark.parametrize("share_valid", [0.0, 0.01], ids=["nothing", "next to nothing"])
def test_too_little_to_learn_from_leaves_the_covariance_as_it_was(share_valid: float) -> None:
    rng = np.random.default_rng(4)
    crop = crop_of(rng.normal(size=(2, 32, 32)), rng.random((2, 32, 32)) < share_valid)
    given_one = KrigingFiller(covariance=replace(Covariance(), range_px=7.0))
    assert given_one.taught(given_one.learn([crop], seed=0)) == given_one


def test_no_crops_and_other_bytes_are_refused() -> None:
    with pytest.raises(RunError, match="kriging learns from crops of the cube, got none"):
        KrigingFiller().learn([], seed=0)
    with pytest.raises(ModelFileError, match="3 bytes are no covariance kriging has learned"):
        KrigingFiller().taught(b"abc")
