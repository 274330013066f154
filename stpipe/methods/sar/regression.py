"""Robust linear regression over dates, pixel by pixel, without a loop over pixels.

Each pixel's values on its clear dates are regressed on what radar says on these dates. Clouds and shadows that no flag
caught lie far off and would bend the line, so the regression is refitted without them until nothing changes any more
(iteratively reweighted least squares). Talwar's weights are 1 up to a bound on the residual and 0 beyond it: a date
counts or it doesn't.

The published eight covariates nearly say the same thing twice: the mean and the difference from it add up to the
composite, and so do the neighbourhood's. Sums are therefore taken in float64, over covariates that are centred and
scaled by what the pixel has on its own dates, and a ridge helps where that is not enough.

No pixel's numbers depend on which others are fitted with it: pixels meet in a batch if they have about as many dates,
which is padded to a length that follows from this number alone, and leave it when they have settled.

Sources: Talwar's weights, the bound and the scale after Holland and Welsch (1977), Communications in Statistics A 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.errors import ShapeError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

TALWAR = 2.795
"""Residuals beyond so many robust spreads get no weight: 95 % of least squares' efficiency if errors are normal."""

NORMAL = 1.4826
"""Standard deviation of a normal distribution over the median of its absolute value."""

ROUNDS = 20
"""Most rounds; nearly all pixels need 2 to 5."""

CONDITION = 1e-6
"""Reciprocal condition of the covariates' correlations below which there is a ridge.

On a site of the published eight it was 3e-5 to 1e-3 in eight pixels of ten, and below this in one of a hundred. These
few, without a ridge, took the errors on dates that were held out (root of the mean square) from 0.14 to 23 in NDVI."""

RIDGE = 1e-4
"""The ridge, as a share of the correlations' mean diagonal, which is 1."""

CONSTANT = 1e-6
"""A covariate that varies by less than this, against its size, is constant: float32 knows no smaller steps."""

FLOOR = 1e-4
"""Residuals are judged by no smaller spread than this, in spreads of the values: else a perfect fit throws out most."""

STRIP_BYTES = 24 * 2**20
"""A strip of pixels, among which those with about as many dates are looked for, takes so much, about."""

LENGTH_STEP = 32
"""Pixels' dates are padded to multiples of this."""

BATCH_BYTES = 8 * 2**20
"""Temporaries of a batch of these, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What was fitted in each pixel."""

    coefficients: F32
    """(1 + covariate, pixel), constant first; NaN where not fitted."""

    spread: F32
    """(pixel,), 1.4826 times the median absolute residual of all dates used; NaN where not fitted."""

    clear: NDArray[np.int32]
    """(pixel,), observations that counted in the end; 0 where not fitted."""

    ridged: Bool
    """(pixel,), where the covariates were too alike, or too many, to be told apart without a ridge."""

    rounds: NDArray[np.int16]
    """(pixel,), rounds of fitting until the weights had settled; 0 where not fitted."""


