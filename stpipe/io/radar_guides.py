"""Radar among a user's guides: beside the guides as they are, what infilling from radar takes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from stpipe.core.geometry import GuideCost
from stpipe.core.ports import JSON
from stpipe.core.windows import Window
from stpipe.errors import CubeError, OptionError
from stpipe.io.cube import Cube
from stpipe.io.guides import GridGuide, GuideOptions, Guides
from stpipe.io.radar import POLARISATIONS, Radar, open_radar
from stpipe.methods.sar.options import RadarOptions

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RadarGuides:
    """Guides, and the radar among them once more in dB around each frame, as a `GuideReader`."""

    guides: Guides
    """All of them."""

    radar: Radar
    """What of them is radar, under names of its own."""

    @property
    def parts(self) -> tuple[GridGuide, ...]:
        """Those of the guides."""
        return self.guides.parts

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the guides, and of the radar."""
        return (*self.guides.names, *map(echo_name, self.radar.names))

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Names of the radar that goes into one regression."""
        return tuple(tuple(map(echo_name, group)) for group in self.radar.groups)

    def identity(self) -> JSON:
        """Return all that decides what is read."""
        return {"guides": self.guides.identity(), "radar": self.radar.identity()}

    def read(self, window: Window) -> dict[str, F32]:
        """Return (t, y, x) of each guide, standardised, and of the radar in dB; NaN where there is none."""
        echoes = {echo_name(name): values for name, values in self.radar.read(window).items()}
        return {**self.guides.read(window), **echoes}

    @property
    def cost(self) -> GuideCost:
        """What reading both takes, one after the other."""
        one, other = self.guides.cost, self.radar.cost
        return GuideCost(
            names=self.names,
            sample_bytes=max(one.sample_bytes, other.sample_bytes),
            chunk_bytes=max(one.chunk_bytes, other.chunk_bytes),
            seconds_per_million=one.seconds_per_million + other.seconds_per_million,
        )

    def state(self) -> str:
        """Return a digest that changes when one of the files does."""
        return sha256(f"{self.guides.state()}\n{self.radar.state()}".encode()).hexdigest()


def echo_name(name: str) -> str:
    """Return what radar is called in dB, where it is a guide as well.

    >>> echo_name("VV")
    'VV@dB'
    """
    return f"{name}@dB"


def with_radar(guides: Guides, cube: Cube, options: GuideOptions) -> tuple[Guides | RadarGuides, tuple[str, ...]]:
    """Return guides with what infilling from radar takes of them, if it can; and what the user should know.

    Radar are the variables VV and VH of one cube, where both are guides; see `stpipe.io.radar.open_radar`. What that
    would refuse stays a guide like others.

    Parameters
    ----------
    guides : Guides
        What the user named.
    cube : Cube
        What is to be filled.
    options : GuideOptions
        How guides are brought onto it; how long radar counts is its own affair.
    """
    found = [
        (path, names)
        for part, (path, _) in zip(guides.parts, guides.files, strict=True)
        if (names := _polarised([one.info.name for one in part.variables]))
    ]
    if not found:
        return guides, ()
    if len(found) > 1:
        where = ", ".join(path for path, _ in found)
        return guides, (f"radar is in {len(found)} guides ({where}) and infilled from none: that takes one cube",)
    ((path, names),) = found
    others = [one.name for part in guides.parts for one in part.variables if one.info.name not in names]
    if others:
        alone = f"{' and '.join(names)} count as guides alone, beside {', '.join(others)}"
        return guides, (f"{alone}: pconv infills from radar that is by itself; choose with --guide-var",)
    try:
        radar = open_radar([path], cube, RadarOptions(variables=names, resampling=options.resampling))
    except (CubeError, OptionError) as error:
        return guides, (f"{' and '.join(names)} count as guides alone, for they can't be infilled from: {error}",)
    return RadarGuides(guides=guides, radar=replace(radar, notes=())), radar.notes


def _polarised(there: Sequence[str]) -> tuple[str, ...]:
    """Return the names of VV and VH, if both are there, each once.

    >>> _polarised(["vh", "VV", "angle"]), _polarised(["VV", "vv", "VH"]), _polarised(["VV"])
    (('VV', 'vh'), (), ())
    """
    counted = Counter(name.lower() for name in there)
    if any(counted[one] != 1 for one in POLARISATIONS):
        return ()
    return tuple(name for one in POLARISATIONS for name in there if name.lower() == one)
