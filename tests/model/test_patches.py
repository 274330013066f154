"""Examples and patches: dealt by seed and step alone, and never torn apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpipe.core.windows import Triple
from stpipe.errors import RunError
from stpipe.model.features import FEATURES, FIRST_GUIDE, GUIDE_COUNT, INPUTS, SIGNED
from stpipe.model.patches import FRAMES, LEAST_ERROR, NEGATIVES, Deck, Example
from tests.model.sceneries import biased_example, evenly

F32 = NDArray[np.float32]
SIZE = (4, 16, 16)
SHARE = FEATURES - 4
"""Channel of the pixel's share, by which the tests below tell examples apart."""


def marked(seed: int, mark: float, **more: object) -> Example:
    """An example that can be told from others in a patch."""
    made = biased_example(seed, **more)  # type: ignore[arg-type]
    return replace(made, seen=replace(made.seen, pixel_share=np.full_like(made.seen.pixel_share, mark)))


def first_guide(distance: F32) -> F32:
    """The first guide alone."""
    weights = np.zeros((*distance.shape, GUIDE_COUNT), dtype=np.float32)
    weights[..., 0] = 1
    return weights


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    examples = [biased_example(seed) for seed in range(3)]
    deck, again, other = (Deck(examples, size=SIZE, seed=seed) for seed in (5, 5, 6))
    steps = [deck.batch(step, 3) for step in range(6)]
    for step in (4, 0, 5, 1):  # in any order, as after a break
        for one, same in zip(steps[step], again.batch(step, 3), strict=True):
            np.testing.assert_array_equal(one, same)
    assert not np.array_equal(steps[0][0], steps[1][0])
    assert not np.array_equal(steps[0][0], other.batch(0, 3)[0])


def test_families_come_up_by_their_shares_and_their_examples_alike() -> None:
    examples = [
        marked(0, 0.1, family="many"),
        marked(1, 0.2, family="many"),
        marked(2, 0.3, family="many"),
        marked(3, 0.4, family="few"),
        marked(4, 0.5, family="none"),
    ]
    deck = Deck(examples, size=(1, 8, 8), seed=0, families={"few": 3.0, "none": 0.0})
    count = 1200
    inputs, _ = deck.batch(0, count)
    found = Counter(round(float(mark), 3) for mark in inputs[:, 0, 0, 0, SHARE])
    expected = {0.1: 1 / 12, 0.2: 1 / 12, 0.3: 1 / 12, 0.4: 3 / 4}
    assert set(found) == set(expected)
    for mark, share in expected.items():
        assert abs(found[mark] / count - share) < 4 * (share / count) ** 0.5


def test_scenes_of_different_shapes_come_up_alike() -> None:
    shapes_of = {0.25: (8, 24, 24), 0.5: (3, 16, 24), 0.75: (3, 16, 24)}
    examples = [marked(0, mark, shape=shape) for mark, shape in shapes_of.items()]
    deck = Deck(examples, size=(8, 24, 24), seed=1)
    found: Counter[float] = Counter()
    shapes = set()
    for step in range(300):
        inputs, _ = deck.batch(step, 1)
        found[float(inputs[0, 0, 0, 0, SHARE])] += 1
        shapes.add(inputs.shape[1:4])
    assert all(70 < number < 130 for number in found.values())
    assert shapes == {(8, 24, 24), (3, 16, 24)}


