"""How far predictions are from the truth, summed frame by frame so that no cube is ever held."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.errors import ShapeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores over the gap samples whose truth is known; NaN where there was nothing to score."""

    samples: int
    """Gap samples with a known truth."""

    filled: float
    """Share of them that got a value; the errors below are over these."""

    mae: float
    """Mean absolute error."""

    rmse: float
    """Root of the mean squared error."""

    bias: float
    """Mean of predicted minus truth."""

    r2: float
    """1 - squared error / squared deviation of the truth from its mean."""

    coverage: float
    """Share of the truth inside the interval, over the samples that have one."""

    width: float
    """Mean full width of the interval."""

    def as_dict(self) -> dict[str, float | int | None]:
        """Return plain numbers for JSON, which has no NaN.

        >>> Tally().scores().as_dict()["mae"] is None
        True
        """
        return {name: None if np.isnan(value) else value for name, value in asdict(self).items()}


class Tally:
    """Sums that make `Scores`; add frames in any number, and join tallies of parts.

    Examples
    --------
    >>> tally = Tally()
    >>> tally.add(truth=np.array([1.0, 2.0, 3.0]), predicted=np.array([1.5, 2.0, np.nan]))
    >>> scores = tally.scores()
    >>> scores.samples, round(scores.filled, 3), scores.mae, scores.bias
    (3, 0.667, 0.25, 0.25)
    """

    def __init__(self) -> None:
        self._samples = 0
        self._filled = 0
        self._error = 0.0
        self._absolute = 0.0
        self._squared = 0.0
        self._mean = 0.0
        self._deviation = 0.0
        self._with_interval = 0
        self._covered = 0
        self._width = 0.0

    def add(
        self,
        truth: NDArray[Any],
        predicted: NDArray[Any],
        *,
        half_width: NDArray[Any] | None = None,
        where: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count some samples in.

        Parameters
        ----------
        truth : ndarray
            NaN where it isn't known; such samples are not counted.
        predicted : ndarray of the same shape
            NaN where unfilled.
        half_width : ndarray of the same shape, optional
            Half the width of the interval; NaN where there is none.
        where : ndarray of bool of the same shape, optional
            True at the samples to count; all of them if not given.
        """
        for name, array in (("predicted", predicted), ("half_width", half_width), ("where", where)):
            if array is not None and array.shape != truth.shape:
                raise ShapeError(f"truth and {name} must have one shape, got {truth.shape} and {array.shape}")
        known = np.isfinite(truth)
        if where is not None:
            known &= where
        target = truth[known].astype(np.float64)
        answer = predicted[known].astype(np.float64)
        reached = np.isfinite(answer)
        self._samples += int(target.size)
        target, answer = target[reached], answer[reached]
        if not target.size:
            return
        error = answer - target
        self._error += float(error.sum())
        self._absolute += float(np.abs(error).sum())
        self._squared += float(np.square(error).sum())
        mean = float(target.mean())
        self._merge_moments(int(target.size), mean, float(np.square(target - mean).sum()))
        if half_width is not None:
            half = half_width[known].astype(np.float64)[reached]
            has = np.isfinite(half)
            self._with_interval += int(has.sum())
            self._covered += int((np.abs(error[has]) <= half[has]).sum())
            self._width += float(2.0 * half[has].sum())

    def _merge_moments(self, count: int, mean: float, deviation: float) -> None:
        """Chan, Golub and LeVeque (1983): exact where sums of squares would cancel."""
        total = self._filled + count
        shift = mean - self._mean
        self._deviation += deviation + shift * shift * self._filled * count / total
        self._mean += shift * count / total
        self._filled = total

    def join(self, other: Tally) -> None:
        """Count another tally's samples in."""
        if other._filled:
            self._merge_moments(other._filled, other._mean, other._deviation)
        self._samples += other._samples
        self._error += other._error
        self._absolute += other._absolute
        self._squared += other._squared
        self._with_interval += other._with_interval
        self._covered += other._covered
        self._width += other._width

    def scores(self) -> Scores:
        """Return the scores of all samples so far."""
        n = self._filled

        def mean(total: float, count: int) -> float:
            return total / count if count else float("nan")

        return Scores(
            samples=self._samples,
            filled=mean(n, self._samples),
            mae=mean(self._absolute, n),
            rmse=mean(self._squared, n) ** 0.5,
            bias=mean(self._error, n),
            r2=1.0 - self._squared / self._deviation if self._deviation > 0 else float("nan"),
            coverage=mean(self._covered, self._with_interval),
            width=mean(self._width, self._with_interval),
        )
