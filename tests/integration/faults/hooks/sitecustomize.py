"""Misbehaviour to order, in every Python process that has this folder on its PYTHONPATH; stpipe knows nothing of it.

Python imports a module of this name at its start. This one wraps a few functions of stpipe when their modules are
imported. What they do then is in a JSON file that the environment variable STPIPE_FAULT names, read each time, so that
workers that are there already can be told of another fault. Without that variable they do what they did.

    records     folder of the run's records
    folder      where this module leaves marks, such as `reached`, and looks for `go`
    stage       the order holds from the moment on when this stage
    after       has so many records
    do          what to do, see below
"""

from __future__ import annotations

import ctypes
import functools
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

Order = dict[str, Any]
Function = Callable[..., Any]

LONGEST = 900.0
"""Seconds that a process waits at most: what a test has forgotten ends by itself."""

STAGES = {
    "survey_tile": "survey",
    "complete_survey": "survey",
    "learn_task": "learn",
    "fill_task": "fill",
    "blend_task": "blend",
    "mosaic_task": "mosaic",
}

MISBEHAVIOURS = ("raise", "memory-error", "hang", "freeze", "exit", "kill", "segv", "allocate")

_time = time.time


def order() -> Order:
    """Return what to do, or nothing."""
    path = os.environ.get("STPIPE_FAULT")
    if not path:
        return {}
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError):  # it is being changed
        return {}


def records(said: Order) -> int:
    """Count the records of the order's stage."""
    try:
        return sum(1 for _ in Path(said["records"], said["stage"]).glob("*.json"))
    except OSError:
        return 0


def due(said: Order, *wanted: str) -> bool:
    """Whether the order is one of these and its moment has come."""
    return said.get("do") in wanted and records(said) >= said["after"]


def mark(said: Order, name: str) -> bool:
    """Leave a mark and return True, or False if it is there already."""
    try:
        with Path(said["folder"], name).open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


def wait_for_go(said: Order) -> None:
    """Say that the moment has come, once for all processes, and wait until the harness has done its part."""
    if not mark(said, "waiting"):
        return
    whole = Path(said["folder"], f"reached-{os.getpid()}")
    whole.write_text(str(os.getpid()))
    whole.rename(Path(said["folder"], "reached"))  # with its content at once
    end = time.monotonic() + LONGEST
    while not Path(said["folder"], "go").exists():
        if time.monotonic() > end:
            os._exit(99)
        time.sleep(0.005)


def attempt(old: Function) -> Function:
    """Tasks of a stage: wait before one begins."""

    @functools.wraps(old)
    def new(task: Any, context: Any, number: int, bound: Any) -> Any:
        said = order()
        name = getattr(getattr(task, "func", task), "__name__", "")
        if STAGES.get(name) == said.get("stage") and due(said, "gate"):
            wait_for_go(said)
        return old(task, context, number, bound)

    return new


def write(old: Function) -> Function:
    """Records: wait between a task's output and its record."""

    @functools.wraps(old)
    def new(self: Any, name: str, content: Any) -> None:
        said = order()
        if self.stage == said.get("stage") and due(said, "gate-record"):
            wait_for_go(said)
        old(self, name, content)

    return new


def fill_block(old: Function) -> Function:
    """The model: raise, hang, hold everything fast, die or take memory on one block."""

    @functools.wraps(old)
    def new(job: Any, info: Any, block: Any, *more: Any, **named: Any) -> Any:
        said = order()
        at = (info.name, block.number) == (said.get("variable"), said.get("block"))
        if at and due(said, *MISBEHAVIOURS):
            tried = next(i for i in range(10_000) if mark(said, f"tried-{i}"))
            if tried < said.get("times", 10_000):
                misbehave(said)
        return old(job, info, block, *more, **named)

    return new


def misbehave(said: Order) -> None:
    """Do what a model should not."""
    do = said["do"]
    if do == "raise":
        raise FloatingPointError("the model met a number that it can't bear")
    if do == "memory-error":
        raise MemoryError("Unable to allocate 3.0 TiB for an array")
    if do == "exit":
        os._exit(3)
    if do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "segv":
        ctypes.string_at(0)
    if do == "freeze":  # as C code does that keeps Python's lock: no other thread gets a turn
        ctypes.PyDLL(None).sleep(int(LONGEST))
    end = time.monotonic() + LONGEST
    taken = []
    while time.monotonic() < end:
        if do == "allocate" and sum(map(len, taken)) < said["bytes"]:
            taken.append(b"\x01" * 2**25)
        time.sleep(0.02)
    os._exit(99)


def fetch(old: Function) -> Function:
    """Reads of the store: fail on some samples, or take their time."""

    @functools.wraps(old)
    def new(array: Any, index: Any) -> Any:
        said = order()
        if due(said, "read-slow"):
            time.sleep(said["seconds"])
        if due(said, "read-error") and str(getattr(array, "store_path", "")).endswith(said["array"]):
            cuts = [slice(i, i + 1) if isinstance(i, int) else i for i in index]
            touched = all(
                cut.start < stop and start < cut.stop for cut, (start, stop) in zip(cuts, said["box"], strict=True)
            )
            if touched and ("times" not in said or any(mark(said, f"failed-{i}") for i in range(said["times"]))):
                raise OSError(5, "Input/output error", said["array"])
        return old(array, index)

    return new


def start_claims(old: Function) -> Function:
    """Claims of shares: others wait for less long than two minutes, for tests must end."""

    @functools.wraps(old)
    def new(self: Any, folder: Path, *, patience: Any = None) -> None:
        patience = os.environ.get("STPIPE_PATIENCE", patience)
        old(self, folder, patience=None if patience is None else float(patience))

    return new


def hold_lease(old: Function) -> Function:
    """Leases of folders in a store: the same."""

    @functools.wraps(old)
    def new(place: Any, *, patience: Any = None, **named: Any) -> Any:
        patience = os.environ.get("STPIPE_PATIENCE", patience)
        return old(place, patience=None if patience is None else float(patience), **named)

    return new


def now() -> float:
    """The time of day, or another one."""
    jumps = os.environ.get("STPIPE_CLOCK")
    if jumps is None:
        return _time()
    offsets = [float(part) for part in jumps.split(",")]
    return _time() + offsets[int(time.monotonic() / 0.3) % len(offsets)]


WRAPPED = {
    "stpipe.execution.stages": [(None, "attempt", attempt)],
    "stpipe.execution.records": [("RecordBook", "write", write)],
    "stpipe.execution.tasks": [(None, "fill_block", fill_block)],
    "stpipe.execution.claims": [("Claims", "__init__", start_claims)],
    "stpipe.io.leases": [(None, "leased", hold_lease)],
    "stpipe.io.reader": [(None, "_fetch", fetch)],
}


class Wrapping(importlib.abc.Loader):
    """Loads a module as another loader does, then wraps some of its functions."""

    def __init__(self, loader: Any, changes: list[tuple[str | None, str, Function]]) -> None:
        self.loader, self.changes = loader, changes

    def create_module(self, spec: ModuleSpec) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        for owner, name, wrap in self.changes:
            place = module if owner is None else getattr(module, owner)
            setattr(place, name, wrap(getattr(place, name)))


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that are wrapped, through the finders that are there."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in WRAPPED:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = Wrapping(spec.loader, WRAPPED[name])
                return spec
        return None


sys.meta_path.insert(0, Finder())
time.time = now
