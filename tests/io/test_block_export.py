"""Blocks cut from a cube: every sample where the cube has it, gaps of the cube's own, and nothing half written."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpipe.core.gaps import draw_gaps
from stpipe.core.windows import Window
from stpipe.errors import CubeError, OptionError, OutputError, PlanError, RunError
from stpipe.io import block_export
from stpipe.io.block_export import KINDS, Exported, ExportSpec, choose_blocks, export_blocks, hide_in_blocks
from stpipe.io.cube import open_source
from stpipe.io.reader import StoredReader

Array = NDArray[Any]
EXTENT = (9, 20, 26)
STARTS = ((0, 4, 5), (0, 8, 12), (0, 8, 16, 18))
"""Of blocks of 4 x 8 x 8 in `EXTENT`, by hand."""
SIZE = (4, 8, 8)


def make_cube(path: Path, *, seed: int = 0, south_up: bool = False, clear: float = 0.6) -> xr.Dataset:
    """Write a cube of packed integers with negative values, a twin, a land variable and a CRS; return it decoded."""
    rng = np.random.default_rng(seed)
    stored = rng.integers(-3000, 9000, (2, *EXTENT)).astype(np.int16)
    stored[:, rng.random(EXTENT) > clear] = -9999
    stored[:, 3], stored[:, :, :, :2] = -9999, -9999
    rows = 10.0 * np.arange(EXTENT[1])
    packing = {"scale_factor": 1e-4, "add_offset": 0.01, "_FillValue": np.int16(-9999), "grid_mapping": "spatial_ref"}
    data = xr.Dataset(
        {
            "ndvi": (("time", "y", "x"), stored[0], packing),
            "evi": (("time", "y", "x"), stored[1], packing),
            "land": (("y", "x"), (np.arange(26) > 8).astype(np.uint8) * np.ones((20, 1), dtype=np.uint8)),
        },
        coords={
            "time": np.datetime64("2020-01-01T10:30", "ns") + np.arange(EXTENT[0]) * np.timedelta64(5, "D"),
            "y": 4000.0 + rows if south_up else 5000.0 - rows,
            "x": 300.0 + 10 * np.arange(EXTENT[2]),
            "spatial_ref": ((), 0, {"crs_wkt": rasterio.crs.CRS.from_epsg(32633).to_wkt()}),
        },
    )
    data.to_netcdf(path, engine="h5netcdf")
    return xr.decode_cf(data)


def export(cube: Path, folder: Path, *, names: Sequence[str] = ("ndvi",), **options: Any) -> list[Exported]:
    of_cube = {key: options.pop(key) for key in ("domain", "time") if key in options}
    source = open_source(cube, variables=names, **of_cube)
    spec = ExportSpec(**{"size": SIZE, "least_valid": 0.0, **options})
    return export_blocks(source, choose_blocks(source, spec), spec, folder)


def read(folder: Path, name: str) -> dict[str, Array]:
    blocks: dict[str, Array] = {}
    for kind in KINDS:
        with rasterio.open(folder / f"{kind}_{name}.tif") as source:
            blocks[kind] = source.read()
    return blocks


def window(name: str) -> tuple[slice, slice, slice]:
    index = map(int, name.split("_")[-3:])
    t, y, x = (slice(a[i], a[i] + n) for a, i, n in zip(STARTS, index, SIZE, strict=True))
    return t, y, x


def names_in(folder: Path) -> list[str]:
    return sorted(path.stem.removeprefix("X_") for path in folder.glob("X_*.tif"))


@pytest.mark.parametrize("south_up", [False, True], ids=["north up", "south up"])
def test_every_sample_is_where_the_cube_has_it(tmp_path: Path, south_up: bool) -> None:
    """Second opinions: xarray decodes the cube, rasterio says where pixels lie and what is nodata."""
    truth = make_cube(tmp_path / "cube.nc", south_up=south_up)
    export(tmp_path / "cube.nc", tmp_path / "out")
    covered = np.zeros(EXTENT, dtype=bool)
    for name in names_in(tmp_path / "out"):
        cut = dict(zip(("time", "y", "x"), window(name), strict=True))
        expected = truth["ndvi"].isel(cut)
        covered[window(name)] = True
        files = read(tmp_path / "out", name)
        valid = np.isfinite(expected.values)
        assert [files[kind].dtype.name for kind in KINDS] == ["float32", "uint8", "uint8", "float32"]
        np.testing.assert_allclose(files["Y"][valid], expected.values[valid], rtol=1e-6)
        seen, hidden = files["MASK"] == 1, files["VALMASK"] == 1
        assert set(np.unique([files["MASK"], files["VALMASK"]])) <= {0, 1}
        assert not (seen & hidden).any()
        np.testing.assert_array_equal(seen | hidden, valid)
        np.testing.assert_array_equal(np.where(hidden, files["Y"], files["X"]), files["Y"])
        for kind, where in (("Y", valid), ("X", seen)):
            with rasterio.open(tmp_path / f"out/{kind}_{name}.tif") as raster:
                assert raster.nodata == np.float32(-3.4e38)
                np.testing.assert_array_equal(~np.ma.getmaskarray(raster.read(masked=True)), where)
                assert raster.crs.to_epsg() == 32633
                at = raster.xy(np.repeat(np.arange(8), 8), np.tile(np.arange(8), 8))
                np.testing.assert_allclose(at[0], np.tile(expected.x, 8))
                np.testing.assert_allclose(at[1], np.repeat(expected.y, 8))
                stamps = [np.datetime64(text) for text in raster.descriptions]
                np.testing.assert_array_equal(stamps, expected.time.values.astype("M8[s]"))
    np.testing.assert_array_equal(covered.any(axis=0), np.ones(EXTENT[1:], dtype=bool))


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**16),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
    share=st.sampled_from([(0.05, 0.25), (0.2, 0.3), (0.0, 0.1)]),
)
def test_a_span_takes_the_first_draw_that_fits_it(seed: int, cuts: list[int], share: tuple[float, float]) -> None:
    rng = np.random.default_rng(seed)
    valid = rng.random((10, 7, 9)) < rng.uniform(0.2, 1)
    edges = [0, *sorted(cuts), 10]
    spans = [slice(a, b) for a, b in pairwise(edges)]

    def draws(number: int) -> np.random.Generator:
        return np.random.default_rng([seed, number])

    hidden, astray = hide_in_blocks(valid, spans, draws, share=share)
    far = []
    for span, part in zip(spans, hidden, strict=True):
        assert not (part & ~valid[span]).any()
        parts = [draw_gaps(valid, draws(number), share=share)[span] for number in range(1, 21)]
        shares = np.array([p.sum() / max(1, valid[span].sum()) for p in parts])
        misses = np.maximum(0, np.maximum(share[0] - shares, shares - share[1]))
        np.testing.assert_array_equal(part, parts[int(np.argmin(misses))])
        far.append(misses.min() > 0)
    assert astray == sum(far)


def test_a_clear_block_borrows_gaps_of_other_dates(tmp_path: Path) -> None:
    """The first four frames have no gap; the others lack their western half."""
    values = np.ones((12, 16, 16), dtype=np.float32)
    values[4:, :, :8] = np.nan
    times = np.datetime64("2020-01-01", "ns") + np.arange(12) * np.timedelta64(1, "D")
    xr.Dataset({"v": (("time", "y", "x"), values)}, coords={"time": times}).to_netcdf(tmp_path / "c.nc")
    seen = 0
    for seed in range(4):
        folder = tmp_path / str(seed)
        export(tmp_path / "c.nc", folder, names=["v"], size=(4, 16, 16), seed=seed)
        hidden = read(folder, "v_0_0_0")["VALMASK"]
        seen += sum(bool(frame[:, :8].all() and not frame[:, 8:].any()) for frame in hidden)
    assert seen >= 2


def test_variables_observed_together_are_hidden_together(tmp_path: Path) -> None:
    make_cube(tmp_path / "cube.nc")
    exported = export(tmp_path / "cube.nc", tmp_path / "out", names=["ndvi", "evi"])
    assert [part.variable for part in exported] == ["ndvi", "evi"]
    assert exported[0].blocks == exported[1].blocks == 36
    for name in names_in(tmp_path / "out"):
        one, other = (read(tmp_path / "out", f"{variable}_{name[-5:]}") for variable in ("ndvi", "evi"))
        np.testing.assert_array_equal(one["VALMASK"], other["VALMASK"])
        assert (one["Y"] != other["Y"]).any()


def test_only_valid_samples_of_the_domain_the_range_and_the_period_count(tmp_path: Path) -> None:
    truth = make_cube(tmp_path / "cube.nc")["ndvi"]
    export(
        tmp_path / "cube.nc",
        tmp_path / "out",
        size=(4, 20, 26),
        domain="land",
        time=("2020-01-06", None),
        valid_range=(-0.1, 0.7),
    )
    inside = ((truth >= -0.1) & (truth <= 0.7)).values[1:]
    inside[:, :, :9] = False
    for number, start in enumerate((0, 4)):
        files = read(tmp_path / "out", f"ndvi_{number}_0_0")
        np.testing.assert_array_equal((files["MASK"] | files["VALMASK"]) == 1, inside[start : start + 4])


@pytest.mark.parametrize("least", [0.0, 0.45, 0.5])
def test_blocks_with_too_little_are_left_out(tmp_path: Path, least: float) -> None:
    valid = np.isfinite(make_cube(tmp_path / "cube.nc")["ndvi"].values)
    enough = [
        f"ndvi_{t}_{y}_{x}"
        for t, a in enumerate(STARTS[0])
        for y, b in enumerate(STARTS[1])
        for x, c in enumerate(STARTS[2])
        if valid[a : a + 4, b : b + 8, c : c + 8].mean() >= least
    ]
    source = open_source(tmp_path / "cube.nc", variables=["ndvi"])
    spec = ExportSpec(size=SIZE, least_valid=least)
    (chosen,) = choose_blocks(source, spec)
    assert chosen.left_out == 36 - len(enough)
    export_blocks(source, [chosen], spec, tmp_path / "out")
    assert names_in(tmp_path / "out") == enough
    assert 0 < len(enough) <= 36


def test_a_choice_of_blocks_is_a_part_of_the_whole_export(tmp_path: Path) -> None:
    make_cube(tmp_path / "cube.nc")
    export(tmp_path / "cube.nc", tmp_path / "all")
    for folder, seed in (("few", 0), ("again", 0), ("other", 1)):
        (part,) = export(tmp_path / "cube.nc", tmp_path / folder, most=5, seed=seed)
        assert part.blocks == 5
    assert names_in(tmp_path / "few") == names_in(tmp_path / "again") != names_in(tmp_path / "other")
    for path in sorted((tmp_path / "few").iterdir()):
        assert path.read_bytes() == (tmp_path / "all" / path.name).read_bytes()


def test_overlapping_blocks_lie_where_they_should(tmp_path: Path) -> None:
    truth = make_cube(tmp_path / "cube.nc")["ndvi"].values
    export(tmp_path / "cube.nc", tmp_path / "out", size=(9, 8, 26), overlap=(0, 4, 0))
    assert len(names_in(tmp_path / "out")) == 4
    for i in range(4):
        expected = truth[:, 4 * i : 4 * i + 8]
        found = read(tmp_path / "out", f"ndvi_0_{i}_0")["Y"]
        np.testing.assert_allclose(found[np.isfinite(expected)], expected[np.isfinite(expected)], rtol=1e-6)


def test_without_artificial_gaps_nothing_is_hidden(tmp_path: Path) -> None:
    make_cube(tmp_path / "cube.nc")
    (part,) = export(tmp_path / "cube.nc", tmp_path / "out", gaps="none")
    assert (part.hidden, part.astray) == (0, 0)
    for name in names_in(tmp_path / "out"):
        files = read(tmp_path / "out", name)
        np.testing.assert_array_equal(files["X"], files["Y"])
        assert not files["VALMASK"].any()


def test_one_frame_is_enough(tmp_path: Path) -> None:
    make_cube(tmp_path / "cube.nc")
    (part,) = export(tmp_path / "cube.nc", tmp_path / "out", time=("2020-01-01", "2020-01-02"))
    assert part.blocks == 12
    assert 0.05 <= part.hidden / part.valid <= 0.25


def test_a_mark_that_no_float_could_have_measured_is_a_gap(tmp_path: Path) -> None:
    values = np.ones((4, 8, 8))
    values[1, 2, 3], values[2, 2, 3], values[3, 2, 3] = 1e300, -3.4e38, np.inf
    times = np.datetime64("2020-01-01", "ns") + np.arange(4) * np.timedelta64(1, "D")
    xr.Dataset({"v": (("time", "y", "x"), values)}, coords={"time": times}).to_netcdf(tmp_path / "c.nc")
    export(tmp_path / "c.nc", tmp_path / "out", names=["v"], gaps="none")
    assert read(tmp_path / "out", "v_0_0_0")["MASK"][:, 2, 3].tolist() == [1, 0, 0, 0]


def test_no_more_is_read_at_once_than_a_blocks_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cube(tmp_path / "cube.nc")
    windows: list[Window] = []
    once = StoredReader.read

    def noting(self: StoredReader, variable: str, window: Window) -> Array:
        windows.append(window)
        return once(self, variable, window)

    monkeypatch.setattr(StoredReader, "read", noting)
    monkeypatch.setattr(block_export, "_READ_SAMPLES", 3 * 64)
    export(tmp_path / "cube.nc", tmp_path / "out")
    assert {window.shape for window in windows} == {(3, 8, 8)}
    assert len(windows) == 2 * 3 * 12  # two passes over the series of each of twelve places


def test_an_export_that_fails_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cube(tmp_path / "cube.nc")
    export(tmp_path / "cube.nc", tmp_path / "held", seed=1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "held").iterdir()}
    write, written = block_export.write_bands, []

    def failing(path: Path, *rest: Any, **options: Any) -> None:
        if len(written) == 9:
            raise RunError(f"{path} can't be written: the disk is full")
        written.append(path)
        write(path, *rest, **options)

    monkeypatch.setattr(block_export, "write_bands", failing)
    for folder in ("new", "held"):
        written.clear()
        with pytest.raises(RunError, match="the disk is full"):
            export(tmp_path / "cube.nc", tmp_path / folder)
    assert not (tmp_path / "new").exists()
    assert {path.name: path.read_bytes() for path in (tmp_path / "held").iterdir()} == before


def test_an_export_replaces_blocks_of_its_variables_alone(tmp_path: Path) -> None:
    make_cube(tmp_path / "cube.nc")
    folder = tmp_path / "out"
    export(tmp_path / "cube.nc", folder, names=["evi"], most=1)
    export(tmp_path / "cube.nc", folder)
    kept = {"thesis.txt", "PRED_ndvi_0_0_0.tif", "X_ndvi_old.tif"}
    for name in kept:
        (folder / name).write_text("dear to someone")
    evi = {path.name for path in folder.glob("*_evi_*")}
    assert len(evi) == 4
    export(tmp_path / "cube.nc", folder, size=(9, 20, 26))
    assert {p.name for p in folder.iterdir()} == kept | evi | {f"{kind}_ndvi_0_0_0.tif" for kind in KINDS}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        pytest.param({"size": (0, 8, 8)}, PlanError, "needs at least 1 along time, got 0", id="no frames"),
        pytest.param({"overlap": (0, 8, 0)}, PlanError, r"overlap along y must be in \[0, 8\)", id="all overlap"),
        pytest.param({"share": (0.2, 0.1)}, OptionError, "LO <= HI < 1, and HI above 0, got 0.2,0.1", id="swapped"),
        pytest.param({"share": (0.5, 1.0)}, OptionError, "HI < 1", id="everything"),
        pytest.param({"share": (0.0, 0.0)}, OptionError, "HI above 0", id="nothing"),
        pytest.param({"share": (np.nan, 0.5)}, OptionError, "--share", id="no number"),
        pytest.param({"least_valid": 1.2}, OptionError, "--least-valid is a share .* got 1.2", id="more than all"),
        pytest.param({"most": 0}, OptionError, "--most must be at least 1, got 0", id="no blocks"),
        pytest.param({"seed": -1}, OptionError, "--seed must be at least 0", id="a seed below zero"),
        pytest.param({"least_valid": 0.9}, CubeError, r"no block of .* has 90 % valid samples; the most is", id="poor"),
        pytest.param({"valid_range": (5, 6)}, CubeError, "ndvi of .* has no valid sample", id="nothing valid"),
    ],
)
def test_what_can_not_be_is_refused(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    make_cube(tmp_path / "cube.nc")
    with pytest.raises(error, match=message):
        export(tmp_path / "cube.nc", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    make_cube(tmp_path / "cube.nc")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="can't be written to"):
        export(tmp_path / "cube.nc", tmp_path / "file" / "out")
