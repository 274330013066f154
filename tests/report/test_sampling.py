from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.ports import VariableInfo
from stpipe.report import sampling
from stpipe.report.sampling import plan_parts, sample
from tests.io.mosaic_sources import ArraySource, array_source


def filled_cube(
    extent: tuple[int, int, int] = (12, 40, 50), *, chunks: tuple[int, int, int] = (4, 16, 16), seed: int = 0
) -> ArraySource:
    """Return a filled cube of random sources, scaled, with nodata where unfilled, and a lake."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(np.array([1, 2, 3, 4], dtype="uint8"), size=extent, p=[0.5, 0.4, 0.05, 0.05])
    codes[:, : extent[1] // 4, : extent[2] // 4] = 0
    values = rng.integers(-500, 900, extent).astype("int16")
    values[(codes == 4) | (codes == 0)] = -9999
    widths = np.where(np.isin(codes, (2, 3)), rng.uniform(0.01, 0.2, extent), np.where(codes == 1, 0, np.nan))
    source = array_source({"v": values, "v_source": codes}, chunks=chunks, nodata=-9999, scale_factor=1e-3)
    source.arrays["v_ci90"] = widths.astype("float32")
    source.variables += (VariableInfo(name="v_ci90", dtype="float32", chunks=chunks),)
    return source


extents = st.tuples(st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
chunkings = st.tuples(st.integers(1, 16), st.integers(1, 40), st.integers(1, 40))


@given(
    extent=extents,
    chunks=chunkings,
    budget=st.integers(1, 10**6),
    side_of_tile=st.sampled_from([1, 16, 256]),
    least=st.sampled_from([0, 1000, 2**18]),
)
def test_parts_are_whole_chunks_of_the_cube_each_once_and_within_the_bound(
    extent: tuple[int, int, int], chunks: tuple[int, int, int], budget: int, side_of_tile: int, least: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "TILE_SIDE", side_of_tile)
        patch.setattr(sampling, "LEAST_BYTES", least)
        check_parts(extent, chunks, budget, side_of_tile)


def check_parts(extent: tuple[int, int, int], chunks: tuple[int, int, int], budget: int, side_of_tile: int) -> None:
    parts = plan_parts(extent, chunks, 3, budget)
    assert list(parts.frames) == sorted(set(parts.frames))
    assert set(parts.frames) <= set(range(extent[0]))
    step = [min(pair) for pair in zip(chunks, extent, strict=True)]
    groups = {frame // step[0] for frame in parts.frames}
    assert len(parts.frames) == sum(min(extent[0], (g + 1) * step[0]) - g * step[0] for g in groups)
    seen = np.zeros(extent[1:], dtype=int)
    read = 0
    for y, x in parts.tiles:
        for side, size, length in ((y, step[1], extent[1]), (x, step[2], extent[2])):
            assert side.start % size == 0
            assert side.stop == length or side.stop % size == 0
            assert side.stop - side.start <= max(size, 1.5 * side_of_tile)
        seen[y, x] += 1
        read += len(groups) * -(-(y.stop - y.start) // step[1]) * -(-(x.stop - x.start) // step[2])
    assert seen.max() == 1
    cost = max(int(np.prod(step)) * 3, sampling.LEAST_BYTES)
    assert read * cost <= budget or len(parts.tiles) == len(groups) == 1
    assert parts.share == pytest.approx(seen.sum() * len(parts.frames) / np.prod(extent))
    everything = np.prod([-(-length // size) for length, size in zip(extent, step, strict=True)]) * cost
    if budget >= 2 * everything:
        assert parts.whole


@given(extent=extents, chunks=chunkings, seed=st.integers(0, 99))
@settings(max_examples=40)
def test_the_whole_of_a_small_cube_is_counted(
    extent: tuple[int, int, int], chunks: tuple[int, int, int], seed: int
) -> None:
    cube = filled_cube(extent, chunks=chunks, seed=seed)
    found = sample(cube, "v", look_bytes=2**50)  # small, but for its many chunks
    codes, values = cube.arrays["v_source"], cube.arrays["v"] * 1e-3
    assert found.counted.whole
    assert found.looked.whole
    for code in range(5):
        np.testing.assert_array_equal(found.counts[:, code], (codes == code).sum(axis=(1, 2)))
    filled = np.isin(codes, (2, 3))
    for said, wanted in (
        (found.observed, values[codes == 1]),
        (found.filled, values[filled]),
        (found.half_widths, cube.arrays["v_ci90"][filled].astype(float)),
    ):
        assert said == (None if not wanted.size else pytest.approx(tuple(np.quantile(wanted, (0.05, 0.5, 0.95)))))


def test_curves_are_pixels_with_few_some_and_many_observations() -> None:
    cube = filled_cube((30, 40, 50))
    found = sample(cube, "v")
    codes = cube.arrays["v_source"]
    often = [int((codes[:, curve.y, curve.x] == 1).sum()) for curve in found.curves]
    assert len(often) == 3
    assert often == sorted(often)
    counts = (codes == 1).sum(axis=0)[codes[0] != 0]
    assert often == [np.sort(counts)[int(share * counts.size)] for share in (0.25, 0.5, 0.75)]
    for curve in found.curves:
        assert (codes[:, curve.y, curve.x] != 0).all()
        np.testing.assert_array_equal(curve.codes, codes[:, curve.y, curve.x])
        known = curve.codes != 4
        np.testing.assert_allclose(curve.values[known], cube.arrays["v"][known, curve.y, curve.x] * 1e-3)
        assert np.isnan(curve.values[~known]).all()
        np.testing.assert_array_equal(curve.half_widths[known], cube.arrays["v_ci90"][known, curve.y, curve.x])


@pytest.fixture
def dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small cubes be large ones."""
    monkeypatch.setattr(sampling, "TILE_SIDE", 1)
    monkeypatch.setattr(sampling, "LEAST_BYTES", 0)


