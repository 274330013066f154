"""Laws of the intervals: they hold on data of the kind, in every class, whatever the scale says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.gap_classes import CLASS_COUNT, INTERVAL_COUNT, TIME_CLASSES
from stpipe.core.intervals import (
    ENOUGH,
    ENOUGH_GROUPS,
    Calibration,
    calibrate,
    conformal_quantile,
    likeness,
    unlearned_factor,
    widths,
)
from stpipe.errors import OptionError, ShapeError


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), coverage=st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_intervals_hold_in_every_class(seed: int, coverage: float) -> None:
    rng = np.random.default_rng(seed)
    count = 24_000

    def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        classes = rng.integers(0, INTERVAL_COUNT, count)
        scales = rng.uniform(0.1, 2, count)
        errors = rng.standard_t(4, count) * scales * (1 + classes)  # the scale is wrong, and more so in some classes
        scales[classes == 3] = np.nan
        return errors.astype(np.float32), scales.astype(np.float32), classes

    made = calibrate(*drawn(), coverage)
    errors, scales, classes = drawn()
    inside = np.abs(errors) <= widths(made, scales, classes)
    for number in range(INTERVAL_COUNT):
        share = inside[classes == number].mean()
        # Both the quantile and the share are of about 1300 samples.
        assert abs(share - coverage) < 5 * np.sqrt(2 * coverage * (1 - coverage) / (count / INTERVAL_COUNT))


@given(
    values=st.lists(st.floats(0, 1e6), min_size=1, max_size=60),
    coverage=st.floats(0.01, 0.99),
    extra=st.integers(0, 99),
)
def test_the_quantile_counts_its_own_rank_in(values: list[float], coverage: float, extra: int) -> None:
    ratios = np.array(values)
    found = conformal_quantile(ratios, coverage)
    ranked = sorted(values)
    enough = [value for i, value in enumerate(ranked, start=1) if i + 1e-6 >= coverage * (len(values) + 1)]
    assert found == (enough[0] if enough else ranked[-1])
    assert conformal_quantile(np.random.default_rng(extra).permutation(ratios), coverage) == found


@given(
    pairs=st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 5)), min_size=1, max_size=30),
    coverage=st.floats(0.01, 0.99),
)
def test_a_weight_counts_as_so_many_alike(pairs: list[tuple[float, int]], coverage: float) -> None:
    values, counts = (np.array(column) for column in zip(*pairs, strict=True))
    found = conformal_quantile(values, coverage, counts.astype(np.float64))
    share = (counts[values <= found].sum()) / (counts.sum() + counts.mean())
    below = (counts[values < found].sum()) / (counts.sum() + counts.mean())
    assert below < coverage + 1e-9
    assert share > coverage - 1e-9 or found == values.max()
    same = conformal_quantile(values, coverage, np.full(values.size, 3.0))
    assert same == conformal_quantile(values, coverage)


def test_classes_borrow_from_samples_as_they_are_in_the_gaps_to_fill() -> None:
    rng = np.random.default_rng(4)
    classes = np.repeat([0, CLASS_COUNT - 1], [1000, 9000])
    errors = rng.standard_normal(10_000) * np.where(classes == 0, 1.0, 5.0)
    scales, wanted = np.ones(10_000), np.zeros(INTERVAL_COUNT, dtype=int)
    wanted[[0, TIME_CLASSES]] = 500, 500  # nothing to learn from for the second of them
    without, weighted = (calibrate(errors, scales, classes, 0.9, wanted=given) for given in (None, wanted))
    assert weighted.factors[TIME_CLASSES] < 0.95 * without.factors[TIME_CLASSES]
    for number in (0, CLASS_COUNT - 1):  # what stands for itself stays
        assert weighted.factors[number] == pytest.approx(without.factors[number], rel=1e-3)
    none = calibrate(errors, scales, classes, 0.9, wanted=np.zeros(INTERVAL_COUNT, dtype=int))
    assert none == without


def test_frames_that_are_wrong_together_count_as_few() -> None:
    """The next frame is inside as often as asked for, though all samples of a frame have one error."""
    rng = np.random.default_rng(0)
    alone, together = [], []
    for _ in range(600):
        level = np.exp(rng.normal(size=14))
        errors = np.repeat(level[:-1], 50) * rng.uniform(0.9, 1.1, 650)
        fresh = level[-1] * rng.uniform(0.9, 1.1, 50)
        classes, frames = np.zeros(650, dtype=int), np.repeat(np.arange(13), 50)
        for found, groups in ((alone, None), (together, frames)):
            made = calibrate(errors, np.ones(650), classes, 0.9, groups=groups)
            found.append(np.mean(fresh <= made.factors[0]))
    assert np.mean(alone) < 0.88
    assert 0.88 < np.mean(together) < 0.95


def test_likeness_is_none_of_independent_samples_and_all_of_copies() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(400), 100)
    number, alike = likeness(rng.random(groups.size), groups, 0.9)
    assert number == pytest.approx(400)
    assert alike < 0.03
    _, alike = likeness(np.repeat(rng.random(400), 100), groups, 0.9)
    assert alike > 0.95


def test_small_classes_borrow_from_their_neighbours() -> None:
    rng = np.random.default_rng(2)
    lone = np.array([5.0] * 50)
    many = rng.uniform(0, 1, 4000)
    errors = np.concatenate([lone, many])
    classes = np.concatenate([np.full(50, 1), np.full(4000, 0)])
    made = calibrate(errors, np.ones(errors.size), classes, 0.9)
    pooled = conformal_quantile(errors, 0.9)
    assert made.factors[1] == pytest.approx(50 / ENOUGH * 5.0 + (1 - 50 / ENOUGH) * pooled)
    assert made.factors[2] == pytest.approx(pooled)  # nothing of its own: that of its distance in space
    assert made.factors[TIME_CLASSES] == pytest.approx(pooled)  # nothing even there: that of all


def test_a_class_seen_in_one_frame_alone_borrows_too() -> None:
    rng = np.random.default_rng(3)
    errors = np.concatenate([np.full(400, 5.0), rng.uniform(0, 1, 8000)])
    classes = np.concatenate([np.full(400, 1), np.full(8000, 0)])
    frames = np.concatenate([np.full(400, 7), np.arange(8000) % 100])
    found = calibrate(errors, np.ones(errors.size), classes, 0.9, groups=frames).factors[1]
    pooled = conformal_quantile(errors, 0.9)
    assert found == pytest.approx(5.0 / ENOUGH_GROUPS + (1 - 1 / ENOUGH_GROUPS) * pooled, rel=0.03)


def test_speckle_stands_for_itself_and_borrows_from_the_rims_of_gaps() -> None:
    rng = np.random.default_rng(6)
    rim, core, speckle = rng.uniform(0, 2, 4000), rng.uniform(0, 9, 4000), rng.uniform(0, 1, 4000)
    errors = np.concatenate([rim, core, speckle])
    classes = np.repeat([0, CLASS_COUNT - 1, CLASS_COUNT], 4000)
    made = calibrate(errors, np.ones(errors.size), classes, 0.9).factors
    assert made[CLASS_COUNT] == pytest.approx(0.9, rel=0.03)
    assert made[0] == pytest.approx(1.8, rel=0.03)
    few = np.concatenate([np.arange(8000), [8000]])
    borrowed = calibrate(errors[few], np.ones(few.size), classes[few], 0.9).factors[CLASS_COUNT]
    assert borrowed == pytest.approx(made[0], rel=0.03)


def test_nothing_to_learn_from_leaves_the_scale_as_it_is() -> None:
    nothing = np.empty(0)
    made = calibrate(nothing, nothing, np.empty(0, dtype=int), 0.9)
    assert made.factors == pytest.approx([1.0] * INTERVAL_COUNT)
    unusable = calibrate(np.full(9, np.nan), np.ones(9), np.zeros(9, dtype=int), 0.8)
    assert unusable.factors == pytest.approx([unlearned_factor(0.8)] * INTERVAL_COUNT)
    assert sum(unusable.samples) == 0


def test_widths_are_float32_and_never_unknown() -> None:
    made = Calibration(coverage=0.9, factors=(2.0, 3.0), samples=(1, 1))
    found = widths(made, np.array([1, np.nan, 0], dtype=np.float32), np.array([0, 1, 1], dtype=np.uint8))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [2, 3, 3e-6], rtol=1e-6)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(OptionError, match=r"must lie between 0 and 1, such as 0\.9, got 1\.5"):
        calibrate(np.ones(3), np.ones(3), np.zeros(3, dtype=int), 1.5)
    with pytest.raises(ShapeError, match="errors, scales, classes and groups must have one shape"):
        calibrate(np.ones(3), np.ones(2), np.zeros(3, dtype=int), 0.9)
    with pytest.raises(ShapeError, match="one factor a class, got 2 and 1"):
        Calibration(coverage=0.9, factors=(1.0, 2.0), samples=(3,))
