"""Regression on a user's guides: what is followed, what is left out, and what stays the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stpipe.core.crops import Crop, block_of, fill_crop
from stpipe.core.gaps import Purpose, generator
from stpipe.core.ports import BlockInput, Prediction
from stpipe.core.timeline import median_step, neighbours
from stpipe.core.windows import Window
from stpipe.errors import RunError, ScratchError
from stpipe.methods.guide_learning import dealt, draws_of
from stpipe.methods.guide_regression import Lesson, Moments, prepared, regressed
from stpipe.methods.guided import GuidedFiller
from stpipe.methods.linear import LinearFiller
from stpipe.methods.pyramid import PyramidFiller
from tests.methods.scenes import block_input, made_up_scene

SHAPE = (30, 40, 48)


def with_guides(crop: Crop, **guides: np.ndarray) -> Crop:
    return replace(crop, guides={name: guide.astype(np.float32) for name, guide in guides.items()})


def taught(crop: Crop, *names: str, seed: int = 0) -> GuidedFiller:
    method = GuidedFiller(names=names or tuple(crop.guides))
    return method.taught(method.learn([crop], seed=seed))


def unlike(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Something that has nothing to do with any scene."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    return np.asarray(ndimage.gaussian_filter(noise, (1, 2, 2)) * 5, dtype=np.float32)


@cache
def scene() -> tuple[Crop, np.ndarray]:
    return made_up_scene(3, SHAPE)


@given(factor=st.sampled_from([-3.0, 0.2, 1.0, 4.0]), offset=st.floats(-4, 4))
@settings(max_examples=4, deadline=None)
def test_a_guide_that_is_the_truth_in_other_units_is_followed(factor: float, offset: float) -> None:
    crop, truth = scene()
    led = with_guides(crop, twin=factor * truth + offset)
    made = fill_crop(taught(led), led)
    assert np.abs(made.values - truth)[~crop.valid].max() < 2e-3
    assert not made.fallback[:, crop.valid.any(axis=0)].any()


def test_the_units_of_a_guide_make_no_difference() -> None:
    crop, truth = scene()
    like = truth + unlike(1)
    one, other = with_guides(crop, vv=like), with_guides(crop, vv=7 - 0.1 * like)
    made, again = (fill_crop(taught(led), led) for led in (one, other))
    assert max(taught(one).lesson.weights) > 0.3  # type: ignore[union-attr]
    np.testing.assert_allclose(made.values, again.values, atol=2e-3)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=4, deadline=None)
def test_a_guide_of_noise_does_no_harm(seed: int) -> None:
    crop, truth = scene()
    led = with_guides(crop, noise=unlike(seed))
    made, plain = fill_crop(taught(led, seed=seed), led), fill_crop(LinearFiller(), crop)
    errors = [np.abs(answer.values - truth)[~crop.valid].mean() for answer in (made, plain)]
    assert errors[0] <= 1.02 * errors[1]


def test_what_does_not_help_is_left_out_and_says_so() -> None:
    crop, _ = scene()
    led = with_guides(crop, noise=np.random.default_rng(1).standard_normal(SHAPE))
    method = taught(led)
    assert method.lesson is not None
    assert not method.lesson.used
    assert method.notes() == ("guide noise: does not help here and is left out",)
    made, plain = fill_crop(method, led), fill_crop(LinearFiller(), crop)
    for part in ("values", "half_width", "fallback"):
        np.testing.assert_array_equal(getattr(made, part), getattr(plain, part))


def test_what_helps_says_by_how_much() -> None:
    crop, truth = scene()
    method = taught(with_guides(crop, vv=truth + unlike(1)))
    assert method.lesson is not None
    before, after = method.lesson.errors
    (note,) = method.notes()
    assert (
        note == f"guide vv: takes {1 - after / before:.1%} off the error of interpolation on artificial gaps set apart"
    )
    assert 0.1 < 1 - after / before < 1


def test_where_there_is_no_guide_interpolation_stands_in() -> None:
    crop, truth = scene()
    guide = truth.copy()
    guide[10:16, :20] = np.nan
    led = with_guides(crop, vv=guide)
    made, plain = fill_crop(taught(led), led), fill_crop(LinearFiller(), crop)
    without = np.isnan(guide) & ~crop.valid
    np.testing.assert_array_equal(made.values[without], plain.values[without])
    assert made.fallback[without].all()
    assert not made.fallback[crop.valid].any()
    np.testing.assert_array_equal(made.values[crop.valid], truth[crop.valid])


def test_blocks_that_bring_no_guide_are_interpolated() -> None:
    crop, truth = scene()
    method = taught(with_guides(crop, vv=truth))
    np.testing.assert_array_equal(fill_crop(method, crop).values, fill_crop(LinearFiller(), crop).values)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_pixels_with_few_observations_follow_the_guide(count: int) -> None:
    _, truth = scene()
    rng = np.random.default_rng(count)
    valid = rng.random(SHAPE) < 0.4
    few = np.zeros(SHAPE[1:], dtype=bool)
    few[:6, :6] = True
    valid[:, few] = False
    for pixel in zip(*np.nonzero(few), strict=True):
        valid[(rng.permutation(SHAPE[0])[:count], *pixel)] = True
    crop, _ = scene()
    led = with_guides(replace(crop, values=np.where(valid, truth, np.float32(0)), valid=valid), vv=2 * truth)
    made = fill_crop(taught(led), led)
    assert np.abs(made.values - truth)[:, few].max() < 5e-3
    assert (made.half_width >= 0).all()


@given(
    top=st.integers(0, 4),
    left=st.integers(0, 5),
    rows=st.integers(1, 2),
    columns=st.integers(1, 2),
    seed=st.integers(0, 9),
)
@settings(max_examples=10, deadline=None)
def test_where_blocks_end_makes_no_difference(top: int, left: int, rows: int, columns: int, seed: int) -> None:
    crop, truth = scene()
    crop = replace(crop, valid=crop.valid & (np.arange(48) > 5))  # pixels that were never observed
    guides = {"vv": truth + unlike(seed), "vh": np.where(unlike(seed + 1) > 1, np.nan, unlike(seed + 2))}
    led = with_guides(crop, **guides)
    method = taught_once()
    whole = fill_crop(method, led)
    wanted = Window((0, 8 * top, 8 * left), (SHAPE[0], min(8 * (top + rows), 40), min(8 * (left + columns), 48)))
    _, halo_y, halo_x = method.halo
    start = (0, wanted.start[1] - halo_y, wanted.start[2] - halo_x)
    read = Window(start, (SHAPE[0], wanted.stop[1] + halo_y, wanted.stop[2] + halo_x))
    block = block_input(crop.values, crop.valid, crop.days, read.intersect(Window.of((SHAPE[0], 40, 48))), wanted)
    cut = block.window.slices
    part = method.fill(replace(block, guides={name: guide[cut] for name, guide in led.guides.items()}))
    inner = wanted.within(block.window).slices
    for name in ("values", "half_width", "fallback"):
        np.testing.assert_array_equal(getattr(part, name)[inner], getattr(whole, name)[wanted.slices])


@cache
def taught_once() -> GuidedFiller:
    crop, truth = scene()
    led = with_guides(crop, vv=truth + unlike(0), vh=unlike(2))
    method = taught(led)
    assert method.lesson is not None
    return replace(method, lesson=replace(method.lesson, smoothing=(3, 2.0), ridge=16.0, weights=(0.3, 0.8, 1.0)))


def test_a_pixel_is_regressed_as_a_slow_loop_does_it() -> None:
    rng = np.random.default_rng(4)
    crop, truth = scene()
    led = with_guides(crop, vv=truth + unlike(0), vh=np.where(unlike(2) > 1, np.nan, unlike(3)))
    lesson = taught(led).lesson
    assert lesson is not None
    step = median_step(crop.days)
    fields, known = prepared(("vv", "vh"), led.guides, crop.days, step, (0, 0.0))
    told, half_width = regressed(fields, known, crop.values, crop.valid, crop.days, step, lesson)
    for y, x in rng.integers(0, SHAPE[1:], (6, 2)):
        heard = crop.valid[:, y, x] & known[:, y, x]
        guides, values = fields[:, heard, y, x].astype(float), crop.values[heard, y, x].astype(float)
        guides, values = guides - guides.mean(axis=1, keepdims=True), values - values.mean()
        pull = lesson.ridge * np.array(lesson.covariance)
        slopes = np.linalg.solve(guides @ guides.T + pull, guides @ values + pull @ np.array(lesson.slopes))
        own = fields[:, :, y, x].T @ slopes
        left = np.where(heard, crop.values[:, y, x] - own, 0).astype(np.float32)[:, None, None]
        around = neighbours(left, heard[:, None, None], crop.days, step)
        np.testing.assert_allclose(told[:, y, x], own + around.linear[:, 0, 0], atol=1e-4)
        np.testing.assert_allclose(half_width[:, y, x], around.half_width[:, 0, 0], rtol=1e-3)


@pytest.mark.parametrize("smoothing", [(0, 1.5), (2, 0.0), (2, 1.5)])
def test_smoothing_is_a_mean_of_what_there_is(smoothing: tuple[int, float]) -> None:
    rng = np.random.default_rng(5)
    guide = rng.standard_normal((8, 9, 10)).astype(np.float32)
    guide[rng.random(guide.shape) < 0.3] = np.nan
    days = np.cumsum(rng.uniform(1, 6, 8))
    fields, known = prepared(("vv",), {"vv": guide}, days, 2.0, smoothing)
    np.testing.assert_array_equal(known, np.isfinite(guide))
    radius, steps = smoothing
    slow = np.where(np.isfinite(guide), guide, 0)
    if radius:
        for t, y, x in np.argwhere(known):
            box = guide[t, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            slow[t, y, x] = np.nanmean(box)
    if steps:
        smooth = slow.copy()
        for t, y, x in np.argwhere(known):
            away = days - days[t]
            weights = np.exp(-0.5 * (away / (2 * steps)) ** 2) * known[:, y, x] * (np.abs(away) <= 6 * steps)
            smooth[t, y, x] = weights @ slow[:, y, x] / weights.sum()
        slow = smooth
    np.testing.assert_allclose(fields[0][known], slow[known], atol=1e-5)


def test_smoothing_in_time_reaches_as_far_ahead_as_back() -> None:
    days = np.arange(0.0, 60.0, 3.0)
    rng = np.random.default_rng(7)
    guide = rng.standard_normal((days.size, 1, 2)).astype(np.float32)
    forth, _ = prepared(("vv",), {"vv": guide}, days, 1.0, (0, 2.0))  # frames lie where the window ends
    back, _ = prepared(("vv",), {"vv": guide[::-1]}, days, 1.0, (0, 2.0))
    np.testing.assert_allclose(forth[0], back[0, ::-1], atol=1e-6)


def test_moments_are_those_of_deviations() -> None:
    rng = np.random.default_rng(6)
    fields, values = rng.standard_normal((2, 7, 2, 3)).astype(np.float32), rng.standard_normal((7, 2, 3))
    heard = rng.random((7, 2, 3)) < 0.6
    moments = Moments.of(fields, values.astype(np.float32), heard)
    for y, x in np.ndindex(2, 3):
        own = fields[:, heard[:, y, x], y, x].astype(float)
        off = own - own.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(moments.guides[y, x], off @ off.T, atol=1e-5)
        np.testing.assert_allclose(moments.cross[y, x], off @ values[heard[:, y, x], y, x], atol=1e-5)


def test_values_under_gaps_and_guides_of_others_have_no_say() -> None:
    crop, truth = scene()
    led = with_guides(crop, vv=truth + unlike(0), vh=unlike(2))
    method = taught_once()
    block = block_of(led, method.stride)
    loud = replace(
        block, values=np.where(block.valid, block.values, np.float32(1e9)), guides={**block.guides, "other": truth}
    )
    np.testing.assert_array_equal(method.fill(block).values, method.fill(loud).values)
    shouted = replace(led, values=np.where(led.valid, led.values, np.float32(1e9)))
    plain = GuidedFiller(names=("vv", "vh"))
    assert plain.learn([led], seed=1) == plain.learn([shouted], seed=1) == plain.learn([led], seed=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsure(PyramidFiller):
    """Answers, and can't say how sure it is."""

    def fill(self, block: BlockInput) -> Prediction:
        made = PyramidFiller.fill(self, block)
        return replace(made, half_width=np.full_like(made.half_width, np.inf))


