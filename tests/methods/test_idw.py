"""Inverse distances against a slow loop: blocks equal the whole, units make no difference, the pyramid helps out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.crops import fill_crop
from stpipe.core.windows import Window
from stpipe.errors import OptionError
from stpipe.methods.idw import IdwFiller, distance_weights, weighted_sums
from stpipe.methods.pyramid import PyramidFiller
from tests.methods.scenes import block_input, crop_of


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    radius=st.integers(2, 9),
    power=st.sampled_from([1.0, 2.0, 3.5]),
    share_valid=st.floats(0, 1),
)
def test_sums_are_those_of_a_loop_over_all_pairs(
    seed: int, shape: tuple[int, int], radius: int, power: float, share_valid: float
) -> None:
    rng = np.random.default_rng(seed)
    frame, valid = rng.normal(size=shape).astype(np.float32), rng.random(shape) < share_valid
    expected = np.zeros((3, *shape))
    for here in np.ndindex(shape):
        for there in np.ndindex(shape):
            distance = np.hypot(here[0] - there[0], here[1] - there[1])
            if valid[there] and 0 < distance < radius:
                weight, value = (1 / distance - 1 / radius) ** power, float(frame[there])
                expected[(slice(None), *here)] += weight, weight * value, weight * value**2
    np.testing.assert_allclose(weighted_sums(frame, valid, distance_weights(radius, power)), expected, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 90), st.integers(1, 90)),
    size=st.integers(8, 60),
    share_valid=st.floats(0, 1),
    radius=st.integers(2, 30),
)
def test_blocks_give_what_the_whole_scene_gives(
    seed: int, shape: tuple[int, int, int], size: int, share_valid: float, radius: int
) -> None:
    rng = np.random.default_rng(seed)
    values, valid = rng.normal(size=shape).astype(np.float32), rng.random(shape) < share_valid
    valid[:, shape[1] // 4 : shape[1] // 2] = False
    filler = IdwFiller(radius=radius)
    grid = BlockGrid(shape, BlockSpec(size=shape, stride=filler.stride))
    whole = filler.fill(block_input(values, valid, window=Window.of(grid.padded_extent)))
    spec = BlockSpec(size=(2, size, size), overlap=(0, 3, 3), halo=filler.halo, stride=filler.stride)
    for block in BlockGrid(shape, spec):
        part = filler.fill(block_input(values, valid, window=block.read))
        for name in ("values", "half_width", "fallback"):
            np.testing.assert_allclose(
                getattr(part, name)[block.trim], getattr(whole, name)[block.write.slices], rtol=0, atol=1e-5
            )


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(max_examples=10, deadline=None)
def test_units_make_no_difference(seed: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    values, valid = rng.normal(size=(2, 20, 30)), rng.random((2, 20, 30)) < 0.2
    valid[0, 0, 0] = True
    plain = fill_crop(IdwFiller(), crop_of(values, valid)).values
    other = fill_crop(IdwFiller(), crop_of(scale * values + shift, valid)).values
    np.testing.assert_allclose(other, scale * plain + shift, rtol=0, atol=1e-4 * (scale + abs(shift)))


def test_a_sample_has_no_say_in_its_own_prediction_but_for_the_pyramids_little_weight() -> None:
    values = np.zeros((1, 40, 40))
    valid = np.ones(values.shape, dtype=bool)
    values[0, 20, 20] = 1.0
    filled = fill_crop(IdwFiller(), crop_of(values, valid)).values[0]
    assert abs(filled[20, 20]) < 0.01
    assert filled[20, 21] > 0.05


def test_beyond_the_radius_the_pyramid_answers_and_nothing_jumps_on_the_way() -> None:
    values = np.ones((1, 64, 128))
    values[:, :, :40] = 0
    valid = np.ones(values.shape, dtype=bool)
    valid[:, :, 8:] = False
    valid[:, :, 120:] = True
    crop = crop_of(values, valid)
    made, pyramid = fill_crop(IdwFiller(radius=16), crop), fill_crop(PyramidFiller(), crop)
    inside = made.values[0, :, 8:120]
    assert np.abs(np.diff(inside, axis=1)).max() < 0.06
    np.testing.assert_allclose(made.values[0, :, 24:104], pyramid.values[0, :, 24:104], atol=1e-6)
    assert made.fallback[0, :, 24:104].all()
    assert not made.fallback[0, :, :10].any()


def test_a_frame_without_samples_is_the_pyramids() -> None:
    rng = np.random.default_rng(3)
    values, valid = rng.normal(size=(3, 24, 24)), rng.random((3, 24, 24)) < 0.5
    valid[1] = False
    crop = crop_of(values, valid)
    made, pyramid = fill_crop(IdwFiller(), crop), fill_crop(PyramidFiller(), crop)
    np.testing.assert_array_equal(made.values[1], pyramid.values[1])
    np.testing.assert_array_equal(made.half_width[1], pyramid.half_width[1])
    assert made.fallback[1].all()


@pytest.mark.parametrize("option", [{"power": 0.0}, {"radius": 1}, {"far": 0.0}], ids=lambda option: next(iter(option)))
def test_options_without_meaning_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="need power > 0, radius >= 2 and far > 0"):
        IdwFiller(**option)


def test_options_are_part_of_the_identity() -> None:
    assert IdwFiller(power=2.0).identity() != IdwFiller().identity()
    assert IdwFiller(radius=40).halo == (0, 40, 40)
