"""What every task of a run shares: the plan's pieces and the stores, sent to each worker process once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.plan import Plan
from stpipe.core.ports import BlockStore, CubeReader, FilledStore, Filler, OverviewStore, VariableInfo
from stpipe.core.samples import physical, valid_samples
from stpipe.core.windows import Window
from stpipe.execution.records import RecordBook


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A variable's robust location and spread, from the survey."""

    location: float
    """Median of the valid samples."""

    spread: float
    """Robust standard deviation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillJob:
    """What it takes to survey and fill, wherever the results go; picklable, small."""

    plan: Plan
    """The plan."""

    days: NDArray[np.float64]
    """(T,), true times of all frames."""

    reader: CubeReader
    """The input."""

    filler: Filler
    """The method."""

    valid_range: tuple[float, float] | None = None
    """What the user says is valid."""

    scales: Mapping[str, Scale] = field(default_factory=dict)
    """Location and spread of each variable; empty until the survey is done."""

    def variable(self, index: int) -> VariableInfo:
        """Return a variable by its position."""
        return self.plan.variables[index]

    def read(self, info: VariableInfo, window: Window) -> Samples:
        """Read a window inside the cube."""
        return Samples(
            stored=self.reader.read(info.name, window),
            domain=self.reader.read_domain(window),
            info=info,
            valid_range=self.valid_range,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext(FillJob):
    """A job whose results go to stores, with records."""

    overviews: OverviewStore
    """The survey's overviews."""

    scratch: BlockStore
    """The filled blocks."""

    product: FilledStore
    """The filled cube."""

    records: str
    """Folder of the records."""

    input_state: str = ""
    """Tells whether the input's files are those that were surveyed."""

    survey_key: str = ""
    """Digest of the survey's results; empty until it is done."""

    @property
    def key(self) -> str:
        """Identifies the run and, once surveyed, the survey that the blocks were filled with."""
        return self.plan.run_id + self.survey_key

    def book(self, stage: str) -> RecordBook:
        """Return the records of a stage."""
        keys = {
            "survey": f"{self.plan.run_id}-{self.input_state}",
            "fill": self.key,
            # How tiles are cut depends on the memory, which no run id knows.
            "blend": f"{self.key}-{[tiles.shape for tiles in self.plan.blend_tiles]}",
        }
        return RecordBook(str(Path(self.records) / stage), keys[stage])

    def surveyed(self, scales: Mapping[str, Scale], digests: list[str]) -> RunContext:
        """Return this context with the survey's results."""
        total = hashlib.sha256()
        for text in (*digests, repr(sorted((n, s.location, s.spread) for n, s in scales.items()))):
            total.update(text.encode())
        return replace(self, scales=dict(scales), survey_key="-" + total.hexdigest()[:16])


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """One window of stored samples, decoded a frame at a time so that memory stays near the stored size."""

    stored: NDArray[Any]
    """(t, y, x), as in the file."""

    domain: NDArray[np.bool_] | None
    """(y, x), where values can exist; None: everywhere."""

    info: VariableInfo
    """How they are stored."""

    valid_range: tuple[float, float] | None
    """What counts as valid."""

    def frame(self, t: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return one frame's physical values and where they are valid."""
        values = physical(self.stored[t], self.info)
        return values, valid_samples(values, valid_range=self.valid_range, domain=self.domain)
