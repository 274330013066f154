"""Blending: how overlapping blocks become one field.

Each block's predictions count by a weight, the product of one taper an axis. A taper rises over the overlap with the
block before and falls over that with the block after; at the scene's edges it stays at one. Sums are kept in float64
and taken in ascending block order, so that the result is the same whatever order the blocks were finished in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stpipe.core.blocks import Block, BlockGrid
from stpipe.core.windows import Window

PREDICTION, HALF_WIDTH, FALLBACK = range(3)
"""Order of the first axis of a filled block: standardised value, its 90 % half-width, 1 where a fallback stood in."""

PAYLOAD_PARTS = 3
"""Length of that axis."""


def taper(size: int, rise: int, fall: int) -> NDArray[np.float64]:
    """Ramp up over `rise` samples, stay at one, ramp down over `fall`; never zero.

    >>> taper(6, rise=2, fall=2)
    array([0.25, 0.75, 1.  , 1.  , 0.75, 0.25])
    """
    ramp = np.ones(size)
    if rise:
        ramp[:rise] = np.minimum(ramp[:rise], (np.arange(rise) + 0.5) / rise)
    if fall:
        ramp[size - fall :] = np.minimum(ramp[size - fall :], (np.arange(fall)[::-1] + 0.5) / fall)
    return ramp


def block_tapers(grid: BlockGrid, block: Block) -> tuple[NDArray[np.float64], ...]:
    """Return a block's tapers along time, y and x; its weight is their product."""
    tapers = []
    for axis, (position, count) in enumerate(zip(block.index, grid.counts, strict=True)):
        overlap = min(grid.spec.overlap[axis], grid.size[axis] - 1)
        rise = overlap if position > 0 else 0
        fall = overlap if position < count - 1 else 0
        tapers.append(taper(grid.size[axis], rise, fall))
    return tuple(tapers)


@dataclass(slots=True)
class Blend:
    """Weighted sums over one window of the cube, to which blocks are added in ascending order.

    Examples
    --------
    >>> from stpipe.core.blocks import BlockSpec
    >>> grid = BlockGrid((1, 1, 6), BlockSpec(size=(1, 1, 4), overlap=(0, 0, 2)))
    >>> blend = Blend(Window.of(grid.extent))
    >>> for number, value in enumerate([0.0, 4.0]):
    ...     payload = np.zeros((3, *grid.size), dtype=np.float32)
    ...     payload[PREDICTION] = value
    ...     blend.add(grid, grid.block(number), payload)
    >>> blend.result()[PREDICTION].ravel()
    array([0., 0., 1., 3., 4., 4.])
    """

    window: Window
    """The window of the cube that is blended."""

    _totals: NDArray[np.float64] = field(init=False)
    _weight: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self._totals = np.zeros((PAYLOAD_PARTS, *self.window.shape))
        self._weight = np.zeros(self.window.shape)

    def add(self, grid: BlockGrid, block: Block, payload: NDArray[np.float32]) -> None:
        """Add one block's payload of shape (3, t, y, x); NaN predictions count for nothing."""
        common = block.write.intersect(self.window)
        if not common.size:
            return
        source = common.within(block.write)
        target = common.within(self.window)
        along_t, along_y, along_x = (
            ramp[cut] for ramp, cut in zip(block_tapers(grid, block), source.slices, strict=True)
        )
        plane = along_y[:, None] * along_x
        box = (slice(None), *source.slices[1:])
        for i, share in enumerate(along_t):  # a frame at a time: the temporaries stay small
            part = payload[:, source.start[0] + i][box]
            known = np.isfinite(part[PREDICTION])
            weight = np.where(known, plane * share, 0.0)
            place = (target.start[0] + i, *target.slices[1:])
            self._weight[place] += weight
            for total, values in zip(self._totals, part, strict=True):
                total[place] += np.where(known, values, 0.0) * weight

    def frames(self) -> Iterator[NDArray[np.float64]]:
        """Give the weighted means frame by frame, (3, y, x); NaN where no block had a prediction."""
        for t, weight in enumerate(self._weight):
            with np.errstate(invalid="ignore", divide="ignore"):
                yield self._totals[:, t] / weight

    def result(self) -> NDArray[np.float64]:
        """Return the (3, t, y, x) weighted means; NaN where no block had a prediction."""
        return np.stack(list(self.frames()), axis=1)


FINER = 16
"""How much finer than what stored samples can tell apart predictions are kept."""


def thin(prediction: NDArray[np.float32], step: float) -> None:
    """Round predictions to a `FINER`-th of a step, or to a little less, in place: scratch is half the size.

    Parameters
    ----------
    prediction : ndarray of float32
        Of any shape; NaN and infinity stay.
    step : float
        The distance of two values that the product can tell apart, in the same units.

    Examples
    --------
    >>> values = np.array([0.7071, -3.1416, np.nan], dtype=np.float32)
    >>> thin(values, 0.1)
    >>> values
    array([ 0.70703125, -3.140625  ,         nan], dtype=float32)
    """
    quantum = np.float32(2.0 ** np.floor(np.log2(step / FINER)))  # a power of two: dividing by it is exact
    prediction /= quantum
    np.rint(prediction, out=prediction)
    prediction *= quantum


HALF_WIDTH_BITS = 10
"""Binary digits of a half-width that are kept after the leading one, 0.1 %: no interval is known better."""


def coarsen(half_width: NDArray[np.float32]) -> None:
    """Round half-widths to `HALF_WIDTH_BITS` binary digits, in place: files are a third of the size.

    Parameters
    ----------
    half_width : ndarray of float32, contiguous
        Of any shape, positive or zero; NaN and infinity stay.

    Examples
    --------
    >>> values = np.array([0.1, 3.0, np.nan, np.inf], dtype=np.float32)
    >>> coarsen(values)
    >>> values
    array([0.09997559, 3.        ,        nan,        inf], dtype=float32)
    """
    dropped = np.finfo(np.float32).nmant - HALF_WIDTH_BITS
    bits = half_width.view(np.int32)
    bits += np.int32(1 << (dropped - 1))
    bits &= np.int32(-1 << dropped)