@settings(max_examples=25)
@given(
    st.integers(0, 2**32),
    st.integers(0, 50),
    st.sampled_from([(8, 24, 24), (1, 8, 16), (5, 24, 8)]),
    st.sampled_from([(1, 8, 8), (4, 16, 16), (12, 64, 64), (3, 8, 16)]),
)
def test_patches_keep_input_and_truth_together(seed: int, step: int, shape: Triple, size: Triple) -> None:
    made = replace(biased_example(seed % 7, shape), bases=(evenly, first_guide), error=0.25)
    inputs, wanted = Deck([made], size=size, seed=seed).batch(step, 2)
    assert inputs.shape[0] == wanted.shape[0] == 2
    assert inputs.shape[-1] == INPUTS
    assert inputs.dtype == wanted.dtype == np.float32
    assert all(have <= most for have, most in zip(inputs.shape[1:4], size, strict=True))
    assert inputs.shape[1] in FRAMES
    difference, hidden, weight = np.moveaxis(wanted, -1, 0)
    assert set(np.unique(hidden)) <= {0.0, 1.0}
    assert hidden.any(axis=(1, 2, 3)).all()  # there is something to learn in each
    observed = inputs[..., FEATURES] == 1
    assert not (observed & (hidden == 1)).any()
    # Observed minus base is observed minus pyramid plus pyramid minus base, in whichever sign and however turned.
    told = inputs[..., 1] + inputs[..., FIRST_GUIDE]
    np.testing.assert_allclose(difference[observed], told[observed], rtol=1e-3, atol=1e-3)
    # Close to the error of its guides, and no farther: the truth of what is hidden is that of the same sample.
    near = inputs[..., FIRST_GUIDE : FIRST_GUIDE + GUIDE_COUNT].mean(axis=-1)
    assert np.abs(difference - near)[hidden == 1].max() < 1.5
    np.testing.assert_allclose(weight, np.exp(inputs[..., FIRST_GUIDE + 2 * GUIDE_COUNT]) / 0.25, rtol=1e-5)


def test_a_quarter_is_upside_down_and_every_turn_comes_up() -> None:
    shape = (1, 8, 8)
    made = biased_example(0, shape)
    corner = np.zeros((8, 8), dtype=np.float32)
    corner[0, 1] = 1
    made = replace(made, seen=replace(made.seen, pixel_share=corner, frame_anomaly=np.ones(1, np.float32)))
    inputs, wanted = Deck([made], size=shape, seed=0).batch(0, 800)
    signs = inputs[:, 0, 0, 0, SIGNED[-1]] > 0
    assert abs((~signs).mean() - NEGATIVES) < 0.06
    turns = np.array([int(np.argmax(frame)) for frame in inputs[:, 0, :, :, SHARE]])
    counts = Counter(turns.tolist())
    assert set(counts) == {1, 6, 57, 62, 8, 48, 15, 55}
    assert min(counts.values()) > 60
    unturned = np.where(signs, 1, -1)[:, None, None, None] * wanted[..., 0]
    for patch in unturned[turns == 1]:
        np.testing.assert_array_equal(patch, unturned[turns == 1][0])  # all of it is the same scene


def test_every_hidden_sample_comes_up() -> None:
    made = biased_example(3, (2, 8, 8))
    spots = np.zeros((2, 8, 8), dtype=bool)
    spots[0, 0, 0] = spots[1, 7, 7] = True
    deck = Deck([replace(made, hidden=spots)], size=(1, 4, 4), seed=0)
    found = deck.batch(0, 100)[1][..., 1].sum(axis=(1, 2, 3))
    assert (found == 1).all()


def test_easy_scenes_are_not_blown_up() -> None:
    made = replace(biased_example(1), error=1e-9)
    _, wanted = Deck([made], size=SIZE, seed=0).batch(0, 1)
    scale = np.exp(Deck([made], size=SIZE, seed=0).batch(0, 1)[0][..., FIRST_GUIDE + 2 * GUIDE_COUNT])
    np.testing.assert_allclose(wanted[..., 2], scale / LEAST_ERROR, rtol=1e-5)


def test_half_precision_is_enough_for_what_is_kept() -> None:
    made = biased_example(2)
    kept = replace(made, seen=made.seen.halved(), truth=made.truth.astype(np.float16))
    one, other = (Deck([each], size=SIZE, seed=3).batch(0, 4) for each in (made, kept))
    assert other[0].dtype == other[1].dtype == np.float32
    for exact, rough in zip(one, other, strict=True):
        np.testing.assert_allclose(rough, exact, rtol=0.01, atol=0.05)


@pytest.mark.parametrize("examples", [[], [replace(biased_example(0), hidden=np.zeros((8, 24, 24), dtype=bool))]])
def test_nothing_hidden_is_nothing_to_learn_from(examples: list[Example]) -> None:
    with pytest.raises(RunError, match="there is nothing to learn from: no example has a hidden sample"):
        Deck(examples, size=SIZE, seed=0)
