"""Laws of auto: it takes the method that suits the cube, two where that holds again, and fills just as they do."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.crops import Crop, fill_crop
from stpipe.core.gap_classes import space_distance
from stpipe.core.gaps import draw_gaps
from stpipe.core.ports import JSON, BlockInput, Filler, Learner, Prediction
from stpipe.core.survey import ArrayOverviews
from stpipe.core.windows import Triple, Window, samples_in
from stpipe.errors import OptionError, RunError, ScratchError
from stpipe.methods import METHODS, auto
from stpipe.methods.auto import AutoFiller, auto_filler, far_weight
from stpipe.methods.calibrated import CalibratedFiller
from stpipe.methods.checking import Verdict
from stpipe.methods.choice import Choice, digits
from stpipe.methods.idw import IdwFiller
from stpipe.methods.linear import LinearFiller
from stpipe.methods.pyramid import PyramidFiller

SHAPE = (12, 64, 64)


def crop_of(truth: np.ndarray, seed: int = 0, days: np.ndarray | None = None) -> Crop:
    """The truth under clouds."""
    valid = ~draw_gaps(np.ones(truth.shape, dtype=bool), np.random.default_rng(seed), share=(0.3, 0.4))
    return Crop(
        values=np.where(valid, truth, 0).astype(np.float32),
        valid=valid,
        days=np.arange(len(truth), dtype=np.float64) if days is None else days,
        window=Window.of(truth.shape),
    )


@dataclass(frozen=True, kw_only=True)
class Teller:
    """Knows the truth and errs by so much, near to an observation of the frame and far from it."""

    name: str
    truth: np.ndarray
    near: float
    far: float
    limit: float = 4.0
    calls: list[str] = field(default_factory=list)
    halo: tuple[int | None, int, int] = (0, 16, 8)
    stride: tuple[int, int, int] = (1, 2, 3)
    process_bytes: int = 2**20
    sample_bytes: float = 10.0
    pixel_bytes: float = 0.0
    seconds_per_million: float = 0.1

    def identity(self) -> dict[str, JSON]:
        return {"method": self.name}

    def prepare(self) -> None:
        self.calls.append("prepare")

    def fill(self, block: BlockInput) -> Prediction:
        self.calls.append("fill")
        around = [(0, a - b) for a, b in zip(block.valid.shape, self.truth.shape, strict=True)]
        sign = np.where(np.random.default_rng(1).random(block.valid.shape) < 0.5, 1, -1)
        distance = space_distance(block.valid)
        error = np.where(distance <= self.limit, self.near, self.far) * sign
        values = (np.pad(self.truth, around) + error).astype(np.float32)
        half_width = np.full(values.shape, self.near + self.far, np.float32)
        return Prediction(values=values, half_width=half_width, fallback=np.full(values.shape, self.name == "b"))


@dataclass(frozen=True, kw_only=True)
class LearningTeller(Teller):
    """Learns how many samples it was shown."""

    shown: int | None = None
    costs: int = 1
    seen: list[int] = field(default_factory=list)

    def learn_bytes(self, crops: Sequence[Triple]) -> int:
        return self.costs * 99 * samples_in(crops)

    def learn_seconds(self, crops: Sequence[Triple]) -> float:
        return self.costs * 3e-6 * samples_in(crops)

    def identity(self) -> dict[str, JSON]:
        return {"method": self.name, "shown": self.shown}

    def notes(self) -> tuple[str, ...]:
        return (f"saw {self.shown}",)

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        assert all(not crop.values[~crop.valid].any() for crop in crops)
        self.seen.append(sum(int(crop.valid.sum()) for crop in crops))
        return str(self.seen[-1]).encode()

    def taught(self, learned: bytes) -> LearningTeller:
        return replace(self, shown=int(learned))

    def fill(self, block: BlockInput) -> Prediction:
        assert self.shown is not None
        assert block.valid.sum() >= self.shown  # nothing that it learned from is hidden now
        return super().fill(block)


TRUTH = np.random.default_rng(5).normal(size=SHAPE)


def teller(name: str, near: float, far: float, **more: object) -> Teller:
    return Teller(name=name, truth=TRUTH, near=near, far=far, **more)  # type: ignore[arg-type]


def taught(candidates: Sequence[Filler], crop: Crop, seed: int = 0) -> AutoFiller:
    untaught = AutoFiller(candidates=tuple(candidates))
    return untaught.taught(untaught.learn([crop], seed=seed))


@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_best_method_fills_alone(best: int) -> None:
    crop = crop_of(TRUTH)
    tellers = [teller(name, *((0.1, 0.1) if i == best else (0.2, 0.2))) for i, name in enumerate("abc")]
    filler = taught(tellers, crop)
    assert filler.choice == Choice(near="abc"[best], far="abc"[best])
    assert filler.fillers == (tellers[best],)
    for each in tellers:
        each.calls.clear()
    filler.prepare()
    made, alone = fill_crop(filler, crop), fill_crop(replace(tellers[best], stride=filler.stride), crop)
    np.testing.assert_array_equal(made.values, alone.values)
    np.testing.assert_array_equal(made.half_width, alone.half_width)
    np.testing.assert_array_equal(made.fallback, alone.fallback)
    assert [bool(each.calls) for each in tellers] == [i == best for i in range(3)]


@pytest.mark.parametrize("order", [1, -1], ids=["near first", "far first"])
def test_two_methods_share_the_work_where_each_is_better(order: int) -> None:
    crop = crop_of(TRUTH)
    filler = taught([teller("a", 0.1, 0.5), teller("b", 0.4, 0.2), teller("c", 0.3, 0.3)][::order], crop)
    assert filler.choice == Choice(near="a", far="b", limit_px=4.0)
    assert str(filler.choice) == "a up to 4 px from an observation, b beyond"
    assert filler.scores is not None
    assert max(filler.scores.verdict.pair) < 0.9 * min(filler.scores.verdict.single)
    assert any(line.startswith("on gaps set apart, two methods are ") for line in filler.notes())
    near, far = (
        fill_crop(teller(each, *errors, stride=filler.stride), crop)
        for each, errors in (("a", (0.1, 0.5)), ("b", (0.4, 0.2)))
    )
    made, distance = fill_crop(filler, crop), space_distance(crop.valid)
    np.testing.assert_array_equal(made.values[distance < 2.5], near.values[distance < 2.5])
    np.testing.assert_array_equal(made.values[distance > 6.1], far.values[distance > 6.1])
    between = np.clip(made.values, *np.sort([near.values, far.values], axis=0))
    np.testing.assert_allclose(made.values, between, atol=1e-5)
    np.testing.assert_array_equal(made.fallback[distance != 4], (distance > 4)[distance != 4])


@pytest.mark.parametrize(
    ("near", "far"),
    [
        pytest.param(0.2, 0.198, id="by less than the margin"),
        pytest.param(0.2, 0.2, id="not at all"),
    ],
)
def test_a_second_method_has_to_be_worth_it(near: float, far: float) -> None:
    filler = taught([teller("a", 0.1, 0.2), teller("b", near, far)], crop_of(TRUTH))
    assert filler.choice == Choice(near="a", far="a")


@pytest.mark.parametrize("holds", [True, False])
def test_what_does_not_hold_again_is_not_used(monkeypatch: pytest.MonkeyPatch, holds: bool) -> None:
    verdict = Verdict(single=(0.3, 0.3), pair=(0.1, 0.2 if holds else 0.31), pair_holds=holds)
    monkeypatch.setattr(auto, "check", lambda *_: verdict)
    filler = taught([teller("a", 0.1, 0.5), teller("b", 0.4, 0.2)], crop_of(TRUTH))
    assert filler.choice is not None
    assert (filler.choice.limit_px is not None) == holds
    line = "two methods did not hold up on gaps set apart: one was taken"
    assert (line in filler.notes()) != holds


@given(
    limit=st.sampled_from([1.5, 4.0, 12.0]),
    distances=st.lists(st.floats(0, 100, width=32) | st.just(float("inf")), min_size=2, max_size=20),
)
def test_the_border_is_a_ramp(limit: float, distances: list[float]) -> None:
    ordered = np.sort(np.array(distances, dtype=np.float32))
    weight = far_weight(ordered, limit)
    assert (np.diff(weight) >= 0).all()
    assert (weight[ordered >= limit * 1.5001] == 1).all()
    assert (weight[ordered <= limit / 1.5001] == 0).all()
    assert weight.dtype == np.float32


def fields(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scenes with a method made for each."""
    rng = np.random.default_rng(seed)
    days = np.cumsum(rng.integers(2, 6, 24)).astype(np.float64)
    y, x = np.mgrid[:64, :64] / 10.0
    if kind == "smooth without memory":
        phase = rng.uniform(0, 6, (4, days.size, 1, 1))
        return np.sin(y + phase[0]) * np.cos(x + phase[1]) + np.sin((x + y) / 2 + phase[2]), days
    parcels = np.kron(rng.normal(size=(16, 16)), np.ones((4, 4))) + 0.3 * rng.normal(size=(64, 64))
    return parcels + 0.02 * rng.normal(size=(days.size, 64, 64)), days


