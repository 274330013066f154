"""Gradient-boosted trees over the guides' answers and how a gap lies, trained on artificial gaps of this very cube.

Which guide to trust, and where, differs from scene to scene. First the mean of the guides is found that suits the cube
best (`stpipe.methods.mixing`). Then trees see each guide's answer relative to it, how sure it is, and how far the
nearest observations are in the frame and in time, and learn in seconds what the truth under artificial gaps was. How
many trees is told by cross-validation over the ways of hiding; none, if they gain nothing. A second, smaller forest
learns how large the errors are that remain.

Answers are relative to the mean of guides and in units of the scene's spread, so that scaling and shifting the input
does the same to the output.

Sources: stacking after Wolpert (1992), Neural Networks 5; the trees are LightGBM's (Ke et al. 2017, NeurIPS).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.crops import Crop, block_of
from stpipe.core.gaps import Purpose, draw_gaps, generator
from stpipe.core.ports import JSON, BlockInput, Learner, Prediction
from stpipe.core.windows import Triple, Window, triple
from stpipe.errors import RunError, ScratchError
from stpipe.methods.eof import EofFiller
from stpipe.methods.guides import GuideMaker, Guides, Lie, lie
from stpipe.methods.mixing import Mixture
from stpipe.methods.modes import Modes

F32 = NDArray[np.float32]

DRAWS = (4, 8)
"""Least and most ways in which the crops are hidden to learn from; so many that `WORK` samples are seen."""

WORK = 3 * 2**20
"""Samples of hidden crops that the guides are made for, about."""

FOLDS = 4
"""Parts of cross-validation; the draws are dealt out among them."""

SHARE = (0.1, 0.25)
"""What each draw hides of the crops, least and most."""

MOST_SAMPLES = 100_000
"""Most samples that the trees learn from."""

LEAST_SAMPLES = 400
"""With fewer hidden samples than this there is nothing to learn from, and the even mean of the guides is the answer."""

TREES = 150
"""Most trees of the answer."""

LEAST_GAIN = 0.005
"""A dear guide that lowers the error of the mean by a smaller share than this is not worth its time."""

LEAST_TREE_GAIN = 0.02
"""Trees that lower the error by a smaller share than this may as well be chance: on other gaps they did harm."""

DEAR = 1.0
"""Seconds for a million samples from which on a guide has to prove its worth."""

WIDTH_TREES = 60
"""Trees of the errors' size."""

PARAMETERS: dict[str, Any] = {
    "learning_rate": 0.1,
    "num_leaves": 15,
    "min_data_in_leaf": 60,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "verbosity": -1,
    # Column-wise histograms are summed by one thread each: the same trees for any number of threads.
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
}
"""LightGBM's names."""

COVERED = 0.9
"""Share of the errors that the second forest's answer is to cover."""

