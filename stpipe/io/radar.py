"""Radar images as covariates of a cube: the mean of the images around each frame, in dB, on the cube's pixels.

Backscatter is stored in dB or in linear power; which of both is told from its range. Samples at or below -40 dB are the
noise at an image's edge and count as none. In space backscatter is resampled, and in time averaged, in linear power,
for half of two echoes is half of their power; in dB if the user says so, as the published scripts do. Images of
ascending and of descending orbits can be kept apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpipe.core.geometry import GuideCost, QualityCost
from stpipe.core.ports import JSON
from stpipe.core.windows import Window
from stpipe.errors import CubeError, OptionError
from stpipe.execution.storage import located
from stpipe.io.cube import Cube, open_source
from stpipe.io.guides import SECONDS_PER_MILLION, GridGuide, GuideOptions, GuideVariable, Readable, placed, sampled
from stpipe.io.places import Place
from stpipe.io.run_folder import file_state
from stpipe.io.stored import absolute, kind_of, open_raw
from stpipe.methods.sar.composites import EDGE_NOISE_DB, composite, within
from stpipe.methods.sar.options import Average, RadarOptions

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

POLARISATIONS = ("vv", "vh")
"""Variables that are taken unless others are named."""

STATED = {"db": True, "decibel": True, "linear": False, "power": False, "linear power": False, "1": False}
"""Whether units are dB."""

LEAST_PAIRS = 10
"""Fewer frames with radar are no regression, as published."""

MOST_ORBITS = 4
"""Directions of orbits that are kept apart, at most: a variable of more values says something else."""

LARGEST_POWER = 100.0
"""99 of 100 samples in linear power are below this, 20 dB; digital numbers are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backscatter:
    """One polarisation of one orbit direction."""

    name: str
    """What it is called, such as ``VV`` or ``VV ascending``."""

    variable: GuideVariable
    """How it is stored."""

    decibels: bool
    """Whether it is stored in dB; in linear power otherwise."""

    images: tuple[bool, ...] | None = None
    """Which of the guide's dates count; None: all of them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Radar:
    """Radar of one file as it lies on a cube's frames and pixels, a `GuideReader` of dB."""

    part: GridGuide
    """Where its pixels and dates are."""

    echoes: tuple[Backscatter, ...]
    """What is read."""

    average: Average = "power"
    """How images become one."""

    path: str
    """The file."""

    sources: tuple[str, ...]
    """The arrays that are read in it."""

    notes: tuple[str, ...] = field(default=())
    """What the user should know."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what is read."""
        return tuple(echo.name for echo in self.echoes)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Names that go into one regression: those of an orbit direction."""
        found: dict[tuple[bool, ...] | None, list[str]] = {}
        for echo in self.echoes:
            found.setdefault(echo.images, []).append(echo.name)
        return tuple(map(tuple, found.values()))

    def identity(self) -> JSON:
        """Return all that decides what is read."""
        return {
            "version": 1,
            "source": self.part.source,
            "resampling": self.part.resampling,
            "window_days": self.part.window_days,
            "average": self.average,
            "echoes": [[echo.name, echo.variable.info.name, echo.decibels, echo.images] for echo in self.echoes],
        }

    def read(self, window: Window) -> dict[str, F32]:
        """Return (t, y, x) of each polarisation in dB, NaN where there is none."""
        inside = window.intersect(Window.of(self.part.extent))
        frames, rows, columns = inside.slices
        made = {}
        average: Average = "db" if self.part.aligned else self.average  # where pixels are the same there is no mean
        for echo in self.echoes:
            whole = np.full(window.shape, np.nan, dtype=np.float32)
            if inside.size:
                days = self.part.days[frames]
                first, dates = self.part.dates(days)
                stack = self.part.stack(
                    echo.variable,
                    first,
                    dates.size,
                    rows,
                    columns,
                    before=partial(_to_average, echo.decibels, average),
                    after=partial(_from_average, average),
                )
                if echo.images is not None:
                    chosen = np.array(echo.images[first : first + dates.size], dtype=bool)
                    stack, dates = stack[chosen], dates[chosen]
                whole[inside.within(window).slices] = composite(
                    stack, dates, days, self.part.window_days, power=self.average == "power"
                )
            made[echo.name] = whole
        return made

    def pairs(self) -> int:
        """Return how many frames have an image within the window."""
        return int(np.count_nonzero(self.covered()))

    def covered(self) -> NDArray[np.bool_]:
        """Return (t,) True where a frame has an image within the window."""
        starts, stops = within(self.part.guide_days, self.part.days, self.part.window_days)
        return starts < stops

    @property
    def cost(self) -> GuideCost:
        """What reading it takes."""
        return GuideCost(
            names=self.names,
            sample_bytes=self.part.sample_bytes + 16.0,
            chunk_bytes=self.part.chunk_bytes,
            seconds_per_million=SECONDS_PER_MILLION * len(self.names),
        )

    def state(self) -> str:
        """Return a digest that changes when the file does."""
        return file_state(located(self.path), self.sources)


def _to_average(
    decibels: bool, average: Average, values: F64, known: NDArray[np.bool_]
) -> tuple[F64, NDArray[np.bool_]]:
    """Return samples as they are to be averaged, and which of them are echoes and not edge noise."""
    if decibels:
        known = known & (values > EDGE_NOISE_DB)
        return (10.0 ** (np.where(known, values, 0.0) / 10.0) if average == "power" else values), known
    known = known & (values > 10.0 ** (EDGE_NOISE_DB / 10.0))
    return (values if average == "power" else 10.0 * np.log10(np.where(known, values, 1.0))), known


def _from_average(average: Average, values: F64) -> F64:
    """Return dB of what was averaged; anything at all where there was nothing."""
    if average == "db":
        return values
    return np.asarray(10.0 * np.log10(np.where(values > 0, values, 1.0)))


def open_radar(paths: Sequence[str | Path], cube: Cube, options: RadarOptions) -> Radar:
    """Open the radar of one cube, or of the very cube that is to be filled, and place it on a cube.

    Parameters
    ----------
    paths : sequence of str or Path
        One cube.
    cube : Cube
        What is to be filled.
    options : RadarOptions
        How.

    Raises
    ------
    RefusedError
        If there is no such file or variable, no place, time or CRS in common, too few frames with radar, or the numbers
        can't be backscatter. One line.
    """
    path = absolute(paths[0])
    chosen = radar_variables(paths, options.variables)
    filled = [name for name in chosen if path == cube.path and name in cube.names]
    if filled:
        raise CubeError(f"{', '.join(filled)} of {path} would be filled and be the radar; choose another --var")
    return radar_on(radar_file(path, chosen, options.by_orbit), Place.of_cube(cube), options)


@dataclass(frozen=True, slots=True, kw_only=True)
class RadarSource:
    """Radar before it is placed on a cube."""

    place: Place
    """Where it is, and what it is called in messages."""

    readable: Sequence[Readable]
    """Its polarisations."""

    identity: JSON
    """Tells it from another one."""

    quality: QualityCost
    """What it takes to tell which of its samples are trusted."""

    path: str = ""
    """The file, if it is one."""

    sources: tuple[str, ...] = ()
    """The arrays that are read in it."""

    orbits: Mapping[str, tuple[bool, ...]] | None = None
    """Which images belong to each orbit direction; None: they are mixed."""


def radar_file(path: str, variables: Sequence[str], by_orbit: str | None) -> RadarSource:
    """Open the radar of a file."""
    guide = open_source(path, variables=variables)
    return RadarSource(
        place=Place.of_cube(guide),
        readable=[(info.name, info, guide.reader([info.name])) for info in guide.variables],
        identity=guide.fingerprint,
        quality=guide.quality_cost,
        path=guide.path,
        sources=guide.sources,
        orbits=None if by_orbit is None else _orbits(guide, by_orbit),
    )


def radar_on(source: RadarSource, target: Place, options: RadarOptions) -> Radar:
    """Place radar on a cube; see `open_radar`."""
    wanted = GuideOptions(resampling=options.resampling, window_days=options.window_days)
    part = placed(source.place, source.readable, target, wanted, source=source.identity, widen="--sar-window")
    part = replace(part, quality=source.quality)
    orbits, label, frames = source.orbits, source.place.label, target.extent[0]
    echoes, notes = [], []
    for one in part.variables:
        decibels, note = _unit(sampled(part, source.place, one.info, one.reader), one, label)
        notes += note
        if orbits is None:
            echoes.append(Backscatter(name=one.name, variable=one, decibels=decibels))
            continue
        echoes += [
            Backscatter(name=f"{one.name} {orbit}", variable=one, decibels=decibels, images=images)
            for orbit, images in orbits.items()
        ]
    if orbits is not None:
        order = {images: number for number, images in enumerate(orbits.values())}
        echoes.sort(key=lambda echo: order[echo.images or ()])
    made = Radar(
        part=part,
        echoes=tuple(echoes),
        average=options.average,
        path=source.path,
        sources=source.sources,
        notes=tuple(notes),
    )
    without = frames - made.pairs()
    if without:
        line = (
            f"{without} of {frames} frames have no radar image within {options.window_days:g} days: they are "
            "left to interpolation in time"
        )
        made = replace(made, notes=(*made.notes, line))
    if made.pairs() < LEAST_PAIRS:
        raise CubeError(
            f"{made.pairs()} of {frames} frames have an image of {label} within "
            f"{options.window_days:g} days, but a regression on radar needs {LEAST_PAIRS}; widen --sar-window, or "
            "choose a longer period"
        )
    return made


def radar_variables(paths: Sequence[str | Path], asked: Sequence[str]) -> tuple[str, ...]:
    """Return which variables of a cube are the radar: those that are asked for, or VV and VH.

    Parameters
    ----------
    paths : sequence of str or Path
        One cube.
    asked : sequence of str
        Names, if the user gave any.

    Raises
    ------
    RefusedError
        If there are more cubes, or no such variables.
    """
    if len(paths) != 1:
        raise OptionError(f"method sar takes one --guide, the cube with the radar, got {len(paths)}")
    path = absolute(paths[0])
    return named_radar(open_source(path).names, asked, path)


def named_radar(there: Sequence[str], asked: Sequence[str], label: str) -> tuple[str, ...]:
    """Return which of the variables that are there are the radar, see `radar_variables`.

    Examples
    --------
    >>> named_radar(["ndvi", "VH", "vv"], (), "a.zarr")
    ('vv', 'VH')
    """
    for name in asked:
        if name not in there:
            alike = [other for other in there if other.lower() == name.lower()]
            near = alike or get_close_matches(name, there, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise CubeError(f"--guide-var {name} is not there; {hint}{label} has {', '.join(there)}")
    if asked:
        return tuple(asked)
    found: dict[str, list[str]] = {one: [n for n in there if n.lower() == one] for one in POLARISATIONS}
    for one, names in found.items():
        if len(names) > 1:
            raise CubeError(f"{label} has more than one {one.upper()}: {', '.join(names)}; choose with --guide-var")
    missing = [one.upper() for one, names in found.items() if not names]
    if missing:
        raise CubeError(
            f"{label} has no {' and no '.join(missing)}, but {', '.join(there)}; name what is radar with --guide-var"
        )
    return tuple(names[0] for names in found.values())


def _unit(samples: F64, one: GuideVariable, path: str) -> tuple[bool, list[str]]:
    """Return whether samples are in dB, from their range, and a note where the file says otherwise; refuse others."""
    low, middle, high = np.percentile(samples, (1, 50, 99))
    units = str(one.info.attrs.get("units", "")).strip()
    if middle < 0:
        decibels = True
        if high <= EDGE_NOISE_DB:
            raise CubeError(
                f"{one.name} of {path} is noise: it runs from {low:.4g} to {high:.4g} dB, and echoes begin above "
                f"{EDGE_NOISE_DB:g}; name another variable with --guide-var"
            )
    elif low >= 0 and high <= LARGEST_POWER:
        decibels = False
    else:
        raise CubeError(
            f"{one.name} of {path} runs from {low:.4g} to {high:.4g}, which is backscatter neither in dB nor in linear "
            "power; calibrate it, or name another variable with --guide-var"
        )
    stated = STATED.get(units.lower())
    if stated is None or stated == decibels:
        return decibels, []
    kind = "dB" if decibels else "linear power"
    return decibels, [f"{one.name} says it is in {units!r}, but runs from {low:.4g} to {high:.4g}: taken as {kind}"]


def _orbits(guide: Cube, name: str) -> dict[str, tuple[bool, ...]]:
    """Return which images belong to each orbit direction."""
    with open_raw(guide.path, kind_of(guide.path)) as raw:
        time = guide.dims[0]
        along = [str(n) for n, v in raw.variables.items() if v.dims == (time,) and str(n) != time]
        if name not in along:
            raise CubeError(
                f"--by-orbit {name} is no variable along {time} of {guide.path}; it has {', '.join(along) or 'none'}"
            )
        values = [str(value).strip().lower() for value in raw[name].values[guide.selection[time]].tolist()]
    there = sorted(set(values))
    if len(there) > MOST_ORBITS:
        raise CubeError(
            f"--by-orbit {name} has {len(there)} values in {guide.path}, such as {', '.join(there[:2])}; name the "
            "variable that says whether an orbit ascends or descends"
        )
    return {orbit: tuple(value == orbit for value in values) for orbit in there}
