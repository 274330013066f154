"""Smoothing in time against a slow loop and a singular value decomposition; sums of tiles are the scene's."""

from __future__ import annotations

import io
from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpipe.errors import OptionError, ScratchError, ShapeError
from stpipe.methods.sar.smoothing import Components, Moments, smooth

seeds = st.integers(0, 2**32 - 1)
FIELDS = ("pixels", "count", "total", "products", "cross", "pairs")


def predictions(seed: int, *, frames: int = 7, pixels: int = 60, gaps: float = 0.3) -> NDArray[np.float32]:
    """Seasons and noise, NaN scattered, in whole frames and in whole pixels."""
    rng = np.random.default_rng(seed)
    series = rng.standard_normal((frames, 2)) @ rng.standard_normal((2, pixels)) + rng.standard_normal((frames, 1))
    series += 0.2 * rng.standard_normal(series.shape)
    if gaps:
        series[rng.random(series.shape) < gaps] = np.nan
        series[rng.random(frames) < gaps] = np.nan
        series[:, rng.random(pixels) < gaps] = np.nan
    return series.astype(np.float32)


def imputed(series: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The frames' means, zero where there is none, and the deviations from them, zero where missing; by a loop."""
    mean, deviations = np.zeros(len(series)), np.zeros(series.shape)
    for t, frame in enumerate(series.astype(np.float64)):
        there = ~np.isnan(frame)
        if there.any():
            mean[t] = frame[there].mean()
        deviations[t, there] = frame[there] - mean[t]
    return mean, deviations


@given(seed=seeds, gaps=st.sampled_from([0.0, 0.05, 0.4, 0.8]), block=st.sampled_from([1, 100, 2**20]))
@settings(max_examples=40)
def test_mean_and_covariance_are_those_of_a_loop_that_puts_means_in_gaps(seed: int, gaps: float, block: int) -> None:
    series = predictions(seed, gaps=gaps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stpipe.methods.sar.smoothing.SUMMED_SAMPLES", block)
        moments = Moments.of(series)
    mean, deviations = imputed(series)
    empty = np.isnan(series).all(axis=1)
    pixels = int((~np.isnan(series)).any(axis=0).sum())
    assert moments.pixels == pixels
    np.testing.assert_array_equal(np.isnan(moments.mean), empty)
    np.testing.assert_allclose(moments.mean[~empty], mean[~empty], atol=1e-12)
    covariance = moments.covariance
    np.testing.assert_allclose(covariance, deviations @ deviations.T / max(pixels, 1), atol=1e-12)
    np.testing.assert_array_equal(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12
    assert not covariance[empty].any()


@given(seed=seeds, cuts=st.lists(st.integers(0, 60), max_size=4), gaps=st.sampled_from([0.0, 0.3]))
@settings(max_examples=40)
def test_sums_of_tiles_are_the_sums_of_the_scene(seed: int, cuts: list[int], gaps: float) -> None:
    series = predictions(seed, gaps=gaps)
    borders = [0, *sorted(cuts), series.shape[1]]
    tiles = [Moments.of(series[:, a:b]) for a, b in pairwise(borders)]
    whole = Moments.of(series)
    for order in (tiles, tiles[::-1]):
        summed = reduce(add, order)
        for name in FIELDS:
            np.testing.assert_allclose(getattr(summed, name), getattr(whole, name), rtol=1e-12, atol=1e-11)


@given(seed=seeds, gaps=st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=20)
def test_sums_come_back_from_a_file_to_the_last_bit(seed: int, gaps: float) -> None:
    moments = Moments.of(predictions(seed, gaps=gaps)) + Moments.of(predictions(seed + 1, gaps=gaps))
    file = io.BytesIO()
    np.savez(file, **moments.arrays())
    file.seek(0)
    with np.load(file) as arrays:
        back = Moments.from_arrays(arrays)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(back, name), getattr(moments, name))


@given(seed=seeds, share=st.floats(0.05, 1))
@settings(max_examples=30)
def test_complete_predictions_are_smoothed_as_a_singular_value_decomposition_does(seed: int, share: float) -> None:
    series = predictions(seed, gaps=0.0)
    components = Components.of(Moments.of(series), share=share, explained=None)
    kept = max(1, int(np.ceil(share * 7)))
    mean = series.mean(axis=1, dtype=np.float64, keepdims=True)
    patterns, sizes, scores = np.linalg.svd(series - mean, full_matrices=False)
    truncated = mean + (patterns[:, :kept] * sizes[:kept]) @ scores[:kept]
    np.testing.assert_allclose(smooth(components, series), truncated, atol=2e-5)
    np.testing.assert_allclose(components.explained, (sizes**2 / (sizes**2).sum())[:kept], atol=1e-9)
    np.testing.assert_allclose(components.vectors @ components.vectors.T, np.eye(kept), atol=1e-12)


@given(seed=seeds, share=st.sampled_from([0.2, 0.6]), block=st.sampled_from([1, 50, 2**20]))
@settings(max_examples=30)
def test_a_missing_prediction_counts_as_the_mean_and_stays_missing(seed: int, share: float, block: int) -> None:
    series = predictions(seed)
    components = Components.of(Moments.of(series), share=share, explained=None)
    mean, deviations = imputed(series)
    expected = np.full(series.shape, np.nan)
    for pixel in range(series.shape[1]):
        projected = mean.copy()
        for vector in components.vectors:
            projected += (vector @ deviations[:, pixel]) * vector
        there = ~np.isnan(series[:, pixel])
        expected[there, pixel] = projected[there]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stpipe.methods.sar.smoothing.SMOOTHED_SAMPLES", block)
        smoothed = smooth(components, series)
    assert smoothed.dtype == np.float32
    # At most 3.3 steps of float32 at the largest number that is summed, over 6000 draws.
    steps = float(np.spacing(np.float32(np.abs(mean).max() + np.abs(deviations).max())))
    np.testing.assert_allclose(smoothed, expected, rtol=0, atol=8 * steps)


@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_all_components_change_nothing(gaps: float) -> None:
    series = predictions(5, gaps=gaps)
    components = Components.of(Moments.of(series), share=1.0, explained=None)
    np.testing.assert_allclose(smooth(components, series), series, atol=1e-6)


def test_smoothing_drops_noise_and_keeps_what_pixels_share() -> None:
    rng = np.random.default_rng(3)
    truth = rng.standard_normal((40, 2)) @ rng.standard_normal((2, 3000))
    noisy = (truth + 0.5 * rng.standard_normal(truth.shape)).astype(np.float32)
    components = Components.of(Moments.of(noisy), share=0.05, explained=None)
    assert len(components.vectors) == 2
    # Of the noise only what lies along two of forty directions is left.
    left = np.sqrt(np.mean((smooth(components, noisy) - truth) ** 2))
    assert left == pytest.approx(0.5 * np.sqrt(2 / 40), rel=0.1)


@given(seed=seeds, explained=st.floats(0.01, 1))
@settings(max_examples=30)
def test_the_fewest_components_are_kept_that_explain_enough(seed: int, explained: float) -> None:
    moments = Moments.of(predictions(seed))
    components = Components.of(moments, share=None, explained=explained)
    if moments.pixels < 2:
        return
    assert components.explained.sum() >= explained - 1e-8
    assert components.explained[:-1].sum() < explained
    assert (np.diff(components.explained) <= 1e-12).all()


def test_a_share_of_the_frames_is_rounded_up_but_for_rounding() -> None:
    moments = Moments.of(predictions(0, frames=30, pixels=100, gaps=0.0))
    kept = [len(Components.of(moments, share=share, explained=None).vectors) for share in (0.001, 0.1, 0.101, 1.0)]
    assert kept == [1, 3, 4, 30]


def test_frames_without_predictions_count_for_nothing_and_come_back_as_they_are() -> None:
    series = predictions(1, gaps=0.0)
    series[2] = np.nan
    moments = Moments.of(series)
    components = Components.of(moments, share=0.5, explained=None)
    assert len(components.vectors) == 3  # of six frames
    assert not components.vectors[:, 2].any()
    other = series.copy()
    other[2] = 7
    smoothed = smooth(components, other)
    assert (smoothed[2] == 7).all()
    np.testing.assert_array_equal(np.delete(smoothed, 2, 0), np.delete(smooth(components, series), 2, 0))


def test_signs_follow_from_the_vectors_and_not_from_the_library() -> None:
    for seed in range(20):
        vectors = Components.of(Moments.of(predictions(seed)), share=1.0, explained=None).vectors
        largest = np.abs(vectors).argmax(axis=1)
        assert (vectors[np.arange(len(vectors)), largest] > 0).all()


def test_nothing_at_all_stays_nothing() -> None:
    series = np.full((3, 4), np.nan, dtype=np.float32)
    components = Components.of(Moments.of(series), share=0.5, explained=None)
    assert components.vectors.shape == (0, 3)
    assert np.isnan(smooth(components, series)).all()
    assert Moments.of(series[:, :0]).pixels == 0


def test_predictions_that_never_vary_keep_one_component_and_their_values() -> None:
    series = np.repeat(np.array([[1], [4]], dtype=np.float32), 5, axis=1)
    for share, explained in ((0.5, None), (None, 0.9)):
        components = Components.of(Moments.of(series), share=share, explained=explained)
        assert components.explained.tolist() == [0.0]
        np.testing.assert_array_equal(smooth(components, series), series)


def test_what_cannot_be_is_refused() -> None:
    moments = Moments.of(predictions(0))
    with pytest.raises(OptionError, match=r"give one, got share=None, explained=None"):
        Components.of(moments, share=None, explained=None)
    with pytest.raises(OptionError, match=r"give one, got share=0.1, explained=0.9"):
        Components.of(moments, share=0.1, explained=0.9)
    with pytest.raises(OptionError, match=r"share of the components must be above 0 and at most 1, got 0"):
        Components.of(moments, share=0, explained=None)
    with pytest.raises(OptionError, match=r"explained of the components .* got 1.5"):
        Components.of(moments, share=None, explained=1.5)
    with pytest.raises(ShapeError, match=r"sums of 7 and of 3 frames"):
        moments + Moments.of(predictions(0, frames=3))
    with pytest.raises(ShapeError, match=r"components of 7 frames can't smooth 3"):
        smooth(Components.of(moments, share=0.5, explained=None), predictions(0, frames=3))
    with pytest.raises(ScratchError, match=r"the arrays \['count'\] are no sums of predictions"):
        Moments.from_arrays({"count": moments.count})
