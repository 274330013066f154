"""Synthetic scenes to train on, as varied as can be.

Each is a sum of parts drawn at random: fields of many spectra that stay, drift, fade or come anew with each frame;
parcels with seasons of their own; a front that passes; plumes in the wind; offsets of whole frames; noise, stripes and
outliers. Dates are regular or not, days or months apart; values may be skewed or bounded.
"""

from __future__ import annotations

import numpy as np
from data import Scene, scene_of
from numpy.typing import NDArray
from scipy import ndimage

F64 = NDArray[np.float64]

SIDE = 96
"""Length of a scene's rows and columns."""


def synthetic(rng: np.random.Generator, side: int = SIDE) -> Scene:
    """Return a scene without gaps."""
    days = _days(rng)
    parts = [_PARTS[name](rng, days, side) for name in rng.choice(list(_PARTS), int(rng.integers(2, 5)), replace=False)]
    shares = rng.dirichlet(np.ones(len(parts)))
    values = sum(share * part / (part.std() + 1e-9) for share, part in zip(shares, parts, strict=True))
    assert isinstance(values, np.ndarray)
    values = values / (values.std() + 1e-9)
    bend = rng.random()
    if bend < 0.15:
        values = np.exp(rng.uniform(0.3, 0.9) * values)
    elif bend < 0.3:
        values = np.tanh(rng.uniform(0.5, 1.5) * values)
    return scene_of("synthetic", values + values.std() * _noise(rng, values.shape), days)


def _days(rng: np.random.Generator) -> F64:
    kind = rng.random()
    count = 1 if kind < 0.08 else int(rng.integers(2, 11)) if kind < 0.3 else int(rng.integers(12, 61))
    step = float(rng.choice([1, 2, 5, 8, 10, 16, 30]))
    steps = np.full(count, step) if rng.random() < 0.5 else step * rng.integers(1, 5, count)
    return np.cumsum(steps).astype(np.float64)


def field(rng: np.random.Generator, count: int, side: int) -> F64:
    """Return independent random fields of one spectrum drawn at random, (count, side, side), of unit variance.

    A power law, or exponential or Gaussian covariance; stretched along some direction.
    """
    wide = 2 * side  # periodic: of which a quarter is used
    y, x = np.meshgrid(np.fft.fftfreq(wide), np.fft.fftfreq(wide), indexing="ij")
    angle, stretch = rng.uniform(0, np.pi), float(np.exp(rng.uniform(0, 1.0)))
    along, across = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
    k = np.hypot(along * stretch, across / stretch)
    length = float(np.exp(rng.uniform(np.log(2), np.log(60))))
    kind = rng.integers(3)
    if kind == 0:
        power = np.maximum(k, 1 / (4 * length)) ** -rng.uniform(2, 4.5)
    elif kind == 1:
        power = (1 + (2 * np.pi * k * length) ** 2) ** -1.5
    else:
        power = np.exp(-((2 * np.pi * k * min(length, 16)) ** 2) / 4)
    power[0, 0] = 0
    noise = np.fft.fft2(rng.standard_normal((count, wide, wide)))
    made = np.fft.ifft2(noise * np.sqrt(power)).real[:, :side, :side]
    return np.asarray(made / (made.std() + 1e-12))


def _fixed(rng: np.random.Generator, days: F64, side: int) -> F64:
    return np.broadcast_to(field(rng, 1, side), (days.size, side, side))


def _weather(rng: np.random.Generator, days: F64, side: int) -> F64:
    """Fields that remember the last frame for a while, and may drift with the wind."""
    fresh = field(rng, days.size, side)
    memory = float(np.exp(rng.uniform(np.log(0.5), np.log(60))))
    drift = rng.normal(0, 3, 2) if rng.random() < 0.4 else np.zeros(2)
    made = fresh.copy()
    for t in range(1, days.size):
        gap = days[t] - days[t - 1]
        keep = float(np.exp(-gap / memory))
        before = (
            ndimage.shift(made[t - 1], drift * min(gap, 3.0), order=1, mode="grid-wrap") if drift.any() else made[t - 1]
        )
        made[t] = keep * before + np.sqrt(1 - keep**2) * fresh[t]
    return made


