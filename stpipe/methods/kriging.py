"""Local kriging within the frame.

A gap sample takes the weights that give the least expected square error if samples of a frame vary around a local mean
with a covariance that falls with their distance d, in pixels, as ::

    covariance(d) = sill x exp(-d / range) + (nugget x sill at d = 0)

It listens to the valid samples that say most: the `NEAREST` nearest, and the first one along each of eight directions.
Within a wide gap all of the nearest lie on one shore; the directions bring in the others.

Ordinary kriging takes the mean from these samples alone, and deep in a gap of a field with a short range, where the
mean is all that it has to say, it was 5 to 7 % worse than the pyramid. So the pyramid is a prior of the mean, worth
`Covariance.backing` independent samples. All weights, the pyramid's too, add up to one. The sill only scales the
intervals: it comes from the samples that a prediction listens to, and a little from the pyramid's spread.

Deep inside a gap the answer is smooth. Next to an observation each sample has an equation system of its own; farther
away every second pixel has, and beyond `MIDDLE_PX` every fourth, with bilinear interpolation between::

    depth    0           up to 1.5      up to 5        up to 24       up to 32             beyond
             pyramid     each sample    2 x 2 pixels   4 x 4 pixels   4 x 4 and pyramid    pyramid

These pixels are counted from the cube's corner, and among samples at the same distance the choice goes by where they
lie, so that block borders make no difference.

Range and nugget are learned: those of a small grid with the least error on artificial gaps, or the shortest range that
is level with it. A factor of two in either made errors on four scenes at most 1.2 % larger.

Sources: ordinary kriging after Matheron (1963), Principles of geostatistics, Economic Geology 58, in the form of
generalised least squares of Goldberger (1962), J. American Statistical Association 57; a prior of the mean after Omre
(1987), Bayesian kriging, Mathematical Geology 19; searching by direction as in Deutsch and Journel (1998), GSLIB.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.core.crops import Crop, fill_crop
from stpipe.core.gaps import draw_gaps
from stpipe.core.ports import JSON, BlockInput, Filler, Prediction
from stpipe.errors import ModelFileError, OptionError, RunError
from stpipe.methods.fallback import WithFallback
from stpipe.methods.pyramid import NORMAL_90

F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
Ints = NDArray[np.integer]

REACH = 32
"""A gap sample this far from any observation, in pixels, is the pyramid's."""

RAMP_FROM = 24
"""From this distance on the pyramid has a share."""

SEARCH = 37
"""How far samples are looked for: `REACH`, and the way to the farthest of four pixels to interpolate between."""

NEAREST = 24
"""Nearest valid samples that a prediction listens to."""

DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
"""Steps (y, x) along which the first valid sample is listened to as well."""

EXACT_PX, MIDDLE_PX = 1.5, 5.0
"""Depths beyond which not every pixel, and not every second one, is worked out.

Working out every pixel made no error smaller by more than 0.1 % on four scenes, and took two to six times as long.
"""

MIDDLE_STEP, DEEP_STEP = 2, 4
"""Pixels from one that is worked out to the next."""

RINGS = (7, 12, 20, SEARCH)
"""Radii that are searched in turn, until there are `NEAREST` samples."""

BATCH = 1024
"""Equation systems solved at a time."""

AT_A_TIME = 2**16
"""Gap samples of a frame worked on at a time."""

SORTED = 8 * BATCH
"""Predictions sorted by how many samples they listen to, so that systems of one size meet in a batch."""

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

