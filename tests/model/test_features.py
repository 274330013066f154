"""What the network sees: everything relative to the base, nothing of what lies under gaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.model.features import (
    FARTHEST,
    FEATURES,
    FIRST_GUIDE,
    GROUPS,
    GUIDE_COUNT,
    INPUTS,
    MASKS,
    PARTIAL,
    SIGNED,
    SMALLEST_SCALE,
    Scenery,
    network_input,
    scale_of,
)
from tests.model.sceneries import random_scenery, random_weights

SHAPE = (4, 3, 5)
SEEDS = st.integers(0, 2**32)
SHARES = st.sampled_from([0.0, 0.3, 1.0])
GUIDES = slice(FIRST_GUIDE, FIRST_GUIDE + GUIDE_COUNT)


@settings(max_examples=30)
@given(SEEDS, SHARES, st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38]))
def test_values_under_gaps_say_nothing_and_all_inputs_are_finite(seed: int, share: float, poison: float) -> None:
    rng = np.random.default_rng(seed)
    seen, weights = random_scenery(rng, SHAPE, share), random_weights(rng, SHAPE)
    junk = np.float32(poison)
    dirty = replace(
        seen,
        values=np.where(seen.valid, seen.values, junk),
        differences=[np.where(seen.valid, part, junk) for part in seen.differences],
    )
    for clean, other in zip(network_input(seen, weights), network_input(dirty, weights), strict=True):
        np.testing.assert_array_equal(clean, other)
        assert np.isfinite(clean).all()
        assert clean.dtype == np.float32


@settings(max_examples=20)
@given(SEEDS, SHARES)
def test_masks_tell_what_is_known_and_the_rest_is_zero(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    seen = random_scenery(rng, SHAPE, share)
    inputs = network_input(seen, random_weights(rng, SHAPE))[0]
    assert inputs.shape == (*SHAPE, INPUTS)
    masks = inputs[..., FEATURES:].astype(bool)
    has_before, has_after = ~np.isnan(seen.before), ~np.isnan(seen.after)
    expected = (seen.valid, seen.valid & (has_before | has_after), has_before, has_after)
    assert len(expected) == len(MASKS) == len(PARTIAL)
    start = 0
    for number, (mask, count) in enumerate(zip(expected, GROUPS, strict=False)):
        np.testing.assert_array_equal(masks[..., number], mask)
        assert (inputs[..., start : start + count][~mask] == 0).all()
        start += count
    assert start == FIRST_GUIDE


def by_hand(seen: Scenery, weights: np.ndarray, place: tuple[int, int, int]) -> tuple[list[float], float, float]:
    """One sample in double precision: differences from the base, the base, and the scale."""
    widths = [max(float(half[place]), SMALLEST_SCALE) for half in seen.half_widths]
    scale = sum(width**-2 for width in widths) ** -0.5
    guides = [float(guide[place]) for guide in seen.guides]
    base = float(np.dot(weights[place], guides))
    known = bool(seen.valid[place])
    neighboured = known and bool(np.isfinite([seen.before[place], seen.after[place]]).any())
    partial = [
        seen.differences[1][place] / scale if known else 0.0,
        (seen.values[place] - guides[0]) / scale if known else 0.0,
        seen.differences[0][place] / scale if neighboured else 0.0,
        *((part[place] - base) / scale if np.isfinite(part[place]) else 0.0 for part in (seen.before, seen.after)),
    ]
    circumstances = [
        np.log(scale),
        *(np.log(width / scale) for width in widths),
        *(np.log1p(min(float(part[place]), FARTHEST)) for part in (seen.since, seen.until, seen.distance)),
        float(known),
        seen.pixel_share[place[1:]],
        np.log(max(float(seen.pixel_spread[place[1:]]), SMALLEST_SCALE)),
        seen.frame_share[place[0]],
        np.arcsinh(seen.frame_anomaly[place[0]]),
    ]
    return [*partial, *((guide - base) / scale for guide in guides), *weights[place], *circumstances], base, scale


@settings(max_examples=20)
@given(SEEDS)
def test_every_sample_is_what_a_slow_loop_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seen, weights = random_scenery(rng, SHAPE), random_weights(rng, SHAPE)
    inputs, base, scale = network_input(seen, weights)
    for place in np.ndindex(SHAPE):
        features, own_base, own_scale = by_hand(seen, weights, place)
        np.testing.assert_allclose(inputs[place][:FEATURES], features, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose([base[place], scale[place]], [own_base, own_scale], rtol=1e-4, atol=1e-5)


def moved(seen: Scenery, factor: float, shift: float) -> Scenery:
    """The same scene in other units, its circumstances aside."""
    by, to = np.float32(factor), np.float32(shift)
    return replace(
        seen,
        values=by * seen.values + to,
        guides=[by * guide + to for guide in seen.guides],
        half_widths=[abs(by) * half for half in seen.half_widths],
        differences=[by * part for part in seen.differences],
        before=by * seen.before + to,
        after=by * seen.after + to,
    )


@settings(max_examples=20)
@given(SEEDS, st.floats(0.25, 4), st.floats(-5, 5))
def test_scaling_and_shifting_a_scene_moves_the_base_and_leaves_the_differences(
    seed: int, factor: float, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    seen, weights = random_scenery(rng, SHAPE), random_weights(rng, SHAPE)
    seen = replace(seen, half_widths=[half + 0.1 for half in seen.half_widths])  # above the smallest in all units
    inputs, base, scale = network_input(seen, weights)
    other_inputs, other_base, other_scale = network_input(moved(seen, factor, shift), weights)
    np.testing.assert_allclose(other_base, factor * base + shift, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other_scale, factor * scale, rtol=1e-5)
    told = FIRST_GUIDE + 2 * GUIDE_COUNT  # its first circumstance is the scale itself
    np.testing.assert_allclose(other_inputs[..., told], inputs[..., told] + np.log(factor), atol=1e-4)
    for same in (slice(0, told), slice(told + 1, None)):
        np.testing.assert_allclose(other_inputs[..., same], inputs[..., same], rtol=1e-3, atol=2e-3)


@settings(max_examples=20)
@given(SEEDS)
def test_a_scene_upside_down_has_its_signed_channels_upside_down_and_no_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seen, weights = random_scenery(rng, SHAPE), random_weights(rng, SHAPE)
    inputs, base, scale = network_input(seen, weights)
    turned = replace(moved(seen, -1, 0), frame_anomaly=-seen.frame_anomaly)
    other_inputs, other_base, other_scale = network_input(turned, weights)
    np.testing.assert_array_equal(other_base, -base)
    np.testing.assert_array_equal(other_scale, scale)
    inputs[..., SIGNED] *= -1
    np.testing.assert_array_equal(other_inputs, inputs)


@pytest.mark.parametrize("guide", range(GUIDE_COUNT))
def test_the_base_is_the_weighted_mean_of_the_guides(guide: int) -> None:
    rng = np.random.default_rng(guide)
    seen, weights = random_scenery(rng, SHAPE), random_weights(rng, SHAPE)
    inputs, base, _ = network_input(seen, weights)
    np.testing.assert_array_equal(inputs[..., GUIDES.stop : GUIDES.stop + GUIDE_COUNT], weights)
    np.testing.assert_allclose((weights * inputs[..., GUIDES]).sum(axis=-1), 0, atol=2e-3)
    alone = np.zeros_like(weights)
    alone[..., guide] = 1
    inputs, base, _ = network_input(seen, alone)
    np.testing.assert_array_equal(base, seen.guides[guide])
    assert (inputs[..., FIRST_GUIDE + guide] == 0).all()


def test_the_surest_guides_set_the_scale() -> None:
    widths = [np.full(SHAPE, width, np.float32) for width in (0.3, 1e6, 0.4)]
    np.testing.assert_allclose(scale_of(widths), 0.24, rtol=1e-6)  # as 3, 4 and 5: 0.3 x 0.4 / 0.5
    nothing = [np.zeros(SHAPE, np.float32)] * 3
    np.testing.assert_allclose(scale_of(nothing), SMALLEST_SCALE / 3**0.5, rtol=1e-6)


@settings(max_examples=20)
@given(SEEDS, st.data())
def test_a_part_is_seen_as_it_is_in_the_whole(seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    seen, weights = random_scenery(rng, SHAPE), random_weights(rng, SHAPE)
    start = [data.draw(st.integers(0, n - 1)) for n in SHAPE]
    t, y, x = (slice(first, data.draw(st.integers(first + 1, n))) for first, n in zip(start, SHAPE, strict=True))
    cut = (t, y, x)
    for whole, part in zip(network_input(seen, weights), network_input(seen.part(cut), weights[cut]), strict=True):
        np.testing.assert_array_equal(part, whole[cut])
