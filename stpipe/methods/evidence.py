"""What samples say of whether one answer is better than another, when those of a frame are wrong together.

Ten thousand samples of five frames are five witnesses, not ten thousand. So errors are compared frame by frame, as
ratios, for else a frame that no answer gets right outvotes all others; and how much the frames disagree tells how sure
the verdict is.

Source: the standard error of a weighted mean of clusters, after Cochran (1977), Sampling techniques, chapter 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.methods.lessons import Samples
from stpipe.methods.mixing import SMALLEST_ERROR, Mixture

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


def suited(samples: Samples, guides: slice, usual: Mixture, *, enough: float, rng: np.random.Generator) -> Mixture:
    """Return the mean of guides that suits a cube, as far as frames that had no say in it bear it out.

    Weights are found on some of the frames and judged on the others: where they are no better there than the usual
    ones, the usual ones stay; where they are, but not surely, they count half.

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
    """

    def found(some: Samples) -> Mixture:
        own = Mixture.best(some.answers[:, guides], some.truth, some.distance, frames=some.frames)
        return own.drawn_towards(usual, some.distance, some.frames, enough=enough)

    def errors(mixture: Mixture, some: Samples) -> F32:
        return np.asarray(np.abs(mixture.mean(list(some.answers[:, guides].T), some.distance) - some.truth))

    everything = found(samples)
    there, which = np.unique(samples.frames, return_inverse=True)
    if there.size < LEAST_FRAMES:
        return everything
    dealt = (rng.permutation(there.size) % FOLDS)[which]
    own = np.empty_like(samples.truth)
    for fold in range(FOLDS):
        own[dealt == fold] = errors(found(samples.where(dealt != fold)), samples.where(dealt == fold))
    verdict = compare(errors(usual, samples), own, samples.frames)
    if verdict.holds(1.0):
        return everything
    return everything.between(usual) if verdict.holds(0.0) else usual
