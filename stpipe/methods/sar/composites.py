"""Composites of radar: the mean of the images around each frame, in dB.

Source: the steps of Mao, McVicar and Van Niel for infilling optical series from Sentinel-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stpipe.core.resampling import TIME_SLACK
from stpipe.errors import RefusedError, ShapeError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

EDGE_NOISE_DB = -40.0
"""Backscatter at or below this is noise at the edge of a swath, and no measurement."""

POWER_LIMIT_DB = 300.0
"""Nothing on Earth returns so much; from here on float32 could not hold the sums of power."""

_DB_PER_NEPER = 10 / np.log(10)


def composite(samples: F32, days: F64, frame_days: F64, window_days: float, *, power: bool) -> F32:
    """Return the mean of the radar dates around each frame, of what is valid at each pixel.

    Parameters
    ----------
    samples : (date, y, x) ndarray of float32
        Backscatter of one polarisation in dB; NaN where there is none. At or below `EDGE_NOISE_DB` it counts as none.
    days : (date,) ndarray of float64
        When, ascending.
    frame_days : (time,) ndarray of float64
        Times of the frames.
    window_days : float
        Dates count from so many days before a frame up to, and without, so many days after it.
    power : bool
        Whether power is averaged, or dB, as published. The mean of dB is that of a geometric mean, and lies the lower
        the more a pixel varies.

    Returns
    -------
    (time, y, x) ndarray of float32
        In dB; NaN where no date is valid.

    Raises
    ------
    ShapeError
        If there are more or fewer days than samples.
    RefusedError
        If the days don't ascend.

    Notes
    -----
    Sums run in float32, date by date: over the some ten dates that a window holds they are off by less than 1e-5 dB,
    and float64 would take twice the memory and time. Beside input and
    result there are as many planes as a window holds dates: each date is turned into power once.

    Examples
    --------
    >>> samples = np.array([-10, -20, -41, -12], dtype=np.float32).reshape(4, 1, 1)
    >>> days = np.array([0.0, 10.0, 11.0, 24.0])
    >>> composite(samples, days, np.array([12.0, 60.0]), 12, power=False).ravel()
    array([-15.,  nan], dtype=float32)
    >>> composite(samples, days, np.array([12.0]), 12, power=True).ravel().round(3)
    array([-12.596], dtype=float32)
    """
    if len(samples) != len(days):
        raise ShapeError(f"radar has {len(samples)} dates of samples, but {len(days)} days; give a day for each")
    if np.any(np.diff(days) < 0):
        raise RefusedError("the days of radar dates must ascend; sort the dates, and their samples with them")
    result = np.empty((len(frame_days), *samples.shape[1:]), dtype=np.float32)
    starts, stops = within(days, frame_days, window_days)
    dates = _Dates(samples, power=power)
    count = np.empty(samples.shape[1:], dtype=np.min_scalar_type(max(1, len(days))))
    before: tuple[int, int] | None = None
    for t, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        made = result[t]
        if (start, stop) == before:  # frames close together share their dates
            made[...] = result[t - 1]
            continue
        before = (start, stop)
        planes = dates.between(start, stop)
        if not planes:
            made[...] = np.nan
            continue
        _mean_of(planes, count, made)
        if power:
            np.log(made, out=made)
            made *= np.float32(_DB_PER_NEPER)
    return result


def within(days: F64, frame_days: F64, window_days: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first of the dates that count for each frame, and the first that does not any more.

    Examples
    --------
    >>> within(np.array([0.0, 12.0, 24.0]), np.array([12.0, 13.0]), 12.0)
    (array([0, 1]), array([2, 3]))
    """
    # Times of day are rounded when they become days: a date at the very end counts as such.
    first, stop = np.asarray(frame_days) - window_days - TIME_SLACK, np.asarray(frame_days) + window_days - TIME_SLACK
    return np.searchsorted(days, first), np.searchsorted(days, stop)


class _Date(NamedTuple):
    """A radar date, ready to be summed."""

    values: F32
    """(y, x), zero where not valid."""

    valid: NDArray[np.uint8]
    """(y, x), 1 where valid."""

    everywhere: bool
    """Whether all of it is valid."""


class _Dates:
    """The radar's dates ready to be summed, and held as long as a window needs them."""

    def __init__(self, samples: F32, *, power: bool) -> None:
        self.samples = samples
        self.power = power
        self.held: dict[int, _Date | None] = {}
        self.spare: list[_Date] = []

    def between(self, start: int, stop: int) -> list[_Date]:
        """Return the dates of a window that have anything valid."""
        for n in [n for n in self.held if not start <= n < stop]:
            gone = self.held.pop(n)
            if gone is not None:
                self.spare.append(gone)
        for n in range(start, stop):
            if n not in self.held:
                self.held[n] = self._ready(self.samples[n])
        found = (self.held[n] for n in range(start, stop))
        return [date for date in found if date is not None]

    def _ready(self, plane: F32) -> _Date | None:
        """Return a date with zeros where it is not valid; None where nothing is."""
        valid = plane > EDGE_NOISE_DB
        valid &= plane < (POWER_LIMIT_DB if self.power else np.inf)
        if not valid.any():
            return None
        everywhere = bool(valid.all())
        if self.spare:
            values, there, _ = self.spare.pop()
        else:
            values, there = np.empty(plane.shape, dtype=np.float32), np.empty(plane.shape, dtype=np.uint8)
        if everywhere:
            values[...] = plane
        else:
            values[...] = 0
            np.copyto(values, plane, where=valid)
        if self.power:
            values *= np.float32(1 / _DB_PER_NEPER)
            np.exp(values, out=values)
            if not everywhere:
                values *= valid
        there[...] = valid
        return _Date(values, there, everywhere)


def _mean_of(dates: Sequence[_Date], count: NDArray[Any], made: F32) -> None:
    """Write the mean of dates, NaN where none is valid."""
    made[...] = dates[0].values
    for date in dates[1:]:
        made += date.values
    if all(date.everywhere for date in dates):
        made /= np.float32(len(dates))
        return
    count[...] = dates[0].valid
    for date in dates[1:]:
        count += date.valid
    with np.errstate(invalid="ignore"):  # nothing out of nothing is NaN, as it should be
        np.divide(made, count, out=made)
