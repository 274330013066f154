"""Raster files: which there are, and the grids they lie on."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stpipe.errors import CubeError, MissingFileError
from stpipe.execution.storage import one_line
from stpipe.io.georeference import Affine6
from stpipe.io.stored import beside, check_plain, local

SUFFIXES = (".tif", ".tiff", ".jp2", ".img", ".vrt")
"""What is taken from a folder; a file that is named may be anything that GDAL opens."""

_ALIGNED_WITHIN = 1e-3  # of a pixel


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
        if self.shape != other.shape or not same_crs(self.crs_wkt, other.crs_wkt):
            return False
        a, b, _, d, e, _ = self.transform
        size = max(abs(a), abs(b), abs(d), abs(e))
        rows, columns = self.shape
        for row, column in ((0, 0), (rows, columns)):
            here, there = (_corner(grid.transform, row, column) for grid in (self, other))
            if max(abs(p - q) for p, q in zip(here, there, strict=True)) > _ALIGNED_WITHIN * size:
                return False
        return True

    def offset_in(self, other: Grid) -> tuple[int, int] | None:
        """Return which row and column of another grid the first pixel of this one is; None on another lattice.

        Both have pixels of one size then, whose corners coincide to a thousandth of a pixel; the row and the column
        may lie outside of the other.

        >>> grid = Grid(crs_wkt=None, transform=(10.0, 0.0, 500.0, 0.0, -10.0, 900.0), shape=(4, 5))
        >>> Grid(crs_wkt=None, transform=(10.0, 0.0, 520.0, 0.0, -10.0, 930.0), shape=(9, 9)).offset_in(grid)
        (-3, 2)
        """
        a, b, c, d, e, f = self.transform
        p, q, r, s, t, u = other.transform
        if not same_crs(self.crs_wkt, other.crs_wkt) or b or d or q or s:
            return (0, 0) if self.same_as(other) else None
        column, row = (c - r) / p, (f - u) / t
        rows, columns = self.shape
        ends = (row, row + rows * e / t, column, column + columns * a / p)
        there = (round(row), round(row) + rows, round(column), round(column) + columns)
        if max(abs(end - whole) for end, whole in zip(ends, there, strict=True)) > _ALIGNED_WITHIN:
            return None
        return round(row), round(column)

    def covered_by(self, other: Grid) -> bool:
        """Whether every pixel of this grid is one of another grid's."""
        offset = self.offset_in(other)
        if offset is None:
            return False
        return all(o >= 0 and o + n <= m for o, n, m in zip(offset, self.shape, other.shape, strict=True))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north."""
        rows, columns = self.shape
        xs, ys = zip(*(_corner(self.transform, r, c) for r in (0, rows) for c in (0, columns)), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def __str__(self) -> str:
        a, b, c, d, e, f = self.transform
        turned = f", turned by ({b:g}, {d:g})" if b or d else ""
        return (
            f"{crs_name(self.crs_wkt)}, pixel {a:.10g} x {e:.10g}, origin ({c:.10g}, {f:.10g}), "
            f"{self.shape[1]} x {self.shape[0]} pixels{turned}"
        )


def find_files(sources: Sequence[str]) -> list[Path]:
    """Return the files that folders, globs and names stand for, sorted, each once.

    Folders are searched through and through for the suffixes in `SUFFIXES`.
    """
    found: set[Path] = set()
    for source in sources:
        place = local(source)
        matches = [] if place.exists() else glob.glob(str(place), recursive=True)  # noqa: PTH207 (absolute patterns)
        places = [place] if place.exists() else [Path(match) for match in matches]
        files = [path for path in places if path.is_file()]
        for folder in (path for path in places if path.is_dir()):
            files += [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
        if not files:
            if places:
                raise MissingFileError(f"folder {source} holds no raster ({', '.join(SUFFIXES)})")
            raise MissingFileError(f"no file matches {source}{beside(place)}")
        found.update(path.absolute() for path in files)
    if not found:
        raise MissingFileError("no file is named; give folders, globs or files")
    return sorted(found)


def grid_of(path: Path) -> Grid:
    """Return the grid of a raster."""
    if not path.exists():
        raise MissingFileError(f"--align: there is no file {path}")
    with open_raster(path) as source:
        return grid_of_dataset(source)


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


def open_raster(path: Path | str) -> Any:
    """Open a raster with GDAL, or say on one line why not."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    if Path(path).exists() and not Path(path).is_dir():  # GDAL opens folders of some kinds, and addresses
        check_plain(Path(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except Exception as error:
        raise CubeError(f"{path} can't be opened as a raster: {one_line(error)}") from error


def grid_of_dataset(source: Any) -> Grid:
    """Return the grid of an opened raster."""
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
def same_crs(one: str | None, other: str | None) -> bool:
    """Whether two CRS are one, however they are spelled."""
    if one == other:
        return True
    if one is None or other is None:
        return False
    from rasterio.crs import CRS

    return bool(CRS.from_wkt(one) == CRS.from_wkt(other))
