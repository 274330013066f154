"""Teaching: scenes in any units, nothing hidden among the inputs, and means that others told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from stpipe.core.gaps import draw_gaps
from stpipe.errors import RunError
from stpipe.methods import teaching
from stpipe.methods.lessons import Samples
from stpipe.methods.mixing import NODES_PX, Mixture
from stpipe.methods.teaching import Visit, examples, usual_mixture, visit
from stpipe.model.features import GUIDE_COUNT, Scenery
from stpipe.model.patches import Deck
from tests.methods.scenes import made_up_scene

SHAPE = (8, 24, 30)
Bools = NDArray[np.bool_]


def scene(seed: int = 0) -> tuple[np.ndarray, Bools, np.ndarray, list[Bools]]:
    crop, _ = made_up_scene(seed, SHAPE)
    rng = np.random.default_rng(seed)
    ways = [draw_gaps(crop.valid, rng, share=(0.2, 0.3)) for _ in range(2)]
    return crop.values, crop.valid, crop.days, ways


@pytest.fixture(scope="module")
def seen() -> Visit:
    values, valid, days, ways = scene()
    return visit("made up", "weather", values, valid, days, ways)


def fields(scenery: Scenery) -> list[np.ndarray]:
    return [
        scenery.values,
        *scenery.guides,
        *scenery.half_widths,
        *scenery.differences,
        *(scenery.before, scenery.after, scenery.since, scenery.until, scenery.distance),
        *(scenery.pixel_share, scenery.pixel_spread, scenery.frame_share, scenery.frame_anomaly),
    ]


def test_what_is_hidden_never_leaks_into_what_is_seen(seen: Visit) -> None:
    values, valid, days, ways = scene()
    for number, way in enumerate(ways):
        loud = np.where(way, np.float32(1e4), np.where(valid, values, np.float32(np.nan)))
        other = visit("loud", "weather", loud, valid, days, [way]).views[0]
        quiet = visit("quiet", "weather", values, valid, days, [way]).views[0]
        for one, same in zip(fields(quiet.seen), fields(other.seen), strict=True):
            np.testing.assert_array_equal(one, same)
        np.testing.assert_array_equal(quiet.hidden, other.hidden)
        assert np.abs(other.truth[other.hidden]).min() > 100
        assert seen.views[number].hidden.sum() == way.sum()
        assert not (quiet.seen.valid & quiet.hidden).any()
        assert not quiet.seen.values[quiet.hidden].any()


def test_a_scene_in_other_units_is_the_same_scene(seen: Visit) -> None:
    values, valid, days, ways = scene()
    other = visit("in kelvin", "weather", 1.8 * values + 32, valid, days, ways)
    for one, same in zip(seen.views, other.views, strict=True):
        for field, moved in zip(fields(one.seen), fields(same.seen), strict=True):
            np.testing.assert_allclose(moved.astype(float), field.astype(float), rtol=0.01, atol=0.02)
        np.testing.assert_allclose(same.truth.astype(float), one.truth.astype(float), rtol=0.01, atol=0.02)


def test_ways_that_hide_or_leave_nothing_teach_nothing() -> None:
    values, valid, days, ways = scene()
    made = visit("made up", "weather", values, valid, days, [np.zeros_like(valid), valid, ways[1]])
    assert [view.draw for view in made.views] == [2]


def flat(mixture: Mixture) -> np.ndarray:
    return mixture.at(np.array(NODES_PX, dtype=np.float32))


def test_the_base_is_what_the_other_ways_of_hiding_tell(seen: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Mixture.only(2, GUIDE_COUNT)
    first, second = examples([seen], usual)
    assert [first.name, second.name] == ["made up, way 0", "made up, way 1"]
    nodes = np.array(NODES_PX, dtype=np.float32)
    for made, other in ((first, seen.views[1]), (second, seen.views[0])):
        told = Mixture.best(other.samples.answers, other.samples.truth, other.samples.distance)
        found = [base(nodes) for base in made.bases]
        for base, mixture in zip(found, (usual, told, told, usual, Mixture.even(GUIDE_COUNT)), strict=True):
            np.testing.assert_array_equal(base, flat(mixture))
    own = seen.views[0].samples
    told = Mixture.best(*(getattr(seen.views[1].samples, name) for name in ("answers", "truth", "distance")))
    errors = [np.abs(one.mean(list(own.answers.T), own.distance) - own.truth).mean() for one in (told, usual)]
    assert first.error == pytest.approx(np.mean(errors), rel=1e-5)
    monkeypatch.setattr(teaching, "LEAST_SAMPLES", 10**9)
    np.testing.assert_array_equal(examples([seen], usual)[0].bases[1](nodes), flat(usual))


def test_examples_can_be_dealt(seen: Visit) -> None:
    made = examples([seen], Mixture.even(GUIDE_COUNT))
    inputs, wanted = Deck(made, size=(8, 24, 32), seed=0).batch(0, 3)
    assert inputs.shape[1:4] == (8, 24, 32)
    assert np.isfinite(inputs).all()
    assert np.isfinite(wanted).all()


def bent(seen: Visit, right: int, scale: float, family: str) -> Visit:
    """The same scene in a world in which one guide is right, and values are so much larger."""
    views = []
    for view in seen.views:
        samples = view.samples
        rng = np.random.default_rng(right)
        truth = np.float32(scale) * rng.standard_normal(samples.truth.size).astype(np.float32)
        off = np.float32(scale) * rng.standard_normal((truth.size, GUIDE_COUNT)).astype(np.float32)
        off[:, right] *= np.float32(0.1)
        views.append(replace(view, samples=replace(samples, answers=truth[:, None] + off, truth=truth)))
    return Visit(name=family, family=family, views=tuple(views))


def test_the_usual_mixture_weighs_families_by_their_shares_and_not_by_their_errors(seen: Visit) -> None:
    loud, quiet = bent(seen, 1, 100.0, "loud"), bent(seen, 4, 1.0, "quiet")
    weights = {
        shares: flat(usual_mixture([loud, quiet], {"loud": shares[0], "quiet": shares[1]}, seed=0)).mean(axis=0)
        for shares in ((1.0, 0.0), (0.0, 1.0), (1.0, 4.0), (4.0, 1.0))
    }
    assert weights[1.0, 0.0][1] > 0.9
    assert weights[0.0, 1.0][4] > 0.9
    assert weights[1.0, 4.0][4] > weights[1.0, 4.0][1]
    assert weights[4.0, 1.0][1] > weights[4.0, 1.0][4]
    one, same, other = (usual_mixture([loud, quiet], {}, seed=seed) for seed in (0, 0, 1))
    assert one == same != other


def test_a_mixture_of_nothing_is_refused(seen: Visit) -> None:
    for visits, shares in (([], {}), ([Visit(name="a", family="a", views=())], {}), ([seen], {"weather": 0.0})):
        with pytest.raises(RunError, match="there is nothing to learn from: no scene has a sample to hide"):
            usual_mixture(visits, shares, seed=0)


def test_few_samples_of_a_look_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "MOST_SAMPLES", 37)
    values, valid, days, ways = scene()
    kept = visit("made up", "weather", values, valid, days, ways[:1]).views[0]
    assert isinstance(kept.samples, Samples)
    assert kept.samples.truth.size == 37
