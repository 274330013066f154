"""The network of partial convolutions: it sees the guides and their neighbourhoods, and gives a better answer.

It runs over parts of the read window that overlap by its reach, so that its memory is bounded however large the window,
and the answer is that of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.core.blocks import Block
from stpipe.core.ports import JSON, BlockInput
from stpipe.core.windows import Triple, Window, round_up, triple
from stpipe.errors import ModelFileError, RunError
from stpipe.methods.guides import Guides, Lie, scenery
from stpipe.methods.mixing import NODES_PX, Mixture
from stpipe.model import backend
from stpipe.model.features import F32, INPUTS, network_input
from stpipe.model.spec import UNetSpec
from stpipe.model.weights import DEFAULT, ModelInfo, load_model, read_info

MOST_SAMPLES = 2**19
"""Samples that the network sees at a time."""

NETWORK_BYTES = 1400
"""Memory that the network takes for each of them at its peak, its input included; measured."""

CELL = 8
"""Guides are made for whole cells of as many pixels."""

Runner = Callable[[F32], F32]
"""Runs a network on (t, y, x, channel)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The network of a model file; `network_of` makes one and pins its weights."""

    model: str = DEFAULT
    """Name or path of the weights."""

    digest: str | None = None
    """sha256 that the weights must have; None for whatever there is."""

    @property
    def spec(self) -> UNetSpec:
        """The network's shape."""
        spec = _info(self.model).spec
        if not isinstance(spec, UNetSpec):
            raise ModelFileError(
                f"{self.model} is the published network, which sees physical values and not a scene's standardised "
                "ones; use it with 'stpipe blocks fill', or fill scenes with the packaged weights"
            )
        return spec

    @property
    def margin(self) -> int:
        """How far around what is wanted it sees the guides, in whole cells of them."""
        return round_up(round_up(max(self.spec.halo[1:]), max(self.spec.stride)), CELL)

    @property
    def mixture(self) -> Mixture:
        """The mean of the guides that suits most cubes."""
        rows = _info(self.model).mixture
        if len(rows) != len(NODES_PX):
            raise ModelFileError(
                f"{self.model} weighs the guides at {len(rows)} distances, this version of stpipe at {len(NODES_PX)}: "
                f"train it anew, or use {DEFAULT!r}"
            )
        return Mixture(rows)

    @property
    def process_bytes(self) -> int:
        """Memory of a worker with TensorFlow, the network, and room for one run of it; measured."""
        return 640 * 2**20 + MOST_SAMPLES * NETWORK_BYTES

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return 2.0

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        info = _info(self.model)
        return {"model": info.digest, "calibration": info.calibration}

    def load(self) -> None:
        """Load the weights, if this process has not yet; `ModelFileError` if they are damaged."""
        _runner(self.model, self.digest)

    def prepare(self) -> None:
        """Load TensorFlow and the weights, and claim the network's memory before the first block does."""
        backend.start(one_thread=True)
        _claim(self.model, self.digest)

    def refine(self, made: Guides, place: Lie, mixture: Mixture) -> tuple[F32, F32]:
        """Return a better answer than the guides' mean.

        Parameters
        ----------
        made : Guides
            Of a block, made with `margin`.
        place : Lie
            How the samples lie in it.
        mixture : Mixture
            The mean of the guides that is to be bettered.

        Returns
        -------
        values, half_width : (t, y, x) ndarray of float32
            Of the guides' window; NaN beyond what is wanted.
        """
        run, spec, factor = _runner(self.model, self.digest), self.spec, np.float32(_info(self.model).calibration)
        seen, wanted = scenery(made, place), wanted_of(made.block)
        values, half_width = (np.full(made.unknown.shape, np.nan, dtype=np.float32) for _ in range(2))
        for part in sub_windows(triple(made.unknown.shape), spec, wanted):
            here = seen.part(part.read.slices)
            inputs, base, scale = network_input(here, mixture.at(here.distance))
            out = run(inputs)
            values[part.write.slices] = (base + out[..., 0] * scale)[part.trim]
            half_width[part.write.slices] = (factor * np.exp(out[..., 1]) * scale)[part.trim]
        return values, half_width


def network_of(model: str = DEFAULT) -> Network:
    """Return a network with its weights pinned: a worker that finds other ones under the same name stops.

    Parameters
    ----------
    model : str
        ``default``, or the path of a ``.keras`` file that stpipe wrote.
    """
    name = model if model == DEFAULT else str(Path(model).resolve())
    network = Network(model=name, digest=_read_info(name).digest)
    _ = network.spec, network.mixture  # refuse what can't be used here and not on a worker
    return network


def wanted_of(block: BlockInput) -> Window:
    """Return what is wanted of a block, counted from its start."""
    if block.wanted is None:
        return Window.of(triple(block.valid.shape))
    return block.wanted.intersect(block.window).within(block.window)