@pytest.mark.parametrize(
    ("kind", "right"),
    [
        pytest.param("smooth without memory", {"pyramid", "idw"}, id="smooth without memory"),
        pytest.param("persistent", {"linear"}, id="persistent"),
    ],
)
def test_each_cube_gets_its_own_method(kind: str, right: set[str]) -> None:
    candidates = (LinearFiller(), PyramidFiller(), IdwFiller())
    truth, days = fields(kind, 3)
    crop = crop_of(truth, 3, days)
    errors: dict[str, float] = {}
    hidden = draw_gaps(crop.valid, np.random.default_rng(100))
    left = crop.without(hidden)
    filler = taught(candidates, left)
    assert filler.choice is not None
    assert set(filler.choice.methods) <= right
    for each in (filler, *candidates):
        errors[each.name] = float(np.abs(fill_crop(each, left).values - crop.values)[hidden].mean())
    assert errors["auto"] <= 1.02 * min(value for name, value in errors.items() if name != "auto")


def test_what_is_learned_repeats_and_depends_on_the_seed() -> None:
    crop, untaught = crop_of(TRUTH), AutoFiller(candidates=(teller("a", 0.1, 0.5), teller("b", 0.4, 0.2)))
    learned = untaught.learn([crop], seed=3)
    assert learned == untaught.learn([crop], seed=3)
    assert learned != untaught.learn([crop], seed=4)
    assert untaught.taught(learned).identity() == untaught.taught(learned).identity()
    assert untaught.taught(learned).identity() != untaught.identity()


