"""A made-up scene of optical and radar images, as large as one likes, for `sar_scene.py`.

The world is one and the same whatever is made of it: a scene of a part of its area is its corner, and any tile can be
made alone. What a pixel shows follows from its place, the date and the seed; no frame is ever whole in memory.

Land is cut into patches of some 40 pixels (jittered Voronoi cells). Each has a cover, which on arable land changes
from year to year, and seasons of its own; the weather is smooth over the scene. NDVI and backscatter both follow from
leaves, biomass and the wetness of the soil, so that radar does tell something of NDVI, if not all. Clouds are the sum
of a coarse field of the whole frame and a fractal texture, cut off where the frame's cover wants it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from scipy import ndimage, special, stats

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Real = NDArray[np.floating[Any]]
I16 = NDArray[np.int16]

Made = tuple[NDArray[np.intp], I16, I16, float]
"""Of a tile: which of the sampled pixels lie in it, their truth, what is stored of them, and seconds of work."""

VERSION = 1
"""Scenes of another one are made anew."""

WORLD = (2750, 4671)
"""Rows and columns of the largest scene."""

CHUNK = (32, 256, 256)
"""Of both cubes; a tile of these rows and columns is what is made at a time."""

FILL = -32768
"""Stored where nothing is known."""

SAMPLED = 2000
"""Pixels whose truth is kept."""

EPOCH = np.datetime64("2019-01-01")
"""Day 0."""

PATCH = 40
"""Pixels between the middles of patches."""

NODE = 64
"""Pixels between the nodes of the coarse field that clouds are made of."""

TEXTURE = 1024
"""Period of the fractal texture, in pixels."""

REACH = 24
"""Pixels that a cloud's shadow may lie off."""

LOOKS = 4.5
"""Of the radar: speckle is gamma of this shape."""

NOISE = 0.012
"""Standard deviation of NDVI's noise."""

COVERS = ("winter cereal", "rapeseed", "maize", "beet", "grass", "forest", "water", "bare or built")
ARABLE = 4
GRASS, FOREST, WATER, BUILT = range(4, 8)

