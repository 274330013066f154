"""Made-up sceneries, examples and network inputs, as small as they can be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.model.features import FEATURES, FIRST_GUIDE, GROUPS, GUIDE_COUNT, INPUTS, MASKS, Scenery
from stpipe.model.patches import Example

F32 = NDArray[np.float32]
Shape = tuple[int, int, int]

EVEN = np.full(GUIDE_COUNT, 1 / GUIDE_COUNT, dtype=np.float32)


def random_scenery(rng: np.random.Generator, shape: Shape, share_valid: float = 0.5) -> Scenery:
    """Everything at random; what is not known of observations is NaN or far away, as it is in life."""

    def field(scale: float = 1.0) -> F32:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    frames, height, width = shape
    valid = rng.random(shape) < share_valid
    before, after = (np.where(rng.random(shape) < 0.7, field(), np.float32(np.nan)) for _ in range(2))
    return Scenery(
        values=np.where(valid, field(), np.float32(0)),
        valid=valid,
        guides=[field() for _ in range(GUIDE_COUNT)],
        half_widths=[np.abs(field(0.5)) for _ in range(3)],
        differences=[np.where(valid, field(0.3), np.float32(0)) for _ in range(2)],
        before=before,
        after=after,
        since=np.where(np.isnan(before), np.float32(400), np.abs(field(9))),
        until=np.where(np.isnan(after), np.float32(400), np.abs(field(9))),
        distance=np.where(valid, np.float32(0), rng.choice([1, 3, 24, 1000], shape).astype(np.float32)),
        pixel_share=valid.mean(axis=0, dtype=np.float32),
        pixel_spread=rng.uniform(0, 2, (height, width)).astype(np.float32),
        frame_share=valid.mean(axis=(1, 2), dtype=np.float32),
        frame_anomaly=rng.standard_normal(frames).astype(np.float32),
    )


def random_weights(rng: np.random.Generator, shape: Shape) -> F32:
    """Weights of the guides, some of them zero, one in sum."""
    weights = rng.random((*shape, GUIDE_COUNT)) * (rng.random((*shape, GUIDE_COUNT)) < 0.7)
    weights[..., 0] += 0.1
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def random_input(rng: np.random.Generator, shape: Shape, observed: float = 0.5) -> NDArray[Any]:
    """What the network could be given, a batch of one: zero where a mask is."""
    made = rng.standard_normal((1, *shape, INPUTS)).astype(np.float32)
    made[..., FEATURES:] = rng.random((1, *shape, len(MASKS))) < observed
    made[..., FIRST_GUIDE + GUIDE_COUNT : FIRST_GUIDE + 2 * GUIDE_COUNT] = random_weights(rng, shape)
    return silenced(made)


def silenced(inputs: NDArray[Any]) -> NDArray[Any]:
    """Set what the masks say is not known to zero."""
    channels = np.repeat(np.arange(len(MASKS)), GROUPS[:-1])
    inputs[..., :FIRST_GUIDE] *= inputs[..., FEATURES + channels]
    return inputs


def biased_example(seed: int, shape: Shape = (8, 24, 24), *, family: str = "made up", name: str = "") -> Example:
    """A scene whose guides all err by what one of the circumstances tells: there is something to learn."""
    rng = np.random.default_rng(seed)
    seen = random_scenery(rng, shape)
    truth = ndimage.gaussian_filter(rng.standard_normal(shape), (1, 2, 2)).astype(np.float32) * 5
    observed = rng.random(shape) < 0.8
    hidden = observed & (rng.random(shape) < 0.4)
    valid = observed & ~hidden
    error = 0.5 * np.sign(seen.frame_anomaly)[:, None, None]
    guides = [truth + error + 0.1 * rng.standard_normal(shape).astype(np.float32) for _ in range(GUIDE_COUNT)]
    made = Scenery(
        values=np.where(valid, truth, np.float32(0)),
        valid=valid,
        guides=guides,
        half_widths=[np.full(shape, 0.5 * 3**0.5, np.float32) for _ in range(3)],
        differences=[np.where(valid, truth - guide, np.float32(0)) for guide in guides[:2]],
        before=seen.before,
        after=seen.after,
        since=seen.since,
        until=seen.until,
        distance=np.where(valid, np.float32(0), np.float32(2)),
        pixel_share=valid.mean(axis=0, dtype=np.float32),
        pixel_spread=seen.pixel_spread,
        frame_share=valid.mean(axis=(1, 2), dtype=np.float32),
        frame_anomaly=seen.frame_anomaly,
    )
    return Example(
        name=name or f"scene {seed}",
        family=family,
        seen=made,
        truth=np.where(observed, truth, np.float32(0)),
        hidden=hidden,
        bases=(evenly,),
        error=0.5,
    )


def evenly(distance: F32) -> F32:
    """All guides alike, at any distance."""
    return np.broadcast_to(EVEN, (*distance.shape, GUIDE_COUNT)).astype(np.float32)
