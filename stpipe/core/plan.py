"""The plan: what a run will do, decided before it does anything.

Pure arithmetic over shapes. `make_plan` chooses the blocks, the tiles of the survey and of the blend, as
`stpipe.core.geometry` works them out, and adds up memory, disk and cost; a run that can't fit is refused here, with
what would fit. The part of the plan that decides the products' bytes, written as canonical JSON, gives the run id.
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
from stpipe.core.crops import CROP_SAMPLES, MOST_CROPS, SMALLEST_SIDE, choose_crops
from stpipe.core.geometry import (
    FILL_SAMPLE_BYTES,
    NO_RULES,
    SIZES,
    QualityCost,
    TileGrid,
    blend_tile_shape,
    block_grid,
    bytes_to_blend,
    bytes_to_fill,
    bytes_to_survey,
    choose_grid,
    default_overlap,
    output_chunk,
    several_blocks,
    survey_tile_shape,
)
from stpipe.core.ports import JSON, Filler, Learner, SceneFiller, VariableInfo
from stpipe.core.sizes import MIB, gib
from stpipe.core.windows import Triple, Window, samples_in, triple
from stpipe.errors import OptionError, PlanError

PLAN_VERSION = 2
"""Raised whenever the same plan would give other bytes."""

USABLE_SHARE = 0.75
"""Share of a worker's limit that a plan may use: its figure holds within 20 %, and at 0.95 Dask ends a worker."""

PART_PIXELS = 2**16
"""Pixels of a part that a method looks at before it keeps sums, at most, unless one tile has more."""

PARTS = 64
"""A scene has at least so many parts, if it has as many tiles."""

COMPANION_BYTES = 2.5
"""Of a gap on its way to the blend, compressed, at most: its rounded half-width, and whether a fallback stood in."""

SOURCE_BYTES = 0.5
"""Of a source code in a product, compressed, at most."""

HALF_WIDTH_BYTES = 2.5
"""Of a half-width in a product, rounded and compressed, at most."""

