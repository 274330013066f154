"""Comparing methods on the same samples: sums by kind of gap, and what follows from them.

Samples that some method leaves unfilled are counted for it, and compared for none. Differences of mean absolute errors
and shares inside intervals come with a bootstrap over whole frames, for the samples of one frame are wrong together:
over its weather a method errs alike from end to end. Where samples lie in fewer than `ENOUGH_FRAMES` frames, which are
too few to draw from, it is over clusters of `TILE` x `TILE` pixels of a frame instead, and tells too little of what
could be chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.crops import Crop
from stpipe.core.gap_classes import (
    REPORT_CLASSES,
    REPORT_DAYS,
    REPORT_PX,
    report_classes,
    space_distance,
    time_distance,
)
from stpipe.core.timeline import passes

REFERENCE = "linear"
"""The method that skill is measured against."""

NOT_SIMPLE = frozenset({"pconv", "stack", "auto", "sar", "sar-shuffled"})
"""Methods that need training or other data; the best of the others is what they have to beat."""


def is_simple(method: str) -> bool:
    """Return whether a method is one that others have to beat; a variant, such as "pconv untuned", is as its method.

    >>> is_simple("pyramid"), is_simple("pconv untuned")
    (True, False)
    """
    return method.partition(" ")[0] not in NOT_SIMPLE


TILE = 32
"""Side of a cluster of samples that the bootstrap takes or leaves together, in pixels."""

ENOUGH_FRAMES = 20
"""Fewer frames with hidden samples than this are not what the bootstrap takes or leaves, but clusters within them."""

RESAMPLES = 500
"""Times that the bootstrap draws."""

ALL = "all"
"""The group of all samples."""


def _upto(limits: Sequence[float], unit: str, nowhere: str) -> tuple[str, ...]:
    """Name the bins between limits.

    >>> _upto((2.0, 5.0), "days", "never")
    ('up to 2 days', '2 to 5 days', 'over 5 days or never')
    """
    inner = [f"{low:g} to {high:g} {unit}" for low, high in pairwise(limits)]
    return (f"up to {limits[0]:g} {unit}", *inner, f"over {limits[-1]:g} {unit} or {nowhere}")


GROUPINGS: dict[str, tuple[str, ...]] = {
    ALL: (ALL,),
    "gap class": REPORT_CLASSES,
    "distance in space": _upto(REPORT_PX, "px", "none"),
    "distance in time": _upto(REPORT_DAYS, "days", "never"),
}
"""How samples are told apart, and the groups of each way; a sample is in one group of each."""

GROUPS = tuple((grouping, group) for grouping, groups in GROUPINGS.items() for group in groups)
"""All groups in the order in which they are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Scores of one method in one group of samples; NaN where there is nothing to score. Physical units."""

    method: str
    """The method."""

    grouping: str
    """One of `GROUPINGS`."""

    group: str
    """One of its groups."""

    samples: int
    """Samples that every method filled; the scores are over these."""

    filled: float
    """Share of the hidden samples of the group that this method filled."""

    mae: float
    """Mean absolute error."""

    rmse: float
    """Root of the mean squared error."""

    bias: float
    """Mean of predicted minus truth."""

    r2: float
    """1 - squared error / squared deviation of the truth from its mean in the group."""

    skill: float
    """1 - MAE / MAE of `REFERENCE`."""

    coverage: float
    """Share of the truth inside the interval."""

    coverage_low: float
    """5 % of the bootstrap's shares are below this."""

    coverage_high: float
    """5 % are above this."""

    width: float
    """Mean full width of the interval."""

    difference: float
    """MAE minus that of the best simple method in the group."""

    difference_low: float
    """5 % of the bootstrap's differences are below this."""

    difference_high: float
    """5 % are above this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far one method is off beyond another one, in one group of samples. Physical units."""

    method: str
    """The one."""

    other: str
    """The other."""

    grouping: str
    """One of `GROUPINGS`."""

    group: str
    """One of its groups."""

    samples: int
    """Samples that every method filled."""

    difference: float
    """MAE of the one minus that of the other."""

    difference_low: float
    """5 % of the bootstrap's differences are below this; NaN where there are no error bars."""

    difference_high: float
    """5 % are above this."""

    share: float
    """The difference as a share of the other's MAE; NaN where that is zero."""


