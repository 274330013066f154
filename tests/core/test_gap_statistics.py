"""Gap statistics against a slow loop with pandas, and against the definition by hand."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpipe.core import gap_statistics as module
from stpipe.core.gap_statistics import (
    BOUNDARIES,
    BY,
    MONTHS,
    GapOptions,
    gap_calendar,
    gap_statistics,
    parse_percentiles,
)
from stpipe.errors import OptionError
from tests.gap_oracle import slow_statistics

EPOCH = pd.Timestamp("1970-01-01")


def one_pixel(
    times: list[str], clear: list[int], options: GapOptions, period: tuple[str | None, str | None] = (None, None)
) -> dict[str, dict[str, float]]:
    bounds = tuple(None if edge is None else np.datetime64(edge) for edge in period)
    calendar = gap_calendar(np.array(times, dtype="M8[ns]"), by=options.by, period=bounds)
    values = gap_statistics(np.array(clear, dtype=bool).reshape(-1, 1, 1), calendar, options)
    names = [statistic.name for statistic in options.statistics]
    return {
        group.label: dict(zip(names, row.ravel().tolist(), strict=True))
        for group, row in zip(calendar.groups, values, strict=True)
    }


def day(text: str) -> float:
    return float((pd.Timestamp(text) - EPOCH).days)


SERIES = ["2023-01-03", "2023-01-08T10:30", "2023-01-08T10:55", "2023-01-18", "2023-01-19", "2023-03-02", "2023-04-11"]
CLEAR = [0, 0, 1, 1, 1, 1, 0]


def test_the_published_definition_by_hand() -> None:
    # Clear on 8, 18 and 19 January and 2 March: 10, 1 and 42 days apart. The period has 99 days, and 6 dates.
    found = one_pixel(SERIES, CLEAR, GapOptions(percentiles=(25, 100)))["all"]
    expected = {
        "clear_count": 4,
        "gap_count": 3,
        "gap_mean": 53 / 3,
        "gap_median": 10,
        "gap_min": 1,
        "gap_max": 42,
        "gap_std": ((100 + 1 + 1764) / 3 - (53 / 3) ** 2) ** 0.5,
        "gap_p25": 5.5,
        "gap_p100": 42,
        "longest_start": day("2023-01-19"),
        "longest_end": day("2023-03-02"),
        "period_without_data": 95 / 99,
        "dates_without_data": 2 / 6,
    }
    assert list(found) == list(expected)
    assert found == pytest.approx(expected)


def test_boundaries_count_as_ends_when_included() -> None:
    # 5 days from the first date to the first clear one, and 40 from the last clear one to the last date.
    found = one_pixel(SERIES, CLEAR, GapOptions(boundaries="include"))["all"]
    assert (found["clear_count"], found["gap_count"]) == (4, 5)
    assert found["gap_mean"] == pytest.approx(98 / 5)
    assert (found["gap_min"], found["gap_median"], found["gap_max"]) == (1, 10, 42)
    # A longer period: 60 days to its end.
    found = one_pixel(SERIES, CLEAR, GapOptions(boundaries="include"), (None, "2023-05-01"))["all"]
    assert (found["gap_max"], found["longest_end"]) == (60, day("2023-05-01"))
    assert found["period_without_data"] == pytest.approx(1 - 4 / 119)


@pytest.mark.parametrize(
    ("clear", "count", "gaps"),
    [([0, 0, 0], 0, 0), ([0, 1, 0], 1, 0), ([1, 0, 1], 2, 1)],
    ids=["never clear", "clear once", "one gap"],
)
def test_few_observations(clear: list[int], count: int, gaps: int) -> None:
    times = ["2023-01-01", "2023-01-05", "2023-01-09"]
    found = one_pixel(times, clear, GapOptions(percentiles=(90,)))["all"]
    assert (found["clear_count"], found["gap_count"]) == (count, gaps)
    assert found["period_without_data"] == pytest.approx(1 - count / 9)
    assert found["dates_without_data"] == pytest.approx(1 - count / 3)
    rest = [value for name, value in found.items() if name.startswith(("gap_m", "gap_p", "gap_s", "longest"))]
    if gaps:
        assert rest == [8, 8, 8, 8, 0, 8, day("2023-01-01"), day("2023-01-09")]
    else:
        assert np.isnan(rest).all()
    # With boundaries, a pixel that is never clear has one gap: the period.
    found = one_pixel(times, clear, GapOptions(boundaries="include"))["all"]
    assert found["gap_count"] == {0: 1, 1: 2, 2: 1}[count]
    assert found["gap_mean"] * found["gap_count"] == 8


def test_the_first_of_several_longest_gaps_is_told() -> None:
    times = ["2023-01-01", "2023-01-11", "2023-01-21", "2023-01-25", "2023-02-04"]
    found = one_pixel(times, [1, 1, 1, 1, 1], GapOptions())["all"]
    assert (found["longest_start"], found["longest_end"]) == (day("2023-01-01"), day("2023-01-11"))


def test_no_gap_reaches_from_one_season_into_another() -> None:
    times = ["2022-12-01", "2023-02-01", "2023-03-10", "2023-03-20", "2023-12-31", "2024-01-10"]
    by_season = one_pixel(times, [1] * 6, GapOptions(by="season"))
    assert list(by_season) == ["DJF", "MAM", "JJA", "SON"]
    # Two winters: 62 days in one, 10 in the other; the 314 days between them are nobody's.
    assert by_season["DJF"]["gap_mean"] == 36
    assert (by_season["MAM"]["gap_count"], by_season["MAM"]["gap_max"]) == (1, 10)
    assert by_season["JJA"]["clear_count"] == 0
    assert np.isnan(by_season["JJA"]["dates_without_data"])
    assert by_season["JJA"]["period_without_data"] == 1
    by_month = one_pixel(times, [1] * 6, GapOptions(by="month", boundaries="include"))
    assert list(by_month) == list(MONTHS)
    # December 2022: 30 days to its end; December 2023: 30 days from its start.
    assert (by_month["Dec"]["gap_count"], by_month["Dec"]["gap_mean"]) == (2, 30)
    by_year = one_pixel(times, [1] * 6, GapOptions(by="year"))
    assert {label: row["gap_count"] for label, row in by_year.items()} == {"2022": 0, "2023": 3, "2024": 0}


def test_a_calendar_without_leap_days_counts_its_own_days() -> None:
    times = np.array(["2020-02-27", "2020-02-28", "2020-03-01"], dtype="M8[ns]")
    calendar = gap_calendar(times, np.array([0.0, 1.0, 2.0]))
    found = gap_statistics(np.ones((3, 1, 1), dtype=bool), calendar, GapOptions())[0, :, 0, 0]
    assert found[5] == 1  # the longest, where the common calendar has 2
    assert calendar.dates.astype(str).tolist() == ["2020-02-27", "2020-02-28", "2020-03-01"]


@st.composite
def cubes(draw: st.DrawFn) -> tuple[NDArray[np.bool_], NDArray[np.datetime64], bool]:
    """Random observations at irregular times of day, several on some days; now and then many years."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frames = draw(st.sampled_from([1, 2, 3, 8, 30]))
    longest = draw(st.sampled_from([3 * 3600, 86_400, 12 * 86_400, 400 * 86_400]))
    seconds = np.cumsum(rng.integers(1, longest, frames))
    times = np.datetime64("2019-10-15T00:00:07", "ns") + seconds * np.timedelta64(1, "s")
    share = rng.uniform(0, 1, (1, 4, 5)) * draw(st.sampled_from([0.2, 1.0, 2.0]))
    return rng.random((frames, 4, 5)) < share, times, longest == 400 * 86_400


