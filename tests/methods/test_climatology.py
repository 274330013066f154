"""Other years: the season comes back, the frame keeps its own offset, and blocks equal the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.crops import fill_crop
from stpipe.core.windows import Window
from stpipe.methods.anomaly import AnomalyFiller
from stpipe.methods.climatology import (
    KERNEL_ROWS,
    PRIOR_WEIGHT,
    ClimatologyFiller,
    _season_weights,
    pixel_seasons,
    season_kernel,
)
from stpipe.methods.pyramid import PyramidFiller
from tests.methods.scenes import block_input, crop_of


def years_of_fields(seed: int, *, years: int = 4, side: int = 48) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fields with a season each, every year the same, under weather; a cloud a frame; irregular dates."""
    rng = np.random.default_rng(seed)
    days = np.cumsum(rng.uniform(12, 20, 23 * years))
    phase = rng.uniform(0, 2, (side // 8, side // 8)).repeat(8, axis=0).repeat(8, axis=1)
    season = np.sin(2 * np.pi * days[:, None, None] / 365.25 + phase)
    weather = ndimage.gaussian_filter(rng.normal(size=season.shape), (0, 12, 12))
    clouds = ndimage.gaussian_filter(rng.normal(size=season.shape), (0, 8, 8))
    return season + 0.3 * weather / weather.std(), clouds < np.quantile(clouds, 0.4), days


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 8), st.integers(1, 110), st.integers(1, 110)),
    size=st.integers(8, 60),
    share_valid=st.floats(0, 1),
    step_days=st.sampled_from([40.0, 180.0, 365.0]),
)
def test_blocks_give_what_the_whole_scene_gives(
    seed: int, shape: tuple[int, int, int], size: int, share_valid: float, step_days: float
) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=shape) + rng.normal(size=shape[1:])).astype(np.float32)
    valid = rng.random(shape) < share_valid
    valid[:, shape[1] // 4 : shape[1] // 2] &= rng.random() < 0.5
    days = np.cumsum(rng.uniform(0.8, 1.2, size=shape[0])) * step_days
    filler = ClimatologyFiller()
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
    rng = np.random.default_rng(seed)
    valid = rng.random((6, 20, 30)) < 0.3
    valid[0, 0, 0] = True
    values, days = rng.normal(size=valid.shape), 180.0 * np.arange(6)
    plain = fill_crop(ClimatologyFiller(), crop_of(values, valid, days)).values
    other = fill_crop(ClimatologyFiller(), crop_of(scale * values + shift, valid, days)).values
    np.testing.assert_allclose(other, scale * plain + shift, rtol=0, atol=1e-4 * (scale + abs(shift)))


@given(st.lists(st.floats(0.5, 300), min_size=1, max_size=12))
def test_a_date_is_told_by_its_season_in_other_years_alone(steps: list[float]) -> None:
    """Against a loop over pairs of dates; leaving out all that is nearer than half a year."""
    days = np.cumsum(steps)
    kernel = season_kernel(days).toarray()
    for here, there in np.ndindex(kernel.shape):
        apart = abs(days[there] - days[here])
        in_season = min(apart % 365.25, 365.25 - apart % 365.25)
        expected = 0.0
        if apart > 365.25 / 2:
            for reach, weight in ((32, 1.0), (64, 0.2)):
                expected += weight * (1 - (in_season / reach) ** 3) ** 3 if in_season < reach else 0.0
        assert kernel[here, there] == pytest.approx(expected, abs=1e-9)


def test_a_long_series_has_the_weights_of_one_piece() -> None:
    days = np.cumsum(np.random.default_rng(0).uniform(1, 20, 3 * KERNEL_ROWS + 7))
    kernel = season_kernel(days)
    assert kernel.has_canonical_format
    np.testing.assert_array_equal(kernel.toarray(), _season_weights(days, days))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_seasons_of_pixels_are_those_of_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (7, 3, 4)
    values, expected = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    valid, days = rng.random(shape) < 0.5, np.cumsum(rng.uniform(20, 300, 7))
    block = block_input(values, valid, days, Window.of(shape))
    kernel = season_kernel(days)
    season, unseen = pixel_seasons(block, expected, kernel)
    weights = kernel.toarray()
    for t, y, x in np.ndindex(shape):
        others = [s for s in range(7) if valid[s, y, x] and weights[t, s] > 0]
        weight = sum(weights[t, s] for s in others)
        total = sum(weights[t, s] * float(values[s, y, x] - expected[s, y, x]) for s in others)
        assert season[t, y, x] == pytest.approx(total / (weight + PRIOR_WEIGHT), abs=1e-5)
        assert unseen[t, y, x] == (not others)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_season_that_comes_back_is_known_under_clouds(seed: int) -> None:
    truth, valid, days = years_of_fields(seed)
    crop = crop_of(truth, valid, days)
    errors = [
        np.abs(fill_crop(filler, crop).values - truth)[~valid].mean()
        for filler in (ClimatologyFiller(), AnomalyFiller(), PyramidFiller())
    ]
    assert errors[0] < 0.8 * min(errors[1:])


def test_a_frame_keeps_its_own_offset() -> None:
    """One date of a scene is brighter by 3 than in all other years, and half of it is hidden."""
    truth, _, days = years_of_fields(2)
    truth[40] += 3
    valid = np.ones(truth.shape, dtype=bool)
    valid[40, :, 24:] = False
    filled = fill_crop(ClimatologyFiller(), crop_of(truth, valid, days)).values[40]
    assert abs((filled - truth[40])[:, 24:].mean()) < 1


def test_a_cube_within_a_year_is_left_to_the_anomalies() -> None:
    rng = np.random.default_rng(4)
    values, valid = rng.normal(size=(9, 24, 24)), rng.random((9, 24, 24)) < 0.5
    crop = crop_of(values, valid, 20.0 * np.arange(9))
    made, anomaly = fill_crop(ClimatologyFiller(), crop), fill_crop(AnomalyFiller(), crop)
    np.testing.assert_array_equal(made.values, anomaly.values)
    np.testing.assert_array_equal(made.half_width, anomaly.half_width)
    assert made.fallback.all()


def test_pixels_not_seen_in_season_are_marked_and_answered() -> None:
    truth, valid, days = years_of_fields(6)
    valid[:, 10:14, 10:14] = False
    made = fill_crop(ClimatologyFiller(), crop_of(truth, valid, days))
    assert made.fallback[:, 10:14, 10:14].all()
    assert np.isfinite(made.values).all()
    assert np.abs(made.values - truth)[:, 10:14, 10:14].mean() < 0.5
