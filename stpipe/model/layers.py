"""Partial convolution over (time, y, x), written once for every Keras backend.

A convolution that only listens to valid samples, and is rescaled by the share of its window that was valid::

    response = conv(features x mask) x (samples under the window / valid ones among them) + bias

Every channel could have a mask of its own, but channels come in groups that share one. The mask is carried as one
channel a group, and a box sum weighted by the groups' channel counts gives the very number that a convolution of the
full mask with a kernel of ones would give, at a fraction of its cost.

Source: Liu et al. (2018), Image inpainting for irregular holes using partial convolutions, ECCV; over three axes as in
Appel (2024), Artificial Intelligence for the Earth Systems 3(2).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import keras
from keras import ops

from stpipe.core.windows import Triple, triple
from stpipe.errors import ShapeError

Tensor = Any
"""A tensor of whichever backend Keras runs on."""

LEGACY_EPSILON = 1e-8
LEGACY_SLOPE = 0.1
"""Constants of the published network, which its weights were trained with."""


@keras.saving.register_keras_serializable(package="stpipe")
class PartialConv3D(keras.layers.Layer):  # type: ignore[misc]
    """Masked convolution, rescaled by the share of its window that was valid.

    Called with ``[features, mask]``; features are (batch, t, y, x, channel), the mask (batch, t, y, x, group), 1 where
    valid. Returns the response, zero where nothing was valid under the window, and its mask (batch, t, y, x, 1).
    What lies beyond the array is not valid. Output i is centred on input i x stride.

    Parameters
    ----------
    filters : int
        Channels of the response.
    kernel_size, strides : (t, y, x) int
        As in an ordinary convolution.
    groups : sequence of int
        Number of channels that share each channel of the mask; their sum is the number of channels.
    activation : str, optional
        Name of a Keras activation, or ``leaky`` for the published network's leaky ReLU of slope 0.1.
    use_bias : bool
        Whether to add a bias.
    clean : bool
        The caller promises zeros where the mask is zero; saves a copy.
    legacy : bool
        Follow the published network to the letter: the number of channels is left out of the rescaling, the bias is
        added where nothing was valid too, and an even kernel is padded alike on both sides.

    Examples
    --------
    >>> import numpy as np
    >>> layer = PartialConv3D(1, kernel_size=(1, 1, 3), groups=(1,), kernel_initializer="ones")
    >>> values = np.array([2.0, 7.0, 4.0], dtype="float32").reshape(1, 1, 1, 3, 1)
    >>> valid = np.array([1.0, 0.0, 1.0], dtype="float32").reshape(1, 1, 1, 3, 1)
    >>> response, _ = layer([values, valid])
    >>> np.asarray(response).ravel()
    array([ 6.,  9., 12.], dtype=float32)
    """

    def __init__(
        self,
        filters: int,
        *,
        kernel_size: Sequence[int],
        strides: Sequence[int] = (1, 1, 1),
        groups: Sequence[int],
        activation: str | None = None,
        use_bias: bool = True,
        clean: bool = False,
        legacy: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size: Triple = triple(kernel_size)
        self.strides: Triple = triple(strides)
        self.groups = tuple(int(count) for count in groups)
        if filters < 1 or min(self.kernel_size) < 1 or min(self.strides) < 1 or min(self.groups, default=0) < 1:
            raise ShapeError(
                "filters, kernel_size, strides and groups must be at least 1, got "
                f"filters={filters}, kernel_size={self.kernel_size}, strides={self.strides}, groups={self.groups}"
            )
        self.activation = activation
        self.use_bias = use_bias
        self.clean = clean
        self.legacy = legacy
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Sequence[Sequence[int | None]]) -> None:
        """Create the weights."""
        features, mask = input_shape
        channels = sum(self.groups)
        if features[-1] != channels or mask[-1] != len(self.groups):
            raise ShapeError(
                f"groups {self.groups} mean {channels} channels and {len(self.groups)} masks, "
                f"got {features[-1]} and {mask[-1]}"
            )
        self.kernel = self.add_weight(
            name="kernel", shape=(*self.kernel_size, channels, self.filters), initializer=self.kernel_initializer
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.built = True

    def call(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the response and its mask."""
        features, mask = inputs
        if not self.clean:
            # where, not a product: whatever lies under a gap, NaN and infinity too, must not come through.
            features = ops.where(self._by_channel(mask) > 0, features, ops.zeros_like(features))
        response = self._convolved(features, self.kernel)
        covered = self._covered(mask)
        volume = prod(self.kernel_size)
        any_valid = ops.clip(covered, 0.0, 1.0)
        if self.legacy:
            response = response * (volume / (covered + LEGACY_EPSILON) * any_valid)
            if self.use_bias:
                response = response + self.bias
            return self._activated(response), any_valid
        response = response * (volume * sum(self.groups) / ops.maximum(covered, 1.0))
        if self.use_bias:
            response = response + self.bias
        return self._activated(response) * any_valid, any_valid

    def _by_channel(self, mask: Tensor) -> Tensor:
        """Spread a mask a group to a mask a channel."""
        if len(self.groups) == 1:
            return mask  # broadcasts
        parts = ops.split(mask, len(self.groups), axis=-1)
        return ops.concatenate(
            [ops.repeat(part, count, axis=-1) for part, count in zip(parts, self.groups, strict=True)], axis=-1
        )

    def _covered(self, mask: Tensor) -> Tensor:
        """Count the valid samples under each window, over all channels."""
        counts = ops.reshape(ops.convert_to_tensor(self.groups, dtype=self.compute_dtype), (1, 1, 1, -1, 1))
        ones = ops.ones((*self.kernel_size, 1, 1), dtype=self.compute_dtype) * counts
        return self._convolved(mask, ones)

    def _convolved(self, values: Tensor, kernel: Tensor) -> Tensor:
        if all(k % 2 and s == 1 for k, s in zip(self.kernel_size, self.strides, strict=True)):
            return ops.conv(values, kernel, padding="same")  # the same numbers without a padded copy
        after = [(k - 1) // 2 if self.legacy else k // 2 for k in self.kernel_size]
        around = [((k - 1) // 2, stop) for k, stop in zip(self.kernel_size, after, strict=True)]
        if any(map(any, around)):
            values = ops.pad(values, [(0, 0), *around, (0, 0)])
        # TensorFlow 2.21 reads beyond such an axis where one sample alone comes out of it; there a step means nothing.
        axes = list(zip(values.shape[1:4], self.kernel_size, self.strides, strict=True))
        alone = [n is not None and s > 1 and n < k + s for n, k, s in axes]
        strides = tuple(1 if one else s for one, s in zip(alone, self.strides, strict=True))
        if any(alone):
            values = values[
                (slice(None), *(slice(k if one else None) for one, (_, k, _) in zip(alone, axes, strict=True)))
            ]
        return ops.conv(values, kernel, strides=strides, padding="valid")

    def _activated(self, response: Tensor) -> Tensor:
        if self.activation is None:
            return response
        if self.activation == "leaky":
            return ops.leaky_relu(response, negative_slope=LEGACY_SLOPE)
        return keras.activations.get(self.activation)(response)

    def compute_output_shape(
        self, input_shape: Sequence[Sequence[int | None]]
    ) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
        """Return the shapes of the response and of its mask."""
        batch, *lengths, _ = input_shape[0]
        out: list[int | None] = []
        for n, k, s in zip(lengths, self.kernel_size, self.strides, strict=True):
            lost = 1 if self.legacy and k % 2 == 0 else 0  # the published padding is one short for an even kernel
            out.append(None if n is None else (n - 1 - lost) // s + 1)
        return (batch, *out, self.filters), (batch, *out, 1)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": list(self.kernel_size),
            "strides": list(self.strides),
            "groups": list(self.groups),
            "activation": self.activation,
            "use_bias": self.use_bias,
            "clean": self.clean,
            "legacy": self.legacy,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
