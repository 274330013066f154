"""Whether a choice of methods holds up on gaps that took no part in choosing, and against the default.

What is best on the very gaps that it was chosen on is partly so by chance, and the default learns for minutes which of
all methods to lean on: it stays unless another is surely better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.comparison import ENOUGH_FRAMES
from stpipe.core.ports import JSON

GAIN = 0.01
"""Two methods have to be better than one by this share of the error over all samples: they cost the sum of both. By as
much has whatever was chosen to be better than the default."""

ENOUGH = 200
"""Fewer samples than this decide nothing by themselves."""

ENOUGH_CLUSTERS = 10
"""The same for clusters of samples that are wrong together."""

RESAMPLES = 500
"""Times that the bootstrap draws."""

CHANCE = 0.95
"""Share of the bootstrap that has to find the second method better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What gaps that took no part in choosing say: mean absolute errors on each draw that hid anything, in spreads.

    Empty where there was nothing to compare, or nothing to compare on.
    """

    single: tuple[float, ...] = ()
    """Of the single winner."""

    pair: tuple[float, ...] = ()
    """Of the best two methods."""

    default: tuple[float, ...] = ()
    """Of the default."""

    pair_holds: bool = False
    """Whether two methods are better than one here too."""

    choice_holds: bool = True
    """Whether what was chosen, one method or two, is surely better than the default, if there is one."""

    @classmethod
    def from_json(cls, document: dict[str, JSON]) -> Verdict:
        """Return what `dataclasses.asdict` and JSON made of a verdict."""
        return cls(
            single=tuple(document["single"]),
            pair=tuple(document["pair"]),
            default=tuple(document["default"]),
            pair_holds=document["pair_holds"],
            choice_holds=document["choice_holds"],
        )

    @property
    def chosen(self) -> tuple[float, ...]:
        """The errors of what was chosen."""
        return self.pair if self.pair_holds else self.single


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checks:
    """Absolute errors on gaps that took no part in choosing, all of the same samples; in spreads of the cube."""

    single: NDArray[np.float32]
    """(sample,), those of the single winner."""

    pair: NDArray[np.float32] | None
    """(sample,), those of the best two methods, if there are such."""

    default: NDArray[np.float32] | None
    """(sample,), those of the default, if there is one."""

    clusters: NDArray[np.intp]
    """(sample,), parts of frames."""

    frames: NDArray[np.intp]
    """(sample,), their passes."""

    draws: NDArray[np.intp]
    """(sample,), which draw hid them."""


def check(found: Checks, rng: np.random.Generator) -> Verdict:
    """Tell whether a choice holds up on gaps set apart.

    Two methods have to be better than one on every draw. What is chosen has to be so against the default as well, and
    by more than the bootstrap says could be chance.

    Parameters
    ----------
    found : Checks
        Of what was chosen.
    rng : numpy Generator
        For the bootstrap.

    Examples
    --------
    >>> clusters, draws = np.arange(4000) // 40, np.arange(4000) // 2000
    >>> one, two = np.full(4000, 0.5, dtype=np.float32), np.full(4000, 0.25, dtype=np.float32)
    >>> found = Checks(single=one, pair=two, default=one, clusters=clusters, frames=clusters // 4, draws=draws)
    >>> verdict = check(found, np.random.default_rng(0))
    >>> verdict.pair_holds, verdict.choice_holds, verdict.chosen
    (True, True, (0.25, 0.25))
    """
    there, draw = np.unique(found.draws, return_inverse=True)

    def means(errors: NDArray[np.float32] | None) -> tuple[float, ...]:
        if errors is None or not errors.size:
            return ()
        return tuple((np.bincount(draw, weights=errors, minlength=there.size) / np.bincount(draw)).tolist())

    single, pair, default = (means(errors) for errors in (found.single, found.pair, found.default))
    pair_holds = found.pair is not None and better_on_each(pair, single)
    chosen, errors = (pair, found.pair) if pair_holds else (single, found.single)
    choice_holds = found.default is None or (
        errors is not None
        and better_on_each(chosen, default)
        and _surely_smaller(errors, found.default, witnesses(found.frames, found.clusters), rng)
    )
    return Verdict(single=single, pair=pair, default=default, pair_holds=pair_holds, choice_holds=choice_holds)


def better_on_each(errors: Sequence[float], others: Sequence[float]) -> bool:
    """Tell whether errors are smaller than others by `GAIN`, and larger on no draw; False where nothing was tried.

    >>> better_on_each((0.5, 0.5), (0.6, 0.5)), better_on_each((0.5, 0.3), (0.4, 0.5)), better_on_each((), ())
    (True, False, False)
    """
    return bool(errors) and gain(others, errors) >= GAIN and all(a <= b for a, b in zip(errors, others, strict=True))


def gain(before: Sequence[float], after: Sequence[float]) -> float:
    """Return how much less error there is after than before, as a share.

    >>> gain((0.5, 0.5), (0.25, 0.5))
    0.25
    """
    return 1 - sum(after) / sum(before) if sum(before) else 0.0


def _surely_smaller(
    errors: NDArray[np.float32], others: NDArray[np.float32], number: NDArray[np.intp] | None, rng: np.random.Generator
) -> bool:
    """Tell whether errors are smaller than others by more than chance; False where too few samples could tell."""
    if errors.size < ENOUGH or number is None:
        return False
    gains = np.bincount(number, weights=others) - np.bincount(number, weights=errors)
    return beyond_chance(drawn_anew(gains.size, rng) @ gains)


def witnesses(frames: NDArray[np.intp], clusters: NDArray[np.intp]) -> NDArray[np.intp] | None:
    """Count what samples are wrong together, from 0: frames, or parts of them where there are few, or None.

    Parameters
    ----------
    frames, clusters : (sample,) ndarray of int
        Which frame, and which part of a frame, each sample is of.

    Returns
    -------
    (sample,) ndarray of int, or None
        None where parts of frames are too few as well.

    Examples
    --------
    >>> numbers = np.arange(60)
    >>> [int(witnesses(numbers // length, numbers).max()) + 1 for length in (3, 10)]
    [20, 60]
    >>> witnesses(0 * numbers, 0 * numbers)
    """
    for numbers, enough in ((frames, ENOUGH_FRAMES), (clusters, ENOUGH_CLUSTERS)):
        there, number = np.unique(numbers, return_inverse=True)
        if there.size >= enough:
            return number
    return None


def drawn_anew(clusters: int, rng: np.random.Generator) -> NDArray[np.integer]:
    """Return (`RESAMPLES`, cluster) how often the bootstrap draws each cluster.

    >>> drawn_anew(7, np.random.default_rng(0)).sum(axis=1).tolist() == [7] * RESAMPLES
    True
    """
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), RESAMPLES)


def beyond_chance(gains: NDArray[np.float64]) -> bool:
    """Tell whether nearly all that the bootstrap drew are gains.

    >>> beyond_chance(np.array([-1.0] + [1.0] * 99)), beyond_chance(np.array([-1.0] * 9 + [1.0] * 91))
    (True, False)
    """
    return bool(np.quantile(gains, 1 - CHANCE) > 0)
