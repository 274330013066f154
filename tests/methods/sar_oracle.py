"""Infilling from radar the slow way: step by step as it is described, pixel by pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TALWAR, MAD = 2.795, 1.4826
"""Residuals beyond so many spreads get no weight; a normal distribution's spread in median absolute deviations."""

CONDITION, RIDGE = 1e-6, 1e-4
"""Correlations whose least eigenvalue is below this share of the largest get so much on their diagonal."""


def slow_composite(images: np.ndarray, days: np.ndarray, frame_days: np.ndarray, window: float) -> np.ndarray:
    """Mean power of the images in [frame - window, frame + window), without edge noise, in dB."""
    made = np.full((len(frame_days), *images.shape[1:]), np.nan)
    for t, frame in enumerate(frame_days):
        near = [image.astype(np.float64) for image, day in zip(images, days, strict=True) if -window <= day - frame]
        near = near[: sum(-window <= day - frame < window for day in days)]
        for y, x in np.ndindex(images.shape[1:]):
            power = [10 ** (image[y, x] / 10) for image in near if image[y, x] > -40]
            if power:
                made[t, y, x] = 10 * math.log10(sum(power) / len(power))
    return made


def median_of_nine(plane: np.ndarray) -> np.ndarray:
    made = np.full(plane.shape, np.nan)
    for y, x in np.argwhere(np.isfinite(plane)):
        square = plane[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].ravel().tolist()
        ordered = sorted(value for value in square if not math.isnan(value))
        made[y, x] = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return made


def mean_around(plane: np.ndarray) -> np.ndarray:
    made = np.full(plane.shape, np.nan)
    for y, x in np.argwhere(np.isfinite(plane)):
        square = plane[max(y - 10, 0) : y + 11, max(x - 10, 0) : x + 11]
        known = square[~np.isnan(square)]
        made[y, x] = known.sum() / known.size
    return made


def slow_covariates(composites: list[np.ndarray]) -> np.ndarray:
    """(4 x polarisation, t, y, x) in the published order."""
    kinds: list[list[np.ndarray]] = [[], [], [], []]
    for images in composites:
        own = [np.full(images.shape, np.nan) for _ in kinds]
        for t, plane in enumerate(images):
            if np.isfinite(plane).any():
                scene = np.where(np.isfinite(plane), np.nanmean(plane), np.nan)
                around = mean_around(plane)
                for kind, band in zip(own, (scene, plane - scene, around, plane - around), strict=True):
                    kind[t] = median_of_nine(band)
        for kind, band in zip(kinds, own, strict=True):
            kind.append(band)
    return np.array([band for kind in kinds for band in kind])


@dataclass(frozen=True)
class PixelFit:
    """One pixel's regression: constant and slopes, what they leave over, dates that it had and that counted."""

    coefficients: np.ndarray
    spread: float
    used: int
    kept: int
    ridged: bool


