"""Means of guides: against a general solver, and what they must not do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from stpipe.methods.mixing import NODES_PX, Mixture, least_absolute, memberships


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


def test_weights_of_few_frames_are_drawn_towards_what_is_usual_and_stay_a_mean() -> None:
    rng = np.random.default_rng(3)
    own, usual = Mixture.only(0, 3), Mixture.even(3)
    distance = np.exp(rng.uniform(0, 4, 5000)).astype(np.float32)
    trusts = []
    for frames in (1, 4, 40):
        drawn = own.drawn_towards(usual, distance, rng.integers(0, frames, 5000), enough=8.0)
        assert all(abs(sum(row) - 1) < 1e-6 and min(row) >= 0 for row in drawn.weights)
        trusts.append((drawn.weights[1][0] - 1 / 3) / (2 / 3))
    np.testing.assert_allclose(trusts, [1 / 9, 4 / 12, 40 / 48], rtol=0.05)
    nothing = own.drawn_towards(usual, distance[:0], np.empty(0, dtype=np.intp), enough=8.0)
    np.testing.assert_allclose(nothing.weights, usual.weights)
