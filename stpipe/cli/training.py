"""One run of `stpipe train`, from sources to weights, told line by line on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import click

from stpipe.cli.progress import progress_bar
from stpipe.cli.words import tell, tell_note
from stpipe.errors import CubeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stpipe.io.training_data import Family, Source
    from stpipe.io.training_output import TrainingOutput
    from stpipe.methods.curriculum import Scene
    from stpipe.methods.teaching import Visit
    from stpipe.methods.training_run import Settings, Trained
    from stpipe.model.training import Progress
    from stpipe.model.weights import ModelInfo

WAYS = 3
"""In how many ways each part is hidden to learn from."""

JUDGING_WAYS = 2
"""The same of what is held out, see `stpipe.methods.curriculum.judging_visit`."""

SAMPLES_A_STEP = 40_000
"""Samples of examples for each step: a patch of four has five times as many, and few are seen often."""

MOST_SAMPLES = 40_000_000
"""Samples of examples, at most; they are held in memory."""

JUDGED_SHARE = 0.1
"""As much more is made of what is held out."""

LENT_SIDE = 128
"""Side of the gap shapes that complete scenes borrow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """All that was asked for."""

    sources: tuple[Source, ...]
    """What is learned from."""

    place: TrainingOutput
    """Where the weights go."""

    start: ModelInfo | None
    """Weights to go on from; None for fresh ones."""

    start_name: str
    """What those are called."""

    settings: Settings
    """How."""

    hold_out: float
    """Share of each source."""

    valid_range: tuple[float, float] | None
    """Physical values outside of it are gaps."""

    @property
    def samples(self) -> tuple[int, int]:
        """How many are read of each family, to learn from and to be judged by."""
        families = sum(len(source.families) for source in self.sources)
        made = min(MOST_SAMPLES, SAMPLES_A_STEP * self.settings.steps)
        return made // (WAYS * families), int(JUDGED_SHARE * made) // (JUDGING_WAYS * families)

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights, by the option that sets it."""
        settings = self.settings
        return {
            "the way of training": 2,
            "the sources": [source.identity for source in self.sources],
            "--var": [family for source in self.sources for family in source.families],
            "--from": None if self.start is None else self.start.digest,
            "--valid-range": self.valid_range,
            "--hold-out": self.hold_out,
            "--steps": settings.steps,
            "--learning-rate": settings.learning_rate,
            "--batch": settings.batch,
            "--seed": settings.seed,
            "--family-weight": dict(settings.families),
        }


def train_job(job: TrainingJob, *, goes_on: bool) -> dict[str, Any]:
    """Read, hide, train, calibrate, write; return what came of it.

    Parameters
    ----------
    job : TrainingJob
        What was asked for.
    goes_on : bool
        Whether there is a training of this kind to go on with, see `TrainingOutput.goes_on`.
    """
    from stpipe.io.training_data import split_sources
    from stpipe.methods.curriculum import shapes_to_lend
    from stpipe.methods.training_run import describe, fit

    began = time.monotonic()
    settings = job.settings
    learned_samples, held_out_samples = job.samples
    families = split_sources(
        job.sources,
        share=job.hold_out,
        learned_samples=learned_samples,
        held_out_samples=held_out_samples,
        seed=settings.seed,
        valid_range=job.valid_range,
    )
    families = [family for family in families if settings.families.get(family.name, 1.0) > 0]
    scenes, judges = _read(families, learned_samples, held_out_samples)
    for line in (line for source in job.sources for line in source.remarks()):
        note(line)
    _tell_split(families, scenes, judges)
    shapes = shapes_to_lend([scene for group in scenes.values() for scene in group], side=LENT_SIDE)
    if shapes is None:
        note(
            "there is no gap to learn shapes from: parts are hidden by blobs, speckle, stripes, whole frames and runs "
            "of frames; weights learn more from a cube with gaps"
        )
    learned, held_out = _hide(scenes, judges, shapes, settings.seed)
    del scenes, judges
    usual, learn, judged = describe(learned, held_out, settings, job.start)
    del learned, held_out
    if not learn or not judged:
        side = "held out" if learn else "learned from"
        raise CubeError(
            f"nothing that can be hidden is left in what is {side}: its parts have too few valid samples; look at the "
            "sources with stpipe info, or change --hold-out"
        )
    samples = sum(each.hidden.size for each in learn)
    click.echo(f"{len(learn)} examples of {samples / 1e6:.3g} M samples, {len(judged)} held out", err=True)
    with job.place.locked():
        if not (goes_on and job.place.checkpoint.exists()):  # looks of one that was removed are of another training
            job.place.begin(job.identity())
        trained = fit(
            usual, learn, judged, settings, job.start, checkpoint=job.place.checkpoint, report=_reporter(job, began)
        )
        if not trained.apart:
            note(
                "the held-out part of some family is a single scene, which says when to stop and judges as well: its "
                "error is that of the best look, and flatters a little; with more cubes, or larger ones, others judge"
            )
        result = _finish(job, families, trained, examples=len(learn), samples=samples, seconds=time.monotonic() - began)
    job.place.finish()
    return result


def _read(
    families: Sequence[Family], learned_samples: int, held_out_samples: int
) -> tuple[dict[str, list[Scene]], dict[str, list[Scene]]]:
    """Read the parts of each family, and say which were left out."""
    from stpipe.io.training_data import gather

    scenes: dict[str, list[Scene]] = {}
    judges: dict[str, list[Scene]] = {}
    total = len(families) * (learned_samples + held_out_samples)
    with progress_bar("reading") as progress:
        done = 0

        def step(samples: int) -> None:
            nonlocal done
            done += samples
            progress(min(done, total), total)

        for family in families:
            scenes[family.name], empty = gather(family.learned, learned_samples, step=step)
            judges[family.name], more = gather(family.held_out, held_out_samples, step=step)
            if empty + more:
                note(f"{family.name}: {empty + more} parts left out, for next to nothing in them is valid")
    for side, groups in (("learn from", scenes), ("be judged by", judges)):
        missing = [name for name, group in groups.items() if not group]
        if len(missing) == len(families):
            raise CubeError(
                f"{', '.join(missing)} holds no part to {side} with a valid sample; look at the sources with stpipe "
                "info, and at --valid-range, --domain and --time"
            )
        for name in missing:
            note(f"{name} has no part to {side} with a valid sample")
    return scenes, judges


def _tell_split(
    families: Sequence[Family], scenes: Mapping[str, Sequence[Scene]], judges: Mapping[str, Sequence[Scene]]
) -> None:
    for family in families:
        learned, held_out = (_amount(side[family.name]) for side in (scenes, judges))
        tell(f"{family.name}: {family.split}; read {learned}, and {held_out} held out", err=True)


def _amount(scenes: Sequence[Scene]) -> str:
    parts = "1 part" if len(scenes) == 1 else f"{len(scenes)} parts"
    return f"{parts} of {sum(scene.valid.size for scene in scenes) / 1e6:.3g} M samples"


def _hide(
    scenes: Mapping[str, Sequence[Scene]],
    judges: Mapping[str, Sequence[Scene]],
    shapes: NDArray[np.bool_] | None,
    seed: int,
) -> tuple[list[Visit], list[Visit]]:
    """Hide all scenes, and make the guides of what is left."""
    from stpipe.core.gaps import Purpose, generator
    from stpipe.methods.curriculum import judging_visit, learning_visit

    learned: list[Visit] = []
    held_out: list[Visit] = []
    sizes = [WAYS * scene.valid.size for group in scenes.values() for scene in group]
    sizes += [JUDGING_WAYS * scene.valid.size for group in judges.values() for scene in group]
    with progress_bar("making guides") as progress:
        for number, (family, group) in enumerate(scenes.items()):
            for part, scene in enumerate(group, start=1):
                rng = generator(Purpose.TRAINING, seed, number, part)
                learned.append(learning_visit(scene, family, rng, shapes, WAYS))
                progress(sum(sizes[: len(learned)]), sum(sizes))
        for number, (family, group) in enumerate(judges.items()):
            for part, scene in enumerate(group, start=1):
                rng = generator(Purpose.TRAINING_JUDGES, seed, number, part)
                held_out.append(judging_visit(scene, family, rng, shapes))
                progress(sum(sizes[: len(learned) + len(held_out)]), sum(sizes))
    return learned, held_out


def _reporter(job: TrainingJob, began: float) -> Callable[[Progress], None]:
    """Return what keeps the record of a look, and prints a line of it."""
    looks = job.place.records()
    earlier = float(looks[-1]["seconds"]) if looks else 0.0
    first = int(looks[-1]["step"]) if looks else 0
    if looks:
        click.echo(f"going on after step {first}", err=True)
    started = time.monotonic()

    def report(told: Progress) -> None:
        now = time.monotonic()
        left = (now - started) / max(1, told.step - first) * (job.settings.steps - told.step)
        job.place.add(
            {
                "step": told.step,
                "loss": told.loss,
                "held_out": told.held_out,
                "best": told.best,
                "seconds": round(earlier + now - began, 1),
            }
        )
        click.echo(
            f"step {told.step} of {job.settings.steps}  loss {told.loss:.4f}  held out {told.held_out:.4f} of the "
            f"base's error, best {told.best:.4f}  {duration(left)} left",
            err=True,
        )

    return report


def duration(seconds: float) -> str:
    """Return a time to wait.

    >>> duration(42), duration(170), duration(9000)
    ('42 s', '3 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _finish(
    job: TrainingJob, families: Sequence[Family], trained: Trained, *, examples: int, samples: int, seconds: float
) -> dict[str, Any]:
    """Write the weights, their curves and the picture, and return what is to be told."""
    from stpipe.methods.training_run import against_base, family_errors
    from stpipe.model.weights import save_model
    from stpipe.report.training_picture import draw_training

    settings = job.settings
    scores = family_errors(trained.after)
    overall = against_base(trained.after)
    before = against_base(trained.before)["network"] if trained.before else None
    for family, row in family_errors(trained.before).items():
        scores[family]["before"] = row["network"]
    if before is not None:
        overall["before"] = before
    shares: dict[str, float | None] = {}
    for family, row in scores.items():
        judged = [each for each in trained.after if each.family == family]
        told = [each.coverage for each in judged if isfinite(each.coverage)]
        shares[family] = sum(told) / len(told) if told else None
        row["samples"] = sum(each.samples for each in judged)
    # Killed after its only checkpoint and before the record of it, a training goes on without one.
    last = {"step": trained.steps, "loss": None, "held_out": overall["network"], "seconds": round(seconds, 1)}
    looks = job.place.records() or [last]
    seconds = round(max(seconds, float(looks[-1]["seconds"])), 1)
    provenance = {
        "data": [source.name for source in job.sources],
        "families": {family.name: settings.families.get(family.name, 1.0) for family in families},
        "split": {family.name: family.split for family in families},
        "from": {"name": "scratch"} if job.start is None else {"name": job.start_name, "sha256": job.start.digest},
        "seed": settings.seed,
        "steps": trained.steps,
        "learning_rate": settings.learning_rate,
        "batch": settings.batch,
        "examples": examples,
        "samples": samples,
        "held_out": {family: {**row, "coverage": shares[family]} for family, row in scores.items()},
        "held_out_against_base": overall,
    }
    draw_training(looks, job.place.picture, before=trained.start_error)
    job.place.write_curves({**provenance, "seconds": seconds, "looks": looks})
    info = save_model(
        job.place.model,
        trained.network,
        trained.spec,
        mixture=trained.mixture.weights,
        calibration=trained.factor,
        provenance=provenance,
    )
    return {
        "model": str(info.path),
        "sha256": info.digest,
        "curves": str(job.place.curves),
        "picture": str(job.place.picture),
        "seconds": seconds,
        "better": overall["network"] < min(1.0, 1.0 if before is None else before),
        **provenance,
    }


def note(text: str) -> None:
    """Tell the user something."""
    tell_note(text)
