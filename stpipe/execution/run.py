"""The run: survey, learn, fill and blend, so that it can stop anywhere and go on.

The driver decides and counts; workers read, compute and write. Nothing but task numbers and short rows travels.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.blocks import BlockGrid
from stpipe.core.ports import JSON, Learner
from stpipe.core.survey import BASE_CELL, location_and_spread
from stpipe.core.windows import Window
from stpipe.errors import RunError
from stpipe.execution.context import RunContext, Scale
from stpipe.execution.learning import learn_task
from stpipe.execution.records import RecordBook
from stpipe.execution.rounds import run_rounds
from stpipe.execution.runners import Runner, Tasks
from stpipe.execution.stages import Failure, StageResult, Task
from stpipe.execution.tasks import blend_task, complete_survey, fill_task, survey_tile

LEARN = "learn"
"""The stage that looks at a variable as a whole; all others work on blocks and tiles."""

NOUNS = {"survey": "tile", LEARN: "variable", "fill": "block"}
"""What the numbers of a stage's tasks stand for; parts of the scene elsewhere."""

REPAIRS = 3
"""How often bad blocks found while blending are filled again before the run gives up."""


@dataclass(slots=True)
class RunOutcome:
    """What a run did."""

    context: RunContext
    """The context with the survey's results."""

    blocks_with_gaps: int = 0
    """Blocks that had anything to fill."""

    learned: dict[str, JSON] = field(default_factory=dict)
    """What the method learned from each variable: sha256, bytes, seconds, identity, notes."""

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Samples by source, for each variable."""

    rule_counts: list[list[int]] = field(default_factory=list)
    """How often each rule on what to trust matched, see `stpipe.core.trust.remarks`; empty without rules."""

    stages: dict[str, StageResult] = field(default_factory=dict)
    """How each stage ended."""


def run_blocks(
    runner: Runner,
    context: RunContext,
    *,
    start_worker: Callable[[Any], None],
    on_stage: Callable[[str], None] | None = None,
) -> RunOutcome:
    """Survey the cube, let the method look at the scene and learn from it if it can, fill blocks, and blend them.

    Parameters
    ----------
    runner : Runner
        Who does the work.
    context : RunContext
        The run; its stores exist.
    start_worker : callable
        Called with the context once in each worker process, before its first task.
    on_stage : callable, optional
        Told about each stage as it begins.

    Raises
    ------
    RunError
        If tasks failed; all others of the stage have finished by then.
    """
    outcome = RunOutcome(context)
    tell = on_stage or _ignore

    def run(at: RunContext, tasks: Tasks) -> StageResult:
        return runner.run(tasks, context=at, name=at.plan.run_id, start=start_worker)

    def stage(at: RunContext, tasks: Tasks) -> None:
        tell(tasks.stage)
        ended = run(at, tasks)
        outcome.stages.setdefault(tasks.stage, StageResult()).add(ended)
        _refuse_failures(ended, tasks.stage, NOUNS.get(tasks.stage, "part"), at)

    def plain(at: RunContext, name: str, task: Task, numbers: Sequence[int]) -> Tasks:
        return Tasks(stage=name, task=task, numbers=numbers, book=at.book(name), blocks=name != LEARN)

    tiles = range(len(context.plan.survey_tiles) * len(context.plan.variables))
    stage(context, plain(context, "survey", survey_tile, tiles))
    variables = range(len(context.plan.variables))
    completing = Tasks(
        stage="survey", task=complete_survey, numbers=variables, book=context.book("survey"), name="variable-{:07d}"
    )
    stage(context, completing)
    context = outcome.context = finish_survey(context)
    outcome.rule_counts = rule_counts(context)

    todo = blocks_with_gaps(context)
    outcome.blocks_with_gaps = len(todo)
    gappy = sorted({number // len(context.plan.blocks) for number in todo})
    context = outcome.context = run_rounds(context, gappy, stage)
    if isinstance(context.filler, Learner):
        stage(context, plain(context, LEARN, learn_task, gappy))
        context, outcome.learned = finish_learning(context, gappy)
        outcome.context = context
    stage(context, plain(context, "fill", fill_task, todo))

    tell("blend")
    numbers = range(context.plan.n_blend_tiles)
    blended = outcome.stages["blend"] = run(context, plain(context, "blend", blend_task, numbers))
    for _ in range(REPAIRS):
        bad = sorted({number for failure in blended.failures for number in failure.bad_blocks})
        if not bad:
            break
        again = [failure.number for failure in blended.failures if failure.bad_blocks]
        blended.failures = [failure for failure in blended.failures if not failure.bad_blocks]
        for number in bad:
            context.book("fill").drop(f"{number:07d}")
        redone = run(context, plain(context, "fill", fill_task, bad))
        _refuse_failures(redone, "fill", "block", context)
        retried = run(context, plain(context, "blend", blend_task, again))
        blended.add(retried)
    _refuse_failures(blended, "blend", "tile", context)
    outcome.counts = source_counts(context.book("blend"), numbers)
    return outcome


def _ignore(_: str) -> None:
    """Take no notice of a stage."""


def finish_survey(context: RunContext) -> RunContext:
    """Reduce the tiles' records to each variable's scale."""
    book, tiles = context.book("survey"), context.plan.survey_tiles
    scales: dict[str, Scale] = {}
    digests: list[str] = []
    for i, info in enumerate(context.plan.variables):
        samples = []
        names = (f"{i * len(tiles) + j:07d}" for j in range(len(tiles)))
        for j, record in enumerate(book.read_many(names)):
            if record is None:
                raise RunError(f"the record of survey tile {j} of {info.name!r} is gone; run the same command again")
            samples.append(np.frombuffer(base64.b64decode(record["sample"]), dtype=np.float64))
            digests.append(record["digest"])
        location, spread = location_and_spread(np.concatenate(samples))
        scales[info.name] = Scale(location=location, spread=spread)
    return context.surveyed(scales, digests)


def rule_counts(context: RunContext) -> list[list[int]]:
    """Add up how often each rule matched; what is trusted is the same for all variables, so the first tells."""
    book = context.book("survey")
    records = book.read_many(f"{j:07d}" for j in range(len(context.plan.survey_tiles)))
    counts = [record["rules"] for record in records if record is not None and "rules" in record]
    return [[sum(column) for column in zip(*rule, strict=True)] for rule in zip(*counts, strict=True)]


def finish_learning(context: RunContext, numbers: Iterable[int]) -> tuple[RunContext, dict[str, JSON]]:
    """Return the context with the digests of what was learned, and all that the records say of it."""
    book = context.book(LEARN)
    rows: dict[str, JSON] = {}
    for number in numbers:
        name = context.variable(number).name
        record = book.read(f"{number:07d}")
        if record is None:
            raise RunError(f"the record of what was learned from {name!r} is gone; run the same command again")
        rows[name] = {key: record[key] for key in ("sha256", "bytes", "seconds", "identity", "notes")}
    return replace(context, learned={name: row["sha256"] for name, row in rows.items()}), rows


def blocks_with_gaps(context: RunContext) -> list[int]:
    """Return the numbers, over all variables, of the blocks whose write windows hold a gap."""
    grid = context.plan.blocks
    numbers: list[int] = []
    for i, info in enumerate(context.plan.variables):
        parts = ((tile, context.overviews.read_gaps(info.name, tile) > 0) for tile in context.plan.survey_tiles)
        cells = gap_cells(grid, parts)
        numbers += [i * len(grid) + n for n in blocks_over(grid, cells)]
    return numbers


def gap_cells(grid: BlockGrid, parts: Any) -> NDArray[np.bool_]:
    """Collapse tiles of gap cells over the frames of each row of blocks in time: (blocks in time, y, x)."""
    height, width = (-(-n // BASE_CELL) for n in grid.extent[1:])
    cells = np.zeros((grid.counts[0], height, width), dtype=bool)
    for tile, gaps in parts:
        top, left = tile.start[1] // BASE_CELL, tile.start[2] // BASE_CELL
        for i, start in enumerate(grid.starts[0]):
            first, last = max(start, tile.start[0]), min(start + grid.size[0], tile.stop[0])
            if first < last:
                hit = gaps[first - tile.start[0] : last - tile.start[0]].any(axis=0)
                cells[i, top : top + hit.shape[0], left : left + hit.shape[1]] |= hit
    return cells


def blocks_over(grid: BlockGrid, cells: NDArray[np.bool_]) -> list[int]:
    """Return the numbers of the blocks that touch a cell with gaps."""
    return [block.number for block in grid if cells[(block.index[0], *_cells(block.write))].any()]


def _cells(window: Window) -> tuple[slice, slice]:
    (_, y0, x0), (_, y1, x1) = window.start, window.stop
    return slice(y0 // BASE_CELL, -(-y1 // BASE_CELL)), slice(x0 // BASE_CELL, -(-x1 // BASE_CELL))


def source_counts(book: RecordBook, numbers: Iterable[int]) -> dict[str, dict[str, int]]:
    """Add up the source codes of the blended tiles."""
    totals: dict[str, dict[str, int]] = {}
    for record in book.read_many(f"{number:07d}" for number in numbers):
        if record is not None:
            total = totals.setdefault(record["variable"], dict.fromkeys(record["counts"], 0))
            for code, count in record["counts"].items():
                total[code] += count
    return totals


def blended_files(context: RunContext) -> dict[str, str]:
    """Return the sha256 of each file of the filled cube, as the records of its tiles say; it takes a blended run."""
    book, files = context.book("blend"), {}
    names = (f"{number:07d}" for number in range(context.plan.n_blend_tiles))
    for number, record in enumerate(book.read_many(names)):
        if record is None:
            raise RunError(f"the record of blended tile {number} is gone; run the same command again to go on")
        files.update(record["files"])
    return files


def _refuse_failures(result: StageResult, stage: str, noun: str, context: RunContext) -> None:
    """End the run if anything failed, with the first reasons and the way to go on."""
    if not result.failures:
        return
    n = len(result.failures)
    reasons = list(dict.fromkeys(_reason(failure, stage, noun, context) for failure in result.failures))
    shown = "; ".join(reasons[:5]) + (f"; and {len(reasons) - 5} more" if len(reasons) > 5 else "")
    if result.hopeless:
        raise RunError(
            f"{result.in_vain} {noun}s in a row failed in the {stage}, which was given up with "
            f"{result.done + result.had} done: {shown}; mend that and run the same command again to go on from here"
        )
    advice = "mend the input" if any(f.unreadable for f in result.failures) else "mend that"
    raise RunError(
        f"{n} of {n + result.done + result.had} {noun}s failed in the {stage}, all others are done: {shown}; "
        f"{advice} and run the same command again to go on from here"
    )


def _reason(failure: Failure, stage: str, noun: str, context: RunContext) -> str:
    if failure.unreadable:
        return failure.message  # names the chunk, which several tiles or blocks may share
    if stage == "fill":
        grid = context.plan.blocks
        block = grid.block(failure.number % len(grid))
        where = f"block {block.index} at {block.write.start} of {context.variable(failure.number // len(grid)).name!r}"
    elif stage == LEARN:
        where = f"variable {context.variable(failure.number).name!r}"
    else:
        where = f"{noun} {failure.number}"
    return f"{where}: {failure.message}"
