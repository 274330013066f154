"""The mean of several guides whose weights suit a cube best, and change with the distance to the nearest observation.

Close to observations of the frame other guides are right than deep inside a cloud or in a missing frame. Weights are
found at a few distances and interpolated between them, so that there is no step where one guide hands over to another.
They are none negative and sum to one: adding a number to all guides adds it to the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NODES_PX = (1.5, 4.0, 10.0, 24.0, 1000.0)
"""Distances at which weights are found; they stay the same before the first. The last stands for empty frames."""

LEAST_SAMPLES = 300.0
"""With fewer samples around a distance than this the weights of all samples stand in."""

PRIOR_SAMPLES = 1000.0
"""Samples that those weights count for, where there are more."""

REWEIGHTINGS = 12
"""Rounds in which weights are found."""

SMALLEST_ERROR = 0.02
"""Errors smaller than this count as if they were as large, in spreads: they are divided by."""

ODD_FRAME = 0.3
"""Frames with errors much smaller than this share of the median count no more than those that have it."""

SQUARE = 8.0
"""Samples at a distance from observations are wrong together within squares of a side so many times as long."""

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Integers = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Weights of guides."""

    weights: tuple[tuple[float, ...], ...]
    """One of each guide, at each of `NODES_PX`."""

    @classmethod
    def even(cls, guides: int) -> Mixture:
        """Trust all guides alike.

        >>> Mixture.even(2).weights[0]
        (0.5, 0.5)
        """
        return cls(((1 / guides,) * guides,) * len(NODES_PX))

    @classmethod
    def only(cls, guide: int, guides: int) -> Mixture:
        """Trust one guide alone.

        >>> Mixture.only(1, 3).weights[0]
        (0.0, 1.0, 0.0)
        """
        return cls((tuple(float(number == guide) for number in range(guides)),) * len(NODES_PX))

    @classmethod
    def best(cls, answers: F32, truth: F32, distance: F32, *, frames: NDArray[np.intp] | None = None) -> Mixture:
        """Return the mixture with the least absolute error.

        Parameters
        ----------
        answers : (sample, guide) ndarray of float32
            What each guide says.
        truth : (sample,) ndarray of float32
            What was observed.
        distance : (sample,) ndarray of float32
            Pixels to the nearest observation of the frame.
        frames : (sample,) ndarray of int, optional
            Their frames, counted from 0: those that all guides get wrong then count for less.

        Examples
        --------
        >>> truth = np.arange(999, dtype=np.float32)
        >>> guides = np.stack([truth + 3, truth + 1, truth + 2], axis=1)
        >>> [round(abs(weight), 3) for weight in Mixture.best(guides, truth, np.full(999, 5.0)).weights[1]]
        [0.0, 1.0, 0.0]
        """
        errors = answers.astype(np.float64) - truth[:, None]
        counts = np.ones(len(errors)) if frames is None else _frames_say(errors, frames)
        everywhere = least_absolute(errors, counts)
        rows = []
        for share in memberships(distance).T.astype(np.float64):
            count, there = float(share.sum()), share > 0
            own = least_absolute(errors[there], (share * counts)[there]) if count >= LEAST_SAMPLES else everywhere
            trust = count / (count + PRIOR_SAMPLES)
            rows.append(tuple(float(weight) for weight in trust * own + (1 - trust) * everywhere))
        return cls(tuple(rows))

    def drawn_towards(
        self, usual: Mixture, distance: F32, frames: Integers, spots: Integers, *, enough: float
    ) -> Mixture:
        """Return weights between these and usual ones, the less like these the fewer witnesses they rest on.

        Samples that lie together are wrong together: a whole frame of them says no more of which guide to trust than
        one. How far together reaches depends on what is known nearby. Next to observations guides differ by how they
        weigh these, and each part of a frame tells that anew; deep in a cloud, by what the frame is like as a whole. So
        the witnesses at a distance are the squares of a frame whose side is `SQUARE` times as long.

        Parameters
        ----------
        usual : Mixture
            What is trusted without any evidence.
        distance : (sample,) ndarray of float32
            Of the samples that these weights were found from.
        frames : (sample,) ndarray of int
            Their frames.
        spots : (sample, 2) ndarray of int
            Their rows and columns.
        enough : float
            Number of witnesses that weighs as much as what is usual.

        Examples
        --------
        >>> own, usual = Mixture.only(0, 2), Mixture.only(1, 2)
        >>> near, far, numbers = np.full(40, 1.5, dtype=np.float32), np.full(40, 1e9, dtype=np.float32), np.arange(40)
        >>> spots = np.stack([numbers % 10 * 12, 0 * numbers], axis=1)
        >>> own.drawn_towards(usual, near, numbers // 10, spots, enough=4).weights[0]
        (0.9090909090909091, 0.09090909090909094)
        >>> own.drawn_towards(usual, far, numbers // 10, spots, enough=4).weights[-1]
        (0.5, 0.5)
        """
        rows = []
        nodes = zip(NODES_PX, memberships(distance).T, self.weights, usual.weights, strict=True)
        for node, share, mine, other in nodes:
            there = share > 0
            sizes = np.bincount(squares(frames[there], spots[there], round(SQUARE * node)), weights=share[there])
            number = float(sizes.sum() ** 2 / max(float(np.dot(sizes, sizes)), 1e-12))
            trust = number / (number + enough)
            rows.append(tuple(trust * own + (1 - trust) * less for own, less in zip(mine, other, strict=True)))
        return Mixture(tuple(rows))

    def between(self, other: Mixture) -> Mixture:
        """Return weights halfway to others.

        >>> Mixture.only(0, 2).between(Mixture.only(1, 2)).weights[0]
        (0.5, 0.5)
        """
        rows = zip(self.weights, other.weights, strict=True)
        return Mixture(tuple(tuple((a + b) / 2 for a, b in zip(mine, its, strict=True)) for mine, its in rows))

    def mean(self, answers: Sequence[F32], distance: F32) -> F32:
        """Return the weighted mean.

        Parameters
        ----------
        answers : sequence of (...) ndarray of float32
            One of each guide.
        distance : (...) ndarray of float32
            Pixels to the nearest observation of the frame.
        """
        at = self.at(distance)
        total = np.zeros(distance.shape, dtype=np.float32)
        for number, answer in enumerate(answers):
            total += at[..., number] * answer
        return total

    def at(self, distance: F32) -> F32:
        """Return the weights (..., guide) at distances."""
        return memberships(distance) @ np.array(self.weights, dtype=np.float32)

    def used(self) -> tuple[bool, ...]:
        """Tell which guides have a weight anywhere."""
        return tuple(any(row[number] > 0 for row in self.weights) for number in range(len(self.weights[0])))


