"""A run from its first stage to its last product: survey, learn, fill, blend, mosaic, publish."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from stpipe import __version__
from stpipe.cli.cluster_files import say
from stpipe.cli.run_log import command_words
from stpipe.cli.scene_plan import Prepared, begin, describe_guides
from stpipe.cli.watch import Watch
from stpipe.core.plan import Plan
from stpipe.core.ports import JSON, SceneFiller, VariableInfo
from stpipe.core.samples import gap_value
from stpipe.core.sizes import MIB
from stpipe.core.trust import remarks
from stpipe.core.windows import Window
from stpipe.errors import OutputError, RunError, StpipeError
from stpipe.execution.clusters.connect import check_cluster, connect
from stpipe.execution.context import RunContext
from stpipe.execution.records import RecordBook
from stpipe.execution.run import RunOutcome, blended_files, run_blocks
from stpipe.execution.runners import ClusterRunner, Runner, Tasks
from stpipe.execution.stages import clean_workers
from stpipe.execution.storage import (
    absolute,
    drop,
    is_of_store,
    is_remote,
    one_line,
    remove,
    without_secrets,
    write_whole,
)
from stpipe.io.catalog import item_collection
from stpipe.io.coefficients import COEFFICIENTS, write_coefficients
from stpipe.io.cube import open_source
from stpipe.io.filled import ZarrFilledStore, check_filled, create_filled
from stpipe.io.frames import SOURCE_SUFFIX, RasterGrid, frame_labels, safe_name
from stpipe.io.mosaic import plan_mosaic
from stpipe.io.mosaic_stage import MosaicContext, mosaic_task, written_files
from stpipe.io.radar import Radar
from stpipe.io.run_folder import RunFolder, State, tree_digest
from stpipe.io.scratch import ZarrBlockStore, ZarrFieldStore, ZarrOverviewStore, forget_stores
from stpipe.io.workers import start_fill_worker, start_mosaic_worker
from stpipe.methods.sar.coefficients import in_units
from stpipe.report.notes import learning_notes

MOSAIC = "mosaic"
"""The stage that makes GeoTIFFs of the filled cube; all others lead to that."""

ITEMS = "items.json"
"""What says where and when the GeoTIFFs are."""


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


def execute(prepared: Prepared, *, watch: Watch | None = None) -> RunResult:
    """Carry out a run, or go on with it; return what it left.

    Parameters
    ----------
    prepared : Prepared
        The run.
    watch : Watch, optional
        Told how it goes.

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
        report = folder.report()
        if not report.get("kept_work"):
            folder.remove_work()  # killed between its last two steps
        return RunResult(folder.path, report, already=True)
    notes = list(prepared.notes)
    watch = watch or Watch(limit=prepared.memory_limit)
    try:
        # A cluster that can't be had, or can't hold a block, is refused before the folder is touched.
        watch.stage("start")
        with cluster(prepared) as client, watch.following(client), folder.locked(announce=say):
            _begin_again(prepared, state)
            if state is State.NEW:
                make_stores(prepared)
            with clean_workers(client, prepared.plan.run_id), clean_workers(client, _mosaic_name(prepared)):
                report = carry_out(
                    prepared, ClusterRunner(client, watch.progress, prepared.options.block_timeout), watch, notes
                )
            watch.stage("report")
            notes = [*notes, *write_report(folder, report)]  # the run's own are in its report already
            watch.stage("clear")
            folder.finish(report, keep_work=prepared.options.keep_work)
    except Exception as error:
        if not (isinstance(error, OSError) or is_of_store(error)):
            raise
        raise as_run_error(error, folder) from error
    return RunResult(folder.path, report, notes=notes)


def _begin_again(prepared: Prepared, state: State) -> None:
    """Refuse a folder that is no longer as it was before it was locked."""
    if begin(prepared) is not state:
        raise OutputError(f"another process has worked in {prepared.folder.path} meanwhile; run the same command again")


def as_run_error(error: Exception, folder: RunFolder) -> Exception:
    """Return an error of a disk, a store or the like as one that says how to go on."""
    if isinstance(error, StpipeError):
        return error
    if isinstance(error, OSError) and error.errno is None and not is_remote(folder.path):
        return error
    reason = f"{folder.path}: {one_line(error)}"
    if isinstance(error, OSError) and error.strerror:
        reason = f"{error.strerror} ({error.filename or folder.path})"
    return RunError(f"{reason}; what is done is kept: run the same command again to go on from here")


