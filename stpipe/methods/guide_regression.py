"""Regression on guides, a line a pixel, without a loop over pixels; `stpipe.methods.guided` says what it is for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from stpipe.core.timeline import Neighbours, neighbours
from stpipe.errors import ScratchError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

SMOOTHINGS = ((0, 0.0), (0, 2.0), (3, 2.0), (3, 5.0))
"""What learning tries: pixels to either side in the frame, and standard deviation in median steps of the cube."""

RIDGES = (4.0, 16.0, 64.0, 1e6)
"""Ridges that learning tries, in observations; the last leaves a pixel nothing of its own."""

SPANS = (2.0, 5.0, 12.0)
"""Median steps between a pixel's observations around a gap at which it is told how far to follow the regression.

Interpolation is hard to better over a step or two, and knows nothing of what happens in a long gap."""

FIRST_RIDGE = 16.0
"""The one with which smoothings are compared."""

KERNEL = 3.0
"""A smoothing in time reaches so many standard deviations."""

STRIP = 2**18
"""Numbers of normal matrices that are held at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What was learned of a cube and its guides."""

    smoothing: tuple[int, float] = SMOOTHINGS[0]
    """One of `SMOOTHINGS`."""

    ridge: float = FIRST_RIDGE
    """One of `RIDGES`."""

    weights: tuple[float, ...] = (0.0,) * len(SPANS)
    """How far the regression is followed, from 0 (interpolation alone) to 1, at each of `SPANS`."""

    slopes: tuple[float, ...] = ()
    """(guide,), the scene's, within pixels."""

    covariance: tuple[tuple[float, ...], ...] = ()
    """(guide, guide), of the guides over time within pixels."""

    level: tuple[float, ...] = ()
    """(1 + guide,), intercept and slopes over all of the scene's samples."""

    level_spread: float = 1.0
    """Standard deviation of what that regression leaves over."""

    samples: int = 0
    """Hidden samples that judged."""

    errors: tuple[float, float] = (float("nan"), float("nan"))
    """Mean absolute error of interpolation on these, and with the guides; in spreads."""

    @property
    def used(self) -> bool:
        """Whether the regression is followed anywhere."""
        return any(self.weights)

    def follow(self, span: F32) -> F32:
        """Return how far the regression is followed where a pixel was not observed for so many median steps.

        >>> Lesson(weights=(0.0, 0.5, 1.0)).follow(np.array([1, 5, 400], dtype=np.float32))
        array([0. , 0.5, 1. ], dtype=float32)
        """
        place = np.log(np.clip(span.astype(np.float64), SPANS[0], SPANS[-1]))
        return np.interp(place, np.log(SPANS), self.weights).astype(np.float32)

    def to_bytes(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, learned: bytes) -> Lesson:
        """Return what `to_bytes` wrote."""
        try:
            told = json.loads(learned)
            told["smoothing"] = (int(told["smoothing"][0]), float(told["smoothing"][1]))
            told["covariance"] = tuple(map(tuple, told["covariance"]))
            for name in ("weights", "slopes", "level", "errors"):
                told[name] = tuple(told[name])
            return cls(**told)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ScratchError(f"{len(learned)} bytes are nothing that guided has learned ({error})") from error


def prepared(
    names: Sequence[str],
    guides: Mapping[str, F32],
    days: F64,
    step: float,
    smoothing: tuple[int, float],
    part: tuple[slice, ...] = (slice(None),) * 3,
) -> tuple[F32, NDArray[np.bool_]]:
    """Return the guides ready to be regressed on, and where any of them has a value.

    Parameters
    ----------
    names : sequence of str
        Which guides, in order; one that is missing has no value anywhere.
    guides : mapping of str to (time, y, x) ndarray of float32
        NaN where there is none.
    days : (time,) ndarray of float64
        Ascending times.
    step : float
        Days that count as one step.
    smoothing : (pixels, steps)
        To either side in the frame, and standard deviation in time. A smoothed guide has values where it had some.
    part : tuple of slice
        What to return of the arrays.

    Returns
    -------
    fields : (guide, time, y, x) ndarray of float32
        A guide without a value, where another one has one, is at its mean in the pixel, and says nothing.
    known : (time, y, x) ndarray of bool
        Zero in `fields` where False.

    Examples
    --------
    >>> guide = np.array([1, np.nan, 3], dtype=np.float32).reshape(3, 1, 1)
    >>> fields, known = prepared(["vv"], {"vv": guide}, np.arange(3.0), 1.0, (0, 0.0))
    >>> fields.ravel(), known.ravel()
    (array([1., 0., 3.], dtype=float32), array([ True, False,  True]))
    """
    shape = np.empty((days.size, 0, 0)).shape if not guides else next(iter(guides.values())).shape
    cut = np.empty(shape, dtype=bool)[part].shape
    fields = np.zeros((len(names), *cut), dtype=np.float32)
    has = np.zeros((len(names), *cut), dtype=bool)
    radius, steps = smoothing
    for number, name in enumerate(names):
        if name not in guides:
            continue
        there = np.isfinite(guides[name])
        clean = np.where(there, guides[name], np.float32(0))
        if radius:
            clean = _in_space(clean, there, radius)
        clean, has[number] = clean[part], there[part]
        if steps:
            clean = _in_time(clean, has[number], days, steps * step)
        fields[number] = clean
    known: NDArray[np.bool_] = np.any(has, axis=0)
    for field, there in zip(fields, has, strict=True):
        count = there.sum(axis=0, dtype=np.float32)
        mean = field.sum(axis=0, dtype=np.float64) / np.maximum(count, 1)
        np.copyto(field, mean.astype(np.float32), where=known & ~there)
    return fields, known


