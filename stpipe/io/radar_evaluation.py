"""Infilling from radar among the methods that are scored: beside others, and beside itself without anything to go by.

The same regression on the same radar, its dates in a random order, has as many numbers to fit and covariates that are
as smooth in time, but they know nothing of the frame's day. What it does worse is what radar is worth on a cube; what
it does equally well needs no radar.

Dates are put in another order before they are averaged around each frame. To shuffle the averages themselves would say
too much for radar: frames that are close share images, so that even of pure noise a regression can tell them to be
alike, and loses that when they are torn apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.comparison import ALL, REFERENCE, Difference
from stpipe.core.evaluation import Evaluation
from stpipe.core.gaps import Purpose, generator
from stpipe.core.ports import CubeReader, Filler, GuideReader
from stpipe.core.windows import Triple, Window
from stpipe.io.radar import Radar
from stpipe.methods.calibrated import CalibratedFiller
from stpipe.methods.sar.filler import SarFiller
from stpipe.methods.sar.options import NAME as SAR
from stpipe.methods.sar.options import SarOptions
from stpipe.methods.with_guides import WithGuides, make_sar

F32 = NDArray[np.float32]

SHUFFLED = "sar-shuffled"
"""What the regression on radar with its dates in a random order is called."""

NO_RADAR = "the same regression on radar dates in a random order"
"""The same in words."""

BESIDE = (REFERENCE, "whittaker", "pyramid")
"""Methods that are always scored with it."""

ORDER = 2**31
"""Stands where draws of gaps have their number: no draw has this one."""


@dataclass(frozen=True, slots=True)
class DatesInOrder:
    """A `CubeReader` of another one's dates in another order."""

    reader: CubeReader
    """The other one."""

    order: NDArray[np.intp]
    """(date,), which of its dates stands at each place."""

    @property
    def extent(self) -> Triple:
        """Shape of the cube."""
        return self.reader.extent

    def read(self, variable: str, window: Window) -> NDArray[Any]:
        """Return the stored samples of a window."""
        wide, places = self._wide(window)
        return np.asarray(self.reader.read(variable, wide)[places])

    def read_domain(self, window: Window) -> NDArray[np.bool_] | None:
        """Return where values can exist."""
        return self.reader.read_domain(window)

    def read_trusted(self, window: Window) -> NDArray[np.bool_] | None:
        """Return where rules let samples be trusted."""
        wide, places = self._wide(window)
        trusted = self.reader.read_trusted(wide)
        return None if trusted is None else trusted[places]

    def read_judged(self, window: Window) -> tuple[NDArray[np.bool_], NDArray[np.int64]] | None:
        """Return the same, and how often each rule matched in the dates from the first of them to the last."""
        wide, places = self._wide(window)
        judged = self.reader.read_judged(wide)
        return None if judged is None else (judged[0][places], judged[1])

    def _wide(self, window: Window) -> tuple[Window, NDArray[np.intp]]:
        """Return a window with all dates that stand in this one, and where they are in it."""
        dates = self.order[window.start[0] : window.stop[0]]
        first, stop = int(dates.min()), int(dates.max()) + 1
        return Window((first, *window.start[1:]), (stop, *window.stop[1:])), dates - first


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredRadar:
    """Radar as crops bring it: under names of its own, as it is and with its dates in a random order."""

    radar: Radar
    """On the cube's frames and pixels."""

    steps: SarOptions
    """What the regression's steps go by."""

    seed: int = 0
    """Decides the order."""

    @property
    def shuffled(self) -> Radar:
        """The radar with its dates in a random order; those of an orbit direction change places among themselves."""
        radar = self.radar
        order = np.arange(radar.part.guide_days.size)
        rng = generator(Purpose.EVALUATION, self.seed, ORDER, 0)
        for images in dict.fromkeys(echo.images for echo in radar.echoes):
            own = np.arange(order.size) if images is None else np.flatnonzero(images)
            order[own] = rng.permutation(own)
        echoes = (
            replace(echo, variable=replace(echo.variable, reader=DatesInOrder(echo.variable.reader, order)))
            for echo in radar.echoes
        )
        return replace(radar, echoes=tuple(echoes))

    def fillers(self, coverage: float) -> dict[str, Filler]:
        """Return the regression, and the same on dates in a random order."""
        cost = self.radar.cost
        made: dict[str, Filler] = {}
        for method in (SAR, SHUFFLED):
            names = tuple(_named(name, method) for name in self.radar.names)
            made[method] = make_sar(
                [[_named(name, method) for name in group] for group in self.radar.groups],
                steps=self.steps,
                guides=[self.radar.identity(), method],
                cost=replace(cost, names=names),
                coverage=coverage,
            )
        return made

    def read(self, window: Window) -> dict[str, F32]:
        """Return (t, y, x) of each polarisation in dB, as it is and from dates in a random order."""
        both = ((SAR, self.radar), (SHUFFLED, self.shuffled))
        return {_named(name, method): dB for method, radar in both for name, dB in radar.read(window).items()}


