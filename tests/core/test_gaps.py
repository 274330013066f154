"""Laws of the artificial gaps that methods learn from and are scored on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stpipe.core.gap_classes import EDGE, RUN, WHOLE_FRAME, report_classes
from stpipe.core.gaps import SHARE, Purpose, draw_gaps, generator


def cloudy(seed: int, shape: tuple[int, int, int], share: float, *, empty: tuple[int, ...] = ()) -> np.ndarray:
    """Samples under clouds that cover about a share of each frame."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=shape), (0, 4, 4), mode="wrap")
    levels = np.quantile(noise, share, axis=(1, 2), keepdims=True)
    valid = noise > levels if share else np.ones(shape, dtype=bool)
    valid[list(empty)] = False
    return valid


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 14), st.integers(1, 40), st.integers(1, 40)),
    share=st.sampled_from([0.0, 0.1, 0.6, 0.95]),
    emptied=st.integers(0, 6),
)
@example(seed=4, shape=(4, 4, 1), share=0.6, emptied=3)
def test_a_draw_hides_some_of_what_is_valid_and_leaves_most(
    seed: int, shape: tuple[int, int, int], share: float, emptied: int
) -> None:
    valid = cloudy(seed, shape, share, empty=tuple(range(min(emptied, shape[0] - 1))))
    hidden = draw_gaps(valid, np.random.default_rng(seed))
    assert not (hidden & ~valid).any()
    assert hidden.sum() <= max(1, SHARE[1] * valid.sum())
    if valid.sum() >= 2:
        assert hidden.any()
        assert (valid & ~hidden).any()
    np.testing.assert_array_equal(hidden, draw_gaps(valid, np.random.default_rng(seed)))


def test_about_as_much_is_hidden_as_was_asked_for() -> None:
    valid = cloudy(1, (20, 64, 64), 0.4)
    for low, high in ((0.05, 0.25), (0.1, 0.12)):
        shares = [
            draw_gaps(valid, np.random.default_rng(seed), share=(low, high)).sum() / valid.sum() for seed in range(20)
        ]
        assert all(0.8 * low < share <= high for share in shares)
    assert np.ptp(shares) > 0.001


def test_whole_frames_and_runs_come_up_as_in_the_cube_and_always_now_and_then() -> None:
    def kinds(valid: np.ndarray) -> np.ndarray:
        counts = np.zeros(5)
        for seed in range(40):
            hidden = draw_gaps(valid, np.random.default_rng(seed))
            counts += np.bincount(report_classes(valid & ~hidden)[hidden], minlength=5)[:5]
        return counts / counts.sum()

    none = kinds(cloudy(2, (24, 48, 48), 0.3))
    many = kinds(cloudy(2, (24, 48, 48), 0.3, empty=(3, 4, 5, 10, 11, 12, 13, 18)))
    assert 0.02 < none[WHOLE_FRAME] < 0.2
    assert 0.02 < none[RUN] < 0.2
    assert many[RUN] + many[WHOLE_FRAME] > 2 * (none[RUN] + none[WHOLE_FRAME])


def test_shapes_are_those_of_other_dates_at_the_same_place() -> None:
    """A cube whose clouds always cover one half hides mostly what lies there."""
    valid = np.ones((16, 32, 32), dtype=bool)
    valid[::2, :, :16] = False
    left = right = 0
    for seed in range(30):
        hidden = draw_gaps(valid, np.random.default_rng(seed))
        # What is hidden whole says nothing of shapes.
        part = hidden[~(hidden | ~valid).all(axis=(1, 2))]
        left, right = left + int(part[:, :, :16].sum()), right + int(part[:, :, 16:].sum())
    assert left > 2 * right


def test_a_lone_frame_gets_its_own_shapes_elsewhere() -> None:
    valid = cloudy(5, (1, 64, 64), 0.3)
    hidden = draw_gaps(valid, np.random.default_rng(0))
    assert 0.04 * valid.sum() < hidden.sum() <= 0.25 * valid.sum()


