"""A made-up farming landscape: parcels, hedges, woods, a river, a lake, a town, and how green each is on any day.

The layout is fixed by the seed; `Landscape.greenness` then gives NDVI for a day of the year, so that neighbouring
parcels differ in level and in timing, as they do for a sensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial

from stpipe.core.noise import fractal, smooth

Field = NDArray[np.float64]


class Cover(IntEnum):
    """What grows or stands on a pixel."""

    WINTER_CEREAL = 0
    RAPESEED = 1
    MAIZE = 2
    BEET = 3
    SPRING_CEREAL = 4
    GRASS = 5
    ORCHARD = 6
    BROADLEAF = 7
    CONIFER = 8
    ROAD = 9
    TOWN = 10
    RIVER = 11
    LAKE = 12


@dataclass(frozen=True, slots=True)
class Season:
    """A double logistic year: green-up, then maturity, harvest or leaf fall."""

    base: float
    """NDVI out of season."""

    peak: float
    """NDVI in full leaf."""

    up: float
    """Day of the year when half of the green-up is done."""

    up_days: float
    """How long the green-up takes; the logistic's scale."""

    down: float
    """Day of the year when half of the green is gone."""

    down_days: float
    """How long that takes."""

    spread_days: float
    """How much dates differ from parcel to parcel (standard deviation)."""


SEASONS: dict[Cover, Season] = {
    Cover.WINTER_CEREAL: Season(0.24, 0.86, 88.0, 13.0, 182.0, 6.0, 5.0),
    Cover.RAPESEED: Season(0.28, 0.84, 74.0, 10.0, 184.0, 6.0, 5.0),
    Cover.MAIZE: Season(0.17, 0.86, 164.0, 8.0, 266.0, 6.0, 7.0),
    Cover.BEET: Season(0.16, 0.83, 152.0, 9.0, 298.0, 7.0, 8.0),
    Cover.SPRING_CEREAL: Season(0.18, 0.80, 126.0, 8.0, 206.0, 6.0, 6.0),
    Cover.GRASS: Season(0.48, 0.80, 92.0, 12.0, 305.0, 18.0, 5.0),
    Cover.ORCHARD: Season(0.34, 0.62, 112.0, 12.0, 296.0, 12.0, 5.0),
    Cover.BROADLEAF: Season(0.42, 0.88, 116.0, 6.0, 300.0, 8.0, 3.0),
    Cover.CONIFER: Season(0.66, 0.76, 110.0, 25.0, 300.0, 25.0, 3.0),
    Cover.ROAD: Season(0.16, 0.22, 110.0, 15.0, 290.0, 15.0, 3.0),
    Cover.TOWN: Season(0.17, 0.30, 108.0, 12.0, 296.0, 12.0, 3.0),
    Cover.RIVER: Season(-0.08, 0.02, 130.0, 20.0, 280.0, 20.0, 3.0),
    Cover.LAKE: Season(-0.18, -0.12, 150.0, 20.0, 270.0, 20.0, 1.0),
}

