"""What methods have in common that leave to another one what they can't tell themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import BlockInput, Filler, Prediction
from stpipe.core.windows import Triple
from stpipe.methods.pyramid import PyramidFiller


@dataclass(frozen=True, slots=True, kw_only=True)
class WithFallback:
    """A part of a `Filler` along time; one within the frame has a halo of its own."""

    fallback: Filler = field(default_factory=PyramidFiller)
    """Answers where the method has no answer."""

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """The whole time axis, and what the fallback needs in the frame."""
        return (None, *self.fallback.halo[1:])

    @property
    def stride(self) -> Triple:
        """That of the fallback."""
        return self.fallback.stride

    @property
    def process_bytes(self) -> int:
        """Memory of a worker before its first block."""
        return self.fallback.process_bytes

    def prepare(self) -> None:
        """Load what the fallback needs."""
        self.fallback.prepare()

    def completed(self, values: NDArray[np.float32], half_width: NDArray[np.float32], block: BlockInput) -> Prediction:
        """Return a method's answer to a block, and the fallback's wherever that is NaN.

        Parameters
        ----------
        values, half_width : (time, y, x) ndarray of float32
            The method's answer, NaN where it has none; what is missing is written into them.
        block : BlockInput
            What they are the answer to.

        Examples
        --------
        >>> from stpipe.core.crops import Crop, block_of
        >>> from stpipe.core.windows import Window
        >>> twos = np.full((1, 8, 8), 2, dtype=np.float32)
        >>> crop = Crop(values=twos, valid=twos > 0, days=np.zeros(1), window=Window.of((1, 8, 8)))
        >>> own = np.where(np.eye(8) > 0, np.float32(5), np.float32(np.nan))[None]
        >>> made = WithFallback().completed(own, own.copy(), block_of(crop, (1, 8, 8)))
        >>> made.values[0, 0, :3], made.fallback[0, 0, :3]
        (array([5., 2., 2.], dtype=float32), array([False,  True,  True]))
        """
        missing = np.isnan(values)
        if missing.any():
            other = self.fallback.fill(block)
            np.copyto(values, other.values, where=missing)
            np.copyto(half_width, other.half_width, where=missing)
        return Prediction(values=values, half_width=half_width, fallback=missing)
