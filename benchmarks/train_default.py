"""Train the packaged weights and score them: python benchmarks/train_default.py DATA -o OUT [--steps N].

DATA is the folder with the public data sets that the model card names. Everything is seeded; the order of floating
point sums is the library's, so that two machines may differ in the last digits.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from data import ALL, Scene, borrowed_shapes, cut, load_never_trained, scene_of, split
from numpy.typing import NDArray

from stpipe.core.gaps import GAP_KINDS, artificial_gaps
from stpipe.core.ports import BlockInput
from stpipe.core.survey import ArrayOverviews
from stpipe.core.windows import Window, triple
from stpipe.methods.pyramid import PyramidFiller
from stpipe.model.features import F32
from stpipe.model.spec import UNetSpec
from stpipe.model.training import (
    Example,
    answer,
    calibration_factor,
    example,
    patches,
    train,
)
from stpipe.model.unet import build_unet
from stpipe.model.weights import save_model

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
PATCH = (16, 64, 64)
LARGEST_SCENE = 160
"""Side of the part of a large scene that one round of training looks at."""


def guides(values: F32, valid: NDArray[np.bool_], days: NDArray[np.float64]) -> tuple[F32, F32]:
    """Run the pyramid over a whole scene."""
    block = BlockInput(
        values=values,
        valid=valid,
        days=days,
        window=Window.of(triple(values.shape)),
        overviews=ArrayOverviews.of(values.astype(np.float64), valid),
        all_days=days,
    )
    made = PyramidFiller().fill(block)
    return made.values, made.half_width


def synthetic(rng: np.random.Generator) -> Scene:
    """Smooth weather moving over fixed fields with seasons of their own."""
    from scipy import ndimage

    count, side = int(rng.integers(12, 40)), 96
    days = np.cumsum(rng.choice([1.0, 3.0, 5.0, 10.0]) * rng.integers(1, 4, count)).astype(np.float64)
    fields = ndimage.zoom(rng.standard_normal((12, 12)), 8, order=0)
    phase = ndimage.zoom(rng.uniform(0, 2 * np.pi, (12, 12)), 8, order=0)
    season = np.sin(2 * np.pi * days[:, None, None] / 365 + phase)
    weather = ndimage.gaussian_filter(rng.standard_normal((count, side, side)), (rng.uniform(0, 2), 8, 8), mode="wrap")
    parts = [part / (part.std() + 1e-9) for part in (np.broadcast_to(fields, season.shape), season, weather)]
    noise = rng.standard_normal(season.shape)
    shares = (*rng.uniform(0, 1, 3), rng.uniform(0, 0.15))
    return scene_of("synthetic", sum(s * p for s, p in zip(shares, (*parts, noise), strict=True)), days)


WEIGHTS = (6, 3, 3, 2, 3, 1, 0.5, 1.5)
"""How often each family, and last the synthetic one, is visited."""


def visits(
    families: list[list[Scene]], shapes: NDArray[np.bool_], rng: np.random.Generator
) -> Callable[[], Iterator[tuple[F32, F32]]]:
    """Return a function that hides a part of some scene and gives patches of it."""
    share = np.array(WEIGHTS) / sum(WEIGHTS)

    def fresh() -> Iterator[tuple[F32, F32]]:
        number = int(rng.choice(len(share), p=share))
        scene = synthetic(rng) if number == len(families) else families[number][rng.integers(len(families[number]))]
        height, width = scene.valid.shape[1:]
        y, x = (int(rng.integers(0, max(1, n - LARGEST_SCENE + 1))) for n in (height, width))
        scene = cut(scene, (ALL, slice(y, y + LARGEST_SCENE), slice(x, x + LARGEST_SCENE)))
        if len(scene.days) > 48:
            start = int(rng.integers(0, len(scene.days) - 47))
            scene = cut(scene, (slice(start, start + 48), ALL, ALL))
        if rng.random() < 0.5 and scene.hidden is not None:
            hidden = scene.hidden
        else:
            kind = str(rng.choice(GAP_KINDS))
            borrowed = None if (~scene.valid).mean() > 0.1 and rng.random() < 0.8 else shapes
            share_hidden = rng.uniform(0.15, 0.6)
            hidden = artificial_gaps(scene.valid, rng, kind=kind, shapes=borrowed, frames_share=share_hidden)
        if (scene.valid & ~hidden).sum() < 100 or hidden.sum() < 20:
            return
        yield from patches(example(scene, hidden, guides), rng, size=PATCH, count=6)

    return fresh


def held_out_examples(scenes: list[Scene], shapes: NDArray[np.bool_], seed: int) -> Iterator[tuple[str, Example]]:
    """Hide parts of each scene: its given gaps, or its own shapes from other dates, or borrowed ones without any."""
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng([seed, number])
        hidden = scene.hidden
        if hidden is None:
            borrowed = None if (~scene.valid).mean() > 0.02 else shapes
            hidden = artificial_gaps(scene.valid, rng, kind="own", shapes=borrowed, frames_share=0.5)
        yield scene.name, example(scene, hidden, guides)


def scores(model: object, examples: Iterator[tuple[str, Example]]) -> dict[str, dict[str, float]]:
    """Return mean absolute errors in spreads of the scene, of the guides and of the network, and raw ones."""
    table = {}
    for name, made in examples:
        predicted, half_width = answer(model, made)
        hidden = made.hidden
        row = {
            method: float(np.abs(field - made.truth)[hidden].mean())
            for method, field in (("pyramid", made.base), ("linear", made.linear), ("pconv", predicted))
        }
        error, width = np.abs(predicted - made.truth)[hidden], half_width[hidden]
        row["factor"] = calibration_factor([error], [width])
        row["samples"] = int(hidden.sum())
        row["_error"], row["_width"] = error, width  # type: ignore[assignment]
        table[name] = row
    return table


def main() -> None:
    """Train, calibrate, score, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, help="go on from these weights")
    parser.add_argument("--score-only", type=Path, help="score this model instead of training one")
    args = parser.parse_args()

    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    families, held_out = split(args.data)
    shapes = borrowed_shapes(families)
    spec = UNetSpec()
    model = build_unet(spec)
    began = time.monotonic()

    def report(step: int, value: float) -> None:
        print(f"step {step} loss {value:.4f} at {time.monotonic() - began:.0f} s", flush=True)
        if step % 100 == 0:
            model.save_weights(args.out / "latest.weights.h5")

    if args.start is not None:
        model.load_weights(args.start)
    if args.score_only is None:
        fresh = visits(families, shapes, rng)
        train(model, fresh, rng, steps=args.steps, learning_rate=args.learning_rate, report=report)
        model.save_weights(args.out / "latest.weights.h5")
    else:
        model.load_weights(args.score_only)
    table = scores(model, held_out_examples(held_out, shapes, seed=7))
    table |= scores(model, held_out_examples(load_never_trained(args.data), shapes, seed=8))
    calibration = [row for name, row in table.items() if not name.startswith(("eolearn", "alboran"))]
    factor = calibration_factor([r["_error"] for r in calibration], [r["_width"] for r in calibration])  # type: ignore[misc]
    for row in table.values():
        row["coverage"] = float((row.pop("_error") <= factor * row.pop("_width")).mean())  # type: ignore[operator, attr-defined]
    for name, row in table.items():
        print(f"{name:24s}", *(f"{key} {value:.4f}" for key, value in row.items()))
    (args.out / "scores.json").write_text(json.dumps({"factor": factor, "table": table}, indent=1))
    provenance = {
        "data": TRAINED_ON,
        "seed": args.seed,
        "steps": args.steps,
        "learning_rate": args.learning_rate,
        "started_from": None if args.start is None else str(args.start.name),
    }
    save_model(args.out / "default.keras", model, spec, calibration=factor, provenance=provenance)


if __name__ == "__main__":
    main()
