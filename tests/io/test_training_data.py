"""What a training reads: the samples of xarray and rasterio, sides that never meet, and no more than was asked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from rasterio.transform import Affine

from stpipe.core.survey import location_and_spread
from stpipe.errors import CubeError, MissingFileError, OptionError
from stpipe.io.block_folders import write_bands
from stpipe.io.training_data import Family, Part, Source, gather, open_sources, split_sources
from stpipe.methods.curriculum import Scene

PROFILE = {"crs": None, "transform": Affine.identity()}


def make_cube(path: Path, shape: tuple[int, int, int] = (6, 40, 140), seed: int = 0) -> xr.Dataset:
    """Write a cube of two variables with gaps, one packed, and a domain; return it decoded."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0.4, 0.1, shape).round(3)
    values[rng.random(shape) < 0.3] = np.nan
    times = np.datetime64("2023-01-01", "ns") + np.arange(shape[0]) * np.timedelta64(5, "D")
    cube = xr.Dataset(
        {
            "ndvi": (("time", "y", "x"), values),
            "kelvin": (("time", "y", "x"), 300 + values),
            "land": (("y", "x"), (rng.random(shape[1:]) < 0.8).astype("uint8")),
        },
        {"time": times, "y": np.arange(shape[1])[::-1] + 0.5, "x": np.arange(shape[2]) + 0.5},
    )
    encoding = {"ndvi": {"dtype": "int16", "scale_factor": 1e-3, "_FillValue": -32768, "chunks": (3, 32, 32)}}
    cube.to_zarr(path, consolidated=False, encoding=encoding)
    return cube


def families_of(sources: list[Source], *, seed: int = 0, share: float = 0.25, **more: object) -> list[Family]:
    return split_sources(
        sources,
        share=share,
        learned_samples=10**7,
        held_out_samples=10**7,
        seed=seed,
        **more,  # type: ignore[arg-type]
    )


def physical_of(scene: Scene, values: NDArray[np.float64], valid: NDArray[np.bool_]) -> None:
    """Check that a scene is a window of a cube, in spreads about the window's median."""
    np.testing.assert_array_equal(scene.valid, valid)
    location, spread = location_and_spread(values[valid])
    np.testing.assert_allclose(scene.values[valid], (values[valid] - location) / spread, rtol=1e-5, atol=1e-5)
    assert not scene.values[~valid].any()
    assert scene.values.dtype == np.float32


def window_of(scene: Scene) -> tuple[slice, ...]:
    start = map(int, scene.name.rpartition(" at ")[2].split(","))
    return tuple(slice(first, first + length) for first, length in zip(start, scene.valid.shape, strict=True))


def test_parts_of_a_cube_are_those_of_xarray_on_sides_that_lie_apart(tmp_path: Path) -> None:
    cube = make_cube(tmp_path / "c.zarr")
    sources, notes = open_sources([tmp_path / "c.zarr"], domain="land")
    assert notes == []
    inside = cube["land"].values == 1
    columns: dict[str, set[int]] = {"learned": set(), "held_out": set()}
    for family in families_of(sources, valid_range=(0.2, 300.5)):
        values = cube[family.name.removeprefix("c:")].values
        good = np.isfinite(values) & inside & (values >= 0.2) & (values <= 300.5)
        for side, found in columns.items():
            for part in getattr(family, side):
                scene = part.read()
                window = window_of(scene)
                physical_of(scene, values[window], good[window])
                np.testing.assert_array_equal(scene.domain, inside[window[1:]])
                np.testing.assert_array_equal(scene.days, 5.0 * np.arange(6)[window[0]])
                assert scene.hidden is None
                assert part.samples == scene.valid.size
                found.update(range(window[2].start, window[2].stop))
    assert (min(columns["learned"]), max(columns["held_out"])) == (0, 139)
    assert min(columns["held_out"]) - max(columns["learned"]) == 33


