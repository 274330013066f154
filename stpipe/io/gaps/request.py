"""What is asked of gap statistics, checked and planned before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from stpipe.core.gap_statistics import GapCalendar, GapOptions, check_dates, gap_calendar
from stpipe.core.samples import check_fillable, gap_value
from stpipe.core.trust import Trust
from stpipe.errors import CubeError, OptionError
from stpipe.execution.clusters.connect import (
    check_workers,
    cores,
    share_of_memory,
    worker_memory,
)
from stpipe.execution.clusters.plan import ClusterPlan
from stpipe.execution.storage import is_remote
from stpipe.io.cube import Cube, Period
from stpipe.io.fillable import open_fillable
from stpipe.io.frames import RasterGrid, safe_names
from stpipe.io.gaps.folder import STORE, GapsFolder, check_space
from stpipe.io.gaps.plan import GapPlan, plan_gaps
from stpipe.io.inspection import domain_hints
from stpipe.io.names import check_array_names


@dataclass(frozen=True, slots=True, kw_only=True)
class GapsRequest:
    """What the user asked for."""

    cube: Path
    """The input."""

    output: Path | None = None
    """The output folder; beside the cube unless given."""

    variables: tuple[str, ...] = ()
    """What to look at; all measurements unless given."""

    options: GapOptions = field(default_factory=GapOptions)
    """What to work out."""

    zarr: bool = False
    """Whether the statistics are wanted as Zarr too."""

    time: Period | None = None
    """Period to look at."""

    aoi: Path | None = None
    """GeoJSON of the area to look at."""

    domain: str | None = None
    """Static variable that is non-zero where values can exist."""

    valid_range: tuple[float, float] | None = None
    """Physical values outside of it are gaps."""

    trust: Trust | None = None
    """Rules on which samples to trust."""

    workers: int | None = None
    """Worker processes; one a core unless given."""

    memory_limit: int | None = None
    """Bytes a worker may take."""

    scheduler: str | None = None
    """Address of a scheduler to use instead of a LocalCluster."""

    cluster: ClusterPlan | None = None
    """What to start instead of a LocalCluster."""

    overwrite: bool = False
    """Whether finished statistics may be replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedGaps:
    """A run that may begin."""

    request: GapsRequest
    """What was asked for."""

    cube: Cube
    """The input."""

    calendar: GapCalendar
    """Its dates."""

    plans: tuple[GapPlan, ...]
    """How each variable is walked."""

    names: Mapping[str, str]
    """Each variable's part of file names."""

    folder: GapsFolder
    """Where all goes."""

    workers: int
    """Worker processes."""

    memory_limit: int
    """Bytes each may take."""

    notes: tuple[str, ...]
    """What the user should know."""

    @property
    def products(self) -> list[str]:
        """Names of all products but the report."""
        files = [f"{name}_gaps.{ending}" for name in self.names.values() for ending in ("tif", "png")]
        return files + [STORE] * self.request.zarr


def default_output(cube: Path) -> Path:
    """Return the output folder that goes with a cube.

    >>> default_output(Path("data/cube.zarr")).name
    'cube.gaps'
    """
    if is_remote(cube):
        raise OptionError(f"{cube} is not on this machine; say with -o which folder here its statistics go to")
    return cube.with_name(f"{Path(cube.name or cube.resolve().name).stem}.gaps")


def prepare(request: GapsRequest) -> PreparedGaps:
    """Open the cube, check every option and plan; nothing is changed.

    Raises
    ------
    RefusedError
        If something can't be met.
    """
    workers = check_workers(cores() if request.workers is None else request.workers)
    memory_limit = share_of_memory(workers) if request.memory_limit is None else request.memory_limit
    if request.cluster is not None:
        workers, memory_limit = request.cluster.maximum, worker_memory(request.cluster)
    cube, notes = open_fillable(
        request.cube,
        variables=request.variables or None,
        domain=request.domain,
        time=request.time,
        aoi=request.aoi,
        trust=request.trust,
    )
    calendar = cube_calendar(cube, request.options, request.time)
    check_dates(calendar, request.options, cube.path)
    grid = RasterGrid.of(cube)
    said = [*notes, *domain_hints(cube)]
    said += [] if grid.note is None else [grid.note]
    for info in cube.variables:
        check_fillable(info)
        if gap_value(info) is None and cube.trust is None and request.valid_range is None:
            said.append(
                f"{info.name}: {info.dtype} without nodata can't say gap; name what to trust, or set _FillValue"
            )
    if request.zarr:
        check_array_names(cube.names, taken=(), place=cube.path)
    plans = tuple(
        plan_gaps(
            grid=grid,
            info=info,
            offset=cube.offset,
            calendar=calendar,
            options=request.options,
            memory_limit=memory_limit,
        )
        for info in cube.variables
    )
    folder = GapsFolder(request.output or default_output(request.cube))
    if folder.path.resolve().is_relative_to(Path(cube.path)) and Path(cube.path).is_dir():
        raise CubeError(f"{folder.path} lies inside the cube {cube.path}; choose another folder with -o")
    folder.check(overwrite=request.overwrite)
    check_space(folder.path, sum(_disk_bytes(plan, calendar, request) for plan in plans))
    return PreparedGaps(
        request=request,
        cube=cube,
        calendar=calendar,
        plans=plans,
        names=safe_names(cube.names),
        folder=folder,
        workers=workers,
        memory_limit=memory_limit,
        notes=tuple(said),
    )


def cube_calendar(cube: Cube, options: GapOptions, period: Period | None) -> GapCalendar:
    """Return the dates of a cube; the period is the one asked for, or from its first to its last frame."""
    return gap_calendar(cube.times, cube.days, by=options.by, period=period_bounds(period))


def period_bounds(period: Period | None) -> tuple[np.datetime64 | None, np.datetime64 | None]:
    """Return the first and the last day of a period that has been checked; None is open.

    >>> period_bounds(("2023-02", "2023-02"))
    (np.datetime64('2023-02-01'), np.datetime64('2023-02-28'))
    """
    start, end = (
        None if text is None or text.strip() in {"", ".."} else pd.Period(text.strip().removesuffix("Z"))
        for text in period or (None, None)
    )
    return (
        None if start is None else np.datetime64(start.start_time.date(), "D"),
        None if end is None else np.datetime64(end.end_time.date(), "D"),
    )


def _disk_bytes(plan: GapPlan, calendar: GapCalendar, request: GapsRequest) -> int:
    """Return what a variable may take on disk while it is worked out: days compress to less than half of floats."""
    pixels = plan.grid.height * plan.grid.width
    values = 4 * pixels * len(calendar.groups) * len(request.options.statistics)
    bits = plan.bits("").bytes if plan.gather else 0
    # Tiles, or the file made of them: they go as it grows, once its overviews, a quarter of it, are there.
    encoded = values * 4 // 3 // 2
    return bits + encoded + encoded // 4 + (values // 2 if request.zarr else 0)
