"""Kriging against a dense loop over samples, and the laws of every method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import cKDTree

from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.crops import Crop, fill_crop
from stpipe.core.ports import BlockInput, Learner
from stpipe.core.survey import ArrayOverviews
from stpipe.core.windows import Window
from stpipe.errors import ModelFileError, OptionError, RunError
from stpipe.methods import kriging
from stpipe.methods.kriging import (
    DIRECTIONS,
    NEAREST,
    REACH,
    SEARCH,
    Covariance,
    KrigingFiller,
    find_samples,
    krige_frame,
    learn_covariance,
)
from stpipe.methods.pyramid import PyramidFiller


def block_input(values: np.ndarray, valid: np.ndarray, window: Window, wanted: Window | None = None) -> BlockInput:
    """One window of a cube with daily frames, with gap where it reaches past the cube."""
    inside = window.intersect(Window.of(values.shape))
    cut, known = np.zeros(window.shape, dtype=np.float32), np.zeros(window.shape, dtype=bool)
    cut[inside.within(window).slices] = values[inside.slices]
    known[inside.within(window).slices] = valid[inside.slices]
    days = np.arange(len(values), dtype=np.float64)
    return BlockInput(
        values=cut,
        valid=known,
        days=days[window.start[0] : window.stop[0]],
        window=window,
        overviews=ArrayOverviews.of(np.where(valid, values, 0).astype(np.float64), valid),
        all_days=days,
        wanted=wanted,
    )


def crop_of(values: np.ndarray, valid: np.ndarray) -> Crop:
    return Crop(
        values=np.where(valid, values, 0).astype(np.float32),
        valid=valid,
        days=np.arange(len(values), dtype=np.float64),
        window=Window.of(values.shape),
    )


def cloudy(
    rng: np.random.Generator, shape: tuple[int, ...], share_valid: float = 0.5, width: float = 4.0
) -> np.ndarray:
    """Valid samples apart from cloud-like blobs and a little speckle."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), (0, width, width))
    return (noise <= np.quantile(noise, share_valid)) & (rng.random(shape) < 0.95)


def distances(valid: np.ndarray) -> np.ndarray:
    """Of the nearest valid sample, in pixels."""
    return np.asarray(ndimage.distance_transform_edt(~valid))


def offsets_found(valid: np.ndarray, row: int, column: int) -> list[tuple[int, int]]:
    ranks = find_samples(valid, np.array([row]), np.array([column]))[0]
    table = kriging._offsets()
    return [(int(table.rows[r]), int(table.columns[r])) for r in ranks if r < table.rows.size]


def samples_by_loop(valid: np.ndarray, row: int, column: int) -> set[tuple[int, int]]:
    """Look at all samples, and walk along all directions."""
    height, width = valid.shape
    there = [(y - row, x - column) for y, x in np.argwhere(valid) if (y, x) != (row, column)]
    near = sorted((y * y + x * x, y, x) for y, x in there)
    found = {(y, x) for square, y, x in near[:NEAREST] if square <= SEARCH**2}
    for down, across in DIRECTIONS:
        y, x, steps = row + down, column + across, 1
        while 0 <= y < height and 0 <= x < width and not valid[y, x]:
            y, x, steps = y + down, x + across, steps + 1
        if 0 <= y < height and 0 <= x < width and steps**2 * (down**2 + across**2) <= SEARCH**2:
            found.add((y - row, x - column))
    return found


def krige_by_hand(values: np.ndarray, where: np.ndarray, prior: float, covariance: Covariance) -> tuple[float, float]:
    """Estimate and its square error, as the conditional mean of a normal distribution with a random mean."""
    points = np.concatenate([where, [[0, 0]]]).astype(float)
    apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    joint = np.exp(-apart / covariance.range_px) + covariance.nugget * np.eye(len(points)) + 1 / covariance.backing
    inner, toward = joint[:-1, :-1], joint[:-1, -1]
    weights = np.linalg.solve(inner, toward)
    return prior + float(weights @ (values - prior)), float(joint[-1, -1] - weights @ toward)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    share_valid=st.sampled_from([0.003, 0.02, 0.1, 0.5, 1.0]),
)
def test_samples_found_are_those_of_a_loop(seed: int, shape: tuple[int, int], share_valid: float) -> None:
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) < share_valid
    for _ in range(5):
        row, column = int(rng.integers(shape[0])), int(rng.integers(shape[1]))
        found = offsets_found(valid, row, column)
        assert len(found) == len(set(found))
        assert set(found) == samples_by_loop(valid, row, column)


