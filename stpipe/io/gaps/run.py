"""Gap statistics of a cube on disk, from what was planned to a folder of products."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client

from stpipe import __version__
from stpipe.core.ports import JSON, VariableInfo
from stpipe.core.trust import Trust, remarks
from stpipe.errors import RunError
from stpipe.execution.clusters.connect import (
    check_cluster,
    connect,
)
from stpipe.execution.stages import (
    ContextPlugin,
    Progress,
    StageResult,
    Task,
    clean_workers,
    process_memory,
    run_stage,
    untold,
)
from stpipe.io.gaps.folder import STORE, GapsFolder
from stpipe.io.gaps.plan import GapPlan
from stpipe.io.gaps.request import PreparedGaps
from stpipe.io.gaps.store import create_store
from stpipe.io.gaps.summary import band_names, summarise
from stpipe.io.gaps.tasks import (
    GapContext,
    footprint_task,
    gather_task,
    overview_task,
    overview_tiles,
    start_worker,
)
from stpipe.io.tiff_parts import Band, Stretch, TiledRaster, assemble, sync

HERE_SAMPLES = 2**26
"""A cube with fewer samples is done before a cluster of this machine has started."""

_LISTED = 3

Draw = Callable[[Path, Mapping[str, JSON], Path], None]
"""Draws a variable: the picture's path, what the report says of the variable, and its GeoTIFF."""


def run_gaps(
    prepared: PreparedGaps,
    *,
    draw: Draw,
    progress: Progress | None = None,
    on_stage: Callable[[str], None] | None = None,
    on_client: Callable[[Client], AbstractContextManager[None]] | None = None,
    announce: Callable[[str], None] | None = None,
) -> dict[str, JSON]:
    """Work out gap statistics and leave their products; return what gaps.json says.

    Parameters
    ----------
    prepared : PreparedGaps
        From `prepare`.
    draw : callable
        Draws the picture of a variable.
    progress : callable, optional
        Told about finished tasks.
    on_stage : callable, optional
        Told about what comes before and after tasks, as it begins.
    on_client : callable, optional
        Given the client of the cluster, if there is one; what it returns is entered while the cluster works.
    announce : callable, optional
        Told where a cluster that is started can be watched.

    Raises
    ------
    RunError
        If tasks failed; no product is there then, and earlier ones are untouched.
    """
    folder, request = prepared.folder, prepared.request
    started = time.perf_counter()
    tell = on_stage or untold
    tell("start")
    new = not folder.path.exists()
    with _runner(prepared, announce, on_client) as (run, let_go), folder.locked():
        folder.check(overwrite=request.overwrite)
        try:
            folder.begin(prepared.products)
            report = _carry_out(prepared, run, let_go, draw, progress, tell)
            report["seconds"]["total"] = round(time.perf_counter() - started, 3)
            folder.publish(report, prepared.products)
        except BaseException:
            _tidy(folder, remove=new)
            raise
    return report


def _tidy(folder: GapsFolder, *, remove: bool) -> None:
    """Leave nothing of a run that failed: it starts anew in any case."""
    shutil.rmtree(folder.work, ignore_errors=True)
    if remove and folder.path.is_dir() and not any(folder.path.iterdir()):
        folder.path.rmdir()


Run = Callable[[GapContext, str, Task, int, "Progress | None"], StageResult]
"""Runs a task of a stage for each number below some."""


@contextmanager
def _runner(
    prepared: PreparedGaps,
    announce: Callable[[str], None] | None = None,
    on_client: Callable[[Client], AbstractContextManager[None]] | None = None,
) -> Iterator[tuple[Run, Callable[[], None]]]:
    """Give what runs tasks, on a cluster or right here if that is sooner, and what to call after the last of them."""
    request, needed = prepared.request, max(plan.peak_bytes for plan in prepared.plans)
    samples = prod(prepared.cube.extent) * len(prepared.plans)
    if request.scheduler is None and request.cluster is None and samples < HERE_SAMPLES:
        yield _run_here, lambda: None
        return
    with (
        connect(
            scheduler=request.scheduler,
            workers=prepared.workers,
            memory_limit=prepared.memory_limit,
            keep_memory=True,
            cluster=request.cluster,
            announce=announce,
        ) as client,
        ExitStack() as watching,
    ):
        if on_client is not None:
            watching.enter_context(on_client(client))
        if request.scheduler is not None or request.cluster is not None:
            check_cluster(client, needed)

        def run(context: GapContext, stage: str, task: Task, count: int, progress: Progress | None) -> StageResult:
            client.register_plugin(ContextPlugin(context.key, context, start_worker), name=context.key)
            with clean_workers(client, context.key):
                return run_stage(client, context.key, stage, task, range(count), progress)

        def let_go() -> None:
            """Send workers of this run's own home, who take seconds to end; files are put together meanwhile."""
            if request.scheduler is None and request.cluster is None and client.cluster is not None:
                watching.close()  # or they would be reported as lost
                client.cluster.scale(0)

        yield run, let_go


