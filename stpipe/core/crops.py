"""Crops: parts of a cube over its whole time axis, held in memory, to learn from and to score on.

A crop is a small scene of its own. Some of its observed samples are hidden, a method fills it as it would any block,
and what it says of the hidden samples is compared with what was observed. The overviews are made anew from what is
left, so that nothing hidden shines through the coarse levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt, prod

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import BlockInput, Filler, Prediction, SceneFiller
from stpipe.core.survey import BASE_CELL, ArrayOverviews
from stpipe.core.windows import Triple, Window, round_up, samples_in, triple

CROP_SAMPLES = 2**20
"""Most samples of a crop, about."""

MOST_CROPS = 4
"""Most crops of a cube."""

SMALLEST_SIDE = 32
"""A crop of a very long series is no narrower than this, and then holds more samples than `CROP_SAMPLES`."""


BEYOND = 4
"""Middles may hold so many times the samples that were wished for before one of them has to go: few places of a cube
tell less of it than few samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A part of a cube, standardised by the scene's location and spread like every `BlockInput`."""

    values: NDArray[np.float32]
    """(time, y, x), zero in gaps."""

    valid: NDArray[np.bool_]
    """(time, y, x), True where observed and trusted."""

    days: NDArray[np.float64]
    """(time,), all times of the cube."""

    window: Window
    """Where it lies in the cube."""

    domain: NDArray[np.bool_] | None = None
    """(y, x), where values can exist; None: everywhere."""

    guides: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """(time, y, x) of each guide that the user gave, like those of `BlockInput`."""

    scale: tuple[float, float] = (0.0, 1.0)
    """Location and spread that values are standardised by."""

    def without(self, hidden: NDArray[np.bool_]) -> Crop:
        """Return the crop with more gaps; the guides stay."""
        visible = self.valid & ~hidden
        return replace(self, values=np.where(visible, self.values, np.float32(0)), valid=visible)


