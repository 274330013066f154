"""Gap statistics: the days between successive clear observations of each pixel, and what they are like.

Images of one day are composited, a pixel being clear if any of them is; a gap is then the number of days from one clear
day to the next, so that two successive days are 1 apart. All arithmetic up to means and deviations is in whole days::

    day        0     5    10    15    20    25
    clear      x     .     .     x     x     .
    gap                         15     5              boundaries excluded, as published
    gap                         15     5     5        boundaries included: the period ends on day 25

Planes of a block are walked with NumPy, a block being small enough for the processor's cache. Gaps are bytes unless one
has more than 255 days.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stpipe.core.columns import begun, count, first_row, percentile
from stpipe.errors import CubeError, OptionError

BOUNDARIES = ("exclude", "include")
"""Whether the first and the last day of the period count as ends of gaps."""

BY = ("none", "year", "season", "month")
"""What may be looked at by itself."""

SEASONS = ("DJF", "MAM", "JJA", "SON")
"""Meteorological seasons; a December belongs to the season that the next January is in."""

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""Names of the months in bands."""

BLOCK_SAMPLES = 2**21
"""Samples that are worked on at a time: planes of a block stay in the processor's cache, and calls are few."""

_DAY = np.timedelta64(1, "D")
_MOMENT = 1e-3
"""Days by which times of one calendar may be apart in another form."""


Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """One number of a pixel."""

    name: str
    """Such as gap_mean."""

    long_name: str
    """What it is, in words."""

    units: str
    """CF units."""


def statistics_of(percentiles: Sequence[float]) -> tuple[Statistic, ...]:
    """Return what is worked out for each pixel, in order.

    >>> [statistic.name for statistic in statistics_of([10, 97.5])][7:9]
    ['gap_p10', 'gap_p97.5']
    """
    rows = [
        ("clear_count", "days with a clear observation", "1"),
        ("gap_count", "gaps between successive clear days", "1"),
        ("gap_mean", "mean of the gaps", "day"),
        ("gap_median", "median of the gaps", "day"),
        ("gap_min", "shortest gap", "day"),
        ("gap_max", "longest gap", "day"),
        ("gap_std", "standard deviation of the gaps (divided by their number)", "day"),
        *((f"gap_p{p:g}", f"percentile {p:g} of the gaps", "day") for p in percentiles),
        ("longest_start", "day on which the longest gap starts", EPOCH_UNITS),
        ("longest_end", "day on which the longest gap ends", EPOCH_UNITS),
        ("period_without_data", "share of the period's days without a clear observation", "1"),
        ("dates_without_data", "share of the dates with an image on which it is not clear", "1"),
    ]
    return tuple(Statistic(name=name, long_name=long_name, units=units) for name, long_name, units in rows)


EPOCH_UNITS = "days since 1970-01-01"
"""Units of dates."""

