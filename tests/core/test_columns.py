"""Order statistics of columns against NumPy's, column by column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stpipe.core.columns import begun, count, first_row, percentile


def made_up(rows: int, pixels: int, dtype: type, *, large: float, seed: int = 3) -> NDArray[Any]:
    """Return small numbers among zeros, in some columns large ones too; the first column is empty, the second full."""
    rng = np.random.default_rng(seed)
    most = min(50_000, int(np.iinfo(dtype).max))
    numbers = rng.integers(1, 9, (rows, pixels))
    numbers = np.where(rng.random(pixels) < large, rng.integers(1, most + 1, (rows, pixels)), numbers)
    numbers[rng.random((rows, pixels)) < rng.random(pixels)] = 0
    numbers[:, 0] = 0
    numbers[:, 1] = most
    return numbers.astype(dtype)


@pytest.mark.parametrize("percent", [0, 10, 50, 66.6, 100])
@pytest.mark.parametrize("large", [0, 0.005, 0.5], ids=["all small", "a few large", "half of them large"])
@pytest.mark.parametrize(
    ("rows", "pixels", "dtype"),
    [(1, 300, np.uint8), (40, 3000, np.uint8), (255, 600, np.uint8), (300, 600, np.uint16), (40, 20, np.uint32)],
)
def test_a_percentile_is_numpys_of_what_is_not_zero(
    rows: int, pixels: int, dtype: type, large: float, percent: float
) -> None:
    numbers = made_up(rows, pixels, dtype, large=large)
    flags, spare = np.empty(numbers.shape, dtype=bool), np.empty_like(numbers)
    counted = count(numbers != 0)
    found = percentile(numbers, counted, percent, numbers.max(axis=0), flags, spare)
    some = np.flatnonzero(counted)
    expected = [np.percentile(numbers[:, i][numbers[:, i] > 0].astype(np.float64), percent) for i in some]
    assert found[some] == pytest.approx(np.array(expected), rel=1e-12)


@pytest.mark.parametrize("rows", [1, 5, 255, 256, 700])
def test_where_columns_begin_and_how_much_they_hold(rows: int) -> None:
    flags = np.random.default_rng(rows).random((rows, 40)) < np.linspace(0, 0.3, 40) ** 2
    flags[-1, 7] = True
    expected = [int(np.argmax(column)) if column.any() else rows for column in flags.T]
    assert begun(flags).tolist() == expected
    assert first_row(flags, np.empty(flags.shape, dtype=np.uint8)).tolist() == expected
    assert count(flags).tolist() == flags.sum(axis=0).tolist()
