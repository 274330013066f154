"""The tasks of a run, as plain functions of the shared context and a number.

A task that finds its own record returns at once; one that does its work writes its output first and the record last.
So a task may be run any number of times, by any worker, with the same outcome.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from stpipe.core.blend import FALLBACK, HALF_WIDTH, PAYLOAD_PARTS, PREDICTION, Blend, coarsen, thin
from stpipe.core.blocks import Block
from stpipe.core.ports import BlockInput, Filler, Overviews, Prediction, VariableInfo
from stpipe.core.samples import SOURCE_CODES, credible, encode, gap_value
from stpipe.core.survey import (
    BASE_CELL,
    BASE_LEVEL,
    Level,
    base_level,
    coarser,
    lattice_step,
    on_lattice,
    pool,
)
from stpipe.core.windows import Triple, Window
from stpipe.errors import ScratchError
from stpipe.execution.context import FillJob, RunContext, Samples, Standardised
from stpipe.execution.learning import filler_for
from stpipe.execution.records import digest
from stpipe.execution.stages import BadBlocksError

TILE_LEVELS = 4
"""Overview levels that a survey tile completes by itself: 3 to 6."""


def survey_tile(context: RunContext, number: int) -> str:
    """Pool one tile, count its gaps and pick its subsample."""
    tiles = context.plan.survey_tiles
    index, tile = number // len(tiles), tiles.tile(number % len(tiles))
    info = context.variable(index)
    book, store = context.book("survey"), context.overviews
    name = f"{number:07d}"
    record = book.read(name)
    if record is not None:
        try:
            levels, gaps = store.read_tile(info.name, tile), store.read_gaps(info.name, tile)
            if digest(*levels.values(), gaps) == record["digest"]:
                return "had"
        except ScratchError:
            pass
    samples = context.read(info, tile)
    levels, gaps, picked, valid_count, domain_count = survey_samples(
        samples, tile.start, lattice_step(context.plan.extent)
    )
    store.write_tile(info.name, tile, levels)
    store.write_gaps(info.name, tile, gaps)
    record = {
        "variable": info.name,
        "digest": digest(*levels.values(), gaps),
        "valid": valid_count,
        "gaps": domain_count - valid_count,
        "sample": base64.b64encode(picked.tobytes()).decode(),
    }
    if samples.rule_counts is not None:
        record["rules"] = samples.rule_counts.tolist()
    book.write(name, record)
    return "done"


def complete_survey(context: RunContext, index: int) -> str:
    """Work out a variable's coarsest overviews from those of its tiles."""
    info, book, name = context.variable(index), context.book("survey"), f"variable-{index:07d}"
    tiles = len(context.plan.survey_tiles)
    parts = book.read_many(f"{index * tiles + tile:07d}" for tile in range(tiles))
    made_of = hashlib.sha256("".join("" if part is None else part["digest"] for part in parts).encode()).hexdigest()
    record = book.read(name)
    if record is not None and record["made_of"] == made_of:
        with suppress(ScratchError):
            if context.overviews.completed(info.name) == record["digest"]:
                return "had"
    book.write(name, {"variable": info.name, "made_of": made_of, "digest": context.overviews.complete(info.name)})
    return "done"


def survey_samples(
    samples: Samples, origin: Triple, step: int
) -> tuple[dict[int, Level], NDArray[np.uint8], NDArray[np.float64], int, int]:
    """Return a tile's overview levels, gaps a cell, picked samples, and numbers of valid and of domain samples.

    Parameters
    ----------
    samples : Samples
        The tile.
    origin : (time, y, x)
        Where it starts in the cube.
    step : int
        Distance of the picked samples, see `stpipe.core.survey.lattice_step`.
    """
    base, gaps, picked = [], [], []
    frames, height, width = samples.stored.shape
    inside = np.ones((height, width), dtype=bool) if samples.domain is None else samples.domain
    valid_count = 0
    for t in range(frames):
        values, valid = samples.frame(t)
        believed = credible(values, valid)
        base.append(base_level(values[None], believed[None]))
        gaps.append(pool((inside & ~valid).astype(np.float64), BASE_CELL).astype(np.uint8))
        picked.append(on_lattice(values, believed, (origin[0] + t, *origin[1:]), step))
        valid_count += int(valid.sum())
    level = np.concatenate(base, axis=1)
    levels = {}
    for k in range(BASE_LEVEL, BASE_LEVEL + TILE_LEVELS):
        levels[k] = level
        level = coarser(level)
    return levels, np.stack(gaps), np.concatenate(picked), valid_count, int(inside.sum()) * frames


