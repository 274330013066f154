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
the answer is followed is learned on artificial gaps. If on frames that had no say in that the guides gain nothing,
they are left out, and the answer is that of `linear`. Where no guide has a value, it is too.

Sources: ridge regression towards a given slope after Hoerl and Kennard (1970), Technometrics 12; the smoothing is
Nadaraya and Watson's kernel regression (1964).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.core.crops import Crop, middles
from stpipe.core.gaps import Purpose, draw_gaps, generator
from stpipe.core.ports import JSON, BlockInput, Prediction
from stpipe.core.timeline import NORMAL_90, Neighbours, median_step, neighbours
from stpipe.errors import RunError, ScratchError
from stpipe.methods.evidence import compare
from stpipe.methods.fallback import WithFallback

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

NAME = "guided"
"""The method's name."""

SMOOTHINGS = ((0, 0.0), (0, 2.0), (3, 2.0), (3, 5.0))
"""What learning tries: pixels to either side in the frame, and standard deviation in median steps of the cube."""

RIDGES = (4.0, 16.0, 64.0, 1e6)
"""Ridges that learning tries, in observations; the last leaves a pixel nothing of its own."""

FIRST_RIDGE = 16.0
"""The one with which smoothings are compared."""

WIDEST = max(radius for radius, _ in SMOOTHINGS)
"""How far around a pixel its guides matter."""

KERNEL = 3.0
"""A smoothing in time reaches so many standard deviations."""

SHARE = (0.1, 0.25)
"""What each draw hides of the crops, least and most."""

DRAWS = 3
"""Draws of artificial gaps; the last has no say in what is chosen, and judges it."""

SEEN = 2**19
"""Samples of the crops that are looked at, about."""

LEAST_SAMPLES = 200
"""With fewer hidden samples to judge by the guides are left out."""

LEAST_GAIN = 0.005
"""Guides that take a smaller share than this off the error of interpolation are left out."""

STRIP = 2**18
"""Numbers of normal matrices that are held at a time."""

