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
    Scene,
    answer,
    calibration_factor,
    cut,
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

HELD_OUT_CO = 22
"""Sentinel-5P blocks of this number and later in time take no part in the training."""


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


def _scene(name: str, values: NDArray[np.floating], days: NDArray[np.floating], valid: object = True) -> Scene:
    known = np.isfinite(values) & np.asarray(valid, dtype=bool)
    return Scene(
        name=name,
        values=np.where(known, values, 0).astype(np.float32),
        valid=known,
        days=np.asarray(days, dtype=np.float64),
    )


def _days(stamps: NDArray[np.datetime64]) -> NDArray[np.float64]:
    return (stamps - stamps[0]) / np.timedelta64(1, "D")


def _tif(path: Path) -> NDArray[np.float64]:
    import rasterio

    with rasterio.open(path) as source:
        return np.asarray(source.read().astype(np.float64))


def _ndvi(red: NDArray[np.floating], nir: NDArray[np.floating]) -> NDArray[np.floating]:
    total = red + nir
    return np.where(np.abs(total) > 1e-6, (nir - red) / np.where(np.abs(total) > 1e-6, total, 1), np.nan).clip(-1, 1)


def load_co(folder: Path) -> tuple[list[Scene], list[Scene]]:
    """Sentinel-5P CO blocks with their own artificial gaps; the last periods are held out."""
    learn, test = [], []
    for path in sorted((folder / "stpconv_s5p_co/training").glob("Y_*.tif")):
        name = path.stem[2:]
        values = _tif(path)
        made = _scene(f"co {name}", values, np.arange(float(len(values))), np.abs(values) < 1e30)
        hidden = (_tif(path.with_name(f"VALMASK_{name}.tif")) == 1) & made.valid
        made = Scene(name=made.name, values=made.values, valid=made.valid, days=made.days, hidden=hidden)
        (test if int(name.split("_")[0]) >= HELD_OUT_CO else learn).append(made)
    return learn, test


def load_hls(folder: Path) -> list[Scene]:
    """Harmonised Landsat Sentinel-2, one mosaic a date."""
    root = folder / "hls_T15SWD_2023"
    dates = sorted({path.name[:8] for path in root.glob("*_B04.tif")})
    bands = {}
    for band in ("B04", "NIR"):
        frames = []
        for date in dates:
            same_day = np.concatenate([_tif(path) for path in sorted(root.glob(f"{date}_*_{band}.tif"))])
            first = same_day[0]
            for other in same_day[1:]:
                first = np.where(np.isfinite(first), first, other)
            frames.append(first)
        bands[band] = np.stack(frames)
    days = _days(np.array([f"{d[:4]}-{d[4:6]}-{d[6:]}" for d in dates], dtype="datetime64[D]"))
    ndvi = _ndvi(bands["B04"], bands["NIR"])
    return [_scene(f"hls {name}", v, days) for name, v in (("ndvi", ndvi), ("nir", bands["NIR"]))]


def load_monthly(folder: Path) -> list[Scene]:
    """Gap-free monthly composites of Sentinel-2."""
    root = folder / "s2_monthly_california_512"
    red, nir = (
        np.concatenate([_tif(root / f"month_{m}_band_{band}.tif") for m in range(1, 13)]) for band in ("B04", "B08")
    )
    days = 30.44 * np.arange(12)
    return [_scene("monthly ndvi", _ndvi(red, nir), days), _scene("monthly b08", nir, days)]


def load_sinop(folder: Path) -> list[Scene]:
    """MOD13Q1 composites, wrapped values out."""
    scenes = []
    for index, pattern in (("ndvi", "TERRA-MODIS*NDVI*.jp2"), ("evi", "TERRA-MODIS*EVI*.jp2")):
        paths = sorted((folder / "sits_mod13q1_sinop").glob(pattern))
        if not paths:
            continue
        stamps = np.array([path.stem[-10:] for path in paths], dtype="datetime64[D]")
        values = np.concatenate([_tif(path) for path in paths])
        scenes.append(_scene(f"sinop {index}", values / 1e4, _days(stamps), values <= 10000))
    return scenes


