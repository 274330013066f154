"""Local kriging within the frame.

A gap sample takes the weights that give the least expected square error if samples of a frame vary around a local mean
with a covariance that falls with their distance d, in pixels, as ::

    covariance(d) = sill x exp(-d / range) + (nugget x sill at d = 0)

It listens to the valid samples that say most: the `NEAREST` nearest, and the first one along each of eight directions.

Ordinary kriging takes the mean from these samples alone, and deep in a gap of a field with a short range, where the
mean is all that it has to say, it was 5 to 7 % worse than the pyramid. So the pyramid is a prior of the mean, worth
`Covariance.backing` independent samples. All weights, the pyramid's too, add up to one. The sill only scales the
intervals: it comes from the samples that a prediction listens to, and a little from the pyramid's spread.

Next to an observation each sample has an equation system of its own; deeper in a gap, where the answer is smooth, every
second or fourth pixel has, with bilinear interpolation between::

    depth    0           up to 1.5      up to 5        up to 24       up to 32             beyond
             pyramid     each sample    2 x 2 pixels   4 x 4 pixels   4 x 4 and pyramid    pyramid

Where block borders fall makes no difference. The systems are in `stpipe.methods.kriging_systems`, with the sources of
the formulas; the search for samples is in `stpipe.methods.sample_search`.

Range and nugget are learned: those of a small grid with the least error on artificial gaps, or the shortest range that
is level with it. A factor of two in either made errors on four scenes at most 1.2 % larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.core.crops import Crop, fill_crop
from stpipe.core.gaps import draw_gaps
from stpipe.core.ports import JSON, BlockInput, Filler, Prediction
from stpipe.core.windows import Triple, samples_in
from stpipe.errors import RunError
from stpipe.methods.fallback import WithFallback
from stpipe.methods.kriging_systems import (
    COUNT,
    DEEP_STEP,
    ESTIMATE,
    MISFIT,
    VARIANCE,
    Covariance,
    krige_frame,
    solve,
)
from stpipe.methods.pyramid import NORMAL_90
from stpipe.methods.sample_search import DIRECTIONS, NEAREST, SEARCH, find_samples, gather, offsets

F64 = NDArray[np.float64]
Ints = NDArray[np.integer]

REACH = 32
"""A gap sample this far from any observation, in pixels, is the pyramid's.

Samples are looked for up to `SEARCH`: this, and the way to the farthest of four pixels to interpolate between.
"""

RAMP_FROM = 24
"""From this distance on the pyramid has a share."""

RANGES = (3.0, 6.0, 12.0, 25.0, 50.0, 100.0)
"""Ranges that learning tries, in pixels."""

NUGGETS = (0.003, 0.02, 0.1, 0.5)
"""Nuggets that learning tries, as shares of the sill."""

TOLERANCE = 1.01
"""The shortest range is kept whose error is within this of the least: deep in gaps one that is too long costs more."""

TRIALS = 3
"""Draws of artificial gaps that learning looks at: a single one may hide nothing but whole frames."""

TRIAL_SAMPLES = 2000
"""Hidden samples that learning looks at."""

TRIAL_FRAMES = 64
"""Frames of a crop and draw that it takes them from, at most."""

LEAST_SAMPLES = 100
"""With fewer hidden samples nothing is learned."""

PRIOR_COUNT = 2.0
"""What the pyramid's variance counts for in the sill, in samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KrigingFiller(WithFallback):
    """Kriging as a `Filler` and `Learner`; without learning it takes the covariance it is given.

    The fallback fills what is out of reach, and has a say in the sill. Its stride, whole cells of the finest overview,
    is steps of `DEEP_STEP` too.

    Examples
    --------
    >>> KrigingFiller().halo
    (0, 40, 40)
    """

    covariance: Covariance = field(default_factory=Covariance)
    """Given, or learned."""

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "kriging"

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """The search, and the way to the pixels that are interpolated between; or what the fallback needs."""
        frames, height, width = self.fallback.halo
        own = SEARCH + DEEP_STEP - 1
        return frames, max(own, height), max(own, width)

    @property
    def process_bytes(self) -> int:
        """Memory of a worker before its first block, and what a batch of equation systems takes."""
        return self.fallback.process_bytes + 48 * 2**20

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured: the most, for a block of one frame."""
        return 40.0

    @property
    def pixel_bytes(self) -> float:
        """Memory of a fill besides for each pixel of the read window, measured: temporaries of whole frames."""
        return 128.0

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured with half of them gap: 4 to 10, by the gaps' shape."""
        return 6.0

    def learn_bytes(self, crops: Sequence[Triple]) -> int:
        """Memory of learning from so many samples, measured."""
        return 45 * samples_in(crops)

    def learn_seconds(self, crops: Sequence[Triple]) -> float:
        """Seconds of learning on one core, measured; much the same for any number of samples."""
        return 3.0 if samples_in(crops) else 0.0

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {
            "method": self.name,
            "version": 1,
            "learned": sha256(self.covariance.to_bytes()).hexdigest(),
            "fallback": self.fallback.identity(),
        }

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        """Learn range and nugget from artificial gaps of crops; the same crops and seed give the same bytes."""
        if not crops:
            raise RunError("kriging learns from crops of the cube, got none")
        return learn_covariance(crops, self.fallback, seed=seed, otherwise=self.covariance).to_bytes()

    def taught(self, learned: bytes) -> KrigingFiller:
        """Return the method with what `learn` gave."""
        return replace(self, covariance=Covariance.from_bytes(learned))

    def fill(self, block: BlockInput) -> Prediction:
        """Predict every sample of the read window: gaps that are wanted by kriging, the rest by the fallback."""
        other = self.fallback.fill(block)
        values, half_width, fallback = other.values, other.half_width, other.fallback
        wanted = np.zeros(block.valid.shape[1:], dtype=bool)
        inside = block.window if block.wanted is None else block.window.intersect(block.wanted)
        wanted[inside.within(block.window).slices[1:]] = True
        first = inside.start[0] - block.window.start[0]
        fallback[~block.valid.any(axis=(1, 2))] = True
        for t in range(first, first + inside.shape[0]):
            gap = wanted & ~block.valid[t]
            if not gap.any() or not block.valid[t].any():
                continue
            depth = ndimage.distance_transform_edt(~block.valid[t])
            rows, columns = np.nonzero(gap & (depth < REACH))
            if not rows.size:
                fallback[t] |= gap
                continue
            away = depth[rows, columns]
            around = (block.values[t], block.valid[t], values[t])
            solution = krige_frame(*around, rows, columns, away, self.covariance)
            # Smoothstep: neither end of the ramp kinks.
            share = np.clip((REACH - away) / (REACH - RAMP_FROM), 0, 1)
            share = share * share * (3 - 2 * share)
            theirs = values[t, rows, columns].astype(np.float64)
            spread = (half_width[t, rows, columns].astype(np.float64) / NORMAL_90) ** 2
            sill = (solution[MISFIT] + PRIOR_COUNT * spread) / (solution[COUNT] + PRIOR_COUNT)
            spread += share * (solution[VARIANCE] * sill - spread)
            values[t, rows, columns] = theirs + share * (solution[ESTIMATE] - theirs)
            half_width[t, rows, columns] = NORMAL_90 * np.sqrt(spread)
            fallback[t, rows, columns] = share < 0.5
            fallback[t] |= gap & (depth >= REACH)
        return Prediction(values=values, half_width=half_width, fallback=fallback)


