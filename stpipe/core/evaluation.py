"""Scoring methods on artificial gaps.

Each draw hides a part of the crops, lets the methods that learn learn from what is left, fills, and compares all
methods on the same samples. Error bars come from a bootstrap over the cube's frames where 20 of them or more have
hidden samples, else over parts of frames; see `stpipe.core.comparison`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.comparison import ALL, Row, Sums, cluster_frames, clusters_of, groups_of
from stpipe.core.crops import Crop, fill_crop
from stpipe.core.gaps import Purpose, draw_gaps, generator
from stpipe.core.ports import Filler, Learner
from stpipe.core.seams import seam_ratio
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

        def plain(entry: object) -> dict[str, Any]:
            return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in asdict(entry).items()}  # type: ignore[call-overload]

        document = {k: v for k, v in asdict(self).items() if k not in {"rows", "costs"}}
        document["notes"] = list(self.notes)
        return {**document, "rows": [plain(row) for row in self.rows], "costs": [plain(cost) for cost in self.costs]}


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
    sums = Sums(tuple(fillers), np.concatenate(frames))
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
            draw_gaps(crop.valid, generator(Purpose.EVALUATION, seed, draw, i), domain=crop.domain)
            for i, crop in enumerate(crops)
        ]
        left = [crop.without(away) for crop, away in zip(crops, hidden, strict=True)]
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
            answers.append([_at(filler, crop, away) for crop, away in zip(left, hidden, strict=True)])
            seconds[name][0] += ready - began
            seconds[name][1] += time.perf_counter() - ready
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
        notes=tuple(notes),
    )


def _at(filler: Filler, left: Crop, hidden: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return prediction and half-width of what is hidden."""
    made = fill_crop(filler, left)
    return made.values[hidden], made.half_width[hidden]