@given(cubes(), st.sampled_from(BOUNDARIES), st.sampled_from(BY), st.booleans())
def test_random_series_agree_with_a_loop(
    cube: tuple[NDArray[np.bool_], NDArray[np.datetime64], bool], boundaries: str, by: str, wider: bool
) -> None:
    clear, times, _ = cube
    options = GapOptions(boundaries=boundaries, by=by, percentiles=(0, 10, 66.6, 100))
    period = (times[0] - np.timedelta64(11, "D"), times[-1] + np.timedelta64(40, "D")) if wider else (None, None)
    calendar = gap_calendar(times, by=by, period=period)
    found = gap_statistics(clear, calendar, options)
    names = [statistic.name for statistic in options.statistics]
    for y, x in [(0, 0), (1, 3), (3, 4)]:
        expected = slow_statistics(clear[:, y, x], times, boundaries, by, options.percentiles, period)
        assert [group.key for group in calendar.groups] == list(expected)
        for row, numbers in zip(found[:, :, y, x], expected.values(), strict=True):
            for name, value in zip(names, row, strict=True):
                assert value == pytest.approx(numbers[name], rel=2e-6, abs=1e-5, nan_ok=True), name


def test_long_and_dense_series_agree_with_a_loop() -> None:
    """More than 255 dates, gaps longer than 255 days, and a period longer than 16 bits of days."""
    rng = np.random.default_rng(5)
    dense = np.datetime64("2000-01-01", "ns") + np.arange(700) * np.timedelta64(1, "D")
    clear = rng.random((700, 2, 3)) < np.array([[0.5, 0.03, 0.9], [1.0, 0.002, 0.01]])
    centuries = np.datetime64("1700-01-01", "ns") + np.sort(rng.integers(0, 400 * 365, 40)) * np.timedelta64(1, "D")
    for times, seen in ((dense, clear), (centuries, rng.random((40, 2, 3)) < 0.6)):
        options = GapOptions(boundaries="include", percentiles=(5, 95))
        found = gap_statistics(seen, gap_calendar(times), options)
        for y, x in np.ndindex(2, 3):
            (expected,) = slow_statistics(seen[:, y, x], times, "include", "none", (5, 95)).values()
            assert found[0, :, y, x].tolist() == pytest.approx(list(expected.values()), rel=2e-6, nan_ok=True)