@pytest.mark.usefixtures("dear")
def test_of_a_large_cube_parts_are_looked_at_and_no_more_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = filled_cube((12, 200, 200))
    readers: list[Any] = []
    real = ArraySource.reader
    monkeypatch.setattr(
        ArraySource, "reader", lambda self, names=None: readers.append(real(self, names)) or readers[-1]
    )
    look = 6 * 12 * 16 * 16 * 7  # a third of it for codes alone, of a seventh of the bytes
    found = sample(cube, "v", look_bytes=look)
    assert (len(found.looked.tiles), len(found.counted.tiles)) == (4, 12)
    assert len(found.counts) == 12
    assert found.counts.sum() == found.counted.share * cube.arrays["v"].size
    (reader,) = readers
    columns = {(window.start[1] // 16, window.start[2] // 16) for window in reader.reads}
    assert len(columns) <= 4 + 12
    assert sum(np.prod([b - a for a, b in zip(w.start, w.stop, strict=True)]) for w in reader.reads) <= look


def test_memory_does_not_grow_with_the_cube(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "STEP_BYTES", 2**18)
    monkeypatch.setattr(sampling, "KEPT_SAMPLES", 10**4)
    peaks = []
    for side in (256, 768):
        cube = filled_cube((12, side, side), chunks=(4, 64, 64))
        tracemalloc.start()
        sample(cube, "v")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.usefixtures("dear")
def test_a_cube_of_large_frames_is_looked_at_in_part_of_its_dates() -> None:
    cube = filled_cube((80, 32, 32), chunks=(1, 32, 32))
    found = sample(cube, "v", look_bytes=3 * 5 * 32 * 32 * 7)
    assert len(found.looked.frames) == 10
    assert all(len(curve.values) == 10 for curve in found.curves)
    assert len(found.counted.frames) == 35
    for number, frame in enumerate(found.counted.frames):
        assert found.counts[number, 1] == (cube.arrays["v_source"][frame] == 1).sum()


@given(lengths=st.lists(st.integers(0, 300), max_size=30), most=st.integers(1, 50), seed=st.integers(0, 99))
def test_thinned_samples_are_evenly_spread_whatever_pieces_they_come_in(
    lengths: list[int], most: int, seed: int
) -> None:
    pieces = np.split(np.arange(sum(lengths)) * 1.0, np.cumsum(lengths)[:-1]) if lengths else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "KEPT_SAMPLES", most)
        thinned = sampling._Thinned()
        for piece in pieces:
            thinned.add(piece)
    kept = np.concatenate([np.empty(0), *thinned._kept])
    np.testing.assert_array_equal(kept, np.arange(0, sum(lengths), thinned.every))
    assert len(kept) <= 3 * most
    assert thinned.every == 1 or len(kept) >= most


def test_the_few_filled_samples_of_a_clear_cube_are_all_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = filled_cube((24, 90, 90), chunks=(24, 30, 30))
    cube.arrays["v_source"][:] = 1
    for frame in range(24):
        cube.arrays["v_source"][frame, 7::30, 11::30] = 2
        cube.arrays["v"][frame] = frame
    monkeypatch.setattr(sampling, "KEPT_SAMPLES", 1000)
    found = sample(cube, "v")
    assert found.thinned
    wanted = np.quantile(np.repeat(np.arange(24), 9) * 1e-3, (0.05, 0.5, 0.95))
    assert found.filled == pytest.approx(tuple(wanted))


@pytest.mark.parametrize("chunks", [(1, 90, 90), (40, 7, 9), (400, 3, 3), (16, 90, 5)], ids=repr)
def test_windows_hold_whole_chunks_and_no_more_than_they_may(
    chunks: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = 40_000
    monkeypatch.setattr(sampling, "STEP_BYTES", step)
    extent = (400, 90, 90)
    parts = plan_parts(extent, chunks, 7, 2**50)
    seen = np.zeros(extent, dtype=int)
    for first, number, window in sampling._windows(parts, chunks, extent, 7):
        assert parts.frames[first] == window.start[0]
        size = [stop - start for start, stop in zip(window.start, window.stop, strict=True)]
        assert np.prod(size) * 7 <= max(step, np.prod(chunks) * 7)
        assert [start % chunk for start, chunk in zip(window.start, chunks, strict=True)] == [0, 0, 0]
        y, x = parts.tiles[number]
        assert (y.start <= window.start[1]) & (window.stop[2] <= x.stop)
        seen[tuple(slice(start, stop) for start, stop in zip(window.start, window.stop, strict=True))] += 1
    assert (seen == 1).all()


def test_pieces_of_a_tile_are_tried_as_if_it_were_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = filled_cube((30, 64, 70), chunks=(30, 9, 11))
    monkeypatch.setattr(sampling, "TRIED_PIXELS", 300)
    whole = sample(cube, "v")
    monkeypatch.setattr(sampling, "STEP_BYTES", 1)
    assert [(curve.y, curve.x) for curve in sample(cube, "v").curves] == [(curve.y, curve.x) for curve in whole.curves]
    for curve in whole.curves:
        np.testing.assert_array_equal(curve.codes, cube.arrays["v_source"][:, curve.y, curve.x])


def test_a_cube_outside_its_domain_has_no_curve() -> None:
    cube = filled_cube((3, 8, 8))
    cube.arrays["v_source"][:] = 0
    found = sample(cube, "v")
    assert found.curves == ()
    assert (found.observed, found.filled, found.half_widths) == (None, None, None)


def test_what_an_integer_without_nodata_holds_in_a_gap_is_no_value() -> None:
    cube = filled_cube((6, 8, 8))
    cube.arrays["v"][cube.arrays["v_source"] == 4] = 30_000
    cube.variables = (VariableInfo(name="v", dtype="int16", chunks=(4, 16, 16)), *cube.variables[1:])
    for curve in sample(cube, "v").curves:
        assert np.nanmax(np.append(curve.values, 0)) < 1000