def least_squares(rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Constant and slopes; with a ridge where the correlations of the covariates are ill-conditioned."""
    centre, spread = rows.mean(axis=0), rows.std(axis=0)
    scaled = (rows - centre) / spread
    correlation = scaled.T @ scaled / len(rows)
    eigenvalues = np.linalg.eigvalsh(correlation)
    if eigenvalues[0] >= CONDITION * eigenvalues[-1]:
        return np.linalg.lstsq(np.column_stack([np.ones(len(rows)), rows]), values, rcond=None)[0], False
    ridge = RIDGE * np.trace(correlation) / len(correlation) * np.eye(len(correlation))
    slopes = np.linalg.solve(correlation + ridge, scaled.T @ (values - values.mean()) / len(rows)) / spread
    return np.array([values.mean() - slopes @ centre, *slopes]), True


def slow_fit(covariates: np.ndarray, values: np.ndarray, clear: np.ndarray, least: int) -> PixelFit | None:
    """Iteratively reweighted least squares over the dates of one pixel, (covariate, t) and (t,)."""
    dates = clear & np.isfinite(covariates).all(axis=0)
    if dates.sum() < least:
        return None
    rows, values = covariates[:, dates].T.astype(np.float64), values[dates].astype(np.float64)
    before, weights = np.zeros(len(values), dtype=bool), np.ones(len(values), dtype=bool)
    for turn in range(20):
        solution, ridged = least_squares(rows[weights], values[weights])
        residual = np.abs(values - solution[0] - rows @ solution[1:])
        spread = MAD * np.median(residual)
        within = residual <= TALWAR * spread
        circling = np.array_equal(within, weights) or np.array_equal(within, before)
        if circling or within.sum() < least or turn == 19:
            break
        before, weights = weights, within
    return PixelFit(solution, spread, len(values), int(weights.sum()), ridged)


def slow_smooth(series: np.ndarray, share: float | None, explained: float | None) -> np.ndarray:
    """Project (t, pixel) on the leading components, missing ones at their frame's mean."""
    there = np.isfinite(series).any(axis=1)
    some = np.isfinite(series).any(axis=0)
    own = series[there][:, some]
    means = np.nanmean(own, axis=1, keepdims=True)
    centred = np.where(np.isfinite(own), own - means, 0)
    variances, vectors = np.linalg.eigh(centred @ centred.T / centred.shape[1])
    variances, vectors = variances[::-1], vectors[:, ::-1]
    if share is not None:
        number = math.ceil(share * len(own) - 1e-9)
    else:
        number = 1
        while variances[:number].sum() < explained * variances.sum():
            number += 1
    vectors = vectors[:, :number]
    made = series.copy()
    made[np.ix_(there, some)] = np.where(np.isfinite(own), vectors @ (vectors.T @ centred) + means, np.nan)
    return made


def between(values: np.ndarray, low: float, high: float) -> float:
    lowest, highest = np.percentile(values, (low, high))
    return float(values[(values >= lowest) & (values <= highest)].mean())


def slow_calibrate(
    series: np.ndarray, values: np.ndarray, clear: np.ndarray, inside: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Stretch each frame of (t, pixel) to what was observed; and which frames were."""
    made, stretched = series.copy(), np.zeros(len(series), dtype=bool)
    for t, frame in enumerate(series):
        both = clear[t] & inside & np.isfinite(frame)
        if (inside & ~clear[t]).sum() >= threshold * inside.sum() or both.sum() < 100:
            continue
        stretched[t] = True
        mean, low, high = ([f(v[both]) for v in (frame, values[t])] for f in (np.mean, lowest_tenth, highest_tenth))
        off = frame - mean[0]
        above = (high[1] - mean[1]) / (high[0] - mean[0])
        below = (low[1] - mean[1]) / (low[0] - mean[0])
        made[t] = np.where(off >= 0, off * above, off * below) + mean[1]
    return made, stretched


def lowest_tenth(values: np.ndarray) -> float:
    return between(values, 5, 15)


def highest_tenth(values: np.ndarray) -> float:
    return between(values, 85, 95)


@dataclass(frozen=True)
class Slow:
    """What the regressions of all pixels say."""

    predicted: np.ndarray
    """(t, pixel) of the regression."""

    fits: list[PixelFit | None]
    """Of each pixel."""

    @classmethod
    def of(cls, covariates: np.ndarray, values: np.ndarray, clear: np.ndarray, least: int) -> Slow:
        values, clear = values.reshape(len(values), -1), clear.reshape(len(clear), -1)
        predicted = np.full(values.shape, np.nan)
        fits = []
        for pixel in range(values.shape[1]):
            own = covariates[:, :, pixel]
            fits.append(slow_fit(own, values[:, pixel], clear[:, pixel], least))
            if fits[-1] is not None:
                predicted[:, pixel] = fits[-1].coefficients[0] + fits[-1].coefficients[1:] @ own
        return cls(predicted, fits)

    @property
    def spread(self) -> np.ndarray:
        return np.array([np.nan if one is None else one.spread for one in self.fits])
