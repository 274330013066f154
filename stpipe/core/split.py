"""What a training learns from and what it is judged by: whole regions or periods, and never samples picked by chance.

Neighbours in space and time are alike, so that a sample beside one that was learned from says nothing of what was
learned. A cube is split along its longer side where it is wide enough, and else along time; blocks are split by the
numbers in their names, a block on one side as a whole.

::

    +-----------------------+-------+---------+
    |      learned from     | strip |  held   |
    |                       |       |   out   |
    +-----------------------+-------+---------+
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isqrt
from typing import Literal

from stpipe.core.survey import BASE_CELL
from stpipe.core.windows import AXES, Triple, Window, round_up, triple
from stpipe.errors import CubeError, OptionError

LEAST_SIDE = 32
"""Neither side of a split by region is narrower, in pixels."""

LEAST_FRAMES = 3
"""Neither side of a split by period is shorter."""

BETWEEN_FRAMES = 2
"""Frames between the two periods that take no part."""

MOST_SHARE = 0.5
"""More than this can't be held out."""

LARGEST_PART: Triple = (60, 96, 96)
"""Frames and pixels of a part of a cube, at most."""

PARTS_WISHED = 4
"""Parts are made smaller until so many fit into what may be learned from."""

NEAR_ENOUGH = 0.1
"""Blocks are split by the first number in their names that comes so near to the share to hold out."""

SPARE_FROM = 4
"""With as many groups of blocks, or more, the one before those held out takes no part."""


