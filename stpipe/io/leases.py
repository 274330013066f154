"""Leases: what keeps a second process out of a run's folder in a store, where no lock goes with its process.

A lease is a small object that only one process can make. Its holder writes it again and again; one that nobody has
written for a while is taken over, by one process. A holder that has not written it for that long, because it was cut
off from the store or asleep, ends its run, and removes or publishes nothing more: see `check_held`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from stpipe.errors import OutputError, RunError
from stpipe.execution.storage import drop, is_of_store, one_line
from stpipe.io.tagged import create, read_tagged, replace_tagged

PATIENCE = 30.0
"""Seconds that a lease is watched for a sign of life."""

BEATS = 6
"""Signs of life in that time."""

NOBODYS = '"00000000000000000000000000000000"'
"""A tag that no object has."""

_HELD: dict[str, _Lease] = {}
"""What this process holds, by address."""


def check_held(place: Path) -> None:
    """Do nothing while this process may act as the holder of a lease, or has never been it.

    Raises
    ------
    RunError
        If another process holds it by now, or may: nothing has been written to it for too long.
    """
    lease = _HELD.get(str(place))
    if lease is not None and not lease.valid():
        raise RunError(
            f"another process has taken over {lease.work}, or may have, since this one could not give a sign of life "
            f"for {lease.longest:.0f} s; what is done is kept: run the same command again to go on from here"
        )


def _now() -> float:
    """Return seconds that go on while a machine sleeps, where it has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(slots=True)
class _Lease:
    """A lease that this process holds."""

    place: Path
    work: str
    longest: float
    token: str = field(default_factory=lambda: uuid4().hex)
    tag: str = ""
    number: int = 0
    """Of the last sign of life: others see one where the content has changed."""
    over: threading.Event = field(default_factory=threading.Event)
    lost: threading.Event = field(default_factory=threading.Event)
    seen: float = field(default_factory=_now)
    """When the last write that went through was begun."""

    @property
    def beat(self) -> float:
        """Seconds between two signs of life."""
        return self.longest / BEATS

    def valid(self) -> bool:
        """Whether nobody can have taken it over: they watch it for longer than this."""
        if _now() - self.seen >= self.longest:
            self.lost.set()
        return not self.lost.is_set()

    def content(self, number: int) -> bytes:
        return f"{self.token} {number}".encode()

    def owned(self) -> bool:
        """Look whether the lease is this process's, and remember its tag."""
        found = read_tagged(self.place)
        if found is None or not found[0].startswith(self.token.encode()):
            return False
        self.tag = found[1]
        return True

    def written(self) -> bool:
        """Give a sign of life, which counts from when it was begun; return whether the lease was as last seen."""
        self.number, begun = self.number + 1, _now()
        tag = replace_tagged(self.place, self.content(self.number), self.tag)
        if tag is not None:
            self.tag, self.seen = tag, begun
        return tag is not None

    def keep(self) -> None:
        """Write it again and again, until it is in other hands."""
        while not self.over.wait(self.beat) and not self.lost.is_set():
            with suppress(Exception):  # the store may be away for a moment
                # A write that went through though its answer was lost has changed the tag; it was a while ago.
                if not self.written() and not (self.owned() and self.written()) and not self.owned():
                    self.lost.set()

    def watch(self) -> None:
        """End the run when the lease is lost; a write that hangs must not keep anybody from seeing that."""
        while not self.over.wait(self.beat / 2):
            if not self.valid():
                # A shell that starts a job in the background has it ignore what Ctrl-C sends.
                ignored = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
                number = signal.SIGTERM if ignored else signal.SIGINT
                signal.pthread_kill(threading.main_thread().ident or 0, number)  # ends what it waits for, too
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
    lease = _Lease(place, work, longest)
    try:
        _take(lease, work, longest, announce)
    except Exception as error:
        if not is_of_store(error) or isinstance(error, OutputError):
            raise
        # The first thing that is written at all.
        reason = one_line(error)
        raise OutputError(f"{place.parent} can't be written to: {reason}; choose another place with -o") from error
    threads = [threading.Thread(target=do, name="stpipe-lease", daemon=True) for do in (lease.keep, lease.watch)]
    for thread in threads:
        thread.start()
    _HELD[str(place)] = lease
    try:
        yield
        check_held(place)
    except KeyboardInterrupt:
        check_held(place)
        raise
    finally:
        del _HELD[str(place)]
        lease.over.set()
        for thread in threads:
            thread.join(timeout=longest)
        with suppress(Exception):  # it runs out by itself, and what ended the run says more
            if lease.owned():
                drop(place)


def _take(lease: _Lease, work: str, longest: float, announce: Callable[[str], None] | None) -> None:
    """Make the lease, or take over one that gives no sign of life."""
    while True:
        lease.seen = _now()
        if create(lease.place, lease.content(0)) or lease.owned():
            break
        seen = read_tagged(lease.place)
        if seen is None:
            continue
        if announce is not None:
            announce(f"waiting up to {longest:.0f} s to see whether a process that was {work} is still alive")
        if _alive(lease, seen):
            raise OutputError(f"another process is {work}; wait for it or end it")
        lease.seen = _now()
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
    if replace_tagged(lease.place, lease.content(0), NOBODYS):
        drop(lease.place)
        raise OutputError(
            f"the store of {lease.place} lets a process write over what another has changed, not heeding If-Match, so "
            "that runs there can't be kept apart; choose another place with -o"
        )


def _alive(lease: _Lease, seen: tuple[bytes, str]) -> bool:
    """Watch a lease until its holder gives a sign of life or takes it away, or long enough."""
    for _ in range(BEATS + 1):
        time.sleep(lease.beat)
        now = read_tagged(lease.place)
        if now is None or now[0] != seen[0]:
            return now is not None
    return False
