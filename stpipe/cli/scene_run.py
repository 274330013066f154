"""A whole run: open, plan, refuse or begin, survey, fill, blend, mosaic, publish.

`prepare` looks at everything and changes nothing; whatever it refuses leaves the disk as it was. `execute` acts.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stpipe import __version__
from stpipe.core.plan import MIB, Plan, make_plan
from stpipe.core.ports import JSON, Filler
from stpipe.core.samples import check_fillable
from stpipe.core.windows import Triple
from stpipe.errors import OptionError, PlanError, RunError
from stpipe.execution.cluster import check_workers, connect, cores, share_of_memory
from stpipe.execution.context import RunContext
from stpipe.execution.records import RecordBook
from stpipe.execution.run import RunOutcome, run_blocks
from stpipe.execution.stages import ContextPlugin, Progress, run_stage
from stpipe.io.cube import Cube, open_source
from stpipe.io.filled import ZarrFilledStore, create_filled
from stpipe.io.frames import RasterGrid, infos_of
from stpipe.io.mosaic import Layout, mosaic_variables, plan_mosaic
from stpipe.io.mosaic_stage import MosaicContext, mosaic_task, written_files
from stpipe.io.run_folder import RunFolder, State, check_disk, check_writable, tree_digest
from stpipe.io.scratch import ZarrBlockStore, ZarrOverviewStore, forget_stores, use_one_thread
from stpipe.methods import make_filler


@dataclass(frozen=True, slots=True, kw_only=True)
class FillOptions:
    """What the user asked for."""

    cube: Path
    """The input."""

    output: Path | None = None
    """The output folder; beside the cube unless given."""

    variables: tuple[str, ...] = ()
    """What to fill; all unless given."""

    method: str = "pconv"
    """The method's name."""

    model: str | None = None
    """Name or path of the weights, for pconv."""

    domain: str | None = None
    """Static variable that is non-zero where values can exist."""

    valid_range: tuple[float, float] | None = None
    """Physical values outside of it are gaps."""

    time: tuple[str | None, str | None] | None = None
    """Period to fill."""

    aoi: Path | None = None
    """GeoJSON of the area to fill."""

    block: Triple | None = None
    """Write window of a block."""

    overlap: Triple | None = None
    """Overlap of write windows."""

    workers: int | None = None
    """Worker processes; one a core unless given."""

    memory_limit: int | None = None
    """Bytes a worker may take."""

    scheduler: str | None = None
    """Address of a scheduler to use instead of a LocalCluster."""

    resume: bool = False
    """Refuse to begin anew."""

    overwrite: bool = False
    """Replace what is there."""

    geotiff: bool = True
    """Whether to mosaic."""

    layout: Layout = "frames"
    """One file a frame, or one a variable."""

    keep_work: bool = False
    """Whether the scratch stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that may begin."""

    options: FillOptions
    """What was asked for."""

    cube: Cube
    """The input."""

    filler: Filler
    """The method."""

    plan: Plan
    """The plan."""

    folder: RunFolder
    """Where everything goes."""

    workers: int
    """Worker processes of a LocalCluster."""

    memory_limit: int
    """Bytes each may take."""


@dataclass(slots=True)
class RunResult:
    """What a run left behind."""

    folder: Path
    """The output folder."""

    report: dict[str, JSON]
    """What run.json says."""

    already: bool = False
    """Whether it was all there before."""

    notes: list[str] = field(default_factory=list)
    """What the user should know."""


def default_output(cube: Path) -> Path:
    """Return the output folder that goes with a cube.

    >>> default_output(Path("data/cube.zarr")).name
    'cube.filled'
    """
    name = cube.name or cube.resolve().name
    return cube.with_name(f"{Path(name).stem}.filled")


def prepare(options: FillOptions) -> Prepared:
    """Check everything that can be checked without working, and plan.

    Raises
    ------
    RefusedError
        One line, with the rule, the values and the next step.
    """
    if options.resume and options.overwrite:
        raise OptionError("--resume goes on with a run and --overwrite starts anew; give one of them")
    if options.scheduler is not None and options.workers is not None:
        raise OptionError("--workers starts workers here and --scheduler uses those of a cluster; give one of them")
    if options.valid_range is not None and not options.valid_range[0] <= options.valid_range[1]:
        raise OptionError(f"--valid-range needs LO,HI with LO <= HI, got {options.valid_range}")
    workers = check_workers(cores() if options.workers is None else options.workers)
    cube = open_source(
        options.cube,
        variables=options.variables or None,
        domain=options.domain,
        time=options.time,
        aoi=options.aoi,
    )
    if not options.variables:
        cube = _without_companions(options, cube)
    for info in cube.variables:
        check_fillable(info)
    filler = make_filler(options.method, model=options.model)
    plan, workers, limit = _fitting_plan(options, cube, filler, workers)
    output = options.output or default_output(options.cube)
    source = Path(cube.path).resolve()
    if output.resolve() == source or source in output.resolve().parents:
        raise OptionError(f"the output {output} lies in the input {cube.path}; choose another folder with -o")
    return Prepared(
        options=options,
        cube=cube,
        filler=filler,
        plan=plan,
        folder=RunFolder(output),
        workers=workers,
        memory_limit=limit,
    )


