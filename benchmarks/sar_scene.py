"""Method sar on scenes like Sentinel-1 and -2, up to 2750 x 4671 pixels x 380 dates: time, memory, disk and accuracy.

    python benchmarks/sar_scene.py [--area 1 1/4 1/16] [-o FOLDER] [--frames 380] [--images 190] [--workers 2]
        [--memory 4GiB] [--jobs 2] [--keep] [--json FILE]

For each share of the area a scene is made (`sar_scene_maker.py`; one that lies finished in FOLDER is used again), and
`stpipe fill-scene --method sar` fills it, in a process of its own that is watched: the memory of the driver and of its
workers, the bytes that they read and write, the size of the scratch. Then what was filled at sampled pixels is compared
with their truth, which is what would have been observed there: NDVI with its noise.

Memory is sampled (proportional set size), and the peak resident size as the kernel kept it stands beside it. Bytes are
those of read and write calls, whether or not a disk had to move for them; those that it moved are told apart.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr
from numpy.typing import NDArray
from sar_scene_maker import FILL, WORLD, Recipe, make, sketch

MIB, GIB = 2**20, 2**30

CLASSES = ((0, 15), (15, 45), (45, math.inf))
"""Gaps by the days to the nearest clear date of their pixel: more than the first number, up to the second."""

SECONDS_BETWEEN = 0.5
"""Samples of memory and bytes; the scratch is measured with every fourth."""

SCENE_BYTES = 1.2
"""On disk for a sample of a scene, optical or radar, measured and rounded up."""

MOST_GAPS = 0.65
"""About half of a scene is gap; no scene has more than this."""

AMPLE_BYTES = 64.0
"""With this much free for an optical sample nobody asks how much a run may need."""


@dataclass(slots=True)
class Watch:
    """What was seen of a process and its descendants while it ran."""

    seconds: float = 0.0
    """From start to end."""

    peaks: dict[str, int] = field(default_factory=dict)
    """Largest memory in bytes: sampled and as the kernel kept it, of the driver and of any other process."""

    moved: dict[str, int] = field(default_factory=dict)
    """Bytes of all processes together."""

    scratch: int = 0
    """Largest size of what a run removes at its end."""

    parts: dict[str, int] = field(default_factory=dict)
    """Bytes of what is in it, when it was largest."""

    folder: int = 0
    """Largest size of the whole output folder."""

    def look(self, root: int) -> None:
        """Sample the processes that there are."""
        moved: dict[str, int] = {}
        with suppress(psutil.NoSuchProcess):
            for process in [psutil.Process(root), *psutil.Process(root).children(recursive=True)]:
                who = "driver" if process.pid == root else "worker"
                for what, size in _memory(process.pid).items():
                    key = f"{who} {what}"
                    self.peaks[key] = max(self.peaks.get(key, 0), size)
                for what, size in _moved(process.pid).items():
                    moved[what] = moved.get(what, 0) + size
        # The kernel adds a process's bytes to those of its parent when it has ended: sums of what lives lose nothing.
        for what, size in moved.items():
            self.moved[what] = max(self.moved.get(what, 0), size)

    def measure(self, folder: Path) -> None:
        """Take the sizes of a run's folder and of the scratch in it."""
        work = folder / "work"
        parts = {name: tree_bytes(work / name) for name in sorted(_names(work))}
        product = parts.pop("filled.zarr", 0)  # it only moves when it is finished
        scratch = sum(parts.values())
        if scratch > self.scratch:
            self.scratch, self.parts = scratch, parts
        others = sum(tree_bytes(folder / name) for name in _names(folder) if name != "work")
        self.folder = max(self.folder, scratch + product + others)


def _memory(pid: int) -> dict[str, int]:
    """Return the proportional set size of a process and the largest resident size it ever had; empty if it is gone."""
    found = {}
    with suppress(OSError):
        for file, name, key in (("smaps_rollup", "Pss", "sampled"), ("status", "VmHWM", "peak")):
            for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
                if line.startswith(f"{name}:"):
                    found[key] = 1024 * int(line.split()[1])
    return found


def _moved(pid: int) -> dict[str, int]:
    """Return the bytes that a process and its ended children have read and written; empty if it is gone."""
    names = {"rchar": "read", "wchar": "written", "read_bytes": "from disk", "write_bytes": "to disk"}
    found = {}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            name, size = line.split(": ")
            if name in names:
                found[names[name]] = int(size)
    return found


def _names(folder: Path) -> list[str]:
    with suppress(OSError):
        return [place.name for place in folder.iterdir()]
    return []


