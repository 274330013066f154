"""From crops with artificial gaps to examples for the network, and from a trained network to its calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.crops import Crop
from stpipe.core.survey import location_and_spread
from stpipe.core.windows import Window, triple
from stpipe.errors import RunError
from stpipe.methods.guides import GuideMaker, scenery
from stpipe.methods.lessons import Lesson, Look, Samples
from stpipe.methods.mixing import Mixture
from stpipe.model.features import GUIDE_COUNT, Scenery, half
from stpipe.model.patches import LEAST_ERROR, Example

F32 = NDArray[np.float32]

MOST_SAMPLES = 20_000
"""Most samples of a look that mixtures are found from."""

LEAST_SAMPLES = 400
"""With fewer samples than this a scene has no mixture of its own."""

USUAL_SAMPLES = 60_000
"""Samples of a family that weigh 1 in the usual mixture."""

LEAST_LEFT = 100
"""A way of hiding that leaves fewer samples than this teaches nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A look as it is kept: what the network sees in half precision, and some of the hidden samples."""

    draw: int
    """Which way of hiding it is."""

    seen: Scenery
    """Of float16: many scenes have to be held at a time."""

    truth: NDArray[np.float16]
    """(t, y, x), what was observed."""

    hidden: NDArray[np.bool_]
    """(t, y, x), what is to be predicted."""

    samples: Samples
    """Hidden ones, `MOST_SAMPLES` at most."""

    @classmethod
    def of(cls, look: Look, rng: np.random.Generator) -> View:
        """Keep of a look what examples need."""
        return cls(
            draw=look.draw,
            seen=scenery(look.made, look.place).halved(),
            truth=half(look.truth),
            hidden=look.hidden,
            samples=look.samples().picked(rng, MOST_SAMPLES),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A scene, or a part of one, hidden in several ways."""

    name: str
    """For reports."""

    family: str
    """Scenes of a family share its weight."""

    views: tuple[View, ...]
    """One for each way of hiding."""


def visit(
    name: str,
    family: str,
    values: F32,
    valid: NDArray[np.bool_],
    days: NDArray[np.float64],
    ways: Sequence[NDArray[np.bool_]],
    *,
    seed: int = 0,
) -> Visit:
    """Hide a scene in several ways, and make the guides of what is left.

    Each way is a scene of its own: location and spread, patterns and overviews are those of what it leaves.

    Parameters
    ----------
    name, family : str
        See `Visit`.
    values : (time, y, x) ndarray of float32
        Physical; anything at all where not valid.
    valid : (time, y, x) ndarray of bool
        Observed and trusted.
    days : (time,) ndarray of float64
        Ascending.
    ways : sequence of (time, y, x) ndarray of bool
        What each hides; ways that leave or hide next to nothing are left out.
    seed : int
        For the number of patterns.
    """
    maker, views, rank = GuideMaker(), [], None
    rng = np.random.default_rng(seed)
    for number, way in enumerate(ways):
        left = valid & ~way
        if left.sum() < LEAST_LEFT or not (valid & way).any():
            continue
        location, spread = location_and_spread(values[left].astype(np.float64))
        standard = np.where(valid, (values - location) / spread, 0).astype(np.float32)
        crop = Crop(values=standard, valid=valid, days=days, window=Window.of(triple(valid.shape)))
        lesson = Lesson(draw=number, crop=crop, hidden=valid & way)
        look = Look.at(lesson, maker, rank=rank, seed=seed)
        rank = look.rank  # cross-validation once, and not for each way
        views.append(View.of(look, rng))
    return Visit(name=name, family=family, views=tuple(views))


def usual_mixture(visits: Sequence[Visit], families: Mapping[str, float], *, seed: int) -> Mixture:
    """Return the mean of the guides that suits all scenes best, each by the error of its own best guide.

    Parameters
    ----------
    visits : sequence of Visit
        Scenes.
    families : mapping of str to float
        How much each family counts; 1 for those that are not named.
    seed : int
        Picks the samples.
    """
    rng = np.random.default_rng(seed)
    counts: dict[str, int] = defaultdict(int)
    for each in visits:
        counts[each.family] += len(each.views)
    parts = []
    for each in visits:
        share = USUAL_SAMPLES * families.get(each.family, 1.0) / max(1, counts[each.family])
        for samples in (view.samples for view in each.views):
            if samples.truth.size and share > 0:
                rows = rng.choice(samples.truth.size, max(1, round(share)))
                error = max(float(np.abs(samples.answers - samples.truth[:, None]).mean(axis=0).min()), LEAST_ERROR)
                parts.append((samples.answers[rows] / error, samples.truth[rows] / error, samples.distance[rows]))
    if not parts:
        raise RunError("there is nothing to learn from: no scene has a sample to hide")
    answers, truth, distance = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Mixture.best(answers, truth, distance)


def examples(visits: Iterable[Visit], usual: Mixture) -> list[Example]:
    """Describe scenes to the network.

    The base is the mixture that suits the scene, as far as the other ways of hiding it tell; or the usual one; or, so
    that the network learns to mend a poor one, the even mean of all guides.

    Parameters
    ----------
    visits : iterable of Visit
        Scenes.
    usual : Mixture
        See `usual_mixture`.
    """
    made = []
    for each in visits:
        for view in each.views:
            others = [other.samples for other in each.views if other is not view]
            tuned = usual
            if sum(samples.truth.size for samples in others) >= LEAST_SAMPLES:
                joined = Samples.of(others)
                tuned = Mixture.best(joined.answers, joined.truth, joined.distance)
            made.append(
                Example(
                    name=f"{each.name}, way {view.draw}",
                    family=each.family,
                    seen=view.seen,
                    truth=view.truth,
                    hidden=view.hidden,
                    bases=tuple(mixture.at for mixture in (usual, tuned, tuned, usual, Mixture.even(GUIDE_COUNT))),
                    error=float(np.mean([_error(mixture, view.samples) for mixture in (tuned, usual)])),
                )
            )
    return made


def scene_name(example: str) -> str:
    """Return the name of the scene that an example is a way of hiding.

    >>> scene_name("cube, part 3, way 1")
    'cube, part 3'
    """
    return example.rsplit(", way ", 1)[0]


def _error(mixture: Mixture, samples: Samples) -> float:
    if not samples.truth.size:
        return 0.0
    return float(np.abs(mixture.mean(list(samples.answers.T), samples.distance) - samples.truth).mean())
