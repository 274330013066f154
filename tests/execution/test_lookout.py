"""Workers that come, go and die, told by a scheduler that knows nothing of stpipe."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from stpipe.execution.clusters.connect import connect
from stpipe.execution.lookout import Lookout
from stpipe.execution.stages import ContextPlugin, clean_workers, run_stage


def fatal_once(folder: str, number: int) -> str:
    """Kill the worker at a task, the first time that it is tried; leave a file for each try."""
    tries = len(list(Path(folder).glob(f"{number}-*")))
    (Path(folder) / f"{number}-{tries}").touch(exist_ok=False)
    if number == 9 and not tries:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return "done"


@pytest.mark.processes
def test_a_death_is_seen_with_what_the_dead_had_in_hand(tmp_path: Path) -> None:
    with connect(scheduler=None, workers=2, memory_limit=2**30) as client, Lookout(client, every=0.1) as lookout:
        assert (lookout.workers, lookout.came, lookout.retries) == (2, 2, 0)
        assert lookout.limit == 2**30
        client.register_plugin(ContextPlugin("key", str(tmp_path), lambda _: None), name="key")
        with clean_workers(client, "key"):
            result = run_stage(client, "key", "work", fatal_once, range(12))
        assert result.done == 12
        assert lookout.retries == 1  # known by when the stage has ended
        # Of all that the worker had done before, nothing was done again.
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(f"{n}-0" for n in range(12)), "9-1"])
        deadline = time.monotonic() + 60
        while (lookout.workers < 2 or not lookout.memory) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (lookout.workers, lookout.came) == (2, 3)
        assert 2**24 < lookout.memory < 2**30
        news = list(lookout.news)
    assert [one.came for one in news] == [True, True, False, True]
    (gone,) = [one for one in news if not one.came]
    assert gone.worker in {one.worker for one in news[:2]}
    assert (gone.workers, gone.retries) == (1, 1)
    assert news[-1].workers == 2


class FakeClient:
    """A client that waits for one task."""

    def __init__(self) -> None:
        self.futures = {("fill-1", 1): None}


def test_tasks_of_others_are_none_of_ours() -> None:
    client: Any = FakeClient()
    lookout = Lookout(client)
    lookout.see({"a": {"memory_limit": 0}, "b": {"memory_limit": 500, "metrics": {"memory": 70}}})
    held = {("array-fill-1", 1), ("fill-1", 2), ("theirs", 1), "theirs-too"}
    lookout.hear((0.0, {"action": "remove-worker", "worker": "a", "processing-tasks": held}))
    lookout.hear((0.0, {"action": "gather", "count": 1}))
    lookout.hear((0.0, {"action": "add-worker", "worker": "c"}))
    assert (lookout.workers, lookout.came, lookout.retries) == (2, 3, 2)
    assert (lookout.memory, lookout.limit) == (70, 500)


def test_what_was_asked_for_before_an_event_and_comes_after_it_is_no_news() -> None:
    client: Any = FakeClient()
    lookout = Lookout(client)
    old = {"a": {"memory_limit": 0}}
    lookout.see(old)
    lookout.hear((0.0, {"action": "remove-worker", "worker": "a", "processing-tasks": set()}))
    lookout.hear((0.0, {"action": "add-worker", "worker": "b"}))
    lookout.see(old)
    assert (lookout.workers, lookout.came) == (1, 2)
    assert [(one.worker, one.came) for one in lookout.news] == [("a", True), ("a", False), ("b", True)]
    for _ in range(2):  # the events on this were missed
        lookout.see({"c": {"memory_limit": 500}})
    assert (lookout.workers, lookout.came) == (1, 3)
    lookout.hear((0.0, {"action": "add-worker", "worker": "a"}))  # at a port that it always has
    assert lookout.workers == 2


def test_a_scheduler_is_gone_once_and_back_once() -> None:
    client: Any = FakeClient()
    lookout = Lookout(client)
    for status in ("running", "connecting", "connecting", "running", "running", "connecting", "closed"):
        client.status = status
        lookout.check_scheduler()
    assert [(one.scheduler, one.came) for one in lookout.news] == [(True, False), (True, True), (True, False)]
    assert (lookout.workers, lookout.came) == (0, 0)
