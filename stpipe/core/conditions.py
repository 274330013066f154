"""What a rule asks of a stored sample: whether it is in a list, has bits or flags set, or compares with a number.

Lists, bits and flags are asked of the integers as they are stored, comparisons of physical values.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import VariableInfo

_ITEM = re.compile(r"\s*(-?\d+)\s*(?:-\s*(-?\d+)\s*)?")
_WORST_BIT = 64

Ranges = tuple[tuple[int, int], ...]
"""Closed ranges of integers, ascending and apart."""


@dataclass(frozen=True, slots=True)
class Values:
    """The stored integer is in a list."""

    ranges: Ranges
    """The list."""

    def matches(self, stored: NDArray[Any], info: VariableInfo) -> NDArray[np.bool_]:  # noqa: ARG002 - as its siblings
        """Return True where the test holds."""
        return _in_ranges(stored, self.ranges)

    def complaint(self, info: VariableInfo) -> str | None:
        """Return why the test can't be made on a variable."""
        return _not_integers(info, "lists of values")


@dataclass(frozen=True, slots=True)
class Bits:
    """Any of some bits is set; bit 0 is the least significant."""

    bits: tuple[int, ...]
    """Their positions."""

    def matches(self, stored: NDArray[Any], info: VariableInfo) -> NDArray[np.bool_]:  # noqa: ARG002
        """Return True where the test holds."""
        whole = _unsigned(stored)
        result: NDArray[np.bool_] = (whole & whole.dtype.type(sum(1 << bit for bit in self.bits))) != 0
        return result

    def complaint(self, info: VariableInfo) -> str | None:
        """Return why the test can't be made on a variable."""
        return _not_integers(info, "bits") or _beyond(info, max(self.bits))


@dataclass(frozen=True, slots=True)
class Field:
    """The number in adjacent bits is in a list."""

    first: int
    """The lowest bit."""

    last: int
    """The highest bit."""

    ranges: Ranges
    """The list."""

    def matches(self, stored: NDArray[Any], info: VariableInfo) -> NDArray[np.bool_]:  # noqa: ARG002
        """Return True where the test holds."""
        whole = _unsigned(stored)
        kind = whole.dtype.type
        return _in_ranges((whole >> kind(self.first)) & kind((1 << (self.last - self.first + 1)) - 1), self.ranges)

    def complaint(self, info: VariableInfo) -> str | None:
        """Return why the test can't be made on a variable."""
        return _not_integers(info, "bits") or _beyond(info, self.last)


@dataclass(frozen=True, slots=True)
class Flags:
    """Any of some flags is set, by the names that the file gives them in its flag_meanings."""

    names: tuple[str, ...]
    """Their names, in any case."""

    some: bool = False
    """Whether it is enough that the file knows one of them: products name more flags from version to version."""

    def matches(self, stored: NDArray[Any], info: VariableInfo) -> NDArray[np.bool_]:
        """Return True where the test holds."""
        whole = _unsigned(stored)
        kind = whole.dtype.type
        known = flags_of(info)
        result = np.zeros(stored.shape, dtype=bool)
        for mask, value in (known[name.lower()] for name in self.names if name.lower() in known):
            part = whole if mask is None else whole & kind(mask)
            result |= (part != 0) if value is None else (part == kind(value))
        return result

    def complaint(self, info: VariableInfo) -> str | None:
        """Return why the test can't be made on a variable."""
        known = flags_of(info)
        if not known:
            return _not_integers(info, "flags") or (
                f"{info.name} has no flag_meanings with flag_masks or flag_values to find {', '.join(self.names)} by; "
                f"give values or bits instead, such as --drop {info.name}:bits=3"
            )
        unknown = [name for name in self.names if name.lower() not in known]
        if unknown and (not self.some or len(unknown) == len(self.names)):
            return f"{info.name} has no flag {', '.join(unknown)}; it has {', '.join(known)}"
        return _not_integers(info, "flags")


def flags_of(info: VariableInfo) -> dict[str, tuple[int | None, int | None]]:
    """Return the mask and the value of each flag of a variable, by its name in lower case.

    Notes
    -----
    Without a value, any bit of the mask tells; without a mask, the whole sample is the value: CF conventions 1.11,
    section 3.5, flags.

    Examples
    --------
    >>> attrs = {"flag_meanings": "land CLOUD", "flag_masks": [1, 2]}
    >>> flags_of(VariableInfo(name="qa", dtype="uint8", chunks=(1, 1, 1), attrs=attrs))
    {'land': (1, None), 'cloud': (2, None)}
    """
    names = str(info.attrs.get("flag_meanings", "")).lower().split()
    columns = []
    for key in ("flag_masks", "flag_values"):
        found = info.attrs.get(key)
        listed = found if isinstance(found, list) else [] if found is None else [found]
        columns.append(listed if names and len(listed) == len(names) else None)
    if columns == [None, None] or np.dtype(info.dtype).kind not in "iub":
        return {}
    width = 2 ** (8 * np.dtype(info.dtype).itemsize)
    masks, values = ([None] * len(names) if column is None else [int(n) % width for n in column] for column in columns)
    return dict(zip(names, zip(masks, values, strict=True), strict=True))


_SINGLE = 2.0**-22
"""How far off, as a share, a number may be whose factor is in single precision."""

_NO_FARTHER = 0.01
"""Stored units; a number farther from a whole one is meant as it is."""


