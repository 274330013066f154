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


@given(extent=extents, chunks=chunkings, budget=st.integers(1, 10**6))
def test_parts_are_whole_chunks_of_the_cube_each_once_and_within_the_bound(
    extent: tuple[int, int, int], chunks: tuple[int, int, int], budget: int
) -> None:
    parts = plan_parts(extent, chunks, 3, budget)
    assert list(parts.frames) == sorted(set(parts.frames))
    assert set(parts.frames) <= set(range(extent[0]))
    step = [min(pair) for pair in zip(chunks, extent, strict=True)]
    groups = {frame // step[0] for frame in parts.frames}
    assert len(parts.frames) == sum(min(extent[0], (g + 1) * step[0]) - g * step[0] for g in groups)
    seen = np.zeros(extent[1:], dtype=int)
    for y, x in parts.tiles:
        assert y.start % step[1] == 0
        assert x.start % step[2] == 0
        assert y.stop == min(extent[1], y.start + step[1])
        seen[y, x] += 1
    assert seen.max() == 1
    decoded = len(groups) * len(parts.tiles) * int(np.prod(step)) * 3
    assert decoded <= max(budget, int(np.prod(step)) * 3)
    assert parts.share == pytest.approx(seen.sum() * len(parts.frames) / np.prod(extent))
    everything = -(-extent[0] // step[0]) * -(-extent[1] // step[1]) * -(-extent[2] // step[2]) * int(np.prod(step)) * 3
    if budget >= everything:
        assert parts.whole


@given(extent=extents, chunks=chunkings, seed=st.integers(0, 99))
@settings(max_examples=40)
def test_the_whole_of_a_small_cube_is_counted(
    extent: tuple[int, int, int], chunks: tuple[int, int, int], seed: int
) -> None:
    cube = filled_cube(extent, chunks=chunks, seed=seed)
    found = sample(cube, "v")
    codes, values = cube.arrays["v_source"], cube.arrays["v"] * 1e-3
    assert found.parts.whole
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


def test_of_a_large_cube_parts_are_looked_at_and_no_more_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = filled_cube((12, 200, 200))
    readers: list[Any] = []
    real = ArraySource.reader
    monkeypatch.setattr(
        ArraySource, "reader", lambda self, names=None: readers.append(real(self, names)) or readers[-1]
    )
    budget = 4 * 12 * 16 * 16 * 7
    found = sample(cube, "v", look_bytes=2 * budget)
    assert not found.parts.whole
    assert len(found.parts.tiles) == 4
    assert len(found.counts) == 12
    assert found.counts.sum() == 12 * 4 * 16 * 16
    (reader,) = readers
    columns = {(window.start[1] // 16, window.start[2] // 16) for window in reader.reads}
    assert len(columns) == 4


def test_memory_does_not_grow_with_the_cube(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "STEP_BYTES", 2**18)
    monkeypatch.setattr(sampling, "KEPT_SAMPLES", 10**4)
    peaks = []
    for side in (128, 512):
        cube = filled_cube((12, side, side), chunks=(4, 64, 64))
        tracemalloc.start()
        sample(cube, "v")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_cube_of_one_long_chunk_is_looked_at_in_part_of_its_dates() -> None:
    cube = filled_cube((40, 32, 32), chunks=(1, 32, 32))
    found = sample(cube, "v", look_bytes=2 * 10 * 32 * 32 * 7)
    assert len(found.parts.frames) == 10
    for number, frame in enumerate(found.parts.frames):
        assert found.counts[number, 1] == (cube.arrays["v_source"][frame] == 1).sum()


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
