"""The default with radar to lean on: infilling from radar is one more guide, and is never followed blindly.

What `stpipe.methods.sar` says of a sample is weighed beside the network's answer and the other guides', as is the
regression on the radar itself (`stpipe.methods.guided`), and the trees see both. The same lessons are learned a second
time without radar. Then the three, with radar, without it, and infilling from radar alone, are held against each other
on artificial gaps of frames that they did not learn from, and each kind of gap trusts them as they deserve there
(`stpipe.methods.ruling`). Where radar does not help, the answer is to the last bit what it is without.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from stpipe.core.crops import Crop
from stpipe.core.gap_classes import CLASS_COUNT
from stpipe.core.gaps import Purpose, generator
from stpipe.core.ports import JSON, BlockInput, Fields, Filler, Look, Prediction, SceneFiller, Sums
from stpipe.core.windows import Triple, pixels_in, samples_in
from stpipe.errors import RunError, ScratchError
from stpipe.methods import forests
from stpipe.methods.guided import NAME as GUIDED
from stpipe.methods.guides import Guides, Lie, lie
from stpipe.methods.lessons import Samples, features
from stpipe.methods.modes import Modes
from stpipe.methods.ruling import Ruling, Weights, kinds_of, only, ruled
from stpipe.methods.sar.options import NAME as SAR
from stpipe.methods.stack import Learned, Lessons, StackFiller, draws_of, predicted, taught_maker

F32 = NDArray[np.float32]

LED = (GUIDED, SAR)
"""Guides that lean on what the user gave."""

BOTH, ALONE, RADAR = range(3)
"""The answers: with radar among the guides, without it, and infilling from radar by itself."""

WITHOUT: Weights = (only(ALONE, 3),) * CLASS_COUNT
"""Leaves radar out."""

WEIGHING_BYTES = 16.0
"""Memory for each sample of a window while answers are weighed, besides the first of them; a little above the
measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaning:
    """What was learned of a cube with radar."""

    both: Learned
    """With all guides."""

    alone: Learned
    """Without those of `LED`."""

    ruling: Ruling
    """How far to trust which answer where."""

    spread: float = 1.0
    """The variable's, in its units."""

    def to_bytes(self) -> bytes:
        """Return everything as the bytes of an npz file, the same for the same contents."""
        file = io.BytesIO()
        told = json.dumps({"ruling": asdict(self.ruling), "spread": self.spread}).encode()
        parts = (told, self.both.to_bytes(), self.alone.to_bytes())
        np.savez(file, *(np.frombuffer(part, dtype=np.uint8) for part in parts))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, learned: bytes) -> Leaning:
        """Return what `to_bytes` wrote."""
        try:
            with np.load(io.BytesIO(learned), allow_pickle=False) as file:
                text, both, alone = (file[name].tobytes() for name in file.files)
            told = json.loads(text)
            ruling = told["ruling"]
            return cls(
                both=Learned.from_bytes(both),
                alone=Learned.from_bytes(alone),
                ruling=Ruling(
                    weights=tuple(map(tuple, ruling["weights"])),
                    samples=tuple(ruling["samples"]),
                    errors=tuple(ruling["errors"]),
                    by_class=tuple(map(tuple, ruling["by_class"])),
                ),
                spread=told["spread"],
            )
        except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile) as error:
            raise ScratchError(f"{len(learned)} bytes are nothing that was learned of radar ({error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RadarStackFiller:
    """The network or the trees with radar, as a `Filler`, `Learner` and `SceneFiller`."""

    stack: StackFiller
    """With the regression on the radar and infilling from radar among its maker's other guides."""

    leaning: Leaning | None = None
    """What was learned; None before."""

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return self.stack.name

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """That of the guides."""
        return self.stack.halo

    @property
    def stride(self) -> Triple:
        """That of the guides."""
        return self.stack.stride

    @property
    def process_bytes(self) -> int:
        """Memory of a worker before its first block."""
        return self.stack.process_bytes

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window."""
        return self.stack.sample_bytes + WEIGHING_BYTES

    @property
    def pixel_bytes(self) -> float:
        """That of the stack."""
        return self.stack.pixel_bytes

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core."""
        return self.stack.seconds_per_million + 1.0

    def learn_bytes(self, crops: Sequence[Triple]) -> int:
        """Memory of learning from so many samples: the looks hold two guides more, and each is looked at as a scene."""
        samples = samples_in(crops)
        more = 4.0 * len(LED) * draws_of(samples) + self._scene.sample_bytes
        return self.stack.learn_bytes(crops) + int(more * samples + self._scene.pixel_bytes * pixels_in(crops))

    def learn_seconds(self, crops: Sequence[Triple]) -> float:
        """Seconds of learning from so many samples on one core: lessons are looked at as scenes, trees grow thrice."""
        samples = samples_in(crops)
        looks = draws_of(samples) * len(self.rounds) * samples / 1e6 * self._scene.seconds_per_million
        return self.stack.learn_seconds(crops) + looks + 20.0

    @property
    def rounds(self) -> tuple[str, ...]:
        """Those of infilling from radar, unless that is known to be of no use."""
        unused = self.leaning is not None and SAR in self.stack.maker.skipped
        return () if unused else self._looking.rounds

    @property
    def fields(self) -> tuple[str, ...]:
        """What infilling from radar keeps of each pixel."""
        return self._looking.fields

    def look(self, number: int, block: BlockInput) -> Look:
        """Look at the scene as infilling from radar does."""
        return self._looking.look(number, block)

    def sums(self, number: int, arrays: Mapping[str, NDArray[Any]]) -> Sums:
        """Return the sums of a round from their arrays."""
        return self._looking.sums(number, arrays)

    def settle(self, number: int, sums: Sums) -> Mapping[str, NDArray[Any]]:
        """Return what a round gives."""
        return self._looking.settle(number, sums)

    def settled(self, number: int, given: Mapping[str, NDArray[Any]]) -> RadarStackFiller:
        """Return the method with what a round gave."""
        return self._with(self._looking.settled(number, given))

    def with_fields(self, fields: Fields) -> RadarStackFiller:
        """Return the method with what infilling from radar keeps of each pixel."""
        return self._with(self._looking.with_fields(fields))

    @property
    def _scene(self) -> Filler:
        (found,) = (filler for filler in self.stack.maker.others if filler.name == SAR)
        return found

    @property
    def _looking(self) -> SceneFiller:
        found = self._scene
        assert isinstance(found, SceneFiller)
        return found

    def _with(self, scene: Filler) -> RadarStackFiller:
        """Return the method with another infilling from radar."""
        maker = self.stack.maker
        others = tuple(scene if filler.name == SAR else filler for filler in maker.others)
        return replace(self, stack=replace(self.stack, maker=replace(maker, others=others)))

    @property
    def alone(self) -> StackFiller:
        """The method without radar, untaught."""
        maker = self.stack.maker
        others = tuple(filler for filler in maker.others if filler.name not in LED)
        return replace(self.stack, maker=replace(maker, others=others, skipped=frozenset(), modes=None))

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        learned = None if self.leaning is None else sha256(self.leaning.to_bytes()).hexdigest()
        return {**self.stack.identity(), "radar": {"version": 1, "learned": learned}}

    def prepare(self) -> None:
        """Load what guides and network need, and parse the trees that are used."""
        self.stack.prepare()
        for learned in () if self.leaning is None else self._used(self.leaning).values():
            for text in (learned.answer, learned.width):
                if text:
                    forests.forest(text)

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        """Learn from artificial gaps of crops, with radar and without; the same crops and seed give the same bytes."""
        lessons, alone = self.stack.lessons(crops, seed=seed), self.alone
        names = self.stack.names
        learned = zip(self.stack.maker.others, lessons.others, strict=True)
        less = lessons.only(
            [number for number, name in enumerate(names) if name not in LED],
            [part for filler, part in learned if filler.name not in LED],
        )
        without, both = alone.grown(less, seed=seed), self.stack.grown(lessons, seed=seed)
        ruling = Ruling(weights=WITHOUT)
        # Other samples of the same frames flatter whatever learned most.
        if both.width and forests.dealt_out(lessons.folds):
            everything = Samples.of(lessons.folds)
            errors = [_held_out(self.stack, lessons, both, seed), _held_out(alone, less, without, seed)]
            errors.append(everything.answers[:, names.index(SAR)] - everything.truth)
            rng = generator(Purpose.RADAR, seed)
            kinds = kinds_of(everything.distance, everything.steps)
            ruling = ruled(np.stack(errors), kinds, everything.frames, rng, plain=(ALONE, RADAR))
        return Leaning(both=both, alone=without, ruling=ruling, spread=float(crops[0].scale[1])).to_bytes()

    def taught(self, learned: bytes) -> RadarStackFiller:
        """Return the method with what `learn` gave."""
        leaning = Leaning.from_bytes(learned)
        maker = taught_maker(self.stack.maker, leaning.both.others)
        used = {name for answer in self._used(leaning) for name in self._names(leaning, answer)}
        used |= {SAR} if leaning.ruling.used[RADAR] else set()
        skipped = frozenset(filler.name for filler in maker.others if filler.name not in used)
        maker = replace(maker, modes=Modes.from_bytes(leaning.both.modes), skipped=skipped)
        return replace(self, stack=replace(self.stack, maker=maker), leaning=leaning)

    def _used(self, leaning: Leaning) -> dict[int, Learned]:
        """Return which of the two that learned are worked out; one of them is in any case, to tell how sure it is."""
        used = leaning.ruling.used
        return {
            answer: learned
            for answer, learned in ((BOTH, leaning.both), (ALONE, leaning.alone))
            if used[answer] or (answer == ALONE and not used[BOTH])
        }

    def _names(self, leaning: Leaning, answer: int) -> tuple[str, ...]:
        """Return the names of the guides that one of these has."""
        learned, names = (leaning.both, self._all) if answer == BOTH else (leaning.alone, self.alone.names)
        return tuple(name for name in names if name not in learned.skipped)

    @property
    def _all(self) -> tuple[str, ...]:
        """Names of all guides, skipped or not."""
        return replace(self.stack, maker=replace(self.stack.maker, skipped=frozenset())).names

    def notes(self) -> tuple[str, ...]:
        """Return whether radar helps, and what else a user should know of what was learned."""
        made = self.leaning
        if made is None:
            return ()
        helps = made.ruling.weights != WITHOUT
        stack, learned = (self.stack, made.both) if helps else (self.alone, made.alone)
        maker = replace(stack.maker, skipped=frozenset(learned.skipped))
        lines = (_verdict(made), *replace(stack, maker=maker, learned=learned).notes())
        if not helps:
            return lines
        for filler in self.stack.maker.used:
            if filler.name in LED:
                lines += getattr(filler, "notes", tuple)()
        return lines

    def fill(self, block: BlockInput) -> Prediction:
        """Predict the gaps of what is wanted of a block."""
        if self.leaning is None:
            raise RunError(f"{self.name} has not learned anything yet; call learn, and fill with what taught returns")
        leaning, made = self.leaning, self.stack.maker.make(block)
        place = lie(made.block)
        made = self.stack.bettered(made, place, leaning.both.base)
        values, half_width = self._weighed(made, place, leaning)
        return predicted(block, made.block, values, half_width)

    def _weighed(self, made: Guides, place: Lie, leaning: Leaning) -> tuple[F32, F32]:
        """Return (t, y, x), the mean of the answers that each kind of gap has weights for, and its half-width.

        The half-width is that of the first of them: intervals are calibrated by kind of gap.
        """
        answers, half_widths = {}, []
        for answer, learned in self._used(leaning).items():
            names = self._names(leaning, answer)
            own = replace(made, values={name: made.values[name] for name in names})
            answers[answer], half_width = self.stack.answered(own, place, learned)
            half_widths.append(half_width)
        if leaning.ruling.used[RADAR]:
            answers[RADAR] = made.values[SAR]
        weights = np.array(leaning.ruling.weights, dtype=np.float32)
        values, around = np.empty_like(made.values["linear"]), made.around
        for t in range(len(values)):  # a frame at a time: the temporaries stay small
            trust = weights[kinds_of(place.distance[t], np.minimum(around.since[t], around.until[t]))]
            values[t] = 0
            for answer, own_values in answers.items():
                values[t] += trust[..., answer] * np.where(made.unknown[t], np.float32(np.nan), own_values[t])
        return values, half_widths[0]


def _held_out(stack: StackFiller, lessons: Lessons, learned: Learned, seed: int) -> F32:
    """Return (sample,) answer minus truth of what learns from the other folds' frames, fold after fold."""
    kept = [number for number, name in enumerate(stack.names) if name not in learned.skipped]
    parts, errors = lessons.only(kept, lessons.others).folds, []
    for fold, part in enumerate(parts):
        rest = [other for number, other in enumerate(parts) if number != fold]
        mixture = stack.mixed(Samples.of(rest), learned.skipped, generator(Purpose.RADAR, seed, fold + 1))
        mean = mixture.mean(list(part.answers.T), part.distance)
        if learned.answer:
            trees = forests.again(rest, mixture, learned.answer, seed)
            mean = mean + forests.followed(learned.follow, part.distance) * forests.predict(trees, features(part, mean))
        errors.append(mean - part.truth)
    return np.concatenate(errors)


def _verdict(made: Leaning) -> str:
    """Say whether radar helps."""
    ruling = made.ruling
    if not ruling.errors:
        return "radar is left out: the cube has too few frames with something to hide to tell whether it helps"
    both, alone, radar, chosen = (f"{made.spread * error:.3g}" for error in ruling.errors)
    on = f"on {sum(ruling.samples):,} artificial gap samples of frames not learned from"
    if ruling.weights == WITHOUT:
        return f"radar does not help here and is left out: MAE {both} with it, {alone} without, {radar} by sar, {on}"
    there = [kind for kind in range(CLASS_COUNT) if ruling.samples[kind]]
    helped = sum(ruling.weights[kind] != WITHOUT[kind] for kind in there)
    return (
        f"radar helps, and counts in {helped} of {len(there)} kinds of gaps: MAE {chosen} instead of {alone} "
        f"without it and {radar} by sar, {on}"
    )
