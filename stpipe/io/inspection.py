"""What a cube holds: its axes and variables from the metadata, its gaps by one pass over the chunks."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stpipe.core.geometry import TileGrid
from stpipe.core.ports import VariableInfo
from stpipe.core.qa_products import PRODUCTS
from stpipe.core.samples import gap_value, is_nodata, tells_clear
from stpipe.core.sizes import gib
from stpipe.core.timeline import median_step, passes
from stpipe.core.trust import plain_name, remarks
from stpipe.core.windows import Triple, Window, triple
from stpipe.errors import CubeError, StpipeError
from stpipe.execution.storage import files_below, is_remote, is_unlisted, located
from stpipe.io.cube import Cube
from stpipe.io.frames import CODES, holds_codes, holds_sources
from stpipe.io.rasters import crs_name
from stpipe.io.reader import StoredReader
from stpipe.io.stored import open_raw
from stpipe.io.times import disorder, label

TILE_BYTES = 16 * 2**20
"""Chunks are read together up to this size, so that many small ones cost less."""

SAMPLED_CHUNKS = 48
"""Chunks that the share of gaps is told from."""

SAMPLED = 2**22
"""Samples of one of them, at most."""

_THREADS = 4
_BATCH = 64
_BIG_FRAME_CHUNK = 4 * 2**20
_HUGE_CHUNK = 256 * 2**20
_SMALL_CHUNK = 64 * 2**10
_MANY_CHUNKS = 20_000
_LONG_STEP = 6  # times the median step
_PLACES = re.compile(r"(?i)mask|domain|land|water|sea|lake|valid")

MOST_SCANNED = 100 * 2**40
"""Bytes of samples that are read to count gaps; more takes days, and is mostly a length that a file only claims."""

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapCount:
    """How much of a variable was not observed."""

    gap_share: float
    """Gaps inside the domain, as a share of the domain."""

    empty_frames: tuple[int, ...]
    """Frames without a valid sample."""

    full_frames: int
    """Number of frames without a gap."""

    rule_counts: NDArray[np.int64] | None = None
    """How often each rule on what to trust matched; None without rules."""


def count_gaps(reader: StoredReader, info: VariableInfo, *, progress: Progress | None = None) -> GapCount:
    """Return the gaps of one variable, read a few chunks at a time.

    Parameters
    ----------
    reader : StoredReader
        Reads the variable and the domain.
    info : VariableInfo
        The variable.
    progress : callable, optional
        Called with samples seen and samples there are.
    """
    frames = reader.extent[0]
    if gap_value(info) is None and reader.domain is None and reader.area is None and reader.trust is None:
        return GapCount(gap_share=0.0, empty_frames=(), full_frames=frames)  # nothing can say gap
    valid = np.zeros(frames, dtype=np.int64)
    possible, seen, total = 0, 0, prod(reader.extent)
    rule_counts = None if reader.trust is None else np.zeros((len(reader.trust.rules), 2), dtype=np.int64)

    def count(window: Window) -> tuple[Window, NDArray[np.int64], int, NDArray[np.int64] | None]:
        samples = reader.read(info.name, window)
        trusted = ~is_nodata(samples, info)
        if samples.dtype.kind == "f":
            trusted &= np.isfinite(samples)
        judged = reader.read_judged(window)
        if judged is not None:
            trusted &= judged[0]
        domain = reader.read_domain(window)
        if domain is not None:
            trusted &= domain
        # The pixels of the domain are counted with the first frame alone.
        pixels = 0 if window.start[0] else int(domain.sum()) if domain is not None else prod(window.shape[1:])
        return window, trusted.sum(axis=(1, 2), dtype=np.int64), pixels, None if judged is None else judged[1]

    tiles = tiles_of(reader.extent, reader.offset, info)
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        while batch := list(itertools.islice(tiles, _BATCH)):
            for window, counts, pixels, matched in pool.map(count, batch):
                if rule_counts is not None and matched is not None:
                    rule_counts += matched
                valid[window.start[0] : window.stop[0]] += counts
                possible += pixels
                seen += window.size
                if progress is not None:
                    progress(seen, total)
    share = 1 - float(valid.sum()) / (possible * frames) if possible else 0.0
    return GapCount(
        gap_share=share,
        empty_frames=tuple(int(frame) for frame in np.flatnonzero(valid == 0)),
        full_frames=int((valid == possible).sum()) if possible else 0,
        rule_counts=rule_counts,
    )


def sampled_gap_share(reader: StoredReader, info: VariableInfo) -> float:
    """Return about which share of a variable is gap, told from a few chunks all over the cube; unreadable ones are.

    Parameters
    ----------
    reader : StoredReader
        Reads the variable; rules on what to trust are not asked.
    info : VariableInfo
        The variable.
    """
    chunk = [min(c, n) for c, n in zip(info.chunks, reader.extent, strict=True)]
    while prod(chunk) > SAMPLED:
        axis = int(np.argmax(chunk))
        chunk[axis] = -(-chunk[axis] // 2)
    tiles = TileGrid(reader.extent, triple(chunk))
    numbers = np.unique(np.linspace(0, len(tiles) - 1, min(SAMPLED_CHUNKS, len(tiles))).astype(int))
    valid = total = 0
    for number in numbers.tolist():
        tile = tiles.tile(number)
        total += tile.size
        try:
            samples = reader.read(info.name, tile)
        except StpipeError:  # the run will say so
            continue
        known = ~is_nodata(samples, info)
        if samples.dtype.kind == "f":
            known &= np.isfinite(samples)
        valid += int(np.count_nonzero(known))
    return 1 - valid / total


def tiles_of(extent: Triple, offset: Triple, info: VariableInfo) -> Iterator[Window]:
    """Yield windows of whole chunks that cover a cube, of about `TILE_BYTES` each.

    >>> info = VariableInfo(name="v", dtype="float32", chunks=(1, 2048, 2048))
    >>> [window.shape for window in tiles_of((2, 3000, 2048), (0, 0, 0), info)]
    [(1, 2048, 2048), (1, 952, 2048), (1, 2048, 2048), (1, 952, 2048)]
    """
    itemsize = np.dtype(info.dtype).itemsize
    lengths = list(info.chunks)
    for axis in (2, 1, 0):  # whole rows of chunks first: neighbours in x lie together
        room = TILE_BYTES // (prod(lengths) * itemsize)
        lengths[axis] *= max(1, min(room, ceil(extent[axis] / lengths[axis])))
    cuts = [_cuts(n, start, step) for n, start, step in zip(extent, offset, lengths, strict=True)]
    for box in itertools.product(*cuts):
        yield Window(triple(start for start, _ in box), triple(stop for _, stop in box))


def _cuts(extent: int, offset: int, step: int) -> list[tuple[int, int]]:
    """Return (start, stop) along one axis, cut where chunks of the file begin."""
    first = step - offset % step
    starts = [0, *range(first, extent, step)]
    return list(itertools.pairwise([*starts, extent]))


# --- the whole report --------------------------------------------------------------------------------------------


def inspect_cube(cube: Cube, *, scan: bool = True, progress: Progress | None = None) -> dict[str, Any]:
    """Return all that `stpipe info` shows, as JSON can hold it.

    Parameters
    ----------
    cube : Cube
        From `stpipe.io.cube.open_source`.
    scan : bool
        Whether to read the samples and count gaps.
    progress : callable, optional
        Called with samples seen and samples there are.

    Raises
    ------
    CubeError
        If there is more than can be read.
    """
    size = samples_bytes(cube)
    if scan and size > MOST_SCANNED:
        raise CubeError(
            f"{cube.path} claims {gib(size)} of samples, too many to count gaps in; look at a part with --time or "
            "--aoi, or at the metadata alone with --no-scan"
        )
    variables: dict[str, dict[str, Any]] = {}
    gaps: dict[str, GapCount] = {}
    total, done = prod(cube.extent) * len(cube.variables), 0
    for info in cube.variables:
        variables[info.name] = _variable(info, cube)
        if not scan:
            continue

        def forward(seen: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress(before + seen, total)

        gaps[info.name] = counted = count_gaps(cube.reader([info.name]), info, progress=forward)
        done += prod(cube.extent)
        variables[info.name] |= {
            "gap_share": counted.gap_share,
            "empty_frames": len(counted.empty_frames),
            "full_frames": counted.full_frames,
            "empty_dates": [label(cube.times[frame]) for frame in counted.empty_frames],
            **_longest_without(cube, counted.empty_frames),
        }
    report: dict[str, Any] = {
        "path": cube.path,
        "format": cube.kind,
        "dims": dict(zip(cube.dims, cube.extent, strict=True)),
        "dates": _dates(cube),
        "crs": None if cube.crs_wkt is None else crs_name(cube.crs_wkt),
        "resolution": None if cube.transform is None else [abs(cube.transform[0]), abs(cube.transform[4])],
        "transform": None if cube.transform is None else list(cube.transform),
        "south_up": cube.transform is not None and cube.transform[4] > 0,
        "size_bytes": size_on_disk(cube.path),
        "samples_bytes": size,
        "domain": cube.domain,
        "trust": [] if cube.trust is None else list(cube.trust.texts),
        "buffer": 0 if cube.trust is None else cube.trust.buffer,
        "variables": variables,
        "rechunk": _better_chunks(cube) if any(_bad_chunks(cube).values()) else None,
    }
    report["hints"] = list(_hints(cube, report, gaps))
    return report


def samples_bytes(cube: Cube) -> int:
    """Return the bytes of all samples of a cube, uncompressed."""
    return sum(prod(cube.extent) * np.dtype(info.dtype).itemsize for info in cube.variables)


def size_on_disk(path: str) -> int | None:
    """Return the bytes of a file, or of all files in a folder; None where nobody says."""
    if is_remote(path):
        try:
            return sum(file.size for file in files_below(located(path)).values()) or None
        except Exception as error:
            if not is_unlisted(error, path):
                raise
            return None
    place = Path(path)
    if place.is_file():
        return place.stat().st_size
    total, folders = 0, [str(place)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _variable(info: VariableInfo, cube: Cube) -> dict[str, Any]:
    counts = [ceil(n / chunk) for n, chunk in zip(cube.full_extent, info.chunks, strict=True)]
    return {
        "dtype": info.dtype,
        "nodata": "NaN" if info.nodata is None and info.dtype.startswith("float") else info.nodata,
        "scale_factor": info.scale_factor,
        "add_offset": info.add_offset,
        "units": info.attrs.get("units"),
        "chunks": list(info.chunks),
        "chunk_count": prod(counts),
        "chunk_bytes": prod(info.chunks) * np.dtype(info.dtype).itemsize,
    }


def _dates(cube: Cube) -> dict[str, Any]:
    order = np.argsort(cube.days, kind="stable")
    times, steps = cube.times[order], np.diff(cube.days[order])
    return {
        "count": len(times),
        "first": label(times[0]),
        "last": label(times[-1]),
        "in_order": disorder(cube.times, cube.days, cube.path, cube.dims[0]) is None,
        "shortest_step_days": float(steps.min()) if steps.size else None,
        "median_step_days": median_step(cube.days[order]) if steps.size else None,
        "longest_step_days": float(steps.max()) if steps.size else None,
        "longest_step_after": label(times[int(steps.argmax())]) if steps.size else None,
    }


def _longest_without(cube: Cube, empty: Sequence[int]) -> dict[str, Any]:
    """Return the longest time without a valid sample: from one frame that has some, or the first, to the next."""
    order = np.argsort(cube.days, kind="stable")
    ends = np.isin(order, empty, invert=True)
    ends[[0, -1]] = True
    times, days = cube.times[order][ends], cube.days[order][ends]
    steps = np.diff(days)
    if not steps.size:
        return {"longest_without_days": None, "longest_without_after": None}
    return {
        "longest_without_days": float(steps.max()),
        "longest_without_after": label(times[int(steps.argmax())]),
    }


def _hints(cube: Cube, report: dict[str, Any], gaps: dict[str, GapCount]) -> Iterator[str]:
    if cube.crs_wkt is None:
        yield "no CRS: the GeoTIFFs of a fill will have none; set it with ds.rio.write_crs"
    if cube.transform is None:
        yield "no even grid of coordinates: the GeoTIFFs of a fill can't be placed"
    wrong = disorder(cube.times, cube.days, cube.path, cube.dims[0])
    if wrong is not None:
        yield wrong
    dates = report["dates"]
    days = np.sort(cube.days)
    twins = days.size - int(passes(days)[-1]) - 1 if days.size else 0
    if twins and wrong is None:
        yield (
            f"{twins} of {days.size} frames follow on another within 100 s, as tiles of one pass do: the frames of a "
            "pass count as one look"
        )
    if dates["median_step_days"] and dates["longest_step_days"] > _LONG_STEP * dates["median_step_days"]:
        yield f"{dates['longest_step_days']:g} days without a frame after {dates['longest_step_after']}"
    yield from _chunk_hints(cube)
    yield from domain_hints(cube)
    told = dict(_codes(cube))
    yield from told.values()
    for info in cube.variables:
        if gap_value(info) is None and info.name not in told and cube.trust is None and not _tells_of_others(info):
            yield f"{info.name}: {info.dtype} without nodata can't say gap; name what to trust, or set _FillValue"
        if tells_clear(info.attrs) and "quality_rules" in info.attrs:
            yield f"{info.name} tells gaps that ingest made by {info.attrs['quality_rules']} from those without data"
    if cube.trust is not None:
        first = next(iter(gaps.values()), None)  # they are the same for every variable
        if first is not None and first.rule_counts is not None:
            yield from remarks(cube.trust, first.rule_counts)
    bare = [name for name, counted in gaps.items() if len(counted.empty_frames) == len(cube.times)]
    if bare:
        rules = "" if cube.trust is None else ", and do the rules fit"
        yield f"{_some(bare)}: no valid sample at all; is nodata right{rules}?"


def domain_hints(cube: Cube) -> Iterator[str]:
    """Yield a line on static variables that may say where values can exist, if none was named."""
    if cube.domain is not None:
        return
    with open_raw(cube.path, cube.kind) as raw:
        dated = {info.name for info in cube.variables}  # a cube of one frame has no more pixels than its frame
        names = [
            str(name)
            for name, variable in raw.variables.items()
            if name not in dated and _says_where(str(name), variable, cube)
        ]
    if names:
        yield (
            f"{_some(names)}: no dates; what is non-zero where values can exist, and zero elsewhere, is a domain: with "
            f"--domain {names[0]} gaps are counted and filled inside it alone"
        )


def _says_where(name: str, variable: xr.Variable, cube: Cube) -> bool:
    """Whether a variable could be a domain: flags or counts over (y, x), or one with a name that says so."""
    lengths = {dim: variable.sizes[dim] for dim in variable.dims if variable.sizes[dim] != 1}
    if lengths != dict(zip(cube.dims[1:], cube.full_extent[1:], strict=True)):
        return False
    return variable.dtype.kind in "iub" or (variable.dtype.kind == "f" and _PLACES.search(name) is not None)


def product_hints(cube: Cube) -> Iterator[str]:
    """Yield a line for each quality layer that no rule is about: which product's rule fits it.

    Parameters
    ----------
    cube : Cube
        From `stpipe.io.cube.open_source`; layers that rules are about are no variables of it.
    """
    for _, hint in _codes(cube):
        yield hint


def _codes(cube: Cube) -> Iterator[tuple[str, str]]:
    """Yield the variables that say of what kind or quality others are, with what to do about them."""
    for info in cube.variables:
        name = info.name
        if _tells_of_others(info) or (cube.trust is not None and name in cube.trust.variables):
            continue
        options = [
            f"--qa {key}"
            for key, product in PRODUCTS.items()
            if plain_name(name) in {plain_name(known) for known in product.variables}
        ]
        if options and (heeded := _heeded(name, options, cube)):
            yield name, f"{name} was heeded when the cube was made: {heeded}"
        elif options:
            titles = [PRODUCTS[option.split()[1].split("=")[0]].title for option in options]
            fitting = " or ".join(f"{option} ({title})" for option, title in zip(options, titles, strict=True))
            yield name, f"{name} tells which samples to trust: {fitting}"
        elif holds_codes(name, info.attrs):
            yield name, f"{name} holds codes: say which samples to trust with --keep {name}:... or --drop {name}:..."


def _tells_of_others(info: VariableInfo) -> bool:
    """Whether a variable tells where samples of others are from, or what became of them: written by stpipe itself."""
    return holds_sources(info) or tells_clear(info.attrs)


def _heeded(name: str, options: Sequence[str], cube: Cube) -> str | None:
    """Return the rules on a layer by which `ingest` dropped samples of all other variables, if it did."""
    others = [info for info in cube.variables if info.name.lower() not in CODES and info.name != name]
    rules = {str(info.attrs.get("quality_rules", "")) for info in others}
    about = [*(option.split("=")[0] for option in options), f"--keep {name}", f"--drop {name}"]
    said = rules.pop() if len(rules) == 1 else ""
    return said if any(rule in said for rule in about) else None


def _bad_chunks(cube: Cube) -> dict[str, list[str]]:
    """Return the variables whose chunks suit no work on blocks, by what is wrong with them."""
    frames = cube.full_extent[0]
    found: dict[str, list[str]] = {"planes": [], "tiny": [], "huge": []}
    for info in cube.variables:
        size = prod(info.chunks) * np.dtype(info.dtype).itemsize
        count = prod(ceil(n / c) for n, c in zip(cube.full_extent, info.chunks, strict=True))
        if info.chunks[0] == 1 and frames > 1 and size > _BIG_FRAME_CHUNK:
            found["planes"].append(info.name)
        elif size > _HUGE_CHUNK:
            found["huge"].append(info.name)
        elif size < _SMALL_CHUNK and count > _MANY_CHUNKS:
            found["tiny"].append(info.name)
    return found


def _chunk_hints(cube: Cube) -> Iterator[str]:
    """Yield one hint a kind of bad chunks, with the variables that have them."""
    bad = _bad_chunks(cube)
    rechunk = f"rechunk: ds.chunk({', '.join(f'{dim}={length}' for dim, length in _better_chunks(cube).items())})"
    if bad["planes"]:
        yield f"{_some(bad['planes'])}: a chunk is one large frame, so each block reads all of it; {rechunk}"
    if bad["huge"]:
        yield f"{_some(bad['huge'])}: a chunk takes more than 256 MiB, and each block decodes all of it; {rechunk}"
    if bad["tiny"]:
        yield f"{_some(bad['tiny'])}: more than {_MANY_CHUNKS} chunks below 64 KiB read slowly; {rechunk}"


def _better_chunks(cube: Cube) -> dict[str, int]:
    """Return the chunk lengths that suit blocks."""
    return {dim: min(n, 256 if axis else 32) for axis, (dim, n) in enumerate(_sizes(cube))}


def _sizes(cube: Cube) -> Sequence[tuple[str, int]]:
    return list(zip(cube.dims, cube.full_extent, strict=True))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
