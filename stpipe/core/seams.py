"""Seams: whether a filled crop shows where blocks meet."""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from stpipe.core.blend import FALLBACK, HALF_WIDTH, PAYLOAD_PARTS, PREDICTION, Blend
from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.crops import Crop, fill_crop, settled_on
from stpipe.core.ports import BlockInput, Filler
from stpipe.core.survey import ArrayOverviews
from stpipe.core.windows import Window, round_up, triple

SEAM_SIDE = 160
"""Most pixels along a side of what is filled in blocks to look for seams."""

SEAM_SAMPLES = 2**19
"""Most samples of it, about."""

SEAM_OVERLAP = 8
"""What its blocks share."""

LEAST_STEPS = 100
"""Fewer steps at block borders than this say nothing of seams."""


def seam_ratio(filler: Filler, crop: Crop) -> float:
    """Return the mean step across block borders over that at the same places when filled in one piece.

    The middle of the crop is filled in four blocks, which are blended as in any run. Steps elsewhere are no measure:
    a field that happens to be rough where a border lies would pass for a seam.

    Parameters
    ----------
    filler : Filler
        The method.
    crop : Crop
        Something with gaps.

    Returns
    -------
    float
        1 where blocks don't show; NaN where there are too few steps between gap samples to tell.
    """
    frames, height, width = crop.valid.shape
    most = min(SEAM_SIDE, max(48, isqrt(SEAM_SAMPLES // frames)))
    sizes = [min(n, most) for n in (height, width)]
    rows, columns = (
        slice((n - size) // 2, (n - size) // 2 + size) for n, size in zip((height, width), sizes, strict=True)
    )
    part = Crop(
        values=crop.values[:, rows, columns],
        valid=crop.valid[:, rows, columns],
        days=crop.days,
        window=Window.of((frames, *sizes)),
        domain=None if crop.domain is None else crop.domain[rows, columns],
        guides={name: guide[:, rows, columns] for name, guide in crop.guides.items()},
    )
    size = triple((frames, *(-(-n // 2) + SEAM_OVERLAP // 2 for n in sizes)))
    if min(sizes) < 4 * SEAM_OVERLAP:
        return float("nan")
    spec = BlockSpec(size=size, overlap=(0, SEAM_OVERLAP, SEAM_OVERLAP), halo=filler.halo, stride=filler.stride)
    grid = BlockGrid(triple(part.valid.shape), spec)
    gap = ~part.valid if part.domain is None else ~part.valid & part.domain
    blocked, whole = fill_in_blocks(filler, part, grid), fill_crop(filler, part).values
    pairs = [_border_steps(blocked, whole, gap, grid, axis) for axis in (1, 2)]
    seen, expected = (np.concatenate(column) for column in zip(*pairs, strict=True))
    if seen.size < LEAST_STEPS or not expected.any():
        return float("nan")
    return float(seen.mean() / expected.mean())


def _border_steps(
    blocked: NDArray[np.float64], whole: NDArray[np.float32], gap: NDArray[np.bool_], grid: BlockGrid, axis: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the steps across borders between gap samples, filled in blocks and in one piece."""
    length = blocked.shape[axis]
    edges = {edge for start in grid.starts[axis] for edge in (start, start + grid.size[axis])}
    inner = np.array(sorted(edges & set(range(1, length))), dtype=np.intp)
    before, after = (tuple(inner + o if a == axis else slice(None) for a in range(3)) for o in (-1, 0))
    steps = [np.abs(filled[after] - filled[before]).astype(np.float64) for filled in (blocked, whole)]
    both = gap[before] & gap[after] & np.isfinite(steps[0]) & np.isfinite(steps[1])
    return steps[0][both], steps[1][both]


def fill_in_blocks(filler: Filler, crop: Crop, grid: BlockGrid) -> NDArray[np.float64]:
    """Fill a crop block by block and blend, as a run does; (time, y, x), standardised, NaN where unfilled."""
    whole = Window.of(grid.extent)
    overviews = ArrayOverviews.of(crop.values.astype(np.float64), crop.valid)
    filler = settled_on(filler, crop)
    padded = round_up(grid.extent[0], grid.spec.stride[0])
    step = float(crop.days[-1] - crop.days[-2]) if crop.days.size > 1 else 1.0
    days = np.concatenate([crop.days, crop.days[-1] + step * np.arange(1, padded - crop.days.size + 1)])
    blend = Blend(whole)
    for block in grid:
        inside = block.read.intersect(whole)
        around = [(0, a - b) for a, b in zip(block.read.shape, inside.shape, strict=True)]
        made = filler.fill(
            BlockInput(
                values=np.pad(crop.values[inside.slices], around),
                valid=np.pad(crop.valid[inside.slices], around),
                days=days[block.read.slices[0]],
                window=block.read,
                overviews=overviews,
                all_days=crop.days,
                wanted=block.write,
                guides={
                    name: np.pad(guide[inside.slices], around, constant_values=np.float32(np.nan))
                    for name, guide in crop.guides.items()
                },
                domain=None if crop.domain is None else np.pad(crop.domain[inside.slices[1:]], around[1:]),
                scale=crop.scale,
                origin=crop.window.start,
            )
        )
        payload = np.empty((PAYLOAD_PARTS, *block.write.shape), dtype=np.float32)
        payload[PREDICTION], payload[HALF_WIDTH] = made.values[block.trim], made.half_width[block.trim]
        payload[FALLBACK] = made.fallback[block.trim]
        blend.add(grid, block, payload)
    result: NDArray[np.float64] = blend.result()[PREDICTION]
    return result
