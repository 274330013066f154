"""The network of partial convolutions alone: it corrects a mean of the guides that suits most cubes.

Nothing is learned of the cube but the patterns that the guide `eof` needs. Where no observation is in the network's
reach it has only the guides to go by, and its answer is marked as a fallback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stpipe.core.crops import Crop
from stpipe.core.ports import JSON, BlockInput, Prediction
from stpipe.core.windows import Triple, triple
from stpipe.errors import ShapeError
from stpipe.methods.eof import EofFiller
from stpipe.methods.guides import GuideMaker, lie
from stpipe.methods.modes import Modes
from stpipe.methods.network import Network, network_of, within_reach
from stpipe.model.weights import DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class PConvFiller:
    """Partial convolutions as a `Filler` and `Learner`; `pconv_filler` makes one."""

    network: Network = field(default_factory=Network)
    """Sees the guides."""

    maker: GuideMaker = field(default_factory=GuideMaker)
    """Makes them, with the network's margin."""

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "pconv"

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """That of the guides, with the network's reach."""
        return self.maker.halo

    @property
    def stride(self) -> Triple:
        """Read windows divide by the network's strides and hold whole cells of the guides."""
        return triple(np.lcm(a, b) for a, b in zip(self.network.spec.stride, self.maker.stride, strict=True))

    @property
    def process_bytes(self) -> int:
        """Memory of a worker before its first block."""
        return self.network.process_bytes

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured."""
        return 137.0

    @property
    def pixel_bytes(self) -> float:
        """Memory of a fill besides for each pixel of the read window, measured: temporaries of whole frames."""
        return 270.0

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return 4.0 + self.network.seconds_per_million

    def learn_bytes(self, crops: Sequence[Triple]) -> int:
        """Memory of learning from so many samples: that of the patterns."""
        return EofFiller().learn_bytes(crops)

    def learn_seconds(self, crops: Sequence[Triple]) -> float:
        """Seconds of learning from so many samples on one core."""
        return EofFiller().learn_seconds(crops)

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {
            "method": self.name,
            "version": 2,
            **self.network.identity(),
            "guides": self.maker.identity(),
        }

    def load(self) -> None:
        """Load the weights, if this process has not yet; `ModelFileError` if they are damaged."""
        self.network.load()

    def prepare(self) -> None:
        """Load what guides and network need."""
        self.maker.prepare()
        self.network.prepare()

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        """Learn the cube's patterns, see `stpipe.methods.eof`."""
        return EofFiller().learn(crops, seed=seed)

    def taught(self, learned: bytes) -> PConvFiller:
        """Return the method with the cube's patterns."""
        return replace(self, maker=replace(self.maker, modes=Modes.from_bytes(learned)))

    def fill(self, block: BlockInput) -> Prediction:
        """Predict every sample of what is wanted of a block that any guide has a value for."""
        if any(n % step for n, step in zip(block.valid.shape, self.stride, strict=True)):
            raise ShapeError(
                f"a read window must be a multiple of {self.stride} along (time, y, x), got {block.valid.shape}"
            )
        made = self.maker.make(block)
        better, width = self.network.refine(made, lie(made.block), self.network.mixture)
        for part in (better, width):
            part[made.unknown] = np.nan
        cut = made.block.window.within(block.window).slices
        values, half_width = (np.full(block.valid.shape, np.nan, dtype=np.float32) for _ in range(2))
        values[cut], half_width[cut] = better, width
        fallback = ~within_reach(block.valid, self.network.spec.halo)
        fallback |= ~block.valid.any(axis=0)
        return Prediction(values=values, half_width=half_width, fallback=fallback)


def pconv_filler(model: str = DEFAULT) -> PConvFiller:
    """Return the method with its weights pinned.

    Parameters
    ----------
    model : str
        ``default``, or the path of a ``.keras`` file that stpipe wrote.

    Examples
    --------
    >>> pconv_filler().halo
    (None, 48, 48)
    """
    network = network_of(model)
    return PConvFiller(network=network, maker=GuideMaker(margin=network.margin))
