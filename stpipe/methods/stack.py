"""Gradient-boosted trees over the guides' answers and how a gap lies, trained on artificial gaps of this very cube.

Which guide to trust, and where, differs from scene to scene. First the mean of the guides is found that suits the cube
best (`stpipe.methods.mixing`), as far as frames that had no say in it bear it out (`stpipe.methods.evidence`). Then
trees see each guide's answer relative to it, how sure it is, and how far the nearest observations are in the frame and
in time, and learn in seconds what the truth under artificial gaps was. How many trees is told by cross-validation over
whole frames; none, if they gain next to nothing. A second, smaller forest
learns how large the errors are that remain.

Answers are relative to the mean of guides and in units of the scene's spread, so that scaling and shifting the input
does the same to the output.

Sources: stacking after Wolpert (1992), Neural Networks 5; the trees are LightGBM's (Ke et al. 2017, NeurIPS).
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import sha256
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from stpipe.core.crops import Crop
from stpipe.core.gaps import Purpose, generator
from stpipe.core.ports import JSON, BlockInput, Learner, Prediction
from stpipe.core.windows import Triple, pixels_in, samples_in, triple
from stpipe.errors import RunError, ScratchError
from stpipe.methods import forests
from stpipe.methods.eof import EofFiller
from stpipe.methods.evidence import suited
from stpipe.methods.guides import GuideMaker, Guides, Lie, lie
from stpipe.methods.lessons import Look, Samples, features, folds_of, hide
from stpipe.methods.mixing import Mixture
from stpipe.methods.modes import Modes
from stpipe.methods.network import Network, wanted_of
from stpipe.model.features import GUIDES

F32 = NDArray[np.float32]

NETWORK = "pconv"
"""Name of the network's answer among the guides."""

DRAWS = (4, 8)
"""Least and most ways in which the crops are hidden to learn from; so many that `WORK` samples are seen."""

LOOK_BYTES = 104.0
"""Memory of a look that waits for the network, for each sample of the crops."""

WORK = 3 * 2**20
"""Samples of hidden crops that the guides are made for, about."""

FOLDS = 4
"""Parts of cross-validation."""

MOST_SAMPLES = 100_000
"""Most samples that the trees learn from."""

LEAST_SAMPLES = 400
"""With fewer hidden samples than this there is nothing to learn from, and the even mean of the guides is the answer."""

LEAST_GAIN = 0.001
"""A further guide is not worth its time if it lowers the error of the mean by a smaller share than this for each second
that it takes for a million samples."""

ENOUGH_BASE_FRAMES = 16.0
"""Frames whose hidden samples say as much of which guides to trust as many other scenes do together."""

ENOUGH_FRAMES = 16.0
"""The same for how far to trust the network, which has the guides to go by itself; or parts of frames, see `suited`."""

UNLIKE = 0.02
"""A network that errs more than the mean it is to better by this share is out of its depth."""

