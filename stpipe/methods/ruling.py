"""How far to trust each of several answers in which kind of gap, by their errors on gaps that none has learned from.

One that is better on the whole may be worse in some kinds of gaps. So each kind has weights of its own, drawn towards
the best of the plain answers by themselves where few frames speak. Weights so fine may follow chance, and are judged
before they are followed, on frames that had no say in them: a kind of gap in which a plain answer surely does better
takes that one, and unless all of it together surely does better than the plain answers do, the best of these is taken
everywhere. That a plain answer is a little better in some kind of gap means nothing: to follow each such hint cost two
thirds of what weights gained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.gap_classes import CLASS_COUNT, CLASS_PX, CLASS_STEPS, TIME_CLASSES
from stpipe.methods.guides import EMPTY
from stpipe.methods.mixing import least_absolute

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Kinds = NDArray[np.uint8]
Integers = NDArray[np.intp]

Weights = tuple[tuple[float, ...], ...]
"""A row of weights, one of each answer, for each calibration class; none negative, and one in sum."""

LEAST_SAMPLES = 200
"""Kinds of gaps with fewer samples than this take the plain answer that is best on the whole."""

LEAST_FRAMES = 4
"""The same for their frames: samples of a frame are wrong together."""

ENOUGH_FRAMES = 4.0
"""Frames whose samples say as much of a kind of gap as is known beforehand: that a plain answer is good enough."""

FOLDS = 16
"""Parts that frames are dealt into; each is judged by what the others chose."""

LEAST_GAIN = 0.005
"""What needs more than a plain answer has to take this share off its error."""

SURE = 1.0
"""Standard errors by which it has to do so, told by how much frames disagree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """How far to trust which answer where, and what that rests on; errors in spreads."""

    weights: Weights
    """Of the answers in each calibration class, see `stpipe.core.gap_classes`."""

    samples: tuple[int, ...] = (0,) * CLASS_COUNT
    """Samples of each class."""

    errors: tuple[float, ...] = ()
    """Mean absolute error over all samples of each answer; last of what was chosen, on frames without a say in it."""

    by_class: tuple[tuple[float, ...], ...] = ()
    """The same of each class, NaN without samples: a row an answer."""

    @property
    def used(self) -> tuple[bool, ...]:
        """Tell which answers have a weight anywhere."""
        return tuple(any(row[answer] > 0 for row in self.weights) for answer in range(len(self.weights[0])))


def kinds_of(distance: F32, steps: F32) -> Kinds:
    """Return the calibration class of gaps that lie so far from observations.

    Parameters
    ----------
    distance : (...) ndarray of float32
        Pixels to the nearest observation of the frame; `stpipe.methods.guides.EMPTY` in an empty frame.
    steps : (...) ndarray of float32
        Median steps to the pixel's nearest observation.

    Examples
    --------
    >>> kinds_of(np.array([1, 2, 20, EMPTY], dtype=np.float32), np.array([1, 3, 9, 9], dtype=np.float32))
    array([ 0,  4, 11, 14], dtype=uint8)
    """
    space = np.searchsorted(CLASS_PX, distance) + (distance >= EMPTY)
    return np.asarray(space * TIME_CLASSES + np.searchsorted(CLASS_STEPS, steps)).astype(np.uint8)


def only(answer: int, answers: int) -> tuple[float, ...]:
    """Return the weights that trust one answer alone.

    >>> only(1, 3)
    (0.0, 1.0, 0.0)
    """
    return tuple(float(number == answer) for number in range(answers))


def weighed(errors: F32, kinds: Kinds, frames: Integers, plain: Sequence[int]) -> Weights:
    """Return the weights with the least absolute error in each class, as far as its frames tell.

    Parameters
    ----------
    errors : (answer, sample) ndarray of float32
        Answer minus truth.
    kinds : (sample,) ndarray of uint8
        Calibration classes.
    frames : (sample,) ndarray of int
        Their frames.
    plain : sequence of int
        Answers that are good enough by themselves: the best of them is what weights are drawn to.

    Examples
    --------
    >>> errors = np.stack([np.full(4000, 0.5), np.full(4000, -0.5)]).astype(np.float32)
    >>> errors[:, 2000:] = [[2.0], [1.0]]
    >>> kinds, frames = np.repeat(np.array([0, 5], dtype=np.uint8), 2000), np.arange(4000) % 36
    >>> rows = weighed(errors, kinds, frames, plain=(1,))
    >>> [round(weight, 2) for weight in rows[0]], [round(weight, 2) for weight in rows[5]], rows[7]
    ([0.45, 0.55], [0.0, 1.0], (0.0, 1.0))
    """
    known = only(_best(errors, plain), len(errors))
    rows = []
    for kind in range(CLASS_COUNT):
        here = kinds == kind
        sizes = np.unique(frames[here], return_counts=True)[1].astype(np.float64)
        if sizes.sum() < LEAST_SAMPLES or sizes.size < LEAST_FRAMES:
            rows.append(known)
            continue
        number = sizes.sum() ** 2 / (sizes @ sizes)
        trust = number / (number + ENOUGH_FRAMES)
        own = least_absolute(errors[:, here].T.astype(np.float64), np.ones(int(here.sum())))
        rows.append(tuple(float(trust * mine + (1 - trust) * other) for mine, other in zip(own, known, strict=True)))
    return tuple(rows)


