"""The plan: what a run will do, decided before it does anything.

Pure arithmetic over shapes. `make_plan` chooses the blocks, the tiles of the survey and of the blend, and works out
memory, disk and cost; a run that can't fit is refused here, with what would fit. The part of the plan that decides the
products' bytes, written as canonical JSON, gives the run id.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stpipe.core.blend import PAYLOAD_PARTS
from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.crops import CROP_SAMPLES, MOST_CROPS, SMALLEST_SIDE, choose_crops
from stpipe.core.ports import JSON, Filler, Learner, VariableInfo
from stpipe.core.survey import BASE_CELL
from stpipe.core.windows import Triple, Window, round_up, triple
from stpipe.errors import OptionError, PlanError

MIB = 2**20
GIB = 2**30

PLAN_VERSION = 1
"""Raised whenever the same plan would give other bytes."""

DEFAULT_BLOCK_BYTES = 1 * GIB
"""What a fill may take above the idle process unless asked otherwise.

Small enough for laptops, and the same there as on a big node, so that the products' bytes are too.
"""

USABLE_SHARE = 0.75
"""Share of a worker's limit that a plan may use: its figure holds within 20 %, and at 0.95 Dask ends a worker."""

SIZES = (512, 448, 384, 320, 256, 192, 128, 96, 64, 48, 32, 16, 8)
"""Side lengths of write windows to choose from, in pixels."""

STRETCH = 1.15
"""How much longer than asked for a block may get to save another one."""

DEFAULT_OVERLAP = 8
"""Overlap in y and x: the halo already makes neighbours agree, blending only hides the last float."""

BLEND_BYTES = 384 * MIB
"""What a blend may always take for its tile: small tiles make it read the same blocks again and again."""

TILE_ALIGN = 64
"""Survey tiles start at multiples of this, so that each writes its own cells up to overview level 6."""

TILE_SAMPLES = 12 * MIB
"""Aim for a survey tile."""

MOST_STEP = 1024
"""Sides of survey tiles need not be longer than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Projected peak of a worker process at each stage, in bytes."""

    survey: int
    """While a tile is surveyed."""

    learn: int
    """While a method learns from the cube; 0 if it doesn't."""

    fill: int
    """While a block is filled."""

    blend: int
    """While an output tile is blended."""

    @property
    def peak(self) -> int:
        """The largest of them."""
        return max(self.survey, self.learn, self.fill, self.blend)


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
class Plan:
    """All decisions of a run."""

    variables: tuple[VariableInfo, ...]
    """What is filled."""

    blocks: BlockGrid
    """The blocks of each variable."""

    survey_tiles: TileGrid
    """Tiles of the survey, the same for each variable."""

    blend_tiles: tuple[TileGrid, ...]
    """Output tiles of each variable: whole chunks of its product."""

    output_chunks: tuple[Triple, ...]
    """Chunk shape of each variable's products."""

    crops: tuple[Window, ...]
    """What the method learns from, in each variable; none if it doesn't learn."""

    memory: Memory
    """Projected peak of a worker."""

    scratch_bytes: int
    """Upper bound of what the run writes and removes again."""

    output_bytes: int
    """Upper bound of the products."""

    seconds: float
    """Rough cost of the fill on one core if every block has gaps."""

    learn_seconds: float
    """Rough cost of learning on one core if every variable has gaps."""

    identity: JSON
    """All that decides the products' bytes."""

    @property
    def run_id(self) -> str:
        """sha256 of the canonical identity."""
        return hashlib.sha256(canonical(self.identity)).hexdigest()

    @property
    def extent(self) -> Triple:
        """Shape of the cube."""
        return self.blocks.extent

    @property
    def n_blocks(self) -> int:
        """Number of blocks of all variables."""
        return len(self.blocks) * len(self.variables)

    @property
    def n_blend_tiles(self) -> int:
        """Number of output tiles of all variables."""
        return sum(map(len, self.blend_tiles))

    def blend_tile(self, number: int) -> tuple[int, Window]:
        """Return the variable and the window of an output tile, by its number over all variables."""
        for index, grid in enumerate(self.blend_tiles):
            if number < len(grid):
                return index, grid.tile(number)
            number -= len(grid)
        raise PlanError(f"output tile {number} is beyond the last one")