def tree_bytes(path: Path) -> int:
    """Return the size of a file or of all files below a folder, some of which may vanish meanwhile."""
    total, todo = 0, [str(path)]
    while todo:
        with suppress(OSError):
            place = todo.pop()
            if not Path(place).is_dir():
                total += Path(place).stat().st_size
                continue
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    else:
                        with suppress(OSError):
                            total += entry.stat(follow_symlinks=False).st_size
    return total


def fill(scene: Path, output: Path, options: argparse.Namespace) -> tuple[dict[str, Any], Watch]:
    """Run `stpipe fill-scene` in a process of its own; return what it reports and what was seen of it."""
    words = [*command("fill-scene", scene, output, options), "--overwrite"]
    watch = Watch()
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        run = subprocess.Popen(words, stdout=said, stderr=complained)
        try:
            round_ = 0
            while run.poll() is None:
                watch.look(run.pid)
                if round_ % 4 == 0:
                    watch.measure(output)
                round_ += 1
                with suppress(subprocess.TimeoutExpired):
                    run.wait(SECONDS_BETWEEN)
        except BaseException:
            run.terminate()
            run.wait()
            raise
        watch.seconds = time.perf_counter() - started
        watch.measure(output)
        said.seek(0)
        complained.seek(0)
        if run.returncode:
            raise SystemExit(f"fill-scene ended with {run.returncode}: {complained.read().decode()[-2000:]}")
        return json.loads(said.read()), watch