LEAST_WIDTH = np.float32(1e-4)
"""Least half-width, in spreads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What the trees' method learned of a cube."""

    mixture: Mixture
    """The mean of the guides."""

    modes: bytes
    """The patterns that the guide `eof` learned."""

    base: Mixture | None = None
    """The mean of the guides that the network is to better; None for the one that suits most cubes."""

    others: tuple[bytes, ...] = ()
    """What each of the maker's other guides learned; nothing for one that is no learner."""

    skipped: tuple[str, ...] = ()
    """Names of those that gained too little for what they cost."""

    answer: bytes = b""
    """Trees of what is added to the mean, as LightGBM's text; empty if they gained nothing."""

    follow: tuple[float, float] = forests.ALL_THE_WAY
    """How far they are followed: in frames with observations, and in empty ones."""

    width: bytes = b""
    """Trees of the errors' size; empty where there was too little to learn from."""

    samples: int = 0
    """Hidden samples that were learned from."""

    errors: tuple[float, float] = (float("nan"), float("nan"))
    """Mean absolute error of the mean, and with the trees, on folds that had no part in it; in spreads."""

    network_errors: tuple[float, float] = (float("nan"), float("nan"))
    """Mean absolute error of the mean that the network is to better, and of its answer, within its reach of
    observations; in spreads."""

    def to_bytes(self) -> bytes:
        """Return everything as the bytes of an npz file, the same for the same contents."""
        file = io.BytesIO()
        told = {
            "weights": self.mixture.weights,
            "samples": self.samples,
            "errors": self.errors,
            "follow": self.follow,
            "network_errors": self.network_errors,
            "skipped": self.skipped,
            "base": None if self.base is None else self.base.weights,
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
                mixture=_mixture(told["weights"]),
                base=None if told["base"] is None else _mixture(told["base"]),
                modes=modes,
                others=tuple(others),
                skipped=tuple(told["skipped"]),
                answer=answer,
                width=width,
                samples=told["samples"],
                errors=tuple(told["errors"]),
                follow=tuple(told["follow"]),
                network_errors=tuple(told["network_errors"]),
            )
        except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile) as error:
            raise ScratchError(f"{len(learned)} bytes are nothing that stack has learned ({error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What artificial gaps of crops show, before anything is made of it."""

    folds: tuple[Samples, ...]
    """Hidden samples with all guides' answers, dealt out for cross-validation."""

    base: Mixture | None
    """The mean of the guides that the network was to better."""

    modes: bytes
    """The patterns that the guide `eof` learned."""

    others: tuple[bytes, ...]
    """What each of the maker's other guides learned."""

    rng: np.random.Generator
    """As it was after the samples were picked."""

    def only(self, columns: Sequence[int], others: Sequence[bytes]) -> Lessons:
        """Return the lessons of some of the guides, with what the others among these learned."""
        folds = tuple(replace(fold, answers=fold.answers[:, list(columns)]) for fold in self.folds)
        return replace(self, folds=folds, others=tuple(others))


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFiller:
    """The trees as a `Filler` and `Learner`."""

    name: str = "stack"
    """The method's name on the command line."""

    maker: GuideMaker = field(default_factory=GuideMaker)
    """Makes the guides."""

    network: Network | None = None
    """Betters the mean of the guides, and is one more of them; they are made with its margin."""

    stand_in: str | None = None
    """The guide that is trusted where there is too little to learn from; None for all of them alike."""

    learned: Learned | None = None
    """What was learned; None before."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the guides, in order; the network's answer last."""
        return (*self.maker.names, *(NETWORK for _ in self._networks))

    @property
    def _networks(self) -> tuple[Network, ...]:
        return () if self.network is None else (self.network,)

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """That of the guides."""
        return self.maker.halo

    @property
    def stride(self) -> Triple:
        """That of the guides, and whole strides of the network."""
        own = (1, 1, 1) if self.network is None else self.network.spec.stride
        return triple(np.lcm(a, b) for a, b in zip(own, self.maker.stride, strict=True))

    @property
    def process_bytes(self) -> int:
        """Memory of a worker before its first block: LightGBM and its trees, measured, and the other guides'."""
        own = 300 * 2**20
        heavy = [filler.process_bytes + own - 2**27 for filler in self.maker.others]
        heavy += [network.process_bytes + 2**26 for network in self._networks]  # its peak is gone when trees come
        return max([own, *heavy])

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured."""
        return 125.0 + max((filler.sample_bytes for filler in self.maker.others), default=0.0)

    @property
    def pixel_bytes(self) -> float:
        """Memory of a fill besides for each pixel of the read window, measured: temporaries of whole frames."""
        return 310.0 + max((filler.pixel_bytes for filler in self.maker.others), default=0.0)

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        others = sum(filler.seconds_per_million for filler in self.maker.others)
        return 6.0 + others + sum(network.seconds_per_million for network in self._networks)

    def learn_bytes(self, crops: Sequence[Triple]) -> int:
        """Memory of learning from so many samples: a fill, what `MOST_SAMPLES` take, and looks for the network."""
        samples = samples_in(crops)
        looks = draws_of(samples) * LOOK_BYTES if self.network is not None else 0.0
        return int((self.sample_bytes + 75.0 + looks) * samples + self.pixel_bytes * pixels_in(crops))

    def learn_seconds(self, crops: Sequence[Triple]) -> float:
        """Seconds of learning from so many samples on one core, measured."""
        samples = samples_in(crops)
        inner = sum(filler.learn_seconds(crops) for filler in self.maker.others if isinstance(filler, Learner))
        patterns = (1 + draws_of(samples)) * EofFiller().learn_seconds(crops)
        return inner + patterns + draws_of(samples) * samples / 1e6 * self.seconds_per_million + 20.0

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        learned = None if self.learned is None else sha256(self.learned.to_bytes()).hexdigest()
        return {
            "method": self.name,
            "version": 10,
            "guides": self.maker.identity(),
            "network": [network.identity() for network in self._networks],
            "learned": learned,
        }

    def prepare(self) -> None:
        """Load what guides and network need, and parse the trees."""
        self.maker.prepare()
        for network in self._networks:
            network.prepare()
        for text in () if self.learned is None else (self.learned.answer, self.learned.width):
            if text:
                forests.forest(text)

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        """Learn from artificial gaps of crops; the same crops and seed give the same bytes."""
        return self.grown(self.lessons(crops, seed=seed), seed=seed).to_bytes()

    def lessons(self, crops: Sequence[Crop], *, seed: int) -> Lessons:
        """Hide parts of crops, and let all guides answer."""
        if not crops:
            raise RunError(f"{self.name} learns from crops of the cube, got none")
        others = tuple(
            filler.learn(crops, seed=seed) if isinstance(filler, Learner) else b"" for filler in self.maker.others
        )
        self.prepare()
        maker = taught_maker(self.maker, others)
        maker.prepare()
        modes = EofFiller().learn(crops, seed=seed)
        rank = Modes.from_bytes(modes).rank  # cross-validation once, and not for each lesson
        draws = draws_of(sum(crop.valid.size for crop in crops))
        looks: Iterable[Look] = (
            Look.at(lesson, maker, rank=rank, seed=seed) for lesson in hide(crops, seed=seed, draws=draws)
        )
        rng = generator(Purpose.STACK_PICK, seed)
        base = None
        if self.network is not None:
            looks = list(looks)
            base = _base_of(looks, self.network.mixture, rng)
            looks = (replace(look, made=self.bettered(look.made, look.place, base)) for look in looks)
        found = [(look.draw, look.samples()) for look in looks]
        drawn = np.concatenate([np.full(part.truth.size, draw) for draw, part in found])
        dealt = folds_of(Samples.of([part for _, part in found]), drawn, FOLDS, rng)
        folds = tuple(part.picked(rng, MOST_SAMPLES // FOLDS) for part in dealt)
        return Lessons(folds=folds, base=base, modes=modes, others=others, rng=rng)

    def grown(self, lessons: Lessons, *, seed: int) -> Learned:
        """Return what lessons teach: the mean of the guides, and the trees."""
        rng = deepcopy(lessons.rng)  # the same lessons teach the same, however often
        parts, base = list(lessons.folds), lessons.base
        count = sum(part.truth.size for part in parts)
        names = self.names
        made = Learned(
            base=base,
            mixture=self._trusting(names),
            modes=lessons.modes,
            others=lessons.others,
            samples=count,
        )
        if count < LEAST_SAMPLES or not all(part.truth.size for part in parts):
            return made
        everything = Samples.of(parts)
        skipped = self._not_worth_it(everything)
        network_errors = self._network_errors(everything, base)
        kept = np.array([name not in skipped for name in names])
        parts = [replace(part, answers=part.answers[:, kept]) for part in parts]
        mixture = self.mixed(Samples.of(parts), skipped, rng)
        grown = forests.grow(parts, mixture, seed)
        return replace(
            made,
            mixture=mixture,
            answer=grown.answer,
            follow=grown.follow,
            width=grown.width,
            errors=grown.errors,
            skipped=skipped,
            network_errors=network_errors,
        )

    def mixed(self, samples: Samples, skipped: Collection[str], rng: np.random.Generator) -> Mixture:
        """Return the mean of the guides that suits samples, which have the answers of all that are not skipped."""
        if self.stand_in is None:
            return Mixture.best(samples.answers, samples.truth, samples.distance)
        usual = self._trusting([name for name in self.names if name not in skipped])
        return suited(samples, slice(None), usual, enough=ENOUGH_FRAMES, rng=rng)

    def bettered(self, made: Guides, place: Lie, base: Mixture | None) -> Guides:
        """Put the network's answer among the guides, if there is a network."""
        if self.network is None:
            return made
        values, half_width = self.network.refine(made, place, self.network.mixture if base is None else base)
        return replace(
            made,
            values={**made.values, NETWORK: values},
            half_widths={**made.half_widths, NETWORK: half_width},
        )

    def _trusting(self, names: Sequence[str]) -> Mixture:
        """Return the mean that is trusted before anything is learned."""
        if self.stand_in is None:
            return Mixture.even(len(names))
        return Mixture.only(list(names).index(self.stand_in), len(names))

    def _network_errors(self, samples: Samples, base: Mixture | None) -> tuple[float, float]:
        """Return the errors without and with the network, within reach of observations; NaN if there are none."""
        reach = 0 if self.network is None else max(self.network.spec.halo[1:])
        samples = samples.where(samples.distance <= reach)
        if self.network is None or not samples.truth.size:
            return float("nan"), float("nan")
        mixture = self.network.mixture if base is None else base
        mean = mixture.mean(list(samples.answers[:, : len(GUIDES)].T), samples.distance)
        answers = (mean, samples.answers[:, self.names.index(NETWORK)])
        before, after = (float(np.abs(answer - samples.truth).mean()) for answer in answers)
        return before, after

    def _not_worth_it(self, samples: Samples) -> tuple[str, ...]:
        """Return the names of the further guides without which the mean is as good, the dearest asked first."""
        names = list(self.names)
        kept = np.ones(len(names), dtype=bool)
        error = _mean_error(samples, kept)
        for filler in sorted(self.maker.others, key=lambda one: -one.seconds_per_million):
            without = kept & np.array([name != filler.name for name in names])
            other = _mean_error(samples, without)
            if other * (1 - LEAST_GAIN * filler.seconds_per_million) <= error:
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
        ranked = sorted(zip(self.names, np.mean(made.mixture.weights, axis=0), strict=True), key=lambda p: -p[1])
        led = ", ".join(f"{name} {weight:.0%}" for name, weight in ranked[:3] if weight >= 0.05)
        gain = 1 - made.errors[1] / made.errors[0] if made.errors[0] > 0 else 0.0
        trees = "trees could not better it"
        if made.answer:
            trees = f"trees took another {gain:.0%} off its error"
        if made.answer and made.follow != forests.ALL_THE_WAY:
            trees = "trees better it by little, or not surely, and are followed half as far, on empty frames not at all"
        lines = [f"{self.name}: learned from {made.samples:,} artificial gap samples: a mean of {led}; {trees}"]
        before, after = made.network_errors
        if before > 0 and after > (1 + UNLIKE) * before:
            lines.append(
                f"{self.name}: this cube is unlike those that the weights were trained on: near observations the "
                f"network errs {after / before - 1:.0%} more than the guides' mean, and counts for less"
            )
        elif after < before:
            gain = 1 - after / before
            lines.append(
                f"{self.name}: near observations the network took {gain:.1%} off the error of the guides' mean"
            )
        if made.skipped:
            lines.append(f"{self.name}: left out the guide {', '.join(made.skipped)}, not worth its time on this cube")
        return tuple(lines)

    def fill(self, block: BlockInput) -> Prediction:
        """Predict the gaps of what is wanted of a block; observed samples get the guides' mean."""
        if self.learned is None:
            raise RunError(f"{self.name} has not learned anything yet; call learn, and fill with what taught returns")
        made = self.maker.make(block)
        place = lie(made.block)
        made = self.bettered(made, place, self.learned.base)
        mean, half_width = self.answered(made, place, self.learned)
        return predicted(block, made.block, mean, half_width)

    def answered(self, made: Guides, place: Lie, learned: Learned) -> tuple[F32, F32]:
        """Return (t, y, x), the answer to the gaps of what is wanted, and its half-width.

        Parameters
        ----------
        made : Guides
            Those that were not skipped, and the network's answer, if there is a network.
        place : Lie
            How the samples lie.
        learned : Learned
            What goes with these guides.
        """
        mean = learned.mixture.mean(list(made.values.values()), place.distance)
        half_width = made.half_widths["eof" if self.network is None else NETWORK].copy()
        near = made.block
        if learned.width:
            answer, width = (forests.forest(text) if text else None for text in (learned.answer, learned.width))
            wanted = wanted_of(near)
            for t in range(wanted.start[0], wanted.stop[0]):  # a frame at a time: the table of features stays small
                where = np.zeros(near.valid.shape[1:], dtype=bool)
                where[wanted.slices[1:]] = True
                where &= ~near.valid[t] & ~made.unknown[t]
                if where.any():
                    table = features(Samples.at(made, place, t, where), mean[t][where])
                    if answer is not None:
                        share = forests.followed(learned.follow, place.distance[t][where])
                        mean[t][where] += share * forests.predict(answer, table)
                    half_width[t][where] = np.maximum(forests.predict(width, table), LEAST_WIDTH)
        mean[made.unknown] = np.nan
        half_width[made.unknown] = np.nan
        return mean, half_width


def predicted(block: BlockInput, near: BlockInput, mean: F32, half_width: F32) -> Prediction:
    """Return the answer to a block of which only the part `near` was worked out; a pixel never seen is a fallback."""
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


def _mean_error(samples: Samples, kept: NDArray[np.bool_]) -> float:
    """Return the mean absolute error of the best mean of some of the guides."""
    answers = samples.answers[:, kept]
    mixture = Mixture.best(answers, samples.truth, samples.distance)
    return float(np.abs(mixture.mean(list(answers.T), samples.distance) - samples.truth).mean())


def draws_of(samples: int) -> int:
    """Return in how many ways crops of so many samples are hidden."""
    return min(max(DRAWS[0], WORK // max(1, samples)), DRAWS[1])


def _base_of(looks: Sequence[Look], usual: Mixture, rng: np.random.Generator) -> Mixture | None:
    """Return the mean of the network's guides that suits the cube; None if there is too little to tell."""
    samples = Samples.of([look.samples() for look in looks]).picked(rng, MOST_SAMPLES)
    if samples.truth.size < LEAST_SAMPLES:
        return None
    # The network was trained on what it is to better: parts of frames moved that too far on a cube of twelve frames.
    return suited(samples, slice(len(GUIDES)), usual, enough=ENOUGH_BASE_FRAMES, rng=rng, parts=False)


def _mixture(weights: Sequence[Sequence[float]]) -> Mixture:
    return Mixture(tuple(tuple(row) for row in weights))
