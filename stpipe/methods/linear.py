"""Interpolation in true time, pixel by pixel.

Between two observations of a pixel the value runs linearly in days; before the first and after the last it stays.
The interval takes the pixel for a random walk tied to its observations: variance grows with ``before x after /
(before + after)`` days between two of them, and with the days from the last one beyond the ends. How fast a pixel
walks is the mean of ``difference**2 / days`` over its successive observations, drawn towards a common rate where there
are few. A pixel that was never observed is left to a fallback method.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON, BlockInput, Filler, Prediction
from stpipe.core.windows import Triple
from stpipe.methods.pyramid import NORMAL_90, PyramidFiller

PRIOR_RATE = 1 / 60
"""Common rate: a walk leaves the scene's spread in about this many days, as fields and air do."""

PRIOR_PAIRS = 2.0
"""Number of pairs of observations that the common rate counts for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearFiller:
    """Interpolation in true time as a `Filler`."""

    fallback: Filler = field(default_factory=PyramidFiller)
    """Fills the pixels without any observation."""

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "linear"

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """The whole time axis, and what the fallback needs in the frame."""
        return (None, *self.fallback.halo[1:])

    @property
    def stride(self) -> Triple:
        """That of the fallback."""
        return self.fallback.stride

    @property
    def process_bytes(self) -> int:
        """Memory of a worker before its first block."""
        return self.fallback.process_bytes

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured."""
        return 13.0

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return 0.3

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {"method": self.name, "version": 1, "fallback": self.fallback.identity()}

    def prepare(self) -> None:
        """Nothing to load."""

    def fill(self, block: BlockInput) -> Prediction:
        """Predict every sample of the read window."""
        values, half_width = interpolate(block.values, block.valid, block.days)
        never = np.isnan(values)
        if never.any():
            other = self.fallback.fill(block)
            values = np.where(never, other.values, values)
            half_width = np.where(never, other.half_width, half_width)
        return Prediction(values=values, half_width=half_width, fallback=never)


def interpolate(
    values: NDArray[np.float32], valid: NDArray[np.bool_], days: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Interpolate each pixel linearly in true time, nearest at the ends.

    Parameters
    ----------
    values : (time, y, x) ndarray of float32
        Anything at all where not valid.
    valid : (time, y, x) ndarray of bool
        Where observed and trusted.
    days : (time,) ndarray of float64
        Ascending times.

    Returns
    -------
    interpolated, half_width : (time, y, x) ndarray of float32
        NaN for pixels without any observation; an observation itself where there is one.

    Examples
    --------
    >>> series = np.array([1, 0, 0, 5], dtype=np.float32).reshape(4, 1, 1)
    >>> interpolate(series, series > 0, np.array([0.0, 1.0, 3.0, 4.0]))[0].ravel()
    array([1., 2., 4., 5.], dtype=float32)
    """
    shape = values.shape[1:]
    before_value = np.empty(values.shape, dtype=np.float32)
    before_day = np.empty(values.shape, dtype=np.float32)
    last_value = np.full(shape, np.nan, dtype=np.float32)
    last_day = np.full(shape, -np.inf, dtype=np.float32)
    walked = np.zeros(shape, dtype=np.float32)
    pairs = np.zeros(shape, dtype=np.float32)
    since = (days - days[0]).astype(np.float32)
    # Two looks within minutes differ by noise: taken for a walk, it would be a wild one.
    least = np.float32(0.5 * np.median(np.diff(days))) if days.size > 1 else np.float32(1)
    for t, day in enumerate(since):
        known, now = valid[t], values[t]
        with np.errstate(invalid="ignore"):
            again = known & np.isfinite(last_day)
            step = np.where(again, now - last_value, np.float32(0))
            walked += np.where(again, step * step / np.maximum(day - last_day, least), np.float32(0))
        pairs += again
        last_value = np.where(known, now, last_value)
        last_day = np.where(known, day, last_day)
        before_value[t], before_day[t] = last_value, last_day
    rate = (walked + np.float32(PRIOR_PAIRS * PRIOR_RATE)) / (pairs + np.float32(PRIOR_PAIRS))
    half_width = np.empty(values.shape, dtype=np.float32)
    next_value = np.full(shape, np.nan, dtype=np.float32)
    next_day = np.full(shape, np.inf, dtype=np.float32)
    for t in range(len(since) - 1, -1, -1):
        known, day = valid[t], since[t]
        next_value = np.where(known, values[t], next_value)
        next_day = np.where(known, day, next_day)
        before, after = day - before_day[t], next_day - day
        with np.errstate(invalid="ignore"):
            share = np.where(np.isfinite(after), before / np.maximum(before + after, np.float32(1e-6)), np.float32(0))
            share = np.where(np.isfinite(before), share, np.float32(1))
            early = np.where(np.isfinite(before), before_value[t], next_value)
            late = np.where(np.isfinite(after), next_value, early)
            apart = np.where(np.isfinite(before) & np.isfinite(after), share * after, np.minimum(before, after))
            # Written in place: the value before is not needed again.
            before_value[t] = early + share * (late - early)
            half_width[t] = np.float32(NORMAL_90) * np.sqrt(rate * apart)
    half_width[np.isnan(before_value)] = np.nan
    return before_value, half_width
