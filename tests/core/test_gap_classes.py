"""Kinds of gap samples against loops over every sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.gap_classes import (
    AROUND,
    CLASS_COUNT,
    CLASS_PX,
    CLASS_STEPS,
    INTERVAL_COUNT,
    NO_GAP,
    REACH,
    REPORT_CLASSES,
    SURROUNDED,
    TIME_CLASSES,
    calibration_class,
    interval_class,
    report_classes,
    space_distance,
    time_distance,
)
from stpipe.core.timeline import median_step

cubes = st.tuples(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 9), st.integers(1, 30))


def random_valid(seed: int, *shape: int) -> np.ndarray:
    """Samples with holes of all sizes, empty frames and pixels among them."""
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) < rng.uniform(0.02, 0.98)
    if rng.random() < 0.5:
        valid[:, :, : rng.integers(0, shape[2])] = False
    valid[rng.random(shape[0]) < 0.3] = False
    return valid


def slow_space(frame: np.ndarray, y: int, x: int) -> float:
    spots = np.argwhere(frame)
    return float(np.sqrt(np.square(spots - [y, x]).sum(axis=1)).min()) if len(spots) else np.inf


def slow_time(valid: np.ndarray, days: np.ndarray, t: int, y: int, x: int) -> float:
    known = days[valid[:, y, x]]
    return float(np.abs(known - days[t]).min()) if known.size else np.inf


@settings(max_examples=40)
@given(cube=cubes, even=st.booleans())
def test_distances_and_calibration_classes_are_those_of_a_loop(cube: tuple[int, int, int, int], even: bool) -> None:
    seed, *shape = cube
    valid = random_valid(seed, *shape)
    rng = np.random.default_rng(seed)
    # Even steps of a third of a day are whole numbers of steps up to rounding alone.
    days = np.arange(shape[0]) / 3 if even else np.cumsum(rng.uniform(0.5, 9, shape[0]))
    step = median_step(days)
    space, time = space_distance(valid), time_distance(valid, days)
    classes = calibration_class(valid, days, step)
    for t, y, x in np.ndindex(*shape):
        near, since = slow_space(valid[t], y, x), slow_time(valid, days, t, y, x)
        assert space[t, y, x] == pytest.approx(near)
        assert time[t, y, x] == pytest.approx(since, abs=1e-5)
        bins = sum(near > limit for limit in CLASS_PX), sum(since > limit * step + 1e-7 for limit in CLASS_STEPS)
        empty = bins[0] == len(CLASS_PX) and not valid[t].any()
        assert classes[t, y, x] == TIME_CLASSES * (bins[0] + empty) + bins[1]
    assert classes.max() < CLASS_COUNT


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), left=st.integers(0, 60), width=st.integers(1, 30))
def test_a_calibration_class_depends_on_what_is_in_reach(seed: int, left: int, width: int) -> None:
    valid = random_valid(seed, 4, 6, 90)
    days = np.arange(4.0)
    whole = calibration_class(valid, days, 1.0)
    begin = max(0, left - REACH)
    shares = valid.sum(axis=(1, 2)) / max(1, valid.sum(axis=(1, 2)).max())
    part = calibration_class(valid[:, :, begin : left + width + REACH], days, 1.0, shares=shares)
    np.testing.assert_array_equal(part[:, :, left - begin :][:, :, :width], whole[:, :, left : left + width])


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), left=st.integers(0, 30), padding=st.integers(0, 4))
def test_classes_of_intervals_tell_speckle_by_counting(seed: int, left: int, padding: int) -> None:
    valid = random_valid(seed, 3, 9, 40)
    valid[:2] |= np.random.default_rng(seed).random(valid[:2].shape) < 0.8
    days = np.arange(3.0)
    usual, found = calibration_class(valid, days, 1.0), interval_class(valid, days, 1.0)
    for t, y, x in np.ndindex(*valid.shape):
        count = valid[t, max(0, y - AROUND) : y + AROUND + 1, max(0, x - AROUND) : x + AROUND + 1].sum()
        speckle = not valid[t, y, x] and count >= SURROUNDED
        assert found[t, y, x] == (CLASS_COUNT + usual[t, y, x] % TIME_CLASSES if speckle else usual[t, y, x])
    assert found.max() < INTERVAL_COUNT
    # What lies outside the cube is never observed, so that a block that reaches beyond it tells the same.
    shares = valid.sum(axis=(1, 2)) / max(1, valid.sum(axis=(1, 2)).max())
    begin = max(0, left - REACH)
    padded = np.pad(valid[:, :, begin:], ((0, 0), (padding, 0), (0, padding)))
    part = interval_class(padded, days, 1.0, shares=shares)[:, padding:, left - begin : 40 - begin]
    np.testing.assert_array_equal(part, found[:, :, left:])


def slow_report(valid: np.ndarray, inside: np.ndarray) -> np.ndarray:
    codes = np.full(valid.shape, NO_GAP)
    empty = [not (frame & inside).any() for frame in valid]
    for t, frame in enumerate(valid):
        gap = inside & ~frame
        seen = np.zeros_like(gap)
        for start in map(tuple, np.argwhere(gap)):
            if empty[t]:
                codes[t][start] = 4 if any(0 <= s < len(valid) and empty[s] for s in (t - 1, t + 1)) else 3
                continue
            if seen[start]:
                continue
            hole, waiting = [], [start]
            seen[start] = True
            while waiting:
                y, x = waiting.pop()
                hole.append((y, x))
                for i, j in np.ndindex(3, 3):
                    spot = (y + i - 1, x + j - 1)
                    if all(0 <= a < n for a, n in zip(spot, gap.shape, strict=True)) and gap[spot] and not seen[spot]:
                        seen[spot] = True
                        waiting.append(spot)
            far = [slow_space(frame, *spot) for spot in hole]
            for spot, distance in zip(hole, far, strict=True):
                codes[t][spot] = 0 if max(far) <= 2 else 1 if distance <= 4 else 2
    return codes


@settings(max_examples=30)
@given(cube=cubes, limited=st.booleans())
def test_kinds_in_reports_are_those_of_a_loop(cube: tuple[int, int, int, int], limited: bool) -> None:
    seed, *shape = cube
    inside = np.random.default_rng(seed).random(shape[1:]) < 0.8 if limited else np.ones(shape[1:], dtype=bool)
    valid = random_valid(seed, *shape) & inside
    found = report_classes(valid, domain=inside if limited else None)
    np.testing.assert_array_equal(found, slow_report(valid, inside))
    assert set(np.unique(found)) <= {*range(len(REPORT_CLASSES)), NO_GAP}
