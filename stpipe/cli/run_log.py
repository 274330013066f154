"""A run's log: a line of JSON for each thing that happens, behind what is in the file already."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe import __version__
from stpipe.cli.main import EXIT_INTERRUPTED
from stpipe.cli.progress_lines import Standing
from stpipe.cli.watch import row
from stpipe.cli.words import warn
from stpipe.errors import OptionError, StpipeError
from stpipe.execution.storage import resolved, without_secrets

if TYPE_CHECKING:
    from stpipe.execution.lookout import News

PROGRESS_EVERY = 10.0
"""Seconds between two lines that say how a stage goes."""

SIGN_EVERY = 60.0
"""The same while nothing ends: a sign of life."""

FIRST_LINE = 4096
"""Bytes of a file that tell whether it is a log."""


def check_log(path: Path, *, output: Path, inputs: Sequence[Path]) -> None:
    """Refuse a log where it would do harm, or be taken for something else.

    Parameters
    ----------
    path : Path
        What the user named.
    output : Path
        Folder of the run's products, which holds nothing else, and may be cleared.
    inputs : sequence of Path
        Files and folders that the run reads.

    Raises
    ------
    OptionError
        One line, with what to name instead.
    """
    place = path.resolve()
    if place.is_relative_to(resolved(output)):
        raise OptionError(
            f"--log {path} lies in the output folder {output}, which holds nothing but what a run makes; name a file "
            "beside it"
        )
    for source in inputs:
        if place.is_relative_to(resolved(source)):
            raise OptionError(f"--log {path} lies in the input {source}; name a file elsewhere")
    if place.is_dir():
        raise OptionError(f"--log {path} is a folder; name a file")
    if not place.parent.is_dir():
        raise OptionError(f"--log {path}: there is no folder {path.parent}; make it, or name a file elsewhere")
    if not os.access(place if place.exists() else place.parent, os.W_OK):
        raise OptionError(f"--log {path}: no right to write there; name a file elsewhere")
    if place.is_file() and not _is_log(place):
        raise OptionError(f"--log {path} holds something else than a log, which would be spoilt; name another file")


def _is_log(path: Path) -> bool:
    """Whether a file is empty, or begins as a log does."""
    try:
        with path.open("rb") as file:
            head = file.read(FIRST_LINE)
    except OSError as error:
        raise OptionError(f"--log {path} can't be read: {error.strerror}; name a file elsewhere") from error
    return not head or head.startswith(b'{"time": "')


class RunLog:
    """Writes down how a run goes.

    Each line is written at once and whole, so that a log that is cut off lacks its end and nothing else. A log that can
    no longer be written, on a disk that is full, ends with a warning: the run is worth more.

    Parameters
    ----------
    path : Path
        Where; from `check_log`.
    clock : callable
        Seconds; one that never jumps.

    Raises
    ------
    OptionError
        If the file can't be opened.

    Examples
    --------
    >>> log = RunLog(Path("run.log"), clock=iter((5.0, 7.5)).__next__)
    >>> log.write("stage_begun", stage="fill")
    >>> log.close()
    >>> told = json.loads(Path("run.log").read_text())
    >>> told["at"], told["event"], told["stage"]
    (2.5, 'stage_begun', 'fill')
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._path = path
        try:
            # One unbuffered write a line: lines of several processes don't mix on a local disk.
            self._file: int | None = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OptionError(f"--log {path} can't be opened: {error.strerror}; name a file elsewhere") from error
        self._since = clock()
        self._last: tuple[float, Standing | None] = (self._since, None)
        self._begin_line()

    def _begin_line(self) -> None:
        """End a line that was cut off when the log was written last."""
        if not self._path.is_file():
            return
        with suppress(OSError), self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    self._put(b"\n")

    @property
    def seconds(self) -> float:
        """How long the log has been open."""
        return self._clock() - self._since

    def write(self, event: str, **more: Any) -> None:
        """Write a line: when, by the world's clock and in seconds since the log's first line, what, and more of it."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": moment, "at": round(self.seconds, 3), "event": event, **more}, default=str)
        self._put(f"{line}\n".encode())

    def _put(self, line: bytes) -> None:
        with self._lock:
            if self._file is None:
                return
            try:
                os.write(self._file, line)
            except OSError as error:
                self._shut()
                warn(f"the log {self._path} ends here: {error.strerror}")

    def close(self) -> None:
        """Write nothing more."""
        with self._lock:
            self._shut()

    def _shut(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def begun(self, at: Standing) -> None:
        """Write that a stage begins."""
        self.write("stage_begun", stage=at.stage)

    def ended(self, at: Standing) -> None:
        """Write how a stage went."""
        self.write("stage_ended", stage=at.stage, **row(at))

    def failed(self, stage: str, number: int, message: str) -> None:
        """Write that a task failed."""
        self.write("task_failed", stage=stage, number=number, message=message)

    def look(self, at: Standing | None, news: Sequence[News]) -> None:
        """Write who came and went, and now and then how a stage goes."""
        for one in news:
            if one.scheduler:
                self.write("scheduler_back" if one.came else "scheduler_gone", scheduler=one.worker)
            elif one.came:
                self.write("worker_came", worker=one.worker, workers=one.workers)
            else:
                self.write("worker_gone", worker=one.worker, workers=one.workers, retries=one.retries)
        now, (since, before) = self._clock(), self._last
        if at is None or now - since < (SIGN_EVERY if _alike(at, before) else PROGRESS_EVERY):
            return
        self._last = (now, at)
        self.write(
            "progress",
            stage=at.stage,
            tasks=at.total,
            ended=at.ended,
            had=at.had,
            failed=at.failed,
            rate=None if at.rate is None else float(f"{at.rate:.4g}"),
            seconds_left=None if at.left is None else round(at.left, 1),
            workers=at.workers,
            worker_bytes=at.memory,
            worker_limit_bytes=at.limit,
            retries=at.retries,
        )


def _alike(at: Standing, before: Standing | None) -> bool:
    """Whether nothing has happened."""
    return before is not None and (at.stage, at.ended, at.workers) == (before.stage, before.ended, before.workers)


@contextmanager
def logged(log: RunLog | None, **about: Any) -> Iterator[None]:
    """Write that a run begins, and how it ended, whichever way; closes the log.

    Parameters
    ----------
    log : RunLog, optional
        Where; nothing is written without.
    **about
        What there is to say of the run at its beginning.
    """
    if log is None:
        yield
        return
    # Another run may follow in the same file, and several may be in it at a time: a process has its number.
    own = {"host": socket.gethostname(), "process": os.getpid()}
    log.write("run_begun", version=__version__, command=command_words(), **about, **own)
    leave: dict[str, Any] = {"exit": 1}
    try:
        yield
        leave = {"exit": 0}
    except StpipeError as error:
        leave = {"exit": error.exit_code, "error": str(error)}
        raise
    except KeyboardInterrupt:
        leave = {"exit": EXIT_INTERRUPTED, "error": "interrupted"}
        raise
    except BaseException as error:
        leave = {"exit": 1, "error": f"{type(error).__name__}: {error}"}
        raise
    finally:
        log.write("run_ended", **leave, seconds=round(log.seconds, 3))
        log.close()


def command_words() -> list[str] | None:
    """Return the words that this command was called with."""
    context = click.get_current_context(silent=True)
    return None if context is None or context.obj is None else ["stpipe", *map(without_secrets, context.obj)]
