"""Calibration of predictions to what was observed, frame by frame.

Regression draws predictions towards the mean. In each frame they are therefore stretched, on both sides of their mean,
until the ends of their distribution lie where those of the observations do. With mean, low (mean of the values between
the 5th and the 15th percentile) and high (between the 85th and the 95th) of the predictions and of the observations,
both over the clear pixels that have a prediction, and d = prediction - mean of the predictions::

    d >= 0:  d / (high - mean of the predictions) * (high - mean of the observations) + mean of the observations
    d <  0:  d / (low  - mean of the predictions) * (low  - mean of the observations) + mean of the observations

These are the scene's means, not a tile's, or tiles would differ along their borders. So tiles bring histograms with
fine bins, `FrameSums`, which add up. A bin also holds the sum of its values, so that means are exact, and a value is
never taken for one that is a bin's width or more away.

Where a distribution has no width to speak of, or a mean lies outside its own ends, there is nothing to stretch by: a
range of the predictions below `LEAST_RANGE`, or on the wrong side of their mean, counts as zero. As published, the
observations' range then takes its place, and the factor is 1. A range of the observations on the wrong side of their
mean counts as zero too, for predictions must not change their order; that is not in the original.

Source: step 9 of the published infilling (Mao, McVicar and Van Niel).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.errors import OptionError, ScratchError, ShapeError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

RANGE = 8.0
"""Bins reach so many spreads of the scene to either side of its location; what is beyond counts in the last ones."""

BINS = 4096
"""Bins of 1/256 spread, which bounds the error of an interval's mean."""

LOW, HIGH = (5, 15), (85, 95)
"""Percentiles between which the ends of a distribution are taken, as published."""

LEAST_RANGE = 1e-3
"""Ranges of the predictions below this, in spreads, count as none: dividing by them would blow up noise."""

