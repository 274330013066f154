"""Blocks: how a cube is cut into equal, overlapping pieces of work.

Along one axis, a block reads more than it writes, and neighbours write a little of the same::

      read    |----halo----|==========write==========|----halo----|
      write                               |==overlap==|
                                          |===========next block's write===...

The halo is context and is trimmed off; the overlap is written twice and blended. Read windows all have one shape and
start at multiples of the method's stride. At the scene's edges they are pulled back inside, so that the edge of the
array is the edge of the scene, and blocks give what the whole scene would have given. Where the extent is no multiple
of the stride, the scene is taken to go on as gap up to the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

from stpipe.core.windows import AXES, Triple, Window, round_up, triple
from stpipe.errors import PlanError


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """How a cube is cut into blocks: frames along time, pixels along y and x."""

    size: Triple
    """Length of a write window."""

    overlap: Triple = (0, 0, 0)
    """Length that a write window shares with the next one."""

    halo: tuple[int | None, int, int] = (0, 0, 0)
    """Context on either side of a write window; None along time means the whole axis."""

    stride: Triple = (1, 1, 1)
    """Read windows start at multiples of this."""

    def __post_init__(self) -> None:
        for axis, size, overlap in zip(AXES, self.size, self.overlap, strict=True):
            if size < 1:
                raise PlanError(f"a block needs at least 1 along {axis}, got {size}")
            if not 0 <= overlap < size:
                raise PlanError(f"overlap along {axis} must be in [0, {size}), the block's size, got {overlap}")
        for axis, halo, stride in zip(AXES, self.halo, self.stride, strict=True):
            if halo is not None and halo < 0:
                raise PlanError(f"halo along {axis} can't be negative, got {halo}")
            if stride < 1:
                raise PlanError(f"stride along {axis} must be at least 1, got {stride}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One unit of work."""

    number: int
    """Position in ascending order, from 0."""

    index: Triple
    """Position in the grid of blocks."""

    read: Window
    """What the block reads, in the cube; it may reach past the cube's end by less than the stride."""

    write: Window
    """What the block writes, in the cube."""

    @property
    def trim(self) -> tuple[slice, slice, slice]:
        """Cut an array of the read window to the write window with this."""
        return self.write.within(self.read).slices


def block_starts(extent: int, size: int, overlap: int) -> tuple[int, ...]:
    """Start indices of equal write windows that together cover one axis.

    The last one is pulled back to the edge, so it may overlap its neighbour by more than `overlap`, never by less.

    >>> block_starts(extent=1000, size=256, overlap=64)
    (0, 192, 384, 576, 744)
    """
    if not 0 <= overlap < size <= extent:
        raise PlanError(f"need 0 <= overlap < size <= extent, got overlap={overlap}, size={size}, extent={extent}")
    last = extent - size
    return (*range(0, last, size - overlap), last)


@dataclass(frozen=True)
class BlockGrid:
    """All blocks of a cube, by arithmetic alone: no list of blocks is ever held.

    Examples
    --------
    >>> grid = BlockGrid((4, 20, 20), BlockSpec(size=(4, 16, 16), overlap=(0, 4, 4), halo=(None, 2, 2)))
    >>> len(grid)
    4
    >>> grid.block(3).write
    Window(start=(0, 4, 4), stop=(4, 20, 20))
    >>> grid.block(0).read
    Window(start=(0, 0, 0), stop=(4, 20, 20))
    """

    extent: Triple
    """Shape of the cube."""

    spec: BlockSpec
    """How it is cut; a size larger than the cube means the whole axis."""

    @cached_property
    def size(self) -> Triple:
        """Shape of every write window."""
        return triple(min(pair) for pair in zip(self.spec.size, self.extent, strict=True))

    @cached_property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """Starts of the write windows along each axis."""
        overlaps = (min(o, s - 1) for o, s in zip(self.spec.overlap, self.size, strict=True))
        return tuple(block_starts(*args) for args in zip(self.extent, self.size, overlaps, strict=True))

    @cached_property
    def counts(self) -> Triple:
        """Number of blocks along each axis."""
        return triple(len(starts) for starts in self.starts)

    @cached_property
    def padded_extent(self) -> Triple:
        """Shape of the cube, rounded up to multiples of the stride."""
        return triple(round_up(n, step) for n, step in zip(self.extent, self.spec.stride, strict=True))

    @cached_property
    def read_shape(self) -> Triple:
        """Shape of every read window."""
        return triple(self._read_length(axis) for axis in range(len(AXES)))

    def _read_length(self, axis: int) -> int:
        halo, stride, whole = self.spec.halo[axis], self.spec.stride[axis], self.padded_extent[axis]
        if halo is None:
            return whole
        most_ahead = max((start - halo) % stride for start in self.starts[axis])
        return min(whole, round_up(self.size[axis] + 2 * halo + most_ahead, stride))

    def _read_start(self, axis: int, start: int) -> int:
        halo, stride = self.spec.halo[axis], self.spec.stride[axis]
        if halo is None:
            return 0
        aligned = (start - halo) // stride * stride
        return max(0, min(aligned, self.padded_extent[axis] - self.read_shape[axis]))

    def __len__(self) -> int:
        return prod(self.counts)

    def block(self, number: int) -> Block:
        """Return one block by its number, counted with x fastest."""
        if not 0 <= number < len(self):
            raise PlanError(f"block {number} does not exist; there are {len(self)}, from 0")
        _, ny, nx = self.counts
        index = (number // (ny * nx), number // nx % ny, number % nx)
        start = triple(starts[i] for starts, i in zip(self.starts, index, strict=True))
        write = Window(start, triple(a + n for a, n in zip(start, self.size, strict=True)))
        begin = triple(self._read_start(axis, a) for axis, a in enumerate(start))
        read = Window(begin, triple(a + n for a, n in zip(begin, self.read_shape, strict=True)))
        return Block(number=number, index=index, read=read, write=write)

    def __iter__(self) -> Iterator[Block]:
        return (self.block(number) for number in range(len(self)))

    def touching(self, window: Window) -> list[int]:
        """Return the numbers of the blocks that write into a window, in ascending order."""
        hits = [
            [i for i, a in enumerate(starts) if a < stop and a + size > start]
            for starts, size, start, stop in zip(self.starts, self.size, window.start, window.stop, strict=True)
        ]
        _, ny, nx = self.counts
        return [(t * ny + y) * nx + x for t in hits[0] for y in hits[1] for x in hits[2]]
