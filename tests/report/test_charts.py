from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpipe.io.frames import SOURCE_COLOURS
from stpipe.report.charts import HEIGHT, WIDTH, curve_chart, limits_of_curves, share_chart
from stpipe.report.sampling import Curve

BAR = re.compile(r"M([-\d.]+) ([-\d.]+)h([\d.]+)v([\d.]+)h-[\d.]+z")
POINT = re.compile(r"M([-\d.]+) ([-\d.]+)h0")
UPRIGHT = re.compile(r"M([-\d.]+) ([-\d.]+)V([-\d.]+)")


def dates_of(days: list[int]) -> np.ndarray:
    return np.datetime64("2023-01-03T10:00", "ns") + np.array(days).astype("m8[D]").astype("m8[ns]")


days_in_order = st.lists(st.integers(0, 9000), min_size=1, max_size=60, unique=True).map(sorted)


@given(days=days_in_order, seed=st.integers(0, 99))
def test_the_bars_of_a_date_are_as_high_as_its_shares(days: list[int], seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 50, (len(days), 5))
    chart = share_chart(dates_of(days), counts)
    inside = counts[:, 1:].sum(axis=1)
    for shape in chart.bars:
        code = list(SOURCE_COLOURS).index(shape.meaning)
        assert shape.colour == SOURCE_COLOURS[shape.meaning]
        bars = BAR.findall(shape.path)
        assert "".join(f"M{x} {y}h{w}v{h}h-{w}z" for x, y, w, h in bars) == shape.path
        shown = np.flatnonzero(counts[:, code])
        assert len(bars) == len(shown)
        for (x, y, width, height), frame in zip(bars, shown, strict=True):
            assert float(height) == pytest.approx(HEIGHT * counts[frame, code] / inside[frame], abs=0.06)
            assert -10 <= float(x) <= float(x) + float(width) <= WIDTH + 10
            assert -0.1 <= float(y) <= float(y) + float(height) <= HEIGHT + 0.2
    assert "outside_domain" not in {shape.meaning for shape in chart.bars}
    assert all(0 <= tick.at <= WIDTH for tick in chart.dates)