def test_an_unsure_fallback_stays_where_guides_are_of_no_use_in_long_gaps() -> None:
    crop, truth = scene()
    crop = replace(crop, valid=crop.valid & (np.arange(48) > 5))
    led = with_guides(crop, vv=truth + unlike(0), vh=unlike(2))
    method = taught_once()
    assert method.lesson is not None
    short = replace(method, lesson=replace(method.lesson, weights=(1.0, 1.0, 0.0)), fallback=Unsure())
    made, plain = fill_crop(short, led), fill_crop(Unsure(), led)
    never = ~crop.valid.any(axis=0)
    np.testing.assert_array_equal(made.values[:, never], plain.values[:, never])
    assert np.isfinite(made.values).all()


@pytest.mark.parametrize("seed", range(3))
def test_what_is_chosen_owes_nothing_to_the_frames_that_judge(seed: int) -> None:
    crop, truth = scene()
    rng = generator(Purpose.GUIDED, seed, draws_of(crop.valid.size))
    choosing = dealt(SHAPE[0], rng)
    assert 0.4 <= choosing.mean() <= 0.6
    # The guide tells of the frames that choose alone, so that only what is judged on these could take it.
    led = with_guides(crop, vv=np.where(choosing[:, None, None], truth, unlike(seed)))
    lesson = taught(led, seed=seed).lesson
    assert lesson is not None
    assert not lesson.used


