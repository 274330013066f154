"""Small networks in files, as if somebody had trained them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stpipe.methods.mixing import NODES_PX
from stpipe.model.features import GUIDE_COUNT
from stpipe.model.spec import UNetSpec
from stpipe.model.unet import build_unet
from stpipe.model.weights import save_model

SPEC = UNetSpec(filters=(4, 6), head_filters=4)

MIXTURE = tuple(
    tuple(float(weight) for weight in row)
    for row in np.random.default_rng(5).dirichlet(np.ones(GUIDE_COUNT), len(NODES_PX)).round(15)
)
"""Of all guides, and other ones at each distance."""


def write_model(path: Path, seed: int | None = 0, *, calibration: float = 1.5, loud: float = 0.3) -> str:
    """Write a network of random weights, or a fresh one without a seed, and return its path."""
    network = build_unet(SPEC)
    if seed is not None:
        rng = np.random.default_rng(seed)
        for weight in network.weights:
            weight.assign(loud * rng.standard_normal(weight.shape))
    save_model(path, network, SPEC, mixture=MIXTURE, calibration=calibration, provenance={})
    return str(path)
