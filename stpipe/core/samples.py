"""Stored samples and physical values: what is valid, and the way there and back.

Stored samples are the numbers in the file. Validity is decided on them, observed ones are copied back as they are, and
only filled ones are ever encoded. nodata is known here and in `io`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.conditions import meant_integer
from stpipe.core.ports import VariableInfo
from stpipe.errors import CubeError


def check_fillable(info: VariableInfo) -> None:
    """Refuse a variable whose samples are not plain real numbers."""
    if np.dtype(info.dtype).kind not in "iuf":
        raise CubeError(f"variable {info.name!r} has type {info.dtype}; only integers and floats can be filled")


HUGE = 1e30
"""Beyond this a float is a mark, not a measurement."""


def physical(stored: NDArray[Any], info: VariableInfo) -> NDArray[np.float64]:
    """Return stored samples in physical units, NaN where they are nodata.

    >>> info = VariableInfo(name="ndvi", dtype="int16", chunks=(1, 1, 1), nodata=-9999, scale_factor=0.5)
    >>> physical(np.array([4, -9999], dtype="int16"), info)
    array([ 2., nan])
    """
    values = stored.astype(np.float64)
    values *= info.scale_factor
    values += info.add_offset
    values[is_nodata(stored, info)] = np.nan
    return values


def is_nodata(stored: NDArray[Any], info: VariableInfo) -> NDArray[np.bool_]:
    """Return True where the stored sample is nodata or NaN."""
    missing = np.isnan(stored) if stored.dtype.kind == "f" else np.zeros(stored.shape, dtype=bool)
    if info.nodata is not None and not np.isnan(info.nodata):
        if stored.dtype.kind == "f" and abs(info.nodata) > HUGE:
            # The lowest float32 is written as -3.4e38 with more or fewer digits; nothing measured is that large.
            missing |= stored <= -HUGE if info.nodata < 0 else stored >= HUGE
        else:
            nodata = np.asarray(info.nodata, dtype=stored.dtype) if stored.dtype.kind == "f" else info.nodata
            missing |= stored == nodata
    return missing


def credible(values: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return True where a valid value may speak for others; one beyond `HUGE` comes back as it is and is not believed.

    >>> credible(np.array([1.0, -3.4e38]), np.array([True, True]))
    array([ True, False])
    """
    return valid & (np.abs(np.where(valid, values, 0.0)) < HUGE)


def reach(valid_range: tuple[float, float], info: VariableInfo) -> tuple[float, float]:
    """Return a range that holds the physical values of the samples that its ends are stored as.

    In ten thousandths 0.7 comes back as 0.7000000000000001, and -0.2 in single precision lies below -0.2.

    >>> reach((-0.2, 0.7), VariableInfo(name="ndvi", dtype="int16", chunks=(1, 1, 1), scale_factor=1e-4))
    (-0.2, 0.7000000000000001)
    """
    dtype = np.dtype(info.dtype)

    def stored_as(end: float) -> float:
        stored = (end - info.add_offset) / info.scale_factor
        if not np.isfinite(stored):
            return end
        with np.errstate(over="ignore"):
            nearest = float(dtype.type(stored)) if dtype.kind == "f" else meant_integer(stored)
        return end if nearest is None else nearest * info.scale_factor + info.add_offset

    low, high = valid_range
    return min(low, stored_as(low)), max(high, stored_as(high))


def valid_samples(
    values: NDArray[np.float64],
    *,
    valid_range: tuple[float, float] | None = None,
    domain: NDArray[np.bool_] | None = None,
    info: VariableInfo | None = None,
) -> NDArray[np.bool_]:
    """Return True where a physical value is finite, inside the range and inside the domain.

    Parameters
    ----------
    values : (time, y, x) ndarray of float64
        Physical values, NaN where nodata.
    valid_range : (low, high), optional
        Both ends are valid.
    domain : (y, x) ndarray of bool, optional
        Where values can exist at all.
    info : VariableInfo, optional
        How the samples are stored; the range reaches the sample that an end is written as, see `reach`.
    """
    valid = np.isfinite(values)
    if valid_range is not None:
        low, high = valid_range if info is None else reach(valid_range, info)
        with np.errstate(invalid="ignore"):
            valid &= (values >= low) & (values <= high)
    if domain is not None:
        valid &= domain
    return valid