def test_a_gap_that_never_moves_is_not_taken_for_a_cloud() -> None:
    """Land that nobody declared is no gap: the draw behaves as if it were not there."""
    valid = np.ones((10, 40, 40), dtype=bool)
    valid[:, :, :20] = False
    land = ~valid[0]
    hidden = draw_gaps(valid, np.random.default_rng(3))
    assert 0.04 * valid.sum() < hidden.sum() <= 0.25 * valid.sum()
    classes = report_classes(valid & ~hidden, domain=~land)[hidden]
    assert (classes <= EDGE).any()


def test_nothing_and_a_lone_sample_are_left_alone() -> None:
    nothing = np.zeros((3, 4, 4), dtype=bool)
    assert not draw_gaps(nothing, np.random.default_rng(0)).any()
    nothing[1, 2, 2] = True
    assert not draw_gaps(nothing, np.random.default_rng(0)).any()


def test_the_frames_around_a_whole_hidden_one_keep_what_they_have() -> None:
    valid = np.ones((20, 16, 16), dtype=bool)
    seen = 0
    for seed in range(30):
        share = draw_gaps(valid, np.random.default_rng(seed)).mean(axis=(1, 2))
        for t in np.flatnonzero(share == 1):
            around = share[[s for s in (t - 1, t + 1) if 0 <= s < 20]]
            assert set(around) <= {0.0, 1.0}
            seen += 1
    assert seen > 5


def test_no_two_purposes_draw_the_same_at_any_seed() -> None:
    """Zeros at the end of a seed mean nothing to NumPy: as many numbers as a purpose likes, it has its own draws."""
    first = [
        generator(purpose, seed, *numbers).random()
        for purpose in Purpose
        for seed in range(12)
        for numbers in [(0,) * int(purpose % 4)]
    ]
    assert len(set(first)) == len(first)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    frames=st.integers(1, 8),
    tiles=st.integers(1, 3),
    share=st.sampled_from([0.0, 0.3, 0.9]),
)
def test_what_clouds_hide_from_one_tile_of_a_pass_they_hide_from_all(
    seed: int, frames: int, tiles: int, share: float
) -> None:
    clear = cloudy(seed, (frames, 24, 32), share)
    valid = np.repeat(clear, tiles, axis=0)
    days = (5.0 * np.arange(frames)[:, None] + np.arange(tiles) / 5000).ravel()
    hidden = draw_gaps(valid, np.random.default_rng(seed), days=days)
    assert not (hidden & ~valid).any()
    assert hidden.any() or valid.sum() < 2
    if clear.sum() >= 2:
        for t in range(0, len(valid), tiles):
            np.testing.assert_array_equal(hidden[t : t + tiles], hidden[t : t + 1].repeat(tiles, axis=0))
    if tiles == 1:
        np.testing.assert_array_equal(hidden, draw_gaps(valid, np.random.default_rng(seed)))


@pytest.mark.parametrize("edge", [8, 28, 48])
def test_gaps_of_a_single_tile_are_hidden_as_often_as_they_are_there(edge: int) -> None:
    clear = cloudy(2, (20, 48, 96), 0.3)
    valid = np.repeat(clear, 2, axis=0)
    valid[0::2, :, 96 - edge :] = valid[1::2, :, :edge] = False
    days = (5.0 * np.arange(20)[:, None] + np.array([0, 2e-4])).ravel()
    seen = np.repeat(valid[0::2] | valid[1::2], 2, axis=0)
    wanted = (seen & ~valid).sum() / (~valid).sum()
    shares, sizes = [], []
    for seed in range(12):
        hidden = draw_gaps(valid, np.random.default_rng(seed), days=days)
        assert not (hidden & ~valid).any()
        left = valid & ~hidden
        shown = np.repeat(left[0::2] | left[1::2], 2, axis=0)
        shares.append((hidden & shown).sum() / hidden.sum())
        sizes.append(hidden.sum() / valid.sum())
    if edge < 48:  # else nothing is seen twice
        assert np.mean(shares) == pytest.approx(wanted, abs=0.2)
    assert max(sizes) < 0.35
