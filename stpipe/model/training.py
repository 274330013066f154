"""Training: the loss, the steps, and the calibration of the intervals."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, exp, inf, log, pi
from pathlib import Path
from zipfile import BadZipFile

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from stpipe.errors import ModelFileError, RunError
from stpipe.model.features import F32, network_input
from stpipe.model.layers import Tensor
from stpipe.model.patches import Deck, Example, triple_of_slices

LAPLACE_90 = log(10.0)
"""Half-width of a 90 % interval of a Laplace distribution, in its scale."""

FEW = 200.0
"""A patch with as many hidden samples counts half as much as one that is full of them."""

SURPRISE = 0.2
"""Weight of the likelihood of the errors against the errors themselves."""


def losses(wanted: Tensor, answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, the error that it holds, and that of the base; errors against the base's on the whole scene."""
    hidden, weight = wanted[..., 1], wanted[..., 2]
    axes = (1, 2, 3)
    count = ops.sum(hidden, axis=axes)
    some = ops.maximum(count, 1.0)
    error = ops.abs(answer[..., 0] - wanted[..., 0])
    width = ops.exp(answer[..., 1]) / LAPLACE_90
    # The likelihood must not teach the mean: where the width is small it would drown the rest.
    surprise = ops.sum(hidden * (ops.stop_gradient(error) / width + ops.log(width)), axis=axes) / some
    own = ops.sum(hidden * weight * error, axis=axes) / some
    base = ops.sum(hidden * weight * ops.abs(wanted[..., 0]), axis=axes) / some
    trust = count / (count + FEW)
    trust = trust / ops.maximum(ops.sum(trust), 1e-6)
    return ops.sum(trust * (own + SURPRISE * surprise)), ops.sum(trust * own), ops.sum(trust * base)


def loss(wanted: Tensor, answer: Tensor) -> Tensor:
    """Mean error against the base's, and the likelihood of the error under the answer's half-width."""
    return losses(wanted, answer)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How a training goes."""

    step: int
    """Steps done."""

    loss: float
    """Mean over the steps since the last report."""

    held_out: float
    """Error on held-out examples against the base's, geometric mean over families; NaN without any."""

    best: float
    """The least of these so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast to train."""

    steps: int
    """Gradient steps, at most."""

    batch: int = 4
    """Patches a step."""

    learning_rate: float = 2e-3
    """At its highest; it rises for 50 steps and falls as a cosine."""

    every: int = 100
    """Steps between looks at the held-out examples, reports and checkpoints."""

    patience: int = 8
    """Looks without a better one after which training stops."""


