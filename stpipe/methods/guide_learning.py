"""What a user's guides are worth on a cube, found on artificial gaps of it; see `stpipe.methods.guided`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stpipe.core.comparison import passes_of
from stpipe.core.crops import Crop
from stpipe.core.gaps import Purpose, draw_gaps, generator
from stpipe.core.timeline import median_step, neighbours, passes
from stpipe.methods.evidence import compare
from stpipe.methods.guide_regression import (
    FIRST_RIDGE,
    RIDGES,
    SMOOTHINGS,
    SPANS,
    Lesson,
    Moments,
    prepared,
    regressed,
)

F32 = NDArray[np.float32]

SHARE = (0.1, 0.25)
"""What each draw hides of the crops, least and most."""

DRAWS = (3, 9)
"""Least and most draws of artificial gaps; so many that `WORK` samples are seen. The last third judges
what the others chose, on the frames that had no say in it."""

WORK = 3 * 2**19
"""Samples of hidden crops that are looked at, about."""

LEAST_MOVE = 1e-6
"""Differences from interpolation smaller than this say nothing of how far to go."""

SURE = 2.0
"""Standard errors by which the guides have to do better to be followed as far as they are worth; half as many: half as
far."""

NEAR = 0.5
"""Samples that belong to a span by more than this judge it."""

LEAST_SAMPLES = 200
"""With fewer hidden samples to judge by the guides are left out."""

LEAST_GAIN = 0.005
"""Guides that take a smaller share than this off the error of interpolation are left out."""

JITTER = 1e-6
"""Share of each guide's variance that is added to it: two that say the same can still be told apart."""


