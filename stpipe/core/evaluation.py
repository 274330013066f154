"""Scoring methods on artificial gaps.

Each draw hides a part of the crops, lets the methods that learn learn from what is left, fills, and compares all
methods on the same samples. Error bars come from a bootstrap over the cube's frames where 20 of them or more have
hidden samples, else over parts of frames; see `stpipe.core.comparison`. Each frame's errors are told by themselves as
well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.comparison import ALL, Difference, Row, Sums, cluster_frames, cluster_passes, clusters_of, groups_of
from stpipe.core.crops import Crop, block_of, settled_on
from stpipe.core.gaps import Purpose, draw_gaps, generator
from stpipe.core.ports import Filler, Learner
from stpipe.core.seams import seam_ratio
from stpipe.core.windows import Window, triple
from stpipe.errors import CubeError, OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a method takes, and whether its blocks show."""

    method: str
    """The method."""

    seconds_per_million: float
    """Seconds to fill a million samples."""

    learning_seconds: float
    """Seconds to learn, for each draw; calibrating intervals counts as learning."""

    seam_ratio: float
    """Mean step across block borders in gaps over that when filled in one piece; NaN where the cube is too small."""


Calibrated = Callable[[Filler], NDArray[np.bool_] | None]
"""Given a method that has looked at a crop, returns (time,) which frames it drew to what was observed in them, or None
for a method that does no such thing."""

Unseeing = Callable[[Filler, NDArray[np.intp]], Filler]
"""Given a method and the frames of which something is hidden in a crop, returns the method as it is to be scored: one
that learns from whole frames may have to do without these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameScore:
    """What was hidden of one frame, and how far off each method was there. Physical units."""

    frame: int
    """Its place in the cube."""

    date: str
    """Its time; empty where nobody told."""

    clear: float
    """Share of it that is observed, in the crops and inside the domain, before anything was hidden."""

    hidden: int
    """Samples of it that were hidden, over all draws."""

    samples: int
    """Those that every method filled; errors are over these."""

    mae: Mapping[str, float]
    """Mean absolute error by method; NaN where no method can be compared."""

    calibrated: float | None
    """Share of the hidden samples in whose crop and draw the frame was clear enough to be calibrated, by the first
    method that calibrates frames; None where none does."""

    def as_dict(self) -> dict[str, Any]:
        """Return what `json.dumps` takes, None for NaN."""
        return {**_plain(self), "mae": {name: None if np.isnan(mae) else mae for name, mae in self.mae.items()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was found for one variable."""

    variable: str
    """Its name."""

    rows: tuple[Row, ...]
    """One for each method and each group that has samples, methods in the order asked for."""

    costs: tuple[Cost, ...]
    """One a method."""

    best_simple: str | None
    """The simple method with the lowest MAE; None where only others were asked for."""

    hidden: int
    """Samples that were hidden, over all draws."""

    draws: int
    """Times that gaps were drawn."""

    seed: int
    """Decides them."""

    interval: float
    """What the intervals are to cover."""

    spread: float
    """The variable's robust standard deviation."""

    units: str = ""
    """Of the variable."""

    differences: tuple[Difference, ...] = ()
    """Of pairs of methods, in each group that has samples."""

    frames: tuple[FrameScore, ...] = ()
    """One for each frame of which something was hidden."""

    notes: tuple[str, ...] = field(default=())
    """What a user should know."""

    def row(self, method: str, group: str = ALL) -> Row:
        """Return a row.

        Raises
        ------
        KeyError
            If there were no such samples.
        """
        for row in self.rows:
            if (row.method, row.group) == (method, group):
                return row
        raise KeyError((method, group))

    def as_dict(self) -> dict[str, Any]:
        """Return what `json.dumps` takes, None for NaN."""
        lists = {"rows", "costs", "differences", "frames", "notes"}
        return {
            **{one.name: getattr(self, one.name) for one in fields(self) if one.name not in lists},
            "notes": list(self.notes),
            "rows": [_plain(row) for row in self.rows],
            "costs": [_plain(cost) for cost in self.costs],
            "differences": [_plain(difference) for difference in self.differences],
            "frames": [frame.as_dict() for frame in self.frames],
        }