OBSERVED, PREDICTED = range(2)
"""Order of the first axis of the sums."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameSums:
    """Histograms of the observations and the predictions of each frame; those of tiles add up."""

    pixels: int
    """Pixels of the domain."""

    clear: I64
    """(time,), those of them that are clear."""

    number: I64
    """(2, time, bin), clear pixels with a prediction whose `OBSERVED` or `PREDICTED` value falls into the bin."""

    total: F64
    """(2, time, bin), the sum of these values."""

    @classmethod
    def of(cls, predicted: F32, observed: F32, clear: Bool, inside: Bool | None = None) -> FrameSums:
        """Sum over the pixels of a tile.

        Parameters
        ----------
        predicted : (time, pixel) ndarray of float32
            Standardised, NaN where missing.
        observed : (time, pixel) ndarray of float32
            Standardised; anything at all where not clear.
        clear : (time, pixel) ndarray of bool
            Where observed and trusted.
        inside : (pixel,) ndarray of bool, optional
            Where values can exist; by default everywhere.

        Raises
        ------
        ShapeError
            If the shapes differ.

        Examples
        --------
        >>> observed = np.array([[1, 2, 3, 0]], dtype=np.float32)
        >>> sums = FrameSums.of(observed / 2, observed, np.array([[True, True, True, False]]))
        >>> sums.mean, sums.cloud_share
        (array([[2.],
               [1.]]), array([0.25]))
        """
        if not predicted.shape == observed.shape == clear.shape:
            raise ShapeError(
                f"predictions {predicted.shape}, observations {observed.shape} and where they are clear {clear.shape} "
                "must have one shape"
            )
        frames, pixels = clear.shape
        if inside is not None and inside.shape != (pixels,):
            raise ShapeError(f"the domain must have one value for each of {pixels} pixels, got {inside.shape}")
        count = np.zeros(frames, dtype=np.int64)
        number, total = np.zeros((2, frames, BINS), dtype=np.int64), np.zeros((2, frames, BINS))
        for t in range(frames):  # a frame at a time: the temporaries stay small
            picked = np.flatnonzero(clear[t] if inside is None else clear[t] & inside)
            count[t] = picked.size
            answers = predicted[t].take(picked)
            known = ~np.isnan(answers)
            if not known.all():
                answers, picked = answers[known], picked[known]
            for kind, values in ((OBSERVED, observed[t].take(picked)), (PREDICTED, answers)):
                bins = _bins(values)
                number[kind, t] = np.bincount(bins, minlength=BINS)
                total[kind, t] = np.bincount(bins, values, BINS)
        domain = pixels if inside is None else int(np.count_nonzero(inside))
        return cls(pixels=domain, clear=count, number=number, total=total)

    def __add__(self, other: FrameSums) -> FrameSums:
        if self.clear.size != other.clear.size:
            raise ShapeError(f"sums of {self.clear.size} and of {other.clear.size} frames don't add up to a scene's")
        return FrameSums(
            pixels=self.pixels + other.pixels,
            clear=self.clear + other.clear,
            number=self.number + other.number,
            total=self.total + other.total,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that `from_arrays` needs to make the very same sums; an empty bin takes one bit.

        >>> zeros = np.zeros((3, 100), dtype=np.float32)
        >>> stored = FrameSums.of(zeros, zeros, zeros == 0).arrays()
        >>> stored["number"], stored["total"].size, stored["filled"].nbytes
        (array([100, 100, 100, 100, 100, 100], dtype=uint8), 6, 3072)
        """
        filled = self.number > 0
        number = self.number[filled]
        return {
            "pixels": np.array(self.pixels),
            "clear": self.clear,
            "filled": np.packbits(filled),
            "number": number.astype(np.min_scalar_type(number.max(initial=0))),
            "total": self.total[filled],
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> FrameSums:
        """Return the sums that `arrays` was called on.

        Raises
        ------
        ScratchError
            If the arrays are of anything else.
        """
        try:
            pixels, clear = int(arrays["pixels"]), arrays["clear"].astype(np.int64)
            shape = (2, clear.size, BINS)
            filled = np.unpackbits(arrays["filled"], count=math.prod(shape)).reshape(shape) > 0
            number, total = np.zeros(shape, dtype=np.int64), np.zeros(shape)
            number[filled] = arrays["number"]
            total[filled] = arrays["total"]
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise ScratchError(f"the arrays {sorted(arrays)} are no sums of a calibration ({error})") from error
        return cls(pixels=pixels, clear=clear, number=number, total=total)

    @property
    def count(self) -> I64:
        """(time,), clear pixels that have a prediction."""
        return np.asarray(self.number[PREDICTED].sum(axis=1))

    @property
    def cloud_share(self) -> F64:
        """(time,), share of the domain that is not clear; zero where there is no domain."""
        return np.asarray((self.pixels - self.clear) / max(self.pixels, 1))

    @property
    def mean(self) -> F64:
        """(2, time), exact means, NaN where there is nothing."""
        total, count = self.total.sum(axis=2), np.stack([self.count] * 2)
        return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))

    def interval_mean(self, low: float, high: float) -> F64:
        """Return the means of the values between two percentiles.

        Percentiles are those of `numpy.percentile`: of n ordered values, numbered from zero, the values between them
        are those numbered from low (n - 1) / 100 to high (n - 1) / 100. A bin that lies within counts whole; one that
        lies there in part, with as many values as do, each at the bin's mean. No value is thus off by a bin's width,
        1/256, within `RANGE`. Where n is so small that no value lies between, it is the one nearest to the middle.

        Parameters
        ----------
        low, high : float
            Percentiles.

        Returns
        -------
        (2, time) ndarray of float64
            NaN where there is nothing.

        Examples
        --------
        >>> values = np.linspace(0, 1, 101, dtype=np.float32)[None]
        >>> FrameSums.of(values, 2 * values, values >= 0).interval_mean(5, 15).round(2)
        array([[0.2],
               [0.1]])
        """
        means = np.full(self.number.shape[:2], np.nan)
        for row in np.ndindex(means.shape):  # a row at a time: the temporaries stay small
            bins = np.flatnonzero(self.number[row])
            number = self.number[row][bins]
            after = np.cumsum(number)
            if not bins.size:
                continue
            last = int(after[-1]) - 1
            first, stop = math.ceil(low * last / 100), math.floor(high * last / 100) + 1
            if first >= stop:
                first = round((low + high) * last / 200)
                stop = first + 1
            within = (np.minimum(after, stop) - np.maximum(after - number, first)).clip(0)
            means[row] = (within * (self.total[row][bins] / number)).sum() / within.sum()
        return means


