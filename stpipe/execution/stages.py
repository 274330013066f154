"""Stages: many small tasks on Dask, in bounded batches.

A stage is one function of the run's shared context and a task's number. The numbers go through
`dask.array.map_blocks`, one task each, and come back as a row of about a hundred bytes. The context travels once to
each worker process, in a plugin that new workers get too. A task that raises gives its message instead of taking the
stage down, and a worker that dies takes only its own task with it: the scheduler hands that task out again and sets
it aside after a few deaths, while all others finish.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, Future, KilledWorker, Worker, WorkerPlugin
from numpy.typing import NDArray

from stpipe.errors import ReadError, StpipeError
from stpipe.execution.bounds import Bound, ended_after
from stpipe.execution.storage import is_from_store
from stpipe.execution.waiting import SchedulerLostError, as_they_end, needed

BATCH = 1024
"""Tasks that the scheduler holds at a time."""

MESSAGE_BYTES = 800
"""Longest error message that comes home."""

MOST_IN_VAIN = 3
"""Tasks in a row that may fail for want of room or of a store, after which a stage is given up."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})

Task = Callable[[Any, int], str]
"""A function of the context and a number; it says "done" or "had"."""


class BadBlocksError(Exception):
    """Blocks in scratch are not what their records say; the arguments are their numbers over all variables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A task that did not succeed."""

    number: int
    """The task's number."""

    message: str
    """Why, in one line."""

    bad_blocks: tuple[int, ...] = ()
    """The blocks of the scratch store that have to be filled again, if that was the reason."""

    unreadable: bool = False
    """Whether the input could not be read."""


@dataclass(slots=True)
class StageResult:
    """How a stage ended."""

    done: int = 0
    """Tasks that did their work."""

    had: int = 0
    """Tasks whose work was already there."""

    failures: list[Failure] = field(default_factory=list)
    """Tasks that failed."""

    peak_bytes: int = 0
    """Largest memory of a worker process seen by a task's end."""

    workers: set[int] = field(default_factory=set)
    """Process ids that worked."""

    retries: int = 0
    """Tasks that were taken over from a process that died at them, where processes share the work."""

    in_vain: int = 0
    """Tasks in a row that failed for a reason that others would fail for as well, such as a disk that is full."""

    in_vain_at: set[int] = field(default_factory=set)
    """Process ids that these were tried by."""

    processes: int = 1
    """Processes that there are to try by."""

    recorded: tuple[int, int] = (0, 0)
    """Tasks that had a record at first and have one now, whoever made it, where processes share the work."""

    @property
    def ended(self) -> int:
        """Tasks that have ended, one way or another."""
        return self.done + self.had + len(self.failures)

    @property
    def hopeless(self) -> bool:
        """Whether more of the same would be in vain, each task for hours perhaps.

        One node with a full disk, or without credentials, fails fast and often, and must not speak for all others.
        """
        return self.in_vain >= MOST_IN_VAIN and len(self.in_vain_at) >= min(2, self.processes)

    def add(self, other: StageResult) -> None:
        """Take in how a further part of the same stage ended."""
        self.done += other.done
        self.had += other.had
        self.failures += other.failures
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)
        self.workers |= other.workers
        self.retries += other.retries
        self.in_vain, self.in_vain_at, self.processes = other.in_vain, other.in_vain_at, other.processes


Progress = Callable[[str, StageResult, int], None]
"""Told the stage, how its tasks have gone so far and how many there are, before the first one and after each.

Several calls are about the same part of a stage if they bring the same result.
"""


_contexts: dict[str, Any] = {}

_tries = itertools.count()


class ContextPlugin(WorkerPlugin):
    """Gives each worker process the run's context, and its method the chance to load."""

    def __init__(self, name: str, context: Any, start: Callable[[Any], None]) -> None:
        self.name = name
        self.context = context
        self.start = start

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 - the plugin's signature
        """Keep the context for the tasks of this process."""
        self.start(self.context)
        give_memory_back()
        forget_peak()
        _contexts[self.name] = self.context

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002
        """Forget it."""
        _contexts.pop(self.name, None)


