"""Artificial gaps: observed samples hidden to learn from or to score on.

They are the scene's own gaps moved to other dates and places, and others besides: blobs, speckle, stripes, whole frames
and runs of frames. `draw_gaps` is what methods learn from and are scored on: a mix like the cube's own;
`artificial_gaps` makes one kind at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.core.timeline import passes
from stpipe.errors import ShapeError

GAP_KINDS = ("own", "own", "own", "blobs", "speckle", "stripes", "frames", "run")
"""What an artificial gap can look like; the scene's own shapes come up most."""


SHARE = (0.05, 0.25)
"""Least and most of what is valid that a draw hides."""

ANYWAY = 0.05
"""Share of a draw that whole frames, and runs of them, take at least where the cube has none itself."""

AT_MOST = 0.5
"""Share of a draw that whole frames and runs take together at most, however many the cube misses."""

_GAPS_ENOUGH = 0.005
"""A frame with less gap than this, as a share of its domain, has no shape to lend."""

_LONGEST_RUN = 5


class Purpose(IntEnum):
    """What something is drawn at random for."""

    STACK = 1
    """Gaps that the stack learns from."""

    STACK_PICK = 9
    """Which of their samples it keeps."""

    CALIBRATION = 2
    """Gaps on which intervals are calibrated."""

    EVALUATION = 3
    """Gaps on which methods are scored."""

    EVALUATION_BOOTSTRAP = 4
    """The error bars of the scores."""

    AUTO = 7
    """Gaps on which a method is chosen."""

    AUTO_BOOTSTRAP = 8
    """Whether a choice could be chance."""

    AUTO_CHECK = 15
    """Whether it holds up against the default."""

    BLOCKS = 10
    """Gaps of exported blocks, and which blocks are exported."""

    TRAINING = 11
    """Gaps that weights are trained on, and of which parts of a cube."""

    TRAINING_JUDGES = 12
    """The same of what is held out."""

    GUIDED = 13
    """Gaps on which it is learned what a user's guides are worth."""

    RADAR = 14
    """Frames by which it is judged where radar helps."""


def generator(purpose: Purpose, seed: int, *numbers: int) -> np.random.Generator:
    """Return a generator that no other purpose has, whatever its seed and numbers.

    NumPy takes no notice of zeros at the end of a seed, so that seed and numbers alone do not tell purposes apart. Each
    purpose always has the same number of numbers.

    >>> same = (np.random.default_rng(seed).random() for seed in ([0, 0], [0, 0, 0]))
    >>> len(set(same)), generator(Purpose.AUTO, 0, 0).random() == generator(Purpose.STACK, 0, 0).random()
    (1, False)
    """
    return np.random.default_rng([purpose, seed, *numbers])


def draw_gaps(
    valid: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    domain: NDArray[np.bool_] | None = None,
    share: tuple[float, float] = SHARE,
    days: NDArray[np.float64] | None = None,
) -> NDArray[np.bool_]:
    """Return True on observed samples to hide, in a mix of gaps like the cube's own.

    Frames chosen at random, clear ones more often, get the gap shape of another date at the same place, sometimes
    flipped and shifted. Whole frames and runs of frames take the share of the hidden samples that they have of the
    real gaps, but always some; the frames before and after them keep what they have. A cube with next to no gaps gets
    blobs, speckle and stripes. What is hidden is so from all frames of a pass, save for as large a share as gaps have
    that another frame of the pass shows.

    Parameters
    ----------
    valid : (time, y, x) ndarray of bool
        What is observed.
    rng : numpy Generator
        Seeded by the caller.
    domain : (y, x) ndarray of bool, optional
        Where values can exist; by default where anything was ever observed.
    share : (least, most)
        How much of what is valid a draw hides, about. The most holds always, the least wherever frames are no larger
        than that; where frames of a pass overlap, of what their pass saw.
    days : (time,) ndarray of float64, optional
        Ascending times, which tell the frames of a pass, see `stpipe.core.timeline.passes`; by default each is one.

    Returns
    -------
    (time, y, x) ndarray of bool
        A part of `valid`; none at all where there are fewer than two samples.

    Examples
    --------
    >>> valid = np.ones((12, 32, 32), dtype=bool)
    >>> valid[3, :9], valid[7, :, 20:], valid[10] = False, False, False
    >>> hidden = draw_gaps(valid, np.random.default_rng(0))
    >>> bool((hidden <= valid).all()), bool(0.04 < hidden.sum() / valid.sum() <= 0.25)
    (True, True)
    """
    which = np.arange(len(valid)) if days is None else passes(days)
    if len(valid) and which[-1] + 1 < len(valid):
        return _hide_from_passes(valid, which, rng, domain=domain, share=share)
    total = int(valid.sum())
    most = int(share[1] * total)
    if total < 2:
        return np.zeros_like(valid)
    supply = _Supply.of(valid, domain)
    goal = max(1, round(rng.uniform(*share) * total))
    hidden = np.zeros_like(valid)
    whole = _hide_frames(valid, supply, rng, goal, most)
    hidden[whole] = valid[whole]
    kept = whole.copy()  # frames that are left as they are
    kept[1:] |= whole[:-1]
    kept[:-1] |= whole[1:]
    if kept.all():
        kept = whole
    # Parts of frames get their due even where one whole frame is worth more than all that is to be hidden.
    due = round(goal * (1 - supply.frames_share - supply.runs_share))
    done = int(hidden.sum())
    _hide_parts(hidden, valid, supply, rng, frames=~kept, goal=max(goal, done + due), most=max(1, most))
    if not hidden.any():  # shapes can miss what little there is
        hidden.flat[rng.choice(np.flatnonzero(valid))] = True
    return hidden