CROP_SHARES = {
    Cover.WINTER_CEREAL: 0.33,
    Cover.MAIZE: 0.19,
    Cover.GRASS: 0.19,
    Cover.RAPESEED: 0.10,
    Cover.BEET: 0.08,
    Cover.SPRING_CEREAL: 0.08,
    Cover.ORCHARD: 0.03,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """What is where, and the numbers that make a pixel's year; every array is (y, x)."""

    cover: NDArray[np.uint8]
    """`Cover` of each pixel."""

    parcel: NDArray[np.int64]
    """Number of the parcel each pixel belongs to."""

    base: Field
    """NDVI out of season."""

    height: Field
    """NDVI gained in full season."""

    up: Field
    """Day of the green-up."""

    down: Field
    """Day of the decline."""

    up_days: Field
    """Scale of the green-up."""

    down_days: Field
    """Scale of the decline."""

    first_cut: Field
    """Day of the first mowing; NaN where nothing is mown."""

    cut_every: Field
    """Days between mowings."""

    regrowth: Field
    """NDVI of the catch crop or volunteers that follow the harvest."""

    patchiness: Field
    """Soil and canopy texture, in NDVI at full season."""

    @property
    def land(self) -> NDArray[np.bool_]:
        """True outside the lake."""
        land: NDArray[np.bool_] = self.cover != Cover.LAKE
        return land

    def greenness(self, day: float) -> Field:
        """Return NDVI for a day of the year, counted from 1 and not wrapped at its end."""
        rise = _logistic((day - self.up) / self.up_days)
        fall = _logistic((day - self.down) / self.down_days)
        leaf = np.maximum(rise - fall, 0.0)
        green = self.base + self.height * leaf + self.patchiness * (0.25 + 0.75 * leaf)
        # Rapeseed in flower is yellow, not green.
        flower = np.exp(-0.5 * ((day - self.up - 49.0) / 7.0) ** 2)
        green -= np.where(self.cover == Cover.RAPESEED, 0.17, 0.0) * flower
        green += self.regrowth * _logistic((day - self.down - 38.0) / 9.0)
        since_cut = np.where(day >= self.first_cut, np.mod(day - self.first_cut, self.cut_every), np.inf)
        green -= 0.30 * np.exp(-since_cut / 11.0) * np.minimum(1.0, since_cut + 1.0)
        return np.clip(green, -0.25, 0.95)


def _logistic(x: Field) -> Field:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0)))


def make_landscape(
    rng: np.random.Generator, shape: tuple[int, int], *, parcel_px: float, lake_share: float
) -> Landscape:
    """Lay out a landscape.

    Parameters
    ----------
    rng : Generator
        Where the randomness comes from.
    shape : (height, width)
        In pixels.
    parcel_px : float
        Typical width of a parcel, in pixels.
    lake_share : float
        Share of the scene under the lake.
    """
    # Wider than the scene looks no different, and costs a margin of that width.
    parcel, edge, road = _parcels(rng, shape, min(parcel_px, min(shape) / 2))
    crops = _crops(rng, parcel)
    cover = _cover(rng, crops, edge, road, lake_share)
    return _phenology(rng, cover, parcel)


