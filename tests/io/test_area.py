"""An area is the same in whatever windows it is asked for."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.windows import Window
from stpipe.io.georeference import burn_window


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, 200))
def test_windows_of_an_area_agree(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    transform = (0.1, 0.0, 5.0, 0.0, -0.1, 47.0)
    corners = np.round(np.column_stack([rng.uniform(5, 70, 5), rng.uniform(-13, 47, 5)]), 1)
    around = corners - corners.mean(axis=0)
    ring = corners[np.argsort(np.arctan2(around[:, 1], around[:, 0]))]
    area = json.dumps({"type": "Polygon", "coordinates": [[*map(list, ring), list(ring[0])]]})
    whole = burn_window(area, transform, Window((0, 0, 0), (1, 600, 650)))
    for top in range(0, 600, max(60, rows)):
        for left in range(0, 650, max(60, columns)):
            window = Window((0, top, left), (1, min(600, top + rows), min(650, left + columns)))
            part = burn_window(area, transform, window)
            np.testing.assert_array_equal(part, whole[window.slices[1:]])
