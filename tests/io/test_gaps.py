"""Gap statistics of cubes on disk and of xarray objects: real data against a slow loop, and laws of the way there."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rio_cogeo.cogeo import cog_validate

import stpipe
from stpipe.core.gap_statistics import GapOptions, gap_calendar
from stpipe.core.ports import VariableInfo
from stpipe.errors import CubeError, OptionError, OutputError, PlanError, RunError
from stpipe.execution.stages import StageResult
from stpipe.io.frames import RasterGrid
from stpipe.io.gaps import plan as planning
from stpipe.io.gaps import run as running
from stpipe.io.gaps.plan import plan_gaps
from stpipe.io.gaps.request import GapsRequest, prepare
from stpipe.io.gaps.run import run_gaps
from tests.gap_oracle import slow_statistics

SHAPE = (17, 90, 150)


def no_picture(path: Path, summary: Any, raster: Path) -> None:
    assert summary["variable"] in raster.name
    path.write_bytes(b"a picture")


def gaps_of(cube: Path, out: Path, **request: Any) -> dict[str, Any]:
    report: dict[str, Any] = run_gaps(prepare(GapsRequest(cube=cube, output=out, **request)), draw=no_picture)
    return report


def bands_of(path: Path) -> dict[str, NDArray[np.float32]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        dataset = rasterio.open(path)
    with dataset:
        return dict(zip(dataset.descriptions, dataset.read(), strict=True))


def made_up(*, descending: bool = True) -> xr.Dataset:
    """A cube with clouds, same-day frames at irregular times, and a lake."""
    rng = np.random.default_rng(8)
    frames, height, width = SHAPE
    steps = rng.choice([7_000, 86_400, 400_000, 3_000_000], frames)
    times = np.datetime64("2022-11-03T10:20:30", "ns") + np.cumsum(steps) * np.timedelta64(1, "s")
    values = rng.integers(0, 10_000, SHAPE).astype(np.float64) / 1e4
    values[rng.random(SHAPE) < rng.uniform(0.1, 0.9, (frames, 1, 1))] = np.nan
    y = 5e6 - 10.0 * np.arange(height)
    dataset = xr.Dataset(
        {
            "ndvi": (("time", "y", "x"), values if descending else values[:, ::-1], {"grid_mapping": "spatial_ref"}),
            "land": (("y", "x"), np.ones((height, width), np.uint8)),
        },
        {"time": times, "y": y if descending else y[::-1], "x": 5e5 + 10.0 * np.arange(width)},
    )
    dataset.land[20:30, 40:60] = 0
    dataset = dataset.assign_coords(spatial_ref=0)
    dataset.spatial_ref.attrs["crs_wkt"] = rasterio.crs.CRS.from_epsg(32633).to_wkt()
    return dataset


def stored(path: Path, dataset: xr.Dataset, chunks: tuple[int, int, int]) -> Path:
    packed = {"dtype": "int16", "scale_factor": 1e-4, "_FillValue": -9999, "chunks": chunks}
    dataset.to_zarr(path, encoding={"ndvi": packed}, zarr_format=3, consolidated=False)
    return path


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("gaps") / "cube.zarr", made_up(), (5, 32, 32))


@pytest.fixture
def small_footprints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a small scene have many footprints, and levels that none completes."""
    monkeypatch.setattr(planning, "SHAPES", ((16, 1),))


def hold_to_the_loop(
    found: dict[str, NDArray[np.float32]],
    clear: NDArray[np.bool_],
    times: NDArray[np.datetime64],
    options: GapOptions,
    pixels: int = 25,
) -> None:
    """Compare random pixels with the slow loop, to the day."""
    rng = np.random.default_rng(0)
    for _ in range(pixels):
        y, x = (int(rng.integers(n)) for n in clear.shape[1:])
        groups = slow_statistics(clear[:, y, x], times, options.boundaries, options.by, options.percentiles)
        for key, expected in groups.items():
            prefix = "" if options.by == "none" else f"{key}_"
            for name, value in expected.items():
                assert found[prefix + name][y, x] == pytest.approx(value, rel=2e-6, abs=1e-5, nan_ok=True), name


# --- the way there has no say ----------------------------------------------------------------


