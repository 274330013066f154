"""`stpipe.evaluate` as an xarray user calls it, and infilling from radar among the methods."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers the accessor that writes a CRS
import xarray as xr

import stpipe
from stpipe.core.comparison import GROUPS, Difference
from stpipe.core.crops import choose_crops, fill_crop
from stpipe.core.evaluation import Evaluation
from stpipe.core.gaps import Purpose, draw_gaps, generator
from stpipe.core.ports import Filler, VariableInfo
from stpipe.core.windows import Window
from stpipe.errors import CubeError, OptionError
from stpipe.io.cube import open_source
from stpipe.io.evaluate import evaluate_cube, fillers_for, read_crops
from stpipe.io.guide_sources import open_guides
from stpipe.io.guides import GuideOptions
from stpipe.io.objects import ArrayReader
from stpipe.io.radar import open_radar
from stpipe.io.radar_evaluation import Beside, DatesInOrder, ScoredRadar, calibrated_frames, radar_notes, without_frames
from stpipe.methods.linear import LinearFiller
from stpipe.methods.sar.filler import SarFiller
from stpipe.methods.sar.options import RadarOptions, SarOptions
from stpipe.methods.with_guides import make_guided


def made_cube(frames: int = 8, side: int = 40, *, scale: float = 1.0, offset: float = 0.0) -> xr.DataArray:
    """A smooth field under clouds, in any units."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / 15
    values = np.stack([np.sin(y + t / 4) * np.cos(x - t / 5) for t in range(frames)])
    values += 0.05 * rng.normal(size=values.shape)
    for t in range(frames):
        top, left = rng.integers(0, side - 12, 2)
        values[t, top : top + 12, left : left + 14] = np.nan
    when = np.datetime64("2023-05-01", "ns") + np.arange(frames) * np.timedelta64(5, "D")
    return xr.DataArray(
        scale * values + offset, dims=("time", "y", "x"), coords={"time": when}, name="ndvi", attrs={"units": "1"}
    )


def test_scores_come_as_a_dataset() -> None:
    steps: list[tuple[int, int]] = []
    cube = made_cube()
    scores = stpipe.evaluate(cube, methods=["pyramid"], progress=lambda done, total: steps.append((done, total)))
    assert scores["mae"].dims == ("variable", "method_name", "group")
    assert list(scores["method_name"].values) == ["pyramid", "linear"]
    assert list(zip(scores["grouping"].values, scores["group"].values, strict=True)) == list(GROUPS)
    chosen = scores.sel(variable="ndvi", group="all")
    assert (chosen["mae"] > 0).all()
    assert ((chosen["coverage"] > 0.6) & (chosen["coverage"] <= 1)).all()
    assert int(chosen["samples"]) > 100
    assert steps == [(i, 6) for i in range(1, 7)]
    # The groups of each grouping part the samples.
    of = scores["samples"].sel(variable="ndvi").groupby("grouping").sum()
    assert set(of.values) == {int(chosen["samples"])}
    xr.testing.assert_identical(scores["mae"], cube.stpipe.evaluate(methods=["pyramid"])["mae"])
    assert len(scores.to_dataframe()) == 2 * len(GROUPS)


def test_lazily_transposed_and_in_other_units_gives_the_same() -> None:
    plain = stpipe.evaluate(made_cube(), methods=["linear"], draws=1)
    other = made_cube(scale=-1000, offset=7).transpose("x", "time", "y").chunk({"x": 16})
    scaled = stpipe.evaluate(other, methods=["linear"], draws=1)
    np.testing.assert_allclose(scaled["mae"], 1000 * plain["mae"], rtol=1e-3)
    np.testing.assert_allclose(scaled["bias"], -1000 * plain["bias"], rtol=1e-2, atol=0.1)
    np.testing.assert_allclose(scaled["coverage"], plain["coverage"], atol=2e-3)


def test_nothing_outside_the_domain_or_the_range_counts() -> None:
    cube = made_cube()
    land = xr.DataArray(np.indices((40, 40))[0] < 20, dims=("y", "x"))
    wild = cube.where(land, 1e6)
    clean = stpipe.evaluate(cube.where(land), methods=["linear"], domain=land, draws=1)
    for scores in (
        stpipe.evaluate(wild, methods=["linear"], domain=land, draws=1),
        stpipe.evaluate(wild, methods=["linear"], domain=land, valid_range=(-2, 2), draws=1),
    ):
        xr.testing.assert_identical(scores["mae"], clean["mae"])


