import asyncio
import atexit
import gc
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster
from distributed.comm.core import CommClosedError

from stpipe.core.sizes import GIB
from stpipe.execution import waiting
from stpipe.execution.bounds import Bound
from stpipe.execution.clusters.connect import KEPT_BYTES, _preloads, connect
from stpipe.execution.stages import ContextPlugin, StageResult, run_stage
from stpipe.execution.waiting import SchedulerLostError, needed

TRIM = "MALLOC_TRIM_THRESHOLD_"
MMAP = "MALLOC_MMAP_THRESHOLD_"


def allocator() -> tuple[str | None, str | None]:
    return os.environ.get(TRIM), os.environ.get(MMAP)


def test_workers_keep_memory_where_told_to_and_the_user_does_not_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRIM, raising=False)
    monkeypatch.setenv(MMAP, "131072")
    with connect(scheduler=None, workers=1, memory_limit=GIB, keep_memory=True) as client:
        (told,) = client.run(allocator).values()
    assert told == (str(KEPT_BYTES), "131072")


def test_what_a_site_has_its_processes_load_stays() -> None:
    with dask.config.set({"distributed.scheduler.preload": ["site"], "distributed.worker.preload": "site"}):
        loaded = _preloads({"distributed.nanny.preload": ["of_file"]})
    steady = "stpipe.execution.steady"
    assert loaded["distributed.scheduler.preload"] == [steady, "site"]
    assert loaded["distributed.worker.preload"] == ["stpipe.execution.worker_process", steady, "site"]
    assert loaded["distributed.nanny.preload"] == [steady, "of_file"]
    assert loaded["distributed.client.preload"] == [steady]


def leave_something_waiting() -> None:
    """Do what zarr does with requests that a store never answers: close their loop at exit."""
    loop, turn = asyncio.new_event_loop(), asyncio.Semaphore(1)

    async def wait() -> None:
        async with turn:
            await asyncio.sleep(1000)

    tasks = [loop.create_task(wait()) for _ in range(2)]
    loop.run_until_complete(asyncio.sleep(0.01))

    def forget() -> None:
        loop.close()
        del tasks[0]  # which has its turn, and hands it on in a loop that is closed
        gc.collect()
        tasks.clear()

    atexit.register(forget)


def test_workers_end_quietly_whatever_waits_in_them(capfd: pytest.CaptureFixture[str]) -> None:
    with connect(scheduler=None, workers=1, memory_limit=GIB) as client:
        client.submit(leave_something_waiting).result()
    assert capfd.readouterr().err == ""


def quick(_: object, __: int) -> str:
    time.sleep(0.02)
    return "done"


def nothing(_: object) -> None:
    """Make nothing ready."""


def test_a_scheduler_that_goes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOST_AFTER", 0.2)
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(tmp_path / "file")]
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", *words]
    scheduler = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "file").exists():
        time.sleep(0.05)
    with Client(scheduler_file=str(tmp_path / "file"), timeout=1, set_as_default=False) as client:
        stop = Timer(0.5, scheduler.kill)
        stop.start()
        with pytest.raises(SchedulerLostError, match=r"tcp://127.0.0.1:\d+ is gone; what is done is kept"):
            run_stage(client, "run", "work", quick, range(100))
        stop.join()
        scheduler.wait()


class FakeClient:
    """A client that looks fine for some moments yet."""

    def __init__(self, looks: float) -> None:
        self.left = looks
        self.scheduler = SimpleNamespace(address="tcp://10.0.0.1:8786")

    @property
    def status(self) -> str:
        self.left -= 1
        return "running" if self.left >= 0 else "connecting"


@pytest.mark.parametrize("error", [CommClosedError("reset"), ConnectionResetError(104, "reset"), TimeoutError()])
def test_a_call_that_fails_before_the_client_has_noticed_is_told_as_the_schedulers_end(error: Exception) -> None:
    client: Any = FakeClient(looks=3)
    with pytest.raises(SchedulerLostError, match=r"the scheduler at tcp://10.0.0.1:8786 is gone"), needed(client):
        raise error


OTHERS = [(CommClosedError("of a worker"), 10**6), (OSError(28, "No space left"), 2), (ValueError("other"), 2)]


