"""The public data sets as scenes in memory: what may be learned from, what is held out, what is never touched.

Loaded by `train_default.py`, which learns from the former, and by `scores.py`, which scores on the others.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpipe.methods.curriculum import Scene

ALL = slice(None)

HELD_OUT_CO = 22
"""Sentinel-5P blocks of this number and later in time take no part in the training."""


def cut(scene: Scene, part: tuple[slice, slice, slice]) -> Scene:
    """Return a part of a scene."""
    return replace(
        scene,
        values=scene.values[part],
        valid=scene.valid[part],
        days=scene.days[part[0]],
        hidden=None if scene.hidden is None else scene.hidden[part],
        domain=None if scene.domain is None else scene.domain[part[1:]],
    )


def scene_of(
    name: str,
    values: NDArray[np.floating],
    days: NDArray[np.floating],
    valid: object = True,
    domain: NDArray[np.bool_] | None = None,
) -> Scene:
    """Return a scene whose valid samples are finite."""
    known = np.isfinite(values) & np.asarray(valid, dtype=bool)
    return Scene(
        name=name,
        values=np.where(known, values, 0).astype(np.float32),
        valid=known,
        days=np.asarray(days, dtype=np.float64),
        domain=domain,
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
        made = scene_of(f"co {name}", values, np.arange(float(len(values))), np.abs(values) < 1e30)
        hidden = (_tif(path.with_name(f"VALMASK_{name}.tif")) == 1) & made.valid
        made = replace(made, hidden=hidden)
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
    return [scene_of(f"hls {name}", v, days) for name, v in (("ndvi", ndvi), ("nir", bands["NIR"]))]


def load_monthly(folder: Path) -> list[Scene]:
    """Gap-free monthly composites of Sentinel-2."""
    root = folder / "s2_monthly_california_512"
    red, nir = (
        np.concatenate([_tif(root / f"month_{m}_band_{band}.tif") for m in range(1, 13)]) for band in ("B04", "B08")
    )
    days = 30.44 * np.arange(12)
    return [scene_of("monthly ndvi", _ndvi(red, nir), days), scene_of("monthly b08", nir, days)]


def load_sinop(folder: Path) -> list[Scene]:
    """MOD13Q1 composites, wrapped values out."""
    scenes = []
    for index, pattern in (("ndvi", "TERRA-MODIS_h12v10_NDVI_*.jp2"), ("evi", "TERRA_MODIS_h12v10_EVI_*.jp2")):
        paths = sorted((folder / "sits_mod13q1_sinop").glob(pattern))
        stamps = np.array([path.stem[-10:] for path in paths], dtype="datetime64[D]")
        values = np.concatenate([_tif(path) for path in paths])
        scenes.append(scene_of(f"sinop {index}", values / 1e4, _days(stamps), values <= 10000))
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
        scene_of("worldcereal ndvi", _ndvi(red, nir), days, good),
        scene_of("worldcereal nir", nir / 1e4, days, good),
    ]
    return [scene for scene in scenes if (np.diff(scene.days) > 0).all()]


def load_fusets(folder: Path) -> list[Scene]:
    """NDVI of two fields, clouds out by the scene classification; the first is the larger.

    The set has the second one twice, as BIDS_workshop and as FOSS4G_demo.
    """
    import xarray as xr

    scenes = []
    for name in ("BIDS_demo", "BIDS_workshop"):
        with xr.open_dataset(folder / f"fusets_s2_ndvi_s1_rvi/workshops_{name}_raw_s2_ndvi_field.nc") as source:
            good = np.isin(source["SCL"].values, (4, 5, 6, 7))
            made = scene_of(f"fusets {name}", source["NDVI"].values, _days(source["t"].values), good)
            scenes.append(replace(made, domain=made.valid.any(axis=0)))
    return scenes


def load_gapfill(folder: Path) -> Scene:
    """MODIS NDVI of Alaska: four dates in each of four years."""
    with np.load(folder / "gapfill_modis_ndvi_alaska_demo/ndvi_demo.npz") as source:
        values = source["ndvi"].transpose(3, 2, 1, 0).reshape(16, 21, 21)
        days = (365.25 * (source["year"][:, None] - source["year"][0]) + source["doy"][None, :]).ravel()
    return scene_of("gapfill ndvi", values, days)


def load_never_trained(folder: Path) -> list[Scene]:
    """Sets on which nothing is ever trained or tuned."""
    import xarray as xr

    root = folder / "eolearn_testeopatch_s2"
    stamps = np.array(json.loads((root / "timestamps.json").read_text()), dtype="datetime64[s]")
    ndvi = np.load(root / "NDVI.npy")[..., 0]
    valid = np.load(root / "IS_VALID.npy").reshape(ndvi.shape)
    scenes = [scene_of("eolearn ndvi", ndvi, _days(stamps), valid)]
    with xr.open_dataset(folder / "dineof_alboran_sst/alboranSST_small.nc") as source:
        sea = source["mask"].values == 1
        scenes.append(scene_of("alboran sst", source["SST"].values, _days(source["time"].values), sea, sea))
    return scenes


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


def borrowed_shapes(families: list[list[Scene]]) -> NDArray[np.bool_]:
    """Gap shapes of real clouds and swaths, for scenes without any."""
    frames = [~scene.valid[:, :128, :128] for scene in (*families[0], *families[1][:1])]
    gaps = np.concatenate(frames)
    gaps = gaps.repeat(2, axis=1).repeat(2, axis=2)
    share = gaps.mean(axis=(1, 2))
    return gaps[(share > 0.03) & (share < 0.9)]
