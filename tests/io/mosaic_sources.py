"""A cube in memory that counts its reads, for the tests of rasters and pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import VariableInfo
from stpipe.core.samples import SOURCE_CODES
from stpipe.core.windows import Triple, Window

UTM = "EPSG:32615"
NORTH_UP = (30.0, 0.0, 500_000.0, 0.0, -30.0, 4_000_000.0)
SOURCE_ATTRS = {"flag_values": list(SOURCE_CODES.values()), "flag_meanings": " ".join(SOURCE_CODES)}


@dataclass
class ArrayReader:
    """Reads windows of arrays."""

    arrays: dict[str, NDArray[Any]]
    reads: list[Window] = field(default_factory=list)

    @property
    def extent(self) -> Triple:
        return next(iter(self.arrays.values())).shape

    def read(self, variable: str, window: Window) -> NDArray[Any]:
        assert Window.of(self.extent).contains(window)
        self.reads.append(window)
        return self.arrays[variable][window.slices].copy()

    def read_domain(self, window: Window) -> None:
        return None


@dataclass
class ArraySource:
    """A cube of arrays."""

    arrays: dict[str, NDArray[Any]]
    variables: tuple[VariableInfo, ...]
    times: NDArray[np.datetime64]
    y: NDArray[np.float64] | None = None
    x: NDArray[np.float64] | None = None
    crs_wkt: str | None = None
    transform: tuple[float, ...] | None = None

    @property
    def extent(self) -> Triple:
        return next(iter(self.arrays.values())).shape

    def reader(self, names: Any = None) -> ArrayReader:
        return ArrayReader({name: self.arrays[name] for name in names or self.arrays})


def days(count: int) -> NDArray[np.datetime64]:
    return np.datetime64("2023-01-01T10:30:00", "ns") + np.arange(count) * np.timedelta64(5, "D")


def array_source(
    arrays: dict[str, NDArray[Any]],
    *,
    chunks: Triple = (4, 64, 64),
    transform: tuple[float, ...] | None = NORTH_UP,
    crs: str | None = UTM,
    times: NDArray[np.datetime64] | None = None,
    **about: Any,
) -> ArraySource:
    """Return a cube of these arrays; a name that ends in _source holds source codes, `about` goes to the others."""
    from rasterio.crs import CRS

    variables = []
    for name, values in arrays.items():
        rest = {"attrs": SOURCE_ATTRS} if name.endswith("_source") else about
        variables.append(VariableInfo(name=name, dtype=str(values.dtype), chunks=chunks, **rest))
    count, height, width = next(iter(arrays.values())).shape
    y = x = None
    if transform is not None:
        y = transform[5] + transform[4] * (np.arange(height) + 0.5)
        x = transform[2] + transform[0] * (np.arange(width) + 0.5)
    return ArraySource(
        arrays=arrays,
        variables=tuple(variables),
        times=days(count) if times is None else times,
        y=y,
        x=x,
        crs_wkt=None if crs is None else CRS.from_user_input(crs).to_wkt(),
        transform=transform,
    )
