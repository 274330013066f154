"""Splits: sides never touch, nothing is in two parts, and what can't be split is said."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stpipe.core.split import (
    BETWEEN_FRAMES,
    LARGEST_PART,
    LEAST_FRAMES,
    LEAST_SIDE,
    check_share,
    parts_of,
    split_cube,
    split_names,
    stem_of,
)
from stpipe.core.windows import Window
from stpipe.errors import CubeError, OptionError

EXTENTS = st.tuples(st.integers(1, 90), st.integers(1, 400), st.integers(1, 400))
SHARES = st.floats(0.01, 0.5)


@given(extent=EXTENTS, share=SHARES, strip=st.integers(0, 40))
def test_sides_of_a_cube_lie_apart_and_are_large_enough(extent: tuple[int, int, int], share: float, strip: int) -> None:
    try:
        split = split_cube(extent, share=share, strip=strip, name="cube")
    except CubeError:
        assert max(extent[1:]) < 2 * LEAST_SIDE + strip
        assert extent[0] < 2 * LEAST_FRAMES + BETWEEN_FRAMES
        return
    learned, held_out = split.learned, split.held_out
    whole = Window.of(extent)
    assert whole.contains(learned)
    assert whole.contains(held_out)
    apart = strip if split.by == "region" else BETWEEN_FRAMES
    assert held_out.start[split.axis] - learned.stop[split.axis] == apart
    least = LEAST_SIDE if split.by == "region" else LEAST_FRAMES
    assert min(learned.shape[split.axis], held_out.shape[split.axis]) >= least
    for axis in {0, 1, 2} - {split.axis}:
        assert learned.shape[axis] == held_out.shape[axis] == extent[axis]
    if split.by == "period":
        assert max(extent[1:]) < 2 * LEAST_SIDE + strip


@given(extent=st.tuples(st.integers(8, 90), st.integers(100, 400), st.integers(100, 400)), share=SHARES)
def test_about_the_share_is_held_out_and_more_where_more_was_asked_for(
    extent: tuple[int, int, int], share: float
) -> None:
    split = split_cube(extent, share=share, strip=8, name="cube")
    rest = extent[split.axis] - 8
    held = split.held_out.shape[split.axis]
    assert held == LEAST_SIDE or abs(held - share * rest) <= 4.5
    assert held <= split_cube(extent, share=0.5, strip=8, name="cube").held_out.shape[split.axis]


@given(
    extent=st.tuples(st.integers(1, 200), st.integers(1, 300), st.integers(1, 300)),
    corner=st.tuples(st.integers(0, 9), st.integers(0, 99), st.integers(0, 99)),
    samples=st.integers(1, 10**8),
)
def test_parts_cover_a_window_once(extent: tuple[int, int, int], corner: tuple[int, int, int], samples: int) -> None:
    assume(np.prod(extent) < 2 * 10**6)
    stop = tuple(first + length for first, length in zip(corner, extent, strict=True))
    count = np.zeros(stop, dtype=np.int8)
    for part in parts_of(Window(corner, stop), samples=samples):
        count[part.slices] += 1
        assert all(length <= limit for length, limit in zip(part.shape, LARGEST_PART, strict=True))
        assert min(part.shape) >= 1
    inside = tuple(slice(first, last) for first, last in zip(corner, stop, strict=True))
    assert (count[inside] == 1).all()
    assert count.sum() == np.prod(extent)


def test_parts_are_small_where_little_may_be_learned_from() -> None:
    window = Window.of((60, 960, 960))
    assert parts_of(window, samples=10**8)[0].shape == (60, 96, 96)
    assert parts_of(window, samples=10**6)[0].shape == (60, 64, 64)
    assert parts_of(window, samples=1)[0].shape == (60, 32, 32)


NAMES = st.sets(
    st.tuples(st.sampled_from(["ndvi_", "b8_", ""]), st.integers(0, 9), st.integers(0, 3), st.integers(0, 3)),
    min_size=2,
    max_size=40,
).map(lambda found: [f"{stem}{t}_{y}_{x}" for stem, t, y, x in sorted(found)])


@given(names=NAMES, share=SHARES)
def test_blocks_of_one_number_stay_on_one_side(names: list[str], share: float) -> None:
    split = split_names(names, share=share, place="blocks")
    sides = (split.learned, split.between, split.held_out)
    assert sorted(itertools.chain(*sides)) == sorted(names)
    assert split.learned
    assert split.held_out
    number = re.fullmatch(r"number (\d) of their names", split.by)
    if number is None:
        assert len(split.held_out) + len(split.learned) + len(split.between) == len(names)
        return
    position = int(number[1]) - 4
    groups = [{int(name.split("_")[position]) for name in side} for side in sides]
    assert not groups[0] & groups[2]
    assert len(groups[1]) <= 1
    assert max(groups[0] | groups[1]) < min(groups[2])


def test_blocks_are_split_by_time_unless_there_is_too_little_of_it() -> None:
    by_time = split_names([f"{t}_{y}_0" for t in range(12) for y in range(4)], share=0.25, place="blocks")
    assert by_time.by == "number 1 of their names"
    assert {name.split("_")[0] for name in by_time.held_out} == {"9", "10", "11"}
    assert {name.split("_")[0] for name in by_time.between} == {"8"}
    by_place = split_names([f"{t}_{y}_0" for t in range(2) for y in range(4)], share=0.25, place="blocks")
    assert by_place.by == "number 2 of their names"
    assert by_place.held_out == ("0_3_0", "1_3_0")
    unnumbered = split_names(["south", "north", "west", "east"], share=0.25, place="blocks")
    assert (unnumbered.by, unnumbered.held_out) == ("the order of their names", ("west",))


@pytest.mark.parametrize(
    ("name", "stem"), [("a_1_2_3_4", "a_1"), ("7", ""), ("field7", "field7"), ("a__1", "a"), ("_1", "")], ids=str
)
def test_a_stem_is_what_comes_before_three_numbers(name: str, stem: str) -> None:
    assert stem_of(name) == stem


def test_what_cannot_be_split_is_said_with_both_ways() -> None:
    with pytest.raises(
        CubeError, match=r"nothing of field .* 96 pixels along y or x, by period 8 frames.*\(7, 90, 95\)"
    ):
        split_cube((7, 90, 95), share=0.25, strip=32, name="field")
    with pytest.raises(CubeError, match="blocks holds one block"):
        split_names(["a_0_0_0"], share=0.25, place="blocks")


@pytest.mark.parametrize("share", [0.0, -0.1, 0.51, float("nan"), float("inf")], ids=str)
def test_shares_that_make_no_sense_are_refused(share: float) -> None:
    with pytest.raises(OptionError, match=r"--hold-out is a share above 0 and up to 0.5"):
        check_share(share)
