"""Windows: half-open index boxes over ``(time, y, x)``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from stpipe.errors import ShapeError

AXES = ("time", "y", "x")
"""Axis order of every cube, block and array in stpipe."""

Triple = tuple[int, int, int]
"""One number an axis, in the order of `AXES`."""


def triple(values: object) -> Triple:
    """Return three integers as a `Triple`.

    >>> triple([1, 2, 3])
    (1, 2, 3)
    """
    numbers = tuple(int(value) for value in values)  # type: ignore[attr-defined]
    if len(numbers) != len(AXES):
        raise ShapeError(f"need one number for each of {AXES}, got {numbers}")
    return numbers  # type: ignore[return-value]


def samples_in(shapes: Iterable[Triple]) -> int:
    """Return how many samples windows of these shapes have in all.

    >>> samples_in([(2, 3, 4), (1, 5, 5)])
    49
    """
    return sum(map(prod, shapes))


def pixels_in(shapes: Iterable[Triple]) -> int:
    """Return how many pixels the widest of these shapes has.

    >>> pixels_in([(2, 3, 4), (1, 5, 5)])
    25
    """
    return max((height * width for _, height, width in shapes), default=0)


def round_up(length: int, step: int) -> int:
    """Return the smallest multiple of `step` that is at least `length`.

    >>> round_up(17, 8), round_up(16, 8)
    (24, 16)
    """
    return -(-length // step) * step


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open index box; it may reach past the cube, where everything is gap.

    Examples
    --------
    >>> window = Window((0, 0, 4), (2, 8, 12))
    >>> window.shape
    (2, 8, 8)
    >>> window.intersect(Window((1, 4, 0), (9, 9, 6)))
    Window(start=(1, 4, 4), stop=(2, 8, 6))
    """

    start: Triple
    """First index along each axis."""

    stop: Triple
    """Index after the last along each axis."""

    def __post_init__(self) -> None:
        if any(stop < start for start, stop in zip(self.start, self.stop, strict=True)):
            raise ShapeError(f"a window can't stop before it starts, got {self.start} to {self.stop}")

    @classmethod
    def of(cls, shape: Triple) -> Window:
        """Return the window of a whole array."""
        return cls((0, 0, 0), shape)

    @property
    def shape(self) -> Triple:
        """Length along each axis."""
        return triple(stop - start for start, stop in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of samples."""
        return prod(self.shape)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index an array of the cube with this."""
        t, y, x = (slice(start, stop) for start, stop in zip(self.start, self.stop, strict=True))
        return t, y, x

    def intersect(self, other: Window) -> Window:
        """Return the common part; empty along an axis where there is none."""
        start = triple(max(pair) for pair in zip(self.start, other.start, strict=True))
        stop = triple(min(pair) for pair in zip(self.stop, other.stop, strict=True))
        return Window(start, triple(max(pair) for pair in zip(start, stop, strict=True)))

    def within(self, outer: Window) -> Window:
        """Return this window counted from the start of `outer`."""
        return Window(
            triple(a - b for a, b in zip(self.start, outer.start, strict=True)),
            triple(a - b for a, b in zip(self.stop, outer.start, strict=True)),
        )

    def contains(self, other: Window) -> bool:
        """Whether no sample of `other` lies outside."""
        return self.intersect(other) == other