@pytest.mark.usefixtures("small_footprints")
@pytest.mark.parametrize(
    ("chunks", "descending", "gather"),
    [
        ((5, 32, 32), True, False),
        ((1, 90, 150), True, True),
        ((4, 31, 13), True, True),
        ((17, 10, 16), False, False),
        ((1, 90, 150), False, True),
    ],
    ids=["footprints of chunks", "whole planes", "odd chunks", "south up", "planes, south up"],
)
def test_neither_footprints_nor_chunks_nor_rows_have_a_say(
    tmp_path: Path, chunks: tuple[int, int, int], descending: bool, gather: bool
) -> None:
    dataset = made_up(descending=descending)
    path = stored(tmp_path / "cube.zarr", dataset, chunks)
    options = GapOptions(percentiles=(10, 90))
    prepared = prepare(GapsRequest(cube=path, options=options, domain="land", zarr=True))
    (plan,) = prepared.plans
    assert plan.side == 32
    assert plan.gather is gather
    run_gaps(prepared, draw=no_picture)
    found = bands_of(tmp_path / "cube.gaps" / "ndvi_gaps.tif")
    clear = np.isfinite(dataset.ndvi.values)[:, :: 1 if descending else -1]
    options_of_loop = GapOptions(percentiles=(10, 90))
    land = np.isfinite(found["clear_count"])
    assert land.sum() == land.size - 200
    assert not land[20:30, 40:60].any() or not descending
    inside = {name: np.where(land, values, np.nan) for name, values in found.items()}
    clear_inside = clear & land
    times = dataset.time.values
    rng = np.random.default_rng(1)
    for _ in range(20):
        y, x = int(rng.integers(90)), int(rng.integers(150))
        if land[y, x]:
            hold_to_the_loop(
                {name: values[y : y + 1, x : x + 1] for name, values in inside.items()},
                clear_inside[:, y : y + 1, x : x + 1],
                times,
                options_of_loop,
                pixels=1,
            )
    eager = stpipe.gap_statistics(dataset.drop_vars("land"), percentiles=(10, 90), domain=dataset.land)
    lazy = stpipe.gap_statistics(dataset.chunk(x=40, time=3), variables=["ndvi"], percentiles=(10, 90), domain="land")
    assert lazy.ndvi_gap_mean.chunks is not None
    lazy = lazy.compute()
    with xr.open_zarr(tmp_path / "cube.gaps" / "gaps.zarr") as store:
        for name, values in found.items():
            mine, other = eager[f"ndvi_{name}"], lazy[f"ndvi_{name}"]
            assert mine.identical(other)
            if not descending:
                mine = mine.isel(y=slice(None, None, -1))
            kept = store[f"ndvi_{name}"]
            assert np.array_equal(mine.values, kept.values, equal_nan=True)
            assert np.array_equal(mine.y.values, kept.y.values)
            numbers = kept.values
            if kept.dtype.kind == "M":
                assert name in {"longest_start", "longest_end"}
                assert kept.encoding["dtype"] == np.int32  # see NO_DAY
                numbers = np.where(np.isnat(numbers), np.nan, numbers.astype("M8[D]").astype(np.float64))
            assert np.array_equal(numbers.astype(np.float32), values, equal_nan=True)


@pytest.mark.usefixtures("small_footprints")
def test_overviews_hold_every_second_pixel(cube: Path, tmp_path: Path) -> None:
    gaps_of(cube, tmp_path / "out")
    path = tmp_path / "out" / "ndvi_gaps.tif"
    assert cog_validate(str(path), quiet=True)[0]
    with rasterio.open(path) as dataset:
        whole, factors = dataset.read(), dataset.overviews(1)
    assert len(factors) == 4  # GDAL works out 15 for the last, from 10 columns of 150
    for number, factor in enumerate([2, 4, 8, 16]):
        with rasterio.open(path, overview_level=number) as dataset:
            assert np.array_equal(dataset.read(), whole[:, ::factor, ::factor], equal_nan=True)