def test_a_learner_is_scored_on_what_it_has_not_seen_and_learns_from_all_in_the_end() -> None:
    crop = crop_of(TRUTH)
    best = LearningTeller(name="a", truth=TRUTH, near=0.1, far=0.1)
    untaught = AutoFiller(candidates=(teller("b", 0.4, 0.2), best))
    assert isinstance(untaught, Filler)
    assert isinstance(untaught, Learner)
    assert untaught.learn_bytes([(10, 10, 10)]) > 99_000
    assert untaught.learn_seconds([(100, 100, 100)]) > 3 * 3.0
    filler = untaught.taught(untaught.learn([crop], seed=0))
    assert len(best.seen) == auto.ROUNDS + 1
    assert max(best.seen[:-1]) < best.seen[-1] == crop.valid.sum()
    assert filler.fillers[0].identity() == {"method": "a", "shown": int(crop.valid.sum())}
    assert filler.notes()[-1] == f"saw {crop.valid.sum()}"


def test_plans_made_before_learning_hold_after_it() -> None:
    wide = teller("c", 0.4, 0.4, halo=(None, 8, 40), stride=(4, 4, 1), process_bytes=2**30, sample_bytes=50.0)
    untaught = AutoFiller(candidates=(teller("a", 0.1, 0.5), teller("b", 0.4, 0.2), wide))
    filler = untaught.taught(untaught.learn([crop_of(TRUTH)], seed=0))
    assert len(filler.fillers) == 2
    assert untaught.halo == filler.halo == (None, 18, 40)
    assert untaught.stride == filler.stride == (4, 4, 3)
    assert untaught.process_bytes == filler.process_bytes > 2**30
    assert untaught.sample_bytes == filler.sample_bytes > 50
    assert untaught.seconds_per_million >= filler.seconds_per_million


