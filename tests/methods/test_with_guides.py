"""Methods that take guides: which do, what they cost, and that they listen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from stpipe.core.crops import Crop, block_of, fill_crop, middles
from stpipe.core.geometry import GuideCost
from stpipe.core.ports import Filler, Learner
from stpipe.core.seams import fill_in_blocks
from stpipe.errors import OptionError
from stpipe.methods import make_filler
from stpipe.methods.auto import AutoFiller
from stpipe.methods.calibrated import CalibratedFiller
from stpipe.methods.guided import GuidedFiller
from stpipe.methods.linear import LinearFiller
from stpipe.methods.stack import StackFiller
from stpipe.methods.with_guides import TAKE_GUIDES, WithGuides, check_method, make_guided
from tests.methods.scenes import made_up_scene

COST = GuideCost(names=("vv", "vh"), sample_bytes=12.0, chunk_bytes=1000, seconds_per_million=0.5)


@pytest.mark.parametrize("method", ["guided", "stack", "auto"])
def test_a_method_with_guides_is_a_filler_that_learns_and_costs_more(method: str) -> None:
    made = make_guided(method, guides=["s1"], cost=COST)
    assert isinstance(made, Filler)
    assert isinstance(made, Learner)
    assert made.name == method
    json.dumps(made.identity())
    assert made.identity() != make_guided(method, guides=["s2"], cost=COST).identity()
    bare = made.filler
    assert isinstance(bare, CalibratedFiller)
    assert (made.halo, made.stride) == (bare.halo, bare.stride)
    assert made.process_bytes == bare.process_bytes + 1000
    assert made.sample_bytes == bare.sample_bytes + 8
    assert made.seconds_per_million == bare.seconds_per_million + 0.5
    assert made.learn_bytes([(10, 10, 10)]) >= bare.learn_bytes([(10, 10, 10)]) + 8000
    assert made.learn_seconds([(100, 100, 100)]) == bare.learn_seconds([(100, 100, 100)]) + 0.5


def test_auto_has_all_its_candidates_and_the_guided_one() -> None:
    made = make_guided("auto", guides=[], cost=COST).filler
    assert isinstance(made, CalibratedFiller)
    assert isinstance(made.filler, AutoFiller)
    plain = make_filler("auto")
    assert isinstance(plain, CalibratedFiller)
    assert isinstance(plain.filler, AutoFiller)
    names = [filler.name for filler in plain.filler.candidates]
    assert [filler.name for filler in made.filler.candidates] == [*names, "guided"]
    assert isinstance(made.filler.default, StackFiller)  # which leans on the guides as well
    assert "guided" in made.filler.default.names


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        pytest.param(
            "pyramid", {}, "method pyramid takes no --guide; guided, pconv, stack, auto, sar do", id="pyramid"
        ),
        pytest.param("pconv", {"tune": False}, "leave --no-tune out", id="untuned"),
        pytest.param("auto", {"tune": False}, "auto compares what it chose with pconv as tuned", id="auto untuned"),
        pytest.param("guided", {"model": "x.keras"}, "--model goes with --method pconv, not with guided", id="model"),
        pytest.param("stack", {"tune": True}, "--tune goes with --method pconv, not with stack", id="tune"),
        pytest.param("magic", {}, "no method 'magic'", id="unknown"),
    ],
)
def test_what_does_not_go_together_is_refused(method: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_guided(method, guides=[], cost=COST, **options)  # type: ignore[arg-type]


def test_without_guides_the_others_go_on_and_those_that_are_nothing_without_do_not() -> None:
    alone = ("guided", "sar")
    for method in ({*TAKE_GUIDES} - {*alone}) | {"pyramid"}:
        check_method(method, guided=False)
    for method in alone:
        with pytest.raises(OptionError, match=f"method {method} leans on"):
            check_method(method, guided=False)


def scene(seed: int) -> tuple[Crop, np.ndarray]:
    crop, truth = made_up_scene(seed)
    rng = np.random.default_rng(seed)
    return replace(crop, guides={"vv": 3 - 2 * truth, "vh": rng.standard_normal(truth.shape).astype(np.float32)}), truth


def test_stack_follows_a_guide_that_knows() -> None:
    crop, truth = scene(0)
    method = make_guided("stack", guides=[], cost=COST)
    learned = method.learn([crop], seed=0)
    taught = method.taught(learned)
    taught.prepare()
    made = fill_crop(taught, crop)
    assert np.abs(made.values - truth)[~crop.valid].mean() < 0.03
    (line,) = (line for line in taught.notes() if line.startswith("guide vv, vh: takes"))
    assert line in taught.notes()
    assert "guided 9" in " ".join(taught.notes()) or "guided 100%" in " ".join(taught.notes())


def test_auto_takes_what_a_guide_makes_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stpipe.methods.auto.ROUNDS", 1)
    crop, truth = scene(0)
    auto = AutoFiller(candidates=(LinearFiller(), GuidedFiller(names=("vv", "vh"))))
    method = WithGuides(filler=auto, guides=[], cost=COST)
    taught = method.taught(method.learn([crop], seed=0))
    assert isinstance(taught.filler, AutoFiller)
    assert taught.filler.choice is not None
    assert taught.filler.choice.methods == ("guided",)
    assert any(line.startswith("guide vv, vh: takes") for line in taught.notes())
    assert np.abs(fill_crop(taught, crop).values - truth)[~crop.valid].mean() < 0.01


def test_crops_and_blocks_carry_their_guides() -> None:
    crop, truth = scene(1)
    hidden = crop.valid & (np.random.default_rng(0).random(truth.shape) < 0.5)
    assert crop.without(hidden).guides is crop.guides
    (part,) = middles([crop], crop.valid.size // 2)
    top, left = part.window.start[1:]
    _, height, width = part.valid.shape
    np.testing.assert_array_equal(part.guides["vv"], crop.guides["vv"][:, top : top + height, left : left + width])
    block = block_of(crop, (5, 16, 16))
    cut = tuple(slice(0, n) for n in truth.shape)
    np.testing.assert_array_equal(block.guides["vv"][cut], crop.guides["vv"])
    assert block.guides["vv"].shape == block.valid.shape
    assert np.isnan(block.guides["vv"][16:]).all()


def test_guided_shows_no_seams() -> None:
    from stpipe.core.blocks import BlockGrid, BlockSpec
    from stpipe.core.windows import triple

    crop, _ = scene(2)
    plain = GuidedFiller(names=("vv", "vh"))
    method = plain.taught(plain.learn([crop], seed=0))
    spec = BlockSpec(size=(16, 24, 24), overlap=(0, 4, 4), halo=method.halo, stride=method.stride)
    blocked = fill_in_blocks(method, crop, BlockGrid(triple(crop.valid.shape), spec))
    whole = fill_crop(method, crop).values
    np.testing.assert_allclose(blocked[~crop.valid], whole[~crop.valid], atol=1e-4)


def test_sar_is_not_taken_for_the_method_that_is_guided_by_anything() -> None:
    with pytest.raises(OptionError, match="looks at the whole scene before it fills"):
        make_guided("sar", guides=[], cost=COST)
