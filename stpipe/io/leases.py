"""Leases: what keeps a second process out of a run's folder in a store, where no lock goes with its process.

A lease is a small object that only one process can make. Its holder writes it again and again; one that nobody has
written for a while is taken over. Two processes that hold it for a moment, since one was cut off from the store for so
long, do the same work twice, and nothing worse: every task of a run writes the same bytes whoever does it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from stpipe.errors import OutputError
from stpipe.execution.storage import create, one_line

PATIENCE = 30.0
"""Seconds that a lease is watched for a sign of life."""

BEATS = 6
"""Signs of life in that time."""


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
        If another process holds it and is alive.
    """
    longest = PATIENCE if patience is None else patience
    beat = longest / BEATS
    token = uuid4().hex
    while not _taken(place, token):
        seen = _read(place)
        if seen is not None and announce is not None:
            announce(f"waiting up to {longest:.0f} s to see whether a process that was {work} is still alive")
        if seen is not None and _alive(place, seen, beat):
            raise OutputError(f"another process is {work}; wait for it or end it")
        if seen is not None and _read(place) == seen:
            place.unlink(missing_ok=True)
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(place, token, beat, over), name="stpipe-lease", daemon=True)
    heart.start()
    try:
        yield
    finally:
        over.set()
        heart.join()
        if _is_mine(place, token):
            place.unlink(missing_ok=True)


def _taken(place: Path, token: str) -> bool:
    try:
        return create(place, f"{token} 0".encode())
    except OSError as error:  # the first thing that is written at all
        raise OutputError(
            f"{place.parent} can't be written to: {one_line(error)}; choose another place with -o"
        ) from error


def _alive(place: Path, seen: bytes, beat: float) -> bool:
    """Watch a lease until its holder gives a sign of life or takes it away, or long enough."""
    for _ in range(BEATS + 1):
        time.sleep(beat)
        now = _read(place)
        if now != seen:
            return now is not None
    return False


def _beat(place: Path, token: str, beat: float, over: threading.Event) -> None:
    number = 0
    while not over.wait(beat):
        with suppress(Exception):  # the store may be away for a moment
            if not _is_mine(place, token):
                return
            number += 1
            place.write_bytes(f"{token} {number}".encode())


def _is_mine(place: Path, token: str) -> bool:
    found = _read(place)
    return found is not None and found.startswith(token.encode())


def _read(place: Path) -> bytes | None:
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return None
