"""What a user's guides are worth on a cube, found on artificial gaps of it; see `stpipe.methods.guided`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stpipe.core.crops import Crop
from stpipe.core.gaps import Purpose, draw_gaps, generator
from stpipe.core.timeline import median_step, neighbours
from stpipe.methods.evidence import compare
from stpipe.methods.guide_regression import FIRST_RIDGE, RIDGES, SMOOTHINGS, Lesson, Moments, prepared, regressed

F32 = NDArray[np.float32]

SHARE = (0.1, 0.25)
"""What each draw hides of the crops, least and most."""

DRAWS = 3
"""Draws of artificial gaps; the last has no say in what is chosen, and judges it."""

LEAST_SAMPLES = 200
"""With fewer hidden samples to judge by the guides are left out."""

LEAST_GAIN = 0.005
"""Guides that take a smaller share than this off the error of interpolation are left out."""

JITTER = 1e-6
"""Share of each guide's variance that is added to it: two that say the same can still be told apart."""


def learned(names: Sequence[str], crops: Sequence[Crop], seed: int) -> Lesson:
    """Return what artificial gaps of crops teach; weight 0 if the guides gain nothing on a draw set apart."""
    trials = [_Trial.of(crop, draw, number, seed) for draw in range(DRAWS) for number, crop in enumerate(crops)]
    mine, apart = trials[: -len(crops)], trials[-len(crops) :]
    if not any(set(names) & set(crop.guides) for crop in crops) or not any(trial.hidden.any() for trial in mine):
        return Lesson()
    chosen, least = Lesson(), float("inf")
    for smoothing in SMOOTHINGS:
        made = list(_fields_of(names, crops, smoothing))
        lesson = replace(_scene(crops, made), smoothing=smoothing, ridge=FIRST_RIDGE)
        found = _tried(mine, made, lesson)
        if found.error < least:
            chosen, least, fields = replace(lesson, weight=found.weight), found.error, made
    for ridge in RIDGES:
        lesson = replace(chosen, ridge=ridge)
        found = _tried(mine, fields, lesson)
        if found.error < least:
            chosen, least = replace(lesson, weight=found.weight), found.error
    before, after, frames = _judged(apart, fields, chosen)
    if before.size < LEAST_SAMPLES:
        return replace(chosen, weight=0.0, samples=int(before.size))
    errors = (float(before.mean(dtype=np.float64)), float(after.mean(dtype=np.float64)))
    helps = errors[1] < (1 - LEAST_GAIN) * errors[0] and compare(before, after, frames).holds(0.0)
    return replace(chosen, weight=chosen.weight if helps else 0.0, samples=int(before.size), errors=errors)


