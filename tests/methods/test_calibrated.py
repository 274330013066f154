"""Laws of the calibrated fillers: predictions stay, intervals hold, blocks equal the whole, bytes repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from stpipe.core.blocks import BlockGrid, BlockSpec
from stpipe.core.crops import Crop, fill_crop
from stpipe.core.evaluation import evaluate
from stpipe.core.gaps import draw_gaps
from stpipe.core.intervals import Calibration
from stpipe.core.ports import JSON, BlockInput, Filler, Learner, Prediction
from stpipe.core.survey import ArrayOverviews, location_and_spread
from stpipe.core.windows import Triple, Window, samples_in
from stpipe.errors import OptionError, ScratchError
from stpipe.methods.calibrated import CalibratedFiller
from stpipe.methods.linear import LinearFiller
from stpipe.methods.pyramid import PyramidFiller
from stpipe.methods.whittaker import WhittakerFiller


def made_crop(seed: int = 0, shape: tuple[int, int, int] = (12, 48, 56)) -> Crop:
    """A drifting field with noise under gaps."""
    rng = np.random.default_rng(seed)
    days = np.cumsum(rng.integers(2, 9, shape[0])).astype(np.float64)
    y, x = np.mgrid[: shape[1], : shape[2]] / 20
    values = np.stack([np.sin(y + day / 20) * np.cos(x - day / 30) for day in days]) + 0.2 * rng.normal(size=shape)
    valid = ~draw_gaps(np.ones(shape, dtype=bool), rng, share=(0.3, 0.4))
    return Crop(values=np.where(valid, values, 0).astype(np.float32), valid=valid, days=days, window=Window.of(shape))


@dataclass(frozen=True)
class MeanLearner:
    """Learns the mean of what it is shown, and remembers how much that was."""

    mean: float | None = None
    shown: int = 0
    halo: tuple[int | None, int, int] = (0, 0, 0)
    stride: tuple[int, int, int] = (1, 1, 1)
    process_bytes: int = 2**20
    sample_bytes: float = 10.0
    pixel_bytes: float = 0.0
    seconds_per_million: float = 0.1
    name: str = "mean"

    def learn_bytes(self, crops: Sequence[Triple]) -> int:
        return 5 * samples_in(crops)

    def learn_seconds(self, crops: Sequence[Triple]) -> float:
        return 1e-7 * samples_in(crops)

    def identity(self) -> dict[str, JSON]:
        return {"method": self.name, "mean": self.mean}

    def prepare(self) -> None:
        """Nothing to load."""

    def notes(self) -> tuple[str, ...]:
        return (f"saw {self.shown} samples",)

    def learn(self, crops: Sequence[Crop], *, seed: int) -> bytes:
        assert seed == 5
        assert all(not crop.values[~crop.valid].any() for crop in crops)
        shown = np.concatenate([crop.values[crop.valid] for crop in crops])
        return f"{shown.mean():.9f} {shown.size}".encode()

    def taught(self, learned: bytes) -> MeanLearner:
        mean, shown = learned.decode().split()
        return replace(self, mean=float(mean), shown=int(shown))

    def fill(self, block: BlockInput) -> Prediction:
        assert self.mean is not None
        shape = block.valid.shape
        nothing = np.full(shape, np.nan, dtype=np.float32)
        return Prediction(
            values=np.full(shape, self.mean, np.float32), half_width=nothing, fallback=np.zeros(shape, dtype=bool)
        )


@pytest.mark.parametrize("inner", [PyramidFiller(), LinearFiller()], ids=["pyramid", "linear"])
def test_predictions_stay_and_intervals_hold_on_gaps_not_seen(inner: Filler) -> None:
    covered = []
    for seed in range(4):
        crop = made_crop(seed)
        hidden = draw_gaps(crop.valid, np.random.default_rng(100 + seed))
        left = crop.without(hidden)
        untaught = CalibratedFiller(filler=inner, coverage=0.8)
        filler = untaught.taught(untaught.learn([left], seed=seed))
        made, plain = fill_crop(filler, left), fill_crop(inner, left)
        np.testing.assert_array_equal(made.values, plain.values)
        np.testing.assert_array_equal(made.fallback, plain.fallback)
        covered.append(np.mean((np.abs(made.values - crop.values) <= made.half_width)[hidden]))
        assert filler.identity() != untaught.identity()
        assert filler.notes() == ()
    assert 0.74 < np.mean(covered) < 0.88


def test_intervals_hold_where_tiles_of_a_pass_are_frames_of_their_own() -> None:
    crop = made_crop(3, (24, 48, 56))
    rng = np.random.default_rng(1)
    noisy = crop.values[..., None] + 0.1 * rng.normal(size=(*crop.values.shape, 2)).astype(np.float32)
    twice = np.moveaxis(noisy, -1, 1).reshape(48, 48, 56)
    valid = np.repeat(crop.valid, 2, axis=0)
    valid[0::2, :, 40:] = valid[1::2, :, :16] = False
    days = np.repeat(crop.days, 2) + np.tile([0.0, 2e-4], 24)
    tiled = Crop(values=np.where(valid, twice, np.float32(0)), valid=valid, days=days, window=Window.of(valid.shape))
    away = np.repeat(draw_gaps(crop.valid, rng), 2, axis=0) & valid
    left = tiled.without(away)
    filler = CalibratedFiller(filler=WhittakerFiller())
    made = fill_crop(filler.taught(filler.learn([left], seed=0)), left)
    held = np.abs(made.values - twice)[away] <= made.half_width[away]
    assert 0.85 < held.mean() < 0.97


def test_what_is_learned_repeats_and_depends_on_the_seed() -> None:
    crop, untaught = made_crop(), CalibratedFiller(filler=PyramidFiller())
    learned = untaught.learn([crop], seed=3)
    assert learned == untaught.learn([crop], seed=3)
    assert learned != untaught.learn([crop], seed=4)
    assert untaught.taught(learned).identity() == untaught.taught(learned).identity()


def test_a_learner_sees_nothing_of_what_it_is_calibrated_on() -> None:
    crops = [made_crop(1), made_crop(2)]
    untaught = CalibratedFiller(filler=MeanLearner())
    assert isinstance(untaught, Learner)
    filler = untaught.taught(untaught.learn(crops, seed=5))
    assert isinstance(filler.filler, MeanLearner)
    valid = sum(int(crop.valid.sum()) for crop in crops)
    assert filler.calibration is not None
    hidden = sum(filler.calibration.samples)
    assert valid - hidden <= filler.filler.shown <= valid - hidden / 2
    assert filler.notes() == (f"saw {filler.filler.shown} samples",)
    # Without a scale the factors are plain quantiles of the error.
    made = fill_crop(filler, crops[0])
    assert np.isfinite(made.half_width).all()
    assert filler.identity()["inner"] == filler.filler.identity()


def test_blocks_give_what_the_whole_gives() -> None:
    crop = made_crop(shape=(9, 80, 88))
    untaught = CalibratedFiller(filler=LinearFiller())
    filler = untaught.taught(untaught.learn([crop], seed=0))
    whole = fill_crop(filler, crop)
    grid = BlockGrid(crop.window.stop, BlockSpec(size=(4, 30, 30), halo=filler.halo, stride=filler.stride))
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
        gap = ~crop.valid[block.write.slices]
        for mine, theirs in ((made.values, whole.values), (made.half_width, whole.half_width)):
            np.testing.assert_allclose(mine[block.trim][gap], theirs[block.write.slices][gap], atol=1e-4)


def test_nothing_under_a_gap_can_speak() -> None:
    crop, untaught = made_crop(), CalibratedFiller(filler=PyramidFiller())
    loud = replace(crop, values=np.where(crop.valid, crop.values, np.float32(99)))
    assert untaught.learn([crop], seed=1) == untaught.learn([loud], seed=1)


def test_no_value_has_no_interval() -> None:
    empty = Crop(
        values=np.zeros((3, 8, 8), np.float32),
        valid=np.zeros((3, 8, 8), dtype=bool),
        days=np.arange(3.0),
        window=Window.of((3, 8, 8)),
    )
    untaught = CalibratedFiller(filler=PyramidFiller())
    filler = untaught.taught(untaught.learn([empty], seed=0))
    made = fill_crop(filler, empty)
    assert np.isnan(made.values).all()
    assert np.isnan(made.half_width).all()
    assert filler.notes() == ("intervals rest on only 0 artificial gap samples, for the cube has little to hide",)


def test_untaught_intervals_widen_with_the_coverage() -> None:
    crop = made_crop()
    plain = fill_crop(PyramidFiller(), crop).half_width
    np.testing.assert_allclose(fill_crop(CalibratedFiller(filler=PyramidFiller()), crop).half_width, plain, rtol=1e-6)
    narrow = fill_crop(CalibratedFiller(filler=PyramidFiller(), coverage=0.5), crop).half_width
    np.testing.assert_allclose(narrow, 0.41006 * plain, rtol=1e-4)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, float("nan")])
def test_impossible_coverages_are_refused(coverage: float) -> None:
    with pytest.raises(OptionError, match="the coverage of an interval must lie between 0 and 1"):
        CalibratedFiller(filler=PyramidFiller(), coverage=coverage)


def test_damaged_bytes_are_told() -> None:
    with pytest.raises(ScratchError, match="what pyramid learned can't be read"):
        CalibratedFiller(filler=PyramidFiller()).taught(b"nothing of the kind")


def test_a_calibration_travels_as_json() -> None:
    untaught = CalibratedFiller(filler=PyramidFiller())
    calibration = untaught.taught(untaught.learn([made_crop()], seed=0)).calibration
    assert calibration is not None
    assert Calibration.from_json(calibration.as_json()) == calibration


def test_intervals_hold_on_a_real_sea(data_folder: Path) -> None:
    with xr.open_dataset(data_folder / "dineof_alboran_sst" / "alboranSST_small.nc") as source:
        sea = source["mask"].values == 1
        values = source["SST"].values.astype(np.float64)[:, 20:148, 80:224]
        days = (source["time"].values - source["time"].values[0]) / np.timedelta64(1, "D")
    domain = sea[20:148, 80:224]
    valid = np.isfinite(values) & domain
    location, spread = location_and_spread(values[valid])
    crop = Crop(
        values=np.where(valid, (values - location) / spread, 0).astype(np.float32),
        valid=valid,
        days=days,
        window=Window.of(valid.shape),
        domain=domain,
    )
    covered, plain = [], []
    for seed in range(3):
        hidden = draw_gaps(crop.valid, np.random.default_rng(seed), domain=domain)
        left = crop.without(hidden)
        untaught = CalibratedFiller(filler=LinearFiller())
        for found, filler in ((covered, untaught.taught(untaught.learn([left], seed=seed))), (plain, LinearFiller())):
            made = fill_crop(filler, left)
            found.append(np.mean((np.abs(made.values - crop.values) <= made.half_width)[hidden]))
    assert np.mean(plain) < 0.75  # the sea is no random walk of the common rate
    assert 0.85 < np.mean(covered) < 0.97


def test_intervals_are_scored_on_other_gaps_than_they_were_calibrated_on(monkeypatch: pytest.MonkeyPatch) -> None:
    states: dict[str, list[str]] = {"stpipe.methods.calibrated": [], "stpipe.core.evaluation": []}

    def noting(room: str) -> Any:
        def noted(valid: np.ndarray, rng: np.random.Generator, **options: Any) -> np.ndarray:
            states[room].append(str(rng.bit_generator.state))
            return draw_gaps(valid, rng, **options)

        return noted

    for room in states:
        monkeypatch.setattr(f"{room}.draw_gaps", noting(room))
    crop = made_crop(shape=(6, 24, 24))
    evaluate({"linear": CalibratedFiller(filler=LinearFiller())}, [crop, crop], variable="v", spread=1.0, seed=0)
    calibrated, scored = (set(each) for each in states.values())
    assert calibrated
    assert scored
    assert not calibrated & scored
