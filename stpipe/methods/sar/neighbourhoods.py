"""Means over 21 x 21 pixels and medians over 3 x 3, of what is valid, frame by frame.

Inside a frame work goes over whole planes in buffers that are kept: on large arrays most of the time went into fresh
memory. Whatever is summed over a square is added in the same order for every pixel, so that where a window starts makes
no difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Part = tuple[slice, slice]
"""Rows and columns of a plane."""

RADIUS = 10
"""The neighbourhood reaches so many pixels to either side: 21 x 21."""

STRIP = 2**15
"""Samples of a strip of a plane that the median works on: its four buffers stay in a core's own cache."""

_SIDE = 2 * RADIUS + 1


def neighbourhood_mean(composites: F32) -> F32:
    """Return the mean of the valid samples in the square of 21 x 21 pixels around each valid sample.

    Parameters
    ----------
    composites : (time, y, x) ndarray of float32
        NaN where there is none. Beyond the edges there is nothing: a part that is to be as in the whole scene needs
        `RADIUS` pixels around it, up to the scene's own edges.

    Returns
    -------
    (time, y, x) ndarray of float32
        NaN where `composites` are.

    Notes
    -----
    Sums of 21 come from sums of 1, 2, 4, 8 and 16 as 16 + 4 + 1, along one axis and then the other: twelve additions a
    sample, in the same order for each, and the same bits in every window. No sum passes through more than twelve
    additions, so that float32 is good to 1e-5 dB.

    Examples
    --------
    >>> frame = np.array([[[1, 2, np.nan, 6]]], dtype=np.float32)
    >>> neighbourhood_mean(frame)
    array([[[ 3.,  3., nan,  3.]]], dtype=float32)
    """
    result = np.empty(composites.shape, dtype=np.float32)
    means = NeighbourhoodMeans(*composites.shape[1:])
    for frame, made in zip(composites, result, strict=True):
        means.write(frame, made)
    return result


class NeighbourhoodMeans:
    """Buffers for the neighbourhood means of planes of one shape."""

    def __init__(self, height: int, width: int) -> None:
        self.sums = _Squares(height, width, np.float32)
        self.counts = _Squares(height, width, np.uint16)
        self.gap = np.empty((height, width), dtype=np.bool_)
        rows, columns = (_share_inside(length) for length in (height, width))
        self.full = (rows[:, None] * columns).astype(np.float32)

    def write(self, plane: F32, made: F32) -> None:
        """Write the means around each pixel of a plane."""
        np.isnan(plane, out=self.gap)
        if not self.gap.any():
            np.divide(self.sums.of(plane), self.full, out=made)
            return
        if self.gap.all():
            made[...] = np.nan
            return
        count = self.counts.of(~self.gap)
        total = self.sums.of(plane, self.gap)
        with np.errstate(invalid="ignore"):  # a square with nothing in it has a gap at its centre
            np.divide(total, count, out=made)
        np.copyto(made, np.nan, where=self.gap)


def _share_inside(length: int) -> NDArray[np.int64]:
    """Return (length,) numbers of the 21 pixels around each that lie on the axis."""
    place = np.arange(length)
    return np.minimum(place, RADIUS) + np.minimum(place[::-1], RADIUS) + 1