def encode(
    values: NDArray[np.float64], info: VariableInfo, *, valid_range: tuple[float, float] | None = None
) -> NDArray[Any]:
    """Return physical values as stored samples: rounded, inside the type and the range, and never nodata.

    >>> info = VariableInfo(name="ndvi", dtype="uint8", chunks=(1, 1, 1), nodata=255)
    >>> encode(np.array([-3.0, 2.5, 254.9]), info)
    array([  0,   2, 254], dtype=uint8)
    """
    dtype = np.dtype(info.dtype)
    if valid_range is not None:
        values = np.clip(values, *valid_range)
    stored = (values - info.add_offset) / info.scale_factor
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        narrowed = np.clip(stored, -largest, largest).astype(dtype)
        if info.nodata is not None:
            hit = is_nodata(narrowed, info)
            narrowed[hit] = _beside(info, valid_range, dtype)
        return narrowed
    limits = np.iinfo(dtype)
    with np.errstate(invalid="ignore"):
        # float64 can't hold the largest 64-bit integers; the cast below would wrap round.
        top = float(limits.max) if limits.max < 2**53 else np.nextafter(float(limits.max), 0)
        rounded = np.clip(np.rint(stored), float(limits.min), top).astype(dtype)
    if info.nodata is not None and limits.min <= info.nodata <= limits.max:
        hit = rounded == info.nodata  # the nearest stored value that is not nodata
        rounded[hit] = _beside(info, valid_range, dtype)
    return rounded


def _beside(info: VariableInfo, valid_range: tuple[float, float] | None, dtype: np.dtype[Any]) -> Any:
    """Return the stored value next to nodata, on the side where values are."""
    nodata = dtype.type(info.nodata)
    if dtype.kind == "f":
        up, down = np.nextafter(nodata, dtype.type(np.inf)), np.nextafter(nodata, dtype.type(-np.inf))
        room = bool(np.isfinite(up))
    else:
        room = int(nodata) < np.iinfo(dtype).max
        up = dtype.type(int(nodata) + 1) if room else nodata
        down = dtype.type(int(nodata) - 1) if int(nodata) > np.iinfo(dtype).min else nodata
    if valid_range is not None:
        low, high = sorted((value - info.add_offset) / info.scale_factor for value in valid_range)
        room = room and float(up) <= high
        room = room or float(down) < low
    return up if room else down


def gap_value(info: VariableInfo) -> float | None:
    """Return the stored value that says gap in this variable; None if the type has none."""
    if info.nodata is not None:
        return info.nodata
    return float("nan") if np.dtype(info.dtype).kind == "f" else None


SOURCE_CODES = {
    "outside_domain": 0,
    "observed": 1,
    "filled": 2,
    "filled_by_fallback": 3,
    "unfilled": 4,
}
"""Meaning of the values in VAR_source, in the order of CF's flag_meanings."""

CLEAR_CODES = {
    "no_data": 0,
    "clear": 1,
    "dropped": 2,
}
"""Meaning of the values in the layer that `stpipe ingest` writes beside what lost samples to rules."""


def tells_clear(attrs: Mapping[str, Any]) -> bool:
    """Whether a variable tells which samples `stpipe ingest` dropped; it is by what it means, whatever its name.

    >>> tells_clear({"flag_meanings": "no_data clear dropped"}), tells_clear({"flag_meanings": "no_data clear cloud"})
    (True, False)
    """
    return str(attrs.get("flag_meanings", "")).split() == [*CLEAR_CODES]
