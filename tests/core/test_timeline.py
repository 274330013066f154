"""Neighbours in time against a slow search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.timeline import LONGEST_STEPS, NORMAL_90, PASS_APART, PRIOR_RATE, median_step, neighbours, passes
from stpipe.methods.linear import interpolate


@st.composite
def series(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 9))
    values = rng.standard_normal((count, 3, 4)).astype(np.float32)
    valid = rng.random(values.shape) < draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
    days = np.cumsum(rng.uniform(0.5, 20, count))
    return values, valid, days


@settings(max_examples=40)
@given(series())
def test_neighbours_leave_the_sample_itself_out(made: tuple[Any, Any, Any]) -> None:
    values, valid, days = made
    around = neighbours(values, valid, days, step=2.0)
    for t, y, x in np.ndindex(values.shape):
        known = np.flatnonzero(valid[:, y, x])
        others = known[known != t]
        if not others.size:
            assert np.isnan(around.linear[t, y, x])
            continue
        expected = np.interp(days[t], days[others], values[others, y, x].astype(float))
        assert around.linear[t, y, x] == pytest.approx(expected, abs=1e-3)
        earlier, later = others[others < t], others[others > t]
        since = (days[t] - days[earlier[-1]]) / 2 if earlier.size else LONGEST_STEPS
        until = (days[later[0]] - days[t]) / 2 if later.size else LONGEST_STEPS
        assert around.since[t, y, x] == pytest.approx(since, abs=1e-3)
        assert around.until[t, y, x] == pytest.approx(until, abs=1e-3)
        for found, where in ((around.early, earlier[-1:]), (around.late, later[:1])):
            assert np.isnan(found[t, y, x]) if not where.size else found[t, y, x] == values[where[0], y, x]
        assert around.half_width[t, y, x] > 0


@settings(max_examples=20)
@given(series())
def test_in_gaps_they_are_the_linear_method(made: tuple[Any, Any, Any]) -> None:
    values, valid, days = made
    np.testing.assert_allclose(
        neighbours(values, valid, days, median_step(days)).linear[~valid],
        interpolate(values, valid, days)[0][~valid],
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ("days", "step"), [([3.0], 1.0), ([0.0, 4.0], 4.0), ([0.0, 0.0, 7.0], 7.0)], ids=["one", "two", "same day twice"]
)
def test_the_median_step_is_never_zero(days: list[float], step: float) -> None:
    assert median_step(np.array(days)) == step


@pytest.mark.parametrize("minutes", [0.0, 5.0])
def test_two_looks_within_minutes_do_not_make_a_pixel_wild(minutes: float) -> None:
    days = np.array([0.0, minutes / 1440, 10.0, 20.0, 30.0])
    series = np.array([0.0, 0.1, 0.0, 0.0, 0.0], dtype=np.float32).reshape(5, 1, 1)
    around = neighbours(series, np.arange(5).reshape(5, 1, 1) != 3, days, median_step(days))
    assert around.half_width[3, 0, 0] < 1


@settings(max_examples=60)
@given(
    days=st.lists(st.floats(0.2, 30), min_size=1, max_size=9).map(np.cumsum),
    tiles=st.integers(1, 6),
    seconds=st.floats(0, 19),
)
def test_tiles_of_a_pass_are_one_look(days: Any, tiles: int, seconds: float) -> None:
    apart = (days[:, None] + seconds / 86400 * np.arange(tiles)).ravel()
    np.testing.assert_array_equal(passes(apart), np.repeat(np.arange(days.size), tiles))
    assert median_step(apart) == pytest.approx(median_step(days), abs=1e-2)
    spread = np.random.default_rng(tiles).standard_normal((apart.size, 1, 1)).astype(np.float32)
    valid = np.ones(spread.shape, dtype=bool)
    walk = neighbours(spread, valid, apart, 1.0)
    if tiles > 1 and days.size == 1:  # one look tells nothing of how fast a pixel walks
        np.testing.assert_allclose(walk.half_width, NORMAL_90 * np.sqrt(PRIOR_RATE * PASS_APART), rtol=1e-3)


def test_a_pass_is_no_longer_than_tiles_take() -> None:
    bursts = (30.0 * np.arange(12)[:, None] + np.arange(12) * 5 / 1440).ravel()  # an hour of five minutes each month
    np.testing.assert_array_equal(passes(bursts), np.arange(144))
    chain = np.concatenate([np.arange(10) * 15 / 86400, [5.0, 10.0]])
    np.testing.assert_array_equal(passes(chain), [0] * 7 + [1] * 3 + [2, 3])


@pytest.mark.parametrize("minutes", [2, 5, 60, 60 * 24])
def test_a_regular_series_has_as_many_passes_as_frames(minutes: float) -> None:
    days = 1e4 + np.arange(50) * minutes / 1440
    np.testing.assert_array_equal(passes(days), np.arange(50))
    assert median_step(days) == pytest.approx(minutes / 1440)
    for few in (0, 1, 2):
        np.testing.assert_array_equal(passes(days[:few]), np.arange(few))
