"""How a run cuts a cube: blocks for the fill, tiles for the survey and the blend, and the memory that each takes.

Pure arithmetic over shapes; `stpipe.core.plan` decides with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stpipe.core.blend import PAYLOAD_PARTS
from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.ports import Filler, Seamless, VariableInfo
from stpipe.core.sizes import GIB, MIB
from stpipe.core.survey import BASE_CELL
from stpipe.core.windows import Triple, Window, pixels_in, round_up, triple

DEFAULT_BLOCK_BYTES = 1 * GIB
"""What a fill may take above the idle process unless asked otherwise.

Small enough for laptops, and the same there as on a big node, so that the products' bytes are too.
"""

SIZES = (512, 448, 384, 320, 256, 192, 128, 96, 64, 48, 32, 16, 8)
"""Side lengths of write windows to choose from, in pixels."""

STRETCH = 1.15
"""How much longer than asked for a block may get to save another one."""

DEFAULT_OVERLAP: Triple = (0, 8, 8)
"""Overlap along (time, y, x): the halo already makes neighbours agree, blending only hides the last float."""

TILE_ALIGN = 64
"""Survey tiles start at multiples of this, so that each writes its own cells up to overview level 6."""

TILE_SAMPLES = 12 * MIB
"""Aim for a survey tile."""

MOST_STEP = 1024
"""Sides of survey tiles need not be longer than this."""

MOST_WASTE = 4.0
"""Long time axes make small blocks, which read mostly halo; beyond this a block may outgrow the usual size."""

MOST_CHUNK_SAMPLES = 8 * MIB
"""Largest chunk of a product, in samples."""

FILL_SAMPLE_BYTES = 5
"""Memory of a fill for each sample of its read window besides the filler's own: standardised value and valid."""

BLEND_SAMPLE_BYTES = 36
"""Memory of the blend for each sample of its tile, besides the stored samples; measured."""

FRAME_PIXEL_BYTES = 65
"""Memory for each pixel of the one frame that is decoded, surveyed or blended at a time."""

Halo = tuple[int | None, int, int]
"""Context along (time, y, x); None: the whole axis."""


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Tiles that cover a cube without overlap, x fastest; the last along an axis may be short.

    Examples
    --------
    >>> grid = TileGrid((1, 4, 5), (1, 4, 3))
    >>> len(grid), [tile.stop for tile in grid]
    (2, [(1, 4, 3), (1, 4, 5)])
    """

    extent: Triple
    """Shape of the cube."""

    shape: Triple
    """Shape of a tile."""

    @property
    def counts(self) -> Triple:
        """Number of tiles along each axis."""
        return triple(-(-n // step) for n, step in zip(self.extent, self.shape, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def tile(self, number: int) -> Window:
        """Return one tile by its number."""
        _, ny, nx = self.counts
        index = (number // (ny * nx), number // nx % ny, number % nx)
        start = triple(i * step for i, step in zip(index, self.shape, strict=True))
        stop = triple(min(a + s, n) for a, s, n in zip(start, self.shape, self.extent, strict=True))
        return Window(start, stop)

    def __iter__(self) -> Iterator[Window]:
        return (self.tile(number) for number in range(len(self)))


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityCost:
    """What reading quality variables takes, where rules say which samples to trust; by default there are none."""

    item: int = 0
    """Bytes that a sample of all of them has together."""

    buffer: int = 0
    """Pixels around a window that are read as well."""

    chunk: int = 0
    """Bytes of their largest chunk."""

    def bytes(self, shape: Triple) -> int:
        """Return the memory that telling what is trusted takes in a window.

        >>> QualityCost().bytes((2, 10, 10)), QualityCost(item=1, buffer=5).bytes((2, 10, 10))
        (0, 1000)
        """
        if not self.item:
            return 0
        t, y, x = shape
        return t * y * x + self.item * t * (y + 2 * self.buffer) * (x + 2 * self.buffer)


NO_RULES = QualityCost()
"""Where all samples are trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuideCost:
    """What reading guides takes; nothing by default."""

    names: tuple[str, ...] = ()
    """Of the guides."""

    sample_bytes: float = 0.0
    """Memory for each sample of a window while they are read, besides what is given."""

    chunk_bytes: int = 0
    """Of the largest chunk of their files."""

    seconds_per_million: float = 0.0
    """To read a million samples of all of them on one core."""


