"""Peak memory of a worker against the plan's figure, for a scene and one sixteen times as large.

    python benchmarks/memory.py [--method pyramid] [--sides 1024 4096] [--frames 32] [--memory-limit 4GiB] [--no-tune]

Writes each scene tile by tile (seeded, int16, about 40 % gap in clouds of many sizes), fills it, and prints the plan's
figure and the largest resident size that any worker process reported.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
from scipy import ndimage

CHUNK = (16, 256, 256)


def write_scene(path: Path, frames: int, side: int, seed: int = 7) -> None:
    """Write a cube of drifting fields under clouds, a column of chunks at a time."""
    rng = np.random.default_rng(seed)
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    values = group.create_array(
        "ndvi",
        shape=(frames, side, side),
        chunks=(min(frames, CHUNK[0]), *CHUNK[1:]),
        dtype="int16",
        fill_value=-32768,
        dimension_names=("time", "y", "x"),
        attributes={"_FillValue": -32768, "scale_factor": 1e-4},
    )
    dates = np.cumsum(rng.integers(2, 9, frames))
    for name, axis, attrs in (
        ("time", dates, {"units": "days since 2023-01-01", "calendar": "proleptic_gregorian"}),
        ("y", 5e6 - 10.0 * np.arange(side), {"units": "m", "standard_name": "projection_y_coordinate"}),
        ("x", 5e5 + 10.0 * np.arange(side), {"units": "m", "standard_name": "projection_x_coordinate"}),
    ):
        array = group.create_array(
            name, shape=axis.shape, chunks=axis.shape, dtype=axis.dtype, dimension_names=(name,), attributes=attrs
        )
        array[...] = axis
    # One coarse cloud field a frame for the whole scene, so that clouds cross the chunks.
    coarse = [ndimage.gaussian_filter(rng.normal(size=(side // 16 + 2,) * 2), 2) for _ in range(frames)]
    covers = [np.quantile(field, rng.uniform(0.2, 1.0)) for field in coarse]
    for top in range(0, side, CHUNK[1]):
        for left in range(0, side, CHUNK[2]):
            rows, columns = np.mgrid[top : top + CHUNK[1], left : left + CHUNK[2]]
            tile = np.empty((frames, *CHUNK[1:]), dtype=np.int16)
            for t in range(frames):
                field = 5000 + 2500 * np.sin(dates[t] / 58 + rows / 400) * np.cos(columns / 700)
                field = field + rng.normal(0, 150, rows.shape)
                cloud = ndimage.map_coordinates(coarse[t], (rows / 16, columns / 16), order=1) > covers[t]
                tile[t] = np.where(cloud, -32768, field)
            values[:, top : top + CHUNK[1], left : left + CHUNK[2]] = tile


def run(cube: Path, method: str, limit: str, workers: int, *, tune: bool) -> dict[str, float]:
    """Fill a scene in a process of its own and return its figures."""
    words = ["fill-scene", str(cube), "--method", method, "--memory-limit", limit, "--workers", str(workers), "--json"]
    words += [] if tune else ["--no-tune"]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "stpipe.cli.main", *words, "--overwrite"], check=True, capture_output=True, text=True
    )
    report = json.loads(done.stdout)
    return {
        "planned": report["projected_peak_bytes"],
        "measured": report["peak_worker_bytes"],
        "wall": time.perf_counter() - started,
        **{f"s_{stage}": seconds for stage, seconds in report["seconds"].items()},
        **{f"peak_{stage}": peak for stage, peak in report["stage_peak_bytes"].items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="pyramid")
    parser.add_argument("--no-tune", action="store_true", help="with pconv: the network alone")
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--memory-limit", default="4GiB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder unless given")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="stpipe-memory-"))
    folder.mkdir(parents=True, exist_ok=True)
    peaks = []
    for side in options.sides:
        cube = folder / f"scene{side}.zarr"
        if not cube.exists():
            write_scene(cube, options.frames, side)
        figures = run(cube, options.method, options.memory_limit, options.workers, tune=not options.no_tune)
        peaks.append(figures["measured"])
        mib = {key: round(value / 2**20) for key, value in figures.items() if key[0] in "mp"}
        seconds = {key.removeprefix("s_"): round(value, 1) for key, value in figures.items() if key[0] in "sw"}
        ratio = figures["measured"] / figures["planned"]
        print(
            f"{options.method} {side}x{side}x{options.frames}: measured / planned = {ratio:.3f}; MiB {mib}; s {seconds}"
        )
    if len(peaks) > 1:
        print(f"largest / smallest scene: {peaks[-1] / peaks[0]:.3f}")
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
