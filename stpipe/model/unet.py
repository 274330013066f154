"""The default network: a U-Net of partial convolutions that corrects the guides.

::

    input, a sample a pixel      observed - pyramid | change beyond own time line | linear - pyramid | always valid
      level 0   --------------------- skip ---------------------------> (1,3,3) -> heads
      level 1   one stem a group, (1,3,3)/2 -> (3,1,1) -> (1,3,3) --> (1,3,3)
      level 2      (1,3,3)/2 -> (3,1,1) -> (1,3,3) -------------> (1,3,3)
      level 3         (1,3,3)/2 -> (3,1,1) -> (1,3,3) --------------^

Groups keep masks of their own, so that three observations in a cloud's hole are a full average of what they say and
not three parts in a hundred of one. Besides, what the observations of a frame differ from their own time line is
spread into the gaps by a small pull-push pyramid without weights (`Spread`). The heads then say how to mix::

    answer = pyramid + mix x (linear + share x spread difference - pyramid) + correction x half-width of the guides

The correction is bounded, and fades where no observation is in reach. All heads start at zero, which is as good as
the mean of the guides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from stpipe.core.windows import Triple
from stpipe.model.features import CHANNELS, MASKS
from stpipe.model.layers import PartialConv3D, Tensor
from stpipe.model.spec import UNetSpec

GROUPS = (1, 1, 2, len(CHANNELS) - 4)
"""Channels of the input that share a mask; the last group is valid everywhere."""

LARGEST_CORRECTION = 2.0
"""Bound of the correction, in half-widths of the guides."""

SCALE_RANGE = 3.0
"""Bound of the logarithm of the answer's half-width against the guides'."""

SPREAD_SHARE = 0.02
"""Weight of a coarser level against one fully valid cell when differences are spread."""


@keras.saving.register_keras_serializable(package="stpipe")
class Spread(keras.layers.Layer):  # type: ignore[misc]
    """Carry values of valid samples to the others by normalised averages in the frame; no weights.

    Called with values and mask, both (batch, t, y, x, 1); returns the average, whether there is any (0 or 1), and the
    share of the coarsest neighbourhood that is valid.
    """

    def __init__(self, levels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.levels = levels

    def call(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Pool, then pull."""
        values, mask = inputs
        pools = [ops.concatenate([values * mask, mask], axis=-1)]
        for _ in range(self.levels):
            pools.append(ops.average_pool(pools[-1], (1, 2, 2), (1, 2, 2), padding="valid"))
        around = _box(pools[-1])
        cover = around[..., 1:]
        for level in reversed(pools[:-1]):
            known = ops.cast(around[..., 1:] > 0, around.dtype)
            mean = around[..., :1] / ops.where(known > 0, around[..., 1:], ops.ones_like(known))
            upper = _box(_doubled(ops.concatenate([mean * known, known], axis=-1)))
            around = _box(level) + SPREAD_SHARE * upper
            cover = _box(_doubled(cover))
        known = ops.cast(around[..., 1:] > 0, around.dtype)
        mean = around[..., :1] / ops.where(known > 0, around[..., 1:], ops.ones_like(known))
        return mean * known, known, cover

    def compute_output_shape(self, input_shape: Sequence[Sequence[int | None]]) -> tuple[Sequence[int | None], ...]:
        """Return the shapes of the three answers."""
        return input_shape[0], input_shape[0], input_shape[0]

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "levels": self.levels}


def _box(values: Tensor) -> Tensor:
    """Mean over 3 x 3 cells; zero beyond the array."""
    return ops.average_pool(ops.pad(values, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)]), (1, 3, 3), 1, padding="valid")


def _doubled(values: Tensor) -> Tensor:
    return ops.repeat(ops.repeat(values, 2, axis=2), 2, axis=3)