def _parcels(rng: np.random.Generator, days: F64, side: int) -> F64:
    """Fields of a few crops, each with its own season and some with a sudden harvest."""
    cells = int(rng.integers(6, 160))
    seeds = rng.uniform(0, side, (cells, 2))
    y, x = np.indices((side, side))
    owner = np.argmin((y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2, axis=-1)
    crops = int(rng.integers(2, 7))
    crop = rng.integers(0, crops, cells)
    season = 2 * np.pi * days[:, None] / 365.25
    peak, sharp, level = rng.uniform(0, 2 * np.pi, crops), rng.uniform(0.5, 3, crops), rng.normal(0, 0.7, crops)
    late = rng.normal(0, 0.25, cells)
    curve = level[crop] + np.exp(sharp[crop] * (np.cos(season - peak[crop] - late) - 1)) * rng.uniform(0.6, 1.4, cells)
    if rng.random() < 0.5:
        cut = rng.uniform(days[0], days[-1] + 1, cells)
        curve = np.where(days[:, None] > cut, curve - rng.uniform(0.2, 1, cells), curve)
    return np.asarray(curve[:, owner])


def _seasons(rng: np.random.Generator, days: F64, side: int) -> F64:
    """A season whose size and time change smoothly over the scene."""
    size, phase = field(rng, 2, side) * np.array([0.4, rng.uniform(0.1, 1.0)])[:, None, None]
    year = 2 * np.pi * days[:, None, None] / 365.25 + rng.uniform(0, 2 * np.pi)
    return np.asarray((1 + size) * np.cos(year + phase))


def _patterns(rng: np.random.Generator, days: F64, side: int) -> F64:
    """A few fixed patterns whose strengths change from frame to frame."""
    count = int(rng.integers(1, 5))
    strengths = rng.standard_normal((days.size, count))
    if rng.random() < 0.5:
        strengths = np.cumsum(strengths, axis=0)
    return np.asarray(np.einsum("tk,kyx->tyx", strengths, field(rng, count, side)))


def _front(rng: np.random.Generator, days: F64, side: int) -> F64:
    """An edge that moves over the scene."""
    y, x = np.indices((side, side)) / side
    angle = rng.uniform(0, 2 * np.pi)
    wave = 0.15 * field(rng, 1, side)[0]
    across = y * np.cos(angle) + x * np.sin(angle) + wave
    place = np.linspace(across.min(), across.max(), days.size) + rng.normal(0, 0.05, days.size)
    return np.tanh((across - place[:, None, None]) / rng.uniform(0.02, 0.2))


def _plumes(rng: np.random.Generator, days: F64, side: int) -> F64:
    """Smoke of a few sources that blows another way in each frame."""
    made = np.zeros((days.size, side, side))
    sources = rng.uniform(0, side, (int(rng.integers(1, 6)), 2))
    y, x = np.indices((side, side))
    for t in range(days.size):
        for source in sources[rng.random(len(sources)) < 0.6]:
            angle, width = rng.uniform(0, 2 * np.pi), rng.uniform(2, 8)
            dy, dx = y - source[0], x - source[1]
            along, across = dy * np.cos(angle) + dx * np.sin(angle), dx * np.cos(angle) - dy * np.sin(angle)
            reach = width + 0.3 * np.maximum(along, 0)
            strength = rng.lognormal(0, 0.7) * np.exp(-np.maximum(along, 0) / rng.uniform(10, 60))
            made[t] += strength * np.exp(-((across / reach) ** 2) - (np.minimum(along, 0) / width) ** 2)
    return made


def _offsets(rng: np.random.Generator, days: F64, side: int) -> F64:
    """Frames that are too high or too low as a whole, some with a slope."""
    y, x = np.indices((side, side)) / side - 0.5
    offset, down, right = rng.standard_normal((3, days.size, 1, 1)) * np.array([1, 1, 1]).reshape(3, 1, 1, 1)
    return np.asarray(offset + down * y + right * x)


_PARTS = {
    "fixed": _fixed,
    "weather": _weather,
    "more weather": _weather,
    "parcels": _parcels,
    "seasons": _seasons,
    "patterns": _patterns,
    "front": _front,
    "plumes": _plumes,
    "offsets": _offsets,
}


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> F64:
    """White noise, more of it in some frames; heavy tails, stripes, or outliers at times."""
    level = float(np.exp(rng.uniform(np.log(0.005), np.log(0.4))))
    frames = np.exp(rng.normal(0, rng.choice([0, 0.5]), (shape[0], 1, 1)))
    white = rng.standard_t(3, shape) / 1.7 if rng.random() < 0.3 else rng.standard_normal(shape)
    made = level * frames * white
    kind = rng.random()
    if kind < 0.15:
        made += level * rng.standard_normal((shape[0], shape[1], 1))
    elif kind < 0.3:
        made += np.where(rng.random(shape) < 0.005, rng.normal(0, 2, shape), 0)
    return np.asarray(made)