def squares(frames: Integers, spots: Integers, side: int) -> NDArray[np.intp]:
    """Return the number of the square of its frame that each sample lies in, counted from 0.

    Parameters
    ----------
    frames : (sample,) ndarray of int
        Their frames.
    spots : (sample, 2) ndarray of int
        Their rows and columns, in pixels.
    side : int
        Of a square, in pixels.

    Examples
    --------
    >>> squares(np.array([3, 3, 3, 5]), np.array([[0, 0], [7, 7], [8, 0], [0, 0]]), 8)
    array([0, 0, 1, 2])
    """
    if not frames.size:
        return np.empty(0, dtype=np.intp)
    rows, columns = (spots.astype(np.int64) // side).T
    number = (frames.astype(np.int64) * (rows.max() + 1) + rows) * (columns.max() + 1) + columns
    return np.unique(number, return_inverse=True)[1].astype(np.intp, copy=False)


def _frames_say(errors: F64, frames: NDArray[np.intp]) -> F64:
    """Return how much each sample counts: the less, the worse all guides are in its frame; one in the mean."""
    there, which, counts = np.unique(frames, return_inverse=True, return_counts=True)
    if not there.size:
        return np.ones(0)
    scale = np.bincount(which, weights=np.abs(errors).mean(axis=1)) / counts
    says = (1 / (scale + ODD_FRAME * np.median(scale) + SMALLEST_ERROR)) ** 2
    return np.asarray((says / (says @ counts / counts.sum()))[which])


def memberships(distance: F32) -> F32:
    """Return (..., node) how far a distance belongs to each of `NODES_PX`; they sum to one.

    >>> memberships(np.array([0.0, 4.0, 1e9], dtype=np.float32))
    array([[1., 0., 0., 0., 0.],
           [0., 1., 0., 0., 0.],
           [0., 0., 0., 0., 1.]], dtype=float32)
    """
    nodes = np.log(NODES_PX)
    place = np.log(np.clip(distance, NODES_PX[0], NODES_PX[-1]))
    left = np.clip(np.searchsorted(nodes, place, side="right") - 1, 0, len(nodes) - 2)
    share = np.clip((place - nodes[left]) / (nodes[left + 1] - nodes[left]), 0, 1).astype(np.float32).round(6)
    result = np.zeros((*np.shape(distance), len(nodes)), dtype=np.float32)
    np.put_along_axis(result, left[..., None], 1 - share[..., None], axis=-1)
    np.put_along_axis(result, left[..., None] + 1, share[..., None], axis=-1)
    return result


def least_absolute(errors: F64, counts: F64) -> F64:
    """Return the weights, none negative and one in sum, whose mean of errors is least in absolute value.

    By iteratively reweighted non-negative least squares.

    Parameters
    ----------
    errors : (sample, guide) ndarray of float64
        Of each guide.
    counts : (sample,) ndarray of float64
        How often each sample counts.

    Examples
    --------
    >>> least_absolute(np.array([[1.0, -1.0, 8.0], [2.0, -2.0, 9.0], [-1.0, 1.0, 7.0]]), np.ones(3)).round(2)
    array([0.5, 0.5, 0. ])
    """
    from scipy import optimize  # takes longer to load than to use, and few verbs get here

    guides = errors.shape[1]
    weights = np.full(guides, 1 / guides)
    for _ in range(REWEIGHTINGS):
        trust = counts / np.maximum(np.abs(errors @ weights), SMALLEST_ERROR)
        normal = (errors * trust[:, None]).T @ errors / trust.sum()
        size = max(1e-12, float(np.trace(normal)))
        # The sum is held by a heavy equation; the rest is a least-squares problem by its Cholesky factor.
        factor = np.linalg.cholesky(normal + 1e-9 * size * np.eye(guides)).T
        heavy = 1e3 * np.sqrt(size)
        found, _ = optimize.nnls(np.vstack([factor, np.full(guides, heavy)]), np.append(np.zeros(guides), heavy))
        weights = found / found.sum()
    return weights
