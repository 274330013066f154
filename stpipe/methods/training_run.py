"""One training from examples to calibrated weights, and how they do on what was held out.

Keras is loaded when a network is asked for, and not before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, isfinite, log
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpipe.core.windows import Triple
from stpipe.errors import ModelFileError, OptionError
from stpipe.methods.mixing import Mixture
from stpipe.methods.teaching import Visit, examples, scene_name, usual_mixture
from stpipe.model import backend
from stpipe.model.features import GUIDES
from stpipe.model.patches import Deck, Example
from stpipe.model.spec import UNetSpec
from stpipe.model.weights import ModelInfo, load_model, read_info

if TYPE_CHECKING:
    from stpipe.model.training import Progress

SCRATCH = "scratch"
"""Name that stands for fresh weights."""

PATCH: Triple = (12, 64, 64)
"""Frames and pixels that are learned from at a time."""

LOOKS = 16
"""How often a training looks at what is held out, at least."""

MOST_BETWEEN = 100
"""Steps between two looks, at most."""

COVERAGE = 0.9
"""What the intervals are to cover, see `stpipe.model.training.calibration_factor`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to train.

    Examples
    --------
    >>> Settings(steps=400, learning_rate=5e-4).every, Settings(steps=3000, learning_rate=2e-3).every
    (25, 100)
    """

    steps: int
    """Gradient steps, at most."""

    learning_rate: float
    """At its highest."""

    batch: int = 4
    """Patches a step."""

    seed: int = 0
    """Decides everything that is drawn."""

    families: Mapping[str, float] = field(default_factory=dict)
    """How often each family comes up; 1 for those that are not named."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OptionError(f"--steps must be at least 1, got {self.steps}")
        if not (isfinite(self.learning_rate) and self.learning_rate > 0):
            raise OptionError(f"--learning-rate must be a number above 0, such as 5e-4, got {self.learning_rate:g}")
        if self.batch < 1:
            raise OptionError(f"--batch must be at least 1, got {self.batch}")
        if self.seed < 0:
            raise OptionError(f"--seed must be at least 0, got {self.seed}")
        for name, weight in self.families.items():
            if not (isfinite(weight) and weight >= 0):
                raise OptionError(f"--family-weight {name} must be a number of at least 0, got {weight:g}")

    @property
    def every(self) -> int:
        """Steps between looks at what is held out."""
        return max(1, min(MOST_BETWEEN, self.steps // LOOKS))

    def check_families(self, families: Sequence[str]) -> None:
        """Refuse weights of families that there are not, or that leave nothing.

        >>> Settings(steps=1, learning_rate=1e-3, families={"hls:NIR": 2.0}).check_families(["hls:NIR", "hls:B04"])
        """
        unknown = [name for name in self.families if name not in families]
        if unknown:
            raise OptionError(f"--family-weight names {', '.join(unknown)}, but there are {', '.join(families)}")
        if not any(self.families.get(name, 1.0) > 0 for name in families):
            raise OptionError("--family-weight leaves nothing to learn from: all weights are 0")


def starting_point(name: str) -> ModelInfo | None:
    """Return what to start from: a model that stpipe wrote, or None for fresh weights.

    Raises
    ------
    ModelFileError
        If it is no such model; the published network is none.

    Examples
    --------
    >>> starting_point("scratch"), starting_point("default").kind
    (None, 'unet')
    """
    if name == SCRATCH:
        return None
    info = read_info(name)
    if not isinstance(info.spec, UNetSpec):
        raise ModelFileError(
            f"{name} is the published network, which sees physical values and not a scene's standardised ones, and has "
            "no guides: it can be used with 'stpipe blocks fill', but not be trained on; start from default, a .keras "
            "file of stpipe, or scratch"
        )
    return info


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How a network did on one held-out example, in spreads of the scene."""

    name: str
    """Of the example."""

    family: str
    """Of the example."""

    samples: int
    """Hidden samples."""

    errors: Mapping[str, float]
    """Mean absolute error of each guide and of the base."""

    network: float
    """Of the network."""

    coverage: float
    """Share of the hidden samples inside the interval, calibrated on other examples; NaN where there are none."""


def judge(
    network: Any, judges: Sequence[Example], *, factor: float | None = None
) -> tuple[tuple[Judgement, ...], float]:
    """See how a network does on examples, and calibrate its intervals on them.

    Parameters
    ----------
    network : keras.Model
        From `stpipe.model.unet.build_unet`.
    judges : sequence of Example
        Held out; those without a hidden sample are passed over.
    factor : float, optional
        What half-widths are to be multiplied with; by default what covers 90 % of the errors of all examples, and for
        each one's coverage, of all others.

    Returns
    -------
    judgements : tuple of Judgement
        One an example.
    factor : float
        That.
    """
    from stpipe.model.training import answer, calibration_factor

    errors, widths, rows = [], [], []
    for each in judges:
        if not each.hidden.any():
            continue
        predicted, half_width, base = answer(network, each)
        truth = each.truth[each.hidden].astype(np.float32)
        errors.append(np.abs(predicted[each.hidden] - truth))
        widths.append(half_width[each.hidden])
        fields = dict(zip(GUIDES, each.seen.guides, strict=True)) | {"base": base}
        rows.append(
            {
                name: float(np.abs(field[each.hidden].astype(np.float32) - truth).mean())
                for name, field in fields.items()
            }
        )
    used = [each for each in judges if each.hidden.any()]
    if factor is not None:
        factors = [factor] * len(errors)
    else:  # each is judged by intervals that others have calibrated: its own would hold by construction
        factor = calibration_factor(errors, widths, coverage=COVERAGE)
        factors = [
            calibration_factor(
                [*errors[:number], *errors[number + 1 :]], [*widths[:number], *widths[number + 1 :]], coverage=COVERAGE
            )
            for number in range(len(errors))
        ]
    alone = len(errors) < 2
    return tuple(
        Judgement(
            name=each.name,
            family=each.family,
            samples=error.size,
            errors=row,
            network=float(error.mean()),
            coverage=float("nan") if alone else float((error <= own * width).mean()),
        )
        for each, row, error, width, own in zip(used, rows, errors, widths, factors, strict=True)
    ), factor


def family_errors(judgements: Sequence[Judgement]) -> dict[str, dict[str, float]]:
    """Return the mean absolute errors of each family, by guide, base and network; examples count alike.

    Examples
    --------
    >>> one = Judgement(name="a", family="f", samples=9, errors={"base": 2.0}, network=1.0, coverage=0.9)
    >>> family_errors([one])
    {'f': {'base': 2.0, 'network': 1.0}}
    """
    groups: dict[str, list[Judgement]] = defaultdict(list)
    for each in judgements:
        groups[each.family].append(each)
    return {
        family: {
            name: float(np.mean([_with_network(each)[name] for each in group]))
            for name in (*group[0].errors, "network")
        }
        for family, group in groups.items()
    }


def _with_network(judgement: Judgement) -> dict[str, float]:
    return {**judgement.errors, "network": judgement.network}


def against_base(judgements: Sequence[Judgement]) -> dict[str, float]:
    """Return the errors of each guide and of the network against the base's: a geometric mean over families.

    It is the number that a training looks at, see `stpipe.model.training.held_out_error`.

    Examples
    --------
    >>> one = Judgement(name="a", family="f", samples=9, errors={"base": 2.0, "linear": 3.0}, network=1.0, coverage=0.9)
    >>> against_base([one])
    {'base': 1.0, 'linear': 1.5, 'network': 0.5}
    """
    logs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in judgements:
        usual = max(each.errors["base"], 1e-9)
        for name, error in _with_network(each).items():
            logs[name][each.family].append(log(max(error, 1e-9) / usual))
    return {
        name: exp(float(np.mean([np.mean(group) for group in families.values()]))) for name, families in logs.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Weights, and how they do."""

    network: Any
    """The Keras model."""

    spec: UNetSpec
    """Its shape."""

    mixture: Mixture
    """The mean of the guides that it corrects."""

    factor: float
    """Calibrates its intervals."""

    after: tuple[Judgement, ...]
    """How it does on what was held out."""

    before: tuple[Judgement, ...]
    """How the weights did that it started from; empty for fresh ones."""

    steps: int
    """Steps done."""

    start_error: float | None = None
    """Error of the weights that it started from against the base, on the scenes that said when to stop."""

    apart: bool = True
    """Whether no scene that judges had a say in when to stop."""


def describe(
    learned: Sequence[Visit], held_out: Sequence[Visit], settings: Settings, start: ModelInfo | None
) -> tuple[Mixture, list[Example], list[Example]]:
    """Return the base that is corrected, and examples with something to learn from or to be judged by.

    A network that is trained on keeps the mixture of guides that it knows as its base.
    """
    known = None if start is None else Mixture(start.mixture)
    usual = known or usual_mixture(learned, settings.families, seed=settings.seed)
    both = (examples(visits, usual) for visits in (learned, held_out))
    learn, judges = ([each for each in made if each.hidden.any()] for made in both)
    return usual, learn, judges


def parted(judges: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Deal held-out examples out: to those that say when to stop, and those that judge what became of it.

    The best of many looks is partly so by chance, and would flatter itself. Each second scene of a family judges; a
    family with one scene has it on both sides.

    Examples
    --------
    >>> from types import SimpleNamespace as Each
    >>> some = [Each(name=f"{name}, way {way}", family=name[0]) for name in ("a1", "a2", "b1") for way in (0, 1)]
    >>> [[each.name for each in side] for side in parted(some)]
    [['a1, way 0', 'a1, way 1', 'b1, way 0', 'b1, way 1'], ['a2, way 0', 'a2, way 1', 'b1, way 0', 'b1, way 1']]
    """
    scenes: dict[str, list[str]] = defaultdict(list)
    for each in judges:
        name = scene_name(each.name)
        if name not in scenes[each.family]:
            scenes[each.family].append(name)

    def dealt_to(side: int) -> list[Example]:
        return [
            each
            for each in judges
            if len(known := scenes[each.family]) < 2 or known.index(scene_name(each.name)) % 2 == side
        ]

    return dealt_to(0), dealt_to(1)


def fit(
    usual: Mixture,
    learn: Sequence[Example],
    judges: Sequence[Example],
    settings: Settings,
    start: ModelInfo | None,
    *,
    checkpoint: Path | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train, keep what does best on some of the held-out examples, and judge and calibrate it on the others.

    Parameters
    ----------
    usual, learn, judges
        From `describe`.
    settings : Settings
        How.
    start : ModelInfo, optional
        See `starting_point`.
    checkpoint : Path, optional
        See `stpipe.model.training.train`.
    report : callable, optional
        The same.
    """
    backend.start()
    import keras

    from stpipe.model.training import Schedule, train
    from stpipe.model.unet import build_unet

    keras.utils.set_random_seed(settings.seed % 2**32)
    choosing, judging = parted(judges)
    before: tuple[Judgement, ...] = ()
    start_error: float | None = None
    if start is None:
        spec = UNetSpec()
        network = build_unet(spec)
    else:
        assert isinstance(start.spec, UNetSpec)  # starting_point has refused another
        spec, network = start.spec, load_model(start.path).network
        before, _ = judge(network, judging, factor=start.calibration)
        start_error = against_base(judge(network, choosing, factor=start.calibration)[0])["network"]
    schedule = Schedule(
        steps=settings.steps, batch=settings.batch, learning_rate=settings.learning_rate, every=settings.every
    )
    deck = Deck(learn, families=settings.families, size=PATCH, seed=settings.seed)
    told = train(network, deck, schedule, held_out=choosing, checkpoint=checkpoint, report=report)
    after, factor = judge(network, judging)
    return Trained(
        network=network,
        spec=spec,
        mixture=usual,
        factor=factor,
        after=after,
        before=before,
        steps=told.step,
        start_error=start_error,
        apart=not {scene_name(each.name) for each in choosing} & {scene_name(each.name) for each in judging},
    )
