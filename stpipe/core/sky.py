"""What hides a made-up landscape from the sensor: clouds, their shadows, swath edges and dead lines."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.core.noise import fractal

Mask = NDArray[np.bool_]


class Sample(IntEnum):
    """Why a sample of the made-up scene is or isn't observed."""

    OBSERVED = 0
    CLOUD_EDGE = 1
    CLOUD_CORE = 2
    SWATH = 3
    LINES = 4
    WHOLE_FRAME = 5
    OUTSIDE_DOMAIN = 6


def clouds(rng: np.random.Generator, shape: tuple[int, int], share: float, *, wind: float) -> Mask:
    """Return True under cloud, for a share of the pixels.

    A little cloud comes as scattered cumulus, much of it as sheets drawn out along the wind.

    >>> float(clouds(np.random.default_rng(1), (64, 64), 0.25, wind=0.0).mean())
    0.25
    """
    if share <= 0.0:
        return np.zeros(shape, dtype=bool)
    if share >= 1.0:
        return np.ones(shape, dtype=bool)
    longest = max(shape) * float(np.interp(share, [0.0, 0.3, 1.0], [0.12, 0.45, 1.2]))
    stretch = float(rng.uniform(1.0, 1.3 + 1.5 * share))
    sheet = fractal(rng, shape, slope=1.9, longest=longest, stretch=stretch, angle=wind)
    towers = fractal(rng, shape, slope=1.7, longest=0.05 * max(shape))
    thickness = sheet + 0.28 * towers
    return thickness > np.quantile(thickness, 1.0 - share)


def shadows(cloud: Mask, *, offset: tuple[float, float], height_field: NDArray[np.float64]) -> Mask:
    """Return True in the shadow of a cloud and not under it.

    Parameters
    ----------
    cloud : (y, x) ndarray of bool
        True under cloud.
    offset : (dy, dx)
        Where the shadow of a cloud of the usual height falls, in pixels.
    height_field : (y, x) ndarray of float64
        Height of the cloud relative to the usual one, where the shadow falls.
    """
    y, x = np.mgrid[0 : cloud.shape[0], 0 : cloud.shape[1]].astype(np.float64)
    caster = [y - offset[0] * height_field, x - offset[1] * height_field]
    shade = ndimage.map_coordinates(cloud.astype(np.float32), caster, order=1, mode="nearest") > 0.5
    result: Mask = shade & ~cloud
    return result


def beyond_swath(shape: tuple[int, int], *, through: float, angle: float, right: bool) -> Mask:
    """Return True beyond a slanted line that crosses the middle row at a share of the width.

    >>> float(beyond_swath((10, 10), through=0.5, angle=0.0, right=True).mean())
    0.5
    """
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    side = (x + 0.5 - through * width) + np.tan(angle) * (y + 0.5 - height / 2)
    beyond: Mask = side > 0 if right else side < 0
    return beyond


def dead_lines(rng: np.random.Generator, shape: tuple[int, int], *, angle: float) -> Mask:
    """Return True on slanted lines without data, wider towards one side, as of a scanner that lost its corrector."""
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    across = y * np.cos(angle) + x * np.sin(angle)
    period = float(rng.uniform(19.0, 27.0))
    wedge = 1.2 + 4.6 * np.abs(x / width - float(rng.uniform(0.15, 0.45)))
    dead: Mask = np.mod(across + float(rng.uniform(0.0, period)), period) < wedge
    return dead
