"""Whittaker smoother on true times, pixel by pixel.

Each pixel's curve z minimises::

    sum over observations (y - z)**2  +  smoothing x ( integral z''**2 dt  +  TENSION x integral z'**2 dt )

with time in median steps of the cube and both derivatives as divided differences on the true times. The first is the
smoother of second differences; it alone runs off along its last slope where observations end, so a little tension
draws it level there, and lets a pixel with a single observation have an answer. How smooth a pixel is, is chosen for
each by generalised cross-validation over a grid; where observations are few it is drawn to `USUAL_SMOOTHING`.

Measured on hidden gaps of six scenes (NDVI and sea surface temperature), before that pull: generalised
cross-validation erred less than the V-curve on four, as much on one and more on one; tension erred less than none on
five.

Sources: Eilers (2003), A perfect smoother, Analytical Chemistry 75; generalised cross-validation after Craven and
Wahba (1979), Numerische Mathematik 31; the diagonal of the inverse after Hutchinson and de Hoog (1985), Smoothing
noisy data with spline functions, Numerische Mathematik 47.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON, BlockInput, Prediction
from stpipe.core.timeline import median_step, passes
from stpipe.methods.fallback import WithFallback
from stpipe.methods.pyramid import NORMAL_90

F64 = NDArray[np.float64]

TENSION = 0.2
"""Weight of the squared slope against the squared second derivative, time in median steps."""

GRID = 10.0 ** np.arange(-1.5, 5.01, 0.5)
"""Smoothings to choose from."""

USUAL_SMOOTHING = 1.0
"""Where few observations can say, smoothing is drawn to this."""

PULL = 2.0
"""How strongly: what a factor of ten costs, on the scale of twice the log likelihood."""

PRIOR_NOISE = 0.3
"""Standard deviation of noise, in spreads of the scene, that few observations are drawn to."""

PRIOR_COUNT = 2.0
"""Number of observations that `PRIOR_NOISE` counts for."""

CHUNK_SAMPLES = 2**17
"""Samples worked on at a time: some twelve arrays of this many float64 fit a core's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhittakerFiller(WithFallback):
    """The smoother as a `Filler`; the fallback fills the pixels without any observation."""

    @property
    def seamless(self) -> bool:
        """A sample's answer is the same in every block."""
        return True

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "whittaker"

    @property
    def process_bytes(self) -> int:
        """Memory of a worker before its first block, and what a chunk of pixels takes."""
        return self.fallback.process_bytes + 16 * 8 * CHUNK_SAMPLES

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
        return 1.4

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {"method": self.name, "version": 2, "fallback": self.fallback.identity()}

    def fill(self, block: BlockInput) -> Prediction:
        """Predict every sample of the read window."""
        values, half_width = smooth(block.values, block.valid, block.days)
        return self.completed(values, half_width, block)


