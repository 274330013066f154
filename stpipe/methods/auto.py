"""The method that suits the cube, found on artificial gaps of the cube itself; two of them where that is better.

Learning hides samples of the crops, lets every simple method fill them, and compares on the same samples:
`stpipe.methods.choice` says how. Two methods have to beat the single winner again on every one of the draws that took
no part in the choice. So has the choice to beat the default, which learns for minutes which of all methods to lean on,
and so is tried on these draws alone: `stpipe.methods.checking`. Unless the choice is surely better, the default fills.

One border in space and not a method for each class of gap, for every change of method can be seen in the picture. The
two are blended around the border. Over ten splits of the draws on vegetation, reflectance and carbon monoxide, a method
for each calibration class made 7 % less error on one scene but up to 4 % more in single splits, and up to 21 % more
where nothing checked the choice; one border, and every draw asked, did no harm in any.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.comparison import cluster_count, clusters_of, passes_of
from stpipe.core.crops import Crop, fill_crop, middles
from stpipe.core.gap_classes import (
    CLASS_COUNT,
    CLASS_PX,
    calibration_class,
    space_distance,
)
from stpipe.core.gaps import Purpose, draw_gaps, generator
from stpipe.core.ports import JSON, BlockInput, Filler, Learner, Prediction
from stpipe.core.timeline import median_step
from stpipe.core.windows import Triple, pixels_in, samples_in, triple
from stpipe.errors import OptionError, RunError, ScratchError
from stpipe.methods import IN_TIME, METHODS, NO_CANDIDATES, bare_filler
from stpipe.methods.checking import Checks, Verdict, check, gain
from stpipe.methods.choice import Choice, Errors, Scores, choose, digits

SHARE = (0.05, 0.15)
"""What each draw hides of the crops, least and most."""

DRAWS = 2
"""Draws of a round; a learner learns once a round, from what is outside of all of its draws."""

ROUNDS = 4
"""Rounds to choose on; one more checks the choice. How well a method does on whole frames differs more from frame to
frame than from pixel to pixel: with two draws a method won on reflectance that was half as bad again as the best one.
"""

TRIED_SAMPLES = 2**20
"""Samples that methods are tried on, about: of larger crops the middle. Many draws of few pixels tell more."""

NARROWEST = 64
"""What is tried is no narrower than this, if the crop is not."""

RAMP = 1.5
"""The two methods are blended from the border divided by this to the border times this."""

LEFT_BEHIND = 128 * 2**20
"""Memory that methods keep of a worker after they were tried, measured."""

TRUSTED_SAMPLES = 1000
"""A choice that rests on fewer artificial gap samples than this is one that the user should be warned of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoFiller:
    """A `Filler` and `Learner` that tries others on the cube; `auto_filler` makes one with all that there are.

    Before it has learned, halo, stride, memory and cost are those of the costliest candidates.
    """

    candidates: tuple[Filler, ...]
    """The methods to choose from, each with a name of its own; of equal ones the first wins."""

    default: Filler | None = None
    """Fills unless the choice is surely better; None for nothing but the candidates."""

    choice: Choice | None = None
    """What was chosen; None before."""

    scores: Scores | None = None
    """What that rests on."""

    fillers: tuple[Filler, ...] = ()
    """The chosen methods with what they learned, in the order of `Choice.methods`."""

    def __post_init__(self) -> None:
        names = [filler.name for filler in self.known]
        if not self.candidates or len(set(names)) < len(names):
            raise OptionError(
                f"auto chooses among methods that have names of their own, got {', '.join(names) or 'none'}"
            )

    @property
    def known(self) -> tuple[Filler, ...]:
        """All methods that it may use."""
        return self.candidates if self.default is None else (*self.candidates, self.default)

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "auto"

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """The whole time axis, and in the frame the widest of the candidates' and what tells the border."""
        y, x = (max(filler.halo[axis] or 0 for filler in self.known) for axis in (1, 2))
        least = int(np.ceil(RAMP * max(CLASS_PX)))
        return (None, max(y, least), max(x, least))

    @property
    def stride(self) -> Triple:
        """A multiple of all the candidates'."""
        return triple(np.lcm.reduce([filler.stride for filler in self.known], axis=0))

    @property
    def process_bytes(self) -> int:
        """The most that a candidate takes, and what others leave behind that were tried before it; measured."""
        return max(filler.process_bytes for filler in self.known) + LEFT_BEHIND

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window: one method's answer is held while the other fills."""
        return max(filler.sample_bytes for filler in self.known) + 14.0

    @property
    def pixel_bytes(self) -> float:
        """Memory of a fill besides for each pixel of the read window."""
        return max(filler.pixel_bytes for filler in self.known)

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core: those of the chosen ones, or of the two costliest before."""
        known = sorted((filler.seconds_per_million for filler in self.fillers or self.known), reverse=True)
        return sum(known[:2]) + 0.1

    def learn_bytes(self, crops: Sequence[Triple]) -> int:
        """Memory of learning from so many samples: copies, draws, errors, and the costliest candidate."""
        own = 33.0 + 4 * DRAWS * SHARE[1] * ROUNDS * len(self.candidates)
        samples = samples_in(crops)
        learners = [filler.learn_bytes(crops) for filler in self.known if isinstance(filler, Learner)]
        filling = self.sample_bytes * samples + self.pixel_bytes * pixels_in(crops)
        return int(max([filling, *learners]) + own * samples)

    def learn_seconds(self, crops: Sequence[Triple]) -> float:
        """Seconds of learning from so many samples on one core; of larger crops only a part is tried."""
        fill = sum(filler.seconds_per_million + 0.1 for filler in self.candidates)
        learn = sum(filler.learn_seconds(crops) for filler in self.candidates if isinstance(filler, Learner))
        last = self.default.learn_seconds(crops) if isinstance(self.default, Learner) else 0.0
        tried = samples_in(crops) / 1e6 * DRAWS * (ROUNDS * fill + 2 * self.seconds_per_million)
        return tried + (ROUNDS + 2) * learn + 2 * last

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {
            "method": self.name,
            "version": 3,
            "candidates": [filler.identity() for filler in self.candidates],
            "default": None if self.default is None else self.default.identity(),
            "choice": None if self.choice is None else asdict(self.choice),
            "chosen": [filler.identity() for filler in self.fillers],
        }

    def prepare(self) -> None:
        """Load what the chosen methods need; candidates are loaded as they are tried."""
        for filler in self.fillers:
            filler.prepare()

    def notes(self) -> tuple[str, ...]:
        """Return what was chosen and the table that it rests on, in lines of less than 66 characters."""
        if self.choice is None or self.scores is None:
            return ()
        lines = [f"auto uses {self.choice}", *self.scores.table()]
        lines += self._verdict(self.scores.verdict)
        if sum(self.scores.samples) < TRUSTED_SAMPLES:
            lines.append(f"the choice rests on only {sum(self.scores.samples)} artificial gap samples")
        inner = (line for filler in self.fillers for line in getattr(filler, "notes", tuple)())
        return (*lines, *inner)

    def _verdict(self, found: Verdict) -> list[str]:
        """Return what gaps set apart said: of two methods against one, and of these against the default."""
        lines = []
        if found.pair_holds:
            lines.append(f"on gaps set apart, two methods are {gain(found.single, found.pair):.1%} better than one")
        elif found.pair:
            lines.append("two methods did not hold up on gaps set apart: one was taken")
        if found.default and self.default is not None:
            who = "the two err" if found.pair_holds else "the best of these errs"
            chosen, default = (digits(float(np.mean(errors))) for errors in (found.chosen, found.default))
            lines.append(f"on gaps set apart {who} {chosen}, tuned {self.default.name} {default}:")
            worse = "that is more" if sum(found.chosen) > sum(found.default) else "not surely less"
            lines.append("that is surely less" if found.choice_holds else f"{worse}, so {self.default.name} fills")
        return lines

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        """Try the candidates on artificial gaps, choose, and let the chosen ones learn from all there is.

        Parameters
        ----------
        crops : sequence of Crop
            Parts of the cube.
        seed : int
            Decides the artificial gaps and what learners do.

        Returns
        -------
        bytes
            An .npz file: choice and scores as JSON, and what each of the chosen methods learned.
        """
        frames = crops[0].days.size if crops else 0
        able = tuple(filler for filler in self.candidates if frames > 1 or filler.name not in IN_TIME)
        able = able or self.candidates
        for filler in able:
            filler.prepare()
        tried = middles(crops, TRIED_SAMPLES, narrowest=NARROWEST, rounded_up=True)
        found = _together([_try(able, tried, seed=seed, number=number) for number in range(ROUNDS)])
        single, pair = choose(found, generator(Purpose.AUTO_BOOTSTRAP, seed))
        verdict = self._check(single, pair, tried, seed=seed)
        choice = pair if pair is not None and verdict.pair_holds else single
        if self.default is not None and not verdict.choice_holds:
            choice = Choice(near=self.default.name, far=self.default.name)
        scores = Scores(
            methods=found.methods,
            samples=tuple(np.bincount(found.classes, minlength=CLASS_COUNT).tolist()),
            errors=tuple(
                tuple(np.bincount(found.classes, weights=row, minlength=CLASS_COUNT).tolist()) for row in found.absolute
            ),
            verdict=verdict,
        )
        learned = [_learn(filler, crops, seed) for filler in self._named(choice)]
        file = io.BytesIO()
        arrays: dict[str, Any] = {
            "choice": _as_array(json.dumps(asdict(choice)).encode()),
            "scores": _as_array(json.dumps(asdict(scores)).encode()),
            **{f"learned_{i}": _as_array(content) for i, content in enumerate(learned)},
        }
        np.savez(file, **arrays)
        return file.getvalue()

    def taught(self, learned: bytes) -> AutoFiller:
        """Return the method with what `learn` gave.

        Raises
        ------
        ScratchError
            If the bytes are anything else.
        """
        try:
            with np.load(io.BytesIO(learned), allow_pickle=False) as file:
                choice = Choice(**json.loads(file["choice"].tobytes()))
                scores = Scores.from_json(json.loads(file["scores"].tobytes()))
                inner = [file[f"learned_{i}"].tobytes() for i in range(len(choice.methods))]
            chosen = self._named(choice)
        except (ValueError, KeyError, TypeError, OSError, EOFError) as error:
            raise ScratchError(f"what auto learned can't be read: {error}") from error
        fillers = tuple(
            filler.taught(content) if isinstance(filler, Learner) else filler
            for filler, content in zip(chosen, inner, strict=True)
        )
        return replace(self, choice=choice, scores=scores, fillers=fillers)

    def fill(self, block: BlockInput) -> Prediction:
        """Predict as the chosen method does; around the border half-widths are blended like values."""
        if self.choice is None:
            raise RunError("auto has not chosen a method yet; call learn, and fill with what taught returns")
        near = self.fillers[0].fill(block)
        if self.choice.limit_px is None:
            return near
        far = self.fillers[1].fill(block)
        values, half_width, fallback = near.values.copy(), near.half_width.copy(), near.fallback.copy()
        for t, valid in enumerate(block.valid):  # a frame at a time: the temporaries stay small
            weight = far_weight(space_distance(valid[None])[0], self.choice.limit_px)
            weight[np.isnan(near.values[t])] = 1
            weight[np.isnan(far.values[t])] = 0
            for mine, other in ((values, far.values), (half_width, far.half_width)):
                both = mine[t] + weight * (other[t] - mine[t])
                mine[t] = np.where(weight == 0, mine[t], np.where(weight == 1, other[t], both))
            np.copyto(fallback[t], far.fallback[t], where=weight > np.float32(0.5))
        return Prediction(values=values, half_width=half_width, fallback=fallback)

    def _named(self, choice: Choice) -> tuple[Filler, ...]:
        """Return the methods of a choice."""
        by_name = {filler.name: filler for filler in self.known}
        return tuple(by_name[name] for name in choice.methods)

    def _check(self, single: Choice, pair: Choice | None, crops: Sequence[Crop], *, seed: int) -> Verdict:
        """Try what was chosen, and the default, on a round that took no part in choosing."""
        last = None if self.default is None else Choice(near=self.default.name, far=self.default.name)
        if pair is None and last is None:
            return Verdict()
        left, hidden = _round(crops, seed=seed, number=ROUNDS)
        rivals = [choice for choice in (single, pair, last) if choice is not None]
        named = {filler.name: filler for choice in rivals for filler in self._named(choice)}
        for filler in named.values():
            filler.prepare()
        taught = {name: _taught_on(filler, left, seed) for name, filler in named.items()}
        cases = [(i, draw, away) for i, ways in enumerate(hidden) for draw, away in enumerate(ways)]

        def errors(choice: Choice | None) -> NDArray[np.float32] | None:
            if choice is None:
                return None
            chosen = replace(self, choice=choice, fillers=tuple(taught[name] for name in choice.methods))
            return _joined([_absolute(chosen, crops[i], away) for i, _, away in cases], np.float32)

        one = errors(single)
        assert one is not None
        first = np.cumsum([0, *(cluster_count(crop) for crop in crops)])
        found = Checks(
            single=one,
            pair=errors(pair),
            default=errors(last),
            clusters=_joined([clusters_of(crops[i], away) + first[i] for i, _, away in cases], np.intp),
            frames=_joined([passes_of(crops[i], away) for i, _, away in cases], np.intp),
            draws=_joined([np.full(int(away.sum()), draw) for _, draw, away in cases], np.intp),
        )
        return check(found, generator(Purpose.AUTO_CHECK, seed))


def far_weight(distance: NDArray[np.float32], limit_px: float) -> NDArray[np.float32]:
    """Return the weight of the method beyond the border: it grows with the logarithm of the distance.

    >>> far_weight(np.array([0.0, 2.0, 4.0, 5.0, np.inf], dtype=np.float32), 4.0).round(2)
    array([0.  , 0.  , 0.5 , 0.78, 1.  ], dtype=float32)
    """
    inside = np.clip(distance, limit_px / RAMP, limit_px * RAMP)
    return np.asarray(np.log(inside * (RAMP / limit_px)) / (2 * np.log(RAMP))).clip(0, 1).astype(np.float32)


def auto_filler(*guides: Filler) -> AutoFiller:
    """Return the method with all others that there are: the simple ones to choose from, and the default, tuned.

    Without `stack`, which is the default without its network.

    Parameters
    ----------
    *guides : Filler
        What leans on guides that the user gave: more to choose from, and for the default to lean on.

    Examples
    --------
    >>> auto_filler().candidates[0].name, auto_filler().default.name
    ('pyramid', 'pconv')
    """
    from stpipe.methods.tuned import tuned_pconv

    default = tuned_pconv(others=guides)
    names = (name for name in METHODS if name not in NO_CANDIDATES | {"stack", default.name})
    return AutoFiller(candidates=(*(bare_filler(name) for name in names), *guides), default=default)


def _round(crops: Sequence[Crop], *, seed: int, number: int) -> tuple[list[Crop], list[list[NDArray[np.bool_]]]]:
    """Return what all draws of a round leave of the crops, and what each of them hides."""
    hidden = [
        [
            draw_gaps(
                crop.valid,
                generator(Purpose.AUTO, seed, number, draw, i),
                domain=crop.domain,
                share=SHARE,
                days=crop.days,
            )
            for draw in range(DRAWS)
        ]
        for i, crop in enumerate(crops)
    ]
    return [crop.without(np.any(ways, axis=0)) for crop, ways in zip(crops, hidden, strict=True)], hidden


def _try(able: Sequence[Filler], crops: Sequence[Crop], *, seed: int, number: int) -> Errors:
    """Fill one round with each method."""
    left, hidden = _round(crops, seed=seed, number=number)
    cases = [(i, away) for i, ways in enumerate(hidden) for away in ways]
    rows = []
    for filler in able:
        ready = _taught_on(filler, left, seed)
        rows.append(_joined([_absolute(ready, crops[i], away) for i, away in cases], np.float32))
    first = np.cumsum([0, *(cluster_count(crop) for crop in crops)])
    classes = [
        calibration_class(crops[i].valid & ~away, crops[i].days, median_step(crops[i].days))[away] for i, away in cases
    ]
    return Errors(
        methods=tuple(filler.name for filler in able),
        absolute=np.stack(rows),
        classes=_joined(classes, np.uint8),
        clusters=_joined([clusters_of(crops[i], away) + first[i] for i, away in cases], np.intp),
        frames=_joined([passes_of(crops[i], away) for i, away in cases], np.intp),
    )


def _together(rounds: Sequence[Errors]) -> Errors:
    return Errors(
        methods=rounds[0].methods,
        absolute=np.concatenate([each.absolute for each in rounds], axis=1),
        classes=np.concatenate([each.classes for each in rounds]),
        clusters=np.concatenate([each.clusters for each in rounds]),
        frames=np.concatenate([each.frames for each in rounds]),
    )


def _joined(parts: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype, copy=False)


def _absolute(filler: Filler, crop: Crop, away: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the absolute error on what is hidden; what is left unfilled counts as if it were the cube's location."""
    made = fill_crop(filler, crop.without(away)).values[away]
    return np.abs(np.where(np.isnan(made), np.float32(0), made) - crop.values[away])


def _learn(filler: Filler, crops: Sequence[Crop], seed: int) -> bytes:
    return filler.learn(crops, seed=seed) if isinstance(filler, Learner) else b""


def _taught_on(filler: Filler, crops: Sequence[Crop], seed: int) -> Filler:
    """Return a method, prepared before, ready to fill."""
    if not isinstance(filler, Learner):
        return filler
    taught = filler.taught(filler.learn(crops, seed=seed))
    taught.prepare()
    return taught


def _as_array(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content, dtype=np.uint8)