def at_pixels(array: zarr.Array[Any], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[Any]:
    """Return (frame, pixel) of single pixels, each column of chunks read once."""
    _, deep, wide = array.chunks
    found = np.empty((array.shape[0], rows.size), dtype=array.dtype)
    for y, x in sorted(set(zip((rows // deep).tolist(), (columns // wide).tolist(), strict=True))):
        here = np.flatnonzero((rows // deep == y) & (columns // wide == x))
        part = np.asarray(array[:, y * deep : (y + 1) * deep, x * wide : (x + 1) * wide])
        found[:, here] = part[:, rows[here] - y * deep, columns[here] - x * wide]
    return found


def away(days: NDArray[np.float64], clear: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return days from each frame to the nearest clear one of a pixel, infinite if there is none.

    >>> away(np.array([0.0, 3, 10]), np.array([True, False, False])).tolist()
    [0.0, 3.0, 10.0]
    """
    return np.asarray(np.abs(days[:, None] - days[clear]).min(axis=1, initial=math.inf))


def score(scene: Path, output: Path) -> dict[str, Any]:
    """Compare what was filled at the sampled pixels with their truth, beside linear interpolation in time.

    Raises
    ------
    SystemExit
        If an observed sample is not what it was.
    """
    kept = np.load(scene / "truth.npz")
    rows, columns, days = kept["rows"], kept["columns"], kept["days"].astype(np.float64)
    truth, stored = kept["truth"], kept["stored"]
    clear = stored != FILL
    group = zarr.open_group(str(output / "filled.zarr"), mode="r")
    filled, source, half = (
        at_pixels(_array(group, name), rows, columns) for name in ("ndvi", "ndvi_source", "ndvi_ci90")
    )
    changed = int(np.count_nonzero(filled[clear] != stored[clear]))
    if changed:
        raise SystemExit(f"{changed} of {np.count_nonzero(clear)} observed samples were changed")
    linear = np.full(truth.shape, np.nan)
    distance = np.empty(truth.shape)
    for pixel in range(rows.size):
        there = clear[:, pixel]
        distance[:, pixel] = away(days, there)
        if there.any():
            linear[:, pixel] = np.interp(days, days[there], stored[there, pixel])
    error = 1e-4 * np.abs(filled.astype(np.float64) - truth)
    of_linear = 1e-4 * np.abs(linear - truth)
    # Scored where both have an answer; how many gaps have none is said beside it.
    answered = ~clear & (filled != FILL) & np.isfinite(linear)
    figures: dict[str, Any] = {
        "sampled pixels": rows.size,
        "observed, unchanged": int(np.count_nonzero(clear)),
        "gaps": int(np.count_nonzero(~clear)),
        "scored": int(np.count_nonzero(answered)),
        "sources of gaps": {
            int(code): int(count) for code, count in zip(*np.unique(source[~clear], return_counts=True), strict=True)
        },
        "classes": {},
    }
    for low, high in ((-1.0, math.inf), *CLASSES):
        here = answered & (distance > low) & (distance <= high)
        name = "all" if low < 0 else f"> {low} d" if high == math.inf else f"{low} to {high} d"
        if here.any():
            figures["classes"][name] = {
                "samples": int(np.count_nonzero(here)),
                "sar": float(error[here].mean()),
                "linear": float(of_linear[here].mean()),
                "in ci90": float((error[here] <= half[here]).mean()),
            }
    return figures


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def recipe_of(area: Fraction, frames: int, images: int, seed: int) -> Recipe:
    """Return the scene of a share of the area, of the same proportions.

    >>> recipe_of(Fraction(1, 4), 10, 5, 7).shape
    (1375, 2336)
    """
    side = math.sqrt(area)
    return Recipe(
        shape=(round(WORLD[0] * side), round(WORLD[1] * side + 1e-9)), frames=frames, images=images, seed=seed
    )


def check_disk(folder: Path, recipes: list[Recipe], options: argparse.Namespace) -> None:
    """End here if the scenes, and what `stpipe plan` wants for runs on them, can't fit."""
    free = shutil.disk_usage(folder).free
    missing = [recipe for recipe in recipes if not (folder / recipe.name).exists()]
    scenes = SCENE_BYTES * sum(sum(recipe.samples) for recipe in missing)
    if free > scenes + AMPLE_BYTES * sum(recipe.samples[0] for recipe in recipes):
        return
    runs = [planned_bytes(folder, recipe, options) for recipe in recipes]
    needed = sum(runs) if options.keep else max(runs)
    if free < scenes + needed:
        raise SystemExit(
            f"the scenes take about {scenes / GIB:.1f} GiB and runs on them may need {needed / GIB:.1f} GiB, as "
            f"stpipe plan says, but {folder} has {free / GIB:.1f} GiB free; choose a smaller --area or another disk "
            "with -o"
        )


def planned_bytes(folder: Path, recipe: Recipe, options: argparse.Namespace) -> int:
    """Return the disk that a run may need before its scene is made, from one of the same shape with a few tiles."""
    scene = folder / recipe.name
    with tempfile.TemporaryDirectory(prefix="sketch-", dir=folder) as place:
        if not scene.exists():
            scene = Path(place)
            sketch(scene, recipe)
        words = command("plan", scene, scene / "filled", options)
        run = subprocess.run(words, check=False, capture_output=True, text=True)
    if run.returncode:
        size = SCENE_BYTES * sum(recipe.samples) / GIB
        raise SystemExit(f"stpipe plan refuses {recipe.name}, itself of about {size:.1f} GiB: {run.stderr.strip()}")
    plan = json.loads(run.stdout)
    return int(plan["scratch_bytes"] + plan["output_bytes"] - (1 - MOST_GAPS) * plan["gap_bytes"])


def command(verb: str, scene: Path, output: Path, options: argparse.Namespace) -> list[str]:
    """Return the words of the command that is measured, or of another one with the same options."""
    words = [sys.executable, "-m", "stpipe.cli.main", verb, str(scene / "optical.zarr"), "--method", "sar"]
    words += ["--guide", str(scene / "s1.zarr"), "-o", str(output), "--workers", str(options.workers)]
    return [*words, "--memory-limit", options.memory, "--no-geotiff", "--json"]


def measure(folder: Path, recipe: Recipe, options: argparse.Namespace) -> dict[str, Any]:
    """Make a scene, fill it and score the filling; return all figures."""
    optical, radar = recipe.samples
    started = time.perf_counter()
    scene, spent = make(folder, recipe, options.jobs)
    wall = time.perf_counter() - started
    if spent:
        rate = (optical + radar) / spent / 1e6
        print(f"made {recipe.name}: {wall:.0f} s, {rate:.1f} million samples a second of a core", flush=True)
    output = scene.with_name(f"{scene.name}.filled")
    report, watch = fill(scene, output, options)
    figures = {
        "rows x columns": recipe.shape,
        "frames, images": (recipe.frames, recipe.images),
        "optical samples": optical,
        "radar samples": radar,
        "made in seconds": wall if spent else None,
        "made, seconds of cores": spent or None,
        "stored input bytes": {name: tree_bytes(scene / name) for name in ("optical.zarr", "s1.zarr")},
        "output bytes": tree_bytes(output / "filled.zarr"),
        "seconds": watch.seconds,
        "seconds of steps": report["seconds"],
        "peak bytes": watch.peaks,
        "peak bytes of a worker, reported": report["peak_worker_bytes"],
        "peak bytes of a worker in steps, reported": report["stage_peak_bytes"],
        "peak bytes of a worker, planned": report["projected_peak_bytes"],
        "moved bytes": watch.moved,
        "largest scratch": watch.scratch,
        "largest scratch, parts": watch.parts,
        "largest folder": watch.folder,
        "learned": report["learned"],
        "notes": report["notes"],
        "score": score(scene, output),
    }
    if not options.keep:
        shutil.rmtree(output)
    return figures


def table(areas: list[str], columns: list[dict[str, Any]]) -> str:
    """Return the figures of all areas side by side."""
    steps = list(dict.fromkeys(step for one in columns for step in one["seconds of steps"]))
    kinds = list(dict.fromkeys(kind for one in columns for kind in one["score"]["classes"]))
    rows: list[tuple[str, list[str]]] = [("area", areas)]

    def add(name: str, cells: list[Any], form: str, unit: float = 1.0) -> None:
        rows.append((name, ["-" if cell is None else format(cell / unit, form) for cell in cells]))

    rows.append(("rows x columns", ["{} x {}".format(*one["rows x columns"]) for one in columns]))
    add("million optical samples", [one["optical samples"] for one in columns], ".1f", 1e6)
    add("million radar samples", [one["radar samples"] for one in columns], ".1f", 1e6)
    inputs = [sum(one["stored input bytes"].values()) for one in columns]
    add("input on disk, MiB", inputs, ".0f", MIB)
    plain = [2 * (one["optical samples"] + one["radar samples"]) for one in columns]
    add("input as int16, MiB", plain, ".0f", MIB)
    for step in steps:
        add(f"seconds: {step}", [one["seconds of steps"].get(step) for one in columns], ".1f")
    add("seconds, whole command", [one["seconds"] for one in columns], ".1f")
    add("seconds a million samples", [1e6 * one["seconds"] / one["optical samples"] for one in columns], ".3f")
    for key, name in (
        ("worker sampled", "peak of a worker, sampled, MiB"),
        ("worker peak", "peak of a worker, kernel's, MiB"),
        ("driver sampled", "peak of the driver, sampled, MiB"),
        ("driver peak", "peak of the driver, kernel's, MiB"),
    ):
        add(name, [one["peak bytes"].get(key) for one in columns], ".0f", MIB)
    for key, name in (("reported", "in a task"), ("planned", "planned")):
        add(f"peak of a worker, {name}, MiB", [one[f"peak bytes of a worker, {key}"] for one in columns], ".0f", MIB)
    for key in ("read", "written", "from disk", "to disk"):
        add(f"{key}, MiB", [one["moved bytes"].get(key) for one in columns], ".0f", MIB)
    add("output on disk, MiB", [one["output bytes"] for one in columns], ".0f", MIB)
    add("largest scratch, MiB", [one["largest scratch"] for one in columns], ".0f", MIB)
    scratches = [one["largest scratch, parts"] for one in columns]
    for part in sorted({part for parts in scratches for part, size in parts.items() if size >= MIB}):
        add(f"of it {part}, MiB", [parts.get(part) for parts in scratches], ".0f", MIB)
    for name, sizes in (("on disk", inputs), ("as int16", plain)):
        shares = [one["largest scratch"] / size for one, size in zip(columns, sizes, strict=True)]
        add(f"largest scratch / input {name}", shares, ".3f")
    add("largest output folder, MiB", [one["largest folder"] for one in columns], ".0f", MIB)
    add("observed and unchanged", [one["score"]["observed, unchanged"] for one in columns], ".0f")
    add("gaps at sampled pixels", [one["score"]["gaps"] for one in columns], ".0f")
    for kind in kinds:
        there = [one["score"]["classes"].get(kind, {}) for one in columns]
        add(f"{kind}: samples", [one.get("samples") for one in there], ".0f")
        add(f"{kind}: MAE of sar", [one.get("sar") for one in there], ".4f")
        add(f"{kind}: MAE of linear", [one.get("linear") for one in there], ".4f")
        add(f"{kind}: within ci90", [one.get("in ci90") for one in there], ".3f")
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}" + "".join(f"{cell:>16}" for cell in cells) for name, cells in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--area", type=Fraction, nargs="+", default=[Fraction(1)], help="shares of the largest scene")
    parser.add_argument("-o", "--folder", type=Path, help="where scenes lie and stay; a temporary folder unless given")
    parser.add_argument("--frames", type=int, default=380)
    parser.add_argument("--images", type=int, default=190)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", default="4GiB", help="of a worker")
    parser.add_argument("--jobs", type=int, default=2, help="processes that make a scene")
    parser.add_argument("--keep", action="store_true", help="keep what was filled")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    if not all(0 < area <= 1 for area in options.area):
        parser.error("an area is a share of the largest scene: above 0 and at most 1")
    if options.frames < 2 or options.images < 1:
        parser.error("a scene has at least two frames and an image")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="stpipe-sar-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        recipes = [recipe_of(area, options.frames, options.images, options.seed) for area in options.area]
        check_disk(folder, recipes, options)
        areas, columns = [], []
        for area, recipe in zip(options.area, recipes, strict=True):
            areas.append(str(area))
            columns.append(measure(folder, recipe, options))
            print(table(areas, columns), flush=True)
            if options.json:
                options.json.write_text(json.dumps(dict(zip(areas, columns, strict=True)), indent=2))
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
