"""Empirical orthogonal functions: each pixel's series from its own observations and the patterns that pixels share.

Learning takes the pixels of the crops as the columns of one matrix; `stpipe.methods.modes` does the work, as DINEOF
does it in essence. Hidden together to choose the number of patterns is what lies together in the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from stpipe.core.crops import Crop
from stpipe.core.ports import JSON, BlockInput, Prediction
from stpipe.core.windows import Triple, samples_in
from stpipe.errors import RunError
from stpipe.methods.fallback import WithFallback
from stpipe.methods.modes import CLUSTER, Modes, learn_modes, project
from stpipe.methods.pyramid import NORMAL_90


@dataclass(frozen=True, slots=True, kw_only=True)
class EofFiller(WithFallback):
    """The patterns as a `Filler` and `Learner`; the fallback fills the pixels without any observation."""

    rank: int | None = None
    """Number of patterns; None for what cross-validation chooses."""

    modes: Modes | None = None
    """What was learned; None before."""

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "eof"

    @property
    def process_bytes(self) -> int:
        """Memory of a worker before its first block, and what a chunk of pixels takes."""
        return self.fallback.process_bytes + 32 * 2**20

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured."""
        return 21.0

    @property
    def pixel_bytes(self) -> float:
        """Memory of a fill besides for each pixel of the read window, measured: temporaries of whole frames."""
        return 75.0

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured with 12 patterns; 0.2 with four, up to 2.8 with 20."""
        return 0.8

    def learn_bytes(self, crops: Sequence[Triple]) -> int:
        """Memory of learning from so many samples, measured where all pixels of the crops are learned from."""
        return 64 * samples_in(crops)

    def learn_seconds(self, crops: Sequence[Triple]) -> float:
        """Seconds of learning from so many samples on one core.

        Two a million, measured on crops of 368 frames. What is learned from is `stpipe.methods.modes.MOST_COLUMNS`
        pixels at most: crops of 32 frames took 0.8. Small cubes of 20 patterns, whose every pixel is learned from, took
        up to 8.
        """
        return 2e-6 * samples_in(crops)

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        learned = None if self.modes is None else sha256(self.modes.to_bytes()).hexdigest()
        return {"method": self.name, "version": 1, "learned": learned, "fallback": self.fallback.identity()}

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        """Learn from the pixels of crops; the same crops and seed give the same bytes."""
        if not crops:
            raise RunError("eof learns from crops of the cube, got none")
        values, valid, groups, first = [], [], [], 0
        for crop in crops:
            height, width = crop.valid.shape[1:]
            tiles = -(-width // CLUSTER)
            group = (np.arange(height) // CLUSTER * tiles)[:, None] + np.arange(width) // CLUSTER + first
            first = int(group.max(initial=first)) + 1
            seen = crop.valid.any(axis=0)
            values.append(crop.values[:, seen])
            valid.append(crop.valid[:, seen])
            groups.append(group[seen])
        everything = (np.concatenate(parts, axis=-1) for parts in (values, valid, groups))
        matrix, known, group = everything
        return learn_modes(matrix, known, crops[0].days, seed=seed, groups=group, rank=self.rank).to_bytes()

    def taught(self, learned: bytes) -> EofFiller:
        """Return the method with what `learn` gave."""
        return replace(self, modes=Modes.from_bytes(learned))

    def fill(self, block: BlockInput) -> Prediction:
        """Predict every sample of the read window."""
        if self.modes is None:
            raise RunError("eof has not learned anything yet; call learn, and fill with what taught returns")
        shape = block.values.shape
        frames = shape[0]
        series, known = block.values.reshape(frames, -1), block.valid.reshape(frames, -1)
        estimate, deviation = project(series, known, self.modes)[:2]  # nothing holds on to the rest
        values, half_width = estimate.reshape(shape), deviation.reshape(shape)
        half_width *= np.float32(NORMAL_90)
        return self.completed(values, half_width, block)