def test_of_one_frame_methods_in_time_say_nothing() -> None:
    y, x = np.mgrid[:64, :64] / 8.0
    filler = taught([LinearFiller(), PyramidFiller()], crop_of((np.sin(y) * np.cos(x))[None]))
    assert filler.choice == Choice(near="pyramid", far="pyramid")
    assert filler.scores is not None
    assert filler.scores.methods == ("pyramid",)


def test_a_cube_with_nothing_to_hide_takes_the_first() -> None:
    empty = Crop(
        values=np.zeros((3, 8, 8), np.float32),
        valid=np.zeros((3, 8, 8), dtype=bool),
        days=np.arange(3.0),
        window=Window.of((3, 8, 8)),
    )
    filler = taught([LinearFiller(), PyramidFiller()], empty)
    assert filler.choice == Choice(near="linear", far="linear")
    assert "the choice rests on only 0 artificial gap samples" in filler.notes()
    assert np.isnan(fill_crop(filler, empty).values).all()


def test_one_method_stands_in_where_the_other_has_no_value() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Holey(Teller):
        def fill(self, block: BlockInput) -> Prediction:
            made = super().fill(block)
            holes = np.zeros(block.valid.shape, dtype=bool)
            holes[:, :20] = True
            return replace(made, values=np.where(holes, np.float32(np.nan), made.values))

    crop = crop_of(TRUTH)
    whole, holey = teller("a", 0.1, 0.1), Holey(name="h", truth=TRUTH, near=0.1, far=0.1)
    for near, far in ((whole, holey), (holey, whole)):
        choice = Choice(near=near.name, far=far.name, limit_px=4.0)
        filler = AutoFiller(candidates=(whole, holey), choice=choice, fillers=(near, far))
        made = fill_crop(filler, crop).values
        assert np.isfinite(made).all()
    assert taught([holey, whole], crop).choice == Choice(
        near="a", far="a"
    )  # no value is an error as large as the truth


def test_blocks_give_what_the_whole_gives() -> None:
    crop = crop_of(fields("persistent", 1)[0][:9])
    fillers = (LinearFiller(), PyramidFiller())
    choice = Choice(near="linear", far="pyramid", limit_px=12.0)
    filler = AutoFiller(candidates=fillers, choice=choice, fillers=fillers)
    whole = fill_crop(filler, crop)
    grid = BlockGrid(crop.window.stop, BlockSpec(size=(9, 20, 28), halo=filler.halo, stride=filler.stride))
    overviews = ArrayOverviews.of(crop.values.astype(np.float64), crop.valid)
    for block in grid:
        inside = block.read.intersect(crop.window)
        around = [(0, a - b) for a, b in zip(block.read.shape, inside.shape, strict=True)]
        made = filler.fill(
            BlockInput(
                values=np.pad(crop.values[inside.slices], around),
                valid=np.pad(crop.valid[inside.slices], around),
                days=crop.days,
                window=block.read,
                overviews=overviews,
                all_days=crop.days,
                wanted=block.write,
            )
        )
        for mine, theirs in ((made.values, whole.values), (made.half_width, whole.half_width)):
            np.testing.assert_allclose(mine[block.trim], theirs[block.write.slices], atol=1e-4)


