"""Means of guides: against a general solver, and what they must not do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from stpipe.methods.mixing import NODES_PX, SQUARE, Mixture, least_absolute, memberships, squares


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_weights_are_as_good_as_a_general_solver_finds(seed: int, guides: int) -> None:
    rng = np.random.default_rng(seed)
    errors = rng.standard_normal((400, guides)) * rng.uniform(0.2, 2, guides) + 0.3 * rng.standard_normal((400, 1))
    weights = least_absolute(errors, np.ones(400))
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)

    # minimise sum(u + v) with errors @ w = u - v: the least absolute error as a linear programme
    n = len(errors)
    cost = np.concatenate([np.zeros(guides), np.ones(2 * n)])
    equal = np.vstack([np.hstack([errors, -np.eye(n), np.eye(n)]), np.append(np.ones(guides), np.zeros(2 * n))])
    best = optimize.linprog(cost, A_eq=equal, b_eq=np.append(np.zeros(n), 1), method="highs").fun / n
    assert np.abs(errors @ weights).mean() <= 1.01 * best + 1e-6


def test_near_and_far_have_weights_of_their_own_and_between_there_is_no_step() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(20_000).astype(np.float32)
    distance = rng.choice([1.0, 24.0, 1000.0], truth.size).astype(np.float32)
    near, far = truth + (distance > 2), truth + (distance < 9)
    mixture = Mixture.best(np.stack([near, far], axis=1), truth, distance)
    assert mixture.weights[0][0] > 0.8
    assert mixture.weights[3][1] > 0.8
    at = mixture.at(np.linspace(0, 30, 3001, dtype=np.float32))
    assert np.abs(np.diff(at, axis=0)).max() < 0.01


@settings(max_examples=30)
@given(st.lists(st.floats(0, 2000, width=32), min_size=1, max_size=20))
def test_memberships_sum_to_one(distances: list[float]) -> None:
    found = memberships(np.array(distances, dtype=np.float32))
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    assert found.shape == (len(distances), len(NODES_PX))


def test_a_number_added_to_all_guides_is_added_to_the_mean() -> None:
    rng = np.random.default_rng(1)
    answers = rng.standard_normal((500, 3)).astype(np.float32)
    mixture = Mixture.best(answers, answers[:, 1], np.full(500, 3, np.float32))
    distance = rng.uniform(0, 40, 500).astype(np.float32)
    once, moved = (mixture.mean(list((answers + shift).T), distance) for shift in (np.float32(0), np.float32(7)))
    np.testing.assert_allclose(moved, once + 7, atol=1e-5)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), side=st.integers(1, 40))
def test_squares_are_those_of_a_slow_loop(seed: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    frames, spots = rng.integers(0, 4, 60), rng.integers(0, 50, (60, 2)).astype(np.int32)
    found = squares(frames, spots, side)
    keys = [(int(t), int(y) // side, int(x) // side) for t, (y, x) in zip(frames, spots, strict=True)]
    order = sorted(set(keys))
    assert found.tolist() == [order.index(key) for key in keys]
    assert squares(frames[:0], spots[:0], side).size == 0


def trusted(drawn: Mixture, node: int) -> float:
    """How far weights went from those of all three guides alike to the first one alone."""
    return (drawn.weights[node][0] - 1 / 3) / (2 / 3)


def test_weights_of_few_frames_are_drawn_towards_what_is_usual_and_stay_a_mean() -> None:
    rng = np.random.default_rng(3)
    own, usual = Mixture.only(0, 3), Mixture.even(3)
    distance = np.full(5000, NODES_PX[-1], dtype=np.float32)
    spots = rng.integers(0, 500, (5000, 2))
    trusts = []
    for frames in (1, 4, 40):
        drawn = own.drawn_towards(usual, distance, rng.integers(0, frames, 5000), spots, enough=8.0)
        assert all(abs(sum(row) - 1) < 1e-6 and min(row) >= 0 for row in drawn.weights)
        trusts.append(trusted(drawn, -1))
    np.testing.assert_allclose(trusts, [1 / 9, 4 / 12, 40 / 48], rtol=0.05)
    nothing = own.drawn_towards(usual, distance[:0], np.empty(0, dtype=np.intp), spots[:0], enough=8.0)
    np.testing.assert_allclose(nothing.weights, usual.weights)


@pytest.mark.parametrize("node", range(len(NODES_PX) - 1))
def test_near_observations_each_part_of_a_frame_is_a_witness(node: int) -> None:
    rng = np.random.default_rng(node)
    own, usual = Mixture.only(0, 3), Mixture.even(3)
    side, frame = round(SQUARE * NODES_PX[node]), np.zeros(8000, dtype=np.intp)
    distance = np.full(8000, NODES_PX[node], dtype=np.float32)
    inside = rng.integers(0, side, (8000, 2))
    for squares_there in (1, 5, 25):
        spots = inside + side * np.stack([np.arange(8000) % squares_there, 0 * frame], axis=1)
        drawn = own.drawn_towards(usual, distance, frame, spots, enough=8.0)
        assert trusted(drawn, node) == pytest.approx(squares_there / (squares_there + 8), rel=0.02)
        # The same samples in a cloud's depth are the word of a single frame.
        drawn = own.drawn_towards(usual, np.full(8000, 1e9, dtype=np.float32), frame, spots, enough=8.0)
        assert trusted(drawn, -1) == pytest.approx(1 / 9)


def test_more_samples_of_a_square_are_no_more_witnesses() -> None:
    own, usual = Mixture.only(0, 3), Mixture.even(3)
    near, numbers = np.full(900, 1.5, dtype=np.float32), np.arange(900)
    spots = np.stack([numbers % 9 * 12, numbers * 0], axis=1)
    few, many = (
        own.drawn_towards(usual, near[:count], 0 * numbers[:count], spots[:count], enough=8.0) for count in (9, 900)
    )
    np.testing.assert_allclose(few.weights, many.weights, atol=1e-9)
