"""The made-up scene of optical and radar images: the same world whatever part is made, and read as what it is."""

from __future__ import annotations

import argparse
import doctest
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import zarr
from scipy import stats

from stpipe.io.cube import open_source
from stpipe.io.guides import Place
from stpipe.io.radar import open_radar
from stpipe.methods.sar.options import RadarOptions

NAMES = ("sar_scene_maker", "sar_scene")
FRAMES, IMAGES = 36, 18


@pytest.fixture(scope="module")
def modules(repository: Path) -> Iterator[dict[str, ModuleType]]:
    """Return the script's modules, found beside it as when it is run."""
    if not (repository / "benchmarks").is_dir():
        pytest.skip("the benchmarks are not part of a source distribution")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "benchmarks"))
        yield {name: importlib.import_module(name) for name in NAMES}


@pytest.fixture(scope="module")
def maker(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["sar_scene_maker"]


def recipe(maker: ModuleType, shape: tuple[int, int] = (40, 300), **changes: int) -> Any:
    return maker.Recipe(shape=shape, frames=FRAMES, images=IMAGES, **changes)


@pytest.fixture(scope="module")
def scene(maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scene of two tiles."""
    place, seconds = maker.make(tmp_path_factory.mktemp("scenes"), recipe(maker), 0)
    assert seconds > 0
    return Path(place)


def samples(maker: ModuleType, shape: tuple[int, int], y: int, x: int, **changes: int) -> tuple[Any, Any, Any]:
    tile = maker.Tile(recipe(maker, shape, **changes), y, x)
    pixels = np.arange(5), np.arange(5)
    optical, truth = zip(*((values, clear) for _, values, clear in tile.optical(pixels)), strict=True)
    radar = [np.stack(both) for _, *both in tile.radar()]
    return np.concatenate(optical), np.concatenate(truth), np.concatenate(radar, axis=1)


@pytest.mark.parametrize("name", NAMES)
def test_examples_in_docstrings_run(modules: dict[str, ModuleType], name: str) -> None:
    assert doctest.testmod(modules[name], extraglobs={"np": np}).failed == 0


def test_a_tile_is_the_same_alone_and_in_a_smaller_scene(maker: ModuleType, scene: Path) -> None:
    optical, _, radar = samples(maker, maker.WORLD, 0, 256)
    ndvi = zarr.open_group(str(scene / "optical.zarr"), mode="r")["ndvi"]
    np.testing.assert_array_equal(ndvi[:, :, 256:], optical[:, :40, :44])
    for number, name in enumerate(("VV", "VH")):
        there = zarr.open_group(str(scene / "s1.zarr"), mode="r")[name]
        np.testing.assert_array_equal(there[:, :, 256:], radar[number][:, :40, :44])


def test_another_seed_is_another_world_and_the_same_seed_the_same(maker: ModuleType) -> None:
    one, again, other = (samples(maker, (30, 30), 0, 0, seed=seed) for seed in (7, 7, 8))
    for mine, same in zip(one, again, strict=True):
        np.testing.assert_array_equal(mine, same)
    assert not np.array_equal(one[2], other[2])


def test_what_neighbouring_tiles_share_does_not_break_at_their_border(maker: ModuleType) -> None:
    """Patches, seasons and clouds go on; a step across the border is no larger than one inside."""
    world = maker.world_of(7, FRAMES, IMAGES)
    here, there = (maker.Tile(recipe(maker, maker.WORLD), 256, x) for x in (512, 768))
    ndvi = np.concatenate([tile.land.ndvi[:, tile.land.patch] for tile in (here, there)], axis=2)
    steps = np.abs(np.diff(ndvi, axis=2)).mean(axis=(0, 1))
    assert steps[255] < np.quantile(np.delete(steps, 255), 0.99)
    partly = np.flatnonzero(np.isfinite(world.threshold))
    gaps = np.stack([np.concatenate([tile._clouds(t)[0] for tile in (here, there)], axis=1) for t in partly])
    changes = (gaps[:, :, 1:] != gaps[:, :, :-1]).mean(axis=(0, 1))
    assert changes[255] < np.quantile(np.delete(changes, 255), 0.99)


def test_noise_of_tiles_dates_and_polarisations_is_not_the_same(maker: ModuleType) -> None:
    tiles = [maker.Tile(recipe(maker, maker.WORLD), *place) for place in ((0, 0), (0, 256), (256, 0))]
    layers = [tile._random(kind, t).ravel() for tile in tiles for kind in (0, 1, 2) for t in (0, 1)]
    together = np.corrcoef(np.array(layers, dtype=np.float64))
    assert np.abs(together - np.eye(len(layers))).max() < 0.02
    assert stats.kstest(layers[0] / 65536, "uniform").pvalue > 1e-4


def test_truth_is_what_is_stored_where_it_is_clear_and_no_veil(maker: ModuleType, scene: Path) -> None:
    kept = np.load(scene / "truth.npz")
    ndvi = zarr.open_group(str(scene / "optical.zarr"), mode="r")["ndvi"][...]
    np.testing.assert_array_equal(kept["stored"], ndvi[:, kept["rows"], kept["columns"]])
    clear, hazy = kept["stored"] != maker.FILL, maker.world_of(7, FRAMES, IMAGES).hazy
    assert 0.2 < clear.mean() < 0.9
    off = np.where(clear, kept["stored"].astype(int) - kept["truth"], 0)
    assert not off[~hazy].any()
    assert off.min() >= -1351  # a veil takes 0.135 at most
    assert off.max() <= 0


def test_scenes_have_gaps_as_clouds_make_them(maker: ModuleType) -> None:
    world = maker.world_of(7, 380, 190)
    assert np.isneginf(world.threshold).mean() == pytest.approx(0.03, abs=0.015)
    assert set(np.diff(world.image_days)) == {6, 12}
    assert world.image_days[0] <= world.days[0]
    assert abs(world.image_days[-1] - world.days[-1]) <= 12
    assert np.diff(world.days).min() >= 2
    tile = maker.Tile(maker.Recipe(), 512, 1024)
    share = np.array([tile._clouds(t)[0][::8, ::8].mean() for t in range(0, 380, 2)])
    assert 0.4 < share.mean() < 0.65
    assert np.mean((share < 0.1) | (share > 0.9)) > 0.4  # of a uniform distribution it were 0.2


def test_radar_follows_what_grows(maker: ModuleType) -> None:
    tile = maker.Tile(maker.Recipe(), 512, 1024)
    world, land = tile.world, tile.land
    near = np.abs(world.image_days[:, None] - world.days).argmin(axis=0)
    varied = np.flatnonzero(land.ndvi.std(axis=0) > 1500)
    together = [np.corrcoef(land.ndvi[:, p], land.vh[near, p])[0, 1] for p in varied]
    assert np.median(together) > 0.6


def test_speckle_has_the_looks_it_says(maker: ModuleType) -> None:
    power = 10 ** (maker.world_of(7, FRAMES, IMAGES).speckle.astype(np.float64) / 1000)
    assert power.mean() == pytest.approx(1, abs=1e-3)
    assert power.mean() ** 2 / power.var() == pytest.approx(maker.LOOKS, rel=0.01)


def test_stpipe_reads_the_cubes_as_ndvi_and_radar_on_one_grid(scene: Path) -> None:
    optical = open_source(scene / "optical.zarr")
    assert optical.names == ("ndvi",)
    assert optical.extent == (FRAMES, 40, 300)
    radar = open_radar([scene / "s1.zarr"], optical, RadarOptions())
    assert radar.names == ("VV", "VH")
    assert all(echo.decibels for echo in radar.echoes)
    place, guide = Place.of_cube(optical), Place.of_cube(open_source(scene / "s1.zarr"))
    assert place.transform == guide.transform
    assert place.crs_wkt is not None
    assert 'ID["EPSG",32631]' in place.crs_wkt


def test_a_half_finished_scene_is_made_anew_and_a_finished_one_kept(
    maker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = maker.Recipe(shape=(8, 8), frames=2, images=1)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(maker.np, "savez", killed)
        with pytest.raises(KeyboardInterrupt):
            maker.make(tmp_path, small, 0)
    assert not (tmp_path / small.name).exists()
    place, seconds = maker.make(tmp_path, small, 0)
    assert seconds > 0
    assert json.loads((place / "scene.json").read_text())["shape"] == [8, 8]
    assert [found.name for found in tmp_path.iterdir()] == [small.name]
    assert maker.make(tmp_path, small, 0) == (place, 0.0)


def test_areas_are_shares_of_the_largest_scene(modules: dict[str, ModuleType]) -> None:
    height, width = modules["sar_scene_maker"].WORLD
    for area in (1, Fraction(1, 4), Fraction(1, 16), Fraction(1, 256)):
        shape = modules["sar_scene"].recipe_of(Fraction(area), 10, 5, 7).shape
        assert shape[0] * shape[1] == pytest.approx(area * height * width, rel=0.01)


def test_pixels_are_read_from_chunks_as_by_hand(modules: dict[str, ModuleType]) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 99, (5, 13, 17)).astype(np.int16)
    array = zarr.create_array({}, shape=values.shape, chunks=(2, 4, 6), dtype="int16")
    array[...] = values
    rows, columns = rng.integers(0, 13, 40), rng.integers(0, 17, 40)
    np.testing.assert_array_equal(modules["sar_scene"].at_pixels(array, rows, columns), values[:, rows, columns])


def write_filled(scene: Path, output: Path, *, change: int = 0) -> None:
    """Write a filled cube: the truth in gaps, two hundredths too high, with intervals of half of that and of twice."""
    kept = np.load(scene / "truth.npz")
    stored = zarr.open_group(str(scene / "optical.zarr"), mode="r")["ndvi"][...]
    gap = stored == -32768
    filled = np.where(gap, 0, stored)
    rows, columns = kept["rows"], kept["columns"]
    filled[:, rows, columns] = np.where(gap[:, rows, columns], kept["truth"] + 200, filled[:, rows, columns])
    clear = np.argwhere(~gap[:, rows[0], columns[0]])[0, 0]
    filled[clear, rows[0], columns[0]] += change
    half = np.where(np.arange(stored.shape[0])[:, None, None] % 2 == 0, 0.01, 0.04) * np.ones(stored.shape)
    group = zarr.open_group(str(output / "filled.zarr"), mode="w")
    for name, values in (("ndvi", filled.astype(np.int16)), ("ndvi_source", gap.astype(np.uint8)), ("ndvi_ci90", half)):
        group.create_array(name, data=values, chunks=(16, 20, 100))


def test_scores_are_those_of_the_filling(modules: dict[str, ModuleType], scene: Path, tmp_path: Path) -> None:
    write_filled(scene, tmp_path)
    found = modules["sar_scene"].score(scene, tmp_path)
    kept = np.load(scene / "truth.npz")
    gap = kept["stored"] == -32768
    assert found["gaps"] == np.count_nonzero(gap)
    assert found["observed, unchanged"] == np.count_nonzero(~gap)
    everything = found["classes"].pop("all")
    assert everything["sar"] == pytest.approx(0.02)
    assert everything["in ci90"] == pytest.approx(np.count_nonzero(gap[1::2]) / np.count_nonzero(gap), abs=0.01)
    assert sum(row["samples"] for row in found["classes"].values()) == everything["samples"] == found["scored"]
    # Slowly, one pixel after another.
    days, errors = kept["days"].astype(float), []
    for pixel in range(gap.shape[1]):
        clear = ~gap[:, pixel]
        guess = np.interp(days[~clear], days[clear], kept["stored"][clear, pixel])
        errors += list(np.abs(guess - kept["truth"][~clear, pixel]) * 1e-4)
    assert everything["linear"] == pytest.approx(np.mean(errors))


def test_a_changed_observation_is_not_let_pass(modules: dict[str, ModuleType], scene: Path, tmp_path: Path) -> None:
    write_filled(scene, tmp_path, change=1)
    with pytest.raises(SystemExit, match=r"1 of .* observed samples were changed"):
        modules["sar_scene"].score(scene, tmp_path)


def test_a_disk_that_is_too_small_is_said_before_anything_is_made(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = modules["sar_scene"]
    largest = modules["sar_scene_maker"].Recipe()
    options = argparse.Namespace(keep=False)
    monkeypatch.setattr(script.shutil, "disk_usage", lambda _: argparse.Namespace(free=30 * 2**30))
    monkeypatch.setattr(script, "planned_bytes", lambda *_: 10 * 2**30)
    script.check_disk(tmp_path, [largest], options)
    monkeypatch.setattr(script, "planned_bytes", lambda *_: 25 * 2**30)
    with pytest.raises(SystemExit, match=r"take about 10\.9 GiB .* need 25\.0 GiB, .* has 30\.0 GiB free"):
        script.check_disk(tmp_path, [largest], options)
    (tmp_path / largest.name).mkdir()
    script.check_disk(tmp_path, [largest], options)
    options.keep = True
    with pytest.raises(SystemExit, match=r"take about 0\.0 GiB .* need 50\.0 GiB"):
        script.check_disk(tmp_path, [largest, largest], options)


def test_bytes_of_processes_that_ended_count_once(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "write = 'import sys; open(sys.argv[1], \"wb\").write(bytes(9_000_000))'\n"
        "for n in range(2): subprocess.run([sys.executable, '-c', write, f'{sys.argv[1]}/{n}'], check=True)\n"
        "print('done', flush=True); time.sleep(30)\n"
    )
    watch = modules["sar_scene"].Watch()
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as run:
        try:
            assert run.stdout is not None
            while not watch.seconds:
                watch.look(run.pid)
                if (tmp_path / "1").exists():
                    run.stdout.readline()
                    watch.look(run.pid)
                    watch.seconds = 1.0
                time.sleep(0.01)
        finally:
            run.kill()
    assert 18_000_000 <= watch.moved["written"] < 18_100_000
    assert watch.peaks["driver peak"] >= watch.peaks["driver sampled"] > 2**20