def test_a_cut_counts_as_the_cube_cut_by_hand(cube: Path, tmp_path: Path) -> None:
    dataset = made_up()
    first, last = dataset.time.values[[3, 12]].astype("M8[D]")
    box = [[500305, 4999695], [500905, 4999695], [500905, 4999405], [500305, 4999405], [500305, 4999695]]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    document = {"type": "Polygon", "coordinates": [box], "crs": crs}
    (tmp_path / "aoi.geojson").write_text(json.dumps(document))
    gaps_of(cube, tmp_path / "out", time=(str(first), str(last)), aoi=tmp_path / "aoi.geojson", valid_range=(0.1, 0.8))
    found = bands_of(tmp_path / "out" / "ndvi_gaps.tif")
    with rasterio.open(tmp_path / "out" / "ndvi_gaps.tif") as raster:
        left, top = raster.xy(0, 0)
    start = int((left - 5e5) / 10), int((5e6 - top) / 10)
    rows, columns = found["gap_mean"].shape
    dataset = dataset.sel(time=slice(str(first), str(last)))
    dataset = dataset.isel(y=slice(start[1], start[1] + rows), x=slice(start[0], start[0] + columns))
    values = dataset.ndvi.values
    clear = (values >= 0.1) & (values <= 0.8)
    inside = np.isfinite(found["clear_count"])
    assert inside.mean() > 0.9
    y, x = (int(at[len(at) // 2]) for at in np.nonzero(inside))
    hold_to_the_loop(
        {k: v[y : y + 9, x - 9 : x] for k, v in found.items()},
        clear[:, y : y + 9, x - 9 : x],
        dataset.time.values,
        GapOptions(),
    )


def test_a_cut_of_whole_planes_that_are_always_clear_is_clear_everywhere(tmp_path: Path) -> None:
    """Pieces of it meet within the cut, at a column that is no multiple of 8 from either of its sides."""
    times = np.datetime64("2023-01-01", "ns") + np.arange(3) * np.timedelta64(5, "D")
    dims = ("time", "y", "x")
    dataset = xr.Dataset(
        {"ndvi": (dims, np.ones((3, 400, 400), np.float32), {"grid_mapping": "spatial_ref"})},
        {"time": times, "y": 5e6 - 10.0 * np.arange(400), "x": 5e5 + 10.0 * np.arange(400)},
    ).assign_coords(spatial_ref=0)
    dataset.spatial_ref.attrs["crs_wkt"] = rasterio.crs.CRS.from_epsg(32633).to_wkt()
    path = stored(tmp_path / "cube.zarr", dataset, (1, 400, 400))
    left, right, top, bottom = 5e5 + 500, 5e5 + 3490, 5e6 - 500, 5e6 - 3490
    box = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    (tmp_path / "aoi.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [box], "crs": crs}))
    prepared = prepare(GapsRequest(cube=path, output=tmp_path / "out", aoi=tmp_path / "aoi.geojson"))
    (plan,) = prepared.plans
    assert (prepared.cube.offset, prepared.cube.extent) == ((0, 50, 50), (3, 300, 300))
    assert plan.gather
    run_gaps(prepared, draw=no_picture)
    count = bands_of(tmp_path / "out" / "ndvi_gaps.tif")["clear_count"]
    assert (count[np.isfinite(count)] == 3).all()


# --- real data ----------------------------------------------------------------


def test_ndvi_under_cloud_in_memory(data_folder: Path) -> None:
    """Values are there under cloud too: only the cloud layer says what is clear."""
    folder = data_folder / "eolearn_testeopatch_s2"
    ndvi, clouds = (np.load(folder / f"{name}.npy").squeeze() for name in ("NDVI", "CLM"))
    times = np.array([text.rstrip("Z") for text in json.loads((folder / "timestamps.json").read_text())], "M8[ns]")
    dims = ("time", "y", "x")
    dataset = xr.Dataset(
        {"ndvi": (dims, ndvi.astype(np.float32)), "clm": (dims, clouds.astype(np.uint8))}, {"time": times}
    )
    clear = np.isfinite(ndvi) & (clouds == 0)
    lazy = stpipe.gap_statistics(dataset.chunk(time=1), drop="clm:1", boundaries="include").compute()
    names = [statistic.name for statistic in GapOptions().statistics if not statistic.name.startswith("longest")]
    expected = slow_statistics(clear[:, 50, 50], times, "include", "none", ())["all"]
    assert {name: lazy[f"ndvi_{name}"].values[50, 50] for name in names} == pytest.approx(
        {name: expected[name] for name in names}, rel=2e-6
    )


# --- what is left behind ----------------------------------------------------------------


def test_the_report_adds_up(cube: Path, tmp_path: Path) -> None:
    report = gaps_of(cube, tmp_path / "out", options=GapOptions(by="season"), domain="land")
    assert json.loads((tmp_path / "out" / "gaps.json").read_text())["variables"] == report["variables"]
    found = bands_of(tmp_path / "out" / "ndvi_gaps.tif")
    summary = report["variables"]["ndvi"]
    assert [row["band"] for row in summary["rows"]] == list(found)
    assert {row["group"] for row in summary["rows"]} >= {"DJF", "MAM"}
    assert summary["pixels"] == SHAPE[1] * SHAPE[2] - 200
    for row in summary["rows"]:
        values = found[row["band"]]
        values = values[np.isfinite(values)]
        assert row["pixels"] == values.size
        if row["units"].startswith("days since"):
            assert row["max"] is None or row["max"] == str(np.datetime64(int(values.max()), "D"))
        elif values.size:
            assert (row["min"], row["max"]) == (values.min(), values.max())
            assert row["mean"] == pytest.approx(values.mean(dtype=np.float64))
            assert row["p75"] == pytest.approx(np.percentile(values, 75))


def test_a_failure_leaves_nothing_half_done(cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def fails(*_: Any) -> None:
        raise RunError("no picture today")

    with pytest.raises(RunError, match="no picture today"):
        run_gaps(prepare(GapsRequest(cube=cube, output=out)), draw=fails)
    assert not out.exists()
    gaps_of(cube, out, zarr=True)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert sorted(before) == ["gaps.json", "gaps.zarr", "ndvi_gaps.png", "ndvi_gaps.tif"]
    with pytest.raises(RunError, match="no picture today"):
        run_gaps(prepare(GapsRequest(cube=cube, output=out, overwrite=True)), draw=fails)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(OutputError, match="holds finished gap statistics; choose another folder with -o, or replace"):
        prepare(GapsRequest(cube=cube, output=out))
    gaps_of(cube, out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["gaps.json", "ndvi_gaps.png", "ndvi_gaps.tif"]


def test_what_is_not_ours_is_never_touched(cube: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ndvi_gaps.tif").write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"holds something else \(ndvi_gaps.tif\); choose an empty or new one"):
            prepare(GapsRequest(cube=cube, output=tmp_path / "out", overwrite=overwrite))
    (tmp_path / "other" / "work").mkdir(parents=True)
    (tmp_path / "other" / "work" / "thesis.txt").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"holds something else \(work\)"):
        prepare(GapsRequest(cube=cube, output=tmp_path / "other", overwrite=True))
    with pytest.raises(CubeError, match="lies inside the cube"):
        prepare(GapsRequest(cube=cube, output=cube / "gaps"))


def test_a_run_that_was_killed_is_begun_anew(cube: Path, tmp_path: Path) -> None:
    prepared = prepare(GapsRequest(cube=cube, output=tmp_path / "out"))
    with prepared.folder.locked():
        prepared.folder.begin(prepared.products)
        (prepared.folder.work / "parts-ndvi").mkdir()
        (prepared.folder.path / "ndvi_gaps.tif").write_bytes(b"published, and then killed")
        with pytest.raises(OutputError, match="another process is writing into"):
            run_gaps(prepare(GapsRequest(cube=cube, output=tmp_path / "out")), draw=no_picture)
    prepared = prepare(GapsRequest(cube=cube, output=tmp_path / "out"))
    run_gaps(prepared, draw=no_picture)
    assert "gap_mean" in bands_of(tmp_path / "out" / "ndvi_gaps.tif")


# --- plans ----------------------------------------------------------------


def plan_of(
    chunks: tuple[int, int, int],
    frames: int,
    side: int,
    memory: int = 2**32,
    offset: tuple[int, int, int] = (0, 0, 0),
    **options: Any,
) -> Any:
    days = np.datetime64("2000-01-01", "ns") + np.arange(frames) * np.timedelta64(1, "D")
    wanted = GapOptions(**options)
    return plan_gaps(
        grid=RasterGrid.place(height=side, width=side, crs_wkt=None, transform=None, y=None, x=None),
        info=VariableInfo(name="v", dtype="int16", chunks=chunks),
        offset=offset,
        calendar=gap_calendar(days, by=wanted.by),
        options=wanted,
        memory_limit=memory,
    )


def test_memory_depends_on_dates_and_chunks_alone() -> None:
    small, large = plan_of((73, 256, 256), 73, 2_500), plan_of((73, 256, 256), 73, 100_000)
    assert small.peak_bytes == large.peak_bytes
    assert not large.gather
    planes = plan_of((1, 5_000, 5_000), 73, 5_000)
    assert planes.gather
    assert np.prod([len(cuts) for cuts in planes.gather_cuts()]) == 73  # each plane is decoded once
    many = plan_of((73, 256, 256), 5_000, 4_000, by="month")
    assert many.peak_bytes < 2**30
    assert many.side < large.side


@given(
    chunks=st.tuples(st.integers(1, 9), st.integers(1, 500), st.integers(1, 500)),
    frames=st.integers(2, 20),
    side=st.integers(257, 600),
    offset=st.tuples(st.integers(0, 12), st.integers(0, 600), st.integers(0, 600)),
    read=st.sampled_from([2**10, 2**18, 2**24]),
)
def test_gathered_pieces_share_no_byte_and_cut_no_chunk(
    chunks: tuple[int, int, int], frames: int, side: int, offset: tuple[int, int, int], read: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "AGAIN", 0)  # gather in any case
        patch.setattr(planning, "READ_BYTES", read)
        plan = plan_of(chunks, frames, side, offset=offset)
    assert plan.gather
    for cuts, chunk, before, length in zip(plan.gather_cuts(), chunks, offset, (frames, side, side), strict=True):
        assert [cuts[0][0], cuts[-1][1]] == [0, length]
        assert all(left[1] == right[0] and (left[1] + before) % chunk == 0 for left, right in pairwise(cuts))
    shift = plan.bits("").shift
    assert all((stop + shift) % 8 == 0 for _, stop in plan.gather_cuts()[2][:-1])


@given(
    chunks=st.tuples(st.integers(1, 40), st.integers(1, 300), st.integers(1, 300)),
    frames=st.integers(2, 40),
    side=st.integers(129, 600),
    offset=st.tuples(st.integers(0, 12), st.integers(0, 600), st.integers(0, 600)),
    again=st.sampled_from([0.0, 1.3, 1e9]),
    read=st.sampled_from([2**12, 2**18, 2**24]),
)
def test_columns_make_up_a_footprint_and_cut_no_chunk_in_two(
    chunks: tuple[int, int, int],
    frames: int,
    side: int,
    offset: tuple[int, int, int],
    again: float,
    read: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "AGAIN", again)
        patch.setattr(planning, "READ_BYTES", read)
        plan = plan_of(chunks, frames, side, offset=offset)
        footprint = plan.window(0)
        columns = plan.columns(footprint)
    times = np.zeros(footprint.shape[1:], dtype=int)
    for column in columns:
        assert (column.start[0], column.stop[0]) == (0, frames)
        times[column.within(footprint).slices[1:]] += 1
        edges = zip(column.start[1:], footprint.start[1:], offset[1:], chunks[1:], strict=True)
        assert plan.gather or all(at == first or (at + before) % chunk == 0 for at, first, before, chunk in edges)
        most = max(read, frames * plan.side) if plan.gather else frames * plan.steps[1] * plan.steps[2]
        assert np.prod(column.shape) <= most
    assert (times == 1).all()


def test_what_no_worker_can_hold_is_refused() -> None:
    with pytest.raises(PlanError, match=r"take 8\.5 GiB at least.* a worker may take 0\.5 GiB"):
        plan_of((1, 30_000, 30_000), 10, 30_000, memory=2**29)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_columns_read_one_by_one_are_read_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """Chunks of three columns that footprints cut into one and two."""
    dataset = made_up()
    packed: dict[str, Any] = {"dtype": dtype, "_FillValue": -9999, "chunks": (SHAPE[0], 90, 3)}
    packed |= {"scale_factor": 1e-4} if dtype == "int16" else {}
    path = tmp_path / "cube.zarr"
    dataset.to_zarr(path, encoding={"ndvi": packed}, zarr_format=3, consolidated=False)
    monkeypatch.setattr(planning, "SHAPES", ((16, 0),))
    monkeypatch.setattr(planning, "AGAIN", 100)  # straight from the cube in any case
    monkeypatch.setattr(planning, "READ_BYTES", 1)
    gaps_of(path, tmp_path / "out", variables=("ndvi",))
    clear = np.isfinite(dataset.ndvi.values)
    days = dataset.time.values.astype("M8[D]")
    by_day = np.stack([clear[days == day].any(axis=0) for day in np.unique(days)])
    found = bands_of(tmp_path / "out" / "ndvi_gaps.tif")
    assert np.array_equal(found["clear_count"], by_day.sum(axis=0))
    hold_to_the_loop(found, clear, dataset.time.values, GapOptions())


# --- xarray objects ----------------------------------------------------------------


def test_the_accessor_does_the_same() -> None:
    dataset = made_up()
    found = dataset.stpipe.gap_statistics(by="month", boundaries="include")
    assert found.identical(stpipe.gap_statistics(dataset, by="month", boundaries="include"))
    assert found.ndvi_gap_mean.dims == ("month", "y", "x")
    period = pd.date_range(*dataset.time.values[[0, -1]].astype("M8[D]"))
    assert found.month.values.tolist() == sorted(set(period.month))
    assert found.ndvi_gap_mean.attrs == {"long_name": "ndvi: mean of the gaps", "units": "day"}


def test_the_period_of_an_object_is_what_was_asked_for() -> None:
    dataset = made_up()
    first, last = dataset.time.values[[4, 9]].astype("M8[D]")
    found = stpipe.gap_statistics(dataset.ndvi, time=(str(first - 3), str(last + 5)), boundaries="include")
    inside = dataset.ndvi.sel(time=slice(str(first - 3), str(last + 5)))
    period = (first - 3, last + 5)
    expected = slow_statistics(np.isfinite(inside.values[:, 3, 4]), inside.time.values, "include", "none", (), period)[
        "all"
    ]
    for name in ("gap_count", "gap_mean", "gap_max", "period_without_data"):
        assert found[f"ndvi_{name}"].values[3, 4] == pytest.approx(expected[name], rel=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda cube: stpipe.gap_statistics(cube, variables=["evi"]), CubeError, "no variable 'evi'"),
        (lambda cube: stpipe.gap_statistics(cube, by="week"), OptionError, "by year, season or month, got by 'week'"),
        (lambda cube: stpipe.gap_statistics(cube, percentiles=[400]), OptionError, "from 0 to 100, got 400"),
        (lambda cube: stpipe.gap_statistics(cube, keep="SCL:4"), OptionError, "SCL"),
        (lambda cube: stpipe.gap_statistics(cube, domain="sea"), CubeError, "no variable 'sea' for the domain"),
        (lambda cube: stpipe.gap_statistics(cube, time=("2040", None)), CubeError, "no frame lies in"),
    ],
    ids=["variable", "by", "percentile", "rule", "domain", "period"],
)
def test_bad_calls_are_refused(call: Callable[[xr.Dataset], xr.Dataset], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(made_up())


def test_a_cluster_gives_the_same_bytes(cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps_of(cube, tmp_path / "here")
    monkeypatch.setattr(running, "HERE_SAMPLES", 0)
    seen: list[tuple[str, int, int]] = []
    clients: list[Client] = []
    told: list[str] = []

    @contextmanager
    def meet(client: Client) -> Iterator[None]:
        clients.append(client)
        yield
        told.append("over")

    def see(stage: str, result: StageResult, total: int) -> None:
        seen.append((stage, result.ended, total))

    prepared = prepare(GapsRequest(cube=cube, output=tmp_path / "there", workers=1))
    run_gaps(prepared, draw=no_picture, progress=see, on_client=meet, on_stage=told.append)
    # Workers go home before files are put together, and nobody watches any more who would report them as lost.
    assert told == ["start", "over", "write"]
    one, other = (tmp_path / name / "ndvi_gaps.tif" for name in ("here", "there"))
    assert one.read_bytes() == other.read_bytes()
    assert len(clients) == 1
    assert seen[0][1] == 0 < seen[0][2]
    assert seen[-1][1] == seen[-1][2] > 0
