"""What the network sees of a block: what the guides say, and how observations differ from it.

Everything is relative to the base, the mean of the guides that suits the cube (`stpipe.methods.mixing`), and in units
of how sure the guides are there: a quiet scene and a noisy one look alike to the network, whatever their units. What is
only known of observations comes with masks of its own; what the guides say is known everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

GUIDES = ("pyramid", "anomaly", "idw", "linear", "linear here", "eof", "eof here")
"""Names of the guides that the network knows, in order; `stpipe.methods.guides` makes them."""

GUIDE_COUNT = len(GUIDES)

MASKS = ("observed", "observed and with neighbours in time", "with an observation before", "with one after")
"""Masks, in order; they are the last channels of the network's input."""

PARTIAL = (("observed minus eof", "observed minus pyramid"), ("observed minus linear",), ("before",), ("after",))
"""Features that are only known where the mask of the same place says so."""

CIRCUMSTANCES = (
    "scale",
    "half-width of pyramid",
    "half-width of linear",
    "half-width of eof",
    "steps since observation",
    "steps until observation",
    "distance in the frame",
    "observed",
    "pixel's share",
    "pixel's spread",
    "frame's share",
    "frame's anomaly",
)
"""Features that are known everywhere, after the guides' answers and their weights in the base."""

GROUPS = (*map(len, PARTIAL), 2 * GUIDE_COUNT + len(CIRCUMSTANCES))
"""Numbers of features that share a mask; the last are known everywhere."""

FEATURES = sum(GROUPS)

INPUTS = FEATURES + len(MASKS)
"""Channels of the network's input."""

FIRST_GUIDE = sum(GROUPS[:-1])
"""Channel of the first guide's answer; the others follow, and then their weights."""

SIGNED = (*range(FIRST_GUIDE + GUIDE_COUNT), FEATURES - 1)
"""Channels that change their sign with the values: differences, and the frame's anomaly."""

SMALLEST_SCALE = 0.02
"""Guides claim no less than this share of the scene's spread: it is divided by."""

FARTHEST = 100.0
"""Steps and pixels are told up to this."""