def canonical(value: JSON) -> bytes:
    """Return JSON that is the same for the same value.

    >>> canonical({"b": (1, 2), "a": None})
    b'{"a":null,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=True).encode()


def make_plan(
    *,
    extent: Triple,
    variables: Sequence[VariableInfo],
    filler: Filler,
    identity: JSON,
    memory_limit: int,
    block: Triple | None = None,
    overlap: Triple | None = None,
    whole_axis: bool = False,
) -> Plan:
    """Decide a run.

    Parameters
    ----------
    extent : (time, y, x)
        Shape of the cube.
    variables : sequence of VariableInfo
        What to fill.
    filler : Filler
        The method, which declares its halo, stride and memory.
    identity : JSON
        What decides the products besides the geometry: the input's fingerprint, the options.
    memory_limit : int
        Bytes a worker may take.
    block, overlap : (time, y, x), optional
        Write window and overlap, if the user chose them.
    whole_axis : bool
        Whether blocks read all frames, even if the method has no need of them.

    Raises
    ------
    PlanError
        If a worker's memory does not hold a block; the message says what fits.
    """
    halo = (None, *filler.halo[1:]) if whole_axis else filler.halo
    usable = int(USABLE_SHARE * memory_limit)
    item = max(np.dtype(info.dtype).itemsize for info in variables)
    chunk = max(math.prod(info.chunks) for info in variables) * item
    fixed = filler.process_bytes + chunk
    if block is None:
        grid = _choose_grid(extent, filler, halo, usable - fixed, overlap)
        if grid is None:
            least = fixed + _fill_bytes(_grid(extent, filler, halo, min(SIZES), overlap), filler, item)
            raise PlanError(
                f"method {filler.name} needs {gib(least)} "
                f"for its smallest block, but a worker of {gib(memory_limit)} can plan with {gib(usable)}; "
                "give workers more with --memory-limit, or start fewer with --workers"
            )
    else:
        spec = BlockSpec(
            size=block,
            overlap=overlap or triple(min(o, (n - 1) // 2) for o, n in zip(_default_overlap(), block, strict=True)),
            halo=halo,
            stride=filler.stride,
        )
        grid = BlockGrid(extent, spec)
        needed = fixed + _fill_bytes(grid, filler, item)
        if needed > usable:
            fits = _choose_grid(extent, filler, halo, usable - fixed, overlap)
            advice = "no block does" if fits is None else f"--block {','.join(map(str, fits.size))} does"
            raise PlanError(
                f"a block of {','.join(map(str, grid.size))} (reading {','.join(map(str, grid.read_shape))}) needs "
                f"{gib(needed)}, but a worker of {gib(memory_limit)} can plan with {gib(usable)}; {advice}"
            )
    crops, learn_bytes, learn_seconds = _learning(extent, filler, usable - fixed, item)
    output_chunks = tuple(_output_chunk(info, extent) for info in variables)
    survey_tiles = TileGrid(extent, _survey_tile(extent, variables))
    fill_bytes = _fill_bytes(grid, filler, item)
    payload = 4 * PAYLOAD_PARTS * math.prod(grid.size)
    blend_fixed = 2 * payload  # one block as it is decoded, and the copy that is used
    most = min(max(fill_bytes - payload, BLEND_BYTES), usable - fixed - blend_fixed)
    blend_tiles = tuple(
        TileGrid(extent, _blend_tile(extent, grid, step, info, most))
        for info, step in zip(variables, output_chunks, strict=True)
    )
    samples = math.prod(extent)
    memory = Memory(
        survey=fixed + _survey_bytes(survey_tiles.shape, item),
        learn=fixed + learn_bytes if crops else 0,
        fill=fixed + fill_bytes,
        blend=fixed
        + blend_fixed
        + max(_blend_bytes(tiles.shape, info) for tiles, info in zip(blend_tiles, variables, strict=True)),
    )
    if memory.peak > usable:
        worst = "blending" if memory.blend == memory.peak else "surveying"
        raise PlanError(
            f"{worst} whole chunks of the cube needs {gib(memory.peak)}, but a worker of {gib(memory_limit)} can plan "
            f"with {gib(usable)}; give workers more with --memory-limit, or write the cube in smaller chunks"
        )
    geometry = {
        "version": PLAN_VERSION,
        "extent": extent,
        "block": grid.size,
        "overlap": grid.spec.overlap,
        "read": grid.read_shape,
        "survey_tile": survey_tiles.shape,
        "output_chunks": output_chunks,
        "filler": filler.identity(),
    }
    if crops:
        geometry["crops"] = [(crop.start, crop.stop) for crop in crops]
    n = len(variables)
    return Plan(
        variables=tuple(variables),
        blocks=grid,
        survey_tiles=survey_tiles,
        blend_tiles=blend_tiles,
        output_chunks=output_chunks,
        crops=crops,
        memory=memory,
        scratch_bytes=n * (payload * len(grid) + samples * 36 // 64 + samples * (item + 5)),
        output_bytes=n * samples * 2 * (item + 5),
        seconds=n * len(grid) * math.prod(grid.read_shape) / 1e6 * filler.seconds_per_million,
        learn_seconds=n * learn_seconds,
        identity={"input": identity, "geometry": geometry},
    )


BLEND_SAMPLE_BYTES = 36
"""Memory of the blend for each sample of its tile, besides the stored samples; measured."""

FRAME_PIXEL_BYTES = 65
"""Memory for each pixel of the one frame that is decoded, surveyed or blended at a time."""


def _blend_bytes(tile: Triple, info: VariableInfo) -> int:
    item = np.dtype(info.dtype).itemsize
    return math.prod(tile) * (BLEND_SAMPLE_BYTES + 2 * item) + tile[1] * tile[2] * FRAME_PIXEL_BYTES


def _survey_bytes(tile: Triple, item: int) -> int:
    # The cells of all its levels come to a third of a byte for each sample more.
    return math.prod(tile) * (item + 1) + tile[1] * tile[2] * FRAME_PIXEL_BYTES


def gib(n_bytes: float) -> str:
    """Return a size as people read it.

    >>> gib(3 * 2**30), gib(5e6)
    ('3.0 GiB', '4.8 MiB')
    """
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes >= GIB / 2 else f"{n_bytes / MIB:.1f} MiB"


def _default_overlap() -> Triple:
    return (0, DEFAULT_OVERLAP, DEFAULT_OVERLAP)


Halo = tuple[int | None, int, int]
"""Context along (time, y, x); None: the whole axis."""


def _grid(extent: Triple, filler: Filler, halo: Halo, side: int, overlap: Triple | None) -> BlockGrid:
    """Return blocks of about a side length."""
    chosen = overlap or _default_overlap()
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


def _fill_bytes(grid: BlockGrid, filler: Filler, item: int) -> int:
    read = math.prod(grid.read_shape)
    return int(read * (filler.sample_bytes + item + FILL_SAMPLE_BYTES)) + 4 * PAYLOAD_PARTS * math.prod(grid.size)


FILL_SAMPLE_BYTES = 5
"""Memory of a fill for each sample of its read window besides the filler's own: standardised value and valid."""


