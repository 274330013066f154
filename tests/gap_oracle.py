"""Gap statistics of one pixel the slow way: dates one by one, with pandas and the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SEASONS: list[int | str] = ["DJF", "MAM", "JJA", "SON"]
EPOCH = pd.Timestamp("1970-01-01")
SEASON_OF = dict(zip(range(1, 13), ["DJF"] * 2 + ["MAM"] * 3 + ["JJA"] * 3 + ["SON"] * 3 + ["DJF"], strict=True))


def _key_and_piece(day: pd.Timestamp, by: str) -> tuple[int | str, tuple[int, ...]]:
    """Return what a day belongs to, and which instance of it."""
    if by == "year":
        return day.year, (day.year,)
    if by == "month":
        return day.month, (day.year, day.month)
    if by == "season":
        season = SEASON_OF[day.month]
        return season, (day.year + (day.month == 12), SEASONS.index(season))
    return "all", (0,)


def slow_statistics(
    clear: NDArray[np.bool_],
    times: NDArray[np.datetime64],
    boundaries: str,
    by: str,
    percentiles: Sequence[float],
    period: tuple[np.datetime64 | None, np.datetime64 | None] = (None, None),
) -> dict[int | str, dict[str, float]]:
    """Return the statistics of one pixel by group, in the order in which they are published."""
    dates = [pd.Timestamp(time).normalize() for time in times]
    seen = sorted({date for date, flag in zip(dates, clear, strict=True) if flag})
    start = dates[0] if period[0] is None else pd.Timestamp(period[0]).normalize()
    end = dates[-1] if period[1] is None else pd.Timestamp(period[1]).normalize()
    pieces: dict[int | str, dict[tuple[int, ...], list[pd.Timestamp]]] = {}
    for day in pd.date_range(start, end, freq="D"):
        key, piece = _key_and_piece(day, by)
        pieces.setdefault(key, {}).setdefault(piece, []).append(day)
    results = {}
    for key in sorted(pieces, key=lambda key: SEASONS.index(key) if key in SEASONS else key):  # type: ignore[arg-type,return-value]
        gaps: list[tuple[int, pd.Timestamp, pd.Timestamp]] = []
        inside: list[pd.Timestamp] = []
        imaged: set[pd.Timestamp] = set()
        total_days = 0
        for days in pieces[key].values():
            total_days += len(days)
            imaged |= {date for date in dates if days[0] <= date <= days[-1]}
            here = [date for date in seen if days[0] <= date <= days[-1]]
            inside += here
            ends = [days[0], *here, days[-1]] if boundaries == "include" else here
            gaps += [((late - early).days, early, late) for early, late in pairwise(ends) if late > early]
        results[key] = _numbers(gaps, len(inside), total_days, len(imaged), percentiles)
    return results


def _numbers(
    gaps: Sequence[tuple[int, pd.Timestamp, pd.Timestamp]],
    seen: int,
    total_days: int,
    imaged: int,
    percentiles: Sequence[float],
) -> dict[str, float]:
    lengths = pd.Series([gap[0] for gap in gaps], dtype="float64")
    longest = max(gaps, key=lambda gap: gap[0], default=None)  # max gives the first of several
    nan = float("nan")
    return {
        "clear_count": seen,
        "gap_count": len(gaps),
        "gap_mean": lengths.mean(),
        "gap_median": lengths.median(),
        "gap_min": lengths.min(),
        "gap_max": lengths.max(),
        "gap_std": lengths.std(ddof=0),
        **{f"gap_p{p:g}": float(lengths.quantile(p / 100)) if gaps else nan for p in percentiles},
        "longest_start": nan if longest is None else float((longest[1] - EPOCH).days),
        "longest_end": nan if longest is None else float((longest[2] - EPOCH).days),
        "period_without_data": 1 - seen / total_days,
        "dates_without_data": 1 - seen / imaged if imaged else nan,
    }