JITTER = 1e-6
"""Share of each guide's variance that is added to it: two that say the same can still be told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What was learned of a cube and its guides."""

    smoothing: tuple[int, float] = SMOOTHINGS[0]
    """One of `SMOOTHINGS`."""

    ridge: float = FIRST_RIDGE
    """One of `RIDGES`."""

    weight: float = 0.0
    """How far the regression is followed, from 0 (interpolation alone) to 1."""

    slopes: tuple[float, ...] = ()
    """(guide,), the scene's, within pixels."""

    covariance: tuple[tuple[float, ...], ...] = ()
    """(guide, guide), of the guides over time within pixels."""

    level: tuple[float, ...] = ()
    """(1 + guide,), intercept and slopes over all of the scene's samples."""

    level_spread: float = 1.0
    """Standard deviation of what that regression leaves over."""

    samples: int = 0
    """Hidden samples that judged."""

    errors: tuple[float, float] = (float("nan"), float("nan"))
    """Mean absolute error of interpolation on these, and with the guides; in spreads."""

    def to_bytes(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, learned: bytes) -> Lesson:
        """Return what `to_bytes` wrote."""
        try:
            told = json.loads(learned)
            told["smoothing"] = (int(told["smoothing"][0]), float(told["smoothing"][1]))
            told["covariance"] = tuple(map(tuple, told["covariance"]))
            for name in ("slopes", "level", "errors"):
                told[name] = tuple(told[name])
            return cls(**told)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ScratchError(f"{len(learned)} bytes are nothing that {NAME} has learned ({error})") from error


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
        return 54.0 + 5.0 * len(self.names)

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return 0.25 + 0.1 * len(self.names)

    def learn_bytes(self, samples: int) -> int:
        """Memory of learning from so many samples, of which some are looked at; measured."""
        return int((60.0 + 8.0 * len(self.names)) * min(samples, SEEN))

    def learn_seconds(self, samples: int) -> float:
        """Seconds of learning from so many samples on one core, measured."""
        tries = (DRAWS - 1) * (len(SMOOTHINGS) + len(RIDGES)) + 1
        return 0.5 * tries * min(samples, SEEN) / 1e6 * self.seconds_per_million

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {
            "method": self.name,
            "version": 1,
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
        if not made.weight:
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
        del around
        used = bool(self.lesson.weight) and bool(set(self.names) & set(block.guides))
        known = np.zeros(valid.shape, dtype=bool)
        fields = np.empty((0, *valid.shape), dtype=np.float32)
        if used:
            shown = {name: block.guides[name][(slice(None), *wide)] for name in self.names if name in block.guides}
            fields, known = prepared(self.names, shown, block.days, step, self.lesson.smoothing, there)
            followed, width = regressed(fields, known, values, valid, block.days, step, self.lesson)
            share = np.float32(self.lesson.weight)
            has = np.isfinite(followed)
            np.copyto(answer, answer + share * (followed - answer), where=has)
            np.copyto(half_width, half_width + share * (width - half_width), where=has)
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
        level = np.asarray(self.lesson.level, dtype=np.float32)
        mine = 1 / np.maximum((half_width[where] / np.float32(NORMAL_90)) ** 2, np.float32(1e-6))
        theirs = np.float32(self.lesson.weight / max(self.lesson.level_spread**2, 1e-6))
        told = level[0] + np.tensordot(level[1:], fields[:, where], 1)
        mine = np.where(np.isfinite(mine), mine, np.float32(0))
        kept = np.where(mine > 0, values[where], np.float32(0))
        values[where] = (mine * kept + theirs * told) / (mine + theirs)
        half_width[where] = np.float32(NORMAL_90) / np.sqrt(mine + theirs)


def prepared(
    names: Sequence[str],
    guides: Mapping[str, F32],
    days: F64,
    step: float,
    smoothing: tuple[int, float],
    part: tuple[slice, ...] = (slice(None),) * 3,
) -> tuple[F32, NDArray[np.bool_]]:
    """Return the guides ready to be regressed on, and where any of them has a value.

    Parameters
    ----------
    names : sequence of str
        Which guides, in order; one that is missing has no value anywhere.
    guides : mapping of str to (time, y, x) ndarray of float32
        NaN where there is none.
    days : (time,) ndarray of float64
        Ascending times.
    step : float
        Days that count as one step.
    smoothing : (pixels, steps)
        To either side in the frame, and standard deviation in time. A smoothed guide has values where it had some.
    part : tuple of slice
        What to return of the arrays.

    Returns
    -------
    fields : (guide, time, y, x) ndarray of float32
        A guide without a value, where another one has one, is at its mean in the pixel, and says nothing.
    known : (time, y, x) ndarray of bool
        Zero in `fields` where False.

    Examples
    --------
    >>> guide = np.array([1, np.nan, 3], dtype=np.float32).reshape(3, 1, 1)
    >>> fields, known = prepared(["vv"], {"vv": guide}, np.arange(3.0), 1.0, (0, 0.0))
    >>> fields.ravel(), known.ravel()
    (array([1., 0., 3.], dtype=float32), array([ True, False,  True]))
    """
    shape = np.empty((days.size, 0, 0)).shape if not guides else next(iter(guides.values())).shape
    cut = np.empty(shape, dtype=bool)[part].shape
    fields = np.zeros((len(names), *cut), dtype=np.float32)
    has = np.zeros((len(names), *cut), dtype=bool)
    radius, steps = smoothing
    for number, name in enumerate(names):
        if name not in guides:
            continue
        there = np.isfinite(guides[name])
        clean = np.where(there, guides[name], np.float32(0))
        if radius:
            clean = _in_space(clean, there, radius)
        clean, has[number] = clean[part], there[part]
        if steps:
            clean = _in_time(clean, has[number], days, steps * step)
        fields[number] = clean
    known = has.any(axis=0)
    for field, there in zip(fields, has, strict=True):
        count = there.sum(axis=0, dtype=np.float32)
        mean = field.sum(axis=0, dtype=np.float64) / np.maximum(count, 1)
        np.copyto(field, mean.astype(np.float32), where=known & ~there)
    return fields, known


def _in_space(values: F32, there: NDArray[np.bool_], radius: int) -> F32:
    """Return means over squares, of what there is; zero where there is nothing, as `values` are."""
    made = np.zeros_like(values)
    for t in range(len(values)):  # a frame at a time: the temporaries stay small
        if not there[t].any():
            continue
        total, share = (
            ndimage.uniform_filter(part.astype(np.float64), 2 * radius + 1, mode="constant")
            for part in (values[t], there[t])
        )
        made[t] = np.where(there[t], total / np.where(there[t], share, 1.0), 0.0)
    return made


def _in_time(values: F32, there: NDArray[np.bool_], days: F64, spread_days: float) -> F32:
    """Return weighted means over the frames around each, of what there is; zero where there is nothing."""
    made = np.zeros_like(values)
    reach = KERNEL * spread_days
    for t, day in enumerate(days):
        first, last = np.searchsorted(days, (day - reach, day + reach))
        total, share = (np.zeros(values.shape[1:], dtype=np.float32) for _ in range(2))
        for other in range(first, max(last, t + 1)):
            weight = np.float32(np.exp(-0.5 * ((days[other] - day) / spread_days) ** 2))
            total += weight * values[other]
            share += weight * there[other]
        made[t] = np.where(there[t], total / np.where(there[t], share, np.float32(1)), np.float32(0))
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Sums over the observations of each pixel, its own means taken off."""

    guides: F64
    """(y, x, guide, guide)."""

    cross: F64
    """(y, x, guide), with the values."""

    count: F64
    """(y, x), observations beyond the first."""

    @classmethod
    def of(cls, fields: F32, values: F32, heard: NDArray[np.bool_]) -> Moments:
        """Sum over frames, one after the other, so that where block borders fall makes no difference."""
        size, frames = len(fields), len(values)
        place = heard.shape[1:]
        total = np.zeros((size + 1, *place))
        number = np.zeros(place)
        for t in range(frames):
            total[0] += np.where(heard[t], values[t], 0)
            for i in range(size):
                total[i + 1] += np.where(heard[t], fields[i, t], 0)
            number += heard[t]
        means = total / np.maximum(number, 1)
        guides, cross = np.zeros((*place, size, size)), np.zeros((*place, size))
        for t in range(frames):
            off = [np.where(heard[t], fields[i, t] - means[i + 1], 0) for i in range(size)]
            value = np.where(heard[t], values[t] - means[0], 0)
            for i in range(size):
                cross[..., i] += off[i] * value
                for j in range(i + 1):
                    guides[..., i, j] += off[i] * off[j]
        for i in range(size):
            for j in range(i):
                guides[..., j, i] = guides[..., i, j]
        return cls(guides=guides, cross=cross, count=np.maximum(number - 1, 0))

    def slopes(self, lesson: Lesson) -> F64:
        """Return (y, x, guide), each pixel's slopes, drawn towards the scene's."""
        covariance, scene = np.array(lesson.covariance), np.array(lesson.slopes)
        normal = self.guides + lesson.ridge * covariance
        right = self.cross + lesson.ridge * (covariance @ scene)
        return np.asarray(np.linalg.solve(normal, right[..., None])[..., 0])


def regressed(
    fields: F32,
    known: NDArray[np.bool_],
    values: F32,
    valid: NDArray[np.bool_],
    days: F64,
    step: float,
    lesson: Lesson,
) -> tuple[F32, F32]:
    """Return what guides and the interpolation of what they leave over say of each sample, and how sure that is.

    Parameters
    ----------
    fields, known : (guide, time, y, x) ndarray of float32, (time, y, x) ndarray of bool
        See `prepared`.
    values, valid : (time, y, x) ndarray of float32 and of bool
        What was observed; anything at all where not valid.
    days : (time,) ndarray of float64
        Ascending times.
    step : float
        Days that count as one step.
    lesson : Lesson
        Of slopes, covariance and ridge.

    Returns
    -------
    answer, half_width : (time, y, x) ndarray of float32
        NaN where no guide has a value, and in pixels that were never observed where one had.
    """
    heard = valid & known
    clean = np.where(heard, values, np.float32(0))
    told = np.zeros(values.shape, dtype=np.float32)
    rows = max(1, STRIP // max(1, heard.shape[2] * len(fields) ** 2))
    for top in range(0, heard.shape[1], rows):  # a strip at a time: the normal matrices stay small
        strip = (slice(None), slice(top, top + rows))
        own = fields[:, *strip]
        slopes = Moments.of(own, clean[strip], heard[strip]).slopes(lesson).astype(np.float32)
        for i, field in enumerate(own):
            told[strip] += slopes[..., i] * field
    around: Neighbours = neighbours(np.where(heard, clean - told, np.float32(0)), heard, days, step)
    told += around.linear
    half_width = around.half_width
    told[~known] = np.nan
    half_width[~known] = np.nan
    return told, half_width


def learned(names: Sequence[str], crops: Sequence[Crop], seed: int) -> Lesson:
    """Return what artificial gaps of crops teach; weight 0 if the guides gain nothing on a draw set apart."""
    trials = [_Trial.of(crop, draw, number, seed) for draw in range(DRAWS) for number, crop in enumerate(crops)]
    mine, apart = trials[: -len(crops)], trials[-len(crops) :]
    if not any(set(names) & set(crop.guides) for crop in crops) or not any(trial.hidden.any() for trial in mine):
        return Lesson()
    chosen, least = Lesson(), float("inf")
    for smoothing in SMOOTHINGS:
        made = list(_fields_of(names, crops, smoothing))
        lesson = replace(_scene(crops, made), smoothing=smoothing, ridge=FIRST_RIDGE)
        found = _tried(mine, made, lesson)
        if found.error < least:
            chosen, least, fields = replace(lesson, weight=found.weight), found.error, made
    for ridge in RIDGES:
        lesson = replace(chosen, ridge=ridge)
        found = _tried(mine, fields, lesson)
        if found.error < least:
            chosen, least = replace(lesson, weight=found.weight), found.error
    before, after, frames = _judged(apart, fields, chosen)
    if before.size < LEAST_SAMPLES:
        return replace(chosen, weight=0.0, samples=int(before.size))
    errors = (float(before.mean(dtype=np.float64)), float(after.mean(dtype=np.float64)))
    helps = errors[1] < (1 - LEAST_GAIN) * errors[0] and compare(before, after, frames).holds(0.0)
    return replace(chosen, weight=chosen.weight if helps else 0.0, samples=int(before.size), errors=errors)


def _fields_of(
    names: Sequence[str], crops: Sequence[Crop], smoothing: tuple[int, float]
) -> Iterator[tuple[F32, NDArray[np.bool_]]]:
    """Give the guides of each crop."""
    for crop in crops:
        guides = crop.guides or {names[0]: np.full(crop.values.shape, np.nan, dtype=np.float32)}
        yield prepared(names, guides, crop.days, median_step(crop.days), smoothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """A crop with a part hidden, and what interpolation says of that."""

    number: int
    """Which crop it is."""

    crop: Crop
    """The whole of it."""

    hidden: NDArray[np.bool_]
    """(t, y, x), what is to be predicted."""

    linear: F32
    """(sample,), the answers of interpolation, NaN where there is none."""

    @classmethod
    def of(cls, crop: Crop, draw: int, number: int, seed: int) -> _Trial:
        """Hide a part of a crop."""
        rng = generator(Purpose.GUIDED, seed, draw, number)
        hidden = draw_gaps(crop.valid, rng, domain=crop.domain, share=SHARE)
        left = crop.valid & ~hidden
        around = neighbours(crop.values, left, crop.days, median_step(crop.days))
        return cls(number=number, crop=crop, hidden=hidden, linear=around.linear[hidden])


@dataclass(frozen=True, slots=True)
class _Found:
    """How a lesson did on trials."""

    weight: float
    """The best one."""

    error: float
    """Mean absolute error with it."""


def _answers(
    trials: Sequence[_Trial], made: Sequence[tuple[F32, NDArray[np.bool_]]], lesson: Lesson
) -> Iterator[tuple[F32, F32, NDArray[np.intp]]]:
    """Give what interpolation misses of hidden samples, what the regression adds to it, and their frames."""
    for trial in trials:
        crop, (fields, known) = trial.crop, made[trial.number]
        left = crop.valid & ~trial.hidden
        told, _ = regressed(fields, known, crop.values, left, crop.days, median_step(crop.days), lesson)
        added, missed = told[trial.hidden] - trial.linear, crop.values[trial.hidden] - trial.linear
        frames = np.nonzero(trial.hidden)[0] + trial.number * crop.days.size
        has = np.isfinite(missed)
        yield missed[has], np.nan_to_num(added[has], nan=0.0), frames[has]


def _tried(trials: Sequence[_Trial], made: Sequence[tuple[F32, NDArray[np.bool_]]], lesson: Lesson) -> _Found:
    """Return the weight with the least absolute error, which is a weighted median of the weights that samples want."""
    missed, added, _ = (np.concatenate(part) for part in zip(*_answers(trials, made, lesson), strict=True))
    size = np.abs(added).astype(np.float64)
    moved = size > 1e-6
    weight = 0.0
    if moved.any():
        wanted = missed[moved].astype(np.float64) / added[moved]
        order = np.argsort(wanted, kind="stable")
        total = np.cumsum(size[moved][order])
        weight = float(np.clip(wanted[order][np.searchsorted(total, total[-1] / 2)], 0, 1))
    error = float(np.abs(missed - weight * added).mean(dtype=np.float64)) if missed.size else float("inf")
    return _Found(weight, error)


def _judged(
    trials: Sequence[_Trial], made: Sequence[tuple[F32, NDArray[np.bool_]]], lesson: Lesson
) -> tuple[F32, F32, NDArray[np.intp]]:
    """Return the absolute errors without and with the guides, and the frames they are in."""
    missed, added, frames = (np.concatenate(part) for part in zip(*_answers(trials, made, lesson), strict=True))
    return np.abs(missed), np.abs(missed - np.float32(lesson.weight) * added), frames


def _scene(crops: Sequence[Crop], made: Sequence[tuple[F32, NDArray[np.bool_]]]) -> Lesson:
    """Return the scene's slopes within pixels, and its regression of levels."""
    size = len(made[0][0])
    guides, cross, count = np.zeros((size, size)), np.zeros(size), 0.0
    square, sums = np.zeros((size + 2, size + 2)), 0.0
    for crop, (fields, known) in zip(crops, made, strict=True):
        heard = crop.valid & known
        moments = Moments.of(fields, crop.values, heard)
        guides += moments.guides.sum(axis=(0, 1))
        cross += moments.cross.sum(axis=(0, 1))
        count += float(moments.count.sum())
        picked = [np.ones(int(heard.sum())), *(field[heard] for field in fields), crop.values[heard]]
        rows = np.stack([part.astype(np.float64) for part in picked])
        square += rows @ rows.T
        sums += rows.shape[1]
    covariance = guides / max(count, 1.0)
    covariance += np.diag(JITTER * np.diag(covariance) + 1e-9)
    slopes = np.linalg.solve(covariance, cross / max(count, 1.0))
    normal = square[:-1, :-1] / max(sums, 1.0)
    normal += np.diag(JITTER * np.diag(normal) + 1e-9)
    right = square[:-1, -1] / max(sums, 1.0)
    level = np.linalg.solve(normal, right)
    left = square[-1, -1] / max(sums, 1.0) - level @ right
    return Lesson(
        slopes=tuple(slopes.tolist()),
        covariance=tuple(map(tuple, covariance.tolist())),
        level=tuple(level.tolist()),
        level_spread=float(np.sqrt(max(left, 1e-6))),
    )
