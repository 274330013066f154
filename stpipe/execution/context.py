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
from stpipe.core.ports import (
    BlockStore,
    CubeReader,
    FieldStore,
    FilledStore,
    Filler,
    GuideReader,
    OverviewStore,
    VariableInfo,
)
from stpipe.core.samples import credible, physical, valid_samples
from stpipe.core.survey import FARTHEST
from stpipe.core.windows import Triple, Window
from stpipe.execution.records import RecordBook
from stpipe.execution.storage import located


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

    max_gap: float | None = None
    """Gaps farther than this many days from an observation of their pixel stay unfilled."""

    guides: GuideReader | None = None
    """What the user gave to lean on; None: nothing."""

    scales: Mapping[str, Scale] = field(default_factory=dict)
    """Location and spread of each variable; empty until the survey is done."""

    def variable(self, index: int) -> VariableInfo:
        """Return a variable by its position."""
        return self.plan.variables[index]

    def read(self, info: VariableInfo, window: Window) -> Samples:
        """Read a window inside the cube."""
        return read_samples(self.reader, info, window, self.valid_range)

    def read_standardised(self, info: VariableInfo, window: Window) -> Standardised:
        """Read a window, which may reach past the cube's end, by the scene's location and spread."""
        inside = window.intersect(Window.of(self.plan.extent))
        return self.read(info, inside).standardised(self.scales[info.name], window.shape)

    def read_guides(self, window: Window) -> dict[str, NDArray[np.float32]]:
        """Read the guides of a window, which may reach past the cube's end."""
        return {} if self.guides is None else self.guides.read(window)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardised:
    """One window as methods see it."""

    values: NDArray[np.float32]
    """(t, y, x), (physical - location) / spread; zero in gaps."""

    valid: NDArray[np.bool_]
    """(t, y, x), True where observed and trusted; False outside the cube."""

    domain: NDArray[np.bool_] | None
    """(y, x) of the part inside the cube, where values can exist; None: everywhere."""

    scale: tuple[float, float]
    """Location and spread."""

    def domain_of(self, window: Window) -> NDArray[np.bool_] | None:
        """Return the domain of the whole window, which may reach past the end of the cube, where nothing can exist."""
        if self.domain is None:
            return None
        whole = np.zeros(window.shape[1:], dtype=bool)
        whole[: self.domain.shape[0], : self.domain.shape[1]] = self.domain
        return whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a round over the whole scene gave for one variable."""

    file: str
    """Where it is."""

    sha256: str
    """Of that file."""

    fields: bool
    """Whether the round kept numbers of each pixel."""


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

    learned_folder: str
    """Folder of what the method learned, a file a variable."""

    rounds_folder: str
    """Folder of the sums over parts of the scene."""

    fields: FieldStore
    """Numbers of each pixel that the method keeps, if it keeps any."""

    input_state: str = ""
    """Tells whether the input's files are those that were surveyed."""

    survey_key: str = ""
    """Digest of the survey's results; empty until it is done."""

    settled: Mapping[str, tuple[Settled, ...]] = field(default_factory=dict)
    """For each variable what the rounds that are done gave."""

    learned: Mapping[str, str] = field(default_factory=dict)
    """sha256 of what the method learned from each variable; empty until it did, or if it learns nothing."""

    @property
    def key(self) -> str:
        """Identifies the run, the survey and, if the method learns, what it learned: all that blocks depend on."""
        lesson = hashlib.sha256(repr(sorted(self.learned.items())).encode()).hexdigest()[:16]
        return self.plan.run_id + self.survey_key + self.rounds_key + (f"-{lesson}" if self.learned else "")

    @property
    def rounds_key(self) -> str:
        """Identifies what the rounds have settled so far; empty if there are none."""
        told = sorted((name, [one.sha256 for one in rounds]) for name, rounds in self.settled.items())
        return "-" + hashlib.sha256(repr(told).encode()).hexdigest()[:16] if told else ""

    def book(self, stage: str) -> RecordBook:
        """Return the records of a stage."""
        keys = {
            "survey": f"{self.plan.run_id}-{self.input_state}",
            "learn": self.plan.run_id + self.survey_key,
            "fill": self.key,
            # How tiles are cut depends on the memory, which no run id knows.
            "blend": f"{self.key}-{[tiles.shape for tiles in self.plan.blend_tiles]}",
        }
        key = keys.get(stage, self.run_key)  # of a round
        return RecordBook(f"{self.records}/{stage}", key)

    @property
    def run_key(self) -> str:
        """Identifies all that a round depends on: the survey, and the rounds before it."""
        return self.plan.run_id + self.survey_key + self.rounds_key

    def learned_file(self, index: int) -> Path:
        """Return where what was learned from a variable lies."""
        return located(self.learned_folder) / f"{index:07d}.bin"

    def look_part(self, number: int) -> tuple[int, list[Window]]:
        """Return the variable and the windows of a part of the scene, by its number over all variables."""
        index, part = divmod(number, self.plan.look_parts)
        return index, self.plan.look_part(part)

    def sums_file(self, number: int, level: int, member: int) -> Path:
        """Return where sums of a round lie: of a part, or of many."""
        return located(self.rounds_folder) / f"{number}" / f"{level}-{member:07d}.npz"

    def settled_file(self, number: int, index: int) -> Path:
        """Return where that lies which a round gave for a variable."""
        return located(self.rounds_folder) / f"{number}" / f"settled-{index:07d}.npz"

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

    trusted: NDArray[np.bool_] | None = None
    """(t, y, x), what rules let be trusted; None: everything."""

    rule_counts: NDArray[np.int64] | None = None
    """(rule, 2), how often each rule matched, see `stpipe.core.trust.remarks`."""

    def frame(self, t: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return one frame's physical values and where they are valid."""
        values = physical(self.stored[t], self.info)
        valid = valid_samples(values, valid_range=self.valid_range, domain=self.domain, info=self.info)
        if self.trusted is not None:
            valid &= self.trusted[t]
        return values, valid

    def believed(self, t: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return one frame's physical values and where they are valid and may speak for others."""
        values, valid = self.frame(t)
        return values, credible(values, valid)

    def standardised(self, scale: Scale, shape: Triple | None = None) -> Standardised:
        """Return the window as methods see it.

        Parameters
        ----------
        scale : Scale
            The scene's location and spread.
        shape : (time, y, x), optional
            A larger shape; what is more than the window is gap.
        """
        values = np.zeros(shape or self.stored.shape, dtype=np.float32)
        valid = np.zeros(values.shape, dtype=bool)
        _, height, width = self.stored.shape
        for t in range(len(self.stored)):
            frame, known = self.believed(t)
            valid[t, :height, :width] = known
            standard = (np.where(known, frame, scale.location) - scale.location) / scale.spread
            values[t, :height, :width] = standard.clip(-FARTHEST, FARTHEST)
        return Standardised(values=values, valid=valid, domain=self.domain, scale=(scale.location, scale.spread))


def read_samples(
    reader: CubeReader, info: VariableInfo, window: Window, valid_range: tuple[float, float] | None = None
) -> Samples:
    """Read a window inside a cube, with all that decides what of it is valid."""
    # The rules first: what they take in memory is given back before the samples are there.
    judged = reader.read_judged(window)
    return Samples(
        stored=reader.read(info.name, window),
        domain=reader.read_domain(window),
        info=info,
        valid_range=valid_range,
        trusted=None if judged is None else judged[0],
        rule_counts=None if judged is None else judged[1],
    )
