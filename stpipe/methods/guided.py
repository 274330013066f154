"""Regression on guides that the user gave: radar, another sensor, a model, anything that tells of the same season.

For each pixel its observations are regressed on the guides, and what the regression leaves over is interpolated
linearly in true time ::

    answer(t) = b . g(t) + interpolation of (value - b . g) at t

The slopes b of a pixel are drawn towards those of the scene, so that a few observations, or one, are enough: with the
pixel's own means taken off values and guides, ::

    b = (N + ridge x C)^-1 (c + ridge x C b_scene),   N = sum g g',   c = sum g value

where C is the guides' covariance over time within the scene's pixels, so that the ridge counts observations and the
guides' units don't matter. A pixel without any observation gets the scene's regression of levels, and the fallback's
answer, each by how sure it is.

Radar is speckled: a guide may be smoothed in space and in time before it is used. How much, which ridge, and how far
the answer is followed where a pixel was not observed for how long, is learned on artificial gaps. On frames that had no
say in that it has to do better than interpolation, or the guides are left out, and the answer is that of `linear`.
Where no guide has a value, it is too.

Sources: ridge regression towards a given slope after Hoerl and Kennard (1970), Technometrics 12; the smoothing is
Nadaraya and Watson's kernel regression (1964).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from stpipe.core.crops import Crop, middle_shapes, middles
from stpipe.core.ports import JSON, BlockInput, Prediction
from stpipe.core.timeline import NORMAL_90, median_step, neighbours
from stpipe.core.windows import Triple, pixels_in, samples_in
from stpipe.errors import RunError
from stpipe.methods.fallback import WithFallback
from stpipe.methods.guide_learning import LEAST_SAMPLES, draws_of, learned
from stpipe.methods.guide_regression import RIDGES, SMOOTHINGS, Lesson, prepared, regressed

F32 = NDArray[np.float32]

NAME = "guided"
"""The method's name."""

WIDEST = max(radius for radius, _ in SMOOTHINGS)
"""How far around a pixel its guides matter."""