def choose_crops(extent: Triple, *, most: int = MOST_CROPS, samples: int = CROP_SAMPLES) -> tuple[Window, ...]:
    """Spread crops over a cube; a cube that is small enough is one crop.

    Parameters
    ----------
    extent : (time, y, x)
        Shape of the cube.
    most : int
        Most crops.
    samples : int
        Most samples of one, about; all of them together are never more than `most` times this.

    Returns
    -------
    tuple of Window
        Over the whole time axis, on whole cells of the overviews, apart from each other.

    Examples
    --------
    >>> choose_crops((16, 128, 128))
    (Window(start=(0, 0, 0), stop=(16, 128, 128)),)
    >>> [window.start for window in choose_crops((32, 1024, 1024))]
    [(0, 168, 168), (0, 168, 680), (0, 680, 168), (0, 680, 680)]
    """
    frames, height, width = extent
    if frames * height * width <= most * samples:
        return (Window.of(extent),)
    side = max(SMALLEST_SIDE, isqrt(samples // frames) // BASE_CELL * BASE_CELL)
    rows = _starts(height, side, isqrt(most) if height >= 2 * side else 1)
    columns = _starts(width, side, most // len(rows))
    return tuple(
        Window((0, y, x), (frames, min(y + side, height), min(x + side, width))) for y in rows for x in columns
    )


def _starts(length: int, side: int, count: int) -> list[int]:
    """Place up to `count` sides evenly on an axis, each in the middle of its share."""
    count = max(1, min(count, length // side))
    share = length / count
    return [int((i + 0.5) * share - side / 2) // BASE_CELL * BASE_CELL if length > side else 0 for i in range(count)]


def middles(
    crops: Sequence[Crop], samples: int, *, narrowest: int = SMALLEST_SIDE, rounded_up: bool = False
) -> tuple[Crop, ...]:
    """Return crops that hold no more than `samples` in all, about: the middle of each one's frames.

    Of very long series even the narrowest may hold more: then crops with fewer observations go, but always one stays.

    Parameters
    ----------
    crops : sequence of Crop
        Crops that may hold more.
    samples : int
        Samples of all together.
    narrowest : int
        A side is no shorter than this, if the crop's is not.
    rounded_up : bool
        Whether sides are rounded up to whole cells of the overviews, and not down.

    Examples
    --------
    >>> frames = np.ones((4, 64, 64), dtype=bool)
    >>> crop = Crop(
    ...     values=frames.astype(np.float32), valid=frames, days=np.arange(4.0), window=Window.of((4, 64, 64))
    ... )
    >>> [part.window for part in middles([crop, crop], 8192)][1]
    Window(start=(0, 16, 16), stop=(4, 48, 48))
    """
    whole = [triple(crop.valid.shape) for crop in crops]
    if samples_in(whole) <= samples:
        return tuple(crops)
    shapes = _shrunk_shapes(whole, samples, narrowest=narrowest, rounded_up=rounded_up)
    parts = [_middle(crop, height, width) for crop, (_, height, width) in zip(crops, shapes, strict=True)]
    best = np.argsort([-int(part.valid.sum()) for part in parts], kind="stable")
    return tuple(parts[i] for i in sorted(best[: _count_of(shapes, samples)]))


def middle_shapes(
    shapes: Sequence[Triple], samples: int, *, narrowest: int = SMALLEST_SIDE, rounded_up: bool = False
) -> Sequence[Triple]:
    """Return the shapes of what `middles` leaves of crops of these shapes, at most: which crops stay the data decide.

    >>> middle_shapes([(4, 64, 64)] * 2, 8192), middle_shapes([(5000, 32, 32)] * 4, 2**20)
    ([(4, 32, 32), (4, 32, 32)], [(5000, 32, 32)])
    """
    if samples_in(shapes) <= samples:
        return shapes
    shrunk = _shrunk_shapes(shapes, samples, narrowest=narrowest, rounded_up=rounded_up)
    return sorted(shrunk, key=prod, reverse=True)[: _count_of(shrunk, samples)]


def _shrunk_shapes(shapes: Sequence[Triple], samples: int, *, narrowest: int, rounded_up: bool) -> list[Triple]:
    """Return the shapes of the middles of crops that hold more than `samples` in all."""
    shrink = (samples / samples_in(shapes)) ** 0.5

    def side(length: int) -> int:
        return _shrunk(int(length * shrink), length, narrowest=narrowest, rounded_up=rounded_up)

    return [(frames, side(height), side(width)) for frames, height, width in shapes]


def _count_of(shapes: Sequence[Triple], samples: int) -> int:
    """Return how many of the largest crops stay: as many as hold `BEYOND` times what is wished for, or one."""
    sizes = np.cumsum(sorted(map(prod, shapes), reverse=True))
    return max(1, int((sizes <= BEYOND * samples).sum()))


def _shrunk(wished: int, side: int, *, narrowest: int, rounded_up: bool) -> int:
    """Return a side's length in whole cells, but never more than there is."""
    cells = round_up(wished, BASE_CELL) if rounded_up else wished // BASE_CELL * BASE_CELL
    return min(side, max(narrowest, cells))


def _middle(crop: Crop, height: int, width: int) -> Crop:
    """Cut so much out of the middle of a crop, from whole cells of the overviews on."""
    frames, *sides = crop.valid.shape
    top, left = ((have - keep) // 2 // BASE_CELL * BASE_CELL for have, keep in zip(sides, (height, width), strict=True))
    part = (slice(None), slice(top, top + height), slice(left, left + width))
    _, y, x = crop.window.start
    return Crop(
        values=crop.values[part],
        valid=crop.valid[part],
        days=crop.days,
        window=Window((0, y + top, x + left), (frames, y + top + height, x + left + width)),
        domain=None if crop.domain is None else crop.domain[part[1:]],
        guides={name: guide[part] for name, guide in crop.guides.items()},
        scale=crop.scale,
    )


def block_of(crop: Crop, stride: Triple) -> BlockInput:
    """Return a crop as a block that is a whole scene of its own, padded with gap to multiples of `stride`."""
    shape = triple(crop.valid.shape)
    padded = triple(round_up(n, step) for n, step in zip(shape, stride, strict=True))
    around = [(0, n - have) for n, have in zip(padded, shape, strict=True)]
    step = float(crop.days[-1] - crop.days[-2]) if crop.days.size > 1 else 1.0
    days = np.concatenate([crop.days, crop.days[-1] + step * np.arange(1, around[0][1] + 1)])
    return BlockInput(
        values=np.pad(crop.values, around),
        valid=np.pad(crop.valid, around),
        days=days,
        window=Window.of(padded),
        overviews=ArrayOverviews.of(crop.values.astype(np.float64), crop.valid),
        all_days=crop.days,
        wanted=Window.of(shape),
        guides={name: np.pad(guide, around, constant_values=np.float32(np.nan)) for name, guide in crop.guides.items()},
        domain=None if crop.domain is None else np.pad(crop.domain, around[1:]),
        scale=crop.scale,
        origin=crop.window.start,
    )


@dataclass(frozen=True, slots=True)
class ArrayFields:
    """Fields of a scene that is held in memory, see `stpipe.core.ports.Fields`."""

    values: NDArray[np.float32]
    """(field, y, x)."""

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return those of a window; NaN outside of the scene."""
        made = np.full((len(self.values), *window.shape[1:]), np.nan, dtype=np.float32)
        inside = window.intersect(Window.of(triple((window.stop[0], *self.values.shape[1:]))))
        made[:, *inside.within(window).slices[1:]] = self.values[:, *inside.slices[1:]]
        return made


def settled_on(filler: Filler, crop: Crop) -> Filler:
    """Return a method that has looked at a crop as if it were a whole scene, if it looks at scenes at all."""
    if not isinstance(filler, SceneFiller):
        return filler
    block = block_of(crop, filler.stride)
    for number in range(len(filler.rounds)):
        assert isinstance(filler, SceneFiller)
        look = filler.look(number, block)
        settled = filler.settled(number, filler.settle(number, look.sums))
        if look.fields is not None:
            assert isinstance(settled, SceneFiller)
            settled = settled.with_fields(ArrayFields(look.fields))
        filler = settled
    return filler


def fill_crop(filler: Filler, crop: Crop) -> Prediction:
    """Fill a crop as if it were a whole scene."""
    result = settled_on(filler, crop).fill(block_of(crop, filler.stride))
    cut = Window.of(triple(crop.valid.shape)).slices
    return Prediction(values=result.values[cut], half_width=result.half_width[cut], fallback=result.fallback[cut])
