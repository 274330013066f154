"""The default network: its reach, its start, and what it listens to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stpipe.errors import ModelFileError
from stpipe.model.features import CHANNELS, INPUTS
from stpipe.model.spec import UNetSpec
from stpipe.model.unet import build_unet

Array = NDArray[Any]
FIRST_MASK = len(CHANNELS)


def random_network(spec: UNetSpec, seed: int = 0) -> Any:
    network, rng = build_unet(spec), np.random.default_rng(seed)
    for weight in network.weights:
        weight.assign(0.3 * rng.standard_normal(weight.shape))
    return network


def random_input(rng: np.random.Generator, shape: tuple[int, int, int], observed: float = 0.5) -> Array:
    made = rng.standard_normal((1, *shape, INPUTS)).astype(np.float32)
    made[..., FIRST_MASK:] = rng.random((1, *shape, 3)) < observed
    made[..., :2] *= made[..., FIRST_MASK : FIRST_MASK + 2]
    made[..., 2:4] *= made[..., FIRST_MASK + 2 :]
    return made


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
        after[(0, *place)] += 3
        after[(0, *place, slice(FIRST_MASK, None))] = 1 - before[(0, *place, slice(FIRST_MASK, None))]
        changed = np.argwhere((np.asarray(network(before)) != np.asarray(network(after)))[0].any(axis=-1))
        furthest = np.maximum(furthest, np.abs(changed - place).max(axis=0))
    assert tuple(furthest) <= spec.halo
    assert tuple(furthest[[0, 1]]) == spec.halo[:2]  # the arithmetic claims no more than there is


def test_a_fresh_network_gives_the_mean_of_its_guides_without_observations_near() -> None:
    made = random_input(np.random.default_rng(0), (3, 16, 16), observed=0.0)
    made[..., FIRST_MASK + 2] = 1  # interpolation in time has answers, the frames have no observation
    answer = np.asarray(build_unet(UNetSpec(filters=(4,), head_filters=4))(made))[0]
    np.testing.assert_allclose(answer[..., 0], 0.5 * made[0, ..., 2], rtol=1e-5, atol=1e-6)
    widths = np.exp(2 * made[0, ..., 6]), np.exp(2 * made[0, ..., 7])
    expected = -0.5 * np.log(1 / widths[0] + 1 / widths[1])
    np.testing.assert_allclose(answer[..., 1], expected, rtol=1e-4, atol=1e-4)


def test_far_from_observations_the_network_keeps_to_the_guides() -> None:
    network = random_network(UNetSpec(filters=(4,), head_filters=4), seed=5)
    made = random_input(np.random.default_rng(1), (2, 16, 16), observed=0.0)
    made[..., :4] = 0
    made[..., FIRST_MASK + 2] = 1
    made[..., 2] = 2.0
    answer = np.asarray(network(made))[0, ..., 0]
    assert ((answer > 0) & (answer < 2.0)).all()  # between pyramid and linear, by whatever weights


def test_the_network_takes_any_window_of_its_stride() -> None:
    spec = UNetSpec(filters=(4, 4), head_filters=4)
    network = random_network(spec)
    for shape in ((1, 4, 4), (2, 8, 12), (5, 20, 4)):
        assert network(random_input(np.random.default_rng(0), shape)).shape == (1, *shape, 2)


def test_a_spec_comes_back_from_json() -> None:
    spec = UNetSpec(filters=(5, 9), head_filters=7)
    assert UNetSpec.from_json(spec.as_json()) == spec


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
    with pytest.raises(ModelFileError, match=message):
        UNetSpec.from_json(fields)
