"""The hidden folder that a cube is written in: one process at a time, and gone when the cube has its name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stpipe.errors import OutputError
from stpipe.io.locks import held

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
        If another process is writing there, or has just ended; or if the folder can't be made, or is a link.
    """
    if folder.is_symlink():
        raise OutputError(f"{folder} is a link, and the cube is written in a folder of that name; remove it")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} can't be made: {error.strerror}; choose another name") from error
    with held(folder / LOCK, work=f"writing {output}"):
        yield


def clear(folder: Path) -> None:
    """Remove what is in the folder, but the lock."""
    for entry in folder.iterdir():
        if entry.name != LOCK:
            remove_entry(entry)


def remove_entry(place: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link and not what it leads to."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink()


def remove(folder: Path) -> None:
    """Remove the folder; the lock last, so that nobody else is at work in it before it is empty."""
    clear(folder)
    (folder / LOCK).unlink()
    with suppress(OSError):  # the next process has its own lock in it by now
        folder.rmdir()