def learn_covariance(crops: Sequence[Crop], fallback: Filler, *, seed: int, otherwise: Covariance) -> Covariance:
    """Return the range and nugget with the least error on artificial gaps, or the shortest range that is level with it.

    Parameters
    ----------
    crops : sequence of Crop
        Parts of a cube.
    fallback : Filler
        The pyramid, which `Covariance.backing` weighs.
    seed : int
        Decides the artificial gaps, and which samples of them are looked at.
    otherwise : Covariance
        What to make do with; its backing is kept.

    Returns
    -------
    Covariance
        `otherwise` where there are fewer than `LEAST_SAMPLES` to look at.

    Examples
    --------
    >>> from stpipe.core.windows import Window
    >>> from stpipe.methods.pyramid import PyramidFiller
    >>> rng = np.random.default_rng(0)
    >>> smooth = ndimage.gaussian_filter(rng.normal(size=(1, 96, 96)), (0, 6, 6)).astype(np.float32)
    >>> window = Window((0, 0, 0), smooth.shape)
    >>> crop = Crop(values=smooth, valid=rng.random(smooth.shape) < 0.5, days=np.zeros(1), window=window)
    >>> learn_covariance([crop], PyramidFiller(), seed=0, otherwise=Covariance()).nugget
    0.003
    """
    rng = np.random.default_rng(seed)
    most = TRIAL_SAMPLES // (TRIALS * len(crops))
    parts = [_trial(crop, fallback, rng, most) for _ in range(TRIALS) for crop in crops]
    truth, samples, ranks, prior = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    if truth.size < LEAST_SAMPLES:
        return otherwise
    candidates = [replace(otherwise, range_px=r, nugget=n) for r in RANGES for n in NUGGETS]
    errors = [float(np.abs(solve(samples, ranks, prior, c)[ESTIMATE] - truth).mean()) for c in candidates]
    enough = [place for place, error in enumerate(errors) if error <= TOLERANCE * min(errors)]
    shortest = candidates[enough[0]].range_px
    return candidates[min(enough, key=lambda place: (candidates[place].range_px > shortest, errors[place]))]


def _trial(crop: Crop, fallback: Filler, rng: np.random.Generator, most: int) -> tuple[F64, F64, Ints, F64]:
    """Hide samples of a crop; return up to about `most` of them, and what kriging needs to predict them."""
    hidden = draw_gaps(crop.valid, rng, domain=crop.domain, days=crop.days)
    left = crop.without(hidden)
    coarse = fill_crop(fallback, left).values
    frames = np.flatnonzero(hidden.any(axis=(1, 2)) & left.valid.any(axis=(1, 2)))
    frames = frames[np.linspace(0, frames.size - 1, min(frames.size, TRIAL_FRAMES)).astype(np.int64)]
    share = min(1.0, most / max(1, int(hidden[frames].sum())))
    width = NEAREST + len(DIRECTIONS)
    none = np.zeros(0), np.zeros((0, width)), np.zeros((0, width), dtype=np.int16), np.zeros(0)
    parts: list[tuple[F64, F64, Ints, F64]] = [none]
    for t in frames:
        rows, columns = np.nonzero(hidden[t])
        picked = np.sort(rng.permutation(rows.size)[: max(1, round(share * rows.size))])
        rows, columns = rows[picked], columns[picked]
        found = find_samples(left.valid[t], rows, columns)
        near = np.append(offsets().squares, REACH**2)[found[:, 0]] < RAMP_FROM**2
        rows, columns, found = rows[near], columns[near], found[near]
        truth, prior = (values[t, rows, columns].astype(np.float64) for values in (crop.values, coarse))
        parts.append((truth, gather(crop.values[t], rows, columns, found), found, prior))
    truth, heard, ranks, prior = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    return truth, heard, ranks, prior
