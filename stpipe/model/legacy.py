"""The published network (STpconv, Appel 2024), rebuilt from its description, with its own weights.

Its files are ``NAME.json``, the description, and ``NAME.h5``, the weights as Keras 2 wrote them. Its axes are
(y, x, time), the order in which its GeoTIFF blocks are read with the bands last; here kernels and strides are turned
once, on reading, and everything stays (time, y, x). The network sees physical values, is fully convolutional, and
takes any window whose lengths divide by its strides::

    observed - PConv/s1 - PConv/s2 - ... - deepest
        |         |                           | nearest upsampling by the level's stride, of values and of mask
        |         +------ concatenate <-------+
        +-- concatenate <- PConv 3x3x3
                 +- PConv 3x3x3, 1 filter - Conv 1x1x1
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.windows import AXES, Triple, triple
from stpipe.errors import MissingFileError, ModelFileError, ShapeError
from stpipe.model.hdf5 import check_arrays

MOST_DEFAULT_FILTERS = 256

MOST, MOST_LAYERS = 4096, 16
"""Of a length or a number of filters, and of levels or of convolutions in one: far beyond what was published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacySpec:
    """The published network's description, axes turned to (time, y, x)."""

    shape: Triple
    """Shape of the blocks that it was trained on."""

    kernels: tuple[Triple, ...]
    """Kernel of each level, from full resolution down."""

    filters: tuple[int, ...]
    """Channels of each level."""

    strides: tuple[Triple, ...]
    """Stride of each level."""

    convs_per_level: int = 1
    """Convolutions of each level; all but the last are not strided."""

    def __post_init__(self) -> None:
        if not len(self.kernels) == len(self.filters) == len(self.strides) >= 1:
            raise ModelFileError(
                f"the description lists {len(self.kernels)} kernels, {len(self.filters)} filters and "
                f"{len(self.strides)} strides; there must be one of each a level, and one level at least"
            )
        lengths = (*self.shape, *self.filters, self.convs_per_level, *sum((*self.kernels, *self.strides), ()))
        if min(lengths) < 1:
            raise ModelFileError("the description has a length, filter count, kernel or stride below 1")
        if max(lengths) > MOST or self.convs_per_level > MOST_LAYERS:
            raise ModelFileError(
                f"the description has a length, filter count, kernel or stride of {max(lengths)}, and "
                f"{self.convs_per_level} convolutions a level; the most are {MOST} and {MOST_LAYERS}"
            )

    @property
    def stride(self) -> Triple:
        """Lengths of windows are multiples of this.

        Examples
        --------
        >>> LegacySpec.from_json({"nx": 128, "ny": 64, "nt": 6, "n_conv_layers": 2}).stride
        (2, 4, 4)
        """
        return triple(prod(step[axis] for step in self.strides) for axis in range(len(AXES)))

    @property
    def halo(self) -> Triple:
        """How far an answer can depend on the input, along each axis."""
        return triple(self._reach(axis) for axis in range(len(AXES)))

    def _reach(self, axis: int) -> int:
        before, after, step = 0, 0, 1
        skips = [(before, after)]
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            grown = self.convs_per_level * ((kernel[axis] - 1) // 2) * step
            before, after, step = before + grown, after + grown, step * stride[axis]
            skips.append((before, after))
        for (left, right), stride in zip(reversed(skips[:-1]), reversed(self.strides), strict=True):
            fine = step // stride[axis]
            before, step = before + step - fine, fine
            grown = self.convs_per_level * step
            before, after = max(before, left) + grown, max(after, right) + grown
        return max(before, after)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> LegacySpec:
        """Turn a description; what it leaves out gets the original's defaults."""
        try:
            shape = triple((fields["nt"], fields["ny"], fields["nx"]))
            lists = [fields[key] for key in ("kernel_sizes", "n_filters", "strides") if key in fields]
            levels = int(fields["n_conv_layers"] if "n_conv_layers" in fields else len(lists[0]))
            if levels > MOST_LAYERS:
                raise ModelFileError(f"the description has {levels} levels; the most is {MOST_LAYERS}")
            kernels = [_turned(k) for k in fields.get("kernel_sizes") or [(3, 3, 3)] * levels]
            filters = fields.get("n_filters") or [min(32 * 2**i, MOST_DEFAULT_FILTERS) for i in range(levels)]
            strides = [_turned(s) for s in fields["strides"]] if fields.get("strides") else _halvings(shape, levels)
            convs = int(fields.get("n_conv_per_block") or 1)
            counts = tuple(int(n) for n in filters)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(
                f"a description of the published network needs nx, ny, nt and n_conv_layers: {error!r}"
            ) from error
        if len(kernels) != levels:
            raise ModelFileError(f"the description says {levels} levels but lists {len(kernels)} kernels")
        return cls(shape=shape, kernels=tuple(kernels), filters=counts, strides=tuple(strides), convs_per_level=convs)


def _turned(axes: Sequence[int]) -> Triple:
    """(y, x, time) to (time, y, x)."""
    y, x, t = axes
    return triple((t, y, x))


def _halvings(shape: Triple, levels: int) -> list[Triple]:
    """Stride of 2 along each axis for as long as its length allows."""
    lengths, strides = list(shape), []
    for _ in range(levels):
        step = [2 if n % 2 == 0 else 1 for n in lengths]
        lengths = [n // s for n, s in zip(lengths, step, strict=True)]
        strides.append(triple(step))
    return strides


def build_legacy(spec: LegacySpec) -> Any:
    """Return the network, taking ``[values, mask]``, each (batch, t, y, x, 1), and giving (batch, t, y, x, 1)."""
    import keras

    from stpipe.model.layers import PartialConv3D

    def conv(
        pair: tuple[Any, Any], groups: tuple[int, ...], filters: int, kernel: Triple, **options: Any
    ) -> tuple[Any, Any]:
        options.setdefault("activation", "leaky")
        layer = PartialConv3D(filters, kernel_size=kernel, groups=groups, legacy=True, **options)
        value, mask = layer(list(pair))
        return value, mask

    values = keras.Input((None, None, None, 1), name="inputs_img")
    valid = keras.Input((None, None, None, 1), name="inputs_mask")
    skips: list[tuple[tuple[Any, Any], tuple[int, ...]]] = [((values, valid), (1,))]
    for kernel, filters, stride in zip(spec.kernels, spec.filters, spec.strides, strict=True):
        pair, groups = skips[-1]
        for _ in range(spec.convs_per_level - 1):
            pair, groups = conv(pair, groups, filters, kernel), (filters,)
        skips.append((conv(pair, groups, filters, kernel, strides=stride), (filters,)))
    pair, groups = skips[-1]
    for level in range(len(spec.filters) - 1, -1, -1):
        up = keras.layers.UpSampling3D(spec.strides[level])
        (skip, skip_mask), skip_groups = skips[level]
        joined = (
            keras.layers.Concatenate()([skip, up(pair[0])]),
            keras.layers.Concatenate()([skip_mask, keras.layers.UpSampling3D(spec.strides[level])(pair[1])]),
        )
        filters = spec.filters[level - 1] if level else 1
        first = None if spec.convs_per_level > 1 else "leaky"
        pair, groups = conv(joined, (*skip_groups, *groups), filters, (3, 3, 3), activation=first), (filters,)
        for _ in range(spec.convs_per_level - 1):
            pair = conv(pair, groups, filters, (3, 3, 3))
    return keras.Model([values, valid], keras.layers.Conv3D(1, 1)(pair[0]), name="stpconv")


def read_legacy_spec(weights: Path) -> LegacySpec:
    """Read the description beside the published network's weights."""
    beside = description_of(weights)
    if not beside.is_file():
        raise MissingFileError(
            f"{weights} needs its description {beside.name} beside it, as the published training wrote it"
        )
    try:
        fields = json.loads(beside.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{beside} is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ModelFileError(f"{beside} describes no network: need an object with nx, ny, nt and n_conv_layers")
    try:
        return LegacySpec.from_json(fields)
    except (ModelFileError, ShapeError) as error:
        raise ModelFileError(f"{beside}: {error}") from error


def load_legacy(weights: Path) -> tuple[Any, LegacySpec]:
    """Rebuild the published network from ``NAME.h5`` and the ``NAME.json`` beside it."""
    spec, beside = read_legacy_spec(weights), description_of(weights)
    partial, last = _read_h5(weights)
    bands = partial[0][0].shape[-2]
    if bands != 1:
        raise ModelFileError(f"{weights} was trained on {bands} bands a sample; blocks have 1")
    network = build_legacy(spec)
    layers = [layer for layer in network.layers if layer.weights]
    pairs = [*partial, last]
    if len(layers) != len(pairs):
        raise ModelFileError(
            f"{weights} holds {len(pairs)} convolutions, but {beside.name} describes {len(layers)}; "
            "they belong to different models"
        )
    # Keras lists layers in the order of their making: encoder, decoder, last convolution, as the file's numbers do.
    for layer, (kernel, bias) in zip(layers, pairs, strict=True):
        turned = kernel.transpose(2, 0, 1, 3, 4)
        if turned.shape != layer.kernel.shape or bias.shape != layer.bias.shape:
            raise ModelFileError(
                f"{weights} has a kernel of shape {turned.shape} (t, y, x, in, out) where {beside.name} describes "
                f"{tuple(layer.kernel.shape)}; they belong to different models"
            )
        layer.set_weights([turned, bias])
    return network, spec


def description_of(weights: Path) -> Path:
    """Return the path of a weights file's description.

    >>> description_of(Path("a/S5P.weights.h5")).name, description_of(Path("S5P.h5")).name
    ('S5P.json', 'S5P.json')
    """
    return weights.with_name(weights.name.removesuffix(".h5").removesuffix(".weights") + ".json")


Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Kernel, (y, x, t, in, out) as in the file, and bias of a convolution."""


def _read_h5(path: Path) -> tuple[list[Pair], Pair]:
    """Return the partial convolutions in the order of their making, and the last convolution."""
    import h5py

    found: dict[str, dict[str, NDArray[np.float32]]] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            layer, _, weight = name.partition("/")
            weight = weight.rpartition("/")[-1]
            found.setdefault(layer, {})[weight.removesuffix(":0")] = np.asarray(item[()], dtype=np.float32)

    try:
        with h5py.File(path, "r") as file:
            check_arrays(file, path)
            file.visititems(visit)
    except ModelFileError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ModelFileError(f"{path} is damaged, or no HDF5 file: {error}") from error
    partial = {name: w for name, w in found.items() if "STpconv_kernel" in w}
    plain = [w for name, w in found.items() if name.startswith("conv3d") and "kernel" in w]
    if not partial or len(plain) != 1 or any("bias" not in w for w in (*partial.values(), *plain)):
        raise ModelFileError(
            f"{path} holds no published network: need layers with STpconv_kernel and bias, and one conv3d, "
            f"found {', '.join(sorted(found)[:6]) or 'no weights'}"
        )
    if any(kernel.ndim != 5 for w in (*partial.values(), *plain) for name, kernel in w.items() if "kernel" in name):
        raise ModelFileError(f"{path} holds kernels that are not over y, x, time, inputs and outputs")
    ordered = sorted(partial, key=_number)
    return [(partial[n]["STpconv_kernel"], partial[n]["bias"]) for n in ordered], (plain[0]["kernel"], plain[0]["bias"])


def _number(layer: str) -> int:
    """Return the number that Keras gave a layer: none for the first, ``_1`` for the second."""
    tail = layer.rsplit("_", 1)[-1]
    return int(tail) if tail.isdigit() else 0


def run_legacy(network: Any, values: NDArray[np.floating], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the network's answer for one window in physical units, at observed samples too.

    Values below zero are zero to the network, as they were in its training.

    Parameters
    ----------
    values, valid : (time, y, x) ndarray
        Anything at all in gaps; lengths are multiples of the spec's stride.
    """
    clean = np.maximum(np.where(valid, values, 0), 0).astype(np.float32)
    answer = network([clean[None, ..., None], valid[None, ..., None].astype(np.float32)], training=False)
    return np.asarray(answer)[0, ..., 0]