class Sums:
    """Sums over samples that make the rows; clusters are kept apart for what the bootstrap needs.

    Parameters
    ----------
    methods : sequence of str
        What is compared.
    frames : (cluster,) ndarray of int
        The frame that each cluster lies in; clusters of the same frame bear the same number.
    passes : (cluster,) ndarray of int, optional
        Its pass, whose frames are wrong together; by default each frame is one.
    """

    def __init__(
        self, methods: Sequence[str], frames: NDArray[np.integer], passes: NDArray[np.integer] | None = None
    ) -> None:
        groups, count, clusters = len(GROUPS), len(methods), len(frames)
        self.methods = tuple(methods)
        self.frames = frames
        self.passes = frames if passes is None else passes
        self.samples = np.zeros((clusters, groups))
        self.absolute = np.zeros((count, clusters, groups))
        self.covered, self.with_interval = np.zeros((2, count, clusters, groups))
        self.hidden, self.truth, self.squares = np.zeros((3, groups))
        self.filled, self.signed, self.squared, self.width = np.zeros((4, count, groups))

    def add(
        self,
        truth: NDArray[np.float32],
        answers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
        groups: Sequence[NDArray[np.integer]],
        clusters: NDArray[np.integer],
    ) -> None:
        """Count samples in.

        Parameters
        ----------
        truth : (n,) ndarray
            Standardised.
        answers : sequence of (n,) predictions and half-widths
            One pair a method; NaN where there is none.
        groups : sequence of (n,) ndarray of int
            Each sample's groups, as positions in `GROUPS`.
        clusters : (n,) ndarray of int
            Each sample's cluster.
        """
        each = np.all([np.isfinite(values) for values, _ in answers], axis=0)
        wide = len(GROUPS)
        for group in groups:

            def total(
                weights: NDArray[Any], where: NDArray[np.bool_] = each, group: NDArray[np.integer] = group
            ) -> NDArray[np.float64]:
                summed = np.bincount(group[where], weights=weights[where].astype(np.float64), minlength=wide)
                return summed.astype(np.float64)

            keys = clusters * wide + group

            def clustered(
                where: NDArray[np.bool_], weights: NDArray[Any] | None = None, keys: NDArray[np.integer] = keys
            ) -> NDArray[np.float64]:
                counted = None if weights is None else weights[where]
                summed = np.bincount(keys[where], weights=counted, minlength=self.samples.size)
                return summed.reshape(self.samples.shape).astype(np.float64)

            ones, everywhere = np.ones(truth.shape), np.ones_like(each)
            self.hidden += total(ones, everywhere)
            self.samples += clustered(each)
            self.truth += total(truth)
            self.squares += total(np.square(truth, dtype=np.float64))
            for i, (values, half_width) in enumerate(answers):
                error = (values - truth).astype(np.float64)
                size = np.abs(error)
                known = each & np.isfinite(half_width)
                self.absolute[i] += clustered(each, size)
                self.filled[i] += total(ones, np.isfinite(values))
                self.signed[i] += total(error)
                self.squared[i] += total(np.square(error))
                self.with_interval[i] += clustered(known)
                self.covered[i] += clustered(known & (size <= half_width))
                self.width[i] += total(2.0 * half_width, known)

    def rows(self, spread: float, rng: np.random.Generator) -> tuple[tuple[Row, ...], str | None]:
        """Return the rows in physical units, and the best simple method over all samples."""
        count = self.samples.sum(axis=0)
        absolute = self.absolute.sum(axis=1)
        mae = _ratio(absolute, count)
        simple = [i for i, name in enumerate(self.methods) if is_simple(name)]
        best = np.array(simple)[absolute[simple].argmin(axis=0)] if simple else None
        differences = np.full_like(self.absolute, np.nan)
        if best is not None:
            differences = self.absolute - self.absolute[best, :, np.arange(len(GROUPS))].T
        low, high = self._resampled(
            np.concatenate([differences, self.covered]),
            np.concatenate([np.broadcast_to(self.samples, differences.shape), self.with_interval]),
            rng,
        )
        (low, coverage_low), (high, coverage_high) = np.split(low, 2), np.split(high, 2)
        with_interval = self.with_interval.sum(axis=1)
        deviation = self.squares - _ratio(np.square(self.truth), count)
        reference = mae[self.methods.index(REFERENCE)] if REFERENCE in self.methods else np.full(len(GROUPS), np.nan)
        rows = []
        for i, method in enumerate(self.methods):
            columns = {
                "filled": _ratio(self.filled[i], self.hidden),
                "mae": spread * mae[i],
                "rmse": spread * np.sqrt(_ratio(self.squared[i], count)),
                "bias": spread * _ratio(self.signed[i], count),
                "r2": 1 - _ratio(self.squared[i], np.where(deviation > 1e-9 * count, deviation, 0)),
                "skill": 1 - _ratio(mae[i], reference),
                "coverage": _ratio(self.covered[i].sum(axis=0), with_interval[i]),
                "coverage_low": coverage_low[i],
                "coverage_high": coverage_high[i],
                "width": spread * _ratio(self.width[i], with_interval[i]),
                "difference": np.full(len(GROUPS), np.nan)
                if best is None
                else spread * (mae[i] - mae[best, np.arange(len(GROUPS))]),
                "difference_low": spread * low[i],
                "difference_high": spread * high[i],
            }
            rows += [
                Row(
                    method=method,
                    grouping=grouping,
                    group=group,
                    samples=int(count[g]),
                    **{name: float(column[g]) for name, column in columns.items()},
                )
                for g, (grouping, group) in enumerate(GROUPS)
                if self.hidden[g]
            ]
        return tuple(rows), None if best is None else self.methods[best[0]]

    def differences(
        self, pairs: Sequence[tuple[str, str]], spread: float, rng: np.random.Generator
    ) -> tuple[Difference, ...]:
        """Compare pairs of methods in each group that has samples, in physical units.

        Parameters
        ----------
        pairs : sequence of (str, str)
            The one method and the other.
        spread : float
            What the samples were standardised with.
        rng : Generator
            Draws the bootstrap.
        """
        if not pairs:
            return ()
        one, other = (np.array([self.methods.index(pair[side]) for pair in pairs]) for side in (0, 1))
        count = self.samples.sum(axis=0)
        mae = _ratio(self.absolute.sum(axis=1), count)
        apart = mae[one] - mae[other]
        share = _ratio(apart, mae[other])
        low, high = self._resampled(self.absolute[one] - self.absolute[other], self.samples[None], rng)
        return tuple(
            Difference(
                method=method,
                other=than,
                grouping=grouping,
                group=group,
                samples=int(count[g]),
                difference=float(spread * apart[i, g]),
                difference_low=float(spread * low[i, g]),
                difference_high=float(spread * high[i, g]),
                share=float(share[i, g]),
            )
            for i, (method, than) in enumerate(pairs)
            for g, (grouping, group) in enumerate(GROUPS)
            if count[g]
        )

    def by_frame(self) -> tuple[NDArray[np.integer], NDArray[np.int64], NDArray[np.float64]]:
        """Return frames, (frame,) samples that every method filled, and (method, frame) standardised MAE.

        Frames come in ascending order, those without such samples with NaN.
        """
        frames, owner = np.unique(self.frames, return_inverse=True)
        columns = np.concatenate([self.samples[:, :1], self.absolute[:, :, 0].T], axis=1)
        summed = _summed(columns, owner, frames.size)
        return frames, summed[:, 0].astype(np.int64), _ratio(summed[:, 1:].T, summed[:, 0])

    def _resampled(
        self, totals: NDArray[np.float64], counts: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the 5th and 95th percentile of totals over counts, both (what, cluster, group), as (what, group).

        What is drawn with replacement is passes, most often of one frame each, where `ENOUGH_FRAMES` of them have
        samples, else clusters.
        """
        shape = (len(totals), len(GROUPS))
        used = np.flatnonzero(self.samples[:, 0])
        if not used.size:
            nothing = np.full(shape, np.nan)
            return nothing, nothing
        flat, samples = (part[:, used].transpose(1, 0, 2).reshape(used.size, -1) for part in (totals, counts))
        frames, owner = np.unique(self.passes[used], return_inverse=True)
        if frames.size >= ENOUGH_FRAMES:
            samples, flat = (_summed(part, owner, frames.size) for part in (samples, flat))
        count = len(flat)
        found = np.empty((RESAMPLES, *shape))
        for i in range(RESAMPLES):  # one at a time: a matrix of all resamples may be large
            times = np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float64)
            found[i] = _ratio((times @ flat).reshape(shape), (times @ samples).reshape(-1, shape[1]))
        # A group that some resamples miss altogether has no error bars.
        return np.quantile(found, 0.05, axis=0), np.quantile(found, 0.95, axis=0)


def _summed(rows: NDArray[np.float64], owner: NDArray[np.integer], count: int) -> NDArray[np.float64]:
    """Add up the rows of each owner.

    >>> _summed(np.array([[1.0], [2.0], [4.0]]), np.array([1, 0, 1]), 2)
    array([[2.],
           [5.]])
    """
    total = np.zeros((count, rows.shape[1]))
    np.add.at(total, owner, rows)
    return total


def _ratio(total: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide, NaN where there is nothing to divide by."""
    result = np.full(np.broadcast_shapes(total.shape, count.shape), np.nan)
    np.divide(total, count, out=result, where=np.broadcast_to(count > 0, result.shape))
    return result


def groups_of(left: Crop, hidden: NDArray[np.bool_]) -> list[NDArray[np.integer]]:
    """Return the groups of each hidden sample, as positions in `GROUPS`."""
    bins = (
        np.zeros(int(hidden.sum()), dtype=np.intp),
        report_classes(left.valid, domain=left.domain)[hidden].astype(np.intp),
        np.searchsorted(REPORT_PX, space_distance(left.valid)[hidden]),
        np.searchsorted(REPORT_DAYS, time_distance(left.valid, left.days)[hidden]),
    )
    first = np.cumsum([0, *(len(groups) for groups in GROUPINGS.values())])
    return [part + start for part, start in zip(bins, first[:-1], strict=True)]


def cluster_count(crop: Crop) -> int:
    """Return how many clusters a crop has."""
    return cluster_frames(crop).size


def cluster_frames(crop: Crop) -> NDArray[np.integer]:
    """Return the frame of the cube that each of a crop's clusters lies in, in the order of their numbers."""
    frames, height, width = crop.valid.shape
    return np.repeat(crop.window.start[0] + np.arange(frames), -(-height // TILE) * -(-width // TILE))


def cluster_passes(crop: Crop) -> NDArray[np.integer]:
    """Return the pass of the cube that each of a crop's clusters lies in, in the order of their numbers."""
    return np.asarray(passes(crop.days)[cluster_frames(crop) - crop.window.start[0]])


def passes_of(crop: Crop, hidden: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the number of each hidden sample's pass; a date is one, in whichever crops it shows."""
    return passes(crop.days)[np.nonzero(hidden)[0]]


def clusters_of(crop: Crop, hidden: NDArray[np.bool_]) -> NDArray[np.integer]:
    """Return the number of each hidden sample's cluster; the same place is the same cluster in every draw."""
    _, height, width = crop.valid.shape
    t, y, x = np.nonzero(hidden)
    return np.asarray((t * -(-height // TILE) + y // TILE) * -(-width // TILE) + x // TILE)
