"""The pyramid on anomalies from each pixel's own temporal mean.

What stays in time (fields, coasts, reliefs) is finer than clouds are, and what changes (weather, seasons) is coarse::

    value(t, p) = mean(p) + anomaly(t, p)

The mean of a pixel is known from the frames that saw it, and the anomaly of a gap from the pixels around it, whatever
their means. Both must know of each other: a pixel that was seen in bright frames alone is not a bright pixel, and a
cell of which the bright quarter was seen is not in a bright frame. So the cells of the overviews come first, from the
coarsest level down: a cell's mean is taken over ``value - anomaly of the frame around it``, the anomaly from the cells
two levels up. Anomalies of a level's cells are summed over cells two levels finer, each from its own mean. Pixels
follow in the same way, from the anomalies at the finest overview level. All that lies in reach of a pixel is the
overviews, which are the scene's, and a small halo, so that where block borders fall makes no difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON, BlockInput, Overviews, Prediction
from stpipe.core.survey import BASE_CELL, BASE_LEVEL, COUNT, SUM, Level, pool
from stpipe.core.windows import Triple, Window
from stpipe.methods.pyramid import PyramidFiller, box, pool_shares, pull, upsample

Pixels = NDArray[np.float64]
"""(y, x)."""

FINER = 2
"""Anomalies of a level's cells are taken from the means of cells so many levels finer, where there are any."""

PRIOR_FRAMES = 4.0
"""A cell's mean is drawn towards that of the cell two levels up, which counts as so many frames."""

QUARTERS = 4
"""Each half of the time is every other quarter of it, so that spring and autumn are in both."""

PRIORS = (1.0, 100.0)
"""Least and most observations that the surroundings of a pixel count for."""

UNKNOWN_PRIOR = 5.0
"""The same where there are too few observations to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalyFiller:
    """The pyramid on anomalies as a `Filler`; nothing is trained."""

    pyramid: PyramidFiller = field(default_factory=PyramidFiller)
    """Fills the anomalies."""

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "anomaly"

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """The whole time axis; in the frame what the pyramid needs, and what the means at the end of that need."""
        _, height, width = self.pyramid.halo
        return None, height + 2 * BASE_CELL, width + 2 * BASE_CELL

    @property
    def stride(self) -> Triple:
        """That of the pyramid."""
        return self.pyramid.stride

    @property
    def process_bytes(self) -> int:
        """Memory of a worker before its first block."""
        return self.pyramid.process_bytes

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured."""
        return 16.0

    @property
    def pixel_bytes(self) -> float:
        """Memory of a fill besides for each pixel of the read window, measured: temporaries of whole frames."""
        return 350.0

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return 0.25

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {
            "method": self.name,
            "version": 1,
            "pyramid": self.pyramid.identity(),
        }

    def prepare(self) -> None:
        """Nothing to load."""

    def fill(self, block: BlockInput) -> Prediction:
        """Predict every sample of the read window that has any observation of the scene in reach.

        `Prediction.fallback` is True for pixels without any observation, whose mean is that of their surroundings.
        """
        means = FrameCorrectedMeans(block.overviews)
        anomalies = AnomalyOverviews(block.overviews, means)
        smooth = over_pixels(means, block)[0]
        expected = coarse_fill(self.pyramid, block, anomalies)
        expected += smooth
        deviation, support = pixel_deviations(block, expected)
        del expected
        mean = smooth + deviation.astype(np.float32)
        made = self.pyramid.fill(
            replace(block, values=np.where(block.valid, block.values - mean, np.float32(0)), overviews=anomalies)
        )
        values, half_width = made.values, made.half_width
        values += mean
        add_doubt(half_width, support)
        fallback = np.broadcast_to(~block.valid.any(axis=0), block.valid.shape).copy()
        return Prediction(values=values, half_width=half_width, fallback=fallback)


class CellReference(Protocol):
    """What anomalies of cells are taken from."""

    def at(self, level: int, sums: Level, cells: Window) -> NDArray[np.float64]:
        """Return (t, y, x) or (y, x) references of a window of cells, given their sums over all frames."""


