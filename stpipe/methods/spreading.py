"""Carry what observations differ by from a guide into the gaps around them.

A guide that knows a pixel's past and future does not know what a frame does here and today; the observations around a
gap do. Their differences from the guide are averaged by a small pyramid of the frame, normalised by their number, and
fade where there are none: so no context beyond a few dozen pixels is needed, and none of the scene's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stpipe.methods.pyramid import box, pool_shares, pull, upsample

LEVELS = 3
"""Coarsest level: cells of 8 x 8 pixels; coarser ones lowered no error."""

STRIDE = 2**LEVELS
"""Side of a cell of the coarsest level: frames are a multiple of it."""

REACH = 32
"""No difference is carried as far as this, in pixels."""

SHARE = 0.02
"""Weight of a coarser level against one fully valid cell."""

FADING = 0.02
"""Share of the coarsest neighbourhood that must be valid for its average to count half."""


def spread(differences: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the differences everywhere.

    Parameters
    ----------
    differences : (time, y, x) ndarray of float32
        Observed minus guide; anything at all where not valid. y and x are multiples of `STRIDE`.
    valid : (time, y, x) ndarray of bool
        Where there is a difference.

    Returns
    -------
    (time, y, x) ndarray of float32
        Zero where no difference is in reach.

    Examples
    --------
    >>> valid = np.zeros((1, 32, 32), dtype=bool)
    >>> valid[0, :, :8] = True
    >>> carried = spread(np.full(valid.shape, 2, dtype=np.float32), valid)
    >>> carried[0, 16, [4, 10, 31]].round(1)
    array([2. , 1.8, 0. ], dtype=float32)
    """
    carried = np.empty(differences.shape, dtype=np.float32)
    for t, (frame, known) in enumerate(zip(differences, valid, strict=True)):
        clean = np.where(known, frame, np.float32(0))
        levels = [np.stack([known.astype(np.float32), clean, np.zeros_like(clean)])]
        for _ in range(LEVELS):
            levels.append(pool_shares(levels[-1]))
        around = box(levels[-1])
        weight = around[0] + np.float32(FADING)
        estimate = np.stack([np.ones_like(weight), around[1] / weight, np.zeros_like(weight)])
        for sums in reversed(levels[:-1]):
            estimate = pull(sums, upsample(estimate), SHARE)
        carried[t] = estimate[1]
    return carried
