"""The survey: what one pass over the cube leaves behind for the blocks.

Three things: robust location and spread of each variable, which cells have gaps, and the scene's overviews. An overview
level k holds, for cells of 2**k x 2**k pixels of each frame, the number of valid samples, their sum and their sum of
squares. Level 3 comes from the pixels; every coarser one from the level below; the last has one cell a frame. They are
sums, not means, so that any tiling of the scene gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import Overviews
from stpipe.core.windows import Triple, Window, round_up, triple

BASE_LEVEL = 3
"""Finest overview level: cells of 8 x 8 pixels, 1/64 of the cube."""

BASE_CELL = 2**BASE_LEVEL
"""Side of a cell of the finest level, in pixels."""

COUNT, SUM, SQUARES = range(3)
"""Order of the first axis of a level's array."""

Level = NDArray[np.float64]
"""(3, t, y, x): count, sum and sum of squares of valid values in each cell."""


def level_shape(extent: Triple, level: int) -> Triple:
    """Return the (t, y, x) shape of an overview level.

    >>> level_shape((4, 100, 60), 3), level_shape((4, 100, 60), 7)
    ((4, 13, 8), (4, 1, 1))
    """
    t, y, x = extent
    return t, -(-y // 2**level), -(-x // 2**level)


def levels_of(extent: Triple) -> tuple[int, ...]:
    """Return the levels of a scene, from the finest to the one with a single cell a frame.

    >>> levels_of((4, 100, 60))
    (3, 4, 5, 6, 7)
    """
    last = max(BASE_LEVEL, (max(extent[1], extent[2]) - 1).bit_length())
    return tuple(range(BASE_LEVEL, last + 1))


FARTHEST = 1e9
"""Values farther than this from the scene's location, in spreads, are no measurements and are taken to lie there."""


def pool(values: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Sum over squares of the last two axes; a ragged edge counts as zero.

    >>> pool(np.ones((1, 3, 4)), 2)
    array([[[4., 4.],
            [2., 2.]]])
    """
    *lead, height, width = values.shape
    tall, wide = round_up(height, factor), round_up(width, factor)
    if (tall, wide) != (height, width):
        padded = np.zeros((*lead, tall, wide), dtype=values.dtype)
        padded[..., :height, :width] = values
        values = padded
    pooled: NDArray[np.float64] = values.reshape(*lead, tall // factor, factor, wide // factor, factor).sum(
        axis=(-3, -1)
    )
    return pooled


def base_level(values: NDArray[np.float64], valid: NDArray[np.bool_]) -> Level:
    """Return the finest overview level of a tile that starts at a multiple of `BASE_CELL`.

    Parameters
    ----------
    values : (time, y, x) ndarray of float64
        Physical values; anything at all where not valid.
    valid : (time, y, x) ndarray of bool
        Where they are observed and trusted.
    """
    frames = []
    for frame, known in zip(values, valid, strict=True):  # a frame at a time: the temporaries stay small
        clean = np.where(known, frame, 0.0)
        frames.append(np.stack([pool(part, BASE_CELL) for part in (known.astype(np.float64), clean, clean * clean)]))
    return np.stack(frames, axis=1)


def coarser(level: Level) -> Level:
    """Return the next coarser level of a level."""
    return pool(level, 2)


def standardise(level: Level, location: float, spread: float) -> Level:
    """Return a level's sums as if taken over ``(value - location) / spread``."""
    count, total, squares = level
    centred = (total - location * count) / spread
    squared = (squares - 2 * location * total + location**2 * count) / spread**2
    most = FARTHEST * count
    return np.stack([count, centred.clip(-most, most), squared.clip(0, FARTHEST * most)])


@dataclass(frozen=True)
class ArrayOverviews:
    """Overviews held in memory, standardised: small scenes, tests and the Python interface."""

    arrays: Mapping[int, Level]
    """The levels."""

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels there are, ascending."""
        return tuple(sorted(self.arrays))

    def shape(self, level: int) -> Triple:
        """(t, y, x) shape of a level."""
        _, t, y, x = self.arrays[level].shape
        return t, y, x

    def read(self, level: int, window: Window) -> Level:
        """Return a window of a level; zero outside the scene."""
        return read_padded(self.arrays[level], self.shape(level), window)

    @classmethod
    def of(
        cls, values: NDArray[np.float64], valid: NDArray[np.bool_], *, location: float = 0.0, spread: float = 1.0
    ) -> ArrayOverviews:
        """Survey a whole cube in memory.

        >>> overviews = ArrayOverviews.of(np.ones((2, 20, 9)), np.ones((2, 20, 9), dtype=bool))
        >>> overviews.levels, overviews.read(5, Window((0, 0, 0), (1, 1, 1)))[:, 0, 0, 0]
        ((3, 4, 5), array([180., 180., 180.]))
        """
        level = base_level(values, valid)
        arrays = {}
        for k in levels_of(triple(values.shape)):
            arrays[k] = standardise(level, location, spread)
            level = coarser(level)
        return cls(arrays)


def frame_shares(overviews: Overviews, frames: int) -> NDArray[np.float32]:
    """Return how much of the scene each frame observed, as a share of the fullest one.

    Parameters
    ----------
    overviews : Overviews
        The scene's.
    frames : int
        Number of frames of the scene.

    Returns
    -------
    (time,) ndarray of float32
        Zero everywhere in a scene without any observation.

    Examples
    --------
    >>> values, valid = np.zeros((2, 1, 4)), np.array([[[True] * 4], [[True, False, False, False]]])
    >>> frame_shares(ArrayOverviews.of(values, valid), 2)
    array([1.  , 0.25], dtype=float32)
    """
    count = overviews.read(overviews.levels[-1], Window((0, 0, 0), (frames, 1, 1)))[COUNT, :, 0, 0]
    return (count / max(1.0, float(count.max(initial=0.0)))).astype(np.float32)


def read_padded(source: object, shape: Triple, window: Window) -> Level:
    """Read a window of a (3, t, y, x) array-like, with zeros where it reaches past the array."""
    inside = window.intersect(Window.of(shape))
    result = np.zeros((3, *window.shape))
    if inside.size:
        result[(slice(None), *inside.within(window).slices)] = source[(slice(None), *inside.slices)]  # type: ignore[index]
    return result


SCENE_SAMPLES = 2**20
"""How many samples the scene's location and spread are taken from, about."""


def lattice_step(extent: Triple) -> int:
    """Return the distance of the pixels that are picked for a scene's location and spread.

    >>> lattice_step((4, 100, 100)), lattice_step((32, 4096, 4096))
    (1, 23)
    """
    return max(1, math.ceil(math.sqrt(math.prod(extent) / SCENE_SAMPLES)))


def on_lattice(values: NDArray[np.float64], valid: NDArray[np.bool_], origin: Triple, step: int) -> NDArray[np.float64]:
    """Return the valid values of one frame that lie on the scene's lattice, which moves on with each frame.

    The lattice is fixed to the cube, so that the same samples are picked however the cube is cut into tiles.

    Parameters
    ----------
    values, valid : (y, x) ndarray
        One frame of a tile.
    origin : (time, y, x)
        Where the frame's first pixel lies in the cube.
    step : int
        See `lattice_step`.
    """
    frame, top, left = origin
    rows, columns = slice((7 * frame - top) % step, None, step), slice((11 * frame - left) % step, None, step)
    return values[rows, columns][valid[rows, columns]]


TAILS = 0.5
"""Least share of the spread that the range of 98 % of a field's samples speaks for."""


def location_and_spread(samples: NDArray[np.float64]) -> tuple[float, float]:
    """Return the median and a robust standard deviation of a scene's picked samples, in any order.

    The spread is the interquartile range over 1.349, which is the standard deviation of a normal distribution. Of a
    field that is mostly one value, as rain and snow are, that range says next to nothing: it is half at least of
    what the range between the first and the last percentile comes to by the same reckoning. Where that is nothing too,
    it is the plain standard deviation, and 1 for a constant field.

    Examples
    --------
    >>> location_and_spread(np.array([1.0, 2.0, 3.0]))
    (2.0, 0.7412898443291327)
    >>> location_and_spread(np.array([5.0, 5.0]))
    (5.0, 1.0)
    """
    if not samples.size:
        return 0.0, 1.0
    ordered = np.sort(samples)
    least, low, middle, high, most = (float(q) for q in np.quantile(ordered, (0.01, 0.25, 0.5, 0.75, 0.99)))
    spread = max((high - low) / 1.349, TAILS * (most - least) / 4.652)
    smallest = 1e-9 * max(abs(high), abs(low))
    if spread <= smallest:
        spread = float(ordered.std())
    return middle, spread if spread > smallest else 1.0
