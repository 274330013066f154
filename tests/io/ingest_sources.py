"""Small sources for tests of ingest, and a short way to run one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr
from rasterio.transform import from_origin

from stpipe.cli.trust import parse_trust
from stpipe.io.ingest import plan as planning
from stpipe.io.ingest.options import IngestOptions
from stpipe.io.ingest.plan import IngestPlan
from stpipe.io.ingest.target import Target
from stpipe.io.ingest.write import write_cube

SHAPE = (20, 30)
TARGET = ("align", "crs", "resolution", "bbox", "bbox_crs", "aoi")


def raster(
    path: Path,
    samples: np.ndarray[Any, Any] | None = None,
    *,
    seed: int = 0,
    west: float = 500_000,
    crs: str | None = "EPSG:32633",
    descriptions: tuple[str, ...] = (),
    scale: float = 1.0,
    **profile: Any,
) -> np.ndarray[Any, Any]:
    """Write a GeoTIFF and return its samples, (band, y, x)."""
    if samples is None:
        samples = np.random.default_rng(seed).integers(1, 1000, (1, *SHAPE)).astype("int16")
    samples = samples if samples.ndim == 3 else samples[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"crs": crs, "transform": from_origin(west, 5_000_000, 10, 10), "driver": "GTiff"} | profile
    count, height, width = samples.shape
    with rasterio.open(path, "w", count=count, height=height, width=width, dtype=samples.dtype, **options) as file:
        file.write(samples)
        file.scales = (scale,) * count
        for number, text in enumerate(descriptions, start=1):
            file.set_band_description(number, text)
    return samples


def plan_ingest(sources: list[str], *, rules: tuple[str, ...] = (), buffer: int = 0, **options: Any) -> IngestPlan:
    """Plan an ingest; rules are drop rules, and what a Target takes goes there."""
    target = Target(**{name: options.pop(name) for name in TARGET if name in options})
    trust = parse_trust([], [], rules, buffer)
    return planning.plan_ingest(sources, IngestOptions(target=target, trust=trust, **options))


def ingest(*sources: Path, output: Path, **options: Any) -> xr.Dataset:
    """Run an ingest and return the cube as xarray reads it, undecoded."""
    write_cube(plan_ingest([str(source) for source in sources], **options), output)
    return xr.open_dataset(output, engine="zarr", consolidated=False, mask_and_scale=False)
