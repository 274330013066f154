"""Claims: which of several processes is at a task, told by files in a folder that all of them see.

A claim is a file that one process makes, and nobody can make twice. While its holder lives it touches the file now and
then; one that was not touched for long is taken over by another process. How often that was done is written in it, so
that a task that kills whoever tries it is given up at last. Ages are told by the clock of the file system; where that
has jumped back, so that signs of life are dated ahead, by how long nothing new is seen.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from contextlib import suppress
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

    def __init__(self, folder: Path, *, patience: float | None = None) -> None:
        self.folder = folder
        self.patience = PATIENCE if patience is None else patience
        self._held: set[Path] = set()
        self._ahead: dict[Path, tuple[float, float]] = {}
        self._over = threading.Event()
        self._token = uuid.uuid4().hex
        self._clock = folder / f".clock-{self._token}"
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._heart.join()
        for path in tuple(self._held):
            self.drop(path.name)
        self._clock.unlink(missing_ok=True)

    def take(self, name: str) -> int | None:
        """Claim a task; return how often that was done, this time included, or None while another one is at it."""
        path = self.folder / name
        if self._make(path):
            return 1
        if self._age(path) < self.patience:
            return None
        # One at a time takes over, or two would bury each other's new claims.
        taking = path.with_name(f".taking-{name}")
        try:
            taking.touch(exist_ok=False)
        except FileExistsError:
            if self._age(taking) >= self.patience:  # it died at that
                taking.unlink(missing_ok=True)
            return None
        except FileNotFoundError:
            return None
        try:
            if self._age(path) < self.patience:
                return None
            tries = _tries(path) + 1
            self._write(path, tries)
        finally:
            taking.unlink(missing_ok=True)
        return tries

    def drop(self, name: str) -> None:
        """Give a claim back, unless another process thought this one dead and took it over."""
        path = self.folder / name
        self._held.discard(path)
        with suppress(OSError):
            if path.read_text().endswith(self._token):
                path.unlink()

    def _make(self, path: Path) -> bool:
        try:
            with path.open("x") as file:
                file.write(f"1 {self._token}")
        except (FileExistsError, FileNotFoundError):  # taken, or the whole folder is gone: the run has ended
            return False
        self._held.add(path)
        return True

    def _write(self, path: Path, tries: int) -> None:
        made = path.with_name(f".{path.name}-{self._token}")
        made.write_text(f"{tries} {self._token}")
        made.replace(path)
        self._held.add(path)

    def _age(self, path: Path) -> float:
        """Return seconds since a sign of life, or since one that is dated ahead was first seen; 0 if there is none."""
        try:
            seen = path.stat().st_mtime
            self._clock.touch()
            age = self._clock.stat().st_mtime - seen
        except FileNotFoundError:
            return 0.0
        if age >= 0:
            return age
        now = time.monotonic()
        if self._ahead.get(path, (None, now))[0] != seen:
            self._ahead[path] = seen, now
        return now - self._ahead[path][1]

    def _beat(self) -> None:
        while not self._over.wait(self.patience / BEATS):
            for path in tuple(self._held):
                try:
                    os.utime(path)
                except FileNotFoundError:
                    continue


def _tries(path: Path) -> int:
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):  # killed while it was written
        return 1
