"""The time axis: CF decoding, any calendar, its rules, and the selection of a period."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from stpipe.errors import CubeError, OptionError
from stpipe.execution.storage import one_line

_DAY = np.timedelta64(1, "D")
_SHOWN = 3

FIRST_YEAR, LAST_YEAR = 1, 9999
"""What Python's dates and ISO 8601 can say."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimeAxis:
    """Decoded times of the frames."""

    labels: NDArray[np.datetime64]
    """(t,) datetime64[ns]; [us] where the years reach past what nanoseconds can hold."""

    days: NDArray[np.float64]
    """(t,) true days since the first frame, in the calendar of the file."""

    decoded: xr.Variable
    """The coordinate as xarray decodes it: datetime64, or cftime objects; with its encoding."""


def decode_times(variable: xr.Variable, path: str) -> TimeAxis:
    """Return the times of a cube; refuse what is not dates.

    Parameters
    ----------
    variable : xr.Variable
        The time coordinate with its CF attributes, not decoded; or datetime64; or ISO 8601 strings.
    path : str
        File it is from, for messages.

    Examples
    --------
    >>> noleap = xr.Variable("time", [58, 59], {"units": "days since 2020-01-01", "calendar": "noleap"})
    >>> axis = decode_times(noleap, "cube.zarr")
    >>> [str(label)[:10] for label in axis.labels], axis.days
    (['2020-02-28', '2020-03-01'], array([0., 1.]))
    """
    decoded = _decode(variable, path)
    values = decoded.values
    if values.dtype.kind == "M":
        if np.isnat(values).any():
            missing = int(np.flatnonzero(np.isnat(values))[0])
            raise CubeError(f"every frame needs a date, but frame {missing} of {path} has none; drop it or set it")
        _check_years(values.astype("datetime64[Y]").astype(np.int64) + 1970, path)
        days = ((values - values[0]) / _DAY).astype(np.float64) if values.size else np.zeros(0)
        return TimeAxis(labels=nanoseconds(values), days=days, decoded=decoded)
    _check_years(np.array([value.year for value in values]), path)
    days = np.array([(value - values[0]).total_seconds() / 86400 for value in values], dtype=np.float64)
    return TimeAxis(labels=_label_cftime(values, days), days=days, decoded=decoded)


def _check_years(years: NDArray[np.int64], path: str) -> None:
    """Refuse dates that neither file names nor other programs can have."""
    far = np.flatnonzero((years < FIRST_YEAR) | (years > LAST_YEAR))
    if far.size:
        raise CubeError(
            f"dates lie in the years {FIRST_YEAR} to {LAST_YEAR}, but frame {far[0]} of {path} is of the year "
            f"{years[far[0]]}; are the units of its time axis right?"
        )


