"""Intervals that hold: half-widths scaled until they cover what they say, class by class.

Split conformal prediction. On samples that took no part in the learning, the error is divided by the method's own
scale of it; the quantile of these ratios, with the rank of the next sample counted in, is the factor that the scale
must be multiplied with. If the next sample is drawn like those, its truth lies inside with at least the probability
that was asked for, whatever the method and however wrong its scale. A factor for each class (Mondrian) makes it hold
in each class.

Sources: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman (2018), Distribution-free predictive inference for regression,
JASA 113; Vovk, Gammerman and Shafer (2005), Algorithmic learning in a random world, for classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.gap_classes import CLASS_COUNT, INTERVAL_COUNT, TIME_CLASSES
from stpipe.errors import OptionError, ShapeError

ENOUGH = 200
"""Samples from which on a class stands for itself; with fewer it borrows from wider ones."""

ENOUGH_GROUPS = 5
"""The same for groups of samples that are wrong together."""

USUAL_LIKENESS = 0.3
"""Intraclass correlation of misses in a frame that is assumed until there are groups enough to tell."""

LIKENESS_GROUPS = 2
"""Number of groups that it counts for."""

HEDGE = 0.5
"""How much of the room that a new group asks for in theory is given: a figure of measurement, not of theory. All of it
held 91.6 % of the truth in the mean of 19 rows of held-out data where 90 % were asked for."""

MOST_WEIGHT = 5.0
"""A sample of a class that is rare among artificial gaps and common among real ones counts for so many at most."""

SMALLEST_SCALE = 1e-6
"""Smallest scale of the error, in spreads of the scene: what is called exact is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a method's half-widths must be multiplied with, class by class."""

    coverage: float
    """Share of the truth that the intervals are to hold."""

    factors: tuple[float, ...]
    """One a class, see `stpipe.core.gap_classes.interval_class`."""

    samples: tuple[int, ...]
    """Samples of each class that it was calibrated on."""

    def __post_init__(self) -> None:
        check_coverage(self.coverage)
        if len(self.factors) != len(self.samples):
            raise ShapeError(f"a calibration needs one factor a class, got {len(self.factors)} and {len(self.samples)}")

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads.

        >>> made = Calibration(coverage=0.9, factors=(1.5, 2.0), samples=(300, 0))
        >>> Calibration.from_json(made.as_json()) == made
        True
        """
        return {"coverage": self.coverage, "factors": list(self.factors), "samples": list(self.samples)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Calibration:
        """Return the calibration that `as_json` wrote."""
        return cls(
            coverage=float(document["coverage"]),
            factors=tuple(float(factor) for factor in document["factors"]),
            samples=tuple(int(count) for count in document["samples"]),
        )


def check_coverage(coverage: float) -> None:
    """Refuse a coverage that no interval can have."""
    if not 0 < coverage < 1:
        raise OptionError(f"the coverage of an interval must lie between 0 and 1, such as 0.9, got {coverage:g}")


def conformal_quantile(
    ratios: NDArray[np.floating], coverage: float, weights: NDArray[np.float64] | None = None
) -> float:
    """Return the smallest value that a further one of the kind exceeds with a probability of 1 - coverage at most.

    Parameters
    ----------
    ratios : (n,) ndarray
        Finite, at least one.
    coverage : float
        Between 0 and 1.
    weights : (n,) ndarray, optional
        How much each counts; the further one counts as much as the mean of them.

    Returns
    -------
    float
        The value of rank ``ceil((n + 1) x coverage)``; the largest where n is too small for that.

    Examples
    --------
    >>> conformal_quantile(np.arange(1.0, 20.0), coverage=0.9)
    18.0
    """
    if weights is None:
        rank = min(math.ceil((ratios.size + 1) * coverage - 1e-9), ratios.size)
        return float(np.partition(ratios, rank - 1)[rank - 1])
    order = np.argsort(ratios, kind="stable")
    reached = np.cumsum(weights[order])
    goal = (reached[-1] + weights.mean()) * coverage * (1 - 1e-12)
    return float(ratios[order[min(int(np.searchsorted(reached, goal)), ratios.size - 1)]])


def unlearned_factor(coverage: float) -> float:
    """Return what turns a 90 % half-width of a normal distribution into one of another coverage.

    >>> round(unlearned_factor(0.9), 6), round(unlearned_factor(0.5), 3)
    (1.0, 0.41)
    """
    normal = NormalDist()
    return normal.inv_cdf(0.5 + coverage / 2) / normal.inv_cdf(0.95)


def calibrate(
    errors: NDArray[np.floating],
    scales: NDArray[np.floating],
    classes: NDArray[np.integer],
    coverage: float,
    *,
    groups: NDArray[np.integer] | None = None,
    wanted: NDArray[np.integer] | None = None,
) -> Calibration:
    """Return the factors that make a method's half-widths hold.

    Samples of one frame are wrong together, so that the next frame is a new one, and not so many more of the same:
    where shares of misses differ between groups, the quantile is taken at ``coverage x (1 + HEDGE x alike / number)``,
    with the groups' number and their intraclass correlation of misses, at most half of the way up to one.

    A class with n < `ENOUGH` samples, or m < `ENOUGH_GROUPS` groups, takes only ``n / ENOUGH`` or
    ``m / ENOUGH_GROUPS`` of its own factor and the rest of that of all classes at the same distance in space, which
    borrow from the factor of all samples by the same rule. Speckle borrows from what is as close to observations first.

    Parameters
    ----------
    errors : (n,) ndarray
        Predicted minus truth, standardised; those that are not finite do not count.
    scales : (n,) ndarray
        The method's half-widths, standardised; where NaN, the error is taken against one spread of the scene.
    classes : (n,) ndarray of int
        See `stpipe.core.gap_classes.interval_class`.
    coverage : float
        Between 0 and 1.
    groups : (n,) ndarray of int, optional
        The frame of each sample, counted from 0; every sample stands for itself unless given.
    wanted : (`INTERVAL_COUNT`,) ndarray of int, optional
        How many gap samples of each class there are to fill. What classes borrow from others is then made of samples
        as they are in these gaps, by half; whole frames that were hidden to learn from don't widen what there is to
        fill under small clouds.

    Notes
    -----
    Weights of classes after Tibshirani, Barber, Candes and Ramdas (2019), Conformal prediction under covariate shift,
    NeurIPS 32.

    Quantiles over groups after Dunn, Wasserman and Ramdas (2022), Distribution-free prediction sets with random
    effects, JASA 118, which is the case of an intraclass correlation of one.

    Examples
    --------
    >>> errors = np.linspace(-1, 1, 999)
    >>> made = calibrate(errors, np.full(999, 0.1), np.zeros(999, dtype=int), coverage=0.9)
    >>> round(made.factors[0], 2), made.samples[:2]
    (9.02, (999, 0))
    """
    check_coverage(coverage)
    if not errors.shape == scales.shape == classes.shape == (classes if groups is None else groups).shape:
        raise ShapeError(
            f"errors, scales, classes and groups must have one shape, got {errors.shape}, {scales.shape}, "
            f"{classes.shape} and {None if groups is None else groups.shape}"
        )
    ratios = np.abs(errors.astype(np.float64)) / usable(scales)
    known = np.isfinite(ratios)
    ratios, classes = ratios[known], classes[known]
    units = None if groups is None else groups[known]
    weights = None if wanted is None else _weights(classes, wanted)

    def drawn_towards(wider: float, chosen: NDArray[np.bool_]) -> float:
        if not chosen.any():
            return wider
        mine = ratios[chosen]
        counts = None if weights is None else weights[chosen]
        number, alike = (np.inf, 0.0) if units is None else likeness(mine, units[chosen], coverage, counts)
        level = min(coverage * (1 + HEDGE * alike / number), (1 + coverage) / 2)
        share: float = min(1.0, mine.size / ENOUGH, number / ENOUGH_GROUPS)
        return share * conformal_quantile(mine, level, counts) + (1 - share) * wider

    everything = drawn_towards(unlearned_factor(coverage), np.ones(ratios.shape, dtype=bool))
    factors = []
    speckle, rim = classes >= CLASS_COUNT, classes < TIME_CLASSES
    near = drawn_towards(everything, speckle | rim)
    for first in range(0, INTERVAL_COUNT, TIME_CLASSES):
        wider = near if first >= CLASS_COUNT else everything
        alike = drawn_towards(wider, classes // TIME_CLASSES == first // TIME_CLASSES)
        factors += [drawn_towards(alike, classes == number) for number in range(first, first + TIME_CLASSES)]
    counts = np.bincount(classes, minlength=INTERVAL_COUNT)
    return Calibration(coverage=coverage, factors=tuple(factors), samples=tuple(int(count) for count in counts))


def _weights(classes: NDArray[np.integer], wanted: NDArray[np.integer]) -> NDArray[np.float64] | None:
    """Return how much a sample of each class counts, so that their shares are halfway to those of what is wanted."""
    if not wanted.sum() or not classes.size:
        return None
    have = np.bincount(classes, minlength=INTERVAL_COUNT) / classes.size
    share = (have + wanted / wanted.sum()) / 2
    return np.asarray(np.minimum(share / np.maximum(have, 1e-12), MOST_WEIGHT)[classes])


def likeness(
    ratios: NDArray[np.float64],
    groups: NDArray[np.integer],
    coverage: float,
    weights: NDArray[np.float64] | None = None,
) -> tuple[float, float]:
    """Return the effective number of groups, and the intraclass correlation of misses in them.

    The number is ``sum(n)**2 / sum(n**2)`` over the groups' sizes. The correlation is the variance of the groups'
    shares of misses, weighted by size, over that of single misses, drawn towards `USUAL_LIKENESS` where groups are few.

    >>> ratios, groups = np.arange(40) % 10.0, np.arange(40) // 10
    >>> number, alike = likeness(ratios, groups, coverage=0.8)
    >>> number, round(alike, 3)  # every group has the same misses
    (4.0, 0.1)
    """
    counts = np.ones(ratios.size) if weights is None else weights
    missed = np.asarray(ratios > conformal_quantile(ratios, coverage, weights), dtype=np.float64) * counts
    sizes = np.bincount(groups, weights=counts)
    shares = np.bincount(groups, weights=missed)[sizes > 0] / sizes[sizes > 0]
    parts = sizes[sizes > 0] / counts.sum()
    number = 1 / float(np.dot(parts, parts))
    overall = float(missed.sum() / counts.sum())
    between = float(np.dot(parts, np.square(shares - overall)))
    alike = between / (overall * (1 - overall)) if 0 < overall < 1 else USUAL_LIKENESS
    return number, (number * alike + LIKENESS_GROUPS * USUAL_LIKENESS) / (number + LIKENESS_GROUPS)


def usable(scales: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return scales without NaN, which becomes one spread, and without zeros.

    >>> usable(np.array([0.5, np.nan, 0.0]))
    array([5.e-01, 1.e+00, 1.e-06])
    """
    one = scales.dtype.type(1)
    clean: NDArray[np.floating] = np.maximum(np.where(np.isnan(scales), one, scales), scales.dtype.type(SMALLEST_SCALE))
    return clean


def widths(calibration: Calibration, scales: NDArray[np.float32], classes: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return calibrated half-widths.

    Parameters
    ----------
    calibration : Calibration
        From `calibrate`.
    scales : ndarray of float32
        The method's half-widths; NaN where it has none.
    classes : ndarray of int of the same shape
        See `stpipe.core.gap_classes.interval_class`.

    Examples
    --------
    >>> twice = Calibration(coverage=0.9, factors=(2.0,), samples=(999,))
    >>> widths(twice, np.array([0.5, np.nan], dtype=np.float32), np.array([0, 0]))
    array([1., 2.], dtype=float32)
    """
    factors = np.array(calibration.factors, dtype=np.float32)
    return np.asarray(factors[classes] * usable(scales), dtype=np.float32)