LEAST_WIDTH = np.float32(1e-4)
"""Least half-width, in spreads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What the trees' method learned of a cube."""

    mixture: Mixture
    """The mean of the guides."""

    modes: bytes
    """The patterns that the guide `eof` learned."""

    others: tuple[bytes, ...] = ()
    """What each of the maker's other guides learned; nothing for one that is no learner."""

    skipped: tuple[str, ...] = ()
    """Names of those that gained too little for what they cost."""

    answer: bytes = b""
    """Trees of what is added to the mean, as LightGBM's text; empty if they gained nothing."""

    width: bytes = b""
    """Trees of the errors' size; empty where there was too little to learn from."""

    samples: int = 0
    """Hidden samples that were learned from."""

    errors: tuple[float, float] = (float("nan"), float("nan"))
    """Mean absolute error of the mean, and with the trees, on folds that had no part in it; in spreads."""

    def to_bytes(self) -> bytes:
        """Return everything as the bytes of an npz file, the same for the same contents."""
        file = io.BytesIO()
        told = {
            "weights": self.mixture.weights,
            "samples": self.samples,
            "errors": self.errors,
            "skipped": self.skipped,
        }
        parts = [json.dumps(told).encode(), self.modes, self.answer, self.width, *self.others]
        np.savez(file, *(np.frombuffer(part, dtype=np.uint8) for part in parts))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, learned: bytes) -> Learned:
        """Return what `to_bytes` wrote."""
        try:
            with np.load(io.BytesIO(learned), allow_pickle=False) as file:
                text, modes, answer, width, *others = (file[name].tobytes() for name in file.files)
            told = json.loads(text)
            return cls(
                mixture=Mixture(tuple(tuple(row) for row in told["weights"])),
                modes=modes,
                others=tuple(others),
                skipped=tuple(told["skipped"]),
                answer=answer,
                width=width,
                samples=told["samples"],
                errors=tuple(told["errors"]),
            )
        except (ValueError, KeyError, OSError, EOFError) as error:
            raise ScratchError(f"{len(learned)} bytes are nothing that stack has learned ({error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFiller:
    """The trees as a `Filler` and `Learner`."""

    name: str = "stack"
    """The method's name on the command line."""

    maker: GuideMaker = field(default_factory=GuideMaker)
    """Makes the guides."""

    stand_in: str | None = None
    """The guide that is trusted where there is too little to learn from; None for all of them alike."""

    learned: Learned | None = None
    """What was learned; None before."""

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """That of the guides."""
        return self.maker.halo

    @property
    def stride(self) -> Triple:
        """That of the guides."""
        return self.maker.stride

    @property
    def process_bytes(self) -> int:
        """Memory of a worker before its first block: LightGBM and its trees, measured, and the other guides'."""
        own = 300 * 2**20
        return max([own, *(filler.process_bytes + own - 2**27 for filler in self.maker.others)])

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured."""
        return 115.0 + max((filler.sample_bytes for filler in self.maker.others), default=0.0)

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return 4.0 + sum(filler.seconds_per_million for filler in self.maker.others)

    @property
    def learn_sample_bytes(self) -> float:
        """Memory of learning for each sample of a crop: a fill of one, and what `MOST_SAMPLES` take."""
        return self.sample_bytes + 60.0

    @property
    def learn_seconds_per_million(self) -> float:
        """Seconds of learning for a million samples of crops on one core, measured."""
        return DRAWS[0] * (self.seconds_per_million + 4.0) + 10.0

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        learned = None if self.learned is None else sha256(self.learned.to_bytes()).hexdigest()
        return {"method": self.name, "version": 1, "guides": self.maker.identity(), "learned": learned}

    def prepare(self) -> None:
        """Load what the guides need, and parse the trees."""
        self.maker.prepare()
        for text in () if self.learned is None else (self.learned.answer, self.learned.width):
            if text:
                _forest(text)

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        """Learn from artificial gaps of crops; the same crops and seed give the same bytes."""
        if not crops:
            raise RunError(f"{self.name} learns from crops of the cube, got none")
        others = tuple(
            filler.learn(crops, seed=seed) if isinstance(filler, Learner) else b"" for filler in self.maker.others
        )
        maker = taught_maker(self.maker, others)
        maker.prepare()
        modes = EofFiller().learn(crops, seed=seed)
        rank = Modes.from_bytes(modes).rank  # cross-validation once, and not for each lesson
        draws = min(max(DRAWS[0], WORK // max(1, sum(crop.valid.size for crop in crops))), DRAWS[1])
        folds: list[list[Samples]] = [[] for _ in range(FOLDS)]
        for lesson in hide(crops, seed=seed, draws=draws):
            folds[lesson.draw % FOLDS].append(samples_of(maker, lesson, rank=rank, seed=seed))
        rng = generator(Purpose.STACK_PICK, seed)
        parts = [Samples.of(fold).picked(rng, MOST_SAMPLES // FOLDS) for fold in folds]
        count = sum(part.truth.size for part in parts)
        names = maker.names
        made = Learned(
            mixture=Mixture.even(len(names))
            if self.stand_in is None
            else Mixture.only(names.index(self.stand_in), len(names)),
            modes=modes,
            others=others,
            samples=count,
        )
        if count >= LEAST_SAMPLES and all(part.truth.size for part in parts):
            skipped = self._not_worth_it(Samples.of(parts))
            kept = np.array([name not in skipped for name in names])
            parts = [replace(part, answers=part.answers[:, kept]) for part in parts]
            everything = Samples.of(parts)
            mixture = Mixture.best(everything.answers, everything.truth, everything.distance)
            answer, width, errors = _grow_forests(parts, mixture, seed)
            made = replace(made, mixture=mixture, answer=answer, width=width, errors=errors, skipped=skipped)
        return made.to_bytes()

    def _not_worth_it(self, samples: Samples) -> tuple[str, ...]:
        """Return the names of the dear guides without which the mean is as good, the dearest asked first."""
        names = list(self.maker.names)
        kept = np.ones(len(names), dtype=bool)
        dear = [filler for filler in self.maker.others if filler.seconds_per_million > DEAR]
        error = _mean_error(samples, kept)
        for filler in sorted(dear, key=lambda one: -one.seconds_per_million):
            without = kept & np.array([name != filler.name for name in names])
            other = _mean_error(samples, without)
            if other * (1 - LEAST_GAIN) < error:
                kept, error = without, other
        return tuple(name for name, stays in zip(names, kept, strict=True) if not stays)

    def taught(self, learned: bytes) -> StackFiller:
        """Return the method with what `learn` gave."""
        made = Learned.from_bytes(learned)
        maker = taught_maker(self.maker, made.others)
        maker = replace(maker, modes=Modes.from_bytes(made.modes), skipped=frozenset(made.skipped))
        return replace(self, learned=made, maker=maker)

    def notes(self) -> tuple[str, ...]:
        """Return what a user should know of what was learned."""
        made = self.learned
        if made is None:
            return ()
        if made.samples < LEAST_SAMPLES:
            instead = f"{self.stand_in or 'the mean of all guides'} stands in"
            return (f"{self.name}: only {made.samples} samples to hide and learn from; {instead}",)
        ranked = sorted(zip(self.maker.names, np.mean(made.mixture.weights, axis=0), strict=True), key=lambda p: -p[1])
        led = ", ".join(f"{name} {weight:.0%}" for name, weight in ranked[:3] if weight >= 0.05)
        gain = 1 - made.errors[1] / made.errors[0] if made.errors[0] > 0 else 0.0
        trees = f"trees took another {gain:.0%} off its error" if made.answer else "trees could not better it"
        lines = [f"{self.name}: learned from {made.samples:,} artificial gap samples: a mean of {led}; {trees}"]
        if made.skipped:
            lines.append(f"{self.name}: left out the guide {', '.join(made.skipped)}, not worth its time on this cube")
        return tuple(lines)

    def fill(self, block: BlockInput) -> Prediction:
        """Predict the gaps of what is wanted of a block; observed samples get the guides' mean."""
        if self.learned is None:
            raise RunError(f"{self.name} has not learned anything yet; call learn, and fill with what taught returns")
        made = self.maker.make(block)
        near, place = made.block, lie(made.block)
        mean = self.learned.mixture.mean(list(made.values.values()), place.distance)
        half_width = made.half_widths["eof"].copy()
        if self.learned.width:
            forests = [_forest(text) if text else None for text in (self.learned.answer, self.learned.width)]
            wanted = _wanted(near)
            for t in range(wanted.start[0], wanted.stop[0]):  # a frame at a time: the table of features stays small
                where = np.zeros(near.valid.shape[1:], dtype=bool)
                where[wanted.slices[1:]] = True
                where &= ~near.valid[t] & ~made.unknown[t]
                if where.any():
                    table = features(Samples.at(made, place, t, where), mean[t][where])
                    if forests[0] is not None:
                        mean[t][where] += _predict(forests[0], table)
                    half_width[t][where] = np.maximum(_predict(forests[1], table), LEAST_WIDTH)
        mean[made.unknown] = np.nan
        half_width[made.unknown] = np.nan
        del made
        # Beyond what is wanted and its surroundings nothing was worked out.
        cut = near.window.within(block.window).slices
        values, widths = (np.full(block.values.shape, np.nan, dtype=np.float32) for _ in range(2))
        values[cut], widths[cut] = mean, half_width
        fallback = np.broadcast_to(~block.valid.any(axis=0), values.shape).copy()
        return Prediction(values=values, half_width=widths, fallback=fallback)


def taught_maker(maker: GuideMaker, learned: Sequence[bytes]) -> GuideMaker:
    """Return a maker whose other guides are taught."""
    others = (
        filler.taught(part) if isinstance(filler, Learner) else filler
        for filler, part in zip(maker.others, learned, strict=True)
    )
    return replace(maker, others=tuple(others))


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
            hidden = draw_gaps(crop.valid, rng, domain=crop.domain, share=SHARE)
            yield Lesson(draw=draw, crop=crop, hidden=hidden)


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

    @property
    def distance(self) -> F32:
        """(sample,), pixels to the nearest observation of the frame."""
        return self.circumstances[:, -1]

    @classmethod
    def at(cls, made: Guides, place: Lie, t: int, where: NDArray[np.bool_], truth: F32 | None = None) -> Samples:
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
        )

    @classmethod
    def of(cls, parts: Sequence[Samples]) -> Samples:
        """Join parts."""
        names = ("answers", "observed", "circumstances", "truth")
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def picked(self, rng: np.random.Generator, most: int) -> Samples:
        """Return at most so many of them, by chance."""
        if self.truth.size <= most:
            return self
        rows = np.sort(rng.choice(self.truth.size, most, replace=False))
        return Samples(
            answers=self.answers[rows],
            observed=self.observed[rows],
            circumstances=self.circumstances[rows],
            truth=self.truth[rows],
        )


