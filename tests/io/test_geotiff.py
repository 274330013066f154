from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.shutil
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterWindow
from rio_cogeo.cogeo import cog_validate

from stpipe.errors import OutputError, RunError
from stpipe.io.geotiff import PARTIAL, is_mosaic_file
from stpipe.io.mosaic import MosaicTask, WrittenFile, plan_mosaic, write_frames
from tests.io.mosaic_sources import UTM, ArraySource, array_source, days

ROOMY = 2**30


def write(
    source: ArraySource,
    folder: Path,
    *,
    layout: Any = "frames",
    variables: list[str] | None = None,
    memory: int = ROOMY,
    **options: Any,
) -> list[tuple[MosaicTask, WrittenFile]]:
    """Write a cube and return (task, file) pairs."""
    pairs = []
    for task in plan_mosaic(source, variables, layout, memory):
        files = write_frames(task, source.reader([task.variable]), folder, **options)
        pairs += [(task, file) for file in files]
    return pairs


def names_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def assert_valid_cog(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        found = cog_validate(str(path), strict=True, quiet=True)
        with rasterio.open(path) as source:
            (rows, columns), (height, width) = source.block_shapes[0], source.shape
    if columns == width and rows < height:
        # One tile wide, and several high: rio-cogeo takes its rows of tiles for strips, in GDAL's own COGs as well.
        assert (rows, found) == (columns, (False, ["The file is greater than 512xH or 512xW, but is not tiled"], []))
    else:
        assert found == (True, [], [])


def test_a_file_one_tile_wide_is_tiled_as_gdals_own_are(tmp_path: Path) -> None:
    values = np.ones((1, 600, 512), dtype="uint8")
    source = array_source({"v": values}, chunks=(1, 256, 256), transform=(30.0, 0.0, 5e5, 0.0, -30.0, 4e6), nodata=None)
    ((_, file),) = write(source, tmp_path, layout="frames", memory=ROOMY)
    assert_valid_cog(tmp_path / file.path)
    with rasterio.open(tmp_path / file.path) as ours:
        rasterio.shutil.copy(ours, tmp_path / "gdals.tif", driver="COG", blocksize=512)
    assert_valid_cog(tmp_path / "gdals.tif")


DTYPES = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]


