"""Files that keep a second process out of a folder while the first one is at work in it."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stpipe.errors import OutputError


@contextmanager
def held(place: Path, *, work: str, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file, which is made; it goes with the process, however it ends.

    Parameters
    ----------
    place : Path
        The file, in a folder that exists.
    work : str
        What its holder does, such as "writing c.zarr", for messages.
    shared : bool
        Whether others may hold it as well, if they share it too.
    wait : bool
        Whether to wait for it.

    Raises
    ------
    OutputError
        If another process holds it, or has removed it on ending while this one asked for it; or if it can't be written,
        or is a link.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, held(Path(folder, "lock"), work="writing c.zarr"):
    ...     with held(Path(folder, "lock"), work="writing c.zarr"):
    ...         pass
    Traceback (most recent call last):
    ...
    stpipe.errors.OutputError: another process is writing c.zarr; wait for it or end it
    """
    just_ended = f"another process that was {work} has just ended; run the same command again"
    try:
        # What is there already may be somebody's link or pipe: nothing is cut short, and nothing waited for.
        file = os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666), "wb")
    except FileNotFoundError as error:  # whoever held it took its folder away
        raise OutputError(just_ended) from error
    except OSError as error:
        raise OutputError(f"{place} can't be written: {error.strerror}; choose another folder") from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OutputError(f"{place} is no plain file, so it can't be a lock; remove it, or choose another folder")
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise OutputError(f"another process is {work}; wait for it or end it") from error
        try:
            same = place.lstat().st_ino == os.fstat(file.fileno()).st_ino
        except OSError:
            same = False
        if not same:  # whoever held it took it away: the next one has a lock of its own
            raise OutputError(just_ended)
        yield
