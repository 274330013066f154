"""Who says when to stop, and who judges."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stpipe.methods.teaching import scene_name
from stpipe.methods.training_run import parted


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=4), ways=st.integers(1, 3))
def test_a_scene_judges_or_says_when_to_stop_unless_it_is_its_familys_only_one(counts: list[int], ways: int) -> None:
    judges: Any = [
        SimpleNamespace(name=f"{family}, part {number}, way {way}", family=str(family))
        for family, count in enumerate(counts)
        for number in range(count)
        for way in range(ways)
    ]
    sides = parted(judges)
    assert {each.name for side in sides for each in side} == {each.name for each in judges}
    for family, count in enumerate(counts):
        mine = [{scene_name(each.name) for each in side if each.family == str(family)} for side in sides]
        assert all(mine)
        assert len(mine[0] & mine[1]) == (count == 1)
        assert abs(len(mine[0]) - len(mine[1])) <= 1
