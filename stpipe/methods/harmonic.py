"""Seasonal harmonics, pixel by pixel, robust.

Each pixel's curve is a mean, a trend and up to `ORDER` harmonics of the year. The coefficients are least squares with
a ridge that draws them to the scene's own, which are zero in standardised values, the more so the higher the harmonic.
The ridge also decides how much of this a series supports: over ten days a yearly wave hardly moves, so that a
coefficient large enough to matter would cost more than it explains, and what is left is little more than the mean; a
pixel with few or clustered observations has a mean and little else.

Observations far from the curve lose weight (Huber), in a fixed number of rounds. Their scale is the median distance
from the curve, drawn to the scene's where there are few.

Sources: iteratively reweighted least squares after Holland and Welsch (1977), Communications in Statistics A6; Huber
(1964), Annals of Mathematical Statistics 35.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON, BlockInput, Prediction
from stpipe.methods.fallback import WithFallback
from stpipe.methods.pyramid import NORMAL_90

F64 = NDArray[np.float64]

YEAR_DAYS = 365.25
"""Length of the first harmonic."""

ORDER = 3
"""Harmonics of the year."""

RIDGE_MEAN = 0.02
"""Observations at the scene's location that the mean's ridge counts for."""

RIDGE_TREND = 5.0
"""The same for the trend, in spreads a year."""

RIDGE_HARMONIC = 0.1
"""The same for the first harmonic; for harmonic k it is this times k**2."""

HUBER = 2.0
"""Observations farther than this from the curve, in scales, lose weight."""

FARTHEST = 3.0
"""Observations farther than this count as this far in the interval."""

ROUNDS = 3
"""Rounds of reweighting, the same for every pixel, so that no pixel's answer depends on the others in its block."""

PRIOR_SCALE = 0.4
"""Scale of the distance from the curve, in spreads, that few observations are drawn to."""

PRIOR_COUNT = 4.0
"""Number of observations that `PRIOR_SCALE` counts for."""

CHUNK_SAMPLES = 2**18
"""Samples worked on at a time."""

