"""Dask's and Tornado's timers while the time of day is set back and ahead, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

JUMPING = """
import asyncio, json, sys, time

real, jump = time.time, [0.0]
time.time = lambda: real() + jump[0]

import distributed, distributed.deploy.adaptive, distributed.stealing
from distributed import metrics
from tornado.ioloop import IOLoop, PeriodicCallback

if sys.argv[1] == "steady":
    import stpipe.execution.steady
    stpipe.execution.steady.dask_setup(None)


async def ticks(after):
    count, jump[0] = [0], 0.0
    callback = PeriodicCallback(lambda: count.__setitem__(0, count[0] + 1), 10)
    callback.start()
    while not count[0]:
        await asyncio.sleep(0.01)
    jump[0], begun = after, count[0]
    end = time.monotonic() + (60 if sys.argv[1] == "steady" else 1)
    while count[0] < begun + 5 and time.monotonic() < end:
        await asyncio.sleep(0.01)
    callback.stop()
    return count[0] - begun


async def main():
    before = metrics.time()
    back, ahead = await ticks(-86400.0), await ticks(86400.0)
    known = [module for name, module in sys.modules.items()
             if name.startswith("distributed.") and getattr(module, "time", None) is time.time]
    print(json.dumps([back, ahead, len(known), metrics.time() - before, IOLoop.current().time() - metrics.time()]))

asyncio.run(main())
"""


def told(how: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", JUMPING, how], capture_output=True, text=True, check=True, timeout=120)
    return list(json.loads(done.stdout))


@pytest.mark.processes
def test_timers_go_on_whatever_becomes_of_the_time_of_day() -> None:
    back, ahead, left, passed, apart = told("steady")
    assert back >= 5
    assert ahead >= 5
    assert left == 0  # no module of Dask's reads the time of day any more
    assert 0 < passed < 120
    assert abs(apart) < 1


@pytest.mark.processes
def test_timers_rest_without_it_when_the_time_of_day_is_set_back() -> None:
    back, _, left, _, _ = told("as they are")
    assert back <= 2  # those that were due by then; should Tornado mend that, nothing of ours is needed
    assert left > 10


HASTY = """
import itertools, time

real, calls = time.time, itertools.count()
time.time = lambda: real() + 3600 * next(calls)
"""
"""An hour passes whenever a process looks at the clock."""

STARTS = """
from stpipe.execution.clusters.connect import connect

if __name__ == "__main__":
    with connect(scheduler=None, workers=1, memory_limit=2**30) as client:
        print(client.submit(sum, [1, 2]).result(), end="")
"""


@pytest.mark.processes
def test_no_process_tells_of_hours_that_have_not_passed(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HASTY)
    (script := tmp_path / "starts.py").write_text(STARTS)
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=environment | {"PYTHONPATH": paths},
    )
    assert (done.stdout, done.stderr) == ("3", "")
