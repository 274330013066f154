"""How a run goes: its stages, one after the other, as those who show it or write it down want to know."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from stpipe.cli.progress_lines import Standing
from stpipe.core.pace import Pace

if TYPE_CHECKING:
    from distributed import Client

    from stpipe.execution.lookout import Lookout, News
    from stpipe.execution.stages import StageResult


class Listener(Protocol):
    """Wants to know how a run goes. All but `look` are called by the thread that does the work."""

    def begun(self, at: Standing) -> None:
        """Take note that a stage has begun, or goes on after another one."""

    def ended(self, at: Standing) -> None:
        """Take note of how a stage went."""

    def failed(self, stage: str, number: int, message: str) -> None:
        """Take note of a task that failed."""

    def look(self, at: Standing | None, news: Sequence[News]) -> None:
        """Take note of how things stand, and of who came and went; called about twice a second."""


@dataclass(slots=True)
class _Part:
    """Some tasks of a stage, as their runner tells of them."""

    key: object = None
    """The runner's own result: the same as long as the part is."""
    total: int = 0
    done: int = 0
    had: int = 0
    failed: int = 0
    retries: int = 0
    recorded: tuple[int, int] = (0, 0)

    @property
    def made(self) -> int:
        """Tasks that were made since the part began, by whomever."""
        return max(self.done, self.recorded[1] - self.recorded[0])

    @property
    def ended(self) -> int:
        """Tasks that have ended, by whomever."""
        return min(self.total, max(self.done + self.had, self.recorded[1]) + self.failed)


@dataclass(slots=True)
class _Stage:
    """A stage: the parts that are over, and the one that goes on."""

    name: str
    since: float
    before: float = 0.0
    """Seconds of earlier visits."""
    over: _Part = field(default_factory=_Part)
    part: _Part = field(default_factory=_Part)
    pace: Pace = field(default_factory=Pace)
    peak: int = 0
    """Most memory that a task's end saw."""
    seen: int = 0
    """Most memory that a look at the workers saw."""
    processes: int = 0
    came: int = 0
    """Workers that were there when it began, and those that came since."""
    retries: int = 0
    """Tasks of gone workers, of earlier visits."""
    came_at: int = 0
    retries_at: int = 0
    looks_at: int = 0

    def sum_of(self, name: str) -> int:
        """Return a count over all parts."""
        return int(getattr(self.over, name) + getattr(self.part, name))