def test_a_lone_frame_is_scored_by_what_works_in_it() -> None:
    scores = stpipe.evaluate(made_cube(1), methods=["pyramid", "linear"], draws=1)
    assert float(scores["mae"].sel(variable="ndvi", method_name="pyramid", group="all")) > 0
    assert "linear" not in fillers_for(None, model=None, interval=0.9, frames=1)


def test_crops_of_a_large_cube_are_parts_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "stpipe.io.evaluate.choose_crops", lambda extent: choose_crops(extent, most=4, samples=8 * 32 * 32)
    )
    cube = made_cube(8, 96, scale=3, offset=20)
    info = VariableInfo(name="ndvi", dtype="float64", chunks=cube.shape)
    crops, spread = read_crops(ArrayReader(name="ndvi", array=cube.values), info, np.arange(8.0))
    assert len(crops) == 4
    assert all(Window.of(cube.shape).contains(crop.window) and crop.window.shape[0] == 8 for crop in crops)
    locations = []
    for crop in crops:
        truth = cube.values[crop.window.slices]
        np.testing.assert_array_equal(crop.valid, np.isfinite(truth))
        assert not crop.values[~crop.valid].any()
        location = truth[crop.valid] - crop.values[crop.valid] * spread
        locations += [location.min(), location.max()]
    assert np.ptp(locations) < 1e-4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"methods": ["magic"]}, OptionError, "no method 'magic'; there are pconv"),
        ({"methods": []}, OptionError, "methods names nothing"),
        ({"methods": ["linear"], "model": "x.keras"}, OptionError, "goes with pconv, which is not among"),
        ({"methods": ["linear"], "draws": 0}, OptionError, "draws needs a whole number of at least 1, got 0"),
        ({"methods": "linear", "seed": -1}, OptionError, "seed needs a whole number of at least 0, got -1"),
        ({"methods": "linear", "valid_range": (1, 0)}, OptionError, "valid_range needs two numbers"),
        ({"methods": ["linear"], "interval": 1.0}, OptionError, "must lie between 0 and 1"),
        ({"methods": ["sar"]}, OptionError, "method sar leans on radar; name its cube with guide"),
        (
            {"methods": ["sar"], "guide": made_cube().rename("vv")},
            CubeError,
            "guide 1 has no VH, but vv",
        ),
        ({"methods": ["linear"], "variables": ["evi"]}, CubeError, "no variable 'evi'"),
        ({"methods": ["linear"], "valid_range": (50, 60)}, CubeError, "'ndvi' has no valid sample"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        stpipe.evaluate(made_cube(), **options)  # type: ignore[arg-type]


def test_one_frame_and_methods_in_time_alone_are_refused() -> None:
    with pytest.raises(OptionError, match="the cube has one frame, of which linear can say nothing"):
        stpipe.evaluate(made_cube(1), methods=["linear"])


FRAMES, HEIGHT, WIDTH = 26, 24, 28
STEPS = SarOptions(least_clear=9)


def dated(days: np.ndarray) -> np.ndarray:
    return np.asarray(np.datetime64("2024-03-01T10:00", "ns") + (days * 86400).astype("timedelta64[s]"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cube of greenness that follows the radar of its days, under clouds; and the radar, on fewer, larger pixels."""
    rng = np.random.default_rng(4)
    days, dates = 5.0 * np.arange(FRAMES), np.arange(-9.5, 5.0 * FRAMES + 9, 4.0)
    weather = np.interp(dates, np.arange(-10, 160, 2.0), rng.normal(size=85).cumsum() / 3)
    y, x = np.mgrid[:HEIGHT, :WIDTH] / 8
    where = {"y": 5_000_000 - 10.0 * np.arange(HEIGHT) - 5, "x": 600_000 + 10.0 * np.arange(WIDTH) + 5}
    wet = weather[:, None, None] + 0.3 * np.sin(y + x + dates[:, None, None] / 20)
    mean = np.array([wet[(dates >= day - 12) & (dates < day + 12)].mean(axis=0) for day in days])
    values = 0.5 + 0.1 * mean + 0.01 * rng.normal(size=mean.shape)
    values[np.kron(rng.random((FRAMES, 3, 4)) < rng.uniform(0, 0.9, (FRAMES, 1, 1)), np.ones((8, 7))) > 0] = np.nan
    optical = xr.Dataset({"ndvi": (("time", "y", "x"), values.astype(np.float32))}, {"time": dated(days), **where})
    vv, vh = (base + 2 * wet[:, ::2, ::2] + rng.normal(0, 0.2, wet[:, ::2, ::2].shape) for base in (-10, -17))
    vh[3] = -50.0  # nothing but noise
    radar = xr.Dataset(
        {"VV": (("time", "y", "x"), vv), "vh": (("time", "y", "x"), vh), "orbit": ("time", np.arange(dates.size) % 2)},
        {"time": dated(dates), "y": where["y"][::2] - 5, "x": where["x"][::2] + 5},
    )
    folder = tmp_path_factory.mktemp("site")
    for name, dataset in (("ndvi", optical), ("s1", radar)):
        dataset.rio.write_crs(32633).to_zarr(folder / f"{name}.zarr", consolidated=False)
    return folder / "ndvi.zarr", folder / "s1.zarr"


def scored(site: tuple[Path, Path], *, seed: int = 0, **options: Any) -> ScoredRadar:
    radar = open_radar([site[1]], open_source(site[0]), RadarOptions(**options))
    return ScoredRadar(radar=radar, steps=STEPS, seed=seed)


def test_crops_bring_radar_as_it_is_and_with_its_dates_in_a_random_order(site: tuple[Path, Path]) -> None:
    own, other = scored(site), scored(site, seed=1)
    part = Window((0, 4, 6), (FRAMES, 20, 25))
    made, radar, again = own.read(part), own.radar.read(part), scored(site).read(part)
    assert list(made) == ["VV@sar", "vh@sar", "VV@sar-shuffled", "vh@sar-shuffled"]
    assert not np.allclose(made["VV@sar-shuffled"], other.read(part)["VV@sar-shuffled"], atol=0.5)
    whole = own.read(Window.of((FRAMES, HEIGHT, WIDTH)))
    for name, dB in made.items():
        np.testing.assert_array_equal(dB, again[name])
        np.testing.assert_array_equal(dB, whole[name][:, 4:20, 6:25])
    for name in ("VV", "vh"):
        np.testing.assert_array_equal(made[f"{name}@sar"], radar[name])


@pytest.mark.parametrize("by_orbit", [None, "orbit"])
def test_shuffled_radar_is_radar_whose_file_has_its_dates_shuffled(
    site: tuple[Path, Path], tmp_path: Path, by_orbit: str | None
) -> None:
    """Both polarisations alike; orbit directions among themselves."""
    own = scored(site, by_orbit=by_orbit)
    reader = own.shuffled.echoes[0].variable.reader
    order = reader.order  # type: ignore[attr-defined]
    with xr.open_zarr(site[1], consolidated=False) as source:
        stored = source.load()
    orbits = stored["orbit"].values
    assert sorted(order.tolist()) == list(range(orbits.size)) != order.tolist()
    assert bool((orbits[order] == orbits).all()) == (by_orbit is not None)
    for name in ("VV", "vh"):
        stored[name].values[:] = stored[name].values[order]
    stored.to_zarr(tmp_path / "s1.zarr", consolidated=False)
    by_hand = open_radar([tmp_path / "s1.zarr"], open_source(site[0]), RadarOptions(by_orbit=by_orbit))
    part = Window((2, 0, 5), (FRAMES - 3, HEIGHT, WIDTH))
    read = own.read(part)
    for name, dB in by_hand.read(part).items():
        first, space, rest = name.partition(" ")
        np.testing.assert_array_equal(read[f"{first}@sar-shuffled{space}{rest}"], dB)


def test_rules_on_trust_follow_the_dates() -> None:
    class Reader(ArrayReader):
        def read_trusted(self, window: Window) -> np.ndarray:
            return self.array[window.slices] > 3

        def read_judged(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
            return self.read_trusted(window), np.ones((1, 2), dtype=np.int64)

    values = np.arange(7.0)[:, None, None] + np.zeros((7, 2, 2))
    order = np.array([4, 0, 6, 5, 1, 2, 3])
    window = Window((1, 0, 1), (4, 2, 2))
    plain, ruled = (DatesInOrder(kind(name="v", array=values), order) for kind in (ArrayReader, Reader))
    assert plain.extent == (7, 2, 2)
    assert plain.read("v", window)[:, 0, 0].tolist() == [0, 6, 5]
    assert plain.read("v", window).shape == (3, 2, 1)
    assert plain.read_trusted(window) is None
    assert plain.read_judged(window) is None
    assert plain.read_domain(window) is None
    assert ruled.read_trusted(window)[:, 0, 0].tolist() == [False, True, True]
    judged = ruled.read_judged(window)
    assert judged is not None
    assert judged[0][:, 1, 0].tolist() == [False, True, True]


def test_methods_lean_on_what_is_theirs_where_names_are_the_same(site: tuple[Path, Path]) -> None:
    """Guides that are the radar's own variables, by their own names, in the same crops."""
    cube, radar = open_source(site[0]), scored(site, by_orbit="orbit")
    guides = open_guides([site[1]], cube, GuideOptions(variables=("VV", "vh")))
    crops, _ = read_crops(cube.reader(), cube.variables[0], cube.days, guides=Beside([guides, radar]))
    assert len(crops[0].guides) == 2 + 2 * 4
    fillers = fillers_for(
        ["stack", "sar"], model=None, interval=0.9, frames=FRAMES, guides=guides, cost=guides.cost, radar=radar
    )
    assert list(fillers) == ["stack", "sar", "sar-shuffled", "linear", "whittaker", "pyramid"]
    names = [list(one.filler.filler.names) for one in (fillers["sar"], fillers["sar-shuffled"])]  # type: ignore[attr-defined]
    assert names[0] == ["VV@sar 0", "vh@sar 0", "VV@sar 1", "vh@sar 1"]
    assert set(names[0] + names[1] + ["VV", "vh"]) == set(crops[0].guides)
    fields = fillers["sar"].fields  # type: ignore[attr-defined]
    assert len(set(fields)) == len(fields) == 2 * 10
    alone = make_guided("guided", guides=guides.identity(), cost=guides.cost)
    only, _ = read_crops(cube.reader(), cube.variables[0], cube.days, guides=guides)
    for one in (only, crops):
        learned = alone.taught(alone.learn(one, seed=0))
        values = fill_crop(learned, one[0]).values
        if one is only:
            first = values
    np.testing.assert_array_equal(first, values)


def test_radar_is_scored_as_it_would_be_by_hand(site: tuple[Path, Path]) -> None:
    cube, radar = open_source(site[0]), scored(site, seed=3)
    dates = [str(time)[:10] for time in cube.times]
    (found,) = evaluate_cube(
        cube.reader(), cube.variables, cube.days, methods=["sar"], draws=2, seed=3, radar=radar, dates=dates
    )
    (crop,), spread = read_crops(cube.reader(), cube.variables[0], cube.days, guides=radar)
    groups = {name: ((f"VV@{name}", f"vh@{name}"),) for name in ("sar", "sar-shuffled")}
    errors: dict[str, list[np.ndarray]] = {name: [] for name in (*groups, "linear")}
    hidden, drawn = np.zeros((2, FRAMES))
    for draw in range(2):
        away = draw_gaps(crop.valid, generator(Purpose.EVALUATION, 3, draw, 0))
        left = crop.without(away)
        for name, parts in errors.items():
            filler: Filler = LinearFiller()
            if name in groups:  # a date of which anything is hidden is in no pixel's regression
                unseen = np.flatnonzero(away.any(axis=(1, 2))).tolist()
                assert 0 < len(unseen) < FRAMES
                filler = SarFiller(groups=groups[name], options=STEPS, unseen=tuple(unseen))
            made = fill_crop(filler, left)
            parts.append(np.abs(made.values - crop.values)[away])
            if name == "sar":
                compared = left.valid & ~made.fallback
        hidden += away.sum(axis=(1, 2))
        clear = left.valid.mean(axis=(1, 2))
        drawn += np.where((clear > 0.5) & (compared.sum(axis=(1, 2)) >= 100), away.sum(axis=(1, 2)), 0)
    for name, parts in errors.items():
        assert found.row(name).mae == pytest.approx(spread * np.concatenate(parts).mean(), rel=1e-5)
    assert [frame.calibrated for frame in found.frames] == pytest.approx((drawn / np.maximum(hidden, 1))[hidden > 0])
    shares = [frame.calibrated for frame in found.frames if frame.calibrated is not None]
    assert min(shares) == 0.0
    assert max(shares) > 0.5
    assert [frame.date for frame in found.frames] == [dates[frame.frame] for frame in found.frames]
    # The greenness is made of the radar's dates: in another order they say nothing.
    assert found.row("sar").mae < 0.8 * found.row("sar-shuffled").mae
    assert ("sar", "sar-shuffled") in {(one.method, one.other) for one in found.differences}
    assert found.notes[0].startswith("sar is ")


def test_regressions_see_nothing_of_frames_that_they_are_scored_on(site: tuple[Path, Path]) -> None:
    """Whatever is left of these frames says nothing to regressions, and only it to their calibration."""
    radar = scored(site)
    cube = open_source(site[0])
    (crop,), _ = read_crops(cube.reader(), cube.variables[0], cube.days, guides=radar)
    frames = np.array([2, 5, 11])
    plain = replace(STEPS, calibration=False)
    other = replace(crop, values=crop.values.copy())
    other.values[frames] = np.where(crop.valid[frames], crop.values[frames] + 3, 0)
    for steps, blind in ((plain, True), (plain, False), (STEPS, True)):
        filler = replace(radar, steps=steps).fillers(0.9)["sar"]
        filler = without_frames(filler, frames) if blind else filler
        one, two = (fill_crop(filler, own) for own in (crop, other))
        regressed = ~one.fallback
        assert regressed.mean() > 0.5
        np.testing.assert_array_equal(two.fallback, one.fallback)
        apart = np.where(regressed, np.abs(one.values - two.values), 0).max(axis=(1, 2)) > 1e-6
        if blind:
            clear = crop.valid.mean(axis=(1, 2)) > 0.5
            told = np.isin(np.arange(FRAMES), frames) & clear & steps.calibration
            np.testing.assert_array_equal(apart, told)
            assert told.any() == steps.calibration
        else:
            assert apart.all()
    assert without_frames(LinearFiller(), frames) == LinearFiller()


def test_only_radar_that_calibrates_tells_frames() -> None:
    assert calibrated_frames(LinearFiller()) is None
    assert calibrated_frames(SarFiller(groups=(("VV",),))) is None


def told(linear: tuple[float, float, float], shuffled: tuple[float, float, float], core: float = 0.1) -> list[str]:
    """Return the notes of differences, each with its error bars, and one in a kind of gaps."""

    def one(other: str, apart: tuple[float, float, float], grouping: str = "all", group: str = "all") -> Difference:
        low, middle, high = apart
        return Difference(
            method="sar",
            other=other,
            grouping=grouping,
            group=group,
            samples=9,
            difference=middle,
            difference_low=low,
            difference_high=high,
            share=middle / 0.5,
        )

    kind = one("linear", (core - 0.05, core, core + 0.05), "gap class", "cloud core")
    found = Evaluation(
        variable="v",
        rows=(),
        costs=(),
        best_simple=None,
        hidden=9,
        draws=1,
        seed=0,
        interval=0.9,
        spread=1.0,
        differences=(one("linear", linear), one("sar-shuffled", shuffled), kind),
    )
    return list(radar_notes(found))


def test_the_note_says_what_the_differences_say() -> None:
    nan = float("nan")
    worse, better, unsure, bare = (0.01, 0.02, 0.03), (-0.03, -0.02, -0.01), (-0.01, 0.02, 0.05), (nan, -0.02, nan)
    (helps,) = told(better, better)
    assert helps == (
        "sar is 4.0% better than linear (MAE -0.02, 90 % -0.03 to -0.01), and 4.0% better than the same regression on "
        "radar dates in a random order (MAE -0.02, 90 % -0.03 to -0.01): radar helps here"
    )
    (less,) = told(worse, better)
    assert "sar is 4.0% worse than linear (MAE +0.02, 90 % +0.01 to +0.03)" in less
    assert less.endswith("radar tells something here, but linear knows more from the dates before and after")
    assert told(unsure, better)[0].endswith("but whether more than linear knows can't be said")
    for shuffled in (worse, unsure, bare):
        assert told(better, shuffled)[0].endswith("radar tells nothing here that the regression could use")
    assert "(MAE -0.02)" in told(better, bare)[0]
    assert told(worse, better, core=-0.1)[1:] == [
        "sar has a lower error than linear in some kinds of gaps: cloud core (-20%)"
    ]
    assert len(told(better, better, core=-0.1)) == 1
    same = (0.0, 0.0, 0.0)
    (none,) = told(same, same)
    assert none.startswith("sar is linear here: no pixel has as many clear dates with radar")
    assert "radar helps" in told(better, better)[0]
    assert told(same, better)[0].startswith("sar is 0.0% better than linear")
