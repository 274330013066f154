"""What is done of a cube that is being written, so that an ingest that was interrupted goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stpipe import __version__
from stpipe.core.ports import JSON
from stpipe.io.ingest.pictures import Tally
from stpipe.io.ingest.plan import IngestPlan
from stpipe.io.run_folder import links_in

Key = tuple[int, int, int]
"""First frame, row and column of a piece."""


class Records:
    """A line for each piece that is in the store, behind the digest of the plan that it was written by."""

    def __init__(self, folder: Path, identity: JSON) -> None:
        document = json.dumps([__version__, identity], sort_keys=True, default=str)
        self.digest = hashlib.sha256(document.encode()).hexdigest()
        self.folder = folder
        self._pieces: dict[Key, Any] = {}
        self._clear: dict[int, list[int]] = {}

    def known(self) -> bool:
        """Whether a cube of this very plan was begun; its records are read then."""
        try:
            if (self.folder / "plan").read_text() != self.digest or any(links_in(self.folder, depth=3)):
                return False  # what is behind a link is not what was written here
            lines = (self.folder / "done").read_text().splitlines()
        except OSError:
            return False
        for line in lines:
            try:
                said = json.loads(line)
            except ValueError:  # the last line of a process that was killed
                continue
            if "clear" in said:
                self._clear[said["frame"]] = said["clear"]
            else:
                first, row, column = said["piece"]
                self._pieces[first, row, column] = said
        return True

    def begin(self) -> None:
        """Say which plan the cube is of, once its metadata are written."""
        (self.folder / "done").touch()
        new = self.folder / "plan.new"
        new.write_text(self.digest)
        new.replace(self.folder / "plan")

    def any_done(self) -> bool:
        """Whether there is anything to keep."""
        return bool(self._pieces)

    def done(self, key: Key, plan: IngestPlan) -> Tally | None:
        """Return what the rules did in a piece that is written; None if it is not."""
        said = self._pieces.get(key)
        if said is None:
            return None
        tally = Tally.of(plan)
        tally.matches[:] = np.array(said["matches"], dtype=np.int64).reshape(tally.matches.shape)
        tally.observed.update(said["observed"])
        tally.dropped.update(said["dropped"])
        return tally

    def add(self, key: Key, tally: Tally) -> None:
        """Say that a piece is written."""
        said = {
            "piece": list(key),
            "matches": tally.matches.tolist(),
            "observed": tally.observed,
            "dropped": tally.dropped,
        }
        self._append(said)
        self._pieces[key] = said

    def clear(self, frame: int) -> list[int] | None:
        """Return how many samples are clear in each scene of a frame; None if they were not counted yet."""
        return self._clear.get(frame)

    def add_clear(self, frame: int, counts: Sequence[int]) -> None:
        """Say how many samples are clear in each scene of a frame."""
        self._clear[frame] = list(counts)
        self._append({"frame": frame, "clear": list(counts)})

    def _append(self, said: JSON) -> None:
        path = self.folder / "done"
        with path.open("ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a process was killed here; what follows has to be a line of its own
                    file.write(b"\n")
            file.write(f"{json.dumps(said)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