@dataclass(frozen=True, slots=True)
class AnomalyOverviews:
    """Overviews of anomalies: those of a level's cells are summed over finer cells, each from its own reference."""

    overviews: Overviews
    """Those of the values."""

    reference: CellReference
    """What the anomalies are taken from."""

    known: dict[tuple[int, Window], Level] = field(default_factory=dict, compare=False, repr=False)
    """What was read, for the next time: the pyramid runs twice over the same cells."""

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels there are, ascending."""
        return self.overviews.levels

    def shape(self, level: int) -> Triple:
        """(t, y, x) shape of a level."""
        return self.overviews.shape(level)

    def read(self, level: int, window: Window) -> Level:
        """Return count, sum and sum of squares of anomalies; zero outside the scene."""
        if (level, window) not in self.known:
            self.known[level, window] = self._anomalies(level, window)
        return self.known[level, window]

    def _anomalies(self, level: int, window: Window) -> Level:
        finer = max(self.levels[0], level - FINER)
        factor = 2 ** (level - finer)
        (_, y0, x0), (_, y1, x1) = window.start, window.stop
        frames = self.shape(level)[0]
        cells = Window((0, y0 * factor, x0 * factor), (frames, y1 * factor, x1 * factor))
        sums = self.overviews.read(finer, cells)
        reference = np.broadcast_to(self.reference.at(finer, sums, cells), sums.shape[1:])
        inside = window.intersect(Window((0, y0, x0), (frames, y1, x1)))
        result = np.zeros((3, *window.shape))
        used = inside.slices[0]
        result[:, inside.within(window).slices[0]] = pool(less(sums[:, used], reference[used]), factor)
        return result


def less(sums: Level, reference: NDArray[np.float64]) -> Level:
    """Return sums as if taken over ``value - reference``.

    Examples
    --------
    >>> sums = np.array([2.0, 6.0, 20.0]).reshape(3, 1, 1, 1)  # of 2 and 4
    >>> less(sums, np.array([[[1.0]]])).ravel()
    array([ 2.,  4., 10.])
    """
    count, total, squares = sums
    moved = squares - 2 * reference * total + reference**2 * count
    return np.stack([count, total - reference * count, np.maximum(moved, 0)])


@dataclass(frozen=True, slots=True)
class FrameCorrectedMeans:
    """Temporal means of cells, corrected for which frames saw them."""

    overviews: Overviews
    """Those of the values."""

    def at(self, level: int, sums: Level, cells: Window) -> NDArray[np.float64]:
        """Return (y, x) means of cells over time.

        Parameters
        ----------
        level : int
            Level of the cells.
        sums : (3, T, y, x) ndarray of float64
            Their sums over all frames.
        cells : Window
            Where they lie.

        Returns
        -------
        (y, x) ndarray of float64
            The mean of ``value - anomaly of the frame around``; where nothing was seen, that of the cells around.
            Zero in a scene without any observation.
        """
        last = self.overviews.levels[-1]
        seen = sums[COUNT].sum(axis=0)
        total = sums[SUM].sum(axis=0)
        if level == last:
            return np.asarray(total / np.maximum(seen, 1))
        step = min(FINER, last - level)
        factor = 2**step
        (_, y0, x0), (_, y1, x1) = cells.start, cells.stop
        frames = cells.shape[0]
        above = Window((0, y0 // factor, x0 // factor), (frames, -(-y1 // factor), -(-x1 // factor)))
        parents = self.overviews.read(level + step, above)
        parent_mean = self.at(level + step, parents, above)
        anomaly = parents[SUM] / np.maximum(parents[COUNT], 1) - np.where(parents[COUNT] > 0, parent_mean, 0)
        top, left = above.start[1] * factor, above.start[2] * factor
        rows, columns = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        total -= (sums[COUNT] * _repeated(anomaly, factor)[:, rows, columns]).sum(axis=0)
        prior = PRIOR_FRAMES * 4.0**level
        return np.asarray((total + prior * _repeated(parent_mean, factor)[rows, columns]) / (seen + prior))


def coarse_fill(pyramid: PyramidFiller, block: BlockInput, overviews: Overviews) -> NDArray[np.float32]:
    """Return (t, y, x) what the cells of some overviews alone say of a block's pixels."""
    return pyramid.fill(replace(block, valid=np.zeros_like(block.valid), overviews=overviews)).values