def test_the_nearest_are_as_near_as_a_tree_finds_them() -> None:
    rng = np.random.default_rng(1)
    valid = cloudy(rng, (1, 70, 90), 0.3)[0]
    rows, columns = np.nonzero(~valid)
    tree = cKDTree(np.argwhere(valid))
    expected = np.asarray(tree.query(np.stack([rows, columns], axis=1), k=NEAREST)[0])
    ranks = find_samples(valid, rows, columns)[:, :NEAREST]
    squares = np.append(kriging._offsets().squares, -1)[ranks].astype(float)
    within = expected[:, -1] <= SEARCH
    np.testing.assert_allclose(np.sqrt(squares[within]), expected[within], rtol=1e-12)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share_valid=st.sampled_from([0.01, 0.2, 0.8]),
    covariance=st.builds(
        Covariance,
        range_px=st.floats(1, 100),
        nugget=st.floats(0.003, 2),
        backing=st.floats(0.1, 20),
    ),
)
def test_predictions_are_those_of_a_dense_loop(seed: int, share_valid: float, covariance: Covariance) -> None:
    rng = np.random.default_rng(seed)
    valid = rng.random((16, 32)) < share_valid
    valid[3, 4] = True
    frame, coarse = (rng.normal(size=valid.shape).astype(np.float32) for _ in range(2))
    depth = distances(valid)
    rows, columns = np.nonzero(~valid & (depth < REACH))
    # On the 4 x 4 grid nothing is interpolated.
    exact = (rows % 4 == 0) & (columns % 4 == 0)
    rows, columns = rows[exact], columns[exact]
    made = krige_frame(frame, valid, coarse, rows, columns, depth[rows, columns], covariance)
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        where = np.array(offsets_found(valid, row, column))
        values = frame[row + where[:, 0], column + where[:, 1]].astype(float)
        estimate, error = krige_by_hand(values, where, float(coarse[row, column]), covariance)
        np.testing.assert_allclose(made[:2, i], [estimate, error], rtol=1e-7, atol=1e-7)
        assert made[kriging.COUNT, i] == len(where) - 1