NO_DAY = int(np.iinfo(np.int32).min)
"""Stands for no date where dates are whole numbers. With NaN xarray would cast it to a date, of which NumPy warns, and
hushes that in a way that threads take from each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapOptions:
    """What is asked for."""

    boundaries: str = "exclude"
    """One of `BOUNDARIES`."""

    by: str = "none"
    """One of `BY`."""

    percentiles: tuple[float, ...] = ()
    """From 0 to 100, besides the median."""

    def __post_init__(self) -> None:
        if self.boundaries not in BOUNDARIES:
            raise OptionError(f"boundaries are one of {', '.join(BOUNDARIES)}, got {self.boundaries!r}")
        if self.by not in BY:
            raise OptionError(f"gaps are told apart by {', '.join(BY[1:-1])} or {BY[-1]}, got by {self.by!r}")
        bad = [p for p in self.percentiles if not 0 <= p <= 100]
        if bad:
            raise OptionError(f"percentiles lie from 0 to 100, got {bad[0]:g}")
        if len(set(self.percentiles)) < len(self.percentiles):
            raise OptionError(f"percentiles are named once each, got {', '.join(f'{p:g}' for p in self.percentiles)}")
        if any(0 < p < 1 for p in self.percentiles) and max(self.percentiles) <= 1:
            meant = ", ".join(f"{100 * p:g}" for p in self.percentiles)
            raise OptionError(
                f"percentiles go up to 100, got {', '.join(f'{p:g}' for p in self.percentiles)}; are {meant} meant?"
            )

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """What is worked out for each pixel."""
        return statistics_of(self.percentiles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A stretch of days without a break, such as one summer."""

    first: int
    """Its first day, counted from the first day of the period."""

    last: int
    """Its last day."""

    start: int
    """Index of its first date."""

    stop: int
    """Index after its last date."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What is looked at by itself: everything, a year, or a season or month of all years."""

    key: int | str
    """The year, the season's name or the month's number; "all"."""

    parts: tuple[Part, ...]
    """Its stretches; no gap reaches from one into another."""

    @property
    def label(self) -> str:
        """Its name in bands and tables."""
        return MONTHS[self.key - 1] if isinstance(self.key, int) and self.key <= len(MONTHS) else str(self.key)

    @property
    def days(self) -> int:
        """Days of the period that it has."""
        return sum(part.last - part.first + 1 for part in self.parts)

    @property
    def dates(self) -> int:
        """Dates with an image that it has."""
        return sum(part.stop - part.start for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GapCalendar:
    """The dates of a cube, as gap statistics need them."""

    frames: NDArray[np.intp]
    """(date,), the first frame of each date."""

    frame_count: int
    """Number of frames."""

    numbers: NDArray[np.int64]
    """(date,), days since the first day of the period."""

    epoch: NDArray[np.int64]
    """(day of the period,), days since 1970-01-01."""

    groups: tuple[Group, ...]
    """What is looked at by itself."""

    @property
    def dates(self) -> NDArray[np.datetime64]:
        """(date,) datetime64[D]."""
        return self.epoch[self.numbers].astype("M8[D]")

    def composite(self, clear: Bool) -> Bool:
        """Return (date, ...): clear where any frame of the day is.

        >>> times = np.array(["2024-05-01T10", "2024-05-01T11", "2024-05-03"], dtype="M8[ns]")
        >>> gap_calendar(times).composite(np.array([[True, False], [False, False], [False, True]]))
        array([[ True, False],
               [False,  True]])
        """
        if len(self.frames) == self.frame_count:
            return clear
        return np.asarray(np.logical_or.reduceat(clear, self.frames, axis=0))


def gap_calendar(
    times: NDArray[np.datetime64],
    days: NDArray[np.float64] | None = None,
    *,
    by: str = "none",
    period: tuple[np.datetime64 | None, np.datetime64 | None] = (None, None),
) -> GapCalendar:
    """Return the dates of a cube and how they fall into groups.

    Parameters
    ----------
    times : (time,) ndarray of datetime64
        Of the frames, ascending. A date is the calendar day of the time as it is given, UTC for most products.
    days : (time,) ndarray of float64, optional
        True days since the first frame, where they are not those between `times`, as in a calendar without leap years.
    by : str
        One of `BY`.
    period : (first, last)
        First and last day of the period; those of the first and the last frame unless given.

    Examples
    --------
    >>> calendar = gap_calendar(np.array(["2023-11-20", "2024-01-05", "2024-12-01"], dtype="M8[ns]"), by="season")
    >>> [(group.label, len(group.parts), group.days, group.dates) for group in calendar.groups]
    [('DJF', 2, 92, 2), ('MAM', 1, 92, 0), ('JJA', 1, 92, 0), ('SON', 2, 102, 1)]
    """
    labels = times.astype("M8[D]").astype(np.int64)
    counted = labels - labels[0]
    if days is not None and (np.abs(days - days[0] - (times - times[0]) / _DAY) > _MOMENT).any():
        # A calendar of its own: what was read as a date there may not be as far away here.
        clock = float((times[0] - times[0].astype("M8[D]")) / _DAY)
        counted = np.floor(days - days[0] + clock + 1e-6).astype(np.int64)
    numbers, frames = np.unique(counted, return_index=True)
    start, end = (None if edge is None else int(edge.astype("M8[D]").astype(np.int64)) for edge in period)
    before = 0 if start is None else max(0, int(labels[0]) - start)
    after = 0 if end is None else max(0, end - int(labels[-1]))
    numbers = numbers + before
    epoch = int(labels[0]) - before + np.arange(int(numbers[-1]) + after + 1)
    epoch[numbers] = labels[frames]
    return GapCalendar(
        frames=frames, frame_count=len(times), numbers=numbers, epoch=epoch, groups=_groups(epoch, numbers, by)
    )


def check_dates(calendar: GapCalendar, options: GapOptions, place: str) -> None:
    """Refuse a cube that can have no gaps whatever is clear: one date, where the period's ends don't count.

    Raises
    ------
    CubeError
        With what there is.
    """
    ends = calendar.epoch if options.boundaries == "include" else calendar.numbers
    if len(ends) < 2:
        day = calendar.dates[0]
        raise CubeError(
            f"a gap lies between two dates, but {place} has one, {day}; take a longer period, or a cube of more dates"
        )


def _groups(epoch: NDArray[np.int64], numbers: NDArray[np.int64], by: str) -> tuple[Group, ...]:
    """Cut the days of the period where a year, season or month begins, and gather the pieces."""
    months = epoch.astype("M8[D]").astype("M8[M]").astype(np.int64)  # since January 1970
    pieces = {"none": np.zeros_like(months), "year": months // 12, "season": (months + 1) // 3, "month": months}[by]
    edges = np.concatenate([[0], np.flatnonzero(np.diff(pieces)) + 1, [len(epoch)]])
    gathered: dict[int | str, list[Part]] = {}
    for first, stop in pairwise(edges.tolist()):
        piece = int(pieces[first])
        keys: dict[str, int | str] = {
            "none": "all",
            "year": piece + 1970,
            "season": SEASONS[piece % len(SEASONS)],
            "month": piece % 12 + 1,
        }
        inside = np.searchsorted(numbers, [first, stop])
        part = Part(first=first, last=stop - 1, start=int(inside[0]), stop=int(inside[1]))
        gathered.setdefault(keys[by], []).append(part)
    order = sorted(gathered, key=lambda key: SEASONS.index(key) if isinstance(key, str) and key != "all" else key)
    return tuple(Group(key=key, parts=tuple(gathered[key])) for key in order)


def gap_statistics(
    clear: Bool, calendar: GapCalendar, options: GapOptions, *, domain: Bool | None = None, out: F32 | None = None
) -> F32:
    """Return the statistics of each pixel.

    Parameters
    ----------
    clear : (time, y, x) ndarray of bool
        Where a frame holds a clear observation.
    calendar : GapCalendar
        Of the frames.
    options : GapOptions
        What to work out.
    domain : (y, x) ndarray of bool, optional
        Where values can exist; elsewhere all statistics are NaN.
    out : (group, statistic, y, x) ndarray of float32, optional
        Where they are written; a new array unless given.

    Returns
    -------
    (group, statistic, y, x) ndarray of float32
        In the order of ``calendar.groups`` and ``options.statistics``. Where a pixel has no gap, clear_count and
        gap_count are numbers, the shares too, and all else is NaN. Of one gap gap_std is 0.

    Notes
    -----
    Percentiles, the median among them, are linear between the two nearest gaps. The longest gap is the first of several
    that are as long.

    Examples
    --------
    >>> times = np.array(["2024-01-01", "2024-01-06", "2024-01-11", "2024-01-16", "2024-01-21"], dtype="M8[ns]")
    >>> clear = np.array([1, 0, 0, 1, 1], dtype=bool).reshape(5, 1, 1)
    >>> options = GapOptions()
    >>> numbers = gap_statistics(clear, gap_calendar(times), options)[0, :, 0, 0]
    >>> {s.name: float(v) for s, v in zip(options.statistics, numbers) if s.name.startswith("gap_m")}
    {'gap_mean': 10.0, 'gap_median': 10.0, 'gap_min': 5.0, 'gap_max': 15.0}
    """
    height, width = clear.shape[1:]
    dates = len(calendar.numbers)
    shape = (len(calendar.groups), len(options.statistics), height, width)
    result = np.empty(shape, dtype=np.float32) if out is None else out
    rows = max(1, BLOCK_SAMPLES // max(1, (dates + 1) * width))
    rows = -(-height // max(1, -(-height // rows)))  # blocks alike: a small one takes its calls for little
    columns = max(1, min(width, BLOCK_SAMPLES // (dates + 1)))
    work = _Work(calendar, options, rows * columns)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            part = (slice(top, top + rows), slice(left, left + columns))
            block = calendar.composite(clear[:, *part])
            size = block.shape[1:]
            block = block.reshape(dates, -1)
            for g, group in enumerate(calendar.groups):
                for s, row in enumerate(work.statistics(block, group)):
                    result[g, s, *part] = row.reshape(size)
    if domain is not None:
        result[..., ~domain] = np.nan
    return result


class _OverflowError(Exception):
    """Some gap has more days than the type of gaps holds."""


class _Work:
    """Works through blocks in memory of its own: to ask for it anew for each one takes as long as the arithmetic."""

    def __init__(self, calendar: GapCalendar, options: GapOptions, pixels: int) -> None:
        self.calendar = calendar
        self.options = options
        self.rows = max(sum(part.stop - part.start + 1 for part in group.parts) for group in calendar.groups)
        self._memory: dict[str, U8] = {}
        self._pixels = pixels
        self._epoch = calendar.epoch.astype(np.float32)
        self._regular = bool((np.diff(calendar.epoch) == 1).all())

    def _room(self, name: str, rows: int, pixels: int, dtype: DTypeLike) -> NDArray[Any]:
        """Return memory for (row, pixel) that is kept from block to block."""
        dtype = np.dtype(dtype)
        needed = max(self.rows, len(self.calendar.numbers)) * self._pixels * dtype.itemsize
        if name not in self._memory or self._memory[name].size < needed:
            self._memory[name] = np.empty(needed, dtype=np.uint8)
        return self._memory[name][: rows * pixels * dtype.itemsize].view(dtype).reshape(rows, pixels)

    def statistics(self, clear: Bool, group: Group) -> Iterator[NDArray[Any]]:
        """Yield the numbers of a block (date, pixel), a row each."""
        gaps, ends, total = self._gaps_of(clear, group)
        rows, pixels = gaps.shape
        longest = gaps.max(axis=0, initial=0)
        by_part = [count(clear[part.start : part.stop]) for part in group.parts]
        seen = _summed(by_part)
        flags = self._room("flags", rows, pixels, np.bool_)
        spare = self._room("spare", rows, pixels, gaps.dtype)
        if self.options.boundaries == "include":  # on the first and the last day ends a gap of no days
            number = count(np.not_equal(gaps, 0, out=flags))
        else:
            number = _summed([part - (part > 0) for part in by_part])
        none = np.flatnonzero(number == 0)

        def known(numbers: NDArray[Any]) -> NDArray[np.float32]:
            """Return numbers where there are gaps."""
            shown = numbers.astype(np.float32)
            shown[none] = np.nan
            return shown

        yield seen
        yield number
        # Whole numbers below 2**24 are exact in single precision, and so is the rounding of what one of them divided by
        # another comes to.
        yield known(np.divide(total, np.maximum(number, 1), dtype=np.float32))
        middle, *levels = (
            percentile(gaps, number, p, longest, flags, spare) for p in (50.0, *self.options.percentiles)
        )
        yield known(middle)
        one = gaps.dtype.type(1)
        # Where there is no gap, 0 - 1 is the largest number there is.
        yield known(np.subtract(gaps, one, out=spare).min(axis=0, initial=np.iinfo(gaps.dtype).max) + one)
        yield known(longest)
        yield known(self._deviation(gaps, number, longest, total))
        for level in levels:
            yield known(level)
        at = first_row(np.equal(gaps, longest, out=flags), flags.view(np.uint8))
        if self._regular:  # days of the period and dates run alike
            end = np.append(self._epoch[ends], np.float32(np.nan)).take(at)
            yield known(end - longest)
            yield known(end)
        else:
            day = np.append(ends, 0).take(at)
            yield known(self._epoch.take(np.maximum(day - longest, 0)))
            yield known(self._epoch.take(day))
        counts = np.arange(len(self.calendar.numbers) + 1)
        for days in (group.days, group.dates):
            shares = 1 - counts / days if days else np.full(len(counts), np.nan)
            yield shares.astype(np.float32).take(seen)

    def _gaps_of(self, clear: Bool, group: Group) -> tuple[NDArray[Any], NDArray[np.intp], NDArray[np.int32]]:
        """Return the gaps that end at each date, 0 where none does; the days that rows end on; and sums of gaps.

        Gaps are bytes if all of them fit, which only shows while they are counted.
        """
        for dtype in (np.uint8, np.uint16, np.uint32):
            try:
                return self._gaps_as(np.dtype(dtype), clear, group)
            except _OverflowError:
                continue
        raise AssertionError("a period has fewer than 2**32 days")

    def _gaps_as(
        self, dtype: np.dtype[Any], clear: Bool, group: Group
    ) -> tuple[NDArray[Any], NDArray[np.intp], NDArray[np.int32]]:
        pixels = clear.shape[1]
        include = self.options.boundaries == "include"
        total = np.zeros(pixels, dtype=np.int32)
        gaps = self._room("gaps", self.rows, pixels, dtype)
        ends: list[int] = []
        done = 0
        for part in group.parts:
            numbers = self.calendar.numbers[part.start : part.stop]
            rows = len(numbers) + 1 if include else len(numbers) - 1
            if rows < 1:
                continue
            total += self._walk(clear[part.start : part.stop], numbers, part, gaps[done : done + rows])
            ends += numbers[len(numbers) - min(rows, len(numbers)) :].tolist()
            ends += [part.last] * include
            done += rows
        return gaps[:done], np.array(ends, dtype=np.intp), total

    def _walk(
        self, clear: Bool, numbers: NDArray[np.int64], part: Part, out: NDArray[Any]
    ) -> NDArray[np.int32] | np.int32:
        """Write the gaps of one stretch, and return their sums.

        Date by date goes the number of days since the last clear one, which is the gap where it is clear again.
        """
        include = self.options.boundaries == "include"
        pixels, dtype = clear.shape[1], out.dtype
        if include:
            first, latest, days = None, part.first, np.diff(numbers, prepend=part.first)
            since = np.zeros(pixels, dtype=dtype)
        else:
            # A pixel that is never clear is at 0 on the last date, and has no gap.
            first = np.append(numbers, numbers[-1]).astype(np.int32).take(begun(clear))
            latest, days = int(first.max(initial=0)), np.diff(numbers)
            # Counting starts so far below 0, round the corner, that no gap ends on the first clear date.
            since = (np.int32(numbers[0]) - first).astype(dtype)
            clear = clear[1:]
        most, top, day = int(np.iinfo(dtype).max), 0, part.first if include else int(numbers[0])
        add, multiply, subtract = np.add, np.multiply, np.subtract
        # Arrays of no dimensions are taken as they are, numbers turned into them each time.
        for flags, step, length, gaps in zip(
            clear.view(np.uint8), days.tolist(), [np.array(step) for step in days.astype(dtype)], out, strict=False
        ):
            top += step  # no count that has started is larger
            if top > most:
                started = since if first is None or day >= latest else since * (first <= day)
                top = int(started.max(initial=0)) + step
                if top > most:
                    raise _OverflowError
            day += step
            add(since, length, since)
            multiply(since, flags, gaps)
            subtract(since, gaps, since)
        if first is None:
            rest = part.last - day
            if int(since.max(initial=0)) + rest > most:
                raise _OverflowError
            np.add(since, dtype.type(rest), out=out[-1])
            return np.int32(part.last - part.first)
        return np.asarray(np.int32(numbers[-1]) - since - first, dtype=np.int32)

    def _deviation(
        self, gaps: NDArray[Any], number: NDArray[Any], longest: NDArray[Any], total: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """Return standard deviations, from sums of squares in the narrowest type that holds them."""
        top = int(np.multiply(longest, total, dtype=np.int64).max(initial=0))
        kind = next(kind for kind in (np.uint16, np.uint32, np.uint64) if top <= np.iinfo(kind).max)
        wide = self._room("spare", len(gaps), gaps.shape[1], kind)
        # To widen first and multiply then takes half as long as to have NumPy widen both factors as it goes.
        np.copyto(wide, gaps)
        squares = np.einsum("ij,ij->j", wide, wide)
        divisor, whole = np.maximum(number, 1).astype(np.float64), total.astype(np.float64)
        return np.asarray(np.sqrt((divisor * squares - whole * whole) / (divisor * divisor)))


def _summed(counts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the sum of several counts, in a type that holds it."""
    if len(counts) == 1:
        return counts[0]
    return np.asarray(np.sum(counts, axis=0, dtype=np.intp))


def parse_percentiles(option: str, text: str | None) -> tuple[float, ...]:
    """Read percentiles such as 10,90.

    >>> parse_percentiles("--percentiles", "10, 90")
    (10.0, 90.0)
    """
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d+(\.\d+)?", part) and float(part) <= 100 for part in parts):
        raise OptionError(f"{option} needs numbers from 0 to 100 such as 10,90, got {text!r}")
    return tuple(float(part) for part in parts)
