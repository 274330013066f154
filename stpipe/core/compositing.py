"""Several scenes into one frame: which scenes belong to a frame, and one picture of many, gaps left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stpipe.errors import OptionError

Composite = Literal["first", "last", "mean", "median", "least-cloud"]
"""How one picture is made of several."""

COMPOSITES: tuple[str, ...] = get_args(Composite)
"""The names of the ways."""


def is_gap(picture: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Return True where a stored sample is nodata or NaN."""
    if picture.dtype.kind == "f":
        gap: NDArray[np.bool_] = np.isnan(picture)
        return gap if nodata is None or np.isnan(nodata) else gap | (picture == nodata)
    return np.zeros(picture.shape, dtype=bool) if nodata is None else np.asarray(picture == nodata)


def composite(pictures: Sequence[NDArray[Any]], nodata: float | None, how: str) -> NDArray[Any]:
    """Return one picture of several, by pixel, gaps left out.

    Parameters
    ----------
    pictures : sequence of (y, x) ndarray
        Of one type, in order: earliest first; for ``least-cloud`` the clearest scene first.
    nodata : float or None
        Stored value of gaps; NaN for floats.
    how : {"first", "last", "mean", "median", "least-cloud"}
        Means and medians of integers are rounded to the nearest, halves to the even. One that would be `nodata` but is
        of clear samples becomes the number of the type beside it, on the side of the exact value.

    Examples
    --------
    >>> one, other = np.array([[1, 9, 9]]), np.array([[4, 5, 9]])
    >>> composite([one, other], 9, "mean"), composite([one, other], 9, "last")
    (array([[2, 5, 9]]), array([[4, 5, 9]]))
    >>> composite([np.array([[-5]]), np.array([[5]])], 0, "mean")
    array([[1]])
    """
    if how in {"mean", "median"}:
        return _averaged(pictures, nodata, how)
    ordered = pictures[::-1] if how == "last" else pictures
    return first_clear(ordered, [~is_gap(picture, nodata) for picture in ordered])


def first_clear(pictures: Sequence[NDArray[Any]], clear: Sequence[NDArray[np.bool_]]) -> NDArray[Any]:
    """Return the sample of the first picture that is clear at each pixel; of the very first where none is.

    >>> first_clear([np.array([[1, 2]]), np.array([[3, 4]])], [np.array([[False, False]]), np.array([[True, False]])])
    array([[3, 2]])
    """
    result = pictures[0].copy()
    missing = ~clear[0]
    for picture, known in zip(pictures[1:], clear[1:], strict=True):
        usable = missing & known
        result[usable] = picture[usable]
        missing &= ~known
    return result


def _averaged(pictures: Sequence[NDArray[Any]], nodata: float | None, how: str) -> NDArray[Any]:
    gaps = np.stack([is_gap(picture, nodata) for picture in pictures])
    count = len(pictures) - gaps.sum(axis=0)
    stack = np.stack(pictures).astype(np.float64)
    if how == "mean":
        stack[gaps] = 0
        values = stack.sum(axis=0) / np.maximum(count, 1)
    else:
        stack[gaps] = np.inf  # behind all samples
        stack.sort(axis=0)
        low = np.take_along_axis(stack, (np.maximum(count - 1, 0) // 2)[None], axis=0)[0]
        high = np.take_along_axis(stack, np.minimum(count // 2, len(pictures) - 1)[None], axis=0)[0]
        empty = count == 0
        low[empty] = high[empty] = 0
        values = low / 2 + high / 2
    dtype = pictures[0].dtype
    result: NDArray[Any] = (values if dtype.kind == "f" else np.rint(values)).astype(dtype)
    if nodata is not None:
        unlucky = (count > 0) & (result == nodata)
        result[unlucky] = _beside(result[unlucky], values[unlucky])
        result[count == 0] = nodata
    return result


def _beside(samples: NDArray[Any], exact: NDArray[np.float64]) -> NDArray[Any]:
    """Return the numbers of a type beside some of its numbers, on the side of the exact values; above where equal."""
    down = exact < samples
    if samples.dtype.kind == "f":
        aims = np.where(down, -np.inf, np.inf).astype(samples.dtype)
        return np.asarray(np.nextafter(samples, aims))
    limits = np.iinfo(samples.dtype)
    down = (down | (samples == limits.max)) & (samples > limits.min)  # the type ends there
    return np.where(down, samples - 1, samples + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Regular periods: so many days each, or so many calendar months."""

    days: int = 0
    """Length in days; 0 for months."""

    months: int = 0
    """Length in months; 0 for days."""

    @classmethod
    def parse(cls, text: str) -> Period:
        """Read 10D, 2W, 1M or 1Y; at most a century.

        >>> Period.parse("2W"), Period.parse("month")
        (Period(days=14, months=0), Period(days=0, months=1))
        """
        match = re.fullmatch(r"\s*(\d{0,9})\s*(d|days?|w|weeks?|m|months?|y|years?)\s*", text, re.IGNORECASE)
        number = int(match[1] or 1) if match else 0
        letter = match[2][0].lower() if match else "d"
        # Longer ones could begin in year 0, which no date has.
        longest = {"d": 36_525, "w": 5_217, "m": 1_200, "y": 100}[letter]
        if not 1 <= number <= longest:
            raise OptionError(
                f"--every takes a period such as 10D, 2W, 1M or 1Y, of at most 100 years, got {text.strip()[:20]!r}"
            )
        if letter in "dw":
            return cls(days=number * (7 if letter == "w" else 1))
        return cls(months=number * (12 if letter == "y" else 1))

    def start_of(self, time: datetime, anchor: datetime) -> datetime:
        """Return when the period began that a time is in.

        Parameters
        ----------
        time : datetime
            Any time.
        anchor : datetime
            Periods of days are counted from its midnight; those of months from January of year 0, so that three
            months are a quarter.

        Examples
        --------
        >>> at = datetime.fromisoformat
        >>> print(Period(days=10).start_of(at("2020-01-31T10:00"), at("2020-01-05T10:00")))
        2020-01-25 00:00:00
        >>> print(Period(months=3).start_of(at("2020-06-30"), at("2020-01-05")))
        2020-04-01 00:00:00
        """
        midnight = time.replace(hour=0, minute=0, second=0, microsecond=0)
        if self.days:
            first = anchor.replace(hour=0, minute=0, second=0, microsecond=0)
            return first + timedelta(days=(midnight - first).days // self.days * self.days)
        months = (midnight.year * 12 + midnight.month - 1) // self.months * self.months
        return midnight.replace(year=months // 12, month=months % 12 + 1, day=1)

    def next_after(self, start: datetime) -> datetime:
        """Return when the period after the one that begins at `start` begins."""
        if self.days:
            return start + timedelta(days=self.days)
        months = start.year * 12 + start.month - 1 + self.months
        return start.replace(year=months // 12, month=months % 12 + 1, day=1)

    def __str__(self) -> str:
        return f"{self.days} days" if self.days else f"{self.months} months"
