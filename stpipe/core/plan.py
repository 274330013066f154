"""The plan: what a run will do, decided before it does anything.

Pure arithmetic over shapes. `make_plan` chooses the blocks, the tiles of the survey and of the blend, and works out
memory, disk and cost; a run that can't fit is refused here, with what would fit. The part of the plan that decides the
products' bytes, written as canonical JSON, gives the run id.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stpipe.core.blend import PAYLOAD_PARTS
from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.ports import JSON, Filler, VariableInfo
from stpipe.core.survey import BASE_CELL
from stpipe.core.windows import Triple, Window, round_up, triple
from stpipe.errors import PlanError

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

TILE_BYTES = 96 * MIB
"""Aim for a survey tile's samples as float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Projected peak of a worker process at each stage, in bytes."""

    survey: int
    """While a tile is surveyed."""

    fill: int
    """While a block is filled."""

    blend: int
    """While an output tile is blended."""

    @property
    def peak(self) -> int:
        """The largest of them."""
        return max(self.survey, self.fill, self.blend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All decisions of a run."""

    variables: tuple[VariableInfo, ...]
    """What is filled."""

    blocks: BlockGrid
    """The blocks of each variable."""

    survey_tile: Triple
    """Shape of a survey tile."""

    blend_tile: Triple
    """Shape of an output tile: whole chunks of the product."""

    output_chunks: tuple[Triple, ...]
    """Chunk shape of each variable's products."""

    memory: Memory
    """Projected peak of a worker."""

    scratch_bytes: int
    """Upper bound of what the run writes and removes again."""

    output_bytes: int
    """Upper bound of the products."""

    seconds: float
    """Rough cost of the fill on one core if every block has gaps."""

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

    def survey_tiles(self) -> list[Window]:
        """Return the survey's tiles, which cover the cube without overlap."""
        return tiles(self.extent, self.survey_tile)

    def blend_tiles(self) -> list[Window]:
        """Return the blend's tiles, which cover the cube without overlap."""
        return tiles(self.extent, self.blend_tile)


def canonical(value: JSON) -> bytes:
    """Return JSON that is the same for the same value.

    >>> canonical({"b": (1, 2), "a": None})
    b'{"a":null,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=True).encode()


def tiles(extent: Triple, shape: Triple) -> list[Window]:
    """Cut a cube into tiles; the last along an axis may be short.

    >>> [tile.stop for tile in tiles((1, 4, 5), (1, 4, 3))]
    [(1, 4, 3), (1, 4, 5)]
    """
    ranges = [range(0, n, step) for n, step in zip(extent, shape, strict=True)]
    return [
        Window((t, y, x), triple(min(a + s, n) for a, s, n in zip((t, y, x), shape, extent, strict=True)))
        for t in ranges[0]
        for y in ranges[1]
        for x in ranges[2]
    ]


def make_plan(
    *,
    extent: Triple,
    variables: Sequence[VariableInfo],
    filler: Filler,
    identity: JSON,
    memory_limit: int,
    block: Triple | None = None,
    overlap: Triple | None = None,
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

    Raises
    ------
    PlanError
        If a worker's memory does not hold a block; the message says what fits.
    """
    usable = int(USABLE_SHARE * memory_limit)
    item = max(np.dtype(info.dtype).itemsize for info in variables)
    chunk = max(math.prod(info.chunks) for info in variables) * item
    fixed = filler.process_bytes + chunk
    if block is None:
        grid = _best_grid(extent, filler, min(usable - fixed, DEFAULT_BLOCK_BYTES), overlap)
        if grid is None:
            least = fixed + _fill_bytes(_grid(extent, filler, min(SIZES), overlap), filler, item)
            raise PlanError(
                f"method {filler.name} needs {gib(least)} "
                f"for its smallest block, but a worker of {gib(memory_limit)} can plan with {gib(usable)}; "
                "give workers more with --memory-limit, or start fewer with --workers"
            )
    else:
        spec = BlockSpec(
            size=block,
            overlap=overlap or triple(min(o, (n - 1) // 2) for o, n in zip(_default_overlap(), block, strict=True)),
            halo=filler.halo,
            stride=filler.stride,
        )
        grid = BlockGrid(extent, spec)
        needed = fixed + _fill_bytes(grid, filler, item)
        if needed > usable:
            fits = _best_grid(extent, filler, usable - fixed, overlap)
            advice = "no block does" if fits is None else f"--block {','.join(map(str, fits.size))} does"
            raise PlanError(
                f"a block of {','.join(map(str, grid.size))} (reading {','.join(map(str, grid.read_shape))}) needs "
                f"{gib(needed)}, but a worker of {gib(memory_limit)} can plan with {gib(usable)}; {advice}"
            )
    output_chunks = tuple(_output_chunk(info, extent) for info in variables)
    survey_tile = _survey_tile(extent, variables)
    fill_bytes = _fill_bytes(grid, filler, item)
    payload = 4 * PAYLOAD_PARTS * math.prod(grid.size)
    blend_fixed = 2 * payload  # one block as it is decoded, and the copy that is used
    blend_item = BLEND_SAMPLE_BYTES + 2 * item
    blend_tile = _blend_tile(
        extent,
        grid,
        output_chunks,
        min(max(fill_bytes - payload, BLEND_BYTES), usable - fixed - blend_fixed) // blend_item,
    )
    samples = math.prod(extent)
    memory = Memory(
        survey=fixed + int(math.prod(survey_tile) * (item + 1) + 40 * MIB),
        fill=fixed + fill_bytes,
        blend=fixed + blend_fixed + math.prod(blend_tile) * blend_item,
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
        "survey_tile": survey_tile,
        "output_chunks": output_chunks,
        "filler": filler.identity(),
    }
    n = len(variables)
    return Plan(
        variables=tuple(variables),
        blocks=grid,
        survey_tile=survey_tile,
        blend_tile=blend_tile,
        output_chunks=output_chunks,
        memory=memory,
        scratch_bytes=n * (payload * len(grid) + samples * 36 // 64 + samples * (item + 5)),
        output_bytes=n * samples * 2 * (item + 5),
        seconds=n * len(grid) * math.prod(grid.read_shape) / 1e6 * filler.seconds_per_million,
        identity={"input": identity, "geometry": geometry},
    )


BLEND_SAMPLE_BYTES = 36
"""Memory of the blend for each sample of its tile, besides the stored samples; measured."""


def gib(n_bytes: float) -> str:
    """Return a size as people read it.

    >>> gib(3 * 2**30), gib(5e6)
    ('3.0 GiB', '4.8 MiB')
    """
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes >= GIB / 2 else f"{n_bytes / MIB:.1f} MiB"


def _default_overlap() -> Triple:
    return (0, DEFAULT_OVERLAP, DEFAULT_OVERLAP)


def _grid(extent: Triple, filler: Filler, side: int, overlap: Triple | None) -> BlockGrid:
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
    return BlockGrid(extent, BlockSpec(size=triple(size), overlap=fitting, halo=filler.halo, stride=filler.stride))


def _fill_bytes(grid: BlockGrid, filler: Filler, item: int) -> int:
    read = math.prod(grid.read_shape)
    return int(read * (filler.sample_bytes + item + FILL_SAMPLE_BYTES)) + 4 * PAYLOAD_PARTS * math.prod(grid.size)


FILL_SAMPLE_BYTES = 5
"""Memory of a fill for each sample of its read window besides the filler's own: standardised value and valid."""


def _best_grid(extent: Triple, filler: Filler, budget: int, overlap: Triple | None) -> BlockGrid | None:
    """Return the largest blocks whose fill fits the budget, or None."""
    for side in SIZES:
        grid = _grid(extent, filler, side, overlap)
        # As if samples had 8 bytes, so that a cube and its decoded copy get the same blocks.
        if _fill_bytes(grid, filler, 8) <= budget:
            return grid
    return None


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
    t, y, x = (max(info.chunks[axis] for info in variables) for axis in range(3))
    tile = [min(t, extent[0]), 0, 0]
    for axis, chunk in ((1, y), (2, x)):
        step = math.lcm(chunk, TILE_ALIGN)
        if step > 4 * max(chunk, TILE_ALIGN):
            step = TILE_ALIGN  # chunks of odd length: read some twice rather than make huge tiles
        whole = round_up(extent[axis], BASE_CELL)
        tile[axis] = min(whole, max(step, 512 // step * step))
    most = TILE_BYTES // 8
    while tile[0] * tile[1] * tile[2] > most and tile[0] > 1:
        tile[0] = -(-tile[0] // 2)
    return triple(tile)


def _blend_tile(extent: Triple, grid: BlockGrid, chunks: Sequence[Triple], most: int) -> Triple:
    """Whole chunks of every product, as many as the memory of a fill holds.

    The larger the tile, the fewer times a block is read again for a neighbouring one.
    """
    steps = triple(math.lcm(*(chunk[axis] for chunk in chunks)) for axis in range(3))
    tile = [min(pair) for pair in zip(steps, extent, strict=True)]
    # Frames first, since a block has them all; then the shorter side, while it is no longer than two blocks.
    for axes in ((0,), (1, 2)):
        while True:
            growing = [a for a in axes if tile[a] < min(extent[a], 2 * grid.size[a])]
            if not growing:
                break
            axis = min(growing, key=lambda a: tile[a])
            wider = list(tile)
            wider[axis] = min(extent[axis], tile[axis] + steps[axis])
            if math.prod(wider) > most:
                break
            tile = wider
    return triple(tile)