BLEND_BYTES = 384 * MIB
"""What a blend may always take for its tile: small tiles make it read the same blocks again and again."""


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

    look_tiles: TileGrid
    """Tiles, over all frames, in which a method that takes numbers of the whole scene looks at it."""

    tiles_a_part: int
    """How many of them are added up before anything of it is kept."""

    crops: tuple[Window, ...]
    """What the method learns from, in each variable; none if it doesn't learn."""

    memory: Memory
    """Projected peak of a worker."""

    scratch_bytes: int
    """Upper bound of what the run writes and removes again."""

    output_bytes: int
    """Upper bound of the products."""

    gap_bytes: int
    """What of both is for gaps, if all were gap."""

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

    def disk_bytes(self, gap_share: float) -> int:
        """Return what scratch and products take at most together, where so much is gap."""
        return self.scratch_bytes + self.output_bytes - int((1 - gap_share) * self.gap_bytes)

    @property
    def look_parts(self) -> int:
        """Number of parts of the scene that a method looks at, one task each."""
        return -(-len(self.look_tiles) // self.tiles_a_part)

    def look_part(self, number: int) -> list[Window]:
        """Return the windows of a part."""
        first = number * self.tiles_a_part
        return [self.look_tiles.tile(n) for n in range(first, min(first + self.tiles_a_part, len(self.look_tiles)))]

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
    quality: QualityCost = NO_RULES,
    copies: int = 2,
    loaded_bytes: int = 0,
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
    quality : QualityCost
        What reading quality variables takes, where rules say which samples to trust.
    copies : int
        Of the products, a filled cube and GeoTIFFs: it decides what disk is asked for, and nothing else.
    loaded_bytes : int
        Memory of what a worker has loaded besides the method, such as what speaks to a store.

    Raises
    ------
    PlanError
        If a worker's memory does not hold a block; the message says what fits.
    """
    halo = (None, *filler.halo[1:]) if whole_axis else filler.halo
    usable = int(USABLE_SHARE * memory_limit)
    item = max(np.dtype(info.dtype).itemsize for info in variables)
    chunk = max(math.prod(info.chunks) for info in variables) * item
    fixed = filler.process_bytes + loaded_bytes + max(chunk, quality.chunk)
    if block is None:
        grid = choose_grid(extent, filler, halo, usable - fixed, overlap, quality)
        if grid is None:
            smallest = block_grid(extent, filler, halo, min(SIZES), overlap)
            least = fixed + bytes_to_fill(smallest, filler, item, quality)
            raise PlanError(
                f"method {filler.name} needs {gib(least)} "
                f"for its smallest block, but a worker of {gib(memory_limit)} can plan with {gib(usable)}; "
                "give workers more with --memory-limit, or start fewer with --workers"
            )
    else:
        spec = BlockSpec(
            size=block,
            overlap=overlap
            or triple(min(o, (n - 1) // 2) for o, n in zip(default_overlap(filler), block, strict=True)),
            halo=halo,
            stride=filler.stride,
        )
        grid = BlockGrid(extent, spec)
        needed = fixed + bytes_to_fill(grid, filler, item, quality)
        if needed > usable:
            fits = choose_grid(extent, filler, halo, usable - fixed, overlap, quality)
            advice = "no block does" if fits is None else f"--block {','.join(map(str, fits.size))} does"
            raise PlanError(
                f"a block of {','.join(map(str, grid.size))} (reading {','.join(map(str, grid.read_shape))}) needs "
                f"{gib(needed)}, but a worker of {gib(memory_limit)} can plan with {gib(usable)}; {advice}"
            )
    crops, learn_bytes, learn_seconds = _learning(extent, filler, usable - fixed, item, quality)
    output_chunks = tuple(output_chunk(info, extent) for info in variables)
    survey_tiles = TileGrid(extent, survey_tile_shape(extent, variables))
    to_fill = bytes_to_fill(grid, filler, item, quality)
    payload = 4 * PAYLOAD_PARTS * math.prod(grid.size)
    blend_fixed = 2 * payload  # one block as it is decoded, and the copy that is used
    most = min(max(to_fill - payload, BLEND_BYTES), usable - fixed - blend_fixed)
    blend_tiles = tuple(
        TileGrid(extent, blend_tile_shape(extent, grid, step, info, most, quality))
        for info, step in zip(variables, output_chunks, strict=True)
    )
    samples = math.prod(extent)
    kept = len(filler.fields) if isinstance(filler, SceneFiller) else 0
    memory = Memory(
        survey=fixed + bytes_to_survey(survey_tiles.shape, item, quality),
        learn=fixed + learn_bytes if crops else 0,
        fill=fixed + to_fill,
        blend=fixed
        + max(
            # A tile that one block fills has not touched its sums yet while that block is decoded.
            (blend_fixed if several_blocks(grid, tiles) else payload) + bytes_to_blend(tiles.shape, info, quality)
            for tiles, info in zip(blend_tiles, variables, strict=True)
        ),
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
    look_tiles = TileGrid(extent, triple((extent[0], *grid.size[1:])))
    rounds = filler.rounds if isinstance(filler, SceneFiller) else ()
    if rounds:  # in which parts sums are added up decides their last digits
        geometry["parts"] = (*look_tiles.shape, tiles_a_part(look_tiles))
    if crops:
        geometry["crops"] = [(crop.start, crop.stop) for crop in crops]
    n = len(variables)
    gap_scratch = int(sum(map(gap_scratch_bytes, variables)) * len(grid) * math.prod(grid.size))
    return Plan(
        variables=tuple(variables),
        blocks=grid,
        survey_tiles=survey_tiles,
        blend_tiles=blend_tiles,
        output_chunks=output_chunks,
        look_tiles=look_tiles,
        tiles_a_part=tiles_a_part(look_tiles),
        crops=crops,
        memory=memory,
        scratch_bytes=gap_scratch + n * (samples * 36 // 64 + 8 * kept * extent[1] * extent[2]),
        output_bytes=n * copies * int(samples * (item + SOURCE_BYTES + HALF_WIDTH_BYTES)),
        gap_bytes=gap_scratch + n * copies * int(samples * HALF_WIDTH_BYTES),
        seconds=n * len(grid) * math.prod(grid.read_shape) / 1e6 * filler.seconds_per_million,
        learn_seconds=n * learn_seconds,
        identity={"input": identity, "geometry": geometry},
    )


def gap_scratch_bytes(info: VariableInfo) -> float:
    """Return what a gap takes on its way to the blend, compressed, at most.

    Predictions of whole numbers are rounded to half a byte more than these have; nothing compresses others.

    >>> gap_scratch_bytes(VariableInfo(name="ndvi", dtype="int16", chunks=(1, 1, 1)))
    5.0
    """
    dtype = np.dtype(info.dtype)
    return COMPANION_BYTES + (min(4.0, dtype.itemsize + 0.5) if dtype.kind in "iu" else 4.0)


def tiles_a_part(tiles: TileGrid) -> int:
    """Return how many tiles are added up before their sums are kept: sums may be larger than what a tile has of pixels.

    Examples
    --------
    >>> tiles_a_part(TileGrid((380, 2750, 4671), (380, 32, 32)))
    64
    >>> tiles_a_part(TileGrid((380, 200, 200), (380, 32, 32)))
    1
    """
    fewest = max(1, len(tiles) // PARTS)  # small scenes keep all workers busy
    return min(fewest, max(1, PART_PIXELS // math.prod(tiles.shape[1:])))


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


def _learning(
    extent: Triple, filler: Filler, budget: int, item: int, quality: QualityCost
) -> tuple[tuple[Window, ...], int, float]:
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
            shapes = [crop.shape for crop in crops]
            read = max(crop.size * item + quality.bytes(crop.shape) for crop in crops)
            least = FILL_SAMPLE_BYTES * samples_in(shapes) + filler.learn_bytes(shapes) + read
            if least <= budget:
                return crops, least, filler.learn_seconds(shapes)
            if samples <= extent[0] * SMALLEST_SIDE**2:
                break
            samples //= 2
    raise PlanError(
        f"method {filler.name} needs {gib(least)} to learn from the smallest part of the cube, but "
        f"{gib(max(budget, 0))} of a worker's memory is left for it; give workers more with --memory-limit, or start "
        "fewer with --workers"
    )
