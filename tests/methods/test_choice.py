"""Laws of the choice: the least error wins, and two methods win only where that is no chance."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.gap_classes import CLASS_COUNT, CLASS_PX, TIME_CLASSES
from stpipe.methods.choice import Errors, choose


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), methods=st.integers(1, 4), size=st.integers(0, 3000))
def test_a_pair_is_better_on_what_it_was_chosen_on(seed: int, methods: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, CLASS_COUNT, size).astype(np.uint8)
    scale = rng.uniform(0.5, 2, (methods, CLASS_COUNT))
    absolute = (scale[:, classes] * rng.exponential(size=(methods, size))).astype(np.float32)
    names = tuple("abcd"[:methods])
    found = Errors(
        methods=names, absolute=absolute, classes=classes, clusters=np.arange(size) // 20, frames=np.arange(size) // 80
    )
    single, pair = choose(found, rng)
    total = {name: float(row.sum(dtype=np.float64)) for name, row in zip(names, absolute, strict=True)}
    assert total[single.near] == min(total.values())
    if pair is not None:
        border = CLASS_PX.index(pair.limit_px or 0)
        inside = classes // TIME_CLASSES <= border
        both = np.where(inside, absolute[names.index(pair.near)], absolute[names.index(pair.far)])
        assert single.near in pair.methods
        assert both.sum(dtype=np.float64) < 0.99 * total[single.near] + 1e-3


def test_what_rests_on_one_cloud_is_chance() -> None:
    classes = np.where(np.arange(4000) < 2000, 0, 11).astype(np.uint8)
    second = np.where(classes == 0, 0.5, 3.0)
    absolute = np.stack([np.ones(4000), second]).astype(np.float32)
    one = np.where(classes == 0, 0, 1 + np.arange(4000) // 50)
    many = np.arange(4000) // 50
    pairs = [
        choose(
            Errors(methods=("a", "b"), absolute=absolute, classes=classes, clusters=clusters, frames=clusters // 4),
            np.random.default_rng(0),
        )[1]
        for clusters in (one, many)
    ]
    assert pairs[0] is None
    assert str(pairs[1]) == "b up to 1.5 px from an observation, a beyond"