def test_what_lies_far_out_is_cut_before_half_precision_loses_it(tmp_path: Path) -> None:
    cube = make_cube(tmp_path / "c.zarr")
    cube["ndvi"].encoding.clear()
    cube["ndvi"][2, 5, 7] = 1e20
    cube[["ndvi"]].to_zarr(tmp_path / "far.zarr", consolidated=False)
    (family,) = families_of(open_sources([tmp_path / "far.zarr"])[0])
    second, first = np.sort(np.concatenate([part.read().values.ravel() for part in family.learned]))[-2:]
    assert second < 10 < first == 1e4


def test_the_seed_decides_the_order_and_nothing_else(tmp_path: Path) -> None:
    make_cube(tmp_path / "c.zarr", (4, 230, 300))
    sources, _ = open_sources([tmp_path / "c.zarr"], variables=["ndvi"])
    one, same, other = ([part.read().name for part in families_of(sources, seed=seed)[0].learned] for seed in (0, 0, 1))
    assert one == same != other
    assert sorted(one) == sorted(other)
    assert len(one) >= 6


def counted(sizes: list[int], empty: set[int], log: list[int]) -> list[Part]:
    """Parts that note when they are read."""

    def reader(number: int, size: int) -> Part:
        def read() -> Scene:
            log.append(number)
            valid = np.full((1, 1, size), number not in empty)
            return Scene(name=str(number), values=valid.astype("f4"), valid=valid, days=np.zeros(1))

        return Part(samples=size, read=read)

    return [reader(number, size) for number, size in enumerate(sizes)]


def test_no_more_is_read_than_was_asked_for_and_what_is_empty_is_passed_over() -> None:
    log: list[int] = []
    told: list[int] = []
    scenes, empty = gather(counted([500] * 9, {0, 2}, log), 1600, step=told.append)
    assert [scene.name for scene in scenes] == ["1", "3", "4"]
    assert (empty, log, told) == (2, [0, 1, 2, 3, 4], [500, 500, 500])
    log.clear()
    scenes, _ = gather(counted([5000, 5000], set(), log), 10)
    assert (len(scenes), log) == (1, [0])
    log.clear()
    scenes, empty = gather(counted([500] * 99, set(range(99)), log), 1000)
    assert (scenes, empty, len(log)) == ([], 8, 8)


def write_block(folder: Path, name: str, truth: NDArray[np.float64], seed: int, *, scored: bool = True) -> None:
    """Write a block with gaps, some of them on purpose."""
    rng = np.random.default_rng(seed)
    observed, hidden = rng.random(truth.shape) < 0.7, rng.random(truth.shape) < 0.2
    hidden &= observed
    dates = [f"2023-01-{day:02d}" for day in range(1, 2 * len(truth), 2)]
    files = {
        "X": np.where(observed & ~hidden, truth, -9999).astype("f4"),
        "MASK": (observed & ~hidden).astype("u1"),
    }
    if scored:
        files |= {"Y": np.where(observed, truth, -9999).astype("f4"), "VALMASK": hidden.astype("u1")}
    for kind, values in files.items():
        nodata = -9999.0 if kind in "XY" else None
        write_bands(folder / f"{kind}_{name}.tif", values, profile=PROFILE, nodata=nodata, descriptions=dates)


def test_blocks_know_what_was_hidden_and_their_dates(tmp_path: Path) -> None:
    folder = tmp_path / "blocks.v1"
    folder.mkdir()
    truths = {f"co_{t}_0_{x}": np.random.default_rng(t).normal(3, 2, (4, 24, 20)) for t in range(6) for x in range(2)}
    for number, (name, truth) in enumerate(truths.items()):
        write_block(folder, name, truth, number, scored=name != "co_0_0_0")
    (source,), _ = open_sources([folder])
    assert source.families == ("blocks.v1:co",)
    (family,) = families_of([source])
    assert family.split == (
        "split by number 1 of their names: 8 blocks learned from, 2 held out, 2 between them left out"
    )
    assert {part.read().name for part in family.held_out} == {f"blocks.v1:co co_5_0_{x}" for x in range(2)}
    seen = {scene.name.split()[-1]: scene for scene in (part.read() for part in family.learned)}
    assert set(seen) == {f"co_{t}_0_{x}" for t in range(4) for x in range(2)}
    rng = np.random.default_rng(1)
    observed, hidden = rng.random((4, 24, 20)) < 0.7, rng.random((4, 24, 20)) < 0.2
    scene = seen["co_0_0_1"]
    physical_of(scene, truths["co_0_0_1"].astype("f4").astype("f8"), observed)
    np.testing.assert_array_equal(scene.hidden, hidden & observed)
    np.testing.assert_array_equal(scene.days, [0, 2, 4, 6])
    assert seen["co_0_0_0"].hidden is None


