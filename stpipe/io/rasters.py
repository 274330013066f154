"""Raster files as layers of a series: their grids, what their samples mean, and windows of them on one grid."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stpipe.errors import CubeError, MissingFileError, ReadError
from stpipe.io.georeference import Affine6
from stpipe.io.stored import one_line

SUFFIXES = (".tif", ".tiff", ".jp2", ".img", ".vrt")
"""What is taken from a folder; a file that is named may be anything that GDAL opens."""

_ALIGNED_WITHIN = 1e-3  # of a pixel
_KEPT_OPEN = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where the pixels of a raster are."""

    crs_wkt: str | None
    """CRS, or None."""

    transform: Affine6
    """Affine of pixel corners."""

    shape: tuple[int, int]
    """Rows and columns."""

    def same_as(self, other: Grid) -> bool:
        """Whether both have the same pixels, to a thousandth of one."""
        if self.shape != other.shape or not _same_crs(self.crs_wkt, other.crs_wkt):
            return False
        a, b, _, d, e, _ = self.transform
        size = max(abs(a), abs(b), abs(d), abs(e))
        rows, columns = self.shape
        for row, column in ((0, 0), (rows, columns)):
            here, there = (_corner(grid.transform, row, column) for grid in (self, other))
            if max(abs(p - q) for p, q in zip(here, there, strict=True)) > _ALIGNED_WITHIN * size:
                return False
        return True

    def __str__(self) -> str:
        a, b, c, d, e, f = self.transform
        turned = f", turned by ({b:g}, {d:g})" if b or d else ""
        return (
            f"{crs_name(self.crs_wkt)}, pixel {a:.10g} x {e:.10g}, origin ({c:.10g}, {f:.10g}), "
            f"{self.shape[1]} x {self.shape[0]} pixels{turned}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One band of one file: one scene of one variable."""

    path: str
    """The file."""

    band: int
    """Counted from 1."""

    variable: str
    """What it shows."""

    time: datetime
    """When it was acquired."""

    grid: Grid
    """Where its pixels are."""

    dtype: str
    """NumPy dtype."""

    nodata: float | None
    """Stored value of gaps."""

    scale: float
    """Physical value = stored value x scale + offset."""

    offset: float
    """See `scale`."""

    units: str | None
    """Units, if the file says so."""


def find_files(sources: Sequence[str]) -> list[Path]:
    """Return the files that folders, globs and names stand for, sorted, each once.

    Folders are searched through and through for the suffixes in `SUFFIXES`.
    """
    found: set[Path] = set()
    for source in sources:
        place = Path(source).expanduser()
        matches = [] if place.exists() else glob.glob(str(place), recursive=True)  # noqa: PTH207 (absolute patterns)
        places = [place] if place.exists() else [Path(match) for match in matches]
        files = [path for path in places if path.is_file()]
        for folder in (path for path in places if path.is_dir()):
            files += [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
        if not files:
            what = f"folder {source} holds no raster ({', '.join(SUFFIXES)})" if places else f"no file matches {source}"
            raise MissingFileError(what)
        found.update(path.absolute() for path in files)
    if not found:
        raise MissingFileError("no file is named; give folders, globs or files")
    return sorted(found)


def describe_file(path: Path, name: str, time: datetime, *, prefix: bool) -> list[Layer]:
    """Return one layer a band; bands are called by their descriptions where all have one.

    Parameters
    ----------
    path : Path
        A raster.
    name, time
        What the file's name says; the name of the variable if the file has one band.
    prefix : bool
        Whether the name goes before the descriptions of bands, because the series has several.
    """
    with _opened(path) as source:
        grid = _grid_of(source)
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
                    band=index + 1,
                    variable=variable,
                    time=time,
                    grid=grid,
                    dtype=dtype.name,
                    nodata=source.nodatavals[index],
                    scale=float(source.scales[index]),
                    offset=float(source.offsets[index]),
                    units=source.units[index] or None,
                )
            )
    return layers


def grid_of(path: Path) -> Grid:
    """Return the grid of a raster."""
    if not path.exists():
        raise MissingFileError(f"--align: there is no file {path}")
    with _opened(path) as source:
        return _grid_of(source)


def crs_name(crs_wkt: str | None) -> str:
    """Return a CRS as an authority's code if it has one, else its name.

    >>> crs_name(None)
    'no CRS'
    """
    if crs_wkt is None:
        return "no CRS"
    from rasterio.crs import CRS

    crs = CRS.from_wkt(crs_wkt)
    code = crs.to_epsg(confidence_threshold=100)
    if code is not None:
        return f"EPSG:{code}"
    name = crs_wkt.split('"')[1] if '"' in crs_wkt else crs_wkt
    return f"CRS {name[:60]!r}"


class LayerReader:
    """Reads windows of layers on one grid, warping those on others; a context manager that keeps files open."""

    def __init__(self, grid: Grid, resampling: str) -> None:
        self.grid = grid
        self.resampling = resampling
        self._stack = ExitStack()
        self._open: dict[tuple[str, int], Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        self._open.clear()
        self._stack.close()

    def read(self, layer: Layer, rows: slice, columns: slice, nodata: float | None) -> NDArray[Any]:
        """Return stored samples of a window of the grid, in the file's dtype; `nodata` where a warp has no source."""
        from rasterio.windows import Window

        window = Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        try:
            samples = self._source(layer, nodata).read(layer.band, window=window)
        except (CubeError, MemoryError):
            raise
        except Exception as error:
            raise ReadError(
                f"rows {rows.start}:{rows.stop} of band {layer.band} of {layer.path} can't be read: {one_line(error)}"
            ) from error
        return np.asarray(samples)

    def _source(self, layer: Layer, nodata: float | None) -> Any:
        key = (layer.path, layer.band)
        if key not in self._open:
            if len(self._open) >= _KEPT_OPEN:
                self._close()
            source = self._stack.enter_context(_opened(Path(layer.path)))
            if not layer.grid.same_as(self.grid):
                source = self._stack.enter_context(self._warped(source, layer, nodata))
            self._open[key] = source
        return self._open[key]

    def _warped(self, source: Any, layer: Layer, nodata: float | None) -> Any:
        from affine import Affine
        from rasterio.crs import CRS
        from rasterio.enums import Resampling
        from rasterio.vrt import WarpedVRT

        return WarpedVRT(
            source,
            crs=CRS.from_wkt(self.grid.crs_wkt),
            transform=Affine(*self.grid.transform),
            width=self.grid.shape[1],
            height=self.grid.shape[0],
            resampling=Resampling[self.resampling],
            src_nodata=nodata if layer.nodata is None else layer.nodata,
            nodata=nodata if layer.nodata is None else layer.nodata,
        )


def _opened(path: Path) -> Any:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except Exception as error:
        raise CubeError(f"{path} can't be opened as a raster: {one_line(error)}") from error


def _grid_of(source: Any) -> Grid:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a, b, c, d, e, f = (float(number) for number in tuple(source.transform)[:6])
        crs = source.crs
    wkt = crs.to_wkt() if crs else None
    return Grid(crs_wkt=wkt, transform=(a, b, c, d, e, f), shape=(source.height, source.width))


def _corner(transform: Affine6, row: int, column: int) -> tuple[float, float]:
    a, b, c, d, e, f = transform
    return a * column + b * row + c, d * column + e * row + f


@lru_cache(maxsize=256)
def _same_crs(one: str | None, other: str | None) -> bool:
    if one == other:
        return True
    if one is None or other is None:
        return False
    from rasterio.crs import CRS

    return bool(CRS.from_wkt(one) == CRS.from_wkt(other))
