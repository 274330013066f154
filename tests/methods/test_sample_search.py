"""The search for samples against a loop over all of them, and a tree."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from stpipe.methods.sample_search import DIRECTIONS, NEAREST, SEARCH, find_samples, offsets
from tests.methods.scenes import cloudy


def offsets_found(valid: np.ndarray, row: int, column: int) -> list[tuple[int, int]]:
    ranks = find_samples(valid, np.array([row]), np.array([column]))[0]
    table = offsets()
    return [(int(table.rows[r]), int(table.columns[r])) for r in ranks if r < table.rows.size]


def samples_by_loop(valid: np.ndarray, row: int, column: int) -> set[tuple[int, int]]:
    """Look at all samples, and walk along all directions."""
    height, width = valid.shape
    there = [(y - row, x - column) for y, x in np.argwhere(valid) if (y, x) != (row, column)]
    near = sorted((y * y + x * x, y, x) for y, x in there)
    found = {(y, x) for square, y, x in near[:NEAREST] if square <= SEARCH**2}
    for down, across in DIRECTIONS:
        y, x, steps = row + down, column + across, 1
        while 0 <= y < height and 0 <= x < width and not valid[y, x]:
            y, x, steps = y + down, x + across, steps + 1
        if 0 <= y < height and 0 <= x < width and steps**2 * (down**2 + across**2) <= SEARCH**2:
            found.add((y - row, x - column))
    return found


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    share_valid=st.sampled_from([0.003, 0.02, 0.1, 0.5, 1.0]),
)
def test_samples_found_are_those_of_a_loop(seed: int, shape: tuple[int, int], share_valid: float) -> None:
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) < share_valid
    for _ in range(5):
        row, column = int(rng.integers(shape[0])), int(rng.integers(shape[1]))
        found = offsets_found(valid, row, column)
        assert len(found) == len(set(found))
        assert set(found) == samples_by_loop(valid, row, column)


def test_the_nearest_are_as_near_as_a_tree_finds_them() -> None:
    rng = np.random.default_rng(1)
    valid = cloudy(rng, (1, 70, 90), 0.3)[0]
    rows, columns = np.nonzero(~valid)
    tree = cKDTree(np.argwhere(valid))
    expected = np.asarray(tree.query(np.stack([rows, columns], axis=1), k=NEAREST)[0])
    ranks = find_samples(valid, rows, columns)[:, :NEAREST]
    squares = np.append(offsets().squares, -1)[ranks].astype(float)
    within = expected[:, -1] <= SEARCH
    np.testing.assert_allclose(np.sqrt(squares[within]), expected[within], rtol=1e-12)
