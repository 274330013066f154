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

_LOOK = 4
"""Rows after which it is worth looking whether all columns have begun."""

_SAMPLE, _STRETCHES, _RARE = 256, 4, 128
"""Columns that tell how large an order statistic is in most, how many stretches they lie in, and how many there are to
one that may have a larger one."""


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


def begun(flags: Bool) -> NDArray[np.intp]:
    """Return the first row in which each column is True; if none, the number of rows.

    Like `first_row`, but looks no further than where all columns have begun, which is soon for most.

    >>> begun(np.array([[False, True, False], [True, True, False]]))
    array([1, 0, 2])
    """
    rows, pixels = flags.shape
    started = np.zeros(pixels, dtype=bool)
    since = np.zeros(pixels, dtype=np.uint8 if rows <= _FEW else np.uint32)
    done = 0
    for row in flags:
        np.logical_or(started, row, started)
        np.add(since, started.view(np.uint8), since)
        done += 1
        if done % _LOOK == 0 and started.all():
            break
    return np.asarray(done - since.astype(np.intp))


def percentile(
    numbers: NDArray[Any],
    counted: NDArray[Any],
    percent: float,
    largest: NDArray[Any],
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
    percent : float
        From 0 to 100.
    largest : (pixel,) ndarray of unsigned integers
        Largest of each column.
    flags : (row, pixel) ndarray of bool
        Memory to work in.
    spare : (row, pixel) ndarray
        More of it, of the type of the numbers.

    Examples
    --------
    >>> numbers = np.array([[3], [0], [9], [4]], dtype=np.uint8)
    >>> flags, spare = np.empty((4, 1), dtype=bool), np.empty_like(numbers)
    >>> three, nine = np.array([3]), np.array([9], dtype=np.uint8)
    >>> [percentile(numbers, three, percent, nine, flags, spare).item() for percent in (0, 50, 75, 100)]
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
    bits = int(largest.max(initial=0)).bit_length()
    few = bits
    if bits > 1 and pixels > _SAMPLE:
        # Most columns have no more bits than those of a sample; the others are seen to apart. The sample is of a few
        # stretches of columns: single ones far apart take as long to gather as to count them all.
        some = [slice(at, at + _SAMPLE // _STRETCHES) for at in range(0, pixels, -(-pixels // _STRETCHES))]
        sample = np.concatenate([numbers[:, stretch] for stretch in some], axis=1)
        of_sample = np.concatenate([before[stretch] for stretch in some])
        level, _ = _select(sample, of_sample, bits, np.empty(sample.shape, dtype=bool))
        few = int(np.sort(level)[-1 - len(level) // _RARE]).bit_length()
    level, at_most = _select(numbers, before, few, flags)
    if few < bits:
        beyond = np.flatnonzero(at_most <= before)
        if beyond.size:
            rest = numbers.take(beyond, axis=1)
            level[beyond], at_most[beyond] = _select(rest, before[beyond], bits, np.empty(rest.shape, dtype=bool))
    result = level.astype(np.float64)
    if (share > 0).any():
        alone = at_most <= before + kind(1)
        # What is no larger wraps round to more than all that is.
        one = numbers.dtype.type(1)
        further = np.subtract(numbers, level + one, out=spare).min(axis=0, initial=np.iinfo(level.dtype).max) + 1.0
        result += alone * share * further
    return result


def _select(numbers: NDArray[Any], before: NDArray[Any], bits: int, flags: Bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the number of each column that some others come before, and how many of the column are no larger.

    Where the number has more bits than are looked for, that count is too small, not being more than those before.
    """
    rows, pixels = numbers.shape
    level = np.zeros(pixels, dtype=numbers.dtype)
    top = int(np.iinfo(numbers.dtype).max)
    # All are smaller than the first number of more bits, if there is one.
    at_most = (
        np.full(pixels, rows, dtype=before.dtype)
        if 2**bits > top
        else count(np.less(numbers, numbers.dtype.type(2**bits), out=flags))
    )
    for bit in reversed(range(bits)):
        step = numbers.dtype.type(1 << bit)
        smaller = count(np.less(numbers, level + step, out=flags))
        passed = smaller <= before
        level += np.multiply(passed, step, dtype=level.dtype)
        # The fewest of those that are more than come before; arithmetic is faster than to copy here and there.
        np.maximum(smaller, np.multiply(passed, smaller.dtype.type(rows), dtype=smaller.dtype), out=smaller)
        np.minimum(at_most, smaller, out=at_most)
    return level, at_most
