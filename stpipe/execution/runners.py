"""Who runs the tasks of a stage: workers of a Dask cluster, or processes that share them out among themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distributed import Client

from stpipe.execution.bounds import Bound
from stpipe.execution.records import RecordBook
from stpipe.execution.stages import ContextPlugin, Progress, StageResult, Task, run_stage
from stpipe.execution.storage import located
from stpipe.execution.waiting import needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """The tasks of one stage."""

    stage: str
    """What users call it."""

    task: Task
    """What is done for each number."""

    numbers: Sequence[int]
    """The tasks."""

    book: RecordBook
    """Where a task that is done leaves its record."""

    name: str = "{:07d}"
    """What the record is called, given the task's number."""

    blocks: bool = True
    """Whether a task is the work of a block or a tile, and not of a whole variable."""

    def bound(self, seconds: float | None) -> Bound | None:
        """Return how long a task may take, given the seconds for a block; None for as long as it likes."""
        if seconds is None or not self.blocks:
            return None
        folder = located(self.book.folder).parent.with_name("hung")
        return Bound(seconds=seconds, stage=self.book.stage, folder=str(folder))

    def record(self, number: int) -> str:
        """Return the name of a task's record."""
        return self.name.format(number)


class Runner(Protocol):
    """Runs stages."""

    def run(self, tasks: Tasks, *, context: Any, name: str, start: Callable[[Any], None]) -> StageResult:
        """Run all tasks of a stage; return when all have ended, one way or another.

        Parameters
        ----------
        tasks : Tasks
            What to do.
        context : object
            What each task is given beside its number.
        name : str
            Tells the context from those of other runs.
        start : callable
            Called with the context in each process before its first task.
        """


@dataclass(frozen=True, slots=True)
class ClusterRunner:
    """Runs stages on a Dask cluster."""

    client: Client
    """The cluster."""

    progress: Progress | None = None
    """Told about tasks that have ended."""

    limit: float | None = None
    """Seconds that a task may take."""

    def run(self, tasks: Tasks, *, context: Any, name: str, start: Callable[[Any], None]) -> StageResult:
        """Hand the context to all workers there are and will be, in place of an earlier one, and run the tasks."""
        with needed(self.client):
            self.client.register_plugin(ContextPlugin(name, context, start), name=name)
        bound = tasks.bound(self.limit)
        return run_stage(self.client, name, tasks.stage, tasks.task, tasks.numbers, self.progress, bound=bound)
