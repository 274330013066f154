"""A run without a scheduler: this process is one of several that do it together, such as the tasks of a job array."""

from __future__ import annotations

from contextlib import suppress

from stpipe.cli.scene_plan import Prepared, begin
from stpipe.cli.scene_run import MOSAIC, RunResult, as_run_error, carry_out, make_stores, write_report
from stpipe.cli.watch import Watch
from stpipe.errors import OutputError
from stpipe.execution.claims import Claims
from stpipe.execution.shards import Shard, ShardRunner
from stpipe.execution.storage import is_of_store
from stpipe.io.run_folder import RunFolder, State


def execute_shard(prepared: Prepared, shard: Shard, *, watch: Watch | None = None) -> RunResult:
    """Take part in a run until all of it is done, by whomever.

    Raises
    ------
    RefusedError
        Before anything is changed.
    RunError
        If it stopped on the way; what is done is kept.
    """
    folder, notes = prepared.folder, list(prepared.notes)
    watch = watch or Watch(limit=prepared.memory_limit)
    result: RunResult | None = None
    try:
        if begin(prepared) is not State.FINISHED:
            watch.stage("start")
            with folder.locked(shared=True):
                result = _take_part(prepared, shard, watch, notes)
    except Exception as error:
        if not (isinstance(error, OSError) or is_of_store(error)):
            raise
        raise as_run_error(error, folder) from error
    if not prepared.options.keep_work:
        _clear(folder)
    return result or RunResult(folder.path, folder.report(), already=True)


def _take_part(prepared: Prepared, shard: Shard, watch: Watch, notes: list[str]) -> RunResult | None:
    """Do what is to be done; return the run if it was this process that finished it."""
    folder = prepared.folder

    def finished() -> bool:
        return (folder.path / "run.json").exists()

    def over(stage: str) -> bool:
        # Once the cube has its final name, whoever still checks or waits for what led to it may stop.
        return finished() or (stage != MOSAIC and folder.has("filled.zarr"))

    with folder.alone():
        state = begin(prepared)
        if state is State.NEW:
            make_stores(prepared)
    if state is State.FINISHED:
        return None
    with Claims(folder.work / "claims") as claims:
        runner = ShardRunner(
            shard=shard, claims=claims, over=over, progress=watch.progress, limit=prepared.options.block_timeout
        )
        report = carry_out(prepared, runner, watch, notes, alone=folder.alone, check=False)
    with folder.alone():
        if finished():
            return None
        notes = [*notes, *write_report(folder, report)]
        folder.finish(report, keep_work=True)
    return RunResult(folder.path, report, notes=notes)


def _clear(folder: RunFolder) -> None:
    """Remove the scratch, unless other processes are still at it: the last one does."""
    with suppress(OutputError):
        if folder.work.is_dir():
            with folder.locked():
                folder.remove_work()
