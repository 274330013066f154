"""Which answer is better, told by whole frames: against plain loops, and what must not be believed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.comparison import TILE
from stpipe.methods.evidence import LEAST_FRAMES, compare, suited
from stpipe.methods.lessons import Samples
from stpipe.methods.mixing import SMALLEST_ERROR, SQUARE, Mixture


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), frames=st.integers(2, 9))
def test_a_verdict_is_that_of_a_loop_over_frames(seed: int, frames: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.concatenate([np.arange(frames), rng.integers(0, frames, 80)]) * 3
    before, after = (rng.exponential(size=groups.size).astype(np.float32) for _ in range(2))
    ratios, shares = [], []
    for number in np.unique(groups):
        own = groups == number
        ratios.append(np.log((after[own].mean() + SMALLEST_ERROR) / (before[own].mean() + SMALLEST_ERROR)))
        shares.append(own.mean())
    middle = sum(r * s for r, s in zip(ratios, shares, strict=True))
    variance = sum((s * (r - middle)) ** 2 for r, s in zip(ratios, shares, strict=True)) * frames / (frames - 1)
    verdict = compare(before, after, groups)
    assert verdict.log_ratio == pytest.approx(middle, abs=1e-5)
    assert verdict.standard_error == pytest.approx(variance**0.5, abs=1e-5)
    assert compare(after, before, groups).log_ratio == pytest.approx(-verdict.log_ratio, abs=1e-6)


def test_a_single_frame_proves_nothing() -> None:
    verdict = compare(np.ones(50, np.float32), np.full(50, 0.5, np.float32), np.zeros(50, dtype=np.intp))
    assert verdict.gain > 0.4
    assert not verdict.holds(0.1)


def samples(seed: int, frames: int, *, better: int, odd: int | None = None) -> Samples:
    """Two guides of which one is better, but in an odd frame, whose errors are many times as large."""
    rng = np.random.default_rng(seed)
    count = 200 * frames
    which = np.arange(count) % frames
    truth = rng.standard_normal(count)
    noise = rng.standard_normal((count, 2)) * np.where(np.arange(2) == better, 0.3, 0.6)
    if odd is not None:
        noise[which == odd] = rng.standard_normal((int((which == odd).sum()), 2)) + np.where(
            np.arange(2) == better, 30, 1
        )
    return Samples(
        answers=(truth[:, None] + noise).astype(np.float32),
        observed=np.full((count, 3), np.nan, np.float32),
        circumstances=np.full((count, 8), 3.0, np.float32),
        truth=truth.astype(np.float32),
        frames=which,
        spots=np.zeros((count, 2), np.int32),
    )


def weight(mixture: Mixture, guide: int) -> float:
    return mixture.weights[1][guide]


def test_what_other_frames_bear_out_is_taken_up_and_what_they_do_not_is_left() -> None:
    usual, rng = Mixture.even(2), np.random.default_rng(0)
    taken = suited(samples(0, 12, better=1), slice(2), usual, enough=1.0, rng=rng)
    assert weight(taken, 1) > 0.7
    rng = np.random.default_rng(1)
    noise = samples(1, 12, better=1)
    # The guide that is better changes from frame to frame: what some frames say does not hold on others.
    turned = np.where((noise.frames % 2 == 0)[:, None], noise.answers, noise.answers[:, ::-1])
    left = suited(
        replace(noise, answers=turned),
        slice(2),
        usual,
        enough=1.0,
        rng=rng,
    )
    assert weight(left, 1) == pytest.approx(0.5, abs=0.12)


def test_an_odd_frame_does_not_outvote_the_others() -> None:
    found = samples(2, 12, better=1, odd=4)
    plain = Mixture.best(found.answers, found.truth, found.distance)
    fair = Mixture.best(found.answers, found.truth, found.distance, frames=found.frames)
    assert weight(plain, 1) < weight(fair, 1)
    assert weight(fair, 1) > 0.7


@pytest.mark.parametrize("frames", [1, LEAST_FRAMES - 1])
def test_few_frames_move_the_weights_a_little(frames: int) -> None:
    made = suited(samples(3, frames, better=0), slice(2), Mixture.even(2), enough=16.0, rng=np.random.default_rng(0))
    assert 0.5 < weight(made, 0) < 0.5 + 0.5 * frames / (frames + 16) + 1e-6


def one_frame(seed: int, tiles: int, *, turned: bool = False) -> Samples:
    """A single frame of a row of tiles; the guide that is better may change from tile to tile."""
    made = samples(seed, 1, better=0)
    rng = np.random.default_rng(seed)
    made = Samples.of([made] * tiles)
    tile = np.arange(made.truth.size) % tiles
    spots = np.stack([rng.integers(0, TILE, tile.size), TILE * tile + rng.integers(0, TILE, tile.size)], axis=1)
    answers = np.where((turned & (tile % 2 == 1))[:, None], made.answers[:, ::-1], made.answers)
    return replace(made, answers=answers, spots=spots.astype(np.int32))


def test_parts_of_a_single_frame_are_asked_where_there_are_no_other_frames() -> None:
    usual = Mixture.only(1, 2)
    taken = suited(one_frame(0, 24), slice(2), usual, enough=4.0, rng=np.random.default_rng(0))
    best = Mixture.best(one_frame(0, 24).answers, one_frame(0, 24).truth, one_frame(0, 24).distance)
    assert weight(taken, 0) == pytest.approx(weight(best, 0), abs=0.02)
    assert weight(best, 0) > 0.7
    alone = suited(one_frame(0, 1), slice(2), usual, enough=4.0, rng=np.random.default_rng(0))
    assert 0 < weight(alone, 0) < weight(taken, 0) - 0.2
    fair = suited(one_frame(0, 24, turned=True), slice(2), Mixture.even(2), enough=4.0, rng=np.random.default_rng(0))
    assert weight(fair, 0) == pytest.approx(0.5, abs=0.12)


def scattered(made: Samples, seed: int) -> Samples:
    """The same samples all over frames of 12 x 12 squares."""
    spots = np.random.default_rng(seed).integers(0, 12 * SQUARE * 3, (made.truth.size, 2))
    return replace(made, spots=spots.astype(np.int32))


def test_parts_of_frames_say_more_than_frames_where_frames_agree() -> None:
    usual, rng = Mixture.only(1, 2), np.random.default_rng(0)
    frames = 8
    whole, parts = (
        suited(each, slice(2), usual, enough=16.0, rng=rng)
        for each in (samples(4, frames, better=0), scattered(samples(4, frames, better=0), 0))
    )
    assert 0 < weight(whole, 0) < frames / (frames + 16)
    assert weight(parts, 0) > 0.7  # the best mean has 0.8 of it


def test_parts_of_frames_say_nothing_where_frames_disagree() -> None:
    usual, noise = Mixture.even(2), scattered(samples(5, 12, better=1), 1)
    turned = np.where((noise.frames % 2 == 0)[:, None], noise.answers, noise.answers[:, ::-1])
    left = suited(replace(noise, answers=turned), slice(2), usual, enough=16.0, rng=np.random.default_rng(1))
    assert weight(left, 1) == pytest.approx(0.5, abs=0.05)
