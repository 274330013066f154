"""How scenes are hidden: never what is not there, by every kind of gap, and the same for the same draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from stpipe.methods import curriculum
from stpipe.methods.curriculum import LEAST_GAPS, Scene, judging_visit, learning_visit, shapes_to_lend
from tests.methods.scenes import cloudy


def made(seed: int, *, share_valid: float = 0.6, shape: tuple[int, int, int] = (10, 32, 32)) -> Scene:
    rng = np.random.default_rng(seed)
    valid = cloudy(rng, shape, share_valid) if share_valid < 1 else np.ones(shape, dtype=bool)
    values = np.where(valid, rng.normal(size=shape), 0).astype(np.float32)
    return Scene(name=f"scene {seed}", values=values, valid=valid, days=5.0 * np.arange(shape[0]))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[NDArray[np.bool_], list[NDArray[np.bool_]]]]:
    """What would be visited: what is valid, and the ways; no guide is made."""
    log: list[tuple[NDArray[np.bool_], list[NDArray[np.bool_]]]] = []

    def visit(name: str, family: str, values: object, valid: object, days: object, ways: object) -> None:
        log.append((valid, ways))  # type: ignore[arg-type]

    monkeypatch.setattr(curriculum, "visit", visit)
    return log


@pytest.mark.parametrize("share_valid", [0.6, 1.0], ids=["with gaps", "complete"])
def test_only_what_is_there_is_hidden_and_the_same_for_the_same_draws(
    seen: list[tuple[NDArray[np.bool_], list[NDArray[np.bool_]]]], share_valid: float
) -> None:
    scene = made(0, share_valid=share_valid)
    shapes = shapes_to_lend([made(1)], side=32)
    for seed in range(40):
        for _ in range(2):
            learning_visit(scene, "f", np.random.default_rng(seed), shapes, 3)
    assert len(seen) == 80
    for (valid, ways), (again, same) in zip(seen[::2], seen[1::2], strict=True):
        np.testing.assert_array_equal(valid, again)
        np.testing.assert_array_equal(ways, same)
        assert len(ways) == 3
        assert (valid <= scene.valid).all()
        for way in ways:
            assert (way <= valid).all()
    thinned = sum(bool((valid < scene.valid).any()) for valid, _ in seen[::2])
    assert thinned == 0 if share_valid < 1 else 10 <= thinned <= 34
    hidden = np.array([way.sum() / valid.sum() for valid, ways in seen for way in ways])
    assert 0 < hidden.min() < 0.1
    assert 0.3 < hidden.max() < 1
    whole = [
        bool((way.any(axis=(1, 2)) & (way == valid).all(axis=(1, 2))).any()) for valid, ways in seen for way in ways
    ]
    assert 0 < sum(whole) < len(whole)


def test_gaps_that_came_with_the_data_are_used_and_thinned_ones_are_not_asked_for(
    seen: list[tuple[NDArray[np.bool_], list[NDArray[np.bool_]]]],
) -> None:
    scene = made(0, share_valid=1.0)
    scene = replace(scene, hidden=np.random.default_rng(5).random(scene.valid.shape) < 0.1)
    for seed in range(30):
        learning_visit(scene, "f", np.random.default_rng(seed), None, 3)
    own = [way for valid, ways in seen for way in ways if (way == (scene.hidden & valid)).all()]
    assert 10 <= len(own) <= 50
    judging_visit(scene, "f", np.random.default_rng(0), None)
    assert (seen[-1][1][0] == scene.hidden).all()
    assert len(seen[-1][1]) == 2


def test_shapes_are_the_gaps_of_partly_seen_frames_alone() -> None:
    scene = made(2)
    scene.valid[3], scene.valid[4] = False, True
    domain = np.ones((32, 32), dtype=bool)
    domain[:, :8] = False
    scene.valid[:, :, :8] = False
    shapes = shapes_to_lend([replace(scene, domain=domain)], side=32)
    assert shapes is not None
    assert len(shapes) == 8
    assert not shapes[:, :, :8].any()
    np.testing.assert_array_equal(shapes[0][:, 8:], ~scene.valid[0][:, 8:])
    wide = shapes_to_lend([scene], side=80)
    assert wide is not None
    assert wide.shape[1:] == (80, 80)
    assert shapes_to_lend([made(3, share_valid=1.0)], side=32) is None
    many = shapes_to_lend([made(seed, shape=(60, 8, 8)) for seed in range(6)], side=8)
    assert many is not None
    assert 100 < len(many) <= curriculum.MOST_LENT


def test_a_scene_is_complete_or_not() -> None:
    scene = made(0, share_valid=1.0)
    assert scene.complete
    scene.valid[0] = False
    assert (1 / len(scene.valid)) > LEAST_GAPS
    assert not scene.complete


def test_a_visit_knows_its_ways() -> None:
    one = learning_visit(made(0), "family", np.random.default_rng(0), None, 2)
    assert (one.name, one.family, len(one.views)) == ("scene 0", "family", 2)
    for view in one.views:
        assert view.hidden.any()
