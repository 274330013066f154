"""Speed and memory of `stpipe gaps` against reading and decoding the same Zarr with zarr alone.

    python benchmarks/gaps.py [--sides 2500 10000] [--frames 73] [--kind values] [--workers 2] [--repeat 1] [--planes]

Writes each scene chunk by chunk: seeded clouds of many sizes over int16 reflectance with noise (`--kind values`), or a
bare uint8 cloud layer whose chunks compress to next to nothing (`--kind clouds`). Then reads it with zarr alone, all
cores decoding, and runs the command, one right after the other as often as `--repeat` says; the best of each counts.
Prints samples a second of both and the largest resident size that any worker process reported.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from scipy import ndimage

CHUNK = 256
COARSE = 16
COLUMNS, PLANES = 48, 6
"""Chunks that are made up."""

STRIP = 512
"""Rows that zarr reads at once: enough chunks to keep all cores busy."""


def write_scene(path: Path, frames: int, side: int, *, kind: str, planes: bool, seed: int = 7) -> None:
    """Write a cube chunk by chunk: a few dozen chunks are made up, and the others are copies of them."""
    rng = np.random.default_rng(seed)
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    dtype, nodata = ("int16", -32768) if kind == "values" else ("uint8", 0)
    chunk = (1, side, side) if planes else (frames, CHUNK, CHUNK)
    array = group.create_array(
        "ndvi",
        shape=(frames, side, side),
        chunks=chunk,
        dtype=dtype,
        fill_value=nodata,
        dimension_names=("time", "y", "x"),
        attributes={"_FillValue": nodata, "scale_factor": 1e-4},
    )
    dates = np.cumsum(rng.integers(2, 9, frames))
    for name, axis, attrs in (
        ("time", dates, {"units": "days since 2023-01-01", "calendar": "proleptic_gregorian"}),
        ("y", 5e6 - 10.0 * np.arange(side), {"units": "m", "standard_name": "projection_y_coordinate"}),
        ("x", 5e5 + 10.0 * np.arange(side), {"units": "m", "standard_name": "projection_x_coordinate"}),
    ):
        coordinate = group.create_array(
            name, shape=axis.shape, chunks=axis.shape, dtype=axis.dtype, dimension_names=(name,), attributes=attrs
        )
        coordinate[...] = axis
    made: list[Path] = []
    for place in np.ndindex(*(-(-n // length) for n, length in zip(array.shape, chunk, strict=True))):
        file = path / "ndvi" / "c" / Path(*map(str, place))
        if len(made) < (PLANES if planes else COLUMNS):
            samples = make_up(rng, chunk, kind=kind, nodata=nodata).astype(dtype)
            box = tuple(slice(at * n, (at + 1) * n) for at, n in zip(place, chunk, strict=True))
            array[box] = samples[:, : side - box[1].start, : side - box[2].start]
            made.append(file)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made[int(rng.integers(len(made)))], file)


def make_up(rng: np.random.Generator, shape: tuple[int, int, int], *, kind: str, nodata: int) -> NDArray[np.generic]:
    """Return samples under clouds of many sizes with ragged edges, from 10 to 90 % of a frame."""
    frames, height, width = shape
    samples = np.empty(shape, dtype=np.int16)
    for t in range(frames):
        coarse = ndimage.gaussian_filter(rng.normal(size=(height // COARSE + 1, width // COARSE + 1)), 2)
        field = np.repeat(np.repeat(coarse, COARSE, axis=0), COARSE, axis=1)[:height, :width]
        noise = rng.standard_normal((height, width), dtype=np.float32)
        clear = field + 0.015 * noise <= np.quantile(coarse, rng.uniform(0.1, 0.9))
        samples[t] = np.where(clear, 5000 + 150 * noise if kind == "values" else 1, nodata)
    return samples


def read(cube: Path) -> float:
    """Read all of a cube with zarr alone, in a process of its own, and return the seconds."""
    code = (
        "import sys, time, zarr\n"
        "array = zarr.open_array(sys.argv[1], mode='r')\n"
        "started = time.perf_counter()\n"
        "t, y, x = array.shape\n"
        "if array.chunks[0] < t:\n"
        "    for i in range(0, t, array.chunks[0]): array[i : i + array.chunks[0]]\n"
        "else:\n"
        f"    for top in range(0, y, {STRIP}):\n"
        f"        for left in range(0, x, 4 * {STRIP}): array[:, top : top + {STRIP}, left : left + 4 * {STRIP}]\n"
        "print(time.perf_counter() - started)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(cube / "ndvi")], check=True, capture_output=True, text=True)
    return float(done.stdout)


def run(cube: Path, workers: int) -> dict[str, float]:
    """Run `stpipe gaps` in a process of its own and return its figures."""
    started = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "stpipe.cli.main",
            "gaps",
            str(cube),
            "--workers",
            str(workers),
            "--overwrite",
            "--json",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    wall = time.perf_counter() - started
    report = json.loads(done.stdout)
    return {
        "wall": wall,
        "pass": report["seconds"]["read and work out"],
        "write": report["seconds"]["write"],
        "peak": report["peak_worker_bytes"],
        "planned": report["projected_peak_bytes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[2500, 10_000])
    parser.add_argument("--frames", type=int, default=73)
    parser.add_argument("--kind", choices=["values", "clouds"], default="values")
    parser.add_argument("--planes", action="store_true", help="a chunk is one whole frame")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder unless given")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="stpipe-gaps-"))
    folder.mkdir(parents=True, exist_ok=True)
    peaks = []
    for side in options.sides:
        cube = folder / f"{options.kind}{'-planes' * options.planes}-{side}.zarr"
        if not cube.exists():
            write_scene(cube, options.frames, side, kind=options.kind, planes=options.planes)
        alone, figures = [], []
        for _ in range(options.repeat):
            alone.append(read(cube))
            figures.append(run(cube, options.workers))
        samples = side * side * options.frames / 1e6
        best = min(figures, key=lambda row: row["wall"])
        fastest = min(alone)
        peaks.append(max(row["peak"] for row in figures))
        mib = {key: round(best[key] / 2**20) for key in ("peak", "planned")}
        print(
            f"{options.kind} {side} x {side} x {options.frames}: zarr alone {fastest:.1f} s, {samples / fastest:.0f} "
            f"million samples/s; gaps {best['wall']:.1f} s, {samples / best['wall']:.0f} million samples/s, "
            f"{fastest / best['wall']:.2f} of that (reading and statistics {best['pass']:.1f} s, files "
            f"{best['write']:.1f} s); MiB {mib}",
            flush=True,
        )
    if len(peaks) > 1:
        print(f"peak of a worker, largest scene / smallest: {peaks[-1] / peaks[0]:.3f}")
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
