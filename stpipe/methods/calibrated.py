"""Any method with intervals that hold, because they were measured on artificial gaps of this very cube.

Learning hides samples of the crops, lets the inner method learn from what is left, fills, and compares: see
`stpipe.core.intervals`. Filling multiplies the inner method's half-width by the factor of each sample's class.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from stpipe.core.comparison import passes_of
from stpipe.core.crops import Crop, fill_crop, middle_shapes, middles
from stpipe.core.gap_classes import INTERVAL_COUNT, REACH, interval_class
from stpipe.core.gaps import Purpose, draw_gaps, generator
from stpipe.core.intervals import Calibration, calibrate, check_coverage, unlearned_factor, widths
from stpipe.core.ports import JSON, BlockInput, Filler, Learner, Prediction
from stpipe.core.survey import frame_shares
from stpipe.core.timeline import median_step
from stpipe.core.windows import Triple, Window, pixels_in, samples_in, triple
from stpipe.errors import ScratchError
from stpipe.methods.passing import PassesRounds

SHARE = (0.05, 0.15)
"""What each draw hides of the crops, least and most; a learner sees what is outside of all draws."""

SMALL = 2**20
"""Crops with fewer samples than this in all are hidden in twice as many ways."""

DRAWS = 4
"""Ways in which crops are hidden, so that a few whole frames don't speak for all."""

LEARNER_DRAWS = 2
"""The same for a learner, which sees nothing of what any of them hides."""

SLOW = 1.0
"""Seconds for a million samples from which on a method learns from fewer samples, and in fewer ways."""

SLOW_SAMPLES = 2**20
"""Samples of crops that a slow method learns from and is calibrated on, about: their middles."""

