"""From the grid of one cube to another's: weights along each axis of the frame, and interpolation in true time.

Weights depend on a pixel's place in the whole cube, and values in time on a frame's date: a sample is the same in
whichever window it is worked out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

Resampling = Literal["nearest", "bilinear", "average"]
"""How a guide's pixels become the cube's."""

RESAMPLINGS: tuple[Resampling, ...] = get_args(Resampling)
"""Their names."""

TIME_SLACK = 1e-6
"""A tenth of a second, in days: how times were rounded decides nothing."""

PLACE_DIGITS = 6
"""Places are rounded to so many digits of a guide's pixel: how coordinates were rounded decides nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """How the pixels of a cube lie on those of a guide along one axis of the frame."""

    start: float
    """Where the edge of the cube's first pixel is, in pixels of the guide from its edge."""

    step: float
    """Pixels of the guide in one of the cube; negative where they run the other way."""

    length: int
    """Pixels of the guide."""

    def weights(self, first: int, stop: int, resampling: Resampling) -> tuple[slice, sparse.csr_matrix]:
        """Return which of the guide's pixels some of the cube's need, and (cube, guide) their weights.

        Parameters
        ----------
        first, stop : int
            Pixels of the cube.
        resampling : str
            One of `RESAMPLINGS`.

        Examples
        --------
        >>> part, weights = Axis(start=1.0, step=0.5, length=9).weights(0, 3, "average")
        >>> part, weights.toarray()
        (slice(1, 3, None), array([[0.5, 0. ],
               [0.5, 0. ],
               [0. , 0.5]]))
        """
        index = np.arange(first, stop)
        centre = np.round(self.start + self.step * (index + 0.5), PLACE_DIGITS)
        rows: list[NDArray[np.intp]] = []
        columns: list[NDArray[np.intp]] = []
        shares: list[F64] = []

        def add(column: NDArray[np.intp], share: F64, inside: NDArray[np.bool_]) -> None:
            kept = inside & (column >= 0) & (column < self.length) & (share > 10.0**-PLACE_DIGITS)
            rows.append(np.flatnonzero(kept))
            columns.append(column[kept])
            shares.append(share[kept])

        if resampling == "nearest":
            add(np.floor(centre).astype(np.intp), np.ones(index.size), np.ones(index.size, dtype=bool))
        elif resampling == "bilinear":
            left = np.floor(centre - 0.5)
            share: F64 = centre - 0.5 - left
            inside = (centre >= 0) & (centre <= self.length)
            add(left.astype(np.intp), 1 - share, inside)
            add(left.astype(np.intp) + 1, share, inside)
        else:
            half = abs(self.step) / 2
            low, high = (np.round(centre + side * half, PLACE_DIGITS) for side in (-1, 1))
            begin = np.floor(low).astype(np.intp)
            for number in range(int(np.ceil(2 * half)) + 1):
                column = begin + number
                overlap: F64 = np.minimum(high, column + 1.0) - np.maximum(low, column)
                add(column, overlap, np.ones(index.size, dtype=bool))
        every, which = (np.concatenate(part) for part in (rows, columns))
        parts = np.concatenate(shares)
        if not every.size:
            return slice(0, 0), sparse.csr_matrix((index.size, 0), dtype=np.float64)
        lowest, highest = int(which.min()), int(which.max()) + 1
        shape = (index.size, highest - lowest)
        order = np.lexsort((which, every))
        made: sparse.csr_matrix = sparse.csr_matrix((parts[order], (every[order], which[order] - lowest)), shape=shape)
        return slice(lowest, highest), made

    @property
    def aligned(self) -> bool:
        """Whether each pixel of the cube, where the guide reaches, is one of the guide's."""
        return self.step == 1 and round(self.start, PLACE_DIGITS) == round(self.start)

    def copied(self, first: int, stop: int) -> tuple[slice, slice]:
        """Return which of an aligned guide's pixels lie on some of the cube's, and on which of these.

        Examples
        --------
        >>> Axis(start=-2.0, step=1.0, length=9).copied(1, 5)
        (slice(0, 3, None), slice(1, 4, None))
        """
        offset = round(self.start)
        low = min(max(first + offset, 0), self.length)
        high = max(min(stop + offset, self.length), low)
        begin = low - offset - first
        return slice(low, high), slice(begin, begin + high - low)

    def span(self, length: int, resampling: Resampling) -> int:
        """Return how many of the guide's pixels a whole cube of so many needs."""
        part, _ = self.weights(0, length, resampling)
        return int(part.stop - part.start)


def at_frames(stack: F32, dates: F64, days: F64, window_days: float) -> F32:
    """Interpolate linearly in true time between the valid dates of each pixel around each frame.

    Parameters
    ----------
    stack : (date, y, x) ndarray of float32
        NaN where there is no value.
    dates : (date,) ndarray of float64
        Ascending days.
    days : (time,) ndarray of float64
        Of the frames, ascending, on the same clock.
    window_days : float
        A date farther from a frame than this does not count. Where one date is left, its value stands.

    Returns
    -------
    (time, y, x) ndarray of float32
        NaN where no date is left.

    Examples
    --------
    >>> stack = np.array([1, np.nan, 4], dtype=np.float32).reshape(3, 1, 1)
    >>> at_frames(stack, np.array([0.0, 5.0, 6.0]), np.array([-3.0, 2.0, 4.0, 9.0]), 5.0).ravel()
    array([1., 2., 3., 4.], dtype=float32)
    >>> at_frames(stack, np.array([0.0, 5.0, 6.0]), np.array([-3.0, 2.0, 4.0, 9.0]), 2.0).ravel()
    array([nan,  1.,  4., nan], dtype=float32)
    """
    place = stack.shape[1:]
    made = np.full((days.size, *place), np.nan, dtype=np.float32)
    if not len(stack):
        return made
    known = np.isfinite(stack)
    slack = window_days + TIME_SLACK
    before = np.full((days.size, *place), -1, dtype=np.int16 if len(stack) < 2**15 else np.int32)
    latest, number = np.full(place, -1, dtype=before.dtype), 0
    for t, day in enumerate(days):
        while number < dates.size and dates[number] <= day + TIME_SLACK:
            latest[known[number]] = number
            number += 1
        before[t] = latest
    soonest, number = np.full(place, -1, dtype=before.dtype), dates.size - 1
    for t in range(days.size - 1, -1, -1):
        while number >= 0 and dates[number] >= days[t] - TIME_SLACK:
            soonest[known[number]] = number
            number -= 1
        since, until = days[t] - dates[before[t]], dates[soonest] - days[t]
        early, late = ((index >= 0) & (away <= slack) for index, away in ((before[t], since), (soonest, until)))
        first = np.take_along_axis(stack, before[t][None].astype(np.intp), axis=0)[0]
        second = np.take_along_axis(stack, soonest[None].astype(np.intp), axis=0)[0]
        span = since + until
        share = np.where(span > TIME_SLACK, since / np.where(span > TIME_SLACK, span, 1.0), 0.0)
        share = np.where(early, np.where(late, share, 0.0), 1.0).astype(np.float32)
        low, high = np.where(early, first, np.float32(0)), np.where(late, second, np.float32(0))
        made[t] = np.where(early | late, low + share * (high - np.where(late, low, np.float32(0))), np.float32(np.nan))
    return made
