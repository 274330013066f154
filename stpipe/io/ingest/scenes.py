"""Layers become scenes, and scenes become frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import cast

import numpy as np
import xarray as xr

from stpipe.core.compositing import Period
from stpipe.errors import CubeError
from stpipe.io.ingest.layers import Layer
from stpipe.io.ingest.options import IngestOptions
from stpipe.io.times import bound, decode_times, label, select_period

_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Layers that were acquired together."""

    time: datetime
    """When."""

    key: str
    """What their names have in common."""

    layers: Mapping[str, Layer]
    """One a variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One time step of the cube."""

    time: datetime
    """Its time."""

    scenes: tuple[Scene, ...]
    """What it is made of, earliest first; none where nothing was acquired."""


def told_apart(layers: list[Layer]) -> tuple[list[Layer], tuple[str, ...]]:
    """Return layers with the names of variables that several cubes have at one time put behind that of their cube."""
    cubes: defaultdict[str, defaultdict[str, set[datetime]]] = defaultdict(lambda: defaultdict(set))
    for layer in layers:
        cubes[layer.variable][layer.origin].add(layer.time)
    clashes = {
        name
        for name, by_origin in cubes.items()
        if len(by_origin) > 1 and sum(map(len, by_origin.values())) > len(set().union(*by_origin.values()))
    }
    if not clashes:
        return layers, ()
    origins = sorted({layer.origin for layer in layers if layer.variable in clashes})
    short = {origin: Path(origin).stem for origin in origins}
    if len(set(short.values())) < len(short):
        short = {origin: f"{Path(origin).parent.name}_{Path(origin).stem}" for origin in origins}
    if "" in origins or len(set(short.values())) < len(short):
        return layers, ()  # several scenes of a series of files: the frames have the say
    said = f"several cubes have {', '.join(sorted(clashes))} at one time, so each has its cube's name before it"
    moved = [replace(x, variable=f"{short[x.origin]}_{x.variable}") if x.variable in clashes else x for x in layers]
    return moved, (said,)


def in_period(layers: list[Layer], period: tuple[str | None, str | None]) -> list[Layer]:
    """Return the layers of a period; both ends are inside it."""
    if period == (None, None):
        return layers
    times = sorted({layer.time for layer in layers})
    axis = decode_times(xr.Variable("time", np.array(times, dtype="datetime64[us]")), "the series")
    first, stop = select_period(axis, period, "the series")
    return [layer for layer in layers if times[first] <= layer.time <= times[stop - 1]]


def make_frames(layers: Sequence[Layer], options: IngestOptions) -> tuple[Frame, ...]:
    """Return the frames that layers make: one a time, a day or a period."""
    by_frame: defaultdict[datetime, list[Layer]] = defaultdict(list)
    start = bound(options.time[0], last=False)
    anchor = min(layer.time for layer in layers) if start is None else cast("datetime", start.item())
    for layer in layers:
        by_frame[_frame_of(layer.time, options, anchor)].append(layer)
    keys = sorted(by_frame)
    if options.every is None and options.same_day == "refuse":
        _refuse_pairs({key: by_frame[key] for key in keys})
    if options.every is not None and options.empty_periods:
        keys = _all_periods(options.every, keys[0], keys[-1])
    return tuple(
        Frame(
            time=key if options.every is not None else min(layer.time for layer in by_frame[key]),
            scenes=_scenes(by_frame.get(key, [])),
        )
        for key in keys
    )


def _frame_of(time: datetime, options: IngestOptions, anchor: datetime) -> datetime:
    if options.every is not None:
        return options.every.start_of(time, anchor)
    return time if options.same_day == "refuse" else time.replace(hour=0, minute=0, second=0, microsecond=0)


def _all_periods(every: Period, first: datetime, last: datetime) -> list[datetime]:
    starts = [first]
    while starts[-1] < last:
        starts.append(every.next_after(starts[-1]))
    return starts


def _scenes(layers: Sequence[Layer]) -> tuple[Scene, ...]:
    """Return the scenes of a frame: what shares time and name, once a variable."""
    groups: defaultdict[tuple[datetime, str], list[dict[str, Layer]]] = defaultdict(list)
    for layer in sorted(layers, key=lambda one: one.order):
        group = groups[layer.time, layer.scene]
        free = next((scene for scene in group if layer.variable not in scene), None)
        if free is None:
            group.append({layer.variable: layer})
        else:
            free[layer.variable] = layer
    return tuple(
        Scene(time=time, key=key, layers=scene)
        for (time, key), group in sorted(groups.items(), key=lambda item: item[0])
        for scene in group
    )


def _refuse_pairs(by_frame: Mapping[datetime, Sequence[Layer]]) -> None:
    pairs: list[tuple[datetime, str, list[Layer]]] = []
    for key, layers in by_frame.items():
        by_name: defaultdict[str, list[Layer]] = defaultdict(list)
        for layer in sorted(layers, key=lambda one: one.order):
            by_name[layer.variable].append(layer)
        pairs += [(key, name, found) for name, found in sorted(by_name.items()) if len(found) > 1]
    if not pairs:
        return
    dates = list(dict.fromkeys(key for key, _, _ in pairs))
    shown = ", ".join(label(np.datetime64(key)) for key in dates[:_SHOWN])
    more = f" and {len(dates) - _SHOWN} more" if len(dates) > _SHOWN else ""
    _, name, found = pairs[0]
    some = "1 date has" if len(dates) == 1 else f"{len(dates)} dates have"
    raise CubeError(
        f"{some} several scenes of one variable: {shown}{more} (variable {name!r}: "
        f"{_where([layer.path for layer in found])}); make one frame of them with "
        "--same-day first, last, mean, median or least-cloud"
    )


def _where(paths: Sequence[str]) -> str:
    """Return the files that scenes are in, as short as tells them apart.

    >>> _where(["in/a.tif", "in/b.tif"]), _where(["in/a.tif", "out/a.tif"]), _where(["in/a.zarr", "in/a.zarr"])
    ('a.tif, b.tif', 'in/a.tif, out/a.tif', '2 in a.zarr')
    """
    files = list(dict.fromkeys(paths))
    names = [Path(file).name for file in files]
    if len(files) == 1:
        return f"{len(paths)} in {names[0]}"
    return ", ".join((names if len(set(names)) == len(names) else files)[:_SHOWN])