def meant_integer(limit: float) -> int | None:
    """Return the stored integer that a number in stored units is meant to be, or None if it lies between two.

    >>> meant_integer(7000.000000000001), meant_integer(1234567.6)
    (7000, None)
    """
    nearest = round(limit)
    return nearest if abs(limit - nearest) <= min(_SINGLE * max(1.0, abs(limit)), _NO_FARTHER) else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The physical value compares with a number."""

    operator: str
    """One of ``>= <= == != > <``."""

    value: float
    """The number."""

    def matches(self, stored: NDArray[Any], info: VariableInfo) -> NDArray[np.bool_]:
        """Return True where the test holds; anything at all where the sample is nodata."""
        # The number is brought to stored units, not the samples to physical ones: that is quicker, and 0.57 stored as
        # 57 hundredths, or in single precision, then equals 0.57; where files give the factor itself in single
        # precision, it is off by one part in sixteen million.
        limit = (self.value - info.add_offset) / info.scale_factor
        operator = self.operator if info.scale_factor > 0 else _MIRRORED[self.operator]
        if stored.dtype.kind == "f":
            return _compare(stored, operator, stored.dtype.type(limit))
        whole = stored.view(np.uint8) if stored.dtype.kind == "b" else stored
        nearest = meant_integer(limit)
        if nearest is not None:
            return _compare(whole, operator, nearest)
        if operator in ("==", "!="):
            return np.full(stored.shape, operator == "!=")
        return _compare(whole, operator[0] + "=", math.ceil(limit) if operator[0] == ">" else math.floor(limit))

    def complaint(self, info: VariableInfo) -> str | None:  # noqa: ARG002 - any number compares
        """Return why the test can't be made on a variable."""
        return None


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Any of several tests holds."""

    tests: tuple[Values | Bits | Field | Flags | Comparison, ...]
    """The tests."""

    def matches(self, stored: NDArray[Any], info: VariableInfo) -> NDArray[np.bool_]:
        """Return True where the test holds."""
        result = np.zeros(stored.shape, dtype=bool)
        for test in self.tests:
            result |= test.matches(stored, info)
        return result

    def complaint(self, info: VariableInfo) -> str | None:
        """Return why the test can't be made on a variable."""
        return next((text for text in (test.complaint(info) for test in self.tests) if text), None)


Test = Values | Bits | Field | Flags | Comparison | AnyOf
"""What a rule asks of a sample."""


def parse_test(text: str) -> Values | Bits | Field | Flags:
    """Read what stands behind the colon of a rule; ValueError says what is wrong with it."""
    if text.lower().startswith("flags"):
        names = [name.strip() for name in text[5:].lstrip().removeprefix("=").split(",")]
        if not text[5:].lstrip().startswith("=") or not all(names):
            raise ValueError("flags are given as flags=CLOUD,SNOW_ICE")
        return Flags(tuple(names))
    if not text.lower().startswith("bits"):
        return Values(_ranges(text))
    equals = text[4:].lstrip()
    if not equals.startswith("="):
        raise ValueError("bits are given as bits=3,4")
    positions, colon, values = equals[1:].partition(":")
    found = _ranges(positions)
    if found[0][0] < 0 or found[-1][1] >= _WORST_BIT:
        raise ValueError(f"bits are counted from 0 to {_WORST_BIT - 1}")
    if not colon:
        return Bits(tuple(bit for first, last in found for bit in range(first, last + 1)))
    if len(found) > 1:
        raise ValueError("a field is one run of bits, such as bits=8-9:2,3")
    (first, last), wanted = found[0], _ranges(values)
    if wanted[0][0] < 0 or wanted[-1][1] >= 2 ** (last - first + 1):
        raise ValueError(f"a field of {last - first + 1} bits holds 0 to {2 ** (last - first + 1) - 1}")
    return Field(first, last, wanted)


_MIRRORED = {">=": "<=", "<=": ">=", "==": "==", "!=": "!=", ">": "<", "<": ">"}


def _compare(stored: NDArray[Any], operator: str, limit: Any) -> NDArray[np.bool_]:
    compare = {
        ">=": np.greater_equal,
        "<=": np.less_equal,
        "==": np.equal,
        "!=": np.not_equal,
        ">": np.greater,
        "<": np.less,
    }[operator]
    with np.errstate(invalid="ignore"):
        return np.asarray(compare(stored, limit), dtype=bool)


def _in_ranges(stored: NDArray[Any], ranges: Ranges) -> NDArray[np.bool_]:
    whole = stored.view(np.uint8) if stored.dtype.kind == "b" else stored
    limits = np.iinfo(whole.dtype)
    result = np.zeros(whole.shape, dtype=bool)
    for first, last in ranges:
        low, high = max(first, int(limits.min)), min(last, int(limits.max))
        if low == high:
            result |= whole == low
        elif low < high:
            result |= (whole >= low) & (whole <= high)
    return result


def _unsigned(stored: NDArray[Any]) -> NDArray[Any]:
    """Return integers, or bools, as their bits."""
    return stored.view(f"u{stored.dtype.itemsize}")


def _ranges(text: str) -> Ranges:
    """Read a list of integers and ranges; overlapping and adjacent ones are joined.

    >>> _ranges("8-10,3,-1,4")
    ((-1, -1), (3, 4), (8, 10))
    """
    found = []
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"{item.strip()!r} is neither a whole number nor a range of them")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {item.strip()} is empty")
        found.append((first, last))
    joined: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return tuple(joined)


def _not_integers(info: VariableInfo, what: str) -> str | None:
    if np.dtype(info.dtype).kind in "iub":
        return None
    return (
        f"{info.name} is stored as {info.dtype}, and {what} are asked of integers alone; compare it instead, "
        f"such as {info.name}>=0.5, or store it as integers"
    )


def _beyond(info: VariableInfo, bit: int) -> str | None:
    there = 8 * np.dtype(info.dtype).itemsize
    return (
        None if bit < there else f"bit {bit} lies beyond {info.name}, whose type {info.dtype} has bits 0 to {there - 1}"
    )
