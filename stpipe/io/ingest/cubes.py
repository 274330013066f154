"""NetCDF files and Zarr groups as layers: one a variable and frame."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON
from stpipe.core.windows import Window, triple
from stpipe.errors import CubeError
from stpipe.execution.storage import located
from stpipe.io.dimensions import coordinate_of
from stpipe.io.georeference import Affine6, crs_wkt_of, transform_of
from stpipe.io.ingest.files import file_identity, shifted_read
from stpipe.io.ingest.layers import Layer, Want, fill_value
from stpipe.io.rasters import Grid
from stpipe.io.reader import StoredReader
from stpipe.io.run_folder import file_state
from stpipe.io.stored import StoredVariable, absolute, check_lengths, kind_of, loaded, open_raw, unpacked
from stpipe.io.times import TimeAxis, decode_times
from stpipe.io.variables import choose, expand_bands, over_time_y_x, stored_variable, why_not_a_cube

BATCH_BYTES = 32 * 2**20
"""Frames that share chunks are read together, up to this much at a time."""

_WARP_REACH = 4  # pixels of the coarser grid that a kernel needs around a window

# By file and variable, the window that was read last: one at a time, so that memory stays small.
_batches: dict[tuple[str, str], tuple[tuple[int, ...], NDArray[Any]]] = {}
_lock = threading.Lock()


# By Zarr group and variable, the state of the files that a plan's identity was told by: the same for all frames.
_states: dict[tuple[str, str], str] = {}


def forget_states() -> None:
    """Let go of what is known of files, so that they are looked at anew."""
    with _lock:
        _states.clear()


def forget_batches() -> None:
    """Let go of what was read ahead."""
    with _lock:
        _batches.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class CubeFrame:
    """One frame of one variable of a cube."""

    reader: StoredReader
    """Reads the whole file."""

    stored: StoredVariable
    """Where the variable lies."""

    frame: int
    """Index in the file."""

    layer_grid: Grid
    """The file's grid."""

    def read(self, want: Want) -> NDArray[Any]:
        """Return the stored samples of a window of the target grid, (y, x)."""
        offset = want.offset_in(self.layer_grid)
        if offset is not None:
            return shifted_read(self._part, offset, want, self.layer_grid.shape)
        return warped(self._part, self.layer_grid, np.dtype(self.stored.info.dtype), want)

    def _part(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Read a window of this frame, together with the frames that share its chunks."""
        info = self.stored.info
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        bytes_each = max(1, shape[0] * shape[1] * np.dtype(info.dtype).itemsize)
        together = max(1, min(info.chunks[0], BATCH_BYTES // bytes_each))
        chunk = self.frame // info.chunks[0] * info.chunks[0]
        first = chunk + (self.frame - chunk) // together * together
        stop = min(first + together, chunk + info.chunks[0], self.reader.extent[0])
        place, key = (self.reader.path, info.name), (first, rows.start, rows.stop, columns.start, columns.stop)
        with _lock:
            kept, batch = _batches.get(place, (None, None))
        if batch is None or kept != key:
            window = Window((first, rows.start, columns.start), (stop, rows.stop, columns.stop))
            batch = self.reader.read(info.name, window)
            with _lock:
                _batches[place] = (key, batch)
        return np.array(batch[self.frame - first])

    def identity(self) -> JSON:
        """Return the variable and the frame, and the state of the files they are in."""
        path = self.reader.path
        files = [path, self._state()] if self.reader.kind == "zarr" else file_identity(path)
        return [*files, self.stored.info.name, self.frame]

    def _state(self) -> str:
        """Return a digest of the names, sizes and times of all chunks of the variable, and of its grid."""
        place = (self.reader.path, self.stored.source)
        with _lock:
            if place not in _states:
                about = f"{file_state(located(place[0]), [place[1]])} {self.layer_grid!r}"
                _states[place] = hashlib.sha256(about.encode()).hexdigest()
            return _states[place]


def warped(part: Callable[[slice, slice], NDArray[Any]], grid: Grid, dtype: np.dtype[Any], want: Want) -> NDArray[Any]:
    """Return a window of the target grid of what lies on another one.

    Parameters
    ----------
    part : callable
        Takes rows and columns and returns their samples.
    grid : Grid
        Where these lie.
    dtype : dtype
        Their type.
    want : Want
        The window.
    """
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    window = want.window
    nodata = want.fill if want.source_nodata is None else want.source_nodata
    result = np.full(window.shape, fill_value(dtype, nodata), dtype=dtype)
    box = source_box(window, grid)
    if box is None:
        return result
    rows, columns = box
    a, b, c, d, e, f = grid.transform
    corner = (a, b, c + a * columns.start + b * rows.start, d, e, f + d * columns.start + e * rows.start)
    reproject(
        part(rows, columns),
        result,
        src_crs=CRS.from_wkt(grid.crs_wkt),
        dst_crs=CRS.from_wkt(window.crs_wkt),
        src_transform=Affine(*corner),
        dst_transform=Affine(*window.transform),
        src_nodata=nodata,
        dst_nodata=nodata,
        resampling=Resampling[want.resampling],
    )
    return result


def source_box(window: Grid, source: Grid) -> tuple[slice, slice] | None:
    """Return the rows and columns of a grid that a window on another one needs; None where they do not meet."""
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.warp import transform_bounds

    west, south, east, north = transform_bounds(
        CRS.from_wkt(window.crs_wkt), CRS.from_wkt(source.crs_wkt), *window.bounds, densify_pts=21
    )
    inverse = ~Affine(*source.transform)
    columns, rows = zip(*(inverse @ (x, y) for x in (west, east) for y in (south, north)), strict=True)
    if not np.isfinite([*columns, *rows]).all():
        return slice(0, source.shape[0]), slice(0, source.shape[1])
    box = []
    for ends, length, wanted in ((rows, source.shape[0], window.shape[0]), (columns, source.shape[1], window.shape[1])):
        low, high = min(ends), max(ends)
        reach = _WARP_REACH * max(1.0, (high - low) / wanted)
        start, stop = max(0, int(np.floor(low - reach))), min(length, int(np.ceil(high + reach)))
        if start >= stop:
            return None
        box.append(slice(start, stop))
    return box[0], box[1]


def describe_cube(path: str) -> list[Layer]:
    """Return one layer for each frame of each variable of a cube, in the order of the file; times need not be in order.

    Parameters
    ----------
    path : str
        A Zarr group or a NetCDF file.
    """
    place = absolute(path)
    kind = kind_of(place)
    with open_raw(place, kind) as raw:
        found = sorted(over_time_y_x(raw), key=lambda pair: pair[0])
        candidates = expand_bands(raw, found, place)
        if not candidates:
            raise CubeError(why_not_a_cube(raw, place))
        layers: list[Layer] = []
        axes: dict[str, TimeAxis] = {}
        for name, source, picks, dims in choose(raw, candidates, None, place):
            check_lengths(raw.sizes, dims, place)
            if dims[0] not in axes:
                axes[dims[0]] = _time_axis(raw, dims[0], place)
            grid = _grid(raw, raw.variables[source], dims, place)
            stored = stored_variable(raw, name, source, picks, dims, place)
            reader = StoredReader(
                path=place,
                kind=kind,
                fingerprint="ingest",
                dims=dims,
                extent=triple(raw.sizes[dim] for dim in dims),
                offset=(0, 0, 0),
                stored=(stored,),
            )
            layers += _frames(reader, stored, grid, axes[dims[0]])
    return layers


def _frames(reader: StoredReader, stored: StoredVariable, grid: Grid, axis: TimeAxis) -> list[Layer]:
    info = stored.info
    return [
        Layer(
            path=reader.path,
            variable=info.name,
            time=time,
            scene=reader.path,
            origin=reader.path,
            grid=grid,
            dtype=info.dtype,
            nodata=info.nodata,
            source=CubeFrame(reader=reader, stored=stored, frame=frame, layer_grid=grid),
            scale=info.scale_factor,
            offset=info.add_offset,
            attrs=dict(info.attrs),
        )
        for frame, time in enumerate(axis.labels.astype("datetime64[us]").tolist())
    ]


def _time_axis(raw: Any, dim: str, path: str) -> TimeAxis:
    coordinate = coordinate_of(raw, dim, "time")
    if coordinate is None:
        raise CubeError(f"axis {dim!r} of {path} has no dates: there is no coordinate variable along it; add one")
    return decode_times(loaded(coordinate, path), path)


def _grid(raw: Any, sample: Any, dims: tuple[str, str, str], path: str) -> Grid:
    y, x = coordinate_of(raw, dims[1], "y"), coordinate_of(raw, dims[2], "x")
    transform: Affine6 | None = transform_of(raw, sample, _values(y, path), _values(x, path))
    if transform is None:
        raise CubeError(
            f"axes {dims[1]!r} and {dims[2]!r} of {path} are no even grid, or have no coordinates; put it on one first"
        )
    crs = crs_wkt_of(raw, sample, y, x)
    shape = (int(raw.sizes[dims[1]]), int(raw.sizes[dims[2]]))
    return Grid(crs_wkt=crs, transform=transform, shape=shape)


def _values(coordinate: Any, path: str) -> NDArray[Any] | None:
    if coordinate is None or coordinate.dtype.kind not in "iuf":
        return None
    values: NDArray[Any] = np.asarray(unpacked(coordinate, path).values)
    return values