def _fitting_plan(options: FillOptions, cube: Cube, filler: Filler, workers: int) -> tuple[Plan, int, int]:
    """Plan for an equal share of the memory for each core; where that is too little, for fewer workers."""

    def plan_for(limit: int) -> Plan:
        return make_plan(
            extent=cube.extent,
            variables=cube.variables,
            filler=filler,
            identity=_identity(options, cube),
            memory_limit=limit,
            block=options.block,
            overlap=options.overlap,
        )

    if options.memory_limit is not None:
        return plan_for(options.memory_limit), workers, options.memory_limit
    limit = share_of_memory(max(workers, cores()))
    try:
        return plan_for(limit), workers, limit
    except PlanError:
        # Fewer workers have more each; how many are too few is for the user to say if they were asked for.
        for fewer in range(workers, 0, -1):
            limit = share_of_memory(fewer)
            if options.workers in (None, fewer):
                with suppress(PlanError):
                    return plan_for(limit), fewer, limit
        raise


def _without_companions(options: FillOptions, cube: Cube) -> Cube:
    """Leave out VAR_source and VAR_ci90 of a cube that was filled before."""
    names = mosaic_variables(infos_of(cube))
    if names == cube.names:
        return cube
    return open_source(options.cube, variables=names, domain=options.domain, time=options.time, aoi=options.aoi)


def _identity(options: FillOptions, cube: Cube) -> JSON:
    """All that decides the products, besides geometry and method."""
    return {
        "stpipe": __version__,
        "cube": cube.fingerprint,
        "variables": cube.names,
        "domain": options.domain,
        "valid_range": options.valid_range,
        "geotiff": options.geotiff,
        "layout": options.layout if options.geotiff else None,
    }


def begin(prepared: Prepared) -> State:
    """Say how the run may begin in its folder, or refuse; nothing is changed."""
    folder, plan, options = prepared.folder, prepared.plan, prepared.options
    state = folder.state(plan.run_id, plan.identity, resume=options.resume, overwrite=options.overwrite)
    if state is State.NEW:
        check_writable(folder.path)
        check_disk(folder.path, plan.scratch_bytes + plan.output_bytes)
    return state