def sub_windows(shape: Triple, spec: UNetSpec, wanted: Window | None = None) -> tuple[Block, ...]:
    """Cut what is wanted of a read window into parts that the network can see at a time, with the least work in all.

    Parameters
    ----------
    shape : (time, y, x)
        Of the read window; a multiple of the network's strides.
    spec : UNetSpec
        Its halo and strides.
    wanted : Window, optional
        Counted from the read window's start; all of it unless given.

    Returns
    -------
    tuple of Block
        Parts that write all that is wanted once; all read the same shape.

    Examples
    --------
    >>> len(sub_windows((16, 128, 128), UNetSpec()))
    1
    >>> parts = sub_windows((64, 128, 128), UNetSpec())
    >>> len(parts), parts[0].read.shape
    (3, (26, 128, 128))
    """
    whole = wanted or Window.of(shape)
    best: tuple[float, list[list[tuple[int, int, int, int]]]] | None = None
    for count in range(1, max(whole.shape[1:]) // spec.stride[1] + 2):
        plane = [_cut(shape[a], whole.start[a], whole.stop[a], spec.halo[a], spec.stride[a], count) for a in (1, 2)]
        pixels = prod(parts[0][1] - parts[0][0] for parts in plane)
        visible = max(1, MOST_SAMPLES // pixels)
        frames = whole.shape[0]
        pieces = 1 if visible >= shape[0] else -(-frames // max(1, visible - 2 * spec.halo[0]))
        cuts = [_cut(shape[0], whole.start[0], whole.stop[0], spec.halo[0], spec.stride[0], pieces), *plane]
        samples = prod(parts[0][1] - parts[0][0] for parts in cuts)
        work = float(prod(map(len, cuts)) * samples)
        if samples > MOST_SAMPLES:
            work = float(2**62) * samples
        if best is None or work < best[0]:
            best = (work, cuts)
        if count > 1 and samples <= MOST_SAMPLES and work > 2 * best[0]:
            break
    assert best is not None
    corners = [(t, y, x) for t in best[1][0] for y in best[1][1] for x in best[1][2]]
    return tuple(
        Block(
            number=number,
            index=(number, 0, 0),
            read=Window(triple(axis[0] for axis in corner), triple(axis[1] for axis in corner)),
            write=Window(triple(axis[2] for axis in corner), triple(axis[3] for axis in corner)),
        )
        for number, corner in enumerate(corners)
    )


def _cut(length: int, first: int, stop: int, halo: int, step: int, count: int) -> list[tuple[int, int, int, int]]:
    """Cut one axis from `first` to `stop` into about `count` parts: where each reads and writes, start and stop.

    >>> _cut(64, 10, 50, 5, 8, 2)
    [(0, 40, 10, 32), (24, 64, 32, 50)]
    """
    low = first // step * step
    size = round_up(-(-(stop - low) // count), step)
    margin = round_up(halo, step)
    seen = min(length, size + 2 * margin)
    return [
        (begin := max(0, min(start - margin, length - seen)), begin + seen, max(start, first), min(start + size, stop))
        for start in range(low, stop, size)
    ]


def within_reach(valid: NDArray[np.bool_], halo: Triple) -> NDArray[np.bool_]:
    """Return True where an observation lies within `halo` along every axis.

    >>> within_reach(np.array([[[True, False, False, False]]]), (0, 0, 2))
    array([[[ True,  True,  True, False]]])
    """
    near = valid.view(np.uint8)
    for axis, reach in enumerate(halo):
        if reach:
            near = ndimage.maximum_filter1d(near, 2 * reach + 1, axis=axis, mode="constant")
    return near.view(np.bool_)


@lru_cache(maxsize=8)
def _info(model: str) -> ModelInfo:
    return read_info(model)


def _read_info(model: str) -> ModelInfo:
    """Read a model's description anew: it may be another file by now."""
    _info.cache_clear()
    return _info(model)


@lru_cache(maxsize=4)
def _runner(model: str, digest: str | None) -> Runner:
    """Load a model once a process and return what runs it."""
    loaded = load_model(model)
    if digest is not None and loaded.info.digest != digest:
        raise RunError(
            f"the model {loaded.info.path} has changed since the run was planned: its sha256 is "
            f"{loaded.info.digest[:12]} and not {digest[:12]}; plan the run again, or put the model back"
        )
    import keras

    network = loaded.network
    call: Callable[[Any], Any] = lambda inputs: network(inputs, training=False)  # noqa: E731
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # One trace a shape, and a block's parts have one shape; model.predict costs four times as much and leaks.
        call = tf.function(call)

    def run(inputs: F32) -> F32:
        out: F32 = keras.ops.convert_to_numpy(call(keras.ops.convert_to_tensor(inputs[None])))[0]
        return out

    return run


@lru_cache(maxsize=4)
def _claim(model: str, digest: str | None) -> None:
    """Run a network once a process over as much as it ever sees at a time."""
    side = 256
    _runner(model, digest)(np.ones((MOST_SAMPLES // side**2, side, side, INPUTS), dtype=np.float32))