TRUSTED_SAMPLES = 1000
"""Fewer artificial gap samples than this make intervals that the user should be warned of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedFiller(PassesRounds):
    """A `Filler` and `Learner` around another method, whose predictions it leaves as they are.

    Without a calibration, intervals are the inner method's, widened as for a normal distribution where another
    coverage than 0.9 is asked for.
    """

    filler: Filler
    """The inner method."""

    coverage: float = 0.9
    """Share of the truth that the intervals are to hold."""

    calibration: Calibration | None = None
    """What was learned."""

    def __post_init__(self) -> None:
        check_coverage(self.coverage)

    @property
    def name(self) -> str:
        """That of the inner method."""
        return self.filler.name

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """What the inner method needs, and what tells a sample's class: its whole series, and `REACH` pixels."""
        _, y, x = self.filler.halo
        least = -(-REACH // 8) * 8
        return (None, max(y, least), max(x, least))

    @property
    def stride(self) -> Triple:
        """That of the inner method."""
        return self.filler.stride

    @property
    def process_bytes(self) -> int:
        """That of the inner method."""
        return self.filler.process_bytes

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured: classes are told after the inner fill."""
        return max(self.filler.sample_bytes, 15.0)

    @property
    def pixel_bytes(self) -> float:
        """That of the inner method."""
        return self.filler.pixel_bytes

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return self.filler.seconds_per_million + 0.1

    def learn_bytes(self, crops: Sequence[Triple]) -> int:
        """Memory of learning from so many samples, measured: copies, overviews, and a fill of what is seen of them."""
        shapes = self._seen(crops)
        seen = samples_in(shapes)
        inner = self.filler.learn_bytes(shapes) if isinstance(self.filler, Learner) else 0
        filling = self.filler.sample_bytes * seen + self.filler.pixel_bytes * pixels_in(shapes)
        return int(max(inner, filling) + 30 * seen)

    def learn_seconds(self, crops: Sequence[Triple]) -> float:
        """Seconds of learning from so many samples on one core."""
        shapes = self._seen(crops)
        inner = self.filler.learn_seconds(shapes) if isinstance(self.filler, Learner) else 0.0
        draws = LEARNER_DRAWS if isinstance(self.filler, Learner) else DRAWS
        return inner + draws * samples_in(shapes) / 1e6 * (self.filler.seconds_per_million + 0.1)

    def _seen(self, crops: Sequence[Triple]) -> Sequence[Triple]:
        """Return the shapes of what a slow method sees of crops, or any other."""
        return middle_shapes(crops, SLOW_SAMPLES) if self.filler.seconds_per_million > SLOW else crops

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        learned = None if self.calibration is None else _digest(self.calibration)
        return {
            "method": self.name,
            "version": 5,
            "coverage": self.coverage,
            "calibration": learned,
            "inner": self.filler.identity(),
        }

    def prepare(self) -> None:
        """Load what the inner method needs."""
        self.filler.prepare()

    def notes(self) -> tuple[str, ...]:
        """Return what a user should know of what was learned."""
        inner = getattr(self.filler, "notes", None)
        lines: tuple[str, ...] = () if inner is None else inner()
        count = 0 if self.calibration is None else sum(self.calibration.samples)
        if self.calibration is not None and count < TRUSTED_SAMPLES:
            lines += (f"intervals rest on only {count} artificial gap samples, for the cube has little to hide",)
        return lines

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        """Let the inner method learn, and calibrate it on artificial gaps that it has not seen.

        Parameters
        ----------
        crops : sequence of Crop
            Parts of the cube.
        seed : int
            Decides the artificial gaps.

        Returns
        -------
        bytes
            An .npz file: what the inner method learned, and the calibration as JSON.
        """
        if self.filler.seconds_per_million > SLOW:
            crops = middles(crops, SLOW_SAMPLES)
        draws = [_draws_of(self, crops, number, seed) for number in range(len(crops))]
        filler, inner = self.filler, b""
        if isinstance(filler, Learner):
            inner = filler.learn(
                [crop.without(np.any(hidden, axis=0)) for crop, hidden in zip(crops, draws, strict=True)], seed=seed
            )
            filler = filler.taught(inner)
        filler.prepare()
        parts = [_compare(filler, crop, hidden) for crop, ways in zip(crops, draws, strict=True) for hidden in ways]
        none = (np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.uint8), np.empty(0, np.intp))
        errors, scales, classes, frames = (np.concatenate(column) for column in zip(none, *parts, strict=True))
        wanted = np.sum([_wanted(crop) for crop in crops], axis=0)
        made = calibrate(errors, scales, classes, self.coverage, groups=frames, wanted=wanted)
        file = io.BytesIO()
        np.savez(
            file,
            inner=np.frombuffer(inner, dtype=np.uint8),
            calibration=np.frombuffer(json.dumps(made.as_json()).encode(), dtype=np.uint8),
        )
        return file.getvalue()

    def taught(self, learned: bytes) -> CalibratedFiller:
        """Return the method with what `learn` gave."""
        try:
            with np.load(io.BytesIO(learned), allow_pickle=False) as file:
                inner = file["inner"].tobytes()
                calibration = Calibration.from_json(json.loads(file["calibration"].tobytes()))
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
            raise ScratchError(f"what {self.name} learned can't be read: {error}") from error
        filler = self.filler.taught(inner) if isinstance(self.filler, Learner) else self.filler
        return replace(self, filler=filler, calibration=calibration)

    def fill(self, block: BlockInput) -> Prediction:
        """Predict as the inner method does; half-widths are given for what is wanted of the block."""
        made = self.filler.fill(block)
        if self.calibration is None:
            factor = np.float32(unlearned_factor(self.coverage))
            return replace(made, half_width=made.half_width * factor)
        wanted = Window.of(triple(block.valid.shape))
        if block.wanted is not None:
            wanted = block.wanted.intersect(block.window).within(block.window)
        classes = _classes(block, wanted)
        half_width = np.full(block.valid.shape, np.nan, dtype=np.float32)
        for t in range(wanted.start[0], wanted.stop[0]):  # a frame at a time: the temporaries stay small
            place = (t, *wanted.slices[1:])
            frame = widths(self.calibration, made.half_width[place], classes[t])
            half_width[place] = np.where(np.isnan(made.values[place]), np.float32(np.nan), frame)
        return replace(made, half_width=half_width)


def _classes(block: BlockInput, wanted: Window) -> NDArray[np.uint8]:
    """Return the classes of what is wanted of a block, for all of its frames."""
    rows, columns = (slice(max(0, cut.start - REACH), cut.stop + REACH) for cut in wanted.slices[1:])
    shares = np.zeros(len(block.valid), dtype=np.float32)
    inside = frame_shares(block.overviews, block.all_days.size)[block.window.start[0] :][: shares.size]
    shares[: inside.size] = inside
    step = median_step(block.all_days)
    classes = interval_class(block.valid[:, rows, columns], block.days, step, shares=shares)
    top, left = (cut.start - part.start for cut, part in zip(wanted.slices[1:], (rows, columns), strict=True))
    _, height, width = wanted.shape
    return classes[:, top : top + height, left : left + width]


def _wanted(crop: Crop) -> NDArray[np.intp]:
    """Return how many gap samples of each class a crop has."""
    gap = ~crop.valid if crop.domain is None else crop.domain & ~crop.valid
    return np.bincount(interval_class(crop.valid, crop.days, median_step(crop.days))[gap], minlength=INTERVAL_COUNT)


def _draws_of(method: CalibratedFiller, crops: Sequence[Crop], number: int, seed: int) -> list[NDArray[np.bool_]]:
    """Hide a part of one crop, in several ways."""
    small = sum(crop.valid.size for crop in crops) <= SMALL and method.filler.seconds_per_million <= SLOW
    count = LEARNER_DRAWS if isinstance(method.filler, Learner) else 2 * DRAWS if small else DRAWS
    rng = generator(Purpose.CALIBRATION, seed, number)
    crop = crops[number]
    return [draw_gaps(crop.valid, rng, domain=crop.domain, share=SHARE, days=crop.days) for _ in range(count)]


def _compare(
    filler: Filler, crop: Crop, hidden: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8], NDArray[np.intp]]:
    """Return error, scale, class and pass of each hidden sample; a date is one, in whichever crops it shows."""
    left = crop.without(hidden)
    made = fill_crop(filler, left)
    classes = interval_class(left.valid, crop.days, median_step(crop.days))
    missed = made.values[hidden] - crop.values[hidden]
    return missed, made.half_width[hidden], classes[hidden], passes_of(crop, hidden)


def _digest(calibration: Calibration) -> str:
    return hashlib.sha256(json.dumps(calibration.as_json(), sort_keys=True).encode()).hexdigest()
