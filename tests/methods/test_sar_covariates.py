"""Composites and covariates of radar against slow loops, and the same in whichever window they are asked for."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stpipe.errors import RefusedError, ShapeError
from stpipe.methods.sar import neighbourhoods as module
from stpipe.methods.sar.composites import EDGE_NOISE_DB, composite
from stpipe.methods.sar.covariates import HALO, covariate_names, covariates, scene_mean, scene_sums
from stpipe.methods.sar.neighbourhoods import RADIUS, focal_median, neighbourhood_mean

SEEDS = st.integers(0, 10_000)
GAPS = st.sampled_from([0.0, 0.02, 0.5, 1.0])
DATES = np.array([0.0, 3.0, 3.0, 9.5, 12.0, 24.0, 36.0, 60.0])
FRAMES = np.array([-12.0, 0.0, 12.0, 12.5, 15.0, 24.0, 90.0])


def backscatter(seed: int, shape: tuple[int, ...], gaps: float = 0.0) -> np.ndarray:
    """Speckled fields in dB, with a swath that ends in every other frame and some samples missing."""
    rng = np.random.default_rng(seed)
    values = (rng.normal(-14, 4, shape)).astype(np.float32)
    values[rng.random(shape) < gaps] = np.nan
    if gaps:
        y, x = np.ogrid[: shape[1], : shape[2]]
        values[::2, 3 * x + y > 2 * shape[2]] = np.nan
    return values


def slow_composite(samples: np.ndarray, power: bool, window: float) -> np.ndarray:
    made = np.full((FRAMES.size, *samples.shape[1:]), np.nan)
    for t, y, x in np.ndindex(made.shape):
        apart = DATES - FRAMES[t]
        inside = (apart >= -window) & (apart < window)
        found = samples[inside, y, x].astype(np.float64)
        found = found[np.isfinite(found) & (found > EDGE_NOISE_DB)]
        if found.size:
            made[t, y, x] = 10 * np.log10(np.mean(10 ** (found / 10))) if power else found.mean()
    return made


@given(seed=SEEDS, gaps=GAPS, window=st.sampled_from([0.0, 3.0, 12.0, 500.0]))
@settings(max_examples=15)
@pytest.mark.parametrize("power", [True, False], ids=["of power", "of dB"])
def test_composites_are_those_of_a_slow_loop(power: bool, seed: int, gaps: float, window: float) -> None:
    samples = backscatter(seed, (DATES.size, 4, 7), gaps)
    samples[1] -= 26  # much of it is edge noise
    samples[5, 0, :4] = np.nan, -np.inf, EDGE_NOISE_DB, np.inf
    given_ = samples.copy()
    made = composite(samples, DATES, FRAMES, window, power=power)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, slow_composite(samples, power, window), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(samples, given_)


@given(seed=SEEDS, y=st.integers(0, 9), x=st.integers(0, 29), gaps=GAPS)
@settings(max_examples=15)
@pytest.mark.parametrize("power", [True, False], ids=["of power", "of dB"])
def test_a_composite_is_the_same_in_every_window(power: bool, seed: int, y: int, x: int, gaps: float) -> None:
    samples = backscatter(seed, (DATES.size, 10, 47), gaps)
    whole = composite(samples, DATES, FRAMES, 12, power=power)
    part = composite(samples[:, y:, x:], DATES, FRAMES, 12, power=power)
    np.testing.assert_array_equal(part, whole[:, y:, x:])


def test_frames_need_no_order_and_each_is_by_itself() -> None:
    samples = backscatter(1, (DATES.size, 5, 6), 0.2)
    order = np.random.default_rng(0).permutation(FRAMES.size)
    whole = composite(samples, DATES, FRAMES, 12, power=True)
    np.testing.assert_array_equal(composite(samples, DATES, FRAMES[order], 12, power=True), whole[order])
    for t, day in enumerate(FRAMES):
        np.testing.assert_array_equal(
            composite(samples, DATES, FRAMES[t : t + 1], 12, power=True)[0], whole[t], str(day)
        )


@given(seed=SEEDS)
@settings(max_examples=5)
def test_the_mean_of_power_is_no_lower_than_that_of_db(seed: int) -> None:
    samples = backscatter(seed, (DATES.size, 6, 6), 0.3)
    of_power, of_db = (composite(samples, DATES, FRAMES, 12, power=power) for power in (True, False))
    np.testing.assert_array_equal(np.isnan(of_power), np.isnan(of_db))
    known = np.isfinite(of_db)
    assert (of_power[known] >= of_db[known] - 1e-5).all()
    assert (of_power[known] > of_db[known] + 1).any()


def test_numbers_that_are_no_backscatter_break_no_sum() -> None:
    samples = np.array([-12, 400, 3e38], dtype=np.float32).reshape(3, 1, 1)
    days = np.array([0.0, 1.0, 2.0])
    assert composite(samples, days, np.array([1.0]), 12, power=True).item() == pytest.approx(-12, abs=1e-5)
    assert composite(samples[:2], days[:2], np.array([1.0]), 12, power=False).item() == pytest.approx(194)


def test_without_a_date_there_is_nothing() -> None:
    made = composite(np.empty((0, 2, 3), dtype=np.float32), np.empty(0), FRAMES, 12, power=True)
    assert made.shape == (FRAMES.size, 2, 3)
    assert np.isnan(made).all()


def test_days_and_samples_that_do_not_fit_are_refused() -> None:
    samples = backscatter(0, (3, 2, 2))
    with pytest.raises(ShapeError, match="radar has 3 dates of samples, but 2 days"):
        composite(samples, np.arange(2.0), FRAMES, 12, power=True)
    with pytest.raises(RefusedError, match="the days of radar dates must ascend; sort the dates"):
        composite(samples, np.array([0.0, 2.0, 1.0]), FRAMES, 12, power=True)


@given(seed=SEEDS, y=st.integers(0, 9), x=st.integers(0, 12), gaps=GAPS)
@settings(max_examples=20)
def test_sums_of_tiles_are_the_sums_of_the_scene(seed: int, y: int, x: int, gaps: float) -> None:
    frames = backscatter(seed, (4, 9, 12), gaps)
    frames[2] = np.nan
    tiles = [frames[:, rows, columns] for rows in (slice(y), slice(y, None)) for columns in (slice(x), slice(x, None))]
    sums = sum((scene_sums(tile) for tile in tiles), start=np.zeros((2, 4)))
    np.testing.assert_allclose(sums, scene_sums(frames), rtol=1e-13)
    means = scene_mean(sums)
    assert means.dtype == np.float64
    for frame, mean in zip(frames, means, strict=True):
        found = frame[np.isfinite(frame)].astype(np.float64)
        np.testing.assert_allclose(mean, found.mean() if found.size else np.nan, rtol=1e-13)


def test_a_wide_scenes_mean_is_not_rounded_to_float32() -> None:
    frames = np.full((1, 1000, 1000), -12.3, dtype=np.float32)
    assert scene_mean(scene_sums(frames)).item() == pytest.approx(np.float64(np.float32(-12.3)), rel=1e-12)


def slow_neighbourhood_mean(frames: np.ndarray) -> np.ndarray:
    known = np.isfinite(frames)
    square = np.ones((1, 21, 21))
    total, count = (
        ndimage.correlate(part.astype(np.float64), square, mode="constant")
        for part in (np.where(known, frames, 0), known)
    )
    return np.where(known, total / np.maximum(count, 1), np.nan)


@given(seed=SEEDS, gaps=GAPS, height=st.integers(1, 45), width=st.integers(1, 45))
@settings(max_examples=30)
def test_neighbourhood_means_are_those_of_scipy(seed: int, gaps: float, height: int, width: int) -> None:
    frames = backscatter(seed, (3, height, width), gaps)
    made = neighbourhood_mean(frames)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, slow_neighbourhood_mean(frames), atol=1e-5, rtol=0)


def slow_median(frames: np.ndarray) -> np.ndarray:
    padded = np.pad(frames, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    made = np.full(frames.shape, np.nan)
    for t, y, x in np.argwhere(np.isfinite(frames)):
        made[t, y, x] = np.nanmedian(padded[t, y : y + 3, x : x + 3])
    return made


@given(
    seed=SEEDS, gaps=GAPS, height=st.integers(1, 12), width=st.integers(1, 12), strip=st.sampled_from([1, 30, 2**15])
)
@settings(max_examples=30)
def test_focal_medians_are_those_of_a_slow_loop(seed: int, gaps: float, height: int, width: int, strip: int) -> None:
    frames = backscatter(seed, (2, height, width), gaps)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "STRIP", strip)
        made = focal_median(frames)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, slow_median(frames), rtol=2e-7)


def test_complete_frames_have_scipys_medians_to_the_bit() -> None:
    frames = np.round(backscatter(5, (3, 200, 300)))  # with many ties
    inner = (slice(None), slice(1, -1), slice(1, -1))
    np.testing.assert_array_equal(focal_median(frames)[inner], ndimage.median_filter(frames, (1, 3, 3))[inner])


@given(
    seed=SEEDS,
    gaps=GAPS,
    y=st.tuples(st.integers(0, 39), st.integers(1, 40)),
    x=st.tuples(st.integers(0, 51), st.integers(1, 52)),
)
@settings(max_examples=25)
def test_covariates_of_a_part_are_those_of_the_scene(
    seed: int, gaps: float, y: tuple[int, int], x: tuple[int, int]
) -> None:
    scene, means = two_polarisations(seed, gaps)
    whole = covariates(scene, means, (slice(0, 40), slice(0, 52)))
    rows, columns = slice(y[0], max(y[0] + 1, y[1])), slice(x[0], max(x[0] + 1, x[1]))
    np.testing.assert_array_equal(covariates(scene, means, (rows, columns)), whole[:, :, rows, columns])
    # And of a window that a block reads: a halo around the part, as far as the scene goes.
    read = [slice(max(cut.start - HALO, 0), cut.stop + HALO) for cut in (rows, columns)]
    window = {name: frames[:, read[0], read[1]].copy() for name, frames in scene.items()}
    inner = (
        slice(rows.start - read[0].start, rows.stop - read[0].start),
        slice(columns.start - read[1].start, columns.stop - read[1].start),
    )
    np.testing.assert_array_equal(covariates(window, means, inner), whole[:, :, rows, columns])


def two_polarisations(
    seed: int, gaps: float, shape: tuple[int, int, int] = (3, 40, 52)
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    composites = {"VV": backscatter(seed, shape, gaps), "VH": backscatter(seed + 1, shape, gaps) - 6}
    return composites, {name: scene_mean(scene_sums(frames)) for name, frames in composites.items()}


@given(seed=SEEDS, gaps=GAPS)
@settings(max_examples=4)
def test_covariates_are_the_published_ones_one_after_the_other(seed: int, gaps: float) -> None:
    scene, means = two_polarisations(seed, gaps, (2, 24, 27))
    made = covariates(scene, means, (slice(0, 24), slice(0, 27)))
    assert made.dtype == np.float32
    assert made.shape == (8, 2, 24, 27)
    expected = {}
    for name, frames in scene.items():
        values = frames.astype(np.float64)
        constant = np.where(np.isnan(values), np.nan, means[name][:, None, None])
        around = slow_neighbourhood_mean(frames)
        for kind, image in (
            ("mean", constant),
            ("diff", values - constant),
            ("Nmean", around),
            ("Ndiff", values - around),
        ):
            expected[f"{name}_{kind}"] = slow_median(image)
    for name, answer in zip(covariate_names(scene), made, strict=True):
        np.testing.assert_allclose(answer, expected[name], atol=1e-5, rtol=0, err_msg=name)


def test_one_polarisation_says_nothing_of_where_the_other_is() -> None:
    scene, means = two_polarisations(3, 0.02)
    made = covariates(scene, means, (slice(5, 30), slice(5, 30)))
    for number, name in enumerate(scene):
        for kind in range(4):
            gap = np.isnan(scene[name][:, 5:30, 5:30])
            np.testing.assert_array_equal(np.isnan(made[2 * kind + number]), gap)
    alone = covariates({"VH": scene["VH"]}, means, (slice(5, 30), slice(5, 30)))
    np.testing.assert_array_equal(alone, made[1::2])


def test_composites_that_do_not_fit_are_refused() -> None:
    scene, means = two_polarisations(0, 0.0)
    everything = (slice(0, 40), slice(0, 52))
    with pytest.raises(ShapeError, match=r"composites must be of one shape, but are .*'VH': \(3, 39, 52\)"):
        covariates({**scene, "VH": scene["VH"][:, 1:]}, means, everything)
    with pytest.raises(ShapeError, match=r"composites must be of one shape, but are \{\}"):
        covariates({}, means, everything)
    with pytest.raises(ShapeError, match="VH has 3 composites, but 2 means of the scene"):
        covariates(scene, {**means, "VH": means["VH"][1:]}, everything)


def temporary(work: Callable[[], Any]) -> int:
    """Bytes that some work takes at its peak, besides what it returns."""
    work()
    tracemalloc.start()
    try:
        made = work()
        return tracemalloc.get_traced_memory()[1] - made.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("gaps", [0.0, 0.02], ids=["complete", "with gaps"])
def test_what_is_held_beside_the_result_grows_with_a_plane_and_not_with_time(gaps: float) -> None:
    frames = backscatter(0, (60, 64, 64), gaps)
    plane = frames[0].nbytes
    days = 6.0 * np.arange(60)  # four to a window
    assert temporary(lambda: composite(frames, days, days, 12, power=True)) < 8 * plane
    assert temporary(lambda: scene_sums(frames)) < 4 * plane
    padded = 4 * (64 + 2 * RADIUS) ** 2
    assert temporary(lambda: neighbourhood_mean(frames)) < 11 * padded
    assert temporary(lambda: focal_median(frames)) < 18 * plane
    inner = (slice(HALO, 64 - HALO), slice(HALO, 64 - HALO))
    assert temporary(lambda: covariates({"VV": frames}, {"VV": np.zeros(60)}, inner)) < 20 * padded


def test_a_window_is_half_open_whatever_the_time_of_day() -> None:
    rng = np.random.default_rng(0)
    second, days = np.timedelta64(1, "s"), np.timedelta64(12, "D")
    image = np.full((1, 1, 1), -9, dtype=np.float32)
    for _ in range(300):
        clock = np.datetime64("2024-01-01", "s") + rng.integers(0, 86400) * second
        frame = np.datetime64("2024-01-01", "s") + rng.integers(86400, 400 * 86400) * second
        first, last, own = ((when - clock) / np.timedelta64(1, "D") for when in (frame - days, frame + days, frame))
        for when, counts in ((first, True), (last, False)):
            made = composite(image, np.array([when]), np.array([own]), 12.0, power=True)
            assert bool(np.isfinite(made).all()) == counts