ESTIMATE, VARIANCE, MISFIT, COUNT = range(4)
"""Parts of a solution: see `solve`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Covariance:
    """How alike two samples of a frame are."""

    range_px: float = 25.0
    """Distance over which the covariance falls to 1/e, in pixels."""

    nugget: float = 0.03
    """Variance of what a sample shares with no other one, as a share of the sill."""

    backing: float = 10.0
    """What the pyramid counts for in the mean around a sample: 1 / its variance, in sills; 0 is ordinary kriging."""

    def __post_init__(self) -> None:
        if not (0 < self.range_px < np.inf and 0 < self.nugget < np.inf and 0 <= self.backing < np.inf):
            raise OptionError(
                f"need range_px > 0, nugget > 0 and backing >= 0, got range_px={self.range_px}, "
                f"nugget={self.nugget}, backing={self.backing}"
            )

    def to_bytes(self) -> bytes:
        """Return both as the bytes of an npz file, the same for the same numbers."""
        file = io.BytesIO()
        np.savez(file, range_px=self.range_px, nugget=self.nugget, backing=self.backing)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, learned: bytes) -> Covariance:
        """Return what `to_bytes` wrote.

        Raises
        ------
        ModelFileError
            If the bytes are anything else.
        """
        try:
            with np.load(io.BytesIO(learned), allow_pickle=False) as arrays:
                return cls(**{name: float(arrays[name]) for name in cls.__slots__})
        except (OSError, ValueError, KeyError, EOFError, TypeError) as error:
            raise ModelFileError(f"{len(learned)} bytes are no covariance kriging has learned ({error})") from error

    def at(self, squares: NDArray[np.integer]) -> F64:
        """Return the covariances at squared distances, for a sill of 1 and without the nugget.

        >>> Covariance(range_px=2.0).at(np.array([0, 1, 4])).round(3)
        array([1.   , 0.607, 0.368])
        """
        return np.asarray(np.exp(-np.sqrt(squares) / self.range_px))

    def between(self) -> F64:
        """Return the covariances of samples by the difference of their `codes`, that of 0 in the middle."""
        steps = np.arange(-2 * SEARCH, 2 * SEARCH + 1)
        return self.at(steps[:, None] ** 2 + steps**2).ravel()


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
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured with half of them gap: 4 to 10, by the gaps' shape."""
        return 6.0

    @property
    def learn_sample_bytes(self) -> float:
        """Memory of learning for each sample of the crops, measured."""
        return 45.0

    @property
    def learn_seconds_per_million(self) -> float:
        """Seconds of learning from a million samples on one core, measured; much the same for any number."""
        return 3.0

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
    hidden = draw_gaps(crop.valid, rng, domain=crop.domain)
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
        near = np.append(_offsets().squares, REACH**2)[found[:, 0]] < RAMP_FROM**2
        rows, columns, found = rows[near], columns[near], found[near]
        truth, prior = (values[t, rows, columns].astype(np.float64) for values in (crop.values, coarse))
        parts.append((truth, _gather(crop.values[t], rows, columns, found), found, prior))
    truth, heard, ranks, prior = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    return truth, heard, ranks, prior


def krige_frame(
    frame: NDArray[np.float32],
    valid: Bool,
    coarse: NDArray[np.float32],
    rows: Ints,
    columns: Ints,
    depth: F64,
    covariance: Covariance,
) -> F64:
    """Predict gap samples of a frame, those deep in gaps by interpolation.

    Parameters
    ----------
    frame : (y, x) ndarray of float32
        Anything at all where not valid.
    valid : (y, x) ndarray of bool
        Where observed and trusted.
    coarse : (y, x) ndarray of float32
        The pyramid's values.
    rows, columns : (n,) ndarray of int
        The samples.
    depth : (n,) ndarray of float64
        Their distances from the nearest valid sample, in pixels, less than `REACH`.
    covariance : Covariance
        Given, or learned.

    Returns
    -------
    (4, n) ndarray of float64
        As from `solve`.
    """
    find = _Search(valid)
    result = np.empty((4, rows.size))
    for start in range(0, rows.size, AT_A_TIME):
        part = slice(start, start + AT_A_TIME)
        result[:, part] = _interpolate(frame, find, coarse, rows[part], columns[part], depth[part], covariance)
    return result


