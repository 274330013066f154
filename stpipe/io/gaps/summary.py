"""What gap statistics come to: a row for each statistic over all pixels, and how clear each date was."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from stpipe.core.gap_statistics import EPOCH_UNITS, GapCalendar, GapOptions
from stpipe.core.ports import JSON

QUANTILES = (5, 25, 50, 75, 95)
"""Percentiles over pixels."""

MOST_PIXELS = 2**20
"""Pixels that quantiles are taken over; of larger scenes every second, fourth, ... row and column."""

F32 = NDArray[np.float32]


def band_names(calendar: GapCalendar, options: GapOptions) -> list[str]:
    """Return the names of the bands of the GeoTIFF: those of the statistics, after a group's where there are several.

    >>> from stpipe.core.gap_statistics import gap_calendar
    >>> days = np.array(["2023-01-05", "2023-06-01"], dtype="M8[ns]")
    >>> band_names(gap_calendar(days, by="season"), GapOptions(by="season"))[11:13]
    ['MAM_clear_count', 'MAM_gap_count']
    """
    if options.by == "none":
        return [statistic.name for statistic in options.statistics]
    return [f"{group.label}_{statistic.name}" for group in calendar.groups for statistic in options.statistics]


def summarise(
    records: Iterable[Mapping[str, Any]], raster: Path, calendar: GapCalendar, options: GapOptions
) -> dict[str, JSON]:
    """Return what all footprints of a variable come to.

    Parameters
    ----------
    records : iterable of dict
        Those of the footprints.
    raster : Path
        The finished GeoTIFF, for quantiles.
    calendar, options
        What was worked out.
    """
    clear = np.zeros(len(calendar.numbers), dtype=np.int64)
    pixels = 0
    bands: list[dict[str, Any]] = [
        {"pixels": 0, "min": math.inf, "max": -math.inf, "sum": 0.0}
        for _ in range(len(calendar.groups) * len(options.statistics))
    ]
    for record in records:
        clear += record["clear"]
        pixels += record["pixels"]
        for total, band in zip(bands, record["bands"], strict=True):
            if band["pixels"]:
                total["pixels"] += band["pixels"]
                total["sum"] += band["sum"]
                total["min"], total["max"] = min(total["min"], band["min"]), max(total["max"], band["max"])
    rows: list[dict[str, JSON]] = []
    for i, name in enumerate(band_names(calendar, options)):
        group, statistic = divmod(i, len(options.statistics))
        of = options.statistics[statistic]
        values = read_shown(raster, i + 1, MOST_PIXELS)
        rows.append({
            "band": name,
            "group": calendar.groups[group].label,
            "statistic": of.name,
            "units": of.units,
            **_row(bands[i], values[np.isfinite(values)], dates=of.units == EPOCH_UNITS),
        })  # fmt: skip
    shares = clear / pixels if pixels else np.full(len(clear), np.nan)
    return {
        "pixels": pixels,
        "rows": rows,
        "by_date": [
            {"date": str(date), "clear_pixels": int(count), "clear_share": None if math.isnan(share) else float(share)}
            for date, count, share in zip(calendar.dates, clear, shares, strict=True)
        ],
    }


def _row(total: Mapping[str, Any], values: F32, *, dates: bool) -> dict[str, JSON]:
    """Return one statistic over all pixels; dates as text, without a mean."""
    some = bool(total["pixels"])
    found = np.percentile(values, QUANTILES).tolist() if values.size else [None] * len(QUANTILES)
    numbers: dict[str, Any] = {
        "min": total["min"] if some else None,
        "mean": total["sum"] / total["pixels"] if some and not dates else None,
        **{f"p{q}": value for q, value in zip(QUANTILES, found, strict=True)},
        "max": total["max"] if some else None,
    }
    if dates:
        numbers = {k: None if v is None else str(np.datetime64(round(v), "D")) for k, v in numbers.items()}
    return {"pixels": total["pixels"], **numbers}


def read_shown(path: Path, band: int, most: int) -> F32:
    """Return a band, or the largest of its overviews that has no more pixels than some number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a cube may lie nowhere
        dataset = rasterio.open(path)
    with dataset:
        height, width = dataset.shape
        step = 1
        while -(-height // step) * -(-width // step) > most:
            step *= 2
        shape = (-(-height // step), -(-width // step))
        values: F32 = dataset.read(band, out_shape=shape)
        return values


def clear_shares(summary: Mapping[str, Any]) -> tuple[Sequence[str], NDArray[np.float64]]:
    """Return the dates of a summary and how clear they were, NaN where nobody knows."""
    rows = summary["by_date"]
    shares = np.array([math.nan if row["clear_share"] is None else row["clear_share"] for row in rows])
    return [row["date"] for row in rows], shares
