"""Frames on their way to files: what a raster holds, what it is called, and which way up it lies.

Nothing here opens a file, so that a plan can name every GeoTIFF before the first one is written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import CubeReader, VariableInfo
from stpipe.core.samples import SOURCE_CODES
from stpipe.core.windows import Triple, Window
from stpipe.errors import CubeError, OptionError

Affine6 = tuple[float, float, float, float, float, float]
"""x = a*column + b*row + c, y = d*column + e*row + f, of a pixel's outer corner."""

LONGEST_NAME = 180
"""Most file systems stop at 255 bytes; a date, a role and a temporary prefix come on top."""

SOURCE_SUFFIX = "_source"
"""VAR_source says where each sample of VAR comes from."""

PERCENTS = range(50, 100)
"""What share of the truth intervals may be asked to hold, in per cent."""

USUAL_PERCENT = 90
"""What they hold unless asked otherwise."""

SOURCE_COLOURS = {
    "outside_domain": "#d9d9d9",
    "observed": "#4477aa",
    "filled": "#66c2a5",
    "filled_by_fallback": "#fdb863",
    "unfilled": "#b2182b",
}
"""Colour of each source code, in files and pictures; told apart by colour-blind readers too."""


class FrameSource(Protocol):
    """A cube, as far as rasters need to know it."""

    @property
    def variables(self) -> tuple[VariableInfo, ...]:
        """Variables over (time, y, x)."""

    @property
    def extent(self) -> Triple:
        """Shape of the cube."""

    @property
    def times(self) -> NDArray[np.datetime64]:
        """(time,), datetime64[ns]."""

    @property
    def y(self) -> NDArray[Any] | None:
        """Coordinates of the pixel centres along y, or None."""

    @property
    def x(self) -> NDArray[Any] | None:
        """Coordinates of the pixel centres along x, or None."""

    @property
    def crs_wkt(self) -> str | None:
        """Coordinate reference system, or None."""

    @property
    def transform(self) -> Affine6 | None:
        """Pixel corner to coordinates, in the stored order of rows and columns, or None."""

    def reader(self, names: Sequence[str]) -> CubeReader:
        """Return a picklable reader of stored samples."""


def holds_sources(info: VariableInfo) -> bool:
    """Whether a variable holds the source codes of a filled one; a name alone says little.

    >>> holds_sources(VariableInfo(name="water_source", dtype="uint8", chunks=(1, 1, 1)))
    False
    """
    meanings = str(info.attrs.get("flag_meanings", "")).split()
    return info.name.endswith(SOURCE_SUFFIX) and np.dtype(info.dtype) == np.uint8 and meanings == [*SOURCE_CODES]


CODES = frozenset({"scl", "clm", "fmask", "qa", "qa_pixel", "pixel_qa", "bqa", "qa60", "cloud_mask", "qa_radsat"})
"""Well-known names of variables that hold codes, which no method can fill."""


def holds_codes(name: str, attrs: Mapping[str, Any]) -> bool:
    """Whether a variable holds codes by its name or by what its file says of it.

    >>> holds_codes("SCL", {}), holds_codes("class", {"flag_values": [0, 1]}), holds_codes("ndvi", {"units": "1"})
    (True, True, False)
    """
    return name.lower() in CODES or bool({"flag_values", "flag_masks"} & set(attrs))


def half_width_name(variable: str, percent: int) -> str:
    """Return the name of a variable's intervals: VAR_ci90 is the half-width of a 90 % interval around VAR.

    >>> half_width_name("ndvi", 90)
    'ndvi_ci90'
    """
    return f"{variable}_ci{percent}"


def companions(variable: str) -> tuple[str, ...]:
    """Return all the names that what comes with a filled variable may have."""
    return (variable + SOURCE_SUFFIX, *(half_width_name(variable, percent) for percent in PERCENTS))


def percent_of(variable: str, names: Container[str]) -> int | None:
    """Return which intervals of a variable are among some names; the widest of several, None if there are none.

    >>> percent_of("ndvi", ["ndvi", "ndvi_source", "ndvi_ci80"])
    80
    """
    return next((p for p in reversed(PERCENTS) if half_width_name(variable, p) in names), None)


def interval_percent(coverage: object, option: str) -> int:
    """Return the coverage of intervals in per cent, or refuse.

    Parameters
    ----------
    coverage : float
        Share of the truth that intervals are to hold.
    option : str
        Its name where the user gave it.

    Examples
    --------
    >>> interval_percent(0.9, "--interval")
    90
    """
    number = isinstance(coverage, int | float | np.integer | np.floating) and not isinstance(coverage, bool)
    percent = 100 * float(coverage) if number else np.nan  # type: ignore[arg-type]
    if not (np.isfinite(percent) and round(percent) in PERCENTS and abs(percent - round(percent)) < 1e-6):
        raise OptionError(
            f"{option} needs the share of the truth that intervals hold, from 0.5 to 0.99 in hundredths such as 0.9, "
            f"got {coverage!r}"
        )
    return round(percent)


