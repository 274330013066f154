"""Claims: which of several processes is at a task, told by files in a folder that all of them see.

A claim is a file that one process makes, and nobody can make twice. While its holder lives it touches the file now and
then; one that was not touched for long is taken over by another process. How often that was done is written in it, so
that a task that kills whoever tries it is given up at last. Ages are told by the clock of the file system alone.
"""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path
from typing import Self

PATIENCE = 120.0
"""Seconds without a sign of life after which a claim is taken over."""

BEATS = 6
"""Signs of life in that time."""


class Claims:
    """The claims that this process holds, and those of others, in one folder.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, Claims(Path(folder)) as mine, Claims(Path(folder)) as other:
    ...     first = mine.take("fill-7"), other.take("fill-7")
    ...     mine.drop("fill-7")
    ...     first, other.take("fill-7")
    ((1, None), 1)
    """

    def __init__(self, folder: Path, *, patience: float = PATIENCE) -> None:
        self.folder = folder
        self.patience = patience
        self._held: set[Path] = set()
        self._over = threading.Event()
        self._clock = folder / f".clock-{uuid.uuid4().hex}"
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._heart.join()
        for path in self._held:
            path.unlink(missing_ok=True)
        self._clock.unlink(missing_ok=True)

    def take(self, name: str) -> int | None:
        """Claim a task; return how often that was done, this time included, or None while another one is at it."""
        path = self.folder / name
        if self._make(path, 1):
            return 1
        if self._age(path) < self.patience:
            return None
        # Renaming succeeds for one process alone.
        grave = path.with_name(f".{name}-{uuid.uuid4().hex}")
        try:
            path.rename(grave)
        except FileNotFoundError:
            return None
        if self._age(grave) < self.patience:  # another one had just taken it over: give it back
            try:
                os.link(grave, path)
            finally:
                grave.unlink()
            return None
        tries = _tries(grave) + 1
        grave.unlink()
        return tries if self._make(path, tries) else None

    def drop(self, name: str) -> None:
        """Give a claim back."""
        path = self.folder / name
        self._held.discard(path)
        path.unlink(missing_ok=True)

    def _make(self, path: Path, tries: int) -> bool:
        try:
            with path.open("x") as file:
                file.write(str(tries))
        except (FileExistsError, FileNotFoundError):  # taken, or the whole folder is gone: the run has ended
            return False
        self._held.add(path)
        return True

    def _age(self, path: Path) -> float:
        """Return seconds since a sign of life, by the file system's clock; 0 if the claim is gone."""
        try:
            seen = path.stat().st_mtime
            self._clock.touch()
            return self._clock.stat().st_mtime - seen
        except FileNotFoundError:
            return 0.0

    def _beat(self) -> None:
        while not self._over.wait(self.patience / BEATS):
            for path in tuple(self._held):
                try:
                    os.utime(path)
                except FileNotFoundError:
                    continue


def _tries(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # killed while it was written
        return 1