@pytest.mark.parametrize(("error", "looks"), OTHERS)
def test_what_fails_while_the_scheduler_is_there_stays_what_it_is(
    error: Exception, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOST_AFTER", 0.1)
    client: Any = FakeClient(looks)  # who looks more often than it takes to tell, sees it gone
    with pytest.raises(type(error)) as raised, needed(client):
        raise error
    assert raised.value is error


def test_what_has_ended_is_not_done_again_when_its_worker_goes() -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(ContextPlugin("run", None, nothing), name="run")
        held: list[int] = []

        def look(_: str, result: StageResult, __: int) -> None:
            if result.ended > 1:
                held.append(sum(len(worker.data) for worker in cluster.workers.values()))

        assert run_stage(client, "run", "work", quick, range(60), look).done == 60
    assert max(held) < 30  # the scheduler takes a moment to let them go


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


HELD: list[np.ndarray] = []


def leave_holes(_: object, number: int) -> str:
    """Use 256 MiB in pieces that a worker keeps, and hold on to the last one, above all the others."""
    pieces = [np.ones(2**16, dtype=np.float64) for _ in range(512)]
    HELD.append(pieces.pop())
    return "done" if number == 0 and resident() > 2**28 else "had"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to see what a process holds")
def test_what_a_stage_leaves_behind_goes_back_before_the_next_one() -> None:
    with connect(scheduler=None, workers=1, memory_limit=GIB) as client:
        client.register_plugin(ContextPlugin("run", None, nothing), name="run")
        assert run_stage(client, "run", "work", leave_holes, range(1)).done == 1
        (kept,) = client.run(resident).values()
        client.register_plugin(ContextPlugin("run", None, nothing), name="run")
        (again,) = client.run(resident).values()
    assert kept > 2**28  # a worker keeps what it may need again at once
    assert again < kept - 2**27


def hang(_: object, number: int) -> str:
    if number == 3:
        time.sleep(600)
    return "done"


def test_what_hangs_is_set_aside_and_the_others_are_done(tmp_path: Path) -> None:
    with connect(scheduler=None, workers=1, memory_limit=GIB) as client:
        client.register_plugin(ContextPlugin("run", None, nothing), name="run")
        bound = Bound(seconds=0.5, stage="work", folder=str(tmp_path / "hung"))
        result = run_stage(client, "run", "work", hang, range(6), bound=bound)
    assert result.done == 5
    ((failure),) = result.failures
    assert failure.number == 3
    assert failure.message.startswith("its worker died each time it was tried, or took 0.5 s (--block-timeout; ")
    assert "in hang" in (tmp_path / "hung" / "work-0000003.txt").read_text()


def spare(_: object, __: int) -> str:
    return "had" if {"xarray", "pandas", "dask.array"} & sys.modules.keys() else "done"


def test_workers_need_not_load_what_only_the_driver_uses() -> None:
    with connect(scheduler=None, workers=1, memory_limit=GIB) as client:
        client.register_plugin(ContextPlugin("run", None, nothing), name="run")
        result = run_stage(client, "run", "work", spare, range(3))
    assert (result.done, result.had) == (3, 0)


def deadly(_: object, number: int) -> str:
    if number == 7:
        os._exit(1)
    return "done"


def test_what_kills_its_worker_takes_no_other_task_with_it() -> None:
    with connect(scheduler=None, workers=2, memory_limit=GIB) as client:
        client.register_plugin(ContextPlugin("run", None, nothing), name="run")
        result = run_stage(client, "run", "work", deadly, range(32))
    assert result.done == 31
    assert [failure.number for failure in result.failures] == [7]


def test_what_was_made_by_a_worker_that_went_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(waiting.as_completed):  # type: ignore[misc]
        """Gives futures when their worker, and what it had made, has gone."""

        def next_batch(self, block: bool = True) -> list[Any]:
            batch = super().next_batch(block)
            if not went:
                went.append(True)
                (address,) = client.run(os.getpid)
                (process,) = client.run(os.getpid).values()
                os.kill(process, 9)
                while address in client.scheduler_info(n_workers=-1)["workers"]:
                    time.sleep(0.02)
            return list(batch)

    went: list[bool] = []
    monkeypatch.setattr(waiting, "as_completed", Slow)
    with connect(scheduler=None, workers=1, memory_limit=GIB) as client:
        client.register_plugin(ContextPlugin("run", None, nothing), name="run")
        result = run_stage(client, "run", "work", quick, range(20))
    assert went
    assert (result.done, result.failures) == (20, [])
