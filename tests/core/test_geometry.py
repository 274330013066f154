"""Laws of the cuts: every sample is in one tile, chunks stay whole, and a larger budget gives no smaller blocks."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.geometry import (
    MOST_CHUNK_SAMPLES,
    SIZES,
    TILE_ALIGN,
    TileGrid,
    blend_tile_shape,
    bytes_to_blend,
    bytes_to_fill,
    choose_grid,
    output_chunk,
    survey_tile_shape,
)
from stpipe.core.ports import VariableInfo
from stpipe.core.survey import BASE_CELL
from stpipe.core.windows import Triple
from stpipe.methods.pyramid import PyramidFiller

small = st.tuples(st.integers(1, 5), st.integers(1, 20), st.integers(1, 20))
large = st.tuples(st.integers(1, 800), st.integers(1, 9000), st.integers(1, 9000))


def variable(chunks: Triple, dtype: str = "int16") -> VariableInfo:
    return VariableInfo(name="ndvi", dtype=dtype, chunks=chunks)


@given(extent=small, shape=small)
def test_tiles_cover_a_cube_once(extent: Triple, shape: Triple) -> None:
    times = np.zeros(extent, dtype=np.uint8)
    grid = TileGrid(extent, shape)
    for tile in grid:
        times[tile.slices] += 1
    assert (times == 1).all()
    assert len(grid) == len(list(grid))


@given(extent=large, chunks=large)
def test_chunks_of_products_are_cut_only_where_they_are_too_large(extent: Triple, chunks: Triple) -> None:
    stored = tuple(map(min, zip(chunks, extent, strict=True)))
    made = output_chunk(variable(chunks), extent)
    assert prod(made) <= MOST_CHUNK_SAMPLES
    if prod(stored) <= MOST_CHUNK_SAMPLES:
        assert made == stored
    else:
        assert prod(made) > MOST_CHUNK_SAMPLES / 4


@given(extent=large, chunks=large)
@example(extent=(72, 185, 905), chunks=(72, 3, 225))
def test_survey_tiles_start_at_whole_cells_of_all_their_levels(extent: Triple, chunks: Triple) -> None:
    frames, *sides = survey_tile_shape(extent, [variable(chunks)])
    assert 1 <= frames <= extent[0]
    for side, length in zip(sides, extent[1:], strict=True):
        assert side % BASE_CELL == 0
        assert side >= length or side % TILE_ALIGN == 0


@given(extent=large, chunks=large, budget=st.integers(0, 2**32), dtype=st.sampled_from(["uint8", "float64"]))
def test_tiles_of_the_blend_are_whole_chunks_within_the_memory(
    extent: Triple, chunks: Triple, budget: int, dtype: str
) -> None:
    info = variable(chunks, dtype)
    step = output_chunk(info, extent)
    grid = BlockGrid(extent, BlockSpec(size=(extent[0], min(256, extent[1]), min(256, extent[2])), stride=(1, 8, 8)))
    tile = blend_tile_shape(extent, grid, step, info, budget)
    assert all(side == n or side % c == 0 for side, n, c in zip(tile, extent, step, strict=True))
    assert tile == step or bytes_to_blend(tile, info) <= budget


@pytest.mark.parametrize("extent", [(8, 500, 700), (368, 2750, 4671), (2000, 64, 64)], ids=str)
def test_more_memory_gives_no_smaller_blocks_and_too_little_none(extent: Triple) -> None:
    filler = PyramidFiller()
    areas = [0]
    for power in range(16, 36):
        grid = choose_grid(extent, filler, filler.halo, 2**power, None)
        if grid is not None:
            assert bytes_to_fill(grid, filler, 8) <= 2**power
        areas.append(0 if grid is None else prod(grid.size[1:]))
    assert areas == sorted(areas)
    assert areas[1] == 0 < areas[-1] <= (1.2 * max(SIZES)) ** 2
