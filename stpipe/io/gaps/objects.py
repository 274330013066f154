"""Gap statistics of xarray objects, in memory or lazily, by the same arithmetic as the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import is_dask_collection
from numpy.typing import NDArray

from stpipe.core.gap_statistics import EPOCH_UNITS, GapCalendar, GapOptions, Statistic, check_dates, gap_calendar
from stpipe.core.gap_statistics import gap_statistics as statistics_of_pixels
from stpipe.core.ports import VariableInfo
from stpipe.core.qa_products import parse_trust
from stpipe.core.samples import check_fillable, physical, valid_samples
from stpipe.core.trust import remarks
from stpipe.core.windows import Window, triple
from stpipe.io.arguments import by_arguments, checked_names, checked_numbers, checked_range, warn
from stpipe.io.cube import Period
from stpipe.io.dimensions import coordinate_of
from stpipe.io.gaps.request import period_bounds
from stpipe.io.gaps.store import statistic_attrs
from stpipe.io.gaps.tasks import observed
from stpipe.io.objects import ArrayReader, ObjectCube, understand
from stpipe.io.times import decode_times, select_period

COLUMN_SAMPLES = 2**26
"""Samples of a lazy task, with all its dates."""

Bool = NDArray[np.bool_]
Range = tuple[float, float]


@by_arguments
def gap_statistics(
    obj: xr.Dataset | xr.DataArray,
    *,
    variables: str | Sequence[str] | None = None,
    boundaries: str = "exclude",
    by: str = "none",
    percentiles: float | Sequence[float] = (),
    time: Period | None = None,
    domain: str | xr.DataArray | None = None,
    valid_range: Range | None = None,
    qa: str | Sequence[str] = (),
    keep: str | Sequence[str] = (),
    drop: str | Sequence[str] = (),
    buffer: int = 0,
) -> xr.Dataset:
    """Return statistics of the days between successive clear observations of each pixel.

    Parameters
    ----------
    obj : Dataset or DataArray
        Variables over (time, y, x) in any order and by any names that `stpipe.open_cube` takes, NaN in gaps. If a
        variable is a Dask array, so are its statistics, and nothing is computed yet.
    variables : sequence of str, optional
        What to look at; all numeric variables over (time, y, x) unless given, but codes and those that rules are about.
    boundaries : {"exclude", "include"}
        Whether the first and the last day of the period count as ends of gaps.
    by : {"none", "year", "season", "month"}
        What to look at by itself; a season or month of all years goes together, but no gap reaches out of one.
    percentiles : float or sequence of float
        Percentiles of the gaps, from 0 to 100, besides the median.
    time : (start, end), optional
        Period to look at; from the first frame to the last unless given.
    domain : str or DataArray over (y, x), optional
        Non-zero where values can exist at all.
    valid_range : (low, high), optional
        Values outside of it are gaps.
    qa, keep, drop : str or sequence of str
        Which samples to trust, as for ``stpipe gaps``; what is not trusted counts as gap.
    buffer : int
        Pixels by which what these rules call unclear grows.

    Returns
    -------
    Dataset
        For each variable VAR_clear_count, VAR_gap_count, VAR_gap_mean and so on over (y, x), or over (season, y, x) and
        the like; float32, dates as datetime64, NaN or NaT where there is no gap. The order of rows is the input's.

    Raises
    ------
    RefusedError
        If the object is no cube, or an option can't be met; before anything is computed.

    Examples
    --------
    >>> when = np.array(["2024-05-01", "2024-05-06", "2024-05-11", "2024-05-31"], dtype="M8[ns]")
    >>> values = np.array([0.2, np.nan, 0.4, 0.5]).reshape(4, 1, 1)
    >>> cube = xr.DataArray(values, dims=("time", "y", "x"), coords={"time": when}, name="ndvi")
    >>> found = gap_statistics(cube)
    >>> found.ndvi_gap_count.item(), found.ndvi_gap_mean.item(), str(found.ndvi_longest_start.values[0, 0])[:10]
    (2.0, 15.0, '2024-05-11')
    """
    variables, valid_range = checked_names(variables, "variables"), checked_range(valid_range)
    options = GapOptions(boundaries=boundaries, by=by, percentiles=checked_numbers(percentiles, "percentiles"))
    trust = parse_trust(qa, keep, drop, buffer)
    cube = understand(obj, variables=variables, domain=domain, trust=trust, tell=warn)
    dim = cube.dims[0]
    coordinate = coordinate_of(cube.dataset, dim, "time")
    assert coordinate is not None  # understand has refused an object without dates
    axis = decode_times(coordinate, "the dataset")
    if time is not None:
        first, stop = select_period(axis, time, "the dataset")
        cut = cube.dataset.isel({dim: slice(first, stop)})
        cube = understand(cut, variables=list(cube.names), domain=domain, trust=trust)
        axis = decode_times(coordinate[first:stop], "the dataset")
    calendar = gap_calendar(axis.labels, cube.days, by=by, period=period_bounds(time))
    check_dates(calendar, options, "the dataset")
    found: dict[str, xr.Variable] = {}
    for name in cube.names:
        check_fillable(cube.info(name))
        found |= _of_variable(cube, name, calendar, options, valid_range)
    result = cube.dataset.drop_vars(list(cube.dataset.data_vars)).drop_dims(dim).assign(found)
    if by != "none":
        result = result.assign_coords({by: [group.key for group in calendar.groups]})
    return result


def _of_variable(
    cube: ObjectCube, name: str, calendar: GapCalendar, options: GapOptions, valid_range: Range | None
) -> dict[str, xr.Variable]:
    """Return the statistics of one variable by their names."""
    reader, info = cube.reader(name), cube.info(name)
    values = (_lazily if is_dask_collection(reader.array) else _now)(reader, info, calendar, options, valid_range)
    dims = (() if options.by == "none" else (options.by,)) + cube.dims[1:]
    found = {}
    for s, statistic in enumerate(options.statistics):
        part = values[0, s] if options.by == "none" else values[:, s]
        data, attrs = _as_dates(part, statistic), statistic_attrs(name, statistic)
        if statistic.units == EPOCH_UNITS:
            attrs = {"long_name": attrs["long_name"]}  # xarray says the rest by the type
        found[f"{name}_{statistic.name}"] = xr.Variable(dims, data, attrs)
    return found


def _now(
    reader: ArrayReader, info: VariableInfo, calendar: GapCalendar, options: GapOptions, valid_range: Range | None
) -> NDArray[np.float32]:
    """Work out an array in memory."""
    whole = Window.of(reader.extent)
    clear = _valid(np.asarray(reader.array), info=info, valid_range=valid_range)
    judged = reader.read_judged(whole)
    if judged is not None and reader.trust is not None:
        clear &= judged[0]
        for line in remarks(reader.trust, judged[1]):
            warn(line)
    return statistics_of_pixels(clear, calendar, options, domain=reader.domain)


def _lazily(
    reader: ArrayReader, info: VariableInfo, calendar: GapCalendar, options: GapOptions, valid_range: Range | None
) -> da.Array:
    """Make the graph that works out a Dask array: what is clear chunk by chunk, then columns with all dates."""
    clear = reader.array.map_blocks(_valid, info=info, valid_range=valid_range, dtype=bool, meta=_nothing(bool))
    if reader.trust is not None:
        clear = clear.map_blocks(_trusted, reader=_Opaque(reader), dtype=bool, meta=_nothing(bool))
    frames = reader.extent[0]
    side = max(1, int((COLUMN_SAMPLES / max(1, frames)) ** 0.5))
    columns = clear.rechunk({0: -1, 1: min(side, reader.extent[1]), 2: min(side, reader.extent[2])})
    shape = (len(calendar.groups), len(options.statistics))
    values: da.Array = columns.map_blocks(
        _columns,
        calendar=calendar,
        options=options,
        domain=reader.domain,
        dtype=np.float32,
        chunks=((shape[0],), (shape[1],), *columns.chunks[1:]),
        drop_axis=0,
        new_axis=(0, 1),
        meta=np.empty((0, 0, 0, 0), dtype=np.float32),
    )
    return values


class _Opaque:
    """Keeps Dask from looking into a reader, where it would find the arrays of the rules."""

    def __init__(self, reader: ArrayReader) -> None:
        self.reader = reader


def _nothing(dtype: Any) -> NDArray[Any]:
    return np.empty((0, 0, 0), dtype=dtype)


def _valid(samples: NDArray[Any], *, info: VariableInfo, valid_range: Range | None) -> Bool:
    """Return where samples are observations, rules and domain aside."""
    if valid_range is not None:
        frames = [valid_samples(physical(frame, info), valid_range=valid_range, info=info) for frame in samples]
        return np.stack(frames) if frames else np.zeros(samples.shape, dtype=bool)
    return observed(samples, info)


def _trusted(clear: Bool, *, reader: _Opaque, block_info: Any = None) -> Bool:
    """Return what of a chunk is clear and trusted; the chunk's part of the rules' variables is read here."""
    place = block_info[0]["array-location"]
    window = Window(triple(start for start, _ in place), triple(stop for _, stop in place))
    trusted = reader.reader.read_trusted(window)
    assert trusted is not None
    return clear & trusted


def _columns(
    clear: Bool, *, calendar: GapCalendar, options: GapOptions, domain: Bool | None, block_info: Any = None
) -> NDArray[np.float32]:
    """Work out one chunk."""
    if domain is not None:
        _, rows, columns = block_info[0]["array-location"]
        domain = domain[slice(*rows), slice(*columns)]
    return statistics_of_pixels(clear, calendar, options, domain=domain)


def _as_dates(values: Any, statistic: Statistic) -> Any:
    """Return dates as datetime64, NaT where there is none; other statistics as they are."""
    if statistic.units != EPOCH_UNITS:
        return values
    if is_dask_collection(values):
        return values.map_blocks(_dates, dtype="M8[ns]", meta=np.empty((0,) * values.ndim, dtype="M8[ns]"))
    return _dates(values)


def _dates(values: NDArray[np.float32]) -> NDArray[np.datetime64]:
    known = np.isfinite(values)
    dates = np.where(known, values, 0).astype(np.int64).astype("M8[D]").astype("M8[ns]")
    dates[~known] = np.datetime64("NaT")
    return dates