def test_between_worked_out_pixels_answers_are_bilinear() -> None:
    rng = np.random.default_rng(5)
    valid = np.ones((48, 48), dtype=bool)
    valid[8:40, 8:40] = False
    frame = rng.normal(size=valid.shape).astype(np.float32)
    depth = distances(valid)
    rows, columns = np.nonzero(~valid)
    made = np.zeros((4, 48, 48))
    made[:, rows, columns] = krige_frame(frame, valid, frame, rows, columns, depth[rows, columns], Covariance())
    np.testing.assert_allclose(made[:, 22, 20], (made[:, 20, 20] + made[:, 24, 20]) / 2, rtol=1e-12)
    corners = made[:, [20, 20, 24, 24], [20, 24, 20, 24]]
    np.testing.assert_allclose(made[:, 21, 22], corners @ [0.375, 0.375, 0.125, 0.125], rtol=1e-12)


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 150), st.integers(1, 150)),
    size=st.integers(24, 90),
    share_valid=st.sampled_from([0.0, 0.002, 0.2, 0.6]),
)
def test_blocks_give_what_the_whole_scene_gives(
    seed: int, shape: tuple[int, int, int], size: int, share_valid: float
) -> None:
    rng = np.random.default_rng(seed)
    values, valid = rng.normal(size=shape).astype(np.float32), rng.random(shape) < share_valid
    valid[:, shape[1] // 4 : shape[1] // 2] = False
    filler = KrigingFiller()
    grid = BlockGrid(shape, BlockSpec(size=shape, stride=filler.stride))
    whole = filler.fill(block_input(values, valid, Window.of(grid.padded_extent)))
    spec = BlockSpec(size=(1, size, size), overlap=(0, 3, 3), halo=filler.halo, stride=filler.stride)
    for block in BlockGrid(shape, spec):
        part = filler.fill(block_input(values, valid, block.read, wanted=block.write))
        for name in ("values", "half_width", "fallback"):
            np.testing.assert_allclose(
                getattr(part, name)[block.trim], getattr(whole, name)[block.write.slices], rtol=0, atol=1e-5
            )


@given(seed=st.integers(0, 2**32 - 1), junk=st.sampled_from([np.nan, np.inf, -1e30, 7.0]))
@settings(max_examples=6, deadline=None)
def test_values_under_gaps_have_no_say(seed: int, junk: float) -> None:
    rng = np.random.default_rng(seed)
    values, valid = rng.normal(size=(2, 24, 32)).astype(np.float32), rng.random((2, 24, 32)) < 0.5
    window = Window.of(values.shape)
    clean = KrigingFiller().fill(block_input(np.where(valid, values, 0), valid, window))
    dirty = block_input(np.where(valid, values, 0), valid, window)
    dirty.values[~valid] = junk
    with np.errstate(all="ignore"):
        again = KrigingFiller().fill(dirty)
    np.testing.assert_array_equal(clean.values, again.values)
    np.testing.assert_array_equal(clean.half_width, again.half_width)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(max_examples=6, deadline=None)
def test_units_make_no_difference(seed: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    values, valid = rng.normal(size=(2, 20, 60)), rng.random((2, 20, 60)) < 0.2
    valid[0, 0, 0], valid[:, :, 30:] = True, False
    plain = fill_crop(KrigingFiller(), crop_of(values, valid))
    other = fill_crop(KrigingFiller(), crop_of(scale * values + shift, valid))
    np.testing.assert_allclose(other.values, scale * plain.values + shift, rtol=0, atol=2e-4 * (scale + abs(shift)))
    np.testing.assert_allclose(other.half_width, scale * plain.half_width, rtol=0.02, atol=1e-4 * (scale + abs(shift)))


def test_a_slope_goes_on_under_a_gap_and_speckle_leaves_next_to_nothing_of_it() -> None:
    y, x = np.indices((64, 64))
    values = (0.05 * y + 0.02 * x)[None]
    valid = np.ones(values.shape, dtype=bool)
    valid[:, 24:40, 24:40] = False
    smooth = KrigingFiller(covariance=Covariance(range_px=1000.0, nugget=1e-6))
    error = np.abs(fill_crop(smooth, crop_of(values, valid)).values - values)[~valid]
    assert error.max() < 0.12 < np.abs(fill_crop(PyramidFiller(), crop_of(values, valid)).values - values)[~valid].max()
    speckle = np.random.default_rng(2).random(values.shape) < 0.5
    error = np.abs(fill_crop(smooth, crop_of(values, speckle)).values - values)[:, 4:-4, 4:-4]
    assert error[~speckle[:, 4:-4, 4:-4]].max() < 0.02


def test_a_field_of_the_covariance_assumed_is_filled_better_than_by_the_pyramid_and_its_intervals_hold() -> None:
    rng = np.random.default_rng(6)
    count = 128
    apart = np.minimum(np.arange(2 * count), 2 * count - np.arange(2 * count))
    spectrum = np.fft.fft2(np.exp(-np.hypot(apart[:, None], apart[None]) / 25)).real.clip(0)
    noise = rng.normal(size=(2, *spectrum.shape)) + 1j * rng.normal(size=(2, *spectrum.shape))
    values = np.fft.ifft2(np.sqrt(spectrum) * noise).real[:, :count, :count] * 2 * count
    values += np.sqrt(0.03) * rng.normal(size=values.shape)
    valid = cloudy(rng, values.shape, 0.6)
    gap = ~valid
    crop = crop_of(values, valid)
    made, pyramid = fill_crop(KrigingFiller(), crop), fill_crop(PyramidFiller(), crop)
    assert np.abs(made.values - values)[gap].mean() < 0.95 * np.abs(pyramid.values - values)[gap].mean()
    assert 0.86 < (np.abs(made.values - values) <= made.half_width)[gap].mean() < 0.94
    np.testing.assert_array_equal(made.values[valid], pyramid.values[valid])


def test_the_pyramid_answers_beyond_reach_and_nothing_jumps_on_the_way() -> None:
    values = np.ones((1, 64, 144))
    values[:, :, :40] = 0
    valid = np.ones(values.shape, dtype=bool)
    valid[:, :, 8:136] = False
    crop = crop_of(values, valid)
    made, pyramid = fill_crop(KrigingFiller(), crop), fill_crop(PyramidFiller(), crop)
    assert np.abs(np.diff(made.values[0, :, 8:136], axis=1)).max() < 0.06
    beyond = slice(8 + REACH - 1, 136 - REACH + 1)
    np.testing.assert_array_equal(made.values[0, :, beyond], pyramid.values[0, :, beyond])
    np.testing.assert_array_equal(made.half_width[0, :, beyond], pyramid.half_width[0, :, beyond])
    assert made.fallback[0, :, beyond].all()
    assert not made.fallback[0, :, :30].any()


def test_frames_without_samples_are_the_pyramids_and_frames_without_gaps_too() -> None:
    rng = np.random.default_rng(3)
    values, valid = rng.normal(size=(3, 24, 24)), rng.random((3, 24, 24)) < 0.5
    valid[1], valid[2] = False, True
    crop = crop_of(values, valid)
    made, pyramid = fill_crop(KrigingFiller(), crop), fill_crop(PyramidFiller(), crop)
    np.testing.assert_array_equal(made.values[1:], pyramid.values[1:])
    np.testing.assert_array_equal(made.half_width[1:], pyramid.half_width[1:])
    assert made.fallback[1].all()
    assert not made.fallback[2].any()


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (4, 1, 1), (1, 9, 17), (1, 2, 200)], ids=["one sample", "one pixel", "one frame", "a strip"]
)
def test_one_sample_is_enough_and_none_is_not(shape: tuple[int, int, int]) -> None:
    valid = np.zeros(shape, dtype=bool)
    nothing = fill_crop(KrigingFiller(), crop_of(np.zeros(shape), valid))
    assert np.isnan(nothing.values).all()
    assert np.isnan(nothing.half_width).all()
    valid[-1, 0, 0] = True
    made = fill_crop(KrigingFiller(), crop_of(np.full(shape, 2.5), valid))
    np.testing.assert_allclose(made.values, 2.5, rtol=1e-6)
    assert np.isfinite(made.half_width).all()
    assert made.values.dtype == made.half_width.dtype == np.float32


