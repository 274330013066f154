"""Laws of the survey: any tiling gives the same sums, and scale and shift pass through."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.survey import (
    ArrayOverviews,
    base_level,
    coarser,
    lattice_step,
    level_shape,
    levels_of,
    location_and_spread,
    on_lattice,
)
from stpipe.core.windows import Window


def cube(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) < rng.random()
    return np.where(valid, rng.normal(5, 2, size=shape), np.nan), valid


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)))
@settings(max_examples=30, deadline=None)
def test_levels_equal_plain_sums_over_squares(seed: int, shape: tuple[int, int, int]) -> None:
    values, valid = cube(seed, shape)
    overviews = ArrayOverviews.of(values, valid)
    assert overviews.levels == levels_of(shape)
    assert overviews.shape(overviews.levels[-1])[1:] == (1, 1)
    for level in overviews.levels:
        assert overviews.shape(level) == level_shape(shape, level)
        cells = overviews.read(level, Window.of(overviews.shape(level)))
        side = 2**level
        for t, y, x in np.ndindex(*overviews.shape(level)):
            box = (t, slice(y * side, (y + 1) * side), slice(x * side, (x + 1) * side))
            known = values[box][valid[box]]
            expected = [known.size, known.sum(), (known**2).sum()]
            np.testing.assert_allclose(cells[:, t, y, x], expected, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 16, 40]))
def test_tiles_give_the_bytes_of_the_whole(seed: int, tile: int) -> None:
    values, valid = cube(seed, (2, 72, 53))
    whole = base_level(values, valid)
    for top in range(0, 72, tile):
        part = base_level(values[:, top : top + tile], valid[:, top : top + tile])
        np.testing.assert_array_equal(part, whole[:, :, top // 8 : top // 8 + part.shape[2]])
    assert coarser(whole).shape == (3, 2, 5, 4)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 30), st.integers(1, 30))
def test_the_lattice_picks_the_same_samples_in_any_tiling(seed: int, step: int, rows: int, columns: int) -> None:
    values, valid = cube(seed, (3, 37, 41))
    whole = np.concatenate([on_lattice(values[t], valid[t], (t, 0, 0), step) for t in range(3)])
    parts = [
        on_lattice(values[t, y : y + rows, x : x + columns], valid[t, y : y + rows, x : x + columns], (t, y, x), step)
        for t in range(3)
        for y in range(0, 37, rows)
        for x in range(0, 41, columns)
    ]
    np.testing.assert_array_equal(np.sort(whole), np.sort(np.concatenate(parts)))


def test_the_lattice_of_a_large_scene_holds_about_a_million_samples() -> None:
    step = lattice_step((32, 4096, 4096))
    assert 2**19 < 32 * 4096 * 4096 / step**2 <= 2**20


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1e4), st.floats(-1e4, 1e4))
def test_location_and_spread_follow_the_units(seed: int, factor: float, offset: float) -> None:
    samples = np.random.default_rng(seed).normal(3, 2, 500)
    location, spread = location_and_spread(samples)
    moved = location_and_spread(samples * factor + offset)
    np.testing.assert_allclose(moved, (location * factor + offset, spread * factor), rtol=1e-6, atol=1e-6)
    assert 1.5 < spread < 2.5


def test_a_field_that_is_mostly_one_value_still_has_a_spread() -> None:
    assert location_and_spread(np.array([0.0] * 999 + [10.0])) == (0.0, np.std([0.0] * 999 + [10.0]))
    assert location_and_spread(np.zeros(0)) == (0.0, 1.0)
    assert location_and_spread(np.full(9, 273.15)) == (273.15, 1.0)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-9, 1e-3]))
def test_a_field_of_rain_has_a_spread_however_much_of_it_is_dry(seed: int, dust: float) -> None:
    """Shares just above a quarter had next to none, and dust of resampling none at all."""
    rng = np.random.default_rng(seed)
    amounts = np.abs(rng.normal(size=20_000)) * 10
    dry = dust * rng.random(amounts.size)
    order = rng.random(amounts.size)
    for share in (0.05, 0.2, 0.2499, 0.2501, 0.3, 0.5):
        samples = np.where(order < share, amounts, dry)
        _, spread = location_and_spread(samples)
        assert 0.25 < spread / samples.std() < 2