ROW = np.dtype(
    [("number", "i8"), ("state", "u1"), ("peak", "i8"), ("process", "i8"), ("blocks", "O"), ("message", "O")]
)
"""What a task sends home."""

DONE, HAD, FAILED, BAD_BLOCKS, UNREADABLE, IN_VAIN = range(6)


def _row(number: NDArray[np.int64], *, task: Task, context: str, bound: Bound | None) -> NDArray[np.void]:
    """Run one task in a worker and tell how it went."""
    return attempt(task, _contexts[context], int(number[0]), bound)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Numbers of tasks, as what is no array of NumPy's, which Dask would cut up into tasks of their own."""

    array: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[np.int64]:
        return self.array.dtype


def _taken(numbers: _Numbers, index: tuple[slice]) -> NDArray[np.int64]:
    """Return one number, in place of the function of Dask's by which arrays are read."""
    return numbers.array[index]


def attempt(task: Task, context: Any, number: int, bound: Bound | None = None) -> NDArray[np.void]:
    """Run one task in this process, which ends if that takes too long; return one `ROW` that tells how it went."""
    state, blocks, message = DONE, (), ""
    try:
        with ended_after(bound, number):
            state = HAD if task(context, number) == "had" else DONE
    except BadBlocksError as error:
        state, blocks, message = BAD_BLOCKS, error.args, "blocks in scratch are not what their records say"
    except ReadError as error:
        state, message = IN_VAIN if _is_in_vain(error) else UNREADABLE, str(error)
    except StpipeError as error:
        state, message = IN_VAIN if _is_in_vain(error) else FAILED, str(error)
    except Exception as error:  # noqa: BLE001 - a method may raise anything; the driver names the block
        where = traceback.extract_tb(error.__traceback__)[-1]
        state = IN_VAIN if _is_in_vain(error) else FAILED
        message = f"{type(error).__name__}: {error} (in {where.name}, line {where.lineno} of {where.filename})"
    row = np.empty(1, dtype=ROW)
    row[0] = (number, state, *process_memory(), blocks, " ".join(message.split())[:MESSAGE_BYTES])
    return row


def _is_in_vain(error: BaseException) -> bool:
    """Whether what went wrong lies in a disk or a store, and not in the task."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, FileNotFoundError):  # a store says of what is gone that it is gone
        if (isinstance(seen, OSError) and seen.errno in _NO_ROOM) or is_from_store(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def clean_workers(client: Client, name: str) -> Iterator[None]:
    """Take a context away from the workers at the end, however it comes; a cluster may outlive many runs."""
    try:
        yield
    finally:
        with suppress(Exception):  # the cluster may be gone, which is told elsewhere
            client.unregister_worker_plugin(name)


def give_memory_back() -> None:
    """Let the system have what this process's allocator keeps for later, where it can: a stage needs other sizes."""
    with suppress(OSError, AttributeError):  # glibc's own
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> None:
    """Let the system count this process's peak memory anew, where it can, so that a stage's figure is its own."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def process_memory() -> tuple[int, int]:
    """Return this process's peak resident memory in bytes, and its id."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak, os.getpid()


def run_stage(
    client: Client,
    name: str,
    stage: str,
    task: Task,
    numbers: Sequence[int],
    progress: Progress | None = None,
    *,
    bound: Bound | None = None,
) -> StageResult:
    """Run a task for each number; return when all have ended, one way or another, or when more would be in vain.

    A task that takes longer than its bound is tried again, like one whose worker has died.
    """
    result = StageResult()
    tell = progress or untold
    tell(stage, result, len(numbers))
    with needed(client):
        for rows in _batches(client, name, task, numbers, bound):
            for row in rows:
                count(result, row)
                if result.in_vain >= MOST_IN_VAIN:
                    result.processes = len(client.scheduler_info(n_workers=-1)["workers"])
                tell(stage, result, len(numbers))
                if result.hopeless:
                    break
            if result.hopeless:
                break  # what is under way is let go of
    result.failures.sort(key=lambda failure: failure.number)
    return result