def test_variables_of_a_folder_are_families_and_are_held_out_at_the_same_times(tmp_path: Path) -> None:
    for number, name in enumerate(f"{variable}_{t}_0_0" for variable in ("a", "b") for t in range(4)):
        write_block(tmp_path, name, np.random.default_rng(number).normal(size=(2, 16, 16)), number)
    (source,), _ = open_sources([tmp_path])
    held_out = {
        family.name.rpartition(":")[2]: [part.read().name.split()[-1] for part in family.held_out]
        for family in families_of([source])
    }
    assert held_out == {"a": ["a_3_0_0"], "b": ["b_3_0_0"]}


def test_sources_of_one_name_are_told_apart_and_changes_are_noticed(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        make_cube(tmp_path / place / "c.zarr", (8, 12, 12))
    paths = [tmp_path / place / "c.zarr" for place in ("one", "two")]
    sources, _ = open_sources(paths, variables=["ndvi"])
    assert [source.families for source in sources] == [("c:ndvi",), ("c-2:ndvi",)]
    assert open_sources(paths, variables=["ndvi"])[0][0].identity == sources[0].identity
    assert open_sources(paths[:1], time=("2023-01-02", None))[0][0].identity != sources[0].identity
    chunk = next(path for path in (paths[0] / "ndvi").rglob("*") if path.is_file() and path.name != "zarr.json")
    os.utime(chunk, ns=(1, 1))
    assert open_sources(paths, variables=["ndvi"])[0][0].identity != sources[0].identity


def test_what_is_no_source_is_refused_in_words(tmp_path: Path) -> None:
    make_cube(tmp_path / "c.zarr", (4, 8, 8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "blocks").mkdir()
    write_block(tmp_path / "blocks", "a", np.ones((2, 8, 8)), 0)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(MissingFileError, match=r"there is no file or folder .*nothing.zarr; beside it: c.zarr"):
        open_sources([tmp_path / "nothing.zarr"])
    with pytest.raises(CubeError, match=r"is not a Zarr group.*; nor is it a folder of blocks, which holds X_NAME.tif"):
        open_sources([tmp_path / "empty"])
    with pytest.raises(CubeError, match="neither a Zarr group nor a NetCDF file"):
        open_sources([tmp_path / "notes.txt"])
    with pytest.raises(CubeError, match="ndvi"):
        open_sources([tmp_path / "c.zarr"], variables=["ndiv"])
    with pytest.raises(OptionError, match=r"c.zarr is named twice; --family-weight makes a source count more"):
        open_sources([tmp_path / "c.zarr", tmp_path / "empty" / ".." / "c.zarr"])
    for option, more in (
        ("--var", {"variables": ["a"]}),
        ("--domain", {"domain": "a"}),
        ("--time", {"time": ("2020", None)}),
    ):
        with pytest.raises(OptionError, match=f"{option} goes with cubes, but .*blocks hold blocks"):
            open_sources([tmp_path / "blocks"], **more)  # type: ignore[arg-type]
    with pytest.raises(CubeError, match=r"nothing of c can be held out: by region .* by period 8 frames"):
        families_of(open_sources([tmp_path / "c.zarr"])[0])
    with pytest.raises(CubeError, match="blocks holds one block"):
        families_of(open_sources([tmp_path / "blocks"])[0])
