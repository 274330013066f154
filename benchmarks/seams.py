"""Seams: does a scene filled in small blocks show where they meet?

    python benchmarks/seams.py [--method pyramid pconv] [--side 1024] [--frames 32] [--block 128]

Fills one scene in small blocks and in one piece, and prints the mean jump between neighbouring filled pixels across
block borders over that elsewhere, the largest difference of the two fills in units of the scene's spread, and, under a
cloud three blocks wide, how constant the filling is and how its steps at block borders compare with the others.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import xarray as xr
from scipy import ndimage

import stpipe


def make_scene(frames: int, side: int, block: int, seed: int = 3) -> tuple[xr.DataArray, tuple[slice, slice]]:
    """Return drifting fields under clouds; in the middle frame, one cloud is three blocks wide."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / 256
    texture = ndimage.gaussian_filter(rng.normal(size=(side, side)), 3)
    texture /= texture.std()
    values = np.empty((frames, side, side), dtype=np.float32)
    days = np.cumsum(rng.integers(2, 9, frames))
    for t, day in enumerate(days):
        field = 2 * np.sin(day / 40 + rows) * np.cos(columns + day / 90) + 0.4 * texture
        cloud = ndimage.gaussian_filter(rng.normal(size=(side, side)), 14)
        hidden = cloud > np.quantile(cloud, rng.uniform(0.2, 0.9))
        values[t] = np.where(hidden, np.nan, field + 0.05 * rng.normal(size=field.shape))
    width = min(3 * block, side - 32)
    low = (side - width) // 2
    cloud_box = (slice(low, low + width), slice(low, low + width))
    values[(frames // 2, *cloud_box)] = np.nan
    when = np.datetime64("2023-01-01", "ns") + days.astype("timedelta64[D]")
    return xr.DataArray(values, dims=("time", "y", "x"), coords={"time": when}, name="v"), cloud_box


def borders(side: int, block: int, overlap: int) -> np.ndarray:
    """Return True between pixel i and i + 1 where a block begins or ends."""
    from stpipe.core.blocks import block_starts

    marks = np.zeros(side - 1, dtype=bool)
    for start in block_starts(side, block, overlap):
        for edge in (start, start + block):
            if 0 < edge < side:
                marks[edge - 1] = True
    return marks


def jump_ratio(filled: np.ndarray, gap: np.ndarray, marks: np.ndarray) -> float:
    """Return the mean jump across borders over that elsewhere, between neighbours that are both filled."""
    across, elsewhere = [], []
    for axis in (1, 2):
        jumps = np.abs(np.diff(filled, axis=axis))
        both = np.logical_and(*(np.take(gap, range(i, i + gap.shape[axis] - 1), axis=axis) for i in (0, 1)))
        lines = np.expand_dims(marks, tuple(a for a in range(3) if a != axis))
        across.append(jumps[both & lines])
        elsewhere.append(jumps[both & ~lines])
    return float(np.concatenate(across).mean() / np.concatenate(elsewhere).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", default=["pyramid", "linear", "pconv"])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--overlap", type=int, default=8)
    options = parser.parse_args()
    cube, box = make_scene(options.frames, options.side, options.block)
    gap = np.isnan(cube.values)
    spread = float(np.nanstd(cube.values))
    marks = borders(options.side, options.block, options.overlap)
    print(
        f"scene {options.frames}x{options.side}x{options.side}, {100 * gap.mean():.0f} % gap, blocks of {options.block}"
    )
    for method in options.method:
        began = time.perf_counter()
        small = stpipe.fill(
            cube,
            method=method,
            block=(options.frames, options.block, options.block),
            overlap=(0, options.overlap, options.overlap),
        )
        middle = time.perf_counter()
        whole = stpipe.fill(cube, method=method, block=cube.shape, memory_limit=2**44)
        ended = time.perf_counter()
        filled = small.v.values
        difference = np.abs(filled - whole.v.values).max() / spread
        cloud = filled[(options.frames // 2, *box)]
        inner = marks[box[0].start : box[0].stop - 1]
        steps = np.abs(np.diff(cloud, axis=1))
        print(
            f"{method}: border / elsewhere {jump_ratio(filled, gap, marks):.4f}; blocked - whole {difference:.2e} of "
            f"the spread; wide cloud: deviation {cloud.std() / spread:.2f} of the spread, steps at borders / elsewhere "
            f"{steps[:, inner].mean() / steps[:, ~inner].mean():.3f}, equal ones {(steps == 0).mean():.4f}; "
            f"{middle - began:.0f} s in blocks, {ended - middle:.0f} s whole"
        )


if __name__ == "__main__":
    main()
