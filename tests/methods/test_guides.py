"""Guides and spreading: what depends on what, and how far."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stpipe.core.crops import block_of
from stpipe.core.ports import BlockInput
from stpipe.core.windows import Window
from stpipe.methods.eof import EofFiller
from stpipe.methods.guides import EMPTY, FARTHEST, GUIDES, GuideMaker, lie
from stpipe.methods.modes import Modes
from stpipe.methods.spreading import REACH, STRIDE, spread
from tests.methods.scenes import made_up_scene


@pytest.mark.parametrize("shift", range(0, 16, 5))
def test_no_difference_is_carried_beyond_its_reach_but_up_to_close_below(shift: int) -> None:
    differences = np.zeros((1, 128, 128), dtype=np.float32)
    valid = np.zeros(differences.shape, dtype=bool)
    differences[0, 48 + shift, 48 + shift], valid[0, 48 + shift, 48 + shift] = 1, True
    carried = spread(differences, valid)[0] != 0
    far = np.abs(np.argwhere(carried) - (48 + shift)).max()
    assert STRIDE < far < REACH


def test_spreading_fades_to_nothing_and_never_exceeds_what_it_carries() -> None:
    rng = np.random.default_rng(0)
    differences = rng.uniform(-1, 1, (3, 64, 64)).astype(np.float32)
    valid = rng.random(differences.shape) < 0.02
    carried = spread(differences, valid)
    assert np.abs(carried).max() <= np.abs(differences[valid]).max() + 1e-6
    assert not spread(differences, np.zeros_like(valid)).any()


def test_guides_hear_nothing_under_gaps_and_are_finite() -> None:
    crop, _ = made_up_scene()
    modes = Modes.from_bytes(EofFiller().learn([crop], seed=0))
    maker = GuideMaker(modes=modes)
    block = block_of(crop, maker.stride)
    poisoned = replace(block, values=np.where(block.valid, block.values, np.float32(1e30)))
    one, other = maker.make(block), maker.make(poisoned)
    assert tuple(one.values) == GUIDES == maker.names
    for name in GUIDES:
        np.testing.assert_array_equal(one.values[name], other.values[name])
        assert np.isfinite(one.values[name]).all()
    for name, half_width in one.half_widths.items():
        np.testing.assert_array_equal(half_width, other.half_widths[name])
        assert (half_width >= 0).all()


def test_the_guides_of_a_part_are_those_of_the_whole() -> None:
    crop, _ = made_up_scene(3, (10, 128, 136))
    maker = GuideMaker(modes=Modes.from_bytes(EofFiller().learn([crop], seed=0)))
    whole = block_of(crop, maker.stride)
    read, write = Window((0, 0, 0), (10, 128, 136)), Window((0, 40, 48), (10, 80, 96))
    part = BlockInput(
        values=whole.values[read.slices],
        valid=whole.valid[read.slices],
        days=whole.days,
        window=read,
        overviews=whole.overviews,
        all_days=whole.all_days,
        wanted=write,
    )
    assert all(w - r >= h for w, r, h in zip(write.start[1:], read.start[1:], maker.halo[1:], strict=True))  # type: ignore[operator]
    everything, cut = maker.make(whole), maker.make(part)
    assert cut.block.window == Window((0, 8, 16), (10, 112, 128))
    inner = write.within(cut.block.window).slices
    for name in GUIDES:
        np.testing.assert_allclose(cut.values[name][inner], everything.values[name][write.slices], atol=2e-4)
    there, here = lie(whole), lie(cut.block)
    np.testing.assert_array_equal(here.distance[inner], there.distance[write.slices])
    np.testing.assert_array_equal(here.frame_share, there.frame_share)


def test_an_empty_frame_is_told_from_a_wide_cloud() -> None:
    crop, _ = made_up_scene(1, (8, 80, 80))
    valid = crop.valid.copy()
    valid[2] = False
    valid[2, :8, :8] = True
    place = lie(block_of(replace(crop, valid=valid), (1, 8, 8)))
    assert (place.distance[4] == EMPTY).all()  # the scene's missing frame
    assert place.distance[2, 79, 79] == np.float32(EMPTY if valid[2].mean() < 0.01 else FARTHEST)
    assert place.distance[2, 0, 8] == 1