def half(values: F32) -> NDArray[Any]:
    """Return values in half precision; those too large for it are cut.

    >>> half(np.array([0.5, -1e9], dtype=np.float32))
    array([ 5.00e-01, -6.55e+04], dtype=float16)
    """
    most = np.float32(np.finfo(np.float16).max)
    return np.clip(values, -most, most).astype(np.float16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenery:
    """All that is known of a window of samples, standardised; anything at all where it is not known."""

    values: F32
    """(t, y, x), observations."""

    valid: NDArray[np.bool_]
    """(t, y, x), where there are any."""

    guides: Sequence[F32]
    """(t, y, x) of each guide."""

    half_widths: Sequence[F32]
    """(t, y, x) of pyramid, linear and eof."""

    differences: Sequence[F32]
    """(t, y, x), observed minus what the other observations say of it, by linear and eof."""

    before: F32
    """(t, y, x), the pixel's observation before; NaN where there is none."""

    after: F32
    """(t, y, x), and after; NaN where there is none."""

    since: F32
    """(t, y, x), steps since the former; a large number without."""

    until: F32
    """(t, y, x), steps until the latter; a large number without."""

    distance: F32
    """(t, y, x), pixels to the nearest observation of the frame."""

    pixel_share: F32
    """(y, x), share of the frames in which the pixel was observed."""

    pixel_spread: F32
    """(y, x), standard deviation of its observations."""

    frame_share: F32
    """(t,), share of the scene that the frame observed."""

    frame_anomaly: F32
    """(t,), mean of the frame's observations."""

    def halved(self) -> Scenery:
        """Return it in half precision, to be kept; values too large for that are cut."""
        return Scenery(
            values=half(np.where(self.valid, self.values, np.float32(0))),
            valid=self.valid,
            guides=[half(guide) for guide in self.guides],
            half_widths=[half(half_width) for half_width in self.half_widths],
            differences=[half(difference) for difference in self.differences],
            before=half(self.before),
            after=half(self.after),
            since=half(self.since),
            until=half(self.until),
            distance=half(self.distance),
            pixel_share=self.pixel_share,
            pixel_spread=self.pixel_spread,
            frame_share=self.frame_share,
            frame_anomaly=self.frame_anomaly,
        )

    def part(self, part: tuple[slice, slice, slice]) -> Scenery:
        """Cut a window out, in single precision."""
        t, *plane = part
        frame = tuple(plane)

        def cut(whole: F32) -> F32:
            return whole[part].astype(np.float32, copy=False)

        return Scenery(
            values=cut(self.values),
            valid=self.valid[part],
            guides=[cut(guide) for guide in self.guides],
            half_widths=[cut(half_width) for half_width in self.half_widths],
            differences=[cut(difference) for difference in self.differences],
            before=cut(self.before),
            after=cut(self.after),
            since=cut(self.since),
            until=cut(self.until),
            distance=cut(self.distance),
            pixel_share=self.pixel_share[frame],
            pixel_spread=self.pixel_spread[frame],
            frame_share=self.frame_share[t],
            frame_anomaly=self.frame_anomaly[t],
        )


def scale_of(half_widths: Sequence[F32]) -> F32:
    """Return how sure all guides together are, (t, y, x): their half-widths as if they erred independently."""
    certain = np.zeros_like(half_widths[0])
    for half_width in half_widths:
        certain += np.maximum(half_width, np.float32(SMALLEST_SCALE)) ** np.float32(-2)
    return np.asarray(1 / np.sqrt(certain))


def network_input(seen: Scenery, weights: F32) -> tuple[F32, F32, F32]:
    """Return the network's input, the base that it adds to, and the scale of its answer.

    Parameters
    ----------
    seen : Scenery
        What is known; values under gaps have no say.
    weights : (t, y, x, guide) ndarray of float32
        Of the guides in the base, one in sum.

    Returns
    -------
    inputs : (t, y, x, INPUTS) ndarray of float32
        `PARTIAL`, the guides, their weights, `CIRCUMSTANCES`, then `MASKS` as 0 and 1; finite.
    base, scale : (t, y, x) ndarray of float32
        The network's answer is to be multiplied with the scale and added to the base.
    """
    shape = seen.values.shape
    inputs = np.zeros((*shape, INPUTS), dtype=np.float32)
    scale = scale_of(seen.half_widths)
    base = np.zeros(shape, dtype=np.float32)
    for number, guide in enumerate(seen.guides):
        base += weights[..., number] * guide
    has_before, has_after = np.isfinite(seen.before), np.isfinite(seen.after)
    masks = (seen.valid, seen.valid & (has_before | has_after), has_before, has_after)
    linear, eof = seen.differences
    partial = (
        (eof, 0),
        (seen.values - seen.guides[0], 0),
        (linear, 1),
        (seen.before - base, 2),
        (seen.after - base, 3),
    )
    for number, (part, mask) in enumerate(partial):
        np.divide(part, scale, out=inputs[..., number], where=masks[mask])
    for number, guide in enumerate(seen.guides):
        np.divide(guide - base, scale, out=inputs[..., FIRST_GUIDE + number])
    inputs[..., FIRST_GUIDE + GUIDE_COUNT : FIRST_GUIDE + 2 * GUIDE_COUNT] = weights
    channel = FIRST_GUIDE + 2 * GUIDE_COUNT
    near = np.float32(FARTHEST)
    circumstances = (
        np.log(scale),
        *(np.log(np.maximum(half, np.float32(SMALLEST_SCALE)) / scale) for half in seen.half_widths),
        np.log1p(np.minimum(seen.since, near)),
        np.log1p(np.minimum(seen.until, near)),
        np.log1p(np.minimum(seen.distance, near)),
        seen.valid,
        seen.pixel_share,
        np.log(np.maximum(seen.pixel_spread, np.float32(SMALLEST_SCALE))),
        seen.frame_share[:, None, None],
        np.arcsinh(seen.frame_anomaly)[:, None, None],
    )
    for number, part in enumerate(circumstances):
        inputs[..., channel + number] = part
    inputs[..., FEATURES:] = np.stack(masks, axis=-1)
    return inputs, base, scale
