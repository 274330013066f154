"""Each sample between the other observations of its pixel: the nearest one before, the nearest one after.

Every sample, observed or not, is described as if it were a gap of its own. At a gap that gives its value linear in
true time; at an observation the difference says what this frame, here, does beyond what the pixel's own past and
future tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRIOR_PAIRS = 2.0
"""Pairs of observations that the common rate of change counts for in each pixel's own rate."""

PRIOR_RATE = 1 / 12
"""Common rate of change: the square of the scene's spread in about a dozen median steps."""

PASS_DAYS = 100 / 86400
"""Frames within so long of the first of a pass can be of it: neighbouring tiles of Sentinel-2 and Landsat are 15 to
25 s apart, two satellites on the same orbit minutes."""

PASS_SHARE = 0.01
"""Unless that is more than this share of the series' mean step, for then it is one of minutes; a series that is no
longer than that is one pass."""

SHORTEST_STEP = 0.5
"""Two looks within minutes differ by noise: taken for a walk, it would be a wild one. In median steps."""

PASS_APART = 0.1
"""Tiles of one pass differ by noise as well: that is what a walk through so many median steps comes to, about."""

LONGEST_STEPS = 400.0
"""Times to the neighbouring observations are cut here, in median steps."""

NORMAL_90 = 1.6449
"""Half-width of a 90 % interval of a normal distribution, in standard deviations."""

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The observations before and after each sample in its own pixel, the sample itself left out."""

    linear: F32
    """(t, y, x), linear in true time between them, nearest where there is one only; NaN where there is none."""

    half_width: F32
    """(t, y, x), of a 90 % interval for a random walk tied to them; NaN where there is none."""

    early: F32
    """(t, y, x), the earlier one; NaN where there is none."""

    late: F32
    """(t, y, x), the later one; NaN where there is none."""

    since: F32
    """(t, y, x), median steps since the earlier one; `LONGEST_STEPS` where there is none."""

    until: F32
    """(t, y, x), median steps until the later one; likewise."""

    def part(self, part: tuple[slice, ...]) -> Neighbours:
        """Cut a window out."""
        return Neighbours(
            linear=self.linear[part],
            half_width=self.half_width[part],
            early=self.early[part],
            late=self.late[part],
            since=self.since[part],
            until=self.until[part],
        )


def passes(days: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return (time,) the pass that each frame is of, counted from 0.

    Tiles that one pass of a satellite saw have times of their own, some seconds apart, but are one look at the scene:
    what hides the ground from one of them hides it from all, and the step between them is not the series' own.

    Parameters
    ----------
    days : (time,) ndarray of float64
        Ascending times.

    Examples
    --------
    >>> passes(np.array([0.0, 0.0002, 5.0, 5.0002, 10.0]))
    array([0, 0, 1, 1, 2])
    >>> passes(np.arange(4) / 1440)
    array([0, 1, 2, 3])
    """
    which = np.arange(days.size)
    if days.size < 2:
        return which
    span = float(days[-1] - days[0])
    longest = PASS_DAYS if span <= PASS_DAYS else min(PASS_DAYS, PASS_SHARE * span / (days.size - 1))
    if (np.diff(days) > longest).all():
        return which
    first, number = float(days[0]), 0
    for t, day in enumerate(days.tolist()):
        if day - first > longest:
            first, number = day, number + 1
        which[t] = number
    return which


def median_step(days: NDArray[np.float64]) -> float:
    """Return the median step between the passes of a time axis in days; 1 for a single frame.

    >>> median_step(np.array([0.0, 5.0, 10.0, 40.0])), median_step(np.array([0.0, 0.0002, 5.0, 5.0002]))
    (5.0, 5.0)
    """
    steps = np.diff(days[np.flatnonzero(np.diff(passes(days), prepend=-1))])
    return float(np.median(steps)) if steps.size else 1.0


