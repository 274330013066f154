"""One picture of many, and regular periods: a slow loop over pixels and pandas are the oracles."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.compositing import COMPOSITES, Period, _beside, composite, first_clear
from stpipe.errors import OptionError

TIMES = st.datetimes(datetime(1985, 1, 1), datetime(2035, 1, 1))  # noqa: DTZ001 - as file names have it


def slow(values: list[int], how: str) -> float:
    """Return one number of a pixel's values, plainly."""
    if how in {"mean", "median"}:
        return float(np.mean(values) if how == "mean" else np.median(values))
    return values[-1 if how == "last" else 0]


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from(COMPOSITES),
)
def test_a_composite_leaves_gaps_out(rows: list[list[int]], how: str) -> None:
    pictures = [np.array([row], dtype="int16") for row in rows]
    found = composite(pictures, 0, how)
    floats = composite([np.where(p == 0, np.nan, p).astype("float32") for p in pictures], float("nan"), how)
    assert (found.dtype, floats.dtype) == ("int16", "float32")
    for column in range(4):
        values = [row[column] for row in rows if row[column] != 0]
        expected = slow(values, how) if values else 0.0
        assert found[0, column] == np.rint(expected)
        np.testing.assert_allclose(floats[0, column], expected if values else np.nan, rtol=1e-6)


@given(
    st.lists(st.lists(st.integers(-6, 6), min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from(["mean", "median"]),
    st.sampled_from([-2, 0, 3]),
)
def test_an_average_of_clear_samples_is_never_nodata(rows: list[list[int]], how: str, nodata: int) -> None:
    found = composite([np.array([row], dtype="int8") for row in rows], nodata, how)
    floats = composite([np.array([row], dtype="float32") for row in rows], nodata, how)
    for column in range(4):
        values = [row[column] for row in rows if row[column] != nodata]
        if not values:
            assert found[0, column] == floats[0, column] == nodata
            continue
        exact = slow(values, how)
        beside = nodata - 1 if exact < nodata else nodata + 1
        assert found[0, column] == (beside if np.rint(exact) == nodata else np.rint(exact))
        assert floats[0, column] != nodata
        np.testing.assert_allclose(floats[0, column], exact, rtol=1e-6, atol=1e-30)


def test_an_average_at_the_end_of_its_type_goes_inwards() -> None:
    samples = np.array([255, 0, 7, 7], dtype="uint8")
    assert _beside(samples, np.array([255.0, 0.0, 6.8, 7.0])).tolist() == [254, 1, 6, 8]
    assert _beside(samples, np.zeros(4)).dtype == "uint8"


@pytest.mark.parametrize("how", ["mean", "median"])
def test_averages_do_not_depend_on_the_order(how: str) -> None:
    rng = np.random.default_rng(5)
    pictures = [np.where(rng.random((8, 9)) < 0.4, np.nan, rng.normal(size=(8, 9))) for _ in range(6)]
    np.testing.assert_allclose(
        composite(pictures, float("nan"), how), composite(pictures[::-1], float("nan"), how), rtol=1e-12
    )


def test_integers_without_nodata_have_no_gaps() -> None:
    pictures = [np.array([[0, 2]], dtype="uint8"), np.array([[4, 8]], dtype="uint8")]
    np.testing.assert_array_equal(composite(pictures, None, "mean"), [[2, 5]])
    np.testing.assert_array_equal(composite(pictures, None, "first"), pictures[0])


def test_the_first_clear_picture_has_the_say_and_inputs_stay_as_they_are() -> None:
    one, other = np.array([[1, 1, 1]]), np.array([[2, 2, 2]])
    clear = [np.array([[True, False, False]]), np.array([[True, True, False]])]
    np.testing.assert_array_equal(first_clear([one, other], clear), [[1, 2, 1]])
    np.testing.assert_array_equal(one, [[1, 1, 1]])
    np.testing.assert_array_equal(clear[0], [[True, False, False]])


PERIODS = st.one_of(
    st.builds(lambda n: f"{n}D", st.integers(1, 400)),
    st.sampled_from(["1W", "5217W", "1M", "1200M", "2Y", "100Y"]),
)


@given(TIMES, TIMES, PERIODS)
def test_a_time_lies_in_its_period_and_periods_follow_each_other(time: datetime, anchor: datetime, text: str) -> None:
    period = Period.parse(text)
    start = period.start_of(time, anchor)
    following = period.next_after(start)
    assert start <= time < following
    assert period.start_of(following, anchor) == following
    assert period.start_of(following - timedelta(microseconds=1), anchor) == start


@given(st.lists(TIMES, min_size=1, max_size=8), st.integers(1, 40))
def test_periods_of_days_are_those_of_pandas(times: list[datetime], days: int) -> None:
    series = pd.Series(1, index=pd.DatetimeIndex(times).sort_values())
    counted = series.resample(f"{days}D", origin="start_day").sum()
    expected = {start.to_pydatetime() for start in counted[counted > 0].index}
    period = Period(days=days)
    assert {period.start_of(time, min(times)) for time in times} == expected


@given(TIMES)
def test_three_months_are_a_quarter(time: datetime) -> None:
    assert Period.parse("3M").start_of(time, time) == pd.Timestamp(time).to_period("Q").start_time


@pytest.mark.parametrize(
    "text", ["", "ten", "0D", "-3D", "10H", "1.5D", "99999D", "10000Y", "101Y", "1201M", "9" * 5000 + "D"]
)
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"--every takes a period such as 10D, 2W, 1M or 1Y"):
        Period.parse(text)