def fill_task(context: RunContext, number: int) -> str:
    """Fill one block and write its chunk of the scratch store."""
    grid = context.plan.blocks
    index = number // len(grid)
    info = context.variable(index)
    block = grid.block(number % len(grid))
    book = context.book("fill")
    name = f"{number:07d}"
    if book.read(name) is not None:
        return "had"
    started = time.perf_counter()
    scale = context.scales[info.name]
    overviews = context.overviews.overviews(info.name, scale.location, scale.spread)
    payload = fill_block(context, info, block, overviews, filler_for(context, index))
    written = context.scratch.write(info.name, block, payload)
    book.write(
        name,
        {
            "variable": info.name,
            "block": block.index,
            "digest": written,
            "seconds": round(time.perf_counter() - started, 3),
        },
    )
    return "done"


def fill_block(
    job: FillJob, info: VariableInfo, block: Block, overviews: Overviews, filler: Filler
) -> NDArray[np.float32]:
    """Read one block with its halo, predict it, trim it to its write window.

    Returns
    -------
    (3, t, y, x) ndarray of float32
        Prediction, half-width and fallback; all NaN where nothing is to be filled, which compresses to nothing.
    """
    guides = job.read_guides(block.read)  # first: what reading them takes is given back before the samples are there
    read = job.read_standardised(info, block.read)
    days = _days(job.days, block.read)
    prediction = filler.fill(
        BlockInput(
            values=read.values,
            valid=read.valid,
            days=days,
            window=block.read,
            overviews=overviews,
            all_days=job.days,
            wanted=block.write,
            guides=guides,
            domain=read.domain_of(block.read),
            scale=read.scale,
        )
    )
    payload = _payload(prediction, read, block, days, job.max_gap)
    if np.dtype(info.dtype).kind in "iu":
        thin(payload[PREDICTION], abs(info.scale_factor) / job.scales[info.name].spread)
    return payload


def _payload(
    prediction: Prediction, read: Standardised, block: Block, days: NDArray[np.float64], max_gap: float | None
) -> NDArray[np.float32]:
    """Keep the gaps of the write window that are near enough to an observation."""
    payload = np.full((PAYLOAD_PARTS, *block.write.shape), np.nan, dtype=np.float32)
    frames, *box = block.trim
    inside = np.ones(block.write.shape[1:], dtype=bool)
    if read.domain is not None:
        # The domain ends with the cube; the write window is always inside it.
        inside = read.domain[tuple(box)]
    near = None if max_gap is None else near_observation(read.valid[:, *box], days, max_gap, frames)
    for i, t in enumerate(range(frames.start, frames.stop)):
        wanted = inside & ~read.valid[t][tuple(box)]
        if near is not None:
            wanted &= next(near)
        for part, values in (
            (PREDICTION, prediction.values),
            (HALF_WIDTH, prediction.half_width),
            (FALLBACK, prediction.fallback),
        ):
            np.copyto(payload[part, i], values[t][tuple(box)], where=wanted)
    coarsen(payload[HALF_WIDTH])
    return payload


TIME_SLACK = 1e-6
"""A tenth of a second, in days: how times were rounded decides nothing."""


def near_observation(
    valid: NDArray[np.bool_], days: NDArray[np.float64], most: float, frames: slice
) -> Iterator[NDArray[np.bool_]]:
    """Give, frame by frame, where a pixel was observed at most some days before or after.

    Parameters
    ----------
    valid : (time, y, x) ndarray of bool
        Where observed, over the cube's whole time axis.
    days : (time,) ndarray of float64
        Ascending times in days.
    most : float
        Days.
    frames : slice
        The frames that are asked for, ascending.

    Examples
    --------
    >>> valid = np.array([True, False, False]).reshape(3, 1, 1)
    >>> [bool(near.item()) for near in near_observation(valid, np.array([0.0, 5.0, 9.0]), 5, slice(0, 3))]
    [True, True, False]
    """
    most += TIME_SLACK
    around = np.zeros(valid.shape[1:], dtype=np.int32)  # observations within reach of the frame
    first = last = 0
    for day in days[frames]:
        while last < days.size and days[last] - day <= most:
            around += valid[last]
            last += 1
        while day - days[first] > most:
            around -= valid[first]
            first += 1
        yield around > 0