def _plain(entry: Row | Cost | Difference | FrameScore) -> dict[str, Any]:
    """Return the fields of an entry by name, None for NaN."""
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in asdict(entry).items()}


def evaluate(
    fillers: Mapping[str, Filler],
    crops: Sequence[Crop],
    *,
    variable: str,
    spread: float,
    draws: int = 2,
    seed: int = 0,
    interval: float = 0.9,
    units: str = "",
    dates: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
    calibrated: Calibrated | None = None,
    unseeing: Unseeing | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score methods on artificial gaps of crops.

    Parameters
    ----------
    fillers : mapping of str to Filler
        The methods by name; one that is a `Learner` learns anew for each draw, from what the draw leaves.
    crops : sequence of Crop
        Parts of a cube.
    variable, units : str
        For the record.
    spread : float
        What the crops were standardised with: physical errors are this times theirs.
    draws : int
        How often gaps are drawn; more give narrower error bars and take longer.
    seed : int
        Decides the gaps, what is learned, and the bootstrap.
    interval : float
        What the fillers' intervals are to cover, for the record.
    dates : sequence of str
        Times of all frames of the cube, for the record.
    pairs : sequence of (str, str)
        Methods whose difference is to be told besides.
    calibrated : callable, optional
        Tells which frames a method has calibrated, see `Calibrated`.
    unseeing : callable, optional
        Keeps a method from frames that it is scored on, see `Unseeing`.
    progress : callable, optional
        Called with steps done and steps there are.

    Raises
    ------
    OptionError
        If `draws` is below 1 or no method is given.
    CubeError
        If nothing is observed that could be hidden.

    Examples
    --------
    >>> class Nought:
    ...     name, halo, stride = "nought", (0, 0, 0), (1, 1, 1)
    ...     def prepare(self): pass
    ...     def fill(self, block):
    ...         from stpipe.core.ports import Prediction
    ...         nothing = np.zeros(block.valid.shape, dtype=np.float32)
    ...         return Prediction(values=nothing, half_width=nothing + 1, fallback=nothing > 0)
    >>> from stpipe.core.windows import Window
    >>> values = np.ones((6, 16, 16), dtype=np.float32)
    >>> crop = Crop(values=values, valid=values > 0, days=np.arange(6.0), window=Window.of((6, 16, 16)))
    >>> found = evaluate({"nought": Nought()}, [crop], variable="v", spread=2.0)
    >>> row = found.row("nought")
    >>> row.mae, row.bias, row.coverage, row.width
    (2.0, -2.0, 1.0, 4.0)
    """
    if draws < 1:
        raise OptionError(f"gaps have to be drawn at least once, got --draws {draws}")
    if not fillers:
        raise OptionError("there is no method to evaluate; name one")
    if sum(int(crop.valid.sum()) for crop in crops) < 2:
        raise CubeError(f"variable {variable!r} has next to no valid sample, so that nothing can be hidden to score on")
    frames = [cluster_frames(crop) for crop in crops]  # a date is one frame, whichever crops it shows in
    offsets = np.cumsum([0, *(part.size for part in frames)])
    witnesses = np.concatenate([cluster_passes(crop) for crop in crops])
    sums, tally = Sums(tuple(fillers), np.concatenate(frames), witnesses), _FrameTally(crops, calibrated)
    seconds = {name: [0.0, 0.0] for name in fillers}
    seams = dict.fromkeys(fillers, float("nan"))
    notes: dict[str, None] = {}
    steps, done = draws * (len(fillers) + 1), 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    for draw in range(draws):
        hidden = [
            draw_gaps(crop.valid, generator(Purpose.EVALUATION, seed, draw, i), domain=crop.domain, days=crop.days)
            for i, crop in enumerate(crops)
        ]
        left = [crop.without(away) for crop, away in zip(crops, hidden, strict=True)]
        tally.hide(hidden)
        step()
        answers: list[list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = []
        for name, method in fillers.items():
            began = time.perf_counter()
            filler = method
            if isinstance(method, Learner):
                filler = method.taught(method.learn(left, seed=seed + draw))
                notes |= dict.fromkeys(f"{name}: {line}" for line in getattr(filler, "notes", tuple)())
            filler.prepare()
            ready = time.perf_counter()
            seconds[name][0] += ready - began
            answers.append([])
            for i, (crop, away) in enumerate(zip(left, hidden, strict=True)):
                ready = time.perf_counter()
                own = filler if unseeing is None else unseeing(filler, np.flatnonzero(away.any(axis=(1, 2))))
                settled = settled_on(own, crop)
                answers[-1].append(_at(settled, crop, away))
                seconds[name][1] += time.perf_counter() - ready
                tally.look(name, settled, i, away)
            if draw == 0:
                seams[name] = seam_ratio(filler, left[0])
            step()
        for i, (crop, away) in enumerate(zip(crops, hidden, strict=True)):
            sums.add(
                crop.values[away],
                [each[i] for each in answers],
                groups_of(left[i], away),
                clusters_of(crop, away) + offsets[i],
            )
    rows, best = sums.rows(spread, generator(Purpose.EVALUATION_BOOTSTRAP, seed, draws))
    differences = sums.differences(pairs, spread, generator(Purpose.EVALUATION_BOOTSTRAP, seed, draws))
    size = draws * sum(crop.valid.size for crop in crops)
    costs = tuple(
        Cost(
            method=name,
            seconds_per_million=1e6 * seconds[name][1] / size,
            learning_seconds=seconds[name][0] / draws,
            seam_ratio=seams[name],
        )
        for name in fillers
    )
    return Evaluation(
        variable=variable,
        rows=rows,
        costs=costs,
        best_simple=best,
        hidden=int(sums.hidden[0]),
        draws=draws,
        seed=seed,
        interval=interval,
        spread=spread,
        units=units,
        differences=differences,
        frames=tally.scores(sums, spread, dates),
        notes=tuple(notes),
    )


def _at(settled: Filler, left: Crop, hidden: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return prediction and half-width of what is hidden, by a method that has looked at the crop."""
    made = settled.fill(block_of(left, settled.stride))
    cut = Window.of(triple(left.valid.shape)).slices
    return made.values[cut][hidden], made.half_width[cut][hidden]


class _FrameTally:
    """Counts of samples by frame, over crops and draws."""

    def __init__(self, crops: Sequence[Crop], calibrated: Calibrated | None) -> None:
        self.frames = [crop.window.start[0] + np.arange(crop.days.size) for crop in crops]
        length = 1 + max(int(part[-1]) for part in self.frames)
        self.told = calibrated
        self.judge: str | None = None
        self.inside, self.clear, self.hidden, self.drawn = np.zeros((4, length), dtype=np.int64)
        for crop, frames in zip(crops, self.frames, strict=True):
            pixels = crop.valid[0].size if crop.domain is None else int(crop.domain.sum())
            self.inside[frames] += pixels
            self.clear[frames] += crop.valid.sum(axis=(1, 2))

    def hide(self, hidden: Sequence[NDArray[np.bool_]]) -> None:
        """Count what a draw hides of each crop."""
        for away, frames in zip(hidden, self.frames, strict=True):
            self.hidden[frames] += away.sum(axis=(1, 2))

    def look(self, name: str, settled: Filler, number: int, away: NDArray[np.bool_]) -> None:
        """Count what lies in frames that a method has calibrated in a crop, given what was hidden of it."""
        drawn = None if self.told is None or self.judge not in {None, name} else self.told(settled)
        if drawn is not None:
            self.judge = name
            self.drawn[self.frames[number]] += np.where(drawn, away.sum(axis=(1, 2)), 0)

    def scores(self, sums: Sums, spread: float, dates: Sequence[str]) -> tuple[FrameScore, ...]:
        """Return what became of each frame of which something was hidden."""
        frames, samples, mae = sums.by_frame()
        return tuple(
            FrameScore(
                frame=frame,
                date=dates[frame] if dates else "",
                clear=float(self.clear[frame] / self.inside[frame]),
                hidden=int(self.hidden[frame]),
                samples=int(samples[i]),
                mae={name: float(spread * mae[m, i]) for m, name in enumerate(sums.methods)},
                calibrated=None if self.judge is None else float(self.drawn[frame] / self.hidden[frame]),
            )
            for i, frame in enumerate(frames.tolist())
            if self.hidden[frame]
        )
