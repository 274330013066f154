"""Train the network without one of its parts, and see what it was there for.

    python benchmarks/ablations.py DATA -o FOLDER [--steps N] [--seed N] [--only NAME]

All networks are trained from scratch, alike and for short, on the same scenes, and scored on what those hold out and on
data that no training saw. The result is FOLDER/ablations.json; copied beside this script, it is a part of the scores. A
run that was interrupted goes on from its checkpoints, if the code is the same, and several processes can take a network
each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import train_default
from data import borrowed_shapes, load_never_trained, split
from numpy.typing import NDArray
from scores import imported

from stpipe.methods.teaching import examples, usual_mixture
from stpipe.model.features import FEATURES, FIRST_GUIDE, GUIDE_COUNT, network_input
from stpipe.model.patches import Deck, Example, triple_of_slices
from stpipe.model.spec import UNetSpec

if TYPE_CHECKING:
    from stpipe.model.training import Progress

F32 = NDArray[np.float32]
Change = Callable[[F32], F32]
Judged = dict[str, dict[str, float]]
"""``errors`` and ``widths`` by family."""

SYNTHETIC = 60
"""Scenes that are made up."""

SUPPORT = (*range(FIRST_GUIDE + 2 * GUIDE_COUNT + 4, FIRST_GUIDE + 2 * GUIDE_COUNT + 9), FEATURES - 2)
"""Channels that tell how samples lie: times and distance to observations, observed, shares of pixel and frame."""


VARIANTS = ("full", "no guides", "no correction", "no support", "no synthetic data")
"""The networks, the whole one first."""

NO_NETWORK = "no network: the guides' usual mean"
"""What a network has to be better than."""


@dataclass(frozen=True, slots=True)
class Results:
    """What was found, a file for each network, so that processes don't get into each other's way."""

    folder: Path
    """Where."""

    how: dict[str, int | str]
    """What the networks have in common."""

    def write(self, name: str, found: Judged) -> None:
        """Keep what was found of a network."""
        path = self._path(name)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(found))
        part.replace(path)

    def read(self) -> dict[str, Judged]:
        """Return what there is, the whole network first and what takes its place next."""
        names = (VARIANTS[0], NO_NETWORK, *VARIANTS[1:])
        return {name: json.loads(self._path(name).read_text()) for name in names if self._path(name).exists()}

    def checkpoint(self, name: str) -> Path:
        """Return where a network's training goes on from, and its weights are in the end."""
        return self._path(name).with_suffix(".npz")

    def gather(self) -> None:
        """Write all of it to one file, or say which networks are not there yet."""
        found = self.read()
        missing = [name for name in VARIANTS if name not in found]
        path = self.folder / "ablations.json"
        path.unlink(missing_ok=True)  # one of another run
        if missing:
            print(f"{path} has to wait for: {', '.join(missing)}")
        else:
            told = {name: self.how[name] for name in ("steps", "seed")}
            path.write_text(json.dumps({**told, "networks": found}, indent=1) + "\n")

    def _path(self, name: str) -> Path:
        told = "-".join(f"{key}{value}" for key, value in self.how.items())
        return self.folder / f"{'-'.join(re.findall('[a-z]+', name))}-{told}.json"


def code() -> str:
    """Return a digest of all that decides the figures besides steps and seed."""
    made, here = hashlib.sha256(), Path(__file__).resolve()
    scripts = (here, *(here.with_name(f"{name}.py") for name in ("train_default", "data", "synthetic")))
    for path in sorted({source for script in scripts for source in imported(script)}):
        made.update(path.read_bytes())
    return made.hexdigest()[:8]


def as_it_is(inputs: F32) -> F32:
    """Change nothing."""
    return inputs


def without_support(inputs: F32) -> F32:
    """Take away all that tells gaps from observations: gaps are zeros like any other."""
    inputs = inputs.copy()
    inputs[..., SUPPORT] = 0
    inputs[..., FEATURES:] = 1
    return inputs


def without_guides(each: Example) -> Example:
    """Leave the network the observations alone; what it adds to is the mean of the scene."""
    seen = each.seen
    nothing, unsure = np.zeros_like(seen.values), np.full_like(seen.values, np.sqrt(3.0))
    left = replace(
        seen,
        guides=[nothing] * len(seen.guides),
        half_widths=[unsure] * len(seen.half_widths),
        differences=[np.where(seen.valid, seen.values, np.float32(0))] * 2,
    )
    return replace(each, seen=left)