def _named(name: str, method: str) -> str:
    """Return what one polarisation is called in the crops, where another method may have a guide of its name.

    An orbit direction stays the last word, as the names of coefficients want it.

    >>> _named("VV", "sar"), _named("VV ascending", "sar-shuffled")
    ('VV@sar', 'VV@sar-shuffled ascending')
    """
    variable, space, orbit = name.partition(" ")
    return f"{variable}@{method}{space}{orbit}"


@dataclass(frozen=True, slots=True)
class Beside:
    """Two readers as one."""

    readers: Sequence[GuideReader | ScoredRadar]
    """No two have a name in common."""

    def read(self, window: Window) -> dict[str, F32]:
        """Return what all of them read."""
        return {name: values for reader in self.readers for name, values in reader.read(window).items()}


def calibrated_frames(filler: Filler) -> NDArray[np.bool_] | None:
    """Return (time,) which frames infilling from radar has calibrated on the crop that it looked at; None for others.

    See `stpipe.core.evaluation.Calibrated`.
    """
    match filler:
        case WithGuides() | CalibratedFiller():
            return calibrated_frames(filler.filler)
        case SarFiller():
            return None if filler.calibration is None else filler.calibration.calibrated
    return None


def without_frames(filler: Filler, frames: NDArray[np.intp]) -> Filler:
    """Return infilling from radar so that no regression is fitted to these frames of a crop; others as they are.

    What is hidden of a frame is predicted by regressions that have seen nothing of it, in no pixel. What is left of it
    tells its calibration alone, as the clear part of a cloudy date does. See `stpipe.core.evaluation.Unseeing`.
    """
    match filler:
        case WithGuides() | CalibratedFiller():
            inner = without_frames(filler.filler, frames)
            return filler if inner is filler.filler else replace(filler, filler=inner)
        case SarFiller():
            return replace(filler, unseen=tuple(frames.tolist()))
    return filler


def radar_notes(found: Evaluation) -> tuple[str, ...]:
    """Say in words whether radar is of use: against interpolation in time, and against its dates in a random order.

    Nothing where infilling from radar was not scored.
    """
    overall = {one.other: one for one in found.differences if one.method == SAR and one.group == ALL}
    if not {REFERENCE, SHUFFLED} <= overall.keys():
        return ()
    linear, shuffled = overall[REFERENCE], overall[SHUFFLED]
    if linear.difference == 0 == shuffled.difference:  # to the last bit: it is what stood in
        none = f"{SAR} is {REFERENCE} here: no pixel has as many clear dates with radar"
        return (f"{none}, besides those of the score, as a regression needs; ask for fewer with --sar-clear-dates",)
    said = f"{SAR} is {_apart(linear, REFERENCE)}, and {_apart(shuffled, NO_RADAR)}: {_verdict(linear, shuffled)}"
    lines = [said]
    kinds = [one for one in found.differences if (one.method, one.other) == (SAR, REFERENCE)]
    better = [f"{one.group} ({one.share:+.0%})" for one in kinds if one.grouping == "gap class" and _surely(one) < 0]
    if better and _surely(linear) >= 0:
        lines.append(f"{SAR} has a lower error than {REFERENCE} in some kinds of gaps: {', '.join(better)}")
    return tuple(lines)


def _surely(one: Difference) -> int:
    """Return -1 or 1 where the bootstrap leaves no doubt of which is better, else 0."""
    return -1 if one.difference_high < 0 else 1 if one.difference_low > 0 else 0


def _apart(one: Difference, than: str) -> str:
    """Return by how much the one is better or worse than the other, and what the bootstrap makes of it."""
    size = "" if np.isnan(one.share) else f"{abs(one.share):.1%} "
    bars = "" if np.isnan(one.difference_low) else f", 90 % {one.difference_low:+.2g} to {one.difference_high:+.2g}"
    return f"{size}{'worse' if one.difference > 0 else 'better'} than {than} (MAE {one.difference:+.2g}{bars})"


def _verdict(linear: Difference, shuffled: Difference) -> str:
    """Return what follows from both."""
    if _surely(shuffled) >= 0:
        return "radar tells nothing here that the regression could use"
    if _surely(linear) < 0:
        return "radar helps here"
    if _surely(linear) > 0:
        return f"radar tells something here, but {REFERENCE} knows more from the dates before and after"
    return f"radar tells something here, but whether more than {REFERENCE} knows can't be said"
