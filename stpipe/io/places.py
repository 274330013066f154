"""Where the frames and pixels of a cube are, and how those of one lie on another's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.resampling import Axis
from stpipe.core.windows import Triple
from stpipe.errors import CubeError
from stpipe.io.dimensions import coordinate_of
from stpipe.io.georeference import Affine6, crs_wkt_of, transform_of

if TYPE_CHECKING:  # xarray takes 40 MiB, and workers read guides without
    import xarray as xr

    from stpipe.io.cube import Cube
    from stpipe.io.objects import ObjectCube


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """Where the frames and pixels of a cube, or of a guide, are."""

    label: str
    """What it is called in messages."""

    extent: Triple
    """Shape along (time, y, x)."""

    times: NDArray[np.datetime64]
    """(t,), dates of the frames."""

    crs_wkt: str | None
    """CRS, if known."""

    transform: Affine6 | None
    """Of the frames, on even grids."""

    y: NDArray[Any] | None
    """(y,), coordinates of the pixels' centres, if there are any."""

    x: NDArray[Any] | None
    """(x,), likewise."""

    def told(self) -> str:
        """Return what tells a place from others, for the names of tasks."""
        from dask.base import tokenize

        axes = [None if axis is None else np.asarray(axis) for axis in (self.times, self.y, self.x)]
        return str(tokenize(self.extent, axes, self.crs_wkt, self.transform))

    @classmethod
    def of_cube(cls, cube: Cube) -> Place:
        """Return that of a cube in a file."""
        return cls(
            label=cube.path,
            extent=cube.extent,
            times=cube.times,
            crs_wkt=cube.crs_wkt,
            transform=cube.transform,
            y=cube.y,
            x=cube.x,
        )

    @classmethod
    def of_object(cls, cube: ObjectCube, label: str) -> Place:
        """Return that of an object of xarray."""
        from stpipe.io.times import decode_times

        along_time = coordinate_of(cube.dataset, cube.dims[0], "time")
        assert along_time is not None  # it was understood
        times = decode_times(along_time, label).labels
        return cls.of_variable(cube.dataset, cube.names[0], cube.dims[1:], label=label, times=times)

    @classmethod
    def of_variable(
        cls, dataset: xr.Dataset, name: str, dims: tuple[str, str], *, label: str, times: NDArray[np.datetime64]
    ) -> Place:
        """Return that of a variable over (y, x), and over frames if there are any, of a dataset."""
        variable, (y, x) = dataset[name].variable, dims
        along_y, along_x = coordinate_of(dataset, y, "y"), coordinate_of(dataset, x, "x")
        ys, xs = (None if c is None or c.dtype.kind not in "iuf" else c.values for c in (along_y, along_x))
        return cls(
            label=label,
            extent=(max(1, times.size), variable.sizes[y], variable.sizes[x]),
            times=times,
            crs_wkt=crs_wkt_of(dataset, variable, along_y, along_x),
            transform=transform_of(dataset, variable, ys, xs),
            y=ys,
            x=xs,
        )


def axes_of(guide: Place, cube: Place) -> tuple[Axis, Axis]:
    """Return how the pixels of a cube lie on a guide's, along y and x; refuse what has no CRS or grid in common."""
    if not _same_crs(guide.crs_wkt, cube.crs_wkt):
        names = " and ".join(_crs_name(place.crs_wkt) for place in (guide, cube))
        raise CubeError(
            f"{both(guide)} have no common CRS ({names}); warp the guide to the cube's, as stpipe ingest can"
        )
    if guide.transform is None or cube.transform is None:
        equal = [
            (a is None and b is None and n == m) or (a is not None and b is not None and np.array_equal(a, b))
            for a, b, n, m in zip((guide.y, guide.x), (cube.y, cube.x), guide.extent[1:], cube.extent[1:], strict=True)
        ]
        if not all(equal):
            raise CubeError(
                f"{both(guide)} are on different grids, and one is uneven or without coordinates; bring the "
                "guide onto the cube's grid"
            )
        return Axis(start=0.0, step=1.0, length=guide.extent[1]), Axis(start=0.0, step=1.0, length=guide.extent[2])
    (a, b, c, d, e, f), (ga, gb, gc, gd, ge, gf) = cube.transform, guide.transform
    if b or d or gb or gd:
        raise CubeError(f"{both(guide)} are on grids of which one is turned; warp the guide to the cube's grid")
    rows = Axis(start=(f - gf) / ge, step=e / ge, length=guide.extent[1])
    return rows, Axis(start=(c - gc) / ga, step=a / ga, length=guide.extent[2])


def _same_crs(one: str | None, other: str | None) -> bool:
    if one is None or other is None or one == other:
        return one == other
    from pyproj import CRS

    first, second = CRS.from_wkt(one), CRS.from_wkt(other)
    return bool(first == second) or bool(first.equals(second, ignore_axis_order=True)) or _same_code(first, second)


def _same_code(one: Any, other: Any) -> bool:
    """Whether two CRS that are written in different ways have the same EPSG code."""
    codes = [crs.to_epsg() for crs in (one, other)]
    return codes[0] is not None and codes[0] == codes[1]


def _crs_name(wkt: str | None) -> str:
    if wkt is None:
        return "none"
    from pyproj import CRS

    crs = CRS.from_wkt(wkt)
    code = crs.to_epsg()
    return crs.name if code is None else f"EPSG:{code}"


def both(guide: Place) -> str:
    """Return what a guide and the cube are called together."""
    numbered = guide.label.startswith("guide ")  # an object of xarray, which has no name of its own
    return f"{guide.label if numbered else f'the guide {guide.label}'} and the cube"


def reach(place: Place) -> str:
    """Return how far a frame reaches, in its CRS."""
    if place.transform is None:
        return f"{place.extent[2]} x {place.extent[1]} pixels"
    a, _, left, _, e, top = place.transform
    _, height, width = place.extent
    return f"x {left:.12g} to {left + a * width:.12g} and y {top:.12g} to {top + e * height:.12g}"


def period(place: Place) -> str:
    """Return the first and the last date."""
    return f"{str(place.times[0])[:10]} to {str(place.times[-1])[:10]}"
