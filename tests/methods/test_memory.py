"""What methods say they take, against what NumPy allocates: for few frames, whose temporaries outweigh samples, too."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from stpipe.core.crops import Crop, block_of
from stpipe.core.ports import Learner
from stpipe.core.windows import Window, pixels_in, samples_in
from stpipe.methods import METHODS, bare_filler, make_filler

QUICK = tuple(name for name in METHODS if name not in {"auto", "kriging", "pconv", "stack"})
"""TensorFlow's memory is not NumPy's, see `tests.methods.test_pconv`; others take their time."""

FIXED = 24 * 2**20
"""Slabs of a size of their own, which what a process takes has room for."""


def crop_of(shape: tuple[int, int, int]) -> Crop:
    rng = np.random.default_rng(0)
    valid = rng.random(shape) < 0.5
    values = np.where(valid, rng.standard_normal(shape, dtype=np.float32), np.float32(0))
    return Crop(values=values, valid=valid, days=np.arange(float(shape[0])), window=Window.of(shape))


def peak_of(act: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(1, 704, 704), (3, 448, 448), (40, 128, 128)], ids=["one frame", "three", "many"])
@pytest.mark.parametrize("method", QUICK)
def test_a_fill_takes_no_more_than_it_says(method: str, shape: tuple[int, int, int]) -> None:
    filler = bare_filler(method)
    filler.prepare()
    if isinstance(filler, Learner):
        filler = filler.taught(filler.learn([crop_of((shape[0], 32, 32))], seed=0))
        filler.prepare()
    block = block_of(crop_of(shape), filler.stride)
    read = block.window.shape
    peak = peak_of(lambda: filler.fill(block))
    said = filler.sample_bytes * samples_in([read]) + filler.pixel_bytes * pixels_in([read])
    assert 0.4 * said < peak < 1.05 * said + FIXED


@pytest.mark.parametrize("method", ["anomaly", "idw", "linear", "pyramid"])
def test_learning_from_one_frame_takes_no_more_than_is_said(method: str) -> None:
    filler, crop = make_filler(method), crop_of((1, 512, 512))
    assert isinstance(filler, Learner)
    filler.prepare()
    said = filler.learn_bytes([crop.window.shape])
    assert 0.4 * said < peak_of(lambda: filler.learn([crop], seed=0)) < 1.05 * said + FIXED