def check_share(share: float) -> None:
    """Refuse a share that can't be held out.

    >>> check_share(0.25)
    """
    if not 0 < share <= MOST_SHARE:
        raise OptionError(f"--hold-out is a share above 0 and up to {MOST_SHARE:g} of each source, got {share:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Two sides of a cube."""

    by: Literal["region", "period"]
    """How it was split."""

    axis: int
    """Along which axis."""

    learned: Window
    """What is learned from."""

    held_out: Window
    """What is held out, at the end of the axis."""

    def __str__(self) -> str:
        """Say where the sides are."""
        what = "frames" if self.axis == 0 else f"pixels along {AXES[self.axis]}"
        learned, held_out = (
            f"{side.start[self.axis]} to {side.stop[self.axis]}" for side in (self.learned, self.held_out)
        )
        return f"split by {self.by}: learned from {what} {learned}, held out {held_out}"


def split_cube(extent: Triple, *, share: float, strip: int, name: str) -> Split:
    """Hold out a region of a cube, or a period where it is not wide enough.

    Parameters
    ----------
    extent : (time, y, x)
        Shape of the cube.
    share : float
        What to hold out, of what is left beside the strip.
    strip : int
        Pixels between the regions that take no part.
    name : str
        Of the cube, for the error.

    Raises
    ------
    OptionError
        If the share can't be held out.
    CubeError
        If the cube is neither wide nor long enough.

    Examples
    --------
    >>> print(split_cube((30, 248, 248), share=0.25, strip=32, name="hls"))
    split by region: learned from pixels along x 0 to 160, held out 192 to 248
    >>> print(split_cube((16, 60, 60), share=0.25, strip=32, name="field"))
    split by period: learned from frames 0 to 10, held out 12 to 16
    """
    check_share(share)
    for axis in sorted((2, 1), key=lambda axis: -extent[axis]):
        rest = extent[axis] - strip
        held = max(LEAST_SIDE, round(share * rest / BASE_CELL) * BASE_CELL)
        if rest - held >= LEAST_SIDE:
            return _split(extent, axis, rest - held, held)
    rest = extent[0] - BETWEEN_FRAMES
    held = max(LEAST_FRAMES, round(share * rest))
    if rest - held >= LEAST_FRAMES:
        return _split(extent, 0, rest - held, held)
    raise CubeError(
        f"nothing of {name} can be held out: by region it would need {2 * LEAST_SIDE + strip} pixels along y or x, by "
        f"period {2 * LEAST_FRAMES + BETWEEN_FRAMES} frames, but its (time, y, x) is {extent}; give a larger cube"
    )


def _split(extent: Triple, axis: int, learned: int, held_out: int) -> Split:
    """Return what is learned from, from the start of an axis, and what is held out, at its end."""
    stop, start = list(extent), [0, 0, 0]
    stop[axis], start[axis] = learned, extent[axis] - held_out
    return Split(
        by="region" if axis else "period",
        axis=axis,
        learned=Window((0, 0, 0), triple(stop)),
        held_out=Window(triple(start), extent),
    )


def parts_of(window: Window, *, samples: int, largest: Triple = LARGEST_PART) -> tuple[Window, ...]:
    """Cut a window into parts of about equal size.

    Parameters
    ----------
    window : Window
        A side of a split.
    samples : int
        What may be learned from in all: parts are so small that a few of them fit, but no narrower than `LEAST_SIDE`.
    largest : (time, y, x)
        Parts are no larger.

    Examples
    --------
    >>> [part.shape for part in parts_of(Window.of((30, 160, 90)), samples=10**7)]
    [(30, 80, 90), (30, 80, 90)]
    """
    frames = min(largest[0], window.shape[0])
    side = max(LEAST_SIDE, isqrt(samples // (PARTS_WISHED * frames)) // BASE_CELL * BASE_CELL)
    limits = (largest[0], min(largest[1], side), min(largest[2], side))
    cuts = [
        _cut(start, stop, limit, 1 if axis == 0 else BASE_CELL)
        for axis, (start, stop, limit) in enumerate(zip(window.start, window.stop, limits, strict=True))
    ]
    return tuple(Window((t[0], y[0], x[0]), (t[1], y[1], x[1])) for t in cuts[0] for y in cuts[1] for x in cuts[2])


def _cut(start: int, stop: int, limit: int, step: int) -> list[tuple[int, int]]:
    """Cut an axis into pieces of up to `limit`, about equal and multiples of `step` but for the last.

    >>> _cut(0, 100, 96, 8)
    [(0, 56), (56, 100)]
    """
    length = stop - start
    size = min(limit, round_up(-(-length // -(-length // limit)), step))
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NameSplit:
    """Two sides of a folder of blocks."""

    learned: tuple[str, ...]
    """Names of the blocks that are learned from."""

    between: tuple[str, ...]
    """Of those that take no part, for they may touch or overlap the ones held out."""

    held_out: tuple[str, ...]
    """Of those held out."""

    by: str
    """By what of the names."""

    shared: int = 0
    """How many of those learned from have samples of those held out, where leaving them out would leave nothing."""

    def __str__(self) -> str:
        """Say how many blocks are on which side."""
        apart = f", {len(self.between)} between them left out" if self.between else ""
        if self.shared:
            apart += ", which share samples: errors on what is held out flatter; export more blocks, or smaller ones"
        return f"split by {self.by}: {len(self.learned)} blocks learned from, {len(self.held_out)} held out{apart}"


def split_names(names: Sequence[str], *, share: float, place: str) -> NameSplit:
    """Hold out the last blocks of a folder by a number in their names, such as that of their time.

    Names end in numbers, as in ``ndvi_3_0_1``: time, row and column. Blocks with the same number stay together, so that
    the blocks held out are of other dates, or of other places, than those learned from.

    Parameters
    ----------
    names : sequence of str
        What follows ``X_``.
    share : float
        What to hold out.
    place : str
        The folder, for the error.

    Raises
    ------
    OptionError
        If the share can't be held out.
    CubeError
        If there is only one block.

    Examples
    --------
    >>> print(split_names([f"{t}_{x}" for t in range(8) for x in range(2)], share=0.25, place="blocks"))
    split by number 1 of their names: 10 blocks learned from, 4 held out, 2 between them left out
    """
    check_share(share)
    if len(names) < 2:
        raise CubeError(f"{place} holds one block, and blocks are held out as a whole; give a folder with more of them")
    numbers = {name: tuple(map(int, re.findall(r"\d+", _tail(name)))) for name in names}
    lengths = {len(found) for found in numbers.values()}
    best: NameSplit | None = None
    least = float("inf")
    for position in range(min(lengths) if len(lengths) == 1 else 0):
        made = _grouped(
            names, [numbers[name][position] for name in names], share, f"number {position + 1} of their names"
        )
        if made is None:
            continue
        off = abs(len(made.held_out) / len(names) - share)
        if off <= NEAR_ENOUGH:
            return made
        if off < least:
            best, least = made, off
    if best is not None:
        return best
    ordered = sorted(names, key=lambda name: (numbers[name], name))
    places = {name: number for number, name in enumerate(ordered)}
    made = _grouped(names, [places[name] for name in names], share, "the order of their names")
    assert made is not None  # there are two blocks at least, each a group of its own
    return made


def _grouped(names: Sequence[str], groups: Sequence[int], share: float, by: str) -> NameSplit | None:
    """Hold out the last groups; None where there is only one."""
    counts = Counter(groups)
    order = sorted(counts)
    if len(order) < 2:
        return None
    tails = list(accumulate(counts[group] for group in reversed(order[1:])))
    kept = 1 + min(range(len(tails)), key=lambda number: round(abs(tails[number] / len(names) - share), 9))
    first = len(order) - kept
    spare = first - 1 if first >= 2 and len(order) >= SPARE_FROM else -1
    rank = {group: number for number, group in enumerate(order)}
    pairs = [(name, rank[group]) for name, group in zip(names, groups, strict=True)]
    return NameSplit(
        learned=tuple(name for name, at in pairs if at < first and at != spare),
        between=tuple(name for name, at in pairs if at == spare),
        held_out=tuple(name for name, at in pairs if at >= first),
        by=by,
    )


def stem_of(name: str) -> str:
    """Return what comes before the numbers of a block's name: its variable.

    >>> stem_of("ndvi_0_12_3"), stem_of("22_2_11")
    ('ndvi', '')
    """
    return name.removesuffix(_tail(name)).rstrip("_")


def _tail(name: str) -> str:
    """Return the numbers that a name ends in, at most three.

    >>> _tail("b8_0_12_3"), _tail("field")
    ('_0_12_3', '')
    """
    found = re.search(r"(?:(?:^|_)\d+){1,3}$", name)
    return found[0] if found else ""