def _fields_of(
    names: Sequence[str], crops: Sequence[Crop], smoothing: tuple[int, float]
) -> Iterator[tuple[F32, NDArray[np.bool_]]]:
    """Give the guides of each crop."""
    for crop in crops:
        guides = crop.guides or {names[0]: np.full(crop.values.shape, np.nan, dtype=np.float32)}
        yield prepared(names, guides, crop.days, median_step(crop.days), smoothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """A crop with a part hidden, and what interpolation says of that."""

    number: int
    """Which crop it is."""

    crop: Crop
    """The whole of it."""

    hidden: NDArray[np.bool_]
    """(t, y, x), what is to be predicted."""

    linear: F32
    """(sample,), the answers of interpolation, NaN where there is none."""

    @classmethod
    def of(cls, crop: Crop, draw: int, number: int, seed: int) -> _Trial:
        """Hide a part of a crop."""
        rng = generator(Purpose.GUIDED, seed, draw, number)
        hidden = draw_gaps(crop.valid, rng, domain=crop.domain, share=SHARE)
        left = crop.valid & ~hidden
        around = neighbours(crop.values, left, crop.days, median_step(crop.days))
        return cls(number=number, crop=crop, hidden=hidden, linear=around.linear[hidden])


@dataclass(frozen=True, slots=True)
class _Found:
    """How a lesson did on trials."""

    weight: float
    """The best one."""

    error: float
    """Mean absolute error with it."""


def _answers(
    trials: Sequence[_Trial], made: Sequence[tuple[F32, NDArray[np.bool_]]], lesson: Lesson
) -> Iterator[tuple[F32, F32, NDArray[np.intp]]]:
    """Give what interpolation misses of hidden samples, what the regression adds to it, and their frames."""
    for trial in trials:
        crop, (fields, known) = trial.crop, made[trial.number]
        left = crop.valid & ~trial.hidden
        told, _ = regressed(fields, known, crop.values, left, crop.days, median_step(crop.days), lesson)
        added, missed = told[trial.hidden] - trial.linear, crop.values[trial.hidden] - trial.linear
        frames = np.nonzero(trial.hidden)[0] + trial.number * crop.days.size
        has = np.isfinite(missed)
        yield missed[has], np.nan_to_num(added[has], nan=0.0), frames[has]


def _tried(trials: Sequence[_Trial], made: Sequence[tuple[F32, NDArray[np.bool_]]], lesson: Lesson) -> _Found:
    """Return the weight with the least absolute error, which is a weighted median of the weights that samples want."""
    missed, added, _ = (np.concatenate(part) for part in zip(*_answers(trials, made, lesson), strict=True))
    size = np.abs(added).astype(np.float64)
    moved = size > 1e-6
    weight = 0.0
    if moved.any():
        wanted = missed[moved].astype(np.float64) / added[moved]
        order = np.argsort(wanted, kind="stable")
        total = np.cumsum(size[moved][order])
        weight = float(np.clip(wanted[order][np.searchsorted(total, total[-1] / 2)], 0, 1))
    error = float(np.abs(missed - weight * added).mean(dtype=np.float64)) if missed.size else float("inf")
    return _Found(weight, error)


def _judged(
    trials: Sequence[_Trial], made: Sequence[tuple[F32, NDArray[np.bool_]]], lesson: Lesson
) -> tuple[F32, F32, NDArray[np.intp]]:
    """Return the absolute errors without and with the guides, and the frames they are in."""
    missed, added, frames = (np.concatenate(part) for part in zip(*_answers(trials, made, lesson), strict=True))
    return np.abs(missed), np.abs(missed - np.float32(lesson.weight) * added), frames


def _scene(crops: Sequence[Crop], made: Sequence[tuple[F32, NDArray[np.bool_]]]) -> Lesson:
    """Return the scene's slopes within pixels, and its regression of levels."""
    size = len(made[0][0])
    guides, cross, count = np.zeros((size, size)), np.zeros(size), 0.0
    square, sums = np.zeros((size + 2, size + 2)), 0.0
    for crop, (fields, known) in zip(crops, made, strict=True):
        heard = crop.valid & known
        moments = Moments.of(fields, crop.values, heard)
        guides += moments.guides.sum(axis=(0, 1))
        cross += moments.cross.sum(axis=(0, 1))
        count += float(moments.count.sum())
        picked = [np.ones(int(heard.sum())), *(field[heard] for field in fields), crop.values[heard]]
        rows = np.stack([part.astype(np.float64) for part in picked])
        square += rows @ rows.T
        sums += rows.shape[1]
    covariance = guides / max(count, 1.0)
    covariance += np.diag(JITTER * np.diag(covariance) + 1e-9)
    slopes = np.linalg.solve(covariance, cross / max(count, 1.0))
    normal = square[:-1, :-1] / max(sums, 1.0)
    normal += np.diag(JITTER * np.diag(normal) + 1e-9)
    right = square[:-1, -1] / max(sums, 1.0)
    level = np.linalg.solve(normal, right)
    left = square[-1, -1] / max(sums, 1.0) - level @ right
    return Lesson(
        slopes=tuple(slopes.tolist()),
        covariance=tuple(map(tuple, covariance.tolist())),
        level=tuple(level.tolist()),
        level_spread=float(np.sqrt(max(left, 1e-6))),
    )
