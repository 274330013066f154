"""Artificial gaps, the loss, calibration, and a training that is a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpipe.core.gaps import GAP_KINDS, artificial_gaps
from stpipe.errors import ModelFileError, RunError, ShapeError
from stpipe.model import training
from stpipe.model.patches import Deck, Example
from stpipe.model.spec import UNetSpec
from stpipe.model.training import (
    FEW,
    LAPLACE_90,
    SURPRISE,
    Progress,
    Schedule,
    answer,
    calibration_factor,
    held_out_error,
    losses,
    train,
)
from stpipe.model.unet import build_unet
from tests.model.sceneries import biased_example

F32 = NDArray[np.float32]
SPEC = UNetSpec(filters=(4,), head_filters=4)
SIZE = (4, 16, 16)


def network(spec: UNetSpec = SPEC, seed: int = 3) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return build_unet(spec)


def deck(seed: int = 0) -> Deck:
    return Deck([biased_example(number, (6, 16, 16)) for number in range(4)], size=SIZE, seed=seed)


def holey() -> NDArray[np.bool_]:
    valid = np.random.default_rng(0).random((8, 20, 22)) < 0.9
    valid[3, :10] = False
    return valid


@given(st.sampled_from(sorted(set(GAP_KINDS))), st.integers(0, 2**32))
def test_only_observed_samples_are_hidden_and_the_seed_repeats(kind: str, seed: int) -> None:
    valid = holey()
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


def loss_by_hand(wanted: F32, answers: F32) -> tuple[float, float, float]:
    """Patch by patch in double precision."""
    parts, trust = [], []
    for truth, made in zip(wanted.astype(float), answers.astype(float), strict=True):
        hidden = truth[..., 1] == 1
        error, width = np.abs(made[..., 0] - truth[..., 0])[hidden], np.exp(made[..., 1])[hidden] / LAPLACE_90
        weight, usual = truth[..., 2][hidden], np.abs(truth[..., 0])[hidden]
        count = max(1, hidden.sum())
        surprise = (error / width + np.log(width)).sum() / count
        own, base = (weight * error).sum() / count, (weight * usual).sum() / count
        parts.append((own + SURPRISE * surprise, own, base))
        trust.append(hidden.sum() / (hidden.sum() + FEW))
    whole = np.array(trust) @ np.array(parts) / max(sum(trust), 1e-6)
    return float(whole[0]), float(whole[1]), float(whole[2])


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.05, 1.0]))
def test_the_loss_is_what_a_slow_loop_says(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    wanted = rng.standard_normal((3, 2, 8, 8, 3)).astype(np.float32)
    wanted[..., 1] = rng.random(wanted.shape[:-1]) < share
    wanted[0, ..., 1] = 0
    wanted[..., 2] = np.abs(wanted[..., 2])
    answers = rng.standard_normal((3, 2, 8, 8, 2)).astype(np.float32)
    got = [float(np.asarray(part)) for part in losses(wanted, answers)]
    np.testing.assert_allclose(got, loss_by_hand(wanted, answers), rtol=1e-4, atol=1e-5)
    loud = np.where(wanted[..., 1:2] == 0, np.float32(1e6), answers)
    loud[..., 1] = answers[..., 1]
    np.testing.assert_allclose([float(np.asarray(part)) for part in losses(wanted, loud)], got, rtol=1e-5)


def test_half_widths_are_taught_by_errors_and_answers_are_not_by_half_widths() -> None:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    wanted = np.ones((1, 1, 8, 8, 3), dtype=np.float32)
    wanted[..., 0] = rng.laplace(size=(1, 1, 8, 8))
    slopes = []
    for width in (-2.0, 3.0):
        answers = tf.Variable(np.full((1, 1, 8, 8, 2), [0.0, width], dtype=np.float32))
        with tf.GradientTape() as tape:
            value = losses(wanted, answers)[0]
        slopes.append(tape.gradient(value, answers).numpy())
    np.testing.assert_array_equal(slopes[0][..., 0], slopes[1][..., 0])
    assert slopes[0][..., 1].sum() < 0 < slopes[1][..., 1].sum()  # too narrow wants more, too wide less


JUDGES = tuple(biased_example(100 + number, (4, 8, 8), family=family) for number, family in enumerate("aaab"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, list[Progress], Path]:
    own, told = network(), []
    assert held_out_error(own, JUDGES) == 1.0  # a fresh network adds nothing
    file = tmp_path_factory.mktemp("training") / "checkpoint.npz"
    schedule = Schedule(steps=80, batch=4, learning_rate=2e-2, every=30)
    last = train(own, deck(), schedule, held_out=JUDGES, checkpoint=file, report=told.append)
    assert last == told[-1]
    return own, told, file


def test_training_lowers_the_error_on_scenes_that_it_has_not_seen(
    trained: tuple[keras.Model, list[Progress], Path],
) -> None:
    own, told, _ = trained
    assert [each.step for each in told] == [30, 60, 80]
    assert told[-1].loss < 0.8 * told[0].loss
    assert told[-1].best == min(each.held_out for each in told) == pytest.approx(held_out_error(own, JUDGES))
    assert told[-1].best < 0.7
    predicted, width, base = answer(own, JUDGES[0])
    assert predicted.shape == width.shape == base.shape == JUDGES[0].hidden.shape
    assert (width > 0).all()


def test_families_count_alike_on_the_held_out_and_so_do_their_scenes(
    trained: tuple[keras.Model, list[Progress], Path],
) -> None:
    single = [np.log(held_out_error(trained[0], [each])) for each in JUDGES]
    expected = np.exp((np.mean(single[:3]) + single[3]) / 2)
    assert held_out_error(trained[0], JUDGES) == pytest.approx(expected)


class Breaking(Deck):
    """Breaks off at a step."""

    at = 7

    def batch(self, step: int, count: int) -> tuple[F32, F32]:
        if step == self.at:
            raise KeyboardInterrupt
        return super().batch(step, count)


def test_a_training_that_was_broken_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    schedule, file = Schedule(steps=11, batch=2, every=3), tmp_path / "checkpoint.npz"
    undisturbed, broken, gone_on = (network() for _ in range(3))
    told: list[Progress] = []
    train(undisturbed, deck(), schedule, held_out=JUDGES, report=told.append)
    breaking = Breaking([biased_example(number, (6, 16, 16)) for number in range(4)], size=SIZE, seed=0)
    with pytest.raises(KeyboardInterrupt):
        train(broken, breaking, schedule, held_out=JUDGES, checkpoint=file)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]
    again: list[Progress] = []
    train(gone_on, deck(), schedule, held_out=JUDGES, checkpoint=file, report=again.append)
    assert [each.step for each in told] == [3, 6, 9, 11]
    assert again == told[2:]
    for one, other in zip(undisturbed.get_weights(), gone_on.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    finished = network(seed=9)
    train(finished, deck(), schedule, held_out=JUDGES, checkpoint=file)  # nothing is left to do
    for one, other in zip(undisturbed.get_weights(), finished.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_stops_when_it_gets_no_better_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[list[F32]] = []

    def judged(model: keras.Model, _: Sequence[Example]) -> float:
        seen.append(model.get_weights())
        return [0.9, 0.7, 0.8, 0.7, 0.5, 0.4][len(seen) - 1]

    monkeypatch.setattr(training, "held_out_error", judged)
    own, told, file = network(), [], tmp_path / "checkpoint.npz"
    schedule, judges = Schedule(steps=60, every=2, batch=1, patience=2), [biased_example(0)]
    last = train(own, deck(), schedule, held_out=judges, checkpoint=file, report=told.append)
    assert [(each.step, each.held_out, each.best) for each in told] == [
        (2, 0.9, 0.9),
        (4, 0.7, 0.7),
        (6, 0.8, 0.7),
        (8, 0.7, 0.7),
    ]
    assert last == told[-1]
    for kept, best, end in zip(own.get_weights(), seen[1], seen[3], strict=True):
        np.testing.assert_array_equal(kept, best)
        assert not np.array_equal(best, end)
    again = network(seed=8)
    train(again, deck(), schedule, held_out=judges, checkpoint=file)
    assert len(seen) == 4  # it had stopped for good
    for kept, other in zip(own.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, other)


class Poisoned(Deck):
    """Holds a value that is no observation."""

    def batch(self, step: int, count: int) -> tuple[F32, F32]:
        inputs, wanted = super().batch(step, count)
        wanted[..., 0] = np.nan if step == 2 else wanted[..., 0]
        return inputs, wanted


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    poisoned = Poisoned([biased_example(0)], size=SIZE, seed=0)
    file = tmp_path / "checkpoint.npz"
    with pytest.raises(
        RunError, match=r"the loss of step 3 is nan; lower the learning rate of 0\.002, or look"
    ) as told:
        train(network(), poisoned, Schedule(steps=9, every=3), checkpoint=file)
    assert "\n" not in str(told.value)
    assert not file.exists()


@pytest.mark.parametrize(
    ("spec", "spoil", "message"),
    [
        pytest.param(UNetSpec(filters=(5,), head_filters=4), None, "of another network", id="wider"),
        pytest.param(UNetSpec(filters=(4, 4), head_filters=4), None, "of another network", id="deeper"),
        pytest.param(SPEC, 3000, "can't be read", id="cut short"),
        pytest.param(SPEC, 0, "can't be read", id="empty"),
    ],
)
def test_a_checkpoint_that_is_none_is_refused(
    trained: tuple[keras.Model, list[Progress], Path], tmp_path: Path, spec: UNetSpec, spoil: int | None, message: str
) -> None:
    file = tmp_path / "checkpoint.npz"
    file.write_bytes(trained[2].read_bytes()[:spoil])
    with pytest.raises(ModelFileError, match=message) as told:
        train(network(spec), deck(), Schedule(steps=2), checkpoint=file)
    assert str(file) in str(told.value)
    assert "\n" not in str(told.value)


@given(st.integers(20, 400), st.floats(0.5, 0.95), st.integers(0, 2**32))
def test_the_calibrated_width_covers_what_it_should(count: int, coverage: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors, widths = rng.standard_cauchy(count), rng.uniform(0.5, 2, count)
    factor = calibration_factor([errors], [widths], coverage=coverage)
    ratios = np.abs(errors) / widths
    covered = (ratios <= factor).mean()
    assert coverage - 1e-9 <= covered <= coverage + 2 / count + 1e-9 or factor == ratios.max()


@given(st.integers(0, 2**32))
def test_scenes_count_alike_in_the_calibration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    large, small = np.abs(rng.standard_normal(2000)), 10 + np.abs(rng.standard_normal(50))
    factor = calibration_factor([large, small], [np.ones(2000), np.ones(50)], coverage=0.75)
    assert 0.4 < (small <= factor).mean() < 0.6  # all of one and half of the other
    assert calibration_factor([], []) == calibration_factor([np.empty(0)], [np.empty(0)]) == 1.0