def fit(covariates: F32, values: F32, clear: Bool, *, least: int, bound: float = TALWAR) -> Fit:
    """Regress each pixel's values on its covariates over the clear dates, robustly.

    Parameters
    ----------
    covariates : (covariate, time, pixel) ndarray of float32
        NaN where there is none; a date is used where all covariates are finite.
    values : (time, pixel) ndarray of float32
        What was observed; anything at all where not clear.
    clear : (time, pixel) ndarray of bool
        Where observed and trusted.
    least : int
        Pixels with fewer dates to be used are not fitted, and no fit ends with fewer: the weights before that stay.
    bound : float
        Residuals beyond so many spreads get no weight.

    Returns
    -------
    Fit
        A covariate that is constant over the dates that count has the coefficient 0.

    Raises
    ------
    ShapeError
        If there is no covariate, or the arrays disagree on time or pixels.

    Notes
    -----
    Starts from least squares over all used dates. In each round the spread is 1.4826 times the median absolute residual
    of all used dates, and dates with residuals up to `bound` times that count in the next. It is over when no weight
    changes, when the weights are about to be again what they were a round ago (three pixels in a thousand would go in
    circles), or after `ROUNDS`.

    Outliers that all lie to one side bend the first line. Of equal size, they are noticed if they are fewer than
    1 / (1 + 1.4826 x `bound`) of the dates, which is 19 %; to both sides, they may be more.

    Examples
    --------
    >>> radar = np.arange(6, dtype=np.float32).reshape(1, 6, 1)
    >>> values = 3 - 0.5 * radar[0]
    >>> values[2] = 40  # a cloud that nobody saw
    >>> made = fit(radar, values, np.ones((6, 1), dtype=bool), least=4)
    >>> made.coefficients.ravel(), made.clear, made.rounds
    (array([ 3. , -0.5], dtype=float32), array([5], dtype=int32), array([2], dtype=int16))
    """
    if covariates.ndim != 3 or not len(covariates) or not covariates.shape[1:] == values.shape == clear.shape:
        raise ShapeError(
            "need covariates (covariate, time, pixel), and values and clear (time, pixel), "
            f"got {covariates.shape}, {values.shape} and {clear.shape}"
        )
    size, frames, pixels = covariates.shape
    made = Fit(
        coefficients=np.full((size + 1, pixels), np.nan, dtype=np.float32),
        spread=np.full(pixels, np.nan, dtype=np.float32),
        clear=np.zeros(pixels, dtype=np.int32),
        ridged=np.zeros(pixels, dtype=np.bool_),
        rounds=np.zeros(pixels, dtype=np.int16),
    )
    width = max(1, STRIP_BYTES // (4 * (size + 2) * (frames + 1)))
    for first in range(0, pixels, width):
        part = slice(first, first + width)
        for own, series in _batches(covariates[:, :, part], values[:, part], clear[:, part], max(least, 1)):
            _settle(series, first + own, made, least=least, bound=bound)
    return made


def predict(coefficients: F32, covariates: F32) -> F32:
    """Return what the regression says on every date.

    Parameters
    ----------
    coefficients : (1 + covariate, pixel) ndarray of float32
        Constant first; NaN where not fitted.
    covariates : (covariate, time, pixel) ndarray of float32
        NaN where there is none.

    Returns
    -------
    (time, pixel) ndarray of float32
        NaN where a covariate or a coefficient is.

    Raises
    ------
    ShapeError
        If the arrays disagree on covariates or pixels.

    Examples
    --------
    >>> predict(np.array([[3], [-0.5]], dtype=np.float32), np.array([[[0], [4], [np.nan]]], dtype=np.float32)).ravel()
    array([ 3.,  1., nan], dtype=float32)
    """
    size, frames, pixels = covariates.shape
    if coefficients.shape != (size + 1, pixels):
        raise ShapeError(
            f"need coefficients of shape {(size + 1, pixels)} for covariates of shape {covariates.shape}, "
            f"got {coefficients.shape}"
        )
    predicted = np.empty((frames, pixels), dtype=np.float32)
    slopes = coefficients.astype(np.float64)  # slopes of covariates that are nearly the same cancel
    total, term = (np.empty(pixels) for _ in range(2))
    for t in range(frames):  # a frame at a time: buffers that stay in the cache
        total[:] = slopes[0]
        for slope, covariate in zip(slopes[1:], covariates[:, t], strict=True):
            np.multiply(slope, covariate, out=term)
            total += term
        predicted[t] = total
    return predicted


def _by_pixel(covariates: F32, values: F32, clear: Bool) -> tuple[F32, Bool]:
    """Return covariates and values as (covariate + 1, pixel, time + 1), and where dates may be used, (pixel, time).

    Pixels that are picked from it lie in one piece each. The last date is zero: what padding points at.
    """
    size, frames, pixels = covariates.shape
    strip = np.empty((size + 1, pixels, frames + 1), dtype=np.float32)
    strip[:, :, frames] = 0
    used = clear.T.copy()
    for i, field in enumerate((*covariates, values)):
        strip[i, :, :frames] = field.T
        used &= np.isfinite(strip[i, :, :frames])
    return strip, used


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """Pixels' used dates, one after the other, standardised pixel by pixel."""

    rows: F64
    """(pixel, 1 + covariate + 1, date): 1, the covariates and the values; zero in the padding and if constant."""

    used: Bool
    """(pixel, date), False in the padding."""

    mean: F64
    """(pixel, covariate + 1), which was taken off: of the covariates, then of the values."""

    spread: F64
    """(pixel, covariate + 1), which was divided by; 1 where constant."""

    @classmethod
    def of(cls, strip: F32, used: Bool, pixels: NDArray[np.intp], length: int) -> _Series:
        """Gather `pixels` of what `_by_pixel` returned, and pad their dates to `length`."""
        parts, _, frames = strip.shape
        kept: Bool = np.arange(length) < used[pixels].sum(axis=1)[:, None]
        dates = np.full(kept.shape, frames - 1)
        dates[kept] = np.nonzero(used[pixels])[1]
        places = dates + pixels[:, None] * frames
        own = np.empty((len(pixels), parts, length), dtype=np.float32)
        for i, field in enumerate(strip):
            own[:, i] = field.reshape(-1).take(places)
        count = kept.sum(axis=1)[:, None]
        mean = own.sum(axis=2, dtype=np.float64) / count
        largest = np.maximum(own.max(axis=2), -own.min(axis=2)).astype(np.float64)
        rows = np.empty((len(pixels), parts + 1, length))
        rows[:, 0] = kept
        off = np.subtract(own, mean[:, :, None], out=rows[:, 1:])
        off *= kept[:, None]
        sigma = np.sqrt(np.einsum("pid,pid->pi", off, off) / count)
        varies = sigma > CONSTANT * largest
        spread = np.where(varies, sigma, 1)
        off *= (varies / spread)[:, :, None]
        return cls(rows=rows, used=kept, mean=mean, spread=spread)


def _batches(covariates: F32, values: F32, clear: Bool, least: int) -> Iterator[tuple[NDArray[np.intp], _Series]]:
    """Yield those pixels of a strip that have enough dates, together if their dates are padded to the same length."""
    strip, used = _by_pixel(covariates, values, clear)
    count = used.sum(axis=1)
    length = np.where(count >= least, -(-count // LENGTH_STEP) * LENGTH_STEP, 0)
    for padded in np.unique(length[length > 0]).tolist():
        alike = np.flatnonzero(length == padded)
        batch = max(1, BATCH_BYTES // (8 * padded * (2 * len(strip) + 6)))
        for start in range(0, alike.size, batch):
            pixels = alike[start : start + batch]
            yield pixels, _Series.of(strip, used, pixels, padded)


def _settle(series: _Series, pixels: NDArray[np.intp], made: Fit, *, least: int, bound: float) -> None:
    """Fit a batch until no weight changes, and write what comes out to `pixels` of `made`."""
    rows, used = series.rows, series.used
    total = used.sum(axis=1)
    before, heard = np.zeros_like(used), used
    there = np.arange(len(pixels))
    for turn in range(1, ROUNDS + 1):
        weighted = rows * heard[:, None] if turn > 1 else rows  # at first every date counts
        solved = _Solution.of(weighted @ rows.transpose(0, 2, 1))
        residual = np.abs((solved.residual[:, None] @ rows)[:, 0])
        spread = NORMAL * _median(residual, used, total)
        limit = bound * np.maximum(spread, FLOOR * solved.value_spread)
        within = used & (residual <= limit[:, None])
        settled = (within == heard).all(axis=1) | (within == before).all(axis=1)
        settled |= (within.sum(axis=1) < least) | (turn == ROUNDS)
        if settled.any():
            done, own = pixels[there[settled]], there[settled]
            slopes = solved.slopes[settled] * (series.spread[own, -1:] / series.spread[own, :-1])
            constant = series.mean[own, -1] + series.spread[own, -1] * solved.constant[settled]
            made.coefficients[0, done] = constant - (slopes * series.mean[own, :-1]).sum(axis=1)
            made.coefficients[1:, done] = slopes.T
            made.spread[done] = spread[settled] * series.spread[own, -1]
            made.clear[done] = heard[settled].sum(axis=1)
            made.ridged[done] = solved.ridged[settled]
            made.rounds[done] = turn
            going = ~settled
            if not going.any():
                return
            rows, used, total = rows[going], used[going], total[going]
            before, heard, there = heard[going], within[going], there[going]
        else:
            before, heard = heard, within


def _median(sizes: F64, used: Bool, count: NDArray[np.integer]) -> F64:
    """Return (pixel,), the median over the dates that are used."""
    ordered = np.where(used, sizes, np.inf)
    ordered.sort(axis=1)
    pixel = np.arange(len(ordered))
    median: F64 = 0.5 * (ordered[pixel, (count - 1) // 2] + ordered[pixel, count // 2])
    return median


@dataclass(frozen=True, slots=True, kw_only=True)
class _Solution:
    """Least squares in standardised units."""

    constant: F64
    """(pixel,)."""

    slopes: F64
    """(pixel, covariate)."""

    ridged: Bool
    """(pixel,)."""

    value_spread: F64
    """(pixel,), standard deviation of the values that have weight."""

    @property
    def residual(self) -> F64:
        """(pixel, 1 + covariate + 1), what rows of `_Series` are to be multiplied by."""
        return np.concatenate([-self.constant[:, None], -self.slopes, np.ones((len(self.slopes), 1))], axis=1)

    @classmethod
    def of(cls, moments: F64) -> _Solution:
        """Solve the normal equations of (pixel, row, row) weighted sums of products of the rows of a `_Series`."""
        sums = np.ascontiguousarray(moments.transpose(1, 2, 0))  # pixels last: arithmetic over many at a time
        mean = sums[0, 1:] / sums[0, 0]
        covariance = sums[1:, 1:] / sums[0, 0] - mean[:, None] * mean
        size = len(mean) - 1
        diagonal = np.arange(size)
        variance = covariance[diagonal, diagonal]
        varies = variance > CONSTANT**2
        scale = varies / np.sqrt(np.where(varies, variance, 1))
        correlation = covariance[:size, :size] * scale[:, None] * scale
        correlation[diagonal, diagonal] = 1
        solution, ridged = _solve(correlation, covariance[:size, size] * scale)
        slopes = solution * scale
        return cls(
            constant=mean[size] - (slopes * mean[:size]).sum(axis=0),
            slopes=slopes.T,
            ridged=ridged,
            value_spread=np.sqrt(np.maximum(covariance[size, size], 0)),
        )


def _solve(correlation: F64, right: F64) -> tuple[F64, Bool]:
    """Solve small systems, with a ridge where they are ill-conditioned.

    Parameters
    ----------
    correlation : (row, row, pixel) ndarray of float64
        Symmetric, ones on the diagonal.
    right : (row, pixel) ndarray of float64
        Right-hand sides.

    Returns
    -------
    solution : (row, pixel) ndarray of float64
        With `RIDGE` added to the diagonal where there is a ridge.
    ridged : (pixel,) ndarray of bool
        Where the least eigenvalue is below `CONDITION` times the largest.

    Notes
    -----
    Eigenvalues cost ten times as much as an inverse, and the inverse tells where they are needed: the largest is at
    most the trace, which is the number of rows, and the least is at least 1 / trace of the inverse.
    """
    size = len(correlation)
    inverse = _inverse(correlation)
    bound = 1 / (size * np.maximum(np.einsum("iip->p", inverse), 1))
    solution = np.einsum("ijp,jp->ip", inverse, right)
    ridged = np.zeros(right.shape[1], dtype=np.bool_)
    doubtful = np.flatnonzero(bound < CONDITION)
    if doubtful.size:
        values, vectors = np.linalg.eigh(correlation[:, :, doubtful].transpose(2, 0, 1))
        ill = values[:, 0] < CONDITION * values[:, -1]
        ridged[doubtful] = ill
        along = np.einsum("pij,ip->pj", vectors, right[:, doubtful])
        solution[:, doubtful] = np.einsum("pij,pj->ip", vectors, along / (values + RIDGE * ill[:, None]))
    return solution, ridged


def _inverse(matrices: F64) -> F64:
    """Invert (row, row, pixel) positive definite matrices by Gauss-Jordan steps.

    A pivot below `CONDITION` is replaced by it. No eigenvalue is larger than the least pivot, so that such a matrix is
    ill-conditioned; and the inverse has 1 / `CONDITION` or more on its diagonal then, which gives it away.
    """
    inverse = matrices.copy()
    for k in range(len(inverse)):
        pivot = np.maximum(inverse[k, k], CONDITION)
        row, column = inverse[k] / pivot, inverse[:, k].copy()
        inverse -= column[:, None] * row
        inverse[k] = row
        inverse[:, k] = -column / pivot
        inverse[k, k] = 1 / pivot
    return inverse