class ChangedDeck(Deck):
    """Deals patches whose inputs are changed."""

    change: Change = staticmethod(as_it_is)

    def batch(self, step: int, count: int) -> tuple[F32, F32]:
        """Return the batch of a step."""
        inputs, wanted = super().batch(step, count)
        return self.change(inputs), wanted


def judged(answers: Sequence[tuple[Example, F32, F32]]) -> Judged:
    """Return each family's error, and how wide intervals have to be that hold 90 % of its truth, both in spreads.

    `answers` are held-out scenes with what was said of them and its half-widths, which one factor a family makes hold.
    """
    from stpipe.model.training import calibration_factor

    errors, widths = {}, {}
    for family in dict.fromkeys(each.family for each, _, _ in answers):
        own = [
            ((said - each.truth)[each.hidden], half[each.hidden])
            for each, said, half in answers
            if each.family == family
        ]
        factor = calibration_factor([error for error, _ in own], [half for _, half in own])
        errors[family] = float(np.mean([np.abs(error).mean() for error, _ in own]))
        widths[family] = float(np.mean([2 * factor * half.mean() for _, half in own]))
    return {"errors": errors, "widths": widths}


def said_by(model: Callable[..., object], each: Example, change: Change) -> tuple[Example, F32, F32]:
    """Return a scene, a network's answer, and its half-width before calibration."""
    inputs, mean, scale = _seen(each)
    out = np.asarray(model(change(inputs)[None], training=False))[0]
    return each, mean + out[..., 0] * scale, np.exp(out[..., 1]) * scale


def said_by_guides(each: Example) -> tuple[Example, F32, F32]:
    """Return a scene, the mean that a network is to better, and the spread of the guides."""
    _, mean, scale = _seen(each)
    return each, mean, scale


def _seen(each: Example) -> tuple[F32, F32, F32]:
    everything = triple_of_slices((0, 0, 0), each.hidden.shape)
    return network_input(each.seen.part(everything), each.weights(0, everything))


def main() -> None:
    """Train all, score all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--only", choices=VARIANTS, help="the network to train; all unless given")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{text}, at {time.monotonic() - began:.0f} s", flush=True)

    def report(told: Progress) -> None:
        say(f"step {told.step} loss {told.loss:.4f}")

    kept = Results(args.out, {"steps": args.steps, "seed": args.seed, "code": code()})
    wanted = [name for name in VARIANTS if name not in kept.read() and args.only in (None, name)]
    if not wanted:
        kept.gather()
        return
    families, held_out = split(args.data)
    shapes = borrowed_shapes(families)
    visits = [
        each
        for number, scenes in enumerate(families)
        for each in train_default.look_round(number, scenes[:7], args.seed, shapes)
    ]
    visits += train_default.make_up((0, SYNTHETIC), args.seed, shapes)
    usual = usual_mixture(visits, train_default.FAMILIES, seed=args.seed)
    learn = examples(visits, usual)
    unseen = [*held_out, *load_never_trained(args.data)]  # the latter are of no family that is trained on
    judge = examples(train_default.held_out_visits(unseen, args.seed, shapes), usual)
    del visits
    say(f"{len(learn)} examples, {len(judge)} held out")

    from stpipe.model import backend

    backend.start(one_thread=True)
    import keras

    from stpipe.model import unet
    from stpipe.model.training import Schedule, train

    real = [each for each in learn if each.family != "synthetic"]
    bound = unet.LARGEST_CORRECTION
    kept.write(NO_NETWORK, judged([said_by_guides(each) for each in judge]))
    how = {
        "full": (learn, as_it_is, bound, None),
        "no guides": (learn, as_it_is, 4.0, without_guides),  # it has to find the whole value
        "no correction": (learn, as_it_is, 0.0, None),
        "no support": (learn, without_support, bound, None),
        "no synthetic data": (real, as_it_is, bound, None),
    }
    for name in wanted:
        taught, change, largest, stripped = how[name]
        keras.utils.set_random_seed(args.seed)
        unet.LARGEST_CORRECTION = largest  # the layer reads it when it is called
        model = unet.build_unet(UNetSpec())
        own, shown = taught, judge
        if stripped is not None:
            own, shown = ([stripped(each) for each in part] for part in (taught, judge))
        deck = ChangedDeck(own, families=train_default.FAMILIES, size=train_default.PATCH, seed=args.seed)
        deck.change = change
        train(model, deck, Schedule(steps=args.steps, every=100), checkpoint=kept.checkpoint(name), report=report)
        kept.write(name, judged([said_by(model, each, change) for each in shown]))
        say(f"{name}: {kept.read()[name]}")
    kept.gather()


if __name__ == "__main__":
    main()