def _in_space(values: F32, there: NDArray[np.bool_], radius: int) -> F32:
    """Return means over squares, of what there is; zero where there is nothing, as `values` are."""
    made = np.zeros_like(values)
    for t in range(len(values)):  # a frame at a time: the temporaries stay small
        if not there[t].any():
            continue
        total, share = (_box_sums(part, radius) for part in (values[t], there[t]))
        made[t] = np.where(there[t], total / np.where(there[t], share, 1.0), 0.0)
    return made


def _box_sums(part: NDArray[np.float32] | NDArray[np.bool_], radius: int) -> F64:
    """Return (y, x), sums over squares, nothing beyond the edges.

    Rows and columns are added one after the other, for running sums would carry on from where a window starts.
    """
    total = np.pad(part.astype(np.float64), radius)
    for axis in (0, 1):
        length = total.shape[axis] - 2 * radius
        parts = (total.take(range(shift, shift + length), axis=axis) for shift in range(2 * radius + 1))
        total = reduce(np.add, parts)
    return total


def _in_time(values: F32, there: NDArray[np.bool_], days: F64, spread_days: float) -> F32:
    """Return weighted means over the frames around each, of what there is; zero where there is nothing."""
    made = np.zeros_like(values)
    reach = KERNEL * spread_days
    for t, day in enumerate(days):
        first = np.searchsorted(days, day - reach)
        last = np.searchsorted(days, day + reach, side="right")
        total, share = (np.zeros(values.shape[1:], dtype=np.float32) for _ in range(2))
        for other in range(first, last):
            weight = np.float32(np.exp(-0.5 * ((days[other] - day) / spread_days) ** 2))
            total += weight * values[other]
            share += weight * there[other]
        made[t] = np.where(there[t], total / np.where(there[t], share, np.float32(1)), np.float32(0))
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Sums over the observations of each pixel, its own means taken off."""

    guides: F64
    """(y, x, guide, guide)."""

    cross: F64
    """(y, x, guide), with the values."""

    count: F64
    """(y, x), observations beyond the first."""

    @classmethod
    def of(cls, fields: F32, values: F32, heard: NDArray[np.bool_]) -> Moments:
        """Sum over frames, one after the other, so that where block borders fall makes no difference."""
        size, frames = len(fields), len(values)
        place = heard.shape[1:]
        total = np.zeros((size + 1, *place))
        number = np.zeros(place)
        for t in range(frames):
            total[0] += np.where(heard[t], values[t], 0)
            for i in range(size):
                total[i + 1] += np.where(heard[t], fields[i, t], 0)
            number += heard[t]
        means = total / np.maximum(number, 1)
        guides, cross = np.zeros((*place, size, size)), np.zeros((*place, size))
        for t in range(frames):
            off = [np.where(heard[t], fields[i, t] - means[i + 1], 0) for i in range(size)]
            value = np.where(heard[t], values[t] - means[0], 0)
            for i in range(size):
                cross[..., i] += off[i] * value
                for j in range(i + 1):
                    guides[..., i, j] += off[i] * off[j]
        for i in range(size):
            for j in range(i):
                guides[..., j, i] = guides[..., i, j]
        return cls(guides=guides, cross=cross, count=np.maximum(number - 1, 0))

    def slopes(self, lesson: Lesson) -> F64:
        """Return (y, x, guide), each pixel's slopes, drawn towards the scene's."""
        covariance, scene = np.array(lesson.covariance), np.array(lesson.slopes)
        normal = self.guides + lesson.ridge * covariance
        right = self.cross + lesson.ridge * (covariance @ scene)
        return np.asarray(np.linalg.solve(normal, right[..., None])[..., 0])


def regressed(
    fields: F32,
    known: NDArray[np.bool_],
    values: F32,
    valid: NDArray[np.bool_],
    days: F64,
    step: float,
    lesson: Lesson,
) -> tuple[F32, F32]:
    """Return what guides and the interpolation of what they leave over say of each sample, and how sure that is.

    Parameters
    ----------
    fields, known : (guide, time, y, x) ndarray of float32, (time, y, x) ndarray of bool
        See `prepared`.
    values, valid : (time, y, x) ndarray of float32 and of bool
        What was observed; anything at all where not valid.
    days : (time,) ndarray of float64
        Ascending times.
    step : float
        Days that count as one step.
    lesson : Lesson
        Of slopes, covariance and ridge.

    Returns
    -------
    answer, half_width : (time, y, x) ndarray of float32
        NaN where no guide has a value, and in pixels that were never observed where one had.
    """
    heard = valid & known
    clean = np.where(heard, values, np.float32(0))
    told = np.zeros(values.shape, dtype=np.float32)
    rows = max(1, STRIP // max(1, heard.shape[2] * len(fields) ** 2))
    for top in range(0, heard.shape[1], rows):  # a strip at a time: the normal matrices stay small
        strip = (slice(None), slice(top, top + rows))
        own = fields[:, *strip]
        slopes = Moments.of(own, clean[strip], heard[strip]).slopes(lesson).astype(np.float32)
        for i, field in enumerate(own):
            told[strip] += slopes[..., i] * field
    around: Neighbours = neighbours(np.where(heard, clean - told, np.float32(0)), heard, days, step)
    told += around.linear
    half_width = around.half_width
    told[~known] = np.nan
    half_width[~known] = np.nan
    return told, half_width