def draws_of(samples: int) -> int:
    """Return in how many ways crops of so many samples are hidden; a third of them judges.

    >>> draws_of(10**5), draws_of(10**7)
    (9, 3)
    """
    return min(max(DRAWS[0], WORK // max(1, samples) // 3 * 3), DRAWS[1])


def dealt(count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return True for the half of the passes by which lessons are chosen; the others judge them.

    >>> int(dealt(9, np.random.default_rng(0)).sum())
    5
    """
    return np.asarray(rng.permutation(count) % 2 == 0)


def learned(names: Sequence[str], crops: Sequence[Crop], seed: int) -> Lesson:
    """Return what artificial gaps of crops teach; all weights are 0 if the guides gain nothing on frames set apart.

    Those frames have no say in the scene's slopes either while they judge. What stands the test is then made of all.
    """
    draws = draws_of(sum(crop.valid.size for crop in crops))
    which = passes(crops[0].days)
    choosing = dealt(int(which[-1]) + 1, generator(Purpose.GUIDED, seed, draws))[which]
    last = draws // 3

    def trials(some: range, scored: NDArray[np.bool_]) -> list[_Trial]:
        return [_Trial.of(crop, draw, number, seed, scored) for draw in some for number, crop in enumerate(crops)]

    mine, apart = trials(range(draws - last), choosing), trials(range(draws - last, draws), ~choosing)
    if not any(set(names) & set(crop.guides) for crop in crops) or not any(trial.linear.size for trial in mine):
        return Lesson()
    chosen, least, fields = Lesson(), float("inf"), list(_fields_of(names, crops, SMOOTHINGS[0]))
    for smoothing in SMOOTHINGS:
        made = list(_fields_of(names, crops, smoothing))
        lesson = replace(_scene(crops, made, choosing), smoothing=smoothing, ridge=FIRST_RIDGE)
        weights, error = _tried(mine, made, lesson)
        if error < least:
            chosen, least, fields = replace(lesson, weights=weights), error, made
    for ridge in RIDGES if chosen.used else ():
        lesson = replace(chosen, ridge=ridge)
        weights, error = _tried(mine, fields, lesson)
        if error < least:
            chosen, least = replace(lesson, weights=weights), error
    judged = _judged(apart, fields, chosen)
    whole = _scene(crops, fields, np.ones_like(choosing))
    return replace(
        judged, slopes=whole.slopes, covariance=whole.covariance, level=whole.level, level_spread=whole.level_spread
    )


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
    """(t, y, x), what is not to be seen."""

    scored: NDArray[np.bool_]
    """(t, y, x), the part of it that is to be predicted."""

    linear: F32
    """(sample,), the answers of interpolation, NaN where there is none."""

    span: F32
    """(sample,), median steps between the observations that they are from."""

    @classmethod
    def of(cls, crop: Crop, draw: int, number: int, seed: int, frames: NDArray[np.bool_]) -> _Trial:
        """Hide a part of a crop, to predict what of it is in some of the (time,) frames."""
        rng = generator(Purpose.GUIDED, seed, draw, number)
        hidden = draw_gaps(crop.valid, rng, domain=crop.domain, share=SHARE, days=crop.days)
        left = crop.valid & ~hidden
        around = neighbours(crop.values, left, crop.days, median_step(crop.days))
        scored = hidden & frames[:, None, None]
        span = around.since[scored] + around.until[scored]
        return cls(number=number, crop=crop, hidden=hidden, scored=scored, linear=around.linear[scored], span=span)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """What a lesson says of hidden samples that interpolation has an answer to."""

    missed: F32
    """(sample,), truth minus the answer of interpolation."""

    added: F32
    """(sample,), answer of the regression minus that of interpolation; zero where there is no guide."""

    span: F32
    """(sample,), see `_Trial`."""

    frames: NDArray[np.intp]
    """(sample,), number of the pass: a date is one, in whichever crops it shows."""

    @classmethod
    def of(cls, trials: Sequence[_Trial], made: Sequence[tuple[F32, NDArray[np.bool_]]], lesson: Lesson) -> _Answers:
        """Regress what is left of each trial."""
        parts = []
        for trial in trials:
            crop, (fields, known) = trial.crop, made[trial.number]
            left = crop.valid & ~trial.hidden
            told, _ = regressed(fields, known, crop.values, left, crop.days, median_step(crop.days), lesson)
            added, missed = told[trial.scored] - trial.linear, crop.values[trial.scored] - trial.linear
            frames = passes_of(crop, trial.scored)
            has = np.isfinite(missed)
            parts.append((missed[has], np.nan_to_num(added[has], nan=0.0), trial.span[has], frames[has]))
        missed, added, span, frames = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(missed=missed, added=added, span=span, frames=frames)

    def near(self, node: int) -> F32:
        """Return (sample,) how far the samples belong to one of `SPANS`."""
        return Lesson(weights=tuple(float(number == node) for number in range(len(SPANS)))).follow(self.span)

    def left(self, weights: tuple[float, ...]) -> F32:
        """Return (sample,) the absolute errors that remain if the regression is followed so far."""
        return np.abs(self.missed - Lesson(weights=weights).follow(self.span) * self.added)

    def best(self, counts: F32) -> float:
        """Return the one weight with the least absolute error: a weighted median of the weights that samples want."""
        size = np.abs(self.added).astype(np.float64) * counts
        moved = size > LEAST_MOVE
        if not moved.any():
            return 0.0
        wanted = self.missed[moved].astype(np.float64) / self.added[moved]
        order = np.argsort(wanted, kind="stable")
        total = np.cumsum(size[moved][order])
        return float(np.clip(wanted[order][np.searchsorted(total, total[-1] / 2)], 0, 1))


def _tried(
    trials: Sequence[_Trial], made: Sequence[tuple[F32, NDArray[np.bool_]]], lesson: Lesson
) -> tuple[tuple[float, ...], float]:
    """Return the weights with the least absolute error on trials, and that error."""
    answers = _Answers.of(trials, made, lesson)
    if not answers.missed.size:
        return Lesson().weights, float("inf")
    every = answers.best(np.ones_like(answers.missed))
    weights = []
    for node in range(len(SPANS)):
        counts = answers.near(node)
        weights.append(answers.best(counts) if counts.sum() >= LEAST_SAMPLES else every)
    return tuple(weights), float(answers.left(tuple(weights)).mean(dtype=np.float64))


def _judged(trials: Sequence[_Trial], made: Sequence[tuple[F32, NDArray[np.bool_]]], lesson: Lesson) -> Lesson:
    """Return a lesson that is followed only where it does surely better than interpolation on frames set apart.

    For short gaps it may be of no use, and of much for long ones. Samples of a frame are wrong together, so that it is
    frames that say how sure the verdict is.
    """
    nothing = Lesson().weights
    answers = _Answers.of(trials, made, lesson) if lesson.used else None
    if answers is None or answers.missed.size < LEAST_SAMPLES:
        count = sum(int(np.isfinite(trial.linear).sum()) for trial in trials)
        return replace(lesson, weights=nothing, samples=count)
    before, after = answers.left(nothing), answers.left(lesson.weights)
    weights = []
    for node, weight in enumerate(lesson.weights):
        here = answers.near(node) >= NEAR
        if here.any():
            verdict = compare(before[here], after[here], answers.frames[here])
            weights.append(weight if verdict.holds(SURE) else weight / 2 if verdict.holds(SURE / 2) else 0.0)
        else:
            weights.append(0.0)
    errors = tuple(float(answers.left(each).mean(dtype=np.float64)) for each in (nothing, tuple(weights)))
    helps = errors[1] < (1 - LEAST_GAIN) * errors[0]
    return replace(
        lesson,
        weights=tuple(weights) if helps else nothing,
        samples=int(answers.missed.size),
        errors=(errors[0], errors[1]),
    )


def _scene(crops: Sequence[Crop], made: Sequence[tuple[F32, NDArray[np.bool_]]], frames: NDArray[np.bool_]) -> Lesson:
    """Return the scene's slopes within pixels, and its regression of levels, from some of the (time,) frames."""
    size = len(made[0][0])
    guides, cross, count = np.zeros((size, size)), np.zeros(size), 0.0
    square, sums = np.zeros((size + 2, size + 2)), 0.0
    for crop, (fields, known) in zip(crops, made, strict=True):
        heard = crop.valid & known & frames[:, None, None]
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