def test_it_is_calibrated_like_any_other() -> None:
    crop = crop_of(fields("persistent", 2)[0])
    hidden = draw_gaps(crop.valid, np.random.default_rng(9))
    untaught = CalibratedFiller(filler=AutoFiller(candidates=(LinearFiller(), PyramidFiller())))
    filler = untaught.taught(untaught.learn([crop.without(hidden)], seed=0))
    made = fill_crop(filler, crop.without(hidden))
    assert filler.notes()[0] == "auto uses linear"
    assert 0.8 < np.mean((np.abs(made.values - crop.values) <= made.half_width)[hidden]) < 0.99


def test_the_table_fits_a_terminal() -> None:
    filler = taught([teller("a", 0.1, 50.0), teller("climatology", 0.4, 0.2), teller("c", 0.3, 0.3)], crop_of(TRUTH))
    lines = filler.notes()
    assert max(map(len, lines)) <= 80 - len("stpipe: note: ")
    assert [line.split()[0] for line in lines[6:9]] == ["climatology", "c", "a"]
    assert filler.scores is not None
    everything = dict(zip(filler.scores.methods, np.sum(filler.scores.errors, axis=1), strict=True))
    shown = float(lines[6].split()[1])
    assert shown == pytest.approx(everything["climatology"] / sum(filler.scores.samples), abs=1e-3)


@pytest.mark.parametrize("learned", [b"nothing of the kind", b""], ids=["no archive", "empty"])
def test_damaged_bytes_are_told(learned: bytes) -> None:
    with pytest.raises(ScratchError, match="what auto learned can't be read"):
        AutoFiller(candidates=(PyramidFiller(),)).taught(learned)


def test_bytes_of_other_candidates_are_told() -> None:
    crop = crop_of(TRUTH)
    learned = AutoFiller(candidates=(teller("a", 0.1, 0.1),)).learn([crop], seed=0)
    with np.load(io.BytesIO(learned), allow_pickle=False) as file:
        assert json.loads(file["choice"].tobytes())["near"] == "a"
    with pytest.raises(ScratchError, match="what auto learned can't be read: 'a'"):
        AutoFiller(candidates=(PyramidFiller(),)).taught(learned)


@pytest.mark.parametrize("candidates", [(), (PyramidFiller(), PyramidFiller())], ids=["none", "twice the same"])
def test_candidates_have_names_of_their_own(candidates: tuple[Filler, ...]) -> None:
    with pytest.raises(OptionError, match="auto chooses among methods that have names of their own"):
        AutoFiller(candidates=candidates)


def test_nothing_is_filled_before_the_choice() -> None:
    with pytest.raises(RunError, match="auto has not chosen a method yet"):
        fill_crop(AutoFiller(candidates=(PyramidFiller(),)), crop_of(TRUTH))
    assert AutoFiller(candidates=(PyramidFiller(),)).notes() == ()


def test_all_simple_methods_are_candidates_beside_the_tuned_default() -> None:
    filler = auto_filler()
    names = [each.name for each in filler.known]
    assert set(names) == set(METHODS) - {"auto", "stack", "sar"}
    assert filler.default is not None
    assert filler.default.name == METHODS[0] == names[-1]
    assert isinstance(filler.default, Learner)  # the tuned one: without, it would only look patterns up


def with_default(near: float, far: float, *candidates: Teller) -> AutoFiller:
    default = LearningTeller(name="d", truth=TRUTH, near=near, far=far)
    untaught = AutoFiller(candidates=candidates, default=default)
    return untaught.taught(untaught.learn([crop_of(TRUTH)], seed=0))


