"""Which method fills what, by the errors of several on the same artificial gaps.

The method with the lowest mean absolute error wins. Another one may take over on one side of one border, a distance to
the nearest observation of the frame: there it has to be better by more than `MARGIN` and than the bootstrap says could
be chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.gap_classes import CLASS_PX, CLASS_STEPS, TIME_CLASSES
from stpipe.core.ports import JSON
from stpipe.methods.checking import ENOUGH, GAIN, Verdict, beyond_chance, drawn_anew, witnesses

MARGIN = 0.02
"""A second method has to be better than the first by this share of its error, where it takes over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which method fills what."""

    near: str
    """Fills what lies nearer to an observation of its frame than the border."""

    far: str
    """Fills what lies beyond; the same one where there is no border."""

    limit_px: float | None = None
    """Where the border is, in pixels."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that it needs.

        >>> Choice(near="linear", far="linear").methods
        ('linear',)
        """
        return tuple(dict.fromkeys((self.near, self.far)))

    def __str__(self) -> str:
        if self.limit_px is None:
            return self.near
        return f"{self.near} up to {self.limit_px:g} px from an observation, {self.far} beyond"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What was found on artificial gaps; errors in spreads of the cube."""

    methods: tuple[str, ...]
    """The methods that were tried."""

    samples: tuple[int, ...]
    """Samples of each calibration class."""

    errors: tuple[tuple[float, ...], ...]
    """Sum of absolute errors of each method in each class."""

    verdict: Verdict
    """What gaps that took no part in choosing say."""

    @classmethod
    def from_json(cls, document: dict[str, JSON]) -> Scores:
        """Return what `dataclasses.asdict` and JSON made of scores.

        Raises
        ------
        KeyError
            If something is missing.
        """
        return cls(
            methods=tuple(document["methods"]),
            samples=tuple(document["samples"]),
            errors=tuple(tuple(row) for row in document["errors"]),
            verdict=Verdict.from_json(document["verdict"]),
        )

    def table(self) -> list[str]:
        """Return the table of mean absolute errors, the best method first."""
        samples = np.array(self.samples, dtype=np.float64).reshape(-1, TIME_CLASSES)
        pixels, steps = (f"{limit:g}px" for limit in CLASS_PX), (f"{limit:g}st" for limit in CLASS_STEPS)
        headings = ["all", *pixels, "more", "none", *steps, "more"]
        rows = []
        for method, errors in zip(self.methods, self.errors, strict=True):
            table = np.array(errors).reshape(samples.shape)
            parts = [(table.sum(), samples.sum())]
            parts += [(table[i].sum(), samples[i].sum()) for i in range(len(samples))]
            parts += [(table[:, i].sum(), samples[:, i].sum()) for i in range(TIME_CLASSES)]
            rows.append((method, [total / count if count else np.nan for total, count in parts]))
        rows.sort(key=lambda row: row[1][0])
        return [
            f"mean absolute errors on {int(samples.sum()):,} artificial gap samples, in",
            "spreads of the cube, by pixels (px) to the nearest observation of",
            "the frame, none if it is empty, and by steps (st) to the nearest",
            "of the pixel's own series:",
            f"{'':11}" + "".join(f"{heading:>6}" for heading in headings),
            *(f"{method:11.11}" + "".join(f"{digits(value):>6}" for value in row) for method, row in rows),
        ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Errors:
    """Absolute errors of several methods on the same samples."""

    methods: tuple[str, ...]
    """The methods."""

    absolute: NDArray[np.float32]
    """(method, sample), in spreads of the cube."""

    classes: NDArray[np.uint8]
    """(sample,), see `stpipe.core.gap_classes.calibration_class`."""

    clusters: NDArray[np.intp]
    """(sample,), parts of frames."""

    frames: NDArray[np.intp]
    """(sample,), their passes."""


def choose(found: Errors, rng: np.random.Generator) -> tuple[Choice, Choice | None]:
    """Return the single winner, and the two methods that are better still, if there are such.

    Parameters
    ----------
    found : Errors
        Of all candidates.
    rng : numpy Generator
        For the bootstrap.

    Examples
    --------
    >>> near = np.arange(4000) % 2 == 0
    >>> absolute = np.stack([np.where(near, 1, 3), np.where(near, 2, 1)]).astype(np.float32)
    >>> classes, clusters = np.where(near, 0, 9).astype(np.uint8), np.arange(4000) // 40
    >>> found = Errors(
    ...     methods=("linear", "pyramid"), absolute=absolute, classes=classes, clusters=clusters, frames=clusters // 4
    ... )
    >>> single, pair = choose(found, np.random.default_rng(0))
    >>> str(single), str(pair)
    ('pyramid', 'linear up to 1.5 px from an observation, pyramid beyond')
    """
    if not found.classes.size:
        return Choice(near=found.methods[0], far=found.methods[0]), None
    sums = found.absolute.sum(axis=1, dtype=np.float64)
    first = int(sums.argmin())
    single = Choice(near=found.methods[first], far=found.methods[first])
    gains: list[tuple[float, Choice]] = []
    for border, limit in enumerate(CLASS_PX):
        near = np.asarray(found.classes // TIME_CLASSES <= border)
        for side in (near, ~near):
            number = witnesses(found.frames[side], found.clusters[side])
            if side.sum() < ENOUGH or number is None:
                continue
            before = np.bincount(number, weights=found.absolute[first, side])
            times = drawn_anew(before.size, rng)
            for second, method in enumerate(found.methods):
                gain = before - np.bincount(number, weights=found.absolute[second, side])
                better = gain.sum() > max(MARGIN * before.sum(), GAIN * sums[first])
                if second != first and better and beyond_chance(times @ gain):
                    names = (method, single.near) if side is near else (single.near, method)
                    gains.append((float(gain.sum()), Choice(near=names[0], far=names[1], limit_px=limit)))
    return single, max(gains, key=lambda each: each[0])[1] if gains else None


def digits(value: float) -> str:
    """Return up to five characters.

    >>> digits(0.12345), digits(12.345), digits(float("nan"))
    ('0.123', '12.3', '-')
    """
    return "-" if np.isnan(value) else f"{value:.3f}" if value < 10 else f"{value:.3g}"
