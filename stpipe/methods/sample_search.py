"""The search for the valid samples around a gap sample: the nearest ones, and the first one in each direction.

Within a wide gap all of the nearest lie on one shore; the directions bring in the others. Among samples at the same
distance the choice goes by where they lie, so that block borders make no difference.

Places around a pixel are numbered once for all, the nearest first; what is found is told by these numbers, ranks.

Source: searching by direction as in Deutsch and Journel (1998), GSLIB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
Ints = NDArray[np.integer]

SEARCH = 37
"""How far samples are looked for, in pixels."""

NEAREST = 24
"""Nearest valid samples that a prediction listens to."""

DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
"""Steps (y, x) along which the first valid sample is listened to as well."""

RINGS = (7, 12, 20, SEARCH)
"""Radii that are searched in turn, until there are `NEAREST` samples."""

MARGIN = 4
"""Predictions may lie this far below and to the right of the frame, in pixels."""

BATCH = 1024
"""Predictions searched for at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offsets:
    """Places around a pixel up to `SEARCH` away, the nearest first; a place's rank is its number here."""

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    squares: NDArray[np.int32]
    """Squared distances."""

    codes: NDArray[np.int32]
    """Row and column in one number, so that differences of two codes tell differences of two places apart."""

    along: NDArray[np.int32]
    """(direction, step): ranks along `DIRECTIONS`; for step 0, and for what is too far, one more than there are."""

    def rank_of(self, y: int, x: int) -> int:
        """Return the rank of an offset."""
        return int(np.flatnonzero((self.rows == y) & (self.columns == x))[0])


@cache
def offsets() -> Offsets:
    """Return the places; they are worked out once a process."""
    y, x = np.indices((2 * SEARCH + 1, 2 * SEARCH + 1)).reshape(2, -1) - SEARCH
    square = y * y + x * x
    order = np.lexsort((x, y, square))
    order = order[(square[order] > 0) & (square[order] <= SEARCH * SEARCH)]
    rows, columns = y[order].astype(np.int32), x[order].astype(np.int32)
    number = {(int(a), int(b)): i for i, (a, b) in enumerate(zip(rows, columns, strict=True))}
    along = [[number.get((a * n, b * n), len(number)) for n in range(SEARCH + 1)] for a, b in DIRECTIONS]
    return Offsets(
        rows=rows,
        columns=columns,
        squares=square[order].astype(np.int32),
        codes=rows * (4 * SEARCH + 1) + columns,
        along=np.array(along, dtype=np.int32),
    )


def find_samples(valid: Bool, rows: Ints, columns: Ints) -> Ints:
    """Find the valid samples that predictions listen to.

    Parameters
    ----------
    valid : (y, x) ndarray of bool
        Where observed and trusted.
    rows, columns : (n,) ndarray of int
        Of the predictions, no farther than `MARGIN` below and to the right of the frame.

    Returns
    -------
    (n, NEAREST + 8) ndarray of int
        Ranks of their offsets, ascending. After the last one, one more than the highest rank there is.

    Examples
    --------
    >>> found = find_samples(np.array([[True, False, True]]), np.array([0]), np.array([1]))
    >>> [(offsets().rows[rank].item(), offsets().columns[rank].item()) for rank in found[0, :2]]
    [(0, -1), (0, 1)]
    >>> bool((found[0, 2:] == offsets().rows.size).all())
    True
    """
    return SampleSearch(valid)(rows, columns)


class SampleSearch:
    """The search in one frame; what it has to know of the frame is worked out once for all calls."""

    def __init__(self, valid: Bool) -> None:
        # A margin of gap makes every offset of every prediction a place in the array.
        self._padded = np.pad(valid, ((SEARCH, SEARCH + MARGIN), (SEARCH, SEARCH + MARGIN)))
        self._steps = [_steps_to_first(self._padded, step) for step in DIRECTIONS]

    def __call__(self, rows: Ints, columns: Ints) -> Ints:
        """Return what `find_samples` does."""
        table, width = offsets(), self._padded.shape[1]
        flat = table.rows.astype(np.int64) * width + table.columns
        none = flat.size
        here = (rows + SEARCH) * width + columns + SEARCH
        known = self._padded.ravel()
        found = np.full((here.size, NEAREST + len(DIRECTIONS)), none, dtype=np.int16)
        for start in range(0, here.size, BATCH):
            left = np.arange(start, min(start + BATCH, here.size))
            for radius in RINGS:
                count = int(np.searchsorted(table.squares, radius * radius, side="right"))
                hit = known[here[left, None] + flat[:count]]
                number = hit.cumsum(axis=1, dtype=np.int16)
                done = number[:, -1] >= NEAREST if radius < RINGS[-1] else np.ones(left.size, dtype=bool)
                hit &= (number <= NEAREST) & done[:, None]
                which, rank = np.nonzero(hit)
                found[left[which], number[which, rank] - 1] = rank
                left = left[~done]
                if not left.size:
                    break
        last = found[:, NEAREST - 1]
        for i, steps in enumerate(self._steps):
            rank = table.along[i, steps.ravel()[here]]
            found[:, NEAREST + i] = np.where(rank > last, rank, none)  # otherwise it is among the nearest
        found.sort(axis=1)
        return found


def _steps_to_first(valid: Bool, step: tuple[int, int]) -> NDArray[np.int8]:
    """Count the steps in one direction to the first valid sample, from 1 on; 0 where there is none within `SEARCH`.

    >>> _steps_to_first(np.array([[True, False, False, True]]), (0, 1))
    array([[3, 2, 1, 0]], dtype=int8)
    """
    down, across = step
    turned = valid[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
    if not down:
        turned = turned.T
    steps = np.zeros(turned.shape, dtype=np.int8)
    width = turned.shape[1]
    # From the far end on: one step more than the next one has, or one if that is valid itself.
    slant = int(bool(down and across))
    for row in range(turned.shape[0] - 2, -1, -1):
        ahead, known = steps[row + 1, slant:], turned[row + 1, slant:]
        going = np.where((ahead > 0) & (ahead < SEARCH), ahead + 1, 0)
        steps[row, : width - slant] = np.where(known, 1, going)
    if not down:
        steps = steps.T
    return steps[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def gather(frame: NDArray[np.float32], rows: Ints, columns: Ints, ranks: Ints) -> F64:
    """Return (n, k) values of the samples that `find_samples` found for n predictions, zero for the missing."""
    table = offsets()
    there = ranks < table.squares.size
    rank = np.where(there, ranks, 0)
    y = np.where(there, rows[:, None] + table.rows[rank], 0)
    x = np.where(there, columns[:, None] + table.columns[rank], 0)
    return np.where(there, frame[y, x], 0).astype(np.float64)