@pytest.mark.parametrize(
    ("error", "used"),
    [
        pytest.param(0.05, "d", id="better"),
        pytest.param(0.1, "d", id="alike"),
        pytest.param(0.1005, "d", id="worse by too little to be sure"),
        pytest.param(0.15, "a", id="surely worse"),
    ],
)
def test_the_default_fills_unless_the_choice_is_surely_better(error: float, used: str) -> None:
    filler = with_default(error, error, teller("a", 0.1, 0.1), teller("b", 0.2, 0.2))
    assert filler.choice == Choice(near=used, far=used)
    assert filler.scores is not None
    assert filler.scores.methods == ("a", "b")
    np.testing.assert_allclose(filler.scores.verdict.single, 0.1, rtol=1e-3)
    np.testing.assert_allclose(filler.scores.verdict.default, error, rtol=1e-3)
    notes = filler.notes()
    told = notes.index(f"on gaps set apart the best of these errs 0.100, tuned d {digits(error)}:")
    why = "that is more" if error < 0.1 else "not surely less"
    assert notes[told + 1] == ("that is surely less" if used == "a" else f"{why}, so d fills")
    default = filler.default
    assert isinstance(default, LearningTeller)
    assert len(default.seen) == 1 + (used == "d")  # on gaps set apart, and on all there is if it fills
    assert max(map(len, notes)) <= 80 - len("stpipe: note: ")


@pytest.mark.parametrize(("error", "used"), [(0.15, {"a", "b"}), (0.05, {"d"})])
def test_two_methods_that_hold_up_are_what_the_default_has_to_match(error: float, used: set[str]) -> None:
    filler = with_default(error, 2 * error, teller("a", 0.1, 0.5), teller("b", 0.4, 0.2))
    assert filler.choice is not None
    assert set(filler.choice.methods) == used
    assert filler.scores is not None
    assert filler.scores.verdict.pair_holds
    assert any(line.startswith("on gaps set apart, two methods are ") for line in filler.notes())
    assert any(line.startswith("on gaps set apart the two err ") for line in filler.notes())


def test_with_nothing_to_hide_the_default_fills_and_no_error_is_told() -> None:
    default = LearningTeller(name="d", truth=TRUTH, near=0.1, far=0.1)
    crop = crop_of(TRUTH).without(np.ones(SHAPE, dtype=bool))
    untaught = AutoFiller(candidates=(teller("a", 0.1, 0.1),), default=default)
    filler = untaught.taught(untaught.learn([crop], seed=0))
    assert filler.choice == Choice(near="d", far="d")
    assert not [line for line in filler.notes() if "gaps set apart" in line]
    assert "the choice rests on only 0 artificial gap samples" in filler.notes()


@pytest.mark.parametrize("change", ["learn_bytes", "learn_seconds", "halo", "stride", "process_bytes", "sample_bytes"])
def test_the_default_counts_in_what_is_planned(change: str) -> None:
    told = {"halo": (None, 8, 40), "stride": (4, 4, 1), "process_bytes": 2**30, "sample_bytes": 50.0}
    small, large = (
        LearningTeller(name="d", truth=TRUTH, near=0.1, far=0.1, **more)
        for more in ({}, {change: told[change]} if change in told else {"costs": 1000})
    )
    before, after = (AutoFiller(candidates=(teller("a", 0.1, 0.1),), default=each) for each in (small, large))
    if change == "learn_bytes":
        assert after.learn_bytes([(100, 100, 100)]) == before.learn_bytes([(100, 100, 100)]) + 999 * 99 * 10**6
    elif change == "learn_seconds":
        million = [(100, 100, 100)]
        assert after.learn_seconds(million) == pytest.approx(before.learn_seconds(million) + 2 * 999 * 3.0)
    else:
        assert getattr(after, change) > getattr(before, change)
    with pytest.raises(OptionError, match="auto chooses among methods that have names of their own"):
        AutoFiller(candidates=(teller("d", 0.1, 0.1),), default=large)