def execute(
    prepared: Prepared,
    *,
    progress: Progress | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> RunResult:
    """Carry out a run, or go on with it; return what it left.

    Raises
    ------
    RefusedError
        Before anything is changed.
    RunError
        If it stopped on the way; what is done is kept.
    """
    state = begin(prepared)
    folder = prepared.folder
    if state is State.FINISHED:
        import json

        report = json.loads((folder.path / "run.json").read_text())
        if folder.work.is_dir() and not prepared.options.keep_work:
            shutil.rmtree(folder.work)  # killed between its last two steps
        return RunResult(folder.path, report, already=True)
    notes: list[str] = []
    try:
        with folder.locked():
            if state is State.NEW:
                _make_stores(prepared)
            report = _run(prepared, progress, on_stage or _ignore, notes)
            folder.finish(report, keep_work=prepared.options.keep_work)
    except OSError as error:
        if error.errno is None or isinstance(error, RunError):
            raise
        raise RunError(
            f"{error.strerror} ({error.filename or folder.path}); what is done is kept: run the same command again "
            "to go on from here"
        ) from error
    return RunResult(folder.path, report, notes=notes)


def _ignore(_: str) -> None:
    """Take no notice of a stage."""


def _make_stores(prepared: Prepared) -> None:
    """Clear the folder and create empty stores; the plan is written last, so that a half-made one is made again."""
    folder, plan, cube = prepared.folder, prepared.plan, prepared.cube
    lock = folder.work / "lock"
    for entry in folder.work.iterdir():
        if entry != lock:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for name in ("run.json", "quicklook.png"):
        (folder.path / name).unlink(missing_ok=True)
    for name in ("filled.zarr", "geotiff"):
        if (folder.path / name).exists():
            shutil.rmtree(folder.path / name)
    forget_stores()
    names = [info.name for info in plan.variables]
    for store in (overview_store(prepared), block_store(prepared)):
        store.create(names)
    attrs = {"title": "gaps filled by stpipe", "stpipe_method": prepared.filler.name, "stpipe_version": __version__}
    create_filled(folder.work / "filled.zarr", cube, plan.output_chunks, attrs)
    folder.begin(plan.run_id, plan.identity)


def overview_store(prepared: Prepared) -> ZarrOverviewStore:
    """Return where the survey's overviews lie."""
    place = prepared.folder.work.absolute() / "overviews.zarr"
    return ZarrOverviewStore(str(place), prepared.plan.extent, prepared.plan.survey_tiles.shape)


def block_store(prepared: Prepared) -> ZarrBlockStore:
    """Return where the filled blocks lie."""
    return ZarrBlockStore(str(prepared.folder.work.absolute() / "blocks.zarr"), prepared.plan.blocks)


def run_context(prepared: Prepared) -> RunContext:
    """Return what the tasks share."""
    work, plan, cube = prepared.folder.work.absolute(), prepared.plan, prepared.cube
    return RunContext(
        plan=plan,
        days=cube.days,
        reader=cube.reader(),
        filler=prepared.filler,
        overviews=overview_store(prepared),
        scratch=block_store(prepared),
        product=ZarrFilledStore(str(work / "filled.zarr")),
        records=str(work / "records"),
        valid_range=prepared.options.valid_range,
    )


def start_fill_worker(context: Any) -> None:
    """Ready a worker process for blocks: one decoding thread, the method loaded, nothing cached of older stores."""
    use_one_thread()
    forget_stores()
    if context.scales:  # the survey is done; it had no use for the method
        context.filler.prepare()


def start_mosaic_worker(_: Any) -> None:
    """Ready a worker process for the mosaic."""
    use_one_thread()
    forget_stores()


def cluster(prepared: Prepared) -> AbstractContextManager[Any]:
    """Give the client that the run uses."""
    return connect(scheduler=prepared.options.scheduler, workers=prepared.workers, memory_limit=prepared.memory_limit)


def _run(
    prepared: Prepared, progress: Progress | None, on_stage: Callable[[str], None], notes: list[str]
) -> dict[str, JSON]:
    folder, plan = prepared.folder, prepared.plan
    clock = _Clock()

    def tell(stage: str) -> None:
        clock.enter(stage)
        on_stage(stage)

    peaks: dict[str, int] = {}
    tell("start")
    with cluster(prepared) as client:
        if not folder.product("filled.zarr").exists():
            outcome = run_blocks(
                client, run_context(prepared), start_worker=start_fill_worker, progress=progress, on_stage=tell
            )
            _save_outcome(folder, plan, outcome)
            folder.publish("filled.zarr")
        files: list[dict[str, Any]] = []
        if prepared.options.geotiff:
            tell("mosaic")
            files, peaks["mosaic"], warned = _mosaic(prepared, client, progress)
            notes += warned
    tell("quicklook")
    _quicklook(prepared)
    tell("digests")
    products = [_product(folder, "filled.zarr"), _product(folder, "quicklook.png")]
    products += [{**file, "path": f"geotiff/{file['path']}"} for file in files]
    clock.leave()
    saved = _load_outcome(folder, plan)
    peaks = {**saved["peak_bytes"], **peaks}
    return {
        "run_id": plan.run_id,
        "identity": plan.identity,
        "input": prepared.cube.path,
        "method": prepared.filler.identity(),
        "counts": saved["counts"],
        "blocks": {"total": plan.n_blocks, "with_gaps": saved["blocks_with_gaps"], "shape": plan.blocks.size},
        "scales": saved["scales"],
        "seconds": clock.seconds,
        "peak_worker_bytes": max(peaks.values()),
        "stage_peak_bytes": peaks,
        "projected_peak_bytes": plan.memory.peak,
        "workers": prepared.workers,
        "versions": versions(),
        "products": products,
        "notes": notes,
    }


def _save_outcome(folder: RunFolder, plan: Plan, outcome: RunOutcome) -> None:
    RecordBook(str(folder.work / "records"), plan.run_id).write(
        "outcome",
        {
            "counts": outcome.counts,
            "blocks_with_gaps": outcome.blocks_with_gaps,
            "peak_bytes": {name: stage.peak_bytes for name, stage in outcome.stages.items()},
            "scales": {
                name: {"location": scale.location, "spread": scale.spread}
                for name, scale in outcome.context.scales.items()
            },
        },
    )


def _load_outcome(folder: RunFolder, plan: Plan) -> dict[str, JSON]:
    saved = RecordBook(str(folder.work / "records"), plan.run_id).read("outcome")
    if saved is None:
        raise RunError(f"the record of the blend in {folder.work} is gone; start anew with --overwrite")
    return saved


def _mosaic(prepared: Prepared, client: Any, progress: Progress | None) -> tuple[list[dict[str, Any]], int, list[str]]:
    """Write the GeoTIFFs of what was filled."""
    folder, plan = prepared.folder, prepared.plan
    filled = open_source(folder.product("filled.zarr"))
    names = [info.name for info in plan.variables]
    memory = max(256 * MIB, plan.memory.peak - prepared.filler.process_bytes)
    tasks = plan_mosaic(filled, names, prepared.options.layout, memory)
    book = RecordBook(str(folder.work.absolute() / "records" / "mosaic"), plan.run_id)
    context = MosaicContext(
        tasks=tasks, reader=filled.reader(), folder=str(folder.product("geotiff").absolute()), book=book
    )
    name = f"mosaic-{plan.run_id}"
    client.register_plugin(ContextPlugin(name, context, start_mosaic_worker), name=name)
    result = run_stage(client, name, "mosaic", mosaic_task, range(len(tasks)), progress)
    if result.failures:
        raise RunError(
            f"{len(result.failures)} of {len(tasks)} mosaic tasks failed: {result.failures[0].message}; mend that and "
            "run the same command again to go on from here"
        )
    note = RasterGrid.of(filled).note
    notes = [] if note is None else [note]
    return written_files(book, range(len(tasks))), result.peak_bytes, notes


def _quicklook(prepared: Prepared) -> None:
    """Draw a few frames of each variable; of several, the first."""
    from stpipe.report.quicklook import write_quicklook

    filled = open_source(prepared.folder.product("filled.zarr"))
    write_quicklook(
        prepared.folder.product("quicklook.png"),
        observed=prepared.cube,
        filled=filled,
        variable=prepared.plan.variables[0].name,
    )


def _product(folder: RunFolder, name: str) -> dict[str, JSON]:
    size, sha256 = tree_digest(folder.product(name))
    return {"path": name, "bytes": size, "sha256": sha256}


class _Clock:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage: str | None = None
        self._since = 0.0

    def enter(self, stage: str) -> None:
        self.leave()
        self._stage, self._since = stage, time.perf_counter()

    def leave(self) -> None:
        if self._stage is not None:
            spent = time.perf_counter() - self._since
            self.seconds[self._stage] = round(self.seconds.get(self._stage, 0.0) + spent, 3)
        self._stage = None


def versions(packages: Sequence[str] = ("dask", "distributed", "numpy", "xarray", "zarr", "rasterio")) -> JSON:
    """Return the versions that a run was made with."""
    found = {name: version(name) for name in packages}
    return {"stpipe": __version__, "python": platform.python_version(), "system": os.uname().sysname, **found}


def describe_plan(prepared: Prepared) -> dict[str, JSON]:
    """Return the plan as `stpipe plan --json` prints it."""
    plan = prepared.plan
    grid = plan.blocks
    return {
        "run_id": plan.run_id,
        "cube": prepared.cube.path,
        "extent": plan.extent,
        "variables": [info.name for info in plan.variables],
        "method": prepared.filler.name,
        "block": grid.size,
        "overlap": grid.spec.overlap,
        "halo": grid.spec.halo,
        "stride": grid.spec.stride,
        "read_window": grid.read_shape,
        "blocks": plan.n_blocks,
        "survey_tile": plan.survey_tiles.shape,
        "blend_tiles": [tiles.shape for tiles in plan.blend_tiles],
        "workers": prepared.workers,
        "memory_limit_bytes": prepared.memory_limit,
        "peak_worker_bytes": plan.memory.peak,
        "peak_bytes": {"survey": plan.memory.survey, "fill": plan.memory.fill, "blend": plan.memory.blend},
        "scratch_bytes": plan.scratch_bytes,
        "output_bytes": plan.output_bytes,
        "core_seconds": round(plan.seconds, 1),
        "output": str(prepared.folder.path),
        "identity": plan.identity,
    }