def load_worldcereal(folder: Path) -> list[Scene]:
    """Sentinel-2 NDVI and near infrared, clouds out by the scene classification, and surface temperature."""
    import xarray as xr

    root = folder / "worldcereal_s1_s2_l8"
    tail = "10m_00002806639B424A_32631_2017-08-01_2018-11-30.nc"
    with (
        xr.open_dataset(root / f"S2_L2A_{tail}", mask_and_scale=False) as fine,
        xr.open_dataset(root / f"S2_L2A_{tail.replace('10m', '20m')}", mask_and_scale=False) as coarse,
    ):
        cloudy = np.isin(coarse["SCL"].values, (0, 1, 3, 8, 9, 10, 11)).repeat(2, axis=1).repeat(2, axis=2)
        red, nir = (fine[band].values.astype(np.float64) for band in ("B04", "B08"))
        days = _days(fine["timestamp"].values)
        good = ~cloudy & (red > 0) & (nir > 0)
    scenes = [
        _scene("worldcereal ndvi", _ndvi(red, nir), days, good),
        _scene("worldcereal nir", nir / 1e4, days, good),
    ]
    return [scene for scene in scenes if (np.diff(scene.days) > 0).all()]


def load_fusets(folder: Path) -> list[Scene]:
    """NDVI of fields, clouds out by the scene classification; the first is the largest."""
    import xarray as xr

    scenes = []
    for name in ("BIDS_demo", "BIDS_workshop", "FOSS4G_demo"):
        with xr.open_dataset(folder / f"fusets_s2_ndvi_s1_rvi/workshops_{name}_raw_s2_ndvi_field.nc") as source:
            good = np.isin(source["SCL"].values, (4, 5, 6, 7))
            scenes.append(_scene(f"fusets {name}", source["NDVI"].values, _days(source["t"].values), good))
    return scenes


def load_gapfill(folder: Path) -> Scene:
    """MODIS NDVI of Alaska: four dates in each of four years."""
    with np.load(folder / "gapfill_modis_ndvi_alaska_demo/ndvi_demo.npz") as source:
        values = source["ndvi"].transpose(3, 2, 1, 0).reshape(16, 21, 21)
        days = (365.25 * (source["year"][:, None] - source["year"][0]) + source["doy"][None, :]).ravel()
    return _scene("gapfill ndvi", values, days)


def load_never_trained(folder: Path) -> list[Scene]:
    """Sets on which nothing is ever trained or tuned."""
    import xarray as xr

    root = folder / "eolearn_testeopatch_s2"
    stamps = np.array(json.loads((root / "timestamps.json").read_text()), dtype="datetime64[s]")
    ndvi = np.load(root / "NDVI.npy")[..., 0]
    valid = np.load(root / "IS_VALID.npy").reshape(ndvi.shape)
    scenes = [_scene("eolearn ndvi", ndvi, _days(stamps), valid)]
    with xr.open_dataset(folder / "dineof_alboran_sst/alboranSST_small.nc") as source:
        sea = source["mask"].values == 1
        scenes.append(_scene("alboran sst", source["SST"].values, _days(source["time"].values), sea[None]))
    return scenes


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
    return _scene("synthetic", sum(s * p for s, p in zip(shares, (*parts, noise), strict=True)), days)


ALL = slice(None)


def split(folder: Path) -> tuple[list[list[Scene]], list[Scene]]:
    """Return families of scenes to learn from and scenes held out by region or period."""
    co, co_test = load_co(folder)
    hls, monthly, sinop = load_hls(folder), load_monthly(folder), load_sinop(folder)
    cereal, fields, alaska = load_worldcereal(folder), load_fusets(folder), load_gapfill(folder)
    learn = [
        co,
        [cut(s, (ALL, ALL, slice(0, 160))) for s in hls],
        [cut(s, (ALL, slice(0, 368), ALL)) for s in monthly],
        [cut(s, (ALL, ALL, slice(0, 170))) for s in sinop],
        [cut(s, (slice(0, 80), ALL, ALL)) for s in cereal],
        fields[:1],
        [cut(alaska, (slice(0, 8), ALL, ALL))],
    ]
    held_out = [
        *co_test,
        *(cut(s, (ALL, ALL, slice(168, None))) for s in hls),
        *(cut(s, (ALL, slice(376, None), slice(0, 256))) for s in monthly),
        *(cut(s, (ALL, ALL, slice(178, None))) for s in sinop),
        *(cut(s, (slice(80, None), ALL, ALL)) for s in cereal),
        *fields[1:],
        cut(alaska, (slice(8, None), ALL, ALL)),
    ]
    return learn, held_out


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


def borrowed_shapes(families: list[list[Scene]]) -> NDArray[np.bool_]:
    """Gap shapes of real clouds and swaths, for scenes without any."""
    frames = [~scene.valid[:, :128, :128] for scene in (*families[0], *families[1][:1])]
    gaps = np.concatenate(frames)
    gaps = gaps.repeat(2, axis=1).repeat(2, axis=2)
    share = gaps.mean(axis=(1, 2))
    return gaps[(share > 0.03) & (share < 0.9)]


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
