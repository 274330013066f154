"""What methods are scored on: held-out parts of the public data, sets never trained on, and made-up stand-ins.

A case is one row of the table: one or more scenes of a variable, and for each draw the samples of them to hide.
Everything is seeded; the same data give the same samples to every method.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from pathlib import Path

import numpy as np
from data import ALL, Scene, cut, load_hls, load_never_trained, scene_of, split
from numpy.typing import NDArray

from stpipe.core.gaps import artificial_gaps
from stpipe.core.landscape import make_landscape
from stpipe.core.noise import fractal, smooth
from stpipe.core.sky import clouds

SEED = 20
"""Decides all gaps and all that is made up."""

HELD_OUT, NEVER, SURROGATE, WHOLE = "held out", "never trained on", "surrogate", "whole frames"

FRAMES_SHARE = 0.5
"""Share of the frames that get gaps of another date."""

LEAST_GAP = 0.02
"""A frame with less gap than this has no shape to lend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row."""

    name: str
    """On the command line and in the table."""

    kind: str
    """`HELD_OUT`, `NEVER`, `SURROGATE`, or `WHOLE` for data of the former two with other gaps."""

    units: str
    """Of the variable; empty for an index."""

    what: str
    """The data, and where the gaps are from."""

    scenes: tuple[Scene, ...]
    """Each is surveyed, learned from and filled by itself."""

    hidden: tuple[tuple[NDArray[np.bool_], ...], ...]
    """For each draw and scene (time, y, x), the valid samples to hide."""

    def digest(self) -> str:
        """Return what tells these samples from any others."""
        made = hashlib.sha256()
        for scene in self.scenes:
            for part in (scene.values, scene.valid, scene.days):
                made.update(np.ascontiguousarray(part).tobytes())
        for draw in self.hidden:
            for part in draw:
                made.update(np.packbits(part).tobytes())
        return made.hexdigest()


def gaps_of_other_dates(
    valid: NDArray[np.bool_], rng: np.random.Generator, *, domain: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Hide what lies under the gaps that another frame has at the same place, in half of the frames.

    Frames without any valid sample neither get nor lend gaps.

    Parameters
    ----------
    valid : (time, y, x) ndarray of bool
        What is observed.
    rng : numpy Generator
        Chooses the frames and, for each, the date that lends its gaps.
    domain : (y, x) ndarray of bool, optional
        Where values can exist.

    Returns
    -------
    (time, y, x) ndarray of bool
        A part of `valid`.

    Examples
    --------
    >>> valid = np.ones((4, 2, 2), dtype=bool)
    >>> valid[0, 0] = False
    >>> hidden = gaps_of_other_dates(valid, np.random.default_rng(3))
    >>> hidden.any(axis=(1, 2)).sum() <= 2, bool((hidden <= valid).all()), bool(hidden[:, 1].any())
    (np.True_, True, False)
    """
    inside = np.ones(valid.shape[1:], dtype=bool) if domain is None else domain
    share = (inside & ~valid).sum(axis=(1, 2)) / inside.sum()
    some = valid.any(axis=(1, 2))
    lenders, seen = np.flatnonzero(some & (share > LEAST_GAP)), np.flatnonzero(some)
    hidden = np.zeros_like(valid)
    for t in rng.permutation(seen)[: ceil(FRAMES_SHARE * len(seen))]:
        others = lenders[lenders != t]
        if len(others):
            hidden[t] = valid[t] & ~valid[rng.choice(others)]
    return hidden