def test_blocks_have_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    clear = rng.random((9, 30, 41)) < 0.4
    times = np.datetime64("2023-01-01", "ns") + np.cumsum(rng.integers(1, 40, 9)) * np.timedelta64(1, "D")
    options = GapOptions(percentiles=(25, 75), by="season")
    calendar = gap_calendar(times, by="season")
    whole = gap_statistics(clear, calendar, options)
    for samples in (1, 10 * 41 * 7, 10 * 13):
        monkeypatch.setattr(module, "BLOCK_SAMPLES", samples)
        assert np.array_equal(gap_statistics(clear, calendar, options), whole, equal_nan=True)


def test_they_go_where_they_are_wanted_and_nowhere_else() -> None:
    rng = np.random.default_rng(2)
    clear, domain = rng.random((12, 30, 40)) < 0.4, rng.random((30, 40)) < 0.8
    calendar = gap_calendar(np.arange(0, 36, 3).astype("M8[D]").astype("M8[ns]"))
    expected = gap_statistics(clear, calendar, GapOptions(), domain=domain)
    room = np.full((1, expected.shape[1], 50, 60), -1, dtype=np.float32)
    place = room[..., 39:9:-1, 5:45]
    assert gap_statistics(clear, calendar, GapOptions(), domain=domain, out=place) is place
    assert np.array_equal(place, expected, equal_nan=True)
    place[...] = -1
    assert (room == -1).all()


def test_outside_the_domain_there_are_no_statistics() -> None:
    times = np.array(["2023-01-01", "2023-01-05"], dtype="M8[ns]")
    domain = np.array([[True, False]])
    found = gap_statistics(np.ones((2, 1, 2), dtype=bool), gap_calendar(times), GapOptions(), domain=domain)
    assert np.isnan(found[..., 1]).all()
    assert not np.isnan(found[..., 0]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boundaries": "both"}, "boundaries are one of exclude, include, got 'both'"),
        ({"by": "week"}, "gaps are told apart by year, season or month, got by 'week'"),
        ({"percentiles": (50.0, 101.0)}, "percentiles lie from 0 to 100, got 101"),
        ({"percentiles": (float("nan"),)}, "percentiles lie from 0 to 100, got nan"),
        ({"percentiles": (5.0, 5.0)}, "percentiles are named once each, got 5, 5"),
        ({"percentiles": (0.1, 0.9)}, "percentiles go up to 100, got 0.1, 0.9; are 10, 90 meant?"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        GapOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "10;90", "10,,90", "-1", "100.5", "ten"])
def test_percentiles_that_are_none_are_refused(text: str) -> None:
    message = f"--percentiles needs numbers from 0 to 100 such as 10,90, got {text!r}"
    with pytest.raises(OptionError, match=re.escape(message)):
        parse_percentiles("--percentiles", text)


@pytest.mark.parametrize("hours", [0, 12, 23.9])
def test_days_of_a_calendar_without_leap_days_are_counted_in_it_whatever_the_clock(hours: float) -> None:
    times = np.array(["2020-02-28", "2020-03-01"], dtype="M8[ns]")
    times[1] += np.timedelta64(int(hours * 3600), "s")
    own, usual = gap_calendar(times, np.array([0.0, 1 + hours / 24])), gap_calendar(times)
    assert (own.numbers.tolist(), usual.numbers.tolist()) == ([0, 1], [0, 2])
    same = gap_calendar(times, np.array([0.0, 2 + hours / 24]))
    assert same.numbers.tolist() == [0, 2]
