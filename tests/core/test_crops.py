"""Crops of a cube: their middles are parts of them, no smaller than asked for, on whole cells."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.crops import Crop, middle_shapes, middles
from stpipe.core.survey import BASE_CELL
from stpipe.core.windows import Window, samples_in


def random_crop(rng: np.random.Generator, shape: tuple[int, int, int], *, domain: bool, row: int = 0) -> Crop:
    start = (BASE_CELL * row, BASE_CELL * int(rng.integers(9)))
    valid = rng.random(shape) < 0.5
    return Crop(
        values=np.where(valid, rng.normal(size=shape), 0).astype(np.float32),
        valid=valid,
        days=np.arange(float(shape[0])),
        window=Window((0, *start), (shape[0], start[0] + shape[1], start[1] + shape[2])),
        domain=rng.random(shape[1:]) < 0.9 if domain else None,
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    sides=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), max_size=3),
    samples=st.integers(1, 30_000),
    narrowest=st.sampled_from([8, 32, 64]),
    rounded_up=st.booleans(),
)
def test_middles_are_parts_of_the_crops(
    seed: int, sides: list[tuple[int, int]], samples: int, narrowest: int, rounded_up: bool
) -> None:
    rng = np.random.default_rng(seed)
    crops = [random_crop(rng, (3, *shape), domain=bool(i % 2), row=12 * i) for i, shape in enumerate(sides)]
    parts = middles(crops, samples, narrowest=narrowest, rounded_up=rounded_up)
    have = sum(crop.valid.size for crop in crops)
    if have <= samples:
        assert parts == tuple(crops)
    shapes = middle_shapes([crop.window.shape for crop in crops], samples, narrowest=narrowest, rounded_up=rounded_up)
    kept = [next(crop for crop in crops if crop.window.contains(part.window)) for part in parts]
    assert len(parts) == len(shapes)
    assert samples_in(part.window.shape for part in parts) <= samples_in(shapes)
    if len(parts) < len(crops):
        assert len(parts) == 1 or samples_in(shapes) <= 4 * samples
    for crop, part in zip(kept, parts, strict=True):
        cut = part.window.within(crop.window).slices
        np.testing.assert_array_equal(part.values, crop.values[cut])
        np.testing.assert_array_equal(part.valid, crop.valid[cut])
        assert (part.domain is None) == (crop.domain is None)
        if part.domain is not None and crop.domain is not None:
            np.testing.assert_array_equal(part.domain, crop.domain[cut[1:]])
        assert part.window.start[1] % BASE_CELL == part.window.start[2] % BASE_CELL == 0
        for side, left in zip(crop.valid.shape[1:], part.valid.shape[1:], strict=True):
            wished = side * min(1.0, (samples / have) ** 0.5)
            assert left == side or left >= narrowest
            assert left in {side, narrowest} or abs(left - wished) <= BASE_CELL
            assert left in {side, narrowest} or left % BASE_CELL == 0


def test_rounding_up_keeps_a_cell_more() -> None:
    crop = random_crop(np.random.default_rng(0), (1, 80, 80), domain=False)
    sizes = [
        middles([crop], 3600, rounded_up=up)[0].valid.shape[1] for up in (False, True)
    ]  # sides of 60 are asked for
    assert sizes == [56, 64]
