"""Laws of the pyramid: blocks equal the whole, wide gaps are smooth, and no step shows where cells meet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.ports import Filler
from stpipe.core.windows import Window
from stpipe.methods.linear import LinearFiller
from stpipe.methods.pyramid import PyramidFiller
from tests.methods.scenes import block_input


def padded(values: np.ndarray, stride: tuple[int, int, int]) -> Window:
    return Window((0, 0, 0), BlockGrid(values.shape, BlockSpec(size=values.shape, stride=stride)).padded_extent)


def random_cube(
    seed: int, shape: tuple[int, int, int], share_valid: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape).astype(np.float32)
    valid = rng.random(shape) < share_valid
    valid[:, shape[1] // 4 : shape[1] // 2] &= rng.random() < 0.5  # a wide gap, as wide as a block
    if shape[0] > 1:
        valid[rng.integers(shape[0])] = False
    return values, valid, np.cumsum(rng.integers(1, 9, size=shape[0])).astype(np.float64)


@pytest.mark.parametrize("filler", [PyramidFiller(), LinearFiller()], ids=["pyramid", "linear"])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 130), st.integers(1, 130)),
    size=st.integers(24, 60),
    overlap=st.integers(0, 7),
    share_valid=st.floats(0, 1),
)
def test_blocks_give_what_the_whole_scene_gives(
    filler: Filler, seed: int, shape: tuple[int, int, int], size: int, overlap: int, share_valid: float
) -> None:
    values, valid, days = random_cube(seed, shape, share_valid)
    whole = filler.fill(block_input(values, valid, days, padded(values, filler.stride)))
    spec = BlockSpec(size=(2, size, size), overlap=(0, overlap, overlap), halo=filler.halo, stride=filler.stride)
    for block in BlockGrid(shape, spec):
        part = filler.fill(block_input(values, valid, days, block.read))
        for name in ("values", "half_width", "fallback"):
            np.testing.assert_allclose(
                getattr(part, name)[block.trim], getattr(whole, name)[block.write.slices], rtol=0, atol=1e-6
            )


def test_a_gap_wider_than_all_levels_of_a_block_is_smooth_and_not_constant() -> None:
    y, x = np.mgrid[:256, :256] / 256
    truth = (np.sin(3 * y) + 2 * x).astype(np.float32)[None]
    valid = np.ones(truth.shape, dtype=bool)
    valid[:, 40:216, 40:216] = False
    filled = PyramidFiller().fill(block_input(truth, valid, np.zeros(1))).values[0]
    core = filled[60:196, 60:196]
    assert core.std() > 0.3 * truth[0, 60:196, 60:196].std()
    jumps = np.abs(np.diff(core, axis=1))
    assert jumps.max() < 0.05
    assert np.corrcoef(core.ravel(), truth[0, 60:196, 60:196].ravel())[0, 1] > 0.9


def test_a_frame_without_samples_takes_its_pattern_from_the_frames_near_it() -> None:
    y, x = np.mgrid[:128, :128] / 128
    truth = np.stack([x + y] * 5).astype(np.float32)
    valid = np.ones(truth.shape, dtype=bool)
    valid[2] = False
    filled = PyramidFiller().fill(block_input(truth, valid, np.arange(5.0))).values[2]
    assert np.corrcoef(filled.ravel(), truth[2].ravel())[0, 1] > 0.98


def test_steps_are_no_larger_where_cells_meet() -> None:
    """Blocks meet at multiples of 8 pixels, and so do cells: what shows at cells looks like a seam."""
    rng = np.random.default_rng(4)
    truth = ndimage.gaussian_filter(rng.normal(size=(6, 512, 512)), (0, 3, 3)).astype(np.float32)
    clouds = ndimage.gaussian_filter(rng.normal(size=truth.shape), (0, 12, 12))
    valid = clouds < np.median(clouds)
    filled = PyramidFiller().fill(block_input(truth, valid, np.arange(6.0))).values
    both = ~valid[:, :, 1:] & ~valid[:, :, :-1]
    jumps = np.abs(np.diff(filled, axis=2))
    meets = np.zeros(511, dtype=bool)
    meets[15::16] = True
    across, elsewhere = jumps[both & meets].mean(), jumps[both & ~meets].mean()
    assert 0.95 < across / elsewhere < 1.05