def whole_frames(valid: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Hide a single frame, and a run of two, in every ten that have any valid sample; at least one run.

    >>> valid = np.ones((30, 2, 2), dtype=bool)
    >>> whole_frames(valid, np.random.default_rng(3)).all(axis=(1, 2)).sum()
    np.int64(9)
    """
    seen = np.flatnonzero(valid.any(axis=(1, 2)))
    hidden = np.zeros_like(valid)
    for part in np.array_split(seen, max(1, len(seen) // 10)):
        first, lone = rng.permutation(len(part) // 3)[:2] * 3  # of groups of three, so that the two don't touch
        for t in (part[first], part[first + 1], part[lone]):
            hidden[t] = valid[t]
    return hidden


def zoomed(shapes: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Enlarge gap shapes by a whole number until they are no smaller than a frame.

    >>> zoomed(np.array([[[True, False]]]), (2, 3)).astype(int)
    array([[[1, 1, 0, 0],
            [1, 1, 0, 0]]])
    """
    factor = max(1, *(ceil(n / have) for n, have in zip(size, shapes.shape[1:], strict=True)))
    return shapes.repeat(factor, axis=1).repeat(factor, axis=2)


@cache
def real_clouds(folder: Path) -> NDArray[np.bool_]:
    """Return the gaps of Harmonised Landsat Sentinel-2 frames that are gap in part."""
    gaps = ~load_hls(folder)[0].valid
    share = gaps.mean(axis=(1, 2))
    return np.asarray(gaps[(share > 0.03) & (share < 0.9)])


@cache
def held_out(folder: Path) -> tuple[Scene, ...]:
    """Return the scenes that training leaves alone."""
    return tuple(split(folder)[1])


def draws_of(name: str, count: int) -> list[np.random.Generator]:
    """Return a generator for each draw of a case, whatever other cases there are."""
    return [np.random.default_rng([SEED, zlib.crc32(name.encode()), draw]) for draw in range(count)]


def _given(folder: Path, name: str) -> Case:
    """Return the case of scenes with artificial gaps of their own."""
    scenes = tuple(scene for scene in held_out(folder) if scene.name.startswith("co "))
    return Case(
        name=name,
        kind=HELD_OUT,
        units="mol/m2",
        what=f"Sentinel-5P CO, {len(scenes)} blocks of later dates, their own hidden samples",
        scenes=scenes,
        hidden=(tuple(np.asarray(scene.hidden) for scene in scenes),),
    )


BORROWED = "clouds of the HLS scenes in half of the frames"
OVERCAST = "three in ten frames whole, two of them in a row"


@dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """How a case is made of real data."""

    scene: str
    """Its scenes' names start with this."""

    draws: int
    """How often gaps are drawn."""

    what: str
    """The data."""

    units: str = ""
    """Of the variable."""

    kind: str = HELD_OUT
    """Where it comes from."""

    gaps: str = "gaps of other dates in half of the frames"
    """What is hidden: this, `BORROWED` for data without gaps of their own, or `OVERCAST`."""

    def __call__(self, folder: Path, name: str) -> Case:
        """Make the case."""
        pool = (*held_out(folder), *load_never_trained(folder))
        scenes = tuple(scene for scene in pool if scene.name.startswith(self.scene))
        hidden = tuple(tuple(self.hide(scene, folder, rng) for scene in scenes) for rng in draws_of(name, self.draws))
        return Case(
            name=name,
            kind=self.kind,
            units=self.units,
            what=f"{self.what}; {self.gaps}, {self.draws} draw{'s' * (self.draws > 1)}",
            scenes=scenes,
            hidden=hidden,
        )

    def hide(self, scene: Scene, folder: Path, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Choose what to hide of a scene."""
        if self.gaps == OVERCAST:
            return whole_frames(scene.valid, rng)
        if self.gaps != BORROWED:
            return gaps_of_other_dates(scene.valid, rng, domain=scene.domain)
        shapes = zoomed(real_clouds(folder), (scene.valid.shape[1], scene.valid.shape[2]))
        return artificial_gaps(scene.valid, rng, kind="own", shapes=shapes, frames_share=FRAMES_SHARE)


FRAME = (300, 500)
"""Size of the made-up temperature frame."""

FRAME_HIDDEN = 0.285
"""Share of it that is to be hidden, about."""


FIELDS = 4
"""Frames of it, each a scene of its own."""


def _temperature(folder: Path, name: str) -> Case:
    """Return single frames with exponential covariance and noise, each under a real cloud.

    In the plane, the spectrum of exp(-h / reach) is (f**2 + (2 pi reach)**-2) ** -1.5: an amplitude of slope 1.5.
    """
    reach, scenes = 30.0, []
    for rng in draws_of(name, FIELDS):
        field = 305 + 3.0 * fractal(rng, FRAME, slope=1.5, longest=2 * np.pi * reach) + 0.5 * rng.standard_normal(FRAME)
        scenes.append(scene_of("temperature", field[None], np.zeros(1)))
    large = zoomed(real_clouds(folder), FRAME)
    rows, columns = (range(0, have - n + 1, 40) for have, n in zip(large.shape[1:], FRAME, strict=True))

    def far(shape: NDArray[np.bool_]) -> float:
        return abs(float(shape.mean()) - FRAME_HIDDEN)

    dates = [[cloud[y : y + FRAME[0], x : x + FRAME[1]] for y in rows for x in columns] for cloud in large]
    shapes = sorted((min(parts, key=far) for parts in dates), key=far)
    return Case(
        name=name,
        kind=SURROGATE,
        units="K",
        what=(
            f"{FIELDS} single frames, exponential covariance over {reach:g} px, 3 K, noise of 0.5 K; "
            "a cloud of the HLS scenes over each"
        ),
        scenes=tuple(scenes),
        hidden=(tuple(shape[None] for shape in shapes[:FIELDS]),),
    )


SIDE, MIXED = 100, 3
"""Pixels along a side of the made-up seasons; parcels' pixels along a side of one."""


@cache
def seasons() -> Scene:
    """Return six years of eight dates each over parcels with seasons that come earlier and later from year to year."""
    rng = np.random.default_rng([SEED, 6, 8])
    fine, size = (SIDE * MIXED, SIDE * MIXED), (SIDE, SIDE)
    land = make_landscape(rng, fine, parcel_px=18.0, lake_share=0.0)
    frames, days = [], []
    for year in range(6):
        late, vigour = rng.normal(0, 6), 0.03 * smooth(rng, size, 15.0)
        for day in range(97, 97 + 8 * 16, 16):
            green = land.greenness(day - late).reshape(SIDE, MIXED, SIDE, MIXED).mean(axis=(1, 3))
            weather = 0.02 * smooth(rng, size, 10.0)
            frames.append(green + vigour + weather + 0.02 * rng.standard_normal(size))
            days.append(365.25 * year + day)
    return scene_of("seasons", np.stack(frames), np.array(days))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seasons:
    """The made-up seasons with a part under cloud."""

    percent: int
    """How much is hidden."""

    def __call__(self, folder: Path, name: str) -> Case:  # noqa: ARG002
        """Make the case; dates have a little cloud or a lot, as in `stpipe.core.scene`."""
        scene, (rng,) = seasons(), draws_of(name, 1)
        count = len(scene.days)
        share = rng.permutation((np.arange(count) + 0.5) / count) ** (100 / self.percent - 1)
        hidden = np.stack([clouds(rng, (SIDE, SIDE), float(s), wind=rng.uniform(-1, 1)) for s in share])
        return Case(
            name=name,
            kind=SURROGATE,
            units="",
            what=f"NDVI of parcels, 6 years x 8 dates, {SIDE} x {SIDE}; {self.percent} % hidden in cloud shapes",
            scenes=(scene,),
            hidden=((hidden,),),
        )


# Samples of a frame are wrong together, so what counts is how many frames have gaps: some twenty in each row, where the
# data have as many. Each draw hides others, and frames that several draws hide are one witness in the error bars.
CASES: dict[str, Callable[[Path, str], Case]] = {
    "co": _given,
    "hls-ndvi": Real(scene="hls ndvi", draws=4, what="HLS NDVI, 30 dates, a strip in the east"),
    "hls-nir": Real(scene="hls nir", draws=4, what="HLS near infrared, the same", units="reflectance"),
    "monthly-ndvi": Real(
        scene="monthly ndvi", draws=4, what="Sentinel-2 NDVI, 12 months, the south-west", gaps=BORROWED
    ),
    "monthly-nir": Real(
        scene="monthly b08", draws=4, what="Sentinel-2 near infrared, the same", units="reflectance", gaps=BORROWED
    ),
    "sinop-ndvi": Real(scene="sinop ndvi", draws=4, what="MODIS NDVI, 23 dates, the east", gaps=BORROWED),
    "cereal-ndvi": Real(scene="worldcereal ndvi", draws=4, what="Sentinel-2 NDVI of one site, later dates"),
    "cereal-nir": Real(
        scene="worldcereal nir", draws=4, what="Sentinel-2 near infrared, the same", units="reflectance"
    ),
    "fields-ndvi": Real(scene="fusets", draws=4, what="Sentinel-2 NDVI of a field, 31 dates", gaps=BORROWED),
    "alaska-ndvi": Real(scene="gapfill", draws=8, what="MODIS NDVI of Alaska, the last 2 of 4 years, 4 dates each"),
    "patch-ndvi": Real(scene="eolearn", draws=3, what="Sentinel-2 NDVI of a patch, 68 dates", kind=NEVER),
    "sst": Real(scene="alboran", draws=4, what="AVHRR sea surface temperature, 10 days", units="K", kind=NEVER),
    "temperature": _temperature,
    "seasons-20": Seasons(percent=20),
    "seasons-30": Seasons(percent=30),
    "seasons-40": Seasons(percent=40),
    "seasons-50": Seasons(percent=50),
    "hls-overcast": Real(scene="hls ndvi", draws=4, what="HLS NDVI as above", kind=WHOLE, gaps=OVERCAST),
    "patch-overcast": Real(scene="eolearn", draws=4, what="The patch as above", kind=WHOLE, gaps=OVERCAST),
}
"""How each row is made, in the order of the table."""

QUICK = ("fields-ndvi", "alaska-ndvi", "temperature")
"""Rows that take seconds, of which one draw is enough for a look."""


@cache
def case_of(name: str, folder: Path, *, quick: bool = False) -> Case:
    """Return a case by its name; a quick one has its first draw alone."""
    case = CASES[name](folder, name)
    return replace(case, hidden=case.hidden[:1]) if quick else case


def small(case: Case) -> Case:
    """Return the first scene of a case, 64 pixels wide at most, with its first draw: enough to try a method on."""
    part = (ALL, slice(0, 64), slice(0, 64))
    return replace(case, scenes=(cut(case.scenes[0], part),), hidden=((case.hidden[0][0][part],),))