def over_pixels(reference: CellReference, block: BlockInput) -> NDArray[np.float32]:
    """Return (t, y, x) references of a block's pixels, interpolated between cells of the finest overview.

    The first axis has length 1 where the reference is the same in all frames; frames past the end of the cube are like
    its last one.
    """
    (t0, y0, x0), (t1, y1, x1) = block.window.start, block.window.stop
    level = block.overviews.levels[0]
    cell = 2**level
    frames, height, width = block.overviews.shape(level)
    cells = Window((0, y0 // cell - 1, x0 // cell - 1), (frames, -(-y1 // cell) + 1, -(-x1 // cell) + 1))
    coarse = reference.at(level, block.overviews.read(level, cells), cells)
    coarse = coarse[None] if coarse.ndim == 2 else coarse[np.minimum(np.arange(t0, t1), frames - 1)]
    inside = np.zeros(cells.shape[1:], dtype=bool)
    inside[cells.intersect(Window.of((frames, height, width))).within(cells).slices[1:]] = True
    margin = slice(cell, -cell)
    result = np.empty((len(coarse), y1 - y0, x1 - x0), dtype=np.float32)
    for t, frame in enumerate(coarse):
        estimate = np.stack([inside, np.where(inside, frame, 0), np.zeros_like(frame)])
        for _ in range(level):
            upper = upsample(estimate)
            estimate = pull(np.zeros_like(upper), upper, 1.0)
        result[t] = estimate[SUM, margin, margin]
    return result


def pixel_deviations(block: BlockInput, expected: NDArray[np.float32]) -> tuple[Pixels, Pixels]:
    """Return by how much a block's pixels lie above what is expected of them, and how sure that is.

    Parameters
    ----------
    block : BlockInput
        The values, over the whole time axis.
    expected : (t, y, x) ndarray of float32
        What the surroundings say of each sample.

    Returns
    -------
    deviation, support : (y, x) ndarray of float64
        The mean of ``value - expected`` over time, drawn towards that of the pixels around; and the number of
        observations it is worth, those of its surroundings included.
    """
    counts, totals = (np.zeros((2, *block.valid.shape[1:])) for _ in range(2))
    first = block.window.start[0]
    for t, (value, known, believed) in enumerate(zip(block.values, block.valid, expected, strict=True)):
        half = (first + t) * QUARTERS // block.all_days.size % 2
        counts[half] += known
        totals[half] += np.where(known, value - believed, 0)
    prior = prior_counts(counts, totals)
    count, total = counts.sum(axis=0), totals.sum(axis=0)
    levels, priors = [np.stack([count, total])], [prior]
    for _ in range(BASE_LEVEL - 1):
        levels.append(pool_shares(levels[-1]))
        priors.append(priors[-1][::2, ::2])
    upper: NDArray[np.floating] = np.zeros_like(levels[-1])  # from level 3 on, the surroundings are what is expected
    for sums, weight in zip(reversed(levels), reversed(priors), strict=True):
        near, above = box(sums), upper[SUM]
        nearby = (near[SUM] + weight * above) / (near[COUNT] + weight)
        upper = upsample(np.stack([np.ones_like(nearby), nearby]))
    support = count + prior
    return (total + prior * nearby) / support, support


def add_doubt(half_width: NDArray[np.float32], support: Pixels) -> None:
    """Widen intervals of anomalies, in place, by what a mean over so many observations errs by.

    The mean of n observations errs by their scatter over the square root of n.
    """
    scatter = (np.mean(half_width, axis=0, dtype=np.float64) ** 2 / support).astype(np.float32)
    for frame in half_width:
        frame[...] = np.sqrt(frame * frame + scatter)


def prior_counts(counts: NDArray[np.float64], totals: NDArray[np.float64]) -> Pixels:
    """Return how many observations the surroundings of a pixel are worth, in estimating its mean.

    Where pixels differ for good, what sets a pixel apart in one half of the time does so in the other, and a few
    observations say more than the surroundings. Where they differ by weather, it does not. With s a pixel's sum over n
    observations of its distance from the surroundings, over pixels around and both halves of the time::

        lasting = sum(s1 s2) / sum(n1 n2)
        passing = (sum(s**2) - lasting x sum(n**2)) / sum(n)
        prior = passing / lasting

    Parameters
    ----------
    counts, totals : (2, y, x) ndarray of float64
        Number and sum of the distances in each half of the time; y and x are multiples of `BASE_CELL`.

    Returns
    -------
    (y, x) ndarray of float64
        From `PRIORS` [0] to [1], and `UNKNOWN_PRIOR` where no pixel around was seen in both halves.

    Notes
    -----
    Source: shrinkage by the ratio of variances within and between, after Efron and Morris (1973), Stein's estimation
    rule and its competitors, JASA 68; the variance between is taken across halves, so that neighbours in time that
    are alike do not count as two.

    Examples
    --------
    >>> field = np.where(np.arange(64).reshape(8, 8) % 2, 1.0, -1.0)
    >>> prior_counts(np.ones((2, 8, 8)), np.stack([field, field]))[0, 0]
    np.float64(1.0)
    >>> prior_counts(np.ones((2, 8, 8)), np.stack([field, -field]))[0, 0]
    np.float64(100.0)
    """
    count, total = counts.sum(axis=0), totals.sum(axis=0)
    parts = np.stack([totals[0] * totals[1], counts[0] * counts[1], total**2, count**2, count])
    both, pairs, squares, counted_squares, counted = box(pool(parts, BASE_CELL))
    lasting = np.maximum(both, 0) / np.where(pairs > 0, pairs, 1)
    passing = np.maximum(squares - lasting * counted_squares, 0) / np.where(counted > 0, counted, 1)
    least, most = PRIORS
    prior = np.full_like(lasting, most)
    np.divide(passing, lasting, out=prior, where=lasting > passing / most)
    prior = np.maximum(prior, least)
    return _repeated(np.where(pairs > 0, prior, UNKNOWN_PRIOR), BASE_CELL)


def _repeated(cells: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    return cells.repeat(factor, axis=-2).repeat(factor, axis=-1)
