"""Order statistics of columns of small whole numbers: many pixels at once, with a few dozen numbers each.

NumPy adds and compares bytes up to 64 at a time, and whole planes of them fit into the processor's cache. So nothing
is sorted: an order statistic is built bit by bit, counting how many numbers are smaller than a guess, and counts are
bytes too wherever there are fewer than 256 rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]
U8 = NDArray[np.uint8]

_FEW = 255
"""Rows that a byte can count."""


def count(flags: Bool | U8) -> NDArray[Any]:
    """Return how many of each column are set: True, or a byte with all of its bits.

    Returns
    -------
    (pixel,) ndarray of uint8, or int64 of more than 255 rows

    Examples
    --------
    >>> count(np.array([[True, False], [True, True]]))
    array([2, 1], dtype=uint8)
    >>> count(np.array([[255, 0], [255, 255]], dtype=np.uint8))
    array([2, 1], dtype=uint8)
    """
    # All bits of a byte are -1, which may as well be taken away as added up.
    add = np.add if flags.dtype == np.bool_ else np.subtract
    ones = flags.view(np.uint8)
    total: NDArray[Any] | None = None
    for start in range(0, max(1, len(ones)), _FEW):
        part = np.add.reduce(ones[start : start + _FEW], axis=0, dtype=np.uint8)
        part = part if add is np.add else np.negative(part)
        if len(ones) <= _FEW:
            return np.asarray(part)
        total = part.astype(np.int64) if total is None else total + part
    return np.asarray(total)


def first_row(flags: Bool | U8, spare: U8) -> NDArray[np.int64]:
    """Return the first row in which each column is set (True, or all bits of a byte); if none, the number of rows.

    Parameters
    ----------
    flags : (row, pixel) ndarray of bool or uint8
        What is set.
    spare : (row, pixel) ndarray of uint8
        Memory to work in; may be that of the flags.

    Examples
    --------
    >>> flags = np.array([[False, True, False], [True, True, False]])
    >>> first_row(flags, np.empty((2, 3), dtype=np.uint8))
    array([1, 0, 2])
    """
    rows = len(flags)
    falling = np.arange(rows, 0, -1, dtype=np.uint8 if rows <= _FEW else np.uint32)[:, None]
    if rows > _FEW:
        latest = np.multiply(flags != 0, falling).max(axis=0, initial=0)
    elif flags.dtype == np.bool_:
        latest = np.multiply(flags.view(np.uint8), falling, out=spare).max(axis=0, initial=0)
    else:
        latest = np.bitwise_and(flags, falling, out=spare).max(axis=0, initial=0)
    return np.asarray(rows - latest.astype(np.int64))


def percentile(
    numbers: NDArray[Any],
    counted: NDArray[Any],
    total: NDArray[np.float64],
    percent: float,
    flags: Bool,
    spare: NDArray[Any],
) -> NDArray[np.float64]:
    """Return a percentile of what is not 0 in each column, linear between the nearest two; anything where all is 0.

    Parameters
    ----------
    numbers : (row, pixel) ndarray of unsigned integers
        Whole numbers; 0 is none.
    counted : (pixel,) ndarray of integers
        How many of each column are not 0.
    total : (pixel,) ndarray of float64
        Sum of each column.
    percent : float
        From 0 to 100.
    flags : (row, pixel) ndarray of bool
        Memory to work in.
    spare : (row, pixel) ndarray
        More of it, of the type of the numbers.

    Examples
    --------
    >>> numbers = np.array([[3], [0], [9], [4]], dtype=np.uint8)
    >>> flags, spare = np.empty((4, 1), dtype=bool), np.empty_like(numbers)
    >>> three, sixteen = np.array([3]), np.array([16.0])
    >>> [percentile(numbers, three, sixteen, percent, flags, spare).item() for percent in (0, 50, 75, 100)]
    [3.0, 4.0, 6.5, 9.0]
    """
    rows, pixels = numbers.shape
    kind = np.uint8 if rows <= _FEW else np.int64
    # Everything that follows from how many numbers a column has is looked up: there are few answers.
    ranks = np.maximum(np.arange(rows + 1) - 1, 0) * (percent / 100)
    below = np.floor(ranks).astype(np.int64)
    # Zeros come first; of a column of nothing else any answer will do.
    before = np.clip(rows - np.arange(rows + 1) + below, 0, max(0, rows - 1)).astype(kind).take(counted)
    share = (ranks - below).take(counted)
    # What is looked for, and all that is no smaller, sum up to no more than the total.
    above = np.maximum(np.arange(rows + 1) - below, 1).take(counted)
    most = min(int(numbers.max(initial=0)), int((total / above).max(initial=0)))
    one = numbers.dtype.type(1)
    level = np.zeros(pixels, dtype=numbers.dtype)
    for bit in reversed(range(most.bit_length())):
        guess = level + (one << bit)
        few = count(np.less(numbers, guess, out=flags)) <= before
        level += np.multiply(few, one << bit, dtype=level.dtype)
    result = level.astype(np.float64)
    if (share > 0).any():
        alone = count(np.less_equal(numbers, level, out=flags)) <= before + kind(1)
        # What is no larger wraps round to more than all that is.
        further = np.subtract(numbers, level + one, out=spare).min(axis=0, initial=np.iinfo(level.dtype).max) + 1.0
        result += np.where(alone & (share > 0), share * further, 0)
    return result
