"""The published network: its own predictions, and what its description may leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from stpipe.errors import ModelFileError
from stpipe.model.legacy import LegacySpec, build_legacy, load_legacy, run_legacy

SIZES = {"nx": 32, "ny": 32, "nt": 8}


def test_it_predicts_what_was_published(data_folder: Path) -> None:
    folder = data_folder / "stpconv_s5p_co"
    network, spec = load_legacy(folder / "S5P_CO_model.h5")
    assert spec.shape == (16, 128, 128)
    with np.load(folder / "reference_predictions.npz") as reference:
        for name in reference:
            with (
                rasterio.open(folder / f"training/X_{name}.tif") as observed,
                rasterio.open(folder / f"training/MASK_{name}.tif") as mask,
            ):
                predicted = run_legacy(network, observed.read(), mask.read() == 1)
            assert np.abs(predicted - reference[name]).max() < 1e-6


def test_nothing_beyond_the_halo_matters(data_folder: Path) -> None:
    network, spec = load_legacy(data_folder / "stpconv_s5p_co/S5P_CO_model.h5")
    rng = np.random.default_rng(0)
    values, valid = rng.random((32, 32, 32)), rng.random((32, 32, 32)) < 0.3
    first = run_legacy(network, values, valid)
    for place in ((15, 16, 17), (16, 16, 16), (13, 14, 15)):
        there = valid.copy()
        there[place] = ~there[place]
        changed = np.argwhere(first != run_legacy(network, values, there))
        assert (np.abs(changed - place).max(axis=0) <= spec.halo).all()


def test_what_is_left_out_gets_the_published_defaults() -> None:
    spec = LegacySpec.from_json({"nx": 64, "ny": 32, "nt": 6, "n_conv_layers": 4})
    assert spec.filters == (32, 64, 128, 256)
    assert spec.kernels == ((3, 3, 3),) * 4
    assert spec.strides == ((2, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 2))
    assert spec.stride == (2, 16, 16)


def test_axes_are_turned_from_y_x_time() -> None:
    spec = LegacySpec.from_json(
        {**SIZES, "n_conv_layers": 1, "n_filters": [4], "kernel_sizes": [[3, 5, 1]], "strides": [[4, 2, 1]]}
    )
    assert (spec.kernels, spec.strides) == (((1, 3, 5),), ((1, 4, 2),))


@pytest.mark.parametrize("convs", [1, 2, 3])
def test_several_convolutions_a_level(convs: int) -> None:
    spec = LegacySpec.from_json({**SIZES, "n_conv_layers": 2, "n_filters": [3, 5], "n_conv_per_block": convs})
    network = build_legacy(spec)
    layers = [layer for layer in network.layers if hasattr(layer, "legacy")]
    assert len(layers) == 4 * convs
    linear = [layer for layer in layers if layer.activation is None]
    assert len(linear) == (2 if convs > 1 else 0)  # the first of each level of the decoder
    answer = run_legacy(network, np.ones((8, 8, 4)), np.ones((8, 8, 4), dtype=bool))
    assert answer.shape == (8, 8, 4)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -3.4e38])
def test_values_under_gaps_do_not_matter(poison: float) -> None:
    network = build_legacy(LegacySpec.from_json({**SIZES, "n_conv_layers": 1, "n_filters": [3]}))
    rng = np.random.default_rng(0)
    values, valid = rng.random((4, 8, 8)), rng.random((4, 8, 8)) < 0.4
    poisoned = np.where(valid, values, poison)
    np.testing.assert_array_equal(run_legacy(network, values, valid), run_legacy(network, poisoned, valid))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"nx": 8, "ny": 8}, "needs nx, ny, nt", id="no length of time"),
        pytest.param({**SIZES}, "needs nx, ny, nt and n_conv_layers", id="no number of levels"),
        pytest.param({**SIZES, "n_conv_layers": 0}, "one level at least", id="no level"),
        pytest.param({**SIZES, "n_conv_layers": 2, "n_filters": [4]}, "1 filters", id="too few filters"),
        pytest.param({**SIZES, "n_conv_layers": 1, "kernel_sizes": [[3, 3, 3]] * 2}, "2 kernels", id="more kernels"),
        pytest.param({**SIZES, "n_conv_layers": 1, "strides": [[2, 0, 2]]}, "below 1", id="a stride of zero"),
        pytest.param({**SIZES, "n_conv_layers": 1, "strides": 2}, "needs nx", id="a stride for no axis"),
    ],
)
def test_a_description_of_nothing_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        LegacySpec.from_json(fields)
