"""The default with radar to lean on: better where radar knows, the same as without where it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.crops import Crop, fill_crop, settled_on
from stpipe.core.gap_classes import CLASS_COUNT, calibration_class
from stpipe.core.gaps import draw_gaps
from stpipe.core.geometry import GuideCost
from stpipe.core.ports import Filler, Learner, SceneFiller
from stpipe.core.seams import fill_in_blocks
from stpipe.core.timeline import median_step
from stpipe.core.windows import triple
from stpipe.errors import RunError, ScratchError
from stpipe.methods.calibrated import CalibratedFiller
from stpipe.methods.radar_stack import ALONE, BOTH, LED, RADAR, WITHOUT, Leaning, RadarStackFiller, _held_out
from stpipe.methods.ruling import Ruling, only
from stpipe.methods.sar.filler import SarFiller
from stpipe.methods.stack import StackFiller
from stpipe.methods.with_guides import make_guided
from tests.methods.radar_scenes import ECHOES, NAMES, radar_scene, with_radar

Case = tuple[Crop, np.ndarray, RadarStackFiller]


def taught_on(crop: Crop) -> RadarStackFiller:
    method = with_radar()
    taught = method.taught(method.learn([crop], seed=0))
    taught.prepare()
    return taught


@pytest.fixture(scope="module")
def seeing() -> Case:
    crop, truth = radar_scene(0, noise=1.0)
    return crop, truth, taught_on(crop)


@pytest.fixture(scope="module")
def blind() -> Case:
    crop, truth = radar_scene(1, blind=True)
    return crop, truth, taught_on(crop)


def missed(method: Filler, crop: Crop, truth: np.ndarray, where: np.ndarray) -> float:
    return float(np.abs(fill_crop(method, crop).values - truth)[where].mean())


def without(taught: RadarStackFiller) -> StackFiller:
    assert taught.leaning is not None
    return taught.alone.taught(taught.leaning.alone.to_bytes())


@pytest.mark.integration
def test_where_radar_knows_it_is_better_than_either_alone_on_gaps_that_nobody_has_seen(seeing: Case) -> None:
    crop, truth, _ = seeing
    hidden = draw_gaps(crop.valid, np.random.default_rng(7))
    left = crop.without(hidden)
    taught = taught_on(left)
    made, alone, radar = (missed(one, left, truth, hidden) for one in (taught, without(taught), with_radar()._scene))
    assert made < 0.9 * min(alone, radar)
    assert taught.notes()[0].startswith("radar helps, and counts in ")
    assert taught.leaning is not None
    kinds = len([count for count in taught.leaning.ruling.samples if count])
    assert f" of {kinds} kinds of gaps" in taught.notes()[0]


def test_where_radar_sees_nothing_the_answer_is_to_the_last_bit_that_without(blind: Case) -> None:
    crop, _, taught = blind
    assert taught.leaning is not None
    assert taught.leaning.ruling.weights == WITHOUT
    made, alone = fill_crop(taught, crop), fill_crop(without(taught), crop)
    for field in ("values", "half_width", "fallback"):
        np.testing.assert_array_equal(getattr(made, field), getattr(alone, field))
    assert "radar does not help here and is left out: MAE " in taught.notes()[0]
    assert not any("guide VV, VH" in line for line in taught.notes())
    assert not set(LED) & {filler.name for filler in taught.stack.maker.used}
    assert taught.rounds == ()  # of the crops that it is tried on nothing more has to be known


def test_without_radar_it_learns_what_it_learns_where_there_is_none(blind: Case) -> None:
    crop, _, taught = blind
    assert taught.leaning is not None
    plain = StackFiller()
    assert taught.leaning.alone.to_bytes() == plain.learn([replace(crop, guides={})], seed=0)


def test_the_same_crops_and_seed_give_the_same_bytes_and_these_come_back(seeing: Case) -> None:
    crop, _, taught = seeing
    once = with_radar().learn([crop], seed=0)
    assert taught.leaning is not None
    assert once == taught.leaning.to_bytes() == Leaning.from_bytes(once).to_bytes()
    other = replace(taught, leaning=replace(taught.leaning, ruling=Ruling(weights=WITHOUT)))
    assert len({str(one.identity()) for one in (with_radar(), taught, other)}) == 3


@pytest.mark.parametrize(
    "length", [0, 9, 4000, -30], ids=["nothing", "next to nothing", "the start", "all but the end"]
)
def test_bytes_that_are_nothing_it_learned_are_told(seeing: Case, length: int) -> None:
    assert seeing[2].leaning is not None
    with pytest.raises(ScratchError, match="nothing that "):
        with_radar().taught(seeing[2].leaning.to_bytes()[:length])


def test_it_refuses_to_fill_untaught() -> None:
    crop, _ = radar_scene(2, (20, 16, 16))
    with pytest.raises(RunError, match="has not learned anything yet"):
        fill_crop(with_radar(), crop)


def test_what_judges_has_not_seen_the_truth_that_it_is_held_against(seeing: Case) -> None:
    crop, _, taught = seeing
    assert taught.leaning is not None
    stack = with_radar().stack
    lessons = stack.lessons([crop], seed=0)
    first, *rest = lessons.folds
    before = _held_out(stack, lessons, taught.leaning.both, 0)[: first.truth.size]
    moved = replace(first, truth=first.truth + 100)
    after = _held_out(stack, replace(lessons, folds=(moved, *rest)), taught.leaning.both, 0)[: first.truth.size]
    # Each answer is the same as before, so that errors are off by what the truth has moved.
    assert not np.isin(first.frames, np.concatenate([fold.frames for fold in rest])).any()
    np.testing.assert_allclose(after + 100, before, atol=1e-3)


def test_each_kind_of_gap_gets_the_answers_that_were_chosen_for_it(seeing: Case) -> None:
    crop, _, taught = seeing
    leaning = taught.leaning
    assert leaning is not None

    def filled(weights: tuple[tuple[float, ...], ...]) -> np.ndarray:
        method = with_radar().taught(replace(leaning, ruling=Ruling(weights=weights)).to_bytes())
        return fill_crop(method, crop).values

    each = [filled((only(answer, 3),) * CLASS_COUNT) for answer in (BOTH, ALONE, RADAR)]
    np.testing.assert_array_equal(each[ALONE], fill_crop(without(taught), crop).values)
    np.testing.assert_array_equal(each[RADAR], fill_crop(with_radar()._scene, crop).values)
    drawn = np.random.default_rng(0).dirichlet(np.ones(3), CLASS_COUNT)
    mixed = filled(tuple(map(tuple, drawn.tolist())))
    trust = drawn[calibration_class(crop.valid, crop.days, median_step(crop.days))]
    expected = sum(trust[..., answer] * each[answer] for answer in range(3))
    gap = ~crop.valid
    # At just so many steps the two ways of counting may fall on either side, by rounding.
    assert (np.abs(mixed - expected) < 1e-5)[gap].mean() > 0.99


def test_blocks_make_no_difference(seeing: Case) -> None:
    crop, _, taught = seeing
    settled = settled_on(taught, crop)
    spec = BlockSpec(size=(40, 8, 24), overlap=(0, 0, 0), halo=settled.halo, stride=settled.stride)
    blocked = fill_in_blocks(taught, crop, BlockGrid(triple(crop.valid.shape), spec))
    whole = fill_crop(taught, crop).values
    # Trees step where a feature crosses a threshold, by whatever rounding.
    assert np.quantile(np.abs(blocked - whole)[~crop.valid], 0.999) < 1e-3


def test_with_too_few_frames_to_tell_radar_is_left_out() -> None:
    crop, _ = radar_scene(3, (7, 24, 24))
    taught = taught_on(crop)
    assert taught.leaning is not None
    assert taught.leaning.ruling.weights == WITHOUT
    assert "too few frames with something to hide" in taught.notes()[0]


def test_a_cube_in_other_units_is_told_of_in_these(seeing: Case) -> None:
    _, _, taught = seeing
    leaning = taught.leaning
    assert leaning is not None
    said = replace(taught, leaning=replace(leaning, spread=1000.0)).notes()[0]
    assert f"MAE {1000 * leaning.ruling.errors[-1]:.3g} instead of {1000 * leaning.ruling.errors[ALONE]:.3g} " in said


def test_it_is_what_radar_makes_of_the_default() -> None:
    cost = GuideCost(names=(*NAMES, *ECHOES))
    made = make_guided("pconv", guides=[], cost=cost, radar=[ECHOES])
    assert isinstance(made, Learner)
    assert isinstance(made, SceneFiller)
    assert made.rounds == ("means", "regression", "calibration")
    assert isinstance(made.filler, CalibratedFiller)
    inner = made.filler.filler
    assert isinstance(inner, RadarStackFiller)
    guided, sar = inner.stack.maker.others[-2:]
    assert (guided.name, sar.name) == LED
    assert isinstance(sar, SarFiller)
    assert sar.groups == (ECHOES,)
    assert made.fields == sar.fields
    assert getattr(guided, "names", ()) == NAMES
    assert isinstance(make_guided("stack", guides=[], cost=cost, radar=[ECHOES]).filler, CalibratedFiller)
    plain = make_guided("pconv", guides=[], cost=GuideCost(names=NAMES))
    assert plain.rounds == ()
    assert inner.sample_bytes > plain.sample_bytes - 4 * len(NAMES)
    assert inner.learn_seconds([(100, 100, 100)]) > inner.stack.learn_seconds([(100, 100, 100)])
    assert inner.learn_bytes([(100, 100, 100)]) > inner.stack.learn_bytes([(100, 100, 100)])