def train(
    model: keras.Model,
    deck: Deck,
    schedule: Schedule,
    *,
    held_out: Sequence[Example] = (),
    checkpoint: Path | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train in place; the weights end as the running mean that did best on the held-out examples.

    Parameters
    ----------
    model : keras.Model
        From `stpipe.model.unet.build_unet`.
    deck : Deck
        Gives the patches.
    schedule : Schedule
        Steps and rates.
    held_out : sequence of Example
        Tell when to stop; without any the last weights stay.
    checkpoint : Path, optional
        An npz file: written at each look, and gone on from where it exists.
    report : function, optional
        Called at each look.

    Raises
    ------
    RunError
        The loss is no finite number any more.
    ModelFileError
        The checkpoint is damaged, or of another network.
    """
    memory = max(0.5, min(0.998, 1 - 10 / max(1, schedule.steps)))  # of the running mean
    optimizer = keras.optimizers.Adam(schedule.learning_rate, clipnorm=1.0, use_ema=True, ema_momentum=memory)
    model.compile(optimizer=optimizer, loss=loss, jit_compile=False)
    optimizer.build(model.trainable_variables)
    state = _State.start(model) if checkpoint is None else _State.read(checkpoint, model, optimizer)
    total, told = 0.0, Progress(step=state.step, loss=float("nan"), held_out=float("nan"), best=state.best)
    for step in range(state.step, schedule.steps):
        if held_out and state.misses >= schedule.patience:
            break
        warm = min(1.0, (step + 1) / 50)
        fallen = 0.01 + 0.99 * 0.5 * (1 + cos(pi * step / schedule.steps))
        optimizer.learning_rate = warm * fallen * schedule.learning_rate
        value = float(model.train_on_batch(*deck.batch(step, schedule.batch)))
        if not np.isfinite(value):
            raise RunError(
                f"the loss of step {step + 1} is {value}; lower the learning rate of {schedule.learning_rate:g}, or "
                "look for values that are no observations in what is learned from"
            )
        total += value
        if (step + 1) % schedule.every == 0 or step + 1 == schedule.steps:
            count = (step % schedule.every) + 1
            state.look(step + 1, model, optimizer, held_out)
            told = Progress(step=step + 1, loss=total / count, held_out=state.last, best=state.best)
            total = 0.0
            if checkpoint is not None:
                state.write(checkpoint, model, optimizer)
            if report is not None:
                report(told)
    model.set_weights(state.kept)
    return told


class _State:
    """How far a training has come, and the best weights so far."""

    def __init__(self, step: int, best: float, misses: int, kept: list[NDArray[np.floating]]) -> None:
        self.step, self.best, self.misses, self.kept = step, best, misses, kept
        self.last = float("nan")

    @classmethod
    def start(cls, model: keras.Model) -> _State:
        return cls(0, inf, 0, _copied_weights(model))

    @classmethod
    def read(cls, path: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> _State:
        """Go on from a checkpoint, if there is one."""
        if not path.exists():
            return cls.start(model)
        variables = [*model.variables, *optimizer.variables]
        try:
            # NumPy leaves files open that it can't read.
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                step, best, misses = (float(number) for number in file["progress"])
                stored = [file[name] for name in file.files if name.startswith("variable")]
                kept = [file[name] for name in file.files if name.startswith("kept")]
        except (ValueError, KeyError, OSError, EOFError, BadZipFile, zlib.error) as error:
            raise ModelFileError(f"the checkpoint {path} can't be read ({error}); remove it to start anew") from error
        if [tuple(variable.shape) for variable in variables] != [array.shape for array in stored]:
            raise ModelFileError(f"{path} is a checkpoint of another network; remove it, or train into another folder")
        for variable, array in zip(variables, stored, strict=True):
            variable.assign(array)
        return cls(int(step), best, int(misses), kept)

    def write(self, path: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        variables = [*model.variables, *optimizer.variables]
        arrays = {f"variable{number}": variable.numpy() for number, variable in enumerate(variables)}
        arrays |= {f"kept{number}": array for number, array in enumerate(self.kept)}
        draft = path.with_name(f".{path.name}.draft.npz")
        np.savez(draft, progress=np.array([self.step, self.best, self.misses]), **arrays)
        draft.replace(path)

    def look(
        self, step: int, model: keras.Model, optimizer: keras.optimizers.Optimizer, held_out: Sequence[Example]
    ) -> None:
        """See how the running mean of the weights does, and keep it if it is the best."""
        own = _copied_weights(model)
        optimizer.finalize_variable_values(model.trainable_variables)
        self.step = step
        self.last = held_out_error(model, held_out) if held_out else float("nan")
        if not held_out or self.last < self.best:
            self.best, self.misses, self.kept = self.last, 0, _copied_weights(model)
        else:
            self.misses += 1
        model.set_weights(own)


def _copied_weights(model: keras.Model) -> list[NDArray[np.floating]]:
    return [np.array(weight) for weight in model.get_weights()]  # Torch gives views, which change with the weights


def held_out_error(model: keras.Model, examples: Sequence[Example]) -> float:
    """Return the error against that of the base, as a geometric mean over families; each example counts alike."""
    logs: dict[str, list[float]] = defaultdict(list)
    for each in examples:
        predicted, _, base = answer(model, each)
        own = float(np.abs(predicted - each.truth)[each.hidden].mean())
        usual = float(np.abs(base - each.truth)[each.hidden].mean())
        logs[each.family].append(log(max(own, 1e-9) / max(usual, 1e-9)))
    return exp(float(np.mean([np.mean(group) for group in logs.values()])))


def answer(model: keras.Model, each: Example, *, base: int = 0) -> tuple[F32, F32, F32]:
    """Return the network's prediction of a whole example, its half-width before calibration, and the base."""
    everything = triple_of_slices((0, 0, 0), each.hidden.shape)
    inputs, mean, scale = network_input(each.seen.part(everything), each.weights(base, everything))
    out = ops.convert_to_numpy(model(inputs[None], training=False))[0]
    return mean + out[..., 0] * scale, np.exp(out[..., 1]) * scale, mean


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