def _interpolate(
    frame: NDArray[np.float32],
    find: _Search,
    coarse: NDArray[np.float32],
    rows: Ints,
    columns: Ints,
    depth: F64,
    covariance: Covariance,
) -> F64:
    """Do what `krige_frame` does, for a part of the samples."""
    height, width = frame.shape
    steps = np.where(depth <= EXACT_PX, 1, np.where(depth <= MIDDLE_PX, MIDDLE_STEP, DEEP_STEP))
    top, left = rows - rows % steps, columns - columns % steps
    # A sample on a line of the grid needs nothing of the next one.
    bottom = np.where(rows > top, top + steps, top)
    right = np.where(columns > left, left + steps, left)
    corners = ((top, left), (top, right), (bottom, left), (bottom, right))
    place = np.full((height + DEEP_STEP, width + DEEP_STEP), -1, dtype=np.int32)
    for y, x in corners:
        place[y, x] = 0
    asked_rows, asked_columns = np.nonzero(place == 0)
    place[asked_rows, asked_columns] = np.arange(asked_rows.size)
    solution = np.empty((4, asked_rows.size))
    for start in range(0, asked_rows.size, SORTED):
        part = slice(start, start + SORTED)
        y, x = asked_rows[part], asked_columns[part]
        found = find(y, x)
        prior = coarse[np.minimum(y, height - 1), np.minimum(x, width - 1)].astype(np.float64)
        solution[:, part] = solve(_gather(frame, y, x, found), found, prior, covariance)
    down, across = (rows - top) / steps, (columns - left) / steps
    result = np.zeros((4, rows.size))
    shares = ((1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across)
    for (y, x), weight in zip(corners, shares, strict=True):
        result += weight * solution[:, place[y, x]]
    return result


def solve(heard: F64, ranks: Ints, prior: F64, covariance: Covariance) -> F64:
    """Solve the kriging systems of many samples.

    Parameters
    ----------
    heard : (n, k) ndarray of float64
        Values of the valid samples around each, at least one; zero after the last one.
    ranks : (n, k) ndarray of int
        Where they lie, as `find_samples` gives it.
    prior : (n,) ndarray of float64
        What the mean around each is without them.
    covariance : Covariance
        Given, or learned.

    Returns
    -------
    (4, n) ndarray of float64
        Estimate; expected square error of an observation from it for a sill of 1; square misfit of the samples from
        their mean, in units of the covariance; and for how many samples it counts.

    Examples
    --------
    One sample on either side:

    >>> ranks = np.array([[_offsets().rank_of(0, -1), _offsets().rank_of(0, 1)]])
    >>> ordinary = Covariance(range_px=10.0, nugget=0.01, backing=0.0)
    >>> solve(np.array([[1.0, 3.0]]), ranks, np.zeros(1), ordinary).round(3)[:, 0]
    array([ 2.   ,  0.115, 10.456,  1.   ])
    """
    table = _offsets()
    between, toward = covariance.between(), covariance.at(table.squares)
    number = np.count_nonzero(ranks < table.squares.size, axis=1)
    order = np.argsort(number, kind="stable")
    result = np.empty((4, len(ranks)))
    for start in range(0, len(ranks), BATCH):
        part = order[start : start + BATCH]
        most = int(number[part[-1]])
        rank, value = ranks[part, :most], heard[part, :most]
        there = rank < table.squares.size
        rank = np.where(there, rank, 0)
        code = table.codes[rank]
        matrix = between[code[:, :, None] - code[:, None, :] + between.size // 2]
        if not there.all():
            # What is missing keeps a row of its own, of no consequence: its right-hand sides are zero.
            matrix *= there[:, :, None] & there[:, None, :]
        diagonal = np.arange(most)
        matrix[:, diagonal, diagonal] = 1 + covariance.nugget
        one = there.astype(np.float64)
        middle = value.sum(axis=1) / number[part]
        sides = np.stack([toward[rank] * one, one, (value - middle[:, None]) * one], axis=2)
        # (3, 3) products: of covariances, ones and values with each other.
        products = np.swapaxes(sides, 1, 2) @ np.linalg.solve(matrix, sides)
        ones = products[:, 1, 1]
        short = 1 - products[:, 0, 1]
        total = products[:, 1, 2]
        trust = ones + covariance.backing
        mean = (total + covariance.backing * (prior[part] - middle)) / trust
        result[ESTIMATE, part] = middle + products[:, 0, 2] + short * mean
        result[VARIANCE, part] = np.maximum(1 + covariance.nugget - products[:, 0, 0] + short**2 / trust, 0)
        result[MISFIT, part] = np.maximum(products[:, 2, 2] - total * total / ones, 0)
        result[COUNT, part] = number[part] - 1
    return result


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Offsets:
    """Places around a pixel up to `SEARCH` away, the nearest first; a place's rank is its number here."""

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    squares: NDArray[np.int32]
    """Squared distances."""

    codes: NDArray[np.int32]
    """Row and column in one number, so that differences of two codes tell differences of two places apart."""

    along: NDArray[np.int32]
    """(direction, step): ranks along `DIRECTIONS`; for step 0, and for what is too far, one more than there are."""

    def rank_of(self, y: int, x: int) -> int:
        """Return the rank of an offset."""
        return int(np.flatnonzero((self.rows == y) & (self.columns == x))[0])


@cache
def _offsets() -> _Offsets:
    y, x = np.indices((2 * SEARCH + 1, 2 * SEARCH + 1)).reshape(2, -1) - SEARCH
    square = y * y + x * x
    order = np.lexsort((x, y, square))
    order = order[(square[order] > 0) & (square[order] <= SEARCH * SEARCH)]
    rows, columns = y[order].astype(np.int32), x[order].astype(np.int32)
    number = {(int(a), int(b)): i for i, (a, b) in enumerate(zip(rows, columns, strict=True))}
    along = [[number.get((a * n, b * n), len(number)) for n in range(SEARCH + 1)] for a, b in DIRECTIONS]
    return _Offsets(
        rows=rows,
        columns=columns,
        squares=square[order].astype(np.int32),
        codes=rows * (4 * SEARCH + 1) + columns,
        along=np.array(along, dtype=np.int32),
    )


def find_samples(valid: Bool, rows: Ints, columns: Ints) -> Ints:
    """Find the valid samples that predictions listen to.

    Parameters
    ----------
    valid : (y, x) ndarray of bool
        Where observed and trusted.
    rows, columns : (n,) ndarray of int
        Of the predictions, no farther than `DEEP_STEP` below and to the right of the frame.

    Returns
    -------
    (n, NEAREST + 8) ndarray of int
        Ranks of their offsets, ascending. After the last one, one more than the highest rank there is.

    Examples
    --------
    >>> found = find_samples(np.array([[True, False, True]]), np.array([0]), np.array([1]))
    >>> [(_offsets().rows[rank].item(), _offsets().columns[rank].item()) for rank in found[0, :2]]
    [(0, -1), (0, 1)]
    >>> bool((found[0, 2:] == _offsets().rows.size).all())
    True
    """
    return _Search(valid)(rows, columns)


class _Search:
    """The search in one frame, batch by batch."""

    def __init__(self, valid: Bool) -> None:
        # A margin of gap makes every offset of every prediction a place in the array.
        self._padded = np.pad(valid, ((SEARCH, SEARCH + DEEP_STEP), (SEARCH, SEARCH + DEEP_STEP)))
        self._steps = [_steps_to_first(self._padded, step) for step in DIRECTIONS]

    def __call__(self, rows: Ints, columns: Ints) -> Ints:
        """Return what `find_samples` does."""
        table, width = _offsets(), self._padded.shape[1]
        flat = table.rows.astype(np.int64) * width + table.columns
        none = flat.size
        here = (rows + SEARCH) * width + columns + SEARCH
        known = self._padded.ravel()
        found = np.full((here.size, NEAREST + len(DIRECTIONS)), none, dtype=np.int16)
        for start in range(0, here.size, BATCH):
            left = np.arange(start, min(start + BATCH, here.size))
            for radius in RINGS:
                count = int(np.searchsorted(table.squares, radius * radius, side="right"))
                hit = known[here[left, None] + flat[:count]]
                number = hit.cumsum(axis=1, dtype=np.int16)
                done = number[:, -1] >= NEAREST if radius < RINGS[-1] else np.ones(left.size, dtype=bool)
                hit &= (number <= NEAREST) & done[:, None]
                which, rank = np.nonzero(hit)
                found[left[which], number[which, rank] - 1] = rank
                left = left[~done]
                if not left.size:
                    break
        last = found[:, NEAREST - 1]
        for i, steps in enumerate(self._steps):
            rank = table.along[i, steps.ravel()[here]]
            found[:, NEAREST + i] = np.where(rank > last, rank, none)  # otherwise it is among the nearest
        found.sort(axis=1)
        return found


def _steps_to_first(valid: Bool, step: tuple[int, int]) -> NDArray[np.int8]:
    """Count the steps in one direction to the first valid sample, from 1 on; 0 where there is none within `SEARCH`.

    >>> _steps_to_first(np.array([[True, False, False, True]]), (0, 1))
    array([[3, 2, 1, 0]], dtype=int8)
    """
    down, across = step
    turned = valid[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
    if not down:
        turned = turned.T
    steps = np.zeros(turned.shape, dtype=np.int8)
    width = turned.shape[1]
    # From the far end on: one step more than the next one has, or one if that is valid itself.
    slant = int(bool(down and across))
    for row in range(turned.shape[0] - 2, -1, -1):
        ahead, known = steps[row + 1, slant:], turned[row + 1, slant:]
        going = np.where((ahead > 0) & (ahead < SEARCH), ahead + 1, 0)
        steps[row, : width - slant] = np.where(known, 1, going)
    if not down:
        steps = steps.T
    return steps[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _gather(frame: NDArray[np.float32], rows: Ints, columns: Ints, ranks: Ints) -> F64:
    """Return the values of the samples found, zero for the missing."""
    table = _offsets()
    there = ranks < table.squares.size
    rank = np.where(there, ranks, 0)
    y = np.where(there, rows[:, None] + table.rows[rank], 0)
    x = np.where(there, columns[:, None] + table.columns[rank], 0)
    return np.where(there, frame[y, x], 0).astype(np.float64)
