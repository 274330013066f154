"""What the network sees of a block: the guides, and how the observations differ from them.

Every sample, observed or not, is described as if it were a gap of its own: the observations before and after it in
its pixel, itself left out, give its value linear in true time. At a gap that is what the `linear` method gives; at an
observation the difference says what this frame, here, does beyond what the pixel's own past and future tell. The
network carries these differences from the observations into the gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRIOR_PAIRS = 2.0
"""Pairs of observations that the common rate of change counts for in each pixel's own rate."""

NORMAL_90 = 1.6449
"""Half-width of a 90 % interval of a normal distribution, in standard deviations."""

UNKNOWN_HALF_WIDTH = 10.0
"""Half-width of a guide that has no answer."""

SMALLEST_HALF_WIDTH = 1e-3
"""Guides claim no less than this share of the scene's spread: it is divided by."""

LONGEST_STEPS = 400.0
"""Times to the neighbouring observations are cut here, in median steps."""

CHANNELS = (
    "observed minus pyramid",
    "observed minus own neighbours in time",
    "linear minus pyramid",
    "next minus previous",
    "steps since previous",
    "steps until next",
    "half-width of pyramid",
    "half-width of linear",
    "observed",
)
"""Features, in order; the first two are masked by `MASKS` 0 and 1, the next two by 2, the others are always valid."""

MASKS = ("observed", "observed and with neighbours in time", "with neighbours in time")
"""Masks, in order; they follow the features in the network's input."""

INPUTS = len(CHANNELS) + len(MASKS)
"""Channels of the network's input."""

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The observations before and after each sample in its own pixel, the sample itself left out."""

    linear: F32
    """(t, y, x), linear in true time between them, nearest where there is one only; NaN where there is none."""

    half_width: F32
    """(t, y, x), of a 90 % interval for a random walk tied to them; NaN where there is none."""

    change: F32
    """(t, y, x), the later one minus the earlier one; zero unless both exist."""

    since: F32
    """(t, y, x), median steps since the earlier one; `LONGEST_STEPS` where there is none."""

    until: F32
    """(t, y, x), median steps until the later one; likewise."""

    def part(self, part: tuple[slice, slice, slice]) -> Neighbours:
        """Cut a window out."""
        return Neighbours(
            linear=self.linear[part],
            half_width=self.half_width[part],
            change=self.change[part],
            since=self.since[part],
            until=self.until[part],
        )


def median_step(days: NDArray[np.float64]) -> float:
    """Return the median step of a time axis in days; 1 for a single frame.

    >>> median_step(np.array([0.0, 5.0, 10.0, 40.0]))
    5.0
    """
    steps = np.diff(days)
    return float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0


def neighbours(values: F32, valid: NDArray[np.bool_], days: NDArray[np.float64], step: float) -> Neighbours:
    """Describe each sample by the other observations of its pixel.

    Parameters
    ----------
    values : (time, y, x) ndarray of float32
        Anything at all where not valid.
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
    since, until, early = (np.empty(values.shape, dtype=np.float32) for _ in range(3))
    when = ((days - days[0]) / step).astype(np.float32)
    last_value = np.full(shape, np.nan, dtype=np.float32)
    last_time = np.full(shape, -np.inf, dtype=np.float32)
    walked = np.zeros(shape, dtype=np.float32)
    pairs = np.zeros(shape, dtype=np.float32)
    for t, now in enumerate(when):
        early[t], since[t] = last_value, now - last_time
        again = valid[t] & np.isfinite(last_time)
        jump = np.where(again, values[t], np.float32(0)) - np.where(again, last_value, np.float32(0))
        walked += jump * jump / np.where(again, np.maximum(since[t], np.float32(1e-3)), np.float32(1))
        pairs += again
        np.copyto(last_value, values[t], where=valid[t])
        last_time[valid[t]] = now
    # The walk's common rate: the scene leaves its spread within about a dozen steps.
    rate = (walked + np.float32(PRIOR_PAIRS / 12)) / (pairs + np.float32(PRIOR_PAIRS))
    linear, half_width, change = early, np.empty_like(early), np.empty_like(early)
    next_value = np.full(shape, np.nan, dtype=np.float32)
    next_time = np.full(shape, np.inf, dtype=np.float32)
    for t in range(len(when) - 1, -1, -1):
        until[t] = next_time - when[t]
        has_early, has_late = np.isfinite(since[t]), np.isfinite(next_time)
        both = has_early & has_late
        before = np.where(has_early, early[t], next_value)
        after = np.where(has_late, next_value, before)
        to_late = np.where(has_late, until[t], np.float32(1))
        span = np.where(both, np.maximum(since[t], np.float32(0)) + to_late, np.float32(1))
        share = np.where(both, since[t], np.float32(0)) / np.maximum(span, np.float32(1e-6))
        step_up = np.where(both, after - before, np.float32(0))
        apart = np.where(both, share * to_late, np.minimum(since[t], until[t]))
        change[t] = step_up
        linear[t] = before + share * step_up
        half_width[t] = np.float32(NORMAL_90) * np.sqrt(rate * apart)
        np.copyto(next_value, values[t], where=valid[t])
        next_time[valid[t]] = when[t]
    half_width[np.isnan(linear)] = np.nan
    for steps in (since, until):
        np.minimum(steps, np.float32(LONGEST_STEPS), out=steps)
    return Neighbours(linear=linear, half_width=half_width, change=change, since=since, until=until)


def network_base(pyramid: F32, around: Neighbours) -> F32:
    """Return the field that the network corrects: the pyramid, or linear where there is none; zero without either."""
    base = np.where(np.isfinite(pyramid), pyramid, around.linear)
    return np.nan_to_num(base, copy=False, nan=0.0)


def network_input(
    values: F32, valid: NDArray[np.bool_], pyramid: F32, pyramid_half_width: F32, around: Neighbours
) -> tuple[F32, F32]:
    """Return the network's input and the field that it corrects.

    Parameters
    ----------
    values, valid : (time, y, x) ndarray
        Standardised values, anything at all in gaps.
    pyramid, pyramid_half_width : (time, y, x) ndarray of float32
        The guide, NaN where it has no answer.
    around : Neighbours
        Of the same samples.

    Returns
    -------
    inputs : (time, y, x, INPUTS) ndarray of float32
        `CHANNELS`, then `MASKS` as 0 and 1; finite.
    base : (time, y, x) ndarray of float32
        What the network's answer is to be added to.
    """
    inputs = np.zeros((*values.shape, INPUTS), dtype=np.float32)
    base = network_base(pyramid, around)
    timed = np.isfinite(around.linear)
    both = valid & timed
    np.subtract(values, base, out=inputs[..., 0], where=valid)
    np.subtract(values, around.linear, out=inputs[..., 1], where=both)
    np.subtract(around.linear, base, out=inputs[..., 2], where=timed)
    np.copyto(inputs[..., 3], around.change, where=timed)
    np.log1p(around.since, out=inputs[..., 4])
    np.log1p(around.until, out=inputs[..., 5])
    for channel, half_width in ((6, pyramid_half_width), (7, around.half_width)):
        known = np.isfinite(half_width)
        finite = np.where(known, half_width, np.float32(UNKNOWN_HALF_WIDTH))
        np.log(np.maximum(finite, np.float32(SMALLEST_HALF_WIDTH)), out=inputs[..., channel])
    inputs[..., 8] = valid
    for number, mask in enumerate((valid, both, timed)):
        inputs[..., len(CHANNELS) + number] = mask
    return inputs, base
