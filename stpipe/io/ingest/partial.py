"""The hidden folder that a cube is written in: one process at a time, and gone when the cube has its name."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stpipe.errors import OutputError, RunError
from stpipe.io.stored import one_line

LOCK = "lock"
"""Name of the file in the folder that the process at work has locked."""


@contextmanager
def locked(folder: Path, output: Path) -> Iterator[None]:
    """Keep a second process out of a folder, which is made; the lock goes with the process, however it ends.

    Parameters
    ----------
    folder : Path
        Where the cube is until it is complete.
    output : Path
        The cube's final name, for messages.

    Raises
    ------
    OutputError
        If another process is writing there, or has just ended.
    RunError
        If the folder can't be written.
    """
    try:
        folder.mkdir(exist_ok=True)
        file = (folder / LOCK).open("w")
    except FileNotFoundError as error:
        raise _just_ended(output) from error
    except OSError as error:
        raise RunError(f"{output} can't be written: {one_line(error)}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"another process is writing {output}; wait for it or end it") from error
        try:
            same = (folder / LOCK).stat().st_ino == os.fstat(file.fileno()).st_ino
        except OSError:
            same = False
        if not same:  # it was removed by the process that had it
            raise _just_ended(output)
        yield


def _just_ended(output: Path) -> OutputError:
    return OutputError(f"another process that wrote {output} has just ended; run the same command again")


def clear(folder: Path) -> None:
    """Remove what is in the folder, but the lock."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def remove(folder: Path) -> None:
    """Remove the folder; the lock last, so that nobody else is at work in it before it is empty."""
    clear(folder)
    (folder / LOCK).unlink()
    with suppress(OSError):  # the next process has its own lock in it by now
        folder.rmdir()