def _run_here(context: GapContext, stage: str, task: Task, count: int, progress: Progress | None) -> StageResult:
    result = StageResult()
    tell = progress or untold
    tell(stage, result, count)
    for number in range(count):
        task(context, number)
        result.done += 1
        tell(stage, result, count)
    result.peak_bytes = process_memory()[0]
    return result


def _carry_out(
    prepared: PreparedGaps,
    run: Run,
    let_go: Callable[[], None],
    draw: Draw,
    progress: Progress | None,
    tell: Callable[[str], None],
) -> dict[str, JSON]:
    request, cube, calendar, work = prepared.request, prepared.cube, prepared.calendar, prepared.folder.work
    store = None
    if request.zarr:
        store = str((work / STORE).absolute())
        attrs = {"title": f"gap statistics of {Path(cube.path).name}", **_settings(prepared)}
        side = min(plan.side for plan in prepared.plans)  # they are powers of two apart
        create_store(work / STORE, cube, calendar, request.options, side=side, attrs=attrs)
    seconds = {"read and work out": 0.0, "write": 0.0}
    peak = 0
    variables: dict[str, JSON] = {}
    notes = list(prepared.notes)
    for info, plan in zip(cube.variables, prepared.plans, strict=True):
        context = _context(prepared, info, plan, store)
        begun = time.perf_counter()
        peak = max(peak, *_work_out(context, run, progress))
        seconds["read and work out"] += time.perf_counter() - begun
        if info is cube.variables[-1]:
            let_go()
        tell("write")
        begun = time.perf_counter()
        stem = prepared.names[info.name]
        tif = work / f"{stem}_gaps.tif"
        _assemble(context, tif)
        numbers = range(prod(plan.counts))
        records = (_record(context, "footprints", number) for number in numbers)
        variables[info.name] = summarise(records, tif, calendar, request.options)
        if info is cube.variables[0]:  # what rules match is the same for every variable
            notes += _remarks(context, cube.trust)
        with ThreadPoolExecutor(1) as aside:  # the disk takes as long as the drawing
            settled = aside.submit(_settle, tif, Path(context.folder))
            draw(work / f"{stem}_gaps.png", {"variable": info.name, **_settings(prepared), **variables[info.name]}, tif)
            settled.result()
        seconds["write"] += time.perf_counter() - begun
    return {
        "cube": cube.path,
        **_settings(prepared),
        "variables": variables,
        "seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
        "peak_worker_bytes": peak,
        "projected_peak_bytes": max(plan.peak_bytes for plan in prepared.plans),
        "notes": notes,
    }


def _settle(tif: Path, parts: Path) -> None:
    """See a variable's file onto the disk, then remove what it was made of."""
    sync(tif)
    shutil.rmtree(parts)


def _settings(prepared: PreparedGaps) -> dict[str, JSON]:
    """Return what decides the numbers."""
    calendar, options = prepared.calendar, prepared.request.options
    first, last = calendar.epoch[[0, -1]].astype("M8[D]")
    trust = prepared.cube.trust
    return {
        "stpipe_version": __version__,
        "period": [str(first), str(last)],
        "period_days": len(calendar.epoch),
        "frames": calendar.frame_count,
        "dates": len(calendar.numbers),
        "boundaries": options.boundaries,
        "by": options.by,
        "percentiles": list(options.percentiles),
        "valid_range": None if prepared.request.valid_range is None else list(prepared.request.valid_range),
        "domain": prepared.request.domain,
        "trust": [] if trust is None else [rule.text for rule in trust.rules],
        "buffer": 0 if trust is None else trust.buffer,
    }


