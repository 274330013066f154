"""Progress on stderr: a live display on a terminal, a plain line a minute where there is none."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import click

from stpipe.cli.progress_lines import Standing, ended_line, running_line
from stpipe.cli.watch import Watch

if TYPE_CHECKING:
    from stpipe.execution.lookout import News

LINE_EVERY = 60.0
"""Seconds between two plain lines."""

TICK = 0.5
"""Seconds between two looks at how things stand."""


class PlainLines:
    """Writes a line about every minute, and one for each stage that has ended.

    A command that is over within the first minute writes none; after that, the stages that had ended by then are told
    first.

    Parameters
    ----------
    write : callable
        Takes a line.
    clock : callable
        Seconds; one that never jumps.
    every : float
        Seconds between two lines.

    Examples
    --------
    >>> seconds = iter((0.0, 40.0, 55.0, 61.0, 62.0))
    >>> lines = PlainLines(print, clock=lambda: next(seconds), every=60.0)
    >>> lines.ended(Standing(stage="survey", seconds=38.0, total=9, ended=9, done=9))
    >>> lines.look(Standing(stage="fill", seconds=15.0, total=99, ended=20), ())
    >>> lines.look(Standing(stage="fill", seconds=21.0, total=99, ended=27, rate=1.5, left=48.0), ())
    survey: 9 tiles in 38 s, 14 a minute
    fill 27 of 99 blocks (27 %), 1.5 a second, about 48 s left
    """

    def __init__(self, write: Callable[[str], None], *, clock: Callable[[], float], every: float) -> None:
        self._write = write
        self._clock = clock
        self._every = every
        self._since = clock()
        self._quiet = True
        self._held: list[str] = []
        self._lock = threading.Lock()

    def begun(self, at: Standing) -> None:
        """Say nothing: the line that comes next will."""

    def failed(self, stage: str, number: int, message: str) -> None:
        """Say nothing: the run's own error will, with all of them."""

    def ended(self, at: Standing) -> None:
        """Write how a stage went, or keep it for later."""
        if not at.worth_telling:
            return
        with self._lock:
            now = self._clock()
            if self._quiet and now - self._since < self._every:
                self._held.append(ended_line(at))
                return
            self._since = now
            self._flush(ended_line(at))

    def look(self, at: Standing | None, news: Sequence[News]) -> None:  # noqa: ARG002 - a Listener's signature
        """Write how a stage goes, if it is time."""
        with self._lock:
            now = self._clock()
            if at is not None and now - self._since >= self._every:
                self._since = now
                self._flush(running_line(at))

    def _flush(self, line: str) -> None:
        self._quiet = False
        for each in [*self._held, line]:
            self._write(each)
        self._held.clear()


def on_terminal() -> bool:
    """Whether there is a terminal that can draw."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in {"dumb", "unknown"}


def say_plainly(line: str) -> None:
    """Write a line to stderr, if anybody is left to read it."""
    with suppress(OSError, ValueError):
        click.echo(f"stpipe: {line}", err=True)


@contextmanager
def shown(watch: Watch, *, keep: bool = True) -> Iterator[None]:
    """Show how a run goes while the block lasts, by a thread of its own.

    Parameters
    ----------
    watch : Watch
        The run.
    keep : bool
        Whether each stage leaves a line on a terminal when it has ended.
    """
    display: AbstractContextManager[object] = nullcontext()
    if on_terminal():
        from stpipe.cli.live import LiveDisplay

        display = live = LiveDisplay(watch, keep=keep)
        watch.tell(live)
    else:
        watch.tell(PlainLines(say_plainly, clock=watch.clock, every=LINE_EVERY))
    over = threading.Event()

    def look() -> None:
        while not over.wait(min(TICK, LINE_EVERY / 4)):
            watch.look()

    ticker = threading.Thread(target=look, name="stpipe-progress", daemon=True)
    with display:
        ticker.start()
        try:
            yield
        finally:
            over.set()
            ticker.join(timeout=5)  # a terminal may be held with Ctrl-S
            watch.close()


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Give what to call with (done, total); what it shows is gone from a terminal afterwards."""
    watch = Watch()
    with shown(watch, keep=False):
        watch.stage(title)
        yield lambda done, total: watch.counted(title, done, total)
