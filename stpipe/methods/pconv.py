"""The default method: a U-Net of partial convolutions that leans on the pyramid and on interpolation in time.

The guides are worked out for the whole read window; the network then runs over parts of it that overlap by its reach,
so that its memory is bounded however large the window, and the answer is that of the whole. Where no observation is
in its reach the network has nothing to add, and the guides' answer is marked as a fallback.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.core.blocks import Block
from stpipe.core.ports import JSON, BlockInput, Filler, Prediction
from stpipe.core.timeline import median_step, neighbours
from stpipe.core.windows import Triple, Window, round_up, triple
from stpipe.errors import ModelFileError, RunError, ShapeError
from stpipe.methods.pyramid import PyramidFiller
from stpipe.model import backend
from stpipe.model.features import F32, INPUTS, network_input
from stpipe.model.spec import UNetSpec
from stpipe.model.weights import DEFAULT, ModelInfo, load_model, read_info

MOST_SAMPLES = 2**21
"""Samples that the network sees at a time."""

NETWORK_BYTES = 560
"""Memory that the network takes for each of them at its peak, its input included; measured."""

Runner = Callable[[F32], F32]
"""Runs a network on (t, y, x, channel)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PConvFiller:
    """Partial convolutions as a `Filler`; `pconv_filler` makes one and pins its weights."""

    model: str = DEFAULT
    """Name or path of the weights."""

    digest: str | None = None
    """sha256 that the weights must have; None for whatever there is."""

    guide: Filler = field(default_factory=PyramidFiller)
    """Stands in for what the network corrects; the packaged weights were trained on the default."""

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "pconv"

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
    def halo(self) -> tuple[int | None, int, int]:
        """The whole time axis, for interpolation; in the frame the network's reach and the pyramid's."""
        _, y, x = self.spec.halo
        _, gy, gx = self.guide.halo
        _, sy, sx = self.stride
        return (None, round_up(y + gy, sy), round_up(x + gx, sx))

    @property
    def stride(self) -> Triple:
        """Read windows divide by the network's strides and hold whole cells of the overviews."""
        return triple(np.lcm(a, b) for a, b in zip(self.spec.stride, self.guide.stride, strict=True))

    @property
    def process_bytes(self) -> int:
        """Memory of a worker with TensorFlow, the network, and room for one run of it; measured."""
        return 640 * 2**20 + MOST_SAMPLES * NETWORK_BYTES

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured."""
        return 105.0

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return 2.0

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        info = _info(self.model)
        return {
            "method": self.name,
            "version": 1,
            "model": info.digest,
            "calibration": info.calibration,
            "guide": self.guide.identity(),
        }

    def load(self) -> None:
        """Load the weights, if this process has not yet; `ModelFileError` if they are damaged."""
        _runner(self.model, self.digest)

    def prepare(self) -> None:
        """Load TensorFlow and the weights, and claim the network's memory before the first block does."""
        backend.start(one_thread=True)
        _claim(self.model, self.digest)

    def fill(self, block: BlockInput) -> Prediction:
        """Predict every sample of the read window that any guide has a value for."""
        shape = triple(block.values.shape)
        if any(n % step for n, step in zip(shape, self.stride, strict=True)):
            raise ShapeError(f"a read window must be a multiple of {self.stride} along (time, y, x), got {shape}")
        run, spec = _runner(self.model, self.digest), self.spec
        guide = self.guide.fill(block)
        around = neighbours(block.values, block.valid, block.days, median_step(block.all_days))
        values = np.full(shape, np.nan, dtype=np.float32)
        half_width = np.full(shape, np.nan, dtype=np.float32)
        wanted = None if block.wanted is None else block.wanted.within(block.window)
        for part in sub_windows(shape, spec, wanted):
            read = part.read.slices
            inputs, base = network_input(
                block.values[read], block.valid[read], guide.values[read], guide.half_width[read], around.part(read)
            )
            out = run(inputs)
            values[part.write.slices] = (base + out[..., 0])[part.trim]
            half_width[part.write.slices] = out[part.trim][..., 1]
        np.exp(half_width, out=half_width)
        half_width *= np.float32(_info(self.model).calibration)
        unknown = np.isnan(guide.values) & np.isnan(around.linear)
        values[unknown] = np.nan
        half_width[unknown] = np.nan
        never = ~block.valid.any(axis=0)
        fallback = ~within_reach(block.valid, spec.halo)
        fallback |= never
        fallback |= guide.fallback
        return Prediction(values=values, half_width=half_width, fallback=fallback)


def pconv_filler(model: str = DEFAULT) -> PConvFiller:
    """Return the method with its weights pinned: a worker that finds other ones under the same name stops.

    Parameters
    ----------
    model : str
        ``default``, or the path of a ``.keras`` file that stpipe wrote.
    """
    name = model if model == DEFAULT else str(Path(model).resolve())
    filler = PConvFiller(model=name, digest=_read_info(name).digest)
    _ = filler.spec  # refuses a published network here and not on a worker
    return filler


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
    >>> parts = sub_windows((200, 256, 256), UNetSpec())
    >>> len(parts), parts[0].read.shape
    (8, (31, 256, 256))
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
        out: F32 = np.asarray(call(keras.ops.convert_to_tensor(inputs[None])))[0]
        return out

    return run


@lru_cache(maxsize=4)
def _claim(model: str, digest: str | None) -> None:
    """Run a network once a process over as much as it ever sees at a time."""
    side = 256
    _runner(model, digest)(np.ones((MOST_SAMPLES // side**2, side, side, INPUTS), dtype=np.float32))