@pytest.mark.parametrize("nugget", [0.003, 0.3], ids=["a smooth field", "a noisy field"])
def test_learning_tells_smooth_from_noisy(nugget: float) -> None:
    rng = np.random.default_rng(4)
    values = ndimage.gaussian_filter(rng.normal(size=(3, 64, 64)), (0, 6, 6))
    values = values / values.std() + np.sqrt(nugget) * rng.normal(size=values.shape)
    crop = crop_of(values, cloudy(rng, values.shape, 0.7))
    learned = learn_covariance([crop], PyramidFiller(), seed=1, otherwise=Covariance())
    assert (learned.nugget * learned.range_px < 1) == (nugget < 0.05)  # a longer range is a lower slope


def test_what_was_learned_is_the_same_bytes_again_and_makes_another_method() -> None:
    rng = np.random.default_rng(4)
    values = ndimage.gaussian_filter(rng.normal(size=(2, 64, 64)), (0, 3, 3))
    filler = KrigingFiller()
    assert isinstance(filler, Learner)
    crop = crop_of(values, cloudy(rng, values.shape, 0.7))
    learned = filler.learn([crop], seed=1)
    assert learned == filler.learn([crop], seed=1)
    taught = filler.taught(learned)
    assert taught.covariance.to_bytes() == learned
    assert taught.covariance != Covariance()
    assert taught.identity() != filler.identity()
    assert (taught.halo, taught.stride, taught.sample_bytes) == (filler.halo, filler.stride, filler.sample_bytes)


@pytest.mark.parametrize("share_valid", [0.0, 0.01], ids=["nothing", "next to nothing"])
def test_too_little_to_learn_from_leaves_the_covariance_as_it_was(share_valid: float) -> None:
    rng = np.random.default_rng(4)
    crop = crop_of(rng.normal(size=(2, 32, 32)), rng.random((2, 32, 32)) < share_valid)
    given_one = KrigingFiller(covariance=replace(Covariance(), range_px=7.0))
    assert given_one.taught(given_one.learn([crop], seed=0)) == given_one


def test_no_crops_and_other_bytes_are_refused() -> None:
    with pytest.raises(RunError, match="kriging learns from crops of the cube, got none"):
        KrigingFiller().learn([], seed=0)
    with pytest.raises(ModelFileError, match="3 bytes are no covariance kriging has learned"):
        KrigingFiller().taught(b"abc")


@pytest.mark.parametrize(
    "option", [{"range_px": 0.0}, {"nugget": 0.0}, {"backing": -1.0}], ids=lambda option: next(iter(option))
)
def test_covariances_without_meaning_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="need range_px > 0, nugget > 0 and backing >= 0"):
        Covariance(**option)
