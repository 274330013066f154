"""Laws of the blend: weights sum to one, order of finishing does not matter, scene edges are not tapered."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.blend import FALLBACK, HALF_WIDTH, PREDICTION, Blend, block_tapers, taper
from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.windows import Window


@st.composite
def grids(draw: st.DrawFn) -> BlockGrid:
    size = draw(st.tuples(st.integers(1, 4), st.integers(2, 12), st.integers(2, 12)))
    overlap = tuple(draw(st.integers(0, n // 2)) for n in size)
    overlap = tuple(min(o, n - 1) for o, n in zip(overlap, size, strict=True))
    extent = draw(st.tuples(st.integers(1, 6), st.integers(1, 30), st.integers(1, 30)))
    return BlockGrid(extent, BlockSpec(size=size, overlap=overlap))


def payloads(grid: BlockGrid, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(3, *grid.size)).astype(np.float32) for _ in grid]


@given(st.integers(1, 30), st.integers(0, 10), st.integers(0, 10))
def test_a_taper_is_positive_and_symmetric(size: int, rise: int, fall: int) -> None:
    rise, fall = min(rise, size), min(fall, size)
    ramp = taper(size, rise, fall)
    assert (ramp > 0).all()
    assert (ramp <= 1).all()
    np.testing.assert_array_equal(taper(size, fall, rise), ramp[::-1])


@given(grids())
def test_a_field_that_all_blocks_agree_on_comes_back(grid: BlockGrid) -> None:
    field = np.random.default_rng(1).normal(size=grid.extent).astype(np.float32)
    blend = Blend(Window.of(grid.extent))
    for block in grid:
        blend.add(grid, block, np.stack([field[block.write.slices]] * 3))
    for part in (PREDICTION, HALF_WIDTH, FALLBACK):
        np.testing.assert_allclose(blend.result()[part], field, rtol=1e-12)


@given(grids(), st.integers(0, 2**32 - 1), st.data())
def test_blending_in_tiles_gives_the_bytes_of_blending_at_once_and_of_plain_sums(
    grid: BlockGrid, seed: int, data: st.DataObject
) -> None:
    parts = payloads(grid, seed)
    total, weights = np.zeros((3, *grid.extent)), np.zeros(grid.extent)
    whole = Blend(Window.of(grid.extent))
    for block, part in zip(grid, parts, strict=True):
        whole.add(grid, block, part)
        t, y, x = block_tapers(grid, block)
        weight = t[:, None, None] * y[:, None] * x
        total[(slice(None), *block.write.slices)] += part * weight
        weights[block.write.slices] += weight
    np.testing.assert_allclose(whole.result(), total / weights, rtol=1e-9, atol=1e-12)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in grid.extent)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, grid.extent, strict=True))
    window = Window(start, stop)  # type: ignore[arg-type]
    tile = Blend(window)
    for number in grid.touching(window):
        tile.add(grid, grid.block(number), parts[number])
    np.testing.assert_array_equal(tile.result(), whole.result()[(slice(None), *window.slices)])


def test_scene_edges_are_not_tapered_and_interior_ones_are() -> None:
    grid = BlockGrid((1, 8, 20), BlockSpec(size=(1, 8, 12), overlap=(0, 2, 4)))
    first, last = grid.block(0), grid.block(1)
    assert block_tapers(grid, first)[2].tolist() == [1] * 8 + [0.875, 0.625, 0.375, 0.125]
    assert block_tapers(grid, last)[2].tolist() == [0.125, 0.375, 0.625, 0.875] + [1] * 8
    assert (block_tapers(grid, first)[1] == 1).all()


def test_a_block_without_a_prediction_leaves_the_word_to_its_neighbour() -> None:
    grid = BlockGrid((1, 1, 6), BlockSpec(size=(1, 1, 4), overlap=(0, 0, 2)))
    blend = Blend(Window.of(grid.extent))
    silent = np.full((3, 1, 1, 4), np.nan, dtype=np.float32)
    blend.add(grid, grid.block(0), silent)
    blend.add(grid, grid.block(1), np.ones((3, 1, 1, 4), dtype=np.float32))
    assert blend.result()[PREDICTION].ravel()[2:].tolist() == [1, 1, 1, 1]
    assert np.isnan(blend.result()[PREDICTION].ravel()[:2]).all()
