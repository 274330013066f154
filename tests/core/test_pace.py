"""The rate of a stage against stages that are simulated task by task."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.pace import LEAST, SETTLED, STEP, WINDOW, Pace


def ends(hands: int, task: float, *, first: float, phase: float, rounds: int) -> list[float]:
    """Return when tasks end if each worker does so many, the first of which takes longer, in order."""
    starts = [first + phase * task * hand / hands for hand in range(hands)]
    return sorted(start + task * number for start in starts for number in range(rounds))


def paced(moments: list[float], hands: int) -> Pace:
    pace = Pace()
    for made, moment in enumerate(moments, start=1):
        pace.see(moment, made=made, hands=hands)
    return pace


@given(
    hands=st.integers(1, 40),
    task=st.floats(0.02, 900),
    slowness=st.floats(0, 200),
    phase=st.floats(0, 1),
)
def test_the_rate_is_that_of_all_tasks_but_the_first_of_each_worker(
    hands: int, task: float, slowness: float, phase: float
) -> None:
    rounds = max(8, math.ceil(2 * SETTLED / task))
    moments = ends(hands, task, first=slowness, phase=phase, rounds=rounds)
    rate = paced(moments, hands).rate(moments[-1])
    assert rate is not None
    # All tasks but a round, give or take one in which workers begin at different times.
    assert rate == pytest.approx(hands / task, rel=0.3)


@given(hands=st.integers(1, 40), task=st.floats(0.02, 900), phase=st.floats(0, 1), later=st.floats(-1e6, 1e6))
def test_what_the_clock_began_at_does_not_matter(hands: int, task: float, phase: float, later: float) -> None:
    moments = ends(hands, task, first=task, phase=phase, rounds=30)
    now = moments[-1]
    rate, shifted = paced(moments, hands).rate(now), paced([m + later for m in moments], hands).rate(now + later)
    if rate is None or shifted is None:  # to the last bit at the least time that is asked for
        assert now - moments[0] < SETTLED + 2 * STEP + 2 * task
    else:
        assert shifted == pytest.approx(rate, rel=0.05)


@given(hands=st.integers(1, 40), task=st.floats(1, 900), waits=st.lists(st.floats(0, 1e5), min_size=2, max_size=20))
def test_a_stage_that_stands_still_slows_down_and_ends_never_nearer(
    hands: int, task: float, waits: list[float]
) -> None:
    moments = ends(hands, task, first=0, phase=1, rounds=20)
    pace = paced(moments, hands)
    rates = [pace.rate(moments[-1] + wait) for wait in sorted(waits)]
    assert all(rate is not None for rate in rates)
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(rates))  # type: ignore[operator]
    far = pace.rate(moments[-1] + 1000 * task * 20)
    assert far is not None
    assert far < hands / task / 500
    assert pace.seconds_for(10, moments[-1]) == pytest.approx(10 * task / hands, rel=0.3)


@given(hands=st.integers(1, 40))
def test_nothing_is_said_before_there_is_something_to_go_by(hands: int) -> None:
    pace = Pace()
    for made in range(1, hands + max(LEAST, hands)):
        pace.see(100.0 * made, made=made, hands=hands)
        assert pace.rate(100.0 * made) is None
        assert pace.seconds_for(5, 100.0 * made) is None
    pace.see(1e5, made=hands + max(LEAST, hands), hands=hands)
    assert pace.rate(1e5) is not None


def test_a_slow_hour_is_forgotten() -> None:
    slow = [10.0 * number for number in range(360)]
    quick = [slow[-1] + 0.1 * number for number in range(1, 4000)]
    pace = paced(slow + quick, 1)
    assert pace.rate(quick[-1]) == pytest.approx(10, rel=0.05)


def test_many_short_tasks_take_no_memory() -> None:
    pace = paced([0.01 * number for number in range(200_000)], 4)
    assert len(pace._kept) <= WINDOW / STEP + 3


def test_tasks_whose_work_was_there_are_not_made_and_change_nothing() -> None:
    moments = ends(4, 2.0, first=20.0, phase=0.5, rounds=10)
    alone, resumed = Pace(), Pace()
    for second in range(20):
        resumed.see(float(second) - 20, made=0, hands=4)  # thousands that were there end in this time
    for made, moment in enumerate(moments, start=1):
        alone.see(moment, made=made, hands=4)
        resumed.see(moment, made=made, hands=4)
    assert resumed.rate(moments[-1]) == alone.rate(moments[-1])
