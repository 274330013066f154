"""What radar says of each optical frame: the covariates of the regression.

The covariates of a polarisation are, in dB: the scene's mean in the frame, the composite's difference from it, the mean
of the square of 21 x 21 pixels around each, and the difference from that; all but the first pass a median over 3 x 3
pixels, which takes off speckle. The scene's mean is one number a frame and polarisation: tiles give `scene_sums`, and
what they add up to is the scene's.

Source: the steps of Mao, McVicar and Van Niel for infilling optical series from Sentinel-1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from stpipe.errors import ShapeError
from stpipe.methods.sar.neighbourhoods import RADIUS, Medians, NeighbourhoodMeans, Part

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

HALO = RADIUS + 1
"""Pixels around a part that its covariates depend on: the neighbourhood's, and one for the median."""

KINDS = ("mean", "diff", "Nmean", "Ndiff")
"""The covariates of a polarisation: scene mean, difference from it, neighbourhood mean, difference from it."""


def scene_sums(composites: F32) -> F64:
    """Return what a tile adds to the scene's mean of each frame: number and sum of its valid samples.

    Parameters
    ----------
    composites : (time, y, x) ndarray of float32
        In dB, NaN where there is none; without halo, for each pixel counts once.

    Returns
    -------
    (2, time) ndarray of float64
        Sums of tiles are the sums of the scene.

    Examples
    --------
    >>> scene_sums(np.array([[[-10, np.nan, -12]]], dtype=np.float32)).tolist()
    [[2.0], [-22.0]]
    """
    sums = np.zeros((2, len(composites)))
    clean = np.empty(composites.shape[1:], dtype=np.float32)
    for t, frame in enumerate(composites):
        total = frame.sum(dtype=np.float64)
        sums[:, t] = frame.size, total
        if np.isnan(total):
            known = ~np.isnan(frame)
            clean[...] = 0
            np.copyto(clean, frame, where=known)
            sums[:, t] = np.count_nonzero(known), clean.sum(dtype=np.float64)
    return sums


def scene_mean(sums: F64) -> F64:
    """Return (time,) means of the scene from the sums of all its tiles, NaN for frames where nothing is valid.

    >>> scene_mean(np.array([[2.0, 0.0], [-22.0, 0.0]]))
    array([-11.,  nan])
    """
    count, total = sums
    means: F64 = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means


def covariate_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the covariates of some polarisations, in the order of `covariates`.

    >>> covariate_names(["VV", "VH"])
    ('VV_mean', 'VH_mean', 'VV_diff', 'VH_diff', 'VV_Nmean', 'VH_Nmean', 'VV_Ndiff', 'VH_Ndiff')
    """
    names = tuple(names)
    return tuple(f"{name}_{kind}" for kind in KINDS for name in names)


def covariates(composites: Mapping[str, F32], scene: Mapping[str, F64], part: Part) -> F32:
    """Return what the regression leans on, for a part of a window.

    Parameters
    ----------
    composites : mapping of str to (time, y, x) ndarray of float32
        The composites of each polarisation in dB, NaN where there is none, with `HALO` pixels around `part` up to the
        scene's edges.
    scene : mapping of str to (time,) ndarray of float64
        The scene's means, see `scene_mean`.
    part : (slice, slice)
        Rows and columns that are wanted.

    Returns
    -------
    (4 x polarisation, time, y, x) ndarray of float32
        In the order of `covariate_names`, NaN where the polarisation has no composite.

    Raises
    ------
    ShapeError
        If the polarisations don't agree on a shape, there is none, or the scene has more or fewer frames.

    Notes
    -----
    Taking off a constant before or after a median is the same, and so is the median of a constant itself: of the four
    covariates three need a median.

    Examples
    --------
    >>> frames = np.array([-9, -11, -13], dtype=np.float32).reshape(1, 1, 3)
    >>> made = covariates({"VV": frames}, {"VV": np.array([-10.0])}, (slice(0, 1), slice(0, 2)))
    >>> dict(zip(covariate_names(["VV"]), made[:, 0, 0, 0].tolist()))
    {'VV_mean': -10.0, 'VV_diff': 0.0, 'VV_Nmean': -11.0, 'VV_Ndiff': 1.0}
    """
    shapes = {name: frames.shape for name, frames in composites.items()}
    if len(set(shapes.values())) != 1:
        raise ShapeError(f"composites must be of one shape, but are {shapes}; read the same window of each")
    frames, *plane = next(iter(shapes.values()))
    for name in composites:
        if len(scene[name]) != frames:
            raise ShapeError(
                f"{name} has {frames} composites, but {len(scene[name])} means of the scene; give one each"
            )
    rows, columns = (range(*cut.indices(length)) for cut, length in zip(part, plane, strict=True))
    # A caller may hold more around the part than it needs.
    read = tuple(
        slice(max(wanted.start - HALO, 0), min(wanted.stop + HALO, length))
        for wanted, length in zip((rows, columns), plane, strict=True)
    )
    inner = (
        slice(rows.start - read[0].start, rows.stop - read[0].start),
        slice(columns.start - read[1].start, columns.stop - read[1].start),
    )
    height, width = (cut.stop - cut.start for cut in read)
    means, medians = NeighbourhoodMeans(height, width), Medians(height, width)
    mean, off = (np.empty((height, width), dtype=np.float32) for _ in range(2))
    result = np.empty((len(KINDS), len(composites), frames, len(rows), len(columns)), dtype=np.float32)
    for number, (name, frames_of_one) in enumerate(composites.items()):
        for t in range(frames):
            own = frames_of_one[t][read]
            constant, difference, around, apart = result[:, number, t]
            if t and scene[name][t] == scene[name][t - 1] and _same(own, frames_of_one[t - 1][read]):
                result[:, number, t] = result[:, number, t - 1]  # frames close together share their radar dates
                continue
            scene_value = np.float32(scene[name][t])
            constant[...] = scene_value
            medians.write(own, inner, difference)
            np.copyto(constant, np.nan, where=np.isnan(difference))
            difference -= scene_value
            means.write(own, mean)
            medians.write(mean, inner, around)
            np.subtract(own, mean, out=off)
            medians.write(off, inner, apart)
    return result.reshape(-1, *result.shape[2:])


def _same(one: F32, other: F32) -> bool:
    """Whether two planes are bit for bit the same."""
    return bool((one.view(np.int32) == other.view(np.int32)).all())
