"""Small scenes with radar that follows them, or does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stpipe.core.crops import Crop
from stpipe.methods.guided import GuidedFiller
from stpipe.methods.guides import GuideMaker
from stpipe.methods.radar_stack import RadarStackFiller
from stpipe.methods.sar.filler import SarFiller
from stpipe.methods.sar.options import SarOptions
from stpipe.methods.stack import StackFiller
from tests.methods.scenes import made_up_scene

NAMES = ("VV", "VH")
ECHOES = ("VV@dB", "VH@dB")


def radar_scene(
    seed: int = 0, shape: tuple[int, int, int] = (40, 24, 24), *, noise: float = 0.1, blind: bool = False
) -> tuple[Crop, np.ndarray]:
    """A scene whose frames have little to do with each other, and radar that sees it; or sees nothing of it."""
    crop, _ = made_up_scene(seed, shape, gaps=0.5)
    rng = np.random.default_rng(seed + 100)
    y, x = np.mgrid[: shape[1], : shape[2]] / 9.0
    phase, level = rng.uniform(0, 6, (2, shape[0], 1, 1))
    truth = (np.sin(x + phase) * np.cos(y - phase) + (level - 3) / 3).astype(np.float32)
    valid = crop.valid.copy()
    for first in (3, 11, 19, 28):  # frames that only radar has seen
        valid[first : first + 2] = False
    seen = rng.normal(size=shape) if blind else truth
    guides = {}
    for number, (name, echo) in enumerate(zip(NAMES, ECHOES, strict=True)):
        images = ((1 - 2 * number) * seen + noise * rng.normal(size=shape)).astype(np.float32)
        guides |= {name: images, echo: -12 + 2 * images}
    return replace(crop, values=np.where(valid, truth, np.float32(0)), valid=valid, guides=guides), truth


def with_radar() -> RadarStackFiller:
    """The trees with radar: as the default, but for its network."""
    sar = SarFiller(groups=(ECHOES,), options=SarOptions(least_clear=10))
    return RadarStackFiller(stack=StackFiller(maker=GuideMaker(others=(GuidedFiller(names=NAMES), sar))))