def _days(days: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
    """Return the times of a window's frames; past the end of the cube they go on at the last step."""
    start, stop = window.start[0], window.stop[0]
    past = stop - days.size
    if past <= 0:
        return days[start:stop]
    step = float(days[-1] - days[-2]) if days.size > 1 else 1.0
    return np.concatenate([days[start:], days[-1] + step * np.arange(1, past + 1)])


def blend_task(context: RunContext, number: int) -> str:
    """Blend one tile of whole output chunks, put the observations back, and write it."""
    index, tile = context.plan.blend_tile(number)
    info = context.variable(index)
    book = context.book("blend")
    name = f"{number:07d}"
    record = book.read(name)
    if record is not None:
        with suppress(ScratchError):
            if context.product.digests(info.name, tile) == record.get("files"):
                return "had"
    stored, source, half_width = blend_tile(context, index, tile)
    context.product.write(info.name, tile, stored, source, half_width)
    counts = np.bincount(source.ravel(), minlength=len(SOURCE_CODES))
    book.write(
        name,
        {
            "variable": info.name,
            "files": context.product.digests(info.name, tile),
            "counts": dict(zip(SOURCE_CODES, map(int, counts), strict=True)),
        },
    )
    return "done"


def blend_tile(
    context: RunContext, index: int, tile: Window
) -> tuple[NDArray[np.generic], NDArray[np.uint8], NDArray[np.float32]]:
    """Return one tile's stored samples, source codes and half-widths."""
    info, grid = context.variable(index), context.plan.blocks
    samples = context.read(info, tile)
    blend = Blend(tile)
    fills = context.book("fill")
    bad: list[int] = []
    for inner in grid.touching(tile):
        number = index * len(grid) + inner
        record = fills.read(f"{number:07d}")
        block = grid.block(inner)
        if record is None:
            if has_gaps(samples, tile, block.write):
                bad.append(number)
            continue  # a block without gaps was never filled
        try:
            payload = context.scratch.read(info.name, block, record["digest"])
        except ScratchError:
            bad.append(number)
            continue
        if bad:
            continue
        blend.add(grid, block, payload)
        del payload  # before the next one is read
    if bad:
        raise BadBlocksError(*bad)
    return finish_tile(samples, blend, context.scales[info.name].location, context.scales[info.name].spread)


def has_gaps(samples: Samples, tile: Window, window: Window) -> bool:
    """Whether a tile has a gap inside a window."""
    common = tile.intersect(window).within(tile)
    box = common.slices[1:]
    inside = True if samples.domain is None else samples.domain[box]
    return any((inside & ~samples.frame(t)[1][box]).any() for t in range(common.start[0], common.stop[0]))


def finish_tile(
    samples: Samples, blend: Blend, location: float, spread: float
) -> tuple[NDArray[np.generic], NDArray[np.uint8], NDArray[np.float32]]:
    """Put observations back and turn the blended field into stored samples."""
    info = samples.info
    stored = samples.stored.copy()
    source = np.empty(stored.shape, dtype=np.uint8)
    half_width = np.empty(stored.shape, dtype=np.float32)
    nothing = gap_value(info)
    inside = np.ones(stored.shape[1:], dtype=bool) if samples.domain is None else samples.domain
    for t, blended in enumerate(blend.frames()):
        _, valid = samples.frame(t)
        known = np.isfinite(blended[PREDICTION])
        filled = inside & ~valid & known
        unfilled = inside & ~valid & ~known
        values = blended[PREDICTION][filled] * spread + location
        stored[t][filled] = encode(values, info, valid_range=samples.valid_range)
        if nothing is not None:
            stored[t][unfilled] = nothing
        codes = source[t]
        codes[...] = SOURCE_CODES["outside_domain"]
        codes[valid] = SOURCE_CODES["observed"]
        codes[filled] = SOURCE_CODES["filled"]
        codes[filled & (blended[FALLBACK] > 0.5)] = SOURCE_CODES["filled_by_fallback"]
        codes[unfilled] = SOURCE_CODES["unfilled"]
        half_width[t] = np.where(filled, blended[HALF_WIDTH] * spread, np.where(valid, 0.0, np.nan))
    coarsen(half_width)
    return stored, source, half_width
