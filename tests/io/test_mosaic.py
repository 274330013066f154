from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpipe.core.ports import VariableInfo
from stpipe.core.windows import Window
from stpipe.errors import CubeError, OptionError, PlanError
from stpipe.io.frames import RasterGrid, frame_labels, safe_name, safe_names
from stpipe.io.mosaic import MOST_FRAMES, mosaic_bytes, mosaic_variables, plan_mosaic, raster_dtype
from tests.io.mosaic_sources import array_source

MIB = 2**20
ROOMY = 1024 * MIB

extents = st.tuples(st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
chunk_shapes = st.tuples(st.integers(1, 20), st.integers(1, 100), st.integers(1, 100))


@given(extent=extents, chunks=chunk_shapes, layout=st.sampled_from(["frames", "stack"]))
def test_tasks_write_every_sample_once(extent: tuple[int, int, int], chunks: tuple[int, int, int], layout: str) -> None:
    source = array_source({"v": np.zeros(extent, dtype="int16")}, chunks=chunks)
    written = np.zeros(extent, dtype=int)
    files = []
    for task in plan_mosaic(source, None, layout, ROOMY):
        for window in task.windows(task.first, task.first + len(task.dates)):
            written[window.slices] += 1
        files += task.files
    assert (written == 1).all()
    assert len(files) == len(set(files)) == (1 if layout == "stack" else extent[0])


@given(extent=extents, chunks=chunk_shapes)
def test_no_window_crosses_the_border_of_a_stored_chunk_along_time(
    extent: tuple[int, int, int], chunks: tuple[int, int, int]
) -> None:
    source = array_source({"v": np.zeros(extent, dtype="int16")}, chunks=chunks)
    for layout in ("frames", "stack"):
        for task in plan_mosaic(source, None, layout, ROOMY):
            for window in task.windows(task.first, task.first + len(task.dates)):
                assert window.start[0] // chunks[0] == (window.stop[0] - 1) // chunks[0]


@given(extent=extents, chunks=chunk_shapes)
def test_a_task_has_few_frames(extent: tuple[int, int, int], chunks: tuple[int, int, int]) -> None:
    source = array_source({"v": np.zeros(extent, dtype="int16")}, chunks=chunks)
    for task in plan_mosaic(source, None, "frames", ROOMY):
        assert 1 <= len(task.dates) <= MOST_FRAMES
        assert len(task.files) == len(task.dates)


def shape_only(extent: tuple[int, int, int], dtype: str) -> NDArray[Any]:
    """Return an array of a shape that takes no memory."""
    return np.broadcast_to(np.zeros(1, dtype=dtype), extent)


@pytest.mark.parametrize("memory", [128 * MIB, 300 * MIB, 1024 * MIB])
def test_windows_of_a_huge_scene_are_whole_chunks_within_the_memory(memory: int) -> None:
    source = array_source({"v": shape_only((16, 50_000, 40_000), "float32")}, chunks=(8, 256, 256))
    for layout in ("frames", "stack"):
        for task in plan_mosaic(source, None, layout, memory):
            frames, y, x = task.step
            assert y % 256 == 0
            assert x % 256 == 0
            assert frames * y * x * 4 * 2 < memory


def test_more_memory_reads_more_at_once() -> None:
    source = array_source({"v": shape_only((8, 9000, 9000), "float32")}, chunks=(8, 256, 256))
    areas = [np.prod(plan_mosaic(source, None, "frames", memory)[0].step) for memory in (128 * MIB, 512 * MIB)]
    assert areas[0] < areas[1]


def test_a_chunk_larger_than_the_memory_is_refused() -> None:
    source = array_source({"v": shape_only((100, 5000, 5000), "float32")}, chunks=(100, 5000, 5000))
    with pytest.raises(PlanError, match=r"stored chunks of \(100, 5000, 5000\).*more than the 512 MiB"):
        plan_mosaic(source, None, "frames", 512 * MIB)


def test_tasks_are_picklable() -> None:
    source = array_source({"v": np.zeros((3, 4, 5)), "v_source": np.zeros((3, 4, 5), dtype="uint8")})
    tasks = plan_mosaic(source, ["v"], "frames", ROOMY)
    assert pickle.loads(pickle.dumps(tasks)) == tasks


def test_sources_lie_beside_their_variable_and_intervals_wait_to_be_asked() -> None:
    shape = (1, 4, 5)
    arrays = {"v": np.zeros(shape), "v_source": np.zeros(shape, "uint8"), "v_ci90": np.zeros(shape, "float32")}
    source = array_source(arrays)
    files = [name for task in plan_mosaic(source, None, "frames", ROOMY) for name in task.files]
    assert files == ["v/v_20230101T103000.tif", "v/v_source_20230101T103000.tif"]
    files = [name for task in plan_mosaic(source, ["v_ci90"], "stack", ROOMY) for name in task.files]
    assert files == ["v_ci90/v_ci90.tif"]
    both = plan_mosaic(source, ["v", "v_source", "v"], "stack", ROOMY)
    assert [task.files for task in both] == [("v/v.tif",), ("v/v_source.tif",)]
    assert [task.is_source for task in both] == [False, True]


def test_unknown_variables_and_layouts_are_refused() -> None:
    source = array_source({"v": np.zeros((1, 4, 5))})
    with pytest.raises(OptionError, match="no variable 'w'; it has v"):
        plan_mosaic(source, ["w"], "frames", ROOMY)
    with pytest.raises(OptionError, match="frames or stack, got 'pile'"):
        plan_mosaic(source, None, "pile", ROOMY)


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[ns]", "U3", "O"])
def test_types_without_a_place_in_a_geotiff_are_refused(dtype: str) -> None:
    with pytest.raises(CubeError, match="GeoTIFF holds integers and floats"):
        raster_dtype(dtype)


@given(st.text(max_size=300))
def test_a_file_name_never_leaves_its_folder(name: str) -> None:
    try:
        safe = safe_name(name)
    except CubeError:
        return
    assert set(safe) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not safe.startswith(".")
    assert safe


@pytest.mark.parametrize("names", [("a/b", "a b"), ("NDVI", "ndvi"), ("..a", "a")])
def test_two_variables_of_one_file_name_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(CubeError, match="would share the file name"):
        safe_names(names)


@given(st.lists(st.integers(0, 3_000_000_000), min_size=1, max_size=30))
def test_names_of_frames_are_unique(nanoseconds: list[int]) -> None:
    times = np.datetime64("2023-01-01", "ns") + np.sort(np.array(nanoseconds)) * np.timedelta64(1, "ns")
    labels = frame_labels(times)
    assert len(set(labels)) == len(labels) == len(times)
    assert all(label.startswith("20230101T00000") for label in labels)


def test_a_frame_without_a_time_is_refused() -> None:
    with pytest.raises(CubeError, match="frame 1 has none"):
        frame_labels(np.array(["2023-01-01", "NaT"], dtype="M8[ns]"))


@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    signs=st.tuples(st.sampled_from([-1, 1]), st.sampled_from([-1, 1])),
    pick=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
)
def test_flipping_keeps_each_pixel_at_its_coordinates(
    size: tuple[int, int], signs: tuple[int, int], pick: tuple[float, float]
) -> None:
    height, width = size
    stored = (30.0 * signs[1], 0.0, 1000.0, 0.0, 20.0 * signs[0], -500.0)
    grid = RasterGrid.place(height=height, width=width, crs_wkt=None, transform=stored, y=None, x=None)
    row, column = int(pick[0] * height), int(pick[1] * width)
    values = np.zeros((1, height, width))
    values[0, row, column] = 1
    _, new_row, new_column = (int(i[0]) for i in np.nonzero(grid.turn(values)))
    a, _, c, _, e, f = grid.transform
    assert a > 0 > e
    assert f + e * (new_row + 0.5) == stored[5] + stored[4] * (row + 0.5)
    assert c + a * (new_column + 0.5) == stored[2] + stored[0] * (column + 0.5)
    window = Window((0, row, column), (1, row + 1, column + 1))
    assert grid.offsets(window) == (new_row, new_column)