@given(data=st.data())
@settings(max_examples=25)
def test_what_is_read_back_is_what_the_cube_holds(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    frames = data.draw(st.integers(1, 5))
    height, width = data.draw(st.integers(1, 700)), data.draw(st.integers(1, 700))
    chunks = data.draw(st.integers(1, 4)), data.draw(st.integers(50, 400)), data.draw(st.integers(50, 400))
    south_up, east_left = data.draw(st.booleans()), data.draw(st.booleans())
    layout = data.draw(st.sampled_from(["frames", "stack"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    # All bit patterns, infinities and odd NaNs among them.
    values = np.frombuffer(rng.bytes(frames * height * width * dtype.itemsize), dtype).reshape(frames, height, width)
    nodata = data.draw(st.sampled_from([None, 0, 7, 100]))
    transform = (30.0 * (-1 if east_left else 1), 0.0, 5e5, 0.0, 30.0 * (1 if south_up else -1), 4e6)
    source = array_source({"v": values}, chunks=chunks, transform=transform, nodata=nodata)
    folder = tmp_path_factory.mktemp("cogs")
    north_up = values[:, :: -1 if south_up else 1, :: -1 if east_left else 1]
    pairs = write(source, folder, layout=layout, memory=data.draw(st.sampled_from([100 * 2**20, ROOMY])))
    done = 0
    for _, file in pairs:
        path = folder / file.path
        if min(height, width) >= 8:
            # The validator works out decimation from the width, which a strip of a few pixels can't halve.
            assert_valid_cog(path)
        assert path.stat().st_size == file.bytes
        with rasterio.open(path) as dataset:
            there = dataset.read()
            assert there.tobytes() == np.ascontiguousarray(north_up[done : done + dataset.count]).tobytes()
            assert dataset.dtypes == (dtype.name,) * dataset.count
            expected = np.nan if nodata is None and dtype.kind == "f" else nodata
            assert dataset.nodata == expected or (np.isnan(dataset.nodata) and np.isnan(expected))
            row, column = height // 3, width // 2
            x, y = dataset.xy(height - 1 - row if south_up else row, width - 1 - column if east_left else column)
            assert (x, y) == (source.x[column], source.y[row])
            assert dataset.crs == CRS.from_user_input(UTM)
            done += dataset.count
    assert done == frames


def ramp(frames: int = 3, height: int = 700, width: int = 600, dtype: str = "int16") -> NDArray[Any]:
    t, y, x = np.ogrid[:frames, :height, :width]
    return (t * 1000 + y + 2 * x).astype(dtype)


@pytest.mark.parametrize("layout", ["frames", "stack"])
def test_the_bytes_depend_on_the_samples_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    values = ramp()
    first = write(array_source({"v": values}, nodata=3), tmp_path / "a", layout=layout)
    monkeypatch.setenv("GDAL_NUM_THREADS", "ALL_CPUS")
    monkeypatch.setenv("GDAL_TIFF_OVR_BLOCKSIZE", "128")
    # The windows differ, and with them the order in which tiles are filled.
    other = array_source({"v": values}, nodata=3, chunks=(2, 100, 130))
    second = write(other, tmp_path / "b", layout=layout, memory=100 * 2**20, threads=3)
    assert {file.path: file.sha256 for _, file in first} == {file.path: file.sha256 for _, file in second}


def test_a_file_says_what_it_holds(tmp_path: Path) -> None:
    attrs = {"units": "mol m-2", "long_name": "CO column", "standard_name": "carbon"}
    source = array_source({"v": ramp(1)}, nodata=-9999, scale_factor=1e-4, add_offset=0.5, attrs=attrs)
    [(_, file)] = write(source, tmp_path)
    with rasterio.open(tmp_path / file.path) as dataset:
        assert dataset.scales == (1e-4,)
        assert dataset.offsets == (0.5,)
        assert dataset.units == ("mol m-2",)
        assert dataset.nodata == -9999
        assert dataset.descriptions == ("2023-01-01T10:30:00",)
        assert dataset.tags()["TIFFTAG_DATETIME"] == "2023:01:01 10:30:00"
        assert dataset.tags()["long_name"] == "CO column"
        assert dataset.tags()["stpipe_variable"] == "v"
        assert dataset.overviews(1) == [2]
        assert dataset.block_shapes == [(512, 512)]
    assert is_mosaic_file(tmp_path / file.path)
    assert names_below(tmp_path) == [file.path]


def test_source_codes_keep_their_meaning_colour_and_codes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = rng.choice([0, 1, 4], size=(1, 1200, 600)).astype("uint8")
    source = array_source({"v": ramp(1, 1200, 600), "v_source": codes})
    _, (_, file) = write(source, tmp_path)
    with rasterio.open(tmp_path / file.path) as dataset:
        assert dataset.nodata is None
        assert dataset.tags()["source_3"] == "filled_by_fallback"
        assert len({dataset.colormap(1)[code] for code in range(5)}) == 5
    with rasterio.open(tmp_path / file.path, overview_level=0) as dataset:
        # An average of 0 and 4 would be 2, a lie.
        assert set(np.unique(dataset.read())) == {0, 1, 4}


@pytest.mark.parametrize("layout", ["frames", "stack"])
def test_overviews_average_what_is_not_nodata(tmp_path: Path, layout: str) -> None:
    values = np.full((2, 1024, 1024), 10, dtype="int16")
    values[:, ::2] = -9999
    [(_, file), *_] = write(array_source({"v": values}, nodata=-9999), tmp_path, layout=layout)
    with rasterio.open(tmp_path / file.path, overview_level=0) as dataset:
        assert (dataset.read() == 10).all()


def test_flags_are_never_averaged(tmp_path: Path) -> None:
    values = np.random.default_rng(0).choice([1, 64], size=(1, 700, 700)).astype("uint8")
    attrs = {"flag_masks": [1, 64], "flag_meanings": "cloud water"}
    [(_, file)] = write(array_source({"qa": values}, attrs=attrs), tmp_path)
    with rasterio.open(tmp_path / file.path, overview_level=0) as dataset:
        assert set(np.unique(dataset.read())) == {1, 64}
        assert dataset.tags()["flag_masks"] == "1, 64"


@pytest.mark.parametrize(
    ("dtype", "becomes", "nodata", "written_nodata"),
    [
        pytest.param("float16", "float32", -9999.0, -10000.0, id="half precision, with the nodata it can hold"),
        pytest.param("bool", "uint8", None, None, id="booleans as 0 and 1"),
        pytest.param(">i2", "int16", 5, 5, id="big endian"),
        pytest.param("uint8", "uint8", -9999, None, id="a nodata outside the type is none"),
        pytest.param("int64", "int64", -(2**63), None, id="a nodata that GDAL would change is none"),
        pytest.param("float32", "float32", -3.4e38, float(np.float32(-3.4e38)), id="nodata of few digits"),
    ],
)
def test_odd_types_and_nodata(
    tmp_path: Path, dtype: str, becomes: str, nodata: float | None, written_nodata: float | None
) -> None:
    values = (np.arange(30).reshape(1, 5, 6) % 2).astype(dtype)
    [(_, file)] = write(array_source({"v": values}, nodata=nodata), tmp_path)
    with rasterio.open(tmp_path / file.path) as dataset:
        assert dataset.dtypes == (becomes,)
        assert dataset.nodata == written_nodata
        np.testing.assert_array_equal(dataset.read(), values)


@pytest.mark.parametrize(
    "place",
    [
        pytest.param({"crs": None}, id="no CRS"),
        pytest.param({"transform": None}, id="no regular grid"),
        pytest.param({"crs": None, "transform": None}, id="neither"),
    ],
)
@pytest.mark.parametrize("layout", ["frames", "stack"])
def test_a_cube_that_lies_nowhere_is_written_all_the_same(tmp_path: Path, place: dict[str, Any], layout: str) -> None:
    values = ramp(2)
    source = array_source({"v": values}, **place)
    pairs = write(source, tmp_path, layout=layout)
    assert pairs[0][0].grid.note is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(tmp_path / pairs[0][1].path) as dataset:
            np.testing.assert_array_equal(dataset.read(1), values[0])
    assert_valid_cog(tmp_path / pairs[0][1].path)
    assert all(file.kept for _, file in write(source, tmp_path, layout=layout))


def test_a_crs_that_geotiff_cannot_hold_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rotated = pyproj.CRS.from_cf(
        {
            "grid_mapping_name": "rotated_latitude_longitude",
            "grid_north_pole_latitude": 39.25,
            "grid_north_pole_longitude": -162.0,
        }
    )
    source = array_source({"v": ramp(2, 8, 8)}, chunks=(1, 8, 8))
    source.crs_wkt = rotated.to_wkt()
    assert len(write(source, tmp_path)) == 2
    assert [record.getMessage()[:35] for record in caplog.records] == ["GeoTIFF can't hold the cube's CRS ("]


def test_a_crs_that_nobody_can_read_is_an_error_of_one_line(tmp_path: Path) -> None:
    source = array_source({"v": ramp(1, 8, 8)})
    source.crs_wkt = "nonsense"
    with pytest.raises(RunError, match=r"can't write .*WKT could not be parsed"):
        write(source, tmp_path)
    assert names_below(tmp_path) == []


def test_a_stack_has_a_band_for_each_date_and_reads_one_without_the_others(tmp_path: Path) -> None:
    values = ramp(300, 40, 30)
    source = array_source({"v": values, "v_source": np.ones((300, 40, 30), "uint8")}, chunks=(16, 20, 20))
    (_, file), (_, codes) = write(source, tmp_path, layout="stack")
    assert (file.path, codes.path) == ("v/v.tif", "v/v_source.tif")
    with rasterio.open(tmp_path / file.path) as dataset:
        assert dataset.count == 300
        assert dataset.descriptions[1] == "2023-01-06T10:30:00"
        assert dataset.interleaving.value == "BAND"
        np.testing.assert_array_equal(dataset.read([7, 300]), values[[6, 299]])
    assert_valid_cog(tmp_path / file.path)


def test_frames_of_one_second_have_files_of_their_own(tmp_path: Path) -> None:
    times = days(3)
    times[1:] = times[0] + np.array([250, 250], "m8[ms]")
    source = array_source({"v": ramp(3, 8, 8)}, times=times)
    names = [file.path for _, file in write(source, tmp_path)]
    assert names == names_below(tmp_path)
    assert names[0] == "v/v_20230101T103000.000000000.tif"
    assert names[2] == "v/v_20230101T103000.250000000_2.tif"


def test_finished_files_are_kept_and_others_need_leave_to_be_replaced(tmp_path: Path) -> None:
    source = array_source({"v": ramp()})
    first = write(source, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tif")}
    again = write(source, tmp_path)
    assert [replace(file, kept=False) for _, file in again] == [file for _, file in first]
    assert all(file.kept for _, file in again)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tif")}

    changed = ramp()
    changed[1, 5, 5] += 1
    other = array_source({"v": changed})
    with pytest.raises(OutputError, match=r"v_20230106T103000.tif is there already and differs.*--overwrite"):
        write(other, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tif")}
    replaced = write(other, tmp_path, replace=True)
    assert [file.kept for _, file in replaced] == [True, False, True]
    with rasterio.open(tmp_path / replaced[1][1].path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), changed[1])


def test_a_file_with_a_known_digest_is_kept_without_reading_the_cube(tmp_path: Path) -> None:
    source = array_source({"v": ramp()})
    known = {file.path: file.sha256 for _, file in write(source, tmp_path)}
    [task] = plan_mosaic(source, None, "frames", ROOMY)
    reader = source.reader(["v"])
    assert all(file.kept for file in write_frames(task, reader, tmp_path, known=known))
    assert reader.reads == []


@pytest.mark.parametrize("change", ["nodata", "scale_factor", "transform", "attrs", "times"])
def test_a_file_with_another_header_is_not_the_same(tmp_path: Path, change: str) -> None:
    write(array_source({"v": ramp(1)}, nodata=1), tmp_path)
    options = {
        "nodata": {"nodata": 2},
        "scale_factor": {"nodata": 1, "scale_factor": 2.0},
        "transform": {"nodata": 1, "transform": (30.0, 0.0, 0.0, 0.0, -30.0, 0.0)},
        "attrs": {"nodata": 1, "attrs": {"units": "K"}},
        "times": {"nodata": 1, "times": days(1) + np.timedelta64(1, "ms")},
    }[change]
    with pytest.raises(OutputError, match="differs from the cube"):
        write(array_source({"v": ramp(1)}, **options), tmp_path)


def test_a_file_cut_short_is_written_again(tmp_path: Path) -> None:
    source = array_source({"v": ramp(1)})
    [(_, file)] = write(source, tmp_path)
    path = tmp_path / file.path
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(OutputError):
        write(source, tmp_path)
    [(_, again)] = write(source, tmp_path, replace=True)
    assert replace(again, kept=False) == file


def test_a_file_that_came_out_wrong_gets_no_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = rasterio.shutil.copy

    def losing(source: ArraySource, target: Any, **options: Any) -> None:
        with rasterio.open(source, "r+") as dataset:
            dataset.write(np.zeros((10, 10), "int16"), 1, window=RasterWindow(500, 600, 10, 10))
        honest(source, target, **options)

    monkeypatch.setattr(rasterio.shutil, "copy", losing)
    with pytest.raises(RunError, match="does not hold what was written"):
        write(array_source({"v": ramp(1)}), tmp_path)
    assert names_below(tmp_path) == []


STORY = """
    import os, resource, signal, sys
    from pathlib import Path
    import numpy as np
    from stpipe.errors import RunError
    from stpipe.io.mosaic import plan_mosaic, write_frames
    from tests.io.mosaic_sources import array_source

    values = np.random.default_rng(0).integers(0, 9999, (2, 700, 600)).astype("int16")
    source = array_source({"v": values}, chunks=(2, 300, 300))
    [task] = plan_mosaic(source, None, "frames", 100 * 2**20)
    reader = source.reader(["v"])
"""


def tell(repository: Path, folder: Path, ending: str) -> subprocess.CompletedProcess[str]:
    """Run a story in a process of its own."""
    script = textwrap.dedent(STORY) + textwrap.dedent(ending)
    return subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=repository, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_kill_leaves_temporary_names_only_and_a_rerun_removes_them(tmp_path: Path, repository: Path) -> None:
    died = tell(
        repository,
        tmp_path,
        """
        import rasterio.shutil
        honest, copies = rasterio.shutil.copy, []
        def deadly(*args, **options):
            honest(*args, **options)
            copies.append(1)
            if len(copies) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        rasterio.shutil.copy = deadly
        write_frames(task, reader, sys.argv[1])
        """,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    left = names_below(tmp_path)
    assert [name for name in left if PARTIAL not in name] == ["v/v_20230101T103000.tif"]
    assert len(left) > 1
    finished = tell(repository, tmp_path, "print([file.kept for file in write_frames(task, reader, sys.argv[1])])")
    assert finished.stdout == "[True, False]\n", finished.stderr
    assert names_below(tmp_path) == ["v/v_20230101T103000.tif", "v/v_20230106T103000.tif"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("stage", ["plain file", "COG"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, repository: Path, stage: str) -> None:
    story = tell(
        repository,
        tmp_path,
        f"""
        import rasterio.shutil
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        honest = rasterio.shutil.copy
        def fill_disk(*args, **options):
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
            honest(*args, **options)
        rasterio.shutil.copy = fill_disk
        if {stage!r} == "plain file":
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            write_frames(task, reader, sys.argv[1])
        except RunError as error:
            print(type(error).__name__, error)
        """,
    )
    assert story.stdout.startswith("RunError"), story.stderr
    assert len(story.stdout.strip().splitlines()) == 1
    assert names_below(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "v").write_text("in the way")
    with pytest.raises(RunError, match=r"can't write .*v_20230101T103000.tif.*run it again"):
        write(array_source({"v": ramp(1)}), tmp_path)
