"""The same season in other years, plus the frame's own offset.

A sample is taken apart into what its pixel is like, what the season does to it, and what is left::

    value(t, p) = mean(p) + season(t, p) + offset(t, p)

The season of a date is the weighted mean of the pixel's anomalies on like dates of other years: near in the year, by a
kernel of some weeks, and with little weight farther away, so that the nearest speak wherever there are any. It is
drawn towards that of the surroundings, and to none, where little was seen. The offset of the frame is the pyramid of
what is left. Cells of the overviews have seasons too, and the coarse levels of the pyramid are sums of what is left of
those, so that where block borders fall makes no difference.

As there is less to tell the season from, the method goes over into `anomaly` (mean and offset alone); a cube without
a second year is left to it altogether.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stpipe.core.ports import JSON, BlockInput, Overviews, Prediction
from stpipe.core.survey import COUNT, SUM, Level
from stpipe.core.windows import Window
from stpipe.methods.anomaly import (
    AnomalyFiller,
    AnomalyOverviews,
    FrameCorrectedMeans,
    add_doubt,
    coarse_fill,
    less,
    over_pixels,
    pixel_deviations,
)
from stpipe.methods.fallback import WithFallback

YEAR_DAYS = 365.25
"""Length of a year."""

KERNEL_DAYS = (32.0, 64.0)
"""Reaches of the kernel in the year; the wider one speaks where the other finds nothing."""

WIDER = 0.2
"""Weight of a wider reach against the one before."""

KERNEL_ROWS = 64
"""Frames whose weights are worked out together."""

PRIOR_WEIGHT = 1.5
"""A season is drawn towards that of the surroundings, which counts as so many observations on the very day."""

Kernel = sparse.csr_array[np.float64, tuple[int, int]]
"""(frames, frames) weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClimatologyFiller(WithFallback):
    """The same season in other years as a `Filler`; nothing is trained."""

    fallback: AnomalyFiller = field(default_factory=AnomalyFiller)
    """Its pyramid fills the offsets; fills cubes without a second year."""

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "climatology"

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured."""
        return 21.0

    @property
    def pixel_bytes(self) -> float:
        """Memory of a fill besides for each pixel of the read window, measured: temporaries of whole frames."""
        return 350.0

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return 0.5

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {"method": self.name, "version": 1, "fallback": self.fallback.identity()}

    def fill(self, block: BlockInput) -> Prediction:
        """Predict every sample of the read window that has any observation of the scene in reach.

        `Prediction.fallback` is True where the pixel was not seen in this season of any other year.
        """
        kernel = season_kernel(block.all_days)
        if not kernel.nnz:
            made = self.fallback.fill(block)
            return replace(made, fallback=np.ones_like(made.fallback))
        pyramid = self.fallback.pyramid
        means = FrameCorrectedMeans(block.overviews)
        seasons = CellSeasons(block.overviews, means, kernel)
        remains = AnomalyOverviews(block.overviews, seasons)
        reference = over_pixels(seasons, block)
        expected = coarse_fill(pyramid, block, remains) + reference
        deviation, support = pixel_deviations(block, expected)
        expected += deviation.astype(np.float32)
        if not np.array_equal(block.days, block.all_days):
            kernel = season_kernel(block.days)
        season, fallback = pixel_seasons(block, expected, kernel)
        reference += deviation.astype(np.float32)
        reference += season
        del expected, season
        rest = np.where(block.valid, block.values - reference, np.float32(0))
        made = pyramid.fill(replace(block, values=rest, overviews=remains))
        values, half_width = made.values, made.half_width
        values += reference
        add_doubt(half_width, support)
        return Prediction(values=values, half_width=half_width, fallback=fallback)


def season_kernel(days: NDArray[np.float64]) -> Kernel:
    """Return (frames, frames) weights of like dates in other years.

    Tricubes of the distance within the year, with reaches of `KERNEL_DAYS`, the wider one with less weight. Dates less
    than half a year apart are of the same year and have no weight.

    Examples
    --------
    >>> season_kernel(np.array([0.0, 8.0, 365.25, 378.0, 735.0])).toarray()[0].round(3)
    array([0.   , 0.   , 1.2  , 1.017, 1.191])
    """
    # Some rows at a time: whole, the kernel of 20 years of days takes gigabytes, and all but a few weights are zero.
    starts = range(0, days.size, KERNEL_ROWS)
    rows = [sparse.csr_array(_season_weights(days[start : start + KERNEL_ROWS], days)) for start in starts]
    return sparse.csr_array(sparse.vstack(rows, format="csr"))


def _season_weights(days: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    apart = others[None, :] - days[:, None]
    years = np.rint(apart / YEAR_DAYS)
    distance = np.abs(apart - YEAR_DAYS * years)
    weight = np.zeros_like(apart)
    for number, reach in enumerate(KERNEL_DAYS):
        weight += WIDER**number * np.maximum(1 - (distance / reach) ** 3, 0) ** 3
    weight[years == 0] = 0
    return weight


@dataclass(frozen=True, slots=True)
class CellSeasons:
    """What a cell is like on each date, after other years: its mean and its season."""

    overviews: Overviews
    """Those of the values."""

    means: FrameCorrectedMeans
    """What the cells are like in the mean."""

    kernel: Kernel
    """(T, T) weights of like dates in other years."""

    def at(self, level: int, sums: Level, cells: Window) -> NDArray[np.float64]:
        """Return (T, y, x) references of cells, given their sums over all frames."""
        mean = self.means.at(level, sums, cells)
        anomalies = less(sums, mean)
        shape = anomalies.shape[1:]
        count, total = ((self.kernel @ anomalies[part].reshape(shape[0], -1)).reshape(shape) for part in (COUNT, SUM))
        return np.asarray(mean + total / (count + PRIOR_WEIGHT * 4.0**level))


def pixel_seasons(
    block: BlockInput, expected: NDArray[np.float32], kernel: Kernel
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return (t, y, x) by how much pixels differ from what is expected on like dates of other years.

    Parameters
    ----------
    block : BlockInput
        The values, over the whole time axis.
    expected : (t, y, x) ndarray of float32
        What the surroundings and the pixel's mean say of each sample.
    kernel : (t, t) sparse array
        Weights of like dates in other years.

    Returns
    -------
    season : (t, y, x) ndarray of float32
        Zero where nothing was seen.
    unseen : (t, y, x) ndarray of bool
        True where the pixel was not seen on any like date.
    """
    season = np.empty(block.values.shape, dtype=np.float32)
    unseen = np.empty(block.values.shape, dtype=bool)
    for y in range(block.window.shape[1]):
        known = block.valid[:, y]
        weight = kernel @ known.astype(np.float64)
        total = kernel @ np.where(known, block.values[:, y] - expected[:, y], 0).astype(np.float64)
        season[:, y] = total / (weight + PRIOR_WEIGHT)
        unseen[:, y] = weight <= 0
    return season, unseen