class _Squares:
    """Sums over 21 x 21 samples, nothing beyond the edges, of planes of one shape and type."""

    def __init__(self, height: int, width: int, dtype: Any) -> None:
        self.tall = np.zeros((height + 2 * RADIUS, width), dtype=dtype)
        self.wide = np.zeros((height, width + 2 * RADIUS), dtype=dtype)
        self.one, self.two = (np.empty((height + 2 * RADIUS) * (width + 2 * RADIUS), dtype=dtype) for _ in range(2))
        self.made = np.empty((height, width), dtype=dtype)

    def of(self, plane: NDArray[Any], gap: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return sums in a buffer that the next call overwrites; zero is taken where there is a gap."""
        inner = self.tall[RADIUS:-RADIUS]
        inner[...] = plane
        if gap is not None:
            np.copyto(inner, 0, where=gap)
        one, two = (buffer[: self.tall.size].reshape(self.tall.shape) for buffer in (self.one, self.two))
        _sums_of_21(self.tall, one, two, self.wide[:, RADIUS:-RADIUS])
        one, two = (buffer[: self.wide.size].reshape(self.wide.shape) for buffer in (self.one, self.two))
        _sums_of_21(self.wide.T, one.T, two.T, self.made.T)
        return self.made


def _sums_of_21(values: NDArray[Any], one: NDArray[Any], two: NDArray[Any], made: NDArray[Any]) -> None:
    """Write sums of 21 neighbours along the first axis, which is shorter by 20 in `made`; `one` and `two` are buffers.

    They never are input and output of the same addition: NumPy would make a copy first.
    """
    size, length = len(values), len(made)
    np.add(values[: size - 1], values[1:], out=one[: size - 1])
    fours, eights = two[: size - 3], one[: size - 7]
    np.add(one[: size - 3], one[2 : size - 1], out=fours)
    np.add(fours[: size - 7], fours[4:], out=eights)
    np.add(eights[:length], eights[8 : 8 + length], out=made)
    made += fours[16 : 16 + length]
    made += values[_SIDE - 1 :]


def focal_median(values: F32) -> F32:
    """Return the median of the valid samples among the 3 x 3 pixels around each valid sample.

    Parameters
    ----------
    values : (time, y, x) ndarray of float32
        NaN where there is none; nothing beyond the edges.

    Returns
    -------
    (time, y, x) ndarray of float32
        NaN where `values` are. Of an even number of samples it is the mean of the two in the middle.

    Notes
    -----
    The published circle of 1.5 pixels covers 3 x 3. Of nine samples the median is that of three: the largest of the
    least of each column, the median of the columns' medians, and the least of the columns' largest.

    Source: Smith (1996), Implementing median filters in XC4000E FPGAs, XCELL 23; as nets of least and largest of two.

    Examples
    --------
    >>> frame = np.array([[[1, 2, 30], [4, np.nan, 60]]], dtype=np.float32)
    >>> focal_median(frame)
    array([[[ 2.,  4., 30.],
            [ 2., nan, 30.]]], dtype=float32)
    """
    result = np.empty(values.shape, dtype=np.float32)
    height, width = values.shape[1:]
    medians = Medians(height, width)
    for frame, made in zip(values, result, strict=True):
        medians.write(frame, (slice(0, height), slice(0, width)), made)
    return result


class Medians:
    """Buffers for medians over 3 x 3 samples, a strip of rows at a time."""

    def __init__(self, height: int, width: int) -> None:
        self.rows = max(1, min(height, STRIP // max(1, width)))
        self.buffers = [np.empty((self.rows, width + 2), dtype=np.float32) for _ in range(4)]
        self.padded = np.empty((self.rows + 2, width + 2), dtype=np.float32)

    def write(self, plane: F32, part: Part, made: F32) -> None:
        """Write the medians around the pixels of a part of a plane."""
        rows, columns = part
        for top in range(rows.start, rows.stop, self.rows):
            bottom = min(top + self.rows, rows.stop)
            strip = made[top - rows.start : bottom - rows.start]
            self._fast(plane, top, bottom, columns, strip)
            some = np.isnan(strip)
            if some.any():
                self._some(plane, top, bottom, columns, some, strip)

    def _some(self, plane: F32, top: int, bottom: int, columns: slice, some: NDArray[np.bool_], made: F32) -> None:
        """Write the medians of valid samples of a strip where `some`, of what there is around them."""
        height, width = plane.shape
        padded = self.padded[: bottom - top + 2]
        up, down = max(top - 1, 0), min(bottom + 1, height)
        padded[[0, -1]] = np.inf
        padded[:, [0, -1]] = np.inf
        inner = padded[up - top + 1 : down - top + 1, 1 : width + 1]
        inner[...] = plane[up:down]
        gap = np.isnan(inner)
        np.copyto(inner, np.inf, where=gap)
        some &= ~gap[top - up : bottom - up, columns]
        y, x = np.divmod(np.flatnonzero(some), some.shape[1])
        corner = y * padded.shape[1] + (x + columns.start)
        around = np.empty((9, y.size), dtype=np.float32)
        for place, (by_row, by_column) in enumerate(np.ndindex(3, 3)):
            # No index is out of bounds; asking NumPy to look would make it take a detour.
            np.take(padded, corner + (by_row * padded.shape[1] + by_column), out=around[place], mode="wrap")
        count = np.count_nonzero(around < np.inf, axis=0)
        _sort(around)
        every = np.arange(y.size)
        made[y, x] = (around[(count - 1) // 2, every] + around[count // 2, every]) * np.float32(0.5)

    def _fast(self, plane: F32, top: int, bottom: int, columns: slice, made: F32) -> None:
        """Write the medians of a strip; NaN where any of the nine is missing, for least and largest hand NaN on."""
        height, width = plane.shape
        left, right = max(columns.start - 1, 0), min(columns.stop + 1, width)
        first, last = max(top, 1), min(bottom, height - 1)
        across = columns.stop - columns.start
        low, high, one, two = (buffer[: bottom - top, : across + 2] for buffer in self.buffers)
        if first >= last:
            made[...] = np.nan
            return
        if (first, last) != (top, bottom) or right - left < across + 2:
            for buffer in (low, high, two):
                buffer[...] = np.nan
        inner = slice(first - top, last - top), slice(left - columns.start + 1, right - columns.start + 1)
        above, here, below = (plane[first + by : last + by, left:right] for by in (-1, 0, 1))
        _sort_three(above, here, below, low[inner], two[inner], high[inner], one[inner])
        # What follows reads three columns and writes one, in buffers whose content is used up.
        centre = slice(0, across)
        least, most, spare = one[:, centre], low[:, centre], high[:, centre]
        largest_low = _three(np.maximum, low, least)
        least_high = _three(np.minimum, high, most)
        _median_of_three(two[:, :-2], two[:, 1:-1], two[:, 2:], made, spare)
        _median_of_three(made, largest_low, least_high, made, spare)


def _sort_three(a: F32, b: F32, c: F32, low: F32, middle: F32, high: F32, spare: F32) -> None:
    """Write the least, the median and the largest of three."""
    np.minimum(b, c, out=low)
    np.maximum(b, c, out=high)
    np.maximum(a, low, out=spare)
    np.minimum(a, low, out=low)
    np.minimum(spare, high, out=middle)
    np.maximum(spare, high, out=high)


def _three(pick: np.ufunc, values: F32, made: F32) -> F32:
    """Write the least or largest of each three along a row."""
    pick(values[:, :-2], values[:, 1:-1], out=made)
    pick(made, values[:, 2:], out=made)
    return made


def _median_of_three(a: F32, b: F32, c: F32, made: F32, spare: F32) -> None:
    """Write the median of three; `made` may be `a`."""
    np.minimum(a, b, out=spare)
    np.maximum(a, b, out=made)
    np.minimum(made, c, out=made)
    np.maximum(made, spare, out=made)


def _sort(values: F32) -> None:
    """Sort along the first axis: neighbours change places, in turns, as often as there are rows.

    It works on all columns at once: of 20,000 it takes less than half the time of `ndarray.sort`.
    """
    size = len(values)
    spare = np.empty((size // 2, *values.shape[1:]), dtype=values.dtype)
    for turn in range(size):
        upper, lower = values[turn % 2 : size - 1 : 2], values[turn % 2 + 1 :: 2]
        least = spare[: len(upper)]
        np.minimum(upper, lower, out=least)
        np.maximum(upper, lower, out=lower)
        upper[...] = least
