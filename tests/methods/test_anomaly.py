"""Anomalies: what stays in time is told from what changes, whatever was seen when, and blocks equal the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.crops import fill_crop
from stpipe.core.survey import COUNT, SUM, ArrayOverviews
from stpipe.core.windows import Window
from stpipe.methods.anomaly import (
    AnomalyFiller,
    AnomalyOverviews,
    FrameCorrectedMeans,
    coarse_fill,
    less,
    over_pixels,
    pixel_deviations,
    prior_counts,
)
from stpipe.methods.pyramid import PyramidFiller
from tests.methods.scenes import block_input, crop_of


def fields_under_weather(seed: int, *, frames: int = 12, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return sharp fields that stay, plus smooth weather, and where clouds leave them to be seen."""
    rng = np.random.default_rng(seed)
    fields = rng.normal(size=(side // 4, side // 4)).repeat(4, axis=0).repeat(4, axis=1)
    weather = ndimage.gaussian_filter(rng.normal(size=(frames, side, side)), (0, 12, 12))
    clouds = ndimage.gaussian_filter(rng.normal(size=weather.shape), (0, 6, 6))
    return fields + weather / weather.std(), clouds < np.median(clouds)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 120), st.integers(1, 120)),
    size=st.integers(8, 60),
    share_valid=st.floats(0, 1),
)
def test_blocks_give_what_the_whole_scene_gives(
    seed: int, shape: tuple[int, int, int], size: int, share_valid: float
) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=shape) + rng.normal(size=shape[1:])).astype(np.float32)
    valid = rng.random(shape) < share_valid
    valid[:, shape[1] // 4 : shape[1] // 2] &= rng.random() < 0.5
    valid[rng.integers(shape[0])] &= rng.random() < 0.5
    days = np.cumsum(rng.integers(1, 9, size=shape[0])).astype(np.float64)
    filler = AnomalyFiller()
    grid = BlockGrid(shape, BlockSpec(size=shape, stride=filler.stride))
    whole = filler.fill(block_input(values, valid, days, Window.of(grid.padded_extent)))
    spec = BlockSpec(size=(shape[0], size, size), overlap=(0, 3, 3), halo=filler.halo, stride=filler.stride)
    for block in BlockGrid(shape, spec):
        part = filler.fill(block_input(values, valid, days, block.read))
        for name in ("values", "half_width", "fallback"):
            np.testing.assert_allclose(
                getattr(part, name)[block.trim], getattr(whole, name)[block.write.slices], rtol=0, atol=1e-5
            )


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(max_examples=8, deadline=None)
def test_units_make_no_difference(seed: int, scale: float, shift: float) -> None:
    """All that draws values towards something draws them towards values, never towards zero."""
    rng = np.random.default_rng(seed)
    valid = rng.random((5, 20, 30)) < 0.3
    valid[0, 0, 0] = True
    values = rng.normal(size=valid.shape)
    plain = fill_crop(AnomalyFiller(), crop_of(values, valid)).values
    other = fill_crop(AnomalyFiller(), crop_of(scale * values + shift, valid)).values
    np.testing.assert_allclose(other, scale * plain + shift, rtol=0, atol=1e-4 * (scale + abs(shift)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fields_that_stay_are_drawn_sharp_under_clouds(seed: int) -> None:
    truth, valid = fields_under_weather(seed)
    crop = crop_of(truth, valid)
    errors = [
        np.abs(fill_crop(filler, crop).values - truth)[~valid].mean() for filler in (AnomalyFiller(), PyramidFiller())
    ]
    assert errors[0] < 0.5 * errors[1]


def test_a_pixel_seen_in_bright_frames_alone_is_not_a_bright_pixel() -> None:
    """Two frames in three are dark; the left half is seen in bright ones alone, and yet is like the right half."""
    level = np.where(np.arange(12) % 3 == 0, 2.0, -1.0)
    truth = np.broadcast_to(level[:, None, None], (12, 64, 64))
    valid = np.ones(truth.shape, dtype=bool)
    valid[level < 0, :, :32] = False
    overviews = ArrayOverviews.of(np.where(valid, truth, 0), valid)
    cells = Window((0, 0, 0), (12, 8, 8))
    sums = overviews.read(3, cells)
    means = FrameCorrectedMeans(overviews).at(3, sums, cells)
    plain = sums[SUM].sum(axis=0) / sums[COUNT].sum(axis=0)
    assert np.ptp(plain) == 2.0
    assert np.ptp(means) < 0.5
    block = block_input(truth, valid, np.arange(12.0), Window.of(truth.shape))
    expected = coarse_fill(PyramidFiller(), block, AnomalyOverviews(overviews, FrameCorrectedMeans(overviews)))
    smooth = over_pixels(FrameCorrectedMeans(overviews), block)
    deviation, _ = pixel_deviations(block, expected + smooth)
    assert np.ptp(smooth[0] + deviation) < 0.5


def test_a_cell_of_which_the_bright_part_was_seen_is_not_in_a_bright_frame() -> None:
    """A slope that stays, of which one frame shows the upper end alone: its other end is as ever."""
    slope = np.linspace(-2, 2, 128)[None, :].repeat(128, axis=0)
    truth = np.stack([slope] * 8)
    valid = np.ones(truth.shape, dtype=bool)
    valid[3, :, :100] = False
    crop = crop_of(truth, valid)
    anomaly, pyramid = (fill_crop(filler, crop).values[3, :, :80] for filler in (AnomalyFiller(), PyramidFiller()))
    assert np.abs(anomaly - truth[3, :, :80]).max() < 0.3
    assert np.abs(pyramid - truth[3, :, :80]).max() > 0.5


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_sums_of_anomalies_are_those_of_the_samples(seed: int) -> None:
    """At level 5 every sample counts from the mean of its cell at level 3."""
    rng = np.random.default_rng(seed)
    valid = rng.random((3, 64, 72)) < 0.6
    values = np.where(valid, rng.normal(size=valid.shape), 0)
    overviews = ArrayOverviews.of(values, valid)
    means = FrameCorrectedMeans(overviews)
    cells = Window((0, 0, 0), (3, 8, 9))
    mean = means.at(3, overviews.read(3, cells), cells).repeat(8, axis=0).repeat(8, axis=1)
    moved = np.where(valid, values - mean, 0)
    expected = ArrayOverviews.of(moved, valid)
    for level, window in ((3, Window((1, 2, 3), (3, 5, 6))), (5, Window((0, -1, 1), (2, 3, 4)))):
        made = AnomalyOverviews(overviews, means).read(level, window)
        np.testing.assert_allclose(made, expected.read(level, window), atol=1e-9)


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=9), st.floats(-9, 9))
def test_sums_move_with_their_reference(samples: list[float], reference: float) -> None:
    def sums(values: np.ndarray) -> np.ndarray:
        return np.array([values.size, values.sum(), (values**2).sum()]).reshape(3, 1, 1, 1)

    made = less(sums(np.array(samples)), np.array([[[reference]]]))
    np.testing.assert_allclose(made, sums(np.array(samples) - reference), atol=1e-9)


def test_the_surroundings_count_for_what_weather_and_fields_say() -> None:
    """With a lasting variance of 1 and a passing one of 9, the best prior is 9 observations."""
    rng = np.random.default_rng(1)
    lasting = rng.normal(size=(160, 160))
    totals = 10 * lasting + rng.normal(scale=3 * np.sqrt(10), size=(2, 160, 160))
    prior = prior_counts(np.full((2, 160, 160), 10.0), totals)
    assert 7 < np.median(prior) < 11
    assert prior_counts(np.zeros((2, 8, 8)), np.zeros((2, 8, 8))).min() == 5.0


def test_intervals_are_wider_where_a_pixel_was_seen_less() -> None:
    truth, valid = fields_under_weather(5)
    valid[:] = True
    valid[1:, 20:24, 20:24] = False
    made = fill_crop(AnomalyFiller(), crop_of(truth, valid))
    assert made.half_width[0, 20:24, 20:24].mean() > 1.1 * made.half_width[0].mean()