def _decode(variable: xr.Variable, path: str) -> xr.Variable:
    kind = variable.dtype.kind
    if kind == "M":
        return variable
    name = variable.dims[0]
    if kind in "OUST":
        values = variable.values
        if kind == "O" and values.size and hasattr(values[0], "calendar"):
            return variable
        try:
            text = [item.decode() if isinstance(item, bytes) else str(item) for item in values]
            parsed = pd.to_datetime(text, utc=True, format="ISO8601").tz_localize(None)
        except (ValueError, TypeError) as error:
            raise CubeError(f"axis {name!r} of {path} holds text that is not dates: {one_line(error)}") from error
        return xr.Variable(variable.dims, parsed.to_numpy(), {k: v for k, v in variable.attrs.items() if k != "units"})
    if " since " not in str(variable.attrs.get("units", "")).lower():
        raise CubeError(
            f"axis {name!r} of {path} holds plain numbers ({variable.dtype}), not dates; give it CF units, such as "
            f'ds["{name}"].attrs["units"] = "days since 2020-01-01"'
        )
    coordinate = variable.copy(deep=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            masked = xr.conventions.decode_cf_variable(str(name), coordinate, decode_times=True)
            masked.load()
    except Exception as error:
        raise CubeError(f"axis {name!r} of {path} can't be decoded as CF time: {one_line(error)}") from error
    return masked


def nanoseconds(values: NDArray[Any]) -> NDArray[np.datetime64]:
    """Return times in nanoseconds, or in microseconds where their years reach past what nanoseconds can hold.

    >>> nanoseconds(np.array(["1600-01-01"], "datetime64[D]"))
    array(['1600-01-01T00:00:00.000000'], dtype='datetime64[us]')
    """
    years = values.astype("datetime64[Y]").astype(np.int64) + 1970
    unit = "ns" if values.size == 0 or (years.min() > 1678 and years.max() < 2262) else "us"
    return values.astype(f"datetime64[{unit}]")


def _label_cftime(values: NDArray[Any], days: NDArray[np.float64]) -> NDArray[np.datetime64]:
    """Return the same dates where all exist in the common calendar, else true days counted from the first."""
    try:
        labels = np.array([np.datetime64(value.isoformat(), "us") for value in values])
    except ValueError:  # 30 February
        first = values[0]
        start = np.datetime64(f"{first.year:04d}-{first.month:02d}-{min(first.day, 28):02d}", "us")
        labels = start + np.round(days * 86_400e6).astype("timedelta64[us]")
    return nanoseconds(labels)


def label(time: np.datetime64) -> str:
    """Return a time as text, without the clock at midnight.

    >>> label(np.datetime64("2020-01-02")), label(np.datetime64("2020-01-02T10:30"))
    ('2020-01-02', '2020-01-02T10:30:00')
    """
    text = str(time.astype("datetime64[s]"))
    return text.removesuffix("T00:00:00")


def check_order(axis: TimeAxis, path: str, dim: str) -> None:
    """Refuse times that do not increase strictly."""
    wrong = disorder(axis.labels, axis.days, path, dim)
    if wrong is not None:
        raise CubeError(wrong)


def disorder(labels: NDArray[np.datetime64], days: NDArray[np.float64], path: str, dim: str) -> str | None:
    """Return where times do not increase strictly, and what to do about it; None where they do.

    Parameters
    ----------
    labels : (t,) ndarray of datetime64
        The times.
    days : (t,) ndarray of float64
        True days since some time.
    path, dim : str
        The cube and its axis, for the message.

    Examples
    --------
    >>> disorder(np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]"), np.array([0.0, 1.0]), "cube.zarr", "time")
    """
    steps = np.diff(days)
    if (steps > 0).all():
        return None
    back = np.flatnonzero(steps < 0)
    if back.size:
        at = int(back[0])
        return (
            f"times must increase, but in {path} frame {at + 1} ({label(labels[at + 1])}) comes after frame {at} "
            f"({label(labels[at])}), at {back.size} place{'s' * (back.size > 1)} in all; "
            f'sort it first: ds.sortby("{dim}")'
        )
    repeated = [(day, n) for day, n in Counter(days.tolist()).items() if n > 1]
    shown = ", ".join(f"{label(labels[int(np.searchsorted(days, day))])} ({n} frames)" for day, n in repeated[:_SHOWN])
    more = f" and {len(repeated) - _SHOWN} more" if len(repeated) > _SHOWN else ""
    return (
        f"each time may occur once, but {path} repeats {shown}{more}; make one frame of each: "
        f'ds.groupby("{dim}").mean(), or stpipe ingest --same-day mean'
    )


def select_period(axis: TimeAxis, period: tuple[str | None, str | None], path: str) -> tuple[int, int]:
    """Return the half-open range of frames in a period; both ends are inside it, a date means the whole day.

    >>> axis = decode_times(xr.Variable("time", np.array(["2020-01-31", "2020-02-29"], "datetime64[ns]")), "cube.zarr")
    >>> select_period(axis, ("2020-02", "2020-02"), "cube.zarr")
    (1, 2)
    """
    start, end = (bound(text, last=last) for text, last in zip(period, (False, True), strict=True))
    labels = axis.labels.astype("datetime64[us]")
    first = 0 if start is None else int(np.searchsorted(labels, start, side="left"))
    stop = labels.size if end is None else int(np.searchsorted(labels, end, side="right"))
    if start is not None and end is not None and start > end:
        raise OptionError(f"--time needs START before END, got {period[0]}/{period[1]}")
    if first >= stop:
        raise CubeError(
            f"no frame lies in {period[0] or '..'}/{period[1] or '..'}; {path} reaches from "
            f"{label(axis.labels[0])} to {label(axis.labels[-1])}"
        )
    return first, stop


def bound(text: str | None, *, last: bool) -> np.datetime64 | None:
    """Return the first or last moment of a date as it is written, such as 2020-01; None where a period is open.

    >>> bound("2020-01", last=False), bound("..", last=True)
    (np.datetime64('2020-01-01T00:00:00.000000'), None)
    """
    if text is None or text.strip() in {"", ".."}:
        return None
    try:
        span = pd.Period(text.strip().removesuffix("Z"))
        moment = span.end_time if last else span.start_time  # NaT has neither
    except Exception as error:
        raise OptionError(f"--time takes dates such as 2020-01-31/2020-12-31, got {text!r}") from error
    return np.datetime64(moment.to_datetime64(), "us")
