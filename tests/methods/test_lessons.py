"""Lessons: what is hidden stays hidden, and what is told of it is true."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stpipe.core.crops import Crop
from stpipe.core.windows import Window
from stpipe.methods.guides import GuideMaker
from stpipe.methods.lessons import SHARE, Lesson, Look, Samples, features, folds_of, hide
from tests.methods.scenes import made_up_scene

SHAPE = (8, 20, 28)


@pytest.fixture(scope="module")
def crop() -> Crop:
    return made_up_scene(0, SHAPE)[0]


@pytest.fixture(scope="module")
def lesson(crop: Crop) -> Lesson:
    return next(hide([crop], seed=0, draws=1))


@pytest.fixture(scope="module")
def look(lesson: Lesson) -> Look:
    return Look.at(lesson, GuideMaker(), rank=2, seed=0)


def test_all_crops_are_hidden_once_and_then_again_in_another_way(crop: Crop) -> None:
    other = made_up_scene(1, SHAPE)[0]
    lessons = list(hide([crop, other], seed=3, draws=3))
    assert [each.draw for each in lessons] == [0, 0, 1, 1, 2, 2]
    assert [each.crop for each in lessons] == [crop, other] * 3
    for each in lessons:
        assert not (each.hidden & ~each.crop.valid).any()
        assert 0 < each.hidden.sum() <= SHARE[1] * each.crop.valid.sum()
    ways = [each.hidden.tobytes() for each in lessons]
    assert len(set(ways)) == len(ways)
    assert ways == [each.hidden.tobytes() for each in hide([crop, other], seed=3, draws=3)]
    assert ways[:2] == [each.hidden.tobytes() for each in hide([crop, other], seed=3, draws=1)]


def test_what_is_hidden_is_not_seen(lesson: Lesson, look: Look) -> None:
    loud = np.where(lesson.hidden | ~lesson.crop.valid, np.float32(1e6), lesson.crop.values)
    other = Look.at(replace(lesson, crop=replace(lesson.crop, values=loud)), GuideMaker(), rank=2, seed=0)
    for name, values in look.made.values.items():
        np.testing.assert_array_equal(other.made.values[name], values)
    np.testing.assert_array_equal(other.place.distance, look.place.distance)
    np.testing.assert_array_equal(other.place.pixel_mean, look.place.pixel_mean)
    np.testing.assert_array_equal(other.hidden, look.hidden)
    assert (look.made.block.valid[:, :20, :28] == (lesson.crop.valid & ~lesson.hidden)).all()


def test_a_look_is_as_large_as_its_guides_and_keeps_the_truth(lesson: Lesson, look: Look) -> None:
    assert look.truth.shape == look.hidden.shape == look.made.unknown.shape == (8, 24, 32)
    inside = (slice(None), slice(20), slice(28))
    np.testing.assert_array_equal(look.truth[inside], lesson.crop.values)
    np.testing.assert_array_equal(look.hidden[inside], lesson.hidden)
    assert look.hidden.sum() == lesson.hidden.sum()
    assert look.rank == 2


def test_a_date_is_one_witness_in_whichever_crops_and_tiles_it_shows(crop: Crop) -> None:
    days = np.repeat(crop.days[::2], 2) + np.tile([0.0, 2e-4], 4)
    parts = [
        replace(crop, days=days, window=Window((0, 40 * i, 8 * i), (8, 40 * i + 20, 8 * i + 28))) for i in range(2)
    ]
    looks = [Look.at(each, GuideMaker(), rank=2, seed=0) for each in hide(parts, seed=0, draws=1)]
    samples = [each.samples() for each in looks]
    for each, some in zip(looks, samples, strict=True):
        np.testing.assert_array_equal(some.frames, np.nonzero(each.hidden)[0] // 2)
    spots = [{tuple(spot) for spot in some.spots.tolist()} for some in samples]
    assert not spots[0] & spots[1]
    assert min(spots[1]) >= (40, 8)


def test_samples_are_those_of_a_slow_loop(look: Look) -> None:
    samples = look.samples()
    assert samples.truth.size == look.hidden.sum()
    around, place = look.made.around, look.place
    for row, spot in enumerate(np.argwhere(look.hidden)):
        at = (t, y, x) = tuple(int(n) for n in spot)
        np.testing.assert_array_equal(samples.answers[row], [answer[at] for answer in look.made.values.values()])
        mean = place.pixel_mean[y, x] if place.pixel_share[y, x] > 0 else np.nan
        np.testing.assert_array_equal(samples.observed[row], np.float32([around.early[at], around.late[at], mean]))
        told = [
            *(half_width[at] for half_width in look.made.half_widths.values()),
            around.since[at],
            around.until[at],
            place.pixel_spread[y, x],
            place.pixel_share[y, x],
            place.frame_anomaly[t],
            place.frame_share[t],
            place.distance[at],
        ]
        np.testing.assert_array_equal(samples.circumstances[row], np.float32(told))
        assert samples.truth[row] == look.truth[at]
        assert samples.distance[row] == place.distance[at] > 0
        assert (int(samples.frames[row]), *samples.spots[row].tolist()) == at


def test_some_are_picked_without_repeats_and_stay_together(look: Look) -> None:
    everything = look.samples()
    some = everything.picked(np.random.default_rng(0), 50)
    rows, found = ([tuple(row) for row in np.column_stack([s.truth, s.answers, s.spots])] for s in (everything, some))
    assert len(found) == 50
    assert set(found) <= set(rows)
    assert everything.picked(np.random.default_rng(0), everything.truth.size) is everything
    both = Samples.of([some, everything])
    np.testing.assert_array_equal(both.answers[:50], some.answers)
    assert both.truth.size == 50 + everything.truth.size


def test_the_trees_see_values_relative_to_the_mean(look: Look) -> None:
    samples = look.samples()
    mean = samples.answers.mean(axis=1)
    moved = replace(samples, answers=samples.answers + 16, observed=samples.observed + 16, truth=samples.truth + 16)
    one, other = features(samples, mean), features(moved, mean + 16)
    np.testing.assert_allclose(other, one, atol=1e-4)
    guides = samples.answers.shape[1]
    np.testing.assert_allclose(one[:, :guides] + mean[:, None], samples.answers, atol=1e-5)
    np.testing.assert_array_equal(one[:, guides + 3 :], samples.circumstances)


def test_folds_hold_whole_frames_or_ways_of_hiding_where_frames_are_few() -> None:
    for count, by_frame in ((20, True), (5, False)):
        rng = np.random.default_rng(count)
        frames, draws = rng.integers(0, count, 900), rng.integers(0, 4, 900)
        numbers = np.arange(900, dtype=np.float32)
        samples = Samples(
            answers=numbers[:, None],
            observed=np.zeros((900, 3), np.float32),
            circumstances=np.zeros((900, 10), np.float32),
            truth=numbers,
            frames=frames,
            spots=np.zeros((900, 2), np.int32),
        )
        folds = folds_of(samples, draws, 4, rng)
        joined = np.sort(np.concatenate([fold.truth for fold in folds]))
        np.testing.assert_array_equal(joined, numbers)
        keys = frames if by_frame else draws
        for fold in folds:
            inside = fold.truth.astype(int)
            assert not set(keys[inside]) & set(np.delete(keys, inside))