def default_overlap(filler: Filler) -> Triple:
    """Return what neighbouring blocks share: nothing where a method is `stpipe.core.ports.Seamless`."""
    return (0, 0, 0) if isinstance(filler, Seamless) and filler.seamless else DEFAULT_OVERLAP


def block_grid(extent: Triple, filler: Filler, halo: Halo, side: int, overlap: Triple | None) -> BlockGrid:
    """Return blocks of about a side length.

    Parameters
    ----------
    extent : (time, y, x)
        Shape of the cube.
    filler : Filler
        The method, for its stride.
    halo : Halo
        Context of a block.
    side : int
        Length of write windows along y and x, in pixels; along time they have all frames.
    overlap : (time, y, x) or None
        What neighbours share, where it is not `default_overlap`.
    """
    chosen = overlap or default_overlap(filler)
    size = [extent[0]]
    for n, o, step in zip(extent[1:], chosen[1:], filler.stride[1:], strict=True):
        shared = min(o, side - 1)
        pieces = -(-max(1, n - shared) // max(1, round(STRETCH * side) - shared))
        # One or two are evened out. Of more, the last is pulled back: all scenes then have the same blocks, and
        # workers the same memory.
        even = round_up(-(-(n - shared) // pieces) + shared, step) if pieces <= 2 else side
        size.append(max(1, min(n, even)))
    fitting = triple(min(o, s - 1) for o, s in zip(chosen, size, strict=True))
    return BlockGrid(extent, BlockSpec(size=triple(size), overlap=fitting, halo=halo, stride=filler.stride))


def choose_grid(
    extent: Triple,
    filler: Filler,
    halo: Halo,
    budget: int,
    overlap: Triple | None,
    quality: QualityCost = NO_RULES,
) -> BlockGrid | None:
    """Return the largest blocks within the usual size, larger ones if those read mostly halo.

    Takes what `block_grid` takes, and `budget`: bytes that a fill may take above the idle process, and `quality`: what
    reading quality variables takes. None: none fit.
    """
    # As if samples had 8 bytes, so that a cube and its decoded copy get the same blocks.
    grids = {side: block_grid(extent, filler, halo, side, overlap) for side in SIZES}
    needs = {side: bytes_to_fill(grid, filler, 8, quality) for side, grid in grids.items()}
    chosen = next((side for side in SIZES if needs[side] <= min(budget, DEFAULT_BLOCK_BYTES)), None)
    if chosen is None or _waste(grids[chosen]) > MOST_WASTE:
        for side in reversed(SIZES):
            if needs[side] <= budget and side > (chosen or 0):
                chosen = side
                if _waste(grids[side]) <= MOST_WASTE:
                    break
    return None if chosen is None else grids[chosen]


def _waste(grid: BlockGrid) -> float:
    """Return how much is read for each sample that is written."""
    return len(grid) * math.prod(grid.read_shape) / math.prod(grid.extent)


def output_chunk(info: VariableInfo, extent: Triple) -> Triple:
    """Return the input's chunks, cut where one would be too much for a single task.

    >>> output_chunk(VariableInfo(name="ndvi", dtype="int16", chunks=(64, 512, 512)), (60, 4000, 4000))
    (60, 512, 256)
    """
    t, y, x = (min(c, n) for c, n in zip(info.chunks, extent, strict=True))
    while t * y * x > MOST_CHUNK_SAMPLES:
        if max(y, x) > 256:
            y, x = (y, -(-x // 2)) if x >= y else (-(-y // 2), x)
        else:
            t = -(-t // 2)
    return t, y, x


def survey_tile_shape(extent: Triple, variables: Sequence[VariableInfo]) -> Triple:
    """Return a shape for tiles of the survey: whole input chunks where that is possible, whole overview cells always.

    >>> survey_tile_shape((60, 4000, 4000), [VariableInfo(name="ndvi", dtype="int16", chunks=(1, 512, 512))])
    (12, 1024, 1024)
    """
    chunk = triple(max(info.chunks[axis] for info in variables) for axis in range(3))
    steps, sides = [], []
    for n, c in zip(extent[1:], chunk[1:], strict=True):
        whole = round_up(n, BASE_CELL)
        step = math.lcm(c, TILE_ALIGN)
        if c >= n:
            step = whole
        elif step > max(4 * c, MOST_STEP):
            step = TILE_ALIGN  # chunks of odd length are read more than once at the borders of any tile
        steps.append(min(step, whole))
        sides.append(min(whole, max(step, round_up(min(4 * c, MOST_STEP), step))))
    frames = min(chunk[0], extent[0])
    while frames * math.prod(sides) > TILE_SAMPLES:
        long = max((0, 1), key=lambda axis: sides[axis] - steps[axis])
        if sides[long] == steps[long]:
            break
        sides[long] = (sides[long] - 1) // steps[long] * steps[long]  # the whole side need not be of whole steps
    plane = math.prod(sides)
    if frames * plane > TILE_SAMPLES:
        frames = max(1, TILE_SAMPLES // plane)  # one chunk is more than a tile: it is read again for each part
    else:
        frames = min(extent[0], max(1, TILE_SAMPLES // (plane * frames)) * frames)
    return frames, sides[0], sides[1]


def blend_tile_shape(
    extent: Triple, grid: BlockGrid, step: Triple, info: VariableInfo, most: int, quality: QualityCost = NO_RULES
) -> Triple:
    """Return a shape for tiles of the blend: whole chunks of a variable's products, as many as the memory holds.

    The larger the tile, the fewer times a block is read again for a neighbouring one.

    Parameters
    ----------
    extent : (time, y, x)
        Shape of the cube.
    grid : BlockGrid
        What is blended.
    step : (time, y, x)
        Shape of a chunk.
    info : VariableInfo
        The variable, for its dtype.
    most : int
        Bytes that a blend may take; a single chunk may take more.
    quality : QualityCost
        What reading quality variables takes.
    """
    tile = triple(min(pair) for pair in zip(step, extent, strict=True))
    # Frames first, since a block has them all; then the shorter side, while it is no longer than two blocks.
    for axes in ((0,), (1, 2)):
        while True:
            growing = [a for a in axes if tile[a] < min(extent[a], 2 * grid.size[a])]
            if not growing:
                break
            axis = min(growing, key=lambda a: tile[a])
            wider = list(tile)
            wider[axis] = min(extent[axis], tile[axis] + step[axis])
            if bytes_to_blend(triple(wider), info, quality) > most:
                break
            tile = triple(wider)
    return tile


def bytes_to_fill(grid: BlockGrid, filler: Filler, item: int, quality: QualityCost = NO_RULES) -> int:
    """Return the memory that a fill takes at its peak; `item` is the size of a stored sample."""
    read = math.prod(grid.read_shape)
    samples = int(read * (filler.sample_bytes + item + FILL_SAMPLE_BYTES))
    pixels = int(filler.pixel_bytes * pixels_in([grid.read_shape]))
    return samples + pixels + 4 * PAYLOAD_PARTS * math.prod(grid.size) + quality.bytes(grid.read_shape)


def bytes_to_survey(tile: Triple, item: int, quality: QualityCost = NO_RULES) -> int:
    """Return the memory that the survey of a tile takes at its peak; `item` is the size of a stored sample."""
    # The cells of all its levels come to a third of a byte for each sample more.
    return math.prod(tile) * (item + 1) + tile[1] * tile[2] * FRAME_PIXEL_BYTES + quality.bytes(tile)


def several_blocks(grid: BlockGrid, tiles: TileGrid) -> bool:
    """Whether any tile is written into by more than one block.

    Examples
    --------
    >>> from stpipe.core.blocks import BlockSpec
    >>> grid = BlockGrid((4, 64, 64), BlockSpec(size=(4, 32, 32), overlap=(0, 0, 0)))
    >>> [several_blocks(grid, TileGrid(grid.extent, shape)) for shape in ((2, 16, 32), (4, 48, 32))]
    [False, True]
    """
    for starts, size, length, step in zip(grid.starts, grid.size, grid.extent, tiles.shape, strict=True):
        for start in range(0, length, step):
            if sum(a < min(start + step, length) and a + size > start for a in starts) > 1:
                return True
    return False


def bytes_to_blend(tile: Triple, info: VariableInfo, quality: QualityCost = NO_RULES) -> int:
    """Return the memory that the blend of a tile takes at its peak, the blocks that it reads not counted."""
    item = np.dtype(info.dtype).itemsize
    samples = math.prod(tile) * (BLEND_SAMPLE_BYTES + 2 * item)
    return samples + tile[1] * tile[2] * FRAME_PIXEL_BYTES + quality.bytes(tile)
