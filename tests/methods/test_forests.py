"""Trees on top of a mean: none where there is nothing to gain, and widths that cover."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stpipe.methods import forests
from stpipe.methods.guides import EMPTY
from stpipe.methods.lessons import Samples, features
from stpipe.methods.mixing import Mixture

GUIDES = 2
MIXTURE = Mixture.even(GUIDES)


def folds(seed: int, *, told: float, count: int = 500, parts: int = 4) -> list[Samples]:
    """Guides whose common error a circumstance tells, as far as it does; the noise grows with another one."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(parts):
        truth = rng.standard_normal(count).astype(np.float32)
        circumstances = rng.uniform(0, 1, (count, 10)).astype(np.float32)
        noise = rng.standard_normal(count) * (0.1 + circumstances[:, 1])
        error = told * np.sign(circumstances[:, 0] - 0.5) + noise
        answers = np.stack([truth + error, truth + error], axis=1).astype(np.float32)
        observed = np.full((count, 3), np.nan, dtype=np.float32)
        frames = 5 * number + np.arange(truth.size) % 5
        told_of = {"observed": observed, "circumstances": circumstances, "truth": truth, "frames": frames}
        made.append(Samples(answers=answers, **told_of, spots=np.zeros((count, 2), np.int32)))
    return made


def table(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    mean = MIXTURE.mean(list(samples.answers.T), samples.distance)
    return features(samples, mean), samples.truth - mean


def test_there_are_none_where_there_is_nothing_to_learn() -> None:
    grown = forests.grow(folds(0, told=0.0), MIXTURE, seed=0)
    assert grown.answer == b""
    assert grown.width
    assert grown.errors[1] > (1 - forests.LEAST_TREE_GAIN) * grown.errors[0]


def test_what_is_learned_holds_on_samples_that_had_no_part_in_it() -> None:
    grown = forests.grow(folds(1, told=1.5), MIXTURE, seed=0)
    errors = grown.errors
    assert grown.follow == forests.ALL_THE_WAY
    seen, missing = table(folds(99, told=1.5, count=2000, parts=1)[0])
    left = np.abs(missing - forests.predict(forests.forest(grown.answer), seen))
    before = np.abs(missing).mean()
    assert errors[1] < 0.6 * errors[0]
    np.testing.assert_allclose(errors, [before, left.mean()], rtol=0.15)
    half_width = forests.predict(forests.forest(grown.width), seen)
    assert 0.84 < (left <= half_width).mean() < 0.95
    noisy = seen[:, -9] > 0.5
    assert half_width[noisy].mean() > 1.5 * half_width[~noisy].mean()


def test_frames_that_are_in_several_folds_prove_nothing() -> None:
    parts = folds(1, told=1.5)
    alike = [replace(part, frames=part.frames % 5) for part in parts]
    grown = forests.grow(alike, MIXTURE, seed=0)
    assert not grown.answer
    assert grown.width
    assert grown.errors == pytest.approx(forests.grow(parts, MIXTURE, seed=0).errors, rel=1e-5)


def test_what_gains_but_not_surely_is_followed_half_way_and_not_on_empty_frames() -> None:
    parts = []
    for number, part in enumerate(folds(3, told=1.5)):
        # In some frames what else tells of the error tells the opposite.
        odd = np.isin(part.frames, [0, 1, 4, 5, 8, 9])
        flipped = part.circumstances.copy()
        flipped[odd, 0] = 1 - flipped[odd, 0]
        flipped[part.frames == 5 * number + 4, -1] = EMPTY
        parts.append(replace(part, circumstances=flipped))
    grown = forests.grow(parts, MIXTURE, seed=0)
    assert grown.answer
    assert grown.follow == forests.HALF_WAY
    shares = forests.followed(grown.follow, np.array([0, 3, 24, EMPTY], dtype=np.float32))
    np.testing.assert_array_equal(shares, [0.5, 0.5, 0.5, 0])


def test_the_same_samples_and_seed_grow_the_same_trees() -> None:
    parts = folds(2, told=1.0)
    once, again, other = (forests.grow(parts, MIXTURE, seed=seed) for seed in (0, 0, 1))
    assert once == again
    assert once != other


def test_trees_come_back_from_their_text() -> None:
    parts = folds(5, told=1.0)
    answer = forests.grow(parts, MIXTURE, seed=0).answer
    seen, _ = table(parts[0])
    grown = forests.forest(answer)
    assert forests.forest(answer) is grown  # parsed once
    everything, few = forests.predict(grown, seen), forests.predict(grown, seen, 1)
    assert everything.dtype == np.float32
    assert not np.array_equal(everything, few)
