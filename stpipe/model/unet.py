"""The default network: a U-Net of partial convolutions that corrects the mean of the guides.

::

    input, a sample a pixel      observed - guides | observed - linear | before | after | known everywhere
      level 0   --------------------- skip ---------------------------> (1,3,3) -> heads
      level 1   one stem a group, (1,3,3)/2 -> (3,1,1) -> (1,3,3) --> (1,3,3)
      level 2      (1,3,3)/2 -> (3,1,1) -> (1,3,3) --------------^

Groups keep masks of their own, so that three observations in a cloud's hole are a full average of what they say and
not three parts in a hundred of one. The heads then say how the guides are to be weighed here, and what to add::

    answer = base + sum of guides x (weights here - weights in the base) + correction x scale

The correction is bounded. All heads start at zero, which is the base itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from stpipe.core.windows import Triple
from stpipe.model.features import FEATURES, FIRST_GUIDE, GROUPS, GUIDE_COUNT, MASKS
from stpipe.model.layers import PartialConv3D, Tensor
from stpipe.model.spec import UNetSpec

LARGEST_CORRECTION = 2.0
"""Bound of the correction, in units of the scale."""

SCALE_RANGE = 3.0
"""Bound of the logarithm of the answer's half-width against the scale."""

LEAST_WEIGHT = 0.02
"""Weight that a guide counts with at least before the network weighs it anew."""

LOUDEST = FIRST_GUIDE + GUIDE_COUNT
"""Features before this are compressed for the convolutions: plumes reach a hundred spreads."""


@keras.saving.register_keras_serializable(package="stpipe")
class Doubled(keras.layers.Layer):  # type: ignore[misc]
    """Nearest-neighbour upsampling by two in the frame."""

    def call(self, inputs: Tensor) -> Tensor:
        """Repeat rows and columns."""
        return ops.repeat(ops.repeat(inputs, 2, axis=2), 2, axis=3)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Return the doubled shape."""
        batch, t, y, x, channels = input_shape
        return batch, t, None if y is None else 2 * y, None if x is None else 2 * x, channels


@keras.saving.register_keras_serializable(package="stpipe")
class Mixer(keras.layers.Layer):  # type: ignore[misc]
    """Turn the heads into an answer: what to add to the base, and the logarithm of a 90 % half-width, both scaled."""

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """Weigh the guides anew, and correct."""
        features, heads = inputs
        guides = features[..., FIRST_GUIDE : FIRST_GUIDE + GUIDE_COUNT]
        before = features[..., FIRST_GUIDE + GUIDE_COUNT : FIRST_GUIDE + 2 * GUIDE_COUNT] + LEAST_WEIGHT
        after = before * ops.exp(SCALE_RANGE * ops.tanh(heads[..., :GUIDE_COUNT] / SCALE_RANGE))
        # Both are divided alike and alone: where the heads say nothing, their difference is zero to the last bit.
        before = before / ops.sum(before, axis=-1, keepdims=True)
        after = after / ops.sum(after, axis=-1, keepdims=True)
        answer = ops.sum(guides * (after - before), axis=-1, keepdims=True)
        answer = answer + LARGEST_CORRECTION * ops.tanh(heads[..., GUIDE_COUNT : GUIDE_COUNT + 1])
        width = SCALE_RANGE * ops.tanh(heads[..., GUIDE_COUNT + 1 :] / SCALE_RANGE)
        return ops.concatenate([answer, width], axis=-1)

    def compute_output_shape(self, input_shape: Sequence[Sequence[int | None]]) -> tuple[int | None, ...]:
        """Return the shape of the answer."""
        return (*input_shape[0][:-1], 2)


@keras.saving.register_keras_serializable(package="stpipe")
class Split(keras.layers.Layer):  # type: ignore[misc]
    """Split the input into compressed features and the masks of `GROUPS`."""

    def call(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and masks."""
        masks = ops.concatenate([inputs[..., FEATURES:], ops.ones_like(inputs[..., :1])], axis=-1)
        return ops.concatenate([ops.arcsinh(inputs[..., :LOUDEST]), inputs[..., LOUDEST:FEATURES]], axis=-1), masks

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[tuple[int | None, ...], ...]:
        """Return the shapes of the parts."""
        lead = tuple(input_shape[:-1])
        return (*lead, FEATURES), (*lead, len(MASKS) + 1)


def build_unet(spec: UNetSpec) -> keras.Model:
    """Return the network of a spec, with fresh weights.

    It takes (batch, t, y, x, `INPUTS`), y and x multiples of the spec's stride, and gives (batch, t, y, x, 2): what to
    add to the base, and the logarithm of a 90 % half-width before calibration, both in units of the scale.
    """
    source = keras.Input((None, None, None, spec.inputs), name="guides")
    features, masks = Split(name="split")(source)
    levels: list[tuple[Tensor, Tensor, tuple[int, ...]]] = [(features, masks, GROUPS)]
    for depth, filters in enumerate(spec.filters, start=1):
        value, mask, groups = _down(levels[-1], filters, depth)
        value, mask = _conv(filters, (3, 1, 1), groups, f"time{depth}")([value, mask])
        value, mask = _conv(filters, (1, 3, 3), (filters,), f"space{depth}")([value, mask])
        levels.append((value, mask, (filters,)))
    value, mask, groups = levels[-1]
    for depth in range(len(spec.filters) - 1, -1, -1):
        skip, skip_mask, skip_groups = levels[depth]
        value = keras.layers.Concatenate()([skip, Doubled()(value)])
        mask = keras.layers.Concatenate()([skip_mask, Doubled()(mask)])
        filters = spec.filters[depth - 1] if depth else spec.head_filters
        value, mask = _conv(filters, (1, 3, 3), (*skip_groups, *groups), f"up{depth}")([value, mask])
        groups = (filters,)
    heads = keras.layers.Conv3D(GUIDE_COUNT + 2, 1, kernel_initializer="zeros", name="heads")(value)
    return keras.Model(source, Mixer(name="mixer")([source, heads]), name="stpipe_unet")


def _conv(filters: int, kernel: Triple, groups: tuple[int, ...], name: str, step: int = 1) -> PartialConv3D:
    return PartialConv3D(
        filters,
        kernel_size=kernel,
        strides=(1, step, step),
        groups=groups,
        activation="leaky",
        clean=True,
        kernel_initializer="he_uniform",
        name=name,
    )


def _down(
    level: tuple[Tensor, Tensor, tuple[int, ...]], filters: int, depth: int
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Halve y and x; at the first level with a convolution for each group, so that each is averaged by itself."""
    value, mask, groups = level
    if len(groups) == 1:
        value, mask = _conv(filters, (1, 3, 3), groups, f"down{depth}", step=2)([value, mask])
        return value, mask, (filters,)
    values, masks, shares, start = [], [], [], 0
    for number, count in enumerate(groups):
        share = filters if number == len(groups) - 1 else max(4, filters // 3)
        part = value[..., start : start + count]
        out, known = _conv(share, (1, 3, 3), (count,), f"stem{number}", step=2)([part, mask[..., number : number + 1]])
        values.append(out)
        masks.append(known)
        shares.append(share)
        start += count
    return keras.layers.Concatenate()(values), keras.layers.Concatenate()(masks), tuple(shares)
