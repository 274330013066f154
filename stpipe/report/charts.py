"""The report's two charts as lines and points of a plane: what each date holds, and a few pixels through time.

The page draws them as SVG. Ticks are matplotlib's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.samples import SOURCE_CODES
from stpipe.io.frames import SOURCE_COLOURS
from stpipe.report.sampling import Curve

WIDTH = 960
"""Units across a chart."""

HEIGHT = 130
"""Units down."""

NARROWEST, WIDEST = 0.6, 14.0
"""Of a date's bar."""

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One mark on an axis."""

    at: float
    """Units from the left, or from the top."""

    label: str
    """What it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One path of SVG."""

    path: str
    """Its ``d``."""

    colour: str
    """Of its area, or its line."""

    meaning: str
    """The source code that it stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What is drawn in a box of `WIDTH` by `HEIGHT`."""

    dates: tuple[Tick, ...]
    """Along the lower side."""

    values: tuple[Tick, ...]
    """Along the left one."""

    bars: tuple[Shape, ...] = ()
    """Areas."""

    points: tuple[Shape, ...] = ()
    """Lines without length, which round ends make into points."""

    intervals: tuple[Shape, ...] = ()
    """Upright lines."""

    line: str = ""
    """Through all points."""


def share_chart(times: NDArray[np.datetime64], counts: NDArray[np.int64]) -> Chart:
    """Return a bar for each date: which share of its samples inside the domain comes from where.

    Dates that would share a unit of `WIDTH` share a bar, if there are more of them than units.

    Parameters
    ----------
    times : (n,) ndarray of datetime64
        Dates.
    counts : (n, 5) ndarray of int64
        Samples of each source code.
    """
    x, dates = _along(times)
    x, counts = _binned(x, counts)
    inside = np.delete(counts, SOURCE_CODES["outside_domain"], axis=1).sum(axis=1)
    width = _bar_width(x)
    top = np.zeros(len(x))
    bars = []
    for meaning, code in SOURCE_CODES.items():
        if meaning == "outside_domain":
            continue
        height = counts[:, code] / np.maximum(1, inside) * HEIGHT
        drawn = np.flatnonzero(height > 0)
        path = "".join(
            f"M{x[i] - width / 2:.1f} {HEIGHT - top[i] - height[i]:.1f}h{width:.2f}v{height[i]:.1f}h{-width:.2f}z"
            for i in drawn
        )
        if path:
            bars.append(Shape(path=path, colour=SOURCE_COLOURS[meaning], meaning=meaning))
        top += height
    percents = tuple(Tick(at=HEIGHT * (1 - share / 100), label=f"{share} %") for share in (0, 50, 100))
    return Chart(dates=dates, values=percents, bars=tuple(bars))


def curve_chart(times: NDArray[np.datetime64], curve: Curve, limits: tuple[float, float]) -> Chart:
    """Return a pixel's values through time, each in the colour of where it comes from, with its interval.

    Of more than twice as many dates as `WIDTH` has units the lowest and the highest of each unit and source are drawn.

    Parameters
    ----------
    times : (n,) ndarray of datetime64
        Dates.
    curve : Curve
        The pixel.
    limits : tuple of float
        Values at the lower and the upper side; what is beyond is drawn at the side.
    """
    x, dates = _along(times)
    low, high = limits

    def down(values: F64) -> F64:
        return HEIGHT * (1 - (values.clip(low, high) - low) / (high - low))

    kept = _drawn(x, curve)
    y, upper, lower = (
        down(curve.values + sign * np.nan_to_num(curve.half_widths, posinf=high - low)) for sign in (0, 1, -1)
    )
    points, intervals = [], []
    for meaning, code in SOURCE_CODES.items():
        drawn = kept[curve.codes[kept] == code]
        if not len(drawn):
            continue
        colour = SOURCE_COLOURS[meaning]
        points.append(Shape(path="".join(f"M{x[i]:.1f} {y[i]:.1f}h0" for i in drawn), colour=colour, meaning=meaning))
        bars = "".join(f"M{x[i]:.1f} {upper[i]:.1f}V{lower[i]:.1f}" for i in drawn if upper[i] < lower[i])
        if bars:
            intervals.append(Shape(path=bars, colour=colour, meaning=meaning))
    line = "L".join(f"{x[i]:.1f} {y[i]:.1f}" for i in kept)
    return Chart(
        dates=dates,
        values=_value_ticks(low, high),
        points=tuple(points),
        intervals=tuple(intervals),
        line=f"M{line}" if line else "",
    )


def limits_of_curves(curves: Sequence[Curve]) -> tuple[float, float]:
    """Return what several curves with their intervals need, never the same number twice.

    >>> one = Curve(y=0, x=0, values=np.array([1.0, 2.0]), half_widths=np.array([0.0, 0.5]), codes=np.array([1, 2]))
    >>> limits_of_curves([one])
    (0.925, 2.575)
    """
    ends = [curve.values + sign * curve.half_widths for curve in curves for sign in (-1, 1)]
    values = np.concatenate([np.empty(0), *ends])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = 0.05 * (high - low) or max(abs(low) * 1e-3, 1e-6)
    return low - room, high + room


def _along(times: NDArray[np.datetime64]) -> tuple[F64, tuple[Tick, ...]]:
    """Return where each date is, and the ticks below."""
    import matplotlib.dates

    tools: Any = matplotlib.dates
    days: F64 = np.asarray(tools.date2num(times.astype("M8[us]")), dtype=np.float64)
    first, last = float(days[0]), float(days[-1])
    margin = 0.5 * float(np.median(np.diff(days))) if last > first else 1.0
    span = last - first + 2 * margin
    x = (days - first + margin) / span * WIDTH
    if last <= first:
        return x, (Tick(at=WIDTH / 2, label=str(times[0].astype("M8[D]"))),)
    with _plain():
        locator = tools.AutoDateLocator(minticks=3, maxticks=9, tz=UTC)
        ends = (tools.num2date(day, tz=UTC) for day in (first, last))
        marks: F64 = np.asarray(locator.tick_values(*ends), dtype=np.float64)
        marks = marks[(marks >= first - margin) & (marks <= last + margin)]
        formatter = tools.ConciseDateFormatter(locator, tz=UTC)
        labels = formatter.format_ticks(list(marks))
        if marks.size and formatter.get_offset():
            labels[0] = f"{labels[0]} ({formatter.get_offset()})"
    places = (marks - first + margin) / span * WIDTH
    return x, tuple(Tick(at=float(at), label=label) for at, label in zip(places, labels, strict=True))


def _binned(x: F64, counts: NDArray[np.int64]) -> tuple[F64, NDArray[np.int64]]:
    """Return the places of bars, and what is in them: that of each date, or of several where they stand too close."""
    if len(x) <= WIDTH:
        return x, counts
    units, which = np.unique(x.clip(0, WIDTH - 1).astype(int), return_inverse=True)
    summed = np.zeros((len(units), counts.shape[1]), dtype=np.int64)
    np.add.at(summed, which, counts)
    return units + 0.5, summed


def _drawn(x: F64, curve: Curve) -> NDArray[np.intp]:
    """Return which dates of a curve are drawn."""
    known = np.flatnonzero(np.isfinite(curve.values))
    if len(known) <= 2 * WIDTH:
        return known
    unit, code = x[known].astype(int), curve.codes[known].astype(int)
    order = np.lexsort((curve.values[known], code, unit))
    group = unit[order] * len(SOURCE_CODES) + code[order]
    first = np.flatnonzero(np.diff(group, prepend=-1))
    last = np.append(first[1:], len(group)) - 1
    drawn: NDArray[np.intp] = known[np.unique(order[np.concatenate([first, last])])]
    return drawn


def _bar_width(x: F64) -> float:
    """Return how wide bars may be, so that most stand side by side."""
    if len(x) < 2:
        return WIDEST
    return float(np.clip(0.85 * np.median(np.diff(x)), NARROWEST, WIDEST))


def _value_ticks(low: float, high: float) -> tuple[Tick, ...]:
    from matplotlib.ticker import MaxNLocator

    with _plain():
        marks = [float(mark) for mark in MaxNLocator(nbins=4).tick_values(low, high) if low <= mark <= high]
    return tuple(
        Tick(at=HEIGHT * (1 - (mark - low) / (high - low)), label=label)
        for mark, label in zip(marks, _spelled(marks), strict=True)
    )


def _spelled(marks: Sequence[float]) -> list[str]:
    """Return numbers that are evenly apart in as few digits as tell them from their neighbours' middle.

    >>> _spelled([0.25, 0.5, 0.75]), _spelled([1.505e-5, 1.51e-5]), _spelled([2900000.0, 3100000.0])
    (['0.25', '0.5', '0.75'], ['1.505e-05', '1.51e-05'], ['2900000', '3100000'])
    """
    step = min((abs(after - before) for before, after in pairwise(marks)), default=0.0)
    for digits in range(1, 17):
        # What was computed as 0.30000000000000004 is 0.3.
        labels = [f"{float(f'{mark:.{digits}g}'):.{max(digits, 7)}g}" for mark in marks]
        if all(abs(float(label) - mark) <= 1e-3 * step for label, mark in zip(labels, marks, strict=True)):
            break
    return labels


@contextmanager
def _plain() -> Iterator[None]:
    """Leave aside how the user likes matplotlib's ticks, so that the same run has the same page everywhere."""
    import matplotlib as mpl

    settings: Any = mpl.rcParamsDefault
    with mpl.rc_context({key: settings[key] for key in settings if key.startswith(("axes.", "date."))}):
        yield
