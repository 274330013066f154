"""What the user says of the cube to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from stpipe.core.compositing import COMPOSITES, Composite, Period
from stpipe.core.trust import Trust
from stpipe.core.windows import Triple
from stpipe.errors import OptionError
from stpipe.io.indices import IndexRequest
from stpipe.io.ingest.target import Target

SameDay = Literal["refuse"] | Composite
"""What to make of several scenes of one day."""

SAME_DAY = ("refuse", *COMPOSITES)
"""The choices."""

RESAMPLINGS = (
    *("nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average", "mode"),
    *("max", "min", "med", "q1", "q3", "rms"),
)
"""GDAL's ways to resample that a warp can use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """What the user says of the cube to be."""

    pattern: str | None = None
    """Template or regular expression of file names; see `stpipe.io.filenames.read_names`."""

    target: Target = field(default_factory=Target)
    """The grid."""

    resampling: str = "nearest"
    """One of `RESAMPLINGS`, for layers that are warped; quality variables are always warped by the nearest pixel."""

    same_day: SameDay = "refuse"
    """What to make of several scenes of one day: refuse those of the very same time, or make one frame of each day."""

    every: Period | None = None
    """Length of regular periods, each of which becomes a frame."""

    composite: Composite | None = None
    """What to make of the scenes of a period; their median unless given."""

    empty_periods: bool = False
    """Whether periods without any scene are frames too."""

    time: tuple[str | None, str | None] = (None, None)
    """First and last date to take; None is open."""

    trust: Trust | None = None
    """Which samples to take."""

    indices: tuple[IndexRequest, ...] = ()
    """Spectral indices to add."""

    scaled_indices: bool = False
    """Whether indices are stored as int16 in steps of 0.0001, not as float32."""

    variables: tuple[str, ...] = ()
    """What to write; everything where none is named."""

    drop_bands: bool = False
    """Whether only indices and quality variables are written."""

    chunks: Triple | None = None
    """Chunk lengths; `DEFAULT_CHUNKS` unless given."""

    nodata: float | None = None
    """Stored value that means gap in measured variables, besides what the files say."""

    nodata_of: Mapping[str, float] = field(default_factory=dict)
    """The same for single variables."""

    collections: tuple[str, ...] = ()
    """Collections to search a STAC API for."""

    def __post_init__(self) -> None:
        if self.resampling not in RESAMPLINGS:
            raise OptionError(f"--resampling is one of {', '.join(RESAMPLINGS)}, got {self.resampling!r}")
        if self.same_day not in SAME_DAY:
            raise OptionError(f"--same-day is one of {', '.join(SAME_DAY)}, got {self.same_day!r}")
        if self.composite is not None and self.composite not in get_args(Composite):
            raise OptionError(f"--composite is one of {', '.join(COMPOSITES)}, got {self.composite!r}")
        if self.chunks is not None and min(self.chunks) < 1:
            raise OptionError(f"--chunks needs three lengths of at least 1, got {self.chunks}")
        if self.every is None and self.empty_periods:
            raise OptionError("--empty-periods is about periods; give their length with --every")
        if self.every is None and self.composite is not None:
            raise OptionError("--composite says what to make of a period's scenes; give its length with --every")
        if self.every is not None and self.same_day != "refuse":
            raise OptionError("with --every, --composite says what to make of the scenes; leave out --same-day")
        if self.drop_bands and self.variables:
            raise OptionError("--drop-bands and --var both say what to write; give one of them")
        if self.drop_bands and not self.indices:
            raise OptionError("--drop-bands leaves nothing to write without an --index")
        if self.scaled_indices and not self.indices:
            raise OptionError("--index-type says how indices are stored; give one with --index")
        names = [request.name for request in self.indices]
        if len(set(names)) < len(names):
            raise OptionError(f"--index is given twice with one name: {', '.join(names)}")

    @property
    def needed(self) -> frozenset[str] | None:
        """Names of all variables that are needed, in lower case; None where that can't be told in advance."""
        if not self.variables or any(not (index.bands or index.named) for index in self.indices):
            return None
        bands = {name for index in self.indices for name in (*index.bands, *(name for _, name in index.named))}
        rules = () if self.trust is None else self.trust.rules
        quality = {name for rule in rules for name in (rule.variable, *rule.also)}
        return frozenset(name.lower() for name in {*self.variables, *bands, *quality})

    @property
    def how(self) -> Composite:
        """How several scenes become one frame."""
        if self.every is not None:
            return self.composite or "median"
        return "first" if self.same_day == "refuse" else self.same_day