def _context(prepared: PreparedGaps, info: VariableInfo, plan: GapPlan, store: str | None) -> GapContext:
    cube, request = prepared.cube, prepared.request
    folder = (prepared.folder.work / f"parts-{prepared.names[info.name]}").absolute()
    folder.mkdir()
    statistics = request.options.statistics
    units = [statistic.units for _ in prepared.calendar.groups for statistic in statistics]
    names = band_names(prepared.calendar, request.options)
    settings = _settings(prepared)
    raster = TiledRaster(
        grid=plan.grid,
        bands=tuple(Band(name=name, units=unit) for name, unit in zip(names, units, strict=True)),
        tile=plan.tile,
        tags=(
            ("stpipe_gaps", info.name),
            ("period", "/".join(settings["period"])),
            ("boundaries", request.options.boundaries),
            ("by", request.options.by),
        ),
    )
    key = hashlib.sha256(f"{cube.fingerprint} {info.name} {folder} {settings}".encode()).hexdigest()
    return GapContext(
        reader=cube.reader([info.name]),
        info=info,
        valid_range=request.valid_range,
        calendar=prepared.calendar,
        options=request.options,
        plan=plan,
        raster=raster,
        folder=str(folder),
        key=key,
        store=store,
    )


def _work_out(context: GapContext, run: Run, progress: Progress | None) -> list[int]:
    """Run all tasks of a variable; return the peak memory of each stage's workers."""
    plan = context.plan
    peaks = []
    stages: list[tuple[str, Task, int]] = []
    if plan.gather:
        plan.bits(context.bits).create()
        stages.append(("read", gather_task, prod(len(cuts) for cuts in plan.gather_cuts())))
    stages += [
        ("gaps", footprint_task, prod(plan.counts)),
        ("overviews", overview_task, len(overview_tiles(context))),
    ]
    for stage, task, count in stages:
        if not count:
            continue
        result = run(context, stage, task, count, progress)
        if result.failures:
            reasons = list(dict.fromkeys(failure.message for failure in result.failures))
            shown = "; ".join(reasons[:_LISTED]) + (f"; and {len(reasons) - _LISTED} more" * (len(reasons) > _LISTED))
            raise RunError(
                f"{len(result.failures)} of {count} tasks failed for {context.info.name!r}: {shown}; mend that and run "
                "the same command again"
            )
        peaks.append(result.peak_bytes)
    return peaks


def _record(context: GapContext, stage: str, number: int) -> dict[str, Any]:
    record = context.book(stage).read(f"{number:07d}")
    if record is None:
        raise RunError(f"the record of task {number} of {context.info.name!r} is gone; run the same command again")
    return record


def _remarks(context: GapContext, trust: Trust | None) -> tuple[str, ...]:
    """Return what there is to say of rules that match nothing, or everything."""
    if trust is None:
        return ()
    stage, count = ("gather", prod(len(cuts) for cuts in context.plan.gather_cuts()))
    if not context.plan.gather:
        stage, count = "footprints", prod(context.plan.counts)
    rows = [_record(context, stage, number)["rules"] for number in range(count)]
    return remarks(trust, np.sum([row for row in rows if row is not None], axis=0, dtype=np.int64))


def _assemble(context: GapContext, path: Path) -> None:
    """Put the tiles of all tasks into one file."""
    plan, raster = context.plan, context.raster
    sizes = {
        stage: [_record(context, stage, number)["sizes"] for number in range(count)]
        for stage, count in (("footprints", prod(plan.counts)), ("overviews", len(overview_tiles(context))))
    }

    def stretches(level: int) -> list[Stretch]:
        if level > plan.depth:
            places = enumerate(overview_tiles(context))
            wanted = [("overviews", number, 0, [(row, column)]) for number, (of, row, column) in places if of == level]
        else:
            numbers = range(prod(plan.counts))
            wanted = [("footprints", number, level, plan.tiles(number, level)) for number in numbers]
        return [
            Stretch(
                file=context.part(stage, number),
                start=sum(sum(map(sum, of)) for of in sizes[stage][number][:at]),
                sizes=sizes[stage][number][at],
                places=places,
            )
            for stage, number, at, places in wanted
        ]

    assemble(raster, path, stretches)
