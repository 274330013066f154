"""A layer: one scene of one variable, wherever it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON
from stpipe.io.rasters import Grid


class Source(Protocol):
    """Where the samples of a layer are, and how to get at them."""

    def read(self, want: Want) -> NDArray[Any]:
        """Return the stored samples of a window of the target grid, (y, x)."""

    def identity(self) -> JSON:
        """Return what tells these samples from others: files, their sizes and times of modification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A window of the target grid, and how samples on another grid come to lie on it."""

    grid: Grid
    """The target."""

    rows: slice
    """Inside the target."""

    columns: slice
    """Inside the target."""

    resampling: str
    """GDAL's name of the way to warp."""

    source_nodata: float | None
    """Stored value of gaps in the layer."""

    fill: float | None
    """Stored value for pixels that the layer does not cover."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def window(self) -> Grid:
        """The grid of the window alone."""
        a, b, c, d, e, f = self.grid.transform
        row, column = self.rows.start, self.columns.start
        moved = (a, b, c + a * column + b * row, d, e, f + d * column + e * row)
        return Grid(crs_wkt=self.grid.crs_wkt, transform=moved, shape=self.shape)

    def offset_in(self, other: Grid) -> tuple[int, int] | None:
        """Return which row and column of another grid the window's first pixel is; None on another lattice."""
        offset = self.grid.offset_in(other)
        return None if offset is None else (offset[0] + self.rows.start, offset[1] + self.columns.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One scene of one variable."""

    path: str
    """The file, for messages."""

    variable: str
    """What it shows."""

    time: datetime
    """When it was acquired."""

    scene: str
    """Layers of one time that have this in common were acquired together."""

    grid: Grid
    """Where its pixels are."""

    dtype: str
    """NumPy dtype."""

    nodata: float | None
    """Stored value of gaps."""

    source: Source
    """Where the samples are."""

    origin: str = ""
    """The cube it is from; empty for files that are one layer each."""

    scale: float = 1.0
    """Physical value = stored value x scale + offset."""

    offset: float = 0.0
    """See `scale`."""

    attrs: Mapping[str, JSON] = field(default_factory=dict)
    """Units and whatever else the file says."""

    @property
    def order(self) -> tuple[datetime, str, str]:
        """What layers are sorted by."""
        return self.time, self.path, self.variable


def fill_value(dtype: np.dtype[Any], fill: float | None) -> Any:
    """Return a fill as a scalar of a type; zero where there is none, which is where none is needed."""
    return dtype.type(0 if fill is None else fill)