def check_max_gap(days: object, option: str) -> None:
    """Refuse a longest gap that is no length of time.

    Parameters
    ----------
    days : float, optional
        Days.
    option : str
        Its name where the user gave it.
    """
    number = isinstance(days, int | float | np.integer | np.floating) and not isinstance(days, bool)
    if days is not None and not (number and 0 < days < math.inf):  # type: ignore[operator]
        raise OptionError(f"{option} needs a number of days above 0, got {days!r}")


def _learning(extent: Triple, filler: Filler, budget: int, item: int) -> tuple[tuple[Window, ...], int, float]:
    """Return the crops to learn from, the memory above the idle process and the seconds that it takes.

    The crops shrink, and in the end there is only one, until the memory holds them.
    """
    if not isinstance(filler, Learner):
        return (), 0, 0.0
    least = 0
    for most in (MOST_CROPS, 1):
        samples = CROP_SAMPLES
        while True:
            crops = choose_crops(extent, most=most, samples=samples)
            sizes = [crop.size for crop in crops]
            least = int(sum(sizes) * (FILL_SAMPLE_BYTES + filler.learn_sample_bytes)) + max(sizes) * item
            if least <= budget:
                return crops, least, sum(sizes) / 1e6 * filler.learn_seconds_per_million
            if samples <= extent[0] * SMALLEST_SIDE**2:
                break
            samples //= 2
    raise PlanError(
        f"method {filler.name} needs {gib(least)} to learn from the smallest part of the cube, but "
        f"{gib(max(budget, 0))} of a worker's memory is left for it; give workers more with --memory-limit, or start "
        "fewer with --workers"
    )


def _choose_grid(extent: Triple, filler: Filler, halo: Halo, budget: int, overlap: Triple | None) -> BlockGrid | None:
    """Return the largest blocks within the usual size, larger ones if those read mostly halo, or None."""
    # As if samples had 8 bytes, so that a cube and its decoded copy get the same blocks.
    grids = {side: _grid(extent, filler, halo, side, overlap) for side in SIZES}
    needs = {side: _fill_bytes(grid, filler, 8) for side, grid in grids.items()}
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


MOST_WASTE = 4.0
"""Long time axes make small blocks, which read mostly halo; beyond this a block may outgrow the usual size."""


def _output_chunk(info: VariableInfo, extent: Triple) -> Triple:
    """Return the input's chunks, cut where one would be too much for a single task."""
    t, y, x = (min(c, n) for c, n in zip(info.chunks, extent, strict=True))
    while t * y * x > MOST_CHUNK_SAMPLES:
        if max(y, x) > 256:
            y, x = (y, -(-x // 2)) if x >= y else (-(-y // 2), x)
        else:
            t = -(-t // 2)
    return t, y, x


MOST_CHUNK_SAMPLES = 8 * MIB
"""Largest chunk of a product, in samples."""


def _survey_tile(extent: Triple, variables: Sequence[VariableInfo]) -> Triple:
    """Tiles of whole input chunks where that is possible, aligned to overview cells always."""
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
        sides[long] -= steps[long]
    plane = math.prod(sides)
    if frames * plane > TILE_SAMPLES:
        frames = max(1, TILE_SAMPLES // plane)  # one chunk is more than a tile: it is read again for each part
    else:
        frames = min(extent[0], max(1, TILE_SAMPLES // (plane * frames)) * frames)
    return frames, sides[0], sides[1]


def _blend_tile(extent: Triple, grid: BlockGrid, step: Triple, info: VariableInfo, most: int) -> Triple:
    """Whole chunks of a variable's products, as many as the memory of a fill holds.

    The larger the tile, the fewer times a block is read again for a neighbouring one.
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
            if _blend_bytes(triple(wider), info) > most:
                break
            tile = triple(wider)
    return tile
