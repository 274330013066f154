"""The partial convolution against a slow one in plain NumPy, and its laws."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpipe.errors import ShapeError
from stpipe.model.layers import PartialConv3D

Array = NDArray[Any]


def slow_partial_conv(
    features: Array, full_mask: Array, kernel: Array, bias: Array, strides: tuple[int, ...], *, legacy: bool
) -> tuple[Array, Array]:
    """Loop over every output sample; features and a mask a channel, (t, y, x, channel)."""
    size = kernel.shape[:3]
    before = [(k - 1) // 2 for k in size]
    after = before if legacy else [k // 2 for k in size]
    around = [*zip(before, after, strict=True), (0, 0)]
    features, full_mask = np.pad(features, around), np.pad(full_mask, around)
    shape = [(n - k) // s + 1 for n, k, s in zip(features.shape, size, strides, strict=False)]
    out, valid = np.zeros((*shape, kernel.shape[-1])), np.zeros((*shape, 1))
    for place in itertools.product(*map(range, shape)):
        window = tuple(slice(i * s, i * s + k) for i, s, k in zip(place, strides, size, strict=True))
        seen = full_mask[window].astype(bool)
        listened = np.where(seen, features[window], 0.0)
        response = np.tensordot(listened, kernel, axes=4)
        count, volume = seen.sum(), float(np.prod(size))
        some = min(float(count), 1.0)
        if legacy:
            out[place] = response * (volume / (count + 1e-8)) * some + bias
        else:
            out[place] = (response * volume * kernel.shape[3] / max(count, 1) + bias) * some
        valid[place] = some
    return out, valid


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    groups = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    shape = [draw(st.integers(3, 6)) for _ in range(3)]
    return {
        "rng": rng,
        "groups": groups,
        "kernel_size": tuple(draw(st.integers(1, 3)) for _ in range(3)),
        "strides": tuple(draw(st.integers(1, 2)) for _ in range(3)),
        "filters": draw(st.integers(1, 3)),
        "legacy": draw(st.booleans()),
        "features": rng.standard_normal((*shape, sum(groups))).astype(np.float32),
        "mask": (rng.random((*shape, len(groups))) < draw(st.sampled_from([0.0, 0.1, 0.6, 1.0]))).astype(np.float32),
    }


def make_layer(case: dict[str, Any], **options: Any) -> PartialConv3D:
    names = ("filters", "kernel_size", "strides", "groups", "legacy")
    layer = PartialConv3D(**{name: case[name] for name in names} | options)
    channels = sum(layer.groups)
    layer.build([(None, None, None, None, channels), (None, None, None, None, len(layer.groups))])
    rng = case["rng"]
    layer.set_weights([rng.standard_normal(w.shape).astype(np.float32) for w in layer.weights])
    return layer


def run(layer: PartialConv3D, features: Array, mask: Array) -> tuple[Array, Array]:
    value, valid = layer([features[None], mask[None]])
    return np.asarray(value)[0], np.asarray(valid)[0]


@settings(max_examples=40)
@given(cases())
def test_equals_the_slow_convolution(case: dict[str, Any]) -> None:
    layer = make_layer(case)
    got, got_valid = run(layer, case["features"], case["mask"])
    full = np.repeat(case["mask"], case["groups"], axis=-1)
    kernel, bias = (np.asarray(w) for w in layer.get_weights())
    expected, valid = slow_partial_conv(case["features"], full, kernel, bias, case["strides"], legacy=case["legacy"])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(got_valid, valid)
    shapes = layer.compute_output_shape([(1, *case["features"].shape), (1, *case["mask"].shape)])
    assert shapes == ((1, *got.shape), (1, *got_valid.shape))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_step_that_leaves_one_column_reads_no_other(size: int, legacy: bool) -> None:
    rng = np.random.default_rng(size)
    width = 3 if legacy and size == 2 else 2  # the most that one column comes out of: padding differs
    features = rng.standard_normal((3, 5, width, 1)).astype(np.float32)
    mask = (rng.random(features.shape) < 0.3).astype(np.float32)
    layer = make_layer(
        {"filters": 1, "kernel_size": (1, 1, size), "strides": (1, 1, 2), "groups": (1,), "legacy": legacy, "rng": rng}
    )
    got, got_valid = run(layer, features, mask)
    kernel, bias = (np.asarray(w) for w in layer.get_weights())
    expected, valid = slow_partial_conv(features, mask, kernel, bias, (1, 1, 2), legacy=legacy)
    assert got.shape[2] == 1
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(got_valid, valid)


@settings(max_examples=15)
@given(cases())
def test_groups_give_what_a_mask_for_each_channel_gives(case: dict[str, Any]) -> None:
    grouped = make_layer(case)
    channels = sum(case["groups"])
    single = make_layer(case, groups=(1,) * channels)
    single.set_weights(grouped.get_weights())
    full = np.repeat(case["mask"], case["groups"], axis=-1)
    for one, other in zip(
        run(grouped, case["features"], case["mask"]), run(single, case["features"], full), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@settings(max_examples=15)
@given(cases(), st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
def test_values_under_gaps_do_not_come_through(case: dict[str, Any], poison: float) -> None:
    layer = make_layer(case)
    full = np.repeat(case["mask"], case["groups"], axis=-1)
    poisoned = np.where(full > 0, case["features"], np.float32(poison))
    for one, other in zip(run(layer, case["features"], case["mask"]), run(layer, poisoned, case["mask"]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_gaps_it_is_the_ordinary_convolution() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((5, 7, 6, 3)).astype(np.float32)
    layer = PartialConv3D(4, kernel_size=(3, 3, 3), groups=(3,))
    plain = keras.layers.Conv3D(4, 3, padding="valid")
    plain.build((None, None, None, None, 3))
    got, valid = run(layer, features, np.ones((5, 7, 6, 1), dtype=np.float32))
    plain.set_weights(layer.get_weights())
    inside = (slice(1, -1),) * 3  # at the edge the array's outside is gap, and the rest counts for more
    np.testing.assert_allclose(got[inside], np.asarray(plain(features[None]))[0], rtol=1e-5, atol=1e-5)
    assert (valid == 1).all()


def test_a_constant_stays_constant_whatever_is_missing() -> None:
    mask = (np.random.default_rng(1).random((4, 9, 9, 1)) < 0.2).astype(np.float32)
    layer = PartialConv3D(1, kernel_size=(3, 3, 3), groups=(1,), kernel_initializer=keras.initializers.Constant(1 / 27))
    got, valid = run(layer, np.full((4, 9, 9, 1), 5, dtype=np.float32), mask)
    np.testing.assert_allclose(got[valid == 1], 5.0, rtol=1e-6)
    assert (got[valid == 0] == 0).all()
    assert (valid == 0).any()


def test_clean_saves_the_copy_and_changes_no_number() -> None:
    rng = np.random.default_rng(2)
    mask = (rng.random((3, 6, 6, 1)) < 0.5).astype(np.float32)
    features = rng.standard_normal((3, 6, 6, 2)).astype(np.float32) * mask
    careful = PartialConv3D(2, kernel_size=(1, 3, 3), strides=(1, 2, 2), groups=(2,))
    first = run(careful, features, mask)
    trusting = PartialConv3D.from_config({**careful.get_config(), "clean": True, "name": "trusting"})
    trusting.build([(None, None, None, None, 2), (None, None, None, None, 1)])
    trusting.set_weights(careful.get_weights())
    for one, other in zip(first, run(trusting, features, mask), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_config_rebuilds_the_layer(legacy: bool) -> None:
    layer = PartialConv3D(3, kernel_size=(1, 3, 3), strides=(1, 2, 2), groups=(2, 1), activation="leaky", legacy=legacy)
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert isinstance(again, PartialConv3D)
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"filters": 0}, "at least 1, got filters=0", id="no filters"),
        pytest.param({"groups": ()}, r"groups=\(\)", id="no groups"),
        pytest.param({"strides": (1, 0, 1)}, r"strides=\(1, 0, 1\)", id="a stride of zero"),
        pytest.param({"kernel_size": (3, 3)}, "one number for each", id="two axes"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        PartialConv3D(**{"filters": 1, "kernel_size": (3, 3, 3), "groups": (1,)} | options)


def test_channels_must_fit_the_groups() -> None:
    layer = PartialConv3D(1, kernel_size=(1, 1, 1), groups=(2, 1))
    with pytest.raises(ShapeError, match=r"groups \(2, 1\) mean 3 channels and 2 masks, got 2 and 2"):
        layer.build([(None, 4, 4, 4, 2), (None, 4, 4, 4, 2)])
