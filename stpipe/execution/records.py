"""Records: what is done, one small file a task.

A record is written beside the stores, under a temporary name first, synced, then renamed: it is whole or not there. It
carries the key of the run that made it, so that blocks of another run are never taken for this one's, and a digest of
itself, so that what a disk has made of it is never believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON
from stpipe.execution.storage import drop, located, read_many, write_whole

CHECK = "check"
"""The field that holds a record's own digest."""


@dataclass(frozen=True, slots=True)
class RecordBook:
    """The records of one stage of one run."""

    folder: str
    """Where they lie."""

    key: str
    """What a record must carry to count: the run id and all that came before this stage."""

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.folder.rpartition("/")[2]

    def write(self, name: str, content: Mapping[str, JSON]) -> None:
        """Write one record, whole or not at all."""
        record = {"key": self.key, **content}
        write_whole(located(self.folder) / f"{name}.json", json.dumps({**record, CHECK: _check(record)}).encode())

    def read(self, name: str) -> dict[str, JSON] | None:
        """Return a record of this run that is as it was written, or None."""
        return next(self.read_many([name]))

    def read_many(self, names: Iterable[str]) -> Iterator[dict[str, JSON] | None]:
        """Yield each of some records as `read` does; from a store many at once."""
        folder = located(self.folder)
        return map(self._believed, read_many(folder / f"{name}.json" for name in names))

    def _believed(self, content: bytes | None) -> dict[str, JSON] | None:
        """Return a record if it is this run's, and as it was written."""
        try:
            record = None if content is None else json.loads(content)
        except (json.JSONDecodeError, UnicodeDecodeError):
            return None
        if not isinstance(record, dict) or record.get("key") != self.key:
            return None
        return record if record.pop(CHECK, None) == _check(record) else None

    def drop(self, name: str) -> None:
        """Forget one record."""
        drop(located(self.folder) / f"{name}.json")


def _check(record: Mapping[str, JSON]) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def digest(*arrays: NDArray[np.generic]) -> str:
    """Return the sha256 of arrays' bytes."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