def samples_of(maker: GuideMaker, lesson: Lesson, *, rank: int, seed: int) -> Samples:
    """Return the hidden samples of a lesson as they look to one who does not know them, and their truth."""
    left = lesson.crop.without(lesson.hidden)
    modes = Modes.from_bytes(EofFiller(rank=rank).learn([left], seed=seed))
    block = block_of(left, maker.stride)
    made = replace(maker, modes=modes).make(block)
    block, place = made.block, lie(made.block)
    _, height, width = lesson.hidden.shape
    parts = []
    for t, hidden in enumerate(lesson.hidden):
        where = np.zeros(block.valid.shape[1:], dtype=bool)
        where[:height, :width] = hidden
        where &= ~made.unknown[t]
        parts.append(Samples.at(made, place, t, where, lesson.crop.values[t][where[:height, :width]]))
    return Samples.of(parts)


def features(samples: Samples, mean: F32) -> F32:
    """Return (sample, feature) what the trees see: values relative to the mean of the guides, then circumstances."""
    middle = mean[:, None]
    return np.concatenate([samples.answers - middle, samples.observed - middle, samples.circumstances], axis=1)


def _grow_forests(parts: Sequence[Samples], mixture: Mixture, seed: int) -> tuple[bytes, bytes, tuple[float, float]]:
    """Return the two forests, and the errors without and with the first on folds that had no part in it."""
    import lightgbm

    tables, targets = [], []
    for part in parts:
        mean = mixture.mean(list(part.answers.T), part.distance)
        tables.append(features(part, mean))
        targets.append(part.truth - mean)
    parameters = {**PARAMETERS, "objective": "l1", "seed": seed}
    grown, curves = [], []
    for fold in range(len(parts)):
        rest = [number for number in range(len(parts)) if number != fold]
        data = lightgbm.Dataset(np.concatenate([tables[n] for n in rest]), np.concatenate([targets[n] for n in rest]))
        judge = lightgbm.Dataset(tables[fold], targets[fold], reference=data)
        told: dict[str, Any] = {}
        record = lightgbm.record_evaluation(told)
        grown.append(lightgbm.train(parameters, data, TREES, valid_sets=[judge], callbacks=[record]))
        curves.append(told["valid_0"]["l1"])
    curve = np.mean(curves, axis=0)
    count = int(np.argmin(curve)) + 1
    before = np.array([np.abs(target).mean() for target in targets])
    errors = (float(before.mean()), float(curve[count - 1]))
    bettered = sum(own[count - 1] < error for own, error in zip(curves, before, strict=True))
    table, target = np.concatenate(tables), np.concatenate(targets)
    answer = b""
    left = np.abs(target)
    if errors[1] < (1 - LEAST_TREE_GAIN) * errors[0] and bettered >= len(parts) - 1:
        answer = _text(lightgbm.train(parameters, lightgbm.Dataset(table, target), count))
        # Errors of trees on what they learned from would be too small: each fold is judged by those that did not.
        pairs = zip(grown, tables, targets, strict=True)
        left = np.concatenate([np.abs(own - _predict(trees, part, count)) for trees, part, own in pairs])
    parameters |= {"objective": "quantile", "alpha": COVERED}
    width = _text(lightgbm.train(parameters, lightgbm.Dataset(table, left), WIDTH_TREES))
    return answer, width, errors


def _mean_error(samples: Samples, kept: NDArray[np.bool_]) -> float:
    """Return the mean absolute error of the best mean of some of the guides."""
    answers = samples.answers[:, kept]
    mixture = Mixture.best(answers, samples.truth, samples.distance)
    return float(np.abs(mixture.mean(list(answers.T), samples.distance) - samples.truth).mean())


def _text(forest: Any) -> bytes:
    return str(forest.model_to_string()).encode()


@lru_cache(maxsize=8)
def _forest(text: bytes) -> Any:
    import lightgbm

    return lightgbm.Booster(model_str=text.decode())


def _predict(forest: Any, table: F32, trees: int | None = None) -> F32:
    return np.asarray(forest.predict(table, num_threads=1, num_iteration=trees)).astype(np.float32)


def _wanted(block: BlockInput) -> Window:
    if block.wanted is None:
        return Window.of(triple(block.valid.shape))
    return block.wanted.intersect(block.window).within(block.window)