def _parcels(
    rng: np.random.Generator, shape: tuple[int, int], parcel_px: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return parcel numbers, hedges between them, and roads between their blocks.

    Land is cut into cells by roads; each cell has its own direction and width of strips, as land consolidation
    leaves it.
    """
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    bend = 0.35 * parcel_px
    y += bend * smooth(rng, shape, 4 * parcel_px)
    x += bend * smooth(rng, shape, 4 * parcel_px)

    cell_px = 5.5 * parcel_px
    count = max(4, int(height * width / cell_px**2))
    margin = cell_px
    seeds = rng.uniform((-margin, -margin), (height + margin, width + margin), (int(count * 1.8) + 4, 2))
    found = spatial.cKDTree(seeds).query(np.stack([y, x], axis=-1), k=2)
    distance, nearest = np.asarray(found[0]), np.asarray(found[1])
    cell = nearest[..., 0].astype(np.int64)
    # Half the difference of the two distances is close to the distance from the border between the cells.
    road = (distance[..., 1] - distance[..., 0]) < 0.9

    cells = len(seeds)
    angle = rng.uniform(0.0, np.pi, cells)
    strip = parcel_px * rng.lognormal(0.0, 0.32, cells)
    length = strip * rng.uniform(1.6, 4.5, cells)
    dy, dx = y - seeds[cell, 0], x - seeds[cell, 1]
    u = np.cos(angle)[cell] * dx + np.sin(angle)[cell] * dy
    v = -np.sin(angle)[cell] * dx + np.cos(angle)[cell] * dy
    along = v / length[cell] + rng.uniform(0.0, 1.0, cells)[cell]
    row = np.floor(along).astype(np.int64)
    # A monotone wobble makes widths differ from strip to strip; its phase differs from row to row.
    phase = rng.uniform(0.0, 2 * np.pi, (cells, 64))[cell, row % 64]
    turns = u / strip[cell]
    across = turns + 0.42 * np.sin(1.9 * turns + phase) / 1.9 + phase
    column = np.floor(across).astype(np.int64)
    label = (cell * 512 + (row + 128)) * 1024 + (column + 512)
    parcel = np.unique(label, return_inverse=True)[1].reshape(shape).astype(np.int64)

    borders = np.zeros(shape, dtype=bool)
    borders[:, 1:] |= parcel[:, 1:] != parcel[:, :-1]
    borders[1:, :] |= parcel[1:, :] != parcel[:-1, :]
    hedged = rng.random(cells) < 0.3
    return parcel, borders & hedged[cell], road


def _crops(rng: np.random.Generator, parcel: NDArray[np.int64]) -> NDArray[np.uint8]:
    kinds = np.array([int(kind) for kind in CROP_SHARES], dtype=np.uint8)
    shares = np.array(list(CROP_SHARES.values()))
    drawn: NDArray[np.uint8] = rng.choice(kinds, size=int(parcel.max()) + 1, p=shares / shares.sum())
    return drawn[parcel]


def _cover(
    rng: np.random.Generator,
    crops: NDArray[np.uint8],
    hedge: NDArray[np.bool_],
    road: NDArray[np.bool_],
    lake_share: float,
) -> NDArray[np.uint8]:
    shape = crops.shape
    height, width = shape
    cover = crops.copy()
    cover[hedge] = Cover.BROADLEAF

    lake = _lake(rng, (height, width), lake_share)
    course = _river_course(rng, (height, width))
    channel = np.ones(shape, dtype=bool)
    inside = (course[:, 0] >= 0) & (course[:, 0] < height) & (course[:, 1] >= 0) & (course[:, 1] < width)
    cells = course[inside].astype(np.int64)
    channel[cells[:, 0], cells[:, 1]] = False
    from_river = ndimage.distance_transform_edt(channel) if len(cells) else np.full(shape, np.inf)
    bank = from_river + 2.5 * smooth(rng, (height, width), 9.0)
    cover[bank < 9.0] = Cover.GRASS
    cover[(bank < 5.0) & (smooth(rng, (height, width), 6.0) > -0.2)] = Cover.BROADLEAF

    woods = fractal(rng, (height, width), slope=2.1, longest=0.45 * width)
    forest = (woods > np.quantile(woods, 0.87)) & (bank > 7.0)
    conifer = smooth(rng, (height, width), 22.0) > 0.25
    cover[forest] = np.where(conifer[forest], Cover.CONIFER, Cover.BROADLEAF)
    cover[road & ~forest] = Cover.ROAD

    town = _towns(rng, (height, width), forest | lake | (from_river < 7.0))
    cover[town] = Cover.TOWN
    cover[from_river < 1.9] = Cover.RIVER
    cover[lake] = Cover.LAKE
    return cover


def _lake(rng: np.random.Generator, shape: tuple[int, int], share: float) -> NDArray[np.bool_]:
    height, width = shape
    if share <= 0:
        return np.zeros(shape, dtype=bool)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    centre_y, centre_x, tilt = 0.64 * height, 0.83 * width, 0.5
    u = np.cos(tilt) * (x - centre_x) + np.sin(tilt) * (y - centre_y)
    v = -np.sin(tilt) * (x - centre_x) + np.cos(tilt) * (y - centre_y)
    shore = np.hypot(u / 1.7, v) / np.sqrt(height * width)
    shore += 0.035 * fractal(rng, shape, slope=2.3, longest=0.3 * width)
    wet: NDArray[np.bool_] = shore < np.quantile(shore, share)
    parts, count = ndimage.label(wet)
    if count > 1:  # no archipelago of ponds
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        wet = parts == int(sizes.argmax())
    return wet


def _river_course(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Return points (y, x) of a meandering line from the upper left to the lower right.

    The direction swings sinusoidally along the course: Langbein and Leopold (1966), river meanders.
    """
    height, width = shape
    step = 0.25
    reach = np.hypot(height, width)
    s = np.arange(0.0, 2.6 * reach, step)
    wander = np.interp(s, np.linspace(0, s[-1], 24), rng.normal(0.0, 0.30, 24))
    swing = np.interp(s, np.linspace(0, s[-1], 16), rng.uniform(0.15, 1.35, 16))
    wavelength = np.interp(s, np.linspace(0, s[-1], 16), rng.uniform(0.07, 0.24, 16) * reach)
    heading = (
        np.arctan2(0.72 * height, 1.10 * width) + wander + swing * np.sin(np.cumsum(2 * np.pi * step / wavelength))
    )
    y = 0.04 * height + np.cumsum(np.sin(heading)) * step
    x = -0.08 * width + np.cumsum(np.cos(heading)) * step
    return np.stack([y, x], axis=-1)


def _towns(rng: np.random.Generator, shape: tuple[int, int], elsewhere: NDArray[np.bool_]) -> NDArray[np.bool_]:
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    size = np.sqrt(height * width)
    ragged = 0.35 * fractal(rng, shape, slope=1.6, longest=0.12 * size)
    built = np.zeros(shape, dtype=bool)
    places = [(0.30 * height, 0.63 * width, 0.088 * size)]
    places += [
        (rng.uniform(0.08, 0.92) * height, rng.uniform(0.08, 0.92) * width, rng.uniform(0.012, 0.026) * size)
        for _ in range(7)
    ]
    for at_y, at_x, radius in places:
        built |= np.hypot((y - at_y) * 1.2, x - at_x) / radius + ragged < 1.0
    return built & ~elsewhere


def _phenology(rng: np.random.Generator, cover: NDArray[np.uint8], parcel: NDArray[np.int64]) -> Landscape:
    shape = (cover.shape[0], cover.shape[1])
    kinds = [SEASONS[kind] for kind in Cover]
    table = {
        name: np.array([getattr(season, name) for season in kinds])[cover]
        for name in ("base", "peak", "up", "up_days", "down", "down_days", "spread_days")
    }
    farmed = cover <= Cover.ORCHARD
    parcels = int(parcel.max()) + 1

    def by_parcel(drawn: Field, elsewhere: float = 0.0) -> Field:
        return np.where(farmed, drawn[parcel], elsewhere)

    soil = 0.7 * smooth(rng, shape, 40.0) + 0.5 * fractal(rng, shape, slope=1.3, longest=60.0)
    late_px = 2.2 * soil
    early = rng.standard_normal(parcels)
    up = table["up"] + table["spread_days"] * by_parcel(early) + late_px
    down = table["down"] + table["spread_days"] * by_parcel(0.5 * early + rng.standard_normal(parcels)) + 0.6 * late_px
    vigour = by_parcel(rng.normal(0.0, 0.055, parcels))
    bare = by_parcel(rng.normal(0.0, 0.035, parcels))
    base = table["base"] + bare - 0.012 * soil

    grain = fractal(rng, shape, slope=0.9, longest=24.0)
    canopy = smooth(rng, shape, 1.1)
    # Houses and gardens differ from pixel to pixel, trees less so, a field of one sowing least.
    rough = np.select(
        [cover == Cover.TOWN, cover == Cover.ROAD, cover == Cover.BROADLEAF, cover == Cover.CONIFER, ~farmed],
        [0.075, 0.06, 0.030, 0.028, 0.012],
        default=0.016,
    )
    mown = cover == Cover.GRASS
    follows = np.isin(cover, [Cover.WINTER_CEREAL, Cover.RAPESEED, Cover.SPRING_CEREAL])
    catch = rng.uniform(0.02, 0.42, parcels) * (rng.random(parcels) < 0.6) + 0.05
    return Landscape(
        cover=cover,
        parcel=parcel,
        base=base,
        height=table["peak"] - table["base"] + vigour - bare - 0.022 * soil * farmed,
        up=up,
        down=np.maximum(down, up + 25.0),
        up_days=table["up_days"],
        down_days=table["down_days"],
        first_cut=np.where(mown, by_parcel(rng.normal(142.0, 12.0, parcels)), np.nan),
        cut_every=by_parcel(rng.uniform(36.0, 62.0, parcels), elsewhere=50.0),
        regrowth=np.where(follows, by_parcel(catch), 0.0),
        patchiness=rough * (0.8 * grain + 0.6 * canopy),
    )
