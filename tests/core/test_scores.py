"""Scores agree with the plain formulas, whatever the parts they were summed from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.scores import Scores, Tally
from stpipe.errors import ShapeError


def plain_scores(truth: np.ndarray, predicted: np.ndarray, half: np.ndarray) -> dict[str, float]:
    """The formulas as in a textbook, on the whole array at once."""
    known = np.isfinite(truth)
    both = known & np.isfinite(predicted)
    error = predicted[both] - truth[both]
    has = both & np.isfinite(half)
    inside = np.abs(predicted - truth)[has] <= half[has]
    return {
        "samples": known.sum(),
        "filled": both.sum() / known.sum(),
        "mae": np.abs(error).mean(),
        "rmse": np.sqrt((error**2).mean()),
        "bias": error.mean(),
        "r2": 1 - (error**2).sum() / ((truth[both] - truth[both].mean()) ** 2).sum(),
        "coverage": inside.mean(),
        "width": 2 * half[has].mean(),
    }


def case(seed: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = offset + rng.normal(size=(7, 5, 6))
    predicted = truth + 0.3 * rng.normal(size=truth.shape)
    half = rng.uniform(0.1, 0.8, truth.shape)
    for array in (truth, predicted, half):
        array[rng.random(truth.shape) < 0.2] = np.nan
    return truth, predicted, half


@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 7), max_size=4), offset=st.sampled_from([0.0, 1e6]))
def test_scores_do_not_depend_on_how_the_samples_were_cut(seed: int, cuts: list[int], offset: float) -> None:
    truth, predicted, half = case(seed, offset)
    expected = plain_scores(truth, predicted, half)
    one, joined = Tally(), Tally()
    for part in np.split(np.arange(7), sorted(cuts)):
        one.add(truth[part], predicted[part], half_width=half[part])
        piece = Tally()
        piece.add(truth[part], predicted[part], half_width=half[part])
        joined.join(piece)
    for tally in (one, joined):
        scores = tally.scores()
        for name, value in expected.items():
            assert getattr(scores, name) == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_only_the_samples_asked_for_count() -> None:
    truth, predicted, half = case(1)
    where = np.zeros(truth.shape, dtype=bool)
    where[2] = True
    chosen, alone = Tally(), Tally()
    chosen.add(truth, predicted, half_width=half, where=where)
    alone.add(truth[2], predicted[2], half_width=half[2])
    assert chosen.scores() == alone.scores()


def test_nothing_to_score_gives_no_number_rather_than_a_good_one() -> None:
    scores = Tally().scores()
    assert scores.samples == 0
    assert all(np.isnan(getattr(scores, name)) for name in ("filled", "mae", "rmse", "bias", "r2", "coverage"))
    assert scores.as_dict()["rmse"] is None
    unreached = Tally()
    unreached.add(np.ones(4), np.full(4, np.nan))
    assert (unreached.scores().samples, unreached.scores().filled) == (4, 0.0)
    assert np.isnan(unreached.scores().mae)


def test_a_constant_truth_has_no_r2() -> None:
    tally = Tally()
    tally.add(np.ones(4), np.full(4, 1.5))
    assert np.isnan(tally.scores().r2)
    assert tally.scores().bias == 0.5


def test_interval_ends_count_as_inside() -> None:
    tally = Tally()
    tally.add(np.zeros(4), np.full(4, 0.5), half_width=np.array([0.5, 0.49, 0.51, np.nan]))
    scores = tally.scores()
    assert (scores.coverage, scores.width) == pytest.approx((2 / 3, 1.0))


@pytest.mark.parametrize("name", ["predicted", "half_width", "where"])
def test_arrays_of_another_shape_are_refused(name: str) -> None:
    arrays = {"predicted": np.ones(3), "half_width": np.ones(3), "where": np.ones(3, dtype=bool)}
    arrays[name] = arrays[name][:2]
    with pytest.raises(ShapeError, match=rf"truth and {name} must have one shape, got \(3,\) and \(2,\)"):
        Tally().add(np.ones(3), **arrays)  # type: ignore[arg-type]


def test_scores_hold_plain_numbers() -> None:
    tally = Tally()
    tally.add(*case(3)[:2])
    assert isinstance(tally.scores(), Scores)
    assert {type(value) for value in tally.scores().as_dict().values()} <= {int, float, type(None)}