def infos_of(source: FrameSource) -> dict[str, VariableInfo]:
    """Return the variables of a cube by name."""
    return {info.name: info for info in source.variables}


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterGrid:
    """Size and place of a file's pixels, north up and west to the left.

    Examples
    --------
    >>> grid = RasterGrid.place(height=3, width=2, crs_wkt=None, transform=(10, 0, 500, 0, 10, 0), y=None, x=None)
    >>> grid.flip_y, grid.transform
    (True, (10.0, 0.0, 500.0, 0.0, -10.0, 30.0))
    """

    height: int
    """Rows."""

    width: int
    """Columns."""

    crs_wkt: str | None
    """Coordinate reference system, or None."""

    transform: Affine6 | None
    """Of the file, after flipping; None where pixels lie on no regular grid."""

    flip_y: bool
    """Whether the cube's rows go north."""

    flip_x: bool
    """Whether the cube's columns go west."""

    @classmethod
    def of(cls, source: FrameSource) -> RasterGrid:
        """Return the grid of a cube's frames."""
        _, height, width = source.extent
        return cls.place(
            height=height,
            width=width,
            crs_wkt=source.crs_wkt,
            transform=source.transform,
            y=source.y,
            x=source.x,
        )

    @classmethod
    def place(
        cls,
        *,
        height: int,
        width: int,
        crs_wkt: str | None,
        transform: Sequence[float] | None,
        y: NDArray[Any] | None,
        x: NDArray[Any] | None,
    ) -> RasterGrid:
        """Return the north-up grid of frames that may be stored in any order."""
        if transform is None:
            flip_y = y is not None and len(y) > 1 and bool(y[-1] > y[0])
            flip_x = x is not None and len(x) > 1 and bool(x[-1] < x[0])
            return cls(height=height, width=width, crs_wkt=crs_wkt, transform=None, flip_y=flip_y, flip_x=flip_x)
        a, b, c, d, e, f = (float(number) for number in transform)
        # A rotated grid has no side that is north; it stays as it is.
        straight = b == 0 and d == 0
        flip_y, flip_x = straight and e > 0, straight and a < 0
        if flip_y:
            e, f = -e, f + e * height
        if flip_x:
            a, c = -a, c + a * width
        return cls(
            height=height, width=width, crs_wkt=crs_wkt, transform=(a, b, c, d, e, f), flip_y=flip_y, flip_x=flip_x
        )

    def turn(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return (t, y, x) samples of the cube in the order of the file, as a view."""
        return values[:, :: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def offsets(self, window: Window) -> tuple[int, int]:
        """Return the first row and column, in the file, of a window of the cube."""
        _, top, left = window.start
        _, bottom, right = window.stop
        return (self.height - bottom if self.flip_y else top, self.width - right if self.flip_x else left)

    @property
    def note(self) -> str | None:
        """One line for the user where files can't say where they lie; None where they can."""
        if self.transform is None:
            return "the cube's pixels lie on no regular grid, so its GeoTIFF files say nothing about where they lie"
        if self.crs_wkt is None:
            return "the cube has no CRS, so its GeoTIFF files have coordinates without one"
        return None


def safe_name(variable: str) -> str:
    """Return a variable's name as part of a file name: ASCII letters, digits and ``. _ -`` only.

    >>> safe_name("NDVI/10 m"), safe_name("../../etc")
    ('NDVI_10_m', '_.._etc')
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", variable).lstrip(".")
    if not name or len(name) > LONGEST_NAME:
        raise CubeError(
            f"a variable's name must give a file name of 1 to {LONGEST_NAME} characters, "
            f"{variable[:40]!r} gives {len(name)}; rename it"
        )
    return name


def safe_names(variables: Sequence[str]) -> dict[str, str]:
    """Return the file name part of each variable; refuse two that would share their files.

    Names that differ in case only are taken as one, because some file systems do so.

    >>> safe_names(["red", "near infrared"])
    {'red': 'red', 'near infrared': 'near_infrared'}
    """
    owners: dict[str, str] = {}
    names: dict[str, str] = {}
    for variable in variables:
        name = safe_name(variable)
        other = owners.setdefault(name.casefold(), variable)
        if other != variable:
            raise CubeError(
                f"variables {other!r} and {variable!r} would share the file name {name!r}; "
                "choose one of them, or rename one"
            )
        names[variable] = name
    return names


def frame_dates(times: NDArray[np.datetime64]) -> tuple[str, ...]:
    """Return the date of each frame in full, ISO 8601, to the nanosecond where one is needed.

    >>> frame_dates(np.array(["2023-05-01T10:30", "2023-05-01T10:30:00.5"], dtype="M8[ns]"))
    ('2023-05-01T10:30:00', '2023-05-01T10:30:00.500000000')
    """
    if np.isnat(times).any():
        raise CubeError(f"every frame needs a time, frame {int(np.isnat(times).argmax())} has none")
    unit: Literal["ns", "us"] = "ns" if times.dtype == "M8[ns]" else "us"  # nanoseconds end in 1677 and 2262
    exact = np.datetime_as_string(times.astype(f"M8[{unit}]"), unit=unit)
    seconds = len("2023-05-01T10:30:00")
    return tuple(str(text) if str(text)[seconds:].strip(".0") else str(text)[:seconds] for text in exact)


def frame_labels(times: NDArray[np.datetime64]) -> tuple[str, ...]:
    """Return the part of each frame's file name that is its own: YYYYMMDDTHHMMSS.

    Frames of one second get its fraction too, and frames of one instant their number among them.

    >>> frame_labels(np.array(["2023-05-01", "2023-05-02", "2023-05-02T00:00:00.25", "2023-05-01"], dtype="M8[ns]"))
    ('20230501T000000.000000000_1', '20230502T000000.000000000', '20230502T000000.250000000', \
'20230501T000000.000000000_2')
    """
    dates = [date.replace("-", "").replace(":", "") for date in frame_dates(times)]
    seconds = Counter(date[:15] for date in dates)
    instants = Counter(dates)
    seen: Counter[str] = Counter()
    labels = []
    for date in dates:
        label = date[:15]
        if seconds[label] > 1:
            label = date if "." in date else f"{date}.000000000"
        if instants[date] > 1:
            seen[date] += 1
            label = f"{label}_{seen[date]}"
        labels.append(label)
    return tuple(labels)
