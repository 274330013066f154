"""Jobs that end, or never begin: which are asked for again, and when a run is told that none can work."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from stpipe.execution.clusters import keeper as keeping
from stpipe.execution.clusters.keeper import STILLBIRTHS, Keeper, jobs_alive


class Job:
    def __init__(self, number: int | None = None, logs: Path | None = None) -> None:
        self.job_id = None if number is None else str(number)
        self.log_directory = None if logs is None else str(logs)
        self.closed = False

    async def close(self) -> None:
        self.closed = True


def looked(keeper: Keeper, *present: str) -> set[str]:
    """Let a keeper look while some workers are there; return the jobs that are left in the plan."""
    keeper.cluster.scheduler.workers = {name: SimpleNamespace(name=name) for name in present}
    asyncio.run(keeper())
    return set(keeper.cluster.worker_spec)


def kept(jobs: Mapping[str, Job], per_job: int) -> Keeper:
    cluster = SimpleNamespace(
        worker_spec=dict.fromkeys(jobs), workers=dict(jobs), scheduler=SimpleNamespace(workers={})
    )
    keeper = Keeper(cluster, per_job)
    keeper.patience = 0
    return keeper


def test_a_job_is_given_up_when_all_its_workers_have_gone_and_not_before() -> None:
    first, second = Job(), Job()
    keeper = kept({"a": first, "b": second}, per_job=2)
    assert looked(keeper) == {"a", "b"}  # both wait in the queue
    assert looked(keeper, "a-0", "a-1") == {"a", "b"}
    assert looked(keeper, "a-1") == {"a", "b"}
    assert looked(keeper) == {"b"}
    assert first.closed
    assert not second.closed


def test_a_job_in_place_of_another_of_its_name_may_wait_in_the_queue() -> None:
    keeper = kept({"a": Job()}, per_job=1)
    assert looked(keeper, "a") == {"a"}
    keeper.cluster.workers["a"] = Job()
    assert looked(keeper) == {"a"}
    assert looked(keeper, "a") == {"a"}
    del keeper.cluster.workers["a"]  # as Dask itself leaves it
    assert looked(keeper) == set()


def test_a_job_that_is_silent_for_a_moment_is_kept() -> None:
    keeper = kept({"a": Job()}, per_job=1)
    keeper.patience = 3600
    assert looked(keeper, "a") == {"a"}
    assert looked(keeper) == {"a"}
    keeper.patience = 0
    assert looked(keeper) == set()


# --- jobs that end before a worker has come ---------------------------------------------------------------------------


class Batch:
    """A cluster whose jobs wait, run or end as told, and a batch system that knows it."""

    def __init__(self, logs: Path | None = None) -> None:
        self.alive: set[str] | None = set()
        self.logs = logs
        scheduler = SimpleNamespace(workers={})
        self.cluster = SimpleNamespace(worker_spec={}, workers={}, scheduler=scheduler)
        self.keeper = Keeper(self.cluster, 1, alive=self.ask)
        self.keeper.look = 0

    async def ask(self) -> set[str] | None:
        return self.alive

    def submit(self, name: str, number: int) -> None:
        self.cluster.worker_spec[name] = None
        self.cluster.workers[name] = Job(number, self.logs)


def test_a_job_that_ends_before_its_worker_comes_is_replaced() -> None:
    batch = Batch()
    batch.submit("a", 1)
    batch.alive = {"1"}
    for _ in range(5):
        assert looked(batch.keeper) == {"a"}  # it waits in the queue
    batch.alive = set()
    assert looked(batch.keeper) == {"a"}  # the worker may be on its way
    assert looked(batch.keeper) == set()
    assert batch.keeper.trouble is None


def test_a_batch_system_that_does_not_answer_says_nothing() -> None:
    batch = Batch()
    batch.submit("a", 1)
    batch.alive = None
    for _ in range(5):
        assert looked(batch.keeper) == {"a"}


def test_a_job_whose_worker_is_there_is_not_asked_about() -> None:
    batch = Batch()
    batch.submit("a", 1)
    batch.keeper.patience = 3600
    for _ in range(3):
        assert looked(batch.keeper, "a") == {"a"}
    assert looked(batch.keeper) == {"a"}  # it has gone, which is another matter
    assert looked(batch.keeper) == {"a"}


def test_several_in_a_row_end_the_run_with_what_the_last_one_wrote(tmp_path: Path) -> None:
    batch = Batch(tmp_path)
    for number in range(STILLBIRTHS):
        assert batch.keeper.trouble is None
        batch.submit("a", number)
        (tmp_path / f"stpipe-{number}.out").write_text(f"module: {number}: no such module\n\n")
        looked(batch.keeper)
        looked(batch.keeper)
    assert batch.keeper.trouble is not None
    assert f"{STILLBIRTHS} jobs in a row" in batch.keeper.trouble
    assert f"wrote: module: {STILLBIRTHS - 1}: no such module" in batch.keeper.trouble


def test_a_worker_that_comes_breaks_the_row() -> None:
    batch = Batch()
    for number in range(3 * STILLBIRTHS):
        batch.submit("a", number)
        looked(batch.keeper)
        looked(batch.keeper)
        if number % (STILLBIRTHS - 1) == STILLBIRTHS - 2:
            looked(batch.keeper, "another")
    assert batch.keeper.trouble is None


@pytest.mark.parametrize(
    ("system", "lines", "code", "expected"),
    [
        ("slurm", "echo 17; echo 18_2", 0, {"17", "18_2"}),
        ("slurm", "true", 0, set()),
        ("slurm", "echo slurm_load_jobs error >&2", 1, None),
        ("pbs", "echo 17.server", 0, {"17"}),
        ("lsf", "echo No unfinished job found >&2", 255, set()),
    ],
)
def test_what_batch_systems_say_is_understood(
    system: str, lines: str, code: int, expected: set[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / keeping.LISTS[system][0]
    command.write_text(f"#!/bin/sh\n{lines}\nexit {code}\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert asyncio.run(jobs_alive(system)) == expected


def test_a_command_that_is_missing_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert asyncio.run(jobs_alive("slurm")) is None
