"""Methods that say they are seamless: blocks that share nothing give the answer of the whole, wherever they meet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.blend import HALF_WIDTH_BITS, coarsen
from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.crops import fill_crop
from stpipe.core.geometry import DEFAULT_OVERLAP, default_overlap
from stpipe.core.ports import Seamless
from stpipe.core.seams import fill_in_blocks
from stpipe.core.windows import triple
from stpipe.methods import METHODS, make_filler
from tests.methods.scenes import made_up_scene

SEAMLESS = ("pyramid", "linear", "whittaker", "harmonic")


def test_who_says_so_shares_nothing() -> None:
    said = {name for name in METHODS if name != "auto" and default_overlap(make_filler(name)) != DEFAULT_OVERLAP}
    assert said == set(SEAMLESS)


@pytest.mark.parametrize("name", SEAMLESS)
@settings(max_examples=6)
@given(height=st.integers(5, 40), width=st.integers(3, 40), seed=st.integers(0, 3))
def test_blocks_that_share_nothing_are_the_whole(name: str, height: int, width: int, seed: int) -> None:
    crop, _ = made_up_scene(seed, (9, 40, 37))
    filler = make_filler(name)
    assert isinstance(filler, Seamless)
    assert filler.seamless
    spec = BlockSpec(size=(9, height, min(width, 37)), overlap=(0, 0, 0), halo=filler.halo, stride=filler.stride)
    blocked = fill_in_blocks(filler, crop, BlockGrid(triple(crop.valid.shape), spec))
    gap = ~crop.valid
    np.testing.assert_allclose(blocked[gap], fill_crop(filler, crop).values[gap], atol=2e-6)


@given(st.lists(st.floats(0, 2.0**60, width=32), min_size=1, max_size=30))
def test_half_widths_are_rounded_to_a_few_digits(widths: list[float]) -> None:
    exact = np.array([*widths, np.nan, np.inf], dtype=np.float32)
    rounded = exact.copy()
    coarsen(rounded)
    usual = exact[:-2][(exact[:-2] > 1e-30) | (exact[:-2] == 0)]
    np.testing.assert_allclose(rounded[:-2][(exact[:-2] > 1e-30) | (exact[:-2] == 0)], usual, rtol=2**-HALF_WIDTH_BITS)
    assert np.isnan(rounded[-2])
    assert np.isinf(rounded[-1])
    again = rounded.copy()
    coarsen(again)
    np.testing.assert_array_equal(again, rounded)