def _hide_from_passes(
    valid: NDArray[np.bool_],
    which: NDArray[np.intp],
    rng: np.random.Generator,
    *,
    domain: NDArray[np.bool_] | None,
    share: tuple[float, float],
) -> NDArray[np.bool_]:
    """Hide from all frames of passes, and as much from single ones as other frames of their pass show of the gaps."""
    starts = np.flatnonzero(np.diff(which, prepend=-1))
    seen = np.logical_or.reduceat(valid, starts, axis=0)
    if seen.sum() < 2:
        return draw_gaps(valid, rng, domain=domain, share=share)
    inside = valid.any(axis=0) if domain is None else domain
    gap = int((inside & ~valid).sum())
    alone = float((seen[which] & ~valid).sum() / gap) if gap else 0.0
    low, high = share
    together = draw_gaps(seen, rng, domain=domain, share=(low * (1 - alone), high * (1 - alone)))
    hidden = np.asarray(together[which] & valid)
    twice = valid & (np.add.reduceat(valid, starts, axis=0, dtype=np.int32)[which] > 1) & ~hidden
    if alone and twice.sum() > 1:
        worth = alone * float(valid.sum() / twice.sum())
        own = draw_gaps(twice, rng, domain=domain, share=(min(low * worth, 0.4), min(high * worth, 0.45)))
        # Of each pass one frame at most loses a sample: another still shows it.
        own &= np.cumsum(own, axis=0) - np.insert(np.cumsum(own, axis=0), 0, 0, axis=0)[starts][which] == 1
        hidden |= own
    return hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class _Supply:
    """What a cube's own gaps are like."""

    shapes: NDArray[np.bool_]
    """(n, y, x), the gaps of frames that are gap in part."""

    origins: NDArray[np.intp]
    """(n,), their frames."""

    frames_share: float
    """Share of hidden samples for single whole frames."""

    runs_share: float
    """Share of hidden samples for runs of frames."""

    runs: tuple[int, ...] = field(default=())
    """Lengths of the cube's own runs of empty frames."""

    @classmethod
    def of(cls, valid: NDArray[np.bool_], domain: NDArray[np.bool_] | None) -> _Supply:
        """Look at a cube."""
        inside = valid.any(axis=0) if domain is None and len(valid) > 1 else domain
        if inside is None:
            inside = np.ones(valid.shape[1:], dtype=bool)
        pixels = max(1, int(inside.sum()))
        gap = np.array([int((inside & ~frame).sum()) for frame in valid]) / pixels
        empty = np.asarray(~valid.any(axis=(1, 2)))
        partial = np.flatnonzero(~empty & (gap > _GAPS_ENOUGH))
        lengths = _run_lengths(empty)
        runs = tuple(length for length in lengths if length > 1)
        everything = max(float(gap[partial].sum()) + len(empty[empty]), 1e-9)
        run, single = sum(runs) / everything, lengths.count(1) / everything
        too_much = max(1.0, (run + single) / AT_MOST)
        return cls(
            shapes=inside & ~valid[partial],
            origins=partial,
            frames_share=max(ANYWAY, single / too_much),
            runs_share=max(ANYWAY, run / too_much),
            runs=runs,
        )