def neighbours(values: F32, valid: NDArray[np.bool_], days: NDArray[np.float64], step: float) -> Neighbours:
    """Describe each sample by the other observations of its pixel.

    The interval takes the pixel for a random walk tied to its observations: variance grows with ``before x after /
    (before + after)`` between two of them, and with the time from the last one beyond the ends. How fast a pixel walks
    is the mean of ``difference**2 / time`` over its successive observations, drawn towards `PRIOR_RATE` where there
    are few. Tiles of a pass tell nothing of that.

    Parameters
    ----------
    values : (time, y, x) ndarray of float32
        Standardised; anything at all where not valid.
    valid : (time, y, x) ndarray of bool
        Where observed and trusted.
    days : (time,) ndarray of float64
        Ascending times.
    step : float
        Days that count as one step, see `median_step`.

    Examples
    --------
    >>> series = np.array([1, 9, 0, 5], dtype=np.float32).reshape(4, 1, 1)
    >>> around = neighbours(series, series > 0, np.array([0.0, 1.0, 3.0, 4.0]), step=1.0)
    >>> around.linear.ravel().round(2)
    array([9.  , 2.  , 6.33, 9.  ], dtype=float32)
    >>> around.since.ravel()
    array([400.,   1.,   2.,   3.], dtype=float32)
    """
    shape = values.shape[1:]
    since, until, early, late, linear, half_width = (np.empty(values.shape, dtype=np.float32) for _ in range(6))
    when = ((days - days[0]) / step).astype(np.float32)
    last_value = np.full(shape, np.nan, dtype=np.float32)
    last_time = np.full(shape, -np.inf, dtype=np.float32)
    walked = np.zeros(shape, dtype=np.float32)
    pairs = np.zeros(shape, dtype=np.float32)
    which = passes(days)
    shared = np.bincount(which)[which] > 1
    last_pass = np.full(shape, -1, dtype=np.int32)
    for t, now in enumerate(when):
        early[t], since[t] = last_value, now - last_time
        again = valid[t] & (last_pass >= 0) & (last_pass != which[t])  # tiles of a pass tell noise, and no walk
        jump = np.where(again, values[t], np.float32(0)) - np.where(again, last_value, np.float32(0))
        walked += jump * jump / np.where(again, np.maximum(since[t], np.float32(SHORTEST_STEP)), np.float32(1))
        pairs += again
        np.copyto(last_value, values[t], where=valid[t])
        last_time[valid[t]] = now
        last_pass[valid[t]] = which[t]
    rate = (walked + np.float32(PRIOR_PAIRS * PRIOR_RATE)) / (pairs + np.float32(PRIOR_PAIRS))
    next_value = np.full(shape, np.nan, dtype=np.float32)
    next_time = np.full(shape, np.inf, dtype=np.float32)
    for t in range(len(when) - 1, -1, -1):
        late[t], until[t] = next_value, next_time - when[t]
        has_early, has_late = np.isfinite(since[t]), np.isfinite(next_time)
        both = has_early & has_late
        before = np.where(has_early, early[t], next_value)
        after = np.where(has_late, next_value, before)
        to_late = np.where(has_late, until[t], np.float32(1))
        span = np.where(both, np.maximum(since[t], np.float32(0)) + to_late, np.float32(1))
        share = np.where(both, since[t], np.float32(0)) / np.maximum(span, np.float32(1e-6))
        linear[t] = before + share * np.where(both, after - before, np.float32(0))
        apart = np.where(both, share * to_late, np.minimum(since[t], until[t]))
        if shared[t]:
            np.maximum(apart, np.float32(PASS_APART), out=apart)
        half_width[t] = np.float32(NORMAL_90) * np.sqrt(rate * apart)
        np.copyto(next_value, values[t], where=valid[t])
        next_time[valid[t]] = when[t]
    half_width[np.isnan(linear)] = np.nan
    for steps in (since, until):
        np.minimum(steps, np.float32(LONGEST_STEPS), out=steps)
    return Neighbours(linear=linear, half_width=half_width, early=early, late=late, since=since, until=until)
