"""Interpolation in true time, pixel by pixel.

Between two observations of a pixel the value runs linearly in days; before the first and after the last it stays.
`stpipe.core.timeline` does the work. A pixel that was never observed is left to a fallback method.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON, BlockInput, Prediction
from stpipe.core.timeline import median_step, neighbours
from stpipe.methods.fallback import WithFallback


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearFiller(WithFallback):
    """Interpolation in true time as a `Filler`; the fallback fills the pixels without any observation."""

    @property
    def seamless(self) -> bool:
        """A sample's answer is the same in every block."""
        return True

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "linear"

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured."""
        return 28.0

    @property
    def pixel_bytes(self) -> float:
        """Memory of a fill besides for each pixel of the read window, measured: temporaries of whole frames."""
        return 72.0

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return 0.2

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {"method": self.name, "version": 1, "fallback": self.fallback.identity()}

    def fill(self, block: BlockInput) -> Prediction:
        """Predict every sample of the read window."""
        values, half_width = interpolate(block.values, block.valid, block.days)
        return self.completed(values, half_width, block)


def interpolate(
    values: NDArray[np.float32], valid: NDArray[np.bool_], days: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Interpolate each pixel linearly in true time, nearest at the ends.

    Parameters
    ----------
    values : (time, y, x) ndarray of float32
        Anything at all where not valid.
    valid : (time, y, x) ndarray of bool
        Where observed and trusted.
    days : (time,) ndarray of float64
        Ascending times.

    Returns
    -------
    interpolated, half_width : (time, y, x) ndarray of float32
        NaN for pixels without any observation; an observation itself where there is one.

    Examples
    --------
    >>> series = np.array([1, 0, 0, 5], dtype=np.float32).reshape(4, 1, 1)
    >>> interpolate(series, series > 0, np.array([0.0, 1.0, 3.0, 4.0]))[0].ravel()
    array([1., 2., 4., 5.], dtype=float32)
    """
    around = neighbours(values, valid, days, median_step(days))
    interpolated, half_width = around.linear, around.half_width
    np.copyto(interpolated, values, where=valid)
    half_width[valid] = 0
    return interpolated, half_width
