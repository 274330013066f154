"""Artificial gaps: observed samples hidden to learn from or to score on.

They are the scene's own gaps moved to other dates and places, and others besides: blobs, speckle, stripes, whole frames
and runs of frames.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.errors import ShapeError

GAP_KINDS = ("own", "own", "own", "blobs", "speckle", "stripes", "frames", "run")
"""What an artificial gap can look like; the scene's own shapes come up most."""


def artificial_gaps(
    valid: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    kind: str = "own",
    shapes: NDArray[np.bool_] | None = None,
    frames_share: float = 0.4,
) -> NDArray[np.bool_]:
    """Return True on observed samples to hide.

    Parameters
    ----------
    valid : (time, y, x) ndarray of bool
        What is observed.
    rng : numpy Generator
        Seeded by the caller.
    kind : str
        One of `GAP_KINDS`.
    shapes : (n, y, x) ndarray of bool, optional
        Gap shapes to borrow, True = gap, at least as large as a frame; by default the gaps of `valid`.
    frames_share : float
        Share of the frames that get a gap.

    Examples
    --------
    >>> valid = np.ones((4, 8, 8), dtype=bool)
    >>> hidden = artificial_gaps(valid, np.random.default_rng(0), kind="frames", frames_share=0.25)
    >>> hidden.any(axis=(1, 2)).sum(), bool(hidden.all(axis=(1, 2)).any())
    (np.int64(1), True)
    """
    count, height, width = valid.shape
    hidden = np.zeros_like(valid)
    chosen = rng.permutation(count)[: max(1, round(frames_share * count))]
    if kind == "run":
        length = int(rng.integers(2, max(3, min(7, count // 2 + 1))))
        start = int(rng.integers(0, max(1, count - length + 1)))
        where = _blob(rng, (height, width)) if rng.random() < 0.7 else np.ones((height, width), dtype=bool)
        hidden[start : start + length] = where
        return hidden & valid
    pool = _useful_shapes(~valid if shapes is None else shapes) if kind == "own" else None
    for t in chosen:
        if kind == "own" and pool is not None and len(pool):
            hidden[t] = _moved(pool[rng.integers(len(pool))], rng, (height, width))
        elif kind in ("own", "blobs"):
            hidden[t] = _blob(rng, (height, width))
        elif kind == "speckle":
            hidden[t] = rng.random((height, width)) < rng.uniform(0.05, 0.8)
        elif kind == "stripes":
            hidden[t] = _stripes(rng, (height, width))
        elif kind == "frames":
            hidden[t] = True
        else:
            raise ShapeError(f"no artificial gap of kind {kind!r}; there are {', '.join(sorted(set(GAP_KINDS)))}")
    return hidden & valid


def _useful_shapes(gaps: NDArray[np.bool_]) -> NDArray[np.bool_]:
    share = gaps.mean(axis=(1, 2))
    useful: NDArray[np.bool_] = gaps[(share > 0.02) & (share < 0.97)]
    return useful


def _moved(shape: NDArray[np.bool_], rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Cut a shape to size at a random place, flipped at random; wrapped round where it is too small."""
    if rng.random() < 0.5:
        shape = shape[::-1]
    if rng.random() < 0.5:
        shape = shape[:, ::-1]
    tiled = np.tile(shape, [ceil(n / have) for n, have in zip(size, shape.shape, strict=True)])
    y, x = (int(rng.integers(0, have - n + 1)) for n, have in zip(size, tiled.shape, strict=True))
    return tiled[y : y + size[0], x : x + size[1]]


def _blob(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Cloud-like shape: smooth noise above a level."""
    noise = ndimage.gaussian_filter(rng.standard_normal(size), rng.uniform(2, max(3, min(size) / 6)), mode="wrap")
    noise += 0.3 * noise.std() * ndimage.gaussian_filter(rng.standard_normal(size), 1.0)
    result: NDArray[np.bool_] = noise > np.quantile(noise, rng.uniform(0.3, 0.9))
    return result


def _stripes(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Wedges between scan lines, or between swaths."""
    y, x = np.indices(size)
    period = rng.uniform(8, 48)
    along = y + rng.uniform(-0.4, 0.4) * x
    if rng.random() < 0.5:
        along = x + rng.uniform(-0.4, 0.4) * y
    result: NDArray[np.bool_] = (along + rng.uniform(0, period)) % period < period * rng.uniform(0.15, 0.5)
    return result
