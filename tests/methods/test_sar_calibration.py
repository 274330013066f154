"""Calibration against a plain loop over all values with NumPy's percentiles; sums of tiles are the scene's."""

from __future__ import annotations

import io
from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpipe.errors import OptionError, ScratchError, ShapeError
from stpipe.methods.sar.calibration import BINS, OBSERVED, PREDICTED, RANGE, Calibration, FrameSums, calibrate

seeds = st.integers(0, 2**32 - 1)
FIELDS = ("pixels", "clear", "number", "total")
BIN = 2 * RANGE / BINS
"""No error is as large as this; it is below the 0.005 spreads that were asked for."""


def field(rng: np.random.Generator, size: tuple[int, ...]) -> NDArray[np.float32]:
    """Values of one of some shapes that fields have: wide or narrow, skewed, of two modes, of few distinct values."""
    normal = rng.standard_normal(size)
    width, place = 10 ** rng.uniform(-3, 0.3), rng.uniform(-2, 2)
    shapes = [
        normal,
        rng.exponential(size=size),
        -rng.gamma(0.5, size=size),
        np.where(normal > 0.3, 3, -1) + normal / 4,
    ]
    return (place + width * shapes[rng.integers(4)]).clip(-7.9, 7.9).astype(np.float32)


def cube(
    seed: int, *, frames: int = 4, pixels: int = 300
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Predictions, some missing, and observations that they say something of, with where these are clear."""
    rng = np.random.default_rng(seed)
    observed = np.stack([field(rng, (pixels,)) for _ in range(frames)])
    predicted = (0.5 * observed + 0.3 * rng.standard_normal(observed.shape)).astype(np.float32)
    predicted[rng.random(observed.shape) < 0.1] = np.nan
    clear = rng.random(observed.shape) < rng.uniform(0.2, 1, (frames, 1))
    observed[~clear] = np.nan
    return predicted, observed, clear


def between(values: NDArray[np.float32], low: float, high: float) -> float:
    """The mean of the values between two percentiles, by asking each value."""
    exact = values.astype(np.float64)
    # The percentiles of NumPy are interpolated, and may miss by rounding the very value that they fall on.
    first, last = np.percentile(exact, [low, high])
    return float(exact[(exact >= first - 1e-12) & (exact <= last + 1e-12)].mean())


def published(
    predicted: NDArray[np.float32], observed: NDArray[np.float32], clear: NDArray[np.bool_], threshold: float
) -> NDArray[np.float64]:
    """Step 9 as it is described, one sample after the other."""
    answer = predicted.astype(np.float64)
    for t in range(len(predicted)):
        both = clear[t] & ~np.isnan(predicted[t])
        if (~clear[t]).mean() >= threshold or both.sum() < 12:
            continue
        (mean_obs, low_obs, high_obs), (mean_pred, low_pred, high_pred) = (
            (values.mean(dtype=np.float64), between(values, 5, 15), between(values, 85, 95))
            for values in (observed[t, both], predicted[t, both])
        )
        for pixel in range(predicted.shape[1]):
            d = float(predicted[t, pixel]) - mean_pred
            if d >= 0:
                answer[t, pixel] = d / (high_pred - mean_pred) * (high_obs - mean_obs) + mean_obs
            else:
                answer[t, pixel] = d / (low_pred - mean_pred) * (low_obs - mean_obs) + mean_obs
    return answer


@given(seed=seeds, size=st.integers(11, 3000), interval=st.sampled_from([(5, 15), (85, 95), (0, 100), (40, 60)]))
@settings(max_examples=80)
def test_interval_means_are_those_of_numpys_percentiles(seed: int, size: int, interval: tuple[int, int]) -> None:
    # Each value once: of a run of equal ones that a percentile falls into, one takes all and the other a part.
    values = np.unique(field(np.random.default_rng(seed), (size,)))
    assume(values.size > 10)
    sums = FrameSums.of(values[None], values[None], np.ones((1, values.size), dtype=bool))
    assert BIN < 0.005
    np.testing.assert_allclose(sums.interval_mean(*interval)[:, 0], between(values, *interval), atol=BIN)
    np.testing.assert_allclose(sums.mean[:, 0], values.mean(dtype=np.float64), atol=1e-12)


def test_interval_means_of_a_wide_field_are_far_better_than_a_bin() -> None:
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    sums = FrameSums.of(values[None], values[None], np.ones((1, values.size), dtype=bool))
    for interval in ((5, 15), (85, 95)):
        assert sums.interval_mean(*interval)[0, 0] == pytest.approx(between(values, *interval), abs=1e-5)


@pytest.mark.parametrize("size", range(1, 12))
def test_the_interval_of_a_few_values_is_the_one_nearest_to_its_middle(size: int) -> None:
    values = np.arange(size, dtype=np.float32)[None] / 2
    sums = FrameSums.of(values, values, values >= 0)
    place = sums.interval_mean(5, 15)[0, 0] * 2
    assert abs(place - (size - 1) / 10) <= 0.5


def test_values_beyond_the_bins_keep_their_mean() -> None:
    values = np.array([[-100, -20, 0, 30, 50]], dtype=np.float32)
    sums = FrameSums.of(values, values, np.ones((1, 5), dtype=bool))
    assert sums.number[:, 0, [0, BINS // 2, -1]].tolist() == [[2, 1, 2]] * 2
    np.testing.assert_allclose(sums.mean, -8)
    np.testing.assert_allclose(sums.interval_mean(0, 100), -8)
    np.testing.assert_allclose(sums.interval_mean(75, 100), 40)


@given(seed=seeds, threshold=st.sampled_from([0.3, 0.6, 1.0]))
@settings(max_examples=25)
def test_calibration_is_what_a_loop_over_all_values_makes_of_it(seed: int, threshold: float) -> None:
    predicted, observed, clear = cube(seed, frames=3, pixels=200)
    calibration = Calibration.of(FrameSums.of(predicted, observed, clear), least_clear=12, cloud_threshold=threshold)
    found, expected = calibrate(calibration, predicted), published(predicted, observed, clear, threshold)
    # An error of a bin in each end of the ranges, which are at least 0.2, tells as much more far from the mean.
    np.testing.assert_allclose(found, expected, atol=0.01, rtol=0.06)
    assert found.dtype == np.float32


@given(seed=seeds, a=st.floats(-1, 1), b=st.floats(0.1, 1.5))
@settings(max_examples=30)
def test_a_shifted_and_shrunken_observation_comes_back(seed: int, a: float, b: float) -> None:
    rng = np.random.default_rng(seed)
    observed = rng.normal(rng.uniform(-1, 1), rng.uniform(0.5, 1.5), (2, 2000)).astype(np.float32)
    predicted = (a + b * observed).astype(np.float32)
    clear = rng.random(observed.shape) < 0.5
    sums = FrameSums.of(predicted, np.where(clear, observed, np.float32(9)), clear)
    calibration = Calibration.of(sums, least_clear=50, cloud_threshold=0.9)
    assert calibration.calibrated.all()
    np.testing.assert_allclose(calibration.below * b, 1, atol=0.01)
    np.testing.assert_allclose(calibration.above * b, 1, atol=0.01)
    np.testing.assert_allclose(calibrate(calibration, predicted), observed, atol=0.05)


@given(seed=seeds, cuts=st.lists(st.integers(0, 300), max_size=3))
@settings(max_examples=15, deadline=None)
def test_sums_of_tiles_are_the_sums_of_the_scene(seed: int, cuts: list[int]) -> None:
    predicted, observed, clear = cube(seed)
    inside = np.random.default_rng(seed).random(300) < 0.8
    borders = [0, *sorted(cuts), 300]
    tiles = [
        FrameSums.of(predicted[:, a:b], observed[:, a:b], clear[:, a:b], inside[a:b]) for a, b in pairwise(borders)
    ]
    whole = FrameSums.of(predicted, observed, clear, inside)
    for order in (tiles, tiles[::-1]):
        summed = reduce(add, order)
        assert (summed.pixels, summed.clear.tolist()) == (whole.pixels, whole.clear.tolist())
        np.testing.assert_array_equal(summed.number, whole.number)
        np.testing.assert_allclose(summed.total, whole.total, atol=1e-10)


def test_sums_come_back_from_a_file_to_the_last_bit_and_empty_bins_take_no_room() -> None:
    sums = FrameSums.of(*cube(7))
    file = io.BytesIO()
    np.savez(file, **sums.arrays())
    assert len(file.getvalue()) < 0.2 * (sums.number.nbytes + sums.total.nbytes)
    file.seek(0)
    with np.load(file) as arrays:
        back = FrameSums.from_arrays(arrays)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(back, name), getattr(sums, name))
    assert back.number.dtype == np.int64


def test_only_clear_pixels_of_the_domain_with_a_prediction_are_compared() -> None:
    predicted, observed, clear = cube(11)
    rng = np.random.default_rng(0)
    inside = rng.random(300) < 0.5
    sums = FrameSums.of(predicted, observed, clear, inside)
    both = clear & inside & ~np.isnan(predicted)
    assert sums.pixels == inside.sum()
    np.testing.assert_array_equal(sums.clear, (clear & inside).sum(axis=1))
    np.testing.assert_array_equal(sums.count, both.sum(axis=1))
    np.testing.assert_allclose(sums.cloud_share, 1 - clear[:, inside].mean(axis=1), atol=1e-12)
    for kind, values in ((OBSERVED, observed), (PREDICTED, predicted)):
        expected = [values[t, both[t]].mean(dtype=np.float64) for t in range(4)]
        np.testing.assert_allclose(sums.mean[kind], expected, atol=1e-10)


def test_frames_under_cloud_or_with_few_pairs_come_back_bit_for_bit() -> None:
    rng = np.random.default_rng(2)
    observed = rng.standard_normal((5, 100)).astype(np.float32)
    predicted = (observed / 3 + 1).astype(np.float32)
    predicted[4, 8:] = np.nan
    clear = np.ones(observed.shape, dtype=bool)
    clear[0] = False
    clear[1, 40:] = False  # cloud share at the threshold
    clear[2, 41:] = False  # and just below it
    calibration = Calibration.of(FrameSums.of(predicted, observed, clear), least_clear=9, cloud_threshold=0.6)
    assert calibration.calibrated.tolist() == [False, False, True, True, False]
    found = calibrate(calibration, predicted)
    for t in (0, 1, 4):
        np.testing.assert_array_equal(found[t].view(np.uint32), predicted[t].view(np.uint32))
    assert np.abs(found[3] - predicted[3]).max() > 0.5
    lenient = Calibration.of(FrameSums.of(predicted, observed, clear), least_clear=0, cloud_threshold=1.0)
    assert lenient.calibrated.tolist() == [False, True, True, True, True]


def test_a_clear_frame_without_a_prediction_is_left_alone() -> None:
    observed = np.ones((1, 50), dtype=np.float32)
    predicted = np.full_like(observed, np.nan)
    sums = FrameSums.of(predicted, observed, observed > 0)
    assert np.isnan(sums.mean).all()
    assert np.isnan(sums.interval_mean(5, 15)).all()
    calibration = Calibration.of(sums, least_clear=0, cloud_threshold=1.0)
    assert not calibration.calibrated.any()
    np.testing.assert_array_equal(calibrate(calibration, observed), observed)


def test_a_prediction_without_width_is_shifted_and_not_stretched() -> None:
    rng = np.random.default_rng(4)
    observed = rng.standard_normal((1, 500)).astype(np.float32)
    for width in (0.0, 1e-4):
        predicted = (0.25 + width * rng.standard_normal((1, 500))).astype(np.float32)
        sums = FrameSums.of(predicted, observed, np.ones((1, 500), dtype=bool))
        calibration = Calibration.of(sums, least_clear=10, cloud_threshold=1.0)
        assert (calibration.below[0], calibration.above[0]) == (1, 1)
        shift = observed.mean() - predicted.mean()
        np.testing.assert_allclose(calibrate(calibration, predicted), predicted + shift, atol=1e-6)


def test_predictions_never_change_their_order() -> None:
    rng = np.random.default_rng(5)
    # A few very low values pull the mean below the low end of the observations, or of the predictions.
    skewed = np.where(np.arange(1000) < 30, -7, 0.1 * rng.standard_normal(1000)).astype(np.float32)[None]
    plain = np.sort(rng.standard_normal((1, 1000)).astype(np.float32))
    for observed, predicted in ((skewed, plain), (plain, skewed)):
        sums = FrameSums.of(predicted, observed, np.ones((1, 1000), dtype=bool))
        kind = OBSERVED if observed is skewed else PREDICTED
        assert sums.mean[kind, 0] < sums.interval_mean(5, 15)[kind, 0]
        calibration = Calibration.of(sums, least_clear=10, cloud_threshold=1.0)
        assert calibration.below[0] == (0 if observed is skewed else 1)
        found = calibrate(calibration, predicted)
        assert (np.diff(found[0, np.argsort(predicted[0], kind="stable")]) >= 0).all()


def test_one_pixel_does_not_hear_another() -> None:
    predicted, observed, clear = cube(9)
    calibration = Calibration.of(FrameSums.of(predicted, observed, clear), least_clear=10, cloud_threshold=0.9)
    whole = calibrate(calibration, predicted)
    np.testing.assert_array_equal(whole[:, 100:151], calibrate(calibration, predicted[:, 100:151]))
    np.testing.assert_array_equal(np.isnan(whole), np.isnan(predicted))


def test_what_cannot_be_is_refused() -> None:
    predicted, observed, clear = cube(0)
    sums = FrameSums.of(predicted, observed, clear)
    with pytest.raises(ShapeError, match=r"predictions \(4, 300\), observations \(3, 300\)"):
        FrameSums.of(predicted, observed[1:], clear)
    with pytest.raises(ShapeError, match=r"one value for each of 300 pixels, got \(4,\)"):
        FrameSums.of(predicted, observed, clear, np.ones(4, dtype=bool))
    with pytest.raises(ShapeError, match=r"sums of 4 and of 3 frames"):
        sums + FrameSums.of(predicted[1:], observed[1:], clear[1:])
    with pytest.raises(ScratchError, match=r"the arrays \['clear', 'pixels'\] are no sums of a calibration"):
        FrameSums.from_arrays({"pixels": np.array(1), "clear": sums.clear})
    with pytest.raises(OptionError, match=r"cloud_threshold is a share of the domain, 0 to 1, got 60"):
        Calibration.of(sums, least_clear=10, cloud_threshold=60)
    calibration = Calibration.of(sums, least_clear=10, cloud_threshold=0.6)
    with pytest.raises(ShapeError, match=r"a calibration of 4 frames can't do 3"):
        calibrate(calibration, predicted[1:])