def test_irregular_coordinates_are_turned_but_not_placed() -> None:
    y, x = np.array([1.0, 2.0, 4.0]), np.array([9.0, 8.0])
    grid = RasterGrid.place(height=3, width=2, crs_wkt=None, transform=None, y=y, x=x)
    assert (grid.flip_y, grid.flip_x, grid.transform) == (True, True, None)
    assert "no regular grid" in grid.note


def test_a_rotated_grid_stays_as_it_is() -> None:
    stored = (10.0, 3.0, 0.0, 3.0, 10.0, 0.0)
    grid = RasterGrid.place(height=3, width=2, crs_wkt="x", transform=stored, y=None, x=None)
    assert (grid.flip_y, grid.flip_x, grid.transform, grid.note) == (False, False, stored, None)


def test_disk_space_covers_products_and_the_largest_task() -> None:
    source = array_source({"v": shape_only((4, 1000, 1000), "int16")})
    tasks = plan_mosaic(source, None, "frames", ROOMY)
    assert mosaic_bytes(tasks) >= 2 * 4 * 1000 * 1000 * 2


def test_intervals_of_any_coverage_are_companions() -> None:
    names = ["v", "v_ci50", "v_ci99", "v_ci49", "w_ci80"]
    infos = {name: VariableInfo(name=name, dtype="float32", chunks=(1, 1, 1)) for name in names}
    assert mosaic_variables(infos) == ("v", "v_ci49", "w_ci80")
