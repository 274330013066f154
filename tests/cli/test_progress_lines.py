"""Times, rates and lines, as people read them: read back, they are what was meant."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpipe.cli.progress_lines import Standing, duration, ended_line, memory, running_line, speed

SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "days": 86400.0}
RATES = {"a second": 1.0, "million a second": 1e6, "a minute": 1 / 60, "an hour": 1 / 3600}


def read(text: str, units: dict[str, float]) -> float:
    number, unit = text.split(" ", 1)
    return float(number.replace(",", "")) * units[unit]


@given(st.floats(0.5, 1e8))
def test_a_time_is_told_to_a_sixth_of_itself(seconds: float) -> None:
    assert read(duration(seconds), SECONDS) == pytest.approx(seconds, rel=1 / 6)


@given(st.floats(0, 1e7), st.floats(0, 1e7))
def test_a_longer_time_is_not_told_as_a_shorter_one(one: float, other: float) -> None:
    short, long = sorted((one, other))
    assert read(duration(short), SECONDS) <= read(duration(long), SECONDS) * 1.03


@given(st.floats(1e-3, 1e9))
def test_a_rate_is_told_to_a_tenth_of_itself(rate: float) -> None:
    assert read(speed(rate), RATES) == pytest.approx(rate, rel=0.1)


@given(st.integers(2**20, 2**45), st.integers(0, 2**45))
def test_memory_is_told_with_its_limit(most: int, limit: int) -> None:
    text = memory(most, limit)
    assert (" of " in text) == (limit > 0)
    assert re.fullmatch(r"[\d.]+( [GM]iB)?( of [\d.]+)? [GM]iB", text)


standings = st.builds(
    Standing,
    stage=st.sampled_from(["survey", "fill", "mosaic", "digests"]),
    seconds=st.floats(0, 1e6),
    total=st.integers(0, 10**9),
    ended=st.integers(0, 10**9),
    done=st.integers(0, 10**6),
    had=st.integers(0, 10**6),
    failed=st.integers(0, 100),
    rate=st.none() | st.floats(1e-6, 1e8),
    left=st.none() | st.floats(0, 1e8),
    workers=st.none() | st.integers(0, 5000),
    workers_seen=st.integers(0, 5000),
    memory=st.integers(0, 2**40),
    limit=st.integers(0, 2**40),
    retries=st.integers(0, 10**5),
).filter(lambda at: at.ended <= at.total)


@given(standings)
def test_a_line_is_one_line_with_its_numbers_and_nothing_unknown(at: Standing) -> None:
    for line in (running_line(at), ended_line(at)):
        assert "\n" not in line
        assert not re.search(r"None|nan|inf|[-]\d", line)
        assert line.startswith(at.stage)
        assert (f"{at.failed:,} failed" in line) == ((at.total > 0 or line == running_line(at)) and at.failed > 0)
        assert not re.search(r"\b1 (blocks|tiles|workers|retries)\b", line)
    if 0 < at.total < 10**7:
        assert f"{at.ended:,} of {at.total:,}" in running_line(at)
        share = int(re.search(r"\((\d+) %\)", running_line(at))[1])  # type: ignore[index]
        assert share <= 100 * at.ended / at.total < share + 1
        assert (share == 100) == (at.ended == at.total)
        assert ("left" in running_line(at)) == (at.left is not None and at.ended < at.total)