def _bins(values: F32) -> NDArray[np.intp]:
    """Return the bin of each value."""
    place = (values + np.float32(RANGE)) * np.float32(BINS / (2 * RANGE))
    return place.clip(0, BINS - 1).astype(np.intp)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """Two lines a frame that meet at the mean; ``prediction`` itself for frames that are left alone."""

    calibrated: Bool
    """(time,), False where a frame is left alone."""

    predicted: F64
    """(time,), mean of the predictions; zero where left alone."""

    observed: F64
    """(time,), mean of the observations; zero where left alone."""

    below: F64
    """(time,), slope below the mean; one where left alone."""

    above: F64
    """(time,), slope above the mean; one where left alone."""

    @classmethod
    def of(cls, sums: FrameSums, *, least_clear: float, cloud_threshold: float) -> Calibration:
        """Compare the distributions of the predictions and of the observations.

        Parameters
        ----------
        sums : FrameSums
            The scene's.
        least_clear : float
            A frame with fewer clear pixels that have a prediction is left alone, as is one without any.
        cloud_threshold : float
            So is a frame of which this share of the domain or more is not clear.

        Raises
        ------
        OptionError
            If the threshold is no share.

        Examples
        --------
        >>> observed = np.linspace(-1, 1, 201, dtype=np.float32)[None]
        >>> sums = FrameSums.of(observed / 4 + 1, observed, observed > -2)
        >>> calibration = Calibration.of(sums, least_clear=20, cloud_threshold=0.5)
        >>> calibration.calibrated, calibration.above.round(2), calibration.predicted
        (array([ True]), array([4.]), array([1.]))
        """
        if not 0 <= cloud_threshold <= 1:
            raise OptionError(f"cloud_threshold is a share of the domain, 0 to 1, got {cloud_threshold}")
        calibrated = (sums.count >= max(1.0, least_clear)) & (sums.cloud_share < cloud_threshold)
        mean, low, high = (
            np.where(calibrated, part, 0.0) for part in (sums.mean, sums.interval_mean(*LOW), sums.interval_mean(*HIGH))
        )
        return cls(
            calibrated=calibrated,
            predicted=mean[PREDICTED],
            observed=mean[OBSERVED],
            below=_factor(mean - low),
            above=_factor(high - mean),
        )


def _factor(ranges: F64) -> F64:
    """Return (time,) what to stretch by, given (2, time) the ranges of the observations and of the predictions."""
    wide = ranges[PREDICTED] >= LEAST_RANGE
    return np.asarray(np.divide(ranges[OBSERVED].clip(0), ranges[PREDICTED], out=np.ones(wide.size), where=wide))


def calibrate(calibration: Calibration, predicted: F32) -> F32:
    """Return the predictions, stretched to the observations of their frame.

    Parameters
    ----------
    calibration : Calibration
        The scene's.
    predicted : (time, pixel) ndarray of float32
        Standardised, NaN where missing.

    Returns
    -------
    (time, pixel) ndarray of float32
        NaN where `predicted` is. Each sample follows from itself alone; those of frames that are left alone come back
        bit for bit.

    Raises
    ------
    ShapeError
        If the calibration is of another number of frames.

    Examples
    --------
    >>> one = np.ones(1)
    >>> lines = Calibration(calibrated=one > 0, predicted=one, observed=5 * one, below=2 * one, above=3 * one)
    >>> calibrate(lines, np.array([[0, 1, 2, np.nan]], dtype=np.float32))
    array([[ 3.,  5.,  8., nan]], dtype=float32)
    """
    frames = calibration.calibrated.size
    if predicted.shape[0] != frames:
        raise ShapeError(f"a calibration of {frames} frames can't do {predicted.shape[0]}; take that of this scene")
    answer = np.empty(predicted.shape, dtype=np.float32)
    for t in range(frames):
        row = answer[t]
        if not calibration.calibrated[t]:
            row[:] = predicted[t]
            continue
        np.subtract(predicted[t], np.float32(calibration.predicted[t]), out=row)
        # The two lines, without asking each sample on which it lies: what is above the mean plus what is below.
        lower = np.minimum(row, np.float32(0))
        lower *= np.float32(calibration.below[t])
        np.maximum(row, np.float32(0), out=row)
        row *= np.float32(calibration.above[t])
        row += lower
        row += np.float32(calibration.observed[t])
    return answer
