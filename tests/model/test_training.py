"""Artificial gaps, patches, calibration, and a training that is a training."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpipe.core.gaps import GAP_KINDS, artificial_gaps
from stpipe.errors import ShapeError
from stpipe.model.spec import UNetSpec
from stpipe.model.training import Scene, answer, calibration_factor, cut, example, patches, train
from stpipe.model.unet import build_unet

F32 = NDArray[np.float32]


def flat_guides(values: F32, valid: NDArray[np.bool_], days: NDArray[np.float64]) -> tuple[F32, F32]:
    """The frame's mean, and a width of one."""
    mean = (values * valid).sum(axis=(1, 2)) / np.maximum(valid.sum(axis=(1, 2)), 1)
    return np.broadcast_to(mean[:, None, None], values.shape).astype(np.float32), np.ones_like(values)


def moving_scene(seed: int = 0) -> Scene:
    rng = np.random.default_rng(seed)
    t, y, x = np.indices((8, 20, 22))
    values = np.sin(y / 5) + np.cos(x / 7) + 0.3 * t
    valid = rng.random(values.shape) < 0.9
    valid[3, :10] = False
    return Scene(name="made up", values=values.astype(np.float32), valid=valid, days=5.0 * np.arange(8))


@given(st.sampled_from(sorted(set(GAP_KINDS))), st.integers(0, 2**32))
def test_only_observed_samples_are_hidden_and_the_seed_repeats(kind: str, seed: int) -> None:
    valid = moving_scene().valid
    hidden = artificial_gaps(valid, np.random.default_rng(seed), kind=kind)
    assert not (hidden & ~valid).any()
    np.testing.assert_array_equal(hidden, artificial_gaps(valid, np.random.default_rng(seed), kind=kind))


def test_own_gaps_have_the_shapes_of_other_dates() -> None:
    valid = np.ones((6, 10, 10), dtype=bool)
    valid[2, :5] = False  # half frames, and nothing else
    hidden = artificial_gaps(valid, np.random.default_rng(0), kind="own", frames_share=1.0)
    for t in (0, 1, 3, 4, 5):
        rows = hidden[t].all(axis=1)
        assert rows.sum() == 5
        assert rows[:5].all() or rows[5:].all()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ShapeError, match="no artificial gap of kind 'holes'; there are blobs, frames"):
        artificial_gaps(np.ones((2, 4, 4), dtype=bool), np.random.default_rng(0), kind="holes")


def test_hidden_samples_do_not_leak_into_what_the_network_sees() -> None:
    scene = moving_scene()
    hidden = artificial_gaps(scene.valid, np.random.default_rng(1))
    changed = Scene(
        name="changed", values=np.where(hidden, 1e6, scene.values).astype("f4"), valid=scene.valid, days=scene.days
    )
    one, other = example(scene, hidden, flat_guides), example(changed, hidden, flat_guides)
    np.testing.assert_array_equal(one.inputs, other.inputs)
    np.testing.assert_array_equal(one.base, other.base)
    assert one.inputs.shape[1:3] == (24, 24)
    assert np.abs(one.truth - other.truth)[one.hidden].min() > 1e3


def test_patches_hold_hidden_samples_and_keep_input_and_truth_together() -> None:
    scene = moving_scene()
    hidden = artificial_gaps(scene.valid, np.random.default_rng(1))
    made = example(scene, hidden, flat_guides)
    for inputs, wanted in patches(made, np.random.default_rng(2), size=(4, 16, 16), count=8):
        assert inputs.shape[:3] == (4, 16, 16)
        assert wanted[..., 1].any()
        observed = inputs[..., 9] == 1
        np.testing.assert_allclose(inputs[..., 0][observed], wanted[..., 0][observed], atol=1e-5)


def test_a_cut_keeps_everything_together() -> None:
    scene = moving_scene()
    part = cut(scene, (slice(2, 5), slice(0, 8), slice(4, 9)))
    np.testing.assert_array_equal(part.values, scene.values[2:5, :8, 4:9])
    np.testing.assert_array_equal(part.days, scene.days[2:5])


@given(st.integers(20, 400), st.floats(0.5, 0.95), st.integers(0, 2**32))
def test_the_calibrated_width_covers_what_it_should(count: int, coverage: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors, widths = rng.standard_cauchy(count), rng.uniform(0.5, 2, count)
    factor = calibration_factor([errors], [widths], coverage=coverage)
    ratios = np.abs(errors) / widths
    covered = (ratios <= factor).mean()
    assert coverage - 1e-9 <= covered <= coverage + 2 / count + 1e-9 or factor == ratios.max()


def test_training_lowers_the_error() -> None:
    scene = moving_scene()
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(3)
    network = build_unet(UNetSpec(filters=(4,), head_filters=4))

    def fresh() -> Iterator[tuple[F32, F32]]:
        hidden = artificial_gaps(scene.valid, rng, kind="blobs")
        yield from patches(example(scene, hidden, flat_guides), rng, size=(4, 16, 16), count=4)

    train(network, fresh, rng, steps=40, batch=2, learning_rate=1e-2)
    made = example(scene, artificial_gaps(scene.valid, np.random.default_rng(9), kind="blobs"), flat_guides)
    predicted, width = answer(network, made)
    assert (width > 0).all()
    fresh_answer = 0.5 * (made.base + made.linear)
    before, after = (np.abs(field - made.truth)[made.hidden].mean() for field in (fresh_answer, predicted))
    assert after < 0.8 * before
