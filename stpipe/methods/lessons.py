"""Lessons: crops with a part of them hidden, and what their hidden samples look like to one who does not know them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stpipe.core.crops import Crop, block_of, settled_on
from stpipe.core.gaps import Purpose, draw_gaps, generator
from stpipe.core.timeline import passes
from stpipe.methods.eof import EofFiller
from stpipe.methods.guides import GuideMaker, Guides, Lie, lie
from stpipe.methods.modes import Modes

F32 = NDArray[np.float32]

SHARE = (0.1, 0.25)
"""What each draw hides of the crops, least and most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A crop with a part of it hidden."""

    draw: int
    """Which way of hiding it is."""

    crop: Crop
    """The whole of it."""

    hidden: NDArray[np.bool_]
    """(t, y, x), what is to be predicted."""


def hide(crops: Sequence[Crop], *, seed: int, draws: int) -> Iterator[Lesson]:
    """Hide parts of crops: all crops once, then all of them again, each time in another way."""
    for draw in range(draws):
        for number, crop in enumerate(crops):
            rng = generator(Purpose.STACK, seed, draw, number)
            hidden = draw_gaps(crop.valid, rng, domain=crop.domain, share=SHARE, days=crop.days)
            yield Lesson(draw=draw, crop=crop, hidden=hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A lesson as it looks to one who does not know what is hidden, and the answers to it."""

    draw: int
    """That of the lesson."""

    made: Guides
    """Made from what is left."""

    place: Lie
    """How samples lie among what is left."""

    truth: F32
    """(t, y, x), what was observed, as large as the guides; zero in gaps."""

    hidden: NDArray[np.bool_]
    """(t, y, x), what is to be predicted and can be."""

    rank: int
    """Number of patterns."""

    frames: NDArray[np.intp]
    """(t,), see `Samples.frames`."""

    corner: tuple[int, int]
    """Row and column of the cube at which the crop begins."""

    @classmethod
    def at(cls, lesson: Lesson, maker: GuideMaker, *, rank: int | None, seed: int) -> Look:
        """Make the guides of what is left.

        Parameters
        ----------
        lesson : Lesson
            With samples hidden.
        maker : GuideMaker
            Its patterns are learned anew, for the old ones may have seen what is hidden; so is what a guide takes of
            the whole scene.
        rank : int, optional
            Number of patterns; by default told by cross-validation.
        seed : int
            For that.
        """
        left = lesson.crop.without(lesson.hidden)
        modes = Modes.from_bytes(EofFiller(rank=rank).learn([left], seed=seed))
        others = tuple(settled_on(filler, left) for filler in maker.others)
        made = replace(maker, modes=modes, others=others).make(block_of(left, maker.stride))
        around = [(0, whole - have) for whole, have in zip(made.unknown.shape, lesson.hidden.shape, strict=True)]
        return cls(
            draw=lesson.draw,
            made=made,
            place=lie(made.block),
            truth=np.pad(lesson.crop.values, around),
            hidden=np.pad(lesson.hidden, around) & ~made.unknown,
            rank=modes.rank,
            frames=np.pad(passes(lesson.crop.days), around[0], constant_values=-1),
            corner=lesson.crop.window.start[1:],
        )

    def samples(self) -> Samples:
        """Return what is known of the hidden samples, and their truth."""
        parts = [
            Samples.at(self.made, self.place, t, where, self.truth[t][where], frame=int(self.frames[t]))
            for t, where in enumerate(self.hidden)
        ]
        found = Samples.of(parts)
        return replace(found, spots=found.spots + np.asarray(self.corner, dtype=np.int32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What is known of some samples."""

    answers: F32
    """(sample, guide), the guides' answers."""

    observed: F32
    """(sample, 3), the observation before, the one after, and the mean of the pixel's; NaN where there is none."""

    circumstances: F32
    """(sample, ...), all that is no value: how sure the guides are, times, shares; the distance last."""

    truth: F32
    """(sample,), zero where it is not known."""

    frames: NDArray[np.intp]
    """(sample,), number of the pass, see `stpipe.core.timeline.passes`: a date is one, in whichever crops it shows."""

    spots: NDArray[np.int32]
    """(sample, 2), row and column, in pixels."""

    @property
    def distance(self) -> F32:
        """(sample,), pixels to the nearest observation of the frame."""
        return self.circumstances[:, -1]

    @property
    def steps(self) -> F32:
        """(sample,), median steps to the nearest observation of the pixel."""
        return np.asarray(self.circumstances[:, -7:-5].min(axis=1))

    @classmethod
    def at(
        cls, made: Guides, place: Lie, t: int, where: NDArray[np.bool_], truth: F32 | None = None, *, frame: int = 0
    ) -> Samples:
        """Gather the samples of a frame."""
        around, count = made.around, int(where.sum())
        mean = np.where(place.pixel_share > 0, place.pixel_mean, np.float32(np.nan))
        circumstances = [
            *(half_width[t][where] for half_width in made.half_widths.values()),
            around.since[t][where],
            around.until[t][where],
            place.pixel_spread[where],
            place.pixel_share[where],
            np.full(count, place.frame_anomaly[t]),
            np.full(count, place.frame_share[t]),
            place.distance[t][where],
        ]
        return cls(
            answers=np.stack([answer[t][where] for answer in made.values.values()], axis=1),
            observed=np.stack([part[where] for part in (around.early[t], around.late[t], mean)], axis=1),
            circumstances=np.stack(circumstances, axis=1).astype(np.float32, copy=False),
            truth=np.zeros(count, np.float32) if truth is None else truth,
            frames=np.full(count, frame, dtype=np.intp),
            spots=np.argwhere(where).astype(np.int32),
        )

    @classmethod
    def of(cls, parts: Sequence[Samples]) -> Samples:
        """Join parts."""
        names = ("answers", "observed", "circumstances", "truth", "frames", "spots")
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def picked(self, rng: np.random.Generator, most: int) -> Samples:
        """Return at most so many of them, by chance."""
        if self.truth.size <= most:
            return self
        return self.where(np.sort(rng.choice(self.truth.size, most, replace=False)))

    def where(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Samples:
        """Return some of them."""
        return Samples(
            answers=self.answers[rows],
            observed=self.observed[rows],
            circumstances=self.circumstances[rows],
            truth=self.truth[rows],
            frames=self.frames[rows],
            spots=self.spots[rows],
        )


def folds_of(samples: Samples, draws: NDArray[np.intp], count: int, rng: np.random.Generator) -> list[Samples]:
    """Deal samples out for cross-validation: whole frames, or where there are too few of these, ways of hiding.

    Parameters
    ----------
    samples : Samples
        All.
    draws : (sample,) ndarray of int
        Which way of hiding each is from.
    count : int
        Number of folds.
    rng : numpy Generator
        Deals.
    """
    there, which = np.unique(samples.frames, return_inverse=True)
    dealt = (rng.permutation(there.size) % count)[which] if there.size >= 2 * count else draws % count
    return [samples.where(np.flatnonzero(dealt == fold)) for fold in range(count)]


def features(samples: Samples, mean: F32) -> F32:
    """Return (sample, feature) what the trees see: values relative to the mean of the guides, then circumstances."""
    middle = mean[:, None]
    return np.concatenate([samples.answers - middle, samples.observed - middle, samples.circumstances], axis=1)