@keras.saving.register_keras_serializable(package="stpipe")
class Doubled(keras.layers.Layer):  # type: ignore[misc]
    """Nearest-neighbour upsampling by two in the frame."""

    def call(self, inputs: Tensor) -> Tensor:
        """Repeat rows and columns."""
        return _doubled(inputs)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Return the doubled shape."""
        batch, t, y, x, channels = input_shape
        return batch, t, None if y is None else 2 * y, None if x is None else 2 * x, channels


@keras.saving.register_keras_serializable(package="stpipe")
class Mixer(keras.layers.Layer):  # type: ignore[misc]
    """Turn the heads into an answer: what to add to the base, and the logarithm of a 90 % half-width."""

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """Mix the guides."""
        features, heads, spread, has_spread, cover = inputs
        difference, timed = features[..., 2:3], features[..., len(CHANNELS) + 2 : len(CHANNELS) + 3]
        mix, share = ops.sigmoid(heads[..., 0:1]), ops.sigmoid(heads[..., 1:2])
        certain = ops.exp(-2.0 * features[..., 6:7]) + ops.exp(-2.0 * features[..., 7:8])
        log_half_width = -0.5 * ops.log(certain)
        near = cover / (cover + 0.05)
        correction = LARGEST_CORRECTION * ops.tanh(heads[..., 2:3]) * ops.exp(log_half_width) * near
        answer = timed * mix * (difference + has_spread * share * spread) + correction
        scale = log_half_width + SCALE_RANGE * ops.tanh(heads[..., 3:4] / SCALE_RANGE)
        return ops.concatenate([answer, scale], axis=-1)

    def compute_output_shape(self, input_shape: Sequence[Sequence[int | None]]) -> tuple[int | None, ...]:
        """Return the shape of the answer."""
        return (*input_shape[0][:-1], 2)


@keras.saving.register_keras_serializable(package="stpipe")
class Split(keras.layers.Layer):  # type: ignore[misc]
    """Split the input into compressed features, their masks, and the differences to spread."""

    def call(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return features, masks of `GROUPS`, differences and their mask, and the mask of observations."""
        count = len(CHANNELS)
        masks = ops.concatenate([inputs[..., count:], ops.ones_like(inputs[..., :1])], axis=-1)
        # Plumes reach a hundred spreads: the convolutions see them compressed, the mixer in full.
        compressed = ops.concatenate([ops.arcsinh(inputs[..., :4]), inputs[..., 4:count]], axis=-1)
        return compressed, masks, inputs[..., 1:2], inputs[..., count + 1 : count + 2], inputs[..., count : count + 1]

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[tuple[int | None, ...], ...]:
        """Return the shapes of the parts."""
        lead = tuple(input_shape[:-1])
        return (*lead, len(CHANNELS)), (*lead, len(MASKS) + 1), (*lead, 1), (*lead, 1), (*lead, 1)


def build_unet(spec: UNetSpec) -> keras.Model:
    """Return the network of a spec, with fresh weights.

    It takes (batch, t, y, x, `INPUTS`), y and x multiples of the spec's stride, and gives (batch, t, y, x, 2): what to
    add to the base, and the logarithm of a 90 % half-width before calibration.
    """
    source = keras.Input((None, None, None, spec.inputs), name="guides")
    features, masks, difference, has_difference, observed = Split(name="split")(source)
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
    heads = keras.layers.Conv3D(4, 1, kernel_initializer="zeros", name="heads")(value)
    spread, has_spread, _ = Spread(len(spec.filters), name="spread")([difference, has_difference])
    _, _, cover = Spread(len(spec.filters), name="cover")([observed, observed])
    answer = Mixer(name="mixer")([source, heads, spread, has_spread, cover])
    return keras.Model(source, answer, name="stpipe_unet")


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
    share = max(4, filters // 2)
    values, masks, start = [], [], 0
    for number, count in enumerate(groups):
        part = value[..., start : start + count]
        out, known = _conv(share, (1, 3, 3), (count,), f"stem{number}", step=2)([part, mask[..., number : number + 1]])
        values.append(out)
        masks.append(known)
        start += count
    return keras.layers.Concatenate()(values), keras.layers.Concatenate()(masks), (share,) * len(groups)
