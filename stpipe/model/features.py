"""What the network sees of a block: the guides, and how the observations differ from them.

Each sample is described by the other observations of its pixel, see `stpipe.core.timeline`; the network carries what
observations differ by from these into the gaps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stpipe.core.timeline import Neighbours

UNKNOWN_HALF_WIDTH = 10.0
"""Half-width of a guide that has no answer."""

SMALLEST_HALF_WIDTH = 1e-3
"""Guides claim no less than this share of the scene's spread: it is divided by."""

CHANNELS = (
    "observed minus pyramid",
    "observed minus own neighbours in time",
    "linear minus pyramid",
    "next minus previous",
    "steps since previous",
    "steps until next",
    "half-width of pyramid",
    "half-width of linear",
    "observed",
)
"""Features, in order; the first two are masked by `MASKS` 0 and 1, the next two by 2, the others are always valid."""

MASKS = ("observed", "observed and with neighbours in time", "with neighbours in time")
"""Masks, in order; they follow the features in the network's input."""

INPUTS = len(CHANNELS) + len(MASKS)
"""Channels of the network's input."""

F32 = NDArray[np.float32]


def network_base(pyramid: F32, around: Neighbours) -> F32:
    """Return the field that the network corrects: the pyramid, or linear where there is none; zero without either."""
    base = np.where(np.isfinite(pyramid), pyramid, around.linear)
    return np.nan_to_num(base, copy=False, nan=0.0)


def network_input(
    values: F32, valid: NDArray[np.bool_], pyramid: F32, pyramid_half_width: F32, around: Neighbours
) -> tuple[F32, F32]:
    """Return the network's input and the field that it corrects.

    Parameters
    ----------
    values, valid : (time, y, x) ndarray
        Standardised values, anything at all in gaps.
    pyramid, pyramid_half_width : (time, y, x) ndarray of float32
        The guide, NaN where it has no answer.
    around : Neighbours
        Of the same samples.

    Returns
    -------
    inputs : (time, y, x, INPUTS) ndarray of float32
        `CHANNELS`, then `MASKS` as 0 and 1; finite.
    base : (time, y, x) ndarray of float32
        What the network's answer is to be added to.
    """
    inputs = np.zeros((*values.shape, INPUTS), dtype=np.float32)
    base = network_base(pyramid, around)
    timed = np.isfinite(around.linear)
    both = valid & timed
    np.subtract(values, base, out=inputs[..., 0], where=valid)
    np.subtract(values, around.linear, out=inputs[..., 1], where=both)
    np.subtract(around.linear, base, out=inputs[..., 2], where=timed)
    change = around.late - around.early
    np.copyto(inputs[..., 3], change, where=np.isfinite(change))
    np.log1p(around.since, out=inputs[..., 4])
    np.log1p(around.until, out=inputs[..., 5])
    for channel, half_width in ((6, pyramid_half_width), (7, around.half_width)):
        known = np.isfinite(half_width)
        finite = np.where(known, half_width, np.float32(UNKNOWN_HALF_WIDTH))
        np.log(np.maximum(finite, np.float32(SMALLEST_HALF_WIDTH)), out=inputs[..., channel])
    inputs[..., 8] = valid
    for number, mask in enumerate((valid, both, timed)):
        inputs[..., len(CHANNELS) + number] = mask
    return inputs, base
