"""Small made-up scenes, and cubes as the methods get them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.core.crops import Crop
from stpipe.core.ports import BlockInput
from stpipe.core.survey import ArrayOverviews
from stpipe.core.windows import Window, triple


def made_up_scene(
    seed: int = 0, shape: tuple[int, int, int] = (16, 48, 40), *, gaps: float = 0.4, empty: bool = True
) -> tuple[Crop, NDArray[np.float32]]:
    """Fields with seasons of their own under drifting weather, with clouds and one missing frame; and the truth."""
    rng = np.random.default_rng(seed)
    frames, height, width = shape
    days = np.cumsum(rng.choice([3.0, 5.0, 9.0], frames))
    fields = np.repeat(np.repeat(rng.standard_normal((2, -(-height // 8), -(-width // 8))), 8, axis=1), 8, axis=2)
    fields = fields[:, :height, :width]
    season = np.sin(2 * np.pi * days[:, None, None] / 120 + fields[1])
    weather = ndimage.gaussian_filter(rng.standard_normal(shape), (1, 6, 6))
    truth = fields[0] + season + 0.5 * weather / weather.std() + 0.05 * rng.standard_normal(shape)
    truth = ((truth - np.median(truth)) / truth.std()).astype(np.float32)
    clouds = ndimage.gaussian_filter(rng.standard_normal(shape), (0, 4, 4))
    valid = clouds <= np.quantile(clouds, 1 - gaps)
    if empty:
        valid[frames // 2] = False
    crop = Crop(values=np.where(valid, truth, np.float32(0)), valid=valid, days=days, window=Window.of(triple(shape)))
    return crop, truth


def crop_of(values: np.ndarray, valid: np.ndarray, days: np.ndarray | None = None) -> Crop:
    """A cube that is observed where valid; its frames are a day apart unless told otherwise."""
    return Crop(
        values=np.where(valid, values, 0).astype(np.float32),
        valid=valid,
        days=np.arange(len(values), dtype=np.float64) if days is None else days,
        window=Window.of(triple(values.shape)),
    )


def patterned(seed: int, frames: int = 24, side: int = 24, noise: float = 0.1) -> tuple[np.ndarray, ...]:
    """Three patterns under clouds; one frame lies wholly under one."""
    rng = np.random.default_rng(seed)
    days = np.cumsum(rng.uniform(2, 12, frames))
    series = np.stack([np.ones(frames), np.sin(days / 40), np.cos(days / 25)], axis=1)
    truth = np.einsum("tk,kyx->tyx", series, rng.normal(size=(3, side, side)))
    values = truth + noise * rng.normal(size=truth.shape)
    clouds = rng.random((frames, side // 4, side // 4)) < 0.5
    valid = ~clouds.repeat(4, axis=1).repeat(4, axis=2)
    valid[frames // 2] = False
    return values, valid, days, truth


def cloudy(
    rng: np.random.Generator, shape: tuple[int, ...], share_valid: float = 0.5, width: float = 4.0
) -> np.ndarray:
    """Valid samples apart from cloud-like blobs and a little speckle."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), (0, width, width))
    return (noise <= np.quantile(noise, share_valid)) & (rng.random(shape) < 0.95)


def block_input(
    values: np.ndarray,
    valid: np.ndarray,
    days: np.ndarray | None = None,
    window: Window | None = None,
    wanted: Window | None = None,
) -> BlockInput:
    """One window of a cube as a filler gets it, with gap where it reaches past the cube; the whole cube by default."""
    cube = Window.of(triple(values.shape))
    window = window or cube
    inside = window.intersect(cube)
    cut, known = np.zeros(window.shape, dtype=np.float32), np.zeros(window.shape, dtype=bool)
    cut[inside.within(window).slices] = values[inside.slices]
    known[inside.within(window).slices] = valid[inside.slices]
    times = np.arange(len(values), dtype=np.float64) if days is None else days
    return BlockInput(
        values=cut,
        valid=known,
        days=times[window.start[0] : window.stop[0]],
        window=window,
        overviews=ArrayOverviews.of(np.where(valid, values, 0).astype(np.float64), valid),
        all_days=times,
        wanted=wanted,
    )
