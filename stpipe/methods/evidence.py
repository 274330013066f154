"""What samples say of whether one answer is better than another, when those of a frame are wrong together.

Ten thousand samples of five frames are five witnesses, not ten thousand. So errors are compared frame by frame, as
ratios, for else a frame that no answer gets right outvotes all others; and how much the frames disagree tells how sure
the verdict is.

A frame is one witness of what is far from its observations. Near these each part of it is one, if that bears the test.

Source: the standard error of a weighted mean of clusters, after Cochran (1977), Sampling techniques, chapter 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.comparison import TILE
from stpipe.methods.lessons import Samples
from stpipe.methods.mixing import SMALLEST_ERROR, Mixture, squares

SURE = 2.0
"""Standard errors by which parts of frames have to be right to be as many witnesses. On three cubes where it was three
and more the error on gaps set apart fell by 1 to 2 %; on one where it was less than two it rose by half a per cent."""

F32 = NDArray[np.float32]
Integers = NDArray[np.intp]

FOLDS = 4
"""Parts of cross-validation."""

LEAST_FRAMES = 4
"""With fewer frames than this there is no telling what holds on others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How the errors of one answer compare with those of another."""

    log_ratio: float
    """Mean logarithm of the errors' ratio, group by group; below 0 the new answer is better."""

    standard_error: float
    """Of that; infinite where there is but one group."""

    def holds(self, errors: float) -> bool:
        """Tell whether the new answer is better by more than so many standard errors."""
        return self.log_ratio + errors * self.standard_error < 0

    @property
    def gain(self) -> float:
        """Share of the error that the new answer takes away."""
        return 1 - float(np.exp(self.log_ratio))


def compare(before: F32, after: F32, groups: Integers) -> Verdict:
    """Compare two answers on the same samples.

    Parameters
    ----------
    before, after : (sample,) ndarray of float32
        Absolute errors, in spreads.
    groups : (sample,) ndarray of int
        Which samples are wrong together, such as those of a frame.

    Examples
    --------
    >>> frames = np.arange(40) // 10
    >>> verdict = compare(np.full(40, 1.0), np.full(40, 0.5), frames)
    >>> round(verdict.gain, 2), verdict.holds(2.0)
    (0.49, True)
    """
    _, which, counts = np.unique(groups, return_inverse=True, return_counts=True)
    means = [np.bincount(which, weights=errors) / counts + SMALLEST_ERROR for errors in (before, after)]
    ratios = np.log(means[1] / means[0])
    weights = counts / counts.sum()
    middle = float(weights @ ratios)
    number = len(counts)
    spread = float(np.sqrt((weights**2) @ (ratios - middle) ** 2 * number / max(number - 1, 1)))
    return Verdict(log_ratio=middle, standard_error=spread if number > 1 else float("inf"))


def suited(
    samples: Samples, guides: slice, usual: Mixture, *, enough: float, rng: np.random.Generator, parts: bool = True
) -> Mixture:
    """Return the mean of guides that suits a cube, as far as frames that had no say in it bear it out.

    Weights are found on some of the frames and judged on the others: where they are no better there than the usual
    ones, the usual ones stay; where they are, but not surely, they count half. They are drawn towards the usual ones as
    far as squares of frames are witnesses; where that is not better by `SURE` standard errors, as far as frames are.

    A cube with fewer than `LEAST_FRAMES` has no other frames to fill: there squares of `TILE` pixels of a frame judge,
    and weights that are surely better on these stay as they were found.

    Parameters
    ----------
    samples : Samples
        With their truth.
    guides : slice
        Which of the answers the mean is of.
    usual : Mixture
        What suits most cubes.
    enough : float
        See `Mixture.drawn_towards`.
    rng : numpy Generator
        Deals frames out.
    parts : bool
        Whether parts of frames can be witnesses and judges at all.
    """

    def found(some: Samples) -> tuple[Mixture, Mixture, Mixture]:
        own = Mixture.best(some.answers[:, guides], some.truth, some.distance, frames=some.frames)
        anywhere = np.zeros_like(some.spots)
        by_square, by_frame = (
            own.drawn_towards(usual, some.distance, some.frames, spots, enough=enough)
            for spots in (some.spots, anywhere)
        )
        return by_square, by_frame, own

    def errors(mixture: Mixture, some: Samples) -> F32:
        return np.asarray(np.abs(mixture.mean(list(some.answers[:, guides].T), some.distance) - some.truth))

    everything = found(samples)
    there, groups = np.unique(samples.frames, return_inverse=True)
    few = there.size < LEAST_FRAMES
    if parts and few:
        groups = squares(samples.frames, samples.spots, TILE)
        there = np.unique(groups)
    if there.size < LEAST_FRAMES:
        return everything[1]
    dealt = (rng.permutation(there.size) % FOLDS)[groups]
    own = np.empty((len(everything), samples.truth.size), dtype=np.float32)
    for fold in range(FOLDS):
        apart = dealt == fold
        for row, mixture in zip(own, found(samples.where(~apart)), strict=True):
            row[apart] = errors(mixture, samples.where(apart))
    before = errors(usual, samples)
    verdicts = [compare(before, after, groups) for after in own]
    if parts and few and verdicts[2].holds(SURE) and verdicts[2].log_ratio < min(v.log_ratio for v in verdicts[:2]):
        return everything[2]
    if parts and verdicts[0].holds(SURE) and verdicts[0].log_ratio < verdicts[1].log_ratio:
        return everything[0]
    if verdicts[1].holds(1.0):
        return everything[1]
    return everything[1].between(usual) if verdicts[1].holds(0.0) else usual
