"""Fill a real series of GeoTIFFs from end to end, and check every product by GDAL and rio-cogeo.

    python benchmarks/series.py FOLDER [--same-day mean] [--method pconv] [--folder WORK]

Ingests the GeoTIFFs of FOLDER, fills the cube, and looks at all that lies in the output: each GeoTIFF by `rio cogeo
validate`, its CRS, nodata, date and overviews by rasterio and, where it is installed, by gdalinfo; each observed sample
against the cube, bit for bit; and what is left unfilled. Ends with 1 if anything is amiss.
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
from typing import Any

import numpy as np
import rasterio
import zarr
from rio_cogeo.cogeo import cog_validate

SOURCES = ("outside", "observed", "filled", "fallback", "unfilled")
OUTSIDE, OBSERVED, UNFILLED = 0, 1, 4
OVERVIEWS_FROM = 512


def run(*words: str) -> float:
    """Run stpipe and return the seconds it took."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "stpipe.cli.main", *words], check=True)
    return time.perf_counter() - start


def faults_of_tiff(path: Path) -> list[str]:
    """Return what is wrong with one GeoTIFF of the products."""
    faults = []
    sound, errors, warnings = cog_validate(str(path), strict=True, quiet=True)
    if not sound:
        faults.append(f"no valid COG: {errors + warnings}")
    with rasterio.open(path) as tiff:
        tags: dict[str, Any] = tiff.tags()
        if tiff.crs is None:
            faults.append("no CRS")
        if tiff.nodata is None and "_source_" not in path.name:
            faults.append("no nodata")
        if not any("time" in key.lower() or "date" in key.lower() for key in tags):
            faults.append(f"no date among its tags {sorted(tags)}")
        if max(tiff.shape) > OVERVIEWS_FROM and not tiff.overviews(1):
            faults.append("no overviews")
    if shutil.which("gdalinfo"):
        answer = subprocess.run(["gdalinfo", "-json", str(path)], capture_output=True, text=True, check=False)
        if answer.returncode or not json.loads(answer.stdout)["coordinateSystem"]["wkt"]:
            faults.append(f"gdalinfo: {answer.stderr.strip() or 'no CRS'}")
    return [f"{path.name}: {fault}" for fault in faults]


def bits(values: np.ndarray) -> np.ndarray:
    """Return values as bytes, so that comparing them asks for equal bits, those of NaN too."""
    return np.ascontiguousarray(values).view(np.uint8)


def faults_of_cube(given: zarr.Group, filled: zarr.Group, name: str) -> tuple[list[str], dict[str, int]]:
    """Compare the observed samples of one variable and count its samples by where they come from."""
    before, after, source = (np.asarray(group[key][:]) for group, key in _arrays(given, filled, name))
    nodata = given[name].attrs.get("_FillValue")
    valid = np.isfinite(before) if before.dtype.kind == "f" else np.ones(before.shape, dtype=bool)
    if isinstance(nodata, int | float):
        valid &= before != nodata
    counts = dict(zip(SOURCES, np.bincount(source.ravel(), minlength=len(SOURCES)).tolist(), strict=True))
    faults = []
    if before.dtype != after.dtype:
        faults.append(f"{name}: {before.dtype} became {after.dtype}")
    elif not np.array_equal(bits(before[valid]), bits(after[valid])):
        faults.append(f"{name}: an observed sample changed")
    if not np.array_equal(source == OBSERVED, valid):
        faults.append(
            f"{name}: {int(((source == OBSERVED) != valid).sum())} samples are called observed or not by mistake"
        )
    holes = ~np.isfinite(after) if after.dtype.kind == "f" else after == filled[name].attrs.get("_FillValue")
    if not np.array_equal(holes, np.isin(source, (OUTSIDE, UNFILLED))):
        faults.append(f"{name}: gaps are left that the source layer does not tell")
    return faults, counts


def _arrays(given: zarr.Group, filled: zarr.Group, name: str) -> list[tuple[zarr.Group, str]]:
    return [(given, name), (filled, name), (filled, f"{name}_source")]


def main() -> int:
    """Ingest, fill, check, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("series", type=Path, help="a folder of GeoTIFFs whose names carry dates")
    parser.add_argument("--same-day", default="mean")
    parser.add_argument("--method", default="pconv")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder unless given")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        work = options.folder or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        cube, output = work / "series.zarr", work / "series.filled"
        seconds = run("ingest", str(options.series), "--same-day", options.same_day, "-o", str(cube))
        print(f"ingest: {seconds:.0f} s")
        print(f"fill-scene: {run('fill-scene', str(cube), '--method', options.method, '-o', str(output)):.0f} s")
        given, filled = (zarr.open_group(str(path), mode="r") for path in (cube, output / "filled.zarr"))
        names = sorted({path.parent.name for path in output.glob("geotiff/*/*.tif")})
        tiffs = sorted(output.glob("geotiff/*/*.tif"))
        faults = [fault for path in tiffs for fault in faults_of_tiff(path)]
        print(f"{len(tiffs)} GeoTIFFs, {len(faults)} faults")
        for name in names:
            found, counts = faults_of_cube(given, filled, name)
            faults += found
            print(f"{name}: " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items()))
        print(*faults, "sound" if not faults else f"{len(faults)} faults", sep="\n")
        return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
