"""Runs of stpipe that a test starts, watches from outside and always ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.integration.faults import warm
from tests.integration.faults.scene import OPTIONS, Scene

HOOKS = Path(__file__).with_name("hooks")
ROOT = Path(__file__).resolve().parents[3]

PATIENCE = float(os.environ.get("STPIPE_FAULTS_PATIENCE", "240"))
"""Seconds in which whatever is waited for must have happened; more on a machine that does much else."""

_STAGES = "start|survey|learn|fill|blend|check|mosaic|quicklook|digests|report|clear"
PROGRESS = re.compile(rf"^stpipe: (?:{_STAGES})(?::|,| \d).*\n", re.MULTILINE)
"""What a run that takes more than a minute says besides, on a machine that does much else."""

CLAIMS = 0.5
"""Seconds without a sign of life after which shares take over from others here."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended."""

    code: int
    """Its exit code; minus the signal that killed it."""

    said: str
    """What it said on stderr."""


def wait_until(said: str, happened: Callable[[], Any], patience: float = PATIENCE) -> None:
    """Wait until something has happened; fail with what it was if it has not in time."""
    end = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < end, f"{said} did not happen within {patience:g} s"
        time.sleep(0.005)


def signal_group(leader: int, number: signal.Signals) -> None:
    """Send a signal to a run and all processes that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(leader, number)


def members(leader: int) -> list[int]:
    """Return the processes of a group that live."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@dataclass(slots=True)
class Run:
    """A run that was started, with its own process group."""

    process: Any
    """`subprocess.Popen`, or `multiprocessing.Process` of a forked one."""

    folder: Path
    """Where its stderr goes."""

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def code(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.poll()
        code = self.process.exitcode
        return None if code is None else int(code)

    def alive(self) -> bool:
        return self.code() is None

    def end(self, patience: float = PATIENCE) -> Ended:
        """Wait for its end, and for that of all it has started; return how it ended."""
        wait_until("the end of the run", lambda: not self.alive(), patience)
        wait_until("the end of the run's workers", lambda: not members(self.pid), patience)
        code = self.code()
        assert code is not None
        return Ended(code, PROGRESS.sub("", (self.folder / "said.err").read_text(errors="replace")))

    def abandon(self) -> None:
        """Kill what is left of it."""
        signal_group(self.pid, signal.SIGKILL)
        if isinstance(self.process, subprocess.Popen):
            self.process.wait()
        else:
            self.process.join()


@dataclass(slots=True)
class Bench:
    """One fault's place: an output folder, and the runs that go there."""

    scene: Scene | None
    """What is filled; None for a run that is the first to fill it."""

    folder: Path
    """The fault's own folder."""

    out: Path
    """The output folder."""

    runs: list[Run] = field(default_factory=list)
    """All that were started."""

    cube: Path | None = None
    """Another input than the scene's."""

    method: str = "linear"
    """How the scene is filled."""

    advice: tuple[str, ...] = ()
    """What the message said to add to the command."""

    driven: bool = False
    """Whether a driver has to go on with it."""

    noted: str = ""
    """A line that it then says besides."""

    cleanups: list[Callable[[], object]] = field(default_factory=list)
    """What has to be undone when all runs have ended."""

    def words(self, *more: str) -> list[str]:
        """Return the command line of `stpipe`."""
        return ["fill-scene", str(self.cube or self.scene.cube), "-o", str(self.out), *OPTIONS[self.method], *more]

    @property
    def order_file(self) -> Path:
        return self.folder / "order.json"

    def order(self, do: str, *, stage: str, after: int, **more: Any) -> None:
        """Tell the hooks what to do from some moment on."""
        said = {
            "do": do, "stage": stage, "after": after, "folder": str(self.folder),
            "records": str(self.out / "work" / "records"), **more,
        }  # fmt: skip
        self.order_file.with_suffix(".new").write_text(json.dumps(said))
        self.order_file.with_suffix(".new").replace(self.order_file)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return what runs find in their environment."""
        paths = os.pathsep.join((str(HOOKS), str(ROOT)))
        own = {"PYTHONPATH": paths, "STPIPE_FAULT": str(self.order_file), "STPIPE_PATIENCE": str(CLAIMS)}
        return {**own, **(more or {})}

    def _place(self) -> Path:
        place = self.folder / f"run-{len(self.runs)}"
        place.mkdir(parents=True)
        return place

    def start_driver(self, *more: str, environment: Mapping[str, str] | None = None) -> Run:
        """Start a driver as a user does."""
        place = self._place()
        with (place / "said.err").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "stpipe.cli.main", *self.words(*more)],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment(environment)},
                start_new_session=True,
            )
        self.runs.append(Run(process, place))
        return self.runs[-1]

    def start_share(self, share: str = "1/1", *more: str, environment: Mapping[str, str] | None = None) -> Run:
        """Start a share, forked from a process that has loaded the libraries."""
        place = self._place()
        words = self.words("--shard", share, *more)
        process = forking().Process(target=warm.serve, args=(words, self.environment(environment), str(place)))
        with hooked():
            process.start()
        self.runs.append(Run(process, place))
        return self.runs[-1]

    def start(self, how: str, *more: str, environment: Mapping[str, str] | None = None) -> Run:
        """Start a run of one kind or the other."""
        if how == "driver":
            return self.start_driver("--workers", "2", *more, environment=environment)
        return self.start_share("1/1", *more, environment=environment)

    def reached(self) -> int:
        """Wait until the moment of a gate has come; return the process that waits at it."""
        mark = self.folder / "reached"
        wait_until("the fault's moment", lambda: mark.exists() or not any(run.alive() for run in self.runs))
        assert mark.exists(), f"the run was over before its fault's moment: {self.runs[-1].end()}"
        return int(mark.read_text())

    def go(self) -> None:
        """Let what waits at the gate go on."""
        (self.folder / "go").touch()

    def resume(self, *more: str, how: str = "share") -> Ended:
        """Go on with the run, without a fault."""
        self.order_file.unlink(missing_ok=True)
        self.go()
        return self.start(how, *more).end()

    def interrupted(self, stage: str, after: int) -> None:
        """Leave a run of one share that was killed at a moment."""
        self.order("gate", stage=stage, after=after)
        run = self.start_share()
        self.reached()
        run.abandon()
        self.order_file.unlink()

    def close(self) -> None:
        """Kill what is left, and undo what was done for it."""
        for run in self.runs:
            run.abandon()
        for undo in reversed(self.cleanups):
            undo()


@contextmanager
def hooked() -> Iterator[None]:
    """Let the process that forks, which is started with the first fork, find the hooks."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join((str(HOOKS), str(ROOT)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def forking() -> Any:
    """Return what forks processes that have the libraries loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.integration.faults.warm"])
    return context


def copy_run(source: Path, out: Path) -> None:
    """Copy an output folder, with the times of its files."""
    shutil.copytree(source, out, symlinks=True)
