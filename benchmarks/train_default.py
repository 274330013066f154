"""Train the packaged weights.

    python benchmarks/train_default.py DATA -o FOLDER [--steps N] [--seed N]

DATA is the folder of public sets that its own README describes. What a set holds out by region or period takes no part
in the training, nor do the sets that are marked as never to be trained on. Scenes made up by `synthetic.py` come on
top. The result is FOLDER/default.keras, beside the log and the scores of what was held out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from data import ALL, Scene, borrowed_shapes, cut, split
from numpy.typing import NDArray
from synthetic import synthetic

from stpipe.methods.curriculum import judging_visit, learning_visit
from stpipe.methods.teaching import Visit, examples, usual_mixture
from stpipe.methods.training_run import PATCH, Judgement, judge
from stpipe.model.patches import Deck
from stpipe.model.spec import UNetSpec

TRAINED_ON = [
    "stpconv_s5p_co",
    "hls_T15SWD_2023",
    "s2_monthly_california_512",
    "sits_mod13q1_sinop",
    "worldcereal_s1_s2_l8",
    "fusets_s2_ndvi_s1_rvi",
    "gapfill_modis_ndvi_alaska_demo",
    "synthetic",
]

FAMILIES = {
    "co": 4.0,
    "hls": 3.0,
    "monthly": 1.5,
    "sinop": 1.5,
    "worldcereal": 2.5,
    "fusets": 1.0,
    "gapfill": 0.5,
    "synthetic": 6.0,
}
"""How often each comes up; those of `data.split`, in order, and the synthetic one."""

VISITS = {"co": (1, 3, 128), "hls": (7, 3, 96), "monthly": (7, 3, 96), "sinop": (5, 3, 96)}
VISITS |= {"worldcereal": (4, 3, 64), "fusets": (6, 3, 64), "gapfill": (8, 3, 64)}
"""For each scene of a family: how many parts, in how many ways each is hidden, and their side."""

SYNTHETIC = 240
"""Scenes that are made up, each hidden in two ways."""

MOST_FRAMES = 60
"""Longer series are cut."""


def part_of(scene: Scene, rng: np.random.Generator, side: int) -> Scene:
    """Cut a part out of a scene, one in four with fewer frames."""
    height, width = scene.valid.shape[1:]
    y, x = (int(rng.integers(0, max(1, n - side + 1))) for n in (height, width))
    scene = cut(scene, (ALL, slice(y, y + side), slice(x, x + side)))
    have = len(scene.days)
    keep = min(have, MOST_FRAMES)
    if 6 < have <= MOST_FRAMES and rng.random() < 0.25:
        keep = int(rng.integers(3, have))
    start = int(rng.integers(0, have - keep + 1))
    return cut(scene, (slice(start, start + keep), ALL, ALL))


def make_up(numbers: tuple[int, int], seed: int, shapes: NDArray[np.bool_]) -> list[Visit]:
    """Visit synthetic scenes."""
    made = []
    for number in range(*numbers):
        rng = np.random.default_rng([seed, 12, number])
        made.append(learning_visit(replace(synthetic(rng), name=f"synthetic {number}"), "synthetic", rng, shapes, 2))
    return made


def look_round(number: int, scenes: list[Scene], seed: int, shapes: NDArray[np.bool_]) -> list[Visit]:
    """Visit parts of the real scenes of a family."""
    family = list(FAMILIES)[number]
    parts, count, side = VISITS[family]
    made = []
    for which, scene in enumerate(scenes):
        for part in range(parts):
            rng = np.random.default_rng([seed, 11, number, which, part])
            made.append(learning_visit(part_of(scene, rng, side), family, rng, shapes, count))
    return made


def held_out_visits(scenes: list[Scene], seed: int, shapes: NDArray[np.bool_]) -> list[Visit]:
    """Visit what takes no part in the training."""
    made = []
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng([seed, 13, number])
        made.append(judging_visit(scene, scene.name.split()[0], rng, shapes))
    return made


def save_scores(path: Path, judgements: Sequence[Judgement], factor: float, say: Callable[[str], None]) -> None:
    """Print and keep the errors of each held-out scene."""
    table = {
        each.name: {**each.errors, "pconv": each.network, "coverage": each.coverage, "samples": each.samples}
        for each in judgements
    }
    for name, row in table.items():
        say(f"{name:28s}" + " ".join(f"{key} {value:.4g}" for key, value in row.items()))
    path.write_text(json.dumps({"factor": factor, "table": table}, indent=1))


def main() -> None:
    """Visit, train, calibrate, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--no-synthetic", action="store_true", help="for the ablation: real scenes alone")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    log = (args.out / "log.txt").open("a")

    def say(line: str) -> None:
        print(line, flush=True)
        print(line, file=log, flush=True)

    families, held_out = split(args.data)
    shapes = borrowed_shapes(families)
    count = 0 if args.no_synthetic else SYNTHETIC
    chunks = [(first, min(first + 10, count)) for first in range(0, count, 10)]
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        real = [pool.submit(look_round, n, scenes, args.seed, shapes) for n, scenes in enumerate(families)]
        judged = pool.submit(held_out_visits, held_out, args.seed, shapes)
        made_up = [pool.submit(make_up, chunk, args.seed, shapes) for chunk in chunks]
        visits = [each for future in (*real, *made_up) for each in future.result()]
        judges = judged.result()
    usual = usual_mixture(visits, FAMILIES, seed=args.seed)
    learn, kept_apart = examples(visits, usual), examples(judges, usual)
    del visits, judges
    total = sum(each.hidden.size for each in learn) / 1e6
    say(
        f"{len(learn)} examples of {total:.0f} M samples, {len(kept_apart)} held out, after "
        f"{time.monotonic() - began:.0f} s"
    )

    from stpipe.model import backend

    backend.start(one_thread=True)
    import keras

    from stpipe.model.training import Progress, Schedule, train
    from stpipe.model.unet import build_unet
    from stpipe.model.weights import save_model

    keras.utils.set_random_seed(args.seed)
    spec = UNetSpec()
    model = build_unet(spec)

    def report(told: Progress) -> None:
        say(f"step {told.step} loss {told.loss:.4f} at {time.monotonic() - began:.0f} s")

    deck = Deck(learn, families=FAMILIES, size=PATCH, seed=args.seed)
    schedule = Schedule(steps=args.steps, learning_rate=args.learning_rate, every=200)
    train(model, deck, schedule, checkpoint=args.out / "checkpoint.npz", report=report)
    judgements, factor = judge(model, kept_apart)
    save_scores(args.out / "scores.json", judgements, factor, say)
    provenance = {
        "data": [name for name in TRAINED_ON if name != "synthetic" or count],
        "seed": args.seed,
        "steps": args.steps,
        "learning_rate": args.learning_rate,
        "examples": len(learn),
        "samples": int(total * 1e6),
    }
    save_model(
        args.out / "default.keras", model, spec, mixture=usual.weights, calibration=factor, provenance=provenance
    )


if __name__ == "__main__":
    main()