def make_stores(prepared: Prepared) -> None:
    """Clear the folder and create empty stores; the plan is written last, so that a half-made one is made again."""
    folder, plan, cube = prepared.folder, prepared.plan, prepared.cube
    folder.clear()
    forget_stores()
    names = [info.name for info in plan.variables]
    for store in (overview_store(prepared), block_store(prepared)):
        store.create(names)
    if kept_fields(prepared):
        field_store(prepared).create(names, kept_fields(prepared))
    attrs = {"title": "gaps filled by stpipe", "stpipe_method": prepared.filler.name, "stpipe_version": __version__}
    create_filled(folder.work / "filled.zarr", cube, plan.output_chunks, attrs, percent=prepared.percent)
    folder.begin(plan.run_id, plan.identity)


def overview_store(prepared: Prepared) -> ZarrOverviewStore:
    """Return where the survey's overviews lie."""
    place = absolute(prepared.folder.work) / "overviews.zarr"
    return ZarrOverviewStore(str(place), prepared.plan.extent, prepared.plan.survey_tiles.shape)


def block_store(prepared: Prepared) -> ZarrBlockStore:
    """Return where the filled blocks lie."""
    return ZarrBlockStore(str(absolute(prepared.folder.work) / "blocks.zarr"), prepared.plan.blocks)


def field_store(prepared: Prepared) -> ZarrFieldStore:
    """Return where what the method keeps of each pixel lies, if it keeps anything."""
    place = absolute(prepared.folder.work) / "fields.zarr"
    return ZarrFieldStore(str(place), prepared.plan.extent, prepared.plan.look_tiles.shape)


def kept_fields(prepared: Prepared) -> tuple[str, ...]:
    """Return the names of what the method keeps of each pixel."""
    return prepared.filler.fields if isinstance(prepared.filler, SceneFiller) else ()


def run_context(prepared: Prepared) -> RunContext:
    """Return what the tasks share."""
    work, plan, cube = absolute(prepared.folder.work), prepared.plan, prepared.cube
    return RunContext(
        plan=plan,
        days=cube.days,
        reader=cube.reader(),
        filler=prepared.filler,
        overviews=overview_store(prepared),
        scratch=block_store(prepared),
        product=ZarrFilledStore(str(work / "filled.zarr"), prepared.percent),
        records=str(work / "records"),
        learned_folder=str(work / "learned"),
        rounds_folder=str(work / "rounds"),
        fields=field_store(prepared),
        input_state=prepared.input_state,
        max_gap=prepared.options.max_gap,
        guides=prepared.guides,
        valid_range=prepared.options.valid_range,
    )


@contextmanager
def cluster(prepared: Prepared) -> Iterator[Client]:
    """Give the client that the run uses."""
    scheduler, planned = prepared.options.scheduler, prepared.options.cluster
    with connect(
        scheduler=scheduler,
        workers=prepared.workers,
        memory_limit=prepared.memory_limit,
        cluster=planned,
        announce=say,
    ) as client:
        if scheduler is not None or planned is not None:
            check_cluster(client, prepared.plan.memory.peak)
        yield client