CHUNK_PIXELS = 2**13
"""Most pixels worked on at a time: each has some matrices of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmonicFiller(WithFallback):
    """The harmonic fit as a `Filler`; the fallback fills the pixels without any observation."""

    @property
    def seamless(self) -> bool:
        """A sample's answer is the same in every block."""
        return True

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "harmonic"

    @property
    def process_bytes(self) -> int:
        """Memory of a worker before its first block, and what a chunk of pixels takes."""
        return self.fallback.process_bytes + 32 * 2**20

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured."""
        return 22.0

    @property
    def pixel_bytes(self) -> float:
        """Memory of a fill besides for each pixel of the read window, measured: temporaries of whole frames."""
        return 72.0

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return 2.5

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {"method": self.name, "version": 1, "fallback": self.fallback.identity()}

    def fill(self, block: BlockInput) -> Prediction:
        """Predict every sample of the read window."""
        values, half_width = fit(block.values, block.valid, block.days)
        return self.completed(values, half_width, block)


def fit(
    values: NDArray[np.float32], valid: NDArray[np.bool_], days: F64
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit each pixel's mean, trend and seasonal harmonics.

    Parameters
    ----------
    values : (time, y, x) ndarray of float32
        Standardised; anything at all where not valid.
    valid : (time, y, x) ndarray of bool
        Where observed and trusted.
    days : (time,) ndarray of float64
        Ascending times.

    Returns
    -------
    fitted, half_width : (time, y, x) ndarray of float32
        NaN for pixels without any observation. The half-width is that of a 90 % interval for an observation, from
        the scale of the distances and the uncertainty of the coefficients, which grows away from the observations.

    Examples
    --------
    >>> days = np.arange(0.0, 730.0, 10.0)
    >>> season = np.cos(2 * np.pi * days / 365.25).astype(np.float32).reshape(-1, 1, 1)
    >>> valid = np.ones(season.shape, dtype=bool)
    >>> valid[20:25] = False
    >>> bool(np.abs(fit(season, valid, days)[0] - season).max() < 0.02)
    True
    """
    frames = values.shape[0]
    flat, known = values.reshape(frames, -1), valid.reshape(frames, -1)
    fitted = np.full(flat.shape, np.nan, dtype=np.float32)
    half_width = np.full(flat.shape, np.nan, dtype=np.float32)
    waves, ridge = basis(days)
    squares = np.einsum("ti,tj->tij", waves, waves).reshape(frames, -1)
    count = max(64, min(CHUNK_PIXELS, CHUNK_SAMPLES // frames))
    for start in range(0, flat.shape[1], count):
        part = slice(start, start + count)
        seen = np.flatnonzero(known[:, part].any(axis=0)) + start
        if not seen.size:
            continue
        weights = known[:, seen].astype(np.float64)
        observed = np.where(known[:, seen], flat[:, seen], 0.0).astype(np.float64)
        curve, scale, inverse = robust_fit(weights, observed, waves, ridge)
        leverage = squares @ inverse.reshape(seen.size, -1).T
        fitted[:, seen] = curve
        half_width[:, seen] = NORMAL_90 * scale * np.sqrt(1 + leverage.clip(0))
    return fitted.reshape(values.shape), half_width.reshape(values.shape)


def basis(days: F64) -> tuple[F64, F64]:
    """Return the columns that a curve is made of, and the ridge of each.

    Returns
    -------
    waves : (time, 2 + 2 x ORDER) ndarray of float64
        One, years from the middle of the series, and a cosine and a sine for each harmonic.
    ridge : (2 + 2 x ORDER,) ndarray of float64
        Observations that each coefficient's distance from zero counts for.

    Examples
    --------
    >>> waves, ridge = basis(np.array([0.0, 365.25]))
    >>> waves[0, :3].round(6), ridge[2:].round(6)
    (array([ 1. , -0.5, -1. ]), array([0.1, 0.1, 0.4, 0.4, 0.9, 0.9]))
    """
    years = (days - 0.5 * (days[0] + days[-1])) / YEAR_DAYS
    orders = np.arange(1, ORDER + 1)
    angles = 2 * np.pi * years[:, None] * orders
    pairs = np.stack([np.cos(angles), np.sin(angles)], axis=2).reshape(days.size, -1)
    waves = np.concatenate([np.ones((days.size, 1)), years[:, None], pairs], axis=1)
    return waves, np.concatenate([[RIDGE_MEAN, RIDGE_TREND], RIDGE_HARMONIC * np.repeat(orders, 2) ** 2.0])


def robust_fit(weights: F64, observed: F64, waves: F64, ridge: F64) -> tuple[F64, F64, F64]:
    """Fit all pixels at once by iteratively reweighted least squares.

    Parameters
    ----------
    weights, observed : (time, pixel) ndarray of float64
        1 and the observation where there is one, else zeros; each pixel has at least one.
    waves : (time, coefficient) ndarray of float64
        See `basis`.
    ridge : (coefficient,) ndarray of float64
        See `basis`.

    Returns
    -------
    curve : (time, pixel) ndarray of float64
        The fit at every time.
    scale : (pixel,) ndarray of float64
        Standard deviation of observations around it.
    inverse : (pixel, coefficient, coefficient) ndarray of float64
        Times the square of `scale` it is the covariance of the coefficients.
    """
    frames, terms = waves.shape
    squares = np.einsum("ti,tj->tij", waves, waves).reshape(frames, -1)
    number = weights.sum(axis=0)
    middle = (number - 1).astype(np.intp) // 2
    trust, prior = weights, PRIOR_COUNT * PRIOR_SCALE**2
    for left in range(ROUNDS, -1, -1):
        gram = (trust.T @ squares).reshape(-1, terms, terms) + np.diag(ridge)
        inverse = np.linalg.inv(gram)
        right = (trust * observed).T @ waves
        coefficients = np.einsum("pij,pj->pi", inverse, right)
        curve = waves @ coefficients.T
        distance = np.abs(observed - curve)
        ordered = np.sort(np.where(weights > 0, distance, np.inf), axis=0)
        typical = 1.4826 * np.take_along_axis(ordered, middle[None], axis=0)[0]
        scale = np.sqrt((number * typical**2 + prior) / (number + PRIOR_COUNT))
        if left:
            trust = weights * np.minimum(1.0, HUBER * scale / np.maximum(distance, 1e-12))
    # The median says nothing of the tails that an interval must reach into.
    misfit = (weights * np.minimum(distance, FARTHEST * scale) ** 2).sum(axis=0)
    spent = terms - np.einsum("i,pii->p", ridge, inverse)
    return curve, np.sqrt((misfit + prior) / ((number - spent).clip(0) + PRIOR_COUNT)), inverse