def _run_lengths(flags: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of the runs of True.

    >>> _run_lengths(np.array([True, False, True, True]))
    [1, 2]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [int(length) for length in edges[1::2] - edges[::2]]


def _hide_frames(
    valid: NDArray[np.bool_], supply: _Supply, rng: np.random.Generator, goal: int, most: int
) -> NDArray[np.bool_]:
    """Choose whole frames and runs of frames to hide, as many as their share of the goal is worth."""
    sizes = valid.sum(axis=(1, 2))
    count = len(sizes)
    chosen = np.zeros(count, dtype=bool)
    seen = np.flatnonzero(sizes)
    longest = max(2, min(_LONGEST_RUN, count // 4))
    for wish, single in ((supply.runs_share, False), (supply.frames_share, True)):
        wanted = wish * goal
        for start in rng.permutation(seen):
            length = 1
            if not single:
                length = int(rng.choice(supply.runs)) if supply.runs else int(rng.integers(2, longest + 1))
                length = min(length, longest)
            run = slice(int(start), int(start) + length)
            around = slice(max(0, int(start) - 1), int(start) + length + 1)
            size = int(sizes[run].sum())
            if start + length > count or length >= len(seen) or chosen[around].any():
                continue
            # A frame may be worth more than is left of the share: then it comes up in as many draws as it is worth.
            if rng.random() * size >= wanted:
                break
            wanted -= size
            if int(sizes[chosen].sum()) + size <= most:
                chosen[run] = True
    return chosen


def _hide_parts(
    hidden: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    supply: _Supply,
    rng: np.random.Generator,
    *,
    frames: NDArray[np.bool_],
    goal: int,
    most: int,
) -> None:
    """Hide parts of frames, in place, until the goal is reached."""
    sizes = valid.sum(axis=(1, 2)) * frames
    done = int(hidden.sum())
    for attempt in range(3):
        # Clear frames first, by chance: sampling without replacement by weight (Efraimidis and Spirakis, 2006).
        keys = rng.exponential(size=len(sizes)) / np.maximum(sizes, 1e-9)
        for t in np.argsort(keys, kind="stable")[: np.count_nonzero(sizes)]:
            if done >= goal:
                return
            visible = valid[t] & ~hidden[t]
            room = min(most - done, int(visible.sum()) - 1 if len(sizes) == 1 else int(visible.sum()))
            shape = visible & _part(t, supply, rng, valid.shape[1:], last=attempt == 2)
            if shape.sum() > room:
                shape = _beginning(shape, room, rng)
            hidden[t] |= shape
            done += int(shape.sum())


def _part(
    frame: int, supply: _Supply, rng: np.random.Generator, size: tuple[int, ...], *, last: bool
) -> NDArray[np.bool_]:
    """Return a gap shape for a frame."""
    height, width = size
    others = np.flatnonzero(supply.origins != frame)
    choice = rng.random()
    if not last and len(others) and choice < 0.75:
        return np.asarray(supply.shapes[rng.choice(others)])
    if not last and len(supply.origins) and choice < 0.9:
        return _shifted(supply.shapes[rng.integers(len(supply.origins))], rng)
    kind = rng.random()
    if last or min(size) < 4 or kind < 0.2:
        return np.asarray(rng.random(size) < rng.uniform(0.05, 0.8))
    return _stripes(rng, (height, width)) if kind < 0.35 else _blob(rng, (height, width))


def _shifted(shape: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Flip a shape at random and move it round."""
    flipped = shape[:: int(rng.choice((-1, 1))), :: int(rng.choice((-1, 1)))]
    moves = tuple(int(rng.integers(0, n)) for n in shape.shape)
    return np.asarray(np.roll(flipped, moves, axis=(0, 1)))


def _beginning(shape: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Keep so many samples of a shape: those on one side of a line in a random direction."""
    rows, columns = np.nonzero(shape)
    angle = rng.uniform(0, 2 * np.pi)
    order = np.argsort(np.cos(angle) * rows + np.sin(angle) * columns, kind="stable")[:count]
    kept = np.zeros_like(shape)
    kept[rows[order], columns[order]] = True
    return kept


def artificial_gaps(
    valid: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    kind: str = "own",
    shapes: NDArray[np.bool_] | None = None,
    frames_share: float = 0.4,
) -> NDArray[np.bool_]:
    """Return True on observed samples to hide.

    Parameters
    ----------
    valid : (time, y, x) ndarray of bool
        What is observed.
    rng : numpy Generator
        Seeded by the caller.
    kind : str
        One of `GAP_KINDS`.
    shapes : (n, y, x) ndarray of bool, optional
        Gap shapes to borrow, True = gap, at least as large as a frame; by default the gaps of `valid`.
    frames_share : float
        Share of the frames that get a gap.

    Examples
    --------
    >>> valid = np.ones((4, 8, 8), dtype=bool)
    >>> hidden = artificial_gaps(valid, np.random.default_rng(0), kind="frames", frames_share=0.25)
    >>> hidden.any(axis=(1, 2)).sum(), bool(hidden.all(axis=(1, 2)).any())
    (np.int64(1), True)
    """
    count, height, width = valid.shape
    hidden = np.zeros_like(valid)
    chosen = rng.permutation(count)[: max(1, round(frames_share * count))]
    if kind == "run":
        length = int(rng.integers(2, max(3, min(7, count // 2 + 1))))
        start = int(rng.integers(0, max(1, count - length + 1)))
        where = _blob(rng, (height, width)) if rng.random() < 0.7 else np.ones((height, width), dtype=bool)
        hidden[start : start + length] = where
        return hidden & valid
    pool = _useful_shapes(~valid if shapes is None else shapes) if kind == "own" else None
    for t in chosen:
        if kind == "own" and pool is not None and len(pool):
            hidden[t] = _moved(pool[rng.integers(len(pool))], rng, (height, width))
        elif kind in ("own", "blobs"):
            hidden[t] = _blob(rng, (height, width))
        elif kind == "speckle":
            hidden[t] = rng.random((height, width)) < rng.uniform(0.05, 0.8)
        elif kind == "stripes":
            hidden[t] = _stripes(rng, (height, width))
        elif kind == "frames":
            hidden[t] = True
        else:
            raise ShapeError(f"no artificial gap of kind {kind!r}; there are {', '.join(sorted(set(GAP_KINDS)))}")
    return hidden & valid


def _useful_shapes(gaps: NDArray[np.bool_]) -> NDArray[np.bool_]:
    share = gaps.mean(axis=(1, 2))
    useful: NDArray[np.bool_] = gaps[(share > 0.02) & (share < 0.97)]
    return useful


def _moved(shape: NDArray[np.bool_], rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Cut a shape to size at a random place, flipped at random; wrapped round where it is too small."""
    if rng.random() < 0.5:
        shape = shape[::-1]
    if rng.random() < 0.5:
        shape = shape[:, ::-1]
    tiled = np.tile(shape, [ceil(n / have) for n, have in zip(size, shape.shape, strict=True)])
    y, x = (int(rng.integers(0, have - n + 1)) for n, have in zip(size, tiled.shape, strict=True))
    return tiled[y : y + size[0], x : x + size[1]]


def _blob(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Cloud-like shape: smooth noise above a level."""
    noise = ndimage.gaussian_filter(rng.standard_normal(size), rng.uniform(2, max(3, min(size) / 6)), mode="wrap")
    noise += 0.3 * noise.std() * ndimage.gaussian_filter(rng.standard_normal(size), 1.0)
    result: NDArray[np.bool_] = noise > np.quantile(noise, rng.uniform(0.3, 0.9))
    return result


def _stripes(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Wedges between scan lines, or between swaths."""
    y, x = np.indices(size)
    period = rng.uniform(8, 48)
    along = y + rng.uniform(-0.4, 0.4) * x
    if rng.random() < 0.5:
        along = x + rng.uniform(-0.4, 0.4) * y
    result: NDArray[np.bool_] = (along + rng.uniform(0, period)) % period < period * rng.uniform(0.15, 0.5)
    return result
