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
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from data import ALL, Scene, borrowed_shapes, cut, split
from numpy.typing import NDArray
from synthetic import synthetic

from stpipe.core.gaps import GAP_KINDS, artificial_gaps, draw_gaps
from stpipe.methods.teaching import Visit, examples, usual_mixture, visit
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

SYNTHETIC = 220
"""Scenes that are made up, each hidden in two ways."""

MOST_FRAMES = 60
"""Longer series are cut."""

LEAST_GAPS = 0.05
"""A scene with a smaller share of gaps counts as complete: it borrows the shapes of others."""

PATCH = (12, 64, 64)


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


def ways(scene: Scene, rng: np.random.Generator, shapes: NDArray[np.bool_], count: int) -> Iterator[NDArray[np.bool_]]:
    """Hide a scene: by the gaps that came with it, its own shapes at other dates, borrowed ones, and other kinds."""
    complete = (~scene.valid).mean() < LEAST_GAPS
    for _ in range(count):
        if scene.hidden is not None and rng.random() < 0.3:
            yield scene.hidden
            continue
        choice, share = rng.random(), rng.uniform(0.15, 0.7)
        if complete and choice < 0.5:
            yield artificial_gaps(scene.valid, rng, kind="own", shapes=shapes, frames_share=share)
        elif choice < 0.85:
            yield draw_gaps(scene.valid, rng, domain=scene.domain, share=(0.05, 0.5))
        else:
            kind = str(rng.choice(GAP_KINDS))
            yield artificial_gaps(
                scene.valid, rng, kind=kind, shapes=shapes if complete else None, frames_share=0.8 * share
            )


def with_gaps(scene: Scene, rng: np.random.Generator, shapes: NDArray[np.bool_]) -> Scene:
    """Take some of a complete scene away, as if it had never been observed."""
    kind = str(rng.choice(["own", "own", "blobs", "stripes", "speckle", "frames"]))
    gone = artificial_gaps(scene.valid, rng, kind=kind, shapes=shapes, frames_share=rng.uniform(0.1, 0.9))
    if gone.mean() > 0.8:
        return scene
    return replace(scene, valid=scene.valid & ~gone, values=np.where(gone, np.float32(0), scene.values))


def visit_of(
    name: str, family: str, scene: Scene, rng: np.random.Generator, shapes: NDArray[np.bool_], count: int
) -> Visit:
    """Hide a scene in several ways."""
    if (~scene.valid).mean() < LEAST_GAPS and rng.random() < 0.55:
        scene = with_gaps(scene, rng, shapes)
    hidden = list(ways(scene, rng, shapes, count))
    return visit(name, family, scene.values, scene.valid, scene.days, hidden)


def make_up(numbers: tuple[int, int], seed: int, shapes: NDArray[np.bool_]) -> list[Visit]:
    """Visit synthetic scenes."""
    made = []
    for number in range(*numbers):
        rng = np.random.default_rng([seed, 12, number])
        made.append(visit_of(f"synthetic {number}", "synthetic", synthetic(rng), rng, shapes, 2))
    return made


def look_round(number: int, scenes: list[Scene], seed: int, shapes: NDArray[np.bool_]) -> list[Visit]:
    """Visit parts of the real scenes of a family."""
    family = list(FAMILIES)[number]
    parts, count, side = VISITS[family]
    made = []
    for which, scene in enumerate(scenes):
        for part in range(parts):
            rng = np.random.default_rng([seed, 11, number, which, part])
            made.append(visit_of(scene.name, family, part_of(scene, rng, side), rng, shapes, count))
    return made


def held_out_visits(scenes: list[Scene], seed: int, shapes: NDArray[np.bool_]) -> list[Visit]:
    """Visit what takes no part in the training."""
    made = []
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng([seed, 13, number])
        complete = (~scene.valid).mean() < LEAST_GAPS
        first = artificial_gaps(scene.valid, rng, kind="own", shapes=shapes, frames_share=0.5) if complete else None
        if scene.hidden is not None:
            first = scene.hidden
        both = [draw_gaps(scene.valid, rng, domain=scene.domain) for _ in range(2)]
        hidden = both if first is None else [first, both[0]]
        made.append(visit(scene.name, scene.name.split()[0], scene.values, scene.valid, scene.days, hidden))
    return made


def main() -> None:
    """Visit, train, calibrate, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
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
    learn, judge = examples(visits, usual, seed=args.seed), examples(judges, usual, seed=args.seed)
    del visits, judges
    total = sum(each.hidden.size for each in learn) / 1e6
    say(
        f"{len(learn)} examples of {total:.0f} M samples, {len(judge)} held out, after {time.monotonic() - began:.0f} s"
    )

    from stpipe.model import backend

    backend.start(one_thread=args.jobs == 1)
    import keras

    from stpipe.model.training import Progress, Schedule, answer, calibration_factor, train
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
    errors, widths, table = [], [], {}
    for each in judge:
        predicted, half_width, base = answer(model, each)
        error = np.abs(predicted - each.truth)[each.hidden]
        errors.append(error)
        widths.append(half_width[each.hidden])
        row = {"base": float(np.abs(base - each.truth)[each.hidden].mean()), "pconv": float(error.mean())}
        guides = zip(("pyramid", "linear", "eof here"), (0, 3, 6), strict=True)
        row |= {name: float(np.abs(each.seen.guides[n] - each.truth)[each.hidden].mean()) for name, n in guides}
        table[each.name] = row | {"samples": int(each.hidden.sum())}
    factor = calibration_factor(errors, widths)
    for (name, row), error, width in zip(table.items(), errors, widths, strict=True):
        row["coverage"] = float((error <= factor * width).mean())
        say(f"{name:28s}" + " ".join(f"{key} {value:.4g}" for key, value in row.items()))
    (args.out / "scores.json").write_text(json.dumps({"factor": factor, "table": table}, indent=1))
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
