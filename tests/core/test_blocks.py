"""Laws of windows and blocks: everything is covered, shapes are equal, context is where it was promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.windows import Window
from stpipe.errors import PlanError, ShapeError

extents = st.tuples(st.integers(1, 12), st.integers(1, 40), st.integers(1, 40))


@st.composite
def grids(draw: st.DrawFn) -> BlockGrid:
    size = draw(st.tuples(*(st.integers(1, n) for n in (12, 40, 40))))
    overlap = tuple(draw(st.integers(0, n - 1)) for n in size)
    halo = (draw(st.one_of(st.none(), st.integers(0, 5))), draw(st.integers(0, 9)), draw(st.integers(0, 9)))
    stride = draw(st.tuples(*(st.sampled_from([1, 2, 4, 8]) for _ in range(3))))
    return BlockGrid(draw(extents), BlockSpec(size=size, overlap=overlap, halo=halo, stride=stride))


@given(grids())
def test_write_windows_cover_every_sample_and_stay_inside(grid: BlockGrid) -> None:
    times = np.zeros(grid.extent, dtype=int)
    for block in grid:
        assert Window.of(grid.extent).contains(block.write)
        assert block.write.shape == grid.size
        times[block.write.slices] += 1
    assert times.min() >= 1


@given(grids())
def test_read_windows_have_one_shape_start_on_the_stride_and_hold_the_halo(grid: BlockGrid) -> None:
    for block in grid:
        assert block.read.shape == grid.read_shape
        assert block.read.contains(block.write)
        for axis, (halo, stride) in enumerate(zip(grid.spec.halo, grid.spec.stride, strict=True)):
            assert block.read.start[axis] % stride == 0
            assert block.read.shape[axis] % stride == 0
            reach = grid.padded_extent[axis] if halo is None else halo
            assert block.read.start[axis] <= max(0, block.write.start[axis] - reach)
            # What lies past the cube is gap, so the read window may end with it.
            assert block.read.stop[axis] >= min(grid.padded_extent[axis], block.write.stop[axis] + reach)
        assert block.write.within(block.read).slices == block.trim


@given(grids(), st.data())
def test_touching_finds_the_blocks_that_write_into_a_window(grid: BlockGrid, data: st.DataObject) -> None:
    start = tuple(data.draw(st.integers(0, n - 1)) for n in grid.extent)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, grid.extent, strict=True))
    window = Window(start, stop)  # type: ignore[arg-type]
    expected = [block.number for block in grid if block.write.intersect(window).size]
    assert grid.touching(window) == expected


@given(grids())
def test_a_block_is_found_by_its_number(grid: BlockGrid) -> None:
    assert [block.number for block in grid] == list(range(len(grid)))
    with pytest.raises(PlanError, match="does not exist"):
        grid.block(len(grid))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param({"size": (0, 8, 8)}, "at least 1 along time", id="empty-size"),
        pytest.param({"size": (1, 8, 8), "overlap": (0, 8, 0)}, r"overlap along y must be in \[0, 8\)", id="overlap"),
        pytest.param({"size": (1, 8, 8), "halo": (0, 0, -1)}, "halo along x can't be negative", id="halo"),
        pytest.param({"size": (1, 8, 8), "stride": (1, 0, 1)}, "stride along y must be at least 1", id="stride"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(spec: dict[str, tuple[int, int, int]], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        BlockSpec(**spec)


def test_a_window_can_not_stop_before_it_starts() -> None:
    with pytest.raises(ShapeError, match="can't stop before it starts"):
        Window((2, 0, 0), (1, 5, 5))
