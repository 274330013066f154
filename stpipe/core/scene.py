"""A made-up scene with its truth: what a sensor would have seen of a farming landscape, and what was there.

Everything follows from a `SceneSpec`: the same spec gives the same samples.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpipe.core.landscape import Landscape, make_landscape
from stpipe.core.noise import fractal
from stpipe.core.sky import Sample, beyond_swath, clouds, dead_lines, shadows
from stpipe.errors import OptionError

EDGE_PX = 6.0
"""A gap sample nearer than this to an observed one is called cloud edge, the others cloud core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSpec:
    """What to make up."""

    seed: int = 7
    """Scenes with different seeds differ in everything."""

    frames: int = 26
    """Number of dates."""

    height: int = 384
    """Pixels along y."""

    width: int = 512
    """Pixels along x."""

    resolution_m: float = 20.0
    """Side of a pixel."""

    first: dt.date = dt.date(2023, 3, 6)
    """First date."""

    last: dt.date = dt.date(2023, 11, 1)
    """Last date."""

    crs: str = "EPSG:32632"
    """Projected coordinate system, in metres."""

    west_m: float = 600_000.0
    """Easting of the left edge."""

    north_m: float = 5_340_000.0
    """Northing of the upper edge."""

    parcel_m: float = 260.0
    """Typical width of a parcel."""

    lake_share: float = 0.045
    """Share of the scene under the lake, which is outside the domain."""

    cloud_share: float = 0.25
    """Mean share under cloud, over the dates that are not overcast."""

    overcast_frames: int = 2
    """Dates on which nothing was observed."""

    swath_frames: int = 5
    """Dates on which an orbit's edge crosses the scene."""

    striped_frames: int = 2
    """Dates with dead lines."""

    noise: float = 0.012
    """Standard deviation of the measurement noise, in NDVI."""

    haze: float = 0.012
    """Standard deviation of a date's bias, in NDVI; beside clouds a little more is lost."""

    def __post_init__(self) -> None:
        _check_positive(self, "frames", "height", "width", "resolution_m", "parcel_m")
        if min(self.height, self.width) < 32:
            raise OptionError(f"a scene needs at least 32 x 32 pixels, got height={self.height}, width={self.width}")
        if self.frames < 3:
            raise OptionError(f"a scene needs at least 3 dates, got frames={self.frames}")
        if self.last < self.first or (self.last - self.first).days < self.frames - 1:
            raise OptionError(
                f"{self.frames} dates don't fit between first={self.first} and last={self.last}; "
                "ask for fewer frames or a longer time"
            )
        special = self.overcast_frames + self.swath_frames + self.striped_frames
        if min(self.overcast_frames, self.swath_frames, self.striped_frames) < 0 or special > self.frames - 2:
            raise OptionError(
                f"overcast_frames + swath_frames + striped_frames must lie in [0, frames - 2 = {self.frames - 2}], "
                f"got {self.overcast_frames} + {self.swath_frames} + {self.striped_frames}"
            )
        for name, top in (("cloud_share", 0.9), ("lake_share", 0.5), ("noise", 1.0), ("haze", 1.0)):
            if not 0.0 <= getattr(self, name) <= top:
                raise OptionError(f"{name} must lie in [0, {top}], got {getattr(self, name)}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str) -> SceneSpec:
        """Return the spec that a file describes, or say which key or value is wrong.

        Parameters
        ----------
        values : mapping
            What the file says; keys that it leaves out keep their defaults.
        where : str
            The file and section, for the message.

        Examples
        --------
        >>> SceneSpec.from_mapping({"frmes": 12}, where="demo.yaml")
        Traceback (most recent call last):
        ...
        stpipe.errors.OptionError: demo.yaml: no key 'frmes' in a scene; did you mean 'frames'?
        """
        known = {field.name: field for field in fields(cls)}
        checked: dict[str, Any] = {}
        for key, value in values.items():
            if key not in known:
                near = get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                raise OptionError(f"{where}: no key {str(key)!r} in a scene; {hint}")
            checked[key] = _typed(value, kind=str(known[key].type), key=key, where=where)
        try:
            return cls(**checked)
        except OptionError as error:
            raise OptionError(f"{where}: {error}") from None


def _check_positive(spec: SceneSpec, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        if not value > 0:
            raise OptionError(f"{name} must be greater than 0, got {value}")


def _typed(value: object, *, kind: str, key: str, where: str) -> object:
    """Return a value as its field's type; YAML gives whole numbers for floats, and text for dates in quotes."""
    if kind == "int":
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif kind == "float":
        if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
            return float(value)
    elif kind == "str":
        if isinstance(value, str):
            return value
    elif isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    elif isinstance(value, str):
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            pass
    wanted = {"int": "a whole number", "float": "a number", "str": "text", "dt.date": "a date such as 2023-03-06"}[kind]
    raise OptionError(f"{where}: {key} must be {wanted}, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A scene and its truth."""

    spec: SceneSpec
    """What was asked for."""

    times: NDArray[np.datetime64]
    """(t,) acquisition times, ascending, unevenly spaced."""

    truth: NDArray[np.float32]
    """(t, y, x) NDVI of the ground; NaN in the lake."""

    observed: NDArray[np.float32]
    """(t, y, x) what the sensor saw of it: truth, noise and haze; NaN in gaps and in the lake."""

    sample: NDArray[np.uint8]
    """(t, y, x) `Sample`: why each sample is or isn't observed."""

    land: NDArray[np.bool_]
    """(y, x) False in the lake: the domain."""

    @property
    def gap_share(self) -> float:
        """Share of the domain's samples that is gap."""
        inside = self.sample != Sample.OUTSIDE_DOMAIN
        return float(((self.sample != Sample.OBSERVED) & inside).sum() / inside.sum())


def make_scene(spec: SceneSpec) -> Scene:
    """Make up a scene.

    Examples
    --------
    >>> scene = make_scene(SceneSpec(frames=10, height=48, width=64, swath_frames=2))
    >>> scene.truth.shape, 0.2 < scene.gap_share < 0.7
    ((10, 48, 64), True)
    """
    # One stream each, so that asking for more clouds doesn't move the fields.
    land_rng, time_rng, sky_rng, sensor_rng = (np.random.default_rng([spec.seed, stream]) for stream in range(4))
    shape = (spec.height, spec.width)
    landscape = make_landscape(land_rng, shape, parcel_px=spec.parcel_m / spec.resolution_m, lake_share=spec.lake_share)
    times = _times(time_rng, spec)
    truth = _truth(landscape, times)
    sample = _samples(sky_rng, spec, times, landscape.land)
    observed = _observe(sensor_rng, spec, truth, sample)
    return Scene(spec=spec, times=times, truth=truth, observed=observed, sample=sample, land=landscape.land)


def _times(rng: np.random.Generator, spec: SceneSpec) -> NDArray[np.datetime64]:
    """Draw acquisition dates: at random among those between the first and the last, and never two on one day."""
    days = (spec.last - spec.first).days
    # Two satellites on a five-day cycle each, three days apart, as far as they suffice.
    passes = np.array([day for day in range(1, days) if day % 5 in {0, 2}], dtype=np.int64)
    if len(passes) < spec.frames - 2:
        passes = np.arange(1, days)
    chosen = np.sort(rng.choice(passes, size=max(0, spec.frames - 2), replace=False))
    offsets = np.concatenate([[0], chosen, [days]])[: spec.frames]
    noon = np.datetime64(spec.first, "s") + np.timedelta64(10 * 3600 + 20 * 60, "s")
    minutes = rng.integers(0, 20 * 60, spec.frames)
    times: NDArray[np.datetime64] = noon + offsets.astype("timedelta64[D]") + minutes.astype("timedelta64[s]")
    return times


def _truth(landscape: Landscape, times: NDArray[np.datetime64]) -> NDArray[np.float32]:
    year = times[0].astype("datetime64[Y]").astype("datetime64[s]")
    days = 1.0 + (times - year) / np.timedelta64(1, "D")
    frames = [np.where(landscape.land, landscape.greenness(float(day)), np.nan).astype(np.float32) for day in days]
    return np.stack(frames)


def _samples(
    rng: np.random.Generator, spec: SceneSpec, times: NDArray[np.datetime64], land: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    shape = (spec.height, spec.width)
    order = rng.permutation(np.arange(1, spec.frames - 1))  # the first and the last frame stay ordinary
    overcast, swath, striped, _ = np.split(
        order, np.cumsum([spec.overcast_frames, spec.swath_frames, spec.striped_frames])
    )
    shares = _cloud_shares(rng, spec)
    # Neighbouring orbits leave the scene along two lines, one on either side.
    orbits = [(float(rng.uniform(0.30, 0.45)), False), (float(rng.uniform(0.58, 0.75)), True)]
    result = np.empty((spec.frames, *shape), dtype=np.uint8)
    for number, time in enumerate(times):
        frame = np.full(shape, Sample.OBSERVED, dtype=np.uint8)
        if number in overcast:
            frame[:] = Sample.WHOLE_FRAME
        else:
            hidden = _hidden(rng, shape, float(shares[number]), spec.resolution_m, time)
            frame[hidden] = Sample.CLOUD_CORE
            if number in striped:
                frame[dead_lines(rng, shape, angle=-0.22)] = Sample.LINES
            if number in swath:
                through, right = orbits[int(rng.integers(2))]
                frame[beyond_swath(shape, through=through, angle=0.21, right=right)] = Sample.SWATH
            seen = frame == Sample.OBSERVED
            if seen.any():
                near = ndimage.distance_transform_edt(~seen) < EDGE_PX
                frame[near & (frame == Sample.CLOUD_CORE)] = Sample.CLOUD_EDGE
        frame[~land] = Sample.OUTSIDE_DOMAIN
        result[number] = frame
    return result


def _cloud_shares(rng: np.random.Generator, spec: SceneSpec) -> NDArray[np.float64]:
    """Draw each date's cloud: mostly a little or a lot, seldom in between, with the mean that was asked for."""
    # Evenly spaced quantiles in random order: with so few dates, independent draws would miss the mean by far.
    mean = min(max(spec.cloud_share, 1e-6), 0.9)
    spread = rng.permutation((np.arange(spec.frames) + 0.5) / spec.frames)
    shares = spread ** (1.0 / mean - 1.0) if spec.cloud_share > 0 else np.zeros(spec.frames)
    return np.minimum(shares, 0.95)


def _hidden(
    rng: np.random.Generator, shape: tuple[int, int], share: float, resolution_m: float, time: np.datetime64
) -> NDArray[np.bool_]:
    """Return True under cloud, in its shadow, and in the margin that cloud masks keep around both."""
    wind = float(rng.uniform(-0.5, 0.9))
    height_m = float(rng.uniform(500.0, 1100.0))
    # Late morning, middle latitudes: the sun stands in the south-east, higher in summer.
    day = (time - time.astype("datetime64[Y]")) / np.timedelta64(1, "D")
    elevation = np.radians(43.0 + 17.0 * np.cos(2 * np.pi * (float(day) - 172.0) / 365.0))
    length_px = height_m / np.tan(elevation) / resolution_m
    azimuth = np.radians(152.0)
    offset = (-length_px * np.cos(azimuth - np.pi), -length_px * np.sin(azimuth))
    # Shadows come in from clouds outside the scene, so the sky is made larger than the ground.
    margin = int(1.4 * length_px) + 3
    wide = (shape[0] + 2 * margin, shape[1] + 2 * margin)
    cloud = clouds(rng, wide, share, wind=wind)
    relief = 1.0 + 0.10 * fractal(rng, wide, slope=3.0, longest=80.0)
    shade = shadows(cloud, offset=offset, height_field=relief)
    disk = np.hypot(*np.mgrid[-2:3, -2:3]) <= 2.2
    masked: NDArray[np.bool_] = ndimage.binary_dilation(cloud | shade, disk)
    return masked[margin:-margin, margin:-margin]


def _observe(
    rng: np.random.Generator, spec: SceneSpec, truth: NDArray[np.float32], sample: NDArray[np.uint8]
) -> NDArray[np.float32]:
    observed = np.empty_like(truth)
    for number in range(spec.frames):
        seen = sample[number] == Sample.OBSERVED
        cloudy = np.isin(sample[number], [Sample.CLOUD_EDGE, Sample.CLOUD_CORE])
        beside = np.exp(-ndimage.distance_transform_edt(~cloudy) / 5.0) if cloudy.any() else np.zeros(seen.shape)
        veil = np.abs(fractal(rng, seen.shape, slope=1.8, longest=0.2 * spec.width))
        bias = spec.haze * (rng.standard_normal() - 1.5 * beside * veil)
        value = np.clip(truth[number] + bias + spec.noise * rng.standard_normal(seen.shape), -1.0, 1.0)
        observed[number] = np.where(seen, value, np.nan)
    return observed
