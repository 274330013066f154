"""Infilling from radar against a slow version of all its steps, on a scene as a whole and in parts."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.crops import ArrayFields, Crop, block_of, fill_crop, settled_on
from stpipe.core.ports import BlockInput, Prediction, SceneFiller
from stpipe.core.survey import ArrayOverviews
from stpipe.core.windows import Window, round_up, triple
from stpipe.errors import OptionError, RunError
from stpipe.methods.sar.composites import composite
from stpipe.methods.sar.filler import SarFiller
from stpipe.methods.sar.options import RadarOptions, SarOptions
from tests.methods.sar_oracle import Slow, slow_calibrate, slow_composite, slow_covariates, slow_smooth

FRAMES, HEIGHT, WIDTH = 40, 26, 30
PAIR = ("VV", "VH")
LEAST = 16
CLOUDED, UNSEEN = 13, 27
"""A frame wholly under clouds, and one without radar."""

NORMAL_90 = 1.6449


# ---------------------------------------------------------------- scenes


@dataclass(frozen=True)
class Scene:
    """Images of both polarisations on their own dates, and frames under clouds, in standardised units."""

    images: dict[str, np.ndarray]
    image_days: np.ndarray
    crop: Crop
    truth: np.ndarray


@cache
def scene(seed: int = 0, shape: tuple[int, int, int] = (FRAMES, HEIGHT, WIDTH)) -> Scene:
    rng = np.random.default_rng(seed)
    frames, height, width = shape
    days = np.cumsum(rng.uniform(3, 9, frames))
    image_days = np.arange(-9.0, days[-1] + 6, 6.0)
    unseen = days[UNSEEN % frames]
    image_days = image_days[(image_days < unseen - 12) | (image_days >= unseen + 12)]
    y, x = np.mgrid[:height, :width] / 10.0
    moisture = [np.sin(2 * np.pi * day / 90 + x + 0.5 * np.sin(y)) for day in image_days]
    images = {}
    for name, base in zip(PAIR, (-9, -16), strict=True):
        level = base + rng.normal(0, 3, image_days.size)  # of the whole frame
        made = np.array([one + 2 * wet + np.sin(3 * y + one) for one, wet in zip(level, moisture, strict=True)])
        made += rng.normal(0, 1.2, made.shape)
        late = (image_days > 60) & (image_days < 140)
        made[late] = np.where(x + y > 0.9, made[late], np.nan)  # the swath's edge, some months
        made[:, 0, :2] = -45.0  # noise of the edge, always
        made[rng.random(made.shape) < 0.02] = -50.0
        images[name] = made.astype(np.float32)
    season = np.sin(2 * np.pi * days[:, None, None] / 110 + 0.7 * x) + 0.3 * np.cos(2 * y)
    values = 0.7 * season + rng.normal(0, 0.2, shape)
    clouds = np.kron(rng.random((frames, 4, 4)) < rng.uniform(0, 0.7, frames)[:, None, None], np.ones((7, 8)))
    valid = clouds[:, :height, :width] == 0
    valid[CLOUDED % frames] = False
    valid[4:, 7, 9:12] = False  # too few clear dates
    valid[:, 20, 20] = False  # none at all
    unflagged = (rng.random(shape) < 0.05) & valid
    values[unflagged] = rng.uniform(3, 5, np.count_nonzero(unflagged))  # clouds that nobody saw
    guides = {name: composite(one, image_days, days, 12.0, power=True) for name, one in images.items()}
    crop = Crop(
        values=np.where(valid, values, 0).astype(np.float32),
        valid=valid,
        days=days,
        window=Window.of(shape),
        guides=guides,
    )
    return Scene(images, image_days, crop, values)


@cache
def covariates_of(seed: int = 0) -> np.ndarray:
    """(8, t, pixel), from the images on."""
    made = scene(seed)
    composites = [slow_composite(made.images[name], made.image_days, made.crop.days, 12.0) for name in PAIR]
    return slow_covariates(composites).reshape(8, FRAMES, -1)


@cache
def slow_scene(seed: int = 0) -> Slow:
    crop = scene(seed).crop
    return Slow.of(covariates_of(seed), crop.values, crop.valid, LEAST)


def expected(crop: Crop, predicted: np.ndarray, options: SarOptions) -> tuple[np.ndarray, np.ndarray]:
    """(t, y, x) of the slow version, NaN where there is none; and which frames were calibrated."""
    shape = crop.valid.shape
    values, clear = crop.values.reshape(shape[0], -1).astype(np.float64), crop.valid.reshape(shape[0], -1)
    inside = np.ones(clear.shape[1], dtype=bool) if crop.domain is None else crop.domain.ravel()
    made, stretched = predicted, np.zeros(shape[0], dtype=bool)
    if options.smoothing:
        made = slow_smooth(made, options.share, options.explained)
    if options.calibration:
        made, stretched = slow_calibrate(made, values, clear, inside, options.cloud_threshold)
    return made.reshape(shape), stretched


def interpolated(crop: Crop) -> np.ndarray:
    """Linear in time between clear dates, NaN in pixels without any."""
    made = np.full(crop.valid.shape, np.nan)
    for y, x in np.argwhere(crop.valid.any(axis=0)):
        clear = crop.valid[:, y, x]
        made[:, y, x] = np.interp(crop.days, crop.days[clear], crop.values[clear, y, x])
    return made


def filler(**options: Any) -> SarFiller:
    return SarFiller(groups=(PAIR,), options=SarOptions(**{"least_clear": LEAST, **options}))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="all steps"),
        pytest.param({"smoothing": False}, id="no smoothing"),
        pytest.param({"calibration": False}, id="no calibration"),
        pytest.param({"smoothing": False, "calibration": False}, id="regression alone"),
        pytest.param({"share": 0.15, "cloud_threshold": 0.3}, id="few components and frames"),
        pytest.param({"share": None, "explained": 0.8, "cloud_threshold": 1.0}, id="by explained variance"),
    ],
)
def test_a_scene_is_filled_as_by_the_slow_version(options: dict[str, Any]) -> None:
    crop, method = scene().crop, filler(**options)
    made = fill_crop(method, crop)
    wanted, stretched = expected(crop, slow_scene().predicted, method.options)
    assert_same(made, wanted, stretched)
    assert stretched.sum() in (range(5, 39) if method.options.calibration else (0,))
    half_width = np.broadcast_to(NORMAL_90 * slow_scene().spread.reshape(HEIGHT, WIDTH), wanted.shape)
    np.testing.assert_allclose(made.half_width[~made.fallback], half_width[~made.fallback], rtol=1e-3)


def assert_same(made: Prediction, wanted: np.ndarray, stretched: np.ndarray) -> None:
    """The fallback answers where the slow version is NaN; elsewhere both say the same."""
    there = np.isfinite(wanted)
    assert 0.9 < there.mean() < 0.99
    np.testing.assert_array_equal(made.fallback, ~there)
    off = np.where(there, np.abs(made.values - np.where(there, wanted, 0)), 0)
    # The covariates nearly say the same twice: where slopes of 80 cancel out, float32 is good to 3e-4.
    assert (off[~stretched] < 1e-4).mean() > 0.999
    assert off[~stretched].max() < 1e-3
    # Percentiles are told from bins of 1/256 spread.
    assert off.max() < 2e-3
    assert np.isfinite(made.values).all()


def test_the_fallback_answers_where_radar_says_nothing() -> None:
    crop = scene().crop
    made = fill_crop(filler(), crop)
    np.testing.assert_array_equal(np.flatnonzero(made.fallback.all(axis=(1, 2))), [UNSEEN])
    assert not made.fallback[CLOUDED].all()
    always = made.fallback.all(axis=0)
    assert always[7, 9:12].all()  # too few clear dates
    assert always[20, 20]  # none
    assert always[0, :2].all()  # nothing but noise in the radar
    assert always.sum() == 6
    alone = interpolated(crop)
    told = made.fallback & np.isfinite(alone)
    np.testing.assert_allclose(made.values[told], alone[told], atol=1e-5)


def with_outliers(seed: int) -> tuple[Crop, np.ndarray]:
    """A scene that follows the radar but for a little noise, of whose clear samples 15 % are far off; and the truth."""
    rng = np.random.default_rng(seed)
    crop, covariates = scene().crop, covariates_of()[::2]  # those of VV
    slopes = rng.normal(0, 0.1, (4, HEIGHT * WIDTH)) + np.array([0.3, 0.2, -0.1, 0.1])[:, None]
    truth = rng.normal(0, 0.3, HEIGHT * WIDTH) + np.einsum("kp,ktp->tp", slopes, covariates)
    truth = truth.reshape(crop.valid.shape)
    truth -= np.nanmedian(truth)
    values = np.where(np.isfinite(truth), truth, 0) + rng.normal(0, 0.01, truth.shape)
    order = np.where(crop.valid, rng.random(truth.shape), 2).argsort(axis=0).argsort(axis=0)
    gross = order < 0.15 * crop.valid.sum(axis=0)  # of each pixel's clear samples
    values[gross] += (rng.uniform(3, 5, truth.shape) * rng.choice([-1, 1], truth.shape))[gross]
    return replace(crop, values=np.where(crop.valid, values, 0).astype(np.float32)), truth


def test_what_follows_the_radar_comes_back_under_clouds_in_spite_of_outliers() -> None:
    crop, truth = with_outliers(0)
    method = SarFiller(groups=(("VV",),), options=filler(smoothing=False, calibration=False).options)
    made = fill_crop(method, crop)
    cloudy = ~crop.valid & ~made.fallback
    error = np.abs(made.values - truth)[cloudy]
    assert np.median(error) < 0.01
    # On some 25 dates, 4 outliers can bend the first line so far that they hide in it: in one pixel of seven.
    assert np.percentile(error, 80) < 0.05
    linear = np.abs(interpolated(crop) - truth)[cloudy]
    assert np.median(error) < 0.02 * np.nanmedian(linear)
    # The noise is normal, and the interval holds nine tenths of it; what the coefficients add is little.
    half_width = made.half_width[cloudy]
    assert np.median(half_width) == pytest.approx(NORMAL_90 * 0.01, rel=0.3)
    settled = settled_on(method, crop)
    assert isinstance(settled, SarFiller)
    *_, dates, left_out = settled.counts
    assert 0.13 < left_out / dates < 0.18


def test_values_under_gaps_say_nothing() -> None:
    crop = scene().crop
    other = replace(crop, values=np.where(crop.valid, crop.values, np.float32(77)))
    one, two = (fill_crop(filler(), own) for own in (crop, other))
    assert one.values.tobytes() == two.values.tobytes()
    assert one.half_width.tobytes() == two.half_width.tobytes()


def test_groups_count_by_how_sure_they_are() -> None:
    crop, days = scene().crop, scene().image_days
    early = days < 150
    guides, groups, slow = {}, [], []
    for orbit, chosen in (("ascending", early | (np.arange(days.size) % 2 > 0)), ("descending", days > 45)):
        own = composite(scene().images["VV"][chosen], days[chosen], crop.days, 7.0, power=True)
        guides[f"VV {orbit}"] = own
        groups.append((f"VV {orbit}",))
        bands = slow_covariates([own.astype(np.float64)]).reshape(4, FRAMES, -1)
        slow.append(Slow.of(bands, crop.values, crop.valid, LEAST))
    crop = replace(crop, guides=guides)
    sure = np.array([np.where(np.isfinite(one.predicted), one.spread**-2.0, 0) for one in slow])
    total = np.nansum(sure * np.array([one.predicted for one in slow]), axis=0)
    weight = sure.sum(axis=0)
    both = np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)
    alone = [np.isfinite(one.predicted) & ~np.isfinite(other.predicted) for one, other in (slow, slow[::-1])]
    assert min(one.sum() for one in alone) > 500
    options = SarOptions(least_clear=LEAST)
    method = SarFiller(groups=tuple(groups), options=options)
    assert method.names == tuple(guides)
    assert_same(fill_crop(method, crop), *expected(crop, both, options))
    settled = settled_on(method, crop)
    assert isinstance(settled, SarFiller)
    assert settled.counts == tuple(sum(column) for column in zip(*map(counted, slow), strict=True))


def counted(slow: Slow) -> tuple[int, ...]:
    """Pixels; with a regression; with a ridge; clear dates of those with one; those that were left out."""
    fits = [one for one in slow.fits if one is not None]
    return (
        len(slow.fits),
        len(fits),
        sum(one.ridged for one in fits),
        sum(one.used for one in fits),
        sum(one.used - one.kept for one in fits),
    )


def test_the_notes_say_what_there_is() -> None:
    crop = scene().crop
    settled = settled_on(filler(), crop)
    assert isinstance(settled, SarFiller)
    assert filler().notes() == ()
    pixels, fitted, ridged, dates, left_out = counted(slow_scene())
    assert left_out > 0
    assert fitted < pixels
    stretched = expected(crop, slow_scene().predicted, filler().options)[1].sum()
    first = (
        f"radar VV, VH: a regression in {fitted / pixels:.1%} of the pixels, on {dates / fitted:.0f} clear dates each, "
        f"{left_out / dates:.1%} of which were left out; {ridged / fitted:.1%} of them needed a ridge"
    )
    assert settled.notes() == (
        first,
        f"{stretched} of {FRAMES} frames were clear enough to be calibrated",
    )


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_outside_the_domain_nothing_counts(threshold: float) -> None:
    """A share of clouds is one of the domain: its frames are calibrated as if there were nothing else."""
    crop = scene().crop
    domain = np.zeros((HEIGHT, WIDTH), dtype=bool)
    domain[4:, :19] = True
    inside = replace(crop, valid=crop.valid & domain, domain=domain)
    inside = replace(inside, values=np.where(inside.valid, crop.values, np.float32(0)))
    predicted = np.where(domain.ravel(), slow_scene().predicted, np.nan)
    method = filler(cloud_threshold=threshold)
    wanted, stretched = expected(inside, predicted, method.options)
    assert not np.array_equal(stretched, expected(crop, slow_scene().predicted, method.options)[1])
    made = fill_crop(method, inside)
    there = np.isfinite(wanted)
    np.testing.assert_array_equal(made.fallback[:, domain], ~there[:, domain])
    np.testing.assert_allclose(made.values[there], wanted[there], atol=2e-3)
    settled = settled_on(method, inside)
    assert isinstance(settled, SarFiller)
    assert settled.notes()[1] == f"{stretched.sum()} of {FRAMES} frames were clear enough to be calibrated"


# ---------------------------------------------------------------- parts


def part_of(crop: Crop, window: Window, wanted: Window) -> BlockInput:
    """Return a window of a scene, which may reach past its end, as a method gets it."""
    inside = window.intersect(crop.window)
    place, source = inside.within(window).slices, inside.slices

    def cut(values: np.ndarray, empty: Any) -> Any:
        made = np.full((*values.shape[:-2], *window.shape[1:]), empty, dtype=values.dtype)
        made[..., *place[1:]] = values[..., *source[1:]]
        return made

    return BlockInput(
        values=cut(crop.values, 0),
        valid=cut(crop.valid, False),
        days=crop.days,
        window=window,
        overviews=ArrayOverviews.of(crop.values.astype(np.float64), crop.valid),
        all_days=crop.days,
        wanted=wanted,
        guides={name: cut(guide, np.nan) for name, guide in crop.guides.items()},
        domain=None if crop.domain is None else cut(crop.domain, False),
    )


def tiles(height: int, width: int, extent: tuple[int, int, int]) -> list[Window]:
    frames, bottom, right = extent
    return [
        Window((0, y, x), (frames, min(y + height, bottom), min(x + width, right)))
        for y in range(0, bottom, height)
        for x in range(0, right, width)
    ]


def around(tile: Window, halo: tuple[int | None, int, int], extent: tuple[int, int, int]) -> Window:
    """A tile and its halo, as far as there is anything."""
    reach = (0, *halo[1:])
    start = triple(max(0, n - by) for n, by in zip(tile.start, reach, strict=True))
    return Window(start, triple(min(n, stop + by) for n, stop, by in zip(extent, tile.stop, reach, strict=True)))


def stored(sums: Any, method: SceneFiller, number: int) -> Any:
    """What comes back of sums that were kept in a file."""
    file = io.BytesIO()
    np.savez(file, **sums.arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as kept:
        return method.sums(number, dict(kept))


def by_parts(method: SarFiller, crop: Crop, parts: list[Window]) -> SarFiller:
    """Let a method look at a scene part by part."""
    extent = triple(crop.valid.shape)
    for number in range(len(method.rounds)):
        total, fields = None, np.full((len(method.fields), *extent[1:]), np.nan, dtype=np.float32)
        kept = False
        for tile in parts:
            look = method.look(number, part_of(crop, around(tile, method.halo, extent), tile))
            own = stored(look.sums, method, number)
            total = own if total is None else total + own
            if look.fields is not None:
                kept = True
                fields[:, *tile.slices[1:]] = look.fields
        method = method.settled(number, method.settle(number, total))
        method = method.with_fields(ArrayFields(fields)) if kept else method
    return method


@pytest.mark.parametrize("domain", [False, True], ids=["everywhere", "in a domain"])
@given(data=st.data())
@settings(max_examples=3)
def test_parts_make_the_whole_wherever_their_borders_fall(domain: bool, data: st.DataObject) -> None:
    crop = small(domain)
    whole = whole_of(domain)
    extent = triple(crop.valid.shape)
    looked, filled = (
        tiles(data.draw(st.integers(9, extent[1])), data.draw(st.integers(9, extent[2])), extent) for _ in range(2)
    )
    settled = by_parts(filler(least_clear=10), crop, looked)
    for tile in filled:
        window = around(tile, settled.halo, extent)
        stop = triple(round_up(n, step) for n, step in zip(window.stop, settled.stride, strict=True))
        start = triple(n // step * step for n, step in zip(window.start, settled.stride, strict=True))
        window = Window(start, (extent[0], *stop[1:]))
        made = settled.fill(part_of(crop, window, tile))
        own = tile.within(window).slices
        np.testing.assert_array_equal(made.fallback[own], whole.fallback[tile.slices])
        np.testing.assert_allclose(made.values[own], whole.values[tile.slices], atol=1e-5)
        np.testing.assert_allclose(made.half_width[own], whole.half_width[tile.slices], rtol=1e-5)


def small(domain: bool) -> Crop:
    crop = scene(1, (20, 26, 30)).crop
    if not domain:
        return crop
    y, x = np.mgrid[:26, :30]
    inside = (y - 13) ** 2 + (x - 14) ** 2 < 150
    valid = crop.valid & inside
    return replace(crop, valid=valid, values=np.where(valid, crop.values, np.float32(0)), domain=inside)


@cache
def whole_of(domain: bool) -> Prediction:
    return fill_crop(filler(least_clear=10), small(domain))


def test_sums_come_back_from_a_file_bit_by_bit() -> None:
    crop = scene().crop
    method: Any = filler()
    block = block_of(crop, method.stride)
    for number, name in enumerate(method.rounds):
        look = method.look(number, block)
        again = stored(look.sums, method, number)
        first, second = look.sums.arrays(), again.arrays()
        assert list(first) == list(second), name
        for key, array in first.items():
            assert (array.dtype, array.shape, array.tobytes()) == (
                second[key].dtype,
                second[key].shape,
                second[key].tobytes(),
            )
        one, two = (method.settled(number, method.settle(number, own)) for own in (look.sums, again))
        assert one.identity() == two.identity()
        method = one if look.fields is None else one.with_fields(ArrayFields(look.fields))
    assert isinstance(method, SceneFiller)


# ---------------------------------------------------------------- options and names


def test_identity_tells_all_options_apart() -> None:
    methods = [
        filler(),
        filler(least_clear=17),
        filler(smoothing=False),
        filler(calibration=False),
        filler(share=0.4),
        filler(share=None, explained=0.5),
        filler(cloud_threshold=0.4),
        SarFiller(groups=(("VV",), ("VH",)), options=filler().options),
        SarFiller(groups=(("VH", "VV"),), options=filler().options),
        settled_on(filler(), scene().crop),
        settled_on(filler(), with_outliers(0)[0]),
    ]
    assert len({json.dumps(method.identity()) for method in methods}) == len(methods)


def test_it_does_not_fill_before_it_has_looked() -> None:
    with pytest.raises(RunError, match="has not looked at the scene"):
        filler().fill(block_of(scene().crop, filler().stride))


def test_rounds_and_fields_follow_the_options() -> None:
    assert filler().rounds == ("means", "regression", "calibration")
    assert filler(calibration=False).rounds == ("means", "regression")
    assert filler(smoothing=False).rounds == filler().rounds
    assert len(filler().fields) == 10
    assert len(SarFiller(groups=(PAIR, PAIR), options=SarOptions()).fields) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"least_clear": 0}, "at least 1 clear date, got 0", id="no dates"),
        pytest.param({"share": 0.0}, "above 0 and is at most 1, got 0.0", id="no components"),
        pytest.param({"share": 1.5}, "at most 1, got 1.5", id="more than all"),
        pytest.param({"share": math.nan}, "got nan", id="share of nothing"),
        pytest.param({"explained": 0.5}, "give one of both", id="two rules"),
        pytest.param({"share": None}, "give one of both", id="no rule"),
        pytest.param({"share": None, "explained": 2.0}, "explained share .* got 2.0", id="explained too much"),
        pytest.param({"cloud_threshold": 0.0}, "cloud threshold .* got 0.0", id="no frame"),
        pytest.param({"cloud_threshold": 50.0}, "cloud threshold .* got 50.0", id="per cent"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SarOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"average": "mean"}, "one of power, db, got 'mean'", id="another average"),
        pytest.param({"window_days": 0.0}, "above 0, got 0.0", id="no window"),
        pytest.param({"window_days": math.nan}, "got nan", id="window of nothing"),
        pytest.param({"window_days": math.inf}, "got inf", id="all dates"),
    ],
)
def test_radar_is_brought_onto_frames_in_ways_there_are(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RadarOptions(**options)


def test_too_few_clear_dates_everywhere_are_said_and_left_to_the_fallback() -> None:
    made = settled_on(filler(least_clear=FRAMES), scene().crop)
    assert isinstance(made, SarFiller)
    told, _ = made.notes()
    assert told.startswith("radar VV, VH: no pixel has the 40 clear dates with radar that a regression needs")
    assert fill_crop(filler(least_clear=FRAMES), scene().crop).fallback.all()


def test_notes_count_the_pixels_of_the_domain() -> None:
    crop = scene().crop
    domain = np.zeros((HEIGHT, WIDTH), dtype=bool)
    domain[4:, :15] = True
    valid = crop.valid & domain
    own = replace(crop, valid=valid, values=np.where(valid, crop.values, np.float32(0)), domain=domain)
    fits = zip(slow_scene().fits, domain.ravel(), strict=True)
    fitted = sum(one is not None for one, inside in fits if inside)
    made = settled_on(filler(), own)
    assert isinstance(made, SarFiller)
    assert f"in {fitted / domain.sum():.1%} of the pixels" in made.notes()[0]
