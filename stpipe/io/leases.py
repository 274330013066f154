"""Leases: what keeps a second process out of a run's folder in a store, where no lock goes with its process.

A lease is a small object that only one process can make. Its holder writes it again and again; one that nobody has
written for a while is taken over, by one process. A holder that finds its lease in other hands, because it was cut off
from the store or asleep for so long, ends its run.
"""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from stpipe.errors import OutputError, RunError
from stpipe.execution.storage import create, drop, is_of_store, one_line, read_tagged, replace_tagged

PATIENCE = 30.0
"""Seconds that a lease is watched for a sign of life."""

BEATS = 6
"""Signs of life in that time."""


@dataclass(slots=True)
class _Lease:
    """A lease that this process holds."""

    place: Path
    beat: float
    token: str = field(default_factory=lambda: uuid4().hex)
    tag: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    lost: threading.Event = field(default_factory=threading.Event)

    def content(self, number: int) -> bytes:
        return f"{self.token} {number}".encode()

    def owned(self) -> bool:
        """Look whether the lease is this process's, and remember its tag."""
        found = read_tagged(self.place)
        if found is None or not found[0].startswith(self.token.encode()):
            return False
        self.tag = found[1]
        return True

    def keep(self) -> None:
        """Write it again and again; end the run when it is in other hands."""
        number = 0
        while not self.over.wait(self.beat):
            with suppress(Exception):  # the store may be away for a moment
                number += 1
                # A write that went through though its answer was lost has changed the tag.
                if replace_tagged(self.place, self.content(number), self.tag) or self.owned():
                    self.owned()
                    continue
                self.lost.set()
                _thread.interrupt_main()
                return


@contextmanager
def leased(
    place: Path, *, work: str, announce: Callable[[str], None] | None = None, patience: float | None = None
) -> Iterator[None]:
    """Hold the lease of an object, after waiting for one that a process has left behind.

    Parameters
    ----------
    place : Path
        The object.
    work : str
        What its holder does, such as "filling into s3://bucket/out", for messages.
    announce : callable, optional
        Told that there is something to wait for.
    patience : float, optional
        Seconds to watch it for a sign of life; `PATIENCE` unless given.

    Raises
    ------
    OutputError
        If another process holds it and is alive, or if the store can't be written to or lets two processes make the
        same object.
    RunError
        If it was lost on the way.
    """
    longest = PATIENCE if patience is None else patience
    lease = _Lease(place, longest / BEATS)
    try:
        _take(lease, work, longest, announce)
    except Exception as error:
        if not is_of_store(error) or isinstance(error, OutputError):
            raise
        # The first thing that is written at all.
        reason = one_line(error)
        raise OutputError(f"{place.parent} can't be written to: {reason}; choose another place with -o") from error
    heart = threading.Thread(target=lease.keep, name="stpipe-lease", daemon=True)
    heart.start()
    try:
        yield
    except KeyboardInterrupt:
        if lease.lost.is_set():
            raise RunError(
                f"another process has taken over {work}, since this one gave no sign of life; what is done is kept"
            ) from None
        raise
    finally:
        lease.over.set()
        heart.join(timeout=longest)
        with suppress(Exception):  # it runs out by itself, and what ended the run says more
            if lease.owned():
                drop(place)


def _take(lease: _Lease, work: str, longest: float, announce: Callable[[str], None] | None) -> None:
    """Make the lease, or take over one that gives no sign of life."""
    while not (create(lease.place, lease.content(0)) or lease.owned()):
        seen = read_tagged(lease.place)
        if seen is None:
            continue
        if announce is not None:
            announce(f"waiting up to {longest:.0f} s to see whether a process that was {work} is still alive")
        if _alive(lease, seen):
            raise OutputError(f"another process is {work}; wait for it or end it")
        if replace_tagged(lease.place, lease.content(0), seen[1]):
            break
    if create(lease.place, lease.content(0)):
        drop(lease.place)
        raise OutputError(
            f"the store of {lease.place} lets two processes make the same object, not heeding If-None-Match, so "
            "that runs there can't be kept apart; choose another place with -o"
        )
    if not lease.owned():
        raise OutputError(f"another process is {work}; wait for it or end it")


def _alive(lease: _Lease, seen: tuple[bytes, str]) -> bool:
    """Watch a lease until its holder gives a sign of life or takes it away, or long enough."""
    for _ in range(BEATS + 1):
        time.sleep(lease.beat)
        now = read_tagged(lease.place)
        if now is None or now[0] != seen[0]:
            return now is not None
    return False
