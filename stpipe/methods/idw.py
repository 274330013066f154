"""Inverse-distance weighting within the frame.

A gap takes the weighted mean of the valid samples around it, the nearest counting most::

    estimate(p) = (sum of w(d) v + far x pyramid(p)) / (sum of w(d) + far),    w(d) = (1 / d - 1 / radius) ** power

over all samples at a distance ``0 < d < radius``, in pixels. Weights that fall to nothing at the radius leave no step
where the last sample drops out of sight, and a little weight of the pyramid takes over there: it also answers for gaps
wider than the radius, and for frames without any sample. A sample has no say in its own prediction.

All directions and all samples in the radius count, where GDAL's fillnodata looks at the nearest one in each of four
quadrants; the sums are convolutions, so that the cost does not depend on the gaps.

Source of the weights: Franke and Nielson (1980), Smooth interpolation of large sets of scattered data, Int. J. Numer.
Methods Eng. 15; after Shepard (1968), A two-dimensional interpolation function for irregularly-spaced data, Proc. ACM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON, BlockInput, Prediction
from stpipe.core.survey import BASE_CELL
from stpipe.core.windows import round_up
from stpipe.errors import OptionError
from stpipe.methods.fallback import WithFallback
from stpipe.methods.pyramid import NORMAL_90


@dataclass(frozen=True, slots=True, kw_only=True)
class IdwFiller(WithFallback):
    """Inverse-distance weighting as a `Filler`; nothing is trained.

    The fallback joins in, and fills what has no sample within the radius.

    Examples
    --------
    >>> IdwFiller(radius=20).halo
    (0, 24, 24)
    """

    power: float = 3.0
    """How fast a sample's weight falls with its distance."""

    radius: int = 16
    """Samples at this distance, in pixels, and farther ones have no weight."""

    far: float = 16.0
    """Weight of the pyramid, in samples half a radius away."""

    def __post_init__(self) -> None:
        """Refuse what would divide by zero, or see nothing."""
        if not (self.power > 0 and self.radius >= 2 and self.far > 0):
            raise OptionError(
                f"need power > 0, radius >= 2 and far > 0, got power={self.power}, radius={self.radius}, far={self.far}"
            )

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "idw"

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """The radius, or what the fallback needs where that is more."""
        frames, height, width = self.fallback.halo
        own = round_up(self.radius, BASE_CELL)
        return frames, max(own, height), max(own, width)

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured."""
        return 12.0

    @property
    def pixel_bytes(self) -> float:
        """Memory of a fill besides for each pixel of the read window, measured: temporaries of whole frames."""
        return 210.0

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return 0.25

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {
            "method": self.name,
            "version": 1,
            "power": self.power,
            "radius": self.radius,
            "far": self.far,
            "fallback": self.fallback.identity(),
        }

    def fill(self, block: BlockInput) -> Prediction:
        """Predict every sample of the read window."""
        other = self.fallback.fill(block)
        values, half_width, fallback = other.values, other.half_width, other.fallback
        kernel = distance_weights(self.radius, self.power)
        far = self.far * (1 / self.radius) ** self.power
        seen = np.asarray(block.valid.any(axis=(1, 2)))
        for t in np.flatnonzero(seen):
            count, total, squares = weighted_sums(block.values[t], block.valid[t], kernel)
            mean = values[t].astype(np.float64)
            square = mean * mean + (half_width[t] / NORMAL_90) ** 2
            mean = (total + far * mean) / (count + far)
            square = (squares + far * square) / (count + far)
            values[t] = mean
            half_width[t] = NORMAL_90 * np.sqrt(np.maximum(square - mean * mean, 1e-6))
            fallback[t] = count < far
        fallback[~seen] = True
        return Prediction(values=values, half_width=half_width, fallback=fallback)


def distance_weights(radius: int, power: float) -> NDArray[np.float64]:
    """Return ``(1 / d - 1 / radius) ** power`` of the distance d in pixels; zero from `radius` on and in the middle.

    Returns
    -------
    (2 radius - 1, 2 radius - 1) ndarray of float64
        The middle is the sample itself.

    Examples
    --------
    >>> distance_weights(2, 1.0).round(2)
    array([[0.21, 0.5 , 0.21],
           [0.5 , 0.  , 0.5 ],
           [0.21, 0.5 , 0.21]])
    """
    steps = np.arange(1 - radius, radius)
    distance = np.hypot(steps[:, None], steps[None, :])
    distance[radius - 1, radius - 1] = radius
    return np.asarray(np.maximum(1 / distance - 1 / radius, 0) ** power)


def weighted_sums(
    frame: NDArray[np.float32], valid: NDArray[np.bool_], kernel: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (3, y, x): sums around each pixel of weights, weight x value and weight x value**2 of valid samples.

    Parameters
    ----------
    frame : (y, x) ndarray of float32
        Anything at all where not valid.
    valid : (y, x) ndarray of bool
        Where observed and trusted.
    kernel : (n, n) ndarray of float64
        Weights around the pixel in the middle.

    Examples
    --------
    >>> row = np.array([[1, 0, 5]], dtype=np.float32)
    >>> weighted_sums(row, row > 0, distance_weights(2, 1.0)).round(2)[:, 0, 1]
    array([ 1.,  3., 13.])
    """
    from scipy import signal  # takes long to load, and every verb would wait for it

    # Fourier transforms spread rounding errors over the frame, in proportion to its largest number: in float64 they
    # stay far below the least weight of the pyramid.
    clean = np.where(valid, frame, np.float32(0)).astype(np.float64)
    parts = np.stack([valid.astype(np.float64), clean, clean * clean])
    sums: NDArray[np.float64] = signal.oaconvolve(parts, kernel[None], mode="same", axes=(-2, -1))
    np.maximum(sums[0], 0, out=sums[0])
    return sums
