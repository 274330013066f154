"""The guides: simple methods' answers to one block, side by side, and what a gap looks like from where it lies.

`stack` and `pconv` lean on them. Each guide knows something that others don't: the pyramid this frame's surroundings,
the anomaly pyramid also what is lasting about a pixel, interpolation the pixel's past and future, the patterns of `eof`
what else the scene did at other times. The latter two know nothing of what is special about a frame here, so that what
observations nearby differ by from them is carried into the gaps and gives two more, "linear here" and "eof here".

Everything depends on the read window alone, its overviews, and the patterns learned once a scene: where block borders
fall makes no difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.core.gap_classes import EMPTY_SHARE
from stpipe.core.ports import JSON, BlockInput, Filler
from stpipe.core.survey import COUNT, SUM, frame_shares
from stpipe.core.timeline import Neighbours, median_step, neighbours
from stpipe.core.windows import Triple, Window, round_up, triple
from stpipe.methods.anomaly import AnomalyFiller
from stpipe.methods.idw import IdwFiller
from stpipe.methods.modes import Modes, project
from stpipe.methods.pyramid import NORMAL_90, PyramidFiller
from stpipe.methods.spreading import REACH, spread
from stpipe.model.features import GUIDES, Scenery

F32 = NDArray[np.float32]

FARTHEST = 24.0
"""Distances in the frame are told up to this, in pixels."""

EMPTY = 1000.0
"""The distance where the whole frame has next to no observation: patterns know nothing of it, unlike wide clouds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guides:
    """The guides of one block. All are finite wherever the pyramid is."""

    values: dict[str, F32]
    """(t, y, x) of each guide, in order."""

    half_widths: dict[str, F32]
    """(t, y, x), half-widths of 90 % intervals of pyramid, linear and eof."""

    differences: dict[str, F32]
    """(t, y, x), observed minus what the other observations say of it, by linear and eof; zero in gaps."""

    around: Neighbours
    """The pixel's observations before and after."""

    unknown: NDArray[np.bool_]
    """(t, y, x), True where even the pyramid has no answer; all guides are zero there."""

    block: BlockInput
    """What they are the guides of: the part of the read window that what is wanted depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuideMaker:
    """Works the guides out."""

    modes: Modes | None = None
    """Patterns learned on the scene; without them eof is as good as linear."""

    pyramid: PyramidFiller = field(default_factory=PyramidFiller)
    """Guide."""

    anomaly: AnomalyFiller = field(default_factory=AnomalyFiller)
    """Guide."""

    idw: IdwFiller = field(default_factory=IdwFiller)
    """Guide."""

    others: tuple[Filler, ...] = ()
    """Further methods that can be guides, taught if they are learners."""

    skipped: frozenset[str] = frozenset()
    """Names of those that are not: a cube may not be worth what they cost."""

    margin: int = 0
    """How far around what is wanted the guides are needed, the others left out; in pixels, whole cells of them."""

    @property
    def used(self) -> tuple[Filler, ...]:
        """Further methods that are guides."""
        return tuple(filler for filler in self.others if filler.name not in self.skipped)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the guides, in order."""
        return (*GUIDES, *(filler.name for filler in self.used))

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """The whole time axis; in the frame what the guides need."""
        own = [filler.halo[1:] for filler in (self.anomaly, self.idw)]
        others = [filler.halo[1:] for filler in self.others]
        y, x = (
            max(self.margin + max(REACH, *(halo[axis] for halo in own)), *(halo[axis] for halo in others), 0)
            for axis in (0, 1)
        )
        return (None, y, x)

    @property
    def stride(self) -> Triple:
        """Whole cells of all guides."""
        strides = (self.pyramid.stride, *(filler.stride for filler in self.others))
        return triple(np.lcm.reduce([stride[axis] for stride in strides]) for axis in range(3))

    def identity(self) -> dict[str, JSON]:
        """Return what decides the guides' numbers, save what was learned."""
        return {
            "version": 1,
            "anomaly": self.anomaly.identity(),
            "idw": self.idw.identity(),
            "others": [filler.identity() for filler in self.used],
        }

    def prepare(self) -> None:
        """Load what the guides need."""
        for filler in self.used:
            filler.prepare()

    def make(self, block: BlockInput) -> Guides:
        """Return the guides of what is wanted of a block and of its surroundings, as far as they matter."""
        whole, block = block, self.narrowed(block)
        values, valid = block.values, block.valid
        pyramid = self.pyramid.fill(block)
        unknown = np.isnan(pyramid.values)
        base = np.where(unknown, np.float32(0), pyramid.values)
        made: dict[str, F32] = {"pyramid": base}
        fillers: tuple[Filler, ...] = (self.anomaly, self.idw)
        for filler in fillers:
            answer = filler.fill(block).values
            made[filler.name] = np.where(np.isnan(answer), base, answer)
        around = neighbours(values, valid, block.days, median_step(block.all_days))
        alone = np.isnan(around.linear)
        linear = np.where(alone, base, around.linear)
        half_widths = {
            "pyramid": np.where(unknown, np.float32(0), pyramid.half_width),
            "linear": np.where(alone, pyramid.half_width, around.half_width),
        }
        differences = {"linear": np.where(valid, values - linear, np.float32(0))}
        made["linear"] = linear
        made["linear here"] = linear + spread(differences["linear"], valid & ~alone)
        made["eof"], half_widths["eof"], differences["eof"] = self._patterns(
            block, made["linear"], half_widths["linear"]
        )
        made["eof here"] = made["eof"] + spread(differences["eof"], valid)
        for filler in self.used:
            answer = filler.fill(whole).values[block.window.within(whole.window).slices]
            made[filler.name] = np.where(np.isnan(answer), base, answer)
        for half_width in half_widths.values():
            np.nan_to_num(half_width, copy=False, nan=10.0)
        return Guides(
            values=made,
            half_widths=half_widths,
            differences=differences,
            around=around,
            unknown=unknown,
            block=block,
        )

    def narrowed(self, block: BlockInput) -> BlockInput:
        """Cut from a block what only the other guides need to see."""
        if block.wanted is None:
            return block
        own = replace(self, others=())
        wanted = block.wanted.intersect(block.window)
        start, stop = list(block.window.start), list(block.window.stop)
        for axis in (1, 2):
            reach, step = int(own.halo[axis] or 0), own.stride[axis]
            start[axis] = max(start[axis], (wanted.start[axis] - reach) // step * step)
            stop[axis] = min(stop[axis], round_up(wanted.stop[axis] + reach, step))
        window = Window(triple(start), triple(stop))
        cut = window.within(block.window).slices
        guides = {name: guide[cut] for name, guide in block.guides.items()}
        return replace(block, values=block.values[cut], valid=block.valid[cut], window=window, guides=guides)

    def _patterns(self, block: BlockInput, linear: F32, half_width: F32) -> tuple[F32, F32, F32]:
        """Return the patterns' answer; for pixels never observed, and without patterns, that of `linear`."""
        shape = block.values.shape
        if self.modes is None or self.modes.rank == 0:
            return linear.copy(), half_width.copy(), np.where(block.valid, block.values - linear, np.float32(0))
        frames = self.modes.days.size  # a padded window has more, all of them gap
        values, valid = block.values[:frames].reshape(frames, -1), block.valid[:frames].reshape(frames, -1)
        projected = project(values, valid, self.modes)
        estimate, deviation, left_out = (part.reshape(frames, *shape[1:]) for part in projected)
        answers = [linear.copy(), half_width.copy(), np.zeros_like(linear)]
        known = np.isfinite(estimate)
        for answer, part in zip(answers, (estimate, np.float32(NORMAL_90) * deviation, left_out), strict=True):
            np.copyto(answer[:frames], part, where=known)
        return answers[0], answers[1], answers[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lie:
    """How the samples of a window lie among the observations."""

    distance: F32
    """(t, y, x), pixels to the nearest observation of the frame, up to `FARTHEST`; `EMPTY` in empty frames."""

    pixel_share: F32
    """(y, x), share of the frames in which the pixel was observed."""

    pixel_mean: F32
    """(y, x), mean of the pixel's observations, drawn towards zero where there are few."""

    pixel_spread: F32
    """(y, x), standard deviation of the pixel's observations, drawn towards one where there are few."""

    frame_share: F32
    """(t,), share of the scene that the frame observed."""

    frame_anomaly: F32
    """(t,), mean of the frame's observations, in spreads."""


def lie(block: BlockInput) -> Lie:
    """Tell how samples lie among the observations.

    Means and shares of frames are those of the whole scene, from the overviews.
    """
    valid = block.valid
    clean = np.where(valid, block.values, np.float32(0))
    count = valid.sum(axis=0, dtype=np.float32)
    mean = clean.sum(axis=0) / (count + 1)
    squares = np.einsum("tyx,tyx->yx", clean, clean) - count * mean * mean
    last = block.overviews.levels[-1]
    whole = block.overviews.read(last, Window((0, 0, 0), (block.all_days.size, 1, 1)))[:, :, 0, 0]
    shares = frame_shares(block.overviews, block.all_days.size)
    first = block.window.start[0]
    frames = slice(first, min(first + len(valid), block.all_days.size))
    share = np.zeros(len(valid), dtype=np.float32)
    anomaly = np.zeros(len(valid), dtype=np.float32)
    inside = frames.stop - frames.start
    share[:inside] = shares[frames]
    anomaly[:inside] = (whole[SUM] / (whole[COUNT] + 1))[frames]
    distance = _distances(valid)
    distance[(distance >= FARTHEST) & (share < EMPTY_SHARE)[:, None, None]] = EMPTY
    return Lie(
        distance=distance,
        pixel_share=count / np.float32(len(valid)),
        pixel_mean=mean,
        pixel_spread=np.sqrt((squares.clip(0) + 1) / (count + 1)).astype(np.float32),
        frame_share=share,
        frame_anomaly=anomaly,
    )


def scenery(made: Guides, place: Lie) -> Scenery:
    """Return the guides of a block as the network knows them; further guides are none of its own."""
    around = made.around
    return Scenery(
        values=made.block.values,
        valid=made.block.valid,
        guides=[made.values[name] for name in GUIDES],
        half_widths=[made.half_widths[name] for name in ("pyramid", "linear", "eof")],
        differences=[made.differences[name] for name in ("linear", "eof")],
        before=around.early,
        after=around.late,
        since=around.since,
        until=around.until,
        distance=place.distance,
        pixel_share=place.pixel_share,
        pixel_spread=place.pixel_spread,
        frame_share=place.frame_share,
        frame_anomaly=place.frame_anomaly,
    )


def _distances(valid: NDArray[np.bool_]) -> F32:
    distances = np.full(valid.shape, np.float32(FARTHEST))
    for t, known in enumerate(valid):
        if known.any():
            np.minimum(ndimage.distance_transform_edt(~known), FARTHEST, out=distances[t], casting="unsafe")
    return distances