class Watch:
    """Keeps how the stages of a run go.

    Parameters
    ----------
    clock : callable
        Seconds; one that never jumps.
    limit : int
        Bytes that a worker may take, where no cluster tells; 0 if that is not known.

    Examples
    --------
    >>> seconds = iter(range(0, 100, 10))
    >>> watch = Watch(clock=lambda: float(next(seconds)))
    >>> watch.stage("read")
    >>> watch.counted("read", 3, 4)
    >>> watch.close()
    >>> watch.rows()["read"]["tasks"], watch.rows()["read"]["seconds"]
    (4, 20.0)
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, limit: int = 0) -> None:
        self.clock = clock
        """Seconds; one that never jumps."""
        self._limit = limit
        self._stages: dict[str, _Stage] = {}
        self._now: _Stage | None = None
        self._lookout: Lookout | None = None
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []

    def tell(self, listener: Listener) -> None:
        """Let somebody know how the run goes from now on."""
        self._listeners.append(listener)

    def stage(self, name: str) -> None:
        """Take note that a stage begins, or goes on after another one; what went on has ended."""
        if self._now is not None and self._now.name == name:
            return
        self.close()
        with self._lock:
            now = self.clock()
            stage = self._stages.setdefault(name, _Stage(name, now))
            stage.since = now
            self._meet(stage)
            self._now = stage
        # Not under the lock: who shows things has a lock too, and takes this one while it holds its own.
        for listener in self._listeners:
            listener.begun(self._standing(stage))

    def close(self) -> None:
        """Take note that the stage that goes on has ended."""
        with self._lock:
            stage, self._now = self._now, None
            if stage is None:
                return
            stage.before += self.clock() - stage.since
            self._leave(stage)
        for listener in self._listeners:
            listener.ended(self._standing(stage, now=stage.since))

    def progress(self, name: str, result: StageResult, total: int) -> None:
        """Take note of tasks that have ended; see `stpipe.execution.stages.Progress`."""
        part = _Part(
            key=result,
            total=total,
            done=result.done,
            had=result.had,
            failed=len(result.failures),
            retries=result.retries,
            recorded=result.recorded,
        )
        new = self._take(name, part, peak=result.peak_bytes, processes=len(result.workers))
        for failure in result.failures[len(result.failures) - new :] if new else ():
            for listener in self._listeners:
                listener.failed(name, failure.number, failure.message)

    def counted(self, name: str, done: int, total: int) -> None:
        """Take note of how many of a stage's tasks are done, where there is no more to tell."""
        self._take(name, _Part(total=total, done=done), peak=0, processes=0)

    def _take(self, name: str, part: _Part, *, peak: int, processes: int) -> int:
        """Take in how a part stands; return how many of its tasks have failed since the last time."""
        self.stage(name)
        stage = self._stages[name]
        with self._lock:
            if part.key is not stage.part.key:
                for each in ("total", "done", "had", "failed", "retries"):
                    setattr(stage.over, each, stage.sum_of(each))
                stage.part, stage.pace = _Part(key=part.key), Pace()  # its tasks are of another kind
            new = part.failed - stage.part.failed
            stage.part = part
            stage.peak, stage.processes = max(stage.peak, peak), max(stage.processes, processes)
            lookout = self._lookout
            stage.pace.see(self.clock(), made=part.made, hands=1 if lookout is None else lookout.workers)
        return max(new, 0)

    @contextmanager
    def following(self, client: Client) -> Iterator[None]:
        """Watch the workers of a cluster too."""
        from stpipe.execution.lookout import Lookout

        with Lookout(client) as lookout:
            with self._lock:
                self._lookout = lookout
                if self._now is not None:
                    self._meet(self._now)
            try:
                yield
            finally:
                self.look()
                with self._lock:
                    if self._now is not None:
                        self._leave(self._now)
                    self._lookout = None

    def _meet(self, stage: _Stage) -> None:
        """Count a stage's workers from those that are there."""
        if self._lookout is not None:
            stage.came_at, stage.retries_at = self._lookout.came, self._lookout.retries
            stage.looks_at = self._lookout.looks  # what was seen before is of the stage before
            stage.came = max(stage.came, self._lookout.workers)

    def _leave(self, stage: _Stage) -> None:
        """Keep what the lookout says of a stage, for when that has gone."""
        if self._lookout is not None:
            stage.came += self._lookout.came - stage.came_at
            stage.retries += self._lookout.retries - stage.retries_at
            stage.came_at, stage.retries_at = self._lookout.came, self._lookout.retries

    def look(self) -> None:
        """Let all know how things stand."""
        news: list[News] = []
        with self._lock:
            lookout = self._lookout
            if lookout is not None:
                lookout.check_scheduler()
            if lookout is not None and self._now is not None and lookout.looks > self._now.looks_at:
                self._now.seen = max(self._now.seen, lookout.memory)
        with suppress(IndexError):  # all taken, here or by a thread that looks at the same time
            while lookout is not None:
                news.append(lookout.news.popleft())
        at = self.standing()
        for listener in self._listeners:
            listener.look(at, news)

    def standing(self) -> Standing | None:
        """Return how the stage that goes on stands, or None between two."""
        with self._lock:
            return None if self._now is None else self._standing(self._now)

    def _standing(self, stage: _Stage, *, now: float | None = None) -> Standing:
        with self._lock:
            lookout = self._lookout
            moment = self.clock() if now is None else now
            total, ended = stage.sum_of("total"), stage.over.total + stage.part.ended
            live = lookout if stage is self._now else None  # of others it is kept already
            came = stage.came + (0 if live is None else live.came - stage.came_at)
            retries = stage.retries + (0 if live is None else live.retries - stage.retries_at)
            return Standing(
                stage=stage.name,
                seconds=stage.before + moment - stage.since,
                total=total,
                ended=min(ended, total),
                done=stage.sum_of("done"),
                had=stage.sum_of("had"),
                failed=stage.sum_of("failed"),
                rate=stage.pace.rate(moment),
                left=stage.pace.seconds_for(total - min(ended, total), moment),
                workers=None if lookout is None else lookout.workers,
                workers_seen=came or stage.processes,
                memory=max(stage.peak, stage.seen),
                peak=stage.peak,
                limit=self._limit if lookout is None else lookout.limit or self._limit,
                retries=stage.sum_of("retries") + retries,
            )

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return what became of each stage, as run.json says it; the last one as far as it has come."""
        with self._lock:
            return {
                name: row(self._standing(stage, now=None if stage is self._now else stage.since))
                for name, stage in self._stages.items()
            }


def row(at: Standing) -> dict[str, Any]:
    """Return how a stage went, for machines: tasks done a second over all of its time, and sizes in bytes.

    >>> row(Standing(stage="fill", seconds=8.0, total=10, ended=10, done=4, had=6, workers_seen=2))["rate"]
    0.5
    """
    return {
        "seconds": round(at.seconds, 3),
        "tasks": at.total,
        "done": at.done,
        "had": at.had,
        "failed": at.failed,
        "rate": None if at.mean_rate is None else float(f"{at.mean_rate:.4g}"),
        "retries": at.retries,
        "workers_seen": at.workers_seen,
        "peak_bytes": at.peak,
    }