@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 1, 1), (1, 8, 9), (2, 9, 9)])
def test_the_smallest_cubes_have_an_answer(shape: tuple[int, int, int]) -> None:
    valid = np.zeros(shape, dtype=bool)
    empty = Crop(
        values=np.zeros(shape, np.float32), valid=valid, days=np.arange(float(shape[0])), window=Window.of(shape)
    )
    led = with_guides(empty, vv=np.ones(shape), vh=np.full(shape, np.nan))
    assert np.isnan(fill_crop(taught(led), led).values).all()
    valid = valid.copy()
    valid[-1, 0, 0] = True
    led = replace(led, values=np.where(valid, np.float32(2), np.float32(0)), valid=valid)
    method = taught(led)
    np.testing.assert_allclose(fill_crop(method, led).values, 2, rtol=1e-5)
    assert "only" in method.notes()[0]


def test_what_was_learned_comes_back_and_anything_else_is_refused() -> None:
    lesson = taught_once().lesson
    assert lesson is not None
    assert Lesson.from_bytes(lesson.to_bytes()) == lesson
    with pytest.raises(ScratchError, match="3 bytes are nothing that guided has learned"):
        Lesson.from_bytes(b"abc")
    with pytest.raises(RunError, match="has not learned anything yet"):
        GuidedFiller(names=("vv",)).fill(block_of(scene()[0], (1, 8, 8)))
    with pytest.raises(RunError, match="learns from crops of the cube, got none"):
        GuidedFiller(names=("vv",)).learn([], seed=0)
