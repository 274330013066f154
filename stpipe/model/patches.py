"""Examples that the network learns from, and the patches that are cut out of them.

Each batch is drawn by chance from the seed and its own number alone, so that a training that was broken off goes on as
if it had not been. No Keras here: examples are made in processes that don't need it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.windows import Triple, triple
from stpipe.errors import RunError
from stpipe.model.features import F32, SIGNED, Scenery, network_input

FRAMES = (1, 2, 3, 4, 6, 8, 12, 16)
"""Numbers of frames that patches can have: each new shape costs seconds."""

NEGATIVES = 0.25
"""Share of the patches that are learned from upside down: highs of one variable are lows of another."""

LEAST_ERROR = 0.01
"""Scenes whose base errs less than this, in spreads, count as if it erred so much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A scene with artificial gaps as the network sees it, standardised."""

    name: str
    """Where it is from, for reports."""

    family: str
    """Examples of a family share its weight."""

    seen: Scenery
    """What is known; y and x are multiples of the network's strides."""

    truth: NDArray[np.floating]
    """(t, y, x), zero where never observed."""

    hidden: NDArray[np.bool_]
    """(t, y, x), where to score."""

    bases: tuple[Callable[[F32], F32], ...]
    """Ways of weighing the guides: weights (..., guide) at distances (...). One is drawn for each patch."""

    error: float
    """Of the best of them: scenes that are hard to fill count no more than others."""

    def weights(self, number: int, part: tuple[slice, slice, slice]) -> F32:
        """Return the weights of the guides in a window."""
        return self.bases[number](self.seen.distance[part].astype(np.float32))


class Deck:
    """Deals batches of patches out of examples.

    Parameters
    ----------
    examples : sequence of Example
        At least one with a hidden sample.
    families : mapping of str to float
        How often each family comes up; 1 for those that are not named.
    size : (t, y, x)
        Of patches; smaller where examples are.
    seed : int
        Decides everything.
    """

    def __init__(
        self, examples: Sequence[Example], *, size: Triple, seed: int, families: Mapping[str, float] | None = None
    ) -> None:
        shares = families or {}
        counts: dict[str, int] = defaultdict(int)
        for each in examples:
            counts[each.family] += bool(each.hidden.any())
        groups: dict[Triple, list[tuple[Example, float]]] = defaultdict(list)
        for each in examples:
            if each.hidden.any():
                weight = shares.get(each.family, 1.0) / counts[each.family]
                if weight > 0:
                    groups[_patch_shape(triple(each.hidden.shape), size)].append((each, weight))
        if not groups:
            raise RunError("there is nothing to learn from: no example has a hidden sample")
        self._seed = seed
        self._groups = [[pair[0] for pair in group] for group in groups.values()]
        self._shapes = list(groups)
        self._chances = [np.array([pair[1] for pair in group]) for group in groups.values()]
        self._spots = {id(each): np.flatnonzero(each.hidden) for group in self._groups for each in group}

    def batch(self, step: int, count: int) -> tuple[F32, F32]:
        """Return the batch of a step: inputs (batch, t, y, x, INPUTS), and what is wanted (batch, t, y, x, 3)."""
        rng = np.random.default_rng([self._seed, step])
        totals = np.array([chances.sum() for chances in self._chances])
        number = int(rng.choice(len(totals), p=totals / totals.sum()))
        group, chances = self._groups[number], self._chances[number]
        picked = [group[i] for i in rng.choice(len(group), count, p=chances / chances.sum())]
        pairs = [self._patch(each, self._shapes[number], rng) for each in picked]
        return np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])

    def _patch(self, each: Example, length: Triple, rng: np.random.Generator) -> tuple[F32, F32]:
        """Cut a patch with a hidden sample, turned and flipped: input, and truth minus base, where, and the weight."""
        spots = self._spots[id(each)]
        centre = np.unravel_index(spots[rng.integers(len(spots))], each.hidden.shape)
        start = [
            int(np.clip(int(c) - rng.integers(0, n), 0, whole - n))
            for c, n, whole in zip(centre, length, each.hidden.shape, strict=True)
        ]
        part = triple_of_slices(start, length)
        weights = each.weights(int(rng.integers(len(each.bases))), part)
        inputs, base, scale = network_input(each.seen.part(part), weights)
        error = max(each.error, LEAST_ERROR)
        wanted = np.stack([(each.truth[part] - base) / scale, each.hidden[part], scale / error], axis=-1)
        if rng.random() < NEGATIVES:
            inputs[..., SIGNED] *= -1
            wanted[..., 0] *= -1
        pair = [inputs, wanted.astype(np.float32)]
        for axis in (1, 2):
            if rng.random() < 0.5:
                pair = [np.flip(array, axis) for array in pair]
        if length[1] == length[2] and rng.random() < 0.5:
            pair = [array.swapaxes(1, 2) for array in pair]
        return pair[0], pair[1]


def triple_of_slices(start: Sequence[int], length: Sequence[int]) -> tuple[slice, slice, slice]:
    """Return the slices of a window.

    >>> triple_of_slices((0, 1, 2), (4, 4, 4))
    (slice(0, 4, None), slice(1, 5, None), slice(2, 6, None))
    """
    t, y, x = (slice(first, first + n) for first, n in zip(start, length, strict=True))
    return t, y, x


def _patch_shape(shape: Triple, size: Triple) -> Triple:
    """Return the shape of the patches of a scene.

    >>> _patch_shape((5, 100, 40), (12, 64, 64))
    (4, 64, 40)
    """
    frames = max(n for n in FRAMES if n <= max(1, min(size[0], shape[0])))
    return frames, min(size[1], shape[1]), min(size[2], shape[2])