def ruled(errors: F32, kinds: Kinds, frames: Integers, rng: np.random.Generator, *, plain: Sequence[int]) -> Ruling:
    """Return how far to trust which answer in each kind of gap.

    Parameters
    ----------
    errors : (answer, sample) ndarray of float32
        Answer minus truth, of answers that have not learned from these samples' frames; in spreads.
    kinds : (sample,) ndarray of uint8
        Calibration classes.
    frames : (sample,) ndarray of int
        Which samples are wrong together.
    rng : numpy Generator
        Deals frames out.
    plain : sequence of int
        Answers the best of which is taken everywhere, unless weights surely do better, by `LEAST_GAIN`.

    Examples
    --------
    >>> errors = np.full((3, 4000), 2.0, dtype=np.float32)
    >>> errors[0, :2000], errors[1, 2000:] = 1.0, 1.0
    >>> kinds, frames = np.repeat(np.array([0, 5], dtype=np.uint8), 2000), np.arange(4000) % 40
    >>> found = ruled(errors, kinds, frames, np.random.default_rng(0), plain=(1, 2))
    >>> [round(weight, 2) for weight in found.weights[0]], found.weights[5]
    ([0.91, 0.09, 0.0], (0.0, 1.0, 0.0))
    """
    there, number = np.unique(frames, return_inverse=True)
    dealt = (rng.permutation(there.size) % FOLDS)[number]
    missed = np.abs(errors)
    apart, chosen = (np.empty(kinds.size, dtype=np.float32) for _ in range(2))
    for fold in range(FOLDS):
        mine, rest = dealt == fold, dealt != fold
        table = np.array(weighed(errors[:, rest], kinds[rest], frames[rest], plain), dtype=np.float32)
        apart[mine] = np.abs(np.einsum("na,an->n", table[kinds[mine]], errors[:, mine]))
    for fold in range(FOLDS):
        mine, rest = dealt == fold, dealt != fold
        instead = np.array(_better(missed[:, rest], apart[rest], kinds[rest], number[rest], plain))[kinds[mine]]
        alone = np.take_along_axis(missed[:, mine], np.maximum(instead, 0)[None], axis=0)[0]
        chosen[mine] = np.where(instead < 0, apart[mine], alone)
    rows = zip(weighed(errors, kinds, frames, plain), _better(missed, apart, kinds, number, plain), strict=True)
    weights = tuple(row if answer < 0 else only(answer, len(errors)) for row, answer in rows)
    safest = _best(errors, plain)
    gain = 1 - float(chosen.mean(dtype=np.float64)) / max(float(missed[safest].mean(dtype=np.float64)), 1e-12)
    if gain <= LEAST_GAIN or not _surely_less(chosen, missed[safest], number):
        weights, chosen = (only(safest, len(errors)),) * CLASS_COUNT, missed[safest]
    everything = np.vstack([missed, chosen[None]])
    samples = np.bincount(kinds, minlength=CLASS_COUNT)
    sums = np.stack([np.bincount(kinds, weights=row, minlength=CLASS_COUNT) for row in everything])
    return Ruling(
        weights=weights,
        samples=tuple(samples.tolist()),
        errors=tuple(everything.mean(axis=1, dtype=np.float64).tolist()),
        by_class=tuple(map(tuple, (sums / np.where(samples, samples, np.nan)).tolist())),
    )


def _best(errors: F32, plain: Sequence[int]) -> int:
    """Return the plain answer with the least error on the whole."""
    return min(plain, key=lambda answer: float(np.abs(errors[answer]).mean(dtype=np.float64)) if errors.size else 0.0)


def _better(missed: F32, apart: F32, kinds: Kinds, frames: Integers, plain: Sequence[int]) -> tuple[int, ...]:
    """Return the plain answer that surely does better than weights in each class, or -1 where none does."""
    found = []
    for kind in range(CLASS_COUNT):
        here = kinds == kind
        best = _best(missed[:, here], plain)
        found.append(best if here.any() and _surely_less(missed[best, here], apart[here], frames[here]) else -1)
    return tuple(found)


def _surely_less(errors: F32, others: F32, frames: Integers) -> bool:
    """Return whether errors are less in the mean by more than `SURE` standard errors, samples of a frame being one.

    Of the means themselves, unlike `stpipe.methods.evidence.compare`: what is told and promised is a mean.

    >>> frames, others = np.arange(80) // 10, np.ones(80, dtype=np.float32)
    >>> _surely_less(0.9 * others, others, frames), _surely_less(np.where(frames > 0, 1.1, 0.1), others, frames)
    (True, False)
    """
    gains = others.astype(np.float64) - errors
    gain = float(gains.mean())
    sums = np.bincount(frames, weights=gains - gain)
    count = np.count_nonzero(np.bincount(frames))
    return bool(count > 1 and gain > SURE * np.sqrt(sums @ sums * count / (count - 1)) / gains.size)
