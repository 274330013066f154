"""What becomes of a cluster's jobs: others take the place of those that are gone, unless they could not work either."""

from __future__ import annotations

import asyncio
import getpass
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask
from dask.utils import parse_timedelta

LISTS = {
    "slurm": ("squeue", "--me", "--noheader", "--format=%A"),
    "pbs": ("qselect", "-u", "{user}"),
    "lsf": ("bjobs", "-noheader", "-o", "jobid"),
}
"""Commands that print the numbers of one's jobs that wait or run, and none of jobs that have ended."""

NONE = "No unfinished job"
"""What LSF calls an error when there is nothing to list."""

LOOK = 10.0
"""Seconds between two questions to the batch system, which has others to answer."""

ANSWER = 30.0
"""Seconds that it may take to answer."""

STILLBIRTHS = 3
"""Jobs in a row that may end before their worker comes."""


async def jobs_alive(system: str) -> set[str] | None:
    """Return the numbers of one's jobs that wait or run; None where the batch system doesn't answer."""
    words = [word.format(user=getpass.getuser()) for word in LISTS[system]]
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe)
    except OSError:
        return None
    try:
        printed, said = await asyncio.wait_for(process.communicate(), ANSWER)
    except TimeoutError:
        process.kill()
        return None
    if process.returncode and NONE not in said.decode(errors="replace"):
        return None
    return numbers(printed.decode(errors="replace"))


def numbers(printed: str) -> set[str]:
    r"""Return the numbers of jobs that a batch system has printed, without the server's name that PBS puts after them.

    >>> sorted(numbers("17\n18.pbs01\n"))
    ['17', '18']
    """
    return {word.partition(".")[0] for word in printed.split()}


def last_words(job: Any) -> str:
    """Return the last line that a job has written, or nothing if that is not to be found."""
    folder = Path(job.log_directory or ".")
    found = ""
    with suppress(OSError):
        logs = sorted(folder.glob(f"*{job.job_id}*"), key=lambda path: path.stat().st_mtime)
        for log in logs:
            lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
            found = next((line for line in reversed(lines) if line), found)
    return found[:300]


def job_of(worker: Any) -> str:
    """Return what workers of the same job have in common; they are given back together.

    >>> from types import SimpleNamespace
    >>> job_of(SimpleNamespace(name="stpipe-3-0"))
    'stpipe-3'
    """
    return str(worker.name).rsplit("-", 1)[0]


class Keeper:
    """Forgets jobs whose workers have all gone, or will never come, so that others are asked for in their place.

    Workers leave before the walltime, or are killed with their job. dask-jobqueue goes on counting them: a job of
    several workers is never given up, and one of a single worker is left in the plan. A job that ends before a worker
    of it has come would be waited for without end; that it no longer waits or runs is what the batch system knows. When
    several in a row end so, the next ones would as well: then the keeper says why, and who waits for the cluster has to
    ask. Called now and then by the cluster's own event loop.

    Parameters
    ----------
    cluster : dask_jobqueue.JobQueueCluster
        The cluster.
    per_job : int
        Workers that a job starts.
    alive : callable, optional
        Returns the numbers of the jobs that wait or run, or None if that is not known.
    """

    def __init__(
        self, cluster: Any, per_job: int, *, alive: Callable[[], Awaitable[set[str] | None]] | None = None
    ) -> None:
        self.cluster = cluster
        self.per_job = per_job
        self.alive = alive
        self.patience: float = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
        self.look = LOOK
        """Seconds between two questions to the batch system."""
        self.trouble: str | None = None
        """Why jobs can't work, once that is clear."""
        self.seen: dict[Any, int | None] = {}
        self.gone: dict[Any, float] = {}
        self._stillbirths = 0
        self._missing: set[str] = set()
        self._asked = time.monotonic()

    async def __call__(self) -> None:
        """Look once."""
        if self.trouble is not None:
            return
        present = {worker.name for worker in self.cluster.scheduler.workers.values()}
        if present:
            self._stillbirths = 0
        for name in [name for name in list(self.cluster.worker_spec) if self._is_lost(name, present)]:
            await self._forget(name)
        await self._look_for_stillborn(present)

    async def _forget(self, name: Any) -> None:
        self.cluster.worker_spec.pop(name, None)
        job = self.cluster.workers.pop(name, None)
        self.seen.pop(name, None)
        self.gone.pop(name, None)
        if job is not None:
            await job.close()

    def _is_lost(self, name: Any, present: set[Any]) -> bool:
        job = self.cluster.workers.get(name)
        mark = None if job is None else id(job)  # a reference would keep closed jobs alive
        if any(each in present for each in self._workers(name)):
            self.seen[name] = mark
            self.gone.pop(name, None)
            return False
        if name not in self.seen or (mark is not None and self.seen[name] not in (None, mark)):
            return False  # it waits in the queue
        now = time.monotonic()
        return now - self.gone.setdefault(name, now) >= self.patience

    def _workers(self, name: Any) -> list[Any]:
        return [name] if self.per_job == 1 else [f"{name}-{number}" for number in range(self.per_job)]

    async def _look_for_stillborn(self, present: set[Any]) -> None:
        """Give up jobs that have ended before a worker came, now and then."""
        awaited = {name: job for name, job in self.cluster.workers.items() if self._is_awaited(name, job, present)}
        now = time.monotonic()
        if self.alive is None or not awaited or now - self._asked < self.look:
            return
        self._asked = now
        alive = await self.alive()
        if alive is None:
            return
        ended = {name: job for name, job in awaited.items() if str(job.job_id) not in alive}
        # A job may end, or its worker come, while the batch system still answers: two answers have to say the same.
        stillborn = {name: job for name, job in ended.items() if str(job.job_id) in self._missing}
        self._missing = {str(job.job_id) for job in ended.values()}
        for name, job in stillborn.items():
            self._stillbirths += 1
            said = last_words(job)
            await self._forget(name)
            if self._stillbirths >= STILLBIRTHS:
                ending = f"; the last one wrote: {said}" if said else "; they wrote nothing that can be found here"
                self.trouble = (
                    f"{self._stillbirths} jobs in a row have ended before their worker came (the last one: "
                    f"{job.job_id}){ending}; mend that, and run the same command again to go on from here"
                )
                return

    def _is_awaited(self, name: Any, job: Any, present: set[Any]) -> bool:
        """Whether a job has been handed in and none of its workers has come so far."""
        if getattr(job, "job_id", None) is None or any(each in present for each in self._workers(name)):
            return False
        return self.seen.get(name) != id(job)
