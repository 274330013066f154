"""What infilling from radar can be told: how radar comes onto the frames, and what its steps go by."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

from stpipe.core.resampling import Resampling
from stpipe.errors import OptionError

NAME = "sar"
"""The method's name."""

Average = Literal["power", "db"]
"""How images around a frame, and pixels of a finer grid, become one."""

AVERAGES: tuple[Average, ...] = get_args(Average)
"""Their names."""

WINDOW_DAYS = 12.0
"""Images count so long before and after a frame, unless told otherwise: as published, Sentinel-1's time to return."""

LEAST_CLEAR = 18
"""Clear dates that a pixel's regression rests on: twice as many as it has numbers to tell."""

SHARE = 0.5
"""Share of the components that are kept."""

CLOUD_THRESHOLD = 0.5
"""Frames with a larger share of gaps are not calibrated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SarOptions:
    """What the steps go by."""

    least_clear: int = LEAST_CLEAR
    """Clear dates that a pixel's regression needs."""

    smoothing: bool = True
    """Whether predictions are smoothed by their components."""

    share: float | None = SHARE
    """Share of the components that are kept, unless `explained` says which."""

    explained: float | None = None
    """As many components are kept as explain this share of the variance."""

    calibration: bool = True
    """Whether frames are drawn to what was observed in them."""

    cloud_threshold: float = CLOUD_THRESHOLD
    """Frames with this share of gaps, or a larger one, are not."""

    def __post_init__(self) -> None:
        if self.least_clear < 1:
            raise OptionError(f"a regression on radar needs at least 1 clear date, got {self.least_clear}")
        for name, value in (("share", self.share), ("explained share", self.explained)):
            if value is not None and not 0 < value <= 1:
                raise OptionError(f"the {name} of components lies above 0 and is at most 1, got {value!r}")
        if self.smoothing and (self.share is None) == (self.explained is None):
            raise OptionError("components are kept by their share or by the variance they explain; give one of both")
        if not 0 < self.cloud_threshold <= 1:
            raise OptionError(f"the cloud threshold lies above 0 and is at most 1, got {self.cloud_threshold!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RadarOptions:
    """How radar is brought onto a cube's frames."""

    variables: tuple[str, ...] = ()
    """Variables to take; VV and VH unless given."""

    window_days: float = WINDOW_DAYS
    """Images count so long before and after a frame."""

    average: Average = "power"
    """One of `AVERAGES`."""

    by_orbit: str | None = None
    """Variable along time that says each image's orbit direction; None: orbits are mixed."""

    resampling: Resampling | None = None
    """In space, as for other guides."""

    def __post_init__(self) -> None:
        if self.average not in AVERAGES:
            raise OptionError(f"radar is averaged by one of {', '.join(AVERAGES)}, got {self.average!r}")
        if not 0 < self.window_days < inf:
            raise OptionError(f"the window of radar is a number of days above 0, got {self.window_days!r}")
