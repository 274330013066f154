"""Gradient-boosted trees that add to the mean of the guides, and others that tell how large its errors are.

How many trees is told by cross-validation over whole frames. Where they surely gain they are followed; where they
gain, but not surely, half as far, and on empty frames not at all: there even that did harm.

Source: LightGBM (Ke et al. 2017, NeurIPS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.methods.evidence import Verdict, compare
from stpipe.methods.guides import EMPTY
from stpipe.methods.lessons import Samples, features
from stpipe.methods.mixing import Mixture

F32 = NDArray[np.float32]

TREES = 300
"""Most trees of the answer."""

LEAST_TREE_GAIN = 0.02
"""Trees that lower the error by a smaller share than this may as well be chance: on other gaps they did harm."""

SURE = 2.0
"""Standard errors that the gain must exceed; where it did not, trees that were followed all the way did harm on other
gaps as often as not."""

ALL_THE_WAY = (1.0, 1.0)
"""How far trees are followed that surely gain: in frames with observations, and in empty ones."""

HALF_WAY = (0.5, 0.0)
"""The same of trees that gain, but not surely."""

EVERY = 10
"""Numbers of trees that are tried are this many apart."""

WIDTH_TREES = 60
"""Trees of the errors' size, each of which may take a larger step, with fewer leaves."""

PARAMETERS: dict[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 31,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """Two forests, and what is known of the first."""

    answer: bytes = b""
    """Trees of what is added to the mean, as LightGBM's text; empty if they gained nothing."""

    width: bytes
    """Trees of the errors' size."""

    follow: tuple[float, float] = ALL_THE_WAY
    """How far the first are followed: in frames with observations, and in empty ones."""

    errors: tuple[float, float]
    """Mean absolute errors without and with them on folds that had no part in it; in spreads."""


def followed(follow: tuple[float, float], distance: F32) -> F32:
    """Return (sample,) how far trees are followed at distances to the nearest observation of the frame.

    >>> followed(HALF_WAY, np.array([0.0, 24.0, EMPTY], dtype=np.float32))
    array([0.5, 0.5, 0. ], dtype=float32)
    """
    near, empty = (np.float32(share) for share in follow)
    return np.asarray(np.where(distance == EMPTY, empty, near))


def grow(parts: Sequence[Samples], mixture: Mixture, seed: int) -> Grown:
    """Return the two forests; the same parts and seed grow the same."""
    import lightgbm

    tables, targets = [], []
    for part in parts:
        mean = mixture.mean(list(part.answers.T), part.distance)
        tables.append(features(part, mean))
        targets.append(part.truth - mean)
    parameters = {**PARAMETERS, "objective": "l1", "seed": seed}
    grown = []
    for fold in range(len(parts)):
        rest = [number for number in range(len(parts)) if number != fold]
        data = lightgbm.Dataset(np.concatenate([tables[n] for n in rest]), np.concatenate([targets[n] for n in rest]))
        grown.append(lightgbm.train(parameters, data, TREES))
    count, verdict, errors = _judged(grown, parts, tables, targets)
    table, target = np.concatenate(tables), np.concatenate(targets)
    # Errors of trees on what they learned from would be too small: each fold is judged by those that did not.
    pairs = zip(grown, tables, strict=True)
    added = np.concatenate([predict(trees, part, count) for trees, part in pairs])
    left, follow = np.abs(target), None
    if dealt_out(parts) and verdict.holds(SURE) and verdict.gain > LEAST_TREE_GAIN and errors[1] < errors[0]:
        left, follow = np.abs(target - added), ALL_THE_WAY
    elif dealt_out(parts) and verdict.holds(0.0):
        distance = np.concatenate([part.distance for part in parts])
        after = np.abs(target - followed(HALF_WAY, distance) * added)
        if after.mean() < left.mean():  # what gains on empty frames alone is of no use half way
            left, follow = after, HALF_WAY
    answer = b""
    if follow is not None:
        answer = _text(lightgbm.train(parameters, lightgbm.Dataset(table, target), count))
        errors = errors[0], float(left.mean())
    parameters |= {"objective": "quantile", "alpha": COVERED, "learning_rate": 0.1, "num_leaves": 15}
    width = _text(lightgbm.train(parameters, lightgbm.Dataset(table, left), WIDTH_TREES))
    return Grown(answer=answer, width=width, follow=follow or ALL_THE_WAY, errors=errors)


def again(parts: Sequence[Samples], mixture: Mixture, like: bytes, seed: int) -> Any:
    """Return as many trees as others are, grown from other samples: to be judged on what they have not seen."""
    import lightgbm

    samples = Samples.of(parts)
    mean = mixture.mean(list(samples.answers.T), samples.distance)
    data = lightgbm.Dataset(features(samples, mean), samples.truth - mean)
    return lightgbm.train({**PARAMETERS, "objective": "l1", "seed": seed}, data, forest(like).num_trees())


def dealt_out(parts: Sequence[Samples]) -> bool:
    """Tell whether each frame is in one fold alone.

    Where frames are too few for that, folds are ways of hiding. Other samples of the same frames flatter trees: they
    promised 6 to 12 % on cubes of one and of five frames, and did harm or gained 1 %.
    """
    numbers = [np.unique(part.frames) for part in parts]
    return np.unique(np.concatenate(numbers)).size == sum(part.size for part in numbers)


def _judged(
    grown: Sequence[Any], parts: Sequence[Samples], tables: Sequence[F32], targets: Sequence[F32]
) -> tuple[int, Verdict, tuple[float, float]]:
    """Return how many trees are best, what frames that had no part in them say of these, and the errors."""
    frames = np.concatenate([part.frames for part in parts])
    left = [target.astype(np.float64) for target in targets]
    before = np.abs(np.concatenate(targets))
    best: tuple[int, Verdict, float] | None = None
    for count in range(EVERY, TREES + 1, EVERY):
        left = [
            own - trees.predict(table, num_threads=1, start_iteration=count - EVERY, num_iteration=EVERY)
            for own, trees, table in zip(left, grown, tables, strict=True)
        ]
        after = np.abs(np.concatenate(left))
        verdict = compare(before, after, frames)
        if best is None or verdict.log_ratio < best[1].log_ratio:
            best = count, verdict, float(after.mean())
    assert best is not None
    return best[0], best[1], (float(before.mean()), best[2])


def _text(forest: Any) -> bytes:
    return str(forest.model_to_string()).encode()


@lru_cache(maxsize=8)
def forest(text: bytes) -> Any:
    """Return the trees of a text, parsed once."""
    import lightgbm

    return lightgbm.Booster(model_str=text.decode())


def predict(trees: Any, table: F32, most: int | None = None) -> F32:
    """Return what trees say of samples, all of them or at most the first so many."""
    return np.asarray(trees.predict(table, num_threads=1, num_iteration=most)).astype(np.float32)
