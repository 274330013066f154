"""Guides that the user gives: other variables, of this cube or another one, brought onto the cube's frames and pixels.

In space by the nearest pixel, bilinearly, or as the mean of what a pixel covers, each over the samples that are valid.
In true time linearly between the dates of the guide around each frame; where there is a date on one side only, or the
other one is too far away, the nearest one counts, up to `window_days`. A pixel that is gap at a date of the guide goes
to its next valid date.

Weights are told by the pixel's place in the cube, and dates by the frame's: a sample is the same in whichever window
it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stpipe.core.geometry import NO_RULES, GuideCost, QualityCost
from stpipe.core.ports import JSON, CubeReader, VariableInfo
from stpipe.core.resampling import PLACE_DIGITS, RESAMPLINGS, TIME_SLACK, Axis, Resampling, at_frames
from stpipe.core.samples import check_fillable, credible, physical, valid_samples
from stpipe.core.sizes import MIB
from stpipe.core.survey import location_and_spread
from stpipe.core.timeline import median_step
from stpipe.core.windows import Triple, Window, triple
from stpipe.errors import CubeError, OptionError
from stpipe.execution.storage import located
from stpipe.io.places import Place, axes_of, both, period, reach
from stpipe.io.run_folder import file_state

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

Decode = Callable[[F64, NDArray[np.bool_]], tuple[F64, NDArray[np.bool_]]]
"""Makes of physical values, and where they are valid, others."""

Readable = tuple[str, VariableInfo, CubeReader]
"""What a variable is called as a guide, how it is stored, and what reads it."""

WINDOW_STEPS = 2.0
"""A guide counts so many of its median steps before its first date and after its last, unless told otherwise."""

SAMPLE_FRAMES = 12
"""Dates of a guide that its location and spread are told from."""

SAMPLE_PATCHES = 3
"""Patches along each axis of a frame that they are told from."""

SAMPLE_SIDE = 48
"""Side of a patch, in pixels of the guide."""

FARTHEST = 10.0
"""Values farther than this from a guide's location, in spreads, are cut to it: one bright roof steers no regression."""

READ_BYTES = 32 * MIB
"""Stored samples of a guide that are held at a time, or those of one chunk along time if they are more."""

