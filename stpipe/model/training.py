"""Training: patches, the loss, and the calibration of the intervals.

A scene is hidden in part, described to the network as any block would be, and the network is scored on what was
hidden. The guides come from the rooms above and are handed in as a function.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import cos, log, pi

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from stpipe.core.survey import location_and_spread
from stpipe.core.timeline import median_step, neighbours
from stpipe.core.windows import Triple, round_up, triple
from stpipe.model.features import F32, network_input
from stpipe.model.layers import Tensor

Guides = Callable[[F32, NDArray[np.bool_], NDArray[np.float64]], tuple[F32, F32]]
"""Pyramid and its half-width for standardised values, validity and days of a whole scene."""

LAPLACE_90 = log(10.0)
"""Half-width of a 90 % interval of a Laplace distribution, in its scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A cube in memory to learn from."""

    name: str
    """For reports."""

    values: F32
    """(time, y, x), physical; anything at all where not valid."""

    valid: NDArray[np.bool_]
    """(time, y, x), observed and trusted."""

    days: NDArray[np.float64]
    """(time,), ascending."""

    hidden: NDArray[np.bool_] | None = None
    """(time, y, x), artificial gaps that came with the data; they are valid too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A scene with artificial gaps as the network sees it, standardised."""

    inputs: F32
    """(t, y, x, INPUTS)."""

    base: F32
    """(t, y, x), what the answer is added to."""

    truth: F32
    """(t, y, x), zero where never observed."""

    hidden: NDArray[np.bool_]
    """(t, y, x), where to score."""

    pyramid: F32
    """(t, y, x), the guide."""

    linear: F32
    """(t, y, x), the guide; the pyramid where a pixel was never observed."""


def cut(scene: Scene, part: tuple[slice, slice, slice]) -> Scene:
    """Return a part of a scene."""
    hidden = None if scene.hidden is None else scene.hidden[part]
    return Scene(
        name=scene.name, values=scene.values[part], valid=scene.valid[part], days=scene.days[part[0]], hidden=hidden
    )


def example(scene: Scene, hidden: NDArray[np.bool_], guides: Guides, *, multiple: int = 8) -> Example:
    """Hide a part of a scene and describe the rest as a block would be.

    Location and spread are taken from what is left; y and x are padded with gap to `multiple`.
    """
    visible = scene.valid & ~hidden
    location, spread = location_and_spread(scene.values[visible].astype(np.float64))
    around = [(0, 0), *((0, round_up(n, multiple) - n) for n in scene.valid.shape[1:])]
    visible, hidden, valid = (np.pad(part, around) for part in (visible, hidden, scene.valid))
    values = np.pad(scene.values, around)
    truth = np.where(valid, (values - location) / spread, 0).astype(np.float32)
    shown = np.where(visible, truth, np.float32(0))
    pyramid, half_width = guides(shown, visible, scene.days)
    close = neighbours(shown, visible, scene.days, median_step(scene.days))
    inputs, base = network_input(shown, visible, pyramid, half_width, close)
    linear = np.where(np.isfinite(close.linear), close.linear, base)
    return Example(inputs=inputs, base=base, truth=truth, hidden=hidden, pyramid=pyramid, linear=linear)


def patches(made: Example, rng: np.random.Generator, *, size: Triple, count: int) -> Iterator[tuple[F32, F32]]:
    """Cut patches with hidden samples out of an example, turned and flipped.

    Yields
    ------
    inputs : (t, y, x, INPUTS) ndarray of float32
    wanted : (t, y, x, 3) ndarray of float32
        Truth minus base, where to score, and the error of the better guide, which weighs scenes alike.
    """
    if not made.hidden.any():
        return
    errors = [float(np.abs(guide - made.truth)[made.hidden].mean()) for guide in (made.base, made.linear)]
    scale = max(min(errors), 1e-3)
    spots = np.argwhere(made.hidden)
    length = triple(min(pair) for pair in zip(size, made.hidden.shape, strict=True))
    for _ in range(count):
        centre = spots[rng.integers(len(spots))]
        start = [
            int(np.clip(c - rng.integers(0, n), 0, whole - n))
            for c, n, whole in zip(centre, length, made.hidden.shape, strict=True)
        ]
        part = tuple(slice(a, a + n) for a, n in zip(start, length, strict=True))
        wanted = np.stack(
            [made.truth[part] - made.base[part], made.hidden[part], np.full(length, scale)], axis=-1
        ).astype(np.float32)
        yield _turned(made.inputs[part], wanted, rng)


def _turned(inputs: F32, wanted: F32, rng: np.random.Generator) -> tuple[F32, F32]:
    pair = [inputs, wanted]
    for axis in (1, 2):
        if rng.random() < 0.5:
            pair = [np.flip(array, axis) for array in pair]
    if inputs.shape[1] == inputs.shape[2] and rng.random() < 0.5:
        pair = [array.swapaxes(1, 2) for array in pair]
    return np.ascontiguousarray(pair[0]), np.ascontiguousarray(pair[1])


def loss(wanted: Tensor, answer: Tensor) -> Tensor:
    """Mean error against the better guide's, and the likelihood of the error under the answer's half-width."""
    hidden, scale = wanted[..., 1], wanted[..., 2]
    error = ops.abs(answer[..., 0] - wanted[..., 0])
    width = ops.exp(answer[..., 1]) / LAPLACE_90
    # The likelihood must not teach the mean: where the width is small it would drown the rest.
    surprise = ops.stop_gradient(error) / width + ops.log(width)
    axes = (1, 2, 3)
    each = ops.sum(hidden * (error / scale + 0.2 * surprise), axis=axes) / ops.maximum(ops.sum(hidden, axis=axes), 1.0)
    return ops.mean(each)


def train(
    model: keras.Model,
    fresh: Callable[[], Iterator[tuple[F32, F32]]],
    rng: np.random.Generator,
    *,
    steps: int,
    batch: int = 4,
    learning_rate: float = 2e-3,
    pool_size: int = 120,
    steps_a_visit: int = 3,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train in place; the weights end as the running mean of the last ones.

    Parameters
    ----------
    model : keras.Model
        From `stpipe.model.unet.build_unet`.
    fresh : function
        Returns patches of a newly hidden scene; called every `steps_a_visit` steps. They wait in a pool, so that a
        batch mixes scenes.
    rng : numpy Generator
        Picks from the pool.
    steps : int
        Gradient steps.
    report : function, optional
        Called with the step and the loss every 20 steps.
    """
    memory = max(0.5, min(0.995, 1 - 10 / max(1, steps)))  # of the running mean; a short training forgets sooner
    optimizer = keras.optimizers.Adam(learning_rate, clipnorm=1.0, use_ema=True, ema_momentum=memory)
    model.compile(optimizer=optimizer, loss=loss, jit_compile=False)
    pools: dict[tuple[int, ...], list[tuple[F32, F32]]] = defaultdict(list)
    recent = 0.0
    for step in range(steps):
        while step % steps_a_visit == 0 or not pools:
            for patch in fresh():
                pool = pools[patch[0].shape]
                pool.append(patch)
                if sum(map(len, pools.values())) > pool_size:
                    max(pools.values(), key=len).pop(0)
            if pools:
                break
        sizes = np.array([len(pool) for pool in pools.values()], dtype=float)
        pool = list(pools.values())[rng.choice(len(pools), p=sizes / sizes.sum())]
        picked = [pool[i] for i in rng.integers(0, len(pool), batch)]
        warm = min(1.0, (step + 1) / 50)
        optimizer.learning_rate = warm * learning_rate * (0.01 + 0.99 * 0.5 * (1 + cos(pi * step / steps)))
        value = model.train_on_batch(np.stack([p[0] for p in picked]), np.stack([p[1] for p in picked]))
        recent += (float(value) - recent) / min(step + 1, 100)
        if report is not None and step % 20 == 19:
            report(step + 1, recent)
    optimizer.finalize_variable_values(model.trainable_variables)


def answer(model: keras.Model, made: Example) -> tuple[F32, F32]:
    """Return the network's prediction of a whole example and its half-width before calibration."""
    out = np.asarray(model(made.inputs[None], training=False))[0]
    return made.base + out[..., 0], np.exp(out[..., 1])


def calibration_factor(
    errors: Sequence[NDArray[np.floating]], half_widths: Sequence[NDArray[np.floating]], coverage: float = 0.9
) -> float:
    """Return what half-widths must be multiplied with to cover that share of the errors, scenes counting alike.

    Split conformal prediction: the quantile, with the sample's own rank counted in, of error over half-width on data
    that took no part in the training.

    >>> calibration_factor([np.arange(1.0, 10.0)], [np.full(9, 2.0)], coverage=0.9)
    4.5
    """
    ratios = [np.abs(e).ravel() / h.ravel() for e, h in zip(errors, half_widths, strict=True) if e.size]
    if not ratios:
        return 1.0
    values = np.concatenate(ratios)
    weights = np.concatenate([np.full(r.size, 1 / (r.size + 1)) for r in ratios]) / len(ratios)
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][min(int(np.searchsorted(reached, coverage - 1e-12)), values.size - 1)])
