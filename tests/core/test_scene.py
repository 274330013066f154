"""The made-up scene: what is observed follows the truth, gaps are of every kind, and the spec refuses nonsense."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.landscape import Cover, make_landscape
from stpipe.core.noise import fractal, smooth
from stpipe.core.scene import Scene, SceneSpec, make_scene
from stpipe.core.sky import Sample, beyond_swath, clouds, shadows
from stpipe.errors import OptionError

SMALL = SceneSpec(frames=14, height=96, width=128, swath_frames=2, striped_frames=1, overcast_frames=1)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(SMALL)


def test_the_same_spec_gives_the_same_scene_and_another_seed_another(scene: Scene) -> None:
    again, other = make_scene(SMALL), make_scene(replace(SMALL, seed=8))
    np.testing.assert_array_equal(scene.observed, again.observed)
    np.testing.assert_array_equal(scene.times, again.times)
    assert not np.array_equal(scene.sample, other.sample)
    assert not np.array_equal(scene.truth, other.truth, equal_nan=True)


def test_more_clouds_leave_the_ground_as_it_was(scene: Scene) -> None:
    cloudier = make_scene(replace(SMALL, cloud_share=0.6))
    np.testing.assert_array_equal(scene.truth, cloudier.truth)
    assert cloudier.gap_share > scene.gap_share + 0.1


def test_a_sample_is_observed_exactly_where_nothing_hides_it(scene: Scene) -> None:
    np.testing.assert_array_equal(np.isfinite(scene.observed), scene.sample == Sample.OBSERVED)


def test_the_lake_is_outside_the_domain_on_every_date(scene: Scene) -> None:
    lake = np.broadcast_to(~scene.land, scene.sample.shape)
    np.testing.assert_array_equal(scene.sample == Sample.OUTSIDE_DOMAIN, lake)
    np.testing.assert_array_equal(np.isnan(scene.truth), lake)
    assert (~scene.land).mean() == pytest.approx(SMALL.lake_share, abs=0.01)


def test_observations_are_the_truth_plus_noise_and_haze(scene: Scene) -> None:
    error = (scene.observed - scene.truth)[scene.sample == Sample.OBSERVED]
    assert SMALL.noise < error.std() < 3 * (SMALL.noise + SMALL.haze)
    assert abs(error.mean()) < 2 * SMALL.haze
    clean = make_scene(replace(SMALL, noise=0.0, haze=0.0))
    seen = clean.sample == Sample.OBSERVED
    np.testing.assert_allclose(clean.observed[seen], clean.truth[seen], atol=1e-6)


def test_every_kind_of_gap_is_there(scene: Scene) -> None:
    counts = np.bincount(scene.sample.ravel(), minlength=len(Sample))
    assert all(counts > 0), dict(zip([code.name for code in Sample], counts, strict=True))


def test_an_overcast_date_shows_nothing_and_the_ends_of_the_series_are_ordinary(scene: Scene) -> None:
    whole = [(frame == Sample.WHOLE_FRAME).any() for frame in scene.sample]
    assert sum(whole) == SMALL.overcast_frames
    for frame, overcast in zip(scene.sample, whole, strict=True):
        assert not overcast or not (frame == Sample.OBSERVED).any()
    for end in (0, -1):
        codes = {int(code) for code in np.unique(scene.sample[end])}
        assert codes <= {Sample.OBSERVED, Sample.CLOUD_EDGE, Sample.CLOUD_CORE, Sample.OUTSIDE_DOMAIN}


def test_cloud_edges_are_nearer_to_observations_than_cores(scene: Scene) -> None:
    for frame in scene.sample:
        seen = np.argwhere(frame == Sample.OBSERVED)
        for code, near in ((Sample.CLOUD_EDGE, True), (Sample.CLOUD_CORE, False)):
            at = np.argwhere(frame == code)[::97]
            if len(at) and len(seen):
                distance = np.sqrt(((at[:, None, :] - seen[None, :, :]) ** 2).sum(-1)).min(1)
                assert (distance < 6.0).all() == near or not len(distance)
                assert ((distance < 6.0) == near).all()


def test_the_default_scene_has_the_gaps_and_the_season_of_a_real_one() -> None:
    full = make_scene(replace(SceneSpec(), height=192, width=256))
    assert 0.38 < full.gap_share < 0.55
    steps = np.diff(full.times) / np.timedelta64(1, "D")
    assert steps.min() > 1
    assert len(np.unique(np.round(steps))) > 3
    assert full.times[0].astype("datetime64[D]") == np.datetime64("2023-03-06")
    assert full.times[-1].astype("datetime64[D]") == np.datetime64("2023-11-01")
    months = full.times.astype("datetime64[M]").astype(int) % 12 + 1
    means = np.nanmean(full.truth, axis=(1, 2))
    assert means[np.isin(months, [5, 6])].mean() > means[np.isin(months, [3, 10, 11])].mean() + 0.1
    assert np.nanmin(full.truth) >= -0.25
    assert np.nanmax(full.truth) <= 0.95


def test_neighbouring_parcels_differ_more_than_a_parcel_in_itself() -> None:
    land = make_landscape(np.random.default_rng(3), (192, 256), parcel_px=13, lake_share=0.0)
    farmed = land.cover <= Cover.BEET
    green = land.greenness(150.0)
    labels = land.parcel[farmed]
    counts = np.bincount(labels)
    means = np.bincount(labels, weights=green[farmed]) / np.maximum(counts, 1)
    big = counts > 50
    assert big.sum() > 30
    within = np.std(green[farmed] - means[labels])
    assert means[big].std() > 3 * within


def test_maize_greens_after_cereals_and_grass_is_cut() -> None:
    land = make_landscape(np.random.default_rng(3), (192, 256), parcel_px=13, lake_share=0.0)
    spring, summer = land.greenness(125.0), land.greenness(225.0)
    for cover, later in ((Cover.WINTER_CEREAL, False), (Cover.MAIZE, True)):
        at = land.cover == cover
        assert (summer[at].mean() > spring[at].mean()) == later
    just_cut = (land.first_cut > 139.0) & (land.first_cut < 142.0)
    assert just_cut.sum() > 100
    assert (land.greenness(142.0) < land.greenness(138.0) - 0.1)[just_cut].all()


@given(share=st.floats(0.0, 1.0), seed=st.integers(0, 2**16))
@settings(max_examples=25)
def test_clouds_cover_the_share_that_was_asked_for(share: float, seed: int) -> None:
    cloud = clouds(np.random.default_rng(seed), (48, 64), share, wind=0.3)
    assert cloud.mean() == pytest.approx(share, abs=1.5 / cloud.size)


def test_a_shadow_falls_where_the_offset_says_and_not_under_the_cloud() -> None:
    cloud = np.zeros((20, 20), dtype=bool)
    cloud[5:8, 5:8] = True
    shade = shadows(cloud, offset=(-4.0, 6.0), height_field=np.ones(cloud.shape))
    expected = np.zeros_like(cloud)
    expected[1:4, 11:14] = True
    np.testing.assert_array_equal(shade, expected)
    near = shadows(cloud, offset=(0.0, 1.0), height_field=np.ones(cloud.shape))
    assert not (near & cloud).any()


def test_both_sides_of_a_swath_edge_make_the_scene() -> None:
    left, right = (beyond_swath((31, 47), through=0.4, angle=0.2, right=side) for side in (False, True))
    assert not (left & right).any()
    assert (left | right).mean() > 0.99
    assert left[0].sum() != left[-1].sum()  # slanted


@pytest.mark.parametrize("field", [fractal, smooth])
def test_random_fields_are_standardised(field: object) -> None:
    rng = np.random.default_rng(0)
    values = fractal(rng, (40, 56), slope=1.5) if field is fractal else smooth(rng, (40, 56), 4.0)
    assert values.mean() == pytest.approx(0.0, abs=1e-9)
    assert values.std() == pytest.approx(1.0)


def test_a_stretched_field_varies_less_along_its_direction() -> None:
    field = fractal(np.random.default_rng(0), (96, 96), slope=2.0, stretch=4.0, angle=0.0)
    assert np.abs(np.diff(field, axis=1)).mean() < 0.6 * np.abs(np.diff(field, axis=0)).mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"frames": 0}, "frames must be greater than 0, got 0", id="no frames"),
        pytest.param({"frames": 2}, "at least 3 dates, got frames=2", id="two frames"),
        pytest.param({"height": 8}, "at least 32 x 32 pixels, got height=8", id="too small"),
        pytest.param({"last": dt.date(2023, 3, 7)}, "26 dates don't fit between", id="too short a time"),
        pytest.param({"overcast_frames": 25}, "got 25 \\+ 5 \\+ 2", id="more special dates than dates"),
        pytest.param({"swath_frames": -1}, "got 2 \\+ -1 \\+ 2", id="fewer than no swath edges"),
        pytest.param({"cloud_share": 1.5}, r"cloud_share must lie in \[0, 0.9\], got 1.5", id="more cloud than sky"),
        pytest.param({"noise": float("nan")}, "noise must lie in", id="noise is not a number"),
        pytest.param({"resolution_m": float("nan")}, "resolution_m must be greater than 0", id="NaN resolution"),
    ],
)
def test_a_spec_that_can_not_be_made_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(SceneSpec(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cloud_shar": 0.1}, "f.yaml: no key 'cloud_shar' in a scene; did you mean 'cloud_share'?"),
        ({"zzz": 1}, "f.yaml: no key 'zzz' in a scene; there are seed, frames"),
        ({1: 1}, "f.yaml: no key '1' in a scene"),
        ({"frames": 2.5}, "f.yaml: frames must be a whole number, got 2.5"),
        ({"frames": True}, "f.yaml: frames must be a whole number, got True"),
        ({"noise": "much"}, "f.yaml: noise must be a number, got 'much'"),
        ({"noise": float("inf")}, "f.yaml: noise must be a number, got inf"),
        ({"first": "march"}, "f.yaml: first must be a date such as 2023-03-06, got 'march'"),
        ({"crs": 32632}, "f.yaml: crs must be text, got 32632"),
        ({"height": -1}, "f.yaml: height must be greater than 0, got -1"),
    ],
)
def test_a_file_with_a_wrong_key_or_value_is_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        SceneSpec.from_mapping(values, where="f.yaml")
    assert str(caught.value).startswith(message)


def test_a_file_may_give_whole_numbers_for_floats_and_text_for_dates() -> None:
    spec = SceneSpec.from_mapping({"resolution_m": 10, "first": "2023-04-01"}, where="f.yaml")
    assert (spec.resolution_m, spec.first) == (10.0, dt.date(2023, 4, 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"cloud_share": 0.0, "overcast_frames": 0, "swath_frames": 0, "striped_frames": 0, "lake_share": 0.0},
        {"frames": 3, "overcast_frames": 1, "swath_frames": 0, "striped_frames": 0},
        {"frames": 40, "last": dt.date(2023, 4, 20)},
        {"height": 33, "width": 47, "parcel_m": 2000.0},
    ],
    ids=["no gap and no lake", "three dates", "a date almost every day", "odd shape, huge parcels"],
)
def test_extreme_specs_work(changes: dict[str, object]) -> None:
    spec = replace(SMALL, **changes)  # type: ignore[arg-type]
    made = make_scene(spec)
    assert made.truth.shape == (spec.frames, spec.height, spec.width)
    assert (np.diff(made.times) > np.timedelta64(0, "s")).all()
    if spec.cloud_share == 0:
        assert made.gap_share == 0.0
