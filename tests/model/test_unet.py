"""The default network: its reach, its start, and how it weighs the guides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpipe.errors import ModelFileError, ShapeError
from stpipe.model.features import FEATURES, FIRST_GUIDE, GROUPS, GUIDE_COUNT, INPUTS, MASKS
from stpipe.model.spec import UNetSpec
from stpipe.model.unet import LARGEST_CORRECTION, LEAST_WEIGHT, SCALE_RANGE, Doubled, Mixer, Split, build_unet
from tests.model.sceneries import random_input, silenced

Array = NDArray[Any]
GUIDES = slice(FIRST_GUIDE, FIRST_GUIDE + GUIDE_COUNT)
WEIGHTS = slice(GUIDES.stop, GUIDES.stop + GUIDE_COUNT)


def random_network(spec: UNetSpec, seed: int = 0) -> Any:
    network, rng = build_unet(spec), np.random.default_rng(seed)
    for weight in network.weights:
        weight.assign(0.3 * rng.standard_normal(weight.shape))
    return network


@pytest.mark.parametrize("filters", [(6,), (6, 8)], ids=["one level", "two levels"])
def test_nothing_beyond_the_halo_matters_and_something_at_its_edge_does(filters: tuple[int, ...]) -> None:
    spec = UNetSpec(filters=filters, head_filters=4)
    network, rng = random_network(spec), np.random.default_rng(3)
    shape = (2 * spec.halo[0] + 3, 2 * spec.halo[1] + 18, 2 * spec.halo[2] + 18)
    shape = (shape[0], shape[1] // 8 * 8 + 8, shape[2] // 8 * 8 + 8)
    furthest = np.zeros(3, dtype=int)
    for offset in range(2 * spec.stride[1]):
        place = np.array([shape[0] // 2, shape[1] // 2 + offset, shape[2] // 2 + offset])
        before = random_input(rng, shape, observed=rng.choice([0.02, 1.0]))
        after = before.copy()
        after[(0, *place, slice(0, FEATURES))] += 3
        after[(0, *place, slice(FEATURES, None))] = 1 - before[(0, *place, slice(FEATURES, None))]
        changed = np.argwhere((np.asarray(network(before)) != np.asarray(network(silenced(after))))[0].any(axis=-1))
        furthest = np.maximum(furthest, np.abs(changed - place).max(axis=0))
    assert tuple(furthest) <= spec.halo
    assert tuple(furthest[[0, 1]]) == spec.halo[:2]  # the arithmetic claims no more than there is


@pytest.mark.parametrize("observed", [0.0, 0.5, 1.0], ids=["nothing", "half", "everything"])
def test_a_fresh_network_adds_exactly_nothing_to_the_base(observed: float) -> None:
    made = random_input(np.random.default_rng(0), (3, 16, 16), observed)
    answer = np.asarray(build_unet(UNetSpec(filters=(4,), head_filters=4))(made))
    assert (answer == 0).all()


def test_the_network_takes_any_window_of_its_stride() -> None:
    spec = UNetSpec(filters=(4, 4), head_filters=4)
    network = random_network(spec)
    for shape in ((1, 4, 4), (2, 8, 12), (5, 20, 4)):
        assert network(random_input(np.random.default_rng(0), shape)).shape == (1, *shape, 2)


def test_every_scene_of_a_batch_is_answered_by_itself() -> None:
    network, rng = random_network(UNetSpec(filters=(4, 4), head_filters=4)), np.random.default_rng(1)
    one, other, third = (random_input(rng, (2, 8, 8)) for _ in range(3))
    both = np.asarray(network(np.concatenate([one, other])))
    again = np.asarray(network(np.concatenate([one, third])))
    np.testing.assert_array_equal(both[0], again[0])  # bit for bit, whatever lies beside it
    assert np.abs(both[1] - again[1]).max() > 0.1
    for number, made in enumerate((one, other)):
        # Kernels for another batch size sum in another order, on some processors, where values are of the order of 3.
        np.testing.assert_allclose(both[number], np.asarray(network(made))[0], rtol=1e-5, atol=5e-5)


def test_every_channel_is_listened_to() -> None:
    network, rng = random_network(UNetSpec(filters=(4, 4), head_filters=4)), np.random.default_rng(2)
    made = random_input(rng, (3, 8, 8), observed=0.8)
    others = np.repeat(made, INPUTS + 1, axis=0)
    for channel in range(INPUTS):
        old = made[0, ..., channel]
        others[channel, ..., channel] = 1 - old if channel >= FEATURES else 1.5 * old + 0.5
    answers = np.asarray(network(silenced(others)))
    assert [channel for channel in range(INPUTS) if np.allclose(answers[channel], answers[-1], atol=1e-5)] == []


def mixed_by_hand(features: Array, heads: Array) -> tuple[float, float]:
    """One sample in double precision."""
    guides, usual = features[GUIDES].astype(float), features[WEIGHTS].astype(float) + LEAST_WEIGHT
    usual /= usual.sum()
    weights = usual * np.exp(SCALE_RANGE * np.tanh(heads[:GUIDE_COUNT].astype(float) / SCALE_RANGE))
    weights /= weights.sum()
    answer = guides @ (weights - usual) + LARGEST_CORRECTION * np.tanh(float(heads[GUIDE_COUNT]))
    return answer, SCALE_RANGE * np.tanh(float(heads[GUIDE_COUNT + 1]) / SCALE_RANGE)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([0.1, 3.0, 1e3]))
def test_the_heads_weigh_the_guides_anew_within_bounds(seed: int, loud: float) -> None:
    rng = np.random.default_rng(seed)
    features = random_input(rng, (1, 2, 3))
    heads = (loud * rng.standard_normal((1, 1, 2, 3, GUIDE_COUNT + 2))).astype(np.float32)
    made = np.asarray(Mixer()([features, heads]))
    for place in np.ndindex(made.shape[:-1]):
        np.testing.assert_allclose(made[place], mixed_by_hand(features[place], heads[place]), rtol=1e-4, atol=1e-4)
    largest = np.abs(features[..., GUIDES]).max(axis=-1)
    assert (np.abs(made[..., 0]) <= 2 * largest + LARGEST_CORRECTION).all()
    assert (np.abs(made[..., 1]) <= SCALE_RANGE).all()


def test_a_guide_of_no_weight_is_hardly_missed_and_can_be_taken_up() -> None:
    features = np.zeros((1, 1, 1, 1, INPUTS), dtype=np.float32)
    features[..., GUIDES.start] = 7  # all others say what the base says
    features[..., WEIGHTS.start + 1] = 1
    heads = np.zeros((1, 1, 1, 1, GUIDE_COUNT + 2), dtype=np.float32)
    assert float(np.asarray(Mixer()([features, heads]))[..., 0].item()) == 0
    heads[..., 0] = -1e3
    share = LEAST_WEIGHT / (1 + GUIDE_COUNT * LEAST_WEIGHT)
    assert -7 * share < np.asarray(Mixer()([features, heads]))[..., 0].item() < -6.5 * share
    heads[..., 0], heads[..., 1] = 1e3, -1e3
    assert 4 < np.asarray(Mixer()([features, heads]))[..., 0].item() < 7


def test_plumes_are_compressed_and_what_is_known_everywhere_has_a_mask_of_its_own() -> None:
    made = random_input(np.random.default_rng(4), (1, 2, 2))
    made[..., GUIDES.start] = 400
    features, masks = (np.asarray(part) for part in Split()(made))
    np.testing.assert_allclose(features[..., : GUIDES.stop], np.arcsinh(made[..., : GUIDES.stop]), rtol=1e-5)
    np.testing.assert_array_equal(features[..., GUIDES.stop :], made[..., GUIDES.stop : FEATURES])
    np.testing.assert_array_equal(masks[..., :-1], made[..., FEATURES:])
    assert (masks[..., -1] == 1).all()
    assert masks.shape[-1] == len(GROUPS) == len(MASKS) + 1
    assert features.shape[-1] == sum(GROUPS)


def test_doubling_repeats_each_pixel() -> None:
    made = np.arange(12.0, dtype=np.float32).reshape(1, 1, 2, 3, 2)
    expected = np.kron(made, np.ones((1, 1, 2, 2, 1)))
    np.testing.assert_array_equal(np.asarray(Doubled()(made)), expected)


def test_a_spec_comes_back_from_json() -> None:
    spec = UNetSpec(filters=(5, 9), head_filters=7)
    assert UNetSpec.from_json(spec.as_json()) == spec
    assert spec.stride == (1, 4, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"filters": [], "head_filters": 4, "inputs": INPUTS}, "one level", id="no level"),
        pytest.param({"filters": [8], "head_filters": 4, "inputs": 3}, "takes 3 channels", id="bands"),
        pytest.param({"filters": [8]}, "can't be understood", id="a missing field"),
        pytest.param({"filters": 8, "head_filters": 4, "inputs": 3}, "understood", id="wrong type"),
    ],
)
def test_a_spec_that_is_none_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((ModelFileError, ShapeError), match=message):
        UNetSpec.from_json(fields)