SEASONS = np.array(
    [  # NDVI out of season, gained in it, day of the rise, its days, day of the decline, its days
        [0.20, 0.62, 95, 14, 185, 7],
        [0.22, 0.58, 80, 11, 190, 7],
        [0.18, 0.65, 165, 9, 268, 6],
        [0.17, 0.64, 152, 10, 295, 8],
        [0.42, 0.36, 92, 14, 305, 18],
        [0.58, 0.27, 115, 8, 300, 10],
        [-0.12, 0.06, 130, 20, 270, 20],
        [0.14, 0.09, 110, 15, 290, 15],
    ]
)
RADAR = np.array(
    [  # VV and VH of bare soil in dB, of full biomass on top, of full leaf in VV, of wet soil in VV
        [-11.0, -20.0, 1.0, 4.5, -3.5, 4.0],
        [-11.0, -20.0, 2.0, 7.0, -1.5, 4.0],
        [-11.5, -20.5, 2.5, 6.5, -0.5, 4.0],
        [-11.5, -20.5, 3.0, 7.0, 0.0, 4.0],
        [-12.0, -19.0, 0.5, 2.5, -1.0, 3.0],
        [-9.5, -15.0, -0.4, 0.8, 0.0, 0.7],
        [-19.0, -27.0, 0.0, 0.0, 0.0, 0.0],
        [-6.5, -12.5, 0.3, 0.5, 0.0, 0.8],
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides what is in a scene."""

    shape: tuple[int, int] = WORLD
    """Rows and columns."""

    frames: int = 380
    """Optical dates."""

    images: int = 190
    """Radar dates."""

    seed: int = 7
    """Another one, another world."""

    version: int = VERSION
    """Of this module."""

    @property
    def name(self) -> str:
        """What its folder is called."""
        height, width = self.shape
        return f"scene-v{self.version}-seed{self.seed}-{height}x{width}-{self.frames}+{self.images}"

    @property
    def samples(self) -> tuple[int, int]:
        """Optical ones, and those of VV and VH together."""
        pixels = self.shape[0] * self.shape[1]
        return pixels * self.frames, 2 * pixels * self.images

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """First row and column of each tile."""
        return [(y, x) for y in range(0, self.shape[0], CHUNK[1]) for x in range(0, self.shape[1], CHUNK[2])]


def uniform(seed: int, what: int, *places: Any) -> F64:
    """Return numbers in (0, 1) that hang on nothing but the seed, what they are for and the places, broadcast.

    Source: the finaliser of splitmix64.

    >>> bool(uniform(1, 2, np.arange(3))[1] == uniform(1, 2, 1)[0])
    True
    """
    state = np.full(1, seed * 1009 + what, dtype=np.uint64)
    for place in (0, *places):
        state = state + np.asarray(place, dtype=np.int64).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state = state ^ (state >> np.uint64(31))
    return ((state >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52


def normal(seed: int, what: int, *places: Any) -> F64:
    """Return standard normal numbers, as `uniform` does."""
    return np.asarray(special.ndtri(uniform(seed, what, *places)))


def waves(seed: int, what: int, y: Real, x: Real, days: Real, *, pixels: tuple[float, float], period: float) -> F64:
    """Return (day, place), a smooth field of variance 1: twelve plane waves of such lengths, and of such a period.

    Worked out as a product of what hangs on the day and what hangs on the place.
    """
    number = np.arange(12)
    turn = 2 * np.pi * uniform(seed, what, 0, number)
    wave = 2 * np.pi / (pixels[0] * (pixels[1] / pixels[0]) ** uniform(seed, what, 1, number))
    place = (
        np.outer(y, wave * np.sin(turn)) + np.outer(x, wave * np.cos(turn)) + 2 * np.pi * uniform(seed, what, 2, number)
    )
    day = np.outer(days, 2 * np.pi / period * (0.6 + uniform(seed, what, 3, number)))
    return np.asarray(np.sqrt(2 / 12) * (np.cos(day) @ np.cos(place).T - np.sin(day) @ np.sin(place).T))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """What all tiles share."""

    days: NDArray[np.int64]
    """(frame,), optical dates."""

    image_days: NDArray[np.int64]
    """(image,), radar dates."""

    clouds: F32
    """(frame, node, node), the coarse field; the node before the first row and column comes first."""

    ragged: F32
    """(frame,), how much of the texture is added to it."""

    threshold: F32
    """(frame,), clouds are where the sum is above."""

    hazy: NDArray[np.bool_]
    """(frame,), whether clouds have veils around them that nobody noticed."""

    shadow: NDArray[np.int64]
    """(frame, 2), rows and columns from a shadow to its cloud."""

    texture: F32
    """Periodic fractal of variance 1, repeated beyond its period as far as a tile may reach."""

    noise: F32
    """(65536,), quantiles of NDVI's noise in stored units."""

    speckle: F32
    """(65536,), quantiles of speckle in stored units."""


@lru_cache(maxsize=4)
def world_of(seed: int, frames: int, images: int) -> World:
    """Return the world of a seed."""
    # Two satellites, each every five days, of whose dates about four in seven are there.
    every = np.arange(int(1.73 * frames) + 2)
    passes = 5 * (every // 2) + 2 * (every % 2) + 4
    days = np.sort(passes[np.argsort(uniform(seed, 1, every))[:frames]])
    # Every six days, then every twelve, as far as the optical dates go.
    longer = int(np.clip((days[-1] - 6 * images) // 6 + 1, 0, images))
    image_days = np.cumsum(np.where(np.arange(images) < images - longer, 6, 12)) - 4
    frame = np.arange(frames)
    # Small numbers and large ones: few dates are half cloudy. Winters are grey, and weather lasts for weeks.
    number = np.arange(40)
    turning = 2 * np.pi * (days[:, None] / (25.0 * 6.0 ** uniform(seed, 10, number)) + uniform(seed, 11, number))
    grey = 0.55 * np.sqrt(2) * np.cos(2 * np.pi * (days - 5) / 365.25)
    grey += 0.65 * np.sqrt(2 / 40) * np.cos(turning).sum(axis=1) + 0.52 * normal(seed, 2, frame)
    share = special.ndtr(grey)
    # Next to whole covers have holes somewhere; the greyest 3 % of the frames have none.
    cover = np.where(share > 0.97, 1.0, np.minimum(special.betaincinv(0.45, 0.42, share), 0.985))
    ragged = 0.25 + 0.3 * uniform(seed, 4, frame)
    texture = _texture(seed)
    nodes = [n // NODE + 8 for n in WORLD]
    clouds = np.empty((frames, *nodes), dtype=np.float32)
    threshold = np.empty(frames)
    for t in range(frames):
        white = normal(seed, 5, t, np.arange(nodes[0])[:, None], np.arange(nodes[1])[None])
        stretch = 2.0 ** (2 * uniform(seed, 6, t)[0] - 1)
        field = np.zeros(nodes)
        for size in (0.8, 2.0, 5.0):
            field += size * ndimage.gaussian_filter(white, (size * stretch, size / stretch), mode="wrap")
        clouds[t] = (field - field.mean()) / field.std()
        there = ndimage.convolve1d(ndimage.convolve1d(clouds[t], [1 / 6, 4 / 6, 1 / 6], 0), [1 / 6, 4 / 6, 1 / 6], 1)
        spots = (uniform(seed, 7, t, np.arange(2 * there.size)) * TEXTURE).astype(int).reshape(2, *there.shape)
        threshold[t] = np.quantile(there + ragged[t] * texture[spots[0], spots[1]], 1 - cover[t])
    threshold[cover == 1] = -np.inf
    threshold[cover < 0.01] = np.inf
    height = 6 + (REACH - 7) * uniform(seed, 8, frame)
    middle = (np.arange(65536) + 0.5) / 65536
    return World(
        days=days,
        image_days=image_days,
        clouds=clouds,
        ragged=ragged.astype(np.float32),
        threshold=threshold.astype(np.float32),
        hazy=uniform(seed, 9, frame) < 0.4,
        shadow=np.stack([height, 0.5 * height], axis=1).astype(np.int64),
        texture=texture,
        noise=(1e4 * NOISE * special.ndtri(middle)).astype(np.float32),
        speckle=(1000 * np.log10(stats.gamma.ppf(middle, LOOKS) / LOOKS)).astype(np.float32),
    )


def _texture(seed: int) -> F32:
    """Return a periodic fractal without structures longer than some 300 pixels."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    along, across = np.fft.fftfreq(TEXTURE)[:, None], np.fft.rfftfreq(TEXTURE)[None]
    frequency = np.hypot(along, across)
    amplitude = np.where(frequency > 0, 1 / np.maximum(frequency, 1 / 300) ** 1.7, 0.0)
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(TEXTURE, TEXTURE))) * amplitude)
    field /= field.std()
    reach = CHUNK[1] + REACH
    return np.pad(field, ((0, reach), (0, reach)), mode="wrap").astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Land:
    """What the patches of a tile look like on every date."""

    patch: NDArray[np.intp]
    """(y, x), which patch a pixel belongs to."""

    ndvi: F32
    """(frame, patch), in stored units."""

    vv: F32
    """(image, patch), in stored units."""

    vh: F32
    """(image, patch), likewise."""


def land_of(world: World, seed: int, y0: int, x0: int, height: int, width: int) -> Land:
    """Return the land of a tile."""
    cells, patch = _patches(seed, y0, x0, height, width)
    row, column = cells
    y, x = PATCH * (row + 0.5), PATCH * (column + 0.5)
    days = np.concatenate([world.days, world.image_days]).astype(np.float64)
    still = np.zeros(1)
    woods = waves(seed, 20, y, x, still, pixels=(220, 900), period=1)[0] + 0.4 * normal(seed, 21, row, column)
    lakes = waves(seed, 22, y, x, still, pixels=(250, 900), period=1)[0]
    use = uniform(seed, 23, row, column)
    fixed = np.select([lakes > 1.75, woods > 1.1, use < 0.04, use < 0.22], [WATER, FOREST, BUILT, GRASS], -1)
    soil = np.where(fixed < 0, 0.16 + 0.07 * uniform(seed, 24, row, column), SEASONS[fixed, 0])
    soil = soil + 0.02 * normal(seed, 25, row, column)
    wet = _wetness(seed, days, y, x)
    shape = (days.size, row.size)
    green, leaf, biomass_vv, biomass_vh, rough = (np.zeros(shape) for _ in range(5))
    wettable = np.where(fixed < 0, RADAR[0, 5], RADAR[fixed, 5])
    start = EPOCH.astype("datetime64[Y]")
    for number in range(-1, int(days.max() // 365) + 1):
        first = float(((start + number).astype("datetime64[D]") - EPOCH).astype(int))
        kind = (np.digitize(uniform(seed, 26, row, column, number), [0.45, 0.6, 0.85])).astype(int)
        kind = np.where(fixed < 0, kind, fixed)
        _, gain, up, up_days, down, down_days = SEASONS[kind].T
        climate = waves(seed, 27, y, x, np.array([first]), pixels=(2500, 9000), period=700)[0]
        size = 1 + 0.1 * normal(seed, 28, row, column, number) + 0.08 * normal(seed, 29, number, kind) + 0.1 * climate
        up = up + first + 6 * normal(seed, 30, number) + 6 * normal(seed, 31, row, column, number)
        down = down + first + 5 * normal(seed, 32, number) + 4 * normal(seed, 33, row, column, number) + 3 * climate
        grown = size * (
            special.expit((days[:, None] - up) / up_days) - special.expit((days[:, None] - down) / down_days)
        )
        # Weight comes after leaf and stays until the harvest, which takes it within days.
        weight = size * (
            special.expit((days[:, None] - up - 14) / (1.3 * up_days)) - special.expit((days[:, None] - down - 9) / 1.5)
        )
        catch = (uniform(seed, 34, row, column, number) < 0.35) & (kind < 2)
        after = np.where(catch, 0.35, 0.0) * (
            special.expit((days[:, None] - first - 262) / 8) - special.expit((days[:, None] - first - 345) / 6)
        )
        green += gain * grown + after
        leaf += grown + after
        biomass_vv += RADAR[kind, 2] * weight + RADAR[kind, 4] * grown + after
        biomass_vh += RADAR[kind, 3] * weight + 4 * after
        # Tillage after the harvest leaves another roughness.
        ploughed = np.where(kind < ARABLE, 0.9 * normal(seed, 35, row, column, number), 0.0)
        rough += ploughed * (
            special.expit((days[:, None] - down - 25) / 2) - special.expit((days[:, None] - down - 390) / 2)
        )
    mown = np.mod(days[:, None] - 40 * uniform(seed, 36, row, column), 44)
    green -= np.where(fixed == GRASS, 0.22, 0.0) * np.exp(-mown / 12) * np.clip(leaf, 0, 1)
    weather = waves(seed, 37, y, x, days, pixels=(2500, 9000), period=50)
    green += soil + 0.035 * weather * np.clip(leaf, 0, 1) - 0.03 * wet * (1 - np.clip(leaf, 0, 1)) * (wettable > 2)
    bare = 1 - 0.6 * np.clip(leaf, 0, 1)
    level = np.where(fixed < 0, RADAR[2, 0], RADAR[fixed, 0]) + 0.7 * normal(seed, 38, row, column)
    cross = np.where(fixed < 0, RADAR[2, 1], RADAR[fixed, 1]) + 0.7 * normal(seed, 39, row, column)
    vv = level + biomass_vv + rough + wettable * (wet - 0.4) * bare
    vh = cross + biomass_vh + 0.6 * rough + 0.35 * wettable * (wet - 0.4) * bare
    optical, radar = slice(world.days.size), slice(world.days.size, None)
    image = np.arange(world.image_days.size)
    # Two orbits in turn: the nearer one is brighter, each darker towards its far side; wind roughens water.
    orbit = np.where(image % 2 == 0, 0.3, -0.3)[:, None] - np.where(image % 2 == 0, 1.0, -1.0)[:, None] * (
        x / WORLD[1] - 0.5
    )
    wind = np.where(fixed == WATER, 1.8, 0.0) * normal(seed, 40, image)[:, None]
    air = 0.008 * normal(seed, 41, np.arange(world.days.size))[:, None]
    return Land(
        patch=patch,
        ndvi=(1e4 * (green[optical] + air)).astype(np.float32),
        vv=(100 * (vv[radar] + orbit + wind)).astype(np.float32),
        vh=(100 * (vh[radar] + orbit + 0.6 * wind)).astype(np.float32),
    )


def _wetness(seed: int, days: Real, y: Real, x: Real) -> F64:
    """Return (day, place) from 0 to 1: showers every few days, each somewhere more than elsewhere, that dry up."""
    shower = np.arange(int(days.max() / 5.5) + 1)
    when = 5.5 * (shower + uniform(seed, 50, shower))
    since = days[:, None] - when
    left = np.where(since >= 0, np.exp(-np.maximum(since, 0) / 6), 0.0)
    much = 0.5 * special.gammaincinv(1.0, uniform(seed, 51, shower))[:, None]
    where = np.clip(1 + 0.7 * waves(seed, 52, y, x, 1e3 * shower, pixels=(1500, 6000), period=400), 0, None)
    return 1 - np.exp(-1.2 * (left @ (much * where)))


def _patches(
    seed: int, y0: int, x0: int, height: int, width: int
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.intp]]:
    """Return row and column of each patch's cell, and (y, x) which of them a pixel belongs to."""
    y, x = np.arange(y0, y0 + height), np.arange(x0, x0 + width)
    rows = np.arange(y[0] // PATCH - 1, y[-1] // PATCH + 2)
    columns = np.arange(x[0] // PATCH - 1, x[-1] // PATCH + 2)
    lattice = rows[:, None], columns[None]
    middle_y = PATCH * (lattice[0] + 0.05 + 0.9 * uniform(seed, 60, *lattice))
    middle_x = PATCH * (lattice[1] + 0.05 + 0.9 * uniform(seed, 61, *lattice))
    nearest = np.full((height, width), np.inf)
    code = np.zeros((height, width), dtype=np.int64)
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            i, j = (y // PATCH - rows[0] - 1 + dy)[:, None], (x // PATCH - columns[0] - 1 + dx)[None]
            distance = (y[:, None] - middle_y[i, j]) ** 2 + (x[None] - middle_x[i, j]) ** 2
            closer = distance < nearest
            nearest[closer] = distance[closer]
            code[closer] = (i * columns.size + j)[closer]
    found, patch = np.unique(code, return_inverse=True)
    return (rows[found // columns.size], columns[found % columns.size]), patch.reshape(height, width).astype(np.intp)


class Tile:
    """One tile of the scene; `optical` and `radar` give its samples a few dates at a time."""

    def __init__(self, recipe: Recipe, y0: int, x0: int) -> None:
        self.recipe, self.y0, self.x0 = recipe, y0, x0
        self.world = world_of(recipe.seed, recipe.frames, recipe.images)
        # Made whole even at the scene's edge: then random numbers don't hang on the scene's shape.
        self.land = land_of(self.world, recipe.seed, y0, x0, *CHUNK[1:])
        self.inside = tuple(
            slice(min(n, end - at)) for n, end, at in zip(CHUNK[1:], recipe.shape, (y0, x0), strict=True)
        )
        self.grain = self._texture(0, 0, 0)
        self._splines = [_splines(at, n + REACH) for at, n in zip((y0, x0), CHUNK[1:], strict=True)]

    def _texture(self, dy: int, dx: int, reach: int) -> F32:
        """Return the texture, moved, on the tile and `reach` pixels beyond its end."""
        y, x = (self.y0 + dy) % TEXTURE, (self.x0 + dx) % TEXTURE
        return self.world.texture[y : y + CHUNK[1] + reach, x : x + CHUNK[2] + reach]

    def _random(self, kind: int, number: int) -> NDArray[np.uint16]:
        """Return (y, x) random numbers of one layer of one date, which no other layer has."""
        place = (self.y0 // CHUNK[1] << 24) | self.x0 // CHUNK[2]
        key = np.array([self.recipe.seed << 8 | kind, place << 16 | number], dtype=np.uint64)
        raw = np.random.Philox(key=key).random_raw(CHUNK[1] * CHUNK[2] // 4)
        return raw.view(np.uint16).reshape(CHUNK[1:])

    def optical(self, pixels: tuple[NDArray[np.intp], NDArray[np.intp]]) -> Iterator[tuple[slice, I16, I16]]:
        """Give frames, their (frame, y, x) samples, and what without clouds would be in some pixels, (frame, pixel)."""
        gain = 1 + 0.06 * self.grain
        level = 120 * self._texture(311, 97, 0)
        clear = np.empty(CHUNK[1:], dtype=np.float32)
        noise = np.empty(CHUNK[1:], dtype=np.float32)
        for first in range(0, self.recipe.frames, CHUNK[0]):
            frames = slice(first, min(first + CHUNK[0], self.recipe.frames))
            made = np.empty((frames.stop - first, *CHUNK[1:]), dtype=np.int16)
            truth = np.empty((frames.stop - first, pixels[0].size), dtype=np.int16)
            for number, t in enumerate(range(first, frames.stop)):
                self.land.ndvi[t].take(self.land.patch, out=clear, mode="clip")
                clear *= gain
                clear += level
                self.world.noise.take(self._random(0, t), out=noise, mode="clip")
                clear += noise
                np.clip(clear, -9990, 9990, out=clear)
                truth[number] = clear[pixels].astype(np.int16)
                gap, veil = self._clouds(t)
                if veil is not None:
                    clear -= veil
                made[number] = clear
                made[number][gap] = FILL
            yield frames, made[:, *self.inside], truth

    def _clouds(self, t: int) -> tuple[NDArray[np.bool_], F32 | None]:
        """Return (y, x) gaps of a frame, and what veils take from NDVI."""
        threshold = self.world.threshold[t]
        if np.isinf(threshold):
            return np.full(CHUNK[1:], threshold < 0), None
        (rows, down), (columns, across) = self._splines
        field = down @ self.world.clouds[t, rows, columns] @ across.T
        moved = (uniform(self.recipe.seed, 70, t, np.arange(2)) * TEXTURE).astype(int)
        field += self.world.ragged[t] * self._texture(int(moved[0]), int(moved[1]), REACH)
        cloud = field > threshold
        dy, dx = self.world.shadow[t]
        height, width = CHUNK[1:]
        gap = cloud[:height, :width] | cloud[dy : dy + height, dx : dx + width]
        if not self.world.hazy[t]:
            return gap, None
        veil = field[:height, :width] - (threshold - np.float32(0.15))
        np.clip(veil, 0, 0.15, out=veil)
        veil *= 9000.0
        return gap, veil

    def radar(self) -> Iterator[tuple[slice, I16, I16]]:
        """Give images, and their (image, y, x) samples of VV and VH."""
        grain = {"vv": 35 * self._texture(511, 733, 0), "vh": 50 * self.grain}
        back = np.empty(CHUNK[1:], dtype=np.float32)
        speckle = np.empty(CHUNK[1:], dtype=np.float32)
        for first in range(0, self.recipe.images, CHUNK[0]):
            images = slice(first, min(first + CHUNK[0], self.recipe.images))
            made = np.empty((2, images.stop - first, *CHUNK[1:]), dtype=np.int16)
            for number, t in enumerate(range(first, images.stop)):
                missing, edge = self._swath(t)
                for kind, (name, table) in enumerate((("vv", self.land.vv), ("vh", self.land.vh))):
                    table[t].take(self.land.patch, out=back, mode="clip")
                    back += grain[name]
                    self.world.speckle.take(self._random(1 + kind, t), out=speckle, mode="clip")
                    back += speckle
                    if edge is not None:
                        back[edge] = -4300 + speckle[edge]
                        np.minimum(back, -4005, out=back, where=edge)
                    made[kind, number] = back
                    if missing is not None:
                        made[kind, number][missing] = FILL
            yield images, made[0][:, *self.inside], made[1][:, *self.inside]

    def _swath(self, t: int) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]:
        """Return (y, x) where an image doesn't reach, and where it is noise at its edge."""
        chance, where, side, noisy, wide = uniform(self.recipe.seed, 80, t, np.arange(5))
        if chance > 0.12:
            return None, None
        y, x = (np.arange(at, at + n) for at, n in zip((self.y0, self.x0), CHUNK[1:], strict=True))
        # The line leans, and takes up to two fifths of the world from either side.
        line = 0.4 * where if side < 0.5 else 1 - 0.4 * where
        off = x[None] + 0.2 * y[:, None] - line * (WORLD[1] + 0.2 * WORLD[0])
        off = off if side < 0.5 else -off
        return off < 0, (off >= 0) & (off < 12 + 30 * wide) if noisy < 0.5 else None


def _splines(first: int, count: int) -> tuple[slice, F32]:
    """Return which nodes pixels lean on, and (pixel, node) weights of cubic B-splines."""
    place = np.arange(first, first + count) / NODE
    base = int(place[0])
    nodes = int(place[-1]) - base + 4
    off = np.abs(place[:, None] - base - (np.arange(nodes)[None] - 1))
    weights = np.where(off < 1, 2 / 3 - off**2 + off**3 / 2, np.clip(2 - off, 0, None) ** 3 / 6)
    return slice(base, base + nodes), weights.astype(np.float32)


def sampled_pixels(recipe: Recipe) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of the pixels whose truth is kept, spread over the scene."""
    height, width = recipe.shape
    count = min(SAMPLED, height * width)
    # The additive recurrence of the plastic number leaves no holes and needs no grid.
    number = np.arange(1, count + 1)
    y, x = (np.mod(0.5 + number * step, 1.0) for step in (0.7548776662466927, 0.5698402909980532))
    return (y * height).astype(np.intp), (x * width).astype(np.intp)


def make(folder: Path, recipe: Recipe, jobs: int) -> tuple[Path, float]:
    """Return where a scene is, made if it isn't there yet, and the seconds that took all processes together.

    `jobs` processes make tiles, or this one if there are to be none.
    `optical.zarr`, `s1.zarr`, `truth.npz` (rows, columns, days; (frame, pixel) truth and stored) and `scene.json`. All
    has another name until it is complete.
    """
    place = folder / recipe.name
    if place.exists():
        return place, 0.0
    unfinished = folder / f"{recipe.name}.partial"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _create_cubes(unfinished, recipe)
    rows, columns = sampled_pixels(recipe)
    truth, stored = (np.empty((recipe.frames, rows.size), dtype=np.int16) for _ in range(2))
    days = world_of(recipe.seed, recipe.frames, recipe.images).days
    spent = 0.0
    work = [(str(unfinished), recipe, tile) for tile in recipe.tiles]
    with ExitStack() as stack:
        made: Iterable[Made] = map(_make_tile, work)
        if jobs:
            stack.enter_context(_one_thread())
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(min(jobs, len(work))))
            made = pool.imap_unordered(_make_tile, work)
        for chosen, clear, seen, seconds in made:
            truth[:, chosen], stored[:, chosen] = clear, seen
            spent += seconds
    np.savez(unfinished / "truth.npz", rows=rows, columns=columns, days=days, truth=truth, stored=stored)
    (unfinished / "scene.json").write_text(json.dumps(asdict(recipe)))
    unfinished.rename(place)
    return place, spent


def sketch(folder: Path, recipe: Recipe) -> None:
    """Write cubes of a scene's shape of which only a few tiles are there: enough to plan with."""
    _create_cubes(folder, recipe)
    height, width = recipe.shape
    tiles = {(y // CHUNK[1] * CHUNK[1], x // CHUNK[2] * CHUNK[2]) for y in _spread(height) for x in _spread(width)}
    with _one_thread(), multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.map(_make_tile, [(str(folder), recipe, tile) for tile in sorted(tiles)])


def _spread(extent: int) -> tuple[int, int, int]:
    return 0, extent // 2, extent - 1


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that are started meanwhile multiply with one thread each; small products gain nothing from more."""
    before = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OPENBLAS_NUM_THREADS"]
        if before is not None:
            os.environ["OPENBLAS_NUM_THREADS"] = before


def _make_tile(work: tuple[str, Recipe, tuple[int, int]]) -> Made:
    """Write a tile of both cubes."""
    folder, recipe, (y0, x0) = work
    zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1})
    started = time.process_time()
    tile = Tile(recipe, y0, x0)
    box = tuple(slice(at, min(at + n, end)) for at, n, end in zip((y0, x0), CHUNK[1:], recipe.shape, strict=True))
    rows, columns = sampled_pixels(recipe)
    chosen = np.flatnonzero((rows // CHUNK[1] == y0 // CHUNK[1]) & (columns // CHUNK[2] == x0 // CHUNK[2]))
    pixels = rows[chosen] - y0, columns[chosen] - x0
    truth, stored = [], []
    ndvi = zarr.open_group(f"{folder}/optical.zarr", mode="r+")["ndvi"]
    assert isinstance(ndvi, zarr.Array)
    for frames, values, clear in tile.optical(pixels):
        ndvi[frames, *box] = values
        truth.append(clear)
        stored.append(values[:, *pixels])
    radar = zarr.open_group(f"{folder}/s1.zarr", mode="r+")
    vv, vh = radar["VV"], radar["VH"]
    assert isinstance(vv, zarr.Array)
    assert isinstance(vh, zarr.Array)
    for images, of_vv, of_vh in tile.radar():
        vv[images, *box] = of_vv
        vh[images, *box] = of_vh
    return chosen, np.concatenate(truth), np.concatenate(stored), time.process_time() - started


def _create_cubes(folder: Path, recipe: Recipe) -> None:
    """Create both cubes, empty."""
    world = world_of(recipe.seed, recipe.frames, recipe.images)
    _create(folder / "optical.zarr", recipe, world.days, {"ndvi": (1e-4, "1")})
    _create(folder / "s1.zarr", recipe, world.image_days, {"VV": (0.01, "dB"), "VH": (0.01, "dB")})


def _create(path: Path, recipe: Recipe, days: NDArray[np.int64], variables: dict[str, tuple[float, str]]) -> None:
    """Create a cube, empty, in UTM at 10 m."""
    from pyproj import CRS

    group = zarr.open_group(str(path), mode="w", zarr_format=3, attributes={"Conventions": "CF-1.11"})
    crs = CRS.from_epsg(32631)
    parameters = {key: value for key, value in crs.to_cf().items() if isinstance(value, str | int | float)}
    group.create_array("spatial_ref", shape=(), dtype="int64", attributes={**parameters, "crs_wkt": crs.to_wkt()})
    height, width = recipe.shape
    axes: tuple[tuple[str, NDArray[Any], dict[str, Any]], ...] = (
        ("time", days, {"units": f"days since {EPOCH}", "calendar": "proleptic_gregorian", "standard_name": "time"}),
        ("y", 5_600_000.0 - 5 - 10 * np.arange(height), {"units": "m", "standard_name": "projection_y_coordinate"}),
        ("x", 600_000.0 + 5 + 10 * np.arange(width), {"units": "m", "standard_name": "projection_x_coordinate"}),
    )
    for name, axis, attributes in axes:
        array = group.create_array(
            name, shape=axis.shape, chunks=axis.shape, dtype=axis.dtype, dimension_names=(name,), attributes=attributes
        )
        array[...] = axis
    for name, (scale, units) in variables.items():
        group.create_array(
            name,
            shape=(days.size, height, width),
            chunks=tuple(min(n, extent) for n, extent in zip(CHUNK, (days.size, height, width), strict=True)),
            dtype="int16",
            fill_value=FILL,
            dimension_names=("time", "y", "x"),
            attributes={"_FillValue": FILL, "scale_factor": scale, "units": units, "grid_mapping": "spatial_ref"},
        )