@given(days=days_in_order, seed=st.integers(0, 99))
def test_points_lie_where_and_when_values_are(days: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = len(days)
    values = np.where(rng.random(n) < 0.2, np.nan, rng.normal(0, 10.0 ** rng.integers(-6, 6), n))
    codes = rng.choice(np.array([1, 2, 3], dtype="uint8"), n)
    half = np.where(codes == 1, 0.0, np.abs(rng.normal(size=n)))
    curve = Curve(y=0, x=0, values=values, half_widths=half, codes=codes)
    low, high = limits_of_curves([curve])
    chart = curve_chart(dates_of(days), curve, (low, high))
    known = np.flatnonzero(np.isfinite(values))
    assert sum(len(POINT.findall(shape.path)) for shape in chart.points) == len(known)
    x_of = {}
    for shape in chart.points:
        code = list(SOURCE_COLOURS).index(shape.meaning)
        mine = [i for i in known if codes[i] == code]
        for (x, y), i in zip(POINT.findall(shape.path), mine, strict=True):
            assert low + (1 - float(y) / HEIGHT) * (high - low) == pytest.approx(values[i], abs=1e-3 * (high - low))
            x_of[i] = float(x)
    at = [x_of[i] for i in sorted(x_of)]
    assert at == sorted(at)
    for shape in chart.intervals:
        assert shape.meaning != "observed"
        for _, upper, lower in UPRIGHT.findall(shape.path):
            assert 0 <= float(upper) <= float(lower) <= HEIGHT
    assert chart.line.count("L") == max(0, len(known) - 1)
    assert all(0 <= tick.at <= HEIGHT for tick in chart.values)


def test_ticks_are_dates_and_round_values() -> None:
    days = list(range(0, 700, 10))
    curve = Curve(
        y=0, x=0, values=np.linspace(0.1, 0.9, 70), half_widths=np.zeros(70), codes=np.ones(70, dtype="uint8")
    )
    chart = curve_chart(dates_of(days), curve, limits_of_curves([curve]))
    assert {"2023", "2024"} & {tick.label[:4] for tick in chart.dates}
    assert {tick.label for tick in chart.values} >= {"0.25", "0.5", "0.75"}


@given(middle=st.floats(-1e9, 1e9), span=st.floats(1e-3, 1e6))
def test_ticks_say_where_they_are(middle: float, span: float) -> None:
    curve = Curve(
        y=0, x=0, values=np.array([middle, middle + span]), half_widths=np.zeros(2), codes=np.ones(2, dtype="uint8")
    )
    low, high = limits_of_curves([curve])
    for tick in curve_chart(dates_of([0, 5]), curve, (low, high)).values:
        assert float(tick.label) == pytest.approx(low + (1 - tick.at / HEIGHT) * (high - low), abs=1e-3 * (high - low))


def test_ticks_are_the_same_whatever_a_user_likes() -> None:
    import matplotlib as mpl

    days = list(range(30))
    curve = Curve(y=0, x=0, values=np.arange(30) * 1e4, half_widths=np.zeros(30), codes=np.ones(30, dtype="uint8"))

    def chart() -> object:
        return curve_chart(dates_of(days), curve, limits_of_curves([curve]))

    usual = chart()
    liked = {"timezone": "Asia/Tokyo", "axes.formatter.limits": (-1, 1), "date.converter": "concise"}
    with mpl.rc_context({**liked, "axes.autolimit_mode": "round_numbers", "date.interval_multiples": False}):
        assert chart() == usual


@pytest.mark.parametrize(
    "values", [[1.36e-3, 1.37e-3], [2.9e6, 3.4e6], [271.3, 271.4], [5.0, 5.0], [-0.0, 0.0], [1.5e-5, 1.52e-5]]
)
def test_ticks_tell_values_of_any_size_apart(values: list[float]) -> None:
    curve = Curve(y=0, x=0, values=np.array(values), half_widths=np.zeros(2), codes=np.ones(2, dtype="uint8"))
    chart = curve_chart(dates_of([0, 5]), curve, limits_of_curves([curve]))
    labels = [tick.label for tick in chart.values]
    assert len(set(labels)) == len(labels) > 1
    assert all(len(label) < 12 for label in labels)


def test_of_many_dates_no_more_is_drawn_than_can_be_seen() -> None:
    n = 87_600
    times = np.datetime64("2010-01-01", "ns") + np.arange(n).astype("m8[h]")
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 100, (n, 5))
    chart = share_chart(times, counts)
    bars = [BAR.findall(shape.path) for shape in chart.bars]
    assert max(map(len, bars)) <= WIDTH
    for number, code in enumerate((1, 2, 3, 4)):  # on average as high as all of them
        heights = sum(float(height) for *_, height in bars[number]) / len(bars[number])
        assert heights == pytest.approx(HEIGHT * counts[:, code].sum() / counts[:, 1:].sum(), rel=0.01)
    codes = rng.integers(1, 4, n).astype("uint8")
    values = np.where(np.arange(n) % 7 == 0, np.nan, rng.normal(size=n))
    curve = Curve(y=0, x=0, values=values, half_widths=np.where(codes > 1, 0.3, 0.0), codes=codes)
    low, high = limits_of_curves([curve])
    drawn = curve_chart(times, curve, (low, high))
    at = np.array([(float(x), float(y)) for shape in drawn.points for x, y in POINT.findall(shape.path)])
    assert len(at) <= 2 * 3 * WIDTH
    assert at[:, 1].min() == pytest.approx(HEIGHT * (high - np.nanmax(values)) / (high - low), abs=0.06)
    assert at[:, 1].max() == pytest.approx(HEIGHT * (high - np.nanmin(values)) / (high - low), abs=0.06)
    along = [float(step.split()[0]) for step in drawn.line[1:].split("L")]
    assert along == sorted(along)


def test_one_date_is_in_the_middle() -> None:
    chart = share_chart(dates_of([7]), np.array([[0, 3, 1, 0, 0]]))
    ((x, _, width, height),) = BAR.findall(chart.bars[0].path)
    assert float(x) + float(width) / 2 == pytest.approx(WIDTH / 2, abs=0.1)
    assert float(height) == pytest.approx(0.75 * HEIGHT, abs=0.1)
    assert [tick.label for tick in chart.dates] == ["2023-01-10"]