def untold(*_: object) -> None:
    """Tell nobody how a stage goes."""


def _name_of(task: Task) -> str:
    """Return a function's name, also of one that has been given some of its arguments."""
    return str(getattr(getattr(task, "func", task), "__name__", "task"))


def _batches(
    client: Client, name: str, task: Task, numbers: Sequence[int], bound: Bound | None
) -> Iterator[Iterator[Failure | np.void]]:
    for first in range(0, len(numbers), BATCH):
        yield _batch(client, name, task, numbers[first : first + BATCH], bound)


def _batch(
    client: Client, name: str, task: Task, numbers: Sequence[int], bound: Bound | None
) -> Iterator[Failure | np.void]:
    """Submit a batch as one map_blocks over its tasks and give the rows as they come.

    Each is one task of Dask's and no more: of two in a row the second may wait behind another block, and die with it.
    """
    import dask.array as da  # the driver's alone: it brings xarray along, 60 MiB that workers do without

    # A task that is tried again needs a new name, or the scheduler may still know the outcome of the first try.
    label = f"{_name_of(task)}-{name[:16]}-{next(_tries)}"
    # By its own way of taking numbers out, and told of them as an array instead of asking for `block_id`, a task holds
    # nothing of dask.array's, which its worker would have to load. Optimising makes one task of the two steps. It
    # counts as one that brings data in, which the scheduler holds back until a worker is free, however few there are.
    given = _Numbers(np.asarray(numbers, dtype=np.int64))
    source = da.from_array(
        given, chunks=1, name=f"numbers-{label}", getitem=_taken, inline_array=True, meta=given.array[:0]
    )
    rows = da.map_blocks(
        _row, source, task=task, context=name, bound=bound, name=label, dtype=ROW, meta=np.empty(0, dtype=ROW)
    )
    parts = rows.to_delayed(optimize_graph=True).ravel()
    futures = client.compute(list(parts), optimize_graph=False, retries=0)
    which = {future.key: number for future, number in zip(futures, numbers, strict=True)}
    for future in as_they_end(client, futures):
        if future.status not in ("finished", "error") and client.status != "running":
            raise SchedulerLostError("the scheduler is gone")
        yield _outcome(future, which[future.key], bound)
        # Or the row stays with its worker until the batch is over, and is worked out once more if that one dies.
        future.release()


def _outcome(future: Future[Any], number: int, bound: Bound | None) -> Failure | np.void:
    """Return how a task ended."""
    if future.status not in ("finished", "error"):
        return Failure(number=number, message=f"the cluster lost the task ({future.status})")
    error = future.exception() if future.status == "error" else None
    if error is None:
        row: np.void = future.result()[0]
        return row
    if isinstance(error, KilledWorker):
        late = "" if bound is None else f", or took {bound.seconds:g} s (--block-timeout; {bound.folder} tells at what)"
        return Failure(number=number, message=f"its worker died each time it was tried{late}")
    return Failure(number=number, message=f"{type(error).__name__}: {error}"[:MESSAGE_BYTES])


def count(result: StageResult, row: Failure | np.void) -> None:
    """Add one task's outcome to a stage's."""
    if isinstance(row, Failure):
        result.failures.append(row)
        return
    result.peak_bytes = max(result.peak_bytes, int(row["peak"]))
    result.workers.add(int(row["process"]))
    state = int(row["state"])
    if state == IN_VAIN:
        result.in_vain += 1
        result.in_vain_at.add(int(row["process"]))
    else:
        result.in_vain, result.in_vain_at = 0, set()
    if state == DONE:
        result.done += 1
    elif state == HAD:
        result.had += 1
    else:
        result.failures.append(
            Failure(
                number=int(row["number"]),
                message=str(row["message"]),
                bad_blocks=tuple(row["blocks"]),
                unreadable=state == UNREADABLE,
            )
        )
