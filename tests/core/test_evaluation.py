"""Scores of methods against plain loops, and laws of the comparison."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stpipe.core.comparison import ENOUGH_FRAMES, GROUPS, RESAMPLES, TILE, Sums, cluster_frames, clusters_of, groups_of
from stpipe.core.crops import Crop, fill_crop
from stpipe.core.evaluation import evaluate
from stpipe.core.gaps import Purpose, draw_gaps, generator
from stpipe.core.ports import JSON, BlockInput, Filler, Prediction
from stpipe.core.seams import seam_ratio
from stpipe.core.windows import Window
from stpipe.errors import CubeError, OptionError
from stpipe.methods.linear import LinearFiller
from stpipe.methods.pyramid import PyramidFiller


def made_crop(seed: int = 0, shape: tuple[int, int, int] = (12, 72, 80)) -> Crop:
    """A smooth field with noise; a third of it under gaps."""
    rng = np.random.default_rng(seed)
    days = np.cumsum(rng.integers(2, 9, shape[0])).astype(np.float64)
    y, x = np.mgrid[: shape[1], : shape[2]] / 20
    values = np.stack([np.sin(y + day / 20) * np.cos(x - day / 30) for day in days]) + 0.1 * rng.normal(size=shape)
    valid = ~draw_gaps(np.ones(shape, dtype=bool), rng, share=(0.3, 0.35))
    return Crop(values=np.where(valid, values, 0).astype(np.float32), valid=valid, days=days, window=Window.of(shape))


@dataclass(frozen=True)
class Off:
    """Says what it is told to; with `torn`, another thing in each block."""

    value: float = 0.0
    width: float = 1.0
    reach: float = 1.0
    torn: bool = False
    halo: tuple[int | None, int, int] = (0, 0, 0)
    stride: tuple[int, int, int] = (1, 1, 1)
    process_bytes: int = 2**20
    sample_bytes: float = 10.0
    pixel_bytes: float = 0.0
    seconds_per_million: float = 0.1
    name: str = "off"

    def identity(self) -> dict[str, JSON]:
        return {"method": self.name, "value": self.value}

    def prepare(self) -> None:
        """Nothing to load."""

    def fill(self, block: BlockInput) -> Prediction:
        shape = block.valid.shape
        values = np.full(shape, self.value, dtype=np.float32)
        values += np.linspace(0, 0.1, shape[2], dtype=np.float32)
        if self.torn:
            values += block.window.start[2]
        values[:, int(self.reach * shape[1]) :] = np.nan
        return Prediction(
            values=values, half_width=np.full(shape, self.width, np.float32), fallback=np.zeros(shape, dtype=bool)
        )


def test_scores_are_those_of_a_loop() -> None:
    crop, seed, spread = made_crop(), 3, 2.5
    fillers: dict[str, Filler] = {"off": Off(value=0.1, width=0.4, reach=0.8), "pyramid": PyramidFiller()}
    fillers["linear"] = LinearFiller()
    found = evaluate(fillers, [crop], variable="v", spread=spread, draws=2, seed=seed)
    answers: dict[str, list[np.ndarray]] = {name: [] for name in fillers}
    truth, groups = [], []
    for draw in range(2):
        hidden = draw_gaps(crop.valid, generator(Purpose.EVALUATION, seed, draw, 0))
        left = crop.without(hidden)
        truth.append(crop.values[hidden].astype(np.float64))
        groups.append(np.stack(groups_of(left, hidden)))
        for name, filler in fillers.items():
            made = fill_crop(filler, left)
            answers[name].append(np.stack([made.values[hidden], made.half_width[hidden]]).astype(np.float64))
    target, where = np.concatenate(truth), np.concatenate(groups, axis=1)
    both = {name: np.concatenate(parts, axis=1) for name, parts in answers.items()}
    common = np.all([np.isfinite(values) for values, _ in both.values()], axis=0)
    assert found.hidden == target.size > common.sum() > 0
    for number, (_, group) in enumerate(GROUPS):
        mine = (where == number).any(axis=0)
        if not mine.any():
            with pytest.raises(KeyError):
                found.row("off", group)
            continue
        chosen = mine & common
        for name, (values, half) in both.items():
            row = found.row(name, group)
            assert row.samples == chosen.sum()
            assert row.filled == pytest.approx(np.isfinite(values[mine]).mean())
            if not chosen.any():
                assert np.isnan([row.mae, row.bias, row.coverage]).all()
                continue
            error = (values - target)[chosen]
            assert row.mae == pytest.approx(spread * np.abs(error).mean(), rel=1e-5)
            assert row.rmse == pytest.approx(spread * np.sqrt(np.square(error).mean()), rel=1e-5)
            assert row.bias == pytest.approx(spread * error.mean(), rel=1e-4, abs=1e-6)
            deviation = np.square(target[chosen] - target[chosen].mean()).sum()
            if chosen.sum() > 5:
                assert row.r2 == pytest.approx(1 - np.square(error).sum() / deviation, rel=1e-4, abs=1e-4)
            assert row.coverage == pytest.approx((np.abs(error) <= half[chosen]).mean())
            assert row.width == pytest.approx(spread * 2 * half[chosen].mean(), rel=1e-5)
            reference = np.abs(both["linear"][0] - target)[chosen].mean()
            assert row.skill == pytest.approx(1 - np.abs(error).mean() / reference, abs=1e-5)
            lowest = min(np.abs(other - target)[chosen].mean() for other, _ in both.values())
            assert row.difference == pytest.approx(spread * (np.abs(error).mean() - lowest), abs=1e-5)
    assert found.best_simple == min(fillers, key=lambda name: found.row(name).mae)


def test_the_same_seed_finds_the_same_and_json_holds_it() -> None:
    crop = made_crop(1, (8, 40, 40))
    fillers: dict[str, Filler] = {"linear": LinearFiller(), "pyramid": PyramidFiller()}
    one, two, other = (
        evaluate(fillers, [crop, made_crop(2, (8, 40, 40))], variable="v", spread=1.0, draws=1, seed=seed)
        for seed in (4, 4, 5)
    )
    assert one.as_dict()["rows"] == two.as_dict()["rows"]
    assert one.as_dict()["rows"] != other.as_dict()["rows"]
    document = json.loads(json.dumps(one.as_dict(), allow_nan=False))
    assert document["best_simple"] == one.best_simple
    assert document["rows"][0]["mae"] == one.rows[0].mae
    assert len(document["costs"]) == 2


def test_error_bars_hold_the_difference_and_count_clusters_not_samples() -> None:
    """Repeating every sample of a cluster narrows nothing; more clusters do."""
    rng = np.random.default_rng(0)

    def bars(clusters: int, copies: int) -> tuple[float, float, float]:
        sums = Sums(("linear", "pconv"), np.arange(clusters))
        worse = np.repeat(rng.normal(0.5, 1.0, clusters), copies).astype(np.float32)
        numbers = np.repeat(np.arange(clusters), copies)
        nothing = np.zeros(worse.size, dtype=np.float32)
        base = nothing + 10
        sums.add(nothing, [(base, base), (base + worse, base)], [np.zeros(worse.size, dtype=int)], numbers)
        rows, best = sums.rows(1.0, np.random.default_rng(1))
        assert best == "linear"
        row = rows[1]
        assert row.difference_low < row.difference < row.difference_high
        return row.difference_low, row.difference, row.difference_high

    few, copied, many = bars(100, 1), bars(100, 50), bars(2500, 1)
    assert copied[2] - copied[0] == pytest.approx(few[2] - few[0], rel=0.3)
    assert many[2] - many[0] == pytest.approx((few[2] - few[0]) / 5, rel=0.3)
    # The middle 90 % of a normal distribution, of the mean of 2500.
    assert many[2] - many[0] == pytest.approx(2 * 1.645 / 50, rel=0.15)


def test_trained_methods_are_not_what_has_to_be_beaten() -> None:
    crop = made_crop(3, (6, 40, 40))
    found = evaluate({"pconv": Off(), "stack": Off(value=1)}, [crop], variable="v", spread=1.0, draws=1)
    assert found.best_simple is None
    assert np.isnan([found.row("pconv").difference, found.row("pconv").skill]).all()


def test_clusters_are_tiles_of_frames() -> None:
    crop = made_crop(shape=(3, TILE + 1, 2 * TILE))
    hidden = np.ones(crop.valid.shape, dtype=bool)
    found = clusters_of(crop, hidden).reshape(crop.valid.shape)
    assert len(np.unique(found)) == 3 * 2 * 2
    assert found[1, TILE, TILE] == found[1, TILE, 2 * TILE - 1] != found[1, TILE - 1, TILE]


def bars(worse: np.ndarray, frames: np.ndarray) -> tuple[float, float]:
    """Error bars of a method that is worse by so much in each cluster, each of one sample."""
    sums = Sums(("linear", "pconv"), frames)
    nothing = np.zeros(worse.size, dtype=np.float32)
    base = nothing + 10
    answers = [(base, base), ((base + worse).astype(np.float32), base)]
    sums.add(nothing, answers, [np.zeros(worse.size, dtype=int)], np.arange(worse.size))
    row = sums.rows(1.0, np.random.default_rng(1))[0][1]
    return row.difference_low, row.difference_high


@pytest.mark.parametrize("frames", [ENOUGH_FRAMES - 1, ENOUGH_FRAMES, 3 * ENOUGH_FRAMES])
def test_error_bars_are_those_of_frames_where_there_are_enough(frames: int) -> None:
    """Against a loop that draws frames, or clusters, by name; each frame is off as a whole."""
    tiles = 40
    rng = np.random.default_rng(frames)
    worse = np.repeat(rng.normal(0.5, 1.0, frames), tiles) + 0.1 * rng.normal(size=frames * tiles)
    owner = np.repeat(5 + np.arange(frames), tiles)
    low, high = bars(worse, owner)
    keys = owner if frames >= ENOUGH_FRAMES else np.arange(worse.size)
    units = [worse[keys == key] for key in np.unique(keys)]
    draw = np.random.default_rng(2)
    means = [
        np.concatenate([units[i] for i in draw.integers(0, len(units), len(units))]).mean() for _ in range(RESAMPLES)
    ]
    expected = np.quantile(means, (0.05, 0.95))
    width = expected[1] - expected[0]
    np.testing.assert_allclose((low, high), expected, atol=0.2 * width)
    # As if every part of a frame were a witness of its own, the bars would be six times too narrow.
    assert (width > 2.4 / np.sqrt(frames)) == (frames >= ENOUGH_FRAMES)


@pytest.mark.parametrize("frames", [ENOUGH_FRAMES - 1, 2 * ENOUGH_FRAMES])
def test_shares_inside_intervals_have_bars_of_their_own(frames: int) -> None:
    """Against a loop that draws frames, or clusters, by name; a method without a width counts where it has one."""
    tiles, each = 12, 9
    rng = np.random.default_rng(frames)
    owner = np.repeat(np.arange(frames), tiles)
    off = np.repeat(rng.exponential(1.0, frames * tiles), each) * rng.exponential(1.0, owner.size * each)
    off = off.astype(np.float32) * np.repeat(rng.exponential(1.0, frames), tiles * each).astype(np.float32)
    wide = np.where(rng.random(off.size) < 0.1, np.nan, 1.0).astype(np.float32)
    numbers = np.repeat(np.arange(owner.size), each)
    sums = Sums(("pconv",), owner)
    sums.add(np.zeros_like(off), [(off, wide)], [np.zeros(off.size, dtype=int)], numbers)
    (row,) = sums.rows(1.0, np.random.default_rng(1))[0]
    inside, known = off <= wide, np.isfinite(wide)
    assert row.coverage == pytest.approx(inside[known].mean())
    keys = owner[numbers] if frames >= ENOUGH_FRAMES else numbers
    units = [(inside[keys == key].sum(), known[keys == key].sum()) for key in np.unique(keys)]
    draw = np.random.default_rng(2)
    shares = []
    for _ in range(RESAMPLES):
        held, of = np.sum([units[i] for i in draw.integers(0, len(units), len(units))], axis=0)
        shares.append(held / of)
    low, high = np.quantile(shares, (0.05, 0.95))
    np.testing.assert_allclose((row.coverage_low, row.coverage_high), (low, high), atol=0.2 * (high - low))


def test_a_date_is_one_frame_in_all_crops() -> None:
    """Copies of a crop beside it are no more witnesses than it is by itself."""
    one = made_crop(6, (24, 2 * TILE, TILE))
    other = replace(one, window=Window((0, 0, TILE), (24, 2 * TILE, 2 * TILE)))
    np.testing.assert_array_equal(cluster_frames(one), np.repeat(np.arange(24), 2))
    np.testing.assert_array_equal(cluster_frames(one), cluster_frames(other))
    fillers: dict[str, Filler] = {"linear": LinearFiller(), "off": Off()}
    widths = []
    for crops in ([one], [one, other, other, other]):
        row = evaluate(fillers, crops, variable="v", spread=1.0, draws=3, seed=1).row("off")
        widths.append(row.difference_high - row.difference_low)
    assert widths[1] > 0.65 * widths[0]


def test_seams_are_seen_where_there_are_some_and_only_there() -> None:
    crop = made_crop(4)
    assert seam_ratio(LinearFiller(), crop) == pytest.approx(1.0, abs=1e-6)
    assert seam_ratio(PyramidFiller(), crop) == pytest.approx(1.0, abs=0.01)
    assert seam_ratio(Off(torn=True), crop) > 1.5
    tiny = replace(crop, values=crop.values[:, :9, :9], valid=crop.valid[:, :9, :9], window=Window.of((12, 9, 9)))
    assert np.isnan(seam_ratio(LinearFiller(), tiny))


def test_what_can_not_be_scored_is_refused() -> None:
    crop = made_crop(5, (4, 16, 16))
    with pytest.raises(OptionError, match="gaps have to be drawn at least once, got --draws 0"):
        evaluate({"linear": LinearFiller()}, [crop], variable="v", spread=1.0, draws=0)
    with pytest.raises(OptionError, match="there is no method to evaluate"):
        evaluate({}, [crop], variable="v", spread=1.0)
    with pytest.raises(CubeError, match="variable 'v' has next to no valid sample"):
        evaluate({"linear": LinearFiller()}, [crop.without(crop.valid)], variable="v", spread=1.0)


def test_frames_are_scored_as_in_a_loop() -> None:
    """Two crops of the same dates, one with a domain, one that starts later; the hook knows one method."""
    one, other = made_crop(7, (10, 40, 48)), made_crop(8, (10, 40, 40))
    domain = np.indices((40, 40))[1] < 25
    other = replace(
        other,
        domain=domain,
        valid=other.valid & domain,
        values=np.where(other.valid & domain, other.values, 0),
        window=Window((0, 0, 60), (10, 40, 100)),
    )
    drawn = np.arange(10) % 3 == 0

    def calibrated(filler: Filler) -> np.ndarray | None:
        return drawn if filler.name == "off" else None

    fillers: dict[str, Filler] = {"linear": LinearFiller(), "off": Off(value=0.2, reach=0.9), "again": Off(value=1)}
    dates = [f"day {t}" for t in range(10)]
    found = evaluate(
        fillers, [one, other], variable="v", spread=3.0, draws=2, seed=5, dates=dates, calibrated=calibrated
    )
    hidden = np.zeros(10, dtype=int)
    errors: dict[str, list[list[float]]] = {name: [[] for _ in range(10)] for name in fillers}
    for draw in range(2):
        for number, crop in enumerate((one, other)):
            away = draw_gaps(crop.valid, generator(Purpose.EVALUATION, 5, draw, number), domain=crop.domain)
            made = {name: fill_crop(filler, crop.without(away)).values for name, filler in fillers.items()}
            common = away & np.all([np.isfinite(values) for values in made.values()], axis=0)
            for t in range(10):
                hidden[t] += away[t].sum()
                for name, values in made.items():
                    errors[name][t] += np.abs(values - crop.values)[t][common[t]].tolist()
    assert [frame.frame for frame in found.frames] == np.flatnonzero(hidden).tolist() != []
    for frame in found.frames:
        t = frame.frame
        assert frame.date == f"day {t}"
        assert frame.hidden == hidden[t] >= frame.samples == len(errors["off"][t])
        assert frame.clear == pytest.approx((one.valid[t].sum() + other.valid[t].sum()) / (40 * 48 + 40 * 25))
        assert frame.calibrated == float(drawn[t])
        for name in fillers:
            assert frame.mae[name] == pytest.approx(3.0 * np.mean(errors[name][t]), rel=1e-5)
    assert any(frame.samples < frame.hidden for frame in found.frames)
    document = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert document["frames"][0]["mae"]["linear"] == found.frames[0].mae["linear"]
    unasked = evaluate(fillers, [one, other], variable="v", spread=3.0, draws=1, seed=5)
    assert {(frame.date, frame.calibrated) for frame in unasked.frames} == {("", None)}


def test_a_frame_is_calibrated_as_far_as_the_crops_and_draws_say_so() -> None:
    """A hook that goes by what was left of the crop: of a frame in two crops it may know one."""
    crops = [made_crop(9, (8, 40, 40)), replace(made_crop(10, (8, 40, 40)), window=Window((0, 0, 40), (8, 40, 80)))]

    @dataclass(frozen=True)
    class Looks(Off):
        seen: tuple[int, ...] = ()
        rounds: tuple[str, ...] = ("look",)
        fields: tuple[str, ...] = ()

        def look(self, number: int, block: BlockInput) -> object:
            return SimpleNamespace(sums=block.valid.sum(axis=(1, 2)), fields=None)

        def settle(self, number: int, sums: np.ndarray) -> dict[str, np.ndarray]:
            return {"seen": sums}

        def settled(self, number: int, given: dict[str, np.ndarray]) -> Looks:
            return replace(self, seen=tuple(given["seen"].tolist()))

        def sums(self, number: int, arrays: object) -> object:
            return arrays

        def with_fields(self, fields: object) -> Looks:
            return self

    enough = 900

    def calibrated(filler: Filler) -> np.ndarray | None:
        return np.array(filler.seen) > enough if isinstance(filler, Looks) else None

    found = evaluate({"looks": Looks()}, crops, variable="v", spread=1.0, draws=6, seed=1, calibrated=calibrated)
    hidden, drawn = np.zeros((2, 8))
    for draw in range(6):
        for number, crop in enumerate(crops):
            away = draw_gaps(crop.valid, generator(Purpose.EVALUATION, 1, draw, number))
            hidden += away.sum(axis=(1, 2))
            clear = crop.without(away).valid.sum(axis=(1, 2)) > enough
            drawn += np.where(clear, away.sum(axis=(1, 2)), 0)
    shares = {frame.frame: frame.calibrated for frame in found.frames}
    assert shares == pytest.approx({t: drawn[t] / hidden[t] for t in np.flatnonzero(hidden)})
    assert any(0 < share < 1 for share in shares.values() if share is not None)


def test_a_method_is_told_the_frames_that_it_is_scored_on() -> None:
    """What comes back answers in its place, crop by crop and draw by draw."""
    one, other = made_crop(10, (9, 24, 24)), made_crop(11, (9, 24, 24))
    other = replace(other, window=Window((0, 0, 24), (9, 24, 48)))
    asked: list[tuple[str, list[int]]] = []

    def unseeing(filler: Filler, frames: np.ndarray) -> Filler:
        asked.append((filler.name, frames.tolist()))
        return Off(value=0.5) if filler.name == "off" else filler

    def fillers(value: float) -> dict[str, Filler]:
        return {"linear": LinearFiller(), "off": Off(value=value)}

    told: dict[str, Any] = {"variable": "v", "spread": 1.0, "draws": 2, "seed": 4}
    found = evaluate(fillers(2.0), [one, other], unseeing=unseeing, **told)
    plain = evaluate(fillers(0.5), [one, other], **told)
    for method in ("linear", "off"):
        assert found.row(method).mae == plain.row(method).mae
    expected = []
    for draw in range(2):
        away = [draw_gaps(crop.valid, generator(Purpose.EVALUATION, 4, draw, i)) for i, crop in enumerate((one, other))]
        frames = [np.flatnonzero(part.any(axis=(1, 2))).tolist() for part in away]
        assert frames[0] != frames[1]
        expected += [(name, part) for name in ("linear", "off") for part in frames]
    assert asked == expected


def test_differences_of_pairs_are_those_of_their_errors_with_bars_around_them() -> None:
    crop = made_crop(11, (24, 48, 48))
    fillers: dict[str, Filler] = {"linear": LinearFiller(), "sar": Off(value=0.3), "sar-shuffled": Off(value=2.0)}
    pairs = [("sar", "linear"), ("sar", "sar-shuffled"), ("linear", "linear")]
    found = evaluate(fillers, [crop], variable="v", spread=2.0, draws=2, seed=2, pairs=pairs)
    assert found.best_simple == "linear"
    assert {(one.method, one.other) for one in found.differences} == set(pairs)
    for one in found.differences:
        row, base = found.row(one.method, one.group), found.row(one.other, one.group)
        assert one.samples == row.samples
        assert one.difference == pytest.approx(row.mae - base.mae, abs=1e-9)
        assert one.share == pytest.approx((row.mae - base.mae) / base.mae, abs=1e-9)
        if one.other == "linear":
            assert (one.difference_low, one.difference_high) == pytest.approx(
                (row.difference_low, row.difference_high), abs=1e-9, nan_ok=True
            )
        if not np.isnan(one.difference_low):
            assert one.difference_low - 1e-9 <= one.difference <= one.difference_high + 1e-9
    # Without pairs nothing else changes.
    plain = evaluate(fillers, [crop], variable="v", spread=2.0, draws=2, seed=2)
    assert plain.differences == ()
    assert plain.as_dict()["rows"] == found.as_dict()["rows"]
    assert len(json.loads(json.dumps(found.as_dict(), allow_nan=False))["differences"]) == len(found.differences)
