"""Raster files as layers: one a band."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON
from stpipe.errors import CubeError, ReadError
from stpipe.execution.storage import one_line
from stpipe.io.filenames import NamedFile
from stpipe.io.ingest.layers import Layer, Want, fill_value
from stpipe.io.rasters import Grid, grid_of_dataset, open_raster

KEPT_OPEN = 32
"""Files that may be open at a time; each takes megabytes, and to open one again about two milliseconds."""


class OpenFiles:
    """Rasters that are open, and views of them warped to a grid; a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._open: dict[tuple[Any, ...], Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all."""
        self._open.clear()
        self._stack.close()

    def plain(self, path: str) -> Any:
        """Return an opened raster."""
        if (path,) not in self._open:
            self._make_room()
            self._open[path,] = self._stack.enter_context(open_raster(Path(path)))
        return self._open[path,]

    def warped(self, path: str, want: Want) -> Any:
        """Return a raster as it would lie on the target grid."""
        from affine import Affine
        from rasterio.crs import CRS
        from rasterio.enums import Resampling
        from rasterio.vrt import WarpedVRT

        nodata = _fill(want)
        key = (path, want.grid, want.resampling, str(nodata))
        if key not in self._open:
            self._make_room()
            source = self._stack.enter_context(open_raster(Path(path)))
            self._open[key] = self._stack.enter_context(
                WarpedVRT(
                    source,
                    crs=CRS.from_wkt(want.grid.crs_wkt),
                    transform=Affine(*want.grid.transform),
                    width=want.grid.shape[1],
                    height=want.grid.shape[0],
                    resampling=Resampling[want.resampling],
                    src_nodata=nodata,
                    nodata=nodata,
                )
            )
        return self._open[key]

    def _make_room(self) -> None:
        if len(self._open) >= KEPT_OPEN:
            self.close()


OPEN = OpenFiles()
"""What this process has open; `stpipe.io.ingest.write` closes it after each row of frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterBand:
    """One band of a raster file."""

    path: str
    """The file."""

    band: int
    """Counted from 1."""

    layer_grid: Grid
    """The file's grid."""

    def read(self, want: Want) -> NDArray[Any]:
        """Return the stored samples of a window of the target grid, (y, x)."""
        try:
            return self._read(want)
        except (CubeError, MemoryError):
            raise
        except Exception as error:
            raise ReadError(
                f"rows {want.rows.start}:{want.rows.stop} of band {self.band} of {self.path} can't be read: "
                f"{one_line(error)}"
            ) from error

    def _read(self, want: Want) -> NDArray[Any]:
        from rasterio.windows import Window

        offset = want.offset_in(self.layer_grid)
        if offset is None:
            box = Window(want.columns.start, want.rows.start, want.shape[1], want.shape[0])
            return np.asarray(OPEN.warped(self.path, want).read(self.band, window=box))

        def part(rows: slice, columns: slice) -> NDArray[Any]:
            box = Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
            return np.asarray(OPEN.plain(self.path).read(self.band, window=box))

        return shifted_read(part, offset, want, self.layer_grid.shape)

    def identity(self) -> JSON:
        """Return the file, its size and its time of modification."""
        return [*file_identity(self.path), self.band]


def file_identity(path: str) -> list[JSON]:
    """Return a path with the size and the time of modification of what is there."""
    try:
        status = Path(path).stat()
    except OSError:  # a URL
        return [path]
    return [path, status.st_size, status.st_mtime_ns]


def shifted_read(part: Any, offset: tuple[int, int], want: Want, there: tuple[int, int]) -> NDArray[Any]:
    """Return a window of a layer on the target's own lattice, filled where the layer does not reach.

    Parameters
    ----------
    part : callable
        Takes rows and columns of the layer and returns their samples.
    offset : (row, column)
        Where the window starts in the layer.
    want : Want
        The window.
    there : (rows, columns)
        Shape of the layer.
    """
    inside = [(max(0, o), min(n, o + w)) for o, w, n in zip(offset, want.shape, there, strict=True)]
    (top, bottom), (left, right) = inside
    if top < bottom and left < right:
        samples: NDArray[Any] = part(slice(top, bottom), slice(left, right))
        if samples.shape == want.shape:
            return samples
        result = np.full(want.shape, fill_value(samples.dtype, _fill(want)), dtype=samples.dtype)
        result[top - offset[0] : bottom - offset[0], left - offset[1] : right - offset[1]] = samples
        return result
    samples = part(slice(0, 1), slice(0, 1))  # for its type
    return np.full(want.shape, fill_value(samples.dtype, _fill(want)), dtype=samples.dtype)


def _fill(want: Want) -> float | None:
    return want.fill if want.source_nodata is None else want.source_nodata


def describe_file(file: NamedFile, *, prefix: bool) -> list[Layer]:
    """Return one layer a band; bands are called by their descriptions where all have one.

    Parameters
    ----------
    file : NamedFile
        A raster, and what its name says; the name of the variable if the file has one band.
    prefix : bool
        Whether the name goes before the descriptions of bands, because the series has several.
    """
    name, path = file.variable, file.path
    with open_raster(path) as source:
        grid = grid_of_dataset(source)
        descriptions = [str(text).strip() for text in source.descriptions if text]
        described = len(set(descriptions)) == source.count
        layers = []
        for index in range(source.count):
            if source.count == 1:
                variable = name
            elif described:
                text = "_".join(descriptions[index].replace("/", "_").split())
                variable = f"{name}_{text}" if prefix else text
            else:
                variable = f"{name}_b{index + 1}"
            dtype = np.dtype(source.dtypes[index])
            if dtype.kind not in "iuf":
                raise CubeError(f"{path} has samples of type {dtype}; only integers and floats can be used")
            layers.append(
                Layer(
                    path=str(path),
                    variable=variable,
                    time=file.time,
                    scene=file.scene,
                    grid=grid,
                    dtype=dtype.name,
                    nodata=source.nodatavals[index],
                    source=RasterBand(path=str(path), band=index + 1, layer_grid=grid),
                    scale=float(source.scales[index]),
                    offset=float(source.offsets[index]),
                    attrs={"units": source.units[index]} if source.units[index] else {},
                )
            )
    return layers