SECONDS_PER_MILLION = 0.12
"""To read a million samples of one guide on one core, measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuideVariable:
    """One variable of a guide."""

    name: str
    """What it is called as a guide, each with a name of its own."""

    info: VariableInfo
    """How it is stored."""

    reader: CubeReader
    """Reads it."""

    location: float
    """Median of the samples that were looked at."""

    spread: float
    """Their robust standard deviation."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GridGuide:
    """The variables of one guide, as they lie on the cube's frames and pixels."""

    variables: tuple[GuideVariable, ...]
    """What is read."""

    extent: Triple
    """Shape of the cube."""

    days: F64
    """(t,), days of the cube's frames."""

    guide_days: F64
    """(date,), days of the guide's on the same clock."""

    rows: Axis
    """Along y."""

    columns: Axis
    """Along x."""

    resampling: Resampling
    """In space."""

    window_days: float
    """Dates farther from a frame than this don't count."""

    source: JSON
    """What tells this guide from another one."""

    quality: QualityCost = NO_RULES
    """What it takes to tell which samples are trusted, where rules say so."""

    def identity(self) -> JSON:
        """Return all that decides what is read."""
        return {
            "version": 1,
            "source": self.source,
            "resampling": self.resampling,
            "window_days": self.window_days,
            "variables": [[one.name, one.info.name, one.location, one.spread] for one in self.variables],
        }

    def read(self, window: Window) -> dict[str, F32]:
        """Return (t, y, x) of each variable, standardised, NaN where there is none."""
        inside = window.intersect(Window.of(self.extent))
        frames, rows, columns = inside.slices
        made = {}
        for one in self.variables:
            whole = np.full(window.shape, np.nan, dtype=np.float32)
            if inside.size:
                first, dates = self.dates(self.days[frames])
                scale = partial(_standardised, one.location, one.spread)
                stack = self.stack(one, first, dates.size, rows, columns, after=scale)
                whole[inside.within(window).slices] = at_frames(stack, dates, self.days[frames], self.window_days)
            made[one.name] = whole
        return made

    def dates(self, days: F64) -> tuple[int, F64]:
        """Return the first of the guide's dates that frames can need, and the days of all of them."""
        low, high = days[0] - self.window_days - TIME_SLACK, days[-1] + self.window_days + TIME_SLACK
        first, stop = np.searchsorted(self.guide_days, (low, high))
        return int(first), self.guide_days[first:stop]

    def stack(
        self,
        one: GuideVariable,
        first: int,
        count: int,
        rows: slice,
        columns: slice,
        *,
        before: Decode | None = None,
        after: Callable[[F64], F64],
    ) -> F32:
        """Return (date, y, x), a variable on the cube's pixels at its own dates, NaN where there is none.

        Parameters
        ----------
        one : GuideVariable
            The variable.
        first, count : int
            Dates of the guide.
        rows, columns : slice
            Pixels of the cube.
        before : callable, optional
            Given each date's physical values and where they are valid, returns both as they are to be resampled.
        after : callable
            Given resampled values, returns what is to be returned.
        """
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        stack = np.full((count, *shape), np.nan, dtype=np.float32)
        onto = _onto(self.rows, self.columns, rows, columns, self.resampling)
        if onto is None:
            return stack
        size = onto.box_y.stop - onto.box_y.start, onto.box_x.stop - onto.box_x.start
        plane = prod(size) * np.dtype(one.info.dtype).itemsize + self.quality.bytes((1, *size))
        deep = one.info.chunks[0]
        deep = max(deep, READ_BYTES // max(1, plane) // deep * deep)
        for low in range(first // deep * deep, first + count, deep):  # whole chunks along time, each read once
            begin, end = max(low, first), min(low + deep, first + count)
            window = Window((begin, onto.box_y.start, onto.box_x.start), (end, onto.box_y.stop, onto.box_x.stop))
            for number, decoded_date in enumerate(decoded(one.reader, one.info, window)):
                values, known = decoded_date if before is None else before(*decoded_date)
                onto.write(values, known, after, stack[begin - first + number])
        return stack

    @property
    def aligned(self) -> bool:
        """Whether its pixels are the cube's."""
        return self.rows.aligned and self.columns.aligned

    @property
    def sample_bytes(self) -> float:
        """Memory while one variable is read, for each sample of a window over all frames."""
        frames, *box = self.extent
        spans = [max(1, axis.span(n, self.resampling)) for axis, n in zip((self.rows, self.columns), box, strict=True)]
        finer = prod(span / n for span, n in zip(spans, box, strict=True))
        dates = self.guide_days.size / frames
        beside = self.quality.item + 1 if self.quality.item else 0
        stored = max(
            (np.dtype(one.info.dtype).itemsize + beside) * min(1.0, one.info.chunks[0] / self.guide_days.size)
            for one in self.variables
        )
        return dates * (5.0 + stored * max(finer, 0.25)) + 2.0 + (16.0 * max(finer, 1.0) + 40.0) / frames

    @property
    def chunk_bytes(self) -> int:
        """Of the largest chunk, and what is held of those that are read, twice while it is put in order."""
        chunks = [prod(one.info.chunks) * np.dtype(one.info.dtype).itemsize for one in self.variables]
        return 2 * READ_BYTES + max(*chunks, self.quality.chunk)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mixed:
    """How the pixels of a box of the guide become those of a window of the cube: by weights."""

    box_y: slice
    """Rows of the guide."""

    box_x: slice
    """Columns."""

    down: sparse.csr_matrix
    """(row, row of the box) weights."""

    across: sparse.csr_matrix
    """(column, column of the box) weights."""

    def write(self, values: F64, known: NDArray[np.bool_], after: Callable[[F64], F64], made: F32) -> None:
        """Write the means of what is known."""
        total = self.down @ np.where(known, values, 0.0) @ self.across.T
        share = self.down @ known.astype(np.float64) @ self.across.T
        there = share > 0
        mean = np.where(there, total, 0.0) / np.where(there, share, 1.0)
        made[...] = np.where(there, after(mean), np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copied:
    """The same where the pixels of both are the same."""

    box_y: slice
    """Rows of the guide."""

    box_x: slice
    """Columns."""

    part: tuple[slice, slice]
    """Of the window."""

    def write(self, values: F64, known: NDArray[np.bool_], after: Callable[[F64], F64], made: F32) -> None:
        """Write what is known."""
        np.copyto(made[self.part], after(values), where=known, casting="same_kind")


def _onto(rows: Axis, columns: Axis, y: slice, x: slice, resampling: Resampling) -> _Mixed | _Copied | None:
    """Return how a guide gets onto rows and columns of the cube; None if it has none there."""
    if rows.aligned and columns.aligned:
        parts = [axis.copied(cut.start, cut.stop) for axis, cut in ((rows, y), (columns, x))]
        if any(box.start >= box.stop for box, _ in parts):
            return None
        (box_y, part_y), (box_x, part_x) = parts
        return _Copied(box_y=box_y, box_x=box_x, part=(part_y, part_x))
    box_y, down = rows.weights(y.start, y.stop, resampling)
    box_x, across = columns.weights(x.start, x.stop, resampling)
    if not (down.shape[1] and across.shape[1]):
        return None
    return _Mixed(box_y=box_y, box_x=box_x, down=down, across=across)


def _standardised(location: float, spread: float, values: F64) -> F64:
    return np.asarray(((values - location) / spread).clip(-FARTHEST, FARTHEST))


def decoded(reader: CubeReader, info: VariableInfo, window: Window) -> Iterator[tuple[F64, NDArray[np.bool_]]]:
    """Give each frame's physical values and where they are valid, and trusted where there are rules."""
    stored, trusted = reader.read(info.name, window), reader.read_trusted(window)
    for number, samples in enumerate(stored):
        values = physical(samples, info)
        known = credible(values, valid_samples(values))
        yield values, known if trusted is None else known & trusted[number]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Guides:
    """All guides of a run, as a `GuideReader`."""

    parts: tuple[GridGuide, ...]
    """One for each that was named."""

    files: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Paths of their files, and the arrays that are read in each."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the guides."""
        return tuple(one.name for part in self.parts for one in part.variables)

    def identity(self) -> JSON:
        """Return all that decides what is read."""
        return [part.identity() for part in self.parts]

    def read(self, window: Window) -> dict[str, F32]:
        """Return (t, y, x) of each guide, standardised, NaN where there is none."""
        return {name: values for part in self.parts for name, values in part.read(window).items()}

    @property
    def cost(self) -> GuideCost:
        """What reading them takes."""
        return GuideCost(
            names=self.names,
            sample_bytes=max(part.sample_bytes for part in self.parts),
            chunk_bytes=max(part.chunk_bytes for part in self.parts),
            seconds_per_million=SECONDS_PER_MILLION * len(self.names),
        )

    def state(self) -> str:
        """Return a digest that changes when one of the files does."""
        states = [file_state(located(path), sources) for path, sources in self.files]
        return hashlib.sha256("\n".join(states).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuideOptions:
    """How guides are brought onto a cube."""

    variables: tuple[str, ...] = ()
    """Which variables to take; all measurements unless given."""

    resampling: Resampling | None = None
    """In space; the mean where a guide is finer than the cube, bilinear elsewhere, unless given."""

    window_days: float | None = None
    """Days that a date of a guide counts around it; twice the guide's median step unless given."""

    def __post_init__(self) -> None:
        if self.resampling is not None and self.resampling not in RESAMPLINGS:
            raise OptionError(f"a guide is resampled by one of {', '.join(RESAMPLINGS)}, got {self.resampling!r}")
        days = self.window_days
        if days is not None and not (isinstance(days, int | float | np.number) and 0 <= days < np.inf):
            raise OptionError(f"a guide's window needs a number of days, at least 0, got {days!r}")

    def checked(self, *, given: bool) -> GuideOptions:
        """Return this; refuse options on guides where there is none."""
        if not given and (self.variables or self.resampling is not None or self.window_days is not None):
            raise OptionError("which variables of a guide, and how it is resampled, goes with a guide; name its cube")
        return self


def placed(
    guide: Place,
    variables: Sequence[Readable],
    cube: Place,
    options: GuideOptions,
    *,
    source: JSON,
    widen: str = "--guide-window",
) -> GridGuide:
    """Return a guide's variables on the grid of a cube, standardised by a sample of them.

    Parameters
    ----------
    guide, cube : Place
        Where they are.
    variables : sequence of (name, VariableInfo, CubeReader)
        Of the guide.
    options : GuideOptions
        How they are brought there.
    source : JSON
        What tells the guide from another one.
    widen : str
        The option that makes its dates count longer.

    Raises
    ------
    CubeError
        If they have no CRS, no place or no time in common, or nothing in the guide is valid.
    """
    for _, info, _ in variables:
        check_fillable(info)
    rows, columns = axes_of(guide, cube)
    resampling: Resampling = options.resampling or (
        "average" if max(abs(rows.step), abs(columns.step)) > 1 + 10.0**-PLACE_DIGITS else "bilinear"
    )
    if 0 in (rows.span(cube.extent[1], resampling), columns.span(cube.extent[2], resampling)):
        raise CubeError(f"{both(guide)} do not overlap: {reach(guide)}, {reach(cube)}")
    clock = cube.times[0]
    days, guide_days = (_days(times, clock) for times in (cube.times, guide.times))
    window = WINDOW_STEPS * median_step(guide_days) if options.window_days is None else float(options.window_days)
    near = np.abs(days[:, None] - guide_days[np.clip(_nearest(guide_days, days), 0, guide_days.size - 1)])
    if near.min() > window + TIME_SLACK:
        raise CubeError(
            f"{both(guide)} have no time in common within {window:g} days: {period(guide)}, {period(cube)}; "
            f"widen {widen}, or choose another guide"
        )
    part = GridGuide(
        variables=(),
        extent=cube.extent,
        days=days,
        guide_days=guide_days,
        rows=rows,
        columns=columns,
        resampling=resampling,
        window_days=window,
        source=source,
    )
    scaled = []
    for name, info, reader in variables:
        location, spread = location_and_spread(sampled(part, guide, info, reader))
        scaled.append(GuideVariable(name=name, info=info, reader=reader, location=location, spread=spread))
    return replace(part, variables=tuple(scaled))


def _nearest(dates: F64, days: F64) -> NDArray[np.intp]:
    """Return (day, 2), the numbers of the dates around each day."""
    after = np.searchsorted(dates, days)
    return np.stack([after - 1, after], axis=1)


def _days(times: NDArray[np.datetime64], clock: np.datetime64) -> F64:
    """Return days since a date."""
    return np.asarray((times - clock) / np.timedelta64(1, "D"), dtype=np.float64)


def sampled(part: GridGuide, guide: Place, info: VariableInfo, reader: CubeReader) -> F64:
    """Return some of a variable's valid samples, where and when the cube is; refuse one that has none there."""
    first, dates = part.dates(part.days)
    frames = first + np.unique(np.linspace(0, dates.size - 1, min(SAMPLE_FRAMES, dates.size)).astype(int))
    boxes = []
    for axis, length in ((part.rows, part.extent[1]), (part.columns, part.extent[2])):
        where, _ = axis.weights(0, length, part.resampling)
        size = where.stop - where.start
        side = min(SAMPLE_SIDE, size)
        count = min(SAMPLE_PATCHES, -(-size // side))
        starts = where.start + np.unique(np.linspace(0, size - side, count).astype(int))
        boxes.append([(int(start), int(start) + side) for start in starts])
    picked: list[F64] = []
    for frame in frames:
        for top, bottom in boxes[0]:
            for left, right in boxes[1]:
                window = Window(triple((frame, top, left)), triple((frame + 1, bottom, right)))
                picked.extend(values[known] for values, known in decoded(reader, info, window))
    samples = np.concatenate(picked)
    if not samples.size:
        raise CubeError(
            f"variable {info.name!r} of {guide.label} has no valid sample on {frames.size} dates in {period(guide)} "
            "where the cube is, so it can't be a guide"
        )
    return samples
