"""Small made-up scenes for the methods that learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.core.crops import Crop
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