SEEN = 2**19
"""Samples of the crops that are looked at, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedFiller(WithFallback):
    """The regression as a `Filler` and `Learner`; the fallback fills the pixels that were never observed.

    Examples
    --------
    >>> from stpipe.core.crops import block_of
    >>> from stpipe.core.windows import Window
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(size=(40, 16, 16)).astype(np.float32)
    >>> valid = rng.random(truth.shape) < 0.5
    >>> crop = Crop(
    ...     values=np.where(valid, truth, np.float32(0)), valid=valid, days=np.arange(40.0),
    ...     window=Window.of((40, 16, 16)), guides={"twin": 3 - 2 * truth},
    ... )
    >>> method = GuidedFiller(names=("twin",))
    >>> taught = method.taught(method.learn([crop], seed=0))
    >>> bool(np.abs(taught.fill(block_of(crop, taught.stride)).values - truth).max() < 1e-3)
    True
    """

    names: tuple[str, ...]
    """Of the guides, in order; blocks and crops have to bring them."""

    lesson: Lesson | None = None
    """What was learned; None before."""

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return NAME

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """The whole time axis; in the frame what the smoothing or the fallback needs."""
        y, x = (max(WIDEST, length) for length in self.fallback.halo[1:])
        return (None, y, x)

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, the guides themselves not counted; measured."""
        return 58.0 + 5.0 * len(self.names)

    @property
    def pixel_bytes(self) -> float:
        """Memory of a fill besides for each pixel of the read window, measured: temporaries of whole frames."""
        return 72.0

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return 0.3 + 0.1 * len(self.names)

    def learn_bytes(self, crops: Sequence[Triple]) -> int:
        """Memory of learning from so many samples, of which some are looked at; measured."""
        seen = middle_shapes(crops, SEEN)
        return int((60.0 + 8.0 * len(self.names)) * samples_in(seen) + self.pixel_bytes * pixels_in(seen))

    def learn_seconds(self, crops: Sequence[Triple]) -> float:
        """Seconds of learning from so many samples on one core, measured."""
        seen = samples_in(middle_shapes(crops, SEEN))
        draws = draws_of(seen)
        tries = 2 * draws // 3 * (len(SMOOTHINGS) + len(RIDGES)) + draws // 3
        return 0.5 * tries * seen / 1e6 * self.seconds_per_million

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {
            "method": self.name,
            "version": 3,
            "guides": list(self.names),
            "learned": None if self.lesson is None else sha256(self.lesson.to_bytes()).hexdigest(),
            "fallback": self.fallback.identity(),
        }

    def notes(self) -> tuple[str, ...]:
        """Return what the guides gained."""
        made, names = self.lesson, ", ".join(self.names)
        if made is None:
            return ()
        if made.samples < LEAST_SAMPLES:
            return (f"guide {names}: only {made.samples} samples to judge it by, so it is left out",)
        before, after = made.errors
        if not made.used:
            return (f"guide {names}: does not help here and is left out",)
        gain = 1 - after / before
        return (f"guide {names}: takes {gain:.1%} off the error of interpolation on artificial gaps set apart",)

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        """Learn from artificial gaps of crops; the same crops and seed give the same bytes."""
        if not crops:
            raise RunError(f"{self.name} learns from crops of the cube, got none")
        return learned(self.names, middles(crops, SEEN), seed).to_bytes()

    def taught(self, learned: bytes) -> GuidedFiller:
        """Return the method with what `learn` gave."""
        return replace(self, lesson=Lesson.from_bytes(learned))

    def fill(self, block: BlockInput) -> Prediction:
        """Predict what is wanted of a block."""
        if self.lesson is None:
            raise RunError(f"{self.name} has not learned anything yet; call learn, and fill with what taught returns")
        wanted = block.window if block.wanted is None else block.wanted.intersect(block.window)
        inner = wanted.within(block.window).slices[1:]
        wide = tuple(slice(max(0, cut.start - WIDEST), cut.stop + WIDEST) for cut in inner)
        own = tuple(
            slice(cut.start - around.start, cut.stop - around.start) for cut, around in zip(inner, wide, strict=True)
        )
        part, there = (slice(None), *inner), (slice(None), *own)
        values, valid = block.values[part], block.valid[part]
        step = median_step(block.all_days)
        around = neighbours(values, valid, block.days, step)
        answer, half_width = around.linear, around.half_width
        span = around.since + around.until
        del around
        used = self.lesson.used and bool(set(self.names) & set(block.guides))
        known = np.zeros(valid.shape, dtype=bool)
        fields = np.empty((0, *valid.shape), dtype=np.float32)
        if used:
            shown = {name: block.guides[name][(slice(None), *wide)] for name in self.names if name in block.guides}
            fields, known = prepared(self.names, shown, block.days, step, self.lesson.smoothing, there)
            followed, width = regressed(fields, known, values, valid, block.days, step, self.lesson)
            for t in range(len(answer)):  # a frame at a time: the temporaries stay small
                share, has = self.lesson.follow(span[t]), np.isfinite(followed[t])
                for own_part, other_part in ((answer[t], followed[t]), (half_width[t], width[t])):
                    np.copyto(own_part, own_part + share * (other_part - own_part), where=has)
        np.copyto(answer, values, where=valid)
        half_width[valid] = 0
        shape = block.valid.shape
        all_values, all_widths = (np.full(shape, np.nan, dtype=np.float32) for _ in range(2))
        all_values[part], all_widths[part] = answer, half_width
        missing = np.isnan(answer)
        fallback = np.zeros(shape, dtype=bool)
        # Where guides are used, a sample without any is left to interpolation, which is then a simpler method.
        fallback[part] = missing | (used & ~known & ~valid)
        if missing.any():
            other = self.fallback.fill(block)
            mine, theirs = (all_values, all_widths), (other.values, other.half_width)
            for own_part, other_part in zip(mine, theirs, strict=True):
                np.copyto(own_part[part], other_part[part], where=missing)
            if used:
                self._level(all_values[part], all_widths[part], fields, missing & known)
        return Prediction(values=all_values, half_width=all_widths, fallback=fallback)

    def _level(self, values: F32, half_width: F32, fields: F32, where: NDArray[np.bool_]) -> None:
        """Draw the fallback's answer towards the scene's regression of levels, each by how sure it is."""
        assert self.lesson is not None
        if not self.lesson.weights[-1]:  # of no use in long gaps: the fallback's answer stays, sure or not
            return
        level = np.asarray(self.lesson.level, dtype=np.float32)
        mine = 1 / np.maximum((half_width[where] / np.float32(NORMAL_90)) ** 2, np.float32(1e-6))
        theirs = np.float32(self.lesson.weights[-1] / max(self.lesson.level_spread**2, 1e-6))
        told = np.full(mine.shape, level[0])
        for slope, field in zip(level[1:], fields, strict=True):  # in this order wherever block borders fall
            told += slope * field[where]
        mine = np.where(np.isfinite(mine), mine, np.float32(0))
        kept = np.where(mine > 0, values[where], np.float32(0))
        values[where] = (mine * kept + theirs * told) / (mine + theirs)
        half_width[where] = np.float32(NORMAL_90) / np.sqrt(mine + theirs)