def smooth(
    values: NDArray[np.float32], valid: NDArray[np.bool_], days: F64
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Smooth each pixel's series, as much as its own observations ask for.

    Parameters
    ----------
    values : (time, y, x) ndarray of float32
        Standardised; anything at all where not valid.
    valid : (time, y, x) ndarray of bool
        Where observed and trusted.
    days : (time,) ndarray of float64
        Ascending times; steps shorter than half the median one count as that. Frames of a pass count as one, their
        mean where several saw a pixel.

    Returns
    -------
    smoothed, half_width : (time, y, x) ndarray of float32
        NaN for pixels without any observation. The half-width is that of a 90 % interval for an observation, from
        the noise around the curve and the curve's own uncertainty, which grows away from the observations.

    Examples
    --------
    >>> series = np.array([1, 2, 0, 4, 5], dtype=np.float32).reshape(5, 1, 1)
    >>> smooth(series, series > 0, np.arange(5.0))[0].ravel().round(1)
    array([1.2, 2.1, 3. , 3.9, 4.8], dtype=float32)
    """
    frames = values.shape[0]
    which = passes(days)
    starts = np.flatnonzero(np.diff(which, prepend=-1))
    flat, known = values.reshape(frames, -1), valid.reshape(frames, -1)
    smoothed = np.full(flat.shape, np.nan, dtype=np.float32)
    half_width = np.full(flat.shape, np.nan, dtype=np.float32)
    penalty = roughness(days[starts])
    count = max(64, CHUNK_SAMPLES // frames)
    for start in range(0, flat.shape[1], count):
        part = slice(start, start + count)
        seen = np.flatnonzero(known[:, part].any(axis=0)) + start
        if not seen.size:
            continue
        weights = known[:, seen].astype(np.float64)
        observed = np.where(known[:, seen], flat[:, seen], 0.0).astype(np.float64)
        if starts.size < frames:
            count_of = np.add.reduceat(weights, starts, axis=0)
            weights = (count_of > 0).astype(np.float64)
            observed = np.add.reduceat(observed, starts, axis=0) / np.maximum(count_of, 1)
        smoothing = choose_smoothing(weights, observed, penalty)
        curve, inverse = solve(weights, observed, smoothing, penalty)
        misfit = (weights * (observed - curve) * observed).sum(axis=0).clip(0)
        noise = (misfit + PRIOR_COUNT * PRIOR_NOISE**2) / (weights.sum(axis=0) - 1 + PRIOR_COUNT)
        smoothed[:, seen] = curve[which]
        half_width[:, seen] = NORMAL_90 * np.sqrt(noise * (1 + inverse))[which]
    return smoothed.reshape(values.shape), half_width.reshape(values.shape)


def roughness(days: F64) -> tuple[F64, F64, F64]:
    """Return the diagonals of the matrix P with ``z @ P @ z`` = roughness of a curve z, time in median steps.

    Parameters
    ----------
    days : (time,) ndarray of float64
        Ascending times.

    Returns
    -------
    main, first, second : ndarray of float64
        Lengths time, time - 1 and time - 2, but never below zero.

    Examples
    --------
    >>> main, first, second = roughness(np.array([0.0, 8.0, 16.0]))
    >>> main - TENSION * np.array([1, 2, 1]), first + TENSION, second
    (array([1., 4., 1.]), array([-2., -2.]), array([1.]))
    """
    count = days.size
    main, first, second = (np.zeros(max(count - k, 0)) for k in range(3))
    if count < 2:
        return main, first, second
    steps = np.diff(days)
    usual = median_step(days)
    # Two looks within minutes differ by noise; the slope between them would outweigh all else.
    steps = np.maximum(steps, 0.5 * usual) / usual
    main[:-1] += TENSION / steps
    main[1:] += TENSION / steps
    first -= TENSION / steps
    both = steps[:-1] + steps[1:]
    # The second derivative at an inner time is left x z[i-1] + middle x z[i] + right x z[i+1]; it stands for both / 2.
    root = np.sqrt(both / 2)
    left, right = 2 * root / (steps[:-1] * both), 2 * root / (steps[1:] * both)
    middle = -(left + right)
    main[:-2] += left**2
    main[1:-1] += middle**2
    main[2:] += right**2
    first[:-1] += left * middle
    first[1:] += middle * right
    second += left * right
    return main, first, second


def choose_smoothing(weights: F64, observed: F64, penalty: tuple[F64, F64, F64]) -> F64:
    """Return the smoothing of each pixel that generalised cross-validation asks for.

    The score is ``log(misfit) - 2 log(observations - trace)``, with a prior on the noise and a pull on the smoothing
    that weigh less the more observations there are.

    Parameters
    ----------
    weights, observed : (time, pixel) ndarray of float64
        1 and the observation where there is one, else zeros.
    penalty
        From `roughness`.

    Returns
    -------
    (pixel,) ndarray of float64
        Out of `GRID`.
    """
    number = weights.sum(axis=0)
    best = np.full(number.shape, np.inf)
    chosen = np.full(number.shape, USUAL_SMOOTHING)
    for smoothing in GRID:
        curve, inverse = solve(weights, observed, smoothing, penalty)
        curve -= observed
        curve *= curve
        curve *= weights
        inverse *= weights
        misfit = curve.sum(axis=0) + PRIOR_COUNT * PRIOR_NOISE**2
        score = np.log(misfit) - 2 * np.log(number + PRIOR_COUNT - inverse.sum(axis=0))
        score += PULL * np.log10(smoothing / USUAL_SMOOTHING) ** 2 / number
        better = score < best
        best[better] = score[better]
        chosen[better] = smoothing
    return chosen


def solve(weights: F64, observed: F64, smoothing: F64 | float, penalty: tuple[F64, F64, F64]) -> tuple[F64, F64]:
    """Solve ``(W + smoothing x P) z = W y`` for all pixels at once, and give the diagonal of the inverse.

    The matrix has five diagonals. It is factored into L D L', with two diagonals below the one in L, in one walk
    along time; the way back gives the curve and, by the recursion of Hutchinson and de Hoog, the inverse's diagonal.

    Parameters
    ----------
    weights, observed : (time, pixel) ndarray of float64
        1 and the observation where there is one, else zeros; each pixel has at least one.
    smoothing : float or (pixel,) ndarray of float64
        Above zero.
    penalty
        From `roughness`.

    Returns
    -------
    curve, inverse : (time, pixel) ndarray of float64
        `inverse` times the variance of the noise is the variance of `curve`.

    Examples
    --------
    >>> curve, inverse = solve(np.ones((1, 1)), np.full((1, 1), 7.0), 1.0, roughness(np.zeros(1)))
    >>> curve.item(), inverse.item()
    (7.0, 1.0)
    """
    main, first, second = penalty
    frames = weights.shape[0]
    pivot, curve, below, lower = (np.zeros_like(observed) for _ in range(4))  # below, lower: columns of L
    for t in range(frames):
        diagonal = smoothing * main[t] + weights[t]
        right = weights[t] * observed[t]
        carried = below[t - 1] * pivot[t - 1] if t else None
        if carried is not None:
            diagonal -= carried * below[t - 1]
            right -= below[t - 1] * curve[t - 1]
        if t > 1:
            diagonal -= lower[t - 2] ** 2 * pivot[t - 2]
            right -= lower[t - 2] * curve[t - 2]
        pivot[t], curve[t] = diagonal, right
        if t < frames - 1:
            below[t] = smoothing * first[t]
            if carried is not None:
                below[t] -= lower[t - 1] * carried
            below[t] /= diagonal
        if t < frames - 2:
            lower[t] = smoothing * second[t] / diagonal
    curve /= pivot
    inverse = np.divide(1.0, pivot, out=pivot)
    beside: F64 | float = 0.0  # the inverse's entry right of the next diagonal one
    for t in range(frames - 2, -1, -1):
        curve[t] -= below[t] * curve[t + 1]
        next_beside = -below[t] * inverse[t + 1] - lower[t] * beside
        inverse[t] -= below[t] * next_beside
        if t < frames - 2:
            curve[t] -= lower[t] * curve[t + 2]
            inverse[t] += lower[t] * (below[t] * beside + lower[t] * inverse[t + 2])
        beside = next_beside
    return curve, inverse
