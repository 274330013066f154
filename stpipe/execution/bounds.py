"""A bound on the time that a task may take: a process whose task hangs ends itself, for there is no other way out."""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from tempfile import TemporaryFile

from stpipe.execution.storage import located, write_whole

GRACE = 30.0
"""Seconds after which a process is ended outright that could not end itself, since some library holds Python's lock."""

STDERR = 2
"""The descriptor, which is there whatever Python's own stderr has been made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """How long each task of a stage may take."""

    seconds: float
    """As long as this."""

    stage: str
    """The stage."""

    folder: str
    """Where a process that ends itself writes what it was at."""


@contextmanager
def ended_after(bound: Bound | None, number: int) -> Iterator[None]:
    """End this process if what is inside takes too long; a file of the stage and the number then tells at what."""
    if bound is None:
        yield
        return
    timer = threading.Timer(bound.seconds, _end, (bound, number))
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(bound.seconds + GRACE, exit=True, file=STDERR)
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def _end(bound: Bound, number: int) -> None:
    with suppress(Exception), TemporaryFile() as file:  # the file system, or the store, may be what hangs
        faulthandler.dump_traceback(file=file)
        file.seek(0)
        write_whole(located(bound.folder) / f"{bound.stage}-{number:07d}.txt", file.read())
    os._exit(1)