def carry_out(
    prepared: Prepared,
    runner: Runner,
    watch: Watch,
    notes: list[str],
    *,
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
    check: bool = True,
) -> dict[str, JSON]:
    """Do all stages of a run whose stores exist, or what is left of them; return what run.json is to say.

    Parameters
    ----------
    prepared : Prepared
        The run.
    runner : Runner
        Who does the work.
    watch : Watch
        Told how it goes; what it knows of the stages goes into the report.
    notes : list of str
        Grows by what the user should know.
    alone : callable
        Returns what keeps out other processes that share the run, if there are any.
    check : bool
        Whether to look at a filled cube again that has its final name already.
    """
    folder, plan = prepared.folder, prepared.plan
    peaks: dict[str, int] = {}
    if check and folder.has("filled.zarr"):
        outdated = _load_outcome(folder, plan).get("input_state", prepared.input_state) != prepared.input_state
        if outdated or not _is_as_published(folder, plan):
            # GeoTIFFs may have been made of it: each is held against the new one.
            remove(folder.work / "records" / MOSAIC)
            folder.withdraw("filled.zarr")
            for name in (ITEMS, "quicklook.png", "report.html"):  # they tell of it
                drop(folder.product(name))
            notes.append(
                "the cube's files have changed since it was filled; what they decide was made again"
                if outdated
                else "the filled cube was no longer what had been written; what had changed of it was made again"
            )
    folder.mend()
    if not folder.has("filled.zarr"):
        outcome = run_blocks(runner, run_context(prepared), start_worker=start_fill_worker, on_stage=watch.stage)
        with alone():
            if not folder.has("filled.zarr"):
                _publish(prepared, outcome, watch)
    files: list[dict[str, Any]] = []
    if prepared.options.geotiff:
        watch.stage("mosaic")
        files, peaks["mosaic"], warned = _mosaic(prepared, runner, alone)
        notes += warned
    watch.stage("quicklook")
    with alone():
        _quicklook(prepared)
    watch.stage("digests")
    saved = _load_outcome(folder, plan)
    products = [saved["filled"]]
    products += [_product(folder, name) for name in (COEFFICIENTS, ITEMS, "quicklook.png") if folder.has(name)]
    products += [{**file, "path": f"geotiff/{file['path']}"} for file in files]
    watch.close()
    own = watch.rows()
    stages = {**saved.get("stages", {}), **own}
    peaks = {**saved["peak_bytes"], **peaks}
    notes += empty_notes(saved["counts"], limited=prepared.options.valid_range is not None)
    notes += markless_notes(plan.variables, saved["counts"])
    notes += learning_notes(saved["learned"])
    if prepared.cube.trust is not None and saved["rule_counts"]:
        notes += remarks(prepared.cube.trust, np.array(saved["rule_counts"], dtype=np.int64))
    return {
        "run_id": plan.run_id,
        "command": command_words(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": plan.identity,
        "input": without_secrets(prepared.cube.path),
        "input_state": saved.get("input_state", prepared.input_state),
        "guides": describe_guides(prepared.guides),
        "interval": prepared.percent / 100,
        "kept_work": prepared.options.keep_work,
        "method": prepared.filler.identity(),
        "learned": saved["learned"],
        "counts": saved["counts"],
        "blocks": {"total": plan.n_blocks, "with_gaps": saved["blocks_with_gaps"], "shape": plan.blocks.size},
        "scales": saved["scales"],
        "seconds": {stage: told["seconds"] for stage, told in own.items() if stage != "start"},
        "stages": stages,
        "peak_worker_bytes": max(peaks.values()),
        "stage_peak_bytes": peaks,
        "projected_peak_bytes": plan.memory.peak,
        "workers": prepared.workers,
        "workers_seen": max(told["workers_seen"] for told in stages.values()),
        "retries": sum(told["retries"] for told in stages.values()),
        "versions": versions(),
        "products": products,
        "notes": notes,
    }


def _publish(prepared: Prepared, outcome: RunOutcome, watch: Watch) -> None:
    """Give what was blended its final name, and what goes with it."""
    folder = prepared.folder
    watch.stage("check")
    written = blended_files(outcome.context)
    stores = ((name.partition("/"), content) for name, content in folder.made().items())
    made = {name: content for (store, _, name), content in stores if store == "filled.zarr"}
    size, sha256 = check_filled(folder.work / "filled.zarr", written, made)
    filled = {"path": "filled.zarr", "bytes": size, "sha256": sha256}
    _save_outcome(prepared, outcome, watch.rows(), filled)
    if isinstance(prepared.guides, Radar):
        if folder.has(COEFFICIENTS):  # of a filled cube that is no longer, for an input that may have changed since
            folder.withdraw(COEFFICIENTS)
        watch.stage("coefficients")
        _write_coefficients(prepared, prepared.guides, outcome.context)
        folder.publish(COEFFICIENTS)
    folder.publish("filled.zarr")


def _write_coefficients(prepared: Prepared, radar: Radar, context: RunContext) -> None:
    """Write what each pixel's regression came to, in the units of each variable that has gaps."""

    def read(name: str, tile: Window) -> NDArray[np.float32]:
        scale = context.scales[name]
        return in_units(context.fields.of(name).read(tile), radar.groups, scale.location, scale.spread)

    tiles = {name: partial(read, name) for name in context.settled}
    place = prepared.folder.work / COEFFICIENTS
    write_coefficients(place, prepared.cube, prepared.plan.look_tiles, radar, tiles)


def empty_notes(counts: dict[str, dict[str, int]], *, limited: bool) -> list[str]:
    """Return a line for each variable of which nothing could be filled, for there was nothing to go by.

    >>> empty_notes({"sst": {"observed": 0, "unfilled": 8}, "chl": {"observed": 3, "filled": 5}}, limited=True)
    ['sst has no valid sample, so nothing was filled: does --valid-range fit its units?']
    """
    hint = ": does --valid-range fit its units?" if limited else ""
    return [
        f"{name} has no valid sample, so nothing was filled{hint}"
        for name, row in counts.items()
        if not row["observed"]
    ]


def markless_notes(variables: Sequence[VariableInfo], counts: dict[str, dict[str, int]]) -> list[str]:
    """Return a line for each variable with gaps that stayed, of a type that has no mark for them.

    >>> counts = {"b04": {"observed": 5, "unfilled": 3}}
    >>> print(*markless_notes([VariableInfo(name="b04", dtype="uint16", chunks=(1, 1, 1))], counts))
    b04: uint16 without nodata can't say gap, so 3 samples that stay unfilled keep what the cube has; b04_source is 4
    """
    return [
        f"{info.name}: {info.dtype} without nodata can't say gap, so {counts[info.name]['unfilled']} samples that stay "
        f"unfilled keep what the cube has; {info.name}{SOURCE_SUFFIX} is 4"
        for info in variables
        if gap_value(info) is None and counts[info.name]["unfilled"]
    ]


def _is_as_published(folder: RunFolder, plan: Plan) -> bool:
    """Return whether the filled cube is still what was given its name."""
    return bool(_product(folder, "filled.zarr") == _load_outcome(folder, plan).get("filled"))


def _save_outcome(prepared: Prepared, outcome: RunOutcome, stages: dict[str, JSON], filled: dict[str, JSON]) -> None:
    RecordBook(str(prepared.folder.work / "records"), prepared.plan.run_id).write(
        "outcome",
        {
            "input_state": prepared.input_state,
            "counts": outcome.counts,
            "filled": filled,
            "blocks_with_gaps": outcome.blocks_with_gaps,
            "rule_counts": outcome.rule_counts,
            "learned": outcome.learned,
            "stages": stages,
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


def _mosaic_name(prepared: Prepared) -> str:
    return f"{MOSAIC}-{prepared.plan.run_id}"


def _mosaic(
    prepared: Prepared, runner: Runner, alone: Callable[[], AbstractContextManager[None]]
) -> tuple[list[dict[str, Any]], int, list[str]]:
    """Write the GeoTIFFs of what was filled, and what says where and when they are."""
    folder, plan = prepared.folder, prepared.plan
    filled = open_source(folder.product("filled.zarr"))
    names = [info.name for info in plan.variables]
    memory = max(256 * MIB, plan.memory.peak - prepared.filler.process_bytes)
    tasks = plan_mosaic(filled, names, prepared.options.layout, memory)
    book = RecordBook(str(absolute(folder.work) / "records" / "mosaic"), plan.run_id)
    context = MosaicContext(
        tasks=tasks, reader=filled.reader(), folder=str(absolute(folder.product("geotiff"))), book=book
    )
    result = runner.run(
        Tasks(stage=MOSAIC, task=mosaic_task, numbers=range(len(tasks)), book=book),
        context=context,
        name=_mosaic_name(prepared),
        start=start_mosaic_worker,
    )
    if result.failures:
        raise RunError(
            f"{len(result.failures)} of {len(tasks)} mosaic tasks failed: {result.failures[0].message}; mend that and "
            "run the same command again to go on from here"
        )
    files = written_files(book, range(len(tasks)))
    items = item_collection(
        tasks, files, labels=frame_labels(filled.times), name=_item_name(prepared.cube.path), folder="geotiff"
    )
    with alone():
        write_whole(folder.product(ITEMS), items)
    note = RasterGrid.of(filled).note
    notes = [] if note is None else [note]
    return files, result.peak_bytes, notes


def _item_name(cube: str) -> str:
    """Return what identifiers of items begin with: the cube's name.

    >>> _item_name("s3://bucket/tiles/T15SWD.zarr"), _item_name("my data/.zarr"), _item_name("..")
    ('T15SWD', 'zarr', 'cube')
    """
    return safe_name(PurePosixPath(cube).stem.lstrip(".")[:80] or "cube")


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


def write_report(folder: RunFolder, told: dict[str, JSON]) -> list[str]:
    """Draw what a run made as a page; return why that could not be done."""
    from stpipe.report.page import page_of_run

    try:
        page = page_of_run(folder.path, told)
    except Exception as error:
        if isinstance(error, OSError) or is_of_store(error):
            raise
        # What was filled is whole, and of more worth than a page that can be drawn later.
        drop(folder.product("report.html"))  # of an attempt before
        again = shlex.join(["stpipe", "report", str(folder.path)])
        return [f"report.html could not be drawn ({one_line(error)}); {again} tries again"]
    write_whole(folder.product("report.html"), page)
    return []


def _product(folder: RunFolder, name: str) -> dict[str, JSON]:
    size, sha256 = tree_digest(folder.product(name))
    return {"path": name, "bytes": size, "sha256": sha256}


PACKAGES = ("dask", "distributed", "numpy", "scipy", "xarray", "zarr", "rasterio", "keras", "lightgbm")
"""What has a part in the numbers and files of a run."""


def versions() -> dict[str, str]:
    """Return the versions of all that a run was made with, as far as it is installed."""
    import rasterio

    found = {name: told for name in PACKAGES if (told := _version(name))}
    if tensorflow := _version("tensorflow") or _version("tensorflow-cpu"):
        found["tensorflow"] = tensorflow
    found["gdal"] = rasterio.__gdal_version__
    return {"stpipe": __version__, "python": platform.python_version(), "system": os.uname().sysname, **found}


def _version(package: str) -> str | None:
    """Return the version of a distribution if it is installed, without importing anything of it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
